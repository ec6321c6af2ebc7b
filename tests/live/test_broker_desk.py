"""A real account: orders out, answers and views in, over a terminal that trades and breaks; at every step a restart."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fx_dagster.decision.rows import MEMORY
from fx_dagster.errors import DataError, JournalError, TradingError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.broker import BrokerDeal
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.execution.lifecycle import Dealt, OrderBook, TrackedOrder, Verdict
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, client_order_id
from fx_dagster.live.broker_desk import BrokerDesk, rules_of
from fx_dagster.live.broker_link import BrokerLink, terms_of
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.records import Checkpoint, JournalEntry, SessionState
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import tick_frame
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, Timeframe
from fx_dagster.settings import CostSettings
from resources.exit_log import ExitIntent, ExitLog
from resources.mt5.clock import SteppedClock
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.faults import (
    AnswerLost,
    AtCall,
    AtTime,
    AutotradingOff,
    ForeignTrade,
    Hidden,
    PartialFill,
    Refused,
    RequestLate,
    RequestLost,
    ServerClose,
    SymbolMode,
)
from resources.mt5.local_broker import LocalBroker
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.trading import BrokerOptions

from .conftest import KilledError, MachineClock, MemoryJournal

OPENING = 1_709_503_200 * SECOND_NS
"""A Monday, 17:00 New York."""
BEGIN = OPENING + 3_600 * SECOND_NS
QUIET = [(3_000.0, 1.1000, 1.1001), (90_000.0, 1.1000, 1.1001)]
SETTLED = (OrderState.FILLED, OrderState.REJECTED, OrderState.CANCELLED)


class TapeSource:
    """A market with ticks given by hand: seconds after the opening, bid, ask."""

    name, has_ticks = "tape", True

    def __init__(self, quotes: list[tuple[float, float, float]]) -> None:
        time = np.array([OPENING + round(second * SECOND_NS) for second, _, _ in quotes], dtype=np.int64)
        bid, ask = (np.array([quote[place] for quote in quotes]) for place in (1, 2))
        self._ticks = tick_frame(time, bid, ask, np.zeros(len(time)), np.full(len(time), 6))

    def symbols(self) -> tuple[str, ...]:
        return ("EURUSD",)

    def left_out(self) -> dict[str, str]:
        return {}

    def base_timeframe(self) -> Timeframe:
        return Timeframe.M1

    def span(self, symbol: str) -> tuple[int, int]:
        return int(self._ticks["time"].min()), int(self._ticks["time"].max()) + 1

    def ticks(self, symbol: str, start: int, end: int) -> Any:
        found = self._ticks[(self._ticks["time"] >= start) & (self._ticks["time"] < end)]
        return found.reset_index(drop=True)

    def bars(self, symbol: str, start: int, end: int) -> None:
        return None


def terminal_of(quotes: list[tuple[float, float, float]] = QUIET, *faults: Any, **options: Any) -> SimulatedTerminal:
    terminal = SimulatedTerminal(
        TapeSource(quotes), clock=SteppedClock(BEGIN), faults=faults, options=BrokerOptions(**options)
    )
    assert terminal.initialize()
    return terminal


class OrderTable:
    """What PostgreSQL would hold of a real account, with its rules: no key twice, no change left out."""

    def __init__(self) -> None:
        self.session = SessionState(1, OPENING, OPENING + DAY_NS, 0, OPENING, OPENING, None)
        self.orders: dict[int, TrackedOrder] = {}
        self.deals: dict[int, tuple[BrokerDeal, int]] = {}
        self.foreign: list[int] = []
        self.desk = ""

    def commit(self, entry: JournalEntry) -> None:
        assert (entry.transitions, entry.deals) == ((), ()), "a real account has steps"
        if entry.checkpoint is not None:
            assert entry.checkpoint.sequence == self.session.sequence + 1
            self.session = replace(self.session, sequence=entry.checkpoint.sequence)
            self.desk = entry.checkpoint.snapshot.decode()
        for intent in entry.intents:
            self.insert(intent, entry.attempts.get(intent.client_order_id, 0))
        for step in entry.steps:
            if isinstance(step.event, Dealt):
                assert entry.checkpoint is not None, "a deal without a checkpoint"
                self.deals.setdefault(step.event.deal.ticket, (step.event.deal, step.event.key))
            if step.order is not None and step.verdict not in (Verdict.LATE, Verdict.REPEATED):
                known = self.orders[step.order.key]
                if step.order.revision > known.revision:
                    assert step.order.revision == known.revision + 1, "a change was left out"
                    self.orders[step.order.key] = step.order
        if entry.foreign is not None:
            self.foreign = [position.ticket for position in entry.foreign]

    def insert(self, intent: OrderIntent, attempt: int = 0) -> None:
        assert intent.client_order_id not in self.orders, "a key was used twice"
        self.orders[intent.client_order_id] = TrackedOrder(
            intent, OrderState.JOURNALLED, intent.decided_ns, attempt, revision=1
        )

    def book(self) -> OrderBook:
        keys = {ticket: key for ticket, (_, key) in self.deals.items()}
        return OrderBook.restored(self.orders.values(), [deal for deal, _ in self.deals.values()], keys)


class FileKeeper:
    """Keeps orders in an :class:`OrderTable`, and exits in a real log."""

    epoch, broken = 7, False

    def __init__(self, table: OrderTable, log: ExitLog) -> None:
        self.table, self.log = table, log
        self.words: tuple[int, ...] = ()
        self.joined = 0

    async def load(self, since_ns: int) -> OrderBook:
        await self.join()
        return self.table.book()

    def log_exit(self, intent: OrderIntent, *, position_lots: float, position_stop: float) -> None:
        self.log.append(intent, position_lots=position_lots, position_stop=position_stop)

    def log_change(self, reached: Any) -> None:
        self.log.note(reached)

    async def join(self) -> int:
        records = self.log.records()
        for _, record in records:
            if isinstance(record, ExitIntent) and record.intent.client_order_id not in self.table.orders:
                self.table.insert(record.intent)
        self.joined += len(records)
        self.log.clear()
        return len(records)

    async def not_sent(self) -> tuple[int, ...]:
        return self.words


class Trader:
    """Desk, outbox and link of one engine's life; what the core would take over goes straight into the ledger."""

    def __init__(self, terminal: SimulatedTerminal, table: OrderTable, folder: Path, **journal: Any) -> None:
        self.terminal, self.table = terminal, table
        self.clock: Any = terminal.clock
        self.journal = MemoryJournal(table, **journal)  # type: ignore[arg-type]
        self.log = ExitLog.open(folder, "real", reserved_bytes=4_096)
        self.keeper = FileKeeper(table, self.log)
        items = (instrument("EURUSD"),)
        self.ledger = new_ledger(
            items, CostSettings(), memory=np.zeros(1, MEMORY), balance=1.0, leverage=30.0, account_currency="USD",
            events=100, real=True,
        )  # fmt: skip
        rules = rules_of(quiet_s=30.0, hold_after_s=600.0, requotes_max=3, order_valid_s=5.0, currency="USD")
        self.desk = BrokerDesk("real", items, self.ledger, rules)
        self.desk.now, self.desk.epoch = self.clock.now_ns, self.keeper.epoch
        self.link = BrokerLink(LocalBroker(terminal), self.desk, self.keeper, deadline_s=5.0)
        self.outbox = BrokerOutbox(
            self.journal, self.desk, MachineClock(), self._checkpoint, link=self.link, keeper=self.keeper
        )
        self.news: list[str] = []
        self.learned: list[tuple[float, float]] = []
        self.held: dict[int, bool] = {}
        self._sequence = table.session.sequence
        if table.desk:
            saved = json.loads(table.desk)
            self.desk.restore(bytes.fromhex(saved["account"]), saved["orders"])

    def _checkpoint(self) -> Checkpoint:
        account, orders = self.desk.snapshot()
        self._sequence += 1
        now = self.clock.now_ns()
        text = json.dumps({"account": account.hex(), "orders": orders})
        return Checkpoint(self._sequence, now, now, text.encode())

    async def begin(self) -> "Trader":
        self.desk.begin(await self.keeper.load(self.clock.now_ns() - 2 * DAY_NS))
        await self.look()
        self.desk.begin_doubts_anew()
        return self

    def close(self) -> None:
        self.link.close()
        self.log.close()

    def take(self) -> None:
        """Do what the engine does between two decisions."""
        movement = self.desk.drain()
        if movement.adopted is not None:
            for one in movement.adopted["seen"]:
                ledgers.adopt(self.ledger, one)
            self.ledger.money["balance"] = movement.adopted["balance"]
            self.learned += movement.adopted["closed"]
            self.held |= movement.adopted["held"]
        self.news += [kind for kind, _, _ in movement.news]
        if movement:
            entry = JournalEntry(steps=movement.steps, foreign=movement.foreign, foreign_ns=movement.foreign_ns)
            self.outbox.post(entry, checkpoint=True)

    async def look(self) -> None:
        await self.link.look()
        self.take()

    async def turn(self, seconds: float = 0.0) -> None:
        """Let market time pass, then look and act as the engine does between two batches."""
        self.clock.move_to(self.clock.now_ns() + round(seconds * SECOND_NS))
        await self.look()
        await self.link._decided_by_person()
        await self.link._look_at_terms()
        self.take()
        await self.outbox.between_batches()
        await self.link.settle(5.0)
        self.take()
        await asyncio.sleep(0)  # what was posted is committed in the loop's next turn

    async def order(self, purpose: Purpose = Purpose.OPEN, lots: float = 0.1, **changes: Any) -> int:
        """Send an order and return its key; its answer waits at the desk."""
        now = self.clock.now_ns()
        number = len(self.table.orders) + changes.pop("number", 0)
        key = client_order_id("real", "1", "EURUSD", now, purpose, number)
        stop, target = {
            Purpose.OPEN: (1.09, 1.12), Purpose.MODIFY: (changes.pop("stop", 1.095), 1.12), Purpose.CLOSE: (0.0, 0.0),
        }[purpose]  # fmt: skip
        intent = OrderIntent(key, "real", "EURUSD", purpose, lots, stop, target, now, now + 5 * SECOND_NS, 30.0)
        await self.outbox.send(JournalEntry(intents=(replace(intent, **changes),)), now)
        return key

    async def trade(self, purpose: Purpose = Purpose.OPEN, lots: float = 0.1, **changes: Any) -> int:
        """Send an order, and take its answer and what it did."""
        key = await self.order(purpose, lots, **changes)
        await self.link.settle(5.0)
        self.take()
        await self.turn(0.1)
        return key

    def state(self, key: int) -> OrderState:
        self.journal._commit_all()
        order = self.desk.book.order(key)
        assert order is not None
        assert self.table.orders[key].state is order.state, "the journal says something else"
        return order.state

    @property
    def row(self) -> tuple[float, float, float, bool]:
        """Lots, stop, foreign lots and whether an order is on its way, as the decision step sees them."""
        one = self.ledger.positions[0]
        return float(one["lots"]), float(one["stop"]), float(one["foreign_lots"]), bool(one["pending"])


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


