"""The live session's rows in PostgreSQL: one function an operation, each inside the caller's transaction."""

from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import numpy as np
import psycopg
from psycopg.types.json import Jsonb

from fx_dagster.errors import JournalError
from fx_dagster.execution.orders import Deal, OrderIntent, Purpose
from fx_dagster.live.records import (
    AccountRecord,
    Baseline,
    Checkpoint,
    DecisionRecord,
    EventRecord,
    JournalEntry,
    KillSwitch,
    SessionState,
    Transition,
)
from resources import order_store

Connection = psycopg.AsyncConnection

_DECISION = """
INSERT INTO decision (account, session_id, symbol, number, kind, time_ns, bar_time, level, level_reason, action, score,
                      outcome, features, feature_hash, release, client_order_id, latency_total_ms, latency_model_ms,
                      epoch, decided_at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_INTENT = """
INSERT INTO trade_order (account, session_id, client_order_id, symbol, purpose, lots, stop, target, decided_ns,
                         expires_ns, risk_money, epoch, comment, state, changed_ns, sequence, position, attempt)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, 'journalled', %s, %s, %s, %s)"""

# A restart lives through the same market again: an event that is there already must not move the order back.
_TRANSITION = """
WITH event AS (
    INSERT INTO order_event (client_order_id, state, time_ns, broker_order, message) VALUES (%s, %s, %s, %s, %s)
    ON CONFLICT DO NOTHING RETURNING client_order_id, state, time_ns, broker_order)
UPDATE trade_order SET state = event.state, changed_ns = event.time_ns,
    broker_order = CASE WHEN event.broker_order = 0 THEN trade_order.broker_order ELSE event.broker_order END
FROM event WHERE trade_order.client_order_id = event.client_order_id"""

_DEAL = """
INSERT INTO deal (account, session_id, ticket, client_order_id, symbol, time_ns, lots, price, commission, swap, profit,
                  reason, closing, risk_money)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""

_ACCOUNT = """
INSERT INTO account_state (session_id, time, currency, balance, equity, margin_used, positions)
VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"""

_EVENT = """
INSERT INTO live_event (session_id, kind, symbol, message, market_time, at) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING"""

_BASELINE = "INSERT INTO model_baseline (session_id, at, rows, latency_ms) VALUES (%s, %s, %s, %s)"

_STATUS = """
INSERT INTO live_status (account, session_id, epoch, pid, host, status) VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (account) DO UPDATE SET session_id = excluded.session_id, epoch = excluded.epoch, pid = excluded.pid,
    host = excluded.host, status = excluded.status, beat_at = now()
WHERE live_status.epoch <= excluded.epoch RETURNING epoch"""


def wall_time(nanoseconds: int) -> datetime:
    """Return ns since 1970 as an aware datetime, UTC (microseconds)."""
    return datetime.fromtimestamp(nanoseconds / 1e9, tz=UTC)


async def insert_entry(
    connection: Connection, entry: JournalEntry, *, account: str, session_id: int, epoch: int, again: bool
) -> None:
    """Write one entry.

    Args:
        connection: inside a transaction.
        entry: what to write.
        account: account name.
        session_id: session.
        epoch: of the writing engine.
        again: an earlier attempt's answer got lost; where its checkpoint is there, it was written, and is left out.

    Raises:
        JournalError: the session is over, or was decided upon to that place before; or an order at a real broker is
            in another state there than here.
        FencedError: another engine has the account.
    """
    keys = (account, session_id)
    sequence = entry.checkpoint.sequence if entry.checkpoint else 0
    if entry.checkpoint and not await _advance(connection, session_id, entry.checkpoint):
        if again:
            return
        raise JournalError(
            f"session {session_id} is finished, or has checkpoint {entry.checkpoint.sequence} already",
            mend="restart the session: it goes on after its last decision",
        )
    async with connection.cursor() as cursor:
        await _many(cursor, _DECISION, [keys + _decision(row, epoch) for row in entry.decisions])
        intents = [keys + _intent(row, epoch, sequence, entry.attempts) for row in entry.intents]
        await _many(cursor, _INTENT, intents)
        await _many(cursor, _TRANSITION, [_transition(row) for row in entry.transitions])
        await _many(cursor, _DEAL, [keys + _deal(row) for row in entry.deals])
        await _many(cursor, _ACCOUNT, [_account(session_id, entry.account)] if entry.account else [])
        await _many(cursor, _EVENT, [_event(session_id, row) for row in entry.events])
        await _many(cursor, _BASELINE, [_baseline(session_id, row) for row in entry.baselines])
    writer = order_store.Writer(account, session_id, epoch)
    if entry.steps:
        await order_store.record(connection, entry.steps, writer)
    if entry.foreign is not None:
        await order_store.record_foreign(connection, entry.foreign, entry.foreign_ns, writer)


