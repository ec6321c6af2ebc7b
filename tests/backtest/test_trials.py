"""What counts as a trial, and what the newest backtest is worth among all of them."""

import dataclasses
import json
from collections.abc import Callable

import numpy as np
import pytest

from fx_dagster.backtest.ab import replay_both
from fx_dagster.backtest.bootstrap import daily_table
from fx_dagster.backtest.overfitting import expected_maximum_sharpe, moments, probabilistic_sharpe
from fx_dagster.backtest.trial_review import comparable, review_trials
from fx_dagster.backtest.trials import (
    Daily,
    Origin,
    Trial,
    TrialKind,
    backtest_trial,
    counted,
    fingerprint,
    training_trial,
)
from fx_dagster.decision.config import traditional_control
from fx_dagster.models.protocol import ModelCard
from fx_dagster.settings import RiskSettings, Settings, TrainingSettings

from .conftest import SMALL

BACKTEST = Origin("backtest", "run", "sample", ("EURUSD",), "H1", "c0ffee")
TRAINING = dataclasses.replace(BACKTEST, asset="xgboost_model")


def tried(
    number: int, *, days: int = 250, first: int = 0, gain: float = 0.0, trainings: tuple[str, ...] = (),
    seed: int | None = None,
) -> Trial:  # fmt: skip
    """Return a backtest of noise around ``gain``; its control is other noise."""
    rng = np.random.default_rng(number if seed is None else seed)
    system, control = rng.normal(gain, 0.01, days), rng.normal(0.0, 0.01, days)
    configuration = {"number": number}
    return Trial(
        TrialKind.BACKTEST, BACKTEST, configuration, first, first + days, {}, fingerprint(configuration), trainings,
        Daily(np.arange(first, first + days), system, control),
    )  # fmt: skip


def trained(number: int, *, end: int = 250) -> Trial:
    configuration = {"family": "xgboost", "seed": number}
    return Trial(TrialKind.TRAINING, TRAINING, configuration, 0, end, {}, fingerprint(configuration))


def test_nothing_recorded_is_said():
    assert review_trials([]).note == "no backtest is recorded"
    found = review_trials([trained(1)])
    assert (found.trials, found.backtests, found.deflated_sharpe) == (1, 0, None)
    assert found.note


def test_the_same_configuration_on_the_same_data_is_one_trial_the_last_of_them():
    first, other, again = tried(1), tried(2), tried(1, seed=9)
    assert counted([first, other, again]) == [other, again]
    assert review_trials([first, other, first, first]).trials == 2
    longer = tried(1, days=260)
    assert counted([first, longer]) == [first, longer]


def test_a_training_and_a_backtest_are_two_trials_whatever_their_numbers():
    training, backtest = trained(1), tried(1)
    assert len(counted([training, dataclasses.replace(backtest, fingerprint=training.fingerprint)])) == 2


def test_trainings_count_through_the_backtests_that_replay_them():
    made, later = trained(1), trained(1, end=300)
    backtest = tried(1, trainings=(made.fingerprint,))
    found = review_trials([made, later, backtest])
    assert (found.trials, found.never_replayed, found.independent) == (3, 0, pytest.approx(1.0))
    dropped = review_trials([made, trained(2), trained(2, end=300), trained(3), backtest])
    assert (dropped.never_replayed, dropped.independent) == (2, pytest.approx(3.0))
    assert dropped.deflated_sharpe < found.deflated_sharpe


def test_one_backtest_alone_is_not_deflated():
    found = review_trials([tried(1, gain=0.001)])
    assert found.luck == 0.0
    assert found.deflated_sharpe == found.probabilistic_sharpe
    known = moments(tried(1, gain=0.001).daily.system)
    assert (found.days, found.sharpe, found.skewness, found.kurtosis) == dataclasses.astuple(known)
    assert found.probabilistic_sharpe == probabilistic_sharpe(known)


def test_every_further_trial_takes_something_off():
    newest = tried(0, gain=0.001)
    before = 1.1
    for others in (0, 1, 5, 40):
        found = review_trials([*map(tried, range(1, others + 1)), newest])
        assert found.deflated_sharpe < before
        assert found.independent == pytest.approx(others + 1, rel=0.1)
        assert found.probabilistic_sharpe == review_trials([newest]).probabilistic_sharpe
        before = found.deflated_sharpe


