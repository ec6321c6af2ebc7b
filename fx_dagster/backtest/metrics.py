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

import numpy as np
import pandas as pd

from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.features.volatility import TRADING_DAYS_A_YEAR


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


def metrics(
    equity: pd.DataFrame, trades: pd.DataFrame, *, initial: float, turnover: float, costs: float
) -> dict[str, float]:
    """Return the metrics of a backtest by name; see the module's table.

    Args:
        equity: as in a backtest's result, as ``trades``.
        trades: closed ones.
        initial: first balance.
        turnover: sum of traded notional.
        costs: paid, in money.
    """
    curve = equity["equity"].to_numpy(np.float64)
    days, returns = daily_returns(equity["time"].to_numpy(np.int64), curve, initial)
    years = len(days) / TRADING_DAYS_A_YEAR
    net = float(curve[-1] / initial - 1.0)
    return {
        "net_return": net,
        "annual_return": (1.0 + net) ** (1.0 / years) - 1.0 if net > -1.0 else -1.0,
        "volatility": float(np.std(returns, ddof=1)) * math.sqrt(TRADING_DAYS_A_YEAR) if len(returns) > 1 else math.nan,
        "sharpe": sharpe(returns),
        "sortino": sortino(returns),
        "max_drawdown": max_drawdown(curve, initial),
        **_trade_metrics(trades["profit"].to_numpy(np.float64), trades["risk_money"].to_numpy(np.float64)),
        "exposure": float(np.mean(equity["open_positions"].to_numpy() > 0)),
        "turnover": turnover / float(np.mean(curve)) / years,
        "costs_paid": costs,
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
