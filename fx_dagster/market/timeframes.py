"""The nine timeframes and the bars' grid.

Times are int64 nanoseconds UTC. H4 and longer follow the trading day, which turns at 17:00 New York, as MetaTrader's
server clock (New York + 7 h) does: H4 opens at 17:00, 21:00, …; W1 opens with Monday's trading day (Sunday 17:00);
MN1 with the first trading day of the month. M1 to H1 lie on the UTC grid, which is the same grid, because New York is
always a whole number of hours away.
"""

from enum import StrEnum
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import UnknownSymbolError

SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
SERVER_AHEAD_OF_NEW_YORK_NS = 7 * HOUR_NS

Int64 = NDArray[np.int64]


class Timeframe(StrEnum):
    """A bar length, from the shortest to the longest."""

    M1 = "M1"
    M5 = "M5"
    M15 = "M15"
    M30 = "M30"
    H1 = "H1"
    H4 = "H4"
    D1 = "D1"
    W1 = "W1"
    MN1 = "MN1"

    @property
    def nominal_ns(self) -> int:
        """Length in nanoseconds; of MN1, the mean month."""
        return _NOMINAL_NS[self]

    @property
    def intraday(self) -> bool:
        """Whether several bars fit into a trading day."""
        return self.nominal_ns < DAY_NS

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the timeframe of that name.

        Raises:
            UnknownSymbolError: there is none.
        """
        try:
            return cls(text.strip().upper())
        except ValueError:
            raise UnknownSymbolError(f"unknown timeframe {text!r}", mend=f"one of {', '.join(cls)}") from None

    def coarser(self) -> tuple[Self, ...]:
        """Return this timeframe and all longer ones, shortest first."""
        members = tuple(type(self))
        return members[members.index(self) :]


_NOMINAL_NS = {
    Timeframe.M1: MINUTE_NS,
    Timeframe.M5: 5 * MINUTE_NS,
    Timeframe.M15: 15 * MINUTE_NS,
    Timeframe.M30: 30 * MINUTE_NS,
    Timeframe.H1: HOUR_NS,
    Timeframe.H4: 4 * HOUR_NS,
    Timeframe.D1: DAY_NS,
    Timeframe.W1: 7 * DAY_NS,
    Timeframe.MN1: int(30.436875 * DAY_NS),
}


def to_server(time: Int64) -> Int64:
    """Convert UTC nanoseconds to the server clock (New York + 7 h), as nanoseconds of a naive epoch."""
    stamps = pd.DatetimeIndex(np.asarray(time, dtype="datetime64[ns]"), tz="UTC").tz_convert("America/New_York")
    naive = stamps.tz_localize(None).as_unit("ns").asi8
    return np.asarray(naive + SERVER_AHEAD_OF_NEW_YORK_NS, dtype=np.int64)


def from_server(server: Int64) -> Int64:
    """Convert the server clock to UTC nanoseconds; inverse of :func:`to_server`.

    The hour that New York's clock repeats in autumn lies on Sunday morning, when the market is closed; its first
    occurrence is taken, and a time in the hour skipped in spring is moved to the hour's end.
    """
    local = np.asarray(server, dtype=np.int64) - SERVER_AHEAD_OF_NEW_YORK_NS
    index = pd.DatetimeIndex(local.astype("datetime64[ns]"))
    stamps = index.tz_localize(
        "America/New_York", ambiguous=np.ones(len(index), dtype=bool), nonexistent="shift_forward"
    ).tz_convert("UTC")
    return np.asarray(stamps.tz_localize(None).as_unit("ns").asi8, dtype=np.int64)


def bar_open(time: Int64, timeframe: Timeframe) -> Int64:
    """Return the opening time (ns UTC) of the bar that each time (ns UTC) falls in."""
    time = np.asarray(time, dtype=np.int64)
    if timeframe.nominal_ns <= HOUR_NS:
        return time - time % timeframe.nominal_ns
    return from_server(_server_bar_open(to_server(time), timeframe))


def bar_close(opening: Int64, timeframe: Timeframe) -> Int64:
    """Return the end (ns UTC, exclusive) of bars that open at ``opening``; from it on the bar is usable."""
    opening = np.asarray(opening, dtype=np.int64)
    if timeframe.nominal_ns <= HOUR_NS:
        return opening + timeframe.nominal_ns
    server = to_server(opening)
    if timeframe is Timeframe.MN1:
        months = server.astype("datetime64[ns]").astype("datetime64[M]")
        return from_server((months + 1).astype("datetime64[ns]").astype(np.int64))
    return from_server(server + timeframe.nominal_ns)


def _server_bar_open(server: Int64, timeframe: Timeframe) -> Int64:
    if timeframe is Timeframe.MN1:
        months = server.astype("datetime64[ns]").astype("datetime64[M]")
        return months.astype("datetime64[ns]").astype(np.int64)
    # 1970-01-01 was a Thursday: weeks are counted from Monday 1969-12-29.
    offset = 3 * DAY_NS if timeframe is Timeframe.W1 else 0
    return server - (server + offset) % timeframe.nominal_ns


def trading_month(time: Int64) -> NDArray[np.datetime64]:
    """Return the month (``datetime64[M]``) of the trading day that each time (ns UTC) falls in."""
    return to_server(time).astype("datetime64[ns]").astype("datetime64[M]")


def trading_month_window(month: str) -> tuple[int, int]:
    """Return ``[start, end)`` in ns UTC of the trading month that a partition key ``YYYY-MM-DD`` names."""
    first = np.datetime64(month[:7], "M")
    edges = np.array([first, first + 1]).astype("datetime64[ns]").astype(np.int64)
    start, end = from_server(edges)
    return int(start), int(end)
