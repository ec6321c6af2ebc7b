"""The thirteen classical indicators, bar by bar: one record a symbol and timeframe, bounded work a bar.

A state that is fed from a history's first bar has the bits that :mod:`fx_dagster.indicators.batch` has in the same row:
both are made of the same compiled parts in the same order of operations. A state is plain memory: to keep it, copy the
array; to go on, copy it back.

Sliding means and extremes keep the tails of :mod:`fx_dagster.indicators.windows` in a ring as long as their window. The
last 21 bars are kept twice, 21 places apart, so that any window of them lies in one piece.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import ATR_FLOOR
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.levels import LEVEL_WINDOW, SWING_BARS, SWINGS_KEPT, is_swing, tighten
from fx_dagster.indicators.multi_timeframe import TREND_WINDOW
from fx_dagster.indicators.oscillators import (
    ATR_WINDOW,
    RSI_VOTE_SCALE,
    RSI_WINDOW,
    atr_move,
    bands,
    strength_index,
    true_range,
)
from fx_dagster.indicators.trend import EMA_SPANS, SCALES_ATR, SIGNAL_SPAN, SMA_WINDOWS, smooth
from fx_dagster.indicators.volume import (
    DISTANCE_SCALE_ATR,
    MOMENTUM_SCALE_ATR,
    VOLUME_WINDOW,
    typical_price,
    weigh,
)
from fx_dagster.indicators.windows import Array, moments, push_max, push_sum

Record: TypeAlias = Any
"""A record of :data:`INDICATOR_STATE`; Numba knows which."""
States: TypeAlias = NDArray[np.void]

VALUES: Final = len(Column)
"""Values of a row, in the order of ``INDICATOR_COLUMNS``."""
VOTES: Final = 13

_KEPT: Final = VOLUME_WINDOW + 1
_F, _I = np.float64, np.int64

SWINGS: Final = np.dtype(
    [
        ("levels", _F, (SWINGS_KEPT,)),  # NaN: none
        ("bars", _I, (SWINGS_KEPT,)),  # number of the bar of each
        ("count", _I),  # swings so far
        ("oldest", _I),  # number of the oldest that is not forgotten
        ("due", _I),  # number of the bar at which to look for swings that are too old
    ],
    align=True,
)
"""The last confirmed swings of one side."""

INDICATOR_STATE: Final = np.dtype(
    [
        ("values", _F, (VALUES,)),  # as of the newest bar, in the order of INDICATOR_COLUMNS; NaN while warming up
        ("bars", _I),  # so far
        ("unchanged", _I),  # closes in a row that equal the one before
        ("averages", _F, (3,)),  # EMA 12, EMA 26, signal; the sum so far while their seed is gathered
        ("wilder", _F, (3,)),  # the same of gains, losses and true ranges
        ("heads", _F, (5,)),  # of the three sums, the lowest low (negated) and the highest high
        ("close", _F, (2 * _KEPT,)),
        ("high", _F, (2 * _KEPT,)),
        ("low", _F, (2 * _KEPT,)),
        ("volume", _F, (2 * _KEPT,)),
        ("typical", _F, (2 * _KEPT,)),
        ("move", _F, (2 * _KEPT,)),
        ("sum_20", _F, (SMA_WINDOWS[0],)),
        ("sum_50", _F, (SMA_WINDOWS[1],)),
        ("sum_200", _F, (SMA_WINDOWS[2],)),
        ("lowest", _F, (LEVEL_WINDOW,)),
        ("highest", _F, (LEVEL_WINDOW,)),
        ("extremes", _F, (2,)),  # lowest low and highest high as of the newest bar; NaN: none
        ("tops", SWINGS),
        ("bottoms", SWINGS),
    ],
    align=True,
)
"""What is remembered of one symbol's bars of one timeframe."""

_SMA_20, _SMA_50, _SMA_200 = int(Column.SMA_20), int(Column.SMA_50), int(Column.SMA_200)
_EMA_12, _EMA_26 = int(Column.EMA_12), int(Column.EMA_26)
_RSI, _MACD, _SIGNAL = int(Column.RSI_14), int(Column.MACD), int(Column.MACD_SIGNAL)
_UPPER, _LOWER, _POSITION = int(Column.BOLLINGER_UPPER), int(Column.BOLLINGER_LOWER), int(Column.BOLLINGER_POSITION)
_ATR, _MOVE = int(Column.ATR_14), int(Column.ATR_MOVE)
_STRENGTH, _COARSE = int(Column.TREND_STRENGTH), int(Column.TREND_COARSE)
_CORRELATION = int(Column.TREND_CORRELATION)
_VWAP, _MOMENTUM = int(Column.VWAP_20), int(Column.VOLUME_MOMENTUM)
_SUPPORT, _RESISTANCE = int(Column.SUPPORT), int(Column.RESISTANCE)

