"""Orders at a real broker in PostgreSQL: each step of their lives, written once and only by the account's engine.

Every statement that writes runs through ``live_fence``, which raises where the account's epoch is another: an engine
that was stopped, overtaken and continued writes nothing. Each change of an order counts its revision up by one: one
that is written again, because an answer got lost, changes nothing, and none can be left out. Functions work inside the
caller's transaction, and each is whole or not at all.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row

from fx_dagster.errors import FencedError, JournalError
from fx_dagster.execution.broker import Accepted, Answer, BrokerDeal, BrokerPosition, Partial, Refused, Requote
from fx_dagster.execution.lifecycle import (
    TRANSITIONS,
    Answered,
    Dealt,
    Held,
    OrderBook,
    Step,
    TrackedOrder,
    Verdict,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose, Transition
from resources.exit_log import ExitIntent, ExitRecord

Connection = psycopg.AsyncConnection[Any]
FENCED = "FX001"

_INTENT: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO trade_order (account, session_id, client_order_id, symbol, purpose, lots, stop, target, decided_ns,
                         expires_ns, risk_money, epoch, comment, state, changed_ns, sequence, position, attempt)
SELECT %(account)s, %(session_id)s, %(key)s, %(symbol)s, %(purpose)s, %(lots)s, %(stop)s, %(target)s, %(decided_ns)s,
       %(expires_ns)s, %(risk_money)s, fence.epoch, %(comment)s, 'journalled', %(decided_ns)s, %(sequence)s,
       %(position)s, %(attempt)s
FROM fence ON CONFLICT (client_order_id) DO NOTHING"""

_EVENT: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO order_event (client_order_id, state, time_ns, broker_order, message)
SELECT %(key)s, %(state)s, %(time_ns)s, %(broker_order)s, %(message)s FROM fence ON CONFLICT DO NOTHING"""

# A change that was written before finds the order at its revision or beyond, and leaves it alone.
_CHANGE: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
UPDATE trade_order AS o SET state = %(state)s, changed_ns = %(changed_ns)s, sent_ns = %(sent_ns)s,
    broker_order = %(broker_order)s, claimed_lots = %(claimed_lots)s, remainder_gone = %(remainder_gone)s,
    refused = %(refused)s, message = %(message)s, revision = %(revision)s
FROM fence WHERE o.client_order_id = %(key)s AND o.account = %(account)s AND o.revision = %(revision)s - 1"""

_HOLD: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO held_order (client_order_id, account, held_ns, reason, epoch)
SELECT %(key)s, %(account)s, %(time_ns)s, %(reason)s, fence.epoch FROM fence ON CONFLICT DO NOTHING"""

_RELEASE: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
UPDATE held_order SET released_ns = %(time_ns)s FROM fence
WHERE client_order_id = %(key)s AND account = %(account)s AND released_ns IS NULL"""

_ANSWER: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO order_answer (client_order_id, time_ns, kind, verdict, code, text, broker_order, deal, lots, price, epoch)
SELECT %(key)s, %(time_ns)s, %(kind)s, %(verdict)s, %(code)s, %(text)s, %(order)s, %(deal)s, %(lots)s, %(price)s,
       fence.epoch
FROM fence ON CONFLICT DO NOTHING"""

# The session's own list of deals, which the reports read, gets what is new to the account.
_DEAL: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch), fresh AS (
    INSERT INTO broker_deal (account, ticket, client_order_id, broker_order, position, key, symbol, time_ns, lots,
                             price, commission, swap, profit, reason, closing, comment, epoch)
    SELECT %(account)s, %(ticket)s, %(client_order_id)s, %(order)s, %(position)s, %(key)s, %(symbol)s, %(time_ns)s,
           %(lots)s, %(price)s, %(commission)s, %(swap)s, %(profit)s, %(reason)s, %(closing)s, %(comment)s, fence.epoch
    FROM fence ON CONFLICT DO NOTHING RETURNING *)
INSERT INTO deal (session_id, ticket, account, client_order_id, symbol, time_ns, lots, price, commission, swap, profit,
                  reason, closing, risk_money)
SELECT %(session_id)s, ticket, account, client_order_id, symbol, time_ns, lots, price, commission, swap, profit, reason,
       closing, %(risk_money)s FROM fresh"""

