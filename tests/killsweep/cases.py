"""What is swept: where an engine dies, what it was doing, and what the broker made of it."""

import random
from dataclasses import dataclass
from enum import StrEnum
from itertools import product


class Point(StrEnum):
    """Where a process is killed, in the order of an order's way.

    Where PostgreSQL is away, ``…commit…`` of the intent is the write to the local log of exits.
    """

    BEFORE_PLAN = "before the plan"
    PLANNED = "after the plan"
    BEFORE_COMMIT = "before the intent's commit"
    IN_COMMIT = "commit sent, not answered"
    COMMITTED = "after the commit, before the send"
    NOTED = "'sent' noted, before the call"
    BEFORE_WIRE = "in the call, before its bytes leave"
    AT_TERMINAL = "the terminal has it, has not done it"
    EXECUTED = "the terminal has done it, no answer yet"
    ANSWERED = "answered, not yet taken in"
    ANSWER_POSTED = "answer's step queued"
    ANSWER_COMMITTED = "answer's step committed"
    BEFORE_OUTCOME = "before the deal's commit"
    OUTCOME_COMMITTED = "after the deal's commit"
    RESTART_JOIN = "again at the start: joining the log"
    RESTART_LOADED = "again at the start: book loaded"
    RESTART_RECONCILED = "again at the start: before its commit"
    RESTART_COMMITTED = "again at the start: after its commit"
    WORKER = "the bridge's worker"
    BRIDGE = "the bridge"

    @property
    def at_restart(self) -> bool:
        """Whether the engine that takes up is killed, after the one before it."""
        return self.name.startswith("RESTART_")

    @property
    def beside(self) -> bool:
        """Whether another process than the engine is killed."""
        return self in (Point.WORKER, Point.BRIDGE)


class Operation(StrEnum):
    """What the order is for."""

    OPEN = "open"
    CLOSE = "close"
    MODIFY = "move the stop"
    CLOSE_AWAY = "close, PostgreSQL away"


class Outcome(StrEnum):
    """What comes of it at the broker."""

    DONE = "done, answered"
    ANSWER_LOST = "done, answer lost"
    REFUSED = "refused"
    REQUEST_LOST = "request lost"
    SLOW = "late, partly or unseen"


@dataclass(frozen=True, slots=True)
class Case:
    """One kill."""

    point: Point
    operation: Operation
    outcome: Outcome
    repeat: int

    @property
    def name(self) -> str:
        """Return what finds it again: ``--case``."""
        return f"{self.point.name}/{self.operation.name}/{self.outcome.name}/{self.repeat}".lower()

    @classmethod
    def named(cls, name: str) -> "Case":
        """Return the case of a name.

        Raises:
            ValueError: it is none.
        """
        try:
            point, operation, outcome, repeat = name.upper().split("/")
            return cls(Point[point], Operation[operation], Outcome[outcome], int(repeat))
        except (KeyError, ValueError):
            raise ValueError(f"{name!r} is no case: write point/operation/outcome/repeat") from None

    def chance(self) -> random.Random:
        """Return the case's own random numbers: the same in every run."""
        return random.Random(self.name)

    @property
    def again(self) -> bool:
        """Whether the engine that takes up decides the same once more: its checkpoint may be older than the order."""
        return random.Random(f"{self.name} again").random() < 0.5


def cases(repeats: int, points: tuple[Point, ...] = tuple(Point)) -> list[Case]:
    """Return all cases, shuffled the same way in every run."""
    found = [Case(*one) for one in product(points, Operation, Outcome, range(repeats))]
    random.Random(repeats).shuffle(found)
    return found
