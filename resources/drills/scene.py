"""Where a drill takes place: the engine of the live account and the servers of this home, found and checked.

What is about to be broken must be what it seems to be, and somebody must be there who mends it: an engine that a
supervisor starts again, a server that ``fx up`` watches. Otherwise a drill refuses.
"""

import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from fx_dagster.decision.codes import Level
from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings
from resources.drill_store import DecidedRow, DrillStore
from resources.drills.findings import Findings, wait_for
from resources.live_store import LiveStore, StatusRow
from resources.servers.state import ServerState, running_state

FRESH_S = 10.0
"""Age of a heartbeat up to which its engine counts as alive; the engine writes one a second."""
ENGINE_MODULE = "fx_dagster.live_engine"
_UP = "fx up"


@dataclass(frozen=True)
class EngineProcess:
    """The living engine of the account.

    Attributes:
        process: its process.
        row: its newest heartbeat.
        supervised: whether a run of the live job starts it again; one of ``fx live`` has nobody.
    """

    process: psutil.Process
    row: StatusRow
    supervised: bool

    @property
    def level(self) -> int:
        """Fallback level of its newest decisions; 0: it has decided nothing yet."""
        return int(self.row.status.get("level", 0))


@dataclass(frozen=True)
class Mark:
    """A place in a session, from which on a drill looks at decisions.

    Attributes:
        session_id: session.
        number: of the newest recorded decision.
        at_s: when the fault was made, seconds since 1970.
    """

    session_id: int
    number: int
    at_s: float