async def _many(cursor: psycopg.AsyncCursor[Any], statement: str, rows: list[tuple[Any, ...]]) -> None:
    if rows:
        await cursor.executemany(statement.encode(), rows)


async def _advance(connection: Connection, session_id: int, checkpoint: Checkpoint) -> bool:
    cursor = await connection.execute(
        "UPDATE live_session SET sequence = %s, position = %s, clock = greatest(clock, %s), snapshot = %s,"
        " updated_at = now() WHERE session_id = %s AND state = 'running' AND sequence < %s",
        (
            checkpoint.sequence,
            checkpoint.position,
            checkpoint.clock,
            checkpoint.snapshot,
            session_id,
            checkpoint.sequence,
        ),
    )
    return cursor.rowcount == 1


def _decision(row: DecisionRecord, epoch: int) -> tuple[Any, ...]:
    return (
        row.symbol, row.number, row.kind, row.time, row.bar_time, row.level, row.level_reason, row.action, row.score,
        Jsonb(dict(row.outcome)),
        np.ascontiguousarray(row.features, dtype="<f4").tobytes(), row.feature_hash, row.release, row.client_order_id,
        row.latency_total_ms, row.latency_model_ms, epoch, wall_time(row.decided_wall_ns),
    )  # fmt: skip


def _intent(row: OrderIntent, epoch: int, sequence: int, attempts: Mapping[int, int]) -> tuple[Any, ...]:
    return (
        row.client_order_id, row.symbol, str(row.purpose), row.lots, row.stop, row.target, row.decided_ns,
        row.expires_ns, row.risk_money, epoch, row.comment, row.decided_ns, sequence, row.position,
        attempts.get(row.client_order_id, 0),
    )  # fmt: skip


def _transition(row: Transition) -> tuple[Any, ...]:
    return (row.client_order_id, str(row.state), row.time_ns, row.broker_order, row.message)


def _deal(row: Deal) -> tuple[Any, ...]:
    return (
        row.ticket, row.client_order_id, row.symbol, row.time_ns, row.lots, row.price, row.commission, row.swap,
        row.profit, str(row.reason), row.closing, row.risk_money,
    )  # fmt: skip


def _account(session_id: int, row: AccountRecord) -> tuple[Any, ...]:
    money = row.account
    positions = Jsonb([asdict(position) for position in row.positions])
    return (session_id, row.time, money.currency, money.balance, money.equity, money.margin_used, positions)


def _event(session_id: int, row: EventRecord) -> tuple[Any, ...]:
    return (session_id, row.kind, row.symbol, row.message, row.market_time, wall_time(row.wall_ns))


def _baseline(session_id: int, row: Baseline) -> tuple[Any, ...]:
    return (session_id, wall_time(row.wall_ns), row.rows, row.latency_ms)


async def finish(connection: Connection, session_id: int, reason: str) -> None:
    """Mark a session finished."""
    await connection.execute(
        "UPDATE live_session SET state = 'finished', reason = %s, finished_at = now(), updated_at = now()"
        " WHERE session_id = %s AND state = 'running'",
        (reason, session_id),
    )


