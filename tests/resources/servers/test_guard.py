"""Nothing that a guarded process started outlives it, however it ends."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

# A guarded process with a managed child, a detached grandchild that ignores SIGTERM, and a plain child.
_PROGRAM = """
    import subprocess, sys, time
    from pathlib import Path
    from resources.servers.guard import Guard
    from resources.servers.process import base_environment, spawn

    folder = Path(sys.argv[1])
    detached = "trap '' TERM; echo $$ > {}/detached; while :; do sleep 0.1; done".format(folder)
    with Guard() as guard:
        spawn(["/bin/sleep", "60"], env=base_environment(), log=folder / "log", name="sleep")
        subprocess.Popen(["/bin/sleep", "61"])
        subprocess.run(["/bin/sh", "-c", 'setsid /bin/sh -c "$1" > /dev/null 2>&1 &', "sh", detached])
        while not (folder / "detached").exists():
            time.sleep(0.02)
        print("ready", flush=True)
        {ending}
"""


def _until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _start(folder: Path, ending: str) -> tuple[subprocess.Popen[str], set[psutil.Process]]:
    program = textwrap.dedent(_PROGRAM).replace("{ending}", ending)
    parent = subprocess.Popen([sys.executable, "-c", program, str(folder)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    started = set(psutil.Process(parent.pid).children(recursive=True))
    started.add(psutil.Process(int((folder / "detached").read_text())))
    assert len(started) >= 4  # the warden too
    return parent, started


def _left(started: set[psutil.Process]) -> list[str]:
    names = []
    for process in started:
        try:
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                names.append(f"{process.pid} {process.cmdline()}")
        except psutil.NoSuchProcess:
            continue
    return names


@pytest.mark.parametrize("ending", ["sys.exit(0)", "raise ValueError"])
def test_leaving_ends_everything(tmp_path: Path, ending: str) -> None:
    parent, started = _start(tmp_path, f"time.sleep(0.5); {ending}")
    with parent:
        parent.wait(20)
    assert _left(started) == []


@pytest.mark.parametrize("ending", ["os._exit", "SIGKILL"])
def test_dying_ends_everything(tmp_path: Path, ending: str) -> None:
    dies = "import os; time.sleep(0.5); os._exit(1)" if ending == "os._exit" else "time.sleep(60)"
    parent, started = _start(tmp_path, dies)
    with parent:
        if ending == "SIGKILL":
            parent.send_signal(signal.SIGKILL)
        parent.wait(20)
        assert _until(lambda: not _left(started)), _left(started)


def test_second_guard_is_refused() -> None:
    program = """
        from resources.servers.guard import Guard
        from fx_dagster.errors import ServerError
        with Guard():
            try:
                Guard().__enter__()
            except ServerError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=True
    )
    assert "guards its servers already" in done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="subreapers are Linux's")
def test_reaper_collects_adopted_and_leaves_own() -> None:
    program = """
        import subprocess, time, psutil
        from resources.servers.guard import Guard, Reaper
        with Guard():
            own = subprocess.Popen(["/bin/sh", "-c", "exit 5"])
            middle = subprocess.Popen(["/bin/sh", "-c", "sleep 60 & read line"], stdin=subprocess.PIPE)
            while not (grandchildren := psutil.Process(middle.pid).children()):
                time.sleep(0.01)
            reaper = Reaper()
            reaper.look()
            middle.communicate()
            grandchildren[0].kill()
            while grandchildren[0].status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            while psutil.Process(own.pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.01)
            reaper.look()
            zombies = [c for c in psutil.Process().children() if c.status() == psutil.STATUS_ZOMBIE]
            print([z.pid for z in zombies] == [own.pid], own.wait())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "True 5\n"


def test_mark_of_an_outer_guard_is_put_back() -> None:
    program = """
        import os
        from resources.servers.guard import Guard
        with Guard() as guard:
            print(os.environ["FXDAGSTER_GUARD"] == guard.mark)
        print(os.environ["FXDAGSTER_GUARD"])
    """
    environment = {**os.environ, "FXDAGSTER_GUARD": "outer"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env=environment,
    )
    assert done.stdout == "True\nouter\n"
