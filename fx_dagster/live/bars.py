"""Bars of the live session: built from ticks as they come, closed by the market's clock, kept as bounded histories.

The ticks of the forming base bar are kept and handed to the same function that builds the lake's bars, and longer bars
are made from base bars by the same function too; a live bar therefore equals the stored one bit for bit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.live.protocols import TickFeed
from fx_dagster.live.ticks import TickBatch, joined
from fx_dagster.market.bars import resample_bars, ticks_to_bars
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.schemas import BAR_TYPES
from fx_dagster.market.timeframes import Timeframe, bar_close, bar_open


class BarSeries:
    """The newest ``length_max`` bars of one symbol and timeframe, as columns that grow at the end."""

    def __init__(self, length_max: int) -> None:
        self._length_max = length_max
        self._columns = {name: np.empty(2 * length_max, dtype=kind) for name, kind in BAR_TYPES.items()}
        self._end = 0
        self._frame: pd.DataFrame | None = None

    def __len__(self) -> int:
        return min(self._end, self._length_max)

    @property
    def last_open(self) -> int:
        """Opening time (ns UTC) of the newest bar; 0: there is none."""
        return int(self._columns["time"][self._end - 1]) if self._end else 0

    def append(self, bars: pd.DataFrame) -> None:
        """Add bars that follow the newest one."""
        self._frame = None
        bars = bars.tail(self._length_max)
        if self._end + len(bars) > 2 * self._length_max:
            self._move_to_front()
        for name, column in self._columns.items():
            column[self._end : self._end + len(bars)] = bars[name].to_numpy()
        self._end += len(bars)

    def _move_to_front(self) -> None:
        keep = len(self)
        for column in self._columns.values():
            column[:keep] = column[self._end - keep : self._end]
        self._end = keep

    def frame(self) -> pd.DataFrame:
        """Return the bars; the columns are views, valid until the next :meth:`append`."""
        if self._frame is None:
            part = slice(self._end - len(self), self._end)
            self._frame = pd.DataFrame({name: column[part] for name, column in self._columns.items()}, copy=False)
        return self._frame


@dataclass
class _SymbolBars:
    instrument: Instrument
    series: dict[Timeframe, BarSeries]
    unfinished: dict[Timeframe, list[pd.DataFrame]] = field(default_factory=dict)
    """Base bars of the longer bar that is still open, by timeframe."""


class BarBook:
    """Histories of all symbols and timeframes, and the base bar that is forming.

    Args:
        instruments: one a symbol, in the feed's order.
        timeframes: base first, then the longer ones that are wanted.
        history_bars: bars kept of each.
    """

    def __init__(self, instruments: Sequence[Instrument], timeframes: Sequence[Timeframe], history_bars: int) -> None:
        self.base = timeframes[0]
        self.longer = tuple(timeframes[1:])
        self._symbols = [
            _SymbolBars(item, {timeframe: BarSeries(history_bars) for timeframe in timeframes}) for item in instruments
        ]
        self._history_bars = history_bars
        self._forming: list[TickBatch] = []
        self._forming_open: int | None = None

    def load(self, feed: TickFeed, until: int) -> None:
        """Take the histories up to ``until`` (ns UTC, the end of a base bar) from the feed."""
        for symbol in self._symbols:
            name = symbol.instrument.symbol
            for timeframe, series in symbol.series.items():
                series.append(feed.history(name, timeframe, until, self._history_bars))
            for timeframe in self.longer:
                symbol.unfinished[timeframe] = self._unfinished(feed, symbol, timeframe, until)

    def _unfinished(self, feed: TickFeed, symbol: _SymbolBars, timeframe: Timeframe, until: int) -> list[pd.DataFrame]:
        """Return the base bars since the newest closed bar of a longer timeframe."""
        opening = int(bar_open(np.array([until]), timeframe)[0])
        bars = -(-(until - opening) // self.base.nominal_ns)
        if bars <= 0:
            return []
        frame = feed.history(symbol.instrument.symbol, self.base, until, bars)
        frame = frame[frame["time"] >= opening]
        return [frame] if len(frame) else []

    @property
    def forming_close(self) -> int | None:
        """End (ns UTC) of the base bar that is forming; None: no tick has come since the last one closed."""
        if self._forming_open is None:
            return None
        return self.end_of_bar(self._forming_open)

    def opening_of(self, time: int) -> int:
        """Return the opening (ns UTC) of the base bar that a time falls in."""
        return int(bar_open(np.array([time]), self.base)[0])

    def end_of_bar(self, time: int) -> int:
        """Return the end (ns UTC) of the base bar that a time falls in."""
        return int(bar_close(np.array([self.opening_of(time)]), self.base)[0])

    def add(self, ticks: TickBatch) -> None:
        """Add good ticks of one base bar: the forming one, or the one that now begins."""
        if self._forming_open is None:
            self._forming_open = self.opening_of(int(ticks.time[0]))
        self._forming.append(ticks)

    def close(self) -> NDArray[np.intp]:
        """Close the forming bar of all symbols together and return the symbols that have one."""
        until = self.forming_close
        if until is None:
            return np.zeros(0, dtype=np.intp)
        ticks = joined(self._forming)
        closed = np.unique(ticks.symbol).astype(np.intp)
        for place in closed:
            symbol = self._symbols[place]
            bar = ticks_to_bars(ticks.frame(int(place)), self.base, symbol.instrument.point, complete_until=until)
            symbol.series[self.base].append(bar)
            for timeframe in self.longer:
                self._lengthen(symbol, timeframe, bar, until)
        self._forming, self._forming_open = [], None
        return closed

    def _lengthen(self, symbol: _SymbolBars, timeframe: Timeframe, bar: pd.DataFrame, until: int) -> None:
        """Add a base bar to the open longer bar, and close that if its end has come."""
        parts = symbol.unfinished.setdefault(timeframe, [])
        parts.append(bar)
        first = parts[0]["time"].to_numpy()[:1]
        if int(bar_close(bar_open(first, timeframe), timeframe)[0]) > until:
            return
        bars = pd.concat(parts, ignore_index=True)
        longer = resample_bars(bars, self.base, timeframe, complete_until=until)
        symbol.series[timeframe].append(longer)
        last_end = int(bar_close(longer["time"].to_numpy()[-1:], timeframe)[0])
        rest = bars[bars["time"] >= last_end]
        symbol.unfinished[timeframe] = [rest] if len(rest) else []

    def frames(self, symbol: int) -> Mapping[Timeframe, pd.DataFrame]:
        """Return a symbol's closed bars by timeframe; valid until the next bar closes."""
        return {timeframe: series.frame() for timeframe, series in self._symbols[symbol].series.items()}

    def base_frame(self, symbol: int) -> pd.DataFrame:
        """Return a symbol's closed base bars; valid until the next bar closes."""
        return self._symbols[symbol].series[self.base].frame()

    def last_open(self, symbol: int) -> int:
        """Return the opening (ns UTC) of the symbol's newest closed base bar; 0: none."""
        return self._symbols[symbol].series[self.base].last_open

    def last_close(self, symbol: int) -> float:
        """Return the close of the symbol's newest base bar; NaN: none."""
        frame = self.base_frame(symbol)
        return float(frame["close"].iloc[-1]) if len(frame) else float("nan")
