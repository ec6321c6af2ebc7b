"""A bare replay of target positions on one symbol, for quick studies: no sizing, no stops, no risk limits.

A target is −1, 0 or +1 for each bar, known at that bar's close. It is filled

- ``next_open`` (default): at the open of the bar after it, so that nothing is filled at a price that decided;
- ``close``: at the very close that decided, as vectorized libraries such as vectorbt do by default.

Bars are bid prices: a buy pays price + spread, a sale gets the price; slippage and commission are fractions of the
price and of the traded notional. A long position is marked at the bid, a short one at the ask. What is open at the end
stays open and marked. The size of a position is fixed, or all of the account's cash at its entry. An account without
cash opens nothing more.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fx_dagster.compiled import compiled
from fx_dagster.decision.rows import Float64, Int64, Rows
from fx_dagster.errors import DataError

Target: TypeAlias = NDArray[np.int8]
Fill: TypeAlias = Literal["next_open", "close"]

TIE = 1e-9
"""Averages that differ by less than this share of the price are equal: no result hangs on the order of a summation."""

METRICS = ("final_value", "net_return", "max_drawdown", "sharpe_a_bar", "trades", "win_rate", "exposure")
"""What a replay is worth: ``sharpe_a_bar`` is mean over deviation of the bars' returns, not annualised; ``trades`` are
closed ones and ``win_rate`` is theirs; ``exposure`` the share of bars that end with a position."""

TRADE = np.dtype(
    [
        ("side", np.int64), ("units", np.float64), ("entry_row", np.int64), ("exit_row", np.int64),
        ("entry_price", np.float64), ("exit_price", np.float64), ("profit", np.float64),
    ],
    align=True,
)  # fmt: skip
"""A closed trade; its profit is net of all costs."""

_NO_TRADES = np.empty(0, dtype=TRADE)
_NO_CURVE = np.empty(0)


@dataclass(frozen=True)
class SignalReplay:
    """What a replay leaves.

    Attributes:
        equity: float64 ``[n]`` at each bar's close.
        trades: closed trades, an array of :data:`TRADE`; ``pd.DataFrame(trades)`` makes a frame of it.
        metrics: by the names of :data:`METRICS`.
    """

    equity: Float64
    trades: Rows
    metrics: dict[str, float]


@compiled
def _prefix_sums(close: np.ndarray, out: np.ndarray) -> None:
    """Write ``out[i]``, the sum of the first ``i`` closes less ``i`` times the first one, with Kahan's correction."""
    origin, lost = close[0], 0.0
    out[0] = 0.0
    for i in range(close.shape[0]):
        value = close[i] - origin - lost
        total = out[i] + value
        lost = (total - out[i]) - value
        out[i + 1] = total


@compiled
def _cross(prefix: np.ndarray, close: np.ndarray, fast: int, slow: int, out: np.ndarray) -> None:
    """Write the target of every bar: the side of the newest crossing; 0 before the first."""
    n = close.shape[0]
    known = max(fast, slow) - 1
    for i in range(min(known, n)):
        out[i] = 0
    by_fast, by_slow = 1.0 / fast, 1.0 / slow
    ends, fast_starts, slow_starts = prefix[known + 1 :], prefix[known + 1 - fast :], prefix[known + 1 - slow :]
    closes, sides = close[known:], out[known:]
    for i in range(closes.shape[0]):  # without a state, so that several bars are computed at once
        gap = (ends[i] - fast_starts[i]) * by_fast - (ends[i] - slow_starts[i]) * by_slow
        least = TIE * closes[i]
        sides[i] = np.int8(gap > least) - np.int8(gap < -least)
    first = known
    while first < n and out[first] == 0:
        first += 1
    at = first
    while at < n and out[at] != -out[first]:
        at += 1
    for i in range(known, at):
        out[i] = 0
    side = np.int8(0)
    for i in range(at, n):
        side = out[i] if out[i] != 0 else side
        out[i] = side


