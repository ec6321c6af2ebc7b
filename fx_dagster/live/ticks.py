"""Ticks on their way in: batches, and the bounded queue.

A batch is struct-of-arrays over all symbols, in the order of arrival. Nothing here copies a tick it does not have to.
"""

import asyncio
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.core.rows import Ticks

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class TickBatch:
    """Ticks of several symbols.

    Attributes:
        symbol: index into the feed's symbols, int32 ``[n]``.
        time: int64 ns UTC ``[n]``; not necessarily in order.
        bid, ask: float64 ``[n]``.
        volume: float64 ``[n]``.
        flags: int32 ``[n]``, :class:`fx_dagster.market.schemas.TickFlag`.
        clock: the market's clock (ns UTC): every tick before it has been handed over with this batch or an earlier one.
        received_ns: monotonic time at which the batch was read.
    """

    symbol: Int32
    time: Int64
    bid: Float64
    ask: Float64
    volume: Float64
    flags: Int32
    clock: int
    received_ns: int

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: NDArray[np.intp] | Bool | slice) -> "TickBatch":
        """Return some of the ticks."""
        return TickBatch(
            self.symbol[rows],
            self.time[rows],
            self.bid[rows],
            self.ask[rows],
            self.volume[rows],
            self.flags[rows],
            self.clock,
            self.received_ns,
        )

    def frame(self) -> pd.DataFrame:
        """Return TICKS, without the symbols."""
        names = ("time", "bid", "ask", "volume", "flags")
        return pd.DataFrame({name: getattr(self, name) for name in names}, copy=False)


def columns(batch: TickBatch) -> Ticks:
    """Return a batch as the core takes it.

    Arrays that may not be written to, or lie in pieces, are another type to compiled code, which would be compiled anew
    while ticks wait: they are copied.
    """
    arrays = (batch.symbol, batch.time, batch.bid, batch.ask, batch.volume, batch.flags)
    return Ticks._make(np.require(array, requirements=("C", "W")) for array in arrays)


def empty_batch(clock: int, received_ns: int) -> TickBatch:
    """Return no ticks, and where the market's clock is."""
    floats = np.zeros(0)
    return TickBatch(
        np.zeros(0, np.int32), np.zeros(0, np.int64), floats, floats, floats, np.zeros(0, np.int32), clock, received_ns
    )


def joined(batches: list[TickBatch]) -> TickBatch:
    """Return batches as one, with the last one's clock and the first one's moment of reading."""
    if len(batches) == 1:
        return batches[0]
    return TickBatch(
        np.concatenate([batch.symbol for batch in batches]),
        np.concatenate([batch.time for batch in batches]),
        np.concatenate([batch.bid for batch in batches]),
        np.concatenate([batch.ask for batch in batches]),
        np.concatenate([batch.volume for batch in batches]),
        np.concatenate([batch.flags for batch in batches]),
        batches[-1].clock,
        batches[0].received_ns,
    )


class TickQueue:
    """Between intake and engine: at most ``ticks_max`` ticks wait; beyond that the oldest quotes go.

    The newest quote of every symbol always stays. What was dropped is counted in :attr:`dropped`.
    """

    def __init__(self, ticks_max: int) -> None:
        self.dropped = 0
        self.highest = 0
        self._ticks_max = ticks_max
        self._batches: list[TickBatch] = []
        self._waiting = 0
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return self._waiting

    @property
    def idle(self) -> bool:
        """Whether nothing waits, not even news of the clock."""
        return not self._batches

    @property
    def room(self) -> int:
        """Ticks that fit without dropping any."""
        return max(0, self._ticks_max - self._waiting)

    def put(self, batch: TickBatch) -> None:
        """Add a batch; an empty one moves the clock on."""
        self._batches.append(batch)
        self._waiting += len(batch)
        self.highest = max(self.highest, self._waiting)
        if self._waiting > self._ticks_max:
            self._drop_oldest()
        self._news.set()

    async def get(self) -> TickBatch:
        """Return everything that waits, as one batch; wait for the first."""
        await self._news.wait()
        batch = joined(self._batches)
        self._batches = []
        self._waiting = 0
        self._news.clear()
        return batch

    def _drop_oldest(self) -> None:
        batch = joined(self._batches)
        keep = np.arange(len(batch)) >= len(batch) - self._ticks_max
        # The last row of each symbol, counted from the end, is its newest quote.
        _, newest = np.unique(batch.symbol[::-1], return_index=True)
        keep[len(batch) - 1 - newest] = True
        kept = batch.take(keep)
        self.dropped += len(batch) - len(kept)
        self._batches = [kept]
        self._waiting = len(kept)
