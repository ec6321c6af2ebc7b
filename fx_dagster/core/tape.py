"""A recorded stretch of a session: every tick in the order of its taking, and all that came from outside between ticks.

Replaying a tape from its first state gives the same decisions, bit for bit. Marks in it say so: the number of decisions
at that place and the digest of all of them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Literal, NotRequired, Protocol, TypedDict

import numpy as np

from fx_dagster.core.rows import NEVER, Event, Float64, Int64, Ticks
from fx_dagster.core.trading import TradingCore
from fx_dagster.errors import DataError
from fx_dagster.execution.ledger import Adoption

TICK = np.dtype(
    [
        ("symbol", np.int32), ("flags", np.int32), ("time", np.int64), ("bid", np.float64), ("ask", np.float64),
        ("volume", np.float64),
    ],
    align=True,
)  # fmt: skip
"""One tick of a tape, as it was given to the core: believed or not."""

What = Literal["answer", "conditions", "clock", "placed", "resume", "command", "mark", "adopt"]


@dataclass(frozen=True)
class TapeEvent:
    """Something that reached the core between two ticks.

    Attributes:
        ticks: how many ticks of the tape were worked through before it.
        what: its kind.
        body: JSON values; floats are written so that they are read back exactly.
    """

    ticks: int
    what: What
    body: dict[str, Any] = field(default_factory=dict)


class TapeWriter(Protocol):
    """Keeps a tape. Nothing here waits; a disk that fails ends the tape, never the session."""

    @property
    def full(self) -> bool:
        """Whether the next stretch should begin."""
        ...

    def begin(self) -> None:
        """Begin a stretch with the core's state as it is now."""
        ...

    def ticks(self, ticks: Ticks, first: int, last: int) -> None:
        """Add ticks ``first`` … ``last - 1``."""
        ...

    def event(self, what: What, body: dict[str, Any]) -> None:
        """Add what happened after the ticks so far."""
        ...

    def flush(self) -> None:
        """Hand everything to the disk."""
        ...

    def close(self) -> None:
        """End the tape."""
        ...


@dataclass(frozen=True)
class Tape:
    """A tape as it is read.

    Attributes:
        start: the core's state at its beginning: :meth:`TradingCore.whole`.
        ticks: ``[t]`` of :data:`TICK`.
        events: in order.
        symbols: canonical symbols, in the order of the ticks' ``symbol``.
    """

    start: bytes
    ticks: np.ndarray
    events: Sequence[TapeEvent]
    symbols: tuple[str, ...]


@dataclass(frozen=True)
class Mark:
    """Where a replay and its tape were compared."""

    ticks: int
    decisions: int
    recorded: str
    replayed: str

    @property
    def same(self) -> bool:
        """Whether every decision up to here has the same bits."""
        return self.recorded == self.replayed


def replay_tape(core: TradingCore, tape: Tape) -> list[Mark]:
    """Work through a tape with a core of the same configuration, and compare at every mark.

    Args:
        core: as new; it takes over the tape's first state.
        tape: what was recorded.

    Raises:
        DataError: the tape asks for something else than the core does: another configuration, or a torn tape.
    """
    core.restore_whole(tape.start)
    player = _Player(core, tick_columns(tape.ticks))
    pairs = zip_longest(tape.events, tape.events[1:])
    return [mark for event, after in pairs for mark in player.play(event, after)]


def tick_columns(ticks: np.ndarray) -> Ticks:
    """Return a tape's ticks as contiguous columns that may be written to: what the loop is compiled for."""
    return Ticks(*(ticks[name].copy() for name in Ticks._fields))


