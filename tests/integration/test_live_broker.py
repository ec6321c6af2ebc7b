"""A real account over a real PostgreSQL: fenced, killed, the server away, and a person's word."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fx_dagster.core.tape import replay_tape
from fx_dagster.decision.rows import MEMORY
from fx_dagster.errors import FencedError, ServerError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, client_order_id
from fx_dagster.live.broker_desk import BrokerDesk, rules_of
from fx_dagster.live.broker_link import BrokerLink
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.engine import Ending
from fx_dagster.live.market import Market
from fx_dagster.live.records import Checkpoint, JournalEntry
from fx_dagster.live_engine import RunOptions, WallClock, recorded_core, run_engine
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, SECOND_NS
from fx_dagster.settings import CostSettings, Settings, load_settings
from resources import order_store
from resources.journal import JournalTarget, PostgresJournal
from resources.live_feed import ReplayFeed, tape_of
from resources.live_store import LiveStore
from resources.market import open_source
from resources.market.sample import SampleSource
from resources.mt5.clock import SteppedClock
from resources.mt5.faults import AtCall, Fault, RequestLost
from resources.mt5.local_broker import LocalBroker
from resources.mt5.simulated import SimulatedTerminal
from resources.order_keeper import PostgresOrders
from resources.order_store import Writer
from resources.postgres import connect, connect_async, migrate
from resources.tapes import latest_tape, read_tape

pytestmark = pytest.mark.integration


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture(scope="module")
def source() -> SampleSource:
    return SampleSource()


def terminal_of(source: SampleSource, *faults: Fault) -> SimulatedTerminal:
    begin, session = source.span("EURUSD")[1] - 500 * HOUR_NS, instrument("EURUSD").session
    while not session.is_open(begin + np.arange(-12, 13) * HOUR_NS).all():
        begin -= HOUR_NS
    terminal = SimulatedTerminal(source, clock=SteppedClock(begin), faults=faults)
    assert terminal.initialize()
    return terminal


class Life:
    """One engine's journal, desk and outbox."""

    def __init__(self, url: str, folder: Path, terminal: SimulatedTerminal) -> None:
        self.url, self.folder, self.terminal = url, folder, terminal
        self.clock: Any = terminal.clock
        self.journal: PostgresJournal
        self.keeper: PostgresOrders
        items = (instrument("EURUSD"),)
        self.ledger = new_ledger(
            items, CostSettings(), memory=np.zeros(1, MEMORY), balance=1.0, leverage=30.0, account_currency="USD",
            events=100, real=True,
        )  # fmt: skip
        rules = rules_of(quiet_s=30.0, hold_after_s=600.0, requotes_max=3, order_valid_s=5.0, currency="USD")
        self.desk = BrokerDesk("real", items, self.ledger, rules)
        self._sequence = 0

    async def __aenter__(self) -> "Life":
        now = self.clock.now_ns()
        target = JournalTarget("real", "tape", (now - DAY_NS, now + DAY_NS))
        self.journal = await PostgresJournal.open(self.url, target)
        session = self.journal.session
        self._sequence = session.sequence
        writer = Writer("real", session.session_id, self.journal.epoch)
        self.keeper = PostgresOrders.open(self.url, writer, self.folder)
        self.desk.now, self.desk.epoch = self.clock.now_ns, self.keeper.epoch
        self.link = BrokerLink(LocalBroker(self.terminal), self.desk, self.keeper, deadline_s=5.0)
        self.outbox = BrokerOutbox(
            self.journal, self.desk, WallClock(), self._checkpoint, link=self.link, keeper=self.keeper
        )
        self.desk.begin(await self.keeper.load(now - 2 * DAY_NS))
        self.journal.start()
        await self.link.look()
        await self.take()
        self.desk.begin_doubts_anew()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.link.close()
        self.keeper.close()
        await self.journal.close()

    def _checkpoint(self) -> Checkpoint:
        self._sequence += 1
        now = self.clock.now_ns()
        return Checkpoint(self._sequence, now, now, b"")

    async def take(self) -> None:
        movement = self.desk.drain()
        for one in movement.adopted["seen"] if movement.adopted is not None else ():
            ledgers.adopt(self.ledger, one)
        if movement:
            entry = JournalEntry(steps=movement.steps, foreign=movement.foreign, foreign_ns=movement.foreign_ns)
            self.outbox.post(entry, checkpoint=True)

    async def turn(self, seconds: float = 0.1) -> None:
        self.clock.move_to(self.clock.now_ns() + round(seconds * SECOND_NS))
        await self.link.look()
        await self.link._decided_by_person()
        await self.take()
        await self.outbox.between_batches()

    async def order(self, purpose: Purpose = Purpose.OPEN, lots: float = 0.1) -> int:
        now = self.clock.now_ns()
        bid = self.terminal.symbol_info_tick("EURUSD").bid
        stop, target = (round(bid * 0.98, 5), round(bid * 1.02, 5)) if purpose is Purpose.OPEN else (0.0, 0.0)
        key = client_order_id("real", str(self.journal.session.session_id), "EURUSD", now, purpose)
        intent = OrderIntent(
            key, "real", "EURUSD", purpose, lots, stop, target, now, now + 5 * SECOND_NS, 20.0, comment="test"
        )
        await self.outbox.send(JournalEntry(intents=(intent,)), now)
        await self.link.settle(5.0)
        await self.turn()
        return key

    async def in_journal(self) -> dict[int, OrderState]:
        """Return the orders' states as committed."""
        assert await self.journal.flush(5.0)
        connection = await connect_async(self.url, name="test")
        try:
            book = await order_store.load(connection, "real", since_ns=0)
        finally:
            await connection.close()
        assert (book.open, book.ended) == (self.desk.book.open, self.desk.book.ended)
        return {key: order.state for key, order in (book.open | book.ended).items()}


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def test_orders_and_deals_are_in_the_journal_as_they_are_in_the_book(
    url: str, tmp_path: Path, source: SampleSource
) -> None:
    terminal = terminal_of(source)

    async def work() -> None:
        async with Life(url, tmp_path, terminal) as one:
            opened = await one.order()
            assert await one.in_journal() == {opened: OrderState.FILLED}
        async with Life(url, tmp_path, terminal) as two:
            assert float(two.ledger.positions[0]["lots"]) == 0.1
            closed = await two.order(Purpose.CLOSE, -0.1)
            assert await two.in_journal() == {opened: OrderState.FILLED, closed: OrderState.FILLED}
            assert terminal.positions_get() == ()
        with connect(url) as connection:
            epochs = connection.execute("SELECT epoch, position > 0 FROM trade_order ORDER BY journalled_at").fetchall()
            assert epochs == [(1, False), (2, True)]
            assert connection.execute("SELECT count(*) FROM deal").fetchone() == (2,)

    run(work)


