import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset

HOUR_NS = 3_600_000_000_000


def features(hours: list[int], offset: float = 0.0) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "time": np.array(hours, dtype=np.int64) * HOUR_NS,
            "a": (np.array(hours) + offset).astype(np.float32),
            "b": np.array(hours, dtype=np.float32) * 2,
        }
    )


def labels(hours: list[int]) -> pd.DataFrame:
    time = np.array(hours, dtype=np.int64) * HOUR_NS
    return pd.DataFrame(
        {
            "time": time,
            "forward_return": np.where(np.array(hours) % 2, 1e-3, -1e-3),
            "cost": 1e-4,
            "up": (np.array(hours) % 2).astype(np.int8),
            "barrier": np.int8(0),
            "end_time": time + 3 * HOUR_NS,
        }
    )


def test_joins_by_time_and_pools_in_order_of_time_then_symbol() -> None:
    pooled = Dataset.from_frames(
        {"B": features([1, 2, 3]), "A": features([2, 3, 4], 100)},
        {"A": labels([1, 2, 3]), "B": labels([2, 3])},
        ["b", "a"],
        "hash",
    )
    assert pooled.symbols == ("A", "B")
    assert (pooled.time // HOUR_NS).tolist() == [2, 2, 3, 3]
    assert pooled.symbol_code.tolist() == [0, 1, 0, 1]
    assert pooled.X.tolist() == [[4, 102], [4, 2], [6, 103], [6, 3]]
    assert pooled.y.tolist() == [0, 0, 1, 1]
    assert pooled.X.dtype == np.float32
    assert pooled.X.flags.c_contiguous


def test_names_the_symbol_without_labels() -> None:
    with pytest.raises(TrainingError, match="no labels for B"):
        Dataset.from_frames({"A": features([1]), "B": features([1])}, {"A": labels([1])}, ["a"], "hash")


def test_names_the_missing_feature() -> None:
    with pytest.raises(TrainingError, match="features of A lack c"):
        Dataset.from_frames({"A": features([1])}, {"A": labels([1])}, ["a", "c"], "hash")


def test_refuses_frames_that_share_no_row() -> None:
    with pytest.raises(TrainingError, match="share no row"):
        Dataset.from_frames({"A": features([1])}, {"A": labels([2])}, ["a"], "hash")


def test_take_keeps_rows_together(dataset: Dataset) -> None:
    part = dataset.take(np.array([5, 2]))
    assert len(part) == 2
    assert part.time.tolist() == dataset.time[[5, 2]].tolist()
    assert np.array_equal(part.X, dataset.X[[5, 2]])


def test_refuses_columns_of_different_length(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match="lengths differ in \\['y'\\]"):
        dataset.with_labels(dataset.y[:-1])
