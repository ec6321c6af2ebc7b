"""Keeps one engine process alive: starts it again within two seconds when it dies, and never leaves it behind.

How a process is started is passed in, so that the domain knows no operating system. The child dies with this process
(its starter sees to that), and every way out of :meth:`Supervisor.run` ends it: politely first, by force after ten
seconds.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from fx_dagster.errors import ServerError

EXIT_FINISHED = 0
"""The session is over: its tape ended."""
EXIT_REFUSED = 2
"""Settings or data make a session impossible: another start would fail alike."""
EXIT_FENCED = 3
"""Another engine trades the account."""

EXIT_STOPPED = 4
"""Ended by a signal; the session can be resumed."""

STOP_TIMEOUT_S = 10.0
_MINUTE_S = 60.0


class Child(Protocol):
    """A running engine process."""

    pid: int

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        ...

    def wait(self, timeout_s: float) -> bool:
        """Return whether it ended within that time."""
        ...

    def stop(self, timeout_s: float) -> None:
        """End it politely, then by force."""
        ...

    def kill(self) -> None:
        """End it by force."""
        ...

    def tail(self, lines: int) -> str:
        """Return the last lines that it logged."""
        ...


class Outcome(StrEnum):
    """How supervision ended."""

    FINISHED = "finished"
    STOPPED = "stopped"
    FENCED = "fenced"


@dataclass
class SupervisorNews:
    """What the owner of a supervisor may want to show."""

    pid: int | None = None
    starts: int = 0
    last_exit: str = ""


class Supervisor:
    """Supervises one engine.

    Args:
        start: starts an engine process.
        restart_delay_s: pause before a dead engine is started again.
        restarts_per_minute_max: more deaths within a minute end the supervision.
        on_tick: called about every ``tick_s`` while the engine runs; False: it hangs, and is killed and started again;
            may raise to end the supervision.
        tick_s: pause between two of those calls.
    """

    def __init__(
        self,
        start: Callable[[], Child],
        *,
        restart_delay_s: float,
        restarts_per_minute_max: int,
        on_tick: Callable[[SupervisorNews], bool],
        tick_s: float = 0.5,
    ) -> None:
        self.news = SupervisorNews()
        self._start = start
        self._restart_delay_s = restart_delay_s
        self._restarts_max = restarts_per_minute_max
        self._on_tick = on_tick
        self._tick_s = tick_s
        self._deaths: deque[float] = deque()
        self._last_words = ""
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask :meth:`run` to end the engine and return; may be called by a signal handler or another thread."""
        self._stopping.set()

    def run(self) -> Outcome:
        """Keep the engine alive until its session is over or :meth:`stop` is called.

        Raises:
            ServerError: it refuses to start, or dies too often; the last lines of its log are quoted.
        """
        while not self._stopping.is_set():
            code = self._run_once()
            if self._stopping.is_set():
                break
            if code == EXIT_FINISHED:
                return Outcome.FINISHED
            if code == EXIT_FENCED:
                return Outcome.FENCED
            self._count_death(code)
            self._stopping.wait(self._restart_delay_s)
        return Outcome.STOPPED

    def _run_once(self) -> int:
        """Start the engine and return its exit code; however this is left, the engine has ended."""
        child = self._start()
        self.news.pid, self.news.starts = child.pid, self.news.starts + 1
        try:
            while not child.wait(self._tick_s):
                if self._stopping.is_set():
                    break
                if not self._on_tick(self.news):
                    child.kill()
        finally:
            # Also after DagsterExecutionInterruptedError and KeyboardInterrupt: no engine trades on unsupervised.
            child.stop(STOP_TIMEOUT_S)
            self.news.pid = None
        self._last_words = child.tail(3)
        code = child.returncode
        return 0 if code is None else code

    def _count_death(self, code: int) -> None:
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.news.last_exit = how
        words = " | ".join(self._last_words.split("\n"))
        if code == EXIT_REFUSED:
            raise ServerError(f"the live engine refuses to start: {words}", mend="correct what it names")
        now = time.monotonic()
        self._deaths.append(now)
        while self._deaths and now - self._deaths[0] > _MINUTE_S:
            self._deaths.popleft()
        if len(self._deaths) > self._restarts_max:
            raise ServerError(
                f"the live engine died {len(self._deaths)} times within a minute, last with {how}: {words}",
                mend="see its log; the sensor starts a new run",
            )
