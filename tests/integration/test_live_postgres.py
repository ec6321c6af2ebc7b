"""Connections, deadlines and migrations against a real PostgreSQL."""

import threading
from pathlib import Path

import psycopg
import pytest

from fx_dagster.errors import ServerError
from resources.postgres import connect, connect_async, migrate

pytestmark = pytest.mark.integration


def test_files_are_applied_once_in_order(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "020_b.sql").write_text("INSERT INTO a VALUES (1);")
    (tmp_path / "010_a.sql").write_text("CREATE TABLE a (x int);")
    assert migrate(database_url, folder=tmp_path) == ("010_a.sql", "020_b.sql")
    assert migrate(database_url, folder=tmp_path) == ()
    (tmp_path / "030_c.sql").write_text("INSERT INTO a VALUES (2);")
    assert migrate(database_url, folder=tmp_path) == ("030_c.sql",)
    with connect(database_url) as connection:
        assert connection.execute("SELECT x FROM fx.a ORDER BY x").fetchall() == [(1,), (2,)]


def test_a_file_changed_after_it_was_applied_is_refused(database_url: str, tmp_path: Path) -> None:
    file = tmp_path / "010_a.sql"
    file.write_text("CREATE TABLE a (x int);")
    migrate(database_url, folder=tmp_path)
    file.write_text("CREATE TABLE a (x bigint);")
    with pytest.raises(ServerError, match=r"010_a\.sql was changed"):
        migrate(database_url, folder=tmp_path)


def test_a_file_that_fails_leaves_nothing(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "010_a.sql").write_text("CREATE TABLE a (x int);")
    (tmp_path / "020_b.sql").write_text("CREATE TABLE b (x int); SELECT nonsense;")
    with pytest.raises(ServerError, match=r"020_b\.sql fails"):
        migrate(database_url, folder=tmp_path)
    with connect(database_url) as connection:
        assert connection.execute("SELECT to_regclass('fx.a'), to_regclass('fx.b')").fetchone() == (None, None)


def test_several_processes_may_migrate_at_once(database_url: str) -> None:
    applied: list[tuple[str, ...]] = []
    threads = [threading.Thread(target=lambda: applied.append(migrate(database_url))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(len(files) > 0 for files in applied) == [False, False, False, True]


def test_a_statement_ends_by_its_deadline(database_url: str) -> None:
    with connect(database_url, statement_timeout_s=0.2) as connection, pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(10)")


async def _sleep_too_long(url: str) -> None:
    connection = await connect_async(url, statement_timeout_s=0.2)
    async with connection:
        await connection.execute("SELECT pg_sleep(10)")


def test_also_without_blocking(database_url: str) -> None:
    import asyncio

    with pytest.raises(psycopg.errors.QueryCanceled):
        asyncio.run(_sleep_too_long(database_url))
