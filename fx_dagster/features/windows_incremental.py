"""Windows bar by bar: one record a symbol, the sequences and charts of :mod:`fx_dagster.features.windows`.

The last bars lie in rings, so that a bar costs the same whatever came before it, and a copy of the record goes on
exactly as it does. Nothing is put in order or drawn before somebody asks. A forming bar is shown as the newest one
without being taken in.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.features.catalogue import CHART_BARS, CHART_ROWS, CLIP, SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.features.incremental import CONTEXTS_MAX
from fx_dagster.features.windows import draw_chart

Rows: TypeAlias = NDArray[np.void]
Record: TypeAlias = Any
"""A record of this module's types; Numba knows which."""

TIMEFRAMES_MAX: Final = 1 + CONTEXTS_MAX
_CHANNELS: Final = len(SEQUENCE_CHANNELS)
_F, _I, _B = np.float64, np.int64, np.bool_

WINDOW_STATE = np.dtype(
    [
        ("ready", _B),  # the features are warm, the charts full, and the whole sequence is finite
        ("finite", _I),  # base bars in a row whose channels are all finite
        ("bars", _I, (TIMEFRAMES_MAX,)),  # taken in, by timeframe from the base up
        ("sequence", np.float32, (SEQUENCE_BARS, _CHANNELS)),  # ring, a place a base bar
        ("chart", _F, (TIMEFRAMES_MAX, CHART_BARS, CHART_ROWS)),  # ring of OHLCV, a place a bar
    ],
    align=True,
)


def new_windows(symbols: int) -> Rows:
    """Return ``[symbols]`` of :data:`WINDOW_STATE` before the first bar."""
    states = np.zeros(symbols, dtype=WINDOW_STATE)
    states["sequence"] = states["chart"] = np.nan
    return states


@compiled
def push_chart(own: Record, slot: int, bar: Record) -> None:
    """Take a closed bar of timeframe number ``slot`` (a :data:`fx_dagster.market.incremental.BAR`)."""
    _write_bar(own.chart[slot, own.bars[slot] % CHART_BARS], bar)
    own.bars[slot] += 1


@compiled
def push_sequence(own: Record, timeframes: int, channels: np.ndarray, bar: Record, feature: Record) -> None:
    """Take a closed base bar, after the context bars that close with it.

    Args:
        own: the symbol's state; changed.
        timeframes: how many have charts.
        channels: int64 ``[C]`` places of the sequence's channels in the features' values.
        bar: a :data:`fx_dagster.market.incremental.BAR`.
        feature: the symbol's :data:`fx_dagster.features.incremental.FEATURE_STATE` after the bar.
    """
    place = own.bars[0] % SEQUENCE_BARS
    own.finite = own.finite + 1 if _write_channels(channels, feature.values, own.sequence[place]) else 0
    push_chart(own, 0, bar)
    ready = feature.warm and own.finite >= SEQUENCE_BARS
    for slot in range(timeframes):
        ready &= own.bars[slot] >= CHART_BARS
    own.ready = ready


@compiled
def read_sequence(own: Record, out: np.ndarray) -> None:
    """Write the last base bars' channels, float32 ``[L, C]``, the newest last."""
    for k in range(SEQUENCE_BARS):
        out[k] = own.sequence[(own.bars[0] + k) % SEQUENCE_BARS]


@compiled
def read_chart(own: Record, slot: int, window: np.ndarray) -> None:
    """Write the last bars of timeframe number ``slot``, float64 ``[W, 5]``, the newest last."""
    for k in range(CHART_BARS):
        window[k] = own.chart[slot, (own.bars[slot] + k) % CHART_BARS]


@compiled
def read_windows(own: Record, timeframes: int, sequence: np.ndarray, chart: np.ndarray) -> None:
    """Write what a symbol's closed bars show: float32 ``[L, C]`` and ``[T, 5, W]``."""
    window = np.empty((CHART_BARS, CHART_ROWS))
    read_sequence(own, sequence)
    for slot in range(timeframes):
        read_chart(own, slot, window)
        draw_chart(window, chart[slot])


@compiled
def peek_windows(
    own: Record, timeframes: int, channels: np.ndarray, bar: Record, values: np.ndarray, sequence: np.ndarray,
    chart: np.ndarray,
) -> None:  # fmt: skip
    """Write what would be shown if a forming base bar closed now; arguments as of the functions above.

    Context timeframes stay as of their last closed bars.
    """
    read_windows(own, timeframes, sequence, chart)
    for k in range(SEQUENCE_BARS - 1):
        sequence[k] = sequence[k + 1]
    _write_channels(channels, values, sequence[SEQUENCE_BARS - 1])
    window = np.empty((CHART_BARS, CHART_ROWS))
    read_chart(own, 0, window)
    for k in range(CHART_BARS - 1):
        window[k] = window[k + 1]
    _write_bar(window[CHART_BARS - 1], bar)
    draw_chart(window, chart[0])


@compiled
def _write_bar(out: np.ndarray, bar: Record) -> None:
    out[0] = bar.open
    out[1] = bar.high
    out[2] = bar.low
    out[3] = bar.close
    out[4] = bar.tick_volume


@compiled
def _write_channels(channels: np.ndarray, values: np.ndarray, out: np.ndarray) -> bool:
    """Write a bar's channels, clipped as in a FEATURES frame; return whether all are finite."""
    finite = True
    for k in range(_CHANNELS):
        value = values[channels[k]]
        finite &= math.isfinite(value)
        # An infinite value is a fault: it is not clipped into a plausible one.
        out[k] = value if not math.isfinite(value) else min(max(value, -CLIP), CLIP)
    return finite
