"""Named patterns of a chart, found by explicit rules in a window of OHLCV bars.

Prices are measured from the newest close, in units of the window's mean bar extent (high - low), so that a pattern does
not depend on the price's scale. Only the window's bars are looked at; a pattern is told at its newest bar. Several may
hold at once.

A swing high is a bar whose high is above those of the :data:`SWING_BARS` bars before it and not below those of as many
bars after it; swing lows are mirrored. Of neighbouring swings of one kind the more extreme is kept, so that highs and
lows alternate: E1, E2, …, En. Definitions by consecutive extrema are those of Lo, Mamaysky & Wang, "Foundations of
Technical Analysis", Journal of Finance 55 (2000), section II.A, with two changes: extrema come from bars and not from
a kernel regression, and "within 1.5 % of their average" becomes a number of bar extents. Flags follow Bulkowski,
"Encyclopedia of Chart Patterns", 2nd ed. (2005), breakouts Donchian's channel; the candles are TA-Lib's ``CDL``
functions with their default settings.

====================  =============================================================================================
double_top            the last two swing highs are within 1 and at least 8 bars apart; the valley between lies 3
                      below, and so does a low before; the newest close is below the middle of tops and valley
head_and_shoulders    highs E1, E3, E5 and lows E2, E4: E3 is 1 above both shoulders, the shoulders and the lows are
                      each within 1.5, the shoulders are 1.5 above both lows; the newest close is below the middle
                      of right shoulder and neckline (the mean of both lows)
ascending_triangle    the last two swing highs are within 1, the last swing low is 1.5 above the one before it, the
                      first is 4 high; every close since the last swing lies between last low and highs
symmetric_triangle    the last swing high is 1 below the one before it, the last swing low 1 above; the first is 4
                      high; every close since the last swing lies between last high and last low
bull_flag             a pole of 5 within 8 bars, whose top no high has reached in the 4 to 15 bars since; these
                      bars gave back at most half of the pole, and their closes do not rise (least squares)
breakout_up           the newest close is 0.25 above all highs of the 20 bars before, which spanned at most 6
engulfing_bull        ``CDLENGULFING`` > 0
engulfing_bear        ``CDLENGULFING`` < 0
hammer                ``CDLHAMMER``
shooting_star         ``CDLSHOOTINGSTAR``
morning_star          ``CDLMORNINGSTAR``, penetration 0.3
evening_star          ``CDLEVENINGSTAR``, penetration 0.3
====================  =============================================================================================

Both reversals at highs end at most 16 bars before the newest bar and are void once a high exceeds them. double_bottom,
inverse_head_and_shoulders, descending_triangle, bear_flag and breakout_down are the same rules on mirrored prices;
symmetric_triangle is its own mirror. To TA-Lib a candle without a body is a white one: engulfing_bear may engulf it,
engulfing_bull may not.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import talib
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.errors import DataError
from fx_dagster.features.windows import RANGE_FLOOR

Float64 = NDArray[np.float64]
Int8 = NDArray[np.int8]

_UPWARD: Final = (
    "double_top", "head_and_shoulders", "ascending_triangle", "symmetric_triangle", "bull_flag", "breakout_up",
)  # fmt: skip
"""What one pass over the prices finds, in order of its columns."""
_MIRRORED: Final = (
    "double_bottom", "inverse_head_and_shoulders", "descending_triangle", "symmetric_triangle", "bear_flag",
    "breakout_down",
)  # fmt: skip
"""What the same pass finds in mirrored prices."""
_CANDLES: Final[tuple[tuple[str, Callable[..., Any], int], ...]] = (
    ("engulfing_bull", talib.CDLENGULFING, 1),
    ("engulfing_bear", talib.CDLENGULFING, -1),
    ("hammer", talib.CDLHAMMER, 1),
    ("shooting_star", talib.CDLSHOOTINGSTAR, -1),
    ("morning_star", talib.CDLMORNINGSTAR, 1),
    ("evening_star", talib.CDLEVENINGSTAR, -1),
)
"""Name, TA-Lib's function and the sign of its answer."""

