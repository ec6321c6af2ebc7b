"""The supervisor over real processes."""

import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from fx_dagster.errors import ServerError
from fx_dagster.live.supervisor import EXIT_FENCED, EXIT_REFUSED, Outcome, Supervisor, SupervisorNews
from resources.servers.process import ManagedProcess, base_environment, spawn

FOREVER = "import time\nwhile True: time.sleep(1)"


class Starter:
    """Starts one Python program after another; the last one again and again."""

    def __init__(self, folder: Path, *programs: str) -> None:
        self.pids: list[int] = []
        self.times: list[float] = []
        self._folder, self._programs = folder, list(programs)

    def __call__(self) -> ManagedProcess:
        program = self._programs.pop(0) if len(self._programs) > 1 else self._programs[0]
        child = spawn([sys.executable, "-c", program], env=base_environment(), log=self._folder / "log", name="engine")
        self.pids.append(child.pid)
        self.times.append(time.monotonic())
        return child

    def leftovers(self) -> list[int]:
        return [pid for pid in self.pids if psutil.pid_exists(pid)]


def quiet(news: SupervisorNews) -> bool:
    return True


def supervisor(start: Starter, **options: object) -> Supervisor:
    return Supervisor(
        start, **{"restart_delay_s": 0.05, "restarts_per_minute_max": 5, "on_tick": quiet, "tick_s": 0.05} | options
    )  # type: ignore[arg-type]


def test_a_finished_session_ends_the_supervision(tmp_path: Path) -> None:
    assert supervisor(Starter(tmp_path, "")).run() is Outcome.FINISHED


def test_a_killed_engine_is_back_within_two_seconds(tmp_path: Path) -> None:
    start = Starter(tmp_path, FOREVER, "")
    killed: list[float] = []

    def kill(news: SupervisorNews) -> bool:
        if news.pid is not None and not killed:
            killed.append(time.monotonic())
            psutil.Process(news.pid).kill()
        return True

    one = supervisor(start, on_tick=kill)
    assert one.run() is Outcome.FINISHED
    assert start.times[1] - killed[0] < 2
    assert one.news.last_exit == "signal 9"
    assert one.news.starts == 2


def test_an_engine_that_hangs_is_killed_and_started_again(tmp_path: Path) -> None:
    start = Starter(tmp_path, FOREVER, "")
    assert supervisor(start, on_tick=lambda news: news.starts > 1).run() is Outcome.FINISHED
    assert len(start.pids) == 2
    assert not start.leftovers()


def test_dying_too_often_ends_it_with_the_last_words(tmp_path: Path) -> None:
    start = Starter(tmp_path, "import sys; sys.stderr.write('no luck'); sys.exit(1)")
    with pytest.raises(ServerError, match=r"died 6 times.*no luck"):
        supervisor(start).run()
    assert len(start.pids) == 6


def test_a_refusal_is_not_repeated(tmp_path: Path) -> None:
    start = Starter(tmp_path, f"import sys; sys.stderr.write('FX_X is wrong'); sys.exit({EXIT_REFUSED})")
    with pytest.raises(ServerError, match="FX_X is wrong"):
        supervisor(start).run()
    assert len(start.pids) == 1


def test_a_fenced_engine_is_not_started_again(tmp_path: Path) -> None:
    start = Starter(tmp_path, f"import sys; sys.exit({EXIT_FENCED})")
    assert supervisor(start).run() is Outcome.FENCED


def test_asked_to_stop_it_ends_the_engine(tmp_path: Path) -> None:
    start = Starter(tmp_path, FOREVER)
    one = supervisor(start)
    threading.Timer(0.3, one.stop).start()
    assert one.run() is Outcome.STOPPED
    assert not start.leftovers()


class Interrupted(BaseException):
    """As Dagster's DagsterExecutionInterruptedError."""


def test_an_interruption_leaves_no_engine_behind(tmp_path: Path) -> None:
    start = Starter(tmp_path, FOREVER)

    def interrupt(news: SupervisorNews) -> bool:
        raise Interrupted

    with pytest.raises(Interrupted):
        supervisor(start, on_tick=interrupt).run()
    assert not start.leftovers()
