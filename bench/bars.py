"""Ticks to bars of nine timeframes: a whole table at once, and tick by tick through the gate."""

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from bench.data import POINT, tick_table, ticks
from bench.peers import OWN, POLARS
from bench.session import Session
from bench.table import Limit, Row
from bench.timing import millions_a_second, timed
from fx_dagster.compiled import compiled
from fx_dagster.market.bars import build_timeframes
from fx_dagster.market.calendar import bar_open_at
from fx_dagster.market.incremental import (
    Record,
    TickVerdict,
    add_tick,
    check_tick,
    close_bars,
    new_closed,
    new_forming,
    new_gates,
)
from fx_dagster.market.timeframes import Timeframe

TICKS = 5_000_000
MILLIONS_A_SECOND = 80.0
_SPIKE_Z = 25.0
_GOOD, _CONFIRMED = int(TickVerdict.GOOD), int(TickVerdict.CONFIRMED)
_BASE = 0

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]


def rows(session: Session) -> Iterator[Row]:
    """Measure both."""
    source = ticks(session.size(TICKS))
    table, count = tick_table(source), len(source.time)

    def whole() -> None:
        build_timeframes(table, Timeframe.M1, POINT)

    def one_by_one() -> None:
        forming, out = new_forming(1, Timeframe.M1)[0], new_closed(Timeframe.M1)
        gate = new_gates([POINT], _SPIKE_Z)[0]
        _one_by_one(source.time, source.bid, source.ask, source.volume, source.flags, gate, forming, out, POINT)

    with ExitStack() as stack:
        arrays = {"time": source.time, "bid": source.bid}
        rivals = {
            name: stack.enter_context(session.peers.start(environment, script, arrays))
            for name, environment, script in (
                ("polars, through M1", POLARS, "polars_ticks.py"), ("NumPy reduceat", OWN, "numpy_ticks.py"),
            )
        }  # fmt: skip
        work = f"{count / 1e6:g} M ticks to bars in nine timeframes"
        ours, theirs = session.in_turns(work, timed(whole, count), rivals, millions_a_second)
        note = "one thread; New York's calendar and mean spreads included, which the others leave out"
        yield Row(work, ours, "M ticks/s", Limit(MILLIONS_A_SECOND), more_is_better=True, rivals=theirs, note=note)
    work = "the same tick by tick, through the gate"
    ours, _ = session.in_turns(work, timed(one_by_one, count), {}, millions_a_second)
    yield Row(work, ours, "M ticks/s", more_is_better=True)


@compiled
def _one_by_one(
    time: Int64, bid: Float64, ask: Float64, volume: Float64, flags: NDArray[np.int32],
    gate: Record, forming: Record, out: Record, point: float,
) -> int:  # fmt: skip
    bars = 0
    closed_until = 0
    for row in range(len(time)):
        verdict = check_tick(gate, time[row], bid[row], ask[row], volume[row], flags[row], closed_until)
        if verdict != _GOOD and verdict != _CONFIRMED:
            continue
        if verdict == _CONFIRMED:
            bars += _closed(forming, gate.held_time, point, out)
            add_tick(forming[0], _BASE, gate.held_time, gate.held_bid, gate.held_ask, gate.held_volume, gate.held_flags)
        if time[row] >= forming[0].end:
            bars += _closed(forming, time[row], point, out)
            closed_until = bar_open_at(time[row], _BASE)
        add_tick(forming[0], _BASE, time[row], bid[row], ask[row], volume[row], flags[row])
    return bars


@compiled
def _closed(forming: Record, until: int, point: float, out: Record) -> int:
    bars = 0
    written = 1
    while written > 0 and until >= forming[0].end:
        written = close_bars(forming, _BASE, until, point, out)
        bars += written
    return bars