class _Player:
    """Works through ticks up to the next event, and does what that says."""

    def __init__(self, core: TradingCore, ticks: Ticks) -> None:
        self._core = core
        self._ticks = ticks
        self._done = 0
        self._wants = Event.DONE

    def play(self, event: TapeEvent, after: TapeEvent | None) -> Iterator[Mark]:
        """Go on to an event and past it; ``after`` is the one that follows it."""
        needed = _needed(event, after)
        self._work_through(event.ticks)
        if needed in (Event.ASK, Event.ACT):
            self._close_bars()
        if self._done != event.ticks or needed not in (None, self._wants):
            raise DataError(
                f"tick {self._done}: the core wants {self._wants.name.lower()}, the tape has {event.what} "
                f"at tick {event.ticks}",
                mend="replay it with the configuration that it was recorded with",
            )
        yield from self._apply(event)

    def _work_through(self, last: int) -> None:
        if last > len(self._ticks.time):
            raise DataError(f"the tape ends before tick {last}", mend="it is torn: read it up to its last whole tick")
        self._make_room()
        while self._done < last and self._wants is Event.DONE:
            self._done, self._wants = self._core.take(self._ticks, self._done, last)
            if self._wants is Event.FULL:
                self._make_room()
                self._wants = Event.DONE

    def _close_bars(self) -> None:
        """Let the bars end that were closed by the tick after the event: it was not worked through before."""
        control = self._core.core.control[0]
        while self._wants is Event.DONE and control["next_close"] < NEVER:
            self._wants = self._core.reach(int(control["next_close"]))

    def _make_room(self) -> None:
        """Forget what is to be written down: nobody reads it, and the loop stops when there is no room for more."""
        self._core.forget_log()
        self._core.core.ledger.money["events"] = 0

    def _apply(self, event: TapeEvent) -> Iterator[Mark]:
        core, body = self._core, event.body
        match event.what:
            case "conditions":
                core.set_conditions(**conditions_of(body))
            case "clock":
                while (wants := core.reach(body["clock"])) is Event.FULL:
                    self._make_room()
                self._wants = wants
            case "answer":
                core.answer(body["rows"], answer_values(body))
                self._wants = core.decide()
            case "placed":
                core.place_acts(body["rows"])
                self._wants = Event.DONE
            case "resume":
                core.end_halt(body["equity"])
            case "command":
                self._wants = core.decide_now(body["rows"], body["time"])
            case "adopt":
                core.adopt(**adopted_of(body))
            case "mark":
                yield Mark(event.ticks, body["decisions"], body["digest"], core.digest)


def _needed(event: TapeEvent, after: TapeEvent | None) -> Event | None:
    """Return what the core must want where the tape goes on so; None: it does not matter."""
    match event.what:
        case "answer":
            return Event.ASK
        case "placed":
            return Event.ACT
        case "clock" | "command":
            return Event.DONE
        case "mark" if after is not None and after.what == "placed":
            return Event.ACT  # decisions are written down before their orders are sent
    return None


class Conditions(TypedDict):
    """Arguments of :meth:`fx_dagster.core.trading.TradingCore.set_conditions`."""

    healthy: bool
    command: int
    drift: float
    best_level: NotRequired[int]


def conditions_body(conditions: Conditions) -> dict[str, Any]:
    """Return conditions as an event's body: drift so that it is read back exactly, None where it is unknown."""
    drift = conditions["drift"]
    return {**conditions, "drift": None if math.isnan(drift) else drift}


def conditions_of(body: Mapping[str, Any]) -> Conditions:
    """Return the conditions of :func:`conditions_body`; drift is unknown where the tape is older than it.

    Raises:
        DataError: it is no conditions' body.
    """
    try:
        drift = body.get("drift")
        return Conditions(
            healthy=bool(body["healthy"]),
            command=int(body["command"]),
            drift=math.nan if drift is None else float(drift),
            best_level=int(body.get("best_level", 1)),
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the tape has conditions that cannot be read: {error}",
            mend="replay it with the version that recorded it",
        ) from error


class Adopted(TypedDict):
    """Arguments of :meth:`fx_dagster.core.trading.TradingCore.adopt`."""

    seen: tuple[Adoption, ...]
    balance: float
    closed: tuple[tuple[float, float], ...]
    held: dict[int, bool]


def adopted_body(adopted: Adopted) -> dict[str, Any]:
    """Return what a broker said as an event's body, each number so that it is read back exactly."""
    return {
        "seen": [one._asdict() for one in adopted["seen"]],
        "balance": adopted["balance"],
        "closed": [list(one) for one in adopted["closed"]],
        "held": list(adopted["held"].items()),
    }


def adopted_of(body: Mapping[str, Any]) -> Adopted:
    """Return what a broker said of :func:`adopted_body`.

    Raises:
        DataError: it is no such body.
    """
    try:
        return Adopted(
            seen=tuple(Adoption(**one) for one in body["seen"]),
            balance=float(body["balance"]),
            closed=tuple((float(result), float(risk)) for result, risk in body["closed"]),
            held={int(row): bool(holds) for row, holds in body["held"]},
        )
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the tape has an account that cannot be read: {error}", mend="replay it with the version that recorded it"
        ) from error


def answer_body(rows: Int64, values: Float64) -> dict[str, Any]:
    """Return an answer as an event's body: each number so that it is read back exactly, None where it is absent."""
    said = [[None if math.isnan(value) else value for value in row] for row in values.tolist()]
    return {"rows": rows.tolist(), "values": said}


def answer_values(body: Mapping[str, Any]) -> Float64:
    """Return the numbers of :func:`answer_body`, float64 ``[k, m]``.

    Raises:
        DataError: it is no answer.
    """
    try:
        rows = len(body["rows"])
        return np.array(body["values"], dtype=np.float64).reshape(rows, -1 if rows else 0)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(
            f"the tape has an answer that cannot be read: {error}", mend="replay it with the version that recorded it"
        ) from error
