"""A small process that outlives a killed ``fx`` just long enough to end everything that it left behind.

Started as a script by :mod:`resources.servers.guard`::

    python -P warden.py <mark> <variable>

Its standard input is a pipe that only ``fx`` holds open, on which it is told the pids of servers, one a line. When the
pipe ends, ``fx`` is gone, and every process told of or marked with ``<variable>=<mark>`` in its environment is ended.
"""

import contextlib
import os
import select
import signal
import sys
import time

import psutil

PARENT_POLL_S = 0.5
GRACE_S = 2.0
GIVE_UP_S = 20.0


def marked(variable: str, mark: str) -> list[psutil.Process]:
    """Return the processes, except this one, whose environment at their start held ``variable=mark``."""
    found = []
    for process in psutil.process_iter():
        # Another user's processes, and those that end meanwhile, are not ours to read.
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == mark:
                found.append(process)
    return found


def running(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that have not ended; a zombie has."""
    left = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                left.append(process)
    return left


def send(processes: list[psutil.Process], number: int) -> None:
    """Send each a signal."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.send_signal(number)


def _wait_for_end(parent: int) -> list[psutil.Process]:
    """Read pids until the pipe ends or the parent is another; return their processes."""
    told: list[psutil.Process] = []
    rest = b""
    while os.getppid() == parent:
        if not select.select([0], [], [], PARENT_POLL_S)[0]:
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            with contextlib.suppress(psutil.NoSuchProcess):
                told.append(psutil.Process(int(line)))
    return told


def _end(told: list[psutil.Process], variable: str, mark: str) -> None:
    """End what is left, politely first, until nothing is found: a process may fork while we look."""
    began = time.monotonic()
    while left := running(list({*told, *marked(variable, mark)})):
        elapsed = time.monotonic() - began
        if elapsed > GIVE_UP_S:
            return
        send(left, signal.SIGTERM if elapsed < GRACE_S else signal.SIGKILL)
        psutil.wait_procs(left, timeout=GRACE_S)


def main(mark: str, variable: str) -> None:
    """Wait for the parent's end, then end its descendants."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.environ.pop(variable, None)
    _end(_wait_for_end(os.getppid()), variable, mark)


if __name__ == "__main__":
    main(*sys.argv[1:])
