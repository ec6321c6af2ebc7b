"""Drills in PostgreSQL: their records, and what a drill needs to know of decisions and orders.

Each call opens a connection with a deadline and closes it. Times of this machine are aware datetimes (UTC).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from resources.postgres import connect

_COLUMNS: LiteralString = "id, account, name, by_whom, started_at, ended_at, passed, seconds, text, checks"
_TWICE = """
SELECT count(*) FROM (
    SELECT 1 FROM decision WHERE session_id = %(session)s AND kind = 'bar' AND number > %(above)s
    GROUP BY symbol, bar_time HAVING count(*) > 1
    UNION ALL
    SELECT 1 FROM trade_order WHERE session_id = %(session)s
    GROUP BY symbol, purpose, position, decided_ns HAVING count(*) > 1) AS twice"""


@dataclass(frozen=True)
class DrillRow:
    """A drill that was run; ``passed`` and ``ended_at`` are None while it runs, or where it was cut off."""

    id: int
    account: str
    name: str
    by_whom: str
    started_at: datetime
    ended_at: datetime | None
    passed: bool | None
    seconds: float | None
    text: str
    checks: list[dict[str, Any]]


@dataclass(frozen=True)
class DecidedRow:
    """A decision that answered a closed bar, a move or a retry; ``began_at`` and ``ended_at`` by the engine's clock."""

    number: int
    level: int
    level_reason: str
    action: str
    latency_total_ms: float
    latency_model_ms: float | None
    ended_at: datetime

    @property
    def began_s(self) -> float:
        """When the tick that it answers came in, seconds since 1970."""
        return self.ended_at.timestamp() - self.latency_total_ms / 1e3


class DrillStore:
    """Writes and reads drills.

    Args:
        url: of PostgreSQL; its tables are made by :func:`resources.postgres.migrate`.

    Every method raises ServerError where the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def begin(self, account: str, name: str, *, by_whom: str) -> int:
        """Write down that a drill begins, and return its number."""
        with connect(self._url, name="fx drill") as connection:
            row = connection.execute(
                "INSERT INTO drill (account, name, by_whom) VALUES (%s, %s, %s) RETURNING id", (account, name, by_whom)
            ).fetchone()
        if row is None:
            raise AssertionError("INSERT … RETURNING returned nothing")
        return int(row[0])

    def end(self, drill: int, *, passed: bool, seconds: float, text: str, checks: Sequence[Mapping[str, Any]]) -> None:
        """Write down how it ended."""
        with connect(self._url, name="fx drill") as connection:
            connection.execute(
                "UPDATE drill SET ended_at = now(), passed = %s, seconds = %s, text = %s, checks = %s WHERE id = %s",
                (passed, seconds, text, Jsonb([dict(check) for check in checks]), drill),
            )

    def forget(self, drill: int) -> None:
        """Remove a drill that was refused before it had done anything."""
        with connect(self._url, name="fx drill") as connection:
            connection.execute("DELETE FROM drill WHERE id = %s AND ended_at IS NULL", (drill,))

    def newest(self, account: str, *, limit: int = 50) -> list[DrillRow]:
        """Return the account's drills, newest first."""
        with connect(self._url, name="fx drill") as connection:
            cursor = connection.cursor(row_factory=dict_row)
            rows = cursor.execute(
                b"SELECT " + _COLUMNS.encode() + b" FROM drill WHERE account = %s ORDER BY id DESC LIMIT %s",
                (account, limit),
            ).fetchall()
        return [DrillRow(**row) for row in rows]

    def last_decision(self, session_id: int) -> int:
        """Return the number of a session's newest recorded decision; 0: there is none."""
        with connect(self._url, name="fx drill") as connection:
            row = connection.execute(
                "SELECT coalesce(max(number), 0) FROM decision WHERE session_id = %s", (session_id,)
            ).fetchone()
        return int(row[0]) if row else 0

    def decided_since(self, session_id: int, above: int) -> list[DecidedRow]:
        """Return the decisions with numbers above ``above`` that ask for a level, in order."""
        with connect(self._url, name="fx drill") as connection:
            rows = connection.execute(
                "SELECT number, level, level_reason, action, latency_total_ms, latency_model_ms, decided_at"
                " FROM decision WHERE session_id = %s AND number > %s AND kind IN ('bar', 'move', 'retry')"
                " ORDER BY number",
                (session_id, above),
            ).fetchall()
        return [DecidedRow(*row) for row in rows]

    def twice(self, session_id: int, above: int) -> int:
        """Return how much was done twice: bars that have two decisions above a number, decisions with two orders."""
        with connect(self._url, name="fx drill") as connection:
            row = connection.execute(_TWICE, {"session": session_id, "above": above}).fetchone()
        return int(row[0]) if row else 0

    def release_switch(self, account: str, *, reason: str, by_whom: str) -> bool:
        """Turn off the kill switch that was turned on with that reason; False: a person has turned it since.

        Unlike a person's ``fx resume`` it ends no halt and no person's stop: all is as it was before.
        """
        with connect(self._url, name="fx drill") as connection, connection.transaction():
            cursor = connection.execute(
                "UPDATE kill_switch SET engaged = false, flatten = false, reason = '', changed_at = now()"
                " WHERE account = %s AND engaged AND reason = %s",
                (account, reason),
            )
            if not cursor.rowcount:
                return False
            connection.execute(
                "INSERT INTO kill_switch_log (account, engaged, flatten, reason, by_whom)"
                " VALUES (%s, false, false, %s, %s)",
                (account, reason, by_whom),
            )
        return True
