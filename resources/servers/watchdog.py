"""Brings a dead or unresponsive server back, on the port that everybody knows."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fx_dagster.errors import FxError
from resources.servers.process import ManagedProcess, StopFlag

ALIVE_POLL_S = 0.2
BACKOFF_MAX_S = 10.0


class Server(Protocol):
    """What the group and the watchdog need of a server."""

    process: ManagedProcess | None

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it and return when it answers."""
        ...

    def stop(self, timeout_s: float = ...) -> None:
        """End it."""
        ...


@dataclass(frozen=True)
class Watch:
    """How one server is watched.

    Attributes:
        name: for messages.
        server: what is started again.
        probe: asks whether it answers within a number of seconds.
        deadline_s: that number.
        interval_s: pause between two questions.
        failures: unanswered questions in a row after which it is ended and started again.
        restarted: called when it is back.
    """

    name: str
    server: Server
    probe: Callable[[float], bool]
    deadline_s: float = 5.0
    interval_s: float = 2.0
    failures: int = 3
    restarted: Callable[[], None] = lambda: None


class Watchdog:
    """One thread a server, since a probe of one that hangs must not delay another's restart.

    Args:
        report: called with the server's name, a kind (``died``, ``restarted``, ``failed``) and a text.
    """

    def __init__(self, report: Callable[[str, str, str], None]) -> None:
        self._report = report
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def watch(self, watch: Watch) -> None:
        """Begin to watch a server that runs."""
        thread = threading.Thread(target=self._run, args=(watch,), name=f"fx-watch-{watch.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching; a restart under way is given up."""
        self._stopping.set()
        deadline = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(deadline - time.monotonic(), 0.0))

    def _run(self, watch: Watch) -> None:
        unanswered = 0
        next_probe = time.monotonic() + watch.interval_s
        while not self._stopping.wait(ALIVE_POLL_S):
            process = watch.server.process
            if process is None or not process.alive:
                code = None if process is None else process.returncode
                self._restart(watch, f"ended with {code}")
                unanswered = 0
            elif time.monotonic() >= next_probe:
                unanswered = 0 if _answers(watch) else unanswered + 1
                next_probe = time.monotonic() + watch.interval_s
                if unanswered >= watch.failures:
                    self._restart(watch, f"left {unanswered} questions unanswered")
                    unanswered = 0

    def _restart(self, watch: Watch, why: str) -> None:
        self._report(watch.name, "died", why)
        began = time.monotonic()
        pause_s = 0.1
        while not self._stopping.is_set():
            if watch.server.process is not None:
                watch.server.process.kill()
            try:
                watch.server.start(self._stopping)
                watch.restarted()
            except (FxError, OSError) as error:
                if self._stopping.is_set():
                    return
                self._report(watch.name, "failed", str(error))
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_MAX_S)
            else:
                self._report(watch.name, "restarted", f"back after {time.monotonic() - began:.1f} s")
                return


def _answers(watch: Watch) -> bool:
    try:
        return watch.probe(watch.deadline_s)
    except (FxError, OSError):
        return False
