import math

import numpy as np
import pytest

from fx_dagster.backtest import shock_runs
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.shock_runs import outcome_table, run_shocks

from .conftest import SMALL

ACCOUNT = {"initial_balance": 10_000.0, "leverage": 30.0}
SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
NAMES = {"gap against longs", "gap against shorts", "spread × 10", "common move", "silent hour, then a gap"}


@pytest.fixture(scope="module")
def config():
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings, RiskSettings

    return step_config(RiskSettings(), CostSettings(), paper=True, **SMALL)


@pytest.fixture(scope="module")
def outcomes(make_history, config):
    return run_shocks(make_history(*SYMBOLS, skill=0.1), config, **ACCOUNT, dates=2)


def test_every_shock_meets_open_positions_and_nothing_breaks(outcomes):
    assert {one.shock for one in outcomes} == NAMES
    assert all(one.positions > 0 for one in outcomes)
    assert [one for one in outcomes if one.broken] == []


def test_nothing_breaks_with_the_limits_of_regimes_and_with_agents(make_history, make_config):
    found = run_shocks(make_history(*SYMBOLS, skill=0.1, whole=True), make_config(whole=True), **ACCOUNT, dates=2)
    assert len(found) > 4
    assert [one for one in found if one.broken] == []


def test_gaps_cost_and_stay_within_the_limits(outcomes):
    gaps = [one for one in outcomes if "gap" in one.shock]
    for one in gaps:
        assert one.beyond > 0.005
        assert 0 < one.fall <= one.allowed < 0.2
        assert one.max_drawdown > one.max_drawdown_before
    assert all(math.isinf(one.allowed) for one in outcomes if one not in gaps)


def test_a_wide_spread_trips_its_breaker(outcomes):
    assert all("spread" in one.breakers for one in outcomes if one.shock.startswith("spread"))


def test_a_larger_gap_costs_more(make_history, config):
    history = make_history(*SYMBOLS, skill=0.1)
    small, large = (run_shocks(history, config, **ACCOUNT, dates=1, gap_atr=size)[0] for size in (6.0, 20.0))
    assert large.time == small.time
    assert large.beyond > 2 * small.beyond


def test_the_same_seed_is_the_same_outcomes_and_another_is_not(make_history, config, outcomes):
    history = make_history(*SYMBOLS, skill=0.1)
    assert run_shocks(history, config, **ACCOUNT, dates=2) == outcomes
    assert run_shocks(history, config, **ACCOUNT, dates=2, seed=8) != outcomes


def test_one_symbol_has_no_common_move(make_history, config):
    found = run_shocks(make_history(), config, **ACCOUNT, dates=1)
    assert {one.shock for one in found} == NAMES - {"common move"}


def test_without_positions_there_is_nothing_to_shock(make_history, config):
    idle = config._replace(entry_score_min=1.0)
    assert run_shocks(make_history(), idle, **ACCOUNT) == []


def judged_by(make_history, ran, judged, name, account=ACCOUNT, **changes):
    """Replay with one configuration and judge by the limits of another: what does not hold must be seen."""
    history = make_history(*SYMBOLS, skill=0.1)

    def replayed(one):
        return replay(one, ran, **account)

    base = shock_runs._base(history, ran, replayed, account["leverage"])
    base = base._replace(config=judged, **{field: change(base) for field, change in changes.items()})
    shocks = shock_runs._plan(base, np.random.default_rng(1), 6, 10.0, 10.0)
    return {text for one in shocks if one.name == name for text in shock_runs._outcome(base, one).broken}


def test_a_stop_that_did_not_close_its_position_is_seen(make_history, config):
    """With stops imagined where the gap passes them long before it passes the real ones."""
    far = config._replace(stop_atr=50.0, target_atr=50.0, regime_stop_max=(0.9,) * 5)
    rich = ACCOUNT | {"initial_balance": 1e6}
    stops = {"stop": lambda base: np.where(base.lots > 0, 1e9, 1e-9)}
    found = judged_by(make_history, far, far, "gap against longs", rich, **stops)
    assert any("was not stopped" in text for text in found)


@pytest.mark.parametrize(
    ("name", "ran", "judged", "said"),
    [
        ("gap against longs", {}, {"regime_position_max": (0.01,) * 5}, "beyond the limits"),
        ("silent hour, then a gap", {}, {"margin_used_max": 0.01}, "more margin"),
        ("spread × 10", {"spread_ratio_max": 1e9}, {}, "an entry was decided"),
        ("spread × 10", {"spread_ratio_max": 1e9}, {}, "the spread breaker"),
    ],
)
def test_what_does_not_hold_is_said(make_history, config, name, ran, judged, said):
    found = judged_by(make_history, config._replace(**ran), config._replace(**judged), name)
    assert any(said in text for text in found)


def test_the_table_has_every_outcome(outcomes):
    table = outcome_table(outcomes)
    assert table["time"].tolist() == [one.time for one in outcomes]
    assert table["breakers"].str.contains("spread").any()
    assert (table["broken"] == "").all()
    np.testing.assert_array_equal(np.isnan(table["allowed"]), ~table["shock"].str.contains("gap"))
    assert outcome_table([]).dtypes.equals(table.dtypes)
