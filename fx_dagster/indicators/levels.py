"""Dynamic support and resistance from confirmed swing points."""

from typing import Final

import numpy as np
import talib

from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, Int64, floored_atr, lagged

SWING_BARS: Final = 3
LEVEL_WINDOW: Final = 100
SWINGS_KEPT: Final = 8


def swing_points(values: Float64) -> Int64:
    """Return the positions of local maxima: above the 3 rows before, not below the 3 rows after.

    The unequal comparison lets a double top of equal highs count once. Pass negated lows for local minima.
    """
    rows = len(values)
    if rows < 2 * SWING_BARS + 1:
        return np.empty(0, dtype=np.int64)
    centre = values[SWING_BARS : rows - SWING_BARS]
    is_swing = np.ones(len(centre), dtype=bool)
    for lag in range(1, SWING_BARS + 1):
        is_swing &= centre > values[SWING_BARS - lag : rows - SWING_BARS - lag]
        is_swing &= centre >= values[SWING_BARS + lag : rows - SWING_BARS + lag]
    return np.flatnonzero(is_swing) + SWING_BARS


def support_resistance(bars: BarArrays, _done: Columns) -> dict[str, Float64]:
    """Nearest level at or below the close (``support``) and at or above it (``resistance``), as prices.

    Levels are the last 8 swing highs and the last 8 swing lows (a fractal with 3 bars on each side, Williams 1995) that
    are confirmed, so known only 3 bars after they happened, and not older than 100 bars; and the Donchian extremes of
    the previous 100 bars. Each serves on either side: a broken resistance supports, and the reverse. The lowest low of
    the last 100 bars, this one included, is a support too, and the highest high a resistance, so that there always is
    one. First value at row 100.
    """
    close = bars.close
    lowest, highest = talib.MIN(bars.low, LEVEL_WINDOW), talib.MAX(bars.high, LEVEL_WINDOW)
    support, resistance = lowest.copy(), highest.copy()
    for level in (lagged(lowest, 1), lagged(highest, 1)):
        # Comparisons with NaN are false: the first row without previous extremes is set to NaN below.
        support = np.where(level <= close, np.maximum(support, level), support)
        resistance = np.where(level >= close, np.minimum(resistance, level), resistance)
    for values, swings in ((bars.high, swing_points(bars.high)), (bars.low, swing_points(-bars.low))):
        _tighten(support, resistance, close, values, swings)
    support[:LEVEL_WINDOW] = resistance[:LEVEL_WINDOW] = np.nan
    return {"support": support, "resistance": resistance}


def _tighten(support: Float64, resistance: Float64, close: Float64, values: Float64, swings: Int64) -> None:
    """Move ``support`` up and ``resistance`` down, in place, to the nearest of the recent confirmed swings."""
    rows = np.arange(len(close))
    confirmed = np.searchsorted(swings + SWING_BARS, rows, side="right")
    for back in range(1, SWINGS_KEPT + 1):
        position = confirmed - back
        known = np.flatnonzero(position >= 0)
        swing = swings[position[known]]
        recent = rows[known] - swing < LEVEL_WINDOW
        row, level = known[recent], values[swing[recent]]
        below, above = level <= close[row], level >= close[row]
        support[row[below]] = np.maximum(support[row[below]], level[below])
        resistance[row[above]] = np.minimum(resistance[row[above]], level[above])


def support_resistance_vote(columns: Columns, close: Float64) -> Float64:
    """A bounce from the nearer level: +1 on support, -1 on resistance, 0 between or far from both.

    Nearness is 1/(1 + d²) with d the distance in ATR.
    """
    atr = floored_atr(columns["atr_14"], close)
    down, up = (close - columns["support"]) / atr, (columns["resistance"] - close) / atr
    return 1.0 / (1.0 + down * down) - 1.0 / (1.0 + up * up)
