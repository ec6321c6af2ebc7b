"""Batches, the bounded queue and the gate."""

import asyncio

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.live.ticks import (
    CROSSED_STALE,
    QUARANTINE_GOOD_TICKS,
    TickBatch,
    TickGate,
    TickQueue,
    empty_batch,
    joined,
)
from fx_dagster.market.instruments import instrument
from fx_dagster.market.validation import split_ticks
from fx_dagster.settings import ValidationSettings

Row = tuple[int, int, float, float]


def batch(*rows: Row, clock: int = 0) -> TickBatch:
    """Make a batch of (symbol, time, bid, ask)."""
    symbol, time, bid, ask = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    n = len(rows)
    return TickBatch(
        np.array(symbol, np.int32), np.array(time, np.int64), np.array(bid, float), np.array(ask, float),
        np.ones(n), np.zeros(n, np.int32), clock, 0,
    )  # fmt: skip


def gate(*names: str) -> TickGate:
    return TickGate(names or ("EURUSD",))


@pytest.mark.parametrize(
    ("bid", "ask", "reason"),
    [
        (np.nan, 1.0, "not_finite"),
        (1.0, np.inf, "not_finite"),
        (0.0, 1.0, "non_positive"),
        (-1.0, 1.0, "non_positive"),
        (1.2, 1.1, "crossed"),
    ],
)
def test_an_impossible_tick_is_rejected_and_counted(bid: float, ask: float, reason: str) -> None:
    one = gate()
    good = one.check(batch((0, 5, 1.0, 1.1), (0, 6, bid, ask), (0, 7, 1.0, 1.1)), closed_until=0)
    assert good.time.tolist() == [5, 7]
    assert dict(one.rejected) == {reason: 1}


def test_a_burst_in_one_moment_is_kept_once() -> None:
    one = gate()
    rows = [(0, 5, 1.0 + number / 10, 2.0) for number in range(5)]
    assert len(one.check(batch(*rows), closed_until=0)) == 5
    assert len(one.check(batch(*rows), closed_until=0)) == 0
    assert one.rejected["duplicate"] == 5


def test_an_earlier_tick_is_dropped_and_counted() -> None:
    one = gate()
    good = one.check(batch((0, 5, 1.0, 1.1), (0, 4, 1.0, 1.1), (0, 6, 1.0, 1.1)), closed_until=0)
    assert good.time.tolist() == [5, 6]
    assert one.rejected["order"] == 1


def test_a_tick_of_a_closed_bar_is_too_late() -> None:
    one = gate()
    assert len(one.check(batch((0, 99, 1.0, 1.1)), closed_until=100)) == 0
    assert one.rejected["order"] == 1


def test_symbols_do_not_disturb_each_other_and_come_in_order_of_time() -> None:
    one = gate("EURUSD", "XAUUSD")
    good = one.check(batch((1, 9, 5.0, 6.0), (0, 5, 1.0, 1.1), (0, 7, 1.0, 1.1)), closed_until=0)
    assert good.time.tolist() == [5, 7, 9]
    assert good.symbol.tolist() == [0, 0, 1]


def test_an_impossible_price_quarantines_its_symbol_until_enough_good_ticks() -> None:
    one = gate("EURUSD", "XAUUSD")
    one.check(batch((0, 1, -1.0, 1.0)), closed_until=0)
    assert one.quarantined() == ("EURUSD",)
    for number in range(QUARANTINE_GOOD_TICKS):
        assert not one.believable(0)
        one.check(batch((0, 2 + number, 1.0, 1.1)), closed_until=0)
    assert one.believable(0)


def test_many_crossed_quotes_make_a_symbol_stale_until_a_good_one() -> None:
    one = gate()
    for number in range(CROSSED_STALE):
        assert one.believable(0)
        one.check(batch((0, number, 1.2, 1.1)), closed_until=0)
    assert not one.believable(0)
    one.check(batch((0, 50, 1.1, 1.2), (0, 51, 1.2, 1.1)), closed_until=0)
    assert one.believable(0)


PRICES = st.sampled_from([1.1, 1.2, 1.3, 0.0, -1.0, float("nan"), float("inf")])
TICKS = st.lists(st.tuples(st.just(0), st.integers(1, 6), PRICES, PRICES), max_size=25)


@settings(max_examples=60, deadline=None)
@given(TICKS, st.data())
def test_the_gate_believes_what_stored_validation_believes_however_ticks_are_cut(
    rows: list[Row], data: st.DataObject
) -> None:
    """Equal to market.validation on the rules that need no history of prices, for ticks in order and none twice.

    Where ticks are late or come again, the gate knows only what came before: it drops the late one, stored validation
    the fewest; it takes a quote that left and came back within one moment for a resent burst.
    """
    rows = sorted(dict.fromkeys(rows), key=lambda row: row[1])
    whole = gate().check(batch(*rows), closed_until=0)
    cut = data.draw(st.integers(0, len(rows)))
    parts = gate()
    pieces = [parts.check(batch(*rows[:cut]), closed_until=0), parts.check(batch(*rows[cut:]), closed_until=0)]
    assert sorted(whole.time.tolist()) == sorted(joined(pieces).time.tolist())
    raw = batch(*rows).frame(0)
    wide = ValidationSettings(spike_robust_z=1e9, spread_ratio_max=1e9)
    kept = split_ticks(raw.astype({"time": "int64"}), instrument("EURUSD"), wide)
    ours = whole.frame(0).reset_index(drop=True)
    assert len(ours) == len(kept.good) + int((kept.bad["reason"] == "outside_session").sum())
    assert isinstance(ours, pd.DataFrame)


@settings(max_examples=30, deadline=None)
@given(TICKS, st.integers(0, 25))
def test_a_restored_gate_goes_on_as_the_old_one(rows: list[Row], cut: int) -> None:
    old, new = gate(), gate()
    old.check(batch(*rows[:cut]), closed_until=0)
    import json

    new.restore(json.loads(json.dumps(old.state())))
    one, other = (each.check(batch(*rows[cut:]), closed_until=0) for each in (old, new))
    assert one.time.tolist() == other.time.tolist()
    assert old.state() == new.state()


def test_the_queue_is_bounded_and_the_newest_quote_of_each_symbol_wins() -> None:
    async def work() -> None:
        queue = TickQueue(10)
        queue.put(batch((1, 1, 5.0, 6.0)))
        for time in range(2, 40):
            queue.put(batch((0, time, 1.0, 1.1), clock=time))
        got = await queue.get()
        assert got.clock == 39
        assert got.time.tolist()[0] == 1, "the only quote of the other symbol stays"
        assert got.time.tolist()[-10:] == list(range(30, 40))
        assert len(got) <= 11
        assert queue.dropped == 39 - len(got)
        assert queue.idle

    asyncio.run(work())


def test_news_of_the_clock_alone_arrive_too() -> None:
    async def work() -> None:
        queue = TickQueue(10)
        queue.put(empty_batch(7, 0))
        assert not queue.idle
        assert (await asyncio.wait_for(queue.get(), 1)).clock == 7

    asyncio.run(work())