_FOREIGN: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO foreign_position AS f (account, ticket, symbol, lots, entry_price, stop, opened_ns, first_seen_ns,
                                   last_seen_ns, epoch)
SELECT %(account)s, %(ticket)s, %(symbol)s, %(lots)s, %(entry_price)s, %(stop)s, %(opened_ns)s, %(seen_ns)s,
       %(seen_ns)s, fence.epoch FROM fence
ON CONFLICT (account, ticket) DO UPDATE SET lots = excluded.lots, stop = excluded.stop, gone_ns = NULL,
    last_seen_ns = greatest(f.last_seen_ns, excluded.last_seen_ns), epoch = excluded.epoch"""

_GONE: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
UPDATE foreign_position AS f SET gone_ns = %(seen_ns)s FROM fence
WHERE f.account = %(account)s AND f.gone_ns IS NULL AND f.last_seen_ns < %(seen_ns)s AND f.ticket <> ALL(%(tickets)s)"""

_JOINED: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch)
INSERT INTO exit_log_join AS j (account, log_id, through, epoch)
SELECT %(account)s, %(log_id)s, %(through)s, fence.epoch FROM fence
ON CONFLICT (account, log_id) DO UPDATE SET through = greatest(j.through, excluded.through), epoch = excluded.epoch,
    joined_at = now()"""


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes: an engine's account, session and epoch."""

    account: str
    session_id: int
    epoch: int

    @property
    def fields(self) -> dict[str, Any]:
        """Return them as parameters."""
        return {"account": self.account, "session_id": self.session_id, "epoch": self.epoch}


@asynccontextmanager
async def _whole(connection: Connection, writer: Writer) -> AsyncIterator[None]:
    """Do all or nothing; a stale epoch is FencedError."""
    try:
        async with connection.transaction():
            # First, so that a stale engine is told that, and not that the journal is ahead of it.
            await connection.execute("SELECT live_fence(%(account)s, %(epoch)s)", writer.fields)
            yield
    except psycopg.Error as error:
        if error.sqlstate == FENCED:
            raise FencedError(
                str(error).splitlines()[0], mend="nothing to do: another engine trades the account"
            ) from None
        raise


async def journal(connection: Connection, orders: Iterable[TrackedOrder], writer: Writer, *, sequence: int = 0) -> None:
    """Commit new orders as journalled: only after that may they be sent.

    Args:
        connection: to the database; one in a transaction gets a savepoint.
        orders: planned ones.
        writer: who writes.
        sequence: of the checkpoint that they belong to; 0: none.

    Raises:
        FencedError: another engine has the account.
        JournalError: a key is there with another intent.
    """
    async with _whole(connection, writer):
        for order in orders:
            await _insert_intent(connection, order.intent, order.attempt, writer, sequence)


async def record(connection: Connection, steps: Iterable[Step], writer: Writer) -> None:
    """Write steps as the book made them, in order.

    Raises:
        FencedError: another engine has the account.
        JournalError: an order is in another state there than the step began in.
    """
    async with _whole(connection, writer):
        for step in steps:
            await _record_step(connection, step, writer)


async def _insert_intent(
    connection: Connection, intent: OrderIntent, attempt: int, writer: Writer, sequence: int
) -> None:
    values = writer.fields | {
        "key": intent.client_order_id, "symbol": intent.symbol, "purpose": str(intent.purpose), "lots": intent.lots,
        "stop": intent.stop, "target": intent.target, "decided_ns": intent.decided_ns, "expires_ns": intent.expires_ns,
        "risk_money": intent.risk_money, "comment": intent.comment, "position": intent.position, "attempt": attempt,
        "sequence": sequence,
    }  # fmt: skip
    cursor = await connection.execute(_INTENT, values)
    if cursor.rowcount == 1:
        return
    there = await connection.execute(
        "SELECT account, symbol, purpose, lots, stop, target, decided_ns FROM trade_order WHERE client_order_id = %s",
        (intent.client_order_id,),
    )
    mine = (
        writer.account, intent.symbol, str(intent.purpose), intent.lots, intent.stop, intent.target, intent.decided_ns,
    )  # fmt: skip
    if await there.fetchone() != mine:
        raise JournalError(
            f"key {intent.client_order_id} is in the journal with another intent", mend="a bug: please report it"
        )