Make = Callable[..., Trader]


@pytest.fixture
def trader(tmp_path: Path) -> Any:
    """Make traders over one account; each ends the one before, as its process would."""
    living: list[Trader] = []

    def make(terminal: SimulatedTerminal | None = None, table: OrderTable | None = None, **journal: Any) -> Trader:
        for one in living:
            one.close()
        before = living[-1] if living else None
        terminal = terminal or (before.terminal if before else terminal_of())
        table = table or (before.table if before else OrderTable())
        living.append(Trader(terminal, table, tmp_path / "exits", **journal))
        return living[-1]

    yield make
    for one in living:
        one.close()


def sent_requests(terminal: SimulatedTerminal) -> int:
    """Return how many deals the broker made for us."""
    return sum(
        1 for record in terminal.server.deals if record.deal.reason == Mt5.DEAL_REASON_EXPERT and record.deal.symbol
    )


def test_an_order_is_filled_by_its_deal_and_closed_by_its_stop(trader: Make) -> None:
    async def work() -> None:
        quotes = [*QUIET[:1], (5_000.0, 1.0880, 1.0881), (90_000.0, 1.0880, 1.0881)]
        one = await trader(terminal_of(quotes, commission_per_lot=3.0)).begin()
        assert one.row == (0.0, 0.0, 0.0, False)
        key = await one.order()
        assert one.state(key) is OrderState.SENT
        one.take()
        assert one.row[3], "an order is on its way"
        await one.link.settle(5.0)
        one.take()
        assert one.state(key) is OrderState.ACCEPTED, "deals alone fill"
        await one.turn(0.1)
        assert one.state(key) is OrderState.FILLED
        assert one.row == (0.1, 1.09, 0.0, False)
        held = one.ledger.helds[0]
        assert (int(held["key"]), float(held["risk"]), float(held["commission"])) == (key, 30.0, 0.3)
        assert one.table.orders[key].intent.epoch == 7
        await one.turn(2_000.0)
        assert one.row == (0.0, 0.0, 0.0, False)
        ((result, risk),) = one.learned
        assert result == pytest.approx((1.0880 - 1.1001) * 10_000 - 0.6)
        assert risk == 30.0
        assert "closed" in one.news
        assert float(one.ledger.money[0]["balance"]) == pytest.approx(10_000 + result)
        assert one.desk.money().balance == pytest.approx(10_000 + result)
        assert [key for _, key in one.table.deals.values()] == [key, 0]

    run(work)


