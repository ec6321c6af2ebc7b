import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS, INDICATOR_NAMES
from fx_dagster.indicators.votes import votes, warm
from fx_dagster.market.timeframes import Timeframe

D1 = Timeframe.D1
TREND = ["sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "macd", "trend_correlation", "volume_weighted"]
PRICES = ["open", "high", "low", "close"]


def cast(bars):
    return votes(compute_indicators({D1: bars}, D1), bars["close"].to_numpy())


def named(row):
    return dict(zip(INDICATOR_NAMES, row, strict=True))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(["walk", "jumps", "stops", "one_tick", "silent", "flat"]))
def test_votes_stay_in_range_and_are_0_while_warming_up(make_bars, seed, style):
    bars = make_bars(500, seed=seed, base=D1, style=style)
    cast_votes = cast(bars)
    assert cast_votes.shape == (500, 13)
    assert np.abs(cast_votes).max() <= 1.0
    assert (cast_votes[0] == 0.0).all()
    ready = warm(compute_indicators({D1: bars}, D1))
    assert not ready[:199].any()
    assert ready[199:].all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), power=st.integers(-6, 12))
def test_votes_do_not_depend_on_the_unit_of_price(make_bars, seed, power):
    bars = make_bars(400, seed=seed, base=D1)
    scaled = bars.copy()
    scaled[PRICES] *= 2.0**power
    np.testing.assert_array_equal(cast(scaled), cast(bars))


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_a_market_upside_down_votes_the_other_way(make_bars, seed):
    bars = make_bars(400, seed=seed, base=D1)
    mirrored = bars.copy()
    # Dyadic prices: turning them upside down around 4 rounds nothing.
    bars[PRICES] = np.round(bars[PRICES] * 2**20) / 2**20
    mirrored[["open", "low", "high", "close"]] = 4.0 - bars[PRICES].to_numpy()
    np.testing.assert_allclose(cast(mirrored)[199:], -cast(bars)[199:], atol=1e-6)


def test_a_steady_rise_is_followed_by_trends_and_faded_by_oscillators(make_bars):
    bars = make_bars(300, base=D1)
    steps = 1.0 + 0.001 * np.arange(300)
    for name, offset in (("open", -0.0005), ("high", 0.0005), ("low", -0.001), ("close", 0.0)):
        bars[name] = steps + offset
    last = named(cast(bars)[-1])
    assert all(last[name] > 0.3 for name in TREND)
    assert last["rsi_14"] < -0.7
    assert last["bollinger"] < -0.5


def test_a_cross_of_macd_and_signal_changes_the_sign_of_the_vote(make_bars):
    bars = make_bars(400, base=D1)
    frame = compute_indicators({D1: bars}, D1)
    cross = np.sign((frame["macd"] - frame["macd_signal"]).to_numpy()[40:])
    assert (np.sign(cast(bars)[40:, INDICATOR_NAMES.index("macd_signal")]) == cross).all()


def test_a_break_of_three_atr_votes_and_an_ordinary_bar_hardly_does():
    columns = {name: np.ones(3) for name in INDICATOR_COLUMNS} | {"atr_move": np.array([3.0, -3.0, 0.3])}
    up, down, ordinary = votes(columns, np.ones(3))[:, INDICATOR_NAMES.index("atr_14")]
    assert up > 0.9
    assert down == -up
    assert abs(ordinary) < 0.05


def test_support_and_resistance_vote_for_a_bounce():
    columns = {name: np.ones(3) for name in INDICATOR_COLUMNS}
    columns |= {"atr_14": np.full(3, 0.01), "support": np.full(3, 1.0), "resistance": np.full(3, 1.1)}
    on_support, between, on_resistance = votes(columns, np.array([1.0, 1.05, 1.1]))[:, -1]
    assert on_support > 0.9
    assert between == pytest.approx(0.0, abs=1e-9)
    assert on_resistance < -0.9


def test_missing_columns_and_other_rows_are_refused(make_bars):
    bars = make_bars(30, base=D1)
    frame = compute_indicators({D1: bars}, D1)
    with pytest.raises(DataError, match="column 'support' is missing"):
        votes(frame.drop(columns="support"), bars["close"].to_numpy())
    with pytest.raises(DataError, match="differ in length"):
        votes(frame, bars["close"].to_numpy()[1:])
