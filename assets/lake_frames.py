"""Reading and writing the lake by trading month, as all partitioned assets do."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.timeframes import DAY_NS, Timeframe, bar_close, trading_month
from resources.lake import Lake


def write_months(
    lake: Lake,
    table: str,
    frame: pd.DataFrame,
    belongs_at: NDArray[np.int64],
    months: Iterable[str],
    *,
    symbol: str,
    timeframe: Timeframe | None = None,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Write each row to the month of ``belongs_at`` (ns UTC) and return rows by month; other months are not touched.

    A month without rows gets an empty file, so that what an earlier run wrote there does not survive.
    """
    row_month = trading_month(belongs_at).astype(str) if len(frame) else np.array([], dtype=str)
    keys = {"symbol": symbol} | ({"timeframe": timeframe.value} if timeframe else {})
    rows = {}
    for month in months:
        part = frame[row_month == month].reset_index(drop=True)
        lake.write(table, part, metadata=dict(metadata or {}), month=month, **keys)
        rows[month] = len(part)
    return rows


def query_table(lake: Lake, table: str, sql: str, **parameters: str) -> pd.DataFrame:
    """Run SQL on a table; without any file of it yet, return an empty frame."""
    return lake.query(sql, parameters) if lake.keys(table) else pd.DataFrame()


def closes_at(frame: pd.DataFrame, timeframe: Timeframe) -> NDArray[np.int64]:
    """Return when the bars of ``frame`` close: a bar, and all that is computed from it, belongs to that month."""
    return bar_close(frame["time"].to_numpy(np.int64), timeframe)


def last_moment(closing: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the last nanosecond before each closing, which still lies in the bar's own trading day."""
    return closing - 1


def read_bars(
    lake: Lake, symbol: str, timeframes: Iterable[Timeframe], *, start: int, end: int, history_bars: int
) -> dict[Timeframe, pd.DataFrame]:
    """Read the bars of each timeframe from ``history_bars`` before ``start`` to those closed by ``end`` (ns UTC)."""
    bars = {}
    for timeframe in timeframes:
        # Weekends and holidays take two days of seven, and a little more.
        back = int(history_bars * timeframe.nominal_ns * 1.5) + 7 * DAY_NS
        frame = lake.read("bars", symbol=symbol, timeframe=timeframe.value, start=start - back, end=end)
        bars[timeframe] = frame[closes_at(frame, timeframe) <= end].reset_index(drop=True) if len(frame) else frame
    return bars