_FAST, _SLOW = EMA_SPANS
_SCALE_SMA_20, _SCALE_SMA_50, _SCALE_SMA_200 = SCALES_ATR["sma_20"], SCALES_ATR["sma_50"], SCALES_ATR["sma_200"]
_SCALE_EMA_12, _SCALE_EMA_26 = SCALES_ATR["ema_12"], SCALES_ATR["ema_26"]
_SCALE_MACD, _SCALE_SIGNAL = SCALES_ATR["macd"], SCALES_ATR["macd_signal"]


def new_states(shape: int | tuple[int, ...]) -> States:
    """Return records of :data:`INDICATOR_STATE` that have seen no bar."""
    states = np.zeros(shape, dtype=INDICATOR_STATE)
    states["values"] = states["extremes"] = np.nan
    states["lowest"] = states["highest"] = -np.inf
    for side in ("tops", "bottoms"):
        states[side]["levels"] = np.nan
    return states


@compiled
def push_bar(own: Record, high: float, low: float, close: float, volume: float) -> None:
    """Take one closed bar and set all values but ``trend_coarse`` and ``trend_correlation``.

    Args:
        own: the state; changed.
        high: price, finite and positive, as ``low`` and ``close``.
        low: price.
        close: price.
        volume: tick volume, ≥ 0.
    """
    count = own.bars
    newest = _KEPT + count % _KEPT
    previous = own.close[newest - 1]
    for place in (newest - _KEPT, newest):
        own.high[place], own.low[place], own.close[place] = high, low, close
        own.volume[place] = volume
        own.typical[place] = typical_price(high, low, close)
        own.move[place] = close - previous
    _push_averages(own, count, close)
    if count > 0:
        _push_wilder(own, count - 1, high, low, close, previous)
    if count >= TREND_WINDOW - 1:
        _set_moments(own, newest, close)
    if count >= VOLUME_WINDOW:
        _set_volume(own, newest, close)
    _push_levels(own, count, newest, high, low, close)
    own.bars = count + 1


@compiled
def push_trends(own: Record, others_mean: float) -> None:
    """Set ``trend_coarse`` and ``trend_correlation`` of the newest bar; after :func:`push_bar`.

    Args:
        own: the state; changed.
        others_mean: mean trend strength of the context timeframes as of their last closed bars, NaN if one is not
            known; without context timeframes the own trend strength.
    """
    own.values[_COARSE] = others_mean
    own.values[_CORRELATION] = own.values[_STRENGTH] * others_mean


@compiled
def push_rows(states: Record, rows: Array, bars: Array) -> None:
    """Take one closed bar each for many states; the own trend stands for that of coarser timeframes.

    Args:
        states: ``[m]`` of :data:`INDICATOR_STATE`; changed.
        rows: int64 ``[k]``, which states.
        bars: float64 ``[k, 5]``: open, high, low, close, tick volume.
    """
    for place in range(len(rows)):
        push_one(states, rows[place], bars[place])


@compiled
def push_one(states: Record, row: int, bar: Array) -> None:
    """Take one closed bar, float64 ``[5]``, for ``states[row]``; as :func:`push_rows`."""
    own = states[row]
    push_bar(own, bar[1], bar[2], bar[3], bar[4])
    push_trends(own, own.values[_STRENGTH])


@compiled
def push_history(
    own: Record, high: Array, low: Array, close: Array, volume: Array, others_mean: Array, values: Array
) -> None:
    """Take a history of closed bars and write the values after each.

    Args:
        own: the state, as ``states[row]``; changed.
        high: float64 ``[n]``, oldest first, as the other columns.
        low: float64 ``[n]``.
        close: float64 ``[n]``.
        volume: float64 ``[n]``.
        others_mean: float64 ``[n]``, see :func:`push_trends`; of no length without context timeframes.
        values: float64 ``[n, VALUES]``, filled.
    """
    for place in range(len(close)):
        push_bar(own, high[place], low[place], close[place], volume[place])
        push_trends(own, others_mean[place] if len(others_mean) else own.values[_STRENGTH])
        for column in range(VALUES):
            values[place, column] = own.values[column]


