"""Moving averages, MACD and its signal: votes that follow the trend.

Distances are voted through ``x / sqrt(1 + x²)``, which unlike tanh is made of correctly rounded operations only:
vectorised, compiled and on another machine it gives the same bits. Its scale is the indicator's own standard deviation
on a random walk in ATR (an ATR is about 1.25 standard deviations of a bar's move), so that the vote of a typical
distance is 0.7 for every indicator. For SMA n that is sqrt(n/3)/1.25; for an EMA with decay q, sqrt(q²/(1-q²))/1.25.
"""

from typing import Final

import numpy as np
import talib

from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, floored_atr

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


def squash(x: Float64) -> Float64:
    """Map the real line to (-1, 1): x / sqrt(1 + x²)."""
    return x / np.sqrt(1.0 + x * x)


def sma(bars: BarArrays, _done: Columns, *, window: int) -> dict[str, Float64]:
    """Simple moving average of the close: Σ close / n over the last n bars. First value at row n - 1."""
    return {f"sma_{window}": talib.SMA(bars.close, window)}


def ema(bars: BarArrays, _done: Columns, *, span: int) -> dict[str, Float64]:
    """Exponential moving average: e ← e + 2/(n+1)·(close - e), seeded with the SMA at row n - 1 (TA-Lib)."""
    return {f"ema_{span}": talib.EMA(bars.close, span)}


def macd(_bars: BarArrays, done: Columns) -> dict[str, Float64]:
    """MACD line (Appel 1979): EMA 12 - EMA 26. First value at row 25.

    ``talib.MACD`` seeds the fast average later; the two agree once the seeds are forgotten.
    """
    return {"macd": done["ema_12"] - done["ema_26"]}


def macd_signal(_bars: BarArrays, done: Columns) -> dict[str, Float64]:
    """EMA 9 of the MACD line, seeded with the mean of its first nine values. First value at row 33."""
    return {"macd_signal": talib.EMA(done["macd"], SIGNAL_SPAN)}


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
