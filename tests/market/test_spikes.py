import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.market.spikes import SPIKE_ROWS_MAX, local_median, spikes
from fx_dagster.settings import ValidationSettings

RULES = ValidationSettings()
QUIET = 5e-5


def walk(rows: int = 400, seed: int = 3, step: float = 2e-5) -> np.ndarray:
    return 1.1 + np.cumsum(np.random.default_rng(seed).normal(0, step, rows))


def found(price: np.ndarray, continuous: np.ndarray | None = None) -> list[int]:
    every = np.ones(len(price), dtype=np.bool_) if continuous is None else continuous
    return np.flatnonzero(spikes(price, every, QUIET, RULES)).tolist()


@pytest.mark.parametrize("length", range(1, SPIKE_ROWS_MAX + 1))
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("at", [20, 200, 390])
def test_finds_a_price_that_leaves_and_comes_back(length: int, sign: int, at: int):
    price = walk()
    price[at : at + length] += sign * 0.01
    assert found(price) == list(range(at, at + length))


def test_keeps_a_jump_that_stays():
    price = walk()
    price[200:] += 0.05
    assert found(price) == []


def test_keeps_a_price_that_stays_away_longer():
    price = walk()
    price[200 : 200 + SPIKE_ROWS_MAX + 1] += 0.05
    assert found(price) == []


def test_keeps_a_jump_of_which_half_is_taken_back():
    price = walk()
    price[200:] += 0.02
    price[201:] -= 0.01
    assert found(price) == []


def test_keeps_a_spike_that_nothing_has_refuted_yet():
    price = walk()
    price[-1] += 0.05
    assert found(price) == []


def test_finds_a_first_price_that_is_wrong():
    price = walk()
    price[0] *= 10
    assert found(price) == [0]


def test_finds_many_spikes_and_not_the_prices_between_them():
    price = walk()
    bad = [100, 102, 104, 107, 250, 300]
    price[bad] -= 0.02
    assert found(price) == bad


def test_finds_a_spike_right_after_a_jump_that_stays():
    price = walk()
    price[200:] += 0.05
    price[215] += 0.05
    assert found(price) == [215]


def test_volatility_decides_what_is_unusual():
    calm, wild = walk(step=2e-5), walk(step=2e-3)
    calm[200] += 0.004
    wild[200] += 0.004
    assert found(calm) == [200]
    assert found(wild) == []


def test_a_bars_extreme_is_believed_unless_no_market_moves_so():
    price = walk()
    inside = np.ones(len(price), dtype=np.bool_)
    inside[199:203] = False
    crash, misprint = price.copy(), price.copy()
    crash[200] *= 0.92
    misprint[200] /= 10
    assert found(crash, inside) == []
    assert found(misprint, inside) == [200]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(0, 300), step=st.floats(1e-6, 1e-3))
def test_a_random_walk_holds_none(seed: int, rows: int, step: float):
    assert found(walk(rows, seed, step)) == []


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(0, 10), min_size=1, max_size=60), window=st.integers(1, 20), data=st.data())
def test_local_median_looks_back_only(values: list[float], window: int, data: st.DataObject):
    row = data.draw(st.integers(0, len(values) - 1))
    median = local_median(np.array(values), np.array([row]), window)[0]
    before = values[row - window : row] if row >= window else values[: min(window, len(values))]
    if row < window and row + window > len(values):
        before = values[:window]
    assert median == pytest.approx(np.median(before))


def test_takes_no_rows():
    assert local_median(np.zeros(0), np.zeros(0, dtype=np.intp), 5).tolist() == []
    assert found(np.array([1.1, 5.0])) == []