def test_a_position_is_closed_and_its_stop_moved_by_its_ticket(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        opened = await one.trade()
        moved = await one.trade(Purpose.MODIFY, 0.0)
        assert one.state(moved) is OrderState.FILLED
        assert one.row == (0.1, 1.095, 0.0, False)
        closed = await one.trade(Purpose.CLOSE, -0.1)
        assert one.state(closed) is OrderState.FILLED
        ticket = one.desk.book.order(opened).broker_order
        assert [one.desk.book.order(key).intent.position for key in (moved, closed)] == [ticket, ticket]
        assert one.row == (0.0, 0.0, 0.0, False)
        assert len(one.learned) == 1
        assert one.terminal.positions_get() == ()

    run(work)


def test_of_a_partial_fill_the_part_is_held_and_the_rest_waited_for(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, PartialFill(AtCall(), 0.5))).begin()
        gone = await one.trade(lots=0.2)
        assert one.state(gone) is OrderState.CANCELLED
        assert one.row == (0.1, 1.09, 0.0, False)
        assert float(one.ledger.helds[0]["risk"]) == pytest.approx(15.0)

    run(work)

    async def rests() -> None:
        quotes = [(3_000.0, 1.1, 1.1001), (3_700.0, 1.1, 1.1001), (90_000.0, 1.1, 1.1001)]
        one = await trader(terminal_of(quotes, PartialFill(AtCall(), 0.5, rest_ms=60_000)), OrderTable()).begin()
        waits = await one.trade(lots=0.2)
        assert (one.state(waits), one.row) == (OrderState.PARTIAL, (0.1, 1.09, 0.0, True))
        await one.turn(120.0)
        assert (one.state(waits), one.row) == (OrderState.FILLED, (0.2, 1.09, 0.0, False))

    run(rests)


