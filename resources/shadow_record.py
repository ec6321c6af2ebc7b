"""Champion and challenger in PostgreSQL: the paper accounts of their sessions, paired day by day."""

from collections import defaultdict
from typing import Any, LiteralString

import numpy as np
import psycopg

from fx_dagster.backtest.sequential import PairedRecord, SessionCurve, paired_days
from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.rows import Int64
from fx_dagster.market.timeframes import HOUR_NS
from resources.postgres import connect

# A tape that was begun anew on purpose is the same market.
SESSIONS = """
SELECT session_id, replace(fingerprint, 'superseded: ', '') FROM live_session WHERE account = %s ORDER BY session_id
"""
EQUITY = "SELECT time, equity FROM account_state WHERE session_id = %s ORDER BY time"
CLOSED = "SELECT time_ns FROM deal WHERE session_id = %s AND closing ORDER BY time_ns"
ASKED = """
SELECT time_ns / %s AS hour, array_agg(DISTINCT release) FROM decision
WHERE session_id = %s AND release IS NOT NULL GROUP BY hour ORDER BY hour
"""


def shadow_record(
    url: str,
    champion_account: str,
    challenger_account: str,
    *,
    champion: int | None = None,
    challenger: int | None = None,
) -> PairedRecord:
    """Return the returns of two paper accounts on the whole trading days that both lived through.

    Args:
        url: PostgreSQL, as in ``FX_POSTGRES_URL``.
        champion_account: account of the live release.
        challenger_account: account of the one that is tried.
        champion: release; days on which its account asked another are left out. None: none is.
        challenger: likewise.

    Raises:
        ServerError: the server does not answer.
    """
    with connect(url, name="fx shadow record") as connection:
        sides = [_sessions(connection, account) for account in (champion_account, challenger_account)]
    return paired_days(sides[0], sides[1], champion_release=champion, challenger_release=challenger)


def _sessions(connection: psycopg.Connection, account: str) -> list[SessionCurve]:
    rows = connection.execute(SESSIONS, (account,)).fetchall()
    return [_session(connection, session_id, tape) for session_id, tape in rows]


def _session(connection: psycopg.Connection, session_id: int, tape: str) -> SessionCurve:
    states = _table(connection, EQUITY, session_id)
    closed = _table(connection, CLOSED, session_id)
    releases: dict[int, set[int]] = defaultdict(set)
    for hour, asked in connection.execute(ASKED, (HOUR_NS, session_id)).fetchall():
        # Trading days turn on the hour.
        releases[int(trading_day(_times([hour * HOUR_NS]))[0])] |= set(asked)
    return SessionCurve(
        tape=tape,
        time=_times([row[0] for row in states]),
        equity=np.array([row[1] for row in states], dtype=np.float64),
        closed=_times([row[0] for row in closed]),
        releases={day: frozenset(asked) for day, asked in releases.items()},
    )


def _table(connection: psycopg.Connection, statement: LiteralString, session_id: int) -> list[tuple[Any, ...]]:
    return connection.execute(statement, (session_id,)).fetchall()


def _times(values: list[int]) -> Int64:
    return np.array(values, dtype=np.int64)
