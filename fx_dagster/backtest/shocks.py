"""Made shocks: what the market has not done in the history, done to it, and replayed.

A shock changes prices, spreads or the presence of bars of a :class:`History` and what follows from these for the step
(quotes, ATR, volatilities, spread medians, conversions, what other symbols say). What indicators voted and models said
stays as it was: none of them sees a shock before it is there. A price that jumps stays at its new level, with all its
later moves in proportion.

=====================  ==========================================================================================
shock                  what must hold
=====================  ==========================================================================================
gap                    stops are passed over; the loss is bounded by the limits of exposure
spread                 the spread breaker trips; no entry is decided while it lasts
common move            all symbols move as one for a week; the margin in use stays within its limit
silence                no bar for an hour, then a jump: no entry in that hour; the loss is bounded as at a gap
=====================  ==========================================================================================
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from fx_dagster.backtest.prepare import RETURNS_BARS, History
from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Regime
from fx_dagster.decision.config import EQUAL_VOTES
from fx_dagster.decision.inputs import LONG_BARS, cross_symbol, spread_medians, traditional_signals, volatilities
from fx_dagster.decision.rows import Float64, Rows
from fx_dagster.errors import DataError
from fx_dagster.execution.conversion import conversion_paths, converted
from fx_dagster.features.cross import leading
from fx_dagster.market.timeframes import HOUR_NS

ATR_WINDOW = 14
_PRICES = ("open", "high", "low", "close")
_SAID = ("votes", "p_up", "confidence", "size", "timing")
"""What votes and models say of a bar, the regime apart."""


def with_gap(history: History, row: int, jumps: Float64) -> History:
    """Return the history whose prices jump between the bars ``row - 1`` and ``row`` and stay there.

    Args:
        history: not changed.
        row: of the first bar at the new level, ≥ 1.
        jumps: ``[n]`` fractions of the price, > −1; 0: none.

    Raises:
        DataError: the row or a jump is impossible.
    """
    _check_rows(history, row, row + 1)
    factors = 1.0 + np.asarray(jumps, dtype=np.float64)
    if factors.shape != (len(history.instruments),) or not (np.isfinite(factors) & (factors > 0)).all():
        raise DataError(f"jumps {jumps}", mend="one finite fraction > −1 a symbol")
    bars = history.market.bars.copy()
    for name in _PRICES:
        bars[name][row:] *= factors
    return _refreshed(history, bars, row, row + 1)


def with_spread(history: History, first: int, last: int, factor: float) -> History:
    """Return the history whose spreads in the rows ``[first, last)`` are ``factor`` times the wider of their own and
    their running median.

    Raises:
        DataError: the rows or the factor are impossible.
    """
    _check_rows(history, first, last)
    if not (math.isfinite(factor) and factor >= 1.0):
        raise DataError(f"factor is {factor}", mend="give a number of at least 1")
    bars = history.market.bars.copy()
    usual = history.market.inputs["spread_median"][first:last]
    bars["spread"][first:last] = factor * np.fmax(bars["spread"][first:last], usual)
    return _refreshed(history, bars, first, last)


def with_common_move(history: History, first: int, last: int, leader: int) -> History:
    """Return the history in which all symbols take the leader's moves in ``[first, last)``, each in its own measure.

    The leader's log return over its own standard deviation in the 240 bars before, times that of the other symbol: the
    correlation of the bars' returns is 1. Shapes of the bars and all moves afterwards stay in proportion.

    Args:
        history: not changed.
        first: first row, at least 240 after the history's first.
        last: row after the last.
        leader: column of the symbol whose moves are taken.

    Raises:
        DataError: the rows are impossible, or there is one symbol only.
    """
    _check_rows(history, first, last)
    close = _filled(history.market.bars["close"])
    if close.shape[1] < 2:
        raise DataError("one symbol moves in common with none", mend="give two at least")
    if first < LONG_BARS:
        raise DataError(f"row {first} has no 240 bars before it", mend=f"begin at row {LONG_BARS} or later")
    returns = np.nan_to_num(np.diff(np.log(close[first - LONG_BARS : last]), axis=0))
    deviations = returns[: LONG_BARS - 1].std(axis=0)
    standard = returns[LONG_BARS - 1 :, leader] / max(deviations[leader], np.finfo(np.float64).tiny)
    path = close[first - 1] * np.exp(np.cumsum(standard[:, None] * deviations, axis=0))
    bars = history.market.bars.copy()
    factor = np.ones(bars.shape)
    # A symbol that has had no bar yet has no price to move from.
    factor[first:last] = np.nan_to_num(path / close[first:last], nan=1.0)
    factor[last:] = factor[last - 1]
    for name in ("high", "low", "close"):
        bars[name] *= factor
    # A bar opens where the one before it closed, apart from its own gap.
    bars["open"][1:] *= factor[:-1]
    known = np.isfinite(bars["close"])
    bars["high"] = np.where(known, np.fmax(bars["high"], np.fmax(bars["open"], bars["close"])), np.nan)
    bars["low"] = np.where(known, np.fmin(bars["low"], np.fmin(bars["open"], bars["close"])), np.nan)
    return _refreshed(history, bars, first, last)


def with_silence(history: History, first: int, last: int, jumps: Float64) -> History:
    """Return the history without any bar in the rows ``[first, last)``, and with a jump to the first bar after them.

    Swap that fell due in the silence is charged with the bar after it.

    Args:
        history: not changed.
        first: first silent row, ≥ 1.
        last: row after the last, which must exist.
        jumps: as in :func:`with_gap`.

    Raises:
        DataError: the rows or a jump are impossible.
    """
    _check_rows(history, first, last + 1)
    jumped = with_gap(history, last, jumps)
    bars = jumped.market.bars.copy()
    for name in bars.dtype.names or ():
        bars[name][first:last] = np.nan
    silent = _refreshed(jumped, bars, first, last + 1)
    inputs = silent.market.inputs
    for name in ("active", "fresh"):
        inputs[name][first:last] = False
    for name in ("atr", "volatility_short", "volatility_long", "spread_median", *_SAID):
        inputs[name][first:last] = np.nan
    inputs["regime"][first:last] = Regime.UNKNOWN
    return silent


def rows_of_an_hour(history: History, first: int) -> int:
    """Return the row after those whose bars open within an hour of the row ``first``; one row at least."""
    return max(int(np.searchsorted(history.market.time, history.market.time[first] + HOUR_NS)), first + 1)


def _check_rows(history: History, first: int, last: int) -> None:
    if not 1 <= first < last <= len(history.market.time):
        raise DataError(
            f"rows {first} to {last} of {len(history.market.time)}", mend="begin at row 1 or later, end within"
        )


def _filled(close: Float64) -> Float64:
    """Return closes with the newest known one where a symbol has no bar."""
    rows = np.where(np.isfinite(close), np.arange(len(close))[:, None], 0)
    return np.asarray(np.take_along_axis(close, np.maximum.accumulate(rows, axis=0), axis=0))


def _refreshed(history: History, bars: Rows, first: int, last: int) -> History:
    """Return the history with these bars, which differ from ``first`` on, and before ``last`` in more than a level."""
    old, inputs = history.market.bars, history.market.inputs.copy()
    inputs["bid"][first:] = bars["close"][first:]
    inputs["ask"][first:] = bars["close"][first:] + bars["spread"][first:]
    close = _filled(bars["close"])
    price = {item.symbol: close[first:, i] for i, item in enumerate(history.instruments)}
    paths, one = conversion_paths(history.instruments, history.account_currency), np.ones(len(close) - first)
    for i, item in enumerate(history.instruments):
        inputs["conversion"][first:, i] = converted(paths[item.symbol], price, one)
        atr = inputs["atr"][:, i].copy()
        _change_atr(atr, _true_range(old[:, i]), _true_range(bars[:, i]), first)
        inputs["atr"][:, i] = atr
        _refresh_windows(history, bars[:, i], inputs[:, i], first, last)
    _refresh_cross(bars["close"], inputs, first, last, leading(history.symbols))
    returns = history.market.returns.copy()
    moved, place = np.diff(np.log(close[first - 1 :]), axis=0), RETURNS_BARS + first
    returns[place:] = np.where(np.isfinite(returns[place:]), moved, np.nan)
    return dataclasses.replace(history, market=history.market._replace(bars=bars, inputs=inputs, returns=returns))


def _refresh_windows(history: History, bars: Rows, inputs: Rows, first: int, last: int) -> None:
    """Compute anew what windows of up to 240 bars say of one symbol, as far as they reach a changed bar."""
    rows = np.flatnonzero(np.isfinite(bars["close"]))
    begin, end = np.searchsorted(rows, (first, last))
    span = rows[max(begin - LONG_BARS - 1, 0) : end + LONG_BARS + 1]
    if not len(span):
        return
    short, long = volatilities(bars["close"][span], history.timeframe)
    median = spread_medians(bars["spread"][span]).copy()
    # At the beginning of a history that was cut, the bars before it are not known here: what they told stays.
    median[: LONG_BARS - 1] = np.nan
    for name, values in (("volatility_short", short), ("volatility_long", long), ("spread_median", median)):
        use = (span >= first) & np.isfinite(values)
        inputs[name][span[use]] = values[use]


def _refresh_cross(close: Float64, inputs: Rows, first: int, last: int, leaders: Sequence[int]) -> None:
    """Compute anew what the leading symbols say, as far as its windows reach a changed bar."""
    begin, end = max(first - LONG_BARS - 1, 0), min(last + LONG_BARS + 1, len(close))
    part = inputs[begin:end]
    signals = [
        traditional_signals(np.ascontiguousarray(part["votes"][:, i]), EQUAL_VOTES) for i in range(close.shape[1])
    ]
    agreement, shift, _ = cross_symbol(close[begin:end], np.column_stack(signals), leaders)
    for name, values in (("agreement", agreement), ("correlation_shift", shift)):
        use = np.isfinite(values) & (np.arange(begin, end) >= first)[:, None]
        part[name] = np.where(use, values, part[name])


@compiled
def _change_atr(atr: np.ndarray, before: np.ndarray, after: np.ndarray, first: int) -> None:
    """Change Wilder's averages of the true range from ``before`` to ``after``: they are linear in it.

    NaN stands for no bar. A bar that is gone leaves the average as it was.
    """
    change, newest = 0.0, atr[first - 1]
    for t in range(first, atr.shape[0]):
        if not math.isfinite(before[t]):
            continue
        if math.isfinite(after[t]):
            change += (after[t] - before[t] - change) / ATR_WINDOW
        elif math.isfinite(newest):
            change -= atr[t] - newest
        newest = atr[t]
        atr[t] += change


def _true_range(bars: Rows) -> Float64:
    """Return the true range of each bar, NaN where there is none."""
    close = _filled(bars["close"][:, None])[:, 0]
    before = np.concatenate([close[:1], close[:-1]])
    return np.asarray(np.maximum(bars["high"], before) - np.minimum(bars["low"], before), dtype=np.float64)
