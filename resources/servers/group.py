"""All servers of one home: started together, watched, stopped together, and none left behind.

::

    with ServerGroup(settings) as group:
        settings = group.settings_for_children()   # addresses filled in

PostgreSQL, Valkey and Triton start side by side, then Dagster's code server, then its web server and daemon. An address
in the settings (``FX_POSTGRES_URL``, ``FX_REDIS_URL``, ``FX_TRITON_URL``) means the user's own server, which is checked
and left alone. Triton and Valkey are optional: without them a session runs at the traditional level, or without a
shared cache, and says so.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

import psutil
from pydantic import SecretStr

from fx_dagster.errors import FxError, ServerError, UnsupportedPlatformError
from fx_dagster.settings import Settings
from resources.postgres import migrate
from resources.servers import interrupts, postgres, process, selfcheck, valkey
from resources.servers.dagster_services import CodeServer, Daemon, WebServer, install_instance, write_workspace
from resources.servers.guard import Guard, Reaper
from resources.servers.private_files import make_own_folder
from resources.servers.state import GroupState, HomeLock, ServerState, state_file
from resources.servers.triton import TritonServer
from resources.servers.watchdog import Server, Watch, Watchdog

if TYPE_CHECKING:
    from resources.control.process import ControlServer

EventKind = Literal["starting", "ready", "external", "skipped", "died", "failed", "restarted", "stopping", "stopped"]

STOP_WITHIN_S = 14.0
_WORKERS_S = 6.0
_POLL_S = 0.05
_RELEASE_RETRY_S, _RELEASE_RETRY_S_MAX = 5.0, 60.0


@dataclass(frozen=True)
class ServerEvent:
    """What has just happened to a server."""

    server: str
    kind: EventKind
    text: str = ""


class ServerGroup:
    """The servers of one home.

    Args:
        settings: what to start, and where.
        on_event: told of every step; may be called from any thread.
        on_triton_start: called with the children's settings when Triton runs, at first and after every restart: it
            loads the active release.
        dagster: whether Dagster's three processes are wanted.
        definitions: Python file with other Dagster definitions than the project's.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_event: Callable[[ServerEvent], None] | None = None,
        on_triton_start: Callable[[Settings], None] | None = None,
        dagster: bool = True,
        definitions: Path | None = None,
    ) -> None:
        self.settings = settings
        self.skipped: dict[str, str] = {}
        """Servers that this machine goes without, and why."""
        self.postgres: postgres.PostgresServer | None = None
        self.valkey: valkey.ValkeyServer | None = None
        self.triton: TritonServer | None = None
        self.code: CodeServer | None = None
        self.web: WebServer | None = None
        self.daemon: Daemon | None = None
        self.control: ControlServer | None = None
        self._on_event = on_event
        self._on_triton_start = on_triton_start
        self._dagster = dagster
        self._definitions = definitions
        self._lock = HomeLock(settings)
        self._guard = Guard()
        self._giving_up = threading.Event()
        self._release_problem = ""
        self._starts: list[threading.Thread] = []
        self._watchdog: Watchdog | None = None
        self._began = False

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- what runs -----------------------------------------------------------------------------------------------

    @property
    def page(self) -> str:
        """Address of Dagster's page; empty without it."""
        return self.web.url if self.web is not None and self.web.process is not None else ""

    def settings_for_children(self) -> Settings:
        """Return the settings with the addresses of the running servers filled in.

        What is skipped has an empty address: nobody then looks for it.
        """
        given = self.settings
        update: dict[str, object] = {}
        if self.postgres is not None:
            changed = {"url": SecretStr(self.postgres.url), "port": self.postgres.port}
            update["postgres"] = given.postgres.model_copy(update=changed)
        if self.valkey is not None:
            changed = {"url": SecretStr(self.valkey.url), "port": self.valkey.port}
            update["redis"] = given.redis.model_copy(update=changed)
        if self.triton is not None:
            ports = {"url": self.triton.url, "port": self.triton.port, "metrics_port": self.triton.metrics_port}
            update["triton"] = given.triton.model_copy(update=ports)
        if self.web is not None:
            update["ui"] = given.ui.model_copy(update={"port": self.web.port})
        return given.model_copy(update=update)

    def states(self) -> tuple[ServerState, ...]:
        """Return every server as it is now."""
        named: Mapping[str, tuple[Server | None, str]] = {
            "PostgreSQL": (self.postgres, _host_port(self.postgres)),
            "Valkey": (self.valkey, _host_port(self.valkey)),
            "Triton": (self.triton, _host_port(self.triton)),
            "Dagster code": (self.code, _host_port(self.code)),
            "Dagster daemon": (self.daemon, ""),
            "Dagster page": (self.web, self.page),
            "Control": (self.control, self.control.url if self.control is not None else ""),
        }
        return tuple(self._state(name, server, address) for name, (server, address) in named.items())

    def _state(self, name: str, server: Server | None, address: str) -> ServerState:
        if server is None or server.process is None:
            return ServerState(name, note=self.skipped.get(name, "not started"))
        return ServerState(name, server.process.pid, address, str(server.process.log))

    # -- start ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything; the caller must :meth:`stop` also when this raises, as ``with`` does.

        Raises:
            ServerError: another process runs this home's servers, or one does not start.
            PortInUseError: a port that was asked for is taken.
        """
        self._lock.acquire()
        self._began = True
        make_own_folder(self.settings.logs)
        self._guard.__enter__()
        self._side_by_side(
            {"PostgreSQL": self._start_postgres, "Valkey": self._start_valkey, "Triton": self._start_triton}
        )
        migrate(self.settings_for_children().postgres.url.get_secret_value())
        if self.triton is not None:
            self._load_release()
        if self._dagster:
            self._start_dagster()
        self._start_control()
        selfcheck.require_loopback_only(allowed=self._open_ports())
        self._write_state()
        self._watch()

    def _side_by_side(self, starts: Mapping[str, Callable[[], None]]) -> None:
        """Run starts in threads; the first error makes the others give up, and is raised."""
        errors: list[Exception] = []

        def run(start: Callable[[], None]) -> None:
            try:
                start()
            except Exception as error:  # noqa: BLE001 - raised in the main thread below
                errors.append(error)
                self._giving_up.set()

        self._starts = [threading.Thread(target=run, args=(start,), daemon=True) for start in starts.values()]
        for thread in self._starts:
            thread.start()
        while any(thread.is_alive() for thread in self._starts):
            time.sleep(_POLL_S)
        if errors:
            raise errors[0]

    def _begin(self, name: str, start: Callable[[threading.Event], None], describe: Callable[[], str]) -> None:
        self._tell(name, "starting")
        began = time.monotonic()
        start(self._giving_up)
        self._tell(name, "ready", f"{describe()} · {time.monotonic() - began:.1f} s")

    def _start_postgres(self) -> None:
        given = self.settings.postgres
        if url := given.url.get_secret_value():
            postgres.require_external(url)
            self._external("PostgreSQL", "FX_POSTGRES_URL")
            return
        server = self.postgres = postgres.PostgresServer(
            self.settings.home, logs=self.settings.logs, port=given.port, start_timeout_s=given.start_timeout_s
        )
        self._begin("PostgreSQL", server.start, lambda: _host_port(server))

    def _start_valkey(self) -> None:
        if url := self.settings.redis.url.get_secret_value():
            valkey.require_external(url)
            self._external("Valkey", "FX_REDIS_URL")
            return
        try:
            valkey.binary()
        except UnsupportedPlatformError as error:
            self._skip("Valkey", error)
            return
        server = self.valkey = valkey.ValkeyServer(
            self.settings.run_folder, logs=self.settings.logs, port=self.settings.redis.port
        )
        self._begin("Valkey", server.start, lambda: _host_port(server))

    def _start_triton(self) -> None:
        if self.settings.triton.url:
            self._external("Triton", "FX_TRITON_URL")
            return
        server = TritonServer(self.settings, self.settings.model_repository)
        try:
            self._begin("Triton", server.start, lambda: _host_port(server))
        except UnsupportedPlatformError as error:
            self._skip("Triton", error)
        finally:
            if server.process is not None:
                self.triton = server

    def _start_dagster(self) -> None:
        settings = self.settings_for_children()
        install_instance(settings)
        code = self.code = CodeServer(settings, definitions=self._definitions)
        self._begin("Dagster code", code.start, lambda: _host_port(code))
        workspace = write_workspace(settings, code.port)
        web = self.web = WebServer(settings, workspace)
        daemon = self.daemon = Daemon(settings, workspace)

        def start_page(stop: threading.Event) -> None:
            web.start(stop)
            web.require_loaded(stop=stop)

        self._side_by_side(
            {
                "Dagster page": lambda: self._begin("Dagster page", start_page, lambda: web.url),
                "Dagster daemon": lambda: self._begin("Dagster daemon", daemon.start, lambda: "schedules and sensors"),
            }
        )

    def _start_control(self) -> None:
        """Start the control server; without it everything else works, and what is wrong with it is told."""
        from resources.control.process import ControlServer

        control = ControlServer(self.settings_for_children())
        try:
            self._begin("Control", control.start, lambda: control.url)
        except FxError as error:
            control.stop()
            self._skip("Control", error)
            return
        self.control = control

    def _open_ports(self) -> tuple[int, ...]:
        """Return the ports that others may reach: the control server's, which is there with TLS only."""
        with_tls = self.settings.control.tls_certificate is not None
        return (self.control.port,) if self.control is not None and with_tls else ()

    def _load_release(self) -> None:
        """Load the active release, now or, where something it needs is away, as soon as that is back."""
        if not self._release_loaded():
            threading.Thread(target=self._retry_release, name="fx-release", daemon=True).start()

    def _retry_release(self) -> None:
        triton = self.triton.process if self.triton is not None else None
        pause_s = _RELEASE_RETRY_S
        while not self._giving_up.wait(pause_s):
            # A Triton started since then has its own attempts.
            if self.triton is None or self.triton.process is not triton or self._release_loaded():
                return
            pause_s = min(2.0 * pause_s, _RELEASE_RETRY_S_MAX)

    def _release_loaded(self) -> bool:
        if self._on_triton_start is None:
            return True
        try:
            self._on_triton_start(self.settings_for_children())
        except FxError as error:
            # A session without its models trades at the traditional level, which is better than no session.
            if str(error) != self._release_problem:  # told once, however often it is tried again
                self._tell("Triton", "failed", f"the active release is not loaded: {error}")
            self._release_problem = str(error)
            return False
        self._release_problem = ""
        return True

    def _external(self, name: str, setting: str) -> None:
        self.skipped[name] = f"yours ({setting})"
        self._tell(name, "external", f"yours ({setting})")

    def _skip(self, name: str, error: FxError) -> None:
        self.skipped[name] = str(error)
        self._tell(name, "skipped", str(error))

    # -- watch ---------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        watchdog = self._watchdog = Watchdog(self._restarted)
        threading.Thread(target=self._reap, name="fx-reaper", daemon=True).start()
        for watch in self._watches():
            watchdog.watch(watch)

    def _watches(self) -> list[Watch]:
        watches = []
        if (database := self.postgres) is not None:
            watches.append(Watch("PostgreSQL", database, database.healthy))
        if (cache := self.valkey) is not None:
            watches.append(Watch("Valkey", cache, cache.healthy))
        if (triton := self.triton) is not None:
            # Seen dead within 0.2 s, seen hanging after two questions, started within a second.
            within_s = self.settings.triton.restart_within_s
            watches.append(
                Watch(
                    "Triton",
                    triton,
                    triton.healthy,
                    deadline_s=0.3 * within_s,
                    interval_s=0.1 * within_s,
                    failures=2,
                    restarted=self._load_release,
                )
            )
        for server in (self.code, self.web, self.daemon, self.control):
            if server is not None:
                watches.append(Watch(server.name, server, server.healthy, deadline_s=10.0, interval_s=5.0))
        return watches

    def _restarted(self, server: str, kind: str, text: str) -> None:
        self._tell(server, kind, text)  # type: ignore[arg-type]
        if kind == "restarted":
            self._write_state()

    def _reap(self) -> None:
        reaper = Reaper()
        while not self._giving_up.wait(2.0):
            with contextlib.suppress(psutil.Error):
                reaper.look()

    def _write_state(self) -> None:
        environment = self.settings_for_children().environment()
        GroupState.of_this_process(self.page, self.states(), environment).write(self.settings)

    def _tell(self, server: str, kind: EventKind, text: str = "") -> None:
        if self._on_event is not None:
            self._on_event(ServerEvent(server, kind, text))

    # -- stop ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Stop everything in reverse order, within 15 s; a second signal meanwhile makes it forced and immediate.

        Live sessions are asked first, while the journal can still be written.
        """
        if not self._began:
            return
        with interrupts.patient() as hurry:
            self._began = False
            self._giving_up.set()
            ending = threading.Thread(target=self._stop_in_order, daemon=True)
            ending.start()
            while ending.is_alive() and not hurry.is_set():
                ending.join(_POLL_S)
            try:
                self._guard.close(grace_s=0.0 if hurry.is_set() else 1.0)
            finally:
                if self._lock.held:
                    state_file(self.settings).unlink(missing_ok=True)
                    self._lock.release()

    def _stop_in_order(self) -> None:
        deadline = time.monotonic() + STOP_WITHIN_S
        self._tell("servers", "stopping")
        if self._watchdog is not None:
            self._watchdog.stop(2.0)
        for thread in self._starts:
            thread.join(2.0)
        self._stop_side_by_side([self.daemon, self.web, self.control], 3.0, deadline)
        self._end_run_workers(min(_WORKERS_S, max(deadline - time.monotonic() - 4.0, 0.0)))
        self._stop_side_by_side([self.code, self.triton, self.valkey], 3.0, deadline)
        self._stop_side_by_side([self.postgres], 4.0, deadline)
        self._tell("servers", "stopped")

    def _stop_side_by_side(self, servers: list[Server | None], timeout_s: float, deadline: float) -> None:
        budget_s = max(min(timeout_s, deadline - time.monotonic()), 0.5)
        threads = [
            threading.Thread(target=server.stop, args=(budget_s,), daemon=True)
            for server in servers
            if server is not None
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(budget_s + 2.0)

    def _end_run_workers(self, timeout_s: float) -> None:
        """Ask Dagster's run workers to end: children of the code server, or ours where an earlier one has died.

        Only the workers themselves are asked. Each ends its own children in its own order.
        """
        servers = {one.pid for one in process.managed()} | {self._guard.warden_pid, os.getpid()}
        code_pid = self.code.process.pid if self.code is not None and self.code.process is not None else 0
        workers: list[psutil.Process] = []
        for parent in (os.getpid(), code_pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                workers += [child for child in psutil.Process(parent).children() if child.pid not in servers]
        workers = [worker for worker in workers if _is_worker(worker)]
        for worker in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                worker.terminate()
        deadline = time.monotonic() + timeout_s
        while any(_lives(worker) for worker in workers) and time.monotonic() < deadline:
            time.sleep(_POLL_S)


def _is_worker(candidate: psutil.Process) -> bool:
    try:
        command = " ".join(candidate.cmdline())
    except psutil.Error:
        return False
    return "python" in command and "resource_tracker" not in command and "forkserver" not in command


def _lives(candidate: psutil.Process) -> bool:
    try:
        return candidate.is_running() and candidate.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _ends(candidate: psutil.Process, timeout_s: float) -> bool:
    """Wait for the end of a process that need not be our child; a zombie, which its parent ignores, has ended."""
    deadline = time.monotonic() + timeout_s
    while _lives(candidate) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    return not _lives(candidate)


def _host_port(server: object) -> str:
    port = getattr(server, "port", 0)
    return f"127.0.0.1:{port}" if port else ""


def end_servers(settings: Settings, timeout_s: float = 20.0) -> str:
    """End the servers of a home from another process, and return who had run them; empty: nobody.

    Raises:
        ServerError: the owner does not end.
    """
    lock = HomeLock(settings)
    pid = lock.holder_pid()
    if pid == 0:
        state_file(settings).unlink(missing_ok=True)
        return ""
    who = lock.holder()
    try:
        owner = psutil.Process(pid)
        owner.terminate()
        if not _ends(owner, timeout_s):
            owner.kill()  # its warden ends what it leaves behind
    except psutil.NoSuchProcess:
        return who
    except psutil.AccessDenied as error:
        raise ServerError(f"{who} belongs to another user", mend="end it as that user") from error
    if not _ends(owner, 5.0):
        raise ServerError(f"{who} does not end", mend=f"end it by hand: kill -9 {pid}")
    return who
