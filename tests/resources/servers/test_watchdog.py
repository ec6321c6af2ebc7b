"""A dead or hanging server is started again."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fx_dagster.errors import ServerError
from resources.servers.process import ManagedProcess, StopFlag, base_environment, spawn
from resources.servers.watchdog import Watch, Watchdog


class Sleeper:
    """A real process that answers as long as it is not told to be silent; its first starts may fail."""

    def __init__(self, log: Path, failing_starts: int = 0) -> None:
        self.process: ManagedProcess | None = None
        self.starts = 0
        self.answering = True
        self._log = log
        self._failing = failing_starts

    def start(self, stop: StopFlag | None = None) -> None:
        self.starts += 1
        if 1 < self.starts <= 1 + self._failing:
            raise ServerError("not yet", mend="wait")
        self.answering = True
        self.process = spawn(["/bin/sleep", "60"], env=base_environment(), log=self._log, name="sleeper")

    def stop(self, timeout_s: float = 1.0) -> None:
        if self.process is not None:
            self.process.stop(timeout_s)

    def probe(self, timeout_s: float) -> bool:
        return self.answering


def _until(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return False


def _watched(tmp_path: Path, failing_starts: int = 0) -> tuple[Sleeper, Watchdog, list[str], threading.Event]:
    server = Sleeper(tmp_path / "log", failing_starts)
    server.start()
    news: list[str] = []
    back = threading.Event()
    watchdog = Watchdog(lambda name, kind, text: news.append(f"{name} {kind}"))
    watchdog.watch(Watch("demo", server, server.probe, 0.1, 0.1, failures=2, restarted=back.set))
    return server, watchdog, news, back


def test_killed_server_is_back(tmp_path: Path) -> None:
    server, watchdog, news, back = _watched(tmp_path)
    assert server.process is not None
    server.process.signal(signal.SIGKILL)
    assert back.wait(5)
    assert _until(lambda: news == ["demo died", "demo restarted"])
    assert server.process.alive
    watchdog.stop(1)
    server.stop()


def test_silent_server_is_replaced(tmp_path: Path) -> None:
    server, watchdog, _, back = _watched(tmp_path)
    first = server.process
    server.answering = False
    assert back.wait(5)
    watchdog.stop(1)
    assert first is not None
    assert not first.alive
    assert server.process is not first
    server.stop()


def test_failing_start_is_tried_again(tmp_path: Path) -> None:
    server, watchdog, news, back = _watched(tmp_path, failing_starts=2)
    assert server.process is not None
    server.process.signal(signal.SIGKILL)
    assert back.wait(5)
    assert _until(lambda: news == ["demo died", "demo failed", "demo failed", "demo restarted"])
    assert server.starts == 4
    watchdog.stop(1)
    server.stop()


def test_healthy_server_is_left_alone_and_stopping_ends_the_watch(tmp_path: Path) -> None:
    server, watchdog, news, back = _watched(tmp_path)
    assert not back.wait(0.6)
    watchdog.stop(1)
    server.stop()
    assert not back.wait(0.5)
    assert news == []
    assert server.starts == 1
