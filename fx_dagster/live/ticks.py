"""Ticks on their way in: batches, the bounded queue, and the gate that believes or rejects each tick.

A batch is struct-of-arrays over all symbols, in the order of arrival. Nothing here copies a tick it does not have to.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.validation import Reason

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
Bool = NDArray[np.bool_]

CROSSED_STALE = 5
"""Crossed quotes in a row after which the symbol counts as stale."""
QUARANTINE_GOOD_TICKS = 10
"""Good ticks in a row that end the quarantine after an impossible price."""


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

    def frame(self, symbol: int) -> pd.DataFrame:
        """Return one symbol's TICKS."""
        rows = self.symbol == symbol
        names = ("time", "bid", "ask", "volume", "flags")
        return pd.DataFrame({name: getattr(self, name)[rows] for name in names}, copy=False)


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


@dataclass
class _SymbolState:
    time: int = 0
    seen: frozenset[tuple[float, ...]] = frozenset()
    crossed_in_a_row: int = 0
    quarantine_left: int = 0


class TickGate:
    """Believes or rejects ticks at the edge, before bars, features or fills see them.

    Not finite, zero or negative, crossed, out of order (also: inside a bar that has closed), or the same as one before
    in every column. The rules and names are those of :mod:`fx_dagster.market.validation` for stored ticks. An
    impossible price puts its symbol into quarantine until enough good ticks came; several crossed ones make it stale.
    """

    def __init__(self, symbols: tuple[str, ...]) -> None:
        self.symbols = symbols
        self.accepted = 0
        self.rejected: Counter[str] = Counter()
        self._states = [_SymbolState() for _ in symbols]

    def check(self, batch: TickBatch, *, closed_until: int) -> TickBatch:
        """Return the good ticks, in order of time over all symbols.

        Args:
            batch: as it came.
            closed_until: market time (ns UTC) up to which bars are closed; ticks before it come too late.
        """
        if not len(batch):
            return batch
        good = np.zeros(len(batch), dtype=np.bool_)
        for symbol in np.unique(batch.symbol):
            rows = np.flatnonzero(batch.symbol == symbol)
            good[rows[self._good_rows(batch.take(rows), self._states[symbol], closed_until)]] = True
        kept = np.flatnonzero(good)
        self.accepted += len(kept)
        return batch.take(kept[np.argsort(batch.time[kept], kind="stable")])

    def last_time(self, symbol: int) -> int:
        """Return the time (ns UTC) of the symbol's last good tick; 0: none yet."""
        return self._states[symbol].time

    def believable(self, symbol: int) -> bool:
        """Whether the symbol's quote counts: neither in quarantine nor crossed for long."""
        state = self._states[symbol]
        return state.quarantine_left == 0 and state.crossed_in_a_row < CROSSED_STALE

    def quarantined(self) -> tuple[str, ...]:
        """Return the symbols whose quotes do not count now."""
        return tuple(name for place, name in enumerate(self.symbols) if not self.believable(place))

    def _good_rows(self, ticks: TickBatch, state: _SymbolState, closed_until: int) -> NDArray[np.intp]:
        finite = np.isfinite(ticks.bid) & np.isfinite(ticks.ask) & np.isfinite(ticks.volume)
        positive = (ticks.bid > 0) & (ticks.ask > 0) & (ticks.volume >= 0)
        crossed = finite & positive & (ticks.ask < ticks.bid)
        sane = np.flatnonzero(finite & positive & ~crossed)
        before = np.maximum.accumulate(np.concatenate([[max(state.time, closed_until)], ticks.time[sane]]))[:-1]
        ordered = sane[ticks.time[sane] >= before]
        kept = self._without_duplicates(ticks, ordered, state)
        self._count(Reason.NOT_FINITE, int((~finite).sum()))
        self._count(Reason.NON_POSITIVE, int((finite & ~positive).sum()))
        self._count(Reason.CROSSED, int(crossed.sum()))
        self._count(Reason.ORDER, len(sane) - len(ordered))
        self._count(Reason.DUPLICATE, len(ordered) - len(kept))
        _note_quality(state, kept, impossible=np.flatnonzero(~positive | ~finite), crossed=np.flatnonzero(crossed))
        return kept

    def _count(self, reason: Reason, number: int) -> None:
        if number:
            self.rejected[str(reason)] += number

    @staticmethod
    def _without_duplicates(ticks: TickBatch, rows: NDArray[np.intp], state: _SymbolState) -> NDArray[np.intp]:
        """Return the rows that repeat no earlier tick of the same moment, and remember the last moment's."""
        if not len(rows):
            return rows
        kept = []
        for row in rows:
            content = (float(ticks.bid[row]), float(ticks.ask[row]), float(ticks.volume[row]), float(ticks.flags[row]))
            time = int(ticks.time[row])
            if time > state.time:
                state.time, state.seen = time, frozenset((content,))
            elif content in state.seen:
                continue
            else:
                state.seen |= {content}
            kept.append(row)
        return np.asarray(kept, dtype=np.intp)

    def state(self) -> dict[str, Any]:
        """Return what a restart needs, as plain values."""
        return {
            "accepted": self.accepted,
            "rejected": dict(self.rejected),
            "symbols": {
                name: [state.time, sorted(state.seen), state.crossed_in_a_row, state.quarantine_left]
                for name, state in zip(self.symbols, self._states, strict=True)
            },
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up :meth:`state`; a symbol that was not there then starts afresh."""
        self.accepted = state["accepted"]
        self.rejected = Counter(state["rejected"])
        for place, name in enumerate(self.symbols):
            if name in state["symbols"]:
                time, seen, crossed, quarantine = state["symbols"][name]
                self._states[place] = _SymbolState(time, frozenset(tuple(row) for row in seen), crossed, quarantine)


def _note_quality(
    state: _SymbolState, good: NDArray[np.intp], *, impossible: NDArray[np.intp], crossed: NDArray[np.intp]
) -> None:
    if len(impossible):
        after = int((good > impossible[-1]).sum())
        state.quarantine_left = max(0, QUARANTINE_GOOD_TICKS - after)
    else:
        state.quarantine_left = max(0, state.quarantine_left - len(good))
    if len(crossed):
        since = good[-1] if len(good) else -1
        run = int((crossed > since).sum())
        state.crossed_in_a_row = run if len(good) else state.crossed_in_a_row + run
    elif len(good):
        state.crossed_in_a_row = 0
