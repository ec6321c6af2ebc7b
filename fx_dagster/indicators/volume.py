"""Volume-weighted price and momentum over tick volume."""

from typing import Final

import numpy as np

from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, floored_atr, in_blocks
from fx_dagster.indicators.trend import squash

VOLUME_WINDOW: Final = 20
DISTANCE_SCALE_ATR: Final = 2.0
MOMENTUM_SCALE_ATR: Final = 0.2


def volume_weighted(bars: BarArrays, _done: Columns) -> dict[str, Float64]:
    """Rolling VWAP and volume-weighted momentum over 20 bars, with tick volume as the weight.

    ``vwap_20`` = Σ v·p / Σ v with p = (high + low + close)/3; ``volume_momentum`` = Σ v·Δclose / Σ v, the mean move of
    a bar in price units, weighted by activity. Where the window has no volume at all, all bars weigh the same. The
    window rolls instead of starting with the session, so that it means the same in every timeframe and at every hour.
    First value at row 20 (20 moves need 21 closes).
    """
    close, volume = bars.close, bars.tick_volume
    typical = (bars.high + bars.low + close) / 3.0
    move = np.diff(close, prepend=close[:1])

    def kernel(start: int, stop: int) -> tuple[Float64, ...]:
        now = close[start:stop]
        sums = [np.zeros_like(now) for _ in range(5)]
        weight, weighted_offset, weighted_move, plain_offset, plain_move = sums
        for lag in range(VOLUME_WINDOW):
            rows = slice(start - lag, stop - lag)
            offset = typical[rows] - now
            weight += volume[rows]
            weighted_offset += volume[rows] * offset
            weighted_move += volume[rows] * move[rows]
            plain_offset += offset
            plain_move += move[rows]
        silent = weight <= 0.0
        divisor = np.where(silent, float(VOLUME_WINDOW), weight)
        vwap = now + np.where(silent, plain_offset, weighted_offset) / divisor
        return vwap, np.where(silent, plain_move, weighted_move) / divisor

    vwap, momentum = in_blocks(len(close), VOLUME_WINDOW, 2, kernel)
    return {"vwap_20": vwap, "volume_momentum": momentum}


def volume_weighted_vote(columns: Columns, close: Float64) -> Float64:
    """Trend confirmed by volume: half the distance from VWAP, half the volume-weighted momentum, both in ATR."""
    atr = floored_atr(columns["atr_14"], close)
    distance = squash((close - columns["vwap_20"]) / atr / DISTANCE_SCALE_ATR)
    return (distance + squash(columns["volume_momentum"] / atr / MOMENTUM_SCALE_ATR)) / 2.0
