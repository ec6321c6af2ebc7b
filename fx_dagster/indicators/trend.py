"""Moving averages, MACD and its signal: votes that follow the trend.

Distances are voted through ``x / sqrt(1 + x²)``, which unlike tanh is made of correctly rounded operations only:
vectorised, compiled and on another machine it gives the same bits. Its scale is the indicator's own standard deviation
on a random walk in ATR (an ATR is about 1.25 standard deviations of a bar's move), so that the vote of a typical
distance is 0.7 for every indicator. For SMA n that is sqrt(n/3)/1.25; for an EMA with decay q, sqrt(q²/(1-q²))/1.25.
"""

from typing import Final

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import Columns, Float64, floored_atr
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.windows import Array, slide_mean

SMA_WINDOWS: Final = (20, 50, 200)
EMA_SPANS: Final = (12, 26)
SIGNAL_SPAN: Final = 9
SCALES_ATR: Final = {
    "sma_20": 2.0,
    "sma_50": 3.3,
    "sma_200": 6.5,
    "ema_12": 1.3,
    "ema_26": 2.0,
    "macd": 1.0,
    "macd_signal": 0.35,
}

_SMA_20, _SMA_50, _SMA_200 = int(Column.SMA_20), int(Column.SMA_50), int(Column.SMA_200)
_EMA_12, _EMA_26 = int(Column.EMA_12), int(Column.EMA_26)
_MACD, _SIGNAL = int(Column.MACD), int(Column.MACD_SIGNAL)
_FAST, _SLOW = EMA_SPANS
_FIRST_SIGNAL = _SLOW + SIGNAL_SPAN - 2


def squash(x: Float64) -> Float64:
    """Map the real line to (-1, 1): x / sqrt(1 + x²)."""
    return x / np.sqrt(1.0 + x * x)


@compiled
def smooth(average: float, value: float, count: int, window: int, share: float) -> float:
    """Return an exponential average after one more value: e ← e + share·(value - e), seeded with a mean.

    Args:
        average: before; while the seed is gathered, the sum of the values so far.
        value: the new one.
        count: values before it.
        window: values of the seed.
        share: of the new value; 2/(window + 1) for an EMA, 1/window for Wilder's average.

    Returns:
        The average; with fewer than ``window`` values, their sum.
    """
    if count >= window:
        return (value - average) * share + average
    if count == 0:
        return value
    return (average + value) / window if count == window - 1 else average + value


@compiled
def fill_averages(close: Array, values: Array) -> None:
    """Write SMA 20, 50, 200, EMA 12, 26, MACD and its signal of ``close`` into their rows of ``values``.

    SMA n: Σ close / n over the last n bars, first value at row n - 1. EMA n: e ← e + 2/(n+1)·(close - e), seeded with
    the SMA at row n - 1. MACD (Appel 1979): EMA 12 - EMA 26, first value at row 25 (``talib.MACD`` seeds the fast
    average later; the two agree once the seeds are forgotten). Signal: EMA 9 of the MACD line, seeded with the mean of
    its first nine values, at row 33.
    """
    slide_mean(close, 20, values[_SMA_20])
    slide_mean(close, 50, values[_SMA_50])
    slide_mean(close, 200, values[_SMA_200])
    fast_row, slow_row, line_row, signal_row = values[_EMA_12], values[_EMA_26], values[_MACD], values[_SIGNAL]
    fast = slow = signal = 0.0
    for row in range(len(close)):
        fast = smooth(fast, close[row], row, _FAST, 2.0 / (_FAST + 1))
        slow = smooth(slow, close[row], row, _SLOW, 2.0 / (_SLOW + 1))
        line = fast - slow
        if row >= _SLOW - 1:
            signal = smooth(signal, line, row - (_SLOW - 1), SIGNAL_SPAN, 2.0 / (SIGNAL_SPAN + 1))
        fast_row[row], slow_row[row], line_row[row], signal_row[row] = fast, slow, line, signal
    fast_row[: _FAST - 1] = np.nan
    slow_row[: _SLOW - 1] = np.nan
    line_row[: _SLOW - 1] = np.nan
    signal_row[:_FIRST_SIGNAL] = np.nan


def average_vote(columns: Columns, close: Float64, *, column: str) -> Float64:
    """Close above its average votes up, by the distance in ATR over the average's scale."""
    distance = (close - columns[column]) / floored_atr(columns["atr_14"], close)
    return squash(distance / SCALES_ATR[column])


def macd_vote(columns: Columns, close: Float64) -> Float64:
    """Fast above slow average votes up, by the MACD line in ATR."""
    return squash(columns["macd"] / floored_atr(columns["atr_14"], close) / SCALES_ATR["macd"])


def macd_signal_vote(columns: Columns, close: Float64) -> Float64:
    """The line above its signal votes up, by the histogram in ATR: 0 at the crossing, so a cross changes the sign."""
    histogram = columns["macd"] - columns["macd_signal"]
    return squash(histogram / floored_atr(columns["atr_14"], close) / SCALES_ATR["macd_signal"])
