import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.inputs import (
    LONG_BARS,
    cross_symbol,
    spread_medians,
    trading_day,
    traditional_signals,
    volatilities,
)
from fx_dagster.errors import DataError
from fx_dagster.features.volatility import bars_a_year
from fx_dagster.market.timeframes import Timeframe

RNG = np.random.default_rng(5)
CLOSE = np.exp(np.cumsum(RNG.normal(0, 0.001, size=(600, 3)), axis=0))
SIGNALS = RNG.uniform(-1, 1, size=(600, 3))


def test_volatility_is_the_annualised_root_mean_square_of_log_returns():
    short, long = volatilities(CLOSE[:, 0], Timeframe.H1)
    squares = pd.Series(np.log(CLOSE[:, 0])).diff() ** 2
    np.testing.assert_allclose(short, np.sqrt(squares.rolling(24).mean() * 252 * 24), rtol=1e-9)
    np.testing.assert_allclose(long, np.sqrt(squares.rolling(240).mean() * 252 * 24), rtol=1e-9)


@settings(max_examples=10, deadline=None)
@given(st.integers(LONG_BARS + 1, 599))
def test_the_last_bars_alone_are_enough(end):
    tail = slice(end - LONG_BARS - 1, end)
    for whole, part in zip(volatilities(CLOSE[:end, 0], Timeframe.H1), volatilities(CLOSE[tail, 0], Timeframe.H1),
                           strict=True):  # fmt: skip
        assert whole[-1] == pytest.approx(part[-1], rel=1e-12)
    assert spread_medians(CLOSE[:end, 0])[-1] == spread_medians(CLOSE[tail, 0])[-1]
    for whole, part in zip(cross_symbol(CLOSE[:end], SIGNALS[:end]), cross_symbol(CLOSE[tail], SIGNALS[tail]),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(whole[-1], part[-1], rtol=1e-9)


def test_nothing_looks_ahead():
    before = cross_symbol(CLOSE[:400], SIGNALS[:400])
    changed = CLOSE.copy()
    changed[400:] *= 3
    after = cross_symbol(changed, SIGNALS)
    np.testing.assert_array_equal(before[0], after[0][:400])
    np.testing.assert_array_equal(volatilities(CLOSE[:400, 0], Timeframe.H1)[0],
                                  volatilities(changed[:, 0], Timeframe.H1)[0][:400])  # fmt: skip


def test_medians_use_what_there_is_at_the_start():
    spread = np.array([3.0, 1.0, 2.0])
    np.testing.assert_array_equal(spread_medians(spread), [3.0, 2.0, 2.0])


def test_symbols_that_move_together_agree_and_opposite_ones_contradict():
    returns = RNG.normal(0, 0.001, 400)
    close = np.exp(np.cumsum(np.column_stack([returns, returns, -returns]), axis=0))
    signals = np.tile([0.5, 0.2, 0.3], (400, 1))
    agreement, shift, _ = cross_symbol(close, signals)
    # For the first: the second says up (0.2), the third moves against it and says up, so down (−0.3).
    assert agreement[-1, 0] == pytest.approx((0.2 - 0.3) / 0.5)
    assert shift[-1] == pytest.approx([0.0] * 3, abs=1e-9)
    assert np.isnan(agreement[LONG_BARS - 1]).all()


def test_a_correlation_that_turns_is_a_shift():
    returns = RNG.normal(0, 0.001, 400)
    other = np.where(np.arange(400) < 340, returns, -returns)
    close = np.exp(np.cumsum(np.column_stack([returns, other]), axis=0))
    assert cross_symbol(close, np.zeros((400, 2)))[1][-1].min() > 0.6


def test_a_single_symbol_is_alone():
    agreement, shift, _ = cross_symbol(CLOSE[:, :1], SIGNALS[:, :1])
    assert np.isnan(agreement).all()
    assert np.isnan(shift).all()
    with pytest.raises(DataError, match="differ"):
        cross_symbol(CLOSE, SIGNALS[:, :2])


def test_the_trading_day_turns_at_five_in_new_york():
    def day(text):
        return int(trading_day(np.array([pd.Timestamp(text, tz="America/New_York").value]))[0])

    assert day("2024-01-10 16:59:59") + 1 == day("2024-01-10 17:00:00")
    assert day("2024-07-10 16:59:59") + 1 == day("2024-07-10 17:00:00")
    assert day("2024-03-10 18:00:00") == day("2024-03-11 09:00:00")


def test_bars_a_year():
    assert bars_a_year(Timeframe.H1) == 252 * 24
    assert bars_a_year(Timeframe.D1) == 252
    assert bars_a_year(Timeframe.MN1) == 12


def test_traditional_signals_of_many_rows():
    votes = np.full((2, 13), np.nan)
    votes[0, :2] = 1.0, 0.0
    out = traditional_signals(votes, (1 / 13,) * 13)
    assert out[0] == pytest.approx(0.5)
    assert np.isnan(out[1])
