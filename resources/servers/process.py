"""Child processes that end when we end, whatever ends us.

On Linux the kernel sends a child its ``death_signal`` when the thread that forked it dies; every fork here is
therefore made by one daemon thread, which lives until the process does. On macOS there is no such request: there a
child outlives a killed parent until the warden (:mod:`resources.servers.guard`) finds it.

Each child leads its own session, so that Ctrl-C in a terminal reaches only us, and we stop servers in order.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings

GUARD_VARIABLE = "FXDAGSTER_GUARD"
"""Marks every descendant of a guarded process; not an ``FX_`` setting, which children would refuse."""

LOG_BYTES_MAX = 16 * 1024 * 1024
_SHIM = Path(__file__).with_name("exec_shim.py")
_KILL_WAIT_S = 5.0


class SystemUser(NamedTuple):
    """A system user to run a server as."""

    name: str
    uid: int
    gid: int


class StopFlag(Protocol):
    """What tells a waiting start that it should give up; a ``threading.Event`` is one."""

    def is_set(self) -> bool:
        """Whether to give up."""
        ...


@dataclass(frozen=True)
class _Launch:
    argv: tuple[str, ...]
    env: dict[str, str]
    log: Path
    name: str
    cwd: Path | None
    user: SystemUser | None
    death_signal: int
    stop_signal: int
    listens: bool


class ManagedProcess:
    """A running child: its pid, its log, and how to end it. Made by :func:`spawn`."""

    def __init__(self, popen: subprocess.Popen[bytes], launch: _Launch, log_start: int) -> None:
        self.name = launch.name
        self.log = launch.log
        self.pid = popen.pid
        self.started_at_s = time.time()
        self._popen = popen
        self._stop_signal = launch.stop_signal
        self._log_start = log_start
        self._swept = False

    def __repr__(self) -> str:
        return f"ManagedProcess({self.name!r}, pid={self.pid}, returncode={self.returncode})"

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit code, negative for the signal that ended it; None while it runs."""
        return self._popen.poll()

    def signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.alive:
            self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Return whether it ended within that time."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def tell(self, line: bytes) -> bool:
        """Write the one line that it waits for to its standard input, and end that; False: it does not wait."""
        pipe = self._popen.stdin
        if pipe is None or pipe.closed or not self.alive:
            return False
        try:
            pipe.write(line)
            pipe.close()
        except OSError:
            return False  # it has just ended
        return True

    def stop(self, timeout_s: float = 10.0) -> None:
        """End it politely, and after ``timeout_s`` by force, with everything left in its session's process group."""
        if self.alive:
            self.signal(self._stop_signal)
            self.signal(signal.SIGCONT)  # a stopped process would take the first signal only when continued
            self.wait(timeout_s)
        self.kill()

    def kill(self) -> None:
        """End it and its process group by force."""
        if self._swept:
            return
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS answers EPERM for a group of zombies
            self.signal(signal.SIGKILL)
        self._swept = self.wait(_KILL_WAIT_S)
        if self._popen.stdin is not None:
            self._popen.stdin.close()
        if self._swept:
            _registry.discard(self)

    def tail(self, lines: int = 20) -> str:
        """Return the last lines that this start of the process logged."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, file.tell() - 200 * lines))
                text = file.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])


class _Registry:
    """The children of this process, kept so that an interrupted caller cannot lose one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._processes: list[ManagedProcess] = []
        self._listeners: list[Callable[[int], None]] = []

    def listen(self, listener: Callable[[int], None]) -> None:
        with self._lock:
            self._listeners.append(listener)

    def add(self, process: ManagedProcess) -> None:
        with self._lock:
            self._processes.append(process)
            listeners = tuple(self._listeners)
        for listener in listeners:
            listener(process.pid)

    def discard(self, process: ManagedProcess) -> None:
        with self._lock:
            if process in self._processes:
                self._processes.remove(process)

    def all(self) -> tuple[ManagedProcess, ...]:
        with self._lock:
            return tuple(self._processes)


class _Spawner:
    """The one thread that forks, since a child's death signal follows the thread and not the process."""

    def __init__(self) -> None:
        self._requests: queue.SimpleQueue[tuple[_Launch, Future[ManagedProcess]]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def spawn(self, launch: _Launch) -> ManagedProcess:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="fx-spawner", daemon=True)
                self._thread.start()
        answer: Future[ManagedProcess] = Future()
        self._requests.put((launch, answer))
        return answer.result()

    def _run(self) -> None:
        while True:
            launch, answer = self._requests.get()
            try:
                answer.set_result(_fork(launch))
            except BaseException as error:  # noqa: BLE001 - handed to the caller, who waits for it
                answer.set_exception(error)


_registry = _Registry()
_spawner = _Spawner()


def _forget_in_forked_child() -> None:
    global _registry, _spawner
    _registry = _Registry()
    _spawner = _Spawner()


os.register_at_fork(after_in_child=_forget_in_forked_child)


