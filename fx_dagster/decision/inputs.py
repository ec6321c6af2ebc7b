"""Inputs of the decision step that follow from bars, the same for live sessions and backtests.

Every window is computed from its own bars alone, in the same order, so that a live session that knows only the last
bars gets the very numbers of a backtest that knows them all.
"""

import math
from collections.abc import Sequence

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.arrays import Float64, Int64
from fx_dagster.decision.combine import traditional_signal
from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import DAY_NS, Timeframe, to_server

SHORT_BARS = 24
LONG_BARS = 240
TRADING_DAYS_A_YEAR = 252
HISTORY_BARS = LONG_BARS + 1
"""Closed bars that the last row of every function here depends on."""


def trading_day(time: Int64) -> Int64:
    """Return the number of the trading day (it turns at 17:00 New York) of each time, int64 ns UTC."""
    return to_server(np.asarray(time, dtype=np.int64)) // DAY_NS


def bars_a_year(timeframe: Timeframe) -> float:
    """Return the number of bars in a trading year of 252 days, 52 weeks or 12 months."""
    if timeframe is Timeframe.MN1:
        return 12.0
    if timeframe is Timeframe.W1:
        return 52.0
    return TRADING_DAYS_A_YEAR * DAY_NS / timeframe.nominal_ns


@compiled
def _window_deviation(values: np.ndarray, window: int, out: np.ndarray) -> None:
    for t in range(values.shape[0]):
        out[t] = math.nan
        if t + 1 < window:
            continue
        total = 0.0
        for k in range(t + 1 - window, t + 1):
            total += values[k]
        mean = total / window
        squares = 0.0
        for k in range(t + 1 - window, t + 1):
            squares += (values[k] - mean) ** 2
        out[t] = math.sqrt(squares / (window - 1))


def volatilities(close: Float64, timeframe: Timeframe) -> tuple[Float64, Float64]:
    """Return the annualised standard deviation of log returns over 24 and 240 bars; float64 [n], NaN while warming up.

    Args:
        close: closes of consecutive bars, > 0.
        timeframe: their length.
    """
    close = np.asarray(close, dtype=np.float64)
    returns = np.full(len(close), np.nan)
    returns[1:] = np.diff(np.log(close))
    scale = math.sqrt(bars_a_year(timeframe))
    result = []
    for window in (SHORT_BARS, LONG_BARS):
        out = np.empty(len(close))
        _window_deviation(returns, window, out)
        result.append(out * scale)
    return result[0], result[1]


def spread_medians(spread: Float64) -> Float64:
    """Return the median spread (price) of the last 240 bars, of fewer at the start; float64 [n]."""
    spread = np.asarray(spread, dtype=np.float64)
    out = np.empty(len(spread))
    for t in range(min(LONG_BARS - 1, len(spread))):
        out[t] = np.median(spread[: t + 1])
    if len(spread) >= LONG_BARS:
        windows = np.lib.stride_tricks.sliding_window_view(spread, LONG_BARS)
        for start in range(0, len(windows), 4096):
            block = windows[start : start + 4096]
            out[LONG_BARS - 1 + start : LONG_BARS - 1 + start + len(block)] = np.median(block, axis=1)
    return out


