"""Dynamic support and resistance from confirmed swing points."""

import math
from typing import Final

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import Columns, Float64, floored_atr
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.windows import Array, slide_max

SWING_BARS: Final = 3
LEVEL_WINDOW: Final = 100
SWINGS_KEPT: Final = 8

_SUPPORT, _RESISTANCE = int(Column.SUPPORT), int(Column.RESISTANCE)


@compiled
def is_swing(values: Array, centre: int, sign: float) -> bool:
    """Return whether a value is a local maximum of ``sign × values``: above the 3 before, not below the 3 after.

    The unequal comparison lets a double top of equal highs count once. With ``sign`` -1 it is a local minimum.
    """
    own = sign * values[centre]
    swing = True
    for lag in range(1, SWING_BARS + 1):
        # All six are compared: which one fails first cannot be foreseen.
        swing = swing & (own > sign * values[centre - lag]) & (own >= sign * values[centre + lag])
    return swing


@compiled
def swing_points(values: Array, sign: float) -> Array:
    """Return the rows (int64) of all swings, see :func:`is_swing`."""
    swings = np.empty(max(len(values) - 2 * SWING_BARS, 0), dtype=np.bool_)
    for place in range(len(swings)):
        swings[place] = is_swing(values, place + SWING_BARS, sign)
    rows = np.empty(len(swings), dtype=np.int64)
    count = 0
    for place in range(len(swings)):
        rows[count] = place + SWING_BARS
        count += swings[place]
    return rows[:count]


@compiled
def tighten(level: float, close: float, support: float, resistance: float) -> tuple[float, float]:
    """Return support and resistance, moved to the level where it is nearer to the close; a NaN level is none."""
    below, above = level if level <= close else -math.inf, level if level >= close else math.inf
    return max(support, below), min(resistance, above)


@compiled
def tighten_rows(level: float, close: Array, supports: Array, resistances: Array) -> None:
    """Let one level serve in all these rows."""
    for row in range(len(close)):
        supports[row], resistances[row] = tighten(level, close[row], supports[row], resistances[row])


@compiled
def tighten_to_swings(values: Array, sign: float, close: Array, supports: Array, resistances: Array) -> None:
    """Let each swing serve from when it is confirmed until it is 100 bars old or 8 newer ones are."""
    swings = swing_points(values, sign)
    for place in range(len(swings)):
        start, stop = swings[place] + SWING_BARS, min(swings[place] + LEVEL_WINDOW, len(close))
        if place + SWINGS_KEPT < len(swings):
            stop = min(stop, swings[place + SWINGS_KEPT] + SWING_BARS)
        tighten_rows(values[swings[place]], close[start:stop], supports[start:stop], resistances[start:stop])


@compiled
def fill_levels(high: Array, low: Array, close: Array, values: Array) -> None:
    """Write the nearest level at or below the close (``support``) and at or above it (``resistance``), as prices.

    Levels are the last 8 swing highs and the last 8 swing lows (a fractal with 3 bars on each side, Williams 1995) that
    are confirmed, so known only 3 bars after they happened, and not older than 100 bars; and the Donchian extremes of
    the previous 100 bars. Each serves on either side: a broken resistance supports, and the reverse. The lowest low of
    the last 100 bars, this one included, is a support too, and the highest high a resistance, so that there always is
    one. First value at row 100.
    """
    supports, resistances = values[_SUPPORT], values[_RESISTANCE]
    slide_max(low, -1.0, LEVEL_WINDOW, supports)
    slide_max(high, 1.0, LEVEL_WINDOW, resistances)
    past_lowest = past_highest = np.nan
    for row in range(len(close)):
        lowest, highest = supports[row], resistances[row]
        support, resistance = tighten(past_lowest, close[row], lowest, highest)
        supports[row], resistances[row] = tighten(past_highest, close[row], support, resistance)
        past_lowest, past_highest = lowest, highest
    tighten_to_swings(high, 1.0, close, supports, resistances)
    tighten_to_swings(low, -1.0, close, supports, resistances)
    supports[:LEVEL_WINDOW] = np.nan
    resistances[:LEVEL_WINDOW] = np.nan


def support_resistance_vote(columns: Columns, close: Float64) -> Float64:
    """A bounce from the nearer level: +1 on support, -1 on resistance, 0 between or far from both.

    Nearness is 1/(1 + d²) with d the distance in ATR.
    """
    atr = floored_atr(columns["atr_14"], close)
    down, up = (close - columns["support"]) / atr, (columns["resistance"] - close) / atr
    return 1.0 / (1.0 + down * down) - 1.0 / (1.0 + up * up)
