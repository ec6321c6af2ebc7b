"""Who runs the servers of a home."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from fx_dagster.errors import ServerError
from fx_dagster.settings import load_settings
from resources.servers.state import GroupState, HomeLock, ServerState, read_state, running_state, state_file


def test_written_state_is_read_back_and_private(free_home: Path) -> None:
    settings = load_settings()
    servers = (ServerState("PostgreSQL", os.getpid(), "127.0.0.1:5", "/log"), ServerState("Triton", note="not here"))
    environment = {"FX_POSTGRES_URL": "postgresql://u:secret@h/d"}
    state = GroupState.of_this_process("http://127.0.0.1:3000", servers, environment)
    state.write(settings)
    assert read_state(settings) == state
    assert running_state(settings) == state
    assert stat.S_IMODE(state_file(settings).stat().st_mode) == 0o600
    assert "secret" not in repr(state)
    assert [server.alive for server in state.servers] == [True, False]


def test_a_reused_pid_is_not_the_owner(free_home: Path) -> None:
    settings = load_settings()
    GroupState(os.getpid(), 1.0, "2026-01-01T00:00:00+00:00", "").write(settings)
    assert running_state(settings) is None


def test_no_state(free_home: Path) -> None:
    assert read_state(load_settings()) is None
    assert running_state(load_settings()) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"servers": [{"colour": 1}]}'])
def test_broken_state_names_the_file(free_home: Path, text: str) -> None:
    settings = load_settings()
    state_file(settings).parent.mkdir(parents=True)
    state_file(settings).write_text(text)
    with pytest.raises(ServerError, match=str(state_file(settings))):
        read_state(settings)


def test_second_owner_is_refused_and_told_of_the_first(free_home: Path) -> None:
    settings = load_settings()
    first = HomeLock(settings)
    first.acquire()
    with pytest.raises(ServerError, match=rf"the servers of {free_home} are run by .*\(pid {os.getpid()}\)"):
        HomeLock(settings).acquire()
    assert HomeLock(settings).holder_pid() == os.getpid()
    first.release()
    assert HomeLock(settings).holder_pid() == 0
    first.acquire()
    first.release()


def test_lock_of_a_killed_owner_is_free(free_home: Path) -> None:
    program = "import os; from fx_dagster.settings import load_settings; from resources.servers.state import HomeLock; "
    program += "lock = HomeLock(load_settings()); lock.acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", program], check=False, timeout=30)
    lock = HomeLock(load_settings())
    assert lock.holder_pid() == 0
    lock.acquire()
    lock.release()


def test_home_that_cannot_be_made_is_named(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (free_home / "file").write_text("")
    monkeypatch.setenv("FX_HOME", str(free_home / "file" / "home"))
    with pytest.raises(ServerError, match="cannot write to FX_HOME"):
        HomeLock(load_settings()).acquire()


def test_state_is_json_for_other_programs(free_home: Path) -> None:
    settings = load_settings()
    GroupState.of_this_process("page", (ServerState("Valkey"),), {}).write(settings)
    assert json.loads(state_file(settings).read_text())["servers"][0]["name"] == "Valkey"
