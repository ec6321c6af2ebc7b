"""Fixtures for all tests: a home of one's own, made bars, and real servers where a test asks for them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from fx_dagster.market.bars import resample_bars
from fx_dagster.market.timeframes import DAY_NS, Timeframe, from_server


class _ByFile(LoadScopeScheduling):
    """A file's tests stay in one process, and all files with real servers are one another's queue in one of them."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return "servers" if _starts_servers(self.config.rootpath / file) else file


@cache
def _starts_servers(file: Path) -> bool:
    return "pytest.mark.integration" in file.read_text()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _ByFile:
    """Share the tests out by :class:`_ByFile`, in the order of collection."""
    config.option.loadscopereorder = False
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests run in several processes, begin with the longest queue: the files with real servers."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not _starts_servers(item.path))


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


Frames = dict[Timeframe, pd.DataFrame]


def _openings(rows: int, step: int) -> np.ndarray:
    # On the server's clock, where H4 and D1 lie on a grid that daylight saving does not shift.
    start = np.datetime64("2017-01-09T00:00", "ns").astype(np.int64)
    server = start + step * np.arange(int(rows * 1.45) + 3000, dtype=np.int64)
    weekday = (server // DAY_NS + 3) % 7
    return from_server(server[weekday < 5][:rows] if step <= DAY_NS else server[:rows])


def _make(rows: int, *, seed: int = 0, base: Timeframe = Timeframe.H1, style: str = "walk") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    moves = rng.normal(0.0, 5e-4, (rows, 6)) * np.exp(rng.normal(0.0, 0.5, (rows, 1)))
    volume = rng.integers(1, 500, rows).astype(np.float64)
    if style in ("flat", "stops"):
        moves[0 if style == "flat" else rows // 2 :] = 0.0
    if style == "jumps":
        moves[rng.random(rows) < 0.9] = 0.0
    if style == "one_tick":
        moves[:, 1:] = 0.0
        volume[:] = 1.0
    if style == "silent":
        volume[:] = 0.0
    path = np.cumsum(moves, axis=1)
    start = np.concatenate([[0.0], np.cumsum(path[:-1, -1])])
    price = np.round(1.1 * np.exp(start[:, None] + path), 5)
    if style == "one_tick":
        price[:] = price[:, -1:]
    return pd.DataFrame(
        {
            "time": _openings(rows, base.nominal_ns),
            "open": price[:, 0],
            "high": price.max(axis=1),
            "low": price.min(axis=1),
            "close": price[:, -1],
            "tick_volume": volume,
            "spread": rng.integers(5, 20, rows).astype(np.float64),
        }
    )


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., pd.DataFrame]:
    """Return a maker of BARS: ``make_bars(rows, seed=, base=, style=)``."""
    return _make


@pytest.fixture(scope="session")
def with_context() -> Callable[..., Frames]:
    """Return a maker of bars by timeframe: ``with_context(bars, base, context)``."""

    def frames(bars: pd.DataFrame, base: Timeframe, context: tuple[Timeframe, ...]) -> Frames:
        return {base: bars} | {timeframe: resample_bars(bars, base, timeframe) for timeframe in context}

    return frames
