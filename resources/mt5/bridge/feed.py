"""Ticks of a terminal behind a bridge, as a live session's feed.

A thread of its own asks the bridge again and again, so that neither a slow terminal nor a lost connection ever holds up
a decision. While the session takes nothing it asks for nothing: the terminal keeps the ticks.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import numpy as np
import pandas as pd

from fx_dagster.errors import BrokerError, SourceError
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, empty_batch, joined
from fx_dagster.market.timeframes import SECOND_NS, Timeframe
from resources.live_feed import batch_of
from resources.mt5.clock import Clock, QuotedClock
from resources.mt5.feed import Terminal, TerminalFeed

WAITING_MAX: Final = 65_536
"""Ticks that wait for the session before the terminal is asked for more."""
PAUSE_S: Final = 0.5
"""Before a terminal that did not answer is asked again."""
SETTLE_NS: Final = 200_000_000
"""How long after its time a tick of a real terminal may still come; the session's clock is behind by that."""
SKEW_NS: Final = 2 * SECOND_NS
"""Of this machine's clock beside the broker's, of which a person is told."""


class BridgeFeed:
    """Implements :class:`fx_dagster.live.protocols.TickFeed` over a terminal that answers slowly, or not at all.

    Args:
        terminal: a bridge's client.
        info: what it carries.
        clock: the market's; a :class:`QuotedClock` is told each newest quote.
        poll_s: pause between two questions.
        until_ns: market time (ns UTC) at which the session ends.
        aliases: the broker's names that no rule knows, to canonical symbols.

    Raises:
        BrokerError: the terminal does not answer.
        UnknownSymbolError: the broker does not have a symbol.
    """

    def __init__(
        self, terminal: Terminal, info: FeedInfo, *, clock: Clock, poll_s: float, until_ns: int,
        aliases: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.info = info
        self._terminal, self._symbols = terminal, info.symbols
        self._clock, self._poll_s, self._until_ns = clock, poll_s, until_ns
        self._aliases = dict(aliases or {})
        self._reader = self._reader_from(clock.now_ns())
        self._lock = threading.Lock()
        self._batches: list[TickBatch] = []
        self._trouble = ""
        self._delivered_ns = 0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    @property
    def finished(self) -> bool:
        """Whether the market's clock has reached the session's end."""
        return self._delivered_ns >= self._until_ns

    @property
    def problem(self) -> str:
        """Why no ticks come; empty: they can."""
        return self._trouble

    @property
    def remark(self) -> str:
        """What a person should know of this machine's clock; empty: nothing."""
        skew_ns = self._clock.skew_ns if isinstance(self._clock, QuotedClock) else 0
        if abs(skew_ns) <= SKEW_NS:
            return ""
        return f"this machine's clock is {-skew_ns / SECOND_NS:+.1f} s beside the broker's: set it right"

    def history(self, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
        """Return the last ``bars`` closed BARS as the terminal keeps them, with spreads in whole points."""
        return self._reader.history(symbol, timeframe, bars, until_ns=until)

    def ticks(self, start: int, until: int) -> TickBatch:
        """Return the raw ticks of all symbols in ``[start, until)``, in order of time."""
        batch = self._batch(self._reader_from(start), until, 0)
        return batch.take(batch.time < until)

    def start(self, position: int, clock: int) -> None:
        """Go on with the ticks from ``position``.

        Raises:
            SourceError: it was started before.
        """
        if self._thread is not None:
            raise SourceError("the feed was started twice", mend="make a feed for each session")
        self._reader.seek(position)
        self._delivered_ns = max(position, clock)
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._read_forever, name="bridge feed", daemon=True)
        self._thread.start()

    def poll(self, room: int) -> TickBatch:  # noqa: ARG002 - a market does not wait for whoever looks on
        """Return what came since the last call; :attr:`problem` says why nothing does."""
        with self._lock:
            batches, self._batches = self._batches, []
        if not batches:
            return empty_batch(self._delivered_ns, time.monotonic_ns())
        batch = joined(batches)
        self._delivered_ns = max(self._delivered_ns, batch.clock)
        return replace(batch, clock=self._delivered_ns)

    async def news(self, within_s: float) -> None:
        """Return when there is something to poll, or after ``within_s``."""
        try:
            async with asyncio.timeout(within_s):
                await self._told.wait()
        except TimeoutError:
            return
        self._told.clear()

    def close(self) -> None:
        """Ask no more; the connection is its maker's."""
        self._closing.set()

    def _reader_from(self, since_ns: int) -> TerminalFeed:
        return TerminalFeed(self._terminal, self._symbols, since_ns=since_ns, clock=self._clock, aliases=self._aliases)

    def _read_forever(self) -> None:
        while not self._closing.is_set():
            pause_s = self._poll_s
            if sum(len(batch) for batch in self._batches) < WAITING_MAX:
                try:
                    self._read()
                    self._trouble = ""
                except BrokerError as error:
                    self._trouble, pause_s = str(error), PAUSE_S
                self._tell()
            self._closing.wait(pause_s)

    def _read(self) -> None:
        began_ns, now = time.monotonic_ns(), self._clock.now_ns()
        batch = self._batch(self._reader, now, began_ns)
        if isinstance(self._clock, QuotedClock):
            now -= SETTLE_NS
            if len(batch):
                self._clock.hear(int(batch.time[-1]))
        if now >= self._until_ns:
            batch, now = batch.take(batch.time < self._until_ns), self._until_ns
        with self._lock:
            self._batches.append(replace(batch, clock=now))

    def _batch(self, reader: TerminalFeed, clock: int, received_ns: int) -> TickBatch:
        arrays = reader.poll()
        parts = [batch_of(self._symbols.index(symbol), ticks, clock, received_ns) for symbol, ticks in arrays.items()]
        if not parts:
            return empty_batch(clock, received_ns)
        whole = joined(parts)
        return whole.take(np.argsort(whole.time, kind="stable"))

    def _tell(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._told.set)
