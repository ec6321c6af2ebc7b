"""Features bar by bar: one record a symbol, the values of :mod:`fx_dagster.features.batch`.

Everything that is remembered lies in the record, so that a copy of it goes on exactly as it does; a forming bar is
looked at by pushing it into a copy. Windows are rings of bounded length; sums are made without subtraction
(:mod:`fx_dagster.indicators.windows`), so that no error grows with the length of history.

What the other symbols say is not here: see :mod:`fx_dagster.features.cross_incremental`.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.features.catalogue import (
    CLIP,
    CONTEXT_NAMES,
    INDICATOR_FEATURE_NAMES,
    PERCENTILE_WINDOW,
    RETURN_LAGS,
    SEQUENCE_CHANNELS,
    SLOPE_LAG,
    SPREAD_WINDOW,
    VOLATILITY_FLOOR,
    VOLATILITY_LONG,
    VOLATILITY_SHORT,
    VOLUME_LONG,
    FeatureCatalogue,
)
from fx_dagster.features.volatility import bars_a_year
from fx_dagster.indicators.arrays import ATR_FLOOR
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.windows import push_sum
from fx_dagster.market.calendar import london_time, server_time, tokyo_time
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe

Rows: TypeAlias = NDArray[np.void]
Record: TypeAlias = Any
"""A record of this module's types; Numba knows which."""

CONTEXTS_MAX: Final = 2
_INDICATORS: Final = len(INDICATOR_FEATURE_NAMES)
_CONTEXT_PLACES: Final = np.array([INDICATOR_FEATURE_NAMES.index(name) for name in CONTEXT_NAMES], dtype=np.int64)
_LAGS: Final = np.array(RETURN_LAGS, dtype=np.int64)
_ROOTS: Final = np.sqrt(_LAGS.astype(np.float64))
VALUES_MAX: Final = _INDICATORS + CONTEXTS_MAX * len(CONTEXT_NAMES) + len(RETURN_LAGS) + 3 + 5 + 2 + 5 + 2
"""Features of the richest catalogue without those of other symbols."""

_SMA_20, _SMA_50, _SMA_200 = int(Column.SMA_20), int(Column.SMA_50), int(Column.SMA_200)
_EMA_12, _EMA_26, _RSI = int(Column.EMA_12), int(Column.EMA_26), int(Column.RSI_14)
_MACD, _SIGNAL = int(Column.MACD), int(Column.MACD_SIGNAL)
_UPPER, _LOWER, _BOLLINGER = int(Column.BOLLINGER_UPPER), int(Column.BOLLINGER_LOWER), int(Column.BOLLINGER_POSITION)
_ATR, _ATR_MOVE = int(Column.ATR_14), int(Column.ATR_MOVE)
_STRENGTH, _COARSE = int(Column.TREND_STRENGTH), int(Column.TREND_COARSE)
_CORRELATION = int(Column.TREND_CORRELATION)
_VWAP, _MOMENTUM = int(Column.VWAP_20), int(Column.VOLUME_MOMENTUM)
_SUPPORT, _RESISTANCE = int(Column.SUPPORT), int(Column.RESISTANCE)

_F, _I, _B = np.float64, np.int64, np.bool_

_LAGGED = np.dtype([("bars", _I), ("sma", _F, (SLOPE_LAG + 1,)), ("atr", _F, (VOLATILITY_SHORT + 1,))], align=True)
"""Earlier values that a timeframe's indicator features look back at."""

FEATURE_STATE = np.dtype(
    [
        ("bars", _I),
        ("warm", _B),  # every feature but those of other symbols is known
        ("close", _F),
        ("volatility_short", _F),  # annualised
        ("volatility_long", _F),
        ("spread_median", _F),  # price
        ("base", _LAGGED),
        ("context", _LAGGED, (CONTEXTS_MAX,)),
        ("context_values", _F, (CONTEXTS_MAX, len(CONTEXT_NAMES))),
        ("closes", _F, (max(RETURN_LAGS) + 1,)),
        ("return_before", _F),
        ("short_now", _F),  # volatility of a bar over 24 bars
        ("long_now", _F),  # over 240
        ("square_sum", _F),
        ("product_sum", _F),
        ("range_sum", _F),
        ("volume_short", _F),
        ("volume_long", _F),
        ("squares_short", _F, (VOLATILITY_SHORT,)),
        ("squares", _F, (VOLATILITY_LONG,)),
        ("products", _F, (VOLATILITY_LONG,)),
        ("ranges", _F, (VOLATILITY_SHORT,)),
        ("volumes_short", _F, (VOLATILITY_SHORT,)),
        ("volumes_long", _F, (VOLUME_LONG,)),
        ("heads", _F, (5,)),  # of squares, products, ranges, short volumes, long volumes
        ("shorts", _F, (PERCENTILE_WINDOW,)),
        ("spreads", _F, (SPREAD_WINDOW,)),
        ("spreads_sorted", _F, (SPREAD_WINDOW,)),
        ("values", _F, (VALUES_MAX,)),
    ],
    align=True,
)

