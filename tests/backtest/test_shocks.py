"""A shock changes what it says, from its first bar on, and leaves the rest alone."""

import numpy as np
import pytest

from fx_dagster.backtest.prepare import prepare
from fx_dagster.backtest.shocks import rows_of_an_hour, with_common_move, with_gap, with_silence, with_spread
from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import HOUR_NS, Timeframe

PAIR = ("EURUSD", "GBPUSD")
FOLLOWING = ("atr", "volatility_short", "volatility_long", "spread_median", "agreement", "correlation_shift")
ROW = 700


def same(rows, others):
    return all(np.array_equal(rows[name], others[name], equal_nan=True) for name in rows.dtype.names)


@pytest.fixture
def history(make_history):
    return make_history(*PAIR, whole=True)


SHOCKS = {
    "gap": lambda history: with_gap(history, ROW, np.array([-0.02, 0.01])),
    "spread": lambda history: with_spread(history, ROW, ROW + 24, 10.0),
    "common": lambda history: with_common_move(history, ROW, ROW + 120, 0),
    "silence": lambda history: with_silence(history, ROW, ROW + 2, np.array([0.02, 0.0])),
}


@pytest.mark.parametrize("name", SHOCKS)
def test_nothing_before_it_changes_and_the_given_history_never(history, name):
    bars, inputs = history.market.bars.copy(), history.market.inputs.copy()
    shocked = SHOCKS[name](history).market
    assert same(shocked.bars[:ROW], bars[:ROW])
    assert same(shocked.inputs[:ROW], inputs[:ROW])
    assert not same(shocked.bars, bars)
    assert same(history.market.bars, bars)
    assert same(history.market.inputs, inputs)
    np.testing.assert_array_equal(shocked.time, history.market.time)


@pytest.mark.parametrize("name", SHOCKS)
def test_what_was_voted_and_said_stays(history, name):
    shocked, active = SHOCKS[name](history).market.inputs, SHOCKS[name](history).market.inputs["active"]
    for field in ("votes", "p_up", "confidence", "size", "timing", "regime", "market_open", "bar_time"):
        np.testing.assert_array_equal(shocked[field][active], history.market.inputs[field][active])


@pytest.mark.parametrize("name", SHOCKS)
def test_bars_stay_bars_and_quotes_follow_them(history, name):
    market = SHOCKS[name](history).market
    bars, inputs = market.bars, market.inputs
    active = inputs["active"]
    assert (bars["low"] <= np.minimum(bars["open"], bars["close"]) + 1e-12)[active].all()
    assert (bars["high"] >= np.maximum(bars["open"], bars["close"]) - 1e-12)[active].all()
    np.testing.assert_array_equal(inputs["bid"], bars["close"])
    np.testing.assert_array_equal(inputs["ask"], bars["close"] + bars["spread"])
    np.testing.assert_array_equal(active, np.isfinite(bars["close"]))


@pytest.mark.parametrize("name", SHOCKS)
def test_what_follows_from_bars_is_what_these_bars_give(history, make_bars, make_symbol_history, name):
    """Prepared anew from the shocked bars, the inputs are the same (where bars are gone, as if they never came)."""
    market = SHOCKS[name](history).market
    frames = {}
    for i, symbol in enumerate(PAIR):
        frame = make_bars(symbol, 2_000, 1 + 10 * i)
        for field in ("open", "high", "low", "close"):
            frame[field] = market.bars[field][:, i]
        frame["spread"] = market.bars["spread"][:, i] / history.instruments[i].point
        kept = frame[np.isfinite(frame["close"])].reset_index(drop=True)
        frames[symbol] = make_symbol_history(kept, None)
    again = prepare(frames, Timeframe.H1).market
    active = market.inputs["active"].all(axis=1)
    for field in ("bid", "ask", "conversion", *FOLLOWING[:4]):
        np.testing.assert_allclose(market.inputs[field][active], again.inputs[field], rtol=1e-9, err_msg=field)
    if name != "silence":
        shift = market.inputs["correlation_shift"], again.inputs["correlation_shift"]
        np.testing.assert_allclose(*shift, rtol=1e-9)


def test_a_gap_is_a_jump_and_then_the_same_moves(history):
    close, shocked = history.market.bars["close"], SHOCKS["gap"](history).market.bars["close"]
    np.testing.assert_allclose(shocked[ROW:] / close[ROW:], np.broadcast_to([0.98, 1.01], close[ROW:].shape))


