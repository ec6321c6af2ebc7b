"""How much of the time in which the market was open the engine could decide, and could decide with its models.

Measured in the heartbeats that the journal writes: a *span* is a stretch of this machine's time over which they came
without a pause and said the same. What no span covers is an outage, a restart of half a second too.

Decision availability: share of the required time in which the engine was alive, its heartbeat fresh, and a decision at
level 1, 2 or 3. AI availability: the same at level 1 or 2, that is with models. The required time is

- at a real broker: from the account's first heartbeat on, whenever the currency market is surely open. Weekends and
  holidays count for nothing, whether an engine runs or not;
- of a recorded market: while its tape is played and its own market is open. A tape that was stopped in order waits for
  nobody, until it is taken up again; one whose engine died goes on counting;
- never while the kill switch is on: that is a person's will, and told apart as held time.

All times are int64 ns UTC; an interval is ``(start, end)``, its end not in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, Final

import numpy as np

from fx_dagster.decision.codes import Level
from fx_dagster.market.sessions import FX_SESSION, Session
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, from_server, to_server

TARGET: Final = 0.999
"""Decision availability that is asked for."""

Interval = tuple[int, int]
Intervals = tuple[Interval, ...]
"""Disjoint and apart from each other, none empty, ascending."""

_EPOCH: Final = date(1970, 1, 1)


# -- intervals -------------------------------------------------------------------------------------------------------


def union(parts: Iterable[Interval]) -> Intervals:
    """Return the time that any of some intervals covers; empty ones and such that end before they begin are nothing."""
    joined: list[Interval] = []
    for start, end in sorted(part for part in parts if part[0] < part[1]):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((start, end))
    return tuple(joined)


def intersection(left: Intervals, right: Intervals) -> Intervals:
    """Return the time that both cover."""
    common: list[Interval] = []
    at = to = 0
    while at < len(left) and to < len(right):
        start, end = max(left[at][0], right[to][0]), min(left[at][1], right[to][1])
        if start < end:
            common.append((start, end))
        if left[at][1] < right[to][1]:
            at += 1
        else:
            to += 1
    return tuple(common)


def difference(left: Intervals, right: Intervals) -> Intervals:
    """Return the time that ``left`` covers and ``right`` does not."""
    if not left:
        return ()
    first, last = left[0][0], left[-1][1]
    edges = [first, *(edge for part in intersection(right, ((first, last),)) for edge in part), last]
    outside = union(zip(edges[::2], edges[1::2], strict=True))
    return intersection(left, outside)


def total_ns(intervals: Intervals) -> int:
    """Return how long some intervals are together, ns."""
    return sum(end - start for start, end in intervals)


# -- what a heartbeat says -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What an engine could do at a heartbeat.

    Attributes:
        level: of its newest decisions; 0: it has decided nothing yet.
        deciding: whether it could decide at level 1, 2 or 3.
        ai: whether with its models.
        why: why not; empty: it could do both.
        in_order: whether it said good-bye: no heartbeat follows.
    """

    level: int
    deciding: bool
    ai: bool
    why: str = ""
    in_order: bool = False


def condition_of(status: Mapping[str, Any]) -> Condition:
    """Return what an engine's status says of its abilities.

    An engine that has decided nothing since it started is judged by what it knows of its journal, broker, feed and
    models.
    """
    level, state = int(status.get("level", 0)), str(status.get("state", ""))
    if state != "running":
        return Condition(level, False, False, state, in_order=True)
    problems = (str(status.get(name) or "") for name in ("journal_problem", "broker_problem", "feed_problem"))
    problem = next((one for one in problems if one), "")
    if problem or level == Level.EMERGENCY:
        return Condition(level, False, False, problem or str(status.get("level_reason", "")) or "level 4")
    models = str(status.get("model_problem") or "")
    ai = level in (Level.FULL_AI, Level.SIMPLE_AI) or (level == Level.UNSET and not models)
    return Condition(level, True, ai, "" if ai else models or str(status.get("level_reason", "")))


@dataclass(frozen=True)
class Span:
    """Heartbeats that came without a pause and said the same.

    Attributes:
        start: first of them, or the last of the span before where the engine only changed its mind; ns UTC.
        end: last of them, ns UTC.
        start_clock: market time at ``start``, ns UTC.
        end_clock: market time at ``end``, ns UTC.
        deciding: whether the engine could decide at level 1, 2 or 3.
        ai: whether with its models.
        in_order: whether the engine said good-bye with it.
    """

    start: int
    end: int
    start_clock: int
    end_clock: int
    deciding: bool
    ai: bool
    in_order: bool = False


# -- when the engine was required ------------------------------------------------------------------------------------


def open_intervals(start: int, end: int, session: Session = FX_SESSION) -> Intervals:
    """Return when the market is surely open in ``[start, end)``."""
    if end <= start:
        return ()
    edges = session.edges(start, end).tolist()
    return intersection(union(zip(edges[::2], edges[1::2], strict=True)), ((start, end),))


