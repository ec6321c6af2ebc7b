"""The live session's feed: a terminal's ticks as batches, and the history before them.

Over a replayed terminal the market's clock is ours: it stands still while the engine cannot keep up, so that a replay,
however fast, loses no tick.
"""

import time
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, TickGate, empty_batch
from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.schemas import empty_bars
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, Timeframe, bar_open
from resources.mt5.clock import ReplayClock
from resources.mt5.feed import TerminalFeed, TickArrays
from resources.mt5.simulated import SimulatedTerminal

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


class ReplayFeed:
    """Implements :class:`fx_dagster.live.protocols.TickFeed` over the simulated terminal.

    Args:
        source: what the market did.
        tape: which part of it.
        speed: market seconds a second.
    """

    def __init__(self, source: MarketSource, tape: Tape, *, speed: float) -> None:
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
        spacing_s = REAL_TICK_SPACING_S if self._source.has_ticks else self._base.nominal_ns / 1e9
        return FeedInfo(self._symbols, self._base, spacing_s, lossless=True)

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
        until = now if now < self._tape.end else self._tape.end + 1
        batch = self._merged(arrays, until, received_ns)
        early = batch.time < until
        self._early = [batch.take(~early)] if not early.all() else []
        self._delivered = now
        return batch.take(early) if not early.all() else batch

    def _merged(self, arrays: dict[str, TickArrays], clock: int, received_ns: int) -> TickBatch:
        parts = [(np.full(len(ticks.time), self._symbols.index(symbol), dtype=np.int32), ticks)
                 for symbol, ticks in arrays.items()]  # fmt: skip
        columns = [
            np.concatenate([getattr(part, name) for part in self._early] + [places for places, _ in parts])
            if name == "symbol"
            else np.concatenate([getattr(part, name) for part in self._early] + [getattr(t, name) for _, t in parts])
            for name in ("symbol", "time", "bid", "ask", "volume", "flags")
        ] if self._early or parts else None  # fmt: skip
        if columns is None:
            return empty_batch(clock, received_ns)
        symbol, moment, bid, ask, volume, flags = columns
        order = np.argsort(moment, kind="stable")
        return TickBatch(symbol, moment, bid, ask, volume, flags, clock, received_ns).take(order)

    def _started(self) -> tuple[ReplayClock, TerminalFeed]:
        if self._clock is None or self._feed is None:
            raise SourceError("the feed was not started", mend="call start() first")
        return self._clock, self._feed

    @property
    def finished(self) -> bool:
        """Whether the tape is over and everything was handed over."""
        return self._clock is not None and self._clock.finished and self._delivered >= self._tape.end

    def market_open(self, symbol: str, time: int) -> bool:
        """Whether ``symbol`` surely trades at ``time`` (ns UTC)."""
        return bool(self._instruments[symbol].session.is_open(np.array([time], dtype=np.int64))[0])

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
        arrays: dict[str, TickArrays] = {}
        for symbol in self._symbols:
            frame = self._source.ticks(symbol, start, until)
            if len(frame):
                arrays[symbol] = TickArrays(
                    _milliseconds(frame["time"].to_numpy(np.int64)),
                    *(frame[name].to_numpy() for name in ("bid", "ask", "volume", "flags")),
                )
        early, self._early = self._early, []
        batch = self._merged(arrays, until, time.monotonic_ns())
        self._early = early
        return batch

    def _built(self, symbol: str, start: int, until: int) -> pd.DataFrame:
        frame = self._source.ticks(symbol, start, until)
        if frame.empty:
            return empty_bars()
        names = ("bid", "ask", "volume", "flags")
        raw = TickBatch(
            np.zeros(len(frame), dtype=np.int32),
            _milliseconds(frame["time"].to_numpy(np.int64)),
            *(frame[name].to_numpy() for name in names),
            until,
            0,
        )
        good = TickGate((symbol,)).check(raw.take(np.argsort(raw.time, kind="stable")), closed_until=0)
        return ticks_to_bars(good.frame(0), self._base, self._instruments[symbol].point, complete_until=until)


def _milliseconds(time: np.ndarray) -> np.ndarray:
    """Return times cut to a terminal's resolution."""
    return time - time % 1_000_000
