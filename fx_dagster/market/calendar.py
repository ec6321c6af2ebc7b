"""The market's calendar for compiled code: one moment at a time, no pandas.

Equal to :mod:`fx_dagster.market.timeframes` for every moment from 1970 to 2099, daylight saving of each year included.
Every time is int64 nanoseconds; a "local" time is what a clock there shows, as nanoseconds of a naive epoch.

The zones' rules are those of :mod:`zoneinfo` when this module is imported. They are stored as steps: time is cut into
stretches so short that a clock is put forward or back at most once in each, and a stretch knows when, and how far the
clock is ahead before and after. A look-up is then a shift, a load and a comparison.
"""

import bisect
import itertools
from datetime import UTC, datetime
from functools import partial
from zoneinfo import ZoneInfo

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import (
    DAY_NS,
    HOUR_NS,
    SECOND_NS,
    SERVER_AHEAD_OF_NEW_YORK_NS,
    Int64,
    Timeframe,
)

FIRST_YEAR, LAST_YEAR = 1970, 2100
TOKYO_AHEAD_NS = 9 * HOUR_NS
"""Japan has kept one time since 1952."""

_STRETCH_SHIFT = 52
"""A stretch is 2**52 ns, 52 days."""
_HOUR_S = 3600
# 1970-01-01 was a Thursday: weeks are counted from Monday 1969-12-29.
_WEEK_SHIFT_NS = 3 * DAY_NS
_WEEK, _MONTH = tuple(Timeframe).index(Timeframe.W1), tuple(Timeframe).index(Timeframe.MN1)
_NOMINAL_NS = np.array([timeframe.nominal_ns for timeframe in Timeframe], dtype=np.int64)


def _switches(key: str) -> list[tuple[int, int, int]]:
    """Return when a zone's clock is moved (ns UTC), and how far it is ahead of UTC before and after (ns)."""
    zone = ZoneInfo(key)

    def ahead_s(hour: int) -> int:
        offset = datetime.fromtimestamp(hour * _HOUR_S, tz=zone).utcoffset()
        return offset.days * 86_400 + offset.seconds if offset is not None else 0

    def moved(hour: int, before: int) -> bool:
        return ahead_s(hour) != before

    # Both zones have moved their clocks at whole hours UTC since 1970, and never twice in a month.
    months = [
        int(datetime(year, month, 1, tzinfo=UTC).timestamp()) // _HOUR_S
        for year in range(FIRST_YEAR, LAST_YEAR + 1)
        for month in range(1, 13)
    ]
    found = []
    before = ahead_s(months[0])
    for first, last in itertools.pairwise(months):
        after = ahead_s(last)
        if after != before:
            hour = first + bisect.bisect_left(range(first, last), True, key=partial(moved, before=before))
            found.append((hour * _HOUR_S * SECOND_NS, before * SECOND_NS, after * SECOND_NS))
            before = after
    return found


def _steps(switches: list[tuple[int, int, int]], *, ahead_ns: int = 0) -> Int64:
    """Return ``[stretches, 3]``: moment of the switch, what to add before it, what to add from it on."""
    last = int(datetime(LAST_YEAR + 1, 1, 1, tzinfo=UTC).timestamp()) * SECOND_NS >> _STRETCH_SHIFT
    table = np.empty((last + 1, 3), dtype=np.int64)
    row, before = 0, switches[0][1]
    for moment, _, after in switches:
        stretch = moment >> _STRETCH_SHIFT
        if stretch < row:
            raise DataError("a clock is moved twice within 52 days", mend="make the calendar's stretches shorter")
        table[row:stretch] = (0, before + ahead_ns, before + ahead_ns)
        table[stretch] = (moment, before + ahead_ns, after + ahead_ns)
        row, before = stretch + 1, after
    table[row:] = (0, before + ahead_ns, before + ahead_ns)
    return table


