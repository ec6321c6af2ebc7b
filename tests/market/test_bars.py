import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.market.bars import build_timeframes, resample_bars, ticks_to_bars
from fx_dagster.market.schemas import BAR_SCHEMA, BAR_TYPES, TickFlag, empty_bars, empty_ticks, tick_frame, validate
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, Timeframe, bar_close, bar_open

POINT = 1e-5
quick = settings(max_examples=30, deadline=None)


def ns(text: str) -> int:
    return int(pd.Timestamp(text).as_unit("ns").value)


def random_ticks(seed: int, rows: int, span_ns: int, start: int | None = None) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    start = ns("2017-03-10 03:00") if start is None else start
    time = np.sort(start + rng.integers(0, span_ns, rows))
    bid = np.round(1.1 + np.cumsum(rng.normal(0, 5e-5, rows)), 5)
    return tick_frame(time, bid, bid + rng.integers(1, 30, rows) * POINT, np.zeros(rows), np.zeros(rows))


def slow_bars(ticks: pd.DataFrame, timeframe: Timeframe, until: int) -> pd.DataFrame:
    """Bars by a plain group-by, as the definition says."""
    if ticks.empty:
        return empty_bars()
    opening = bar_open(ticks["time"].to_numpy(), timeframe)
    modelled = (ticks["flags"] & int(TickFlag.MODELLED)) != 0
    grouped = ticks.assign(
        opening=opening, weight=np.where(modelled, ticks["volume"], 1.0), spread=(ticks["ask"] - ticks["bid"]) / POINT
    ).groupby("opening")
    bars = pd.DataFrame(
        {
            "open": grouped["bid"].first(),
            "high": grouped["bid"].max(),
            "low": grouped["bid"].min(),
            "close": grouped["bid"].last(),
            "tick_volume": grouped["weight"].sum(),
            "spread": grouped["spread"].mean(),
        }
    ).rename_axis("time")
    bars = bars.reset_index()
    return bars[bar_close(bars["time"].to_numpy(), timeframe) <= until].reset_index(drop=True).astype(BAR_TYPES)


@quick
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(0, 400),
    span=st.sampled_from([MINUTE_NS, HOUR_NS, DAY_NS, 20 * DAY_NS, 90 * DAY_NS]),
    timeframe=st.sampled_from(list(Timeframe)),
)
def test_agrees_with_the_definition(seed: int, rows: int, span: int, timeframe: Timeframe):
    ticks = random_ticks(seed, rows, span)
    until = int(ticks["time"].iloc[-1]) + 15 * MINUTE_NS if rows else 0
    bars = ticks_to_bars(ticks, timeframe, POINT, complete_until=until)
    pd.testing.assert_frame_equal(bars, slow_bars(ticks, timeframe, until), atol=1e-3, rtol=0, check_exact=False)
    exact = ["time", "open", "high", "low", "close", "tick_volume"]
    pd.testing.assert_frame_equal(bars[exact], slow_bars(ticks, timeframe, until)[exact], check_exact=True)
    validate(bars, BAR_SCHEMA)


@quick
@given(seed=st.integers(0, 10**6), rows=st.integers(1, 500), span_days=st.integers(1, 70))
def test_longer_bars_from_base_bars_are_those_from_ticks(seed: int, rows: int, span_days: int):
    ticks = random_ticks(seed, rows, span_days * DAY_NS)
    until = int(ticks["time"].iloc[-1]) + 3 * DAY_NS
    built = build_timeframes(ticks, Timeframe.M5, POINT, complete_until=until)
    assert list(built) == list(Timeframe.M5.coarser())
    for timeframe, bars in built.items():
        direct = ticks_to_bars(ticks, timeframe, POINT, complete_until=until)
        pd.testing.assert_frame_equal(bars.drop(columns="spread"), direct.drop(columns="spread"), check_exact=True)
        # A mean of means that are kept to a thousandth of a point.
        np.testing.assert_allclose(bars["spread"], direct["spread"], atol=2e-3)


