"""The sensor with a real daemon: whatever happens, exactly one live session is alive, or none by a person's will.

One code server and one daemon serve all cases, which follow each other on one account, as they would in life.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pytest
from dagster import DagsterRunStatus, RunsFilter

from bench.serving import made_rows
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live_job import (
    ACCOUNT_TAG,
    JOB_NAME,
    LIVE_SESSION_KEY,
    PINNED_TAG,
    ROLE_TAG,
    SHADOW_ROLE_TAG,
    START_ALLOWANCE_S,
)
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.xgboost import XGBoostModel
from fx_dagster.settings import Settings, load_settings
from resources.live_store import LiveStore
from resources.model_repository import ModelRepository
from resources.postgres import connect, migrate
from resources.releases import ReleaseStore
from resources.servers.dagster_services import CodeServer, Daemon, install_instance, write_workspace
from resources.servers.process import child_environment
from resources.servers.triton import TritonServer
from resources.triton import serve_release

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

DEFINITIONS = Path(__file__).with_name("live_definitions.py")
STALE_S = 6.0


@dataclass
class Stack:
    """Dagster's processes, and what they did."""

    settings: Settings
    instance: dg.DagsterInstance
    store: LiveStore
    code: CodeServer
    daemon: Daemon

    def runs(self, role: Mapping[str, str] = ROLE_TAG) -> list[dg.DagsterRun]:
        """Return the runs of the live session, or of challengers, newest first."""
        return list(self.instance.get_runs(RunsFilter(job_name=JOB_NAME, tags=dict(role))))

    def started(self) -> str:
        """Return the id of the run that is up."""
        return next(run.run_id for run in self.runs() if run.status is DagsterRunStatus.STARTED)

    def engine_pid(self) -> int:
        """Return the process of the engine that wrote the newest heartbeat; 0: none runs."""
        status = self.store.status("paper")
        return status.pid if status is not None and psutil.pid_exists(status.pid) else 0

    def decisions(self, account: str = "paper") -> int:
        session = self.store.last_session(account)
        return 0 if session is None else len(self.store.decisions(session.session_id))

    def trading(self) -> bool:
        """Whether the newest run is up and its engine beats."""
        runs, status = self.runs(), self.store.status("paper")
        if not runs or runs[0].status is not DagsterRunStatus.STARTED or status is None:
            return False
        return bool(self.engine_pid()) and status.age_s < 3 and self.beats(runs[0].run_id) > 0

    def beats(self, run_id: str) -> int:
        """Return how many heartbeats a run observed."""
        records = self.instance.fetch_observations(LIVE_SESSION_KEY, limit=100).records
        return sum(record.run_id == run_id for record in records)


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.2)


def _settings(home: Path, url: str, triton_url: str) -> Settings:
    return load_settings(
        {
            "FX_HOME": str(home),
            "FX_POSTGRES_URL": url,
            "FX_TRITON_URL": triton_url,
            "FX_LIVE_REPLAY_DAYS": "200",
            "FX_LIVE_REPLAY_SPEED": "7200",
            "FX_LIVE_HEARTBEAT_S": "1",
            "FX_LIVE_HEARTBEAT_STALE_S": str(STALE_S),
        }
    )


@pytest.fixture(scope="module")
def stack(postgres_url: str) -> Iterator[Stack]:
    kept = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix="fx-sensor-"))
    name = f"sensor_{os.getpid()}"
    with connect(postgres_url) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    triton = TritonServer(Settings(home=home))
    triton.start()
    settings = _settings(home, f"{postgres_url.rsplit('/', 1)[0]}/{name}", triton.url)
    migrate(settings.postgres.url.get_secret_value())
    _release(settings, triton, versions=2)
    install_instance(settings)
    os.environ.update(child_environment(settings))
    code = CodeServer(settings, definitions=DEFINITIONS)
    instance: dg.DagsterInstance | None = None
    daemon: Daemon | None = None
    try:
        code.start()
        daemon = Daemon(settings, write_workspace(settings, code.port))
        instance = dg.DagsterInstance.from_config(str(settings.dagster_home))
        daemon.start()
        store = LiveStore(settings.postgres.url.get_secret_value())
        yield Stack(settings, instance, store, code, daemon)
    finally:
        triton.stop()
        _end(code, daemon, instance, home)
        with connect(postgres_url) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        os.environ.clear()
        os.environ.update(kept)