PATTERNS: Final = (
    "double_top", "double_bottom", "head_and_shoulders", "inverse_head_and_shoulders", "ascending_triangle",
    "descending_triangle", "symmetric_triangle", "bull_flag", "bear_flag", "breakout_up", "breakout_down",
    *(name for name, _, _ in _CANDLES),
)  # fmt: skip
"""Columns of :func:`label_patterns`, in order."""

SWING_BARS: Final = 3
"""Bars on each side that a swing point exceeds."""
RECENT_BARS: Final = 16
"""A reversal's last swing is at most this old."""
EQUAL: Final = 1.0
"""Extents within which two tops are as high as each other."""
SHOULDERS_EQUAL: Final = 1.5
APART_BARS: Final = 8
DEPTH: Final = 3.0
"""Extents from a double top down to its valley, and up to it from a low before."""
HEAD: Final = 1.0
SHOULDER_DEPTH: Final = 1.5
TRIANGLE_HEIGHT: Final = 4.0
RISING: Final = 1.5
CONVERGING: Final = 1.0
POLE: Final = 5.0
POLE_BARS: Final = 8
FLAG_BARS_MIN: Final = 4
FLAG_BARS_MAX: Final = 15
RETRACED_MAX: Final = 0.5
CHANNEL_BARS: Final = 20
CHANNEL_HEIGHT_MAX: Final = 6.0
BREAKOUT: Final = 0.25

_CANDLE_BARS: Final = 16
"""More than any of the candle functions looks back (at most 13)."""
_BARS_MIN: Final = POLE_BARS + FLAG_BARS_MAX + 1
_GRID: Final = 4_096.0
"""Prices are rounded to 1/4096 extent: TA-Lib's running sums over whole numbers are exact, so that a row's label does
not depend on the rows beside it."""


def label_patterns(window: Float64) -> Int8:
    """Return which patterns stand at the newest bar of each window.

    Args:
        window: float64 ``[n, W, 5]`` open, high, low, close, tick volume; the newest bar last; W is at least 24.

    Returns:
        int8 ``[n, P]`` of 0 and 1, columns as in :data:`PATTERNS`.

    Raises:
        DataError: the shape is another, or a price is not finite and positive.
    """
    if window.ndim != 3 or window.shape[1] < _BARS_MIN or window.shape[2] < 4:
        raise DataError(f"windows of shape {window.shape}, need [n, {_BARS_MIN} or more, 5]", mend="use Windows.window")
    prices = np.asarray(window[:, :, :4], dtype=np.float64)
    if not (np.isfinite(prices) & (prices > 0.0)).all():
        raise DataError("a window holds a price that is not finite and positive", mend="clean the bars first")
    ticks = _on_grid(prices)
    upward = _formations_of(ticks / _GRID)
    mirrored = _formations_of(-ticks[:, :, [0, 2, 1, 3]] / _GRID)
    return _columns(upward, mirrored, _candles_of(ticks))


def _on_grid(prices: Float64) -> Float64:
    """Return prices ``[n, W, 4]`` as distances from the newest close, in whole grid steps."""
    anchor = prices[:, -1:, 3:]
    extent = (prices[:, :, 1] - prices[:, :, 2]).mean(axis=1)[:, None, None]
    return np.rint((prices - anchor) / np.maximum(extent, RANGE_FLOOR * anchor) * _GRID)


def _columns(upward: Int8, mirrored: Int8, candles: Int8) -> Int8:
    """Return the columns of all three in the order of :data:`PATTERNS`."""
    found = dict(zip(_UPWARD, upward.T, strict=True))
    for name, column in zip(_MIRRORED, mirrored.T, strict=True):
        found[name] = found.get(name, np.zeros_like(column)) | column
    found |= {name: column for (name, _, _), column in zip(_CANDLES, candles.T, strict=True)}
    return np.column_stack([found[name] for name in PATTERNS])