def test_an_engine_that_was_overtaken_writes_nothing(url: str, tmp_path: Path, source: SampleSource) -> None:
    async def work() -> None:
        async with Life(url, tmp_path, terminal_of(source)) as one:
            await one.order()
            assert await one.journal.flush(5.0)
            with connect(url) as connection:
                connection.execute("UPDATE live_account SET epoch = epoch + 1")
            with pytest.raises(FencedError):
                await one.order(Purpose.CLOSE, -0.1)
            assert len(one.terminal.positions_get()) == 1, "nothing was sent"

    run(work)


def test_a_person_says_that_the_broker_does_not_have_an_order(url: str, tmp_path: Path, source: SampleSource) -> None:
    async def work() -> None:
        async with Life(url, tmp_path, terminal_of(source, RequestLost(AtCall()))) as one:
            key = await one.order()
            one.terminal.break_connection()
            await one.turn(300.0)
            await one.turn(310.0)
            assert (await one.in_journal())[key] is OrderState.UNKNOWN
            one.terminal.mend_connection()
            store = LiveStore(url)
            (doubt,) = store.doubtful_orders("real")
            assert (doubt["client_order_id"], doubt["state"]) == (key, "held")
            store.decide_held("real", key, by_whom="me")
            await one.turn()
            await one.turn()
            assert (await one.in_journal())[key] is OrderState.CANCELLED

    run(work)


