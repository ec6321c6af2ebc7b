from decimal import ROUND_FLOOR, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.sizing import (
    confidence_scale,
    floor_steps,
    kelly,
    kelly_risk,
    lot_grid,
    lots_within,
    stop_points,
    to_grid,
    tradable_steps,
    value_of_distance,
    volatility_scale,
)
from fx_dagster.errors import SettingsError


def lots(equity: float, risk: float, distance: float, contract: float, conversion: float = 1.0) -> float:
    wished = lots_within(equity * risk, value_of_distance(distance, contract, conversion))
    return tradable_steps(wished, 1, 100, 1, 10_000) / 100


def test_every_lot_size_is_floored_as_decimal_would():
    for hundredths in range(1, 10_001):
        assert floor_steps(hundredths / 100, 1, 100) == hundredths
    assert np.floor(0.29 / 0.01) == 28  # what this is for


@settings(max_examples=500, deadline=None)
@given(
    st.floats(min_value=0.0, max_value=1_000.0),
    st.sampled_from(["0.01", "0.001", "0.1", "1", "0.25", "0.05", "5"]),
)
def test_floor_agrees_with_decimal_arithmetic(size, step):
    exact = (Decimal(repr(size)) / Decimal(step)).to_integral_value(ROUND_FLOOR)
    assert floor_steps(size, *lot_grid(float(step))) == int(exact)


@settings(max_examples=200, deadline=None)
@given(st.floats(min_value=0.0, max_value=200.0), st.integers(1, 50), st.integers(50, 5_000))
def test_rounding_never_exceeds_the_wish_or_the_bounds(size, least, most):
    steps = tradable_steps(size, 1, 100, least, most)
    assert steps == 0 or least <= steps <= most
    assert steps / 100 <= size


@pytest.mark.parametrize("size", [float("nan"), float("inf"), -1.0, 0.0])
def test_impossible_sizes_are_no_trade(size):
    assert tradable_steps(size, 1, 100, 1, 100) == 0


def test_absurd_sizes_do_not_overflow():
    assert tradable_steps(1e300, 1, 100, 1, 5_000) == 5_000


@pytest.mark.parametrize("step", [0.0, -0.01, float("nan"), float("inf")])
def test_a_lot_step_must_be_a_positive_number(step):
    with pytest.raises(SettingsError, match="lot_step"):
        lot_grid(step)


def test_value_of_a_pip():
    assert value_of_distance(0.0001, 100_000, 1.0) == pytest.approx(10.0)
    assert value_of_distance(0.01, 100_000, 1 / 150) == pytest.approx(6.6667, abs=1e-4)
    assert value_of_distance(0.0001, 100_000, 1.27) == pytest.approx(12.70)


def test_one_percent_of_ten_thousand_dollars():
    assert lots(10_000, 0.01, 0.0050, 100_000) == 0.20
    assert lots(10_000, 0.01, 12.34, 100) == 0.08
    assert lots(100, 0.01, 0.0050, 100_000) == 0.0


def test_kelly_examples():
    assert kelly(0.55, 1.0) == pytest.approx(0.10)
    assert kelly(0.4, 2.0) == pytest.approx(0.10)
    assert kelly(0.5, 1.0) == 0.0
    assert kelly(0.3, 2.0) == 0.0


def test_small_bets_lead_to_the_continuous_fraction():
    # Mean 0.10 and deviation 0.20 a year as one small step up or down: mu / sigma^2 = 2.5 times the capital.
    for periods in (250, 250_000):
        step = 0.20 / periods**0.5
        assert kelly(0.5 * (1 + 0.10 / 0.20 / periods**0.5), 1.0) / step == pytest.approx(2.5)


@pytest.mark.parametrize(("share", "power"), [(1.0, 1.0), (0.5, 3.0), (0.25, 7.0)])
def test_the_chance_of_ever_falling_to_a_part_of_the_capital(share, power):
    # It is x ** (2 / c - 1) at a share c of Kelly: that power of wealth is then a fair game.
    stake = share * kelly(0.505, 1.0)
    assert 2 / share - 1 == power
    assert 0.505 * (1 + stake) ** -power + 0.495 * (1 - stake) ** -power == pytest.approx(1.0, abs=1e-7)


def test_kelly_from_trades_is_shrunk_and_needs_enough_of_them():
    # 60 wins of 1 R, 40 losses of 1 R: full Kelly 0.2, a quarter of it, shrunk by 100 / (100 + 30).
    assert kelly_risk(100, 60, 60.0, 40.0, 30, 0.25) == pytest.approx(0.25 * 0.2 * 100 / 130)
    assert kelly_risk(29, 29, 60.0, 0.0, 30, 0.25) == 0.0
    assert kelly_risk(100, 40, 40.0, 60.0, 30, 0.25) == 0.0
    assert kelly_risk(100, 0, 0.0, 100.0, 30, 0.25) == 0.0
    # The same results at half the risk are bets of half the size: twice the risk.
    assert kelly_risk(100, 60, 30.0, 20.0, 30, 0.25) == pytest.approx(2 * kelly_risk(100, 60, 60.0, 40.0, 30, 0.25))


@settings(max_examples=100, deadline=None)
@given(st.integers(30, 500), st.data())
def test_kelly_never_pays_for_a_worse_record(trades, data):
    wins = data.draw(st.integers(1, trades - 1))
    better = kelly_risk(trades, wins + 1, float(wins + 1), float(trades - wins - 1), 30, 0.25)
    worse = kelly_risk(trades, wins, float(wins), float(trades - wins), 30, 0.25)
    assert 0.0 <= worse <= better


def test_scales():
    assert volatility_scale(0.20, 0.10, 0.25, 2.0) == 0.5
    assert volatility_scale(0.01, 0.10, 0.25, 2.0) == 2.0
    assert volatility_scale(float("nan"), 0.10, 0.25, 2.0) == 1.0
    assert confidence_scale(0.8, 1.5, 2.0) == pytest.approx(1.2)
    assert confidence_scale(1.0, 3.0, 2.0) == 2.0
    assert confidence_scale(float("nan"), 1.5, 2.0) == 0.0


def test_prices_lie_on_the_grid_as_decimals():
    assert to_grid(1.123456789, 0.00001) == 1.12346
    assert to_grid(1_234.567, 0.01) == 1_234.57
    assert to_grid(1_234.4, 1.0) == 1_234.0


def test_stop_distance_keeps_the_regimes_limit():
    assert stop_points(0.0100, 2.0, 1.10, 0.01, 0.00001) == 1_100
    assert stop_points(0.0010, 2.0, 1.10, 0.01, 0.00001) == 200
    assert stop_points(float("nan"), 2.0, 1.10, 0.01, 0.00001) == 0
