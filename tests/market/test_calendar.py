"""The compiled calendar is the pandas one, moment by moment."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.inputs import trading_day
from fx_dagster.errors import DataError
from fx_dagster.market import calendar
from fx_dagster.market.calendar import (
    bar_end_at,
    bar_open_at,
    london_time,
    server_time,
    tokyo_time,
    trading_day_at,
    utc_of_server,
)
from fx_dagster.market.timeframes import (
    DAY_NS,
    HOUR_NS,
    MINUTE_NS,
    SECOND_NS,
    Timeframe,
    bar_close,
    bar_open,
    from_server,
    to_server,
)

LAST = 4_102_444_800 * SECOND_NS - 1
"""The last nanosecond of 2099."""
any_time = st.integers(0, LAST)
CODES = tuple(enumerate(Timeframe))


def local(time: np.ndarray, zone: str) -> list[int]:
    stamps = pd.DatetimeIndex(time.astype("datetime64[ns]"), tz="UTC").tz_convert(zone)
    return stamps.tz_localize(None).as_unit("ns").asi8.tolist()


def assert_equal_at(times: np.ndarray) -> None:
    moments = times.tolist()
    assert [server_time(time) for time in moments] == to_server(times).tolist()
    assert [utc_of_server(time) for time in moments] == from_server(times).tolist()
    assert [london_time(time) for time in moments] == local(times, "Europe/London")
    assert [tokyo_time(time) for time in moments] == local(times, "Asia/Tokyo")
    assert [trading_day_at(time) for time in moments] == trading_day(times).tolist()
    for code, timeframe in CODES:
        opening = bar_open(times, timeframe)
        assert [bar_open_at(time, code) for time in moments] == opening.tolist(), timeframe
        assert [bar_end_at(time, code) for time in opening.tolist()] == bar_close(opening, timeframe).tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(any_time, min_size=1, max_size=20))
def test_any_moment_from_1970_to_2099(times: list[int]):
    assert_equal_at(np.array(times, dtype=np.int64))


def switch_days(zone: str) -> list[int]:
    """Return the days (since 1970) on which a zone moves its clock, from the zone itself."""
    first = datetime(1970, 1, 1, tzinfo=UTC)
    offsets = [(first + timedelta(days=day)).astimezone(ZoneInfo(zone)).utcoffset() for day in range(47_482)]
    return [day for day in range(len(offsets) - 1) if offsets[day] != offsets[day + 1]]


@pytest.mark.parametrize("zone", ["America/New_York", "Europe/London"])
def test_every_switch_hour_by_hour(zone: str):
    days = switch_days(zone)
    assert len(days) >= 255
    around = np.arange(-30, 60) * HOUR_NS
    moments = np.concatenate([day * DAY_NS + around + shift for day in days for shift in (0, -1, 30 * MINUTE_NS)])
    assert_equal_at(moments)


def test_every_month_and_week_turns_where_it_should():
    months = np.arange("1970-02", "2100-01", dtype="datetime64[M]").astype("datetime64[ns]").astype(np.int64)
    weeks = np.arange(4 * DAY_NS, LAST, 7 * DAY_NS)
    turns = from_server(np.concatenate([months, weeks]))
    assert_equal_at(np.concatenate([turns - 1, turns]))


def test_a_time_that_the_server_skips_becomes_the_moment_of_the_skip():
    # New York skips 2:00 to 3:00 on 2024-03-10; the server's clock is seven hours ahead.
    skipped = int(pd.Timestamp("2024-03-10 09:30").as_unit("ns").value)
    assert utc_of_server(skipped) == pd.Timestamp("2024-03-10 07:00").as_unit("ns").value


def test_of_an_hour_shown_twice_the_first_counts():
    twice = int(pd.Timestamp("2024-11-03 08:30").as_unit("ns").value)
    assert utc_of_server(twice) == pd.Timestamp("2024-11-03 05:30").as_unit("ns").value


def test_a_zone_that_moves_its_clock_twice_in_a_stretch_is_refused_not_mistaken():
    month = 30 * DAY_NS
    with pytest.raises(DataError, match="moved twice"):
        calendar._steps([(month, 0, HOUR_NS), (month + DAY_NS, HOUR_NS, 0)])