def test_while_the_server_is_away_exits_go_by_the_log_and_are_joined(
    url: str, tmp_path: Path, source: SampleSource
) -> None:
    async def work() -> None:
        async with Life(url, tmp_path, terminal_of(source)) as one:
            opened = await one.order()
            assert await one.journal.flush(5.0)
            good = one.journal._url
            one.journal._url = one.keeper._url = "postgresql://nobody@127.0.0.1:1/none"
            await one.journal._writer.close()
            one.journal._problems["test"] = "PostgreSQL is away"
            closed = await one.order(Purpose.CLOSE, -0.1)
            assert one.terminal.positions_get() == ()
            assert one.outbox.problem
            with pytest.raises(ServerError):
                await one.keeper.not_sent()
            one.journal._url = one.keeper._url = good
            del one.journal._problems["test"]
            for _ in range(100):
                await asyncio.sleep(0.1)
                await one.turn()
                if not one.outbox.problem:
                    break
            assert not one.outbox.problem
            assert await one.in_journal() == {opened: OrderState.FILLED, closed: OrderState.FILLED}
            with connect(url) as connection:
                assert connection.execute("SELECT through > 0 FROM exit_log_join").fetchone() == (True,)
                events = connection.execute("SELECT state, count(*) FROM order_event GROUP BY state").fetchall()
                assert dict(events)["sent"] == 2

    run(work)


class FeedsClock:
    """The clock of a feed's market."""

    def __init__(self, feed: ReplayFeed, now_ns: int) -> None:
        self._feed, self._now_ns = feed, now_ns

    def now_ns(self) -> int:
        clock = self._feed._clock
        self._now_ns = max(self._now_ns, clock.now_ns() if clock is not None else 0)
        return self._now_ns


def test_an_engine_trades_at_a_broker_from_settings_to_journal(
    free_home: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three days of the sample at 40 000 times its speed, without models."""
    given = {
        "FX_POSTGRES_URL": url, "FX_LIVE_BROKER": "mt5", "FX_LIVE_REPLAY_DAYS": "3", "FX_LIVE_REPLAY_SPEED": "40000",
        "FX_LIVE_ORDER_VALID_S": "7200", "FX_LIVE_QUIET_S": "90000", "FX_LIVE_HOLD_AFTER_S": "900000",
    }  # fmt: skip
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    terminals: list[SimulatedTerminal] = []

    async def close() -> None:
        terminals[-1].shutdown()

    async def open_market(settings: Settings) -> Market:
        source = open_source(settings.source)
        tape = tape_of(source, settings.live.replay_days)
        feed = ReplayFeed(source, tape, speed=settings.live.replay_speed)
        terminals.append(SimulatedTerminal(source, clock=FeedsClock(feed, tape.start)))
        terminals[-1].initialize()
        return Market(feed.info, tape.start, LocalBroker(terminals[-1]), lambda session: feed, close)

    with pytest.raises(SettingsError, match="FX_BRIDGE_LOGIN is not set"):
        asyncio.run(run_engine(settings))
    assert asyncio.run(run_engine(settings, RunOptions(connect=open_market))) is Ending.FINISHED
    made = {record.deal.ticket for record in terminals[-1].server.deals if record.deal.symbol}
    assert len(made) >= 2, "a session without a trade proves little"
    with connect(url) as connection:
        known = {ticket for (ticket,) in connection.execute("SELECT ticket FROM broker_deal").fetchall()}
        states = {state for (state,) in connection.execute("SELECT state FROM trade_order").fetchall()}
        levels = connection.execute("SELECT min(level) FROM decision").fetchone()
    assert known == made
    assert "filled" in states
    # An order to leave that met its position's stop is answered by "closed", which says nothing: in doubt at the end.
    assert states <= {"filled", "rejected", "cancelled", "unknown"}
    assert levels == (3,)
    account = settings.live.account
    tape, facts = read_tape(latest_tape(free_home / "live"))
    assert facts["contracts"][0]["symbol"] == tape.symbols[0]
    assert all(mark.same for mark in replay_tape(recorded_core(facts), tape))
    assert (free_home / "live" / account / "exits").is_dir()
