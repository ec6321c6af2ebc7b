"""PostgreSQL: connections with deadlines, and the tables of this project.

The same URL serves Dagster (``postgresql+psycopg2://…``, SQLAlchemy's spelling) and psycopg, which wants the plain
scheme. All tables lie in the schema ``fx``, beside Dagster's own in ``public``. The SQL files of ``resources/sql`` are
applied in the order of their names, each in one transaction and once; a file that changed after it was applied is
refused, because the tables would no longer be what it says.
"""

import hashlib
import math
import re
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from fx_dagster.errors import ServerError, SettingsError

SCHEMA = "fx"
SQL_FOLDER = Path(__file__).parent / "sql"
CONNECT_TIMEOUT_S = 5.0
STATEMENT_TIMEOUT_S = 15.0

_MIGRATION_LOCK = int.from_bytes(hashlib.sha256(b"fx_dagster migrations").digest()[:8], "big", signed=True)
_SCHEME = re.compile(r"^postgres(ql)?(\+[a-z0-9]+)?$")


def psycopg_url(url: str) -> str:
    """Return ``url`` as psycopg reads it: without SQLAlchemy's driver name.

    Raises:
        SettingsError: it is no URL of a PostgreSQL database; the message never repeats it, as it may hold a secret.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.match(scheme):
        raise SettingsError(
            "FX_POSTGRES_URL is not the URL of a PostgreSQL database",
            mend="write postgresql+psycopg2://user:password@host:port/database, or start the servers with `fx up`",
        )
    return f"postgresql://{rest}"


def arguments(url: str, *, name: str, connect_timeout_s: float, statement_timeout_s: float) -> dict[str, Any]:
    """Return the keyword arguments of ``psycopg.connect`` that give every call to the server a deadline."""
    milliseconds = max(1, round(statement_timeout_s * 1000))
    return {
        "conninfo": psycopg_url(url),
        "application_name": name[:63],
        # libpq counts whole seconds and takes 1 for 2.
        "connect_timeout": max(2, math.ceil(connect_timeout_s)),
        "options": (
            f"-c search_path={SCHEMA},public -c statement_timeout={milliseconds} -c lock_timeout={milliseconds}"
            f" -c idle_in_transaction_session_timeout={4 * milliseconds} -c timezone=UTC"
        ),
        # A peer that vanished without a FIN is noticed by these, on TCP; a unix socket ignores them.
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": 2 * milliseconds,
    }


def connect(
    url: str,
    *,
    name: str = "fx",
    autocommit: bool = True,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
) -> psycopg.Connection:
    """Open a connection whose statements, locks and idle transactions all end by a deadline.

    Raises:
        ServerError: the server does not answer or refuses.
        SettingsError: the URL is none of PostgreSQL's.
    """
    keywords = arguments(url, name=name, connect_timeout_s=connect_timeout_s, statement_timeout_s=statement_timeout_s)
    try:
        return psycopg.connect(**keywords, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise unreachable(error) from None


async def connect_async(
    url: str,
    *,
    name: str = "fx",
    autocommit: bool = True,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    statement_timeout_s: float = STATEMENT_TIMEOUT_S,
) -> psycopg.AsyncConnection:
    """Open a connection as :func:`connect` does, for asyncio.

    Raises:
        ServerError: the server does not answer or refuses.
        SettingsError: the URL is none of PostgreSQL's.
    """
    keywords = arguments(url, name=name, connect_timeout_s=connect_timeout_s, statement_timeout_s=statement_timeout_s)
    try:
        return await psycopg.AsyncConnection.connect(**keywords, autocommit=autocommit)
    except psycopg.OperationalError as error:
        raise unreachable(error) from None


def unreachable(error: psycopg.Error) -> ServerError:
    """Return the project's error for one of psycopg's, in one line and without the URL's secret."""
    reason = " ".join(str(error).split()) or type(error).__name__
    reason = re.sub(r"(password=)\S+", r"\1***", re.sub(r"://[^@\s/]+@", "://***@", reason))
    return ServerError(
        f"PostgreSQL does not answer: {reason}", mend="`fx status` shows the servers, `fx up` starts them"
    )


def migrate(url: str, *, folder: Path = SQL_FOLDER) -> tuple[str, ...]:
    """Bring the tables up to date and return the files that were applied now.

    Any number of processes may call this at once: an advisory lock lets one work, and the others find it done.

    Raises:
        ServerError: the server does not answer, a file fails, or an applied file was changed since.
    """
    files = sorted(folder.glob("*.sql"))
    with connect(url, name="fx migrate", statement_timeout_s=60.0) as connection, connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(SCHEMA)))
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version ("
            " file text PRIMARY KEY, sha256 text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        applied: dict[str, str] = dict(connection.execute("SELECT file, sha256 FROM schema_version").fetchall())
        return tuple(file.name for file in files if _apply(connection, file, applied))


def _apply(connection: psycopg.Connection, file: Path, applied: dict[str, str]) -> bool:
    text = file.read_text(encoding="utf-8")
    digest = hashlib.sha256(text.encode()).hexdigest()
    if file.name in applied:
        if applied[file.name] != digest:
            raise ServerError(
                f"{file.name} was changed after it had been applied to this database",
                mend="put the change into a new file with a higher number",
            )
        return False
    try:
        connection.execute(text.encode())
    except psycopg.Error as error:
        raise ServerError(f"{file.name} fails: {' '.join(str(error).split())}", mend="correct that file") from error
    connection.execute("INSERT INTO schema_version (file, sha256) VALUES (%s, %s)", (file.name, digest))
    return True
