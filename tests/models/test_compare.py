import math

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.compare import compare_losses, compare_models, log_losses

MOMENTS, HORIZON = 2_000, 12


def overlapping(rng: np.random.Generator, moments: int = MOMENTS) -> np.ndarray:
    """Return noise that hangs together over the horizon, as losses of overlapping labels do."""
    return np.convolve(rng.standard_normal(moments + HORIZON - 1), np.ones(HORIZON), mode="valid")


def test_losses_are_those_of_the_likelihood() -> None:
    assert log_losses(np.array([1, 0], np.int8), np.array([0.8, 0.8])) == pytest.approx(
        [-math.log(0.8), -math.log(0.2)]
    )


def test_equal_models_are_found_different_about_as_often_as_the_level_says() -> None:
    time, found = np.arange(MOMENTS), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        p = compare_losses("a", "b", overlapping(rng), overlapping(rng), time, horizon_bars=HORIZON).p_value
        found.append(p < 0.05)
    # Without the lags it would be about a half.
    assert 0.01 <= np.mean(found) <= 0.12


def test_a_better_model_is_found() -> None:
    rng = np.random.default_rng(1)
    common = overlapping(rng)
    result = compare_losses(
        "a", "b", common, common + 0.1 + 0.1 * rng.standard_normal(MOMENTS), np.arange(MOMENTS), horizon_bars=HORIZON
    )
    assert result.difference == pytest.approx(-0.1, abs=0.02)
    assert result.statistic < -5
    assert result.p_value < 1e-6


def test_symbols_of_one_moment_count_once() -> None:
    rng = np.random.default_rng(2)
    a, b, time = overlapping(rng), overlapping(rng), np.arange(MOMENTS)
    once = compare_losses("a", "b", a, b, time, horizon_bars=HORIZON)
    twice = compare_losses("a", "b", np.tile(a, 5), np.tile(b, 5), np.tile(time, 5), horizon_bars=HORIZON)
    assert twice.moments == MOMENTS
    assert twice.p_value == pytest.approx(once.p_value)


def test_every_pair_and_the_coin() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(MOMENTS) < 0.5).astype(np.int8)
    said = {"knows": np.where(y == 1, 0.6, 0.4), "guesses": rng.uniform(0.3, 0.7, MOMENTS)}
    found = {(row.a, row.b): row for row in compare_models(y, said, np.arange(MOMENTS), horizon_bars=HORIZON)}
    assert set(found) == {("knows", "guesses"), ("knows", "coin"), ("guesses", "coin")}
    assert found["knows", "coin"].difference < 0
    assert found["guesses", "coin"].difference > 0


def test_the_same_losses_have_no_test() -> None:
    same = np.ones(MOMENTS)
    assert math.isnan(compare_losses("a", "b", same, same, np.arange(MOMENTS), horizon_bars=HORIZON).p_value)


@pytest.mark.parametrize(
    ("a", "b"), [(np.ones(3), np.ones(2)), (np.ones(0), np.ones(0)), (np.full(40, np.nan), np.ones(40))]
)
def test_impossible_losses_are_named(a: np.ndarray, b: np.ndarray) -> None:
    with pytest.raises(TrainingError, match="a and b"):
        compare_losses("a", "b", a, b, np.arange(len(a)), horizon_bars=HORIZON)
