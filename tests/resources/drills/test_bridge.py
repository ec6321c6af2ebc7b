"""The bridge's worker killed on purpose: a real bridge over a simulated terminal, and an engine that only beats."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fx_dagster.settings import Settings, load_settings
from resources.drills import bridge
from resources.drills.findings import Findings, wait_for
from resources.drills.runner import LocalDrills
from resources.drills.scene import Scene
from resources.mt5.bridge.client import BridgeAddress, BridgeClient
from resources.mt5.bridge.settings import BridgeSettings
from resources.postgres import migrate
from resources.servers.ports import free_port

from .conftest import SLEEP, Beats, beat

pytestmark = pytest.mark.integration


@pytest.fixture
def own(free_home: Path) -> BridgeSettings:
    return BridgeSettings(
        terminal="simulated", login="77", server="Sim-Demo", port=free_port(), folder=free_home / "bridge",
        heartbeat_s=1.0,
    )  # fmt: skip


@pytest.fixture
def settings(free_home: Path, database_url: str) -> Settings:
    migrate(database_url)
    found = load_settings({"FX_HOME": str(free_home), "FX_POSTGRES_URL": database_url})
    return found.model_copy(update={"live": found.live.model_copy(update={"broker": "mt5"})})


@pytest.fixture
def running(own: BridgeSettings, free_home: Path) -> Iterator[None]:
    variables = {
        f"FX_BRIDGE_{name.upper()}": str(getattr(own, name))
        for name in ("terminal", "login", "server", "port", "folder", "heartbeat_s")
    }
    source = {"FX_SOURCE_KIND": "simulator", "FX_SOURCE_SYMBOLS": "EURUSD", "FX_SOURCE_SIMULATOR_DAYS": "4"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FX_")}
    environment = kept | variables | source | {"FX_LIVE_REPLAY_DAYS": "1.5", "FX_HOME": str(free_home)}
    with (free_home / "bridge.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "resources.mt5.bridge.server"], env=environment, stdout=log, stderr=log
        )
    try:
        with BridgeClient(BridgeAddress(f"127.0.0.1:{own.port}"), deadline_s=5.0) as client:
            assert wait_for(lambda: client.health().ready, 90.0), (free_home / "bridge.log").read_text()[-2000:]
        yield
    finally:
        process.terminate()
        process.wait(20)


def test_the_bridge_starts_another_worker(
    settings: Settings, own: BridgeSettings, running: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "bridge_of", lambda _: own)
    environment = {**os.environ, "FX_HOME": str(settings.home)}
    engine = subprocess.Popen([sys.executable, "-c", SLEEP, "fx_dagster.live_engine"], env=environment)
    assert wait_for(lambda: "FX_HOME" in psutil.Process(engine.pid).environ(), 5.0)
    scene = Scene(settings, Findings())
    beat(scene, engine.pid)
    try:
        with Beats(scene, engine.pid):
            result = LocalDrills(settings).carry_out("bridge-kill", by_whom="a test")
    finally:
        engine.kill()
        engine.wait(10)
    assert result.passed, result.text
    assert result.checks[0].what == "the bridge has another worker and is ready"
    assert result.checks[0].seconds is not None
    assert result.checks[0].seconds > 0