@quick
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(1, 71), max_size=4),
    timeframe=st.sampled_from(["M1", "M15", "H1"]),
)
def test_chunks_give_the_bars_of_the_whole(seed: int, cuts: list[int], timeframe: str):
    start = ns("2017-03-10 03:00")
    ticks = random_ticks(seed, 800, 3 * DAY_NS, start)
    edges = [start, *sorted({start + cut * HOUR_NS for cut in cuts}), start + 3 * DAY_NS]
    parts = []
    for first, last in itertools.pairwise(edges):
        chunk = ticks[(ticks["time"] >= first) & (ticks["time"] < last)].reset_index(drop=True)
        parts.append(ticks_to_bars(chunk, Timeframe(timeframe), POINT, complete_until=last))
    whole = ticks_to_bars(ticks, Timeframe(timeframe), POINT, complete_until=edges[-1])
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), whole, check_exact=True)


@quick
@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 2_000),
    timeframe=st.sampled_from(["M1", "H1", "D1"]),
)
def test_spreads_and_volumes_are_summed_in_the_order_of_the_rows(seed: int, rows: int, timeframe: str):
    ticks = random_ticks(seed, rows, 2 * DAY_NS).assign(volume=np.random.default_rng(seed).random(rows) * 9)
    ticks["flags"] = np.where(np.arange(rows) % 3 == 0, int(TickFlag.MODELLED), 0).astype(np.int32)
    until = int(ticks["time"].iloc[-1]) + 40 * DAY_NS
    built = build_timeframes(ticks, Timeframe(timeframe), POINT, complete_until=until)
    base = built[Timeframe(timeframe)]
    weights = np.where(ticks["flags"] != 0, ticks["volume"], 1.0)
    openings = bar_open(ticks["time"].to_numpy(), Timeframe(timeframe))
    for number, opening in enumerate(base["time"]):
        part = openings == opening
        spread = np.cumsum((ticks["ask"] - ticks["bid"])[part].to_numpy())[-1] / part.sum() / POINT
        assert base["spread"].iloc[number] == np.round(spread, 3)
        assert base["tick_volume"].iloc[number] == np.cumsum(weights[part])[-1]
    month = built[Timeframe.MN1].iloc[0]
    inside = bar_open(base["time"].to_numpy(), Timeframe.MN1) == month["time"]
    volume = np.cumsum(base["tick_volume"][inside])
    weighted = np.cumsum((base["spread"] * base["tick_volume"])[inside])
    assert month["tick_volume"] == volume.iloc[-1]
    assert month["spread"] == np.round(weighted.iloc[-1] / volume.iloc[-1], 3)


