import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import DataError, TrainingError
from fx_dagster.features.catalogue import CHART_BARS, SEQUENCE_BARS, SEQUENCE_CHANNELS, feature_catalogue
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.inputs import TENSORS, TIME_ORIGIN_NS

HOUR_NS = 3_600_000_000_000


CATALOGUE = feature_catalogue(Timeframe.MN1, cross_symbol=False)
"""One timeframe only: months have no coarser ones."""
MONTHS = pd.date_range("2000-01-01", periods=80, freq="MS").as_unit("ns").astype("int64").to_numpy()
FIRST = SEQUENCE_BARS - 1
"""First row with enough history for its windows."""


def bars() -> dict[Timeframe, pd.DataFrame]:
    close = np.linspace(1.0, 2.0, len(MONTHS))
    frame = pd.DataFrame({"time": MONTHS, "open": close, "high": close + 0.1, "low": close - 0.1, "close": close})
    return {Timeframe.MN1: frame.assign(tick_volume=np.arange(len(MONTHS), dtype=np.float64))}


def features(offset: float = 0.0) -> pd.DataFrame:
    columns = {name: offset + place + np.arange(len(MONTHS)) / 100 for place, name in enumerate(CATALOGUE.names)}
    return pd.DataFrame({"time": MONTHS, **{name: values.astype(np.float32) for name, values in columns.items()}})


def labels(rows: list[int]) -> pd.DataFrame:
    time = MONTHS[rows]
    return pd.DataFrame(
        {
            "time": time,
            "forward_return": np.where(np.array(rows) % 2, 1e-3, -1e-3),
            "cost": 1e-4,
            "up": (np.array(rows) % 2).astype(np.int8),
            "barrier": np.int8(0),
            "end_time": time + 3 * HOUR_NS,
        }
    )


def dataset_of(features_by: dict[str, pd.DataFrame], labels_by: dict[str, pd.DataFrame]) -> Dataset:
    return Dataset.from_frames(features_by, labels_by, {symbol: bars() for symbol in features_by}, CATALOGUE)


def test_joins_by_time_and_pools_in_order_of_time_then_symbol() -> None:
    rows = dataset_of({"B": features(), "A": features(100)}, {"A": labels([FIRST, 60, 61]), "B": labels([60, 61, 62])})
    assert rows.symbols == ("A", "B")
    assert rows.time.tolist() == MONTHS[[FIRST, 60, 60, 61, 61, 62]].tolist()
    assert rows.symbol_code.tolist() == [0, 0, 1, 0, 1, 1]
    assert rows.X[:, 0] == pytest.approx([100 + FIRST / 100, 100.6, 0.6, 100.61, 0.61, 0.62])
    assert rows.y.tolist() == [1, 0, 0, 1, 1, 0]
    assert rows.X.dtype == np.float32
    assert rows.X.flags.c_contiguous


def test_windows_end_at_their_row() -> None:
    rows = dataset_of({"B": features(), "A": features(100)}, {"A": labels([60]), "B": labels([FIRST, 60])})
    channel = CATALOGUE.names.index(SEQUENCE_CHANNELS[0])
    inputs = rows.inputs()
    assert np.array_equal(inputs.sequence[:, -1, 0], rows.X[:, channel])
    assert inputs.sequence[0, 0, 0] == features()[SEQUENCE_CHANNELS[0]].iloc[0]
    assert inputs.chart.shape == (3, 1, 5, CHART_BARS)
    # The newest close is the origin of a chart; the closes before it are lower.
    assert (inputs.chart[:, 0, 3, -1] == 0).all()
    assert (np.diff(inputs.chart[:, 0, 3], axis=1) > 0).all()
    assert np.array_equal(rows.take(np.array([2])).inputs().chart, inputs.chart[2:])


def test_rows_without_enough_history_are_left_out() -> None:
    rows = dataset_of({"A": features()}, {"A": labels([3, FIRST - 1, FIRST])})
    assert rows.time.tolist() == [MONTHS[FIRST]]


def test_names_the_symbol_without_labels() -> None:
    with pytest.raises(TrainingError, match="no labels for B"):
        dataset_of({"A": features(), "B": features()}, {"A": labels([60])})


def test_names_the_symbol_without_bars() -> None:
    with pytest.raises(TrainingError, match="no bars for A"):
        Dataset.from_frames({"A": features()}, {"A": labels([60])}, {}, CATALOGUE)
    with pytest.raises(DataError, match="A: no bars of MN1"):
        Dataset.from_frames({"A": features()}, {"A": labels([60])}, {"A": {}}, CATALOGUE)


def test_names_the_missing_feature() -> None:
    with pytest.raises(TrainingError, match="features of A lack rsi_14"):
        dataset_of({"A": features().drop(columns="rsi_14")}, {"A": labels([60])})


def test_refuses_bars_of_other_times_than_the_features() -> None:
    with pytest.raises(DataError, match="of other times"):
        dataset_of({"A": features().assign(time=MONTHS + 1)}, {"A": labels([60])})


def test_refuses_frames_that_share_no_row() -> None:
    with pytest.raises(TrainingError, match="share no row"):
        dataset_of({"A": features()}, {"A": labels([60]).assign(time=7)})


def test_inputs_are_what_a_graph_takes(dataset: Dataset) -> None:
    tensors = dataset.take(np.arange(3)).tensors()
    assert {name: values.dtype for name, values in tensors.items()} == dict(TENSORS)
    assert tensors["time"][0, 0] == pytest.approx((dataset.time[0] - TIME_ORIGIN_NS) / 86_400e9)
    assert tensors["symbol"].tolist() == [[0], [1], [0]]


def test_parts_cover_all_rows_in_order(dataset: Dataset) -> None:
    parts = list(dataset.parts(1_000))
    assert [len(part) for part in parts] == [1_000, 1_000, 400]
    assert np.array_equal(np.concatenate([part.time for part in parts]), dataset.time)


def test_take_keeps_rows_together(dataset: Dataset) -> None:
    part = dataset.take(np.array([5, 2]))
    assert len(part) == 2
    assert part.time.tolist() == dataset.time[[5, 2]].tolist()
    assert np.array_equal(part.X, dataset.X[[5, 2]])


def test_refuses_columns_of_different_length(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match="lengths differ in \\['y'\\]"):
        dataset.with_labels(dataset.y[:-1])
