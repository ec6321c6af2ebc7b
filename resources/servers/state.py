"""Who runs the servers of a home, and where they are: ``FX_HOME/run/fx.lock`` and ``FX_HOME/run/servers.json``.

The state file holds passwords, and is readable by its owner only.
"""

import fcntl
import json
import os
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Self

import psutil

from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings
from resources.servers.private_files import make_own_folder, write_private


@dataclass(frozen=True)
class ServerState:
    """One server.

    Attributes:
        pid: 0 for one that was not started here.
        address: ``host:port`` or URL, without a password.
        log: its log file.
        note: why it does not run, or that it is the user's own.
    """

    name: str
    pid: int = 0
    address: str = ""
    log: str = ""
    note: str = ""

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return _runs(self.pid)


@dataclass(frozen=True)
class GroupState:
    """All servers of a home.

    Attributes:
        pid: process of ``fx`` that owns them.
        created_s: when that process was created (epoch seconds), so that a reused pid is not taken for it.
        started: when the servers were ready, ISO 8601 UTC.
        page: address of Dagster's page.
        servers: the servers, in starting order.
        environment: the ``FX_…`` variables that lead another process to them, passwords included.
    """

    pid: int
    created_s: float
    started: str
    page: str
    servers: tuple[ServerState, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def alive(self) -> bool:
        """Whether the owner runs."""
        try:
            return _runs(self.pid) and abs(psutil.Process(self.pid).create_time() - self.created_s) < 1.0
        except psutil.NoSuchProcess:
            return False

    @classmethod
    def of_this_process(cls, page: str, servers: tuple[ServerState, ...], environment: dict[str, str]) -> Self:
        """Describe servers owned by this process."""
        created_s = psutil.Process().create_time()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(os.getpid(), created_s, now, page, servers, environment)

    def write(self, settings: Settings) -> None:
        """Write it beside the lock."""
        make_own_folder(settings.run_folder)
        write_private(state_file(settings), json.dumps(asdict(self), indent=2))


def _runs(pid: int) -> bool:
    try:
        return pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def state_file(settings: Settings) -> Path:
    """Return the path of the state file."""
    return settings.run_folder / "servers.json"


def read_state(settings: Settings) -> GroupState | None:
    """Return the servers that were last started in this home and not stopped; whether they run, it says itself.

    Raises:
        ServerError: the file cannot be read.
    """
    path = state_file(settings)
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        servers = tuple(ServerState(**server) for server in raw.pop("servers"))
        return GroupState(**raw, servers=servers)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ServerError(f"cannot read {path}: {error}", mend=f"delete it once no server runs: rm '{path}'") from error


def running_state(settings: Settings) -> GroupState | None:
    """Return the servers that run in this home now; None: none do."""
    state = read_state(settings)
    return state if state is not None and state.alive else None


class HomeLock:
    """Held while a process runs the servers of a home. The system releases it, however that process ends."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._path = settings.run_folder / "fx.lock"
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take it.

        Raises:
            ServerError: another process has it, and is named; or the home cannot be written to.
        """
        try:
            make_own_folder(self._path.parent)
            file = self._path.open("a+")
        except OSError as error:
            raise ServerError(
                f"cannot write to FX_HOME ({self._settings.home}): {error}", mend="set FX_HOME to a folder of yours"
            ) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            who = self.holder() or "another process"
            raise ServerError(
                f"the servers of {self._settings.home} are run by {who}",
                mend="use those (fx status), end them (fx down), or set FX_HOME to another folder",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} {Path(sys.argv[0]).name} {' '.join(sys.argv[1:2])}\n")
        file.flush()
        self._file = file

    @property
    def held(self) -> bool:
        """Whether this object holds it."""
        return self._file is not None

    def holder(self) -> str:
        """Return who says that they hold it; empty: nobody."""
        try:
            pid, _, command = self._path.read_text().strip().partition(" ")
        except OSError:
            return ""
        return f"{command.strip() or 'fx'} (pid {pid})" if pid else ""

    def holder_pid(self) -> int:
        """Return the pid of the process that holds it; 0: nobody does."""
        try:
            with self._path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return 0
        except BlockingIOError:
            pid = self._path.read_text().split()[:1]
            return int(pid[0]) if pid else 0
        except OSError:
            return 0

    def release(self) -> None:
        """Give it back."""
        file, self._file = self._file, None
        if file is not None:
            file.truncate(0)
            file.close()
