"""Engines that are made ready before they are needed, over real processes."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resources.servers.process import ManagedProcess, base_environment, managed, spawn
from resources.standby import GO, Standby

PROGRAM = """
import sys, time
print("ready", flush=True)
line = sys.stdin.readline()
print("told", line.strip(), flush=True)
time.sleep(60 if line else 0)
"""


class Engines:
    """Starts processes that wait for a word."""

    def __init__(self, log: Path) -> None:
        self.log, self.pids = log, list[int]()

    def __call__(self) -> ManagedProcess:
        engine = spawn(
            [sys.executable, "-c", PROGRAM], env=base_environment(), log=self.log, name="engine", listens=True
        )
        self.pids.append(engine.pid)
        return engine


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    yield Engines(tmp_path / "log")
    for process in managed():
        process.kill()


def wait_for(log: Path, words: str, times: int = 1) -> None:
    deadline = time.monotonic() + 20.0
    while not log.exists() or log.read_text().count(words) < times:
        assert time.monotonic() < deadline, f"{words!r} was not logged {times} times"
        time.sleep(0.01)


def test_the_next_engine_is_ready_before_it_is_needed(engines: Engines) -> None:
    standby = Standby(engines, delay_s=0.05)
    first = standby()
    wait_for(engines.log, "told go")
    wait_for(engines.log, "ready", 2)
    assert engines.log.read_text().count("told") == 1, "the second one waits"
    first.kill()
    second = standby()
    assert second.pid == engines.pids[1]
    wait_for(engines.log, "told go", 2)
    wait_for(engines.log, "ready", 3)
    standby.close()
    assert not psutil.pid_exists(engines.pids[2]), "who waits ends with the supervision"
    assert second.alive


def test_one_that_died_waiting_is_replaced(engines: Engines) -> None:
    standby = Standby(engines, delay_s=0.05)
    first = standby()
    wait_for(engines.log, "told go")
    wait_for(engines.log, "ready", 2)
    first.kill()
    psutil.Process(engines.pids[1]).kill()
    psutil.wait_procs([psutil.Process(engines.pids[1])], timeout=5)
    third = standby()
    assert third.pid == engines.pids[2]
    wait_for(engines.log, "told go", 2)
    standby.close()


def test_before_one_is_ready_an_engine_begins_from_nothing(engines: Engines) -> None:
    standby = Standby(engines, delay_s=60.0)
    standby().kill()
    again = standby()
    wait_for(engines.log, "told go", 1)
    assert engines.pids == [engines.pids[0], again.pid]
    standby.close()


def test_who_waits_ends_when_nobody_can_tell_it(engines: Engines) -> None:
    waiting = engines()
    wait_for(engines.log, "ready")
    assert waiting._popen.stdin is not None
    waiting._popen.stdin.close()
    assert waiting.wait(10.0)
    assert waiting.returncode == 0
    assert not waiting.tell(GO)
