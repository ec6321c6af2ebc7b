from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.errors import BrokerError, UnknownSymbolError
from fx_dagster.market.bars import resample_bars
from fx_dagster.market.schemas import TICK_SCHEMA, validate
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe
from resources.market.simulator import SimulatorSource
from resources.mt5.clock import SteppedClock
from resources.mt5.feed import TerminalFeed, TickArrays, without
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.structures import TICK_DTYPE

MONDAY = 1_709_503_200 * SECOND_NS
MakeTape = Callable[..., MarketSource]


def opened(source: MarketSource, now: int, **options: str) -> tuple[SimulatedTerminal, SteppedClock]:
    clock = SteppedClock(now)
    terminal = SimulatedTerminal(source, clock=clock, **options)  # type: ignore[arg-type]
    terminal.initialize()
    return terminal, clock


def gathered(batches: Iterator[dict[str, TickArrays]], symbol: str) -> pd.DataFrame:
    parts = [batch[symbol].frame() for batch in batches if symbol in batch]
    return pd.concat(parts, ignore_index=True)


# Bursts within a millisecond and a second, and pauses over many seconds.
OFFSETS = st.lists(st.sampled_from([0, 0, 0, 1, 2, 400, 999, 1000, 1001, 5000]), min_size=1, max_size=60).map(
    lambda steps: np.cumsum(steps).tolist()
)
POLLS = st.lists(st.sampled_from([0, 1, 3, 250, 999, 1000, 1500, 4000]), max_size=40)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(offsets=OFFSETS, other=OFFSETS, polls=POLLS, start=st.integers(-2, 3000), ticks_max=st.integers(1, 20))
def test_no_tick_is_lost_or_doubled_whenever_one_polls(
    tape: MakeTape, offsets: list[int], other: list[int], polls: list[int], start: int, ticks_max: int
) -> None:
    source = tape(EURUSD=offsets, XAUUSD=other)
    terminal, clock = opened(source, MONDAY - SECOND_NS)
    since = MONDAY + start * 1_000_000
    feed = TerminalFeed(terminal, ("XAUUSD", "EURUSD"), since_ns=since, ticks_max=ticks_max)
    batches = []
    for step in [*polls, 10**6]:
        clock.move_to(clock.now_ns() + step * 1_000_000)
        batches.append(feed.poll())
        assert feed.watermark_ns >= clock.now_ns()
        for symbol, batch in batches[-1].items():
            assert len(batch.time), symbol
    assert feed.poll() == {}
    for symbol in ("EURUSD", "XAUUSD"):
        expected = source.ticks(symbol, since, 2**62)
        if len(expected):
            pd.testing.assert_frame_equal(gathered(iter(batches), symbol), expected, check_exact=True)
        else:
            assert not any(symbol in batch for batch in batches)


@settings(max_examples=100, deadline=None)
@given(
    known=st.lists(st.integers(0, 3), max_size=12),
    new=st.lists(st.integers(0, 3), max_size=12),
    order=st.randoms(use_true_random=False),
)
def test_known_rows_are_taken_away_with_their_multiplicity_in_any_order(
    known: list[int], new: list[int], order: object
) -> None:
    mixed = [*known, *new]
    order.shuffle(mixed)  # type: ignore[attr-defined]
    left = [row["bid"] for row in without(rows_of(mixed), rows_of(known))]
    assert sorted(left) == sorted(new)


def rows_of(values: list[int]) -> np.ndarray:
    rows = np.zeros(len(values), dtype=TICK_DTYPE)
    rows["bid"] = values
    return rows


