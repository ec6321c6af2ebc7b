"""What a terminal remembers of one symbol: every tick and bar of a market source, up to the present of its clock."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.bars import resample_bars, ticks_to_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import empty_bars, empty_ticks
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, Timeframe, bar_close, bar_open, to_server
from resources.mt5.structures import RATE_DTYPE, TICK_DTYPE

WINDOW_BEFORE_NS = 5 * DAY_NS
"""Longer than a weekend with a holiday, so that the last quote before any moment is in its window."""
WINDOW_AFTER_NS = 7 * DAY_NS
BUILD_NS = 30 * DAY_NS
MILLISECOND_NS = 1_000_000
_NEAR = 64
"""Ticks in which the last possible one almost always is."""

Ticks = NDArray[np.void]
Rates = NDArray[np.void]


class Tape:
    """One symbol of a source as a terminal shows it: structured rows, server clock, nothing from the future.

    Ticks are in the order of time, as a terminal keeps them; impossible ones (crossed, zero) are shown, since brokers
    do send them, but are in no bar.

    Args:
        source: where the market comes from.
        symbol: canonical symbol.
    """

    def __init__(self, source: MarketSource, symbol: str) -> None:
        self.instrument = instrument(symbol)
        self.span = source.span(symbol)
        self._source = source
        self._base = source.base_timeframe()
        self._base_bars: pd.DataFrame | None = None
        self._closed: dict[Timeframe, tuple[Rates, NDArray[np.int64]]] = {}
        self._window: tuple[int, int] = (0, 0)
        self._time = np.empty(0, dtype=np.int64)
        self._ticks: Ticks = np.empty(0, dtype=TICK_DTYPE)

    def has(self, timeframe: Timeframe) -> bool:
        """Whether bars of that timeframe can be shown: not finer than the source's base."""
        return timeframe in self._base.coarser()

    def ticks(self, start: int, end: int) -> Ticks:
        """Return the ticks with ``start <= time < end`` (ns UTC) as rows of ``TICK_DTYPE``."""
        start, end = max(start, self.span[0]), min(end, self.span[1])
        if start >= end:
            return np.empty(0, dtype=TICK_DTYPE)
        if end - start > WINDOW_BEFORE_NS + WINDOW_AFTER_NS:
            return _tick_rows(self._sorted(start, end))
        self._show(start, end)
        first, last = np.searchsorted(self._time, (start, end))
        return self._ticks[first:last]

    def last_tick(self, now: int) -> Ticks:
        """Return the newest tick at or before ``now`` (ns UTC) as one row, or none."""
        end = min(now + 1, self.span[1])
        reach = WINDOW_BEFORE_NS
        while end > self.span[0]:
            rows = self.ticks(end - reach, end)
            if len(rows):
                return rows[-1:]
            if end - reach <= self.span[0]:
                break
            reach *= 4
        return np.empty(0, dtype=TICK_DTYPE)

    def quotes(self, start: int, end: int) -> tuple[NDArray[np.int64], Ticks]:
        """Return times (ns UTC) and rows of the possible ticks (0 < bid ≤ ask) with ``start <= time < end``."""
        if end - start > WINDOW_BEFORE_NS + WINDOW_AFTER_NS:
            raise ValueError("quotes are read in stretches of at most twelve days")
        rows = self.ticks(start, end)
        time = self._times(start, end) if len(rows) else np.empty(0, dtype=np.int64)
        possible = (rows["bid"] > 0) & (rows["ask"] >= rows["bid"]) & np.isfinite(rows["ask"])
        return (time, rows) if possible.all() else (time[possible], rows[possible])

    def last_quote(self, now: int) -> tuple[float, float] | None:
        """Return bid and ask of the newest possible tick at or before ``now`` (ns UTC), within five days of it."""
        end = min(now + 1, self.span[1])
        for rows in (self.ticks(end - WINDOW_BEFORE_NS, end)[-_NEAR:], self.ticks(end - WINDOW_BEFORE_NS, end)):
            possible = np.flatnonzero((rows["bid"] > 0) & (rows["ask"] >= rows["bid"]) & np.isfinite(rows["ask"]))
            if len(possible):
                return float(rows["bid"][possible[-1]]), float(rows["ask"][possible[-1]])
        return None

    def _show(self, start: int, end: int) -> None:
        if self._window[0] <= start and end <= self._window[1]:
            return
        self._window = (start - WINDOW_BEFORE_NS, max(end, start + WINDOW_AFTER_NS))
        frame = self._sorted(*self._window)
        self._time = frame["time"].to_numpy(np.int64)
        self._ticks = _tick_rows(frame)

    def _sorted(self, start: int, end: int) -> pd.DataFrame:
        frame = self._source.ticks(self.instrument.symbol, start, end)
        if frame["time"].is_monotonic_increasing:
            return frame
        return frame.sort_values("time", kind="stable", ignore_index=True)

    def rates(self, timeframe: Timeframe, now: int) -> Rates:
        """Return all bars that have opened by ``now`` (ns UTC) as rows of ``RATE_DTYPE``; the last may be forming."""
        rows, closing = self._closed_rates(timeframe)
        closed = rows[: int(np.searchsorted(closing, now, side="right"))]
        forming = self._forming(timeframe, now)
        return closed if forming.empty else np.concatenate([closed, self._rate_rows(forming)])

    def _closed_rates(self, timeframe: Timeframe) -> tuple[Rates, NDArray[np.int64]]:
        if timeframe not in self._closed:
            bars = resample_bars(self._bars(), self._base, timeframe, complete_until=_far(self.span[1]))
            closing = bar_close(bars["time"].to_numpy(), timeframe)
            self._closed[timeframe] = self._rate_rows(bars), closing
        return self._closed[timeframe]

    def _forming(self, timeframe: Timeframe, now: int) -> pd.DataFrame:
        opening = int(bar_open(np.array([now]), timeframe)[0])
        base_opening = int(bar_open(np.array([now]), self._base)[0])
        bars = self._bars()
        time = bars["time"].to_numpy()
        first, last = np.searchsorted(time, (opening, base_opening))
        parts = [bars.iloc[first:last], self._build(base_opening, now + 1)]
        parts = [part for part in parts if len(part)]
        if not parts:
            return empty_bars()
        whole = pd.concat(parts, ignore_index=True)
        return resample_bars(whole, self._base, timeframe, complete_until=_far(now))

    def _bars(self) -> pd.DataFrame:
        """Return all base bars of the source; a source of ticks is read once, in stretches."""
        if self._base_bars is None:
            own = self._source.bars(self.instrument.symbol, *self.span)
            if own is not None:
                possible = (own[["open", "high", "low", "close"]] > 0).all(axis=1)
                self._base_bars = own[possible].reset_index(drop=True)
            else:
                self._base_bars = self._bars_from_ticks()
        return self._base_bars

    def _bars_from_ticks(self) -> pd.DataFrame:
        edges = [*range(self.span[0], self.span[1], BUILD_NS), self.span[1]]
        parts = [self._build(start, end) for start, end in pairwise(edges)]
        return pd.concat(parts, ignore_index=True)

    def _build(self, start: int, end: int) -> pd.DataFrame:
        ticks = (
            _frame(self.ticks(start, end), self._times(start, end))
            if end - start < DAY_NS
            else self._sorted(start, end)
        )
        possible = (ticks["bid"] > 0) & (ticks["ask"] >= ticks["bid"])
        return ticks_to_bars(ticks[possible], self._base, self.instrument.point, complete_until=_far(end))

    def _times(self, start: int, end: int) -> NDArray[np.int64]:
        first, last = np.searchsorted(self._time, (max(start, self.span[0]), min(end, self.span[1])))
        return self._time[first:last]

    def _rate_rows(self, bars: pd.DataFrame) -> Rates:
        rows = np.zeros(len(bars), dtype=RATE_DTYPE)
        rows["time"] = to_server(bars["time"].to_numpy()) // SECOND_NS
        for name in ("open", "high", "low", "close", "tick_volume"):
            rows[name] = bars[name].to_numpy()
        rows["spread"] = np.round(bars["spread"].to_numpy())
        return rows


def _far(time: int) -> int:
    """Return a time by which every bar around ``time`` is over, so that builders leave none out as unfinished."""
    return time + 40 * DAY_NS


def _tick_rows(frame: pd.DataFrame) -> Ticks:
    rows = np.zeros(len(frame), dtype=TICK_DTYPE)
    server_msc = to_server(frame["time"].to_numpy()) // MILLISECOND_NS
    rows["time"] = server_msc // 1000
    rows["time_msc"] = server_msc
    rows["bid"], rows["ask"] = frame["bid"].to_numpy(), frame["ask"].to_numpy()
    rows["volume_real"] = frame["volume"].to_numpy()
    rows["volume"] = np.maximum(frame["volume"].to_numpy(), 0.0)
    rows["flags"] = frame["flags"].to_numpy()
    return rows


def _frame(rows: Ticks, time: NDArray[np.int64]) -> pd.DataFrame:
    if not len(rows):
        return empty_ticks()
    columns = {"bid": rows["bid"], "ask": rows["ask"], "volume": rows["volume_real"]}
    return pd.DataFrame({"time": time, **columns, "flags": rows["flags"].astype(np.int32)})
