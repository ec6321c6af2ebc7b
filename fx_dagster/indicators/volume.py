"""Volume-weighted price and momentum over tick volume."""

from typing import Final

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import Columns, Float64, floored_atr
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.trend import squash
from fx_dagster.indicators.windows import BLOCK_ROWS, Array

VOLUME_WINDOW: Final = 20
DISTANCE_SCALE_ATR: Final = 2.0
MOMENTUM_SCALE_ATR: Final = 0.2

_VWAP, _MOMENTUM = int(Column.VWAP_20), int(Column.VOLUME_MOMENTUM)


@compiled
def typical_price(high: float, low: float, close: float) -> float:
    """Return (high + low + close)/3."""
    return (high + low + close) / 3.0


@compiled
def weigh(weight: float, offsets: tuple[float, float], moves: tuple[float, float], close: float) -> tuple[float, float]:
    """Return VWAP and volume-weighted momentum.

    Args:
        weight: Σ v.
        offsets: Σ v·(p - close) and Σ (p - close).
        moves: Σ v·Δclose and Σ Δclose; the plain sums count where there is no volume.
        close: of the newest bar.
    """
    if weight <= 0.0:
        return close + offsets[1] / VOLUME_WINDOW, moves[1] / VOLUME_WINDOW
    return close + offsets[0] / weight, moves[0] / weight


@compiled
def slide_volume(close: Array, volume: Array, typical: Array, move: Array, vwap: Array, momentum: Array) -> None:
    """Write :func:`weigh` of the 20 bars up to each row; the outputs begin at row 19 of the inputs."""
    for place in range(len(vwap)):
        newest = place + VOLUME_WINDOW - 1
        now = close[newest]
        weight = weighted_offset = weighted_move = plain_offset = plain_move = 0.0
        for lag in range(VOLUME_WINDOW):
            offset = typical[newest - lag] - now
            weight += volume[newest - lag]
            weighted_offset += volume[newest - lag] * offset
            weighted_move += volume[newest - lag] * move[newest - lag]
            plain_offset += offset
            plain_move += move[newest - lag]
        vwap[place], momentum[place] = weigh(weight, (weighted_offset, plain_offset), (weighted_move, plain_move), now)


@compiled
def fill_volume(high: Array, low: Array, close: Array, volume: Array, values: Array) -> None:
    """Write the rolling VWAP and volume-weighted momentum over 20 bars, weighted by tick volume, into ``values``.

    ``vwap_20`` = Σ v·p / Σ v with p = (high + low + close)/3; ``volume_momentum`` = Σ v·Δclose / Σ v, the mean move of
    a bar in price units, weighted by activity. Where the window has no volume at all, all bars weigh the same. The
    window rolls instead of starting with the session, so that it means the same in every timeframe and at every hour.
    First value at row 20 (20 moves need 21 closes).
    """
    vwap, momentum = values[_VWAP], values[_MOMENTUM]
    typical, move = np.empty(BLOCK_ROWS + VOLUME_WINDOW), np.empty(BLOCK_ROWS + VOLUME_WINDOW)
    for start in range(VOLUME_WINDOW, len(close), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(close))
        first = start - (VOLUME_WINDOW - 1)
        for place in range(stop - first):
            row = first + place
            typical[place] = typical_price(high[row], low[row], close[row])
            move[place] = close[row] - close[row - 1]
        slide_volume(close[first:stop], volume[first:stop], typical, move, vwap[start:stop], momentum[start:stop])
    vwap[:VOLUME_WINDOW] = np.nan
    momentum[:VOLUME_WINDOW] = np.nan


def volume_weighted_vote(columns: Columns, close: Float64) -> Float64:
    """Trend confirmed by volume: half the distance from VWAP, half the volume-weighted momentum, both in ATR."""
    atr = floored_atr(columns["atr_14"], close)
    distance = squash((close - columns["vwap_20"]) / atr / DISTANCE_SCALE_ATR)
    return (distance + squash(columns["volume_momentum"] / atr / MOMENTUM_SCALE_ATR)) / 2.0