def test_a_tick_that_arrives_late_within_the_second_is_not_lost(tape: MakeTape) -> None:
    class Late(SimulatedTerminal):
        """Shows one tick only from its second question on, before others that it has shown already."""

        asked = 0

        def copy_ticks_from(self, *arguments: object) -> np.ndarray:  # type: ignore[override]
            self.asked += 1
            rows = super().copy_ticks_from(*arguments)  # type: ignore[arg-type]
            assert rows is not None
            return rows if self.asked > 1 else rows[[0, 2]]

    terminal = Late(tape(EURUSD=[100, 200, 300]), clock=SteppedClock(MONDAY + SECOND_NS))
    terminal.initialize()
    feed = TerminalFeed(terminal, ("EURUSD",), since_ns=MONDAY)
    first, second = feed.poll()["EURUSD"], feed.poll()["EURUSD"]
    assert ((first.time - MONDAY) // 1_000_000).tolist() == [100, 300]
    assert ((second.time - MONDAY) // 1_000_000).tolist() == [200]
    assert feed.poll() == {}


def test_all_symbols_of_a_real_length_come_through_over_a_weekend(m1_market: SimulatorSource) -> None:
    start, end = MONDAY + 4 * DAY_NS, MONDAY + 8 * DAY_NS
    terminal, clock = opened(m1_market, start, suffix=".m")
    feed = TerminalFeed(terminal, ("EURUSD", "USDJPY"))
    batches = []
    while clock.now_ns() < end:
        clock.move_to(clock.now_ns() + 37 * MINUTE_NS + 123_456_789)
        batches.append(feed.poll())
    for symbol in feed.symbols:
        ticks = validate(gathered(iter(batches), symbol), TICK_SCHEMA)
        expected = m1_market.ticks(symbol, start, clock.now_ns() + 1)
        pd.testing.assert_frame_equal(ticks, expected, check_exact=True)


def test_a_failed_poll_loses_nothing(tape: MakeTape) -> None:
    source = tape(EURUSD=[100, 200], XAUUSD=[150])
    terminal, _ = opened(source, MONDAY + SECOND_NS)
    feed = TerminalFeed(terminal, ("EURUSD", "XAUUSD"), since_ns=MONDAY)
    calls = 0
    inner = terminal.copy_ticks_from

    def second_call_fails(*arguments: object) -> np.ndarray | None:
        nonlocal calls
        calls += 1
        if calls == 2:
            terminal.break_connection()
        return inner(*arguments)  # type: ignore[arg-type]

    terminal.copy_ticks_from = second_call_fails  # type: ignore[method-assign,assignment]
    with pytest.raises(BrokerError, match=r"copy_ticks_from\(XAUUSD\) failed with -10005 \(IPC timeout\)") as caught:
        feed.poll()
    assert caught.value.mend
    terminal.mend_connection()
    batch = feed.poll()
    assert (len(batch["EURUSD"].time), len(batch["XAUUSD"].time)) == (2, 1)


def test_it_begins_with_the_market_s_present_unless_told_otherwise(tape: MakeTape) -> None:
    terminal, clock = opened(tape(EURUSD=[100, 900, 1500, 1600]), MONDAY + 1500 * 1_000_000)
    feed = TerminalFeed(terminal, ("EURUSD",))
    clock.move_to(MONDAY + 9 * SECOND_NS)
    assert ((feed.poll()["EURUSD"].time - MONDAY) // 1_000_000).tolist() == [1500, 1600]
    feed.seek(MONDAY + 900 * 1_000_000)
    assert ((feed.poll()["EURUSD"].time - MONDAY) // 1_000_000).tolist() == [900, 1500, 1600]


def test_symbols_must_be_the_broker_s(m1_market: SimulatorSource) -> None:
    terminal, _ = opened(m1_market, MONDAY + DAY_NS)
    with pytest.raises(UnknownSymbolError, match="XAUUSD"):
        TerminalFeed(terminal, ("XAUUSD",))
    terminal.shutdown()
    with pytest.raises(BrokerError, match=r"symbols_get failed with -10004"):
        TerminalFeed(terminal, ("EURUSD",))


@pytest.mark.parametrize("timeframe", [Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1])
@pytest.mark.parametrize("offset_ns", [0, 1, 20 * MINUTE_NS, 2 * DAY_NS + HOUR_NS])
def test_history_is_the_closed_bars(h1_market: SimulatorSource, timeframe: Timeframe, offset_ns: int) -> None:
    now = MONDAY + 24 * DAY_NS + offset_ns
    terminal, _ = opened(h1_market, now)
    feed = TerminalFeed(terminal, ("EURUSD", "XAUUSD"))
    own = h1_market.bars("XAUUSD", MONDAY, now)
    own = own[own["time"] + HOUR_NS <= now]
    bars = feed.history("XAUUSD", timeframe, 50)
    expected = resample_bars(own, Timeframe.H1, timeframe, complete_until=now).tail(50).reset_index(drop=True)
    pd.testing.assert_frame_equal(bars, expected.assign(spread=np.round(expected["spread"])), check_exact=True)
    earlier = feed.history("XAUUSD", Timeframe.H1, 5, until_ns=MONDAY + 3 * DAY_NS)
    assert earlier["time"].iloc[-1] == MONDAY + 3 * DAY_NS - HOUR_NS
    assert len(earlier) == 5


def test_history_and_ticks_meet_without_a_gap(m1_market: SimulatorSource) -> None:
    now = MONDAY + 3 * DAY_NS + 12 * HOUR_NS + 17 * SECOND_NS
    terminal, clock = opened(m1_market, now)
    feed = TerminalFeed(terminal, ("EURUSD",))
    bars = feed.history("EURUSD", Timeframe.M1, 100)
    end = int(bars["time"].iloc[-1]) + MINUTE_NS
    feed.seek(end)
    clock.move_to(now + HOUR_NS)
    ticks = feed.poll()["EURUSD"]
    assert int(ticks.time[0]) == end
    assert len(ticks.time) == len(m1_market.ticks("EURUSD", end, clock.now_ns() + 1))


def test_history_of_a_timeframe_finer_than_the_source_is_refused(h1_market: SimulatorSource) -> None:
    terminal, _ = opened(h1_market, MONDAY + DAY_NS)
    feed = TerminalFeed(terminal, ("EURUSD",))
    with pytest.raises(BrokerError, match=r"copy_rates_from_pos\(EURUSD, M5\) failed with -4"):
        feed.history("EURUSD", Timeframe.M5, 10)
