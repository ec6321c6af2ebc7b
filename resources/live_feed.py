"""The live session's feed: a terminal's ticks as batches, and the history before them.

Over a replayed terminal the market's clock is ours: it stands still while the engine cannot keep up, so that a replay,
however fast, loses no tick.
"""

import asyncio
import time
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, empty_batch, joined
from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.incremental import good_ticks, new_gates
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, Timeframe, bar_open
from resources.mt5.clock import ReplayClock
from resources.mt5.feed import MILLISECOND_NS, TerminalFeed, TickArrays
from resources.mt5.simulated import SimulatedTerminal

SPIKE_Z = 25.0
"""Usual value of FX_VALIDATION_SPIKE_ROBUST_Z."""
REAL_TICK_SPACING_S = 60.0
"""Longest usual pause between two real ticks of a liquid symbol."""


@dataclass(frozen=True)
class Tape:
    """A stretch of a source to replay, ns UTC, on the grid of its base timeframe."""

    start: int
    end: int


def tape_of(source: MarketSource, days: float) -> Tape:
    """Return the last ``days`` of a source.

    Raises:
        SourceError: it has no ticks at all.
    """
    spans = [source.span(symbol) for symbol in source.symbols()]
    if not spans:
        raise SourceError(f"source {source.name} has no usable symbol", mend="see FX_SOURCE_SYMBOLS and the files")
    first, end = min(span[0] for span in spans), max(span[1] for span in spans)
    start = int(bar_open(np.array([max(first, end - int(days * DAY_NS))]), source.base_timeframe())[0])
    return Tape(start, end)


def tick_spacing_s(source: MarketSource) -> float:
    """Return the longest usual pause between two ticks of a symbol in an open market."""
    return REAL_TICK_SPACING_S if source.has_ticks else source.base_timeframe().nominal_ns / 1e9