def _release(settings: Settings, triton: TritonServer, *, versions: int) -> None:
    """Serve some releases, of which the first is live."""
    store, repository = ReleaseStore.of(settings), ModelRepository(settings.model_repository)
    catalogue = feature_catalogue(Timeframe.H1, cross_symbol=False)  # of the sample, which is one symbol's
    for version in range(1, versions + 1):
        made = made_rows(version)
        X = np.random.default_rng(version).standard_normal((len(made), len(catalogue))).astype(np.float32)
        rows = replace(made, X=X, feature_names=catalogue.names, feature_hash=catalogue.hash)
        spec = rows.spec(seed=version, threads=1)
        models = [ModelArtifact.of(family(spec).fit(rows)) for family in (XGBoostModel, RandomForestModel)]
        sample = rows.take(np.arange(100)).inputs()
        manifest = repository.build(version, models, sample, symbols=rows.symbols, metrics={}, lineage={})
        serve_release(triton.url, triton.secret, manifest)
        store.record(manifest)
    store.activate(1, reason="test")


def _end(code: CodeServer, daemon: Daemon | None, instance: dg.DagsterInstance | None, home: Path) -> None:
    if daemon is not None:
        daemon.stop()
    code.stop()
    if instance is not None:
        instance.dispose()
    for process in psutil.process_iter():
        try:
            if process.environ().get("FX_HOME") == str(home) and process.pid != os.getpid():
                process.kill()
        except psutil.Error:
            continue
    shutil.rmtree(home, ignore_errors=True)


def test_1_the_sensor_starts_a_session(stack: Stack) -> None:
    until(stack.trading, within_s=START_ALLOWANCE_S)  # the first start may have the core to compile
    until(lambda: stack.decisions() > 0)
    run = stack.runs()[0]
    assert run.tags["fx/role"] == "live"
    record = stack.instance.fetch_observations(LIVE_SESSION_KEY, limit=1).records[0]
    assert record.asset_observation is not None
    assert {"level", "equity", "decisions", "latency"} <= record.asset_observation.metadata.keys() or stack.beats(
        run.run_id
    )


def test_2_a_challenger_decides_on_the_same_ticks_beside_the_live_release(stack: Stack) -> None:
    releases, live = ReleaseStore.of(stack.settings), stack.started()
    releases.stage(2, reason="test")
    until(lambda: stack.decisions("paper-shadow") > 20)
    (run,) = stack.runs(SHADOW_ROLE_TAG)
    assert (run.status, run.tags[ACCOUNT_TAG], run.tags[PINNED_TAG]) == (DagsterRunStatus.STARTED, "paper-shadow", "2")
    digest = releases.manifest(2).feature_hash
    told = {
        account: stack.store.decided_rows(account, feature_hash=digest, since=0, until=2**62, rows_max=100_000)
        for account in ("paper", "paper-shadow")
    }
    (live_rows, live_features), (shadow_rows, shadow_features) = told.values()
    both = live_rows.reset_index().merge(shadow_rows.reset_index(), on=["symbol", "time"], suffixes=("", "_shadow"))
    assert len(both) > 10
    places = both["index"].to_numpy(), both["index_shadow"].to_numpy()
    assert np.array_equal(live_features[places[0]], shadow_features[places[1]], equal_nan=True)
    # On a busy machine a decision may miss its deadline and stand without models.
    assert set(both["release"].dropna()) == {1}
    assert set(both["release_shadow"].dropna()) == {2}
    until(lambda: stack.beats(run.run_id) > 0)
    releases.retire(2, reason="test")
    until(lambda: stack.runs(SHADOW_ROLE_TAG)[0].status is DagsterRunStatus.CANCELED)
    assert stack.started() == live
    decided = stack.decisions()
    until(lambda: stack.decisions() > decided)
    assert len(stack.runs(SHADOW_ROLE_TAG)) == 1