def test_trials_that_are_alike_take_little_off():
    newest = tried(0, gain=0.001)
    rng = np.random.default_rng(1)
    alike = [
        dataclasses.replace(
            tried(number),
            daily=dataclasses.replace(newest.daily, system=newest.daily.system + rng.normal(0, 1e-6, 250)),
        )
        for number in range(1, 31)
    ]
    found = review_trials([*alike, newest])
    assert found.backtests == 31
    assert found.independent < 1.1
    assert found.deflated_sharpe == pytest.approx(found.probabilistic_sharpe, abs=0.01)


def test_noise_is_not_significant_and_skill_is():
    others = [tried(number) for number in range(1, 12)]
    noise, skill = review_trials([*others, tried(0)]), review_trials([*others, tried(0, gain=0.004)])
    assert noise.deflated_sharpe < 0.95 < skill.deflated_sharpe
    assert skill.superiority_p < 0.01 < noise.superiority_p
    assert skill.overfitting < 0.05 < noise.overfitting
    assert skill == review_trials([*others, tried(0, gain=0.004)])
    assert type(skill).model_validate_json(skill.model_dump_json()) == skill


def test_trials_that_lie_far_apart_bring_more_luck():
    made = [tried(number, gain=0.003 * (number % 5 - 2)) for number in range(10)]
    found = review_trials(made)
    seen = float(np.var([moments(one.daily.system).sharpe for one in made], ddof=1))
    assert seen > 3 * moments(made[-1].daily.system).sharpe_variance
    assert found.luck == pytest.approx(expected_maximum_sharpe(found.independent, seen))


def test_what_its_control_reaches_as_well_is_no_superiority():
    rng = np.random.default_rng(5)
    market = rng.normal(0.004, 0.01, 250)
    daily = Daily(np.arange(250), market + rng.normal(0.0, 0.001, 250), market)
    found = review_trials([dataclasses.replace(tried(1), daily=daily)])
    assert found.deflated_sharpe > 0.95
    assert found.superiority_p > 0.05
    same = dataclasses.replace(tried(1), daily=dataclasses.replace(daily, system=market))
    assert review_trials([same]).superiority_p is None


def test_too_few_different_backtests_or_days_tell_nothing_of_overfitting():
    assert review_trials([tried(number) for number in range(4)]).overfitting is None
    assert review_trials([tried(number) for number in range(5)]).overfitting is not None
    assert review_trials([tried(number, days=79) for number in range(5)]).overfitting is None
    # Other settings with the same returns are no further choice.
    same = [tried(number, seed=1) for number in range(6)]
    assert (review_trials(same).candidates, review_trials(same).overfitting) == (1, None)


def test_a_few_days_and_idle_days_have_no_ratio():
    few = review_trials([tried(1, days=29)])
    assert (few.days, few.sharpe, few.deflated_sharpe, few.superiority_p) == (29, None, None, None)
    one = tried(1)
    idle = dataclasses.replace(one, daily=Daily(one.daily.day, np.zeros(250), np.zeros(250)))
    found = review_trials([tried(2), idle])
    assert (found.days, found.sharpe, found.deflated_sharpe) == (250, None, None)
    assert found.independent >= 1.0


def test_backtests_are_compared_on_the_days_that_they_share():
    newest = tried(0, first=100, days=200)
    longer, half, elsewhere = tried(1, days=300), tried(2, first=150, days=100), tried(3, first=900)
    kept, days = comparable([longer, elsewhere, half, newest])
    assert kept == [longer, half, newest]
    np.testing.assert_array_equal(days, np.arange(150, 250))
    found = review_trials([longer, elsewhere, half, newest])
    assert (found.backtests, found.candidates, found.common_days, found.days) == (4, 3, 100, 200)
    # The one that shares no day counts as a trial of its own all the same.
    assert found.independent > review_trials([longer, half, newest]).independent + 0.99


def test_a_backtest_that_would_leave_too_few_days_does_not_join():
    newest = tried(0, days=200)
    kept, days = comparable([tried(1, days=60), tried(2, days=150), tried(3, first=100, days=150), newest])
    assert kept[-1] is newest
    assert len(kept) == 2
    assert len(days) == 150


def test_of_each_configuration_the_newest_backtest_is_a_candidate():
    growing = [tried(1, days=days, seed=days) for days in (200, 210, 220)]
    found = review_trials([*growing, tried(2, days=220)])
    assert (found.backtests, found.candidates) == (4, 2)


