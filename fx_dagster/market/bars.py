"""Ticks to bars, and bars to longer bars.

Ticks are read once, into the base timeframe; everything longer is built from base bars. Both run on the functions that
a live session calls for each tick (:mod:`fx_dagster.market.incremental`), so that its bars are these.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.errors import DataError
from fx_dagster.market.calendar import bar_end_at
from fx_dagster.market.incremental import (
    BAR,
    FORMING,
    Record,
    Rows,
    add_tick,
    finish_base,
    finish_longer,
    fold_bar,
    known_until,
)
from fx_dagster.market.schemas import BAR_TYPES, TICK_TYPES, TickFlag, empty_bars
from fx_dagster.market.timeframes import Int64, Timeframe

Float64 = NDArray[np.float64]
_MODELLED = int(TickFlag.MODELLED)


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
    return _frame(_tick_bars(ticks, timeframe, point, complete_until))


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
    return _frame(_longer_bars(_packed(bars), source_timeframe, timeframe, complete_until))


def build_timeframes(
    ticks: pd.DataFrame, base: Timeframe, point: float, *, complete_until: int | None = None
) -> dict[Timeframe, pd.DataFrame]:
    """Return the closed bars of ``base`` and every longer timeframe, from one pass over the ticks.

    Arguments and errors as of :func:`ticks_to_bars`.
    """
    if complete_until is None and not ticks.empty:
        complete_until = int(ticks["time"].iloc[-1])
    # The base bar that is still open belongs to no longer bar either: none is closed before all its base bars are.
    bars = _tick_bars(ticks, base, point, complete_until)
    return {
        timeframe: _frame(bars if timeframe is base else _longer_bars(bars, base, timeframe, complete_until))
        for timeframe in base.coarser()
    }


def _tick_bars(ticks: pd.DataFrame, timeframe: Timeframe, point: float, until: int | None) -> Rows:
    if ticks.empty:
        return np.empty(0, dtype=BAR)
    columns = [_column(ticks[name], kind) for name, kind in TICK_TYPES.items()]
    time = columns[0]
    known = int(time[-1] if until is None else until)
    return _run("tick", _bars_of_ticks, time, timeframe, *columns, _code(timeframe), float(point), known)


def _longer_bars(bars: Rows, source: Timeframe, timeframe: Timeframe, until: int | None) -> Rows:
    if len(bars) == 0:
        return bars
    time = bars["time"]
    known = int(bar_end_at(int(time[-1]), _code(source)) if until is None else until)
    return _run("bar", _bars_of_bars, time, timeframe, bars, _code(timeframe), known_until(known, _code(source)))


def _run(what: str, kernel: Callable[..., int], time: Int64, timeframe: Timeframe, *arguments: Any) -> Rows:
    """Return what a kernel writes.

    Raises:
        DataError: the times are not in ascending order.
    """
    # No bar is shorter than half its nominal length, whatever the clock or the month does.
    span = max(0, int(time[-1]) - int(time[0]))
    out = np.empty(min(len(time), 2 * span // timeframe.nominal_ns + 2), dtype=BAR)
    written = kernel(*arguments, np.zeros(1, dtype=FORMING), out)
    if written < 0:
        raise DataError(
            f"{what} row {-written} is earlier than the row before", mend="quarantine or sort the rows first"
        )
    return out[:written]


@compiled
def _bars_of_ticks(
    time: Int64, bid: Float64, ask: Float64, volume: Float64, flags: NDArray[np.int32],
    code: int, point: float, until: int, forming: Record, out: Record,
) -> int:  # fmt: skip
    """Write the bars that end by ``until`` and return their number, or minus the first row that is out of order."""
    bar = forming[0]
    written = 0
    row = 0
    while row < len(time):
        first = row
        add_tick(bar, code, time[row], bid[row], ask[row], volume[row], flags[row])
        row = _last_of_bar(time, row, bar.end) + 1
        if row < len(time) and time[row] < time[row - 1]:
            return -row
        _add_ticks(bar, bid, ask, volume, flags, first + 1, row)
        if bar.end <= until:
            finish_base(bar, code, point, out[written])
            written += 1
        bar.count = 0
    return written


@compiled
def _last_of_bar(time: Int64, row: int, end: int) -> int:
    """Return the last row from ``row`` on that is before ``end``, and up to which no row is out of order."""
    while row + 1 < len(time) and time[row] <= time[row + 1] < end:
        row += 1
    return row


@compiled
def _add_ticks(
    bar: Record, bid: Float64, ask: Float64, volume: Float64, flags: NDArray[np.int32], first: int, last: int
) -> None:
    """Add ticks to a bar that has begun: :func:`fx_dagster.market.incremental.add_tick`, of many at once."""
    high, low, tick_volume, spread_sum = bar.high, bar.low, bar.tick_volume, bar.spread_sum
    for row in range(first, last):
        price = bid[row]
        # Both comparisons of each are made: which of two is true cannot be foreseen.
        high = price if (price > high) | (price != price) else high
        low = price if (price < low) | (price != price) else low
        tick_volume += volume[row] if flags[row] & _MODELLED else 1.0
        spread_sum += ask[row] - price
    bar.high, bar.low, bar.tick_volume, bar.spread_sum = high, low, tick_volume, spread_sum
    bar.close = bid[last - 1]
    bar.count += last - first


@compiled
def _bars_of_bars(bars: Record, code: int, until: int, forming: Record, out: Record) -> int:
    """As :func:`_bars_of_ticks`, from shorter bars."""
    bar = forming[0]
    written = 0
    before = bars[0].time
    for row in range(len(bars)):
        moment = bars[row].time
        if moment < before:
            return -row
        before = moment
        if moment >= bar.end and bar.count > 0:
            if bar.end > until or written == len(out):
                bar.count = 0
            else:
                finish_longer(bar, code, out[written])
                written += 1
        fold_bar(bar, code, bars[row])
    if bar.end <= until:
        finish_longer(bar, code, out[written])
        written += 1
    return written


def _code(timeframe: Timeframe) -> int:
    return tuple(Timeframe).index(timeframe)


def _column(column: pd.Series, kind: str) -> NDArray:
    """Return a column as the one type that the kernels are compiled for: contiguous, and not to be written to."""
    values = np.ascontiguousarray(column.to_numpy(), dtype=kind).view()
    values.flags.writeable = False
    return values


def _packed(bars: pd.DataFrame) -> Rows:
    rows = np.zeros(len(bars), dtype=BAR)
    for name in BAR_TYPES:
        rows[name] = bars[name].to_numpy()
    return rows


def _frame(bars: Rows) -> pd.DataFrame:
    if len(bars) == 0:
        return empty_bars()
    columns = {name: np.ascontiguousarray(bars[name], dtype=kind) for name, kind in BAR_TYPES.items()}
    return pd.DataFrame(columns, copy=False)
