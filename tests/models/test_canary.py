from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models import training
from fx_dagster.models.canary import (
    chance_band,
    independent_labels,
    looks_elsewhere,
    pipeline_dataset,
    random_walk,
    random_walk_bars,
    shuffled_labels,
)
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


# -- planted leaks: each is one that a real project had ----------------------------------------------------------------


def walk_of(horizon_bars: int) -> Dataset:
    """Return what the whole pipeline makes of a random walk: there is nothing to know."""
    count = 4_000
    hours = np.datetime64("2015-01-05T00:00", "ns").astype(np.int64) + np.arange(2 * count) * 3_600_000_000_000
    opened = hours[(hours // 86_400_000_000_000 + 3) % 7 < 5][:count]
    rng, walked = np.random.default_rng(0), {}
    for seed, symbol in enumerate(("EURUSD", "GBPUSD")):
        volume, spread = rng.integers(50, 500, count), rng.uniform(1, 3, count)
        real = bars(count, seed).assign(time=opened, tick_volume=volume, spread=spread)
        walked[symbol] = random_walk_bars(real, seed=seed)
    catalogue = feature_catalogue(Timeframe.H1, cross_symbol=True)
    return pipeline_dataset(walked, catalogue, horizon_bars=horizon_bars, barrier_atr=2.0)


@pytest.fixture(scope="module")
def walk() -> Dataset:
    return walk_of(12)


def walk_forward(rows: Dataset) -> Splits:
    moments = np.unique(rows.time)
    edges = moments[np.linspace(0, len(moments) - 1, 5).astype(int)]
    return [
        (np.flatnonzero(rows.end_time <= first), np.flatnonzero((rows.time >= first) & (rows.time < last)))
        for first, last in pairwise(edges[1:])
    ]


def test_the_whole_pipeline_finds_nothing_in_a_random_walk(walk: Dataset) -> None:
    assert random_walk(XGBoostModel, walk.spec(seed=3, threads=1), walk, walk_forward(walk)).passed


def test_shuffled_folds_are_refused_and_would_fail_the_canary(walk: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neighbouring labels overlap: a fold drawn at random has the answer in its training rows."""
    drawn = np.array_split(np.random.default_rng(0).permutation(len(walk)), 3)
    folds = [(np.setdiff1d(np.arange(len(walk)), part), np.sort(part)) for part in drawn]
    spec = walk.spec(seed=3, threads=1)
    with pytest.raises(TrainingError, match="reach into the test fold"):
        random_walk(Eager, spec, walk, folds)
    monkeypatch.setattr(training, "require_no_leak", lambda *_: None)
    result = random_walk(Eager, spec, walk, folds)
    assert not result.passed
    assert result.accuracy > result.high


class Eager(XGBoostModel):
    """Deep enough to remember rows."""

    def fit(self, rows: Dataset, sample_weight: np.ndarray | None = None) -> "Eager":
        import xgboost

        self._booster = xgboost.XGBClassifier(n_estimators=80, max_depth=8, n_jobs=1, random_state=1).fit(
            rows.X, rows.y
        )
        return self


@pytest.mark.parametrize("horizon_bars", [1, 2])
def test_a_target_shifted_by_one_bar_fails_the_canary(horizon_bars: int) -> None:
    """The label begins one bar too early: with the move that the features know."""
    rows = walk_of(horizon_bars)
    spec, folds = rows.spec(seed=3, threads=1), walk_forward(rows)
    assert random_walk(XGBoostModel, spec, rows, folds).passed
    result = random_walk(XGBoostModel, spec, _moved_labels(rows), folds)
    assert not result.passed


def _moved_labels(rows: Dataset) -> Dataset:
    """Return the rows with the labels of the bar before: a bar of each is known already."""
    y = rows.y.copy()
    for code in range(len(rows.symbols)):
        own = np.flatnonzero(rows.symbol_code == code)
        y[own[1:]] = rows.y[own[:-1]]
    return rows.with_labels(y)


class ScalesByEverything(XGBoostModel):
    """Its scaler has seen every bar of the history, the ones of the test fold among them."""

    def fit(self, rows: Dataset, sample_weight: np.ndarray | None = None) -> "ScalesByEverything":
        assert rows.windows is not None
        self._scale = float(rows.windows.channels.std())
        super().fit(replace(rows, X=rows.X / self._scale), sample_weight)
        return self

    def predict(self, rows: Dataset) -> dict[str, np.ndarray]:
        return dict(super().predict(replace(rows, X=rows.X / self._scale + 0.01 * self._scale)))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_fit_looks_at_nothing_but_its_rows(family: str, dataset: Dataset, splits: Splits) -> None:
    assert looks_elsewhere(FAMILIES[family], dataset.spec(seed=3, threads=1), dataset, splits[0]) == 0.0


def test_a_scaler_fitted_on_everything_is_seen(dataset: Dataset, splits: Splits) -> None:
    assert looks_elsewhere(ScalesByEverything, dataset.spec(seed=3, threads=1), dataset, splits[0]) > 0.0
