"""A small data set with a planted signal: feature ``signal`` tells the direction a little, the others nothing."""

from collections.abc import Callable

import numpy as np
import pytest

from fx_dagster.models.dataset import Dataset

HOUR_NS = 3_600_000_000_000
HORIZON = 4

DatasetMaker = Callable[..., Dataset]


def _dataset(rows: int = 2_400, *, strength: float = 0.6, symbols: int = 2, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    names = ("signal", "noise_a", "noise_b", "noise_c", "noise_d")
    X = rng.standard_normal((rows, len(names))).astype(np.float32)
    forward_return = 1e-3 * (strength * X[:, 0] + rng.standard_normal(rows))
    time = 1_483_228_800_000_000_000 + np.arange(rows) // symbols * HOUR_NS
    return Dataset(
        X=X,
        y=(forward_return > 0).astype(np.int8),
        time=time,
        end_time=time + HORIZON * HOUR_NS,
        symbol_code=(np.arange(rows) % symbols).astype(np.int16),
        forward_return=forward_return,
        cost=np.full(rows, 1e-4),
        symbols=tuple(f"SIM{number:03d}" for number in range(1, symbols + 1)),
        feature_names=names,
        feature_hash="0123456789abcdef",
    )


@pytest.fixture(scope="session")
def make_dataset() -> DatasetMaker:
    return _dataset


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    return _dataset()


@pytest.fixture(scope="session")
def splits(dataset: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Three expanding folds, purged by the horizon."""
    pairs = []
    for first in (1_200, 1_600, 2_000):
        test = np.arange(first, first + 400)
        train = np.flatnonzero(dataset.end_time <= dataset.time[first])
        pairs.append((train, test))
    return pairs
