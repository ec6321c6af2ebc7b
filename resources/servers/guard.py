"""Sees to it that no process started under ``fx`` outlives it.

Three nets, one behind the other:

1. ``fx`` is a *child subreaper* (Linux): a descendant whose own parent ends (a detached Dagster run worker, Triton's
   model processes) becomes its child, and :func:`end_descendants` finds it.
2. Direct children ask the kernel for a signal at their parent's death (:mod:`resources.servers.process`).
3. A warden process waits for the end of a pipe that only ``fx`` holds, and then ends whatever carries the mark that all
   descendants inherit. It works where the other two do not: after ``kill -9``, and on macOS.
"""

import contextlib
import ctypes
import os
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from fx_dagster.errors import ServerError
from resources.servers import process as processes
from resources.servers import warden

PR_SET_CHILD_SUBREAPER = 36
_WARDEN = Path(__file__).with_name("warden.py")
_WARDEN_WAIT_S = 5.0
_SELF_ENDING = "multiprocessing.resource_tracker"
"""Ignores SIGTERM, and ends with us by itself: no reason to wait for it."""


class Guard:
    """From ``with`` on, descendants of this process end with it. One a process; a second one is refused."""

    _active: "Guard | None" = None

    def __init__(self) -> None:
        self.mark = secrets.token_hex(8)
        self._warden: subprocess.Popen[bytes] | None = None
        self._outer_mark = os.environ.get(processes.GUARD_VARIABLE)

    def __enter__(self) -> Self:
        if Guard._active is not None:
            raise ServerError("this process guards its servers already", mend="use the group that runs")
        Guard._active = self
        _become_subreaper()
        self._start_warden()
        os.environ[processes.GUARD_VARIABLE] = self.mark
        processes.on_spawn(self._tell)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_warden(self) -> None:
        # Not through spawn(): it must outlive us, so it asks for no signal at our death.
        self._warden = subprocess.Popen(
            [sys.executable, "-P", str(_WARDEN), self.mark, processes.GUARD_VARIABLE],
            stdin=subprocess.PIPE,
            # Not ours: who reads our output would wait for it.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env=processes.base_environment(),
            cwd="/",
        )

    @property
    def warden_pid(self) -> int:
        """Pid of the warden, 0 without one."""
        return self._warden.pid if self._warden is not None else 0

    def _tell(self, pid: int) -> None:
        if self._warden is None or self._warden.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # a killed warden leaves the other two nets
            self._warden.stdin.write(b"%d\n" % pid)
            self._warden.stdin.flush()

    def close(self, grace_s: float = 3.0) -> None:
        """End every descendant that is left, then the warden."""
        if Guard._active is not self:
            return
        end_descendants(grace_s, keep=(self.warden_pid,), mark=self.mark)
        warden_process, self._warden = self._warden, None
        if warden_process is not None and warden_process.stdin is not None:
            with contextlib.suppress(OSError):
                warden_process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                warden_process.wait(_WARDEN_WAIT_S)
            warden_process.kill()
            warden_process.wait()
        if self._outer_mark is None:
            os.environ.pop(processes.GUARD_VARIABLE, None)
        else:
            os.environ[processes.GUARD_VARIABLE] = self._outer_mark
        Guard._active = None


def close_active() -> None:
    """Close the guard of this process if it has one: the last thing that a command does."""
    if Guard._active is not None:
        Guard._active.close(0.0)


def _become_subreaper() -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise ServerError(
            f"cannot become a subreaper: {os.strerror(ctypes.get_errno())}", mend="use Linux 3.4 or newer"
        )


def descendants(keep: tuple[int, ...] = (), mark: str = "") -> list[psutil.Process]:
    """Return our running descendants, except ``keep``; with ``mark``, marked processes that left our tree as well."""
    tree = psutil.Process().children(recursive=True)
    strays = warden.marked(processes.GUARD_VARIABLE, mark) if mark else []
    return [process for process in warden.running(list({*tree, *strays})) if process.pid not in keep]


def end_descendants(grace_s: float, *, keep: tuple[int, ...] = (), mark: str = "") -> None:
    """End every descendant: SIGTERM, after ``grace_s`` SIGKILL, until none is left.

    Raises:
        ServerError: something cannot be ended; it is named.
    """
    began = time.monotonic()
    asked: set[psutil.Process] = set()  # once each: many programs take a second SIGTERM for impatience
    while left := descendants(keep, mark):
        elapsed = time.monotonic() - began
        if elapsed > grace_s + 10:
            names = ", ".join(f"{process.name()} (pid {process.pid})" for process in left)
            raise ServerError(f"cannot end {names}", mend="end it by hand")
        forced = [one for one in left if elapsed >= grace_s or _ends_with_us(one)]
        warden.send(forced, signal.SIGKILL)
        warden.send([one for one in left if one not in forced and one not in asked], signal.SIGTERM)
        asked.update(left)
        _wait_for(left, 0.2)


def _wait_for(left: list[psutil.Process], timeout_s: float) -> None:
    """Wait without collecting exit codes, which belong to whoever started the process."""
    deadline = time.monotonic() + timeout_s
    while warden.running(left) and time.monotonic() < deadline:
        time.sleep(0.02)


def _ends_with_us(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(_SELF_ENDING in part for part in process.cmdline())
    return False


class Reaper:
    """Collects adopted children that have ended, so that a long session gathers no zombies.

    Only a process once seen as a grandchild is collected: the exit code of a child that this process started itself
    belongs to whoever waits for it.
    """

    def __init__(self) -> None:
        self._grandchildren: set[psutil.Process] = set()

    def look(self) -> None:
        """Note the grandchildren of now, and collect those of before that ended as our children."""
        children = psutil.Process().children()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess, ChildProcessError):
                if child in self._grandchildren and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)
        direct = set(children)
        self._grandchildren = {
            process
            for process in {*self._grandchildren, *psutil.Process().children(recursive=True)}
            if process.is_running() and (process in self._grandchildren or process not in direct)
        }
