"""Running drills: refused on real accounts and beside another, recorded however they end; what they broke is mended."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import psutil
import pytest

from fx_dagster.errors import ServerError, SettingsError
from fx_dagster.settings import Settings, load_settings
from resources.drill_store import DrillStore
from resources.drills import bridge
from resources.drills import engine as engine_drills
from resources.drills.findings import Findings, wait_for
from resources.drills.runner import SCHEDULED, LocalDrills, account_kind, require_harmless
from resources.drills.scene import Scene
from resources.live_store import LiveStore
from resources.mt5.bridge.settings import BridgeSettings
from resources.postgres import migrate

from .conftest import SLEEP, Beats, beat

pytestmark = pytest.mark.integration


@pytest.fixture
def settings(free_home: Path, database_url: str) -> Settings:
    migrate(database_url)
    return load_settings({"FX_HOME": str(free_home), "FX_POSTGRES_URL": database_url})


@pytest.fixture
def engine(settings: Settings) -> Iterator[psutil.Process]:
    """A process that looks like an engine, and a heartbeat of it that nobody renews."""
    environment = {**os.environ, "FX_HOME": str(settings.home)}
    child = subprocess.Popen([sys.executable, "-c", SLEEP, "fx_dagster.live_engine"], env=environment)
    assert wait_for(lambda: "FX_HOME" in psutil.Process(child.pid).environ(), 5.0)
    beat(Scene(settings, Findings()), child.pid)
    yield psutil.Process(child.pid)
    child.kill()
    child.wait(10)


def records(settings: Settings) -> DrillStore:
    return DrillStore(settings.postgres.url.get_secret_value())


def _say(monkeypatch: pytest.MonkeyPatch, mode: Literal["demo", "real"]) -> None:
    monkeypatch.setattr(bridge, "bridge_of", lambda _: BridgeSettings(mode=mode))


def test_a_real_account_is_refused_unless_it_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    real = settings.model_copy(update={"live": settings.live.model_copy(update={"broker": "mt5"})})
    _say(monkeypatch, "demo")
    assert account_kind(settings) == "paper"
    assert account_kind(real) == "demo"
    require_harmless(real)
    _say(monkeypatch, "real")
    with pytest.raises(SettingsError, match=r"account paper is a real one.*--real-account paper"):
        LocalDrills(real).run("engine-kill", by_whom="a test")
    with pytest.raises(SettingsError, match="is a real one"):
        LocalDrills(real, real_account="another").run("engine-kill", by_whom="a test")
    with pytest.raises(ServerError, match="never had a live session"):
        LocalDrills(real, real_account="paper").run("engine-kill", by_whom="a test")
    assert records(settings).newest("paper") == []


def test_the_list_names_what_can_be_run_here(settings: Settings) -> None:
    names = [drill.name for drill in LocalDrills(settings).list()]
    assert "bridge-kill" not in names
    assert set(SCHEDULED) < set(names)
    assert "postgres-down" not in SCHEDULED
    real = settings.model_copy(update={"live": settings.live.model_copy(update={"broker": "mt5"})})
    assert "bridge-kill" in [drill.name for drill in LocalDrills(real).list()]
    with pytest.raises(KeyError):
        LocalDrills(settings).run("bridge-kill", by_whom="a test")


def test_a_refused_drill_leaves_no_record_and_no_lock(settings: Settings, engine: psutil.Process) -> None:
    for _ in range(2):
        with pytest.raises(ServerError, match="no servers run in"):
            LocalDrills(settings).run("cache-down", by_whom="a test")
    assert records(settings).newest("paper") == []


def test_two_drills_at_once_are_refused(settings: Settings, engine: psutil.Process) -> None:
    refusals: list[str] = []

    def second(_: str) -> None:
        with pytest.raises(ServerError, match="another drill runs in this home"):
            LocalDrills(settings).run("kill-switch", by_whom="another")
        refusals.append("refused")
        raise ServerError("enough", mend="nothing")

    with pytest.raises(ServerError, match="enough"):
        LocalDrills(settings, on_step=second).run("engine-stop", by_whom="a test")
    assert refusals == ["refused"]


def test_a_drill_that_is_interrupted_lets_the_engine_go_on_and_is_recorded(
    settings: Settings, engine: psutil.Process
) -> None:
    def interrupt(text: str) -> None:
        assert "engine stopped" in text
        assert wait_for(lambda: engine.status() == psutil.STATUS_STOPPED, 5.0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalDrills(settings, on_step=interrupt).run("engine-stop", by_whom="a test")
    assert wait_for(lambda: engine.status() != psutil.STATUS_STOPPED, 5.0)
    (row,) = records(settings).newest("paper")
    assert (row.passed, row.text) == (False, "NOT the drill runs to its end: KeyboardInterrupt")


@pytest.mark.parametrize("ends", [True, False])
def test_an_engine_that_was_overtaken_while_it_stood_still_must_end(
    settings: Settings, engine: psutil.Process, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    monkeypatch.setattr(engine_drills, "STOP_S", 2.2)
    monkeypatch.setattr(engine_drills, "FENCED_S", 0.5)
    second = subprocess.Popen([sys.executable, "-c", SLEEP, "fx_dagster.live_engine"])
    other = Beats(Scene(settings, Findings()), second.pid, epoch=2)
    entered = contextlib.ExitStack()

    def overtake(text: str) -> None:
        if text.startswith("its heartbeat stands still"):
            entered.enter_context(other)
            if ends:
                engine.kill()

    try:
        with entered:
            result = LocalDrills(settings, on_step=overtake).carry_out("engine-stop", by_whom="a test")
    finally:
        second.kill()
        second.wait(10)
    found = {check.what: check for check in result.checks}
    assert found["an engine goes on"].seen.startswith("another one")
    assert found["the stopped one is fenced"].passed is ends
    assert result.passed is ends
    assert ("STILL RUNS" in result.text) is not ends


def test_an_engine_that_never_comes_back_fails_the_drill(
    settings: Settings, engine: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_drills, "WAIT_S", 0.3)
    result = LocalDrills(settings).carry_out("engine-kill", by_whom="a test")
    assert not result.passed
    assert result.text == "NOT another engine goes on: not within 0.3 s"
    (row,) = records(settings).newest("paper")
    assert (row.name, row.by_whom, row.passed, row.text) == ("engine-kill", "a test", False, result.text)
    assert row.ended_at is not None
    assert row.checks[0]["limit_s"] == engine_drills.BACK_S


def test_the_kill_switch_is_let_go_also_where_no_engine_answers(
    settings: Settings, engine: psutil.Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = LiveStore(settings.postgres.url.get_secret_value())

    def person(text: str) -> None:
        if text == "kill switch turned on":
            assert live.kill_state("paper").reason == "drill by a test"
            raise ServerError("no engine", mend="none")

    with pytest.raises(ServerError, match="no engine"):
        LocalDrills(settings, on_step=person).run("kill-switch", by_whom="a test")
    state = live.kill_state("paper")
    assert (state.engaged, state.resumed_at) == (False, None)
    (row,) = records(settings).newest("paper")
    assert row.passed is False
    assert "ServerError: no engine" in row.text


def test_a_switch_that_a_person_turned_meanwhile_stays_as_it_is(settings: Settings, engine: psutil.Process) -> None:
    live = LiveStore(settings.postgres.url.get_secret_value())

    def person(text: str) -> None:
        if text == "kill switch turned on":
            live.kill("paper", reason="a person", flatten=True, by_whom="a person")
            raise ServerError("enough", mend="nothing")

    with pytest.raises(ServerError, match="enough"):
        LocalDrills(settings, on_step=person).run("kill-switch", by_whom="a test")
    state = live.kill_state("paper")
    assert (state.engaged, state.reason, state.flatten) == (True, "a person", True)
