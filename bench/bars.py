"""Ticks to nine timeframes: how many millions a second, whole tables at once and tick by tick.

Run from the repository's folder: ``python -m bench.bars``. Ticks come every two seconds on average and walk a point at
a time; each figure is the median of several runs in one process, compiling left out.
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

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
from fx_dagster.market.schemas import TickFlag, tick_frame
from fx_dagster.market.timeframes import Timeframe

POINT = 1e-5
_GOOD, _CONFIRMED = int(TickVerdict.GOOD), int(TickVerdict.CONFIRMED)
_BASE = 0
_START = 1_577_923_200_000_000_000
"""2020-01-02 00:00 UTC, in ns."""

Int64, Float64 = NDArray[np.int64], NDArray[np.float64]


def walk(rows: int, seed: int = 20240101) -> pd.DataFrame:
    """Return TICKS of a random walk: gaps exponential with a mean of 2 s, spreads of 6 to 19 points."""
    rng = np.random.default_rng(seed)
    gap = (rng.exponential(2000.0, rows) + 1).astype(np.int64) * 1_000_000
    mid = np.round(1.1 + np.cumsum(rng.integers(-1, 2, rows)) * POINT, 5)
    spread = rng.integers(6, 20, rows) * POINT
    bid = np.round(mid - spread / 2, 5)
    flags = np.full(rows, int(TickFlag.BID | TickFlag.ASK))
    return tick_frame(_START + np.cumsum(gap), bid, np.round(bid + spread, 5), np.zeros(rows), flags)


def nine_timeframes_mticks(rows: int = 5_000_000, runs: int = 5) -> float:
    """Return millions of ticks a second from a table of ticks to tables of closed bars in all nine timeframes."""
    ticks = walk(rows)
    return _rate(lambda: build_timeframes(ticks, Timeframe.M1, POINT), rows, runs)


def incremental_mticks(rows: int = 5_000_000, runs: int = 5) -> float:
    """Return millions of ticks a second through the gate and the forming bars of all nine timeframes, one by one."""
    ticks = walk(rows)
    columns = [ticks[name].to_numpy() for name in ticks]

    def run() -> None:
        gates = new_gates([POINT], spike_z=25.0)
        _one_by_one(*columns, gates[0], new_forming(1, Timeframe.M1)[0], new_closed(Timeframe.M1), POINT)

    return _rate(run, rows, runs)


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


def _rate(run: Callable[[], object], rows: int, runs: int) -> float:
    run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return rows / statistics.median(seconds) / 1e6


if __name__ == "__main__":
    print(f"nine timeframes from a table: {nine_timeframes_mticks():.0f} million ticks/s")  # noqa: T201
    print(f"nine timeframes, tick by tick, with the gate: {incremental_mticks():.0f} million ticks/s")  # noqa: T201
