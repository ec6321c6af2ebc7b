import dataclasses

import numpy as np
import pytest

from fx_dagster.backtest.ab import COMPARED, Verdict, compare, replay_both
from fx_dagster.backtest.bootstrap import daily_table
from fx_dagster.decision.config import traditional_control
from fx_dagster.errors import DataError

from .conftest import SMALL


@pytest.fixture(scope="module")
def runs(make_history):
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings, RiskSettings

    config = step_config(RiskSettings(), CostSettings(), paper=True, **SMALL)
    history = make_history(skill=0.2)
    return replay_both(history, config, traditional_control(config), initial_balance=10_000.0, leverage=30.0)


def test_models_that_know_are_ahead_with_their_interval(runs):
    system, control = runs
    found = compare(system, control, samples=200)
    gain = found.differences["mean_annual_return"]
    assert gain.low < gain.value < gain.high
    assert gain.low > 0
    assert found.differences["sharpe"].share_above_zero > 0.9
    assert found.verdict is Verdict.A_AHEAD
    assert compare(control, system, samples=200).verdict is Verdict.B_AHEAD
    assert compare(system, control, samples=200) == found
    assert compare(system, control, samples=200, seed=8) != found


def test_the_other_way_round_is_the_opposite(runs):
    found, turned = compare(*runs, samples=100), compare(*runs[::-1], samples=100)
    for name in COMPARED:
        assert found.differences[name].value == pytest.approx(-turned.differences[name].value)
        assert found.differences[name].low == pytest.approx(-turned.differences[name].high)


def test_a_configuration_beside_itself_differs_in_nothing(make_history, make_config):
    config = make_config()
    twice = replay_both(make_history(), config, config, initial_balance=10_000.0, leverage=30.0)
    found = compare(*twice, samples=50)
    assert found.verdict is Verdict.SAME
    assert tuple(found.differences) == COMPARED
    for difference in found.differences.values():
        assert dataclasses.astuple(difference) == (0.0, 0.0, 0.0, 0.0)


def test_values_are_those_of_the_metrics(runs):
    found = compare(*runs, samples=50)
    for name in COMPARED[1:]:
        assert (found.a[name], found.b[name]) == tuple(result.metrics[name] for result in runs)
        assert found.differences[name].value == found.a[name] - found.b[name]
    means = [daily_table(result)[:, 0].mean() * 252 for result in runs]
    assert [found.a[COMPARED[0]], found.b[COMPARED[0]]] == pytest.approx(means)


def test_two_strategies_without_skill_settle_nothing(make_history, make_config):
    config = make_config()
    found = compare(
        *replay_both(make_history(), config, traditional_control(config), initial_balance=10_000.0, leverage=30.0),
        samples=200,
    )
    gain = found.differences["mean_annual_return"]
    assert gain.low < 0 < gain.high
    assert found.verdict is Verdict.NOT_SETTLED


def test_a_few_days_are_too_short_to_tell(make_history, make_config):
    history, config = make_history(), make_config()
    few = history.window(int(history.market.time[700]), int(history.market.time[1_200]))
    found = compare(*replay_both(few, config, traditional_control(config), initial_balance=1e4, leverage=30.0))
    assert found.verdict is Verdict.TOO_SHORT
    assert found.samples == 0
    assert not any(difference.has_interval for difference in found.differences.values())
    assert np.isfinite(found.differences["net_return"].value)


def test_only_the_same_bars_compare(runs):
    shorter = dataclasses.replace(runs[1], equity=runs[1].equity.iloc[:-1])
    with pytest.raises(DataError, match="different bars"):
        compare(runs[0], shorter)
