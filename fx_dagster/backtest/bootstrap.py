"""Stationary block bootstrap (Politis & Romano 1994) of days or trades, and what each resampled path is worth.

Blocks of random length keep runs of rows together, so that what hangs together in time (volatility, streaks) hangs
together in the resamples. Paths are judged one at a time: memory does not grow with their number.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fx_dagster.backtest.metrics import daily_returns
from fx_dagster.compiled import compiled
from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.features.volatility import TRADING_DAYS_A_YEAR

if TYPE_CHECKING:
    from fx_dagster.backtest.result import BacktestResult

DAYS_MIN = 30
"""Fewest rows that are resampled: fewer do not tell their own spread."""

WORTH = (
    "net_return", "mean_annual_return", "sharpe", "sortino", "max_drawdown", "under_water", "trades", "win_rate",
)  # fmt: skip
"""What a path is worth; as in :mod:`fx_dagster.backtest.metrics`. ``mean_annual_return`` is the mean return of a row
times 252, drawdown is that of the rows' ends, and ``under_water`` is the longest run of rows below an earlier peak."""

_WEEK_DAYS = 5.0


def block_length(values: Float64, *, least: float = 1.0) -> float:
    """Return the mean length of blocks for the stationary bootstrap, in rows.

    Politis & White (2004) as corrected by Patton, Politis & White (2009); the longest that a column asks for, within
    ``least`` and a third of the rows.

    Args:
        values: ``[n]`` or ``[n, k]``; a column that does not vary asks for nothing.
        least: shortest.
    """
    from arch.bootstrap import optimal_block_length

    rows = len(values)
    longest = max(rows / 3.0, 1.0)
    if rows < DAYS_MIN:
        return min(least, longest)
    table = np.asarray(values, dtype=np.float64).reshape(rows, -1)
    # What rounding alone moves does not vary.
    varied = table[:, np.ptp(table, axis=0) > 1e-12 * np.abs(table).max(axis=0)]
    wished = optimal_block_length(varied)["stationary"].to_numpy() if varied.shape[1] else []
    return min(max([least, *(float(length) for length in wished if math.isfinite(length))]), longest)


def resampled_rows(rows: int, *, block: float, samples: int, seed: int) -> Iterator[Int64]:
    """Yield ``samples`` times the row numbers ``[rows]`` of a resample.

    Args:
        rows: number of rows that there are.
        block: mean length of a block, ≥ 1.
        samples: number of resamples.
        seed: the same rows for the same seed.
    """
    from arch.bootstrap import StationaryBootstrap

    drawn = StationaryBootstrap(block, np.arange(rows), seed=seed)
    for _ in range(samples):
        yield np.ascontiguousarray(drawn.update_indices(), dtype=np.int64)


@compiled
def _judge(table: np.ndarray, rows: np.ndarray, year: float, out: np.ndarray) -> None:
    """Write the WORTH of ``table[rows]``: return, trades, won trades of each row."""
    n = rows.shape[0]
    growth = peak = 1.0
    fall = total = closed = won = 0.0
    since = longest = 0
    for k in range(n):
        moved = table[rows[k], 0]
        total += moved
        closed += table[rows[k], 1]
        won += table[rows[k], 2]
        growth *= 1.0 + moved
        since = 0 if growth >= peak else since + 1
        peak = max(peak, growth)
        longest = max(longest, since)
        fall = max(fall, 1.0 - growth / peak)
    mean = total / n
    squares = below = 0.0
    for k in range(n):
        moved = table[rows[k], 0]
        squares += (moved - mean) ** 2
        below += min(moved, 0.0) ** 2
    deviation = math.sqrt(squares / (n - 1)) if n > 1 else 0.0
    out[0] = growth - 1.0
    out[1] = mean * year
    out[2] = mean / deviation * math.sqrt(year) if deviation > 1e-12 * abs(mean) else math.nan
    out[3] = mean / math.sqrt(below / n) * math.sqrt(year) if below > 0.0 else math.nan
    out[4] = fall
    out[5] = longest
    out[6] = closed
    out[7] = won / closed if closed > 0.0 else math.nan


def worth(table: Float64) -> dict[str, float]:
    """Return what a path is worth as it happened; ``table`` as in :func:`resampled_worth`."""
    out = np.empty(len(WORTH))
    _judge(np.ascontiguousarray(table), np.arange(len(table)), float(TRADING_DAYS_A_YEAR), out)
    return dict(zip(WORTH, out.tolist(), strict=True))


def resampled_worth(tables: Sequence[Float64], *, block: float, samples: int, seed: int) -> list[dict[str, Float64]]:
    """Return for each table the WORTH of its resamples, ``[samples]`` by name; all tables take the same rows.

    Args:
        tables: float64 ``[n, 3]`` each: return, closed trades and won trades of a row.
        block: mean length of a block, in rows.
        samples: number of resamples.
        seed: of the resampling.
    """
    sides = [np.ascontiguousarray(table, dtype=np.float64) for table in tables]
    found = np.empty((len(sides), samples, len(WORTH)))
    for sample, rows in enumerate(resampled_rows(len(sides[0]), block=block, samples=samples, seed=seed)):
        for side, table in enumerate(sides):
            _judge(table, rows, float(TRADING_DAYS_A_YEAR), found[side, sample])
    return [dict(zip(WORTH, side.T, strict=True)) for side in found]


def daily_table(result: "BacktestResult") -> Float64:
    """Return ``[days, 3]``: each trading day's return, the trades closed in it, and how many of them won."""
    time = result.equity["time"].to_numpy(np.int64)
    day, returns = daily_returns(time, result.equity["equity"].to_numpy(np.float64), result.initial_balance)
    closed = trading_day(result.trades["exit_time"].to_numpy(np.int64) - 1)
    row = np.searchsorted(day, closed).clip(max=len(day) - 1)
    won = result.trades["profit"].to_numpy(np.float64) > 0
    counts = np.bincount(row, minlength=len(day)), np.bincount(row, weights=won, minlength=len(day))
    return np.column_stack([returns, *counts])


def day_block(*tables: Float64) -> float:
    """Return the block length of days for tables that are resampled together: a trading week at least."""
    return block_length(np.column_stack([table[:, 0] for table in tables]), least=_WEEK_DAYS)