def test_what_is_undefined_stays_so(make_ticks):
    ticks = make_ticks([1.1, np.nan, 1.3])
    bars = build_timeframes(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:05"))
    for name in (Timeframe.M1, Timeframe.M5):
        assert bars[name][["high", "low"]].isna().all(axis=None)
        assert bars[name]["close"].tolist() == [1.3]


def test_a_month_of_weeks_waits_for_the_week_that_it_ends_in(make_ticks):
    ticks = make_ticks([1.1, 1.4], time=[ns("2017-01-25 12:00"), ns("2017-01-30 12:00")])
    for until, months in {"2017-02-02": 0, "2017-02-05 21:59": 0, "2017-02-05 22:00": 1}.items():
        built = build_timeframes(ticks, Timeframe.W1, POINT, complete_until=ns(until))
        assert len(built[Timeframe.MN1]) == months


def test_a_bar_of_three_ticks(make_ticks):
    ticks = make_ticks([1.1, 1.3, 1.2], spread=np.array([1e-4, 2e-4, 3e-4]))
    bars = ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:01"))
    assert bars.to_dict("records") == [
        {
            "time": ns("2017-03-15 09:00"),
            "open": 1.1,
            "high": 1.3,
            "low": 1.1,
            "close": 1.2,
            "tick_volume": 3.0,
            "spread": 20.0,
        }
    ]


def test_the_last_bar_is_left_out_until_it_is_known_to_be_closed(make_ticks):
    ticks = make_ticks(np.full(90, 1.1))
    assert len(ticks_to_bars(ticks, Timeframe.M1, POINT)) == 1
    assert len(ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:02") - 1)) == 1
    assert len(ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:02"))) == 2
    assert ticks_to_bars(ticks, Timeframe.H1, POINT).empty
    assert ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=0).empty


def test_a_known_end_long_before_the_last_tick_leaves_out_all_bars_after_it(make_ticks):
    ticks = make_ticks(np.full(7200, 1.1))
    assert len(ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:10"))) == 10


def test_bars_without_ticks_are_not_invented(make_ticks):
    ticks = make_ticks([1.1, 1.2], time=[ns("2017-03-15 09:00"), ns("2017-03-15 11:00")])
    bars = ticks_to_bars(ticks, Timeframe.H1, POINT, complete_until=ns("2017-03-15 12:00"))
    assert bars["time"].tolist() == [ns("2017-03-15 09:00"), ns("2017-03-15 11:00")]


def test_modelled_ticks_count_as_what_they_stand_for(make_ticks):
    flags = np.array([TickFlag.MODELLED, TickFlag.MODELLED, TickFlag.BID])
    ticks = make_ticks([1.1, 1.1, 1.1], volume=np.array([40.0, 2.0, 900.0]), flags=flags)
    bars = ticks_to_bars(ticks, Timeframe.M1, POINT, complete_until=ns("2017-03-15 09:01"))
    assert bars["tick_volume"].tolist() == [43.0]


@pytest.mark.parametrize(
    ("switch", "hours"),
    [("2017-03-12 12:00", [4.0] * 6), ("2017-11-05 12:00", [4.0] * 6), ("2017-03-26 12:00", [4.0] * 6)],
)
def test_the_week_after_a_switch_has_six_whole_h4_bars_a_day(switch: str, hours: list[float]):
    start = ns(switch)
    time = np.arange(start, start + 8 * DAY_NS, 10 * MINUTE_NS)
    ticks = tick_frame(
        time, np.full(len(time), 1.1), np.full(len(time), 1.1001), np.zeros(len(time)), np.zeros(len(time))
    )
    built = build_timeframes(ticks, Timeframe.H1, POINT)
    day = built[Timeframe.D1]["time"].iloc[2]
    h4 = built[Timeframe.H4]["time"]
    inside = h4[(h4 >= day) & (h4 < day + DAY_NS)].to_numpy()
    assert (np.diff(np.append(inside, day + DAY_NS)) / HOUR_NS).tolist() == hours
    assert built[Timeframe.D1]["tick_volume"].iloc[2] == 144


def test_real_hours_make_real_days(exports):
    hourly, daily = exports["XAUUSD", "H1"], exports["XAUUSD", "D1"]
    built = resample_bars(hourly, Timeframe.H1, Timeframe.D1)
    both = built.merge(daily, on="time", suffixes=("", "_source"))
    assert len(both) > 1_500
    np.testing.assert_allclose(both["high"], both["high_source"], atol=0.001)
    np.testing.assert_allclose(both["close"], both["close_source"], atol=0.001)


def test_resampling_to_the_same_timeframe_changes_nothing(sample_bars):
    same = resample_bars(sample_bars, Timeframe.H1, Timeframe.H1)
    pd.testing.assert_frame_equal(same, sample_bars)


def test_no_rows_no_bars():
    for bars in build_timeframes(empty_ticks(), Timeframe.M1, POINT).values():
        pd.testing.assert_frame_equal(bars, empty_bars())


def test_refuses_what_it_cannot_do(make_ticks, sample_bars):
    with pytest.raises(DataError, match="tick row 2 is earlier than the row before → quarantine or sort"):
        ticks_to_bars(make_ticks([1.0, 1.0, 1.0], time=[5, 6, 3]), Timeframe.M1, POINT)
    far_and_back = make_ticks([1.0] * 6, time=[0, 10 * DAY_NS, 20 * DAY_NS, 30 * DAY_NS, 40 * DAY_NS, 5])
    with pytest.raises(DataError, match="tick row 5 is earlier"):
        ticks_to_bars(far_and_back, Timeframe.M1, POINT)
    with pytest.raises(DataError, match="bars of H1 hold no M15"):
        resample_bars(sample_bars, Timeframe.H1, Timeframe.M15)
    with pytest.raises(DataError, match="bar row 1 is earlier"):
        resample_bars(sample_bars.iloc[::-1], Timeframe.H1, Timeframe.D1)
