import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.market.bars import build_timeframes, ticks_to_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import TICK_SCHEMA, TickFlag, empty_bars, empty_ticks, validate
from fx_dagster.market.tick_model import model_spread, model_ticks
from fx_dagster.market.timeframes import MINUTE_NS, Timeframe, bar_close, bar_open
from fx_dagster.market.validation import split_ticks
from fx_dagster.settings import ValidationSettings

BASES = [Timeframe.M1, Timeframe.M5, Timeframe.M15, Timeframe.M30, Timeframe.H1, Timeframe.H4, Timeframe.D1]


def ns(text: str) -> int:
    return int(pd.Timestamp(text).as_unit("ns").value)


@st.composite
def bars_of(draw: st.DrawFn) -> tuple[pd.DataFrame, Timeframe, str]:
    """Any sane bars: prices on the symbol's grid, counts and mean spreads of any size."""
    symbol = draw(st.sampled_from(["EURUSD", "USDJPY", "XAUUSD", "USDTRY"]))
    timeframe = draw(st.sampled_from(BASES))
    rows = draw(st.integers(1, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10**9)))
    point = instrument(symbol).point
    start = draw(st.integers(ns("2010-01-01"), ns("2030-01-01")))
    time = np.unique(bar_open(start + np.arange(rows, dtype=np.int64) * timeframe.nominal_ns, timeframe))
    prices = np.sort(rng.integers(20_000, 4_000_000, (len(time), 4)), axis=1)
    middle = rng.permuted(prices[:, 1:3], axis=1)
    digits = instrument(symbol).digits
    quote = {"open": middle[:, 0], "high": prices[:, 3], "low": prices[:, 0], "close": middle[:, 1]}
    bars = pd.DataFrame({"time": time, **{name: np.round(value * point, digits) for name, value in quote.items()}})
    volume = rng.choice([1.0, 2.0, 3.0, 4.0, 57.0, 143_539_993.3, 1e12 / 3, 0.0], len(time))
    return bars.assign(tick_volume=volume, spread=np.round(rng.uniform(0.001, 900, len(time)), 3)), timeframe, symbol


@settings(max_examples=80, deadline=None)
@given(given_bars=bars_of())
def test_the_same_bars_come_back(given_bars: tuple[pd.DataFrame, Timeframe, str]):
    bars, timeframe, symbol = given_bars
    ticks = model_ticks(bars, timeframe, None, instrument(symbol))
    until = int(bar_close(bars["time"].to_numpy()[-1:], timeframe)[0])
    rebuilt = ticks_to_bars(ticks, timeframe, instrument(symbol).point, complete_until=until)
    pd.testing.assert_frame_equal(rebuilt, bars, check_exact=True)
    validate(ticks, TICK_SCHEMA)


@settings(max_examples=30, deadline=None)
@given(given_bars=bars_of())
def test_ticks_lie_inside_their_bars_in_order(given_bars: tuple[pd.DataFrame, Timeframe, str]):
    bars, timeframe, symbol = given_bars
    ticks = model_ticks(bars, timeframe, None, instrument(symbol))
    assert len(ticks) == 4 * len(bars)
    assert (np.diff(ticks["time"]) > 0).all()
    np.testing.assert_array_equal(bar_open(ticks["time"].to_numpy(), timeframe), np.repeat(bars["time"], 4))
    assert (ticks["flags"] & int(TickFlag.MODELLED) != 0).all()
    assert (ticks["flags"] & int(TickFlag.IMPOSSIBLE) == 0).all()


def test_a_year_of_real_bars_comes_back(sample_bars):
    ticks = model_ticks(sample_bars, Timeframe.H1, None, instrument("EURUSD"))
    until = int(sample_bars["time"].iloc[-1]) + 60 * MINUTE_NS
    built = build_timeframes(ticks, Timeframe.H1, 1e-5, complete_until=until)
    pd.testing.assert_frame_equal(built[Timeframe.H1], sample_bars, check_exact=True)


def test_real_exports_come_back(exports):
    for (symbol, name), bars in exports.items():
        timeframe, known = Timeframe(name), instrument(symbol)
        ticks = model_ticks(bars, timeframe, None, known)
        until = int(bar_close(bars["time"].to_numpy()[-1:], timeframe)[0])
        rebuilt = ticks_to_bars(ticks, timeframe, known.point, complete_until=until)
        pd.testing.assert_frame_equal(rebuilt.drop(columns="spread"), bars.drop(columns="spread"), check_exact=True)
        assert (rebuilt["spread"] >= known.typical_spread_points).all()


