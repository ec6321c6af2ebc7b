"""Spans of heartbeats in PostgreSQL, from which availability is counted, and what was counted for each day.

The journal's writer calls :func:`note_span`; everybody else reads with :class:`AvailabilityStore`.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from fx_dagster.live.availability import (
    Availability,
    Condition,
    History,
    Interval,
    Span,
    availability,
    by_day,
    condition_of,
    history_of,
)
from resources.postgres import connect

SPAN_S: Final = 2.0
"""How often a span that goes on is written."""
CHANGE_S: Final = 1.0
"""The same where it does not go on as it was."""
FRESH_S: Final = 5.0
"""Age from which a heartbeat is not fresh: what follows is a new span, and what lies between an outage."""

_NOTE = """
WITH newest AS (
    SELECT id, ended_at, ended_clock, deciding = %(deciding)s AND ai = %(ai)s AND in_order = %(in_order)s AS same
    FROM (SELECT * FROM live_span WHERE account = %(account)s ORDER BY id DESC LIMIT 1) AS last
    WHERE epoch = %(epoch)s AND session_id = %(session)s AND ended_at > now() - make_interval(secs => %(fresh)s)),
longer AS (
    UPDATE live_span AS span SET ended_at = greatest(span.ended_at, now()), level = %(level)s, why = %(why)s,
        ended_clock = greatest(span.ended_clock, %(clock)s)
    FROM newest WHERE span.id = newest.id AND newest.same RETURNING span.id)
INSERT INTO live_span (account, session_id, epoch, realtime, level, deciding, ai, why, began_at, ended_at, began_clock,
                       ended_clock, in_order)
SELECT %(account)s, %(session)s, %(epoch)s, %(realtime)s, %(level)s, %(deciding)s, %(ai)s, %(why)s,
       coalesce(newest.ended_at, now()), greatest(coalesce(newest.ended_at, now()), now()),
       coalesce(newest.ended_clock, %(clock)s), greatest(coalesce(newest.ended_clock, %(clock)s), %(clock)s),
       %(in_order)s
FROM (SELECT 1) AS one LEFT JOIN newest ON true WHERE NOT EXISTS (SELECT FROM longer)"""

_SPANS = """
SELECT s.session_id, s.realtime, s.deciding, s.ai, s.in_order, s.began_clock, s.ended_clock, s.began_at, s.ended_at,
       coalesce(l.finished_at, now()) AS over