def _server_steps(switches: list[tuple[int, int, int]]) -> Int64:
    """Return steps by the server's clock; the switch is where that clock stands just before it is moved."""
    ahead = SERVER_AHEAD_OF_NEW_YORK_NS
    return _steps([(moment + before + ahead, -before, -after) for moment, before, after in switches], ahead_ns=-ahead)


_NEW_YORK = _switches("America/New_York")
_SERVER_STEPS = _steps(_NEW_YORK, ahead_ns=SERVER_AHEAD_OF_NEW_YORK_NS)
_UTC_STEPS = _server_steps(_NEW_YORK)
_LONDON_STEPS = _steps(_switches("Europe/London"))
_STRETCHES = len(_SERVER_STEPS)


@compiled
def _stretch(time: int) -> int:
    return min(max(time >> _STRETCH_SHIFT, 0), _STRETCHES - 1)


@compiled
def server_time(time: int) -> int:
    """Return the server clock (New York + 7 h, ns of a naive epoch) at a moment (ns UTC)."""
    row = _stretch(time)
    return time + _SERVER_STEPS[row, 2 if time >= _SERVER_STEPS[row, 0] else 1]


@compiled
def utc_of_server(server: int) -> int:
    """Return the moment (ns UTC) at which the server clock shows a time.

    Of an hour that the clock shows twice, the first; a time that it skips becomes the moment of the skip.
    """
    row = _stretch(server)
    switch = _UTC_STEPS[row, 0]
    if server < switch:
        return server + _UTC_STEPS[row, 1]
    # In a stretch without a switch both columns are the same, and the larger of equals is as good.
    return max(server + _UTC_STEPS[row, 2], switch + _UTC_STEPS[row, 1])


@compiled
def london_time(time: int) -> int:
    """Return London's local time (ns of a naive epoch) at a moment (ns UTC)."""
    row = _stretch(time)
    return time + _LONDON_STEPS[row, 2 if time >= _LONDON_STEPS[row, 0] else 1]


@compiled
def tokyo_time(time: int) -> int:
    """Return Tokyo's local time (ns of a naive epoch) at a moment (ns UTC)."""
    return time + TOKYO_AHEAD_NS


@compiled
def trading_day_at(time: int) -> int:
    """Return the trading day of a moment (ns UTC), in days since 1970-01-01; it turns at 17:00 New York."""
    return server_time(time) // DAY_NS


@compiled
def _month_start(day: int) -> int:
    """Return the first day of a day's month, both in days since 1970-01-01.

    Civil calendar from days, as in Howard Hinnant, "chrono-compatible low-level date algorithms".
    """
    shifted = day + 719_468  # days since 0000-03-01: leap days end a year
    of_era = shifted % 146_097
    year_of_era = (of_era - of_era // 1_460 + of_era // 36_524 - of_era // 146_096) // 365
    day_of_year = of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    return day - (day_of_year - (153 * month + 2) // 5)


@compiled
def bar_open_at(time: int, code: int) -> int:
    """Return the opening (ns UTC) of the bar that a moment (ns UTC) falls in; ``code``: place in ``Timeframe``."""
    nominal = _NOMINAL_NS[code]
    if nominal <= HOUR_NS:
        return time - time % nominal
    server = server_time(time)
    if code == _MONTH:
        return utc_of_server(_month_start(server // DAY_NS) * DAY_NS)
    shift = _WEEK_SHIFT_NS if code == _WEEK else 0
    return utc_of_server(server - (server + shift) % nominal)


@compiled
def bar_end_at(opening: int, code: int) -> int:
    """Return the end (ns UTC, exclusive) of the bar that opens at ``opening`` (ns UTC)."""
    nominal = _NOMINAL_NS[code]
    if nominal <= HOUR_NS:
        return opening + nominal
    server = server_time(opening)
    if code == _MONTH:
        # The 32nd day from the first of a month lies in the next one.
        return utc_of_server(_month_start(_month_start(server // DAY_NS) + 31) * DAY_NS)
    return utc_of_server(server + nominal)
