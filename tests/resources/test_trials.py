"""The ledger of trials in a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from fx_dagster.backtest.overfitting import moments
from fx_dagster.backtest.trials import Daily, Origin, Trial, TrialKind, fingerprint
from fx_dagster.errors import ServerError
from resources.postgres import migrate, psycopg_url
from resources.servers.ports import free_port
from resources.trials import TrialLedger

pytestmark = pytest.mark.integration

ORIGIN = Origin("backtest", "run-1", "sample", ("EURUSD", "XAUUSD"), "H1", "c0ffee")


@pytest.fixture
def ledger(database_url: str) -> TrialLedger:
    migrate(database_url)
    return TrialLedger(database_url)


def backtest(run_id: str = "run-1", *, days: int = 40, **origin: str) -> Trial:
    rng = np.random.default_rng(days)
    configuration = {"stop_atr": 1e-05, "wide": 1e22, "quote": 'it\'s "quoted" ü', "weights": [0.1, 1.0]}
    return Trial(
        kind=TrialKind.BACKTEST,
        origin=replace(ORIGIN, run_id=run_id, **origin),
        configuration=configuration,
        start=1_483_221_600_000_000_001,
        end=1_514_757_600_000_000_000,
        metrics={"system": {"sharpe": 0.1, "payoff": None}},
        fingerprint=fingerprint(configuration),
        trainings=("a" * 64, "b" * 64),
        daily=Daily(np.arange(17_000, 17_000 + days), rng.normal(0, 0.01, days), rng.normal(0, 0.01, days)),
    )


def training(run_id: str = "run-1", asset: str = "xgboost_model") -> Trial:
    return Trial(
        TrialKind.TRAINING, replace(ORIGIN, asset=asset, run_id=run_id), {"seed": 7}, 1, 2, {}, fingerprint({"seed": 7})
    )


def test_a_backtest_comes_back_bit_for_bit(ledger: TrialLedger) -> None:
    kept = backtest()
    number = ledger.record(kept)
    (row,) = ledger.list("sample", "H1")
    assert row.id == number
    assert row.recorded_at.tzinfo is not None
    for name in ("day", "system", "control"):
        np.testing.assert_array_equal(getattr(row.trial.daily, name), getattr(kept.daily, name))
        assert getattr(row.trial.daily, name).dtype == getattr(kept.daily, name).dtype
    assert replace(row.trial, daily=kept.daily) == kept
    assert row.trial.identity == kept.identity


def test_a_training_comes_back_without_days(ledger: TrialLedger) -> None:
    ledger.record(training())
    (row,) = ledger.list("sample", "H1")
    assert len(row.trial.daily.day) == 0
    assert replace(row.trial, daily=training().daily) == training()


def test_moments_can_be_asked_for_in_sql(ledger: TrialLedger, database_url: str) -> None:
    ledger.record(backtest())
    ledger.record(training())
    flat = backtest("run-2")
    ledger.record(replace(flat, daily=replace(flat.daily, system=np.zeros(40))))
    with psycopg.connect(psycopg_url(database_url)) as connection:
        rows = connection.execute("SELECT days, sharpe, skewness, kurtosis FROM fx.trial ORDER BY id").fetchall()
    known = moments(backtest().daily.system)
    assert known is not None
    assert rows == [(40, known.sharpe, known.skewness, known.kurtosis), (None,) * 4, (40, None, None, None)]


def test_the_same_materialisation_is_recorded_once(ledger: TrialLedger) -> None:
    first = ledger.record(backtest())
    assert ledger.record(backtest()) == first
    assert ledger.record(backtest(days=50)) == first
    (row,) = ledger.list("sample", "H1")
    assert len(row.trial.daily.day) == 40


def test_another_run_kind_or_asset_is_another_record(ledger: TrialLedger) -> None:
    made = [backtest(), backtest("run-2"), training(), training(asset="random_forest_model")]
    numbers = [ledger.record(trial) for trial in made]
    assert numbers == sorted(set(numbers))
    assert [row.trial.origin for row in ledger.list("sample", "H1")] == [trial.origin for trial in made]


def test_many_processes_record_the_same_one_once(ledger: TrialLedger) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = set(pool.map(lambda _: ledger.record(backtest()), range(12)))
    assert len(numbers) == len(ledger.list("sample", "H1")) == 1


def test_sources_and_timeframes_are_apart(ledger: TrialLedger) -> None:
    ledger.record(backtest())
    ledger.record(backtest("run-2", source="histdata"))
    ledger.record(backtest("run-3", timeframe="M5"))
    assert [row.trial.origin.run_id for row in ledger.list("sample", "H1")] == ["run-1"]
    assert [row.trial.origin.run_id for row in ledger.list("histdata", "H1")] == ["run-2"]
    assert ledger.list("histdata", "M5") == []


@pytest.mark.parametrize(
    "statement", ["UPDATE fx.trial SET sharpe = 9", "DELETE FROM fx.trial", "TRUNCATE fx.trial"]
)  # fmt: skip
def test_nothing_is_ever_changed_or_removed(ledger: TrialLedger, database_url: str, statement: str) -> None:
    ledger.record(backtest())
    with (
        psycopg.connect(psycopg_url(database_url)) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="every one counts"),
    ):
        connection.execute(statement.encode())
    assert len(ledger.list("sample", "H1")) == 1


@pytest.mark.parametrize(
    "daily",
    [
        {"system": np.zeros(39)}, {"control": np.zeros(41)},
        {name: np.empty(0, dtype=np.int64) for name in ("day", "system", "control")},
    ],
)  # fmt: skip
def test_days_and_returns_belong_together(ledger: TrialLedger, daily: dict[str, np.ndarray]) -> None:
    broken = replace(backtest(), daily=replace(backtest().daily, **daily))
    with pytest.raises(psycopg.errors.CheckViolation):
        ledger.record(broken)
    assert ledger.list("sample", "H1") == []


def test_no_server_is_said_and_never_passed_over() -> None:
    ledger = TrialLedger(f"postgresql+psycopg2://u:hidden@127.0.0.1:{free_port()}/db")
    with pytest.raises(ServerError, match="does not answer"):
        ledger.record(backtest())
