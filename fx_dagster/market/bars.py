"""Ticks to bars, and bars to longer bars.

Ticks are read once, into the base timeframe; everything longer is built from base bars. A group's edges are found by
searching the bar grid in the sorted times, so that no arithmetic is done per tick beyond the reductions themselves.
"""

from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.market.schemas import BAR_TYPES, TickFlag, empty_bars
from fx_dagster.market.timeframes import HOUR_NS, Int64, Timeframe, bar_close, bar_open

Float64 = NDArray[np.float64]

SPREAD_DECIMALS = 3
"""A mean spread is kept to a thousandth of a point: below that there is only rounding noise."""


def ticks_to_bars(
    ticks: pd.DataFrame, timeframe: Timeframe, point: float, *, complete_until: int | None = None
) -> pd.DataFrame:
    """Return the closed bars of a tick table.

    Args:
        ticks: sorted TICKS; the bid makes the prices.
        timeframe: length of the bars.
        point: price of a point, in which the spread is counted.
        complete_until: moment (ns UTC) up to which all ticks are known. A last bar that ends after it is unfinished
            and left out. By default the last tick's time: a last bar is then known to be closed only by a later tick.

    Returns:
        BARS; bars without ticks are not invented.

    Raises:
        DataError: the ticks are not in ascending order of time.
    """
    if ticks.empty:
        return empty_bars()
    time = ticks["time"].to_numpy()
    _demand_ascending(time, "tick")
    starts, openings = _groups(time, timeframe)
    closed = _closed_count(openings, timeframe, int(time[-1]) if complete_until is None else complete_until)
    if closed == 0:
        return empty_bars()
    stop = int(starts[closed]) if closed < len(starts) else len(time)
    starts, openings = starts[:closed], openings[:closed]
    bid, ask = ticks["bid"].to_numpy()[:stop], ticks["ask"].to_numpy()[:stop]
    counts = np.diff(starts, append=stop)
    return _bar_frame(
        openings,
        bid[starts],
        np.maximum.reduceat(bid, starts),
        np.minimum.reduceat(bid, starts),
        bid[starts + counts - 1],
        _tick_volume(ticks, starts, counts, stop),
        _mean_spread(bid, ask, starts, counts, point),
    )


def resample_bars(
    bars: pd.DataFrame, source_timeframe: Timeframe, timeframe: Timeframe, *, complete_until: int | None = None
) -> pd.DataFrame:
    """Return the closed bars of a longer timeframe.

    Args:
        bars: sorted BARS of ``source_timeframe``.
        source_timeframe: length of ``bars``.
        timeframe: length wanted; a multiple of the source's.
        complete_until: moment (ns UTC) up to which all bars are known; by default the end of the last one. The last
            bar of a week ends on Friday, before its nominal end: say how far the data reach, or it is left out.

    Raises:
        DataError: the timeframe wanted is shorter than the source's, or the bars are not in ascending order.
    """
    if timeframe not in source_timeframe.coarser():
        raise DataError(
            f"bars of {source_timeframe} hold no {timeframe}", mend="ask for the same or a longer timeframe"
        )
    if bars.empty:
        return empty_bars()
    time = bars["time"].to_numpy()
    _demand_ascending(time, "bar")
    until = int(bar_close(time[-1:], source_timeframe)[0]) if complete_until is None else complete_until
    starts, openings = _groups(time, timeframe)
    closed = _closed_count(openings, timeframe, until)
    if closed == 0:
        return empty_bars()
    stop = int(starts[closed]) if closed < len(starts) else len(time)
    starts, openings = starts[:closed], openings[:closed]
    column = {name: bars[name].to_numpy()[:stop] for name in BAR_TYPES}
    counts = np.diff(starts, append=stop)
    volume = np.add.reduceat(column["tick_volume"], starts)
    return _bar_frame(
        openings,
        column["open"][starts],
        np.maximum.reduceat(column["high"], starts),
        np.minimum.reduceat(column["low"], starts),
        column["close"][starts + counts - 1],
        volume,
        _weighted_spread(column["spread"], column["tick_volume"], volume, starts, counts),
    )


