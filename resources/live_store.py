"""What others than the engine read and write of the live session: the command line, the sensor, the report.

Each call opens a connection with a deadline and closes it. Times of this machine are aware datetimes (UTC), market
times int64 ns UTC.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from psycopg.rows import dict_row

from fx_dagster.errors import JournalError
from resources.postgres import connect


@dataclass(frozen=True)
class KillState:
    """The kill switch with its history's last turn."""

    engaged: bool = False
    flatten: bool = False
    reason: str = ""
    changed_at: datetime | None = None
    resumed_at: datetime | None = None


@dataclass(frozen=True)
class SessionRow:
    """A session as the database knows it; ``position`` and the window are market times, ns UTC."""

    session_id: int
    account: str
    state: str
    fingerprint: str
    replay_start: int
    replay_end: int
    position: int
    clock: int
    reason: str
    started_at: datetime
    updated_at: datetime
    finished_at: datetime | None

    @property
    def finished(self) -> bool:
        """Whether its tape is over or it was ended; it is not resumed."""
        return self.state == "finished"


@dataclass(frozen=True)
class StatusRow:
    """The engine's last heartbeat; ``age_s`` by the database's clock."""

    session_id: int
    epoch: int
    pid: int
    host: str
    beat_at: datetime
    age_s: float
    status: dict[str, Any]


DOUBTFUL: LiteralString = """
SELECT o.client_order_id, o.symbol, o.purpose, o.lots,
    CASE WHEN h.held_ns IS NULL THEN o.state ELSE 'held' END AS state,
    coalesce(h.reason, o.message) AS reason, EXTRACT(epoch FROM now() - o.journalled_at)::float8 AS age_s
FROM trade_order o LEFT JOIN held_order h ON h.client_order_id = o.client_order_id AND h.released_ns IS NULL
WHERE o.account = %s AND o.state = 'unknown' ORDER BY o.journalled_at DESC, o.client_order_id LIMIT 50"""


