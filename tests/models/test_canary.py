from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.models.canary import chance_band, independent_labels, random_walk, random_walk_bars, shuffled_labels
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.xgboost import XGBoostModel

Splits = list[tuple[np.ndarray, np.ndarray]]


def bars(count: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    close = 1.1 * np.exp(np.cumsum(rng.normal(0, 1e-3, count)))
    opened = np.concatenate([[1.1], close[:-1]]) * np.exp(rng.normal(0, 1e-4, count))
    high = np.maximum(opened, close) * np.exp(np.abs(rng.normal(0, 5e-4, count)))
    low = np.minimum(opened, close) * np.exp(-np.abs(rng.normal(0, 5e-4, count)))
    return pd.DataFrame(
        {
            "time": np.arange(count),
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "tick_volume": 7.0,
            "spread": 2.0,
        }
    )


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_shuffled_labels_stay_in_the_chance_band(family: str, dataset: Dataset, splits: Splits) -> None:
    result = shuffled_labels(FAMILIES[family], dataset.spec(seed=3, threads=1), dataset, splits)
    assert result.passed
    assert result.kind == "shuffled_labels"
    assert result.high - result.low < 0.15


def test_a_walk_without_signal_passes(make_dataset: Callable[..., Dataset], splits: Splits) -> None:
    noise = make_dataset(strength=0.0, seed=5)
    assert random_walk(XGBoostModel, noise.spec(seed=3, threads=1), noise, splits).passed


def test_a_recipe_that_sees_its_labels_fails(make_dataset: Callable[..., Dataset], splits: Splits) -> None:
    noise = make_dataset(strength=0.0, seed=5)
    X = noise.X.copy()
    X[:, 2] = np.where(noise.y == 1, X[:, 2] + 1, X[:, 2] - 1)
    leaking = replace(noise, X=X)
    result = random_walk(XGBoostModel, leaking.spec(seed=3, threads=1), leaking, splits)
    assert not result.passed
    assert result.accuracy > result.high
    assert result.to_dict()["passed"] is False


def test_overlapping_labels_count_once(make_dataset: Callable[..., Dataset]) -> None:
    # 1,200 hours a symbol, labels of 4 hours: 300 fit one after another, for each of two symbols.
    assert independent_labels(make_dataset()) == 600


def test_band_follows_the_share_of_rises() -> None:
    y = np.repeat([1, 0], [700, 300])
    low, high = chance_band(y, np.ones(1_000, dtype=bool), 1_000)
    assert (low + high) / 2 == pytest.approx(0.7)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_random_walk_keeps_sizes_and_makes_valid_bars(seed: int) -> None:
    real = bars(300)
    walk = random_walk_bars(real, seed=seed)
    assert (walk["high"] >= walk[["open", "close", "low"]].max(axis=1) - 1e-12).all()
    assert (walk["low"] <= walk[["open", "close", "high"]].min(axis=1) + 1e-12).all()
    moves = np.abs(np.diff(np.log(real["close"])))
    assert np.abs(np.diff(np.log(walk["close"]))) == pytest.approx(moves, abs=1e-12)
    assert (walk["time"] == real["time"]).all()


def test_random_walk_turns_about_half_of_the_moves() -> None:
    real = bars(4_000)
    walk = random_walk_bars(real, seed=11)
    same = np.sign(np.diff(walk["close"])) == np.sign(np.diff(real["close"]))
    assert 0.46 < same.mean() < 0.54
    assert random_walk_bars(real, seed=11).equals(walk)
