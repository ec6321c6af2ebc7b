"""From ticks to what a decision looks at: forming bars, closed bars, indicators, features, and the step's inputs.

Everything here is compiled and works on one symbol at a time, but for the comparison between symbols when bars close.
"""

import math

import numpy as np

from fx_dagster.compiled import compiled, uncounted
from fx_dagster.core.rows import NEVER
from fx_dagster.core.state import Core
from fx_dagster.decision.answers import forget_answer
from fx_dagster.decision.combine import classical_signal
from fx_dagster.decision.rows import CLASSICAL
from fx_dagster.decision.step import Record
from fx_dagster.features.cross_incremental import compare, push_grid
from fx_dagster.features.incremental import push_base, push_context, write_features
from fx_dagster.features.windows_incremental import peek_windows, push_chart, push_sequence, read_windows
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS
from fx_dagster.indicators.incremental import is_warm, push_bar, push_trends, vote_row
from fx_dagster.market.incremental import close_bars, finish_base

_STRENGTH = INDICATOR_COLUMNS.index("trend_strength")
_ATR = INDICATOR_COLUMNS.index("atr_14")


@uncounted
def coarse_strength(states: Record, context: np.ndarray, own: float) -> float:
    """Return the mean trend strength of the context timeframes (slots, -1: none); the ``own`` one without any."""
    total = 0.0
    count = 0
    for k in range(context.shape[0]):
        if context[k] >= 0:
            total += states[context[k]].values[_STRENGTH]
            count += 1
    return total / count if count > 0 else own


@uncounted
def push_closed(core: Core, i: int, bar: Record) -> None:
    """Hand a bar that has just closed to its timeframe's indicators, and to the features that look at it."""
    slot = bar.code - core.control[0].base_code
    own = core.indicators[i, slot]
    push_bar(own, bar.high, bar.low, bar.close, bar.tick_volume)
    push_trends(own, coarse_strength(core.indicators[i], core.contexts[slot], own.values[_STRENGTH]))
    for k in range(core.contexts.shape[1]):
        if core.contexts[0, k] == slot:
            push_context(core.features[i], k, bar.close, own.values)
            push_chart(core.windows[i], 1 + k, bar)
    if slot == 0:
        push_base(core.features[i], core.layout[0], bar, own.values, core.table[i].point, bar.end)
        push_sequence(core.windows[i], 1 + core.layout[0].contexts, core.channels, bar, core.features[i])


@compiled
def compare_symbols(core: Core, count: int) -> None:
    """Compare the symbols whose bars have closed together with all others."""
    if core.features.shape[0] == 1:
        return
    core.closes[:] = math.nan
    for k in range(count):
        core.closes[core.rows[k]] = core.features[core.rows[k]].close
    push_grid(core.cross, core.closes)
    compare_signals(core, count)


@compiled
def compare_signals(core: Core, count: int) -> None:
    """Let the classical indicators of the symbols in ``core.rows`` speak for the others."""
    core.signals[:] = math.nan
    for k in range(count):
        i = core.rows[k]
        core.signals[i] = classical_signal(core.inputs[i].votes, core.config[0].vote_weights)
    compare(core.cross, core.signals, core.cross_rows, core.agreement, core.shift)


@compiled
def read_votes(row: Record, own: Record, close: float) -> None:
    """Let the classical indicators of a bar that has just closed vote."""
    if is_warm(own.values):
        vote_row(own.values, close, row.votes[:CLASSICAL])
    else:
        row.votes[:CLASSICAL] = math.nan


@compiled
def fill_inputs(core: Core, i: int) -> None:
    """Write what a closed base bar says into the decision's inputs; the models have not spoken about it yet."""
    row, own, feature = core.inputs[i], core.indicators[i, 0], core.features[i]
    row.bar_time = core.watch[i].bar_time
    row.atr = own.values[_ATR]
    row.volatility_short = feature.volatility_short
    row.volatility_long = feature.volatility_long
    row.spread_median = feature.spread_median
    row.agreement = core.agreement[i]
    row.correlation_shift = core.shift[i]
    core.ledger.helds[i].atr = row.atr
    forget_answer(row)


@uncounted
def close_due(core: Core, until: int) -> int:
    """Close every base bar that ends at or before ``until``; list the symbols in ``core.rows`` and count them."""
    control = core.control[0]
    count = 0
    following = NEVER
    for i in range(core.forming.shape[0]):
        base = core.forming[i, 0]
        if base.count == 0:
            continue
        if base.end > until:
            following = min(following, base.end)
            continue
        core.watch[i].bar_time = base.time
        closed = 1
        while closed > 0:
            closed = close_bars(core.forming[i], control.base_code, until, core.table[i].point, core.closed)
            for k in range(closed):
                push_closed(core, i, core.closed[k])
        read_votes(core.inputs[i], core.indicators[i, 0], core.features[i].close)
        core.rows[count] = i
        count += 1
    control.closed_until = max(control.closed_until, until)
    control.next_close = following
    return count


@uncounted
def features_of(core: Core, rows: np.ndarray, out: np.ndarray) -> None:
    """Write the features of some symbols' newest closed bars, float32 ``[k, F]``."""
    for k in range(rows.shape[0]):
        write_features(core.features[rows[k]], core.layout[0], core.cross_rows[rows[k]], out[k])


@uncounted
def peek_features(core: Core, rows: np.ndarray, out: np.ndarray) -> None:
    """Write the features that some symbols would have if their forming base bars closed now, float32 ``[k, F]``.

    Other timeframes and the comparison between symbols stay as of their last closed bars. The last symbol's bar and
    state stay in ``core.closed[0]`` and ``core.scratch_features``.
    """
    own, feature, bar = core.scratch_indicators, core.scratch_features, core.closed[0]
    for k in range(rows.shape[0]):
        i = rows[k]
        own[0] = core.indicators[i, 0]
        feature[0] = core.features[i]
        copy_forming(core.forming[i, 0], core.control[0].base_code, core.table[i].point, bar)
        push_bar(own[0], bar.high, bar.low, bar.close, bar.tick_volume)
        push_trends(own[0], coarse_strength(core.indicators[i], core.contexts[0], own[0].values[_STRENGTH]))
        push_base(feature[0], core.layout[0], bar, own[0].values, core.table[i].point, bar.end)
        write_features(feature[0], core.layout[0], core.cross_rows[i], out[k])


@compiled
def inputs_of(core: Core, i: int, forming: bool, features: np.ndarray, sequence: np.ndarray, chart: np.ndarray) -> bool:
    """Write what the models are told of a symbol; return whether all of it is finite.

    Args:
        core: not changed but for its scratch.
        i: the symbol.
        forming: show its forming base bar as the newest one.
        features: float32 ``[1, F]``, filled.
        sequence: float32 ``[L, C]``, filled.
        chart: float32 ``[T, 5, W]``, filled.
    """
    rows, timeframes = np.full(1, i), 1 + core.layout[0].contexts
    if forming:
        peek_features(core, rows, features)
        peek_windows(
            core.windows[i], timeframes, core.channels, core.closed[0], core.scratch_features[0].values, sequence,
            chart,
        )  # fmt: skip
    else:
        features_of(core, rows, features)
        read_windows(core.windows[i], timeframes, sequence, chart)
    return np.isfinite(features).all() and np.isfinite(sequence).all() and np.isfinite(chart).all()


@uncounted
def copy_forming(row: Record, code: int, point: float, out: Record) -> None:
    """Write a forming base bar as if it closed now; it goes on forming."""
    count = row.count
    finish_base(row, code, point, out)
    row.count = count
