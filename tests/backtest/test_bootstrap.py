import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.backtest.bootstrap import WORTH, block_length, resampled_rows, resampled_worth, worth
from fx_dagster.backtest.metrics import max_drawdown, sharpe, sortino

SOME = settings(max_examples=20, deadline=None)


def table(returns, seed=0):
    rng = np.random.default_rng(seed)
    trades = rng.integers(0, 3, len(returns))
    return np.column_stack([returns, trades, rng.binomial(trades, 0.5)])


@SOME
@given(st.integers(0, 1_000), st.integers(2, 200))
def test_a_path_is_worth_what_the_metrics_say(seed, rows):
    returns = np.random.default_rng(seed).normal(0, 0.01, rows)
    found, curve = worth(table(returns)), np.cumprod(1 + returns)
    assert found["net_return"] == pytest.approx(curve[-1] - 1)
    assert found["mean_annual_return"] == pytest.approx(returns.mean() * 252)
    assert found["sharpe"] == pytest.approx(sharpe(returns))
    assert found["sortino"] == pytest.approx(sortino(returns), nan_ok=True)
    assert found["max_drawdown"] == pytest.approx(max_drawdown(curve, 1.0))
    assert found["trades"] == table(returns)[:, 1].sum()


def test_under_water_is_the_longest_run_below_a_peak():
    assert worth(table(np.array([0.1, -0.1, 0.02, 0.05, 0.2, -0.1])))["under_water"] == 3
    assert worth(table(np.array([0.1, 0.1])))["under_water"] == 0
    assert worth(table(np.array([-0.1, 0.01])))["under_water"] == 2


@SOME
@given(st.integers(5, 300), st.floats(1.0, 60.0), st.integers(0, 1_000))
def test_rows_are_rows_in_runs(rows, block, seed):
    drawn = list(resampled_rows(rows, block=block, samples=20, seed=seed))
    assert all(len(one) == rows and one.min() >= 0 and one.max() < rows for one in drawn)
    again = list(resampled_rows(rows, block=block, samples=20, seed=seed))
    np.testing.assert_array_equal(drawn, again)


def test_blocks_have_the_mean_length_that_was_asked_for():
    drawn = np.array(list(resampled_rows(2_000, block=10.0, samples=50, seed=1)))
    breaks = (np.diff(drawn, axis=1) % 2_000 != 1).mean()
    assert breaks == pytest.approx(0.1, rel=0.05)


@SOME
@given(st.floats(-0.02, 0.02), st.integers(30, 120))
def test_constant_returns_have_no_spread(value, rows):
    constant = np.column_stack([np.full(rows, value), np.ones(rows), np.ones(rows)])
    assert block_length(constant[:, 0]) == 1.0
    (found,) = resampled_worth([constant], block=3.0, samples=20, seed=1)
    for name in WORTH:
        assert np.ptp(found[name]) == 0.0 or np.isnan(found[name]).all(), name


def test_tables_are_resampled_together():
    returns = np.random.default_rng(1).normal(0, 0.01, 100)
    first, second = resampled_worth([table(returns), table(returns)], block=5.0, samples=30, seed=2)
    for name in WORTH:
        np.testing.assert_array_equal(first[name], second[name])
    assert np.ptp(first["net_return"]) > 0


def test_what_hangs_together_asks_for_longer_blocks():
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 1, 1_000)
    slow = np.empty(1_000)
    slow[0] = 0.0
    for t in range(1, 1_000):
        slow[t] = 0.9 * slow[t - 1] + noise[t]
    assert block_length(noise) < 8 < block_length(slow) <= 1_000 / 3
    assert block_length(np.column_stack([noise, slow])) == block_length(slow)
    assert block_length(noise, least=9.0) == 9.0
    assert block_length(noise[:10], least=5.0) == pytest.approx(10 / 3)
    assert math.isfinite(block_length(np.empty((0, 1))))
