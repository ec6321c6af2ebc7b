"""Drift of a made live session against really trained models: seen, named, and followed by a plea for training."""

import asyncio
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import psycopg
import pytest

from assets.drift import DRIFT, FEATURES, PREDICTIONS
from fx_dagster.drift_sensor import REASON_TAG, drift_sensor, drift_views
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.features.windows import windows_of
from fx_dagster.jobs import training_job
from fx_dagster.live.records import Checkpoint, DecisionRecord, JournalEntry
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.answer import DEEP_MODELS, DIRECTIONS, SIMPLE_MODELS
from fx_dagster.models.graph import run_graph
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.schedules import hourly_drift
from fx_dagster.settings import load_settings
from resources.drift_store import DriftMeasurement, DriftStore
from resources.journal import JournalTarget, PostgresJournal
from resources.live_store import LiveStore
from resources.model_repository import ModelRepository
from resources.postgres import migrate
from resources.releases import ReleaseStore

pytestmark = pytest.mark.integration

CHECKS = {
    "features_are_as_in_training", "rows_lie_near_training_rows", "predictions_are_as_out_of_fold",
    "calibration_is_as_out_of_fold",
}  # fmt: skip
ROWS = 300
SAID = (*SIMPLE_MODELS, *DEEP_MODELS)
"""Direction models whose probabilities are compared with those out of fold."""


@dataclass
class Trained:
    """An installation with a release, and what its last rows are."""

    installation: Any
    url: str
    times: np.ndarray
    X: np.ndarray
    p_up: np.ndarray
    feature_hash: str

    def run(self, group: str) -> dg.ExecuteInProcessResult:
        """Run a group of assets that the installation has no job for."""
        job = dg.define_asset_job(
            f"{group}_now", selection=dg.AssetSelection.groups(group), executor_def=dg.in_process_executor
        )
        definitions = dg.Definitions.merge(self.installation.definitions, dg.Definitions(jobs=[job]))
        return definitions.resolve_job_def(f"{group}_now").execute_in_process(
            instance=self.installation.instance, raise_on_error=False
        )

    def drift(self, account: str) -> tuple[dict[str, dg.AssetCheckEvaluation], dg.ExecuteInProcessResult]:
        """Look at an account's drift; return the checks by name, and the run."""
        os.environ["FX_LIVE_ACCOUNT"] = account
        done = self.run("drift")
        assert done.success
        return {found.check_name: found for found in done.get_asset_check_evaluations()}, done

    def live(self, account: str, X: np.ndarray, p_up: np.ndarray, **changes: Any) -> None:
        """Journal decisions on these rows, as a session does."""
        rows = len(X)
        values = {"release": 1, "kind": "bar", "feature_hash": self.feature_hash, "first": 1} | changes
        decisions = [
            DecisionRecord(
                "EURUSD", values["first"] + place, values["kind"], int(time) + HOUR_NS, int(time), 1, "", "hold", 0.1,
                {"p_up": [None if np.isnan(p) else float(p) for p in p_up[place]]}, X[place], values["feature_hash"],
                values["release"], None, 1.0, 0.5, 1_700_000_000_000_000_000 + place,
            )
            for place, time in enumerate(self.times[-rows:])
        ]  # fmt: skip
        asyncio.run(self._journal(account, decisions))

    async def _journal(self, account: str, decisions: list[DecisionRecord]) -> None:
        end = int(self.times[-1]) + 2 * HOUR_NS
        target = JournalTarget(account=account, fingerprint="tape", window=(int(self.times[0]), end), stale_s=30.0)
        journal = await PostgresJournal.open(self.url, target)
        journal.start()
        try:
            checkpoint = Checkpoint(journal.session.sequence + 1, end, end, b"state")
            await journal.post(JournalEntry(decisions=tuple(decisions), checkpoint=checkpoint))
        finally:
            await journal.close()