def _candles_of(ticks: Float64) -> Int8:
    """Return the candles at the newest bar of ``[n, W, 4]``, int8 ``[n, number of candles]``.

    The last bars of all windows go through TA-Lib as one series: its functions look back less far than that.
    """
    last = ticks[:, -_CANDLE_BARS:]
    series = [np.ascontiguousarray(last[:, :, column]).ravel() for column in range(4)]
    out = np.zeros((len(ticks), len(_CANDLES)), dtype=np.int8)
    if len(ticks):
        for column, (_, function, sign) in enumerate(_CANDLES):
            newest = function(*series).reshape(len(ticks), _CANDLE_BARS)[:, -1]
            out[:, column] = newest * sign > 0
    return out


def _formations_of(prices: Float64) -> Int8:
    out = np.zeros((len(prices), len(_UPWARD)), dtype=np.int8)
    _formations(np.ascontiguousarray(prices), out)
    return out


@compiled
def _formations(prices: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out`` int8 ``[n, 6]`` with the :data:`_UPWARD` formations of ``prices`` ``[n, W, 4]``."""
    bars = prices.shape[1]
    place = np.empty(2 * bars, dtype=np.int64)
    price = np.empty(2 * bars)
    kind = np.empty(2 * bars, dtype=np.int64)
    for row in range(prices.shape[0]):
        window = prices[row]
        count = _swings(window, place, price, kind)
        # Highs and lows alternate: the last high is the last swing or the one before it.
        top = count - 1 if count > 0 and kind[count - 1] == 1 else count - 2
        out[row, 0] = _double_top(window, place, price, top)
        out[row, 1] = _head_and_shoulders(window, place, price, top)
        out[row, 2], out[row, 3] = _triangles(window, place, price, kind, count)
        out[row, 4] = _flag(window)
        out[row, 5] = _breakout(window)


@compiled
def _swings(window: np.ndarray, place: np.ndarray, price: np.ndarray, kind: np.ndarray) -> int:
    """Fill in place, price and kind (1: high, -1: low) of the alternating swings, oldest first; return how many."""
    count = 0
    for k in range(SWING_BARS, window.shape[0] - SWING_BARS):
        is_high, is_low = True, True
        for j in range(1, SWING_BARS + 1):
            is_high &= window[k, 1] > window[k - j, 1] and window[k, 1] >= window[k + j, 1]
            is_low &= window[k, 2] < window[k - j, 2] and window[k, 2] <= window[k + j, 2]
        # A bar that is both has its low first where it rose.
        first = -1 if window[k, 3] > window[k, 0] else 1
        for turn in (first, -first):
            if turn == 1 and is_high:
                count = _append(k, window[k, 1], 1, count, place, price, kind)
            elif turn == -1 and is_low:
                count = _append(k, window[k, 2], -1, count, place, price, kind)
    return count


@compiled
def _append(
    at: int, value: float, sign: int, count: int, place: np.ndarray, price: np.ndarray, kind: np.ndarray
) -> int:
    """Append a swing, or let it take the place of a less extreme one of its kind; return how many there are."""
    slot = count
    if count > 0 and kind[count - 1] == sign:
        if sign * value <= sign * price[count - 1]:
            return count
        slot = count - 1
    place[slot], price[slot], kind[slot] = at, value, sign
    return slot + 1


@compiled
def _exceeded(window: np.ndarray, since: int, level: float) -> bool:
    """Return whether a high after bar ``since`` is above ``level``."""
    highest = -np.inf
    for k in range(since + 1, window.shape[0]):
        highest = max(highest, window[k, 1])
    return highest > level


@compiled
def _double_top(window: np.ndarray, place: np.ndarray, price: np.ndarray, top: int) -> bool:
    if top < 2:
        return False
    newest = window.shape[0] - 1
    first, valley, second = price[top - 2], price[top - 1], price[top]
    lower = min(first, second)
    if abs(first - second) > EQUAL or lower - valley < DEPTH or place[top] - place[top - 2] < APART_BARS:
        return False
    if newest - place[top] > RECENT_BARS or _exceeded(window, place[top], max(first, second)):
        return False
    before = first
    for k in range(place[top - 2]):
        before = min(before, window[k, 2])
    return lower - before >= DEPTH and window[newest, 3] <= 0.5 * (lower + valley)


@compiled
def _head_and_shoulders(window: np.ndarray, place: np.ndarray, price: np.ndarray, top: int) -> bool:
    if top < 4:
        return False
    newest = window.shape[0] - 1
    left, head, right = price[top - 4], price[top - 2], price[top]
    low_left, low_right = price[top - 3], price[top - 1]
    if head - max(left, right) < HEAD or abs(left - right) > SHOULDERS_EQUAL:
        return False
    if abs(low_left - low_right) > SHOULDERS_EQUAL or min(left, right) - max(low_left, low_right) < SHOULDER_DEPTH:
        return False
    if newest - place[top] > RECENT_BARS or _exceeded(window, place[top], head):
        return False
    return window[newest, 3] <= 0.5 * (right + 0.5 * (low_left + low_right))


@compiled
def _triangles(
    window: np.ndarray, place: np.ndarray, price: np.ndarray, kind: np.ndarray, count: int
) -> tuple[bool, bool]:
    """Return whether an ascending and whether a symmetric triangle stands."""
    if count < 4:
        return False, False
    top = count - 1 if kind[count - 1] == 1 else count - 2
    bottom = 2 * count - 3 - top
    high, high_before = price[top], price[top - 2]
    low, low_before = price[bottom], price[bottom - 2]
    lowest, highest = np.inf, -np.inf
    for k in range(place[count - 1] + 1, window.shape[0]):
        lowest, highest = min(lowest, window[k, 3]), max(highest, window[k, 3])
    if lowest < low:
        return False, False
    flat = abs(high - high_before) <= EQUAL and low - low_before >= RISING
    ascending = flat and max(high, high_before) - low_before >= TRIANGLE_HEIGHT and highest <= max(high, high_before)
    narrowing = high_before - high >= CONVERGING and low - low_before >= CONVERGING
    return ascending, narrowing and high_before - low_before >= TRIANGLE_HEIGHT and low < high and highest <= high


@compiled
def _flag(window: np.ndarray) -> bool:
    newest = window.shape[0] - 1
    # The pole's top is the highest high of pole and flag; the first of equals.
    top = newest - FLAG_BARS_MAX - POLE_BARS
    for k in range(top + 1, newest + 1):
        if window[k, 1] > window[top, 1]:
            top = k
    flag_bars = newest - top
    if flag_bars < FLAG_BARS_MIN or flag_bars > FLAG_BARS_MAX:
        return False
    foot = window[top, 2]
    for k in range(top - POLE_BARS, top):
        foot = min(foot, window[k, 2])
    pole = window[top, 1] - foot
    slope, middle = 0.0, 0.5 * (newest + top + 1)
    for k in range(top + 1, newest + 1):
        if window[k, 2] < window[top, 1] - RETRACED_MAX * pole:
            return False
        slope += (k - middle) * window[k, 3]
    return pole >= POLE and slope <= 0.0


@compiled
def _breakout(window: np.ndarray) -> bool:
    newest = window.shape[0] - 1
    lowest, highest = np.inf, -np.inf
    for k in range(newest - CHANNEL_BARS, newest):
        lowest, highest = min(lowest, window[k, 2]), max(highest, window[k, 1])
    return highest - lowest <= CHANNEL_HEIGHT_MAX and window[newest, 3] >= highest + BREAKOUT