LAYOUT = np.dtype(
    [("count", _I), ("contexts", _I), ("cross_at", _I), ("hours", _B), ("week", _B), ("year_root", _F)], align=True
)
"""Which features a catalogue has: ``count`` without those of other symbols, which begin at ``cross_at`` (-1: none);
``year_root`` is the square root of bars a year."""


def new_features(symbols: int) -> Rows:
    """Return ``[symbols]`` of :data:`FEATURE_STATE` before the first bar."""
    states = np.zeros(symbols, dtype=FEATURE_STATE)
    for name in ("volatility_short", "volatility_long", "short_now", "long_now", "spread_median", "values"):
        states[name] = np.nan
    states["context_values"] = np.nan
    return states


def new_layout(catalogue: FeatureCatalogue) -> Rows:
    """Return ``[1]`` of :data:`LAYOUT`."""
    names, cross = catalogue.names, [feature.name for feature in catalogue.features if feature.group == "cross"]
    groups = {feature.group for feature in catalogue.features}
    layout = np.zeros(1, dtype=LAYOUT)
    layout[0] = (
        len(names) - len(cross), len(catalogue.context), names.index(cross[0]) if cross else -1, "hour" in groups,
        "week" in groups, math.sqrt(bars_a_year(Timeframe(catalogue.base))),
    )  # fmt: skip
    return layout


def channel_places(catalogue: FeatureCatalogue) -> NDArray[np.int64]:
    """Return where a symbol's ``values`` have the channels of its sequences, int64 ``[C]``."""
    own = [feature.name for feature in catalogue.features if feature.group != "cross"]
    return np.array([own.index(name) for name in SEQUENCE_CHANNELS], dtype=np.int64)


@compiled
def push_context(own: Record, slot: int, close: float, values: np.ndarray) -> None:
    """Take a closed bar of a context timeframe.

    Args:
        own: the symbol's state; changed.
        slot: place of the timeframe in the catalogue's ``context``.
        close: of the bar.
        values: the indicators' values after it.
    """
    found = np.empty(_INDICATORS)
    indicator_features(own.context[slot], close, values, found)
    for k in range(len(_CONTEXT_PLACES)):
        own.context_values[slot, k] = found[_CONTEXT_PLACES[k]]


@compiled
def indicator_features(lagged: Record, close: float, values: np.ndarray, out: np.ndarray) -> None:
    """Write the stationary forms of a timeframe's indicators, as :mod:`fx_dagster.features.prices` has them."""
    floor = ATR_FLOOR * close
    atr = values[_ATR] if not values[_ATR] < floor else floor
    sma_place, atr_place = lagged.bars % (SLOPE_LAG + 1), lagged.bars % (VOLATILITY_SHORT + 1)
    lagged.sma[sma_place] = values[_SMA_20]
    lagged.atr[atr_place] = atr
    lagged.bars += 1
    sma_before = lagged.sma[(sma_place + 1) % (SLOPE_LAG + 1)] if lagged.bars > SLOPE_LAG else math.nan
    atr_before = lagged.atr[(atr_place + 1) % (VOLATILITY_SHORT + 1)] if lagged.bars > VOLATILITY_SHORT else math.nan
    out[0] = (close - values[_SMA_20]) / atr
    out[1] = (close - values[_SMA_50]) / atr
    out[2] = (close - values[_SMA_200]) / atr
    out[3] = (close - values[_EMA_12]) / atr
    out[4] = (close - values[_EMA_26]) / atr
    out[5] = (values[_SMA_20] - sma_before) / atr
    out[6] = (values[_RSI] - 50.0) / 50.0
    out[7] = values[_MACD] / atr
    out[8] = (values[_MACD] - values[_SIGNAL]) / atr
    out[9] = 2.0 * values[_BOLLINGER] - 1.0
    out[10] = (values[_UPPER] - values[_LOWER]) / atr
    out[11] = values[_ATR_MOVE]
    out[12] = math.log(atr / atr_before)
    out[13] = values[_STRENGTH]
    out[14] = values[_COARSE]
    out[15] = values[_CORRELATION]
    out[16] = (close - values[_VWAP]) / atr
    out[17] = values[_MOMENTUM] / atr
    out[18] = (close - values[_SUPPORT]) / atr
    out[19] = (values[_RESISTANCE] - close) / atr