async def open_session(
    connection: Connection, *, account: str, fingerprint: str, window: tuple[int, int], restart: bool
) -> SessionState:
    """Resume the account's session on this tape, or begin one.

    A session of another tape, or with ``restart`` any, is ended first. A finished one of this tape is returned as
    it is.
    """
    cursor = await connection.execute(
        "SELECT session_id, state, fingerprint FROM live_session WHERE account = %s ORDER BY session_id DESC LIMIT 1",
        (account,),
    )
    last = await cursor.fetchone()
    same = last is not None and last[2] == fingerprint and not restart
    if last is not None and same:
        return await load_session(connection, last[0])
    if last is not None and last[1] == "running":
        await finish(connection, last[0], "ended for a new session: another tape, or asked for")
    cursor = await connection.execute(
        "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
        " VALUES (%s, %s, %s, %s, %s, %s) RETURNING session_id",
        (account, fingerprint, window[0], window[1], window[0], window[0]),
    )
    row = await cursor.fetchone()
    if row is None:
        raise AssertionError("INSERT … RETURNING returned nothing")
    return await load_session(connection, row[0])


async def load_session(connection: Connection, session_id: int) -> SessionState:
    """Return a session with the intents of its last step that may not have been sent."""
    cursor = await connection.execute(
        "SELECT replay_start, replay_end, sequence, position, clock, snapshot, state"
        " FROM live_session WHERE session_id = %s",
        (session_id,),
    )
    row = await cursor.fetchone()
    if row is None:
        raise LookupError(f"there is no session {session_id}")
    orders = await connection.execute(
        "SELECT client_order_id, account, symbol, purpose, lots, stop, target, decided_ns, expires_ns, risk_money,"
        " epoch, comment, position FROM trade_order WHERE session_id = %s AND sequence = %s AND state <> 'cancelled'"
        " ORDER BY journalled_at, client_order_id",
        (session_id, row[2]),
    )
    intents = [_loaded_intent(order) for order in await orders.fetchall()]
    return SessionState(
        session_id=session_id,
        replay_start=row[0],
        replay_end=row[1],
        sequence=row[2],
        position=row[3],
        clock=row[4],
        snapshot=bytes(row[5]) if row[5] is not None else None,
        unsettled=tuple(intents),
        finished=row[6] == "finished",
    )


def _loaded_intent(row: tuple[Any, ...]) -> OrderIntent:
    (
        key, account, symbol, purpose, lots, stop, target, decided_ns, expires_ns, risk_money, epoch, comment, position,
    ) = row  # fmt: skip
    return OrderIntent(
        client_order_id=key,
        account=account,
        symbol=symbol,
        purpose=Purpose(purpose),
        lots=lots,
        stop=stop,
        target=target,
        decided_ns=decided_ns,
        expires_ns=expires_ns,
        risk_money=risk_money,
        epoch=epoch,
        comment=comment,
        position=position,
    )


async def read_kill_switch(connection: Connection, account: str) -> KillSwitch:
    """Return the account's switch; one that nobody ever touched is open."""
    cursor = await connection.execute(
        "SELECT coalesce(engaged, false), coalesce(flatten, false), coalesce(k.reason, ''),"
        " coalesce((extract(epoch FROM resumed_at) * 1000000)::bigint, 0) * 1000, coalesce(level, 1)"
        " FROM (SELECT %s::text AS account) AS asked LEFT JOIN kill_switch k USING (account)"
        " LEFT JOIN level_ceiling USING (account)",
        (account,),
    )
    row = await cursor.fetchone()
    return KillSwitch(*row) if row else KillSwitch()


async def write_status(
    connection: Connection, *, account: str, session_id: int, epoch: int, pid: int, host: str, status: Mapping[str, Any]
) -> bool:
    """Write the newest status; False where a later engine has written one."""
    cursor = await connection.execute(_STATUS, (account, session_id, epoch, pid, host, Jsonb(dict(status))))
    written = await cursor.fetchone() is not None
    clock = status.get("clock_ns")
    if written and isinstance(clock, int):
        await connection.execute(
            "UPDATE live_session SET clock = greatest(clock, %s) WHERE session_id = %s", (clock, session_id)
        )
    return written