class LiveStore:
    """Reads and steers live sessions.

    Args:
        url: of PostgreSQL; its tables are made by :func:`resources.postgres.migrate`.

    Every method raises ServerError where the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def kill_state(self, account: str) -> KillState:
        """Return the account's kill switch; one that nobody ever touched is open."""
        rows = self._rows(
            "SELECT engaged, flatten, reason, changed_at, resumed_at FROM kill_switch WHERE account = %s", account
        )
        return KillState(**rows[0]) if rows else KillState()

    def kill(self, account: str, *, reason: str, flatten: bool, by_whom: str) -> None:
        """Stop new entries at once, and with ``flatten`` close all positions; stays so over restarts."""
        self._turn(account, engaged=True, flatten=flatten, reason=reason, by_whom=by_whom)

    def resume(self, account: str, *, by_whom: str) -> None:
        """Let the account trade again, and the sensor launch a session that a person cancelled."""
        self._turn(account, engaged=False, flatten=False, reason="", by_whom=by_whom)

    def _turn(self, account: str, *, engaged: bool, flatten: bool, reason: str, by_whom: str) -> None:
        values = {"account": account, "engaged": engaged, "flatten": flatten, "reason": reason, "by_whom": by_whom}
        with connect(self._url, name="fx kill switch") as connection, connection.transaction():
            connection.execute(
                "INSERT INTO kill_switch AS k (account, engaged, flatten, reason, resumed_at)"
                " VALUES (%(account)s, %(engaged)s, %(flatten)s, %(reason)s,"
                "         CASE WHEN %(engaged)s THEN NULL ELSE now() END)"
                " ON CONFLICT (account) DO UPDATE SET engaged = excluded.engaged, flatten = excluded.flatten,"
                " reason = excluded.reason, changed_at = now(),"
                " resumed_at = coalesce(excluded.resumed_at, k.resumed_at)",
                values,
            )
            connection.execute(
                "INSERT INTO kill_switch_log (account, engaged, flatten, reason, by_whom)"
                " VALUES (%(account)s, %(engaged)s, %(flatten)s, %(reason)s, %(by_whom)s)",
                values,
            )

    def doubtful_orders(self, account: str) -> list[dict[str, Any]]:
        """Return the orders that the broker may have or not, newest first; state ``held``: they wait for a person.

        Each has ``client_order_id, symbol, purpose, lots, state, reason, age_s``.
        """
        return self._rows(DOUBTFUL, account)

    def decide_held(self, account: str, key: int, *, by_whom: str) -> None:
        """Write a person's word that the broker does not have a held order; the account's engine then acts on it.

        Raises:
            JournalError: no such order is held.
        """
        with connect(self._url, name="fx orders") as connection:
            cursor = connection.execute(
                "UPDATE held_order SET verdict = 'not_sent', by_whom = %s, decided_at = now()"
                " WHERE account = %s AND client_order_id = %s AND released_ns IS NULL AND verdict IS NULL",
                (by_whom, account, key),
            )
            decided = cursor.rowcount
        if decided != 1:
            raise JournalError(
                f"account {account} holds no order {key} that waits for a word", mend="fx orders list shows them"
            )

    def begin_anew(self, account: str) -> None:
        """Let the next engine begin a new session, whether the last one is finished or could be resumed.

        An engine that trades the last session now goes on with it to its end.
        """
        with connect(self._url, name="fx live store") as connection:
            connection.execute(
                "UPDATE live_session SET fingerprint = 'superseded: ' || fingerprint WHERE session_id ="
                " (SELECT max(session_id) FROM live_session WHERE account = %s)"
                " AND NOT starts_with(fingerprint, 'superseded: ')",
                (account,),
            )

    def last_session(self, account: str) -> SessionRow | None:
        """Return the account's newest session."""
        rows = self._rows(
            "SELECT session_id, account, state, fingerprint, replay_start, replay_end, position, clock, reason,"
            " started_at, updated_at, finished_at"
            " FROM live_session WHERE account = %s ORDER BY session_id DESC LIMIT 1",
            account,
        )
        return SessionRow(**rows[0]) if rows else None

    def status(self, account: str) -> StatusRow | None:
        """Return the newest heartbeat of the account's engine."""
        rows = self._rows(
            "SELECT session_id, epoch, pid, host, beat_at, extract(epoch FROM now() - beat_at)::float8 AS age_s, status"
            " FROM live_status WHERE account = %s",
            account,
        )
        return StatusRow(**rows[0]) if rows else None

    def decisions(self, session_id: int) -> pd.DataFrame:
        """Return a session's decisions in order: every column but the features (``outcome`` as a dict)."""
        return self._frame(
            "SELECT symbol, number, kind, time_ns, bar_time, level, level_reason, action, score, outcome, feature_hash,"
            " release, client_order_id, latency_total_ms, latency_model_ms, epoch, decided_at"
            " FROM decision WHERE session_id = %s ORDER BY number",
            session_id,
        )

    def newest_decision(self, account: str, symbol: str) -> dict[str, Any] | None:
        """Return the newest decision about a symbol, of any session, as :meth:`decisions` has it, and ``features``.

        ``features`` is float32 ``[F]``, empty where the models were not asked. None: nothing was decided.
        """
        rows = self._rows(
            "SELECT symbol, number, kind, time_ns, bar_time, level, level_reason, action, score, outcome, feature_hash,"
            " release, client_order_id, latency_total_ms, latency_model_ms, decided_at, features"
            " FROM decision WHERE account = %s AND symbol = %s ORDER BY session_id DESC, number DESC LIMIT 1",
            account, symbol,
        )  # fmt: skip
        return {**rows[0], "features": np.frombuffer(rows[0]["features"], dtype="<f4")} if rows else None

    def accounts_about(self, symbol: str) -> list[str]:
        """Return the accounts that have decided something about a symbol, the newest session's first."""
        rows = self._rows(
            "SELECT account FROM decision WHERE symbol = %s GROUP BY account ORDER BY max(session_id) DESC", symbol
        )
        return [row["account"] for row in rows]

    def decided_rows(
        self, account: str, *, feature_hash: str, since: int, until: int, rows_max: int
    ) -> tuple[pd.DataFrame, NDArray[np.float32]]:
        """Return the rows that were decided on at the close of a bar, and the features that were seen.

        Rows of several sessions count as one history: of a bar that was decided on more than once, the last answer in
        the newest session counts. Decisions between two bars, which see a bar that still forms, are left out.

        Args:
            account: account name.
            feature_hash: of the features; rows with others are left out.
            since: opening of the first bar, ns UTC.
            until: opening from which bars are left out, ns UTC.
            rows_max: most rows, the newest.

        Returns:
            ``symbol, time, release, p_up`` in order of time, the bar's opening (ns UTC), and then of symbol;
            ``release`` is None where no model answered, ``p_up`` a list in the order of the models, with None where
            one did not. And the rows' features, float32 ``[n, F]``.
        """
        rows = self._rows(
            "SELECT * FROM (SELECT DISTINCT ON (symbol, bar_time) symbol, bar_time AS time, release,"
            " outcome -> 'p_up' AS p_up, features FROM decision WHERE account = %s AND feature_hash = %s"
            " AND kind IN ('bar', 'retry') AND time_ns >= %s AND bar_time >= %s AND bar_time < %s"
            " AND length(features) > 0"
            " ORDER BY symbol, bar_time, session_id DESC, release IS NULL, number DESC) AS latest"
            " ORDER BY time DESC, symbol DESC LIMIT %s",
            account, feature_hash, since, since, until, rows_max,
        )[::-1]  # fmt: skip
        features = [np.frombuffer(row.pop("features"), dtype="<f4") for row in rows]
        frame = pd.DataFrame(rows, columns=["symbol", "time", "release", "p_up"])
        return frame, np.array(features, dtype=np.float32).reshape(len(rows), -1 if rows else 0)

    def orders(self, session_id: int) -> pd.DataFrame:
        """Return a session's orders, in the order in which they were journalled."""
        return self._frame("SELECT * FROM trade_order WHERE session_id = %s ORDER BY decided_ns, symbol", session_id)

    def deals(self, session_id: int) -> pd.DataFrame:
        """Return a session's deals in order of market time."""
        return self._frame("SELECT * FROM deal WHERE session_id = %s ORDER BY time_ns, ticket", session_id)

    def equity(self, session_id: int) -> pd.DataFrame:
        """Return a session's account after each step: ``time, balance, equity, margin_used``."""
        return self._frame(
            "SELECT time, balance, equity, margin_used FROM account_state WHERE session_id = %s ORDER BY time",
            session_id,
        )

    def events(self, session_id: int) -> pd.DataFrame:
        """Return what happened to a session: ``kind, symbol, message, market_time, at``."""
        return self._frame(
            "SELECT kind, symbol, message, market_time, at FROM live_event WHERE session_id = %s ORDER BY id",
            session_id,
        )

    def baselines(self, session_id: int) -> pd.DataFrame:
        """Return the bare model calls made between decisions: ``at, rows, latency_ms``."""
        return self._frame(
            "SELECT at, rows, latency_ms FROM model_baseline WHERE session_id = %s ORDER BY at", session_id
        )

    def _rows(self, statement: LiteralString, *values: object) -> list[dict[str, Any]]:
        with connect(self._url, name="fx live store") as connection:
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(statement, values).fetchall()

    def _frame(self, statement: LiteralString, *values: object) -> pd.DataFrame:
        with connect(self._url, name="fx live store") as connection:
            cursor = connection.execute(statement, values)
            columns = [column.name for column in cursor.description or ()]
            return pd.DataFrame(cursor.fetchall(), columns=columns)
