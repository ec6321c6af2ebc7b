"""The bare replay beside plain Python that does the same, bar by bar."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.backtest.signals import METRICS, TRADE, crossover, replay_targets, sweep_crossovers
from fx_dagster.errors import DataError

SOME = settings(max_examples=25, deadline=None)
COSTS = {"cost_per_side": 2e-5, "slippage": 5e-5, "initial_cash": 1e6}


def prices(rows, seed, digits=5):
    rng = np.random.default_rng(seed)
    close = 1.1 * np.exp(np.cumsum(rng.normal(0, 0.001, rows)))
    opening = np.concatenate([[1.1], close[:-1]]) * (1 + rng.normal(0, 0.0003, rows))
    return opening.round(digits), close.round(digits)


def plain_crossover(close, fast, slow):
    """Exact averages, and the side of the newest crossing."""
    target, before, targets = 0, 0, []
    for i in range(len(close)):
        if i + 1 < max(fast, slow):
            targets.append(0)
            continue
        gap = math.fsum(close[i + 1 - fast : i + 1]) / fast - math.fsum(close[i + 1 - slow : i + 1]) / slow
        side = 0 if abs(gap) <= 1e-9 * close[i] else int(math.copysign(1, gap))
        if side and before and side != before:
            target = side
        before = side or before
        targets.append(target)
    return targets


def plain_replay(opening, close, target, *, cost_per_side, slippage, initial_cash, spread=0.0, units=None, fill):
    cash, held, curve, profits, entry, paid = initial_cash, 0.0, [], [], 0.0, 0.0
    for i in range(len(close)):
        wanted = target[i] if fill == "close" else (target[i - 1] if i else 0)
        price = close[i] if fill == "close" else opening[i]
        if wanted != np.sign(held):
            if held:
                out = price * (1 - slippage) if held > 0 else (price + spread) * (1 + slippage)
                fee = abs(held) * out * cost_per_side
                profits.append(held * (out - entry) - paid - fee)
                cash, held = cash + held * out - fee, 0.0
            if wanted and cash > 0:
                entry = (price + spread) * (1 + slippage) if wanted > 0 else price * (1 - slippage)
                size = units or cash / (entry * (1 + cost_per_side))
                paid, held = size * entry * cost_per_side, wanted * size
                cash -= held * entry + paid
        curve.append(cash + held * (close[i] + (spread if held < 0 else 0.0)))
    return np.array(curve), profits


@SOME
@given(st.integers(0, 1_000), st.integers(1, 12), st.integers(1, 40), st.sampled_from([2, 5]))
def test_a_crossover_is_that_of_exact_averages(seed, fast, slow, digits):
    _, close = prices(200, seed, digits)
    assert crossover(close, fast, slow).tolist() == plain_crossover(close.tolist(), fast, slow)


@SOME
@given(
    st.integers(0, 1_000), st.sampled_from(["close", "next_open"]), st.sampled_from([None, 1.0, 5e5]),
    st.sampled_from([0.0, 0.0002]),
)  # fmt: skip
def test_a_replay_ends_with_the_money_of_plain_python(seed, fill, units, spread):
    opening, close = prices(300, seed)
    target = crossover(close, 3, 9)
    found = replay_targets(opening, close, target, spread=spread, units=units, fill=fill, **COSTS)
    curve, profits = plain_replay(opening, close, target, spread=spread, units=units, fill=fill, **COSTS)
    np.testing.assert_allclose(found.equity, curve, rtol=1e-12)
    np.testing.assert_allclose(found.trades["profit"], profits, rtol=1e-7, atol=1e-6)
    assert found.metrics["final_value"] == pytest.approx(curve[-1], rel=1e-12)


def test_metrics_are_those_of_the_curve():
    opening, close = prices(500, 3)
    found = replay_targets(opening, close, crossover(close, 5, 20), **COSTS)
    whole = pd.Series(np.concatenate([[COSTS["initial_cash"]], found.equity]))
    moved = whole.pct_change().dropna()
    assert tuple(found.metrics) == METRICS
    assert found.metrics["net_return"] == pytest.approx(found.equity[-1] / 1e6 - 1)
    assert found.metrics["max_drawdown"] == pytest.approx((1 - whole / whole.cummax()).max())
    assert found.metrics["sharpe_a_bar"] == pytest.approx(moved.mean() / moved.std())
    assert found.metrics["trades"] == len(found.trades) > 5
    assert found.metrics["win_rate"] == pytest.approx((found.trades["profit"] > 0).mean())
    assert found.trades.dtype == TRADE


def test_nothing_is_filled_at_the_price_that_decided_unless_asked():
    opening, close = prices(300, 1)
    target = crossover(close, 3, 9)
    turns = np.flatnonzero(np.diff(target)) + 1
    later = replay_targets(opening, close, target).trades
    same = replay_targets(opening, close, target, fill="close").trades
    np.testing.assert_array_equal(later["entry_row"], turns[: len(later)] + 1)
    np.testing.assert_array_equal(later["entry_price"], opening[turns[: len(later)] + 1])
    np.testing.assert_array_equal(same["entry_price"], close[turns[: len(same)]])


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_sweep_is_its_single_replays_in_order(threads):
    opening, close = prices(400, 7)
    fasts, slows = [3, 5, 20, 8, 5], [9, 20, 5, 8, 50]
    table = sweep_crossovers(opening, close, fasts, slows, spread=0.0001, threads=threads, **COSTS)
    assert table[["fast", "slow"]].to_numpy().tolist() == [list(pair) for pair in zip(fasts, slows, strict=True)]
    for row, (fast, slow) in enumerate(zip(fasts, slows, strict=True)):
        alone = replay_targets(opening, close, crossover(close, fast, slow), spread=0.0001, **COSTS).metrics
        assert table.loc[row, list(METRICS)].to_dict() == pytest.approx(alone, rel=0, abs=0, nan_ok=True)


def test_a_spread_a_bar_of_one_number_is_that_number():
    opening, close = prices(300, 2)
    target = crossover(close, 3, 9)
    one = replay_targets(opening, close, target, spread=0.0002).equity
    np.testing.assert_array_equal(one, replay_targets(opening, close, target, spread=np.full(300, 0.0002)).equity)
    assert one[-1] < replay_targets(opening, close, target).equity[-1]


def test_an_account_without_money_opens_nothing_more():
    close = np.array([1.0, 1.0, 3.0, 1.0, 1.0, 2.0])
    found = replay_targets(close, close, [-1, -1, 0, 1, -1, -1], fill="close")
    assert found.equity[-1] == found.equity[2] < 0
    assert len(found.trades) == 1


def test_without_any_crossing_nothing_happens():
    rising = np.linspace(1.0, 2.0, 100)
    assert not crossover(rising, 5, 20).any()
    found = replay_targets(rising, rising, crossover(rising, 5, 20), **COSTS)
    assert (found.equity == COSTS["initial_cash"]).all()
    assert math.isnan(found.metrics["sharpe_a_bar"])
    assert math.isnan(found.metrics["win_rate"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"close": [1.0, math.nan, 1.0]}, "close, row 1"),
        ({"opening": [1.0, 1.0]}, "2 opens"),
        ({"target": [0, 2, 0]}, "not −1, 0 or"),
        ({"spread": -1.0}, "spread"),
        ({"units": 0.0}, "units"),
        ({"slippage": 1.0}, "slippage"),
        ({"initial_cash": math.inf}, "initial_cash"),
    ],
)
def test_impossible_studies_are_named(changes, said):
    given_ = {"opening": [1.0] * 3, "close": [1.0] * 3, "target": [0, 1, 0]} | changes
    with pytest.raises(DataError, match=said):
        replay_targets(**given_)


def test_windows_lie_within_the_bars():
    with pytest.raises(DataError, match="windows lie"):
        crossover([1.0, 2.0], 1, 3)
    with pytest.raises(DataError, match="2 fast and 1 slow"):
        sweep_crossovers([1.0, 2.0], [1.0, 2.0], [1, 1], [2])
