"""When drift asks for training, and when it does not."""

import json

import dagster as dg
import pandas as pd
import pytest
from dagster import DagsterRunStatus as Status

from assets.drift import DRIFT, DRIFT_CHECKS, FEATURES, PREDICTIONS, drift_check, feature_drift
from fx_dagster.drift_sensor import (
    REASON_MAX,
    DriftView,
    TrainingView,
    drift_sensor,
    drift_views,
    judge_drift,
    training_views,
)
from resources.dagster_resources import all_resources
from resources.lake import Lake

NOW, HOUR = 1_000_000.0, 3_600.0


def check(drift: float, *, age_h: float = 0.5, name: str = "features_are_as_in_training") -> DriftView:
    return DriftView(name, drift, "macd (PSI 2.10)", NOW - age_h * HOUR)


def training(status: Status, *, age_h: float, took_h: float | None = 0.1) -> TrainingView:
    created = NOW - age_h * HOUR
    return TrainingView("0123456789", status, created, None if took_h is None else created + took_h * HOUR)


def judge(checks: list[DriftView], *runs: TrainingView) -> tuple[str, str]:
    plea = judge_drift(checks, runs, now_s=NOW, strong=0.8, hours=72.0)
    assert bool(plea.reason) != bool(plea.skip)
    return plea.reason, plea.skip


def test_nothing_was_evaluated_yet() -> None:
    assert "drift is 0.00" in judge([])[1]


def test_weak_drift_asks_for_nothing() -> None:
    assert judge([check(0.1), check(0.79)]) == ("", "drift is 0.79, training is asked for from 0.8")


def test_strong_drift_asks_and_names_the_worst() -> None:
    reason, _ = judge([check(0.8), check(0.95, name="worse"), check(0.1)])
    assert reason == "worse (0.95): macd (PSI 2.10)"


@pytest.mark.parametrize(
    "status", [Status.QUEUED, Status.NOT_STARTED, Status.STARTING, Status.STARTED, Status.CANCELING]
)
def test_never_beside_a_training_that_waits_or_runs(status: Status) -> None:
    run = training(status, age_h=500, took_h=None)
    done = training(Status.SUCCESS, age_h=200)
    assert f"is {status.value.lower()}" in judge([check(1.0)], done, run)[1]


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.FAILURE, Status.CANCELED])
def test_not_sooner_than_the_setting_after_any_training(status: Status) -> None:
    assert "71.9 h ago, not 72" in judge([check(1.0)], training(status, age_h=72))[1]
    assert judge([check(1.0)], training(status, age_h=73))[0]
    assert not judge([check(1.0)], training(status, age_h=200), training(status, age_h=10))[0]


def test_what_was_seen_before_the_last_training_says_nothing_about_it() -> None:
    old = check(1.0, age_h=120)
    assert "before the last training" in judge([old], training(Status.SUCCESS, age_h=100))[1]
    assert judge([old], training(Status.SUCCESS, age_h=130))[0]


def test_a_run_that_never_ended_counts_from_its_beginning() -> None:
    assert judge([check(1.0)], training(Status.FAILURE, age_h=73, took_h=None))[0]


def test_a_reason_is_short_enough_for_a_tag() -> None:
    plea = judge_drift([DriftView("name", 1.0, "x" * 900, NOW)], [], now_s=NOW, strong=0.8, hours=1.0)
    assert len(plea.reason) == REASON_MAX


def test_an_instance_without_any_check_skips(free_home) -> None:
    with dg.DagsterInstance.ephemeral(tempdir=str(free_home)) as instance:
        assert drift_views(instance) == []
        assert training_views(instance) == []
        found = drift_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(found, dg.SkipReason)
    assert "drift is 0.00" in (found.skip_message or "")


@pytest.mark.parametrize(("drift", "passed"), [(0.0, True), (0.29, True), (0.3, False), (1.0, False)])
def test_a_check_warns_from_the_limit_on(free_home, drift: float, passed: bool) -> None:
    Lake(str(free_home / "lake" / "sample")).write(
        FEATURES, pd.DataFrame(), metadata={"moved": json.dumps((drift, "it moved"))}
    )
    made = drift_check(feature_drift, FEATURES, "moved", "one", "One.")
    found = made(**{name: all_resources()[name] for name in ("lake", "settings")})
    assert isinstance(found, dg.AssetCheckResult)
    assert (found.passed, found.severity, found.description) == (passed, dg.AssetCheckSeverity.WARN, "it moved")
    assert found.metadata[DRIFT].value == drift


def test_every_drift_check_is_read_by_the_sensor() -> None:
    keys = [key for one in DRIFT_CHECKS for key in one.check_keys]
    assert len(keys) == len(set(keys)) == 4
    assert {key.asset_key.to_user_string() for key in keys} == {"feature_drift", "prediction_drift"}
    assert FEATURES != PREDICTIONS
