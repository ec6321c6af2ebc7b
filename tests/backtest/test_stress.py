import dataclasses

import numpy as np
import pytest

from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.stress import monte_carlo_days, monte_carlo_trades, r_multiples, study_table
from fx_dagster.decision.inputs import trading_day

from .conftest import SMALL


@pytest.fixture(scope="module")
def result(make_history):
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings, RiskSettings

    config = step_config(RiskSettings(), CostSettings(), paper=True, **SMALL)
    return replay(make_history(skill=0.05), config, initial_balance=10_000.0, leverage=30.0)


def steady(result, gain):
    """The same days and trades: each day the same return, each trade half of its risk."""
    days = np.unique(trading_day(result.equity["time"].to_numpy() - 1), return_inverse=True)[1]
    equity = result.equity.assign(equity=10_000.0 * (1 + gain) ** (days + 1))
    return dataclasses.replace(result, equity=equity, trades=result.trades.assign(profit=25.0, risk_money=50.0))


@pytest.mark.parametrize("study", [monte_carlo_days, monte_carlo_trades])
def test_quantiles_ascend_around_what_happened(result, study):
    found = study(result, ruin_at=0.10, samples=300)
    for quantiles in (found.terminal, found.max_drawdown, found.under_water):
        assert quantiles.p05 <= quantiles.p50 <= quantiles.p95
        assert quantiles.p05 < quantiles.p95
    assert found.terminal.p05 < found.terminal.observed < found.terminal.p95
    assert found.ruin_low <= found.ruin <= found.ruin_high
    assert found.ruin == np.mean(found.drawdowns >= 0.10)
    assert found.block >= 1.0


@pytest.mark.parametrize("study", [monte_carlo_days, monte_carlo_trades])
def test_the_same_seed_is_the_same_study(result, study):
    one, two, other = (study(result, ruin_at=0.1, samples=50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.drawdowns, two.drawdowns)
    assert one.terminal == two.terminal != other.terminal


def test_a_nearer_ruin_is_likelier(result):
    deep = [monte_carlo_days(result, ruin_at=depth, samples=200).ruin for depth in (0.001, 0.02, 0.5)]
    assert deep[0] == 1.0
    assert deep[0] >= deep[1] >= deep[2] == 0.0


def test_trades_of_one_size_have_no_spread(result):
    found = monte_carlo_trades(steady(result, 0.0), ruin_at=0.1, risk_share=0.01, samples=50)
    grown = (1 + 0.5 * 0.01) ** found.rows
    assert (found.terminal.p05, found.terminal.p95) == pytest.approx((grown, grown))
    assert found.max_drawdown.p95 == found.under_water.p95 == found.ruin == 0.0


def test_days_of_one_return_have_no_spread(result):
    found = monte_carlo_days(steady(result, -0.001), ruin_at=0.1, samples=50)
    fallen = 0.999**found.rows
    assert (found.terminal.p05, found.terminal.observed, found.terminal.p95) == pytest.approx((fallen,) * 3)
    assert (found.max_drawdown.p05, found.max_drawdown.p95) == pytest.approx((1 - fallen,) * 2)
    assert found.under_water.p05 == found.rows


def test_risk_scales_what_trades_do(result):
    small, large = (monte_carlo_trades(result, ruin_at=0.1, risk_share=share, samples=100) for share in (0.002, 0.02))
    assert large.max_drawdown.p50 > 5 * small.max_drawdown.p50


def test_r_multiples_are_of_the_equity_before_the_entry(result):
    multiples, shares = r_multiples(result)
    trades = result.trades[result.trades["risk_money"] > 0]
    np.testing.assert_allclose(multiples, trades["profit"] / trades["risk_money"])
    one = trades.iloc[5]
    before = result.equity[result.equity["time"] <= one["entry_time"]]["equity"].iloc[-1]
    assert shares[5] == pytest.approx(one["risk_money"] / before)


def test_too_little_is_not_resampled(result):
    short = dataclasses.replace(result, equity=result.equity.iloc[:200], trades=result.trades.iloc[:20])
    assert monte_carlo_days(short, ruin_at=0.1) is None
    assert monte_carlo_trades(short, ruin_at=0.1) is None


def test_the_table_has_a_column_a_study(result):
    study = monte_carlo_days(result, ruin_at=0.1, samples=50)
    table = study_table(study, None).set_index("measure")
    assert list(table.columns) == ["day"]
    assert table["day"]["max_drawdown_p95"] == study.max_drawdown.p95
    assert table["day"]["ruin"] == study.ruin
    assert table["day"]["block"] == study.block
    assert list(study_table(None, None).columns) == ["measure"]