def test_3_a_second_start_takes_no_tick_and_the_first_goes_on(stack: Stack) -> None:
    first, before = stack.runs()[0], stack.engine_pid()
    # As if the queue's limit had failed: the job is executed without asking it.
    arguments = ["-m", "dagster", "job", "execute", "-f", str(DEFINITIONS), "-j", JOB_NAME]
    second = subprocess.run(
        [sys.executable, *arguments], env=dict(os.environ), capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode != 0
    assert "traded by another engine" in second.stdout + second.stderr
    assert stack.engine_pid() == before
    decided = stack.decisions()
    until(lambda: stack.decisions() > decided)
    time.sleep(6)  # a whole sensor interval: the failed second run must not make it start a third
    started = [run.run_id for run in stack.runs() if run.status is DagsterRunStatus.STARTED]
    assert started == [first.run_id]


def test_4_a_killed_worker_is_replaced_and_its_engine_is_gone(stack: Stack) -> None:
    engine = psutil.Process(stack.engine_pid())
    old, worker, decided = stack.started(), engine.parent(), stack.decisions()
    assert worker is not None
    assert stack.code.process is not None
    assert worker.pid not in {os.getpid(), stack.code.process.pid}
    before = {run.run_id for run in stack.runs()}
    worker.send_signal(signal.SIGKILL)
    until(lambda: not psutil.pid_exists(engine.pid), 5)
    until(lambda: stack.runs()[0].run_id not in before)
    until(stack.trading)
    assert stack.instance.get_run_by_id(old).status is DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    until(lambda: stack.decisions() > decided)


def test_5_a_killed_tree_is_noticed_by_its_heartbeat(stack: Stack) -> None:
    engine = psutil.Process(stack.engine_pid())
    worker, before = engine.parent(), {run.run_id for run in stack.runs()}
    old = stack.started()
    assert worker is not None
    assert stack.code.process is not None
    for pid in (stack.code.process.pid, worker.pid, engine.pid):
        os.kill(pid, signal.SIGKILL)
    stack.code.process.wait(5)
    assert stack.instance.get_run_by_id(old).status is DagsterRunStatus.STARTED  # type: ignore[union-attr]
    stack.code.start()
    until(lambda: stack.runs()[0].run_id not in before)
    assert stack.instance.get_run_by_id(old).status is DagsterRunStatus.FAILURE  # type: ignore[union-attr]
    until(stack.trading)


def test_6_what_a_person_cancelled_stays_down_until_resumed(stack: Stack) -> None:
    run, engine = stack.runs()[0], stack.engine_pid()
    assert stack.instance.run_launcher.terminate(run.run_id)
    until(lambda: stack.instance.get_run_by_id(run.run_id).status is DagsterRunStatus.CANCELED, 20)  # type: ignore[union-attr]
    assert not psutil.pid_exists(engine)
    count = len(stack.runs())
    until(lambda: "cancelled by a person" in _last_skip(stack), 20)
    assert len(stack.runs()) == count
    stack.store.resume("paper", by_whom="a person")
    until(lambda: len(stack.runs()) > count)
    until(stack.trading)


def test_7_the_kill_switch_keeps_it_down_and_one_account_had_one_session(stack: Stack) -> None:
    stack.store.kill("paper", reason="enough", flatten=False, by_whom="a person")
    run = stack.runs()[0]
    assert stack.instance.run_launcher.terminate(run.run_id)
    until(lambda: "kill switch is on (enough)" in _last_skip(stack), 20)
    with connect(stack.settings.postgres.url.get_secret_value()) as connection:
        sessions = connection.execute("SELECT count(*) FROM live_session WHERE account = 'paper'").fetchone()
        twice = connection.execute(
            "SELECT symbol, bar_time FROM decision WHERE kind = 'bar' AND account = 'paper'"
            " GROUP BY symbol, bar_time HAVING count(*) > 1"
        ).fetchall()
    assert sessions == (1,)
    assert twice == []


def _last_skip(stack: Stack) -> str:
    from dagster._core.scheduler.instigation import TickStatus

    states = [
        state for state in stack.instance.all_instigator_state() if state.instigator_name == "live_trading_sensor"
    ]
    if not states:
        return ""
    ticks = stack.instance.get_ticks(states[0].instigator_origin_id, states[0].selector_id, limit=1)
    return ticks[0].skip_reason or "" if ticks and ticks[0].status is TickStatus.SKIPPED else ""
