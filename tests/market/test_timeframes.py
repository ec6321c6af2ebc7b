import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import UnknownSymbolError
from fx_dagster.market.timeframes import (
    DAY_NS,
    HOUR_NS,
    Timeframe,
    bar_close,
    bar_open,
    from_server,
    to_server,
    trading_month,
    trading_month_window,
)

any_time = st.integers(
    int(pd.Timestamp("1995-01-01").as_unit("ns").value), int(pd.Timestamp("2060-01-01").as_unit("ns").value)
)
any_timeframe = st.sampled_from(list(Timeframe))
quick = settings(max_examples=200, deadline=None)


def ns(*texts: str) -> np.ndarray:
    return np.array([pd.Timestamp(text).as_unit("ns").value for text in texts], dtype=np.int64)


def text(time: np.ndarray) -> list[str]:
    return [stamp.strftime("%Y-%m-%d %H:%M") for stamp in pd.DatetimeIndex(np.asarray(time).astype("datetime64[ns]"))]


def market_open(time: np.ndarray) -> np.ndarray:
    return (to_server(time) + 3 * DAY_NS) % (7 * DAY_NS) < 5 * DAY_NS


@quick
@given(time=any_time, timeframe=any_timeframe)
def test_an_opening_is_its_own_bar(time: int, timeframe: Timeframe):
    opening = bar_open(np.array([time]), timeframe)
    assert bar_open(opening, timeframe) == opening


@quick
@given(time=any_time, timeframe=any_timeframe)
def test_every_time_lies_in_its_bar(time: int, timeframe: Timeframe):
    opening = bar_open(np.array([time]), timeframe)
    assert opening[0] <= time < bar_close(opening, timeframe)[0]


@quick
@given(time=any_time, timeframe=any_timeframe)
def test_bars_tile_the_time(time: int, timeframe: Timeframe):
    closing = bar_close(bar_open(np.array([time]), timeframe), timeframe)
    assert bar_open(closing, timeframe) == closing
    assert bar_open(closing - 1, timeframe) == bar_open(np.array([time]), timeframe)


@quick
@given(time=any_time, fine=any_timeframe, coarse=any_timeframe)
def test_longer_bars_hold_whole_shorter_ones(time: int, fine: Timeframe, coarse: Timeframe):
    if coarse not in fine.coarser() or Timeframe.W1 in {fine, coarse}:
        return  # months are not made of whole weeks
    short = bar_open(np.array([time]), fine)
    long = bar_open(np.array([time]), coarse)
    assert long[0] <= short[0]
    assert bar_close(short, fine)[0] <= bar_close(long, coarse)[0]


@quick
@given(time=any_time)
def test_server_clock_and_back(time: int):
    utc = np.array([time])
    back = from_server(to_server(utc))
    if market_open(utc)[0]:
        assert back == utc
    else:
        # Only the hour that New York repeats on an autumn Sunday morning is ambiguous.
        assert abs(int(back[0]) - time) in {0, HOUR_NS}


@pytest.mark.parametrize(
    ("utc", "server"),
    [
        ("2017-01-16 12:00", "2017-01-16 14:00"),  # both on standard time
        ("2017-03-10 12:00", "2017-03-10 14:00"),  # the last Friday before New York moves
        ("2017-03-13 12:00", "2017-03-13 15:00"),  # New York has moved, Europe has not
        ("2017-03-27 12:00", "2017-03-27 15:00"),  # both have
        ("2017-10-27 12:00", "2017-10-27 15:00"),
        ("2017-10-30 12:00", "2017-10-30 15:00"),  # Europe is back, New York is not
        ("2017-11-06 12:00", "2017-11-06 14:00"),
    ],
)
def test_the_server_clock_follows_new_york_in_the_weeks_in_which_europe_differs(utc: str, server: str):
    assert text(to_server(ns(utc))) == [server]
    assert text(from_server(ns(server))) == [utc]


