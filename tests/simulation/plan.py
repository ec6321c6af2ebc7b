"""Which faults a seed has: a list, drawn before anything happens, that a person can read."""

from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from . import market
from .loop import NS

FAULTS_MIN, FAULTS_MAX = 12, 18

REQUESTS = (
    "answer_lost", "request_lost", "request_late", "hidden", "refused", "requote", "invalid_stops", "partial_fill",
    "partial_rest", "confirmed_twice", "fill_before_answer",
)  # fmt: skip
"""Of the terminal's calls: at the n-th request."""
TERMINAL = (
    "disconnected", "terminal_lost", "foreign_position", "manual_close", "stop_close", "autotrading_off", "close_only",
    "disabled", "stops_level", "stop_removed", "withdrawn",
)  # fmt: skip
WIRE = ("order_vanishes", "answer_vanishes", "answer_late", "questions_slow", "questions_silent")
MODELS = ("nan", "range", "late", "whole_late", "absent", "refused", "absent_tensor", "constant")
JOURNAL = ("database_away", "database_slow", "commit_unconfirmed", "killed_after_commit")
FEED = (
    "gap", "held_back", "duplicate", "out_of_order", "zero", "negative", "not_finite", "crossed", "spike",
    "spread_blow_out", "feed_error",
)  # fmt: skip
PROCESS = ("killed", "killed_at_post", "paused_leader", "stopped")
PERSON = ("kill_switch", "flatten", "ceiling", "drift")
KINDS = (REQUESTS, TERMINAL, WIRE, MODELS, JOURNAL, FEED, PROCESS, PERSON)
_OFTEN = (4, 3, 3, 3, 3, 3, 3, 2)


@dataclass(frozen=True)
class Fault:
    """What goes wrong, when (ns of the world), for how long, and with which numbers."""

    kind: str
    time_ns: int
    length_ns: int
    nth: int
    symbol: str
    size: float

    def __str__(self) -> str:
        """Return it for a person."""
        what = f"{self.kind} {self.symbol}"
        when = f"at request {self.nth}" if self.kind in REQUESTS else f"at {self.time_ns / NS:.3f} s"
        return f"{what} {when} for {self.length_ns / NS:.3f} s, {self.size:.3f}"


@dataclass(frozen=True)
class Plan:
    """One seed's world.

    Attributes:
        speed: market seconds a second of the world.
        length_s: seconds of the world in which things go wrong.
        faults: in the order of their times.
    """

    seed: int
    speed: int
    length_s: float
    faults: tuple[Fault, ...]
    pace_s: float
    flattens: bool
    options: dict[str, Any] = field(default_factory=dict)


def plan_of(seed: int) -> Plan:
    """Draw a seed's plan: the same seed, the same plan."""
    chance = Random(f"plan {seed}")
    speed, length_s = chance.choice((3, 4, 6)), chance.uniform(22.0, 38.0)
    faults = [_drawn(chance, length_s) for _ in range(chance.randint(FAULTS_MIN, FAULTS_MAX))]
    if not any(fault.kind in PROCESS for fault in faults):
        faults.append(_drawn(chance, length_s, PROCESS))
    # A fault of a request needs one: those that come by the clock are enough by themselves.
    while sum(fault.kind not in REQUESTS for fault in faults) < FAULTS_MIN - 2:
        faults.append(_drawn(chance, length_s, chance.choice(KINDS[1:])))
    faults.sort(key=lambda fault: fault.time_ns)
    options = {
        "slippage_points": chance.choice((0.0, 0.0, 3.0)), "commission_per_lot": chance.choice((0.0, 3.5)),
        "comments": chance.choice(("keep", "cut", "drop")),
    }  # fmt: skip
    return Plan(seed, speed, length_s, tuple(faults), chance.uniform(1.0, 2.0), chance.random() < 0.5, options)


def _drawn(chance: Random, length_s: float, kinds: tuple[str, ...] = ()) -> Fault:
    kinds = kinds or chance.choices(KINDS, _OFTEN)[0]
    return Fault(
        kind=chance.choice(kinds),
        time_ns=int(chance.uniform(0.0, length_s) * NS),
        length_ns=int(chance.choice((chance.uniform(0.05, 2.0), chance.uniform(1.0, 12.0))) * NS),
        nth=chance.randint(1, 6),
        symbol=chance.choice(market.SYMBOLS),
        size=chance.random(),
    )


def disturbed(ticks: market.Ticks, plan: Plan) -> tuple[market.Ticks, Any]:
    """Return the ticks as the feed shows them, and when (market time, ns UTC) each arrives."""
    chance = np.random.default_rng([plan.seed, 7])
    columns = [ticks.symbol.copy(), ticks.time.copy(), ticks.bid.copy(), ticks.ask.copy()]
    arrival = columns[1] + (chance.uniform(0.001, 0.03, len(columns[1])) * NS).astype(np.int64)
    for fault in plan.faults:
        if fault.kind in FEED and fault.kind != "feed_error":
            columns, arrival = _disturb(columns, arrival, fault, plan.speed, chance)
    return market.Ticks(*columns), arrival


def _disturb(
    columns: list[Any], arrival: Any, fault: Fault, speed: int, chance: np.random.Generator
) -> tuple[list[Any], Any]:
    symbol, time, bid, ask = columns
    begin = market.BEGIN + fault.time_ns * speed
    end = begin + fault.length_ns * speed
    inside = (symbol == market.SYMBOLS.index(fault.symbol)) & (time >= begin) & (time < end)
    rows = np.flatnonzero(inside)
    some = rows[chance.random(len(rows)) < 0.5] if len(rows) > 1 else rows
    match fault.kind:
        case "gap":
            kept = np.flatnonzero(~inside)
            return [column[kept] for column in columns], arrival[kept]
        case "held_back":
            arrival = np.where(inside, np.maximum(arrival, end), arrival)
        case "duplicate":
            double = np.sort(np.concatenate([np.arange(len(time)), some]), kind="stable")
            return [column[double] for column in columns], arrival[double]
        case "out_of_order":
            arrival[some] += int(chance.uniform(0.5, 8.0) * NS)
        case "zero":
            bid[some], ask[some] = 0.0, 0.0
        case "negative":
            bid[some] = -bid[some]
        case "not_finite":
            ask[some] = np.nan if fault.size < 0.5 else np.inf
        case "crossed":
            bid[rows], ask[rows] = ask[rows].copy(), bid[rows].copy()
        case "spike":
            bid[some[:1]] *= 1.0 + (fault.size - 0.5) / 10
            ask[some[:1]] *= 1.0 + (fault.size - 0.5) / 10
        case "spread_blow_out":
            ask[rows] += (ask[rows] - bid[rows]) * (4 + 30 * fault.size)
    return columns, arrival
