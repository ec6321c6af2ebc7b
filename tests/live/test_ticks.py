"""Batches and the bounded queue."""

import asyncio

import numpy as np

from fx_dagster.live.ticks import TickBatch, TickQueue, columns, empty_batch, joined

Row = tuple[int, int, float, float]


def batch(*rows: Row, clock: int = 0) -> TickBatch:
    """Make a batch of (symbol, time, bid, ask)."""
    symbol, time, bid, ask = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [], [])
    n = len(rows)
    return TickBatch(
        np.array(symbol, np.int32), np.array(time, np.int64), np.array(bid, float), np.array(ask, float),
        np.ones(n), np.zeros(n, np.int32), clock, 0,
    )  # fmt: skip


def test_batches_are_joined_in_the_order_in_which_they_came() -> None:
    whole = joined([batch((0, 5, 1.0, 1.1), clock=6), batch((1, 4, 2.0, 2.1), (0, 7, 1.2, 1.3), clock=8)])
    assert whole.time.tolist() == [5, 4, 7]
    assert whole.symbol.tolist() == [0, 1, 0]
    assert whole.clock == 8


def test_the_core_is_handed_a_batchs_own_columns() -> None:
    one = batch((0, 5, 1.0, 1.1), (1, 6, 2.0, 2.2))
    assert columns(one).ask is one.ask
    assert one.frame()["ask"].tolist() == [1.1, 2.2]


def test_what_would_be_compiled_anew_is_copied() -> None:
    one = batch((0, 5, 1.0, 1.1), (1, 6, 2.0, 2.2), (0, 7, 1.0, 1.2))
    one.time.flags.writeable = False
    got = columns(one.take(slice(None, None, 2)))
    assert all(array.flags.c_contiguous and array.flags.writeable for array in got)
    assert columns(one).time.tolist() == [5, 6, 7]
    assert columns(one).time.flags.writeable


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