def spawn(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    log: Path,
    name: str,
    cwd: Path | None = None,
    user: SystemUser | None = None,
    stop_signal: int = signal.SIGTERM,
    death_signal: int = signal.SIGKILL,
    listens: bool = False,
) -> ManagedProcess:
    """Start a program whose output goes to the end of ``log``.

    Args:
        argv: absolute path of the program, then its arguments.
        env: its whole environment; nothing is inherited but the guard's mark.
        log: file that is appended to; above 16 MiB it is moved to ``<log>.1`` first.
        name: for messages.
        cwd: working directory; default: ours.
        user: system user to become; only root can.
        stop_signal: how :meth:`ManagedProcess.stop` asks politely.
        death_signal: what the kernel sends it when this process dies (Linux).
        listens: whether :meth:`ManagedProcess.tell` has something to tell it; otherwise its standard input is empty.

    Raises:
        ServerError: there is no such program, or the system refuses to start it.
    """
    program = Path(argv[0])
    if not program.is_absolute() or not program.exists():
        raise ServerError(f"{name}: there is no program {program}", mend="set up again: make setup")
    launch = _Launch(
        argv=tuple(str(part) for part in argv),
        env={**env, **({GUARD_VARIABLE: os.environ[GUARD_VARIABLE]} if GUARD_VARIABLE in os.environ else {})},
        log=log,
        name=name,
        cwd=cwd,
        user=user,
        death_signal=int(death_signal),
        stop_signal=int(stop_signal),
        listens=listens,
    )
    return _spawner.spawn(launch)


def _fork(launch: _Launch) -> ManagedProcess:
    options = {
        "parent": os.getpid(),
        "death_signal": launch.death_signal,
        "uid": launch.user.uid if launch.user else None,
        "gid": launch.user.gid if launch.user else None,
    }
    shim = [sys.executable, "-I", "-S", str(_SHIM), json.dumps(options)]
    try:
        log, log_start = _open_log(launch.log)
        with log:
            popen = subprocess.Popen(
                [*shim, *launch.argv],
                env=launch.env,
                cwd=launch.cwd,
                stdin=subprocess.PIPE if launch.listens else subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise ServerError(f"{launch.name} cannot be started: {error}", mend="fx doctor checks the machine") from error
    process = ManagedProcess(popen, launch, log_start)
    _registry.add(process)
    return process


def _open_log(path: Path) -> tuple[BinaryIO, int]:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.stat().st_size > LOG_BYTES_MAX:
        path.replace(path.with_name(f"{path.name}.1"))
    file = path.open("ab")
    return file, file.tell()


def on_spawn(listener: Callable[[int], None]) -> None:
    """Have ``listener`` called with the pid of every process that is started from now on."""
    _registry.listen(listener)


def managed() -> tuple[ManagedProcess, ...]:
    """Return the processes started here that have not been stopped, oldest first."""
    return _registry.all()


def wait_until(
    ready: Callable[[], bool],
    process: ManagedProcess,
    *,
    timeout_s: float,
    poll_s: float = 0.05,
    stop: StopFlag | None = None,
    mend: str = "",
) -> None:
    """Wait until a started server answers.

    Args:
        ready: asks once, quickly; False means not yet.
        process: what should answer.
        timeout_s: how long to wait.
        poll_s: pause between two questions.
        stop: set from elsewhere to give up.
        mend: what to do when it does not come; default: read its log.

    Raises:
        ServerError: it ended, did not answer in time, or the wait was given up; the last line of its log is quoted.
    """
    deadline = time.monotonic() + timeout_s
    mend = mend or f"its log is {process.log}"
    while not ready():
        if not process.alive:
            raise ServerError(f"{process.name} ended with {_ending(process)}", mend=mend)
        if stop is not None and stop.is_set():
            raise ServerError(f"{process.name}: the start was given up", mend="start again")
        if time.monotonic() > deadline:
            raise ServerError(f"{process.name} did not answer within {timeout_s:g} s", mend=mend)
        time.sleep(poll_s)


def _ending(process: ManagedProcess) -> str:
    code = process.returncode
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    said = process.tail(1).strip()
    return f"{how}: {said}" if said else how


def base_environment() -> dict[str, str]:
    """Return our environment without any ``FX_`` or ``DAGSTER_`` variable, for a server that needs no settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    # gRPC and HTTP clients would send even loopback calls through a proxy that the environment names.
    around = ",".join(part for part in (kept.get("no_proxy") or kept.get("NO_PROXY"), "127.0.0.1,localhost") if part)
    return {**kept, "no_proxy": around, "NO_PROXY": around}


def dagster_environment(settings: Settings) -> dict[str, str]:
    """Return the variables that lead Dagster's own commands to this home's instance."""
    return {
        "DAGSTER_HOME": str(settings.dagster_home),
        "DAGSTER_LOCAL_FOLDER": str(settings.dagster_home / "storage"),
        "DAGSTER_DISABLE_TELEMETRY": "1",
    }


def child_environment(settings: Settings) -> dict[str, str]:
    """Return the environment of a Python child of ours: it reads exactly these settings, whatever ours says."""
    own = {**settings.environment(), **dagster_environment(settings)}
    return {**base_environment(), **own, "PYTHONUNBUFFERED": "1"}