def test_a_refused_price_is_tried_anew_a_few_times_and_then_there_is_a_pause(trader: Make) -> None:
    async def work() -> None:
        faults = [Refused(AtCall(nth=nth), Mt5.TRADE_RETCODE_REQUOTE) for nth in (1, 2, 3)]
        one = await trader(terminal_of(QUIET, *faults)).begin()
        keys = []
        for _ in range(3):
            assert not one.row[3]
            keys.append(await one.trade())
        assert len(set(keys)) == 3
        assert [one.state(key) for key in keys] == [OrderState.REJECTED] * 3
        assert [one.table.orders[key].attempt for key in keys] == [0, 1, 2]
        assert one.row[3], "nothing new for a while"
        await one.turn(31.0)
        assert not one.row[3]
        again = await one.trade()
        assert (one.state(again), one.table.orders[again].attempt) == (OrderState.FILLED, 0)

    run(work)


def test_a_refused_exit_is_not_sent_at_every_tick(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, *(Refused(AtCall(nth=nth)) for nth in (2, 3)))).begin()
        await one.trade()
        for pause_s in (5.0, 10.0):
            refused = await one.trade(Purpose.CLOSE, -0.1)
            assert (one.state(refused), one.row[3]) == (OrderState.REJECTED, True)
            await one.turn(pause_s - 1.0)
            assert one.row[3]
            await one.turn(1.0)
            assert not one.row[3]
        assert one.desk.open_rows() == [0]

    run(work)