@compiled
def push_base(own: Record, layout: Record, bar: Record, values: np.ndarray, point: float, bar_end: int) -> None:
    """Take a closed bar of the base timeframe, after the context bars that close with it, and compute all features.

    Args:
        own: the symbol's state; changed.
        layout: of the catalogue.
        bar: a :data:`fx_dagster.market.incremental.BAR`.
        values: the indicators' values after it, trends included.
        point: price of a point.
        bar_end: when it closed, ns UTC.
    """
    before = own.close
    own.close = bar.close
    out = own.values
    indicator_features(own.base, bar.close, values, out)
    at = _INDICATORS
    for slot in range(layout.contexts):
        for k in range(len(_CONTEXT_PLACES)):
            out[at] = own.context_values[slot, k]
            at += 1
    floor = ATR_FLOOR * bar.close
    atr = values[_ATR] if not values[_ATR] < floor else floor
    _push_windows(own, bar, before)
    own.volatility_short = own.short_now * layout.year_root
    own.volatility_long = own.long_now * layout.year_root
    at = _return_features(own, bar, atr, out, at)
    at = _volatility_features(own, out, at)
    at = _spread_features(own, bar.spread, point, atr, out, at)
    at = _clock_features(layout, bar_end, out, at)
    own.bars += 1
    warm = True
    for k in range(at):
        warm &= math.isfinite(out[k])
    own.warm = warm


@compiled
def _push_windows(own: Record, bar: Record, before: float) -> None:
    """Move every window on."""
    n = own.bars
    own.closes[n % len(own.closes)] = bar.close
    extent = math.log(bar.high / bar.low)
    own.range_sum, own.heads[2] = push_sum(own.ranges, own.heads[2], n, extent * extent)
    own.volume_short, own.heads[3] = push_sum(own.volumes_short, own.heads[3], n, bar.tick_volume)
    own.volume_long, own.heads[4] = push_sum(own.volumes_long, own.heads[4], n, bar.tick_volume)
    if n == 0:
        return
    gain = math.log(bar.close / before)
    square = gain * gain
    own.squares_short[(n - 1) % VOLATILITY_SHORT] = square
    own.square_sum, own.heads[0] = push_sum(own.squares, own.heads[0], n - 1, square)
    if n > 1:
        own.product_sum, own.heads[1] = push_sum(own.products, own.heads[1], n - 2, gain * own.return_before)
    own.return_before = gain
    if n >= VOLATILITY_SHORT:
        # From the newest to the oldest: equal windows give equal bits, wherever history began.
        total = 0.0
        for lag in range(VOLATILITY_SHORT):
            total += own.squares_short[(n - 1 - lag) % VOLATILITY_SHORT]
        own.short_now = math.sqrt(total / VOLATILITY_SHORT)
        own.shorts[(n - VOLATILITY_SHORT) % PERCENTILE_WINDOW] = own.short_now
    if n >= VOLATILITY_LONG:
        own.long_now = math.sqrt(own.square_sum / VOLATILITY_LONG)


@compiled
def _return_features(own: Record, bar: Record, atr: float, out: np.ndarray, at: int) -> int:
    n, length = own.bars, len(own.closes)
    unit = own.long_now if not own.long_now < VOLATILITY_FLOOR else VOLATILITY_FLOOR
    for k in range(len(_LAGS)):
        lag = _LAGS[k]
        out[at] = math.nan
        if n >= lag:
            out[at] = math.log(bar.close / own.closes[(n - lag) % length]) / (unit * _ROOTS[k])
        at += 1
    extent = bar.high - bar.low
    skew = (bar.close - bar.low) - (bar.high - bar.close)
    out[at] = (bar.close - bar.open) / atr
    out[at + 1] = extent / atr
    out[at + 2] = skew / extent if extent > 0.0 else 0.0
    return at + 3


@compiled
def _rank(own: Record, known: int, value: float) -> float:
    """Return the mean rank of ``value`` among the last 250 short volatilities, itself included, over 250."""
    if known < PERCENTILE_WINDOW:
        return math.nan
    below = 0
    equal = 0
    for k in range(PERCENTILE_WINDOW):
        below += own.shorts[k] < value
        equal += own.shorts[k] == value
    return (below + 0.5 * (equal + 1)) / PERCENTILE_WINDOW