@pytest.fixture(scope="module")
def make_trial(make_history) -> Callable[..., Trial]:
    from fx_dagster.decision.config import step_config
    from fx_dagster.settings import CostSettings

    config = step_config(RiskSettings(), CostSettings(), paper=True, **SMALL)
    history = make_history(skill=0.1)
    system, control = replay_both(history, config, traditional_control(config), initial_balance=1e4, leverage=30.0)

    def make(origin=BACKTEST, *, trainings=None, hours=0.0, balance=10_000.0, **step) -> Trial:
        return backtest_trial(
            origin, system, control, config._replace(**step), RiskSettings(initial_balance=balance),
            resume_after_hours=hours, trainings=trainings or {"xgboost": "a", "random_forest": ""},
            start=int(history.market.time[0]),
        )  # fmt: skip

    make.results = system, control
    return make


def test_a_backtest_is_recorded_day_by_day(make_trial):
    trial, (system, control) = make_trial(), make_trial.results
    np.testing.assert_array_equal(trial.daily.system, daily_table(system)[:, 0])
    np.testing.assert_array_equal(trial.daily.control, daily_table(control)[:, 0])
    assert (np.diff(trial.daily.day) > 0).all()
    assert trial.start < trial.end == system.equity["time"].iloc[-1]
    assert trial.trainings == ("a",)
    assert trial.metrics["system"]["trades"] == system.metrics["trades"]
    json.dumps([trial.metrics, trial.configuration], allow_nan=False)


def test_undefined_metrics_are_none(make_trial, make_config):
    system, control = make_trial.results
    flat = dataclasses.replace(control, metrics={**control.metrics, "sharpe": float("nan")})
    trial = backtest_trial(
        BACKTEST, system, flat, make_config(), RiskSettings(), resume_after_hours=0, trainings={}, start=0
    )
    assert trial.metrics["control"]["sharpe"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"stop_atr": 1.5}, {"slippage_points": 9.0}, {"balance": 5_000.0}, {"hours": 24.0},
        {"trainings": {"xgboost": "b", "random_forest": ""}},
        {"origin": dataclasses.replace(BACKTEST, symbols=("EURUSD", "GBPUSD"))},
        {"origin": dataclasses.replace(BACKTEST, feature_hash="decaf")},
    ],
)  # fmt: skip
def test_whatever_decides_makes_another_configuration(make_trial, change):
    assert make_trial(**change).fingerprint != make_trial().fingerprint


def test_another_run_is_the_same_trial(make_trial):
    again = make_trial(dataclasses.replace(BACKTEST, run_id="later"))
    assert again.identity == make_trial().identity


def card(**changes) -> ModelCard:
    known = {
        "name": "xgboost", "feature_names": ("a",), "feature_hash": "c0ffee", "rows": 900, "up_share": 0.5, "seed": 7,
        "parameters": {"depth": 4, "max_samples": 900}, "importance": {}, "libraries": {},
        "metrics": {"out_of_fold": {"accuracy": 0.5, "roc": float("nan")}, "onnx_parity": 0.0},
    }  # fmt: skip
    return ModelCard(**{**known, **changes})


@pytest.fixture
def made_settings(free_home) -> Callable[..., Settings]:
    return lambda **training: Settings(training=TrainingSettings(**training))


def test_what_decides_a_training_is_in_its_fingerprint(made_settings):
    def of(model: ModelCard, **training) -> str:
        return training_trial(TRAINING, model, made_settings(**training), start=0, end=1).fingerprint

    base = of(card())
    # How many threads fit, and how many rows there were, is no choice.
    assert of(card(), threads=1) == base
    assert of(card(rows=950, parameters={"depth": 4, "max_samples": 950})) == base
    others = [
        of(card(), seed=8), of(card(), folds=4), of(card(parameters={"depth": 5, "max_samples": 900})),
        of(card(name="random_forest")), of(card(feature_hash="decaf")),
    ]  # fmt: skip
    assert len({base, *others}) == 6


def test_a_training_keeps_its_judgements_and_has_no_days(made_settings):
    trial = training_trial(TRAINING, card(), made_settings(), start=0, end=1)
    assert trial.metrics == {"out_of_fold": {"accuracy": 0.5, "roc": None}}
    assert len(trial.daily.day) == 0
    assert trial.kind is TrialKind.TRAINING


def test_a_fingerprint_knows_no_order():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"a": float("nan")})
