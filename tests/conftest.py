"""Fixtures for all tests: a home of one's own, and real servers where a test asks for them."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


def _short_home(prefix: str) -> Path:
    # Short, and open to the system user that PostgreSQL runs as under root: pytest's own folders are private.
    home = Path(tempfile.mkdtemp(prefix=prefix))
    home.chmod(0o711)
    return home


@pytest.fixture
def free_home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new FX_HOME, and no other ``FX_`` or ``DAGSTER_`` variable than FX_HOME."""
    for name in tuple(os.environ):
        if name.startswith(("FX_", "DAGSTER_")):
            monkeypatch.delenv(name)
    home = _short_home("fx-test-")
    monkeypatch.setenv("FX_HOME", str(home))
    yield home
    # What load_settings was told to override stays in the environment: not beyond this test.
    for name in tuple(os.environ):
        if name.startswith("FX_"):
            del os.environ[name]
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real market data that FX_TEST_DATA names; the test is skipped without."""
    folder = os.environ.get("FX_TEST_DATA", "")
    if not folder:
        pytest.skip("FX_TEST_DATA is not set: no real market data to test with")
    return Path(folder)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """SQLAlchemy URL of a real PostgreSQL, shared by the session: a test makes names of its own in it."""
    from resources.servers.postgres import PostgresServer

    home = _short_home("fx-pg-")
    server = PostgresServer(home, logs=home / "logs")
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """SQLAlchemy URL of an empty database of the test's own in the session's PostgreSQL."""
    import secrets

    import psycopg

    plain = postgres_url.replace("+psycopg2", "")
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{postgres_url.rsplit('/', 1)[0]}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def valkey_url() -> Iterator[str]:
    """URL of a real Valkey, shared by the session: a test makes keys of its own in it."""
    from resources.servers.valkey import ValkeyServer

    home = _short_home("fx-vk-")
    server = ValkeyServer(home / "run", logs=home / "logs")
    try:
        server.start()
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
