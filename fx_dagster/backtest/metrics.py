"""What an equity curve and its trades are worth.

=================  =====================================================================================
name               definition
=================  =====================================================================================
net_return         last equity over the first balance, − 1; all costs included
annual_return      net_return compounded to 252 trading days
volatility         standard deviation of daily returns × √252
sharpe             mean of daily returns over their standard deviation × √252; cash earns nothing
sortino            mean of daily returns over √(mean of squared negative ones) × √252
max_drawdown       largest fall from a peak of equity, over all bars; a fraction ≥ 0
win_rate           share of closed trades with a profit after costs
profit_factor      sum of profits over sum of losses
payoff             mean profit of a winning trade over mean loss of a losing one
expectancy         mean profit of a closed trade, money
expectancy_r       the same over the money at risk
exposure           share of bars at whose close a position is open
turnover           traded notional over mean equity, a year of 252 trading days
costs_paid         commission + spread + slippage + swap, money
trades             closed trades
days               trading days
=================  =====================================================================================

Daily returns are those of equity at the last bar of each trading day (17:00 New York). What is undefined (the Sharpe
ratio of a flat curve, the profit factor without losses) is NaN.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fx_dagster.decision.arrays import Float64, Int64
from fx_dagster.decision.inputs import TRADING_DAYS_A_YEAR, trading_day
from fx_dagster.errors import DataError

if TYPE_CHECKING:
    from fx_dagster.backtest.replay import BacktestResult

DAYS_MIN = 30


def daily_returns(time: Int64, equity: Float64, initial: float) -> tuple[Int64, Float64]:
    """Return trading days (their numbers) and the return of each.

    Args:
        time: ends of the bars, int64 ns UTC, ascending; a bar that ends at 17:00 New York belongs to the day it ends.
        equity: at these times.
        initial: balance before the first.
    """
    day = trading_day(np.asarray(time, dtype=np.int64) - 1)
    last = np.flatnonzero(np.diff(day, append=day[-1:] + 1))
    values = np.concatenate([[initial], np.asarray(equity, dtype=np.float64)[last]])
    return day[last], values[1:] / values[:-1] - 1.0


def max_drawdown(equity: Float64, initial: float) -> float:
    """Return the largest fall from a peak (``initial`` included) as a fraction of the peak."""
    curve = np.concatenate([[initial], np.asarray(equity, dtype=np.float64)])
    return float((1.0 - curve / np.maximum.accumulate(curve)).max())


def sharpe(returns: Float64) -> float:
    """Return the annualised Sharpe ratio of daily returns (Sharpe 1994); NaN without variance."""
    deviation = float(np.std(returns, ddof=1)) if len(returns) > 1 else 0.0
    return float(np.mean(returns)) / deviation * math.sqrt(TRADING_DAYS_A_YEAR) if deviation > 0 else math.nan


def sortino(returns: Float64) -> float:
    """Return the annualised Sortino ratio of daily returns with target 0; NaN without a loss."""
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2))) if len(returns) else 0.0
    return float(np.mean(returns)) / downside * math.sqrt(TRADING_DAYS_A_YEAR) if downside > 0 else math.nan


def metrics(result: "BacktestResult") -> dict[str, float]:
    """Return the metrics of a backtest by name; see the module's table."""
    frame, initial = result.equity, result.initial_balance
    equity = frame["equity"].to_numpy(np.float64)
    days, returns = daily_returns(frame["time"].to_numpy(np.int64), equity, initial)
    years = len(days) / TRADING_DAYS_A_YEAR
    net = float(equity[-1] / initial - 1.0)
    return {
        "net_return": net,
        "annual_return": (1.0 + net) ** (1.0 / years) - 1.0 if net > -1.0 else -1.0,
        "volatility": float(np.std(returns, ddof=1)) * math.sqrt(TRADING_DAYS_A_YEAR) if len(returns) > 1 else math.nan,
        "sharpe": sharpe(returns),
        "sortino": sortino(returns),
        "max_drawdown": max_drawdown(equity, initial),
        **_trade_metrics(
            result.trades["profit"].to_numpy(np.float64), result.trades["risk_money"].to_numpy(np.float64)
        ),
        "exposure": float(np.mean(frame["open_positions"].to_numpy() > 0)),
        "turnover": result.turnover / float(np.mean(equity)) / years,
        "costs_paid": result.costs["total"],
        "days": float(len(days)),
    }


