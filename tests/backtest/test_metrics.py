import math

import numpy as np
import pandas as pd
import pytest

from fx_dagster.backtest.metrics import daily_returns, max_drawdown, sharpe, sortino
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.config import traditional_control

from .conftest import SMALL


def at(text):
    return pd.Timestamp(text, tz="America/New_York").value


def test_daily_returns_are_cut_at_five_in_new_york():
    times = np.array([at("2024-01-08 12:00"), at("2024-01-08 17:00"), at("2024-01-08 18:00"), at("2024-01-09 17:00")])
    days, returns = daily_returns(times, np.array([105.0, 110.0, 90.0, 99.0]), 100.0)
    assert returns == pytest.approx([0.10, -0.10])
    assert np.diff(days).tolist() == [1]


def test_drawdown_counts_from_the_first_balance():
    assert max_drawdown(np.array([90.0, 120.0, 108.0]), 100.0) == pytest.approx(0.10)
    assert max_drawdown(np.array([100.0, 120.0, 90.0, 130.0]), 100.0) == pytest.approx(0.25)
    assert max_drawdown(np.array([101.0, 102.0]), 100.0) == 0.0


def test_ratios():
    returns = np.array([0.01, -0.01, 0.02, 0.0])
    assert sharpe(returns) == pytest.approx(returns.mean() / returns.std(ddof=1) * math.sqrt(252))
    assert sortino(returns) == pytest.approx(returns.mean() / math.sqrt(0.0001 / 4) * math.sqrt(252))
    assert math.isnan(sharpe(np.zeros(5)))
    assert math.isnan(sortino(np.array([0.1, 0.2])))


@pytest.fixture(scope="module")
def runs(make_history):
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings, RiskSettings

    config = step_config(RiskSettings(), CostSettings(), paper=True, **SMALL)
    history = make_history(skill=0.2)
    return tuple(
        replay(history, one, initial_balance=10_000.0, leverage=30.0) for one in (config, traditional_control(config))
    )


def test_metrics_of_a_backtest(runs):
    result = runs[0]
    found = result.metrics
    profit = result.trades["profit"]
    assert found["trades"] == len(profit)
    assert found["win_rate"] == pytest.approx((profit > 0).mean())
    assert found["profit_factor"] == pytest.approx(profit[profit > 0].sum() / -profit[profit < 0].sum())
    assert found["expectancy"] == pytest.approx(profit.mean())
    assert found["net_return"] == pytest.approx(result.equity["equity"].iloc[-1] / 10_000 - 1)
    assert found["exposure"] == pytest.approx((result.equity["open_positions"] > 0).mean())
    assert found["costs_paid"] == pytest.approx(sum(v for k, v in result.costs.items() if k != "total"))
    assert found["turnover"] > 0
    assert 0 <= found["max_drawdown"] < 0.12


def test_a_run_without_trades_has_no_ratios(make_history, make_config):
    result = replay(make_history(), make_config(entry_score_min=1.0), initial_balance=10_000.0, leverage=30.0)
    assert result.metrics["trades"] == 0
    assert result.metrics["net_return"] == 0
    for name in ("sharpe", "sortino", "win_rate", "profit_factor", "expectancy"):
        assert math.isnan(result.metrics[name])