@compiled
def is_warm(values: Array) -> bool:
    """Return whether every indicator is past its warm-up; ``values`` is float64 ``[VALUES]``."""
    warm = True
    for column in range(VALUES):
        warm &= math.isfinite(values[column])
    return warm


@compiled
def _push_averages(own: Record, count: int, close: float) -> None:
    heads, values = own.heads, own.values
    total_20, heads[0] = push_sum(own.sum_20, heads[0], count, close)
    total_50, heads[1] = push_sum(own.sum_50, heads[1], count, close)
    total_200, heads[2] = push_sum(own.sum_200, heads[2], count, close)
    if count >= len(own.sum_20) - 1:
        values[_SMA_20] = total_20 / len(own.sum_20)
    if count >= len(own.sum_50) - 1:
        values[_SMA_50] = total_50 / len(own.sum_50)
    if count >= len(own.sum_200) - 1:
        values[_SMA_200] = total_200 / len(own.sum_200)
    fast = smooth(own.averages[0], close, count, _FAST, 2.0 / (_FAST + 1))
    slow = smooth(own.averages[1], close, count, _SLOW, 2.0 / (_SLOW + 1))
    own.averages[0], own.averages[1] = fast, slow
    if count >= _FAST - 1:
        values[_EMA_12] = fast
    if count < _SLOW - 1:
        return
    lines, line = count - (_SLOW - 1), fast - slow
    own.averages[2] = smooth(own.averages[2], line, lines, SIGNAL_SPAN, 2.0 / (SIGNAL_SPAN + 1))
    values[_EMA_26], values[_MACD] = slow, line
    if lines >= SIGNAL_SPAN - 1:
        values[_SIGNAL] = own.averages[2]


@compiled
def _push_wilder(own: Record, moves: int, high: float, low: float, close: float, previous: float) -> None:
    # ``moves`` counts those before this one.
    values, averages = own.values, own.wilder
    change = close - previous
    averages[0] = smooth(averages[0], max(change, 0.0), moves, RSI_WINDOW, 1.0 / RSI_WINDOW)
    averages[1] = smooth(averages[1], max(-change, 0.0), moves, RSI_WINDOW, 1.0 / RSI_WINDOW)
    own.unchanged = own.unchanged + 1 if change == 0.0 else 0
    if moves >= ATR_WINDOW:
        values[_MOVE] = atr_move(close, previous, averages[2])
    averages[2] = smooth(averages[2], true_range(high, low, previous), moves, ATR_WINDOW, 1.0 / ATR_WINDOW)
    if moves >= RSI_WINDOW - 1:
        values[_RSI] = strength_index(averages[0], averages[1], own.unchanged)
    if moves >= ATR_WINDOW - 1:
        values[_ATR] = averages[2]


@compiled
def _set_moments(own: Record, newest: int, close: float) -> None:
    closes = own.close
    total = squares = product = 0.0
    for lag in range(1, TREND_WINDOW):
        offset = closes[newest - lag] - close
        total += offset
        product -= lag * offset
        squares += offset * offset
    values = own.values
    mean, deviation, values[_STRENGTH] = moments(total, squares, product, close)
    values[_UPPER], values[_LOWER], values[_POSITION] = bands(mean, deviation, close)


@compiled
def _set_volume(own: Record, newest: int, close: float) -> None:
    volume, typical, move = own.volume, own.typical, own.move
    weight = weighted_offset = weighted_move = plain_offset = plain_move = 0.0
    for lag in range(VOLUME_WINDOW):
        weight += volume[newest - lag]
        weighted_offset += volume[newest - lag] * (typical[newest - lag] - close)
        weighted_move += volume[newest - lag] * move[newest - lag]
    if weight <= 0.0:
        for lag in range(VOLUME_WINDOW):
            plain_offset += typical[newest - lag] - close
            plain_move += move[newest - lag]
    own.values[_VWAP], own.values[_MOMENTUM] = weigh(
        weight, (weighted_offset, plain_offset), (weighted_move, plain_move), close
    )


