"""The journal against a real PostgreSQL: atomic entries, fencing, the kill switch, a server that goes away."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
import psycopg
import pytest

from fx_dagster.errors import FencedError, JournalError
from fx_dagster.execution.orders import (
    Account,
    Deal,
    DealReason,
    OrderIntent,
    OrderState,
    Purpose,
    client_order_id,
)
from fx_dagster.live.records import (
    AccountRecord,
    Checkpoint,
    DecisionRecord,
    EventRecord,
    JournalEntry,
    Transition,
)
from resources.account_lease import lock_key
from resources.journal import JournalTarget, PostgresJournal
from resources.live_store import LiveStore
from resources.postgres import connect, migrate

pytestmark = pytest.mark.integration

TARGET = JournalTarget(account="paper", fingerprint="tape", window=(1_000, 9_000), stale_s=30.0)


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@asynccontextmanager
async def opened(url: str, target: JournalTarget = TARGET) -> AsyncIterator[PostgresJournal]:
    journal = await PostgresJournal.open(url, target)
    journal.start()
    try:
        yield journal
    finally:
        await journal.close()


def intent(journal: PostgresJournal, bar_time: int = 1_000) -> OrderIntent:
    key = client_order_id("paper", str(journal.session.session_id), "EURUSD", bar_time, Purpose.OPEN)
    return OrderIntent(key, "paper", "EURUSD", Purpose.OPEN, 0.1, 1.1, 1.3, bar_time, bar_time + 9, 5.0)


def decision(bar_time: int = 1_000, key: int | None = None) -> DecisionRecord:
    return DecisionRecord(
        "EURUSD", bar_time, "bar", bar_time + 60, bar_time, 3, "no models", "open", 0.5, {"a": [1.5, None]},
        np.array([1.5, -2.0], dtype=np.float32), "hash", None, key, 12.5, None, time.time_ns(),
    )  # fmt: skip


def checkpoint(sequence: int, position: int = 2_000) -> Checkpoint:
    return Checkpoint(sequence, position, position + 5, f"state {sequence}".encode())


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.02)


def run(work: Awaitable[None]) -> None:
    async def main() -> None:
        await work

    asyncio.run(main())


def test_an_entry_is_there_as_a_whole_and_a_restart_finds_it(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            assert not journal.session.resumed
            order = intent(journal)
            account = AccountRecord(2_000, Account("paper", "USD", 100.0, 101.0, 3.0, 30.0), ())
            event = EventRecord("level", None, "down", 2_000, time.time_ns())
            entry = JournalEntry(
                (decision(key=order.client_order_id),), (order,), account=account, events=(event,),
                checkpoint=checkpoint(1),
            )  # fmt: skip
            await journal.post(entry)
            await journal.post(JournalEntry(transitions=(Transition(order.client_order_id, OrderState.SENT, 2_000),)))
            session_id = journal.session.session_id
        async with opened(url) as again:
            assert again.epoch == 2
            session = again.session
            assert (session.session_id, session.sequence, session.position, session.clock) == (
                session_id,
                1,
                2_000,
                2_005,
            )
            assert session.snapshot == b"state 1"
            assert [one.client_order_id for one in session.unsettled] == [order.client_order_id]
            assert replace(session.unsettled[0], epoch=0) == order
        store = LiveStore(url)
        row = store.decisions(session_id).iloc[0]
        assert (row["symbol"], row["outcome"], row["client_order_id"]) == (
            "EURUSD",
            {"a": [1.5, None]},
            order.client_order_id,
        )
        assert store.orders(session_id)["state"].tolist() == ["sent"]
        assert store.equity(session_id)["equity"].tolist() == [101.0]
        assert store.events(session_id)["message"].tolist() == ["down"]
        with connect(url) as connection:
            features = connection.execute("SELECT features FROM decision").fetchall()[0][0]
        assert np.frombuffer(features, "<f4").tolist() == [1.5, -2.0]

    run(work())


def test_a_decision_is_never_made_twice(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            await journal.post(JournalEntry((decision(),), checkpoint=checkpoint(1)))
            with pytest.raises(JournalError, match="decision_pkey"):
                await journal.post(JournalEntry((decision(),), checkpoint=checkpoint(2, 3_000)))
            assert isinstance(journal.fatal, JournalError)
        async with opened(url) as again:
            assert again.session.sequence == 1

    run(work())


def test_an_order_key_is_never_journalled_twice(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            order = intent(journal)
            await journal.post(JournalEntry(intents=(order,), checkpoint=checkpoint(1)))
            with pytest.raises(JournalError, match="trade_order_pkey"):
                await journal.post(JournalEntry(intents=(order,), checkpoint=checkpoint(2)))

    run(work())


def test_a_checkpoint_number_is_written_once(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            await journal.post(JournalEntry(checkpoint=checkpoint(1)))
            with pytest.raises(JournalError, match="checkpoint 1"):
                await journal.post(JournalEntry((decision(),), checkpoint=checkpoint(1)))

    run(work())


def test_deals_and_transitions_lived_through_again_change_nothing(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            order = intent(journal)
            key = order.client_order_id
            deal = Deal(7, key, "EURUSD", 2_100, 0.1, 1.2, 0.35, 0.0, 0.0, DealReason.CLIENT, False)
            await journal.post(JournalEntry(intents=(order,), checkpoint=checkpoint(1)))
            for state, at in ((OrderState.SENT, 2_000), (OrderState.ACCEPTED, 2_000), (OrderState.FILLED, 2_100)):
                await journal.post(JournalEntry(transitions=(Transition(key, state, at),)))
            await journal.post(JournalEntry(deals=(deal,), checkpoint=checkpoint(2)))
            await journal.post(JournalEntry(transitions=(Transition(key, OrderState.SENT, 2_000),)))
            await journal.post(JournalEntry(deals=(deal,), checkpoint=checkpoint(3)))
            session_id = journal.session.session_id
        store = LiveStore(url)
        assert store.orders(session_id)["state"].tolist() == ["filled"]
        assert store.deals(session_id)["ticket"].tolist() == [7]

    run(work())


def test_a_second_engine_is_refused_while_the_first_lives(url: str) -> None:
    async def work() -> None:
        async with opened(url) as first:
            first.beat({"state": "running"})
            with pytest.raises(FencedError, match="traded by another engine"):
                await PostgresJournal.open(url, TARGET)
            await first.post(JournalEntry(checkpoint=checkpoint(1)))
        async with opened(url, replace(TARGET, account="other")):
            pass

    run(work())


def test_an_engine_without_heartbeat_is_overtaken_and_writes_nothing_more(url: str) -> None:
    async def work() -> None:
        # A stopped process keeps its lock: its event loop is not run here, as if by SIGSTOP.
        stopped = await PostgresJournal.open(url, TARGET)
        await asyncio.sleep(0.3)
        async with opened(url, replace(TARGET, stale_s=0.2)) as second:
            assert second.epoch == stopped.epoch + 1
            stopped.start()
            with pytest.raises(FencedError):
                await asyncio.wait_for(stopped.post(JournalEntry(checkpoint=checkpoint(1))), 10)
            assert isinstance(stopped.fatal, FencedError)
            await second.post(JournalEntry(checkpoint=checkpoint(1)))
        await stopped.close()
        assert LiveStore(url).last_session("paper").position == 2_000  # type: ignore[union-attr]

    run(work())


def test_an_overtaken_engine_is_fenced_by_its_heartbeat_too(url: str) -> None:
    async def work() -> None:
        async with opened(url) as first:
            first.beat({"state": "running"})
            with connect(url) as connection:
                connection.execute("UPDATE live_account SET epoch = epoch + 1")
                connection.execute(
                    "INSERT INTO live_status (account, session_id, epoch, pid, host, status)"
                    " VALUES ('paper', %s, %s, 1, 'h', '{}')"
                    " ON CONFLICT (account) DO UPDATE SET epoch = excluded.epoch",
                    (first.session.session_id, first.epoch + 1),
                )
            first.beat({"state": "running"})
            await until(lambda: isinstance(first.fatal, FencedError))

    run(work())


def test_the_kill_switch_is_seen_within_half_a_second_and_survives(url: str) -> None:
    store = LiveStore(url)

    async def work() -> None:
        async with opened(url) as journal:
            assert not journal.kill_switch.engaged
            await asyncio.to_thread(store.kill, "paper", reason="news", flatten=True, by_whom="me")
            began = time.monotonic()
            await until(lambda: journal.kill_switch.engaged)
            assert time.monotonic() - began < 0.5
            assert (journal.kill_switch.flatten, journal.kill_switch.reason) == (True, "news")
        async with opened(url) as again:
            assert again.kill_switch.engaged
            await asyncio.to_thread(store.resume, "paper", by_whom="me")
            await until(lambda: not again.kill_switch.engaged)
            assert again.kill_switch.resumed_ns > 0

    run(work())
    with connect(url) as connection:
        log = connection.execute("SELECT engaged, by_whom FROM kill_switch_log ORDER BY id").fetchall()
    assert log == [(True, "me"), (False, "me")]


def _sever(url: str, name: str) -> None:
    with connect(url) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s", (name,)
        )


def test_a_lost_connection_is_mended_and_nothing_is_lost_or_doubled(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            for number in range(1, 31):
                entry = JournalEntry((decision(1_000 + number),), checkpoint=checkpoint(number, 2_000 + number))
                written = journal.post(entry)
                if number % 10 == 0:
                    await asyncio.to_thread(_sever, url, "fx live paper")
                if number % 3 == 0:
                    await asyncio.wait_for(written, 10)
            assert await journal.flush(10)
            assert journal.problem == ""
            assert len(LiveStore(url).decisions(journal.session.session_id)) == 30
        with connect(url) as connection:
            held = connection.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'").fetchone()
        assert held == (0,), lock_key("paper")

    run(work())


def test_while_the_server_refuses_the_journal_says_so_and_recovers(url: str) -> None:
    server, _, name = url.replace("+psycopg2", "").rpartition("/")

    def allow(yes: bool) -> None:
        with psycopg.connect(f"{server}/postgres", autocommit=True) as other:
            other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {'true' if yes else 'false'}".encode())
            if not yes:
                other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))

    async def work() -> None:
        async with opened(url) as journal:
            await asyncio.to_thread(allow, False)
            waiting = journal.post(JournalEntry((decision(),), checkpoint=checkpoint(1)))
            await until(lambda: "PostgreSQL" in journal.problem)
            await asyncio.sleep(0.5)
            assert not waiting.done()
            await asyncio.to_thread(allow, True)
            await asyncio.wait_for(waiting, 15)
            await until(lambda: journal.problem == "")

    try:
        run(work())
    finally:
        allow(True)


def test_sessions_end_and_begin(url: str) -> None:
    async def work() -> None:
        async with opened(url) as journal:
            first = journal.session.session_id
            journal.beat({"state": "finished", "clock_ns": 8_000})
            await journal.finish("over")
            assert await journal.flush(5)
        async with opened(url) as journal:
            assert (journal.session.session_id, journal.session.finished) == (first, True)
        async with opened(url, replace(TARGET, restart=True)) as journal:
            assert journal.session.session_id > first
            assert not journal.session.finished
            second = journal.session.session_id
        LiveStore(url).begin_anew("paper")
        async with opened(url) as journal:
            assert journal.session.session_id > second
            second = journal.session.session_id
        async with opened(url, replace(TARGET, fingerprint="other tape", window=(5, 6))) as journal:
            assert journal.session.session_id > second
            assert (journal.session.position, journal.session.replay_end) == (5, 6)

    run(work())
    status = LiveStore(url).status("paper")
    assert status is not None
    assert status.status["state"] == "finished"
    with connect(url) as connection:
        states = connection.execute("SELECT state, count(*) FROM live_session GROUP BY state ORDER BY 1").fetchall()
    assert states == [("finished", 3), ("running", 1)]