@pytest.mark.parametrize("retcode", [0, Mt5.TRADE_RETCODE_TIMEOUT])
def test_an_order_whose_answer_is_lost_is_found(trader: Make, retcode: int) -> None:
    async def work() -> None:
        terminal = terminal_of(QUIET, AnswerLost(AtCall(), retcode), Hidden(AtCall(), 4_000))
        one = await trader(terminal).begin()
        key = await one.trade()
        assert one.state(key) is OrderState.UNKNOWN
        assert one.row == (0.0, 0.0, 0.0, True)
        assert one.held == {0: True}
        assert one.desk.counts()["orders_unknown"] == 1
        await one.turn(5.0)
        assert one.state(key) is OrderState.FILLED
        assert (one.row, one.held) == ((0.1, 1.09, 0.0, False), {0: False})
        assert sent_requests(terminal) == 1

    run(work)


def test_an_order_that_never_arrived_is_known_as_that_after_two_quiet_views(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, RequestLost(AtCall()))).begin()
        key = await one.trade()
        assert one.state(key) is OrderState.UNKNOWN
        await one.turn(30.0)
        await one.turn(20.0)
        assert one.state(key) is OrderState.UNKNOWN, "one view is no proof"
        await one.turn(31.0)
        assert one.state(key) is OrderState.CANCELLED
        assert (one.row, one.held) == ((0.0, 0.0, 0.0, False), {0: False})
        assert sent_requests(one.terminal) == 0

    run(work)


def test_what_arrives_late_is_a_position_with_a_stop_all_the_same(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, RequestLate(AtCall(), 20_000))).begin()
        key = await one.trade()
        await one.turn(10.0)
        assert one.state(key) is OrderState.UNKNOWN
        await one.turn(15.0)
        assert (one.state(key), one.row) == (OrderState.FILLED, (0.1, 1.09, 0.0, False))

    run(work)


def test_doubt_that_lasts_is_a_persons(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, RequestLost(AtCall()))).begin()
        key = await one.trade()
        one.terminal.break_connection()
        await one.turn(300.0)
        assert "orders" in one.desk.problem
        await one.turn(310.0)
        order = one.desk.book.order(key)
        assert order.state is OrderState.UNKNOWN
        assert "absence cannot be proven" in order.held
        assert one.desk.counts()["orders_held"] == 1
        assert one.held == {0: True}
        one.terminal.mend_connection()
        await one.turn(100.0)
        assert one.desk.book.order(key).held, "silence proves nothing any more"
        assert one.desk.problem == ""
        one.keeper.words = (key,)
        await one.turn(1.0)
        assert (one.state(key), one.held) == (OrderState.CANCELLED, {0: False})

    run(work)


