import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.market.sessions import FX_SESSION, METAL_SESSION, Session
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe

any_time = st.integers(
    int(pd.Timestamp("2000-01-01").as_unit("ns").value), int(pd.Timestamp("2040-01-01").as_unit("ns").value)
)
any_session = st.sampled_from([FX_SESSION, METAL_SESSION])
quick = settings(max_examples=40, deadline=None)


def ns(*texts: str) -> np.ndarray:
    return np.array([pd.Timestamp(text).as_unit("ns").value for text in texts], dtype=np.int64)


def text(time: int) -> str:
    return pd.Timestamp(time).strftime("%Y-%m-%d %H:%M")


@pytest.mark.parametrize(
    ("time", "fx", "metal"),
    [
        ("2017-01-13 21:59", True, True),  # Friday, New York on standard time
        ("2017-01-13 22:00", False, False),
        ("2017-01-14 12:00", False, False),
        ("2017-01-15 21:59", False, False),
        ("2017-01-15 22:00", True, False),  # gold opens an hour later
        ("2017-01-15 23:00", True, True),
        ("2017-07-14 20:59", True, True),  # and on daylight saving
        ("2017-07-14 21:00", False, False),
        ("2017-07-16 21:00", True, False),
        ("2017-07-16 22:00", True, True),
        ("2017-03-19 21:00", True, False),  # New York has moved, Europe has not
        ("2017-10-29 21:00", True, False),
        ("2017-01-17 22:30", True, False),  # gold's daily break
        ("2017-01-17 21:59", True, True),
        ("2017-12-25 12:00", False, False),
        ("2017-12-24 23:00", False, False),
        ("2017-12-26 12:00", True, True),
        ("2018-01-01 12:00", False, False),
        ("2018-01-01 22:30", True, False),
        ("2018-03-30 12:00", True, False),  # Good Friday
        ("2017-04-14 12:00", True, False),
    ],
)
def test_hours(time: str, fx: bool, metal: bool):
    assert FX_SESSION.is_open(ns(time)).tolist() == [fx]
    assert METAL_SESSION.is_open(ns(time)).tolist() == [metal]


@pytest.mark.parametrize(
    ("time", "fx", "metal"),
    [
        ("2017-12-25 08:00", True, True),  # brokers quote into holidays
        ("2017-01-15 21:00", True, False),  # an early opening is real; gold's is at 18:00
        ("2017-01-15 22:00", True, True),
        ("2017-01-15 20:59", False, False),
        ("2017-01-13 22:30", True, False),  # a late close as well, but not in the break
        ("2017-01-13 23:00", False, False),
        ("2017-01-14 12:00", False, False),
        ("2017-01-17 22:10", True, True),
        ("2017-01-17 22:30", True, False),
    ],
)
def test_quotes_near_the_edges_are_believed(time: str, fx: bool, metal: bool):
    assert FX_SESSION.may_trade(ns(time)).tolist() == [fx]
    assert METAL_SESSION.may_trade(ns(time)).tolist() == [metal]


@pytest.mark.parametrize(
    ("opening", "timeframe", "expected"),
    [
        ("2017-01-15 22:00", "H1", True),
        ("2017-01-15 20:00", "H1", False),
        ("2017-01-17 22:00", "H1", True),  # gold's break: the slack at both ends
        ("2017-01-14 12:00", "H1", False),
        ("2017-01-13 18:00", "H4", True),
        ("2017-01-13 22:00", "H4", False),
        ("2017-01-13 22:00", "D1", False),
        ("2017-01-15 22:00", "D1", True),
        ("2017-01-15 22:00", "W1", True),
        ("2016-12-31 22:00", "MN1", True),
    ],
)
def test_bars_outside_the_week(opening: str, timeframe: str, expected: bool):
    assert METAL_SESSION.may_contain(ns(opening), Timeframe(timeframe)).tolist() == [expected]


@quick
@given(time=any_time, session=any_session)
def test_edges_are_where_the_market_opens_and_closes(time: int, session: Session):
    edges = session.edges(time - 7 * DAY_NS, time + 7 * DAY_NS)
    opens, closes = edges[::2], edges[1::2]
    assert (np.diff(edges) > 0).all()
    assert len(opens) == len(closes)
    assert opens[0] <= time - 7 * DAY_NS
    assert closes[-1] >= time + 7 * DAY_NS
    assert session.is_open(opens).all()
    assert not session.is_open(opens - 1).any()
    assert session.is_open(closes - 1).all()
    assert not session.is_open(closes).any()
    assert session.open_ns_between(opens, closes).tolist() == (closes - opens).tolist()
    assert session.open_ns_between(closes[:-1], opens[1:]).sum() == 0
    assert session.is_open(np.array([time]))[0] == (np.searchsorted(edges, time, side="right") % 2 == 1)


@quick
@given(times=st.lists(any_time, min_size=3, max_size=3), session=any_session)
def test_open_time_adds_up(times: list[int], session: Session):
    a, b, c = (np.array([time]) for time in sorted(times))
    whole = session.open_ns_between(a, c)
    assert whole == session.open_ns_between(a, b) + session.open_ns_between(b, c)
    assert 0 <= whole[0] <= c[0] - a[0]
    assert session.open_ns_between(c, a) == 0


@quick
@given(time=any_time, session=any_session)
def test_whatever_is_open_may_trade(time: int, session: Session):
    assert session.may_trade(np.array([time]))[0] or not session.is_open(np.array([time]))[0]


def test_open_time_is_the_sum_of_open_minutes():
    minutes = np.arange(ns("2017-12-20")[0], ns("2018-01-05")[0], 60 * 10**9)
    for session in (FX_SESSION, METAL_SESSION):
        counted = int(session.is_open(minutes).sum()) * 60 * 10**9
        assert session.open_ns_between(minutes[:1], minutes[-1:] + 60 * 10**9).tolist() == [counted]


def test_an_ordinary_week():
    start, end = ns("2017-02-05", "2017-02-12")
    assert FX_SESSION.open_ns_between(np.array([start]), np.array([end]))[0] == 5 * DAY_NS
    assert METAL_SESSION.open_ns_between(np.array([start]), np.array([end]))[0] == 5 * 23 * HOUR_NS
    week = ["2017-02-05 22:00", "2017-02-10 22:00", "2017-02-12 22:00", "2017-02-17 22:00"]
    assert {text(edge) for edge in FX_SESSION.edges(start, end)} >= set(week)
    assert text(METAL_SESSION.edges(start, end)[METAL_SESSION.edges(start, end) > ns("2017-02-07 12:00")[0]][0]) == (
        "2017-02-07 22:00"
    )
    assert METAL_SESSION.open_share(Timeframe.D1) == pytest.approx(23 / 24)
    assert FX_SESSION.open_share(Timeframe.W1) == pytest.approx(5 / 7)


@pytest.mark.parametrize("session", [FX_SESSION, METAL_SESSION])
def test_takes_no_times_too(session: Session):
    none = np.zeros(0, dtype=np.int64)
    assert len(session.is_open(none)) == 0
    assert len(session.may_trade(none)) == 0
    assert len(session.open_ns_between(none, none)) == 0


def test_real_bars_lie_inside(sample_bars, exports):
    for (symbol, timeframe), bars in {("EURUSD", "H1"): sample_bars, **exports}.items():
        session = METAL_SESSION if symbol.startswith("XAU") else FX_SESSION
        assert session.may_contain(bars["time"].to_numpy(), Timeframe(timeframe)).all(), (symbol, timeframe)
