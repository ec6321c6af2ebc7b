"""The engine at a real broker, as a whole: it trades there, its account is the broker's, and its tape says why."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fx_dagster.core.tape import replay_tape
from fx_dagster.core.trading import TradingCore
from fx_dagster.errors import BrokerError, DataError
from fx_dagster.execution.broker import BrokerSpecification, TradeMode
from fx_dagster.execution.orders import OrderState
from fx_dagster.live.engine import Ending, Engine, EngineParts
from fx_dagster.live.records import KillSwitch
from fx_dagster.live_engine import broker_core, recorded_core, tape_facts
from fx_dagster.market.instruments import instrument
from fx_dagster.settings import LiveSettings, Settings
from resources.exit_log import ExitLog
from resources.live_feed import ReplayFeed
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.faults import AnswerLost, AtCall
from resources.mt5.local_broker import LocalBroker
from resources.mt5.simulated import SimulatedTerminal
from resources.tapes import FileTape, latest_tape, read_tape

from .conftest import KilledError, MemoryJournal
from .test_broker_desk import FileKeeper, OrderTable

SPEED = 40_000.0
"""A session of thirty hours takes three seconds: a few looks at the broker fall into each."""
SETTINGS = LiveSettings(
    broker="mt5", poll_ms=1.0, history_bars=900, tape_mb_max=50.0, order_valid_s=7_200.0, quiet_s=90_000.0,
    hold_after_s=900_000.0,
)  # fmt: skip


class FeedsClock:
    """The clock of a feed's market, which never goes back, whoever feeds it."""

    def __init__(self, now_ns: int) -> None:
        self.feed: Any = None
        self._now_ns = now_ns

    def now_ns(self) -> int:
        clock = getattr(self.feed, "_clock", None)
        self._now_ns = max(self._now_ns, clock.now_ns() if clock is not None else 0)
        return self._now_ns


class RealTable(OrderTable):
    """An :class:`OrderTable` that keeps a session's checkpoints, decisions and events as well."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session
        self.decisions: list[Any] = []
        self.events: list[tuple[str, str]] = []

    def commit(self, entry: Any) -> None:
        checkpoint, plain = entry.checkpoint, entry
        if checkpoint is not None:
            plain = replace(entry, checkpoint=replace(checkpoint, snapshot=b""))
        super().commit(plain)
        if checkpoint is not None:
            self.session = replace(
                self.session, position=checkpoint.position, clock=max(self.session.clock, checkpoint.clock),
                snapshot=checkpoint.snapshot,
            )  # fmt: skip
        self.decisions += entry.decisions
        self.events += [(event.kind, event.message) for event in entry.events]


class RealSession:
    """A session of :mod:`conftest` whose orders go to a terminal's broker."""

    def __init__(self, session: Any, folder: Path, *faults: Any) -> None:
        self.session, self.folder = session, folder
        self.tape = session.tape
        self.clock = FeedsClock(self.tape.start)
        self.terminal = SimulatedTerminal(session.source, clock=self.clock, faults=faults)
        self.terminal.initialize()
        self.table = RealTable(session.store.session)
        self.contracts: tuple[BrokerSpecification, ...] = ()
        self.engine: Any = None
        self.tapes: list[FileTape] = []

    def run(self, *, kill_at: int = 0, prepare: Callable[[MemoryJournal], None] = lambda journal: None) -> Any:
        return asyncio.run(self._life(kill_at, prepare))

    async def _life(self, kill_at: int, prepare: Callable[[MemoryJournal], None]) -> Ending | None:
        journal = MemoryJournal(self.table, kill_at=kill_at)  # type: ignore[arg-type]
        self.journal = journal
        prepare(journal)
        log = ExitLog.open(self.folder / "exits", "paper", reserved_bytes=4_096)
        try:
            self.engine = Engine(await self._parts(journal, FileKeeper(self.table, log)), self.table.session)
            return await self.engine.run()
        except KilledError:
            return None
        finally:
            log.close()
            for tape in self.tapes:
                tape.close()

    async def _parts(self, journal: MemoryJournal, keeper: FileKeeper) -> EngineParts:
        self.session.settings = SETTINGS
        plain = self.session._parts(journal)
        feed = ReplayFeed(self.session.source, self.tape, speed=SPEED)
        self.clock.feed = feed
        broker = LocalBroker(self.terminal)
        self.contracts = tuple([await broker.specification(symbol) for symbol in feed.info.symbols])
        settings = Settings(live=SETTINGS)
        core, desk = broker_core(settings, feed.info, self.tape.start, self.contracts)
        facts = tape_facts(settings, feed.info, self.tape.start, self.contracts)
        return replace(
            plain, core=core, desk=desk, feed=feed, broker=broker, keeper=keeper, settings=SETTINGS,
            tape=self._recording(core, facts),
        )  # fmt: skip

    def _recording(self, core: TradingCore, facts: dict[str, Any]) -> FileTape:
        folder = self.folder / "paper" / "tapes"
        self.tapes.append(FileTape(folder, 1, core.symbols, facts, state=core.whole, size_mb_max=50.0))
        return self.tapes[-1]

    def our_deals(self) -> list[Any]:
        return [record.deal for record in self.terminal.server.deals if record.deal.symbol]