@dataclass
class Scene:
    """One installation in which a drill is run.

    Attributes:
        settings: with the addresses of the running servers.
        findings: what the drill expects and sees.
        by_whom: who runs it.
    """

    settings: Settings
    findings: Findings
    by_whom: str = "fx drill"
    live: LiveStore = field(init=False)
    store: DrillStore = field(init=False)

    def __post_init__(self) -> None:
        url = self.settings.postgres.url.get_secret_value()
        self.live, self.store = LiveStore(url), DrillStore(url)

    @property
    def account(self) -> str:
        """Name of the live account."""
        return self.settings.live.account

    # -- the engine ------------------------------------------------------------------------------------------------

    def engine(self, *, supervised: bool = False) -> EngineProcess:
        """Return the living engine of the account.

        Args:
            supervised: whether it must be one that is started again when it dies.

        Raises:
            ServerError: none is alive here, or nobody would start it again.
        """
        row = self.live.status(self.account)
        if row is None:
            raise ServerError(f"account {self.account} never had a live session", mend="start one: fx up, or fx live")
        if row.age_s > FRESH_S or row.status.get("state") != "running":
            said = row.status.get("state", "unknown")
            raise ServerError(
                f"no engine of account {self.account} is alive: {said}, last heartbeat {row.age_s:.0f} s ago",
                mend="start a session: fx up and its sensor, or fx live",
            )
        if row.host != socket.gethostname():
            raise ServerError(f"the engine of account {self.account} runs on {row.host}", mend="run the drill there")
        process, kind = self._engine_process(row.pid)
        if supervised and kind != ENGINE_MODULE:
            raise ServerError(
                f"the engine of account {self.account} runs in the foreground (pid {row.pid}): nobody would start it"
                " again",
                mend="let the sensor run the session: fx up",
            )
        return EngineProcess(process, row, kind == ENGINE_MODULE)

    def _engine_process(self, pid: int) -> tuple[psutil.Process, str]:
        try:
            process = psutil.Process(pid)
            command = process.cmdline()
            home = process.environ().get("FX_HOME", "")
        except psutil.Error as error:
            raise ServerError(
                f"the engine (pid {pid}) cannot be looked at: {error}", mend="run the drill as its user"
            ) from None
        kind = next((part for part in command if part == ENGINE_MODULE or Path(part).name in {"fx", "cli.py"}), "")
        if not kind and "fx_dagster.cli" not in command:
            raise ServerError(f"process {pid} is no engine of this project", mend="wait for the next heartbeat")
        if home and Path(home).resolve() != self.settings.home.resolve():
            raise ServerError(
                f"the engine of account {self.account} belongs to {home}, not to {self.settings.home}",
                mend=f"--home {home}",
            )
        return process, kind

    def with_models(self, engine: EngineProcess) -> None:
        """Demand that the engine decides with models now.

        Raises:
            ServerError: it does not, so that nothing could be seen of their loss.
        """
        if engine.level not in (Level.FULL_AI, Level.SIMPLE_AI):
            reason = engine.row.status.get("level_reason") or engine.row.status.get("model_problem") or "no reason"
            raise ServerError(
                f"decisions are at level {engine.level} ({reason}): without models there is nothing to see",
                mend="serve a release (fx release list), and wait for a decision at level 1 or 2",
            )

    def mark(self, engine: EngineProcess) -> Mark:
        """Return the place from which to look at decisions: now."""
        session = engine.row.session_id
        return Mark(session, self.store.last_decision(session), time.time())

    def decided(self, mark: Mark) -> list[DecidedRow]:
        """Return the decisions whose tick came in after a mark, in order."""
        rows = self.store.decided_since(mark.session_id, mark.number)
        return [row for row in rows if row.began_s >= mark.at_s]

    def beat(self, accepts: Callable[[StatusRow], bool], timeout_s: float) -> StatusRow | None:
        """Wait for a heartbeat of the account that is as wished; None: none came in time."""

        def probe() -> StatusRow | None:
            row = self.live.status(self.account)
            return row if row is not None and accepts(row) else None

        return wait_for(probe, timeout_s)

    def went_on(self, before: StatusRow, *, timeout_s: float = 15.0) -> None:
        """Keep whether decisions go on after the fault, in the same session."""
        row = self.beat(lambda row: _decisions(row) > _decisions(before), timeout_s)
        if row is not None:
            seen = f"{_decisions(row) - _decisions(before):,} decisions since"
            self.findings.found("decisions go on in the same session", row.session_id == before.session_id, seen)
        else:
            self.findings.found(
                "decisions go on in the same session", None, f"no tick asked for one in {timeout_s:g} s"
            )

    def nothing_twice(self, mark: Mark) -> None:
        """Keep whether anything was decided or ordered twice since a mark."""
        count = self.store.twice(mark.session_id, mark.number)
        self.findings.found("nothing is decided or ordered twice", count == 0, f"{count} found")

    # -- the servers -----------------------------------------------------------------------------------------------

    def server(self, name: str) -> psutil.Process:
        """Return the process of a server that ``fx up`` runs in this home, and watches.

        Raises:
            ServerError: there is none.
        """
        found = self._server_state(name)
        try:
            return psutil.Process(found.pid)
        except psutil.NoSuchProcess:
            raise ServerError(f"{name} of {self.settings.home} is gone", mend="fx status") from None

    def _server_state(self, name: str) -> ServerState:
        state = running_state(self.settings)
        if state is None:
            raise ServerError(
                f"no servers run in {self.settings.home}: nobody would start {name} again", mend=f"start them: {_UP}"
            )
        found = next((one for one in state.servers if one.name == name), ServerState(name, note="unknown"))
        if not found.pid:
            raise ServerError(
                f"{name} is not run by {_UP} here: {found.note or 'not started'}",
                mend="a drill breaks only what it can see come back",
            )
        return found

    def pid_of(self, name: str) -> int:
        """Return the process that a server has now, by the state file; 0: unknown."""
        state = running_state(self.settings)
        return next((one.pid for one in state.servers if one.name == name), 0) if state is not None else 0


def _decisions(row: StatusRow) -> int:
    return int(row.status.get("decisions", 0))


@contextmanager
def frozen(processes: Sequence[psutil.Process]) -> Iterator[None]:
    """Stop processes for as long as it lasts; whatever happens, those that are still there are let go on."""
    try:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.suspend()
        yield
    finally:
        for process in processes:
            with suppress(psutil.Error):
                process.resume()


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants, itself first."""
    return [process, *process.children(recursive=True)]


def kill(process: psutil.Process) -> None:
    """End a process by force; psutil refuses where its number belongs to another by now."""
    process.send_signal(signal.SIGKILL)


def gone(process: psutil.Process) -> bool:
    """Whether a process has ended; one that nobody has buried yet has."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def stopped_by_signal(process: psutil.Process) -> bool:
    """Whether a process is stopped."""
    try:
        return bool(process.status() == psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return False


def lately(row: StatusRow) -> tuple[str, float]:
    """Return the last problem of a journal and when it began, seconds since 1970; empty and 0: it never had one."""
    told: Any = row.status.get("journal_lately") or {}
    since = told.get("since", "")
    return str(told.get("problem", "")), datetime.fromisoformat(since).timestamp() if since else 0.0
