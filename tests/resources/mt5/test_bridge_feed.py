"""A session's feed over a terminal that answers late or not at all: no tick lost or doubled, nothing held up."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from fx_dagster.errors import SettingsError, SourceError
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, joined
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import MINUTE_NS, SECOND_NS, Timeframe
from fx_dagster.settings import BridgeSettings
from resources.mt5.bridge.broker import aliases_of
from resources.mt5.bridge.feed import BridgeFeed
from resources.mt5.clock import QUOTE_FAR_NS, QuotedClock, SteppedClock
from resources.mt5.simulated import SimulatedTerminal

MONDAY = 1_709_503_200 * SECOND_NS
END = MONDAY + 10 * MINUTE_NS
MakeTape = Callable[..., MarketSource]


class Slow:
    """A terminal behind a line that can be held, or cut."""

    def __init__(self, terminal: SimulatedTerminal) -> None:
        self._terminal, self.open, self.cut = terminal, threading.Event(), False
        self.open.set()
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._terminal, name)

    def last_error(self) -> tuple[int, str]:
        return (-10_005, "IPC timeout") if self.cut else self._terminal.last_error()

    def copy_ticks_from(self, *given: Any) -> Any:
        self.calls += 1
        assert self.open.wait(20.0)
        return None if self.cut else self._terminal.copy_ticks_from(*given)


class Session:
    """A feed, and what a session has taken from it."""

    def __init__(self, source: MarketSource, clock: SteppedClock, until: int = END, **given: Any) -> None:
        terminal = SimulatedTerminal(source, clock=clock, **given)
        assert terminal.initialize()
        self.clock, self.line = clock, Slow(terminal)
        info = FeedInfo(source.symbols(), Timeframe.M1, 60.0, lossless=False)
        self.feed = BridgeFeed(self.line, info, clock=clock, poll_s=0.001, until_ns=until)
        self.taken: list[TickBatch] = []
        self.problems: list[str] = []

    async def take(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20.0):
            while not condition():
                self.taken.append(self.feed.poll(0))
                if self.feed.problem:
                    self.problems.append(self.feed.problem)
                await self.feed.news(0.005)

    @property
    def reached(self) -> int:
        return self.taken[-1].clock if self.taken else 0

    def frame(self, place: int) -> TickBatch:
        whole = joined(self.taken)
        return whole.take(whole.symbol == place)


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


OFFSETS = [-500, 0, 0, 0, 1, 999, 1_000, 1_000, 5_000, 61_000, 61_000, 120_001]


def test_every_tick_comes_once_whatever_the_line_does(tape: MakeTape) -> None:
    source = tape(EURUSD=OFFSETS, XAUUSD=[0, 3_000, 90_000])

    async def work() -> None:
        one = Session(source, SteppedClock(MONDAY))
        one.feed.start(MONDAY, MONDAY)
        try:
            for second in (1, 2, 2.5, 40, 62, 100, 130):
                one.line.cut = second == 62
                one.clock.move_to(MONDAY + round(second * SECOND_NS))
                if one.line.cut:
                    await one.take(lambda: bool(one.problems))
                else:
                    await one.take(lambda: one.reached >= one.clock.now_ns())
            for place, symbol in enumerate(source.symbols()):
                expected = source.ticks(symbol, MONDAY, 2**62)
                got = one.frame(place)
                assert got.time.tolist() == expected["time"].tolist()
                assert got.bid.tolist() == expected["bid"].tolist()
            assert "IPC timeout" in one.problems[0]
            assert one.feed.problem == ""
            clocks = [batch.clock for batch in one.taken]
            assert clocks == sorted(clocks)
        finally:
            one.feed.close()

    run(work)


def test_a_terminal_that_hangs_holds_nobody_up(tape: MakeTape) -> None:
    async def work() -> None:
        one = Session(tape(EURUSD=OFFSETS), SteppedClock(MONDAY))
        one.feed.start(MONDAY, MONDAY)
        try:
            await one.take(lambda: one.reached >= MONDAY)
            one.line.open.clear()
            calls = one.line.calls
            await one.take(lambda: one.line.calls > calls)
            one.clock.move_to(MONDAY + 10 * SECOND_NS)
            assert one.line.calls == calls + 1
            began = time.monotonic()
            assert not len(one.feed.poll(0))
            await one.feed.news(0.005)
            assert time.monotonic() - began < 5.0, "the feed waited for the terminal"
            one.line.open.set()
            await one.take(lambda: one.reached >= MONDAY + 10 * SECOND_NS)
            assert len(one.frame(0)) == sum(0 <= offset <= 10_000 for offset in OFFSETS)
        finally:
            one.line.open.set()
            one.feed.close()

    run(work)


def test_it_ends_where_the_session_ends(tape: MakeTape) -> None:
    async def work() -> None:
        one = Session(tape(EURUSD=OFFSETS), SteppedClock(MONDAY), until=MONDAY + 61 * SECOND_NS)
        one.feed.start(MONDAY, MONDAY)
        try:
            assert not one.feed.finished
            one.clock.move_to(END)
            await one.take(lambda: one.feed.finished)
            assert one.reached == MONDAY + 61 * SECOND_NS
            assert one.frame(0).time.max() == MONDAY + 5 * SECOND_NS
            with pytest.raises(SourceError, match="started twice"):
                one.feed.start(MONDAY, MONDAY)
        finally:
            one.feed.close()

    run(work)


def test_the_bar_that_formed_and_history_are_the_terminals(tape: MakeTape) -> None:
    source = tape(EURUSD=OFFSETS)
    one = Session(source, SteppedClock(END))
    raw = one.feed.ticks(MONDAY + 61 * SECOND_NS, MONDAY + 100 * SECOND_NS)
    assert (raw.time - MONDAY).tolist() == [61 * SECOND_NS] * 2
    frame = one.feed.history("EURUSD", Timeframe.M1, MONDAY + 2 * MINUTE_NS, 5)
    assert frame["time"].max() == MONDAY + MINUTE_NS


class Machine:
    """Wall and monotonic clock, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = MONDAY, 50 * SECOND_NS

    def clock(self) -> QuotedClock:
        return QuotedClock(lambda: self.wall, lambda: self.monotonic)

    def move(self, seconds: float) -> None:
        self.wall += round(seconds * SECOND_NS)
        self.monotonic += round(seconds * SECOND_NS)