FROM live_span s JOIN live_session l USING (session_id) WHERE s.account = %s ORDER BY s.session_id, s.id"""
_SWITCH = "SELECT engaged, at FROM kill_switch_log WHERE account = %s ORDER BY id"
_SESSION = """
SELECT min(s.began_at), coalesce(l.finished_at, now())
FROM live_session l JOIN live_span s USING (session_id) WHERE l.session_id = %s GROUP BY l.session_id"""
_DAY = """
INSERT INTO availability (account, day, required_s, decision_s, ai_s, held_s) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (account, day) DO UPDATE SET required_s = excluded.required_s, decision_s = excluded.decision_s,
    ai_s = excluded.ai_s, held_s = excluded.held_s, computed_at = now()"""


@dataclass(frozen=True)
class SpanWriter:
    """Whose spans are written.

    Attributes:
        account: account name.
        session_id: session.
        epoch: of the engine.
        realtime: whether its market is a real one.
    """

    account: str
    session_id: int
    epoch: int
    realtime: bool


async def note_span(connection: psycopg.AsyncConnection, writer: SpanWriter, status: Mapping[str, Any]) -> None:
    """Let the newest span go on until now, or begin one where this status says something else."""
    found, clock = condition_of(status), status.get("clock_ns", 0)
    values = {
        "account": writer.account, "session": writer.session_id, "epoch": writer.epoch, "realtime": writer.realtime,
        "level": found.level, "deciding": found.deciding, "ai": found.ai, "why": found.why[:200],
        "in_order": found.in_order, "clock": clock if isinstance(clock, int) else 0, "fresh": FRESH_S,
    }  # fmt: skip
    await connection.execute(_NOTE, values)


class SpanPace:
    """When the next status is worth a row: every other second, and sooner where it says something else."""

    def __init__(self) -> None:
        self._noted_s = float("-inf")
        self._noted: Condition | None = None

    def due(self, status: Mapping[str, Any]) -> bool:
        """Return whether this status is to be written now; then it counts as written."""
        found, now = condition_of(status), asyncio.get_running_loop().time()
        last, pause_s = self._noted, SPAN_S
        if last is None or (found.deciding, found.ai) != (last.deciding, last.ai):
            pause_s = CHANGE_S
        if now - self._noted_s < pause_s and not found.in_order:
            return False
        self._noted_s, self._noted = now, found
        return True

    def forget(self) -> None:
        """Have the next status written, whatever it says: the last one may not have arrived."""
        self._noted_s = float("-inf")


class AvailabilityStore:
    """Reads spans, and keeps what was counted.

    Args:
        url: of PostgreSQL; its tables are made by :func:`resources.postgres.migrate`.

    Every method raises ServerError where the server does not answer.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def history(self, account: str) -> History:
        """Return what is known of an account until now."""
        with connect(self._url, name="fx availability") as connection, connection.transaction():
            cursor = connection.cursor(row_factory=dict_row)
            now = _ns(cursor.execute("SELECT now() AS now").fetchall()[0]["now"])
            rows = cursor.execute(_SPANS, (account,)).fetchall()
            turns = cursor.execute(_SWITCH, (account,)).fetchall()
        market = sorted((_span(row) for row in rows if row["realtime"]), key=lambda span: span.start)
        tapes: dict[int, tuple[list[Span], int]] = {}
        for row in rows:
            if not row["realtime"]:
                tapes.setdefault(row["session_id"], ([], _ns(row["over"])))[0].append(_span(row))
        return history_of(market, list(tapes.values()), held_intervals(turns, now), now)

    def of_session(self, account: str, session_id: int) -> Availability:
        """Return the availability over one session, from its first heartbeat to its end, or now."""
        with connect(self._url, name="fx availability") as connection:
            row = connection.execute(_SESSION, (session_id,)).fetchone()
        if row is None:
            return Availability(0.0, 0.0, 0.0, 0.0)
        return availability(self.history(account), (_ns(row[0]), _ns(row[1])))

    def by_day(self, account: str) -> dict[date, Availability]:
        """Return the availability of each trading day until now, ascending."""
        return by_day(self.history(account))

    def record(self, account: str, days: Mapping[date, Availability]) -> None:
        """Keep what was counted; a day that was counted before is counted anew."""
        rows = [(account, day, one.required_s, one.decision_s, one.ai_s, one.held_s) for day, one in days.items()]
        with connect(self._url, name="fx availability") as connection, connection.cursor() as cursor:
            cursor.executemany(_DAY, rows)

    def recorded(self, account: str) -> dict[date, Availability]:
        """Return what was kept, ascending."""
        with connect(self._url, name="fx availability") as connection:
            rows = connection.execute(
                "SELECT day, required_s, decision_s, ai_s, held_s FROM availability WHERE account = %s ORDER BY day",
                (account,),
            ).fetchall()
        return {row[0]: Availability(*row[1:]) for row in rows}


def held_intervals(turns: list[dict[str, Any]], now: int) -> list[Interval]:
    """Return when a kill switch was on, of its log's rows ``engaged, at`` in order, until ``now`` (ns UTC)."""
    held: list[Interval] = []
    since: int | None = None
    for turn in turns:
        if turn["engaged"]:
            since = _ns(turn["at"]) if since is None else since
        elif since is not None:
            held.append((since, _ns(turn["at"])))
            since = None
    return held if since is None else [*held, (since, now)]


def _span(row: Mapping[str, Any]) -> Span:
    return Span(
        _ns(row["began_at"]), _ns(row["ended_at"]), int(row["began_clock"]), int(row["ended_clock"]), row["deciding"],
        row["ai"], row["in_order"],
    )  # fmt: skip


def _ns(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6) * 1_000