@compiled
def traditional_signals(votes: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Return the traditional signal of each row of ``votes[n, v]``; NaN where no vote is there."""
    out = np.empty(votes.shape[0])
    for i in range(votes.shape[0]):
        out[i] = traditional_signal(votes[i], weights)
    return out


@compiled
def _correlation(returns: np.ndarray, end: int, window: int, i: int, j: int) -> float:
    """Return the correlation of two columns over the rows in which both are known; NaN with too few or no variance."""
    count = 0
    sum_x = 0.0
    sum_y = 0.0
    for k in range(end - window, end):
        if math.isfinite(returns[k, i]) and math.isfinite(returns[k, j]):
            count += 1
            sum_x += returns[k, i]
            sum_y += returns[k, j]
    if 2 * count < window:
        return math.nan
    mean_x, mean_y = sum_x / count, sum_y / count
    xx = 0.0
    yy = 0.0
    xy = 0.0
    for k in range(end - window, end):
        if math.isfinite(returns[k, i]) and math.isfinite(returns[k, j]):
            dx, dy = returns[k, i] - mean_x, returns[k, j] - mean_y
            xx += dx * dx
            yy += dy * dy
            xy += dx * dy
    if xx <= 0.0 or yy <= 0.0:
        return math.nan
    return min(max(xy / math.sqrt(xx * yy), -1.0), 1.0)


@compiled
def _cross(
    returns: np.ndarray,
    signals: np.ndarray,
    first: int,
    long: int,
    short: int,
    agreement: np.ndarray,
    shift: np.ndarray,
) -> None:
    rows, n = returns.shape
    said = np.empty(n)
    weight = np.empty(n)
    moved = np.empty(n)
    pairs = np.empty(n)
    for t in range(max(first, long), rows):
        said[:] = 0.0
        weight[:] = 0.0
        moved[:] = 0.0
        pairs[:] = 0.0
        for i in range(n):
            for j in range(i):
                slow = _correlation(returns, t + 1, long, i, j)
                if not math.isfinite(slow):
                    continue
                fast = _correlation(returns, t + 1, short, i, j)
                for own, other in ((i, j), (j, i)):
                    if math.isfinite(signals[t, other]):
                        said[own] += slow * signals[t, other]
                        weight[own] += abs(slow) * abs(signals[t, other])
                    if math.isfinite(fast):
                        moved[own] += abs(fast - slow)
                        pairs[own] += 1.0
        for i in range(n):
            if weight[i] > 0.0:
                agreement[t, i] = said[i] / weight[i]
            if pairs[i] > 0.0:
                shift[t, i] = moved[i] / pairs[i]


def cross_symbol(
    close: Float64, signals: Float64, *, last_only: bool = False, short_bars: int = 60
) -> tuple[Float64, Float64]:
    """Return what the other symbols say for each one, and how far correlations have moved.

    ``agreement`` of symbol i is Σ ρᵢⱼ sⱼ / Σ |ρᵢⱼ sⱼ| over the others j, in [-1, 1]: + where symbols that move with i
    point up. ``shift`` is the mean of |ρ over ``short_bars`` − ρ over 240 bars|, the input of the breaker.

    Args:
        close: ``[t, n]`` closes on one grid of consecutive bars; NaN where a symbol has no bar.
        signals: ``[t, n]`` traditional signals of the same bars (:func:`traditional_signals`).
        last_only: compute only the last row, as a live session needs.
        short_bars: window of the fast correlation.

    Returns:
        two float64 ``[t, n]``; NaN with a single symbol, and while the window of 240 bars is not full.

    Raises:
        DataError: shapes differ.
    """
    close, signals = np.asarray(close, dtype=np.float64), np.asarray(signals, dtype=np.float64)
    if close.shape != signals.shape or close.ndim != 2:
        raise DataError(f"closes {close.shape} and signals {signals.shape} differ", mend="pass [t, n] of the same bars")
    agreement, shift = np.full(close.shape, np.nan), np.full(close.shape, np.nan)
    if close.shape[1] > 1 and len(close):
        returns = np.full(close.shape, np.nan)
        returns[1:] = np.diff(np.log(close), axis=0)
        first = len(close) - 1 if last_only else 0
        _cross(returns, np.ascontiguousarray(signals), first, LONG_BARS, short_bars, agreement, shift)
    return agreement, shift


def aligned(times: Sequence[Int64], values: Sequence[Float64]) -> tuple[Int64, Float64]:
    """Return the union of the symbols' bar times and ``[t, n]`` of their values on it; NaN where one has no bar."""
    grid = np.unique(np.concatenate([np.asarray(time, dtype=np.int64) for time in times]))
    table = np.full((len(grid), len(times)), np.nan)
    for column, (time, value) in enumerate(zip(times, values, strict=True)):
        table[np.searchsorted(grid, time), column] = value
    return grid, table
