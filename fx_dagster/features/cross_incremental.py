"""How symbols move with the leading ones, on the common grid of their bars: one row of the grid at a time.

The leading symbols (:func:`fx_dagster.features.cross.leading`) are those that every symbol is compared with, itself
left out. Up to ``CROSS_PEERS_MAX`` symbols all of them are; beyond that what a row costs grows with the symbols, not
with their pairs.

The grid is the union of the symbols' base bars. A symbol's return on it is the log of its last close known at a row
over the one known a row before: 0 where it had no bar, unknown before its first two. Sums over the last 60 and 240
rows are moved on row by row, pairs in a matrix, so that a row costs a few operations a pair and nothing a window. To
keep the rounding of running sums from gathering, every row some symbols' sums are made anew from the kept returns;
after as many rows as the long window is wide, all have been.
"""

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.features.catalogue import CROSS_LAG, CROSS_WINDOW, VOLATILITY_FLOOR, VOLATILITY_LONG

Float64 = NDArray[np.float64]
Record: TypeAlias = Any

LONG: Final = VOLATILITY_LONG
SHORT: Final = CROSS_WINDOW
CROSS_FEATURES: Final = 4

_ROW = np.dtype(
    [
        ("close", np.float64),  # as of the newest row
        ("known", np.int64),  # rows with a return
        ("sum_short", np.float64),
        ("square_short", np.float64),
        ("sum_long", np.float64),
        ("square_long", np.float64),
        ("strength", np.float64),  # of 24 rows, in long volatility; NaN: unknown
        ("scale_short", np.float64),  # 1/√(centred squares); 0: it did not move
        ("scale_long", np.float64),
    ],
    align=True,
)


class Cross(NamedTuple):
    """State of ``n`` symbols; changed in place."""

    counter: NDArray[np.int64]
    """``[1]`` rows of the grid so far."""
    rows: NDArray[np.void]
    """``[n]``."""
    returns: Float64
    """``[240, n]`` ring of log returns; NaN: unknown."""
    leaders: NDArray[np.int64]
    """``[m]`` the leading symbols."""
    pairs_short: Float64
    """``[n, m]`` sums of products with the leading symbols over 60 rows."""
    pairs_long: Float64
    """``[n, m]`` over 240 rows."""


def new_cross(symbols: int, leaders: Sequence[int] | None = None) -> Cross:
    """Return the state before the first row; ``leaders`` are places of the leading symbols, None: all lead."""
    rows = np.zeros(symbols, dtype=_ROW)
    rows["close"] = rows["strength"] = np.nan
    leading = np.array(range(symbols) if leaders is None else leaders, dtype=np.int64)
    return Cross(
        np.zeros(1, dtype=np.int64), rows, np.full((LONG, symbols), np.nan), leading,
        np.zeros((symbols, len(leading))), np.zeros((symbols, len(leading))),
    )  # fmt: skip


@compiled
def push_grid(cross: Cross, closes: Float64) -> None:
    """Take a row of the grid: the closes of the symbols that have a bar in it, ``[n]``; NaN for the others."""
    n = closes.shape[0]
    at = cross.counter[0] % LONG
    short_at = (cross.counter[0] - SHORT) % LONG
    new, gone, short_gone = np.empty(n), np.empty(n), np.empty(n)
    for i in range(n):
        gone[i] = _known(cross.returns[at, i])
        short_gone[i] = _known(cross.returns[short_at, i])
        cross.returns[at, i] = _next_return(cross.rows[i], closes[i])
        new[i] = _known(cross.returns[at, i])
        _move_sums(cross.rows[i], new[i], gone[i], short_gone[i])
    _move_pairs(cross.pairs_long, new, gone, new[cross.leaders], gone[cross.leaders])
    _move_pairs(cross.pairs_short, new, short_gone, new[cross.leaders], short_gone[cross.leaders])
    cross.counter[0] += 1
    _refresh(cross.counter[0], cross)
    _measure(cross.counter[0], cross.rows, cross.returns)


@compiled
def _known(value: float) -> float:
    return value if math.isfinite(value) else 0.0


@compiled
def _next_return(row: Record, close: float) -> float:
    """Return the symbol's return of this row and take its close; NaN before it has two."""
    before = row.close
    if math.isfinite(close):
        row.close = close
    if not math.isfinite(before):
        return math.nan
    row.known += 1
    return math.log(row.close / before)


@compiled
def _move_sums(row: Record, new: float, gone: float, short_gone: float) -> None:
    row.sum_long += new - gone
    row.square_long += new * new - gone * gone
    row.sum_short += new - short_gone
    row.square_short += new * new - short_gone * short_gone


@compiled
def _move_pairs(pairs: Float64, new: Float64, gone: Float64, lead_new: Float64, lead_gone: Float64) -> None:
    for i in range(new.shape[0]):
        now, then = new[i], gone[i]
        for k in range(lead_new.shape[0]):
            pairs[i, k] += now * lead_new[k] - then * lead_gone[k]


@compiled
def _refresh(count: int, cross: Cross) -> None:
    """Make the sums of some symbols anew; each symbol's turn comes once in 240 rows."""
    rows, returns = cross.rows, cross.returns
    for i in range(count % LONG, rows.shape[0], LONG):
        _sum_anew(i, LONG, count, returns, cross.leaders, cross.pairs_long)
        _sum_anew(i, SHORT, count, returns, cross.leaders, cross.pairs_short)
        rows[i].sum_long, rows[i].square_long = _moments(i, LONG, count, returns)
        rows[i].sum_short, rows[i].square_short = _moments(i, SHORT, count, returns)