def test_no_jump_is_no_shock(history):
    shocked = with_gap(history, ROW, np.zeros(2)).market
    assert same(shocked.bars, history.market.bars)
    for name in shocked.inputs.dtype.names:
        np.testing.assert_allclose(
            shocked.inputs[name].astype(float), history.market.inputs[name].astype(float), rtol=1e-12
        )


def test_a_spread_touches_spreads_for_its_rows_alone(history):
    bars, shocked = history.market.bars, SHOCKS["spread"](history).market.bars
    for name in ("open", "high", "low", "close"):
        np.testing.assert_array_equal(shocked[name], bars[name])
    assert (shocked["spread"][ROW : ROW + 24] >= 10 * bars["spread"][ROW : ROW + 24]).all()
    np.testing.assert_array_equal(shocked["spread"][ROW + 24 :], bars["spread"][ROW + 24 :])


def test_a_common_move_has_correlation_one(history):
    market = SHOCKS["common"](history).market
    returns = np.diff(np.log(market.bars["close"]), axis=0)[ROW - 1 :]
    assert np.corrcoef(returns[:120].T)[0, 1] == pytest.approx(1.0)
    assert abs(np.corrcoef(returns[121:].T)[0, 1]) < 0.5
    before = np.diff(np.log(history.market.bars["close"]), axis=0)[ROW - 1 :]
    np.testing.assert_allclose(returns[:120, 0], before[:120, 0], atol=1e-12)
    np.testing.assert_allclose(returns[120:], before[120:], atol=1e-12)
    shift = market.inputs["correlation_shift"]
    assert shift[ROW + 100].min() > history.market.inputs["correlation_shift"][ROW + 100].max()


def test_a_symbol_that_begins_later_moves_in_common_with_none(make_bars, make_symbol_history):
    late = make_bars("GBPUSD", 2_000, 11).iloc[900:].reset_index(drop=True)
    frames = {"EURUSD": make_bars("EURUSD", 2_000, 1), "GBPUSD": late}
    history = prepare({name: make_symbol_history(bars, None) for name, bars in frames.items()}, Timeframe.H1)
    for leader in (0, 1):
        shocked = with_common_move(history, ROW, ROW + 120, leader).market.bars
        np.testing.assert_array_equal(shocked["close"][:, 1], history.market.bars["close"][:, 1])
        assert np.isfinite(shocked["close"][:, 0]).all()


def test_silence_is_no_bar(history):
    market = with_silence(history, ROW, ROW + 1, np.zeros(2)).market
    assert not market.inputs["active"][ROW].any()
    assert np.isnan(market.bars["close"][ROW]).all()
    for name in ("votes", "p_up", "confidence", "size", "timing"):
        assert np.isnan(market.inputs[name][ROW]).all(), name
    assert not market.inputs["regime"][ROW].any()
    assert market.inputs["active"][ROW + 1].all()
    assert np.isfinite(market.inputs["conversion"]).all()


def test_an_hour_has_its_bars(history):
    time = history.market.time
    assert rows_of_an_hour(history, ROW) == ROW + 1
    weekend = int(np.flatnonzero(np.diff(time) > 24 * HOUR_NS)[0])
    assert rows_of_an_hour(history, weekend) == weekend + 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda h: with_gap(h, 0, np.zeros(2)), "rows 0"),
        (lambda h: with_gap(h, 10, np.array([-1.0, 0.0])), "jumps"),
        (lambda h: with_gap(h, 10, np.zeros(1)), "jumps"),
        (lambda h: with_spread(h, 10, 9_999, 2.0), "rows 10"),
        (lambda h: with_spread(h, 10, 11, 0.5), "factor"),
        (lambda h: with_common_move(h, 100, 110, 0), "240 bars"),
        (lambda h: with_silence(h, 1_999, 2_000, np.zeros(2)), "rows 1999"),
    ],
)
def test_impossible_shocks_are_named(history, make, said):
    with pytest.raises(DataError, match=said):
        make(history)


def test_one_symbol_moves_in_common_with_none(make_history):
    with pytest.raises(DataError, match="common"):
        with_common_move(make_history(), ROW, ROW + 5, 0)