@compiled
def _volatility_features(own: Record, out: np.ndarray, at: int) -> int:
    n = own.bars
    out[at : at + 5] = math.nan
    if n >= VOLATILITY_SHORT:
        short = own.short_now
        floored = max(short, VOLATILITY_FLOOR)
        parkinson = math.sqrt(own.range_sum / (4.0 * math.log(2.0) * VOLATILITY_SHORT))
        if n >= VOLATILITY_LONG:
            out[at] = math.log(floored / max(own.long_now, VOLATILITY_FLOOR))
        out[at + 1] = math.log(max(parkinson, VOLATILITY_FLOOR) / floored)
        out[at + 2] = _rank(own, n - VOLATILITY_SHORT + 1, short)
    if n > VOLATILITY_LONG:
        energy = max(own.square_sum, VOLATILITY_LONG * VOLATILITY_FLOOR**2)
        out[at + 3] = own.product_sum / energy
    if n >= VOLUME_LONG - 1:
        recent, usual = own.volume_short / VOLATILITY_SHORT, own.volume_long / VOLUME_LONG
        # One tick more on both sides: silence is not a division by zero.
        out[at + 4] = math.log((recent + 1.0) / (usual + 1.0))
    return at + 5


@compiled
def _spread_features(own: Record, spread: float, point: float, atr: float, out: np.ndarray, at: int) -> int:
    median = _push_spread(own, spread)
    own.spread_median = median * point
    # A tenth of a point more on both sides: a source without spreads gives 0, not 0/0.
    out[at] = math.log((spread + 0.1) / (median + 0.1)) if own.bars >= SPREAD_WINDOW - 1 else math.nan
    out[at + 1] = spread * point / atr
    return at + 2


@compiled
def _push_spread(own: Record, spread: float) -> float:
    """Return the median of the last 120 spreads, of fewer at the start; the window is kept in order of size."""
    ordered, place = own.spreads_sorted, own.bars % SPREAD_WINDOW
    count = min(own.bars, SPREAD_WINDOW)
    if count == SPREAD_WINDOW:
        gone = np.searchsorted(ordered, own.spreads[place])
        for k in range(gone, SPREAD_WINDOW - 1):
            ordered[k] = ordered[k + 1]
        count -= 1
    own.spreads[place] = spread
    k = count
    while k > 0 and ordered[k - 1] > spread:
        ordered[k] = ordered[k - 1]
        k -= 1
    ordered[k] = spread
    middle = count // 2
    if count % 2 == 0:
        return ordered[middle]
    return 0.5 * (ordered[middle] + ordered[middle + 1])


@compiled
def _clock_features(layout: Record, bar_end: int, out: np.ndarray, at: int) -> int:
    """Write :func:`fx_dagster.features.clock.clock_features`, those that the catalogue has."""
    server = server_time(bar_end)
    if layout.hours:
        of_day = server % DAY_NS
        phase = 2.0 * math.pi * of_day / DAY_NS
        out[at] = math.sin(phase)
        out[at + 1] = math.cos(phase)
        out[at + 2] = _inside(tokyo_time(bar_end) % DAY_NS, 9.0, 18.0)
        out[at + 3] = _inside(london_time(bar_end) % DAY_NS, 8.0, 16.5)
        # 8:00 to 17:00 in New York on a clock that is 7 hours ahead.
        out[at + 4] = _inside(of_day, 15.0, 24.0)
        at += 5
    if layout.week:
        week = 2.0 * math.pi * ((server + 3 * DAY_NS) % (7 * DAY_NS)) / (7 * DAY_NS)
        out[at] = math.sin(week)
        out[at + 1] = math.cos(week)
        at += 2
    return at


@compiled
def _inside(time_of_day: int, start_hour: float, end_hour: float) -> float:
    return 1.0 if start_hour * HOUR_NS <= time_of_day < end_hour * HOUR_NS else 0.0


@compiled
def write_features(own: Record, layout: Record, cross_row: np.ndarray, out: np.ndarray) -> None:
    """Write a row of the catalogue's features, float32 ``[F]``, clipped as in a FEATURES frame.

    Args:
        own: the symbol's state.
        layout: of the catalogue.
        cross_row: float64 ``[4]``, what the other symbols say; not read where the catalogue does not compare symbols.
        out: filled.
    """
    at = 0
    for k in range(layout.count):
        if k == layout.cross_at:
            at = _write_cross(cross_row, out, at)
        out[at] = _clipped(own.values[k])
        at += 1
    if layout.cross_at == layout.count:
        _write_cross(cross_row, out, at)


@compiled
def _write_cross(cross_row: np.ndarray, out: np.ndarray, at: int) -> int:
    for value in cross_row:
        out[at] = _clipped(value)
        at += 1
    return at


@compiled
def _clipped(value: float) -> float:
    # An infinite value is a fault that the checks must see: it is not clipped into a plausible one.
    return value if not math.isfinite(value) else min(max(value, -CLIP), CLIP)