def test_foreign_positions_count_and_are_left_alone(trader: Make) -> None:
    async def work() -> None:
        moment = AtTime(BEGIN + 10 * SECOND_NS)
        one = await trader(terminal_of(QUIET, ForeignTrade(moment, "EURUSD", -0.3))).begin()
        await one.trade()
        await one.turn(20.0)
        assert one.row == (0.1, 1.09, -0.3, False)
        assert len(one.table.foreign) == 1
        (foreign,) = [shown for shown in one.terminal.positions_get() if shown.magic == 0]
        assert float(one.ledger.money[0]["balance"]) == pytest.approx(10_000 + foreign.profit)
        assert one.desk.money().balance == pytest.approx(10_000)
        await one.trade(Purpose.CLOSE, -0.1)
        assert [shown.ticket for shown in one.terminal.positions_get()] == one.table.foreign
        assert one.row == (0.0, 0.0, -0.3, False)

    run(work)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_position_without_a_stop_gets_it_back_or_is_closed(trader: Make, refuses: bool) -> None:
    async def work() -> None:
        faults = [Refused(AtCall(nth=3), Mt5.TRADE_RETCODE_INVALID_STOPS)] if refuses else []
        one = await trader(terminal_of(QUIET, *faults)).begin()
        await one.trade()
        (shown,) = one.terminal.positions_get()
        taken = {"action": Mt5.TRADE_ACTION_SLTP, "symbol": "EURUSD", "position": shown.ticket, "sl": 0.0, "tp": 0.0}
        assert one.terminal.order_send(taken).retcode == Mt5.TRADE_RETCODE_DONE
        await one.turn(1.0)
        assert "protect" in one.news
        await one.turn(1.0)
        await one.turn(1.0)
        if refuses:
            assert one.terminal.positions_get() == ()
            assert one.row == (0.0, 0.0, 0.0, False)
        else:
            (shown,) = one.terminal.positions_get()
            assert (shown.sl, shown.tp) == (1.09, 1.12)
            assert one.row == (0.1, 1.09, 0.0, False)

    run(work)