@pytest.fixture
def real(session_of: Callable[..., Any], tmp_path: Path) -> Callable[..., RealSession]:
    def make(*faults: Any, bars: int = 30) -> RealSession:
        return RealSession(session_of(bars), tmp_path, *faults)

    return make


def test_a_session_trades_at_the_broker_and_its_tape_replays_bit_for_bit(real: Callable[..., RealSession]) -> None:
    session = real()
    assert session.run() is Ending.FINISHED
    deals = session.our_deals()
    assert len(deals) >= 2, "a session without a trade proves little"
    keys = session.table.orders
    assert {deal.magic for deal in deals if deal.reason == Mt5.DEAL_REASON_EXPERT} <= keys.keys()
    assert {deal.ticket for deal in deals} <= session.table.deals.keys()
    assert OrderState.FILLED in {order.state for order in keys.values()}
    held = {shown.ticket: shown.volume for shown in session.terminal.positions_get()}
    own = {position.ticket: abs(position.lots) for position in session.table.book().open_positions()}
    assert own == pytest.approx(held)
    status = session.journal.statuses[-1]
    assert (status["broker_problem"], status["orders_unknown"], status["orders_held"]) == ("", 0, 0)
    assert status["balance"] == pytest.approx(session.terminal.account_info().balance, abs=0.01)
    session.tapes[-1].close()
    tape, facts = read_tape(latest_tape(session.folder))
    adopted = [event for event in tape.events if event.what == "adopt"]
    assert any(one["lots"] for event in adopted for one in event.body["seen"])
    marks = replay_tape(recorded_core(facts), tape)
    assert len(marks) > 20
    assert all(mark.same for mark in marks)
    assert marks[-1].replayed == session.engine._core.digest
    deaf = replace(tape, events=[event for event in tape.events if event.what != "adopt"])
    with pytest.raises(DataError):  # it wants other orders, and at other ticks
        replay_tape(recorded_core(facts), deaf)


def test_a_killed_engine_finds_its_position_again(real: Callable[..., RealSession]) -> None:
    session = real(AnswerLost(AtCall()))
    lives = 0
    kills = (6, 9, 14, 0)
    ending = None
    while ending is None:
        ending = session.run(kill_at=kills[min(lives, len(kills) - 1)])
        lives += 1
    assert (ending, lives) == (Ending.FINISHED, 4)
    deals = session.our_deals()
    opened = [deal for deal in deals if deal.entry == Mt5.DEAL_ENTRY_IN]
    assert opened
    assert len({deal.magic for deal in opened}) == len(opened), "an order was sent twice"
    assert {deal.ticket for deal in deals} <= session.table.deals.keys()
    numbers = [row.number for row in session.table.decisions]
    assert len(set(numbers)) == len(numbers)


def test_a_person_flattens_the_account_at_the_broker(real: Callable[..., RealSession]) -> None:
    session = real()

    def engage(journal: MemoryJournal) -> None:
        def look(number: int, entry: Any) -> None:
            if any(position.open for position in session.table.book().open_positions()):
                journal.switch = KillSwitch(engaged=True, flatten=True, reason="now")

        journal.on_post = look

    assert session.run(prepare=engage) is Ending.FINISHED
    assert len([deal for deal in session.our_deals() if deal.entry == Mt5.DEAL_ENTRY_IN]) == 1
    assert session.terminal.positions_get() == ()
    assert ("flatten", "now") in session.table.events


def test_without_the_account_a_session_does_not_begin(real: Callable[..., RealSession]) -> None:
    session = real(bars=6)
    parts = session._parts

    async def lost(journal: MemoryJournal, keeper: FileKeeper) -> EngineParts:
        made = await parts(journal, keeper)  # contracts are told before the terminal is lost
        session.terminal.break_connection()
        return made

    session._parts = lost  # type: ignore[method-assign]
    with pytest.raises(BrokerError, match="does not state the account"):
        session.run()
    assert not session.table.decisions
    session.terminal.mend_connection()
    session._parts = parts  # type: ignore[method-assign]
    assert session.run() is Ending.FINISHED


def test_a_contract_of_other_currencies_is_refused(real: Callable[..., RealSession]) -> None:
    session = real()
    info = ReplayFeed(session.session.source, session.tape, speed=1.0).info
    item = instrument("XAUUSD")
    said = BrokerSpecification(
        "XAUUSD", item.digits, item.point, 100.0, 0.01, 0.01, 50.0, "XAU", "USD", 0.0, 0.0, 2, 0.0, TradeMode.FULL
    )
    with pytest.raises(ValueError, match="is not EURUSD"):
        broker_core(Settings(live=SETTINGS), info, session.tape.start, [said])


def test_the_quiet_period_is_shorter_than_doubt_lasts() -> None:
    with pytest.raises(ValueError, match="hold_after_s"):
        LiveSettings(quiet_s=700.0)