def required_of_market(spans: Sequence[Span], until: int) -> Intervals:
    """Return when an engine at a real broker had to be able to decide: from its first heartbeat until ``until``."""
    return open_intervals(min(span.start for span in spans), until) if spans else ()


def required_of_tape(spans: Sequence[Span], until: int) -> Intervals:
    """Return when the engine of one recorded session had to be able to decide, until ``until``.

    Args:
        spans: of the session, in order.
        until: when the session was finished, or now.
    """
    parts: list[Interval] = []
    for span in spans:
        parts += _open_by_clock(span.start, span.end, span.start_clock, span.end_clock)
    for before, after in pairwise(spans):
        if not before.in_order:
            parts += _open_by_clock(before.end, after.start, before.end_clock, after.start_clock)
    if spans and not spans[-1].in_order:
        parts += _open_by_clock(spans[-1].end, until, spans[-1].end_clock, spans[-1].end_clock)
    return union(parts)


def _open_by_clock(start: int, end: int, start_clock: int, end_clock: int) -> Intervals:
    """Return when in ``[start, end)`` a market is open whose clock goes evenly from one time to another."""
    if end <= start:
        return ()
    market = end_clock - start_clock
    if market <= 0:  # it stands still
        is_open = bool(FX_SESSION.is_open(np.array([start_clock], dtype=np.int64))[0])
        return ((start, end),) if is_open else ()

    def wall(clock: int) -> int:
        return start + (clock - start_clock) * (end - start) // market

    return union((wall(opens), wall(closes)) for opens, closes in open_intervals(start_clock, end_clock))


# -- accounts --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class History:
    """What is known of an account.

    Attributes:
        required: when its engine had to be able to decide, the kill switch left out of account.
        deciding: when it could.
        ai: when it could with its models.
        held: when the kill switch was on.
    """

    required: Intervals
    deciding: Intervals
    ai: Intervals
    held: Intervals = ()


@dataclass(frozen=True)
class Availability:
    """Of one stretch of time, seconds.

    Attributes:
        required_s: time in which the engine had to be able to decide.
        decision_s: time of it in which it could, at level 1, 2 or 3.
        ai_s: time of it in which it could with its models, at level 1 or 2.
        held_s: time in which the kill switch kept it from having to.
    """

    required_s: float
    decision_s: float
    ai_s: float
    held_s: float

    @property
    def decision(self) -> float | None:
        """Decision availability, 0 … 1; None: nothing was required."""
        return self.decision_s / self.required_s if self.required_s > 0 else None

    @property
    def ai(self) -> float | None:
        """AI availability, 0 … 1; None: nothing was required."""
        return self.ai_s / self.required_s if self.required_s > 0 else None


def history_of(
    market: Sequence[Span], tapes: Sequence[tuple[Sequence[Span], int]], held: Iterable[Interval], now: int
) -> History:
    """Put together what is known of an account.

    Args:
        market: spans at a real broker, of all sessions, in order.
        tapes: spans of each recorded session, in order, with the time at which it was finished, or ``now``.
        held: when the kill switch was on.
        now: until when to count.
    """
    spans = [*market, *(span for one, _ in tapes for span in one)]
    required = [required_of_market(market, now), *(required_of_tape(one, until) for one, until in tapes)]
    return History(
        required=union(part for intervals in required for part in intervals),
        deciding=union((span.start, span.end) for span in spans if span.deciding),
        ai=union((span.start, span.end) for span in spans if span.deciding and span.ai),
        held=union(held),
    )


def availability(history: History, window: Interval) -> Availability:
    """Return the availability within a window."""
    asked = intersection(history.required, union([window]))
    required = difference(asked, history.held)
    return Availability(
        required_s=total_ns(required) / SECOND_NS,
        decision_s=total_ns(intersection(required, history.deciding)) / SECOND_NS,
        ai_s=total_ns(intersection(required, history.ai)) / SECOND_NS,
        held_s=total_ns(intersection(asked, history.held)) / SECOND_NS,
    )


def by_day(history: History) -> dict[date, Availability]:
    """Return the availability of each trading day (it turns at 17:00 New York) that asked for anything, ascending."""
    if not history.required:
        return {}
    first, last = history.required[0][0], history.required[-1][1] - 1
    days = range(_day(first), _day(last) + 1)
    found = ((day, availability(history, (_day_start(day), _day_start(day + 1)))) for day in days)
    return {_EPOCH + timedelta(days=day): one for day, one in found if one.required_s or one.held_s}


def overall(parts: Iterable[Availability]) -> Availability:
    """Return several stretches' availability together."""
    rows = [(one.required_s, one.decision_s, one.ai_s, one.held_s) for one in parts]
    return Availability(*(float(sum(column)) for column in zip(*rows, strict=True))) if rows else _NOTHING


_NOTHING: Final = Availability(0.0, 0.0, 0.0, 0.0)


def _day(time: int) -> int:
    return int(to_server(np.array([time], dtype=np.int64))[0] // DAY_NS)


def _day_start(day: int) -> int:
    return int(from_server(np.array([day * DAY_NS], dtype=np.int64))[0])
