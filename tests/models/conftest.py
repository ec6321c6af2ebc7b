"""A small data set with a planted signal: it tells the direction a little, in the features, sequences and charts."""

from collections.abc import Callable

import numpy as np
import pytest

from fx_dagster.features.catalogue import CHART_BARS, SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.features.windows import Windows
from fx_dagster.models.dataset import Dataset

HOUR_NS = 3_600_000_000_000
HORIZON = 4
BEFORE = max(CHART_BARS, SEQUENCE_BARS) - 1
TIMEFRAMES = 2

DatasetMaker = Callable[..., Dataset]


def _dataset(rows: int = 2_400, *, strength: float = 0.6, symbols: int = 2, seed: int = 1) -> Dataset:
    rng = np.random.default_rng(seed)
    names = ("signal", "noise_a", "noise_b", "noise_c", "noise_d")
    X = rng.standard_normal((rows, len(names))).astype(np.float32)
    forward_return = 1e-3 * (strength * X[:, 0] + rng.standard_normal(rows))
    time = 1_483_228_800_000_000_000 + np.arange(rows) // symbols * HOUR_NS
    code = (np.arange(rows) % symbols).astype(np.int16)
    return Dataset(
        X=X,
        y=(forward_return > 0).astype(np.int8),
        time=time,
        end_time=time + HORIZON * HOUR_NS,
        symbol_code=code,
        forward_return=forward_return,
        cost=np.full(rows, 1e-4),
        symbols=tuple(f"SIM{number:03d}" for number in range(1, symbols + 1)),
        feature_names=names,
        feature_hash="0123456789abcdef",
        horizon_bars=HORIZON,
        windows=_windows(X[:, 0], code, symbols, rng),
    )


def _windows(signal: np.ndarray, code: np.ndarray, symbols: int, rng: np.random.Generator) -> Windows:
    """Return windows whose newest bar tells the signal: in the first channel, and in the body of the candle."""
    channels, stores = [], [[] for _ in range(TIMEFRAMES)]
    at = np.empty((len(signal), 1 + TIMEFRAMES), dtype=np.int64)
    offset = 0
    for symbol in range(symbols):
        own = signal[code == symbol]
        count = BEFORE + len(own)
        told = rng.standard_normal((count, len(SEQUENCE_CHANNELS))).astype(np.float32)
        told[BEFORE:, 0] = own
        channels.append(told)
        for store in stores:
            body = 1e-4 * np.concatenate([rng.standard_normal(BEFORE), own])
            close = np.exp(np.cumsum(body))
            opens = close / np.exp(body)
            high, low = np.maximum(opens, close) * 1.0001, np.minimum(opens, close) / 1.0001
            store.append(np.column_stack([opens, high, low, close, rng.integers(50, 150, count)]).astype(np.float64))
        at[code == symbol] = (offset + BEFORE + np.arange(len(own)))[:, None]
        offset += count
    return Windows(np.concatenate(channels), tuple(np.concatenate(store) for store in stores), at)


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
