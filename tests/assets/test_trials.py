"""Trainings and backtests are recorded as they are materialised, and weighed against each other."""

from collections.abc import Iterator

import dagster as dg
import pytest

from assets.trials import read_review, said_of_luck, said_of_overfitting
from fx_dagster.backtest.trial_review import TrialReview
from fx_dagster.backtest.trials import NOT_RECORDED
from fx_dagster.settings import load_settings
from resources.trials import TrialLedger

BASE = ("attention", "cnn", "lstm", "random_forest", "xgboost")
MODELS = tuple(f"{name}_model" for name in (*BASE, "confidence", "meta", "ppo", "regime"))


@pytest.fixture(scope="module")
def run(filled):
    """Run assets by name, and return Dagster's result."""

    def materialise(*names: str) -> dg.ExecuteInProcessResult:
        job = dg.define_asset_job(
            "trials_test", selection=dg.AssetSelection.assets(*names), executor_def=dg.in_process_executor
        )
        definitions = dg.Definitions.merge(filled.definitions, dg.Definitions(jobs=[job]))
        return definitions.resolve_job_def("trials_test").execute_in_process(
            instance=filled.instance, raise_on_error=False
        )

    return materialise


@pytest.fixture
def ledger(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrialLedger]:
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    return TrialLedger(database_url)


def checks(result):
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def metadata(result, asset):
    return {name: one.value for name, one in result.asset_materializations_for_node(asset)[0].metadata.items()}


def test_without_postgres_everything_materialises_and_says_so(run):
    result = run(*MODELS, "backtest", "trial_review")
    assert result.success
    for asset in (*MODELS, "backtest"):
        assert metadata(result, asset)["trial"] == NOT_RECORDED
    assert metadata(result, "trial_review")["recorded"] == NOT_RECORDED
    found = checks(result)
    for name in ("the_sharpe_ratio_is_more_than_luck", "choosing_does_not_overfit"):
        assert not found[name].passed
        assert found[name].severity is dg.AssetCheckSeverity.WARN
        assert found[name].description == NOT_RECORDED
    assert found["the_newest_backtest_counts"].passed


def test_every_materialisation_is_recorded_and_every_configuration_counts(run, ledger, monkeypatch):
    first = run(*MODELS, "backtest", "trial_review")
    assert first.success
    assert {metadata(first, asset)["trial"] for asset in (*MODELS, "backtest")} == set(range(1, 11))
    rows = ledger.list("sample", "H1")
    assert sorted(row.trial.origin.asset for row in rows) == sorted(["backtest", *MODELS])
    assert {row.trial.origin.run_id for row in rows} == {first.run_id}
    # The backtest names the trainings whose predictions it replays.
    assert set(rows[-1].trial.trainings) == {row.trial.fingerprint for row in rows[:-1]}
    assert weighed(first) == (10, 1, 0)
    assert checks(first)["the_newest_backtest_counts"].passed

    again = run("backtest", "trial_review")
    assert len(ledger.list("sample", "H1")) == 11
    assert weighed(again) == (10, 1, 0)

    monkeypatch.setenv("FX_RISK_STOP_ATR", "1.5")
    other = run("backtest", "trial_review")
    assert weighed(other) == (11, 2, 0)
    found, before = metadata(other, "trial_review"), metadata(again, "trial_review")
    assert before["independent"] == pytest.approx(1.0)
    assert 1.0 < found["independent"] < 2.0
    assert len(found["table"].records) == 12
    assert [row.data["counts"] for row in found["table"].records].count(True) == 11
    assert "data:image/png" in found["sharpe_ratios"]

    monkeypatch.setenv("FX_TRAINING_SEED", "8")
    assert run("xgboost_model").success
    assert weighed(run("trial_review")) == (12, 2, 1)
    # The mixture of the new training and the old one is replayed: nothing is left that was only looked at.
    assert weighed(run("backtest", "trial_review")) == (13, 3, 0)


def weighed(result):
    assert result.success
    found = metadata(result, "trial_review")
    return found["trials"], found["backtests"], found["never_replayed"]


def test_what_the_checks_say_is_what_was_reviewed(run, ledger):
    result = run("backtest", "trial_review")
    found, review = checks(result), read_review(load_settings())
    shown = metadata(result, "trial_review")
    assert shown["deflated_sharpe"] == review.deflated_sharpe == review.probabilistic_sharpe
    luck, overfitting = found["the_sharpe_ratio_is_more_than_luck"], found["choosing_does_not_overfit"]
    assert luck.passed == (review.deflated_sharpe > 0.95)
    assert luck.description == said_of_luck(review)
    assert overfitting.passed
    assert overfitting.description.startswith("too few trials to tell: different backtests 1 of 5")


def test_a_backtest_that_was_not_recorded_is_noticed(run, ledger, monkeypatch):
    assert run("backtest", "trial_review").success
    with monkeypatch.context() as without:
        without.delenv("FX_POSTGRES_URL")
        without.setenv("FX_RISK_STOP_ATR", "1.7")
        assert run("backtest").success
    found = checks(run("trial_review"))["the_newest_backtest_counts"]
    assert not found.passed
    assert found.severity is dg.AssetCheckSeverity.ERROR


def test_without_a_recorded_backtest_nothing_is_claimed(run, ledger):
    found = checks(run("trial_review"))
    assert not any(check.passed for check in found.values())
    assert found["the_sharpe_ratio_is_more_than_luck"].description == "no backtest is recorded"


def test_a_verdict_follows_the_numbers():
    known = {"trials": 40, "backtests": 40, "independent": 12.5, "days": 250, "sharpe": 0.1, "luck": 0.05}
    assert said_of_luck(TrialReview(**known, deflated_sharpe=0.951)).startswith("significant")
    assert said_of_luck(TrialReview(**known, deflated_sharpe=0.949)).startswith("not significant")
    assert "12.5 independent" in said_of_luck(TrialReview(**known, deflated_sharpe=0.5))
    assert said_of_luck(TrialReview(days=12)).startswith("12 trading days are too few")
    assert "30%" in said_of_overfitting(TrialReview(candidates=9, common_days=200, overfitting=0.3))