def test_without_the_journal_entries_wait_and_exits_go_by_the_local_log(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        await one.trade()
        one.journal.trouble, one.journal.silent = "PostgreSQL is away", True
        entry = await one.order()
        assert one.desk.book.order(entry).state is OrderState.CANCELLED
        assert one.outbox.withheld == 1
        closed = await one.order(Purpose.CLOSE, -0.1, number=1)
        await one.link.settle(5.0)
        one.take()
        await one.turn(0.1)
        assert one.desk.book.order(closed).state is OrderState.FILLED
        assert one.terminal.positions_get() == ()
        assert one.outbox.problem
        assert closed not in one.table.orders
        assert one.log.last >= 3, "intent, sent, accepted"
        one.journal.trouble, one.journal.silent = "", False
        await one.turn(1.0)
        assert (one.log.last, one.outbox.problem) == (0, "")
        assert one.keeper.joined >= 3
        assert one.state(closed) is OrderState.FILLED
        assert one.row == (0.0, 0.0, 0.0, False)

    run(work)


def test_what_is_no_exit_is_no_exit_without_the_journal_either(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        await one.trade()
        one.journal.trouble, one.journal.silent = "PostgreSQL is away", True
        loosened = await one.order(Purpose.MODIFY, 0.0, stop=1.08)
        assert one.desk.book.order(loosened).state is OrderState.CANCELLED
        assert one.terminal.positions_get()[0].sl == 1.09
        one.keeper.log_exit = _full_disk  # type: ignore[method-assign]
        closed = await one.order(Purpose.CLOSE, -0.1, number=1)
        assert one.desk.book.order(closed).state is OrderState.CANCELLED
        one.keeper.broken = True
        one.clock.move_to(one.clock.now_ns() + 10 * SECOND_NS)
        with pytest.raises(JournalError, match="full"):
            await one.order(Purpose.CLOSE, -0.1, number=2)

    run(work)


def _full_disk(intent: OrderIntent, **_: Any) -> None:
    raise JournalError("the disk is full", mend="make room")


def test_an_exit_that_was_sent_without_the_journal_survives_the_engine(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        await one.trade()
        one.journal.trouble, one.journal.silent = "PostgreSQL is away", True
        closed = await one.order(Purpose.CLOSE, -0.1)
        await one.link.settle(5.0)
        two = await trader().begin()
        assert two.log.last == 0
        assert closed in two.table.orders
        await two.turn(1.0)
        assert two.row == (0.0, 0.0, 0.0, False)
        assert two.desk.book.order(closed).filled_lots == pytest.approx(0.1)
        assert len(two.learned) == 1

    run(work)


def test_an_order_that_is_decided_on_old_data_is_not_sent(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        key = await one.trade(expires_ns=one.clock.now_ns())
        assert one.state(key) is OrderState.CANCELLED
        assert sent_requests(one.terminal) == 0

    run(work)


def test_a_key_is_used_once(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        key = await one.trade()
        intent = one.desk.book.order(key).intent
        _, sent = await one.outbox.send(JournalEntry(intents=(intent,)), one.clock.now_ns())
        assert sent == frozenset()
        assert sent_requests(one.terminal) == 1

    run(work)


def test_an_adapter_that_fails_leaves_doubt_and_nothing_else(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()

        async def broken(intent: OrderIntent) -> Any:
            raise RuntimeError("a bug in the adapter")

        one.link._broker.send = broken  # type: ignore[method-assign]
        key = await one.trade()
        assert one.state(key) is OrderState.UNKNOWN
        assert "a bug in the adapter" in one.desk.book.order(key).message

    run(work)


def test_where_nobody_may_trade_nothing_is_opened(trader: Make) -> None:
    async def work() -> None:
        moments = AtTime(BEGIN + 10 * SECOND_NS), AtTime(BEGIN + 100 * SECOND_NS)
        faults = [AutotradingOff(moments[0], 60_000), SymbolMode(moments[1], "EURUSD", duration_ms=60_000)]
        one = await trader(terminal_of(QUIET, *faults)).begin()
        assert one.desk.problem == ""
        await one.turn(20.0)
        assert "lets no program trade" in one.desk.problem
        await one.turn(60.0)
        assert one.desk.problem == ""
        await one.turn(30.0)
        assert (one.desk.held(), one.held) == ({"EURUSD": "the broker says close_only"}, {0: True})
        await one.turn(60.0)
        assert (one.desk.held(), one.held) == ({}, {0: False})

    run(work)


def test_a_contract_that_changed_stops_its_symbol_for_good(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        one.terminal.server.change_contract("EURUSD", contract_size=10_000.0)
        await one.turn(1.0)
        assert "contract_size" in one.desk.held()["EURUSD"]
        one.terminal.server.change_contract("EURUSD", contract_size=100_000.0)
        await one.turn(1.0)
        assert one.desk.held()
        item = instrument("EURUSD")
        said = await LocalBroker(one.terminal).specification("EURUSD")
        assert not terms_of(item, said).problem

    run(work)


def test_what_a_person_closed_is_ours_and_a_difference_halts_until_a_person_says_so(trader: Make) -> None:
    async def work() -> None:
        closes = ServerClose(AtTime(BEGIN + 20 * SECOND_NS), reason=Mt5.DEAL_REASON_CLIENT)
        one = await trader(terminal_of(QUIET, closes)).begin()
        await one.trade()
        await one.turn(30.0)
        assert one.row == (0.0, 0.0, 0.0, False)
        one.desk.book.positions[1] = replace(next(iter(one.desk.book.positions.values())), ticket=1, lots=0.1)
        await one.turn(1.0)
        await one.turn(31.0)
        assert "its deals sum to" in one.desk.held()["EURUSD"]
        assert one.held == {0: True}
        del one.desk.book.positions[1]
        one.desk.resume()
        await one.turn(1.0)
        assert one.held == {0: False}

    run(work)


def test_a_desk_goes_on_from_its_snapshot_and_takes_no_other(trader: Make) -> None:
    async def work() -> None:
        one = await trader().begin()
        await one.trade()
        account, orders = one.desk.snapshot()
        two = trader()
        two.desk.restore(account, orders)
        assert two.row == one.row
        assert int(two.ledger.money[0]["open_count"]) == 1
        with pytest.raises(DataError):
            two.desk.restore(b"nothing", orders)

    run(work)


def test_on_paper_nothing_is_adopted() -> None:
    paper = new_ledger(
        (instrument("EURUSD"),), CostSettings(), memory=np.zeros(1, MEMORY), balance=1.0, leverage=30.0,
        account_currency="USD", events=9,
    )  # fmt: skip
    with pytest.raises(TradingError):
        ledgers.adopt(paper, ledgers.Adoption(0, 0.1, 1.1, 1.0, 0.0, False, 0.0, 0, 0, 0, 0.0, 0.0, 0.0))


def test_quotes_only_value_a_real_account() -> None:
    real = new_ledger(
        (instrument("EURUSD"),), CostSettings(), memory=np.zeros(1, MEMORY), balance=10_000.0, leverage=30.0,
        account_currency="USD", events=9, real=True,
    )  # fmt: skip
    ledgers.quote(real, 0, BEGIN, 1.1, 1.1001, False)
    ledgers.adopt(real, ledgers.Adoption(0, 0.1, 1.1, 1.09, 1.12, False, 0.0, BEGIN, 5, 6, -1.0, 0.3, 30.0))
    assert ledgers.equity(real) == pytest.approx(9_999.0)
    ledgers.quote(real, 0, BEGIN + 3 * DAY_NS, 1.05, 1.0501, False)
    assert float(real.positions[0]["lots"]) == 0.1, "the broker says what its stop did"
    assert int(real.money[0]["events"]) == 0
    assert ledgers.equity(real) == pytest.approx(10_000.0 - 501.0)


class _Scenario:
    """A day in an account's life: opened, its stop moved, closed; and what goes wrong meanwhile."""

    def __init__(self, faults: tuple[Any, ...]) -> None:
        self.terminal = terminal_of(QUIET, *faults)
        self.wanted = [(Purpose.OPEN, 0.1), (Purpose.MODIFY, 0.0), (Purpose.CLOSE, -0.1)]

    async def go_on(self, one: Trader) -> None:
        """Do what is still wanted, as a decision step would: one order at a time."""
        await one.begin()
        for _ in range(40):
            lots, stop, _, pending = one.row
            if not pending and one.desk.problem == "":
                done = sum(record.state is OrderState.FILLED for record in one.table.orders.values())
                if lots and stop == 1.09:
                    await one.order(Purpose.MODIFY, 0.0)
                elif lots:
                    await one.order(Purpose.CLOSE, -lots)
                elif done == 0 and not one.desk.why_held("EURUSD"):
                    await one.order()
                elif done:
                    await asyncio.sleep(0)  # the journal commits a little later
                    return
            await one.link.settle(5.0)
            await one.turn(11.0)
        raise AssertionError(f"it never ended: {one.row} {one.desk.held()} {one.news}")


@pytest.mark.parametrize("fault", [None, AnswerLost, RequestLost, RequestLate], ids=str)
@pytest.mark.parametrize("committed", [True, False])
def test_a_killed_engine_leaves_nothing_doubled_lost_or_unknown(trader: Make, fault: Any, committed: bool) -> None:
    async def work() -> None:
        for kill_at in range(1, 13):
            faults = tuple(fault(AtCall(nth=nth)) for nth in (1, 2, 3)) if fault else ()
            scene, table = _Scenario(faults), OrderTable()
            try:
                await scene.go_on(trader(scene.terminal, table, kill_at=kill_at, commit_last=committed))
            except KilledError:
                await scene.go_on(trader(scene.terminal, table))
            assert scene.terminal.positions_get() == (), kill_at
            opened = [
                record.deal for record in scene.terminal.server.deals if record.deal.entry == 0 and record.deal.symbol
            ]
            assert len(opened) <= 2, kill_at
            assert len({deal.magic for deal in opened}) == len(opened), "an order was sent twice"
            known = set(table.deals)
            assert {record.deal.ticket for record in scene.terminal.server.deals if record.deal.symbol} <= known
            assert all(order.state in SETTLED for order in table.orders.values()), kill_at
            book = table.book()
            assert not list(book.open_positions())

    run(work)