@compiled
def _push_levels(own: Record, count: int, newest: int, high: float, low: float, close: float) -> None:
    highest, own.heads[4] = push_max(own.highest, own.heads[4], count, high)
    lowest, own.heads[3] = push_max(own.lowest, own.heads[3], count, -low)
    if count >= 2 * SWING_BARS:
        _push_swing(own.tops, own.high, newest, 1.0, count)
        _push_swing(own.bottoms, own.low, newest, -1.0, count)
    lowest = -lowest
    support, resistance = tighten(own.extremes[0], close, lowest, highest)
    support, resistance = tighten(own.extremes[1], close, support, resistance)
    own.extremes[0], own.extremes[1] = lowest, highest
    for place in range(SWINGS_KEPT):
        support, resistance = tighten(own.tops.levels[place], close, support, resistance)
        support, resistance = tighten(own.bottoms.levels[place], close, support, resistance)
    if count >= LEVEL_WINDOW:
        own.values[_SUPPORT], own.values[_RESISTANCE] = support, resistance


@compiled
def _push_swing(swings: Record, prices: Array, newest: int, sign: float, count: int) -> None:
    """Remember a swing that this bar confirms, in the place of the oldest of 8; forget those of 100 bars ago."""
    centre = newest - SWING_BARS
    if is_swing(prices, centre, sign):
        place = swings.count % SWINGS_KEPT
        swings.levels[place], swings.bars[place] = prices[centre], count - SWING_BARS
        swings.count += 1
    if count >= swings.due:
        _forget_swings(swings, count)


@compiled
def _forget_swings(swings: Record, count: int) -> None:
    swings.oldest = max(swings.oldest, swings.count - SWINGS_KEPT)
    while swings.oldest < swings.count and count - swings.bars[swings.oldest % SWINGS_KEPT] >= LEVEL_WINDOW:
        swings.levels[swings.oldest % SWINGS_KEPT] = math.nan
        swings.oldest += 1
    if swings.oldest < swings.count:
        swings.due = swings.bars[swings.oldest % SWINGS_KEPT] + LEVEL_WINDOW
    else:
        # A swing is confirmed 3 bars late: one that comes next cannot be too old before.
        swings.due = count + LEVEL_WINDOW - SWING_BARS + 1


@compiled
def _squash(x: float) -> float:
    return x / math.sqrt(1.0 + x * x)


@compiled
def vote_row(values: Array, close: float, out: Array) -> None:
    """Write the thirteen votes of one row: the bits of :func:`fx_dagster.indicators.votes.votes`.

    Args:
        values: float64 ``[VALUES]``, in the order of ``INDICATOR_COLUMNS``.
        close: of the same bar.
        out: float64 ``[VOTES]``, filled; an indicator that is still warming up votes 0.
    """
    atr, floor = values[_ATR], ATR_FLOOR * close
    # Not max(): a NaN stays one.
    atr = floor if atr < floor else atr
    out[0] = _squash((close - values[_SMA_20]) / atr / _SCALE_SMA_20)
    out[1] = _squash((close - values[_SMA_50]) / atr / _SCALE_SMA_50)
    out[2] = _squash((close - values[_SMA_200]) / atr / _SCALE_SMA_200)
    out[3] = _squash((close - values[_EMA_12]) / atr / _SCALE_EMA_12)
    out[4] = _squash((close - values[_EMA_26]) / atr / _SCALE_EMA_26)
    out[5] = _squash((50.0 - values[_RSI]) / RSI_VOTE_SCALE)
    out[6] = _squash(values[_MACD] / atr / _SCALE_MACD)
    out[7] = _squash((values[_MACD] - values[_SIGNAL]) / atr / _SCALE_SIGNAL)
    out[8] = -_squash(2.0 * values[_POSITION] - 1.0)
    square = values[_MOVE] * values[_MOVE]
    out[9] = _squash(values[_MOVE] * (square / (1.0 + square)))
    out[10] = (values[_STRENGTH] + values[_COARSE]) / 2.0 * ((1.0 + values[_CORRELATION]) / 2.0)
    distance = _squash((close - values[_VWAP]) / atr / DISTANCE_SCALE_ATR)
    out[11] = (distance + _squash(values[_MOMENTUM] / atr / MOMENTUM_SCALE_ATR)) / 2.0
    down, up = (close - values[_SUPPORT]) / atr, (values[_RESISTANCE] - close) / atr
    out[12] = 1.0 / (1.0 + down * down) - 1.0 / (1.0 + up * up)
    for place in range(VOTES):
        if not math.isfinite(out[place]):
            out[place] = 0.0