def _trade_metrics(profit: Float64, risk: Float64) -> dict[str, float]:
    won, lost = profit[profit > 0], -profit[profit < 0]
    known = risk > 0
    return {
        "win_rate": float(np.mean(profit > 0)) if len(profit) else math.nan,
        "profit_factor": float(won.sum() / lost.sum()) if lost.sum() > 0 else math.nan,
        "payoff": float(won.mean() / lost.mean()) if len(won) and len(lost) else math.nan,
        "expectancy": float(profit.mean()) if len(profit) else math.nan,
        "expectancy_r": float((profit[known] / risk[known]).mean()) if known.any() else math.nan,
        "trades": float(len(profit)),
    }


@dataclass(frozen=True)
class Difference:
    """System minus control, with a percentile interval; NaN where it is undefined."""

    value: float
    low: float
    high: float
    share_above_zero: float
    """Share of resamples in which the system is ahead."""


@dataclass(frozen=True)
class Comparison:
    """A system beside its control on the same days."""

    days: int
    level: float
    block_days: float
    sharpe: Difference
    annual_return: Difference
    """Difference of mean daily returns × 252."""


def compare(
    system: "BacktestResult", control: "BacktestResult", *, samples: int = 500, level: float = 0.95, seed: int = 7,
    block_days: float | None = None,
) -> Comparison:  # fmt: skip
    """Return the paired difference of two backtests over the same bars, with stationary block-bootstrap intervals.

    Days are resampled in pairs, in blocks of random length (Politis & Romano 1994, as ``skfolio`` implements it).

    Args:
        system: the one in question.
        control: what it is compared with.
        samples: resamples.
        level: of the interval.
        seed: of the resampling.
        block_days: mean length of a block; None: the cube root of the number of days, at least 5.

    Raises:
        DataError: the two do not cover the same bars.
    """
    times = [result.equity["time"].to_numpy(np.int64) for result in (system, control)]
    if not np.array_equal(*times):
        raise DataError("system and control cover different bars", mend="run both over the same window")
    pairs = np.column_stack(
        [
            daily_returns(time, result.equity["equity"].to_numpy(np.float64), result.initial_balance)[1]
            for time, result in zip(times, (system, control), strict=True)
        ]
    )
    block = max(5.0, len(pairs) ** (1.0 / 3.0)) if block_days is None else block_days
    drawn = _resample(pairs, samples, block, seed) if len(pairs) >= DAYS_MIN else np.empty((0, 1, 2))
    return Comparison(
        days=len(pairs),
        level=level,
        block_days=block,
        sharpe=_difference(sharpe(pairs[:, 0]) - sharpe(pairs[:, 1]), _sharpes(drawn), level),
        annual_return=_difference(
            float(np.mean(pairs[:, 0] - pairs[:, 1])) * TRADING_DAYS_A_YEAR,
            np.mean(drawn[:, :, 0] - drawn[:, :, 1], axis=1) * TRADING_DAYS_A_YEAR,
            level,
        ),
    )


def _resample(pairs: Float64, samples: int, block: float, seed: int) -> Float64:
    from skfolio.utils.bootstrap import stationary_bootstrap

    return np.asarray(stationary_bootstrap(pairs, n_bootstrap_samples=samples, block_size=block, seed=seed))


def _sharpes(drawn: Float64) -> Float64:
    if not len(drawn):
        return np.empty(0)
    mean, deviation = drawn.mean(axis=1), drawn.std(axis=1, ddof=1)
    ratio = np.divide(mean, deviation, out=np.full_like(mean, np.nan), where=deviation > 0)
    difference = (ratio[:, 0] - ratio[:, 1]) * math.sqrt(TRADING_DAYS_A_YEAR)
    return np.asarray(difference[np.isfinite(difference)])


def _difference(value: float, drawn: Float64, level: float) -> Difference:
    if not len(drawn):
        return Difference(value, math.nan, math.nan, math.nan)
    low, high = np.quantile(drawn, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Difference(value, float(low), float(high), float(np.mean(drawn > 0)))
