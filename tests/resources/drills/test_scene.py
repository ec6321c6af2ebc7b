"""The scene of a drill: processes that are stopped go on whatever happens, and what is not ours is refused."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings, load_settings
from resources.drills.findings import Findings, wait_for
from resources.drills.scene import Scene, frozen, gone, kill, lately, stopped_by_signal
from resources.live_store import LiveStore
from resources.postgres import migrate
from resources.servers.state import GroupState, ServerState

from .conftest import SLEEP, beat

pytestmark = pytest.mark.integration


@pytest.fixture
def sleeper() -> Iterator[psutil.Process]:
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    yield psutil.Process(child.pid)
    child.kill()
    child.wait(10)


@pytest.mark.parametrize("how", ["calm", "error", "interrupted"])
def test_what_was_stopped_goes_on_whatever_happens(sleeper: psutil.Process, how: str) -> None:
    raised = {"error": ServerError("broken"), "interrupted": KeyboardInterrupt()}.get(how)
    try:
        with frozen([sleeper]):
            assert wait_for(lambda: stopped_by_signal(sleeper), 5.0)
            if raised is not None:
                raise raised
    except (ServerError, KeyboardInterrupt) as error:
        assert error is raised  # noqa: PT017 - one that is none of ours must not be caught
    assert wait_for(lambda: not stopped_by_signal(sleeper), 5.0)
    assert sleeper.is_running()


def test_one_that_ends_meanwhile_is_no_trouble(sleeper: psutil.Process) -> None:
    with frozen([sleeper]):
        kill(sleeper)
        assert wait_for(lambda: gone(sleeper), 5.0)
    assert not stopped_by_signal(sleeper) or gone(sleeper)


@pytest.fixture
def scene(free_home: Path, database_url: str) -> Scene:
    migrate(database_url)
    return Scene(load_settings({"FX_HOME": str(free_home), "FX_POSTGRES_URL": database_url}), Findings())


@pytest.fixture
def engine(free_home: Path) -> Iterator[int]:
    """A process that looks like an engine of this home."""
    environment = {**os.environ, "FX_HOME": str(free_home)}
    child = subprocess.Popen([sys.executable, "-c", SLEEP, "fx_dagster.live_engine"], env=environment)
    assert wait_for(lambda: "FX_HOME" in psutil.Process(child.pid).environ(), 5.0)
    yield child.pid
    child.kill()
    child.wait(10)


def test_the_engine_is_found_by_its_heartbeat(scene: Scene, engine: int) -> None:
    with pytest.raises(ServerError, match="never had a live session → start one"):
        scene.engine()
    beat(scene, engine)
    found = scene.engine(supervised=True)
    assert (found.process.pid, found.level, found.supervised) == (engine, 1, True)
    scene.with_models(found)
    beat(scene, engine, level=3, level_reason="no release is active")
    with pytest.raises(ServerError, match=r"level 3 \(no release is active\)"):
        scene.with_models(scene.engine())


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"age_s": 60.0}, "no engine of account paper is alive: running, last heartbeat 60 s ago"),
        ({"state": "stopped"}, "no engine of account paper is alive: stopped"),
        ({"host": "elsewhere"}, "runs on elsewhere"),
    ],
)
def test_an_engine_that_cannot_be_drilled_is_refused(
    scene: Scene, engine: int, said: dict[str, Any], problem: str
) -> None:
    beat(scene, engine, **said)
    with pytest.raises(ServerError, match=problem):
        scene.engine()


def test_no_other_process_is_taken_for_an_engine(scene: Scene, sleeper: psutil.Process, engine: int) -> None:
    beat(scene, sleeper.pid)
    with pytest.raises(ServerError, match=f"process {sleeper.pid} is no engine"):
        scene.engine()
    sleeper.kill()
    sleeper.wait(10)
    with pytest.raises(ServerError, match="cannot be looked at"):
        scene.engine()
    beat(scene, engine)
    other = Scene(scene.settings.model_copy(update={"home": Path("/somewhere/else")}), Findings())
    with pytest.raises(ServerError, match="belongs to"):
        other.engine()


def test_an_engine_in_the_foreground_is_not_killed(scene: Scene, free_home: Path) -> None:
    environment = {**os.environ, "FX_HOME": str(free_home)}
    child = subprocess.Popen([sys.executable, "-c", SLEEP, "/usr/bin/fx", "live"], env=environment)
    try:
        assert wait_for(lambda: "FX_HOME" in psutil.Process(child.pid).environ(), 5.0)
        beat(scene, child.pid)
        assert not scene.engine().supervised
        with pytest.raises(ServerError, match="nobody would start it again → let the sensor"):
            scene.engine(supervised=True)
    finally:
        child.kill()
        child.wait(10)


def test_only_servers_that_come_back_are_broken(scene: Scene, sleeper: psutil.Process) -> None:
    with pytest.raises(ServerError, match=r"no servers run in .*: nobody would start Triton again → start them: fx up"):
        scene.server("Triton")
    servers = (ServerState("Triton", sleeper.pid), ServerState("Valkey", note="yours (FX_REDIS_URL)"))
    GroupState.of_this_process("", servers, {}).write(scene.settings)
    assert scene.server("Triton").pid == scene.pid_of("Triton") == sleeper.pid
    with pytest.raises(ServerError, match=r"Valkey is not run by fx up here: yours \(FX_REDIS_URL\)"):
        scene.server("Valkey")
    with pytest.raises(ServerError, match="PostgreSQL is not run by fx up here"):
        scene.server("PostgreSQL")


def test_the_journals_last_problem_is_read_of_the_status(scene: Scene, engine: int) -> None:
    beat(scene, engine)
    row = LiveStore(scene.settings.postgres.url.get_secret_value()).status("paper")
    assert row is not None
    assert lately(row) == ("", 0.0)
    beat(scene, engine, journal_lately={"problem": "away", "since": "2026-03-18T00:00:00+00:00"})
    row = scene.live.status("paper")
    assert row is not None
    assert lately(row) == ("away", 1773792000.0)


def test_settings_of_a_home_are_enough(free_home: Path) -> None:
    assert Scene(Settings(home=free_home), Findings()).account == "paper"
