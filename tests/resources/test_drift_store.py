"""Measured drift in a real PostgreSQL, and what a live session makes of it."""

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

from fx_dagster.core.tape import replay_tape
from fx_dagster.core.trading import TradingCore
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live.protocols import DriftGauge
from fx_dagster.live.records import SessionState
from fx_dagster.live_engine import trading_core
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.release import Canary, ReleaseManifest
from fx_dagster.settings import Settings
from resources.drift_store import DriftMeasurement, DriftStore, LiveDrift
from resources.live_feed import ReplayFeed, Tape
from resources.market.sample import SampleSource
from resources.model_provider import ReleasedModels
from resources.postgres import migrate, psycopg_url
from resources.releases import ReleaseStore
from resources.servers.ports import free_port
from resources.signing import ReleaseKeys
from resources.tapes import FileTape, latest_tape, read_tape
from tests.live.conftest import LogisticService, Session, Store

pytestmark = pytest.mark.integration

CLOCK = 1_514_757_600_000_000_000
MEASURED = DriftMeasurement("paper", 4, "c0ffee", CLOCK, 0.55)
AGE_MAX_NS = 7 * DAY_NS


@pytest.fixture
def store(database_url: str) -> DriftStore:
    migrate(database_url)
    return DriftStore(database_url)


def known(store: DriftStore, clock: int = CLOCK, *, release: int = 4, feature_hash: str = "c0ffee") -> float:
    """Return the drift that a session of the account knows at a market time."""
    live = LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS)
    asyncio.run(live.refresh(release, feature_hash))
    return live.at(clock, release=release, feature_hash=feature_hash)


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_newest_measurement_comes_back_exactly(store: DriftStore) -> None:
    assert store.newest("paper", 4, "c0ffee") is None
    newer = replace(MEASURED, measured_until=CLOCK + 1, drift=0.1 + 0.2)
    for measured in (MEASURED, newer):
        store.record(measured)
    assert store.newest("paper", 4, "c0ffee") == newer


@pytest.mark.parametrize(
    "other", [{"account": "shadow"}, {"release": 5}, {"feature_hash": "decaf"}, {"symbol": "EURUSD"}]
)
def test_what_is_of_others_is_not_used(store: DriftStore, other: dict[str, Any]) -> None:
    store.record(replace(MEASURED, **other))
    assert store.newest("paper", 4, "c0ffee") is None
    assert math.isnan(known(store))
    store.record(MEASURED)
    store.record(replace(MEASURED, drift=0.9, **other))
    assert known(store) == 0.55


@pytest.mark.parametrize("drift", [-0.01, 1.01, math.nan, math.inf])
def test_what_is_no_share_is_refused(store: DriftStore, drift: float) -> None:
    with pytest.raises(psycopg.errors.CheckViolation):
        store.record(replace(MEASURED, drift=drift))


@pytest.mark.parametrize("statement", ["UPDATE fx.drift SET drift = 0", "DELETE FROM fx.drift", "TRUNCATE fx.drift"])
def test_measurements_are_never_changed_or_removed(store: DriftStore, database_url: str, statement: str) -> None:
    store.record(MEASURED)
    with (
        psycopg.connect(psycopg_url(database_url)) as connection,
        pytest.raises(psycopg.errors.RaiseException, match="added, never changed"),
    ):
        connection.execute(statement.encode())
    assert store.newest("paper", 4, "c0ffee") == MEASURED


# -- what a session knows ---------------------------------------------------------------------------------------------


def test_nothing_measured_is_unknown(store: DriftStore) -> None:
    assert math.isnan(known(store))
    assert math.isnan(LiveDrift(store, "paper", age_max_ns=1).at(CLOCK, release=4, feature_hash="c0ffee"))


@pytest.mark.parametrize(
    ("later_ns", "drift"), [(0, 0.55), (AGE_MAX_NS, 0.55), (AGE_MAX_NS + 1, math.nan), (-1, math.nan)]
)
def test_a_measurement_counts_until_it_is_too_old_and_not_before_it_was_made(
    store: DriftStore, later_ns: int, drift: float
) -> None:
    store.record(MEASURED)
    np.testing.assert_equal(known(store, CLOCK + later_ns), drift)


