"""Every drill, really run: against a real ``fx up`` whose sensor keeps a live session of the sample with models.

What is judged here is what happened, never how long it took: a busy machine may miss a limit of seconds.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from bench.serving import made_rows
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live.availability import overall
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.xgboost import XGBoostModel
from fx_dagster.settings import Settings, load_settings
from resources.availability_store import AvailabilityStore
from resources.drill_store import DrillStore
from resources.live_store import LiveStore
from resources.model_repository import ModelRepository
from resources.releases import ReleaseStore
from resources.servers.state import running_state
from resources.servers.triton import read_secret
from resources.triton import serve_release

pytestmark = [pytest.mark.integration, pytest.mark.timeout(500)]

ROOT = Path(__file__).parents[2]
FX = [sys.executable, "-m", "fx_dagster.cli"]
DEFINITIONS = """
import dagster as dg
from fx_dagster.drill_schedule import drill_job, weekly_drills
from fx_dagster.live_job import live_session, live_trading_job
from fx_dagster.sensors import live_trading_sensor

defs = dg.Definitions(
    assets=[live_session], jobs=[live_trading_job, drill_job], schedules=[weekly_drills], sensors=[live_trading_sensor]
)
"""
LIVE = {
    "FX_SOURCE_KIND": "simulator",
    "FX_SOURCE_SIMULATOR_SYMBOLS": "1",
    "FX_SOURCE_START": "2017-03-06",
    "FX_SOURCE_END": "2017-06-03",
    # From a Monday on, four bars a second: no weekend comes within twenty minutes.
    "FX_LIVE_REPLAY_DAYS": "11.8",
    "FX_LIVE_REPLAY_SPEED": "240",
    "FX_LIVE_HEARTBEAT_S": "1",
    # A busy machine is late now and then: what is tried here is what happens without Triton.
    "FX_TRITON_DEADLINE_MS": "200",
}


def until(condition: Callable[[], bool], within_s: float = 90.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.2)


@dataclass
class Place:
    """A home in which everything runs."""

    home: Path
    settings: Settings
    store: LiveStore

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
        return {**kept, **LIVE, "FX_HOME": str(self.home)}

    def fx(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*FX, *arguments], env=self.environment() | extra, capture_output=True, text=True, timeout=300, check=False,
            cwd=ROOT,
        )  # fmt: skip

    def drill(self, name: str) -> dict[str, dict[str, Any]]:
        """Run a drill and return its checks by what was expected; all but the durations must be as expected."""
        until(self.sound)
        done = self.fx("drill", name, "--json")
        assert done.stdout, done.stderr
        result = json.loads(done.stdout)
        late = [one for one in result["checks"] if one["passed"] is False and one["seconds"] is not None]
        wrong = [one for one in result["checks"] if one["passed"] is False and one["seconds"] is None]
        assert wrong == [], done.stderr
        assert result["passed"] is not bool(late)
        assert done.returncode == (1 if late else 0)
        row = DrillStore(self.url).newest("paper", limit=1)[0]
        assert (row.id, row.name, row.passed) == (result["id"], name, result["passed"])
        assert [one["what"] for one in row.checks] == [one["what"] for one in result["checks"]]
        return {one["what"]: one for one in result["checks"]}

    @property
    def url(self) -> str:
        return self.settings.postgres.url.get_secret_value()

    def sound(self) -> bool:
        """Whether the engine decides with models."""
        row = self.store.status("paper")
        return row is not None and row.age_s < 3 and row.status["level"] in (1, 2) and psutil.pid_exists(row.pid)


def _serve(settings: Settings) -> None:
    """Serve a small release, which every later Triton of this home loads by itself."""
    catalogue = feature_catalogue(Timeframe.M1, cross_symbol=False)
    made = made_rows(1)
    X = np.random.default_rng(1).standard_normal((len(made), len(catalogue))).astype(np.float32)
    rows = replace(made, X=X, feature_names=catalogue.names, feature_hash=catalogue.hash)
    spec = rows.spec(seed=1, threads=1)
    models = [ModelArtifact.of(family(spec).fit(rows)) for family in (XGBoostModel, RandomForestModel)]
    sample = rows.take(np.arange(100)).inputs()
    manifest = ModelRepository.of(settings).build(1, models, sample, symbols=rows.symbols, metrics={}, lineage={})
    serve_release(settings.triton.url, read_secret(settings), manifest)
    releases = ReleaseStore.of(settings)
    releases.record(manifest)
    releases.activate(1, reason="test")


def _wait_ready(process: subprocess.Popen[str], errors: Path) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line == "}\n":
            return
    raise AssertionError(f"fx up ended: {errors.read_text()}")


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    kept = dict(os.environ)
    home = Path(tempfile.mkdtemp(prefix="fx-drill-"))
    home.chmod(0o711)
    (home / "definitions.py").write_text(DEFINITIONS)
    empty = Place(home, Settings(home=home), LiveStore("postgresql://nowhere/none"))
    with (home / "up.err").open("w") as errors:
        up = subprocess.Popen(
            [*FX, "up", "--json", "--definitions", str(home / "definitions.py")], env=empty.environment(),
            stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, start_new_session=True,
        )  # fmt: skip
    try:
        _wait_ready(up, home / "up.err")
        state = running_state(Settings(home=home))
        assert state is not None
        for name in tuple(os.environ):
            if name.startswith(("FX_", "DAGSTER_")):
                del os.environ[name]
        addresses = {name: value for name, value in state.environment.items() if name.endswith("_URL")}
        settings = load_settings({**LIVE, "FX_HOME": str(home), **addresses})
        _serve(settings)
        yield Place(home, settings, LiveStore(settings.postgres.url.get_secret_value()))
    finally:
        up.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            up.wait(40)
        up.kill()
        if up.stdout is not None:
            up.stdout.close()
        os.environ.clear()
        os.environ.update(kept)
        shutil.rmtree(home, ignore_errors=True)


def test_triton_killed_costs_a_level_and_comes_back(place: Place) -> None:
    until(place.sound, 200)  # the first start may have the core to compile
    checks = place.drill("triton-kill")
    assert checks["Triton answers again with its models"]["seconds"] > 0
    assert checks["the next decision is at a lower level"]["seen"].startswith("level 3 ")


def test_triton_stopped_is_replaced_and_no_decision_waits(place: Place) -> None:
    before = place.fx("status", "--json")
    checks = place.drill("triton-stop")
    assert checks["it is stopped, its connections stay open"]["passed"]
    assert checks["the next decision is at a lower level"]["passed"]
    waits = checks["no decision waits longer than its deadline of 200 ms"]
    assert waits["seen"].endswith("ms at most")
    assert pid_of(before.stdout, "Triton") != pid_of(place.fx("status", "--json").stdout, "Triton")


def pid_of(status: str, server: str) -> int:
    return next(one["pid"] for one in json.loads(status)["servers"] if one["name"] == server)


def test_without_the_cache_decisions_go_on(place: Place) -> None:
    checks = place.drill("cache-down")
    assert checks["decisions go on in the same session"]["passed"]
    assert checks["the engine lives on"]["passed"]


def test_without_postgresql_nothing_is_opened_and_all_is_joined(place: Place) -> None:
    checks = place.drill("postgres-down")
    assert checks["stopped: the status says journal_problem"]["passed"]
    assert checks["stopped: no entries while it is away"]["passed"]
    assert "at level 4" in checks["stopped: no entries while it is away"]["seen"]
    assert checks["killed: the same engine joins again"]["passed"]
    assert checks["killed: PostgreSQL answers again"]["seconds"] > 0


def test_a_killed_engine_is_replaced_and_nothing_is_done_twice(place: Place) -> None:
    before = place.store.status("paper")
    checks = place.drill("engine-kill")
    assert checks["it goes on with the session, under a higher epoch"]["passed"]
    assert checks["decisions go on in the same session"]["passed"]
    after = place.store.status("paper")
    assert before is not None
    assert after is not None
    assert before.pid != after.pid


def test_a_stopped_engine_goes_on(place: Place) -> None:
    before = place.store.status("paper")
    checks = place.drill("engine-stop")
    assert checks["an engine goes on"]["seen"].startswith("the same one")
    after = place.store.status("paper")
    assert before is not None
    assert after is not None
    assert (before.pid, before.epoch) == (after.pid, after.epoch)


def test_the_kill_switch_holds_over_a_restart_and_is_let_go(place: Place) -> None:
    before = place.store.kill_state("paper")
    checks = place.drill("kill-switch")
    assert checks["it survives a restart"]["passed"]
    assert checks["nothing is opened while it is on"]["passed"]
    after = place.store.kill_state("paper")
    assert not after.engaged
    assert after.resumed_at == before.resumed_at, "no halt may be ended by a drill"


def test_a_drill_refuses_where_it_must(place: Place) -> None:
    records = len(DrillStore(place.url).newest("paper"))
    nobody = place.fx("drill", "cache-down", FX_LIVE_ACCOUNT="nobody")
    assert "account nobody never had a live session" in nobody.stderr
    unknown = place.fx("drill", "earthquake")
    assert "there is no drill 'earthquake' here → one of triton-kill" in unknown.stderr
    place.store.kill("paper", reason="a person", flatten=False, by_whom="a person")
    on = place.fx("drill", "kill-switch")
    assert "is on already" in on.stderr
    assert place.store.kill_state("paper").reason == "a person"
    place.store.resume("paper", by_whom="a person")
    assert len(DrillStore(place.url).newest("paper")) == records, "what was refused is no drill"
    listed = json.loads(place.fx("drill", "list", "--json").stdout)
    assert [one["name"] for one in listed][:2] == ["triton-kill", "triton-stop"]
    assert "bridge-kill" not in [one["name"] for one in listed]
    logged = json.loads(place.fx("drill", "log", "--json").stdout)
    assert len(logged) == records


def test_the_control_server_offers_and_runs_them(place: Place) -> None:
    until(place.sound)
    state = running_state(place.settings)
    assert state is not None
    url = next(one.address for one in state.servers if one.name == "Control")
    token = place.fx("control", "token", "--role", "operate", "--name", "test").stdout.strip()

    def ask(method: str, path: str) -> Any:
        fresh = {"X-Fx-Nonce": os.urandom(12).hex(), "X-Fx-Timestamp": str(int(time.time()))}
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", **fresh}
        body = None if method == "GET" else b"{}"
        request = urllib.request.Request(f"{url}{path}", body, headers, method=method)  # noqa: S310 - loopback
        with urllib.request.urlopen(request, timeout=120) as answer:  # noqa: S310
            return json.load(answer)

    assert [one["name"] for one in ask("GET", "/v1/drills")][:2] == ["triton-kill", "triton-stop"]
    result = ask("POST", "/v1/drills/engine-stop")["result"]
    (row,) = DrillStore(place.url).newest("paper", limit=1)
    assert (row.name, row.by_whom) == ("engine-stop", "control:test")
    assert (row.passed, row.text, row.seconds) == (result["passed"], result["text"], result["seconds"])


def test_dagster_runs_drills(place: Place) -> None:
    until(place.sound)
    records = len(DrillStore(place.url).newest("paper"))
    script = 'eval "$("$1" -m fx_dagster.cli env)" && "$1" -m dagster job execute -f "$2" -j drill_job -c "$3"'
    config = place.home / "drills.yaml"
    config.write_text("ops: {drills: {config: {names: [cache-down, earthquake]}}}\n")
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", sys.executable, str(place.home / "definitions.py"), str(config)],
        env=place.environment(), capture_output=True, text=True, timeout=200, check=False, cwd=ROOT,
    )  # fmt: skip
    said = done.stdout + done.stderr
    row = DrillStore(place.url).newest("paper", limit=1)[0]
    assert len(DrillStore(place.url).newest("paper")) == records + 1, said
    assert row.by_whom.startswith("drill_job ")
    assert (done.returncode == 0) is bool(row.passed), said
    assert "drill earthquake is refused: there is no such drill here" in said


def test_the_outages_are_in_the_availability(place: Place) -> None:
    whole = overall(AvailabilityStore(place.url).by_day("paper").values())
    assert whole.decision is not None
    assert whole.ai is not None
    assert 0.3 < whole.ai <= whole.decision < 1.0
    assert whole.required_s - whole.decision_s > 5.0, "engines and PostgreSQL were away for some seconds"
    assert whole.held_s > 0, "the kill switch was on"