async def _record_step(connection: Connection, step: Step, writer: Writer) -> None:
    event, order = step.event, step.order
    if isinstance(event, Answered):
        await connection.execute(_ANSWER, writer.fields | _answer_fields(event, step.verdict))
    if isinstance(event, Dealt):
        await connection.execute(_DEAL, writer.fields | _deal_fields(event, order))
    if order is None or step.before is None or step.verdict in (Verdict.LATE, Verdict.REPEATED):
        return
    if not await _change(connection, order, step.before, writer):
        return
    for reached in step.transitions:
        await connection.execute(_EVENT, writer.fields | _event_fields(reached))
    if order.held and isinstance(event, Held):
        values = {"key": order.key, "time_ns": event.time_ns, "reason": order.held}
        await connection.execute(_HOLD, writer.fields | values)
    elif not order.held:
        await connection.execute(_RELEASE, writer.fields | {"key": order.key, "time_ns": event.time_ns})


async def _change(connection: Connection, order: TrackedOrder, before: OrderState, writer: Writer) -> bool:
    """Write an order as it is after a step; False: that was done before."""
    cursor = await connection.execute(_CHANGE, writer.fields | _order_fields(order))
    if cursor.rowcount == 1:
        return True
    found = await connection.execute(
        "SELECT revision, state FROM trade_order WHERE client_order_id = %s AND account = %s",
        (order.key, writer.account),
    )
    row = await found.fetchone()
    if row is None or row[0] < order.revision:
        raise JournalError(
            f"order {order.key} is {row[1] if row else 'not'} in the journal, and {before} here",
            mend="load the book from the journal anew",
        )
    return False


def _order_fields(order: TrackedOrder) -> dict[str, Any]:
    return {
        "key": order.key, "state": str(order.state), "changed_ns": order.changed_ns, "sent_ns": order.sent_ns,
        "broker_order": order.broker_order, "message": order.message, "claimed_lots": order.claimed_lots,
        "remainder_gone": order.remainder_gone, "refused": order.refused, "revision": order.revision,
    }  # fmt: skip


def _event_fields(reached: Transition) -> dict[str, Any]:
    return {
        "key": reached.client_order_id, "state": str(reached.state), "time_ns": reached.time_ns,
        "broker_order": reached.broker_order, "message": reached.message,
    }  # fmt: skip


def _answer_fields(event: Answered, verdict: Verdict) -> dict[str, Any]:
    answer: Answer = event.answer
    values: dict[str, Any] = {
        "key": event.key, "time_ns": event.time_ns, "kind": type(answer).__name__.lower(), "verdict": str(verdict),
        "code": answer.code, "text": "", "order": 0, "deal": 0, "lots": 0.0, "price": 0.0,
    }  # fmt: skip
    if isinstance(answer, Accepted | Partial):
        return values | {
            "text": answer.text, "order": answer.order, "deal": answer.deal, "lots": answer.lots, "price": answer.price
        }  # fmt: skip
    return values | {"text": answer.text if isinstance(answer, Refused | Requote) else answer.reason}


def _deal_fields(event: Dealt, order: TrackedOrder | None) -> dict[str, Any]:
    deal = event.deal
    opening = order is not None and not deal.closing and order.intent.lots != 0.0
    risk = order.intent.risk_money * abs(deal.lots / order.intent.lots) if order is not None and opening else 0.0
    return {
        "ticket": deal.ticket, "client_order_id": event.key, "order": deal.order, "position": deal.position,
        "key": deal.key, "symbol": deal.symbol, "time_ns": deal.time_ns, "lots": deal.lots, "price": deal.price,
        "commission": deal.commission, "swap": deal.swap, "profit": deal.profit, "reason": str(deal.reason),
        "closing": deal.closing, "comment": deal.comment, "risk_money": risk,
    }  # fmt: skip


