"""The journal of real orders against a real PostgreSQL: once, fenced, and read again as it was."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.errors import FencedError, JournalError
from fx_dagster.execution.broker import (
    Accepted,
    BrokerDeal,
    BrokerPosition,
    Partial,
    Refused,
    Unknown,
)
from fx_dagster.execution.lifecycle import (
    Answered,
    Changed,
    Dealt,
    Doubted,
    Ended,
    Event,
    Found,
    Held,
    Journalled,
    NotSent,
    OrderBook,
    Sent,
    Step,
    Verdict,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose, Transition
from fx_dagster.execution.reconcile import after_restart
from resources import order_store
from resources.exit_log import ExitLog
from resources.live_store import LiveStore
from resources.order_store import Writer
from resources.postgres import connect, connect_async, migrate

pytestmark = pytest.mark.integration

Work = Callable[[psycopg.AsyncConnection[Any]], Awaitable[None]]


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def writer(url: str) -> Writer:
    with connect(url) as connection:
        connection.execute("INSERT INTO live_account (account, epoch) VALUES ('real', 4)")
        row = connection.execute(
            "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
            " VALUES ('real', 'live', 1, 9, 1, 1) RETURNING session_id"
        ).fetchone()
    assert row is not None
    return Writer("real", row[0], 4)


def run(url: str, work: Work) -> None:
    async def main() -> None:
        connection = await connect_async(url, name="order store test")
        try:
            await work(connection)
        finally:
            await connection.close()

    asyncio.run(main())


def rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


def intent(key: int = 1, lots: float = 0.3, purpose: Purpose = Purpose.OPEN, **changes: object) -> OrderIntent:
    made = OrderIntent(key, "real", "EURUSD", purpose, lots, 1.09, 1.2, 100, 200, 30.0, 4, "c")
    return replace(made, **changes)


def deal(ticket: int, lots: float, *, key: int = 1, position: int = 900, **changes: object) -> BrokerDeal:
    made = BrokerDeal(
        ticket, 70, position, key, "EURUSD", 150 + ticket, lots, 1.1, 0.5, 0.1, 0.0, DealReason.CLIENT, False
    )
    return replace(made, **changes)


def planned(*intents: OrderIntent) -> OrderBook:
    book = OrderBook()
    for one in intents:
        book.plan(one, attempt=1)
        book.apply(Journalled(one.client_order_id, 100))
    return book


def steps_of(book: OrderBook, *events: Event) -> list[Step]:
    return [book.apply(event) for event in events]


STORY: tuple[Event, ...] = (
    Sent(1, 101),
    Answered(1, 105, Unknown("timeout")),
    Dealt(1, deal(1, 0.1)),
    Answered(1, 300, Partial(70, 0.1, working=True, code=10010, text="part")),
    Dealt(1, deal(1, 0.1)),
    Dealt(1, deal(2, 0.2)),
    Answered(1, 301, Accepted(70, lots=0.3)),
    Sent(2, 302),
    Answered(2, 303, Unknown("timeout")),
    Changed(2, 304),
    Dealt(0, deal(3, -0.1, key=0, closing=True, reason=DealReason.STOP, profit=-5.0)),
    Sent(3, 310),
    Answered(3, 311, Refused(10016, "invalid stops")),
    Sent(4, 320),
    Doubted(4, 330, "restart"),
    Held(4, 900, "no view"),
)


def story_book() -> OrderBook:
    move = intent(2, 0.0, Purpose.MODIFY, position=900, stop=1.095)
    return planned(intent(), move, intent(3, -0.1), intent(4, 0.2))


async def journal_all(connection: psycopg.AsyncConnection[Any], book: OrderBook, writer: Writer) -> None:
    await order_store.journal(connection, book.open.values(), writer, sequence=7)


def same(book: OrderBook, other: OrderBook) -> None:
    assert (other.open, other.ended) == (book.open, book.ended)
    assert other.positions.keys() == book.positions.keys()
    for ticket, position in book.positions.items():
        again = other.positions[ticket]
        assert (again.lots, again.stop, again.target, again.key) == (
            position.lots, position.stop, position.target, position.key,
        )  # fmt: skip
        assert again.entry_price == pytest.approx(position.entry_price)


def test_a_story_is_written_and_read_again_at_every_step(url: str, writer: Writer) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = story_book()
        await journal_all(connection, book, writer)
        same(book, await order_store.load(connection, "real", since_ns=0))
        for event in STORY:
            await order_store.record(connection, steps_of(book, event), writer)
            same(book, await order_store.load(connection, "real", since_ns=0))
        late = await order_store.load(connection, "real", since_ns=10_000)
        assert set(late.open) == {4}
        assert {1, 2} <= set(late.ended), "orders of an open position are kept"
        assert (late.positions[900].stop, late.positions[900].lots) == (1.095, 0.2)
        assert (await order_store.load(connection, "other", since_ns=0)).open == {}

    run(url, work)
    states = rows(url, "SELECT state FROM order_event WHERE client_order_id = 1 ORDER BY at, time_ns")
    assert sorted(state for (state,) in states) == sorted(["sent", "unknown", "partial", "filled"])
    assert rows(url, "SELECT kind, verdict, code FROM order_answer WHERE client_order_id = 1 ORDER BY time_ns") == [
        ("unknown", "applied", 0), ("partial", "applied", 10010), ("accepted", "late", 0),
    ]  # fmt: skip
    assert rows(url, "SELECT ticket, client_order_id, reason FROM broker_deal ORDER BY 1") == [
        (1, 1, "client"), (2, 1, "client"), (3, 0, "stop"),
    ]  # fmt: skip
    assert rows(url, "SELECT ticket, round(risk_money::numeric, 3)::float8 FROM deal ORDER BY 1") == [
        (1, 10.0), (2, 20.0), (3, 0.0),
    ]  # fmt: skip
    assert rows(url, "SELECT DISTINCT epoch, sequence, attempt FROM trade_order") == [(4, 7, 1)]


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(0, len(STORY)), max_size=4))
def test_what_is_written_again_changes_nothing(url: str, writer: Writer, cuts: list[int]) -> None:
    with connect(url) as connection:
        connection.execute("TRUNCATE trade_order, order_event, held_order, order_answer, broker_deal, deal")

    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = story_book()
        await journal_all(connection, book, writer)
        await journal_all(connection, story_book(), writer)
        steps = steps_of(book, *STORY)
        places = [0, *sorted(cuts), len(STORY)]
        for first, last in pairwise(places):
            await order_store.record(connection, steps[first:last], writer)
            await order_store.record(connection, steps[first:last], writer)
        await order_store.record(connection, steps, writer)
        same(book, await order_store.load(connection, "real", since_ns=0))

    run(url, work)
    assert len(rows(url, "SELECT 1 FROM broker_deal")) == len(rows(url, "SELECT 1 FROM deal")) == 3
    assert len(rows(url, "SELECT 1 FROM held_order")) == 1


def test_a_leader_that_was_overtaken_writes_nothing(url: str, writer: Writer, tmp_path: Path) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = planned(intent())
        await journal_all(connection, book, writer)
        with connect(url) as other:
            other.execute("UPDATE live_account SET epoch = 5 WHERE account = 'real'")
        foreign = BrokerPosition(5, 0, "EURUSD", 0.5, 1.1, 0.0, 0.0, 90, 0.0, 0.0)
        log = ExitLog.open(tmp_path, "real", reserved_bytes=4_096)
        log.append(intent(9, -0.1, Purpose.CLOSE), position_lots=0.1, position_stop=1.0)
        writes: list[Awaitable[Any]] = [
            order_store.journal(connection, [planned(intent(8)).open[8]], writer),
            order_store.record(connection, steps_of(book, Sent(1, 101)), writer),
            order_store.record(connection, steps_of(book, Answered(1, 102, Accepted(70, lots=0.1))), writer),
            order_store.record(connection, steps_of(book, Dealt(1, deal(1, 0.1))), writer),
            order_store.record(connection, steps_of(book, Held(1, 110, "doubt")), writer),
            order_store.record_foreign(connection, [foreign], 100, writer),
            order_store.record_foreign(connection, [], 100, writer),
            order_store.rejoin(connection, log.log_id, log.records(), writer),
        ]
        for write in writes:
            with pytest.raises(FencedError, match="epoch 4 is over, 5 is current"):
                await write
        log.close()

    run(url, work)
    assert rows(url, "SELECT client_order_id, state FROM trade_order") == [(1, "journalled")]
    for table in ("order_event", "order_answer", "broker_deal", "deal", "held_order", "foreign_position"):
        assert rows(url, f"TABLE {table}") == [], table


def test_a_taking_engine_waits_for_the_write_that_has_begun(url: str, writer: Writer) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = planned(intent())
        await journal_all(connection, book, writer)
        other = await connect_async(url, name="taking engine")
        async with connection.transaction():
            await order_store.record(connection, steps_of(book, Sent(1, 101)), writer)
            taking = asyncio.ensure_future(other.execute("UPDATE live_account SET epoch = epoch + 1"))
            done, _ = await asyncio.wait({taking}, timeout=0.3)
            assert not done
        await taking
        await other.close()

    run(url, work)
    assert rows(url, "SELECT state FROM trade_order") == [("sent",)]


def test_a_batch_is_whole_or_not_at_all_and_states_move_on_from_what_they_were(url: str, writer: Writer) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = planned(intent(), intent(2))
        await order_store.journal(connection, [book.open[1]], writer)
        steps = steps_of(book, Sent(1, 101), Dealt(1, deal(1, 0.1)), Sent(2, 102))
        with pytest.raises((JournalError, psycopg.errors.ForeignKeyViolation)):
            await order_store.record(connection, steps, writer)  # the journal lacks order 2
        same(planned(intent()), await order_store.load(connection, "real", since_ns=0))
        ahead = planned(intent())
        skipped = steps_of(ahead, Sent(1, 101), Answered(1, 102, Unknown("timeout")), Found(1, 103))
        with pytest.raises(JournalError, match="is journalled in the journal, and unknown here"):
            await order_store.record(connection, skipped[2:], writer)
        with pytest.raises(JournalError, match="another intent"):
            await order_store.journal(connection, planned(intent(1, 0.5)).open.values(), writer)

    run(url, work)
    assert rows(url, "SELECT state FROM trade_order") == [("journalled",)]
    assert rows(url, "SELECT 1 FROM order_event UNION ALL SELECT 1 FROM broker_deal") == []


def test_a_held_order_waits_for_a_persons_word(url: str, writer: Writer) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        book = planned(intent())
        await journal_all(connection, book, writer)
        events = (Sent(1, 101), Doubted(1, 105, "restart"), Held(1, 900, "no view"))
        await order_store.record(connection, steps_of(book, *events), writer)
        assert await order_store.held(connection, "real") == ((1, "no view", False),)
        await connection.commit()
        person = LiveStore(url)
        assert [(row["client_order_id"], row["state"], row["reason"]) for row in person.doubtful_orders("real")] == [
            (1, "held", "no view")
        ]
        with pytest.raises(JournalError, match="holds no order 2"):
            person.decide_held("real", 2, by_whom="me")
        person.decide_held("real", 1, by_whom="me")
        with pytest.raises(JournalError, match="waits for a word"):
            person.decide_held("real", 1, by_whom="another")
        assert await order_store.held(connection, "real") == ((1, "no view", True),)
        word = steps_of(book, NotSent(1, 950, "said by me", by_operator=True))
        await order_store.record(connection, word, writer)
        assert await order_store.held(connection, "real") == ()
        same(book, await order_store.load(connection, "real", since_ns=0))

    run(url, work)
    assert rows(url, "SELECT verdict, by_whom, released_ns FROM held_order") == [("not_sent", "me", 950)]


def test_foreign_positions_come_and_go(url: str, writer: Writer) -> None:
    one = BrokerPosition(5, 0, "EURUSD", 0.5, 1.1, 0.0, 0.0, 90, 0.0, 0.0)
    two = BrokerPosition(6, 77, "XAUUSD", -0.1, 1900.0, 1950.0, 0.0, 91, 0.0, 0.0)

    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        await order_store.record_foreign(connection, [one, two], 100, writer)
        await order_store.record_foreign(connection, [replace(one, lots=0.2)], 200, writer)

    run(url, work)
    found = rows(url, "SELECT ticket, lots, first_seen_ns, last_seen_ns, gone_ns FROM foreign_position ORDER BY 1")
    assert found == [(5, 0.2, 100, 200, None), (6, -0.1, 100, 100, 200)]


def test_exits_of_an_outage_are_joined_exactly_once(url: str, writer: Writer, tmp_path: Path) -> None:
    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        with ExitLog.open(tmp_path, "real", reserved_bytes=8_192) as log:
            for key in (11, 12):
                log.append(intent(key, -0.1, Purpose.CLOSE), position_lots=0.1, position_stop=1.0)
                log.note(Transition(key, OrderState.SENT, 110))
            first = log.records()[:2]
            assert await order_store.rejoin(connection, log.log_id, first, writer) == 2
            log.note(Transition(11, OrderState.ACCEPTED, 120, 70))
            assert await order_store.rejoin(connection, log.log_id, log.records(), writer) == 3
            assert await order_store.rejoin(connection, log.log_id, log.records(), writer) == 0
            book = await order_store.load(connection, "real", since_ns=0)
            loaded = [book.open[key] for key in sorted(book.open)]
            assert [(o.key, o.state, o.sent_ns, o.broker_order) for o in loaded] == [
                (11, OrderState.ACCEPTED, 110, 70), (12, OrderState.SENT, 110, 0),
            ]  # fmt: skip
            # The journal goes on; what is joined again, as after a crash before the log was cleared, moves nothing.
            await order_store.record(connection, steps_of(book, Ended(11, 130, 0.0, "over")), writer)
            with connect(url) as other:
                other.execute("DELETE FROM exit_log_join")
            assert await order_store.rejoin(connection, log.log_id, log.records(), writer) == 5
            again = await order_store.load(connection, "real", since_ns=0)
            assert again.ended[11].state is OrderState.CANCELLED
            log.clear()
            assert await order_store.rejoin(connection, log.log_id, log.records(), writer) == 0
            log.note(Transition(99, OrderState.SENT, 1))
            with pytest.raises(JournalError, match="which the journal does not have"):
                await order_store.rejoin(connection, log.log_id, log.records(), writer)

    run(url, work)


def test_a_log_of_exits_ends_no_order_that_its_deals_must_end(url: str, writer: Writer, tmp_path: Path) -> None:
    """An engine that was killed had logged what came of deals, and the deals were not in the journal yet."""

    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        with ExitLog.open(tmp_path, "real", reserved_bytes=8_192) as log:
            whole, lots = {"position_lots": 0.1, "position_stop": 1.0}, {11: -0.1, 12: -0.1, 14: -0.1}
            for key, size in lots.items():
                log.append(intent(key, size, Purpose.CLOSE), **whole)
            log.append(intent(13, 0.0, Purpose.MODIFY), **whole)
            for key in (11, 12, 13):
                log.note(Transition(key, OrderState.SENT, 110))
            log.note(Transition(11, OrderState.PARTIAL, 120, 70))
            log.note(Transition(11, OrderState.CANCELLED, 121, 70, "0.05 of 0.1 lots filled, the rest is gone"))
            log.note(Transition(12, OrderState.FILLED, 121, 71))
            log.note(Transition(13, OrderState.FILLED, 121))
            log.note(Transition(14, OrderState.CANCELLED, 121, 0, "not sent: it is too old"))
            assert await order_store.rejoin(connection, log.log_id, log.records(), writer) == 12
        book = await order_store.load(connection, "real", since_ns=0)
        assert {key: book.order(key).state for key in (11, 12, 13, 14)} == {
            11: OrderState.SENT, 12: OrderState.SENT, 13: OrderState.FILLED, 14: OrderState.CANCELLED,
        }  # fmt: skip
        steps = steps_of(
            book, *after_restart(book, 200), Dealt(11, deal(1, -0.05, key=11, closing=True)),
            Ended(11, 210, 0.05, "cancelled"), Dealt(12, deal(2, -0.06, key=12, closing=True)),
            Dealt(12, deal(3, -0.04, key=12, closing=True)),
        )  # fmt: skip
        assert {step.verdict for step in steps} == {Verdict.APPLIED}
        await order_store.record(connection, steps, writer)
        again = await order_store.load(connection, "real", since_ns=0)
        assert (again.open, again.ended) == (book.open, book.ended)
        assert (book.ended[11].state, book.ended[12].state) == (OrderState.CANCELLED, OrderState.FILLED)

    run(url, work)


def test_the_paper_sessions_own_statements_still_fit(url: str, writer: Writer) -> None:
    from fx_dagster.live.records import JournalEntry
    from fx_dagster.live.records import Transition as Reached
    from resources import live_rows

    async def work(connection: psycopg.AsyncConnection[Any]) -> None:
        async with connection.transaction():
            entry = JournalEntry(intents=(intent(),), transitions=(Reached(1, OrderState.SENT, 101),))
            await live_rows.insert_entry(
                connection, entry, account="real", session_id=writer.session_id, epoch=4, again=False
            )

    run(url, work)
    assert rows(url, "SELECT state, position, attempt FROM trade_order") == [("sent", 0, 0)]