@compiled
def _sum_anew(i: int, window: int, count: int, returns: Float64, leaders: NDArray[np.int64], pairs: Float64) -> None:
    pairs[i, :] = 0.0
    for back in range(min(window, count)):
        row = returns[(count - 1 - back) % LONG]
        own = _known(row[i])
        if own != 0.0:
            for k in range(leaders.shape[0]):
                pairs[i, k] += own * _known(row[leaders[k]])


@compiled
def _moments(i: int, window: int, count: int, returns: Float64) -> tuple[float, float]:
    total = 0.0
    squares = 0.0
    for back in range(min(window, count)):
        value = _known(returns[(count - 1 - back) % LONG, i])
        total += value
        squares += value * value
    return total, squares


@compiled
def _measure(count: int, rows: Record, returns: Float64) -> None:
    """Compute each symbol's strength, and what turns sums of products into correlations."""
    n = rows.shape[0]
    recent = np.zeros(n)
    for back in range(CROSS_LAG):
        for i in range(n):
            recent[i] += returns[(count - 1 - back) % LONG, i]
    for i in range(n):
        row = rows[i]
        row.scale_short = _scale(row.sum_short, row.square_short, SHORT)
        row.scale_long = _scale(row.sum_long, row.square_long, LONG)
        row.strength = math.nan
        if row.known >= LONG:
            volatility = math.sqrt(max(row.square_long, 0.0) / LONG)
            row.strength = recent[i] / (max(volatility, VOLATILITY_FLOOR) * math.sqrt(CROSS_LAG))


@compiled
def _scale(total: float, squares: float, window: int) -> float:
    centred = squares - total * total / window
    return 1.0 / math.sqrt(centred) if centred > window * VOLATILITY_FLOOR**2 else 0.0


@compiled
def _correlation(product: float, sum_i: float, sum_j: float, scale: float, window: int) -> float:
    """Return Pearson's correlation; 0 where one of the two did not move (``scale`` 0)."""
    return min(max((product - sum_i * sum_j / window) * scale, -1.0), 1.0)


@compiled
def compare_one(cross: Cross, i: int, signals: Float64, features: Float64) -> tuple[float, float]:
    """Write what the leading symbols say of one as features, float64 ``[4]``; return ``agreement`` and ``shift``.

    The others are the leading symbols without itself. ``agreement`` is Σ ρᵢⱼ sⱼ / Σ |ρᵢⱼ sⱼ| over those with a signal,
    ρ over 240 rows: + where symbols that move with this one point up. ``shift`` is the mean of
    |ρ over 60 rows − ρ over 240 rows|, the input of a breaker. A symbol counts from 240 known returns on; NaN where
    none does. Features are NaN until this symbol counts itself, and 0 where no other does.
    """
    own = cross.rows[i]
    count = 0
    correlation = absolute = strength = implied = 0.0
    said = weight = moved = 0.0
    if own.known >= LONG:
        for k in range(cross.leaders.shape[0]):
            j = cross.leaders[k]
            other = cross.rows[j]
            if j == i or other.known < LONG:
                continue
            fast = _correlation(
                cross.pairs_short[i, k], own.sum_short, other.sum_short, own.scale_short * other.scale_short, SHORT
            )
            slow = _correlation(
                cross.pairs_long[i, k], own.sum_long, other.sum_long, own.scale_long * other.scale_long, LONG
            )
            count += 1
            correlation += fast
            absolute += abs(fast)
            strength += other.strength
            implied += fast * other.strength
            moved += abs(fast - slow)
            if math.isfinite(signals[j]):
                said += slow * signals[j]
                weight += abs(slow * signals[j])
    some = max(count, 1)
    features[0] = correlation / some
    features[1] = absolute / some
    features[2] = own.strength - strength / some if count > 0 else 0.0
    features[3] = implied / some
    if own.known < LONG:
        features[:] = math.nan
    return said / weight if weight > 0.0 else math.nan, moved / count if count > 0 else math.nan


@compiled
def compare(cross: Cross, signals: Float64, features: Float64, agreement: Float64, shift: Float64) -> None:
    """Write what the leading symbols say of every symbol: ``features [n, 4]``, ``agreement [n]``, ``shift [n]``."""
    for i in range(signals.shape[0]):
        agreement[i], shift[i] = compare_one(cross, i, signals, features[i])


@compiled
def walk_grid(
    cross: Cross, closes: Float64, signals: Float64, only: int, features: Float64, agreement: Float64, shift: Float64,
    returns: Float64,
) -> None:  # fmt: skip
    """Walk over a whole grid.

    Args:
        cross: as new; changed.
        closes: ``[t, n]``; NaN: no bar.
        signals: ``[t, n]``; NaN: no signal.
        only: the one symbol whose features are wanted; -1: agreement and shift of all.
        features: ``[t, 4]`` of that symbol; not written without one.
        agreement: ``[t, n]``.
        shift: ``[t, n]``.
        returns: ``[t, n]``; NaN: unknown.
    """
    scratch = np.empty(CROSS_FEATURES)
    for t in range(closes.shape[0]):
        push_grid(cross, closes[t])
        returns[t] = cross.returns[(cross.counter[0] - 1) % LONG]
        if only >= 0:
            compare_one(cross, only, signals[t], features[t])
            continue
        for i in range(closes.shape[1]):
            agreement[t, i], shift[t, i] = compare_one(cross, i, signals[t], scratch)