async def record_foreign(
    connection: Connection, positions: Sequence[BrokerPosition], seen_ns: int, writer: Writer
) -> None:
    """Write the positions that are not ours as of ``seen_ns`` (ns UTC); those that are missing are gone.

    Raises:
        FencedError: another engine has the account.
    """
    async with _whole(connection, writer):
        for position in positions:
            values = {
                "ticket": position.ticket, "symbol": position.symbol, "lots": position.lots, "stop": position.stop,
                "entry_price": position.entry_price, "opened_ns": position.opened_ns, "seen_ns": seen_ns,
            }  # fmt: skip
            await connection.execute(_FOREIGN, writer.fields | values)
        tickets = [position.ticket for position in positions]
        await connection.execute(_GONE, writer.fields | {"seen_ns": seen_ns, "tickets": tickets})


# -- reading -----------------------------------------------------------------------------------------------------------

_LOAD_ORDERS: LiteralString = """
SELECT o.*, coalesce(h.reason, '') AS held
FROM trade_order o LEFT JOIN held_order h ON h.client_order_id = o.client_order_id AND h.released_ns IS NULL
WHERE o.account = %(account)s AND (
    o.state NOT IN ('rejected', 'filled', 'cancelled') OR o.changed_ns >= %(since)s
    OR o.client_order_id = ANY(%(keys)s) OR (o.purpose = 'modify' AND o.position = ANY(%(positions)s)))"""

# Positions that are open by their deals, that had a deal lately, or in which an order of those above had one.
_LOAD_POSITIONS: LiteralString = """
SELECT position FROM broker_deal WHERE account = %(account)s GROUP BY position
HAVING abs(sum(lots)) > 1e-8 OR max(time_ns) >= %(since)s OR bool_or(client_order_id IN (
    SELECT client_order_id FROM trade_order WHERE account = %(account)s
    AND (state NOT IN ('rejected', 'filled', 'cancelled') OR changed_ns >= %(since)s)))"""


async def load(connection: Connection, account: str, *, since_ns: int) -> OrderBook:
    """Return the account's book: what is open, and what ended or was dealt since ``since_ns`` (ns UTC)."""
    async with connection.transaction(), connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        values: dict[str, Any] = {"account": account, "since": since_ns}
        await cursor.execute(_LOAD_POSITIONS, values)
        values["positions"] = [row["position"] for row in await cursor.fetchall()]
        await cursor.execute(
            "SELECT * FROM broker_deal WHERE account = %(account)s AND position = ANY(%(positions)s)", values
        )
        deals = await cursor.fetchall()
        values["keys"] = sorted({row["client_order_id"] for row in deals} - {0})
        await cursor.execute(_LOAD_ORDERS, values)
        orders = [_loaded_order(row) for row in await cursor.fetchall()]
    keys = {row["ticket"]: row["client_order_id"] for row in deals}
    return OrderBook.restored(orders, [_loaded_deal(row) for row in deals], keys)


def _loaded_order(row: dict[str, Any]) -> TrackedOrder:
    intent = OrderIntent(
        client_order_id=row["client_order_id"], account=row["account"], symbol=row["symbol"],
        purpose=Purpose(row["purpose"]), lots=row["lots"], stop=row["stop"], target=row["target"],
        decided_ns=row["decided_ns"], expires_ns=row["expires_ns"], risk_money=row["risk_money"], epoch=row["epoch"],
        comment=row["comment"], position=row["position"],
    )  # fmt: skip
    return TrackedOrder(
        intent, OrderState(row["state"]), row["changed_ns"], row["attempt"], row["sent_ns"], row["broker_order"],
        claimed_lots=row["claimed_lots"], remainder_gone=row["remainder_gone"], refused=row["refused"],
        held=row["held"], message=row["message"], revision=row["revision"],
    )  # fmt: skip


def _loaded_deal(row: dict[str, Any]) -> BrokerDeal:
    return BrokerDeal(
        row["ticket"], row["broker_order"], row["position"], row["key"], row["symbol"], row["time_ns"], row["lots"],
        row["price"], row["commission"], row["swap"], row["profit"], DealReason(row["reason"]), row["closing"],
        row["comment"],
    )  # fmt: skip