@pytest.mark.parametrize(
    ("time", "timeframe", "opening", "closing"),
    [
        ("2017-03-10 12:34", "D1", "2017-03-09 22:00", "2017-03-10 22:00"),
        ("2017-03-13 12:34", "D1", "2017-03-12 21:00", "2017-03-13 21:00"),
        ("2017-11-03 12:34", "D1", "2017-11-02 21:00", "2017-11-03 21:00"),
        ("2017-11-06 12:34", "D1", "2017-11-05 22:00", "2017-11-06 22:00"),
        ("2017-03-15 12:34", "H4", "2017-03-15 09:00", "2017-03-15 13:00"),
        ("2017-01-18 12:34", "H4", "2017-01-18 10:00", "2017-01-18 14:00"),
        ("2017-01-18 12:34", "W1", "2017-01-15 22:00", "2017-01-22 22:00"),
        ("2017-03-08 12:34", "W1", "2017-03-05 22:00", "2017-03-12 21:00"),  # 167 hours
        ("2017-11-01 12:34", "W1", "2017-10-29 21:00", "2017-11-05 22:00"),  # 169 hours
        ("2017-03-08 12:34", "MN1", "2017-02-28 22:00", "2017-03-31 21:00"),
        ("2017-12-31 22:00", "MN1", "2017-12-31 22:00", "2018-01-31 22:00"),
        ("2017-12-31 21:59", "MN1", "2017-11-30 22:00", "2017-12-31 22:00"),
        ("2017-03-15 12:34", "M15", "2017-03-15 12:30", "2017-03-15 12:45"),
    ],
)
def test_bars_open_with_the_trading_day(time: str, timeframe: str, opening: str, closing: str):
    found = bar_open(ns(time), Timeframe(timeframe))
    assert text(found) == [opening]
    assert text(bar_close(found, Timeframe(timeframe))) == [closing]


@pytest.mark.parametrize("around", ["2017-03-12", "2017-11-05", "2024-03-10", "2024-11-03"])
@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_no_hour_is_doubled_or_lost_over_a_switch(around: str, timeframe: Timeframe):
    middle = ns(around)[0]
    step = min(timeframe.nominal_ns, HOUR_NS // 4)
    days = 40 if step == HOUR_NS // 4 else 3
    openings = np.unique(bar_open(np.arange(middle - days * DAY_NS, middle + days * DAY_NS, step), timeframe))
    np.testing.assert_array_equal(bar_close(openings[:-1], timeframe), openings[1:])
    if timeframe.intraday:
        server = to_server(openings[market_open(openings)])
        assert (server % timeframe.nominal_ns == 0).all()
        assert len(np.unique(server)) == len(server)


def test_hours_of_an_open_market_are_whole_hours_on_both_clocks():
    hours = np.arange(ns("2017-01-01")[0], ns("2018-01-01")[0], HOUR_NS)
    hours = hours[market_open(hours)]
    server = to_server(hours)
    assert len(np.unique(server)) == len(hours)
    assert (server % HOUR_NS == 0).all()


def test_months_turn_with_the_trading_day():
    time = ns("2017-01-31 21:59", "2017-01-31 22:00", "2017-03-31 20:59", "2017-03-31 21:00")
    assert trading_month(time).astype(str).tolist() == ["2017-01", "2017-02", "2017-03", "2017-04"]
    assert text(np.array(trading_month_window("2017-03-01"))) == ["2017-02-28 22:00", "2017-03-31 21:00"]


@quick
@given(time=any_time)
def test_a_month_window_holds_the_times_of_the_month(time: int):
    start, end = trading_month_window(str(trading_month(np.array([time]))[0]))
    assert start <= time < end


def test_names():
    assert Timeframe.parse(" h4 ") is Timeframe.H4
    assert Timeframe.D1.coarser() == (Timeframe.D1, Timeframe.W1, Timeframe.MN1)
    assert [timeframe for timeframe in Timeframe if timeframe.intraday] == ["M1", "M5", "M15", "M30", "H1", "H4"]
    with pytest.raises(UnknownSymbolError, match="unknown timeframe 'H2' → one of M1, M5"):
        Timeframe.parse("H2")


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_takes_no_times_too(timeframe: Timeframe):
    none = np.zeros(0, dtype=np.int64)
    assert bar_open(none, timeframe).dtype == np.int64
    assert len(bar_close(none, timeframe)) == 0