@compiled
def _replay(
    opening: np.ndarray, close: np.ndarray, target: np.ndarray, spread: np.ndarray, cost: float, slippage: float,
    units: float, delay: int, cash: float, curve: np.ndarray, trades: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    """Replay targets; ``curve`` and ``trades`` are written where they have rows, ``out`` in the order of METRICS."""
    initial = value = peak = cash
    side, held, entry_price, paid = 0, 0.0, 0.0, 0.0
    entry_row = closed = won = busy = 0
    fall = total = squares = 0.0
    stride = 1 if spread.shape[0] > 1 else 0
    for i in range(close.shape[0]):
        gap = spread[i * stride]
        wanted = target[i - delay] if i >= delay else 0
        if wanted != side:
            base = opening[i] if delay else close[i]
            buying, selling = (base + gap) * (1.0 + slippage), base * (1.0 - slippage)
            if side != 0:
                price = selling if side > 0 else buying
                profit = held * (price - entry_price) - paid - abs(held) * price * cost
                cash += held * price - abs(held) * price * cost
                if closed < trades.shape[0]:
                    row = trades[closed]
                    row.side, row.units, row.entry_row, row.exit_row = side, abs(held), entry_row, i
                    row.entry_price, row.exit_price, row.profit = entry_price, price, profit
                closed += 1
                won += profit > 0.0
                held = 0.0
            if wanted != 0 and cash > 0.0:
                entry_price = buying if wanted > 0 else selling
                size = units if units > 0.0 else cash / (entry_price * (1.0 + cost))
                held, entry_row, paid = wanted * size, i, size * entry_price * cost
                cash -= held * entry_price + paid
            side = wanted if held != 0.0 else 0
        before = value
        value = cash + held * (close[i] + gap if held < 0.0 else close[i])
        moved = value / before - 1.0
        total += moved
        squares += moved * moved
        busy += held != 0.0
        peak = max(peak, value)
        if value < peak * (1.0 - fall):
            fall = 1.0 - value / peak
        if curve.shape[0]:
            curve[i] = value
    n = close.shape[0]
    mean = total / n
    variance = (squares - total * mean) / (n - 1) if n > 1 else 0.0
    out[0] = value
    out[1] = value / initial - 1.0
    out[2] = fall
    out[3] = mean / np.sqrt(variance) if variance > 1e-30 else np.nan
    out[4] = closed
    out[5] = won / closed if closed else np.nan
    out[6] = busy / n


@compiled
def _sweep(
    prefix: np.ndarray, opening: np.ndarray, close: np.ndarray, windows: np.ndarray, spread: np.ndarray, cost: float,
    slippage: float, units: float, delay: int, cash: float, target: np.ndarray, nothing: np.ndarray,
    no_trades: np.ndarray, out: np.ndarray,
) -> None:  # fmt: skip
    for k in range(windows.shape[0]):
        _cross(prefix, close, windows[k, 0], windows[k, 1], target)
        _replay(opening, close, target, spread, cost, slippage, units, delay, cash, nothing, no_trades, out[k])


def crossover(close: ArrayLike, fast: int, slow: int) -> Target:
    """Return the target of a crossing of two simple moving averages: +1 after ``fast`` crosses above ``slow``, −1 after
    it crosses below, 0 before the first crossing; int8 ``[n]``.

    Args:
        close: closes, > 0.
        fast: bars of the one average.
        slow: bars of the other.

    Raises:
        DataError: a price is impossible, or a window is not within the bars.
    """
    prices = _prices("close", close)
    _windows([fast], [slow], len(prices))
    prefix, target = np.empty(len(prices) + 1), np.empty(len(prices), dtype=np.int8)
    _prefix_sums(prices, prefix)
    _cross(prefix, prices, int(fast), int(slow), target)
    return target


def replay_targets(
    opening: ArrayLike, close: ArrayLike, target: ArrayLike, *, cost_per_side: float = 0.0, slippage: float = 0.0,
    spread: ArrayLike = 0.0, units: float | None = None, initial_cash: float = 10_000.0, fill: Fill = "next_open",
) -> SignalReplay:  # fmt: skip
    """Replay targets on one symbol.

    Args:
        opening: ``[n]`` opens (bid), > 0.
        close: ``[n]`` closes (bid), > 0.
        target: ``[n]`` −1, 0 or +1, known at the close of its bar.
        cost_per_side: commission as a fraction of the traded notional.
        slippage: adverse, as a fraction of the price.
        spread: ask − bid in price, one number or ``[n]``.
        units: size of every position; None: all cash at each entry.
        initial_cash: > 0.
        fill: ``next_open`` fills at the open after the deciding bar; ``close`` at the deciding close itself.

    Raises:
        DataError: lengths differ, or a number is impossible.
    """
    costs = _costs(cost_per_side, slippage, units, initial_cash)
    opens, closes = _prices("open", opening), _prices("close", close)
    wanted = np.require(target, dtype=np.int8, requirements=["C", "W"])
    if not len(opens) == len(closes) == len(wanted):
        raise DataError(f"{len(opens)} opens, {len(closes)} closes, {len(wanted)} targets", mend="one of each a bar")
    if (np.abs(wanted) > 1).any():
        raise DataError("a target is not −1, 0 or +1", mend="targets are sides, not sizes")
    gaps, out = _spread(spread, len(closes)), np.empty(len(METRICS))
    curve = np.empty(len(closes))
    trades = np.empty(int(np.count_nonzero(np.diff(wanted))) + 1, dtype=TRADE)
    _replay(opens, closes, wanted, gaps, *costs[:3], int(fill == "next_open"), costs[3], curve, trades, out)
    metrics = dict(zip(METRICS, out.tolist(), strict=True))
    return SignalReplay(curve, trades[: int(metrics["trades"])], metrics)


def sweep_crossovers(
    opening: ArrayLike, close: ArrayLike, fasts: Sequence[int], slows: Sequence[int], *, cost_per_side: float = 0.0,
    slippage: float = 0.0, spread: ArrayLike = 0.0, units: float | None = None, initial_cash: float = 10_000.0,
    fill: Fill = "next_open", threads: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Replay the crossovers of many pairs of windows; each row equals :func:`crossover` and :func:`replay_targets`.

    Args:
        opening: as in :func:`replay_targets`.
        close: as there.
        fasts: windows of the pairs.
        slows: as many.
        cost_per_side: as there.
        slippage: as there.
        spread: as there.
        units: as there.
        initial_cash: as there.
        fill: as there.
        threads: 0: one a core. Each needs a byte a bar of memory of its own.

    Returns:
        one row a pair, in their order: ``fast, slow`` and the columns of :data:`METRICS`.

    Raises:
        DataError: as there, or a window is not within the bars.
    """
    costs = _costs(cost_per_side, slippage, units, initial_cash)
    opens, closes = _prices("open", opening), _prices("close", close)
    if len(opens) != len(closes):
        raise DataError(f"{len(opens)} opens, {len(closes)} closes", mend="one of each a bar")
    windows = _windows(fasts, slows, len(closes))
    gaps, out, prefix = _spread(spread, len(closes)), np.empty((len(windows), len(METRICS))), np.empty(len(closes) + 1)
    _prefix_sums(closes, prefix)

    def run(part: slice) -> None:
        scratch = np.empty(len(closes), dtype=np.int8)
        _sweep(
            prefix, opens, closes, windows[part], gaps, *costs[:3], int(fill == "next_open"), costs[3], scratch,
            _NO_CURVE, _NO_TRADES, out[part],
        )  # fmt: skip

    _in_parts(run, len(windows), threads or os.cpu_count() or 1)
    return pd.DataFrame({"fast": windows[:, 0], "slow": windows[:, 1], **dict(zip(METRICS, out.T, strict=True))})


def _in_parts(run: Callable[[slice], None], count: int, threads: int) -> None:
    bounds = np.linspace(0, count, min(threads, max(count, 1)) + 1).astype(int)
    parts = [slice(first, last) for first, last in pairwise(bounds)]
    if len(parts) == 1:
        run(parts[0])
        return
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(run, parts))


def _prices(name: str, values: ArrayLike) -> Float64:
    prices: Float64 = np.require(values, dtype=np.float64, requirements=["C", "W"])
    if prices.ndim != 1 or not len(prices):
        raise DataError(f"{name} has shape {prices.shape}", mend="pass one price a bar")
    bad = ~(np.isfinite(prices) & (prices > 0))
    if bad.any():
        raise DataError(f"{name}, row {int(bad.argmax())}: impossible price", mend="leave out bars without a price")
    return prices


def _spread(values: ArrayLike, bars: int) -> Float64:
    spread: Float64 = np.require(np.atleast_1d(values), dtype=np.float64, requirements=["C", "W"])
    if spread.shape not in ((1,), (bars,)) or not (np.isfinite(spread) & (spread >= 0)).all():
        raise DataError(f"spread of shape {spread.shape} for {bars} bars", mend="one number ≥ 0, or one a bar")
    return spread


def _costs(cost: float, slippage: float, units: float | None, cash: float) -> tuple[float, float, float, float]:
    for name, value, highest in (("cost_per_side", cost, 1.0), ("slippage", slippage, 1.0)):
        if not 0.0 <= value < highest:
            raise DataError(f"{name} is {value}", mend="a fraction in [0, 1)")
    for name, value in (("units", 1.0 if units is None else units), ("initial_cash", cash)):
        if not (np.isfinite(value) and value > 0.0):
            raise DataError(f"{name} is {value}", mend="give a number above 0")
    return float(cost), float(slippage), 0.0 if units is None else float(units), float(cash)


def _windows(fasts: Sequence[int], slows: Sequence[int], bars: int) -> Int64:
    if len(fasts) != len(slows):
        raise DataError(f"{len(fasts)} fast and {len(slows)} slow windows", mend="give pairs")
    windows = np.column_stack([np.asarray(fasts, dtype=np.int64), np.asarray(slows, dtype=np.int64)])
    if len(windows) and not (windows.min() >= 1 and windows.max() <= bars):
        raise DataError(f"windows lie in [{windows.min()}, {windows.max()}]", mend=f"between 1 and the {bars} bars")
    return windows