def build_timeframes(
    ticks: pd.DataFrame, base: Timeframe, point: float, *, complete_until: int | None = None
) -> dict[Timeframe, pd.DataFrame]:
    """Return the closed bars of ``base`` and every longer timeframe, from one pass over the ticks.

    Arguments and errors as of :func:`ticks_to_bars`.
    """
    until = int(ticks["time"].iloc[-1]) if complete_until is None and not ticks.empty else complete_until
    # The base bar that is still open belongs to no longer bar either, since each of those would end later still.
    bars = ticks_to_bars(ticks, base, point, complete_until=until)
    return {
        timeframe: bars if timeframe is base else resample_bars(bars, base, timeframe, complete_until=until)
        for timeframe in base.coarser()
    }


def _demand_ascending(time: Int64, what: str) -> None:
    if np.any(time[1:] < time[:-1]):
        row = int(np.argmax(time[1:] < time[:-1])) + 1
        raise DataError(f"{what} row {row} is earlier than the row before", mend="quarantine or sort the rows first")


def _groups(time: Int64, timeframe: Timeframe) -> tuple[Int64, Int64]:
    """Return where each bar's rows start in the sorted times, and each bar's opening time."""
    step = min(timeframe.nominal_ns, HOUR_NS)
    first, last = int(time[0]) // step, int(time[-1]) // step
    if last - first < len(time):
        edges = np.arange(first, last + 2, dtype=np.int64) * step
        bounds = np.searchsorted(time, edges)
        filled = bounds[1:] > bounds[:-1]
        starts, openings = bounds[:-1][filled], edges[:-1][filled]
    else:
        grid = time // step
        starts = np.concatenate([[0], np.flatnonzero(grid[1:] != grid[:-1]) + 1])
        openings = grid[starts] * step
    if timeframe.nominal_ns > HOUR_NS:
        longer = bar_open(openings, timeframe)
        heads = np.concatenate([[0], np.flatnonzero(longer[1:] != longer[:-1]) + 1])
        starts, openings = starts[heads], longer[heads]
    return starts, openings


def _closed_count(openings: Int64, timeframe: Timeframe, until: int) -> int:
    # Openings ascend and so do closings: only the tail can be unfinished.
    tail = openings[-64:]
    open_bars = int(np.count_nonzero(bar_close(tail, timeframe) > until))
    if open_bars == len(tail) < len(openings):
        return int(np.count_nonzero(bar_close(openings, timeframe) <= until))
    return len(openings) - open_bars


def _tick_volume(ticks: pd.DataFrame, starts: Int64, counts: Int64, stop: int) -> Float64:
    modelled = (ticks["flags"].to_numpy()[:stop] & np.int32(TickFlag.MODELLED)) != 0
    if not modelled.any():
        return counts.astype(np.float64)
    weights = np.where(modelled, ticks["volume"].to_numpy()[:stop], 1.0)
    return cast("Float64", np.add.reduceat(weights, starts))


def _mean_spread(bid: Float64, ask: Float64, starts: Int64, counts: Int64, point: float) -> Float64:
    mean = np.add.reduceat(ask - bid, starts) / counts
    return _rounded(mean / point)


def _weighted_spread(spread: Float64, weight: Float64, total: Float64, starts: Int64, counts: Int64) -> Float64:
    weighted = np.add.reduceat(spread * weight, starts) / np.where(total > 0, total, 1.0)
    plain = np.add.reduceat(spread, starts) / counts
    return _rounded(np.where(total > 0, weighted, plain))


def _rounded(spread: Float64) -> Float64:
    return np.asarray(np.round(spread, SPREAD_DECIMALS), dtype=np.float64)


def _bar_frame(*columns: NDArray) -> pd.DataFrame:
    named = zip(BAR_TYPES.items(), columns, strict=True)
    return pd.DataFrame({name: np.asarray(column, dtype=kind) for (name, kind), column in named}, copy=False)