@pytest.fixture(scope="module")
def trained(filled, postgres_url: str) -> Iterator[Trained]:
    name, plain = f"test_{secrets.token_hex(6)}", postgres_url.replace("+psycopg2", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        os.environ["FX_POSTGRES_URL"] = f"{postgres_url.rsplit('/', 1)[0]}/{name}"
        try:
            yield _trained(filled)
        finally:
            for variable in ("FX_POSTGRES_URL", "FX_LIVE_ACCOUNT"):
                os.environ.pop(variable, None)
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _trained(filled) -> Trained:
    settings = load_settings()
    url = settings.postgres.url.get_secret_value()
    migrate(url)
    made = Trained(filled, url, np.empty(0), np.empty(0), np.empty(0), "")
    assert filled.run("models", partitioned=False).success
    assert made.run("serving").success
    manifest = ReleaseStore(url).manifest(1)
    frame = filled.lake.read("features", symbol="EURUSD").tail(ROWS)
    made.times = frame["time"].to_numpy(np.int64)
    made.X = np.ascontiguousarray(frame[list(manifest.feature_names)].to_numpy(np.float32))
    inputs = _inputs(filled.lake)
    outputs = run_graph(ModelRepository(settings.model_repository).contents(manifest), inputs.tensors())
    made.p_up = np.column_stack([outputs[f"p_up_{name}"][:, 0] for name in DIRECTIONS])
    made.feature_hash = manifest.feature_hash
    return made


def _inputs(lake) -> ModelInputs:
    """Return the newest rows as a live session asks about them."""
    catalogue = feature_catalogue(Timeframe.H1, cross_symbol=False)
    features = lake.read("features", symbol="EURUSD")
    bars = {
        timeframe: lake.read("bars", symbol="EURUSD", timeframe=timeframe.value) for timeframe in catalogue.timeframes
    }
    windows, enough = windows_of(features, bars, catalogue, symbol="EURUSD")
    newest = windows.take(np.arange(len(windows) - ROWS, len(windows)))
    X = features[enough].tail(ROWS)[list(catalogue.names)].to_numpy(np.float32)
    return ModelInputs(
        X, newest.sequence(), newest.chart(), features["time"].tail(ROWS).to_numpy(), np.zeros(ROWS, int)
    )


def told(trained: Trained, account: str) -> DriftMeasurement | None:
    """Return what the live session of an account is told of its features' drift from release 1."""
    return DriftStore(trained.url).newest(account, 1, trained.feature_hash)


def shifted(X: np.ndarray) -> np.ndarray:
    return X + 4 * X.std(axis=0) + 1


def test_a_release_names_what_it_was_trained_on(trained):
    manifest = ReleaseStore(trained.url).manifest(1)
    tables = {manifest.metrics[model]["training_reference"]["table"] for model in SAID}
    assert len(tables) == 1  # all of them were fitted on the same rows
    lake = trained.installation.lake
    assert lake.rows(tables.pop()) <= 2_000
    assert sum(name.startswith("training_reference") for name in lake.tables()) == 1


def test_what_cannot_be_told_is_said_and_fails_nothing(trained, monkeypatch):
    checks, _ = trained.drift("nobody")
    assert set(checks) == CHECKS
    assert all(check.passed for check in checks.values())
    assert {check.description for check in checks.values()} == {"account nobody has had no live session yet"}
    trained.live("young", trained.X[-119:], trained.p_up[-119:])
    checks, done = trained.drift("young")
    assert all(check.passed and "too few live rows to tell" in check.description for check in checks.values())
    shown = done.asset_materializations_for_node("feature_drift")[0].metadata["nothing_told"].value
    assert shown == "too few live rows to tell: 119 bars of 14 days, 120 are needed"
    assert told(trained, "young") is None
    monkeypatch.delenv("FX_POSTGRES_URL")
    checks, _ = trained.drift("nobody")
    assert all(check.passed and "FX_POSTGRES_URL is not set" in check.description for check in checks.values())


def test_weeks_that_no_model_has_seen_are_no_drift(trained):
    trained.live("alike", trained.X, trained.p_up)
    checks, done = trained.drift("alike")
    assert {name for name, check in checks.items() if not check.passed} == set()
    assert "mean distances" in checks["rows_lie_near_training_rows"].description
    metadata = done.asset_materializations_for_node("feature_drift")[0].metadata
    assert metadata["drift"].value < 0.3
    clock = LiveStore(trained.url).last_session("alike").clock
    assert told(trained, "alike") == DriftMeasurement(
        "alike", 1, trained.feature_hash, measured_until=clock, drift=metadata["drift"].value
    )
    assert len(metadata["features"].records) == trained.X.shape[1]
    assert "data:image/png" in metadata["farthest"].value
    predictions = trained.installation.lake.read(PREDICTIONS).set_index("model")
    assert set(predictions.index) == set(SAID)
    # Every decision was made fourteen days or less ago; the last horizon's outcomes are not known yet.
    rows, outcomes = predictions["rows"].iloc[0], predictions["outcomes"].iloc[0]
    assert 120 <= outcomes <= rows - load_settings().feature.horizon_bars
    assert (predictions["brier_low"] < predictions["brier"]).all()


def test_what_ends_after_the_sessions_clock_is_not_known_yet(trained):
    from assets.drift import known_outcomes

    labels = trained.installation.lake.read("labels", symbol="EURUSD").tail(50)
    said = pd.DataFrame({"symbol": "EURUSD", "time": labels["time"], "p_up": 0.5})
    clock = int(labels["end_time"].iloc[20])
    known = known_outcomes(trained.installation.lake, said, clock)
    assert len(known) == 21
    assert (known["end_time"] <= clock).all()
    assert known["up"].tolist() == labels["up"].head(21).tolist()
    assert known_outcomes(trained.installation.lake, said.head(0), clock).empty


def test_planted_drift_warns_is_named_and_asks_for_training(trained):
    trained.live("moved", shifted(trained.X), trained.p_up)
    checks, _ = trained.drift("moved")
    failed = {name for name, check in checks.items() if not check.passed}
    assert failed == {"features_are_as_in_training", "rows_lie_near_training_rows"}
    assert all(checks[name].severity is dg.AssetCheckSeverity.WARN for name in failed)
    said = checks["features_are_as_in_training"].description
    assert "PSI" in said
    assert "% of the models' attention" in said
    features = trained.installation.lake.read(FEATURES)
    assert features["feature"][0] in said
    assert features["drifted"].mean() > 0.9
    assert checks["features_are_as_in_training"].metadata[DRIFT].value > 0.8
    assert told(trained, "moved").drift > 0.8

    instance = trained.installation.instance
    views = {view.check: view for view in drift_views(instance)}
    assert set(views) == CHECKS
    assert views["features_are_as_in_training"].said == said
    asked = drift_sensor(dg.build_sensor_context(instance=instance))
    assert isinstance(asked, dg.SensorResult)
    reason = asked.run_requests[0].tags[REASON_TAG]
    assert reason.startswith(("features_are_as_in_training (", "rows_lie_near_training_rows ("))

    definitions = dg.Definitions.merge(trained.installation.definitions, dg.Definitions(jobs=[training_job]))
    instance.create_run_for_job(definitions.resolve_job_def(training_job.name), status=dg.DagsterRunStatus.STARTED)
    skipped = drift_sensor(dg.build_sensor_context(instance=instance))
    assert "is started" in skipped.skip_message


def test_planted_drift_of_predictions_is_seen_in_them_alone(trained):
    labels = trained.installation.lake.read("labels", symbol="EURUSD").set_index("time")["up"]
    up = labels.reindex(trained.times).fillna(1).to_numpy()
    trained.live("wrong", trained.X, np.column_stack([0.95 - 0.9 * up] * len(DIRECTIONS)))
    checks, done = trained.drift("wrong")
    failed = {name for name, check in checks.items() if not check.passed}
    assert failed == {"predictions_are_as_out_of_fold", "calibration_is_as_out_of_fold"}
    assert all(f"{name}: PSI" in checks["predictions_are_as_out_of_fold"].description for name in SAID)
    assert "Brier 0.9" in checks["calibration_is_as_out_of_fold"].description
    shown = done.asset_materializations_for_node("prediction_drift")[0].metadata
    assert (shown["moved"].value, shown["miscalibrated"].value) == (1, 1)
    assert "data:image/png" in shown["calibration"].value


def test_a_fortnight_of_hours_says_little_of_calibration(trained):
    """Outcomes of twelve hours overlap: about twenty are independent, and no bold answer is refuted by them."""
    trained.live("bold", trained.X, np.full_like(trained.p_up, 0.75))
    checks, _ = trained.drift("bold")
    assert not checks["predictions_are_as_out_of_fold"].passed
    assert checks["calibration_is_as_out_of_fold"].passed
    assert "with chance at least" in checks["calibration_is_as_out_of_fold"].description


def test_answers_of_another_release_are_not_this_ones(trained):
    trained.live("older", trained.X, np.full_like(trained.p_up, 0.93), release=77)
    checks, _ = trained.drift("older")
    assert all(check.passed for check in checks.values())
    assert "release 1: too few live rows" in checks["predictions_are_as_out_of_fold"].description
    assert "too few" not in checks["features_are_as_in_training"].description


def test_the_newest_answer_of_each_closed_bar_counts(trained):
    few, unanswered = trained.X[-5:], np.full((5, 2), np.nan)
    trained.live("twice", few, unanswered, release=None)
    trained.live("twice", few, trained.p_up[-5:], kind="retry", first=6)
    trained.live("twice", few + 9, trained.p_up[-5:], kind="move", first=11)
    trained.live("twice", few + 9, trained.p_up[-5:], feature_hash="decaf", first=16)
    trained.live("twice", np.empty((5, 0), np.float32), trained.p_up[-5:], first=21)
    window = {"feature_hash": trained.feature_hash, "since": int(trained.times[-4]), "until": int(trained.times[-1])}
    rows, X = LiveStore(trained.url).decided_rows("twice", **window, rows_max=100)
    assert rows["time"].tolist() == trained.times[-4:-1].tolist()
    assert rows["release"].tolist() == [1, 1, 1]
    np.testing.assert_allclose(np.array(rows["p_up"].tolist()), trained.p_up[-4:-1])
    np.testing.assert_array_equal(X, few[1:4])
    newest, _ = LiveStore(trained.url).decided_rows("twice", **window, rows_max=2)
    assert newest["time"].tolist() == trained.times[-3:-1].tolist()
    none, X = LiveStore(trained.url).decided_rows("absent", **window, rows_max=2)
    assert none.empty
    assert X.shape == (0, 0)


def test_the_schedule_looks_only_while_a_session_is_alive(trained, monkeypatch):
    with dg.build_schedule_context() as context:
        monkeypatch.setenv("FX_LIVE_ACCOUNT", "quiet")
        assert "no live session of account quiet" in hourly_drift(context).skip_message
        asyncio.run(_beat(trained.url))
        assert isinstance(hourly_drift(context), dg.RunRequest)
        monkeypatch.delenv("FX_POSTGRES_URL")
        assert "FX_POSTGRES_URL is not set" in hourly_drift(context).skip_message
        monkeypatch.setenv("FX_POSTGRES_URL", "postgresql://nobody@127.0.0.1:1/none")
        assert "cannot be read" in hourly_drift(context).skip_message


async def _beat(url: str) -> None:
    journal = await PostgresJournal.open(
        url, JournalTarget(account="quiet", fingerprint="tape", window=(1, 9), stale_s=30.0)
    )
    journal.start()
    journal.beat({"state": "running"})
    await journal.flush(5.0)
    await journal.close()
