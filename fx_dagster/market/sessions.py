"""When a market is open.

The currency week runs from Sunday 17:00 to Friday 17:00 New York, which on the server clock (New York + 7 h, see
:mod:`fx_dagster.market.timeframes`) is Monday 00:00 to Saturday 00:00, summer and winter. Metals also rest for the
first hour of every trading day (17:00-18:00 New York).

Two questions are kept apart. *Surely open* (:meth:`Session.is_open`) leaves out breaks and the holidays on which every
venue rests: silence then is no outage, and only silence while surely open is a gap. *May trade*
(:meth:`Session.may_trade`) asks whether a quote is believable at all: brokers quote into holidays, open a little early
and close a little late, and those rows are real.
"""

from dataclasses import dataclass, field
from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, Int64, Timeframe, bar_close, from_server, to_server

Bool = NDArray[np.bool_]

WEEK_NS = 7 * DAY_NS
_MONDAY_OFFSET_NS = 3 * DAY_NS
"""1970-01-01 was a Thursday: weeks are counted from Monday 1969-12-29."""


@dataclass(frozen=True)
class Holiday:
    """A yearly closing, on the server clock: from ``(month, day, hour)`` until ``(month, day, hour)``, exclusive."""

    start: tuple[int, int, int]
    end: tuple[int, int, int]


CHRISTMAS = Holiday((12, 24, 20), (12, 26, 6))
"""Venues thin out from 13:00 New York on 24 December and are all back early on the 26th."""

NEW_YEAR = Holiday((12, 31, 20), (1, 2, 0))
"""From 13:00 New York on 31 December to the first trading day of the year."""


@dataclass(frozen=True)
class Session:
    """Trading hours of an instrument, on the server clock.

    Attributes:
        name: what the hours are called.
        week_open_ns: opening, from Monday 00:00.
        week_close_ns: close, from Monday 00:00, exclusive.
        break_ns: daily break ``[start, end)`` from midnight; equal numbers mean none.
        holidays: yearly closings.
        good_friday: whether the Friday before Easter is a holiday too.
        week_slack_ns: how far outside the week a quote is still believed.
        break_slack_ns: how far inside the daily break a quote is still believed.
    """

    name: str
    week_open_ns: int = 0
    week_close_ns: int = 5 * DAY_NS
    break_ns: tuple[int, int] = (0, 0)
    holidays: tuple[Holiday, ...] = (CHRISTMAS, NEW_YEAR)
    good_friday: bool = False
    week_slack_ns: int = HOUR_NS
    break_slack_ns: int = 15 * MINUTE_NS
    _daily: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_daily", self._open_parts_of_a_week())

    def is_open(self, time: Int64) -> Bool:
        """Return, for each time (ns UTC), whether the market is surely open."""
        return self._inside(to_server(_as_int64(time)), self._intervals_around(time))

    def may_trade(self, time: Int64) -> Bool:
        """Return, for each time (ns UTC), whether a quote is believable: also on holidays and near the edges."""
        server = to_server(_as_int64(time))
        of_week = (server + _MONDAY_OFFSET_NS) % WEEK_NS
        closes, opens = self.week_close_ns + self.week_slack_ns, self.week_open_ns - self.week_slack_ns
        weekend = (of_week >= closes) & (of_week < WEEK_NS + min(opens, 0))
        start, end = self.break_ns
        of_day = server % DAY_NS
        in_break = (of_day >= start + self.break_slack_ns) & (of_day < end - self.break_slack_ns)
        return np.asarray(~(weekend | in_break), dtype=np.bool_)

    def may_contain(self, opening: Int64, timeframe: Timeframe) -> Bool:
        """Return, for bars opening at ``opening`` (ns UTC), whether some quote of theirs is believable.

        Bars up to an hour get the slack of :meth:`may_trade`; longer ones must share time with the trading week.
        """
        opening = _as_int64(opening)
        closing = bar_close(opening, timeframe)
        if timeframe.nominal_ns <= HOUR_NS:
            return np.asarray(self.may_trade(opening) | self.may_trade(closing - 1), dtype=np.bool_)
        week = Session(self.name, self.week_open_ns, self.week_close_ns, holidays=())
        return np.asarray(week.open_ns_between(opening, closing) > 0, dtype=np.bool_)

    def open_ns_between(self, start: Int64, end: Int64) -> Int64:
        """Return how many nanoseconds the market is surely open in each ``[start, end)`` (ns UTC); 0 if end < start."""
        start, end = _as_int64(start), _as_int64(end)
        if start.size == 0:
            return np.zeros(0, dtype=np.int64)
        intervals = self._intervals_around(np.array([start.min(), max(end.max(), start.min())]))
        total = self._open_until(to_server(end), intervals) - self._open_until(to_server(start), intervals)
        return np.maximum(total, 0)

    def edges(self, start: int, end: int) -> Int64:
        """Return the moments (ns UTC, ascending) at which the market surely opens, closes, opens, … in a window.

        The window is widened to whole open intervals, and begins and ends with one.
        """
        intervals = self._intervals_around(np.array([start, end]))
        return from_server(_joined(intervals).reshape(-1))

    def open_share(self, timeframe: Timeframe) -> float:
        """Return the share of a bar's nominal length that is open in an ordinary week; 1 for bars up to an hour."""
        if timeframe.nominal_ns <= HOUR_NS:
            return 1.0
        week = sum(end - start for start, end in self._daily)
        if timeframe.nominal_ns <= DAY_NS:
            return week / (5 * DAY_NS)
        return week / WEEK_NS

    def _open_parts_of_a_week(self) -> tuple[tuple[int, int], ...]:
        start, end = self.break_ns
        parts: list[tuple[int, int]] = []
        at = self.week_open_ns
        for day in range(-1, 7):
            rest_start, rest_end = day * DAY_NS + start, day * DAY_NS + end
            if rest_end <= at or rest_start >= self.week_close_ns or start == end:
                continue
            if rest_start > at:
                parts.append((at, rest_start))
            at = rest_end
        if at < self.week_close_ns:
            parts.append((at, self.week_close_ns))
        return tuple(parts)

    def _intervals_around(self, time: Int64) -> Int64:
        """Return open intervals ``[k, 2]`` on the server clock, ascending, covering all times and a week around."""
        time = _as_int64(time)
        if time.size == 0:
            return np.zeros((0, 2), dtype=np.int64)
        first = (int(time.min()) - 2 * WEEK_NS + _MONDAY_OFFSET_NS) // WEEK_NS
        last = (int(time.max()) + 2 * WEEK_NS + _MONDAY_OFFSET_NS) // WEEK_NS
        weeks = np.arange(first, last + 1, dtype=np.int64) * WEEK_NS - _MONDAY_OFFSET_NS
        parts = np.array(self._daily, dtype=np.int64)
        intervals = (weeks[:, None, None] + parts[None, :, :]).reshape(-1, 2)
        for holiday in self._closings(int(weeks[0]), int(weeks[-1]) + WEEK_NS):
            intervals = _without(intervals, *holiday)
        return intervals

    def _closings(self, first: int, last: int) -> list[tuple[int, int]]:
        years = range(_year(first) - 1, _year(last) + 1)
        closings = []
        for holiday in self.holidays:
            for year in years:
                start = _stamp(year, *holiday.start)
                end = _stamp(year, *holiday.end)
                closings.append((start, end if end > start else _stamp(year + 1, *holiday.end)))
        return closings + [_good_friday(year) for year in years if self.good_friday]

    @staticmethod
    def _inside(server: Int64, intervals: Int64) -> Bool:
        if server.size == 0:
            return np.zeros(0, dtype=np.bool_)
        row = np.searchsorted(intervals[:, 0], server, side="right") - 1
        return np.asarray((row >= 0) & (server < intervals[np.maximum(row, 0), 1]), dtype=np.bool_)

    @staticmethod
    def _open_until(server: Int64, intervals: Int64) -> Int64:
        lengths = np.concatenate([[0], np.cumsum(intervals[:, 1] - intervals[:, 0])])
        row = np.searchsorted(intervals[:, 0], server, side="right") - 1
        inside = np.minimum(server, intervals[np.maximum(row, 0), 1]) - intervals[np.maximum(row, 0), 0]
        return np.where(row < 0, 0, lengths[np.maximum(row, 0)] + inside)