class ReplayFeed:
    """Implements :class:`fx_dagster.live.protocols.TickFeed` over the simulated terminal.

    Args:
        source: what the market did.
        tape: which part of it.
        speed: market seconds a second.
        spike_z: as of the session's gate, so that history passes the same one.
    """

    def __init__(self, source: MarketSource, tape: Tape, *, speed: float, spike_z: float = SPIKE_Z) -> None:
        self._spike_z = spike_z
        self._source = source
        self._tape = tape
        self._speed = speed
        self._base = source.base_timeframe()
        self._symbols = source.symbols()
        self._instruments: dict[str, Instrument] = {symbol: instrument(symbol) for symbol in self._symbols}
        self._clock: ReplayClock | None = None
        self._feed: TerminalFeed | None = None
        self._early: list[TickBatch] = []
        self._delivered = 0

    @property
    def info(self) -> FeedInfo:
        """What it carries."""
        return FeedInfo(self._symbols, self._base, tick_spacing_s(self._source), lossless=True)

    def start(self, position: int, clock: int) -> None:
        """Go on with the ticks from ``position``; the market's clock stands at ``clock``."""
        self._clock = ReplayClock(min(max(clock, position), self._tape.end), self._tape.end, self._speed)
        terminal = SimulatedTerminal(self._source, clock=self._clock)
        terminal.initialize()
        self._feed = TerminalFeed(terminal, self._symbols, since_ns=position)
        self._early = []
        self._delivered = position

    def poll(self, room: int) -> TickBatch:
        """Return what came since the last call.

        Without room the market's clock stands still. Ticks of the moment at which the clock was read, and later ones,
        are kept for the next call: every tick before the batch's clock is then in it or in an earlier one.
        """
        clock, feed = self._started()
        received_ns = time.monotonic_ns()
        if room <= 0:
            clock.pause()
            return empty_batch(self._delivered, received_ns)
        clock.resume()
        now = clock.now_ns()
        arrays = feed.poll()
        # At the end of the tape nothing can follow, so that nothing is kept back.
        until = now if now < self._tape.end else self._tape.end + 1
        batch = self._merged(arrays, now, received_ns)
        early = batch.time < until
        self._early = [batch.take(~early)] if not early.all() else []
        self._delivered = now
        return batch.take(early) if not early.all() else batch

    async def news(self, within_s: float) -> None:
        """Return after ``within_s``: a terminal is asked, it does not tell."""
        await asyncio.sleep(within_s)

    def _merged(self, arrays: dict[str, TickArrays], clock: int, received_ns: int) -> TickBatch:
        parts = [batch_of(self._symbols.index(symbol), ticks, clock, received_ns) for symbol, ticks in arrays.items()]
        if not parts and not self._early:
            return empty_batch(clock, received_ns)
        whole = replace(joined([*self._early, *parts]), clock=clock, received_ns=received_ns)
        return whole.take(np.argsort(whole.time, kind="stable"))

    def _started(self) -> tuple[ReplayClock, TerminalFeed]:
        if self._clock is None or self._feed is None:
            raise SourceError("the feed was not started", mend="call start() first")
        return self._clock, self._feed

    @property
    def finished(self) -> bool:
        """Whether the tape is over and everything was handed over."""
        return self._clock is not None and self._clock.finished and self._delivered >= self._tape.end

    @property
    def problem(self) -> str:
        """Nothing: it always can."""
        return ""

    @property
    def remark(self) -> str:
        """Nothing that a person should know."""
        return ""

    def history(self, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
        """Return the last ``bars`` closed BARS.

        Base bars are built from ticks that pass the live gate, exactly as the session builds its own; a terminal's own
        bars know the spread in whole points only. Longer ones are the terminal's: nothing looks at their spread.
        """
        if timeframe is not self._base:
            clock = ReplayClock(until, until, 1.0)
            terminal = SimulatedTerminal(self._source, clock=clock)
            terminal.initialize()
            return TerminalFeed(terminal, [symbol], since_ns=until).history(symbol, timeframe, bars, until_ns=until)
        first = self._source.span(symbol)[0]
        reach = 2 * bars * timeframe.nominal_ns
        while True:
            start = int(bar_open(np.array([max(first, until - reach)]), timeframe)[0])
            frame = self._built(symbol, start, until)
            if len(frame) >= bars or start <= first:
                return frame.tail(bars).reset_index(drop=True)
            reach *= 2

    def ticks(self, start: int, until: int) -> TickBatch:
        """Return the raw ticks of all symbols in ``[start, until)``, in order of time."""
        parts = [self._raw(symbol, start, until) for symbol in self._symbols]
        whole = replace(joined(parts), clock=until)
        return whole.take(np.argsort(whole.time, kind="stable"))

    def _raw(self, symbol: str, start: int, until: int) -> TickBatch:
        frame = self._source.ticks(symbol, start, until)
        time = frame["time"].to_numpy(np.int64)
        arrays = TickArrays(
            # Cut to a terminal's resolution, so that these are the ticks that a poll hands over.
            time - time % MILLISECOND_NS,
            frame["bid"].to_numpy(np.float64),
            frame["ask"].to_numpy(np.float64),
            frame["volume"].to_numpy(np.float64),
            frame["flags"].to_numpy(np.int32),
        )
        return batch_of(self._symbols.index(symbol), arrays, until, 0)

    def _built(self, symbol: str, start: int, until: int) -> pd.DataFrame:
        raw = self._raw(symbol, start, until)
        raw = raw.take(np.argsort(raw.time, kind="stable"))
        point = self._instruments[symbol].point
        good = np.zeros(len(raw), dtype=np.bool_)
        gate = new_gates([point], self._spike_z)[0]
        good_ticks(gate, raw.time, raw.bid, raw.ask, raw.volume, raw.flags, good)
        return ticks_to_bars(raw.take(good).frame(), self._base, point, complete_until=until)


def batch_of(place: int, ticks: TickArrays, clock: int, received_ns: int) -> TickBatch:
    """Return one symbol's ticks as a batch; ``place`` is the symbol's in the feed."""
    symbol = np.full(len(ticks.time), place, dtype=np.int32)
    return TickBatch(symbol, ticks.time, ticks.bid, ticks.ask, ticks.volume, ticks.flags, clock, received_ns)