def test_extremes_come_in_the_order_of_the_tester(make_bars):
    bars = make_bars([("2017-03-15 09:00", 1.1, 1.4, 1.0, 1.3), ("2017-03-15 10:00", 1.3, 1.4, 1.0, 1.1)])
    ticks = model_ticks(bars, Timeframe.H1, None, instrument("EURUSD"))
    assert ticks["bid"].tolist() == [1.1, 1.0, 1.4, 1.3, 1.3, 1.4, 1.0, 1.1]
    stamps = [stamp.strftime("%H:%M:%S.%f") for stamp in pd.DatetimeIndex(ticks["time"].astype("datetime64[ns]")[:4])]
    assert stamps == ["09:00:00.000000", "09:20:00.000000", "09:40:00.000000", "09:59:59.999000"]


def test_a_given_spread_wins_over_the_bars_own(make_bars):
    bars = make_bars([("2017-03-15 09:00", 1.1, 1.4, 1.0, 1.3, 8.0, 12.0)])
    ticks = model_ticks(bars, Timeframe.H1, np.array([30.0]), instrument("EURUSD"))
    np.testing.assert_allclose(ticks["ask"] - ticks["bid"], 30e-5)
    with pytest.raises(DataError, match="2 spreads for 1 bars"):
        model_ticks(bars, Timeframe.H1, np.array([30.0, 1.0]), instrument("EURUSD"))


def test_a_missing_spread_is_modelled_and_wider_at_rollover(make_bars):
    day = make_bars(
        [(ns("2017-03-15 00:00") + hour * 60 * MINUTE_NS, 1.1, 1.1, 1.1, 1.1, 4.0, 0.0) for hour in range(24)]
    )
    ticks = model_ticks(day, Timeframe.H1, None, instrument("EURUSD"))
    spread = ((ticks["ask"] - ticks["bid"]) / 1e-5).round(6).to_numpy()[::4]
    assert spread[21] == max(spread) == 40.0  # 17:00 New York
    assert spread[13] == min(spread) == 10.0
    assert (spread == np.round(spread)).all()


def test_rollover_follows_new_york():
    summer, winter = (
        model_spread(np.array([ns(text)]), instrument("EURUSD"))[0] for text in ("2017-07-12 21:00", "2017-01-11 22:00")
    )
    assert summer == winter == 40.0


def test_what_is_wrong_stays_wrong_and_shows(make_bars):
    bars = make_bars(
        [
            ("2017-03-15 09:00", 1.1, 1.05, 1.0, 1.02),  # high below open
            ("2017-03-15 10:00", 1.1, 1.2, 1.15, 1.17),  # low above open
            ("2017-03-15 11:00", np.nan, 1.2, 1.0, 1.1),
            ("2017-03-15 12:00", 1.1, 1.2, -1.0, 1.1),
            ("2017-03-15 13:00", 1.1, 1.2, 1.0, 1.1, 4.0, -5.0),
            ("2017-03-15 14:00", 1.1, np.inf, -np.inf, 1.1, np.inf, np.inf),
        ]
    )
    ticks = model_ticks(bars, Timeframe.H1, None, instrument("EURUSD"))
    impossible = (ticks["flags"] & int(TickFlag.IMPOSSIBLE) != 0).to_numpy().reshape(-1, 4)
    assert impossible.all(axis=1).tolist() == [True, True, False, False, False, False]
    assert np.isnan(ticks["bid"].to_numpy()[8:12]).any()
    assert (ticks["bid"].to_numpy()[12:16] < 0).any()
    assert (ticks["ask"] < ticks["bid"]).to_numpy()[16:20].all()
    assert not np.isfinite(ticks["volume"].to_numpy()[20:]).any()
    # And all of it is found.
    bad = split_ticks(ticks, instrument("EURUSD"), ValidationSettings()).bad
    assert set(bad["time"] // (60 * MINUTE_NS)) == set(bars["time"] // (60 * MINUTE_NS))


def test_no_bars_no_ticks_and_no_weeks(make_bars):
    pd.testing.assert_frame_equal(model_ticks(empty_bars(), Timeframe.H1, None, instrument("EURUSD")), empty_ticks())
    with pytest.raises(DataError, match="cannot be modelled from W1 bars"):
        model_ticks(make_bars([("2017-03-12 21:00", 1, 1, 1, 1)]), Timeframe.W1, None, instrument("EURUSD"))
