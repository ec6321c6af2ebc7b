"""Child processes: started, stopped, and gone when their parent is."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from fx_dagster.errors import ServerError
from fx_dagster.settings import load_settings
from resources.servers import process
from resources.servers.process import ManagedProcess, base_environment, child_environment, spawn, wait_until

SH = "/bin/sh"


def _sh(script: str, log: Path, **options: object) -> ManagedProcess:
    return spawn([SH, "-c", script], env=base_environment(), log=log, name="sh", **options)  # type: ignore[arg-type]


def _until(condition: object, timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():  # type: ignore[operator]
            return True
        time.sleep(0.02)
    return False


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_output_and_exit_code(tmp_path: Path) -> None:
    child = _sh("echo hello; exit 3", tmp_path / "x.log")
    assert child.wait(5)
    assert child.returncode == 3
    assert child.tail() == "hello"
    child.kill()
    assert child not in process.managed()


def test_tail_shows_only_this_start(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    for word in ("one", "two"):
        child = _sh(f"echo {word}", log)
        child.wait(5)
        child.kill()
        assert child.tail() == word
    assert log.read_text() == "one\ntwo\n"


def test_large_log_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "LOG_BYTES_MAX", 10)
    log = tmp_path / "x.log"
    log.write_text("x" * 11)
    child = _sh("echo new", log)
    child.wait(5)
    child.kill()
    assert log.read_text() == "new\n"
    assert (tmp_path / "x.log.1").read_text() == "x" * 11


def test_stop_is_polite_first(tmp_path: Path) -> None:
    child = _sh("trap 'echo asked; exit 0' TERM; echo on; while :; do sleep 0.05; done", tmp_path / "x.log")
    assert _until(lambda: "on" in child.tail())
    child.stop(5)
    assert child.returncode == 0
    assert "asked" in child.tail()


def test_stop_ends_what_does_not_listen(tmp_path: Path) -> None:
    child = _sh("trap '' TERM; echo on; while :; do sleep 0.05; done", tmp_path / "x.log")
    assert _until(lambda: "on" in child.tail())
    began = time.monotonic()
    child.stop(0.3)
    assert child.returncode == -signal.SIGKILL
    assert time.monotonic() - began < 3


def test_stop_ends_a_stopped_process(tmp_path: Path) -> None:
    child = _sh("echo on; exec sleep 60", tmp_path / "x.log")
    assert _until(lambda: "on" in child.tail())
    child.signal(signal.SIGSTOP)
    child.stop(2)
    assert child.returncode == -signal.SIGTERM


def test_stop_ends_grandchildren(tmp_path: Path) -> None:
    child = _sh("sleep 60 & echo $!; wait", tmp_path / "x.log")
    assert _until(lambda: child.tail().isdigit())
    grandchild = int(child.tail())
    child.stop(2)
    assert _until(lambda: _gone(grandchild))


def test_ignored_and_blocked_signals_are_reset(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = _sh("echo on; exec sleep 60", tmp_path / "x.log", stop_signal=signal.SIGINT)
        assert _until(lambda: "on" in child.tail())
        child.stop(5)
    finally:
        signal.signal(signal.SIGINT, before)
    assert child.returncode == -signal.SIGINT


def test_unknown_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match="there is no program /nowhere/x"):
        spawn(["/nowhere/x"], env={}, log=tmp_path / "x.log", name="x")


def test_program_that_cannot_be_executed_says_so(tmp_path: Path) -> None:
    program = tmp_path / "not a program"
    program.write_text("")
    child = spawn([program], env={}, log=tmp_path / "x.log", name="x")
    assert child.wait(5)
    assert child.returncode == 127
    assert "cannot execute" in child.tail()
    child.kill()


def test_waiting_ends_when_the_process_does(tmp_path: Path) -> None:
    child = _sh("echo the reason; exit 7", tmp_path / "x.log")
    with pytest.raises(ServerError, match="sh ended with exit code 7: the reason"):
        wait_until(lambda: False, child, timeout_s=5)
    child.kill()


def test_waiting_ends_in_time(tmp_path: Path) -> None:
    child = _sh("exec sleep 60", tmp_path / "x.log")
    with pytest.raises(ServerError, match=r"did not answer within 0\.2 s"):
        wait_until(lambda: False, child, timeout_s=0.2)
    child.stop(1)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has no signal at the parent's death")
def test_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = """
        import sys, threading, time
        from pathlib import Path
        from resources.servers.process import spawn, base_environment
        def start():
            print(spawn(["/bin/sleep", "60"], env=base_environment(), log=Path(sys.argv[1]), name="s").pid, flush=True)
        # The thread that asks ends at once; the child must not end with it.
        threading.Thread(target=start).start()
        time.sleep(60)
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "x.log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        time.sleep(0.3)
        assert not _gone(child)
        parent.send_signal(signal.SIGKILL)
    assert _until(lambda: _gone(child))


def test_environments_hold_no_foreign_settings(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    monkeypatch.setenv("FX_UNKNOWN", "1")
    monkeypatch.setenv("DAGSTER_HOME", "/elsewhere")
    monkeypatch.setenv("no_proxy", "example.org")
    assert "FX_UNKNOWN" not in child_environment(settings)
    assert child_environment(settings)["FX_HOME"] == str(free_home)
    assert child_environment(settings)["DAGSTER_HOME"] == str(free_home / "dagster")
    assert not [name for name in base_environment() if name.startswith(("FX_", "DAGSTER_"))]
    assert base_environment()["no_proxy"] == "example.org,127.0.0.1,localhost"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can become another user")
def test_child_becomes_another_user(tmp_path: Path) -> None:
    import pwd

    entry = pwd.getpwnam("nobody")
    user = process.SystemUser("nobody", entry.pw_uid, entry.pw_gid)
    child = _sh("id -u; id -G", tmp_path / "x.log", user=user, cwd=Path("/"))
    child.wait(5)
    child.kill()
    assert child.tail().split() == [str(entry.pw_uid), str(entry.pw_gid)]
