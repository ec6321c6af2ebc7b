"""Bars as contiguous arrays, the context table, and what several indicators and features share."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import Timeframe, bar_close

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Columns = Mapping[str, Float64]

ATR_FLOOR: Final = 1e-6
"""Smallest ATR as a fraction of the close (a tenth of a EURUSD point): flat prices then give 0 distances, not 0/0."""

CONTEXT_TIMEFRAMES: Final[Mapping[Timeframe, tuple[Timeframe, ...]]] = MappingProxyType(
    {
        Timeframe.M1: (Timeframe.M15, Timeframe.H1),
        Timeframe.M5: (Timeframe.M30, Timeframe.H4),
        Timeframe.M15: (Timeframe.H1, Timeframe.H4),
        Timeframe.M30: (Timeframe.H4, Timeframe.D1),
        Timeframe.H1: (Timeframe.H4, Timeframe.D1),
        Timeframe.H4: (Timeframe.D1,),
        Timeframe.D1: (),
        Timeframe.W1: (),
        Timeframe.MN1: (),
    }
)
"""Coarser timeframes that each timeframe looks at, as of their last closed bar."""

_BLOCK_ROWS: Final = 16_384
"""Rows of one pass over a window: the handful of buffers then stay in the processor's cache."""

_COLUMNS: Final = ("time", "open", "high", "low", "close", "tick_volume")


@dataclass(frozen=True)
class BarArrays:
    """One symbol's bars of one timeframe, oldest first: ``time`` int64 ns UTC, the rest float64.

    All are contiguous and read-only, so that compiled functions meet one type.
    """

    timeframe: Timeframe
    time: Int64
    open: Float64
    high: Float64
    low: Float64
    close: Float64
    tick_volume: Float64

    def __len__(self) -> int:
        return len(self.time)


def bar_arrays(bars: Mapping[Timeframe, pd.DataFrame], timeframe: Timeframe) -> BarArrays:
    """Return the BARS frame of ``timeframe`` as arrays.

    Raises:
        DataError: the timeframe or a column is missing, or the bars are not in strictly ascending order of time.
    """
    if timeframe not in bars:
        present = ", ".join(bars) or "none"
        raise DataError(f"bars of {timeframe} are missing (present: {present})", mend=f"build {timeframe} bars first")
    frame = bars[timeframe]
    absent = [column for column in _COLUMNS if column not in frame]
    if absent:
        raise DataError(f"bars of {timeframe}: column {absent[0]!r} is missing", mend="pass a BARS frame")
    time = np.ascontiguousarray(frame["time"].to_numpy(dtype=np.int64))
    unordered = np.flatnonzero(np.diff(time) <= 0)
    if len(unordered):
        raise DataError(
            f"bars of {timeframe}, row {int(unordered[0]) + 1}: time does not ascend", mend="sort and deduplicate them"
        )
    values = [np.ascontiguousarray(frame[column].to_numpy(dtype=np.float64)) for column in _COLUMNS[1:]]
    for array in (time, *values):
        array.flags.writeable = False
    return BarArrays(timeframe, time, *values)


def last_closed(base_time: Int64, base: Timeframe, coarse_time: Int64, coarse: Timeframe) -> Int64:
    """Return, for each base bar, the position of the newest coarse bar that is closed when the base bar closes.

    Args:
        base_time: openings of the base bars, int64 ns UTC, ascending.
        base: their timeframe.
        coarse_time: openings of the coarser bars, int64 ns UTC, ascending.
        coarse: their timeframe.

    Returns:
        int64 positions, -1 where no coarse bar is closed yet.
    """
    closed = np.searchsorted(bar_close(coarse_time, coarse), bar_close(base_time, base), side="right")
    return np.asarray(closed - 1, dtype=np.int64)


def take(values: Float64, positions: Int64) -> Float64:
    """Return ``values`` at ``positions``; NaN where a position is negative."""
    if not len(values):
        return np.full(len(positions), np.nan)
    return np.where(positions >= 0, values[np.maximum(positions, 0)], np.nan)


def floored_atr(atr: Float64, close: Float64) -> Float64:
    """Return the ATR, at least :data:`ATR_FLOOR` of the close; NaN stays NaN."""
    return np.maximum(atr, ATR_FLOOR * close)


def lagged(values: Float64, lag: int) -> Float64:
    """Return ``values`` of ``lag`` rows earlier; NaN in the first ``lag`` rows."""
    shifted = np.full(len(values), np.nan)
    if lag < len(values):
        shifted[lag:] = values[: len(values) - lag]
    return shifted


def in_blocks(
    rows: int, lookback: int, outputs: int, kernel: Callable[[int, int], tuple[Float64, ...]]
) -> tuple[Float64, ...]:
    """Fill ``outputs`` float64 arrays of ``rows`` rows by calling ``kernel(start, stop)`` on blocks of rows.

    The first ``lookback`` rows stay NaN: the kernel may read that many rows before ``start``.
    """
    filled = tuple(np.full(rows, np.nan) for _ in range(outputs))
    for start in range(lookback, rows, _BLOCK_ROWS):
        stop = min(start + _BLOCK_ROWS, rows)
        for target, block in zip(filled, kernel(start, stop), strict=True):
            target[start:stop] = block
    return filled
