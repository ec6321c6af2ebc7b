"""What the control server shows of a live session: plain JSON values, a bounded number of rows a question.

Keys of orders have 63 bits, more than a number of JavaScript holds: they are texts here. What is not a finite number is
null. Market times are ns UTC, times of this machine ISO 8601 UTC.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from resources.postgres import connect

ROWS_MAX = 500
SAFE_INTEGER = 2**53
_KEYS = ("client_order_id", "broker_order", "ticket")

_DECISIONS = """
SELECT symbol, number, kind, time_ns, bar_time, level, level_reason, action, score, outcome, release, client_order_id,
    latency_total_ms, latency_model_ms, decided_at
FROM decision WHERE session_id = %(session)s AND number < %(below)s
AND (%(symbol)s::text IS NULL OR symbol = %(symbol)s) ORDER BY number DESC LIMIT %(limit)s"""

_DECISIONS_SINCE = """
SELECT symbol, number, kind, time_ns, bar_time, level, level_reason, action, score, outcome, release, client_order_id,
    latency_total_ms, latency_model_ms, decided_at
FROM decision WHERE session_id = %(session)s AND number > %(above)s ORDER BY number LIMIT %(limit)s"""

_ORDERS = """
SELECT client_order_id, symbol, purpose, lots, stop, target, decided_ns, expires_ns, risk_money, state, broker_order,
    changed_ns, journalled_at
FROM trade_order WHERE session_id = %(session)s ORDER BY sequence DESC, client_order_id LIMIT %(limit)s"""

_DEALS = """
SELECT ticket, client_order_id, symbol, time_ns, lots, price, commission, swap, profit, reason, closing, risk_money
FROM deal WHERE session_id = %(session)s ORDER BY time_ns DESC, ticket DESC LIMIT %(limit)s"""

_ACCOUNT = """
SELECT time, currency, balance, equity, margin_used, positions FROM account_state
WHERE session_id = %(session)s ORDER BY time DESC LIMIT 1"""

_EVENTS = """
SELECT id, kind, symbol, message, market_time, at FROM live_event
WHERE session_id = %(session)s AND id > %(above)s ORDER BY id DESC LIMIT %(limit)s"""

_STATUS = """
SELECT l.session_id, l.epoch, l.pid, l.host, l.beat_at, l.status, s.state AS session_state, s.reason AS session_reason,
    extract(epoch FROM now() - l.beat_at)::float8 AS age_s
FROM live_status l JOIN live_session s USING (session_id) WHERE l.account = %(account)s"""


def plain(value: Any) -> Any:
    """Return a value of PostgreSQL as JSON has it."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return plain(float(value))
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return {str(name): _key(name, one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def _key(name: object, value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and name in _KEYS:
        return str(value)
    return plain(value)


class SessionReads:
    """Rows of an account's live sessions.

    Args:
        url: of PostgreSQL.
        account: account name.

    Every method raises ServerError where the server does not answer.
    """

    def __init__(self, url: str, account: str) -> None:
        self._url = url
        self.account = account

    def status(self) -> dict[str, Any] | None:
        """Return the newest heartbeat and its session's state; None: the account never had a session."""
        rows = self._ask(_STATUS, account=self.account)
        return rows[0] if rows else None

    def session_id(self) -> int | None:
        """Return the number of the newest session."""
        rows = self._ask(
            "SELECT max(session_id) AS newest FROM live_session WHERE account = %(account)s", account=self.account
        )
        return rows[0]["newest"]

    def decisions(
        self, session: int, *, symbol: str | None = None, below: int | None = None, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Return decisions, newest first, with numbers under ``below``."""
        return self._ask(_DECISIONS, session=session, symbol=symbol, below=below or SAFE_INTEGER, limit=limit)

    def decisions_since(self, session: int, above: int) -> list[dict[str, Any]]:
        """Return decisions with numbers above ``above``, oldest first."""
        return self._ask(_DECISIONS_SINCE, session=session, above=above, limit=ROWS_MAX)

    def orders(self, session: int, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return orders, newest first."""
        return self._ask(_ORDERS, session=session, limit=limit)

    def deals(self, session: int, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return deals, newest first."""
        return self._ask(_DEALS, session=session, limit=limit)

    def account_row(self, session: int) -> dict[str, Any] | None:
        """Return the account's money and positions as last journalled; None: not yet."""
        rows = self._ask(_ACCOUNT, session=session)
        return rows[0] if rows else None

    def events(self, session: int, *, above: int = 0, limit: int = 100) -> list[dict[str, Any]]:
        """Return events with an id above ``above``, newest first."""
        return self._ask(_EVENTS, session=session, above=above, limit=limit)

    def newest_by_symbol(self, session: int) -> dict[str, dict[str, Any]]:
        """Return the newest decision of each symbol that is among the session's newest 500."""
        found: dict[str, dict[str, Any]] = {}
        for row in self.decisions(session, limit=ROWS_MAX):
            found.setdefault(row["symbol"], row)
        return found

    def _ask(self, statement: LiteralString, **values: object) -> list[dict[str, Any]]:
        with self._connect() as connection:
            rows = connection.cursor(row_factory=dict_row).execute(statement, values).fetchall()
        return [plain(row) for row in rows]

    def _connect(self) -> psycopg.Connection:
        return connect(self._url, name="fx control reads", connect_timeout_s=2.0, statement_timeout_s=5.0)