def test_a_newer_measurement_is_looked_for_now_and_then_and_at_once_for_another_release(store: DriftStore) -> None:
    store.record(MEASURED)
    store.record(replace(MEASURED, release=5, drift=0.2))

    async def seen(live: LiveDrift, release: int) -> float:
        await live.refresh(release, "c0ffee")
        return live.at(CLOCK, release=release, feature_hash="c0ffee")

    async def followed(refresh_s: float) -> list[float]:
        live = LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS, refresh_s=refresh_s)
        first = await seen(live, 4)
        store.record(replace(MEASURED, drift=first / 2))
        return [first, await seen(live, 4), await seen(live, 5)]

    assert asyncio.run(followed(3_600.0)) == [0.55, 0.55, 0.2]
    assert asyncio.run(followed(0.0)) == [0.275, 0.1375, 0.2]


def test_what_is_known_stays_known_while_postgresql_is_away(
    store: DriftStore, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.record(MEASURED)
    live = LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS, refresh_s=0.0)

    async def looked() -> list[float]:
        await live.refresh(4, "c0ffee")
        live._store = DriftStore(f"postgresql+psycopg2://fx:hidden@127.0.0.1:{free_port()}/fx")
        await live.refresh(4, "c0ffee")
        known = [live.at(CLOCK, release=4, feature_hash="c0ffee")]
        await live.refresh(5, "c0ffee")
        known.append(live.at(CLOCK, release=5, feature_hash="c0ffee"))
        live._store = DriftStore(database_url)
        await live.refresh(4, "c0ffee")
        return [*known, live.at(CLOCK, release=4, feature_hash="c0ffee")]

    with caplog.at_level(logging.WARNING):
        np.testing.assert_equal(asyncio.run(looked()), [0.55, math.nan, 0.55])
    assert [record.message[:45] for record in caplog.records] == ["the drift of the features cannot be read: Pos"]
    assert "hidden" not in caplog.text


def manifest(version: int) -> ReleaseManifest:
    row = ModelInputs(
        features=np.zeros((1, 1), np.float32), sequence=np.zeros((1, 3, 2), np.float32),
        chart=np.zeros((1, 1, 5, 4), np.float32), time=np.zeros(1, np.int64), symbol=np.zeros(1, np.int64),
    )  # fmt: skip
    return ReleaseManifest(
        version=version, created_at="2017-12-29T22:00:00+00:00", models=("xgboost",), members=("xgboost",),
        symbols=("EURUSD",), quantised=(), device="cpu", feature_names=("a",), feature_hash="c0ffee", files={},
        canary=Canary.of(row, {"p_up_xgboost": np.full((1, 1), 0.5)}), metrics={}, lineage={}, cards={},
    )  # fmt: skip


def test_the_provider_knows_the_drift_of_the_release_that_is_asked(
    store: DriftStore, database_url: str, tmp_path: Path
) -> None:
    releases = ReleaseStore(database_url, ReleaseKeys(tmp_path / "keys"))
    for version in (4, 5):
        releases.record(manifest(version))
    store.record(MEASURED)
    store.record(replace(MEASURED, release=5, drift=0.2))

    async def followed(**options: Any) -> list[float]:
        live = LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS)
        provider = ReleasedModels(releases, f"127.0.0.1:{free_port()}", drift=live, **options)
        seen = [provider.drift_at(CLOCK)]
        for version in (None, 4, 5):
            if version is not None:
                releases.activate(version, reason="test")
            await provider.refresh()
            seen.append(provider.drift_at(CLOCK))
        seen.append(provider.drift_at(CLOCK + AGE_MAX_NS + 1))
        await provider.close()
        return seen

    np.testing.assert_equal(asyncio.run(followed()), [math.nan, math.nan, 0.55, 0.2, math.nan])
    np.testing.assert_equal(asyncio.run(followed(pinned=4))[1:4], [0.55] * 3)

    async def without_drift() -> float:
        provider = ReleasedModels(releases, f"127.0.0.1:{free_port()}")
        await provider.refresh()
        drift = provider.drift_at(CLOCK)
        await provider.close()
        return drift

    assert math.isnan(asyncio.run(without_drift()))