def test_the_brokers_time_is_that_of_its_quickest_quotes() -> None:
    machine = Machine()
    clock = machine.clock()
    assert (clock.now_ns(), clock.skew_ns) == (MONDAY, 0), "without a quote it is this machine's"
    broker = MONDAY + 3 * SECOND_NS
    for delay_ms in (80, 20, 400):
        clock.hear(broker - delay_ms * 1_000_000)
    assert clock.now_ns() == broker - 20_000_000
    machine.move(1.0)
    assert clock.skew_ns == 3 * SECOND_NS - 20_000_000
    machine.wall += 3_600 * SECOND_NS
    assert clock.now_ns() == broker + SECOND_NS - 20_000_000, "a step of the wall clock changes nothing"


def test_the_brokers_time_follows_a_clock_that_drifts_and_never_goes_back() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.hear(MONDAY + SECOND_NS)
    seen = clock.now_ns()
    for _ in range(30):  # half an hour in which the broker's clock is found to be a second behind
        machine.move(60.0)
        clock.hear(machine.wall)
        assert clock.now_ns() >= seen
        seen = clock.now_ns()
    assert abs(seen - machine.wall) < SECOND_NS // 10


def test_a_quote_from_far_away_moves_no_clock() -> None:
    machine = Machine()
    clock = machine.clock()
    clock.hear(MONDAY - QUOTE_FAR_NS - 1)
    clock.hear(MONDAY + QUOTE_FAR_NS + 1)
    assert clock.now_ns() == MONDAY


def test_a_person_is_told_of_a_clock_that_is_wrong(tape: MakeTape) -> None:
    source, machine = tape(EURUSD=OFFSETS), Machine()
    terminal = SimulatedTerminal(source, clock=SteppedClock(MONDAY))
    terminal.initialize()
    clock = machine.clock()
    info = FeedInfo(source.symbols(), Timeframe.M1, 60.0, lossless=False)
    feed = BridgeFeed(terminal, info, clock=clock, poll_s=0.001, until_ns=END)
    clock.hear(MONDAY + SECOND_NS)
    assert feed.remark == ""
    clock.hear(MONDAY + 5 * SECOND_NS)
    assert feed.remark == "this machine's clock is -5.0 s beside the broker's: set it right"


def test_names_that_no_rule_knows_are_given() -> None:
    settings = BridgeSettings(aliases="GOLD.spot=XAUUSD, #EU=EURUSD")
    assert aliases_of(settings) == {"GOLD.spot": "XAUUSD", "#EU": "EURUSD"}
    assert aliases_of(BridgeSettings()) == {}
    for wrong in ("GOLD", "=XAUUSD", "GOLD=", "a/b=XAUUSD", "GOLD=../x"):
        with pytest.raises(SettingsError, match="FX_BRIDGE_ALIASES"):
            aliases_of(BridgeSettings(aliases=wrong))


def test_order_of_arrival_is_order_of_time_over_symbols(tape: MakeTape) -> None:
    one = Session(tape(EURUSD=[0, 2_000], XAUUSD=[1_000, 3_000]), SteppedClock(MONDAY + 5 * SECOND_NS))

    async def work() -> None:
        one.feed.start(MONDAY, MONDAY)
        await one.take(lambda: one.reached >= one.clock.now_ns())
        one.feed.close()

    run(work)
    whole = joined(one.taken)
    assert (np.diff(whole.time) >= 0).all()
    assert whole.symbol.tolist() == [0, 1, 0, 1]