FX_SESSION = Session("fx")
"""Sunday 17:00 to Friday 17:00 New York."""

METAL_SESSION = Session("metal", week_open_ns=HOUR_NS, break_ns=(0, HOUR_NS), good_friday=True)
"""As currencies, with a break from 17:00 to 18:00 New York, and closed on Good Friday."""


def _joined(intervals: Int64) -> Int64:
    """Return the intervals with those that touch made one."""
    apart = intervals[1:, 0] > intervals[:-1, 1]
    starts, ends = np.concatenate([[True], apart]), np.concatenate([apart, [True]])
    return np.column_stack([intervals[starts, 0], intervals[ends, 1]])


def _without(intervals: Int64, start: int, end: int) -> Int64:
    """Cut ``[start, end)`` out of ascending disjoint intervals."""
    left = intervals.copy()
    left[:, 1] = np.minimum(left[:, 1], start)
    right = intervals.copy()
    right[:, 0] = np.maximum(right[:, 0], end)
    parts = np.concatenate([left, right])
    parts = parts[parts[:, 0] < parts[:, 1]]
    return parts[np.argsort(parts[:, 0], kind="stable")]


def _as_int64(time: Int64) -> Int64:
    return np.asarray(time, dtype=np.int64)


def _year(server: int) -> int:
    return int(np.int64(server).astype("datetime64[ns]").astype("datetime64[Y]").astype(np.int64)) + 1970


def _good_friday(year: int) -> tuple[int, int]:
    day = _easter_sunday(year) - timedelta(days=2)
    start = _stamp(year, day.month, day.day, 0)
    return start, start + DAY_NS


def _easter_sunday(year: int) -> date:
    """Return Gregorian Easter; algorithm of Jones (General Astronomy, 1922), as in Meeus, Astronomical Algorithms."""
    golden, century, of_century = year % 19, year // 100, year % 100
    solar = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - century // 4 - solar + 15) % 30
    weekday = (32 + 2 * (century % 4) + 2 * (of_century // 4) - epact - of_century % 4) % 7
    correction = (golden + 11 * epact + 22 * weekday) // 451
    month, day = divmod(epact + weekday - 7 * correction + 114, 31)
    return date(year, month, day + 1)


def _stamp(year: int, month: int, day: int, hour: int) -> int:
    return int(np.datetime64(f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}", "ns").astype(np.int64))
