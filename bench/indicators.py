"""How fast the thirteen indicators are: a bar at a time, many rows at a time, and a whole history beside TA-Lib's."""

import gc
import statistics
from collections.abc import Callable
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from fx_dagster.indicators.arrays import BarArrays
from fx_dagster.indicators.batch import indicator_values
from fx_dagster.indicators.incremental import VALUES, new_states, push_history, push_one, push_rows
from fx_dagster.market.timeframes import Timeframe

Float64 = NDArray[np.float64]


def one_bar_us(calls: int = 5_000) -> float:
    """Return microseconds of one Python call that takes one new bar: all thirteen indicators."""
    states, bars = new_states(1), list(_rows(_bars(calls)))
    row = 0

    def run() -> None:
        for bar in bars:
            push_one(states, row, bar)

    return _median_seconds(run, 9) * 1e6 / calls


def rows_us(count: int, bars_each: int = 300) -> float:
    """Return microseconds a row where one Python call takes a new bar each for ``count`` states."""
    states, rows = new_states(count), np.arange(count, dtype=np.int64)
    batches = list(_rows(_bars(bars_each * count)).reshape(count, bars_each, 5).transpose(1, 0, 2).copy())

    def run() -> None:
        for batch in batches:
            push_rows(states, rows, batch)

    return _median_seconds(run, max(30_000 // (bars_each * count), 5)) * 1e6 / (bars_each * count)


def history_ns(count: int = 1_000_000) -> float:
    """Return nanoseconds a bar of a history that is pushed through a state, every row's values kept."""
    bars, states, values = _bars(count), new_states(1), np.empty((count, VALUES))
    columns = (bars.high, bars.low, bars.close, bars.tick_volume, np.empty(0), values)
    return _median_seconds(lambda: push_history(states[0], *columns), 5) * 1e9 / count


def batch_ns(count: int = 1_000_000) -> tuple[float, float]:
    """Return nanoseconds a bar of the whole batch and of TA-Lib's comparable set, measured in turns."""
    bars = _bars(count)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in range(9):
        ours.append(_median_seconds(lambda: indicator_values(bars, []), 1))
        theirs.append(_median_seconds(lambda: _talib_set(bars), 1))
    return statistics.median(ours[2:]) * 1e9 / count, statistics.median(theirs[2:]) * 1e9 / count


def _talib_set(bars: BarArrays) -> list[object]:
    import talib

    high, low, close, volume = bars.high, bars.low, bars.close, bars.tick_volume
    return [
        *(talib.SMA(close, window) for window in (20, 50, 200)),
        *(talib.EMA(close, window) for window in (12, 26)),
        talib.RSI(close, 14),
        talib.MACD(close, 12, 26, 9),
        talib.BBANDS(close, 20, 2, 2),
        talib.ATR(high, low, close, 14),
        talib.ADX(high, low, close, 14),
        talib.STOCH(high, low, close, 14, 3, 0, 3, 0),
        talib.OBV(close, volume),
        talib.MFI(high, low, close, volume, 14),
        talib.CCI(high, low, close, 20),
    ]


def _bars(count: int) -> BarArrays:
    """Return a seeded random walk on M1, read-only as :func:`bar_arrays` gives it."""
    rng = np.random.default_rng(0)
    close = np.round(1.1 * np.exp(np.cumsum(rng.normal(0.0, 1e-4, count))), 5)
    opening = np.concatenate([close[:1], close[:-1]])
    high = np.maximum(opening, close) + np.round(np.abs(rng.normal(0.0, 5e-5, count)), 5)
    low = np.minimum(opening, close) - np.round(np.abs(rng.normal(0.0, 5e-5, count)), 5)
    time = np.arange(count, dtype=np.int64) * Timeframe.M1.nominal_ns
    bars = BarArrays(Timeframe.M1, time, opening, high, low, close, rng.integers(1, 500, count).astype(np.float64))
    for array in (bars.time, bars.open, bars.high, bars.low, bars.close, bars.tick_volume):
        array.flags.writeable = False
    return bars


def _rows(bars: BarArrays) -> Float64:
    return np.stack([bars.open, bars.high, bars.low, bars.close, bars.tick_volume], axis=1)


def _median_seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        gc.collect()
        start = perf_counter()
        function()
        times.append(perf_counter() - start)
    return statistics.median(times)