async def held(connection: Connection, account: str) -> tuple[tuple[int, str, bool], ...]:
    """Return the orders that are held: key, reason, and whether a person has said that the broker does not have it."""
    cursor = await connection.execute(
        "SELECT client_order_id, reason, verdict IS NOT NULL FROM held_order WHERE account = %s AND released_ns IS NULL"
        " ORDER BY held_ns, client_order_id",
        (account,),
    )
    return tuple((int(row[0]), str(row[1]), bool(row[2])) for row in await cursor.fetchall())


# -- exits that were sent without the journal --------------------------------------------------------------------------


async def rejoin(connection: Connection, log_id: str, records: Sequence[tuple[int, ExitRecord]], writer: Writer) -> int:
    """Take the records of a local log of exits into the journal, each once; return how many were new.

    What the journal knows already of an order stays: a state never moves back. Whoever has a book loads it anew then.

    Raises:
        FencedError: another engine has the account.
        JournalError: a key is there with another intent, or a change is of an order that is not.
    """
    async with _whole(connection, writer):
        cursor = await connection.execute(
            "SELECT through FROM exit_log_join WHERE account = %s AND log_id = %s FOR UPDATE", (writer.account, log_id)
        )
        row = await cursor.fetchone()
        fresh = [(number, one) for number, one in records if number > (row[0] if row else 0)]
        for _, one in fresh:
            if isinstance(one, ExitIntent):
                await _insert_intent(connection, one.intent, 0, writer, 0)
            else:
                await _rejoin_change(connection, one.transition, writer)
        if fresh:
            await connection.execute(_JOINED, writer.fields | {"log_id": log_id, "through": fresh[-1][0]})
    return len(fresh)


_BY_DEALS = frozenset({OrderState.PARTIAL, OrderState.FILLED, OrderState.CANCELLED})
"""States of an order to trade that deals may have brought it to; cancelled only where it may have been sent."""

_REJOIN: LiteralString = """
WITH fence AS MATERIALIZED (SELECT live_fence(%(account)s, %(epoch)s) AS epoch), event AS (
    INSERT INTO order_event (client_order_id, state, time_ns, broker_order, message)
    SELECT %(key)s, %(state)s, %(time_ns)s, %(broker_order)s, %(message)s FROM fence
    ON CONFLICT DO NOTHING RETURNING client_order_id)
UPDATE trade_order AS o SET state = %(state)s, changed_ns = greatest(o.changed_ns, %(time_ns)s),
    message = %(message)s, revision = o.revision + 1,
    sent_ns = CASE WHEN %(state)s = 'sent' THEN %(time_ns)s ELSE o.sent_ns END,
    broker_order = CASE WHEN %(broker_order)s = 0 THEN o.broker_order ELSE %(broker_order)s END
FROM event WHERE o.client_order_id = event.client_order_id AND o.account = %(account)s AND o.state = ANY(%(from)s)"""


async def _rejoin_change(connection: Connection, reached: Transition, writer: Writer) -> None:
    """Take a state over from a local log, unless it follows from deals: the log has none of them, the broker has all.

    An order that ended here by deals that are not in the journal would be contradicted by them when the broker shows
    them; left as it was before, it is in doubt after a restart, and its deals decide.
    """
    before = [str(state) for state, after in TRANSITIONS.items() if reached.state in after]
    if reached.state in _BY_DEALS and await _trades(connection, reached, writer):
        return
    values = writer.fields | _event_fields(reached) | {"from": before}
    try:
        await connection.execute(_REJOIN, values)
    except psycopg.errors.ForeignKeyViolation as error:
        raise JournalError(
            f"a local change of order {reached.client_order_id}, which the journal does not have",
            mend="compare the broker's deals with the journal",
        ) from error


async def _trades(connection: Connection, reached: Transition, writer: Writer) -> bool:
    """Return whether an order is one to trade, and may have been sent, as far as the journal knows."""
    found = await connection.execute(
        "SELECT purpose <> 'modify' AND (%s <> 'cancelled' OR state <> 'journalled') FROM trade_order"
        " WHERE client_order_id = %s AND account = %s",
        (str(reached.state), reached.client_order_id, writer.account),
    )
    row = await found.fetchone()
    return row is not None and bool(row[0])