# -- a session --------------------------------------------------------------------------------------------------------


class AccountGauge:
    """The drift of a session whose models are of one release."""

    def __init__(self, live: LiveDrift, service: LogisticService) -> None:
        self._live, self._service = live, service
        asyncio.run(live.refresh(service.release, service.feature_hash))

    def drift_at(self, clock: int) -> float:
        return self._live.at(clock, release=self._service.release, feature_hash=self._service.feature_hash)


class GaugedSession(Session):
    """A live session that knows a drift."""

    gauge: DriftGauge | None = None

    def _parts(self, journal: Any) -> Any:
        return replace(super()._parts(journal), drift=self.gauge)


@pytest.fixture(scope="module")
def session_at() -> Callable[[], GaugedSession]:
    """Make sessions of twelve hours of the sample; their release is number 4."""
    source = SampleSource()
    end = source.span("EURUSD")[1] - 500 * HOUR_NS
    start = end - 12 * HOUR_NS
    service_hash = feature_catalogue(source.base_timeframe(), cross_symbol=False).hash

    def make() -> GaugedSession:
        state = SessionState(1, start, end, 0, start, start, None)
        return GaugedSession(source, Tape(start, end), Store(state), LogisticService(service_hash))

    return make


def models_weight(session: GaugedSession) -> float:
    """Return what the models counted for in the first decision at a bar's close."""
    first = next(row.outcome for row in session.store.decisions if row.kind == "bar")
    return 1.0 - first["weights"]["traditional"]


def test_a_planted_row_changes_the_models_weight_and_the_tape_replays_bit_for_bit(
    store: DriftStore, session_at: Callable[[], GaugedSession], tmp_path: Path
) -> None:
    plain, planted = session_at(), session_at()
    plain.run()
    store.record(
        DriftMeasurement("paper", 4, planted.service.feature_hash, measured_until=planted.tape.start, drift=0.55)
    )
    planted.gauge = AccountGauge(LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS), planted.service)
    tapes: list[FileTape] = []

    def recording(core: TradingCore) -> FileTape:
        folder = tmp_path / "paper" / "tapes"
        tapes.append(FileTape(folder, 1, core.symbols, {}, state=core.whole, size_mb_max=100.0))
        return tapes[-1]

    planted.recording = recording
    planted.run()
    tapes[-1].close()
    assert 0.0 < models_weight(planted) < models_weight(plain)
    assert {row.outcome["drift"] for row in planted.store.decisions} == {0.55}

    tape, _ = read_tape(latest_tape(tmp_path))
    assert [event.body["drift"] for event in tape.events if event.what == "conditions"] == [0.55]
    info = ReplayFeed(planted.source, planted.tape, speed=1.0).info
    core, _ = trading_core(Settings(live=planted.settings), info, planted.tape.start)
    marks = replay_tape(core, tape)
    assert len(marks) > 10
    assert all(mark.same for mark in marks)
    assert core.digest == planted.engine._core.digest != plain.engine._core.digest


@pytest.mark.parametrize(
    "other",
    [{"release": 3}, {"feature_hash": "decaf"}, {"account": "shadow"}, {"measured_until": -AGE_MAX_NS - DAY_NS}, None],
)
def test_rows_of_others_or_of_long_ago_or_none_change_nothing(
    store: DriftStore, session_at: Callable[[], GaugedSession], other: dict[str, Any] | None
) -> None:
    plain, planted = session_at(), session_at()
    plain.run()
    begin = planted.tape.start
    if other is not None:
        row = DriftMeasurement("paper", 4, planted.service.feature_hash, begin, 0.9)
        changed = {name: begin + value if name == "measured_until" else value for name, value in other.items()}
        store.record(replace(row, **changed))
    planted.gauge = AccountGauge(LiveDrift(store, "paper", age_max_ns=AGE_MAX_NS), planted.service)
    planted.run()
    assert {row.outcome["drift"] for row in planted.store.decisions} == {None}
    assert planted.engine._core.digest == plain.engine._core.digest
