"""The attention network: a planted signal, weights that can be read, one graph, refusals."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import SEQUENCE_BARS, SEQUENCE_CHANNELS
from fx_dagster.models import attention
from fx_dagster.models.answer import attention_scores
from fx_dagster.models.attention import AttentionModel
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity

ROWS = 1_500


@pytest.fixture(scope="module")
def rows(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(ROWS, strength=1.5)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of two epochs, for what does not depend on how well a model fits."""
    monkeypatch.setattr(attention, "TRAINING", replace(attention.TRAINING, epochs_max=2))


@pytest.fixture(scope="module")
def model(rows: Dataset) -> AttentionModel:
    return AttentionModel(rows.spec(seed=3, threads=1)).fit(rows)


def test_finds_the_planted_signal_in_rows_that_it_has_not_seen(
    model: AttentionModel, make_dataset: Callable[..., Dataset]
) -> None:
    unseen = make_dataset(600, seed=2)
    p_up = model.predict(unseen)["p_up"]
    assert p_up.dtype == np.float64
    assert p_up.shape == (len(unseen), 1)
    assert ((p_up >= 0) & (p_up <= 1)).all()
    assert np.corrcoef(attention_scores(p_up[:, 0]), unseen.X[:, 0])[0, 1] > 0.7


def test_weights_are_shares_of_the_bars_and_show_the_bar_that_tells(model: AttentionModel, rows: Dataset) -> None:
    weights = model.predict(rows.take(np.arange(300)))["weights"]
    assert weights.shape == (300, SEQUENCE_BARS)
    assert (weights >= 0).all()
    assert weights.sum(axis=1) == pytest.approx(np.ones(300), abs=1e-5)
    assert weights.mean(axis=0).argmax() == SEQUENCE_BARS - 1
    assert np.ptp(weights[:, -1]) > 0.01, "the weights answer to what the bars hold"


def test_importance_sums_to_one_and_ranks_the_channel_that_tells_first(model: AttentionModel) -> None:
    importance = model.importance()
    assert tuple(importance) == SEQUENCE_CHANNELS
    assert sum(importance.values()) == pytest.approx(1.0)
    assert max(importance, key=importance.__getitem__) == SEQUENCE_CHANNELS[0]


def test_one_row_is_answered_as_among_others(model: AttentionModel, rows: Dataset) -> None:
    together = model.predict(rows.take(np.arange(20)))
    for name, values in model.predict(rows.take(np.array([7]))).items():
        assert values == pytest.approx(together[name][7:8], abs=1e-6)


def test_no_rows_have_no_answers(model: AttentionModel, rows: Dataset) -> None:
    said = model.predict(rows.take(np.arange(0)))
    assert {name: values.shape for name, values in said.items()} == {"p_up": (0, 1), "weights": (0, SEQUENCE_BARS)}


@pytest.mark.usefixtures("short")
def test_the_same_seed_fits_the_same_model(rows: Dataset) -> None:
    few = rows.take(np.arange(520))
    said = [AttentionModel(few.spec(seed=seed, threads=1)).fit(few).predict(few)["p_up"] for seed in (3, 3, 4)]
    assert np.array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])


@pytest.mark.usefixtures("short")
def test_scales_of_the_channels_are_part_of_the_graph(rows: Dataset) -> None:
    """A feature in other units, fitted in these units, is the same model."""
    few = rows.take(np.arange(520))
    assert few.windows is not None
    units = (10.0 ** np.arange(-4, 12) / 100).astype(np.float32)
    scaled = replace(few, windows=replace(few.windows, channels=few.windows.channels * units + 3 * units))
    said, again = (
        AttentionModel(few.spec(seed=3, threads=1)).fit(each).predict(each)["p_up"] for each in (few, scaled)
    )
    assert np.ptp(said) > 1e-3
    assert again == pytest.approx(said, abs=0.1 * np.ptp(said))


def test_graph_has_the_fixed_form_and_carries_the_feature_hash(model: AttentionModel, rows: Dataset) -> None:
    graph = onnx.load_from_string(model.to_onnx())
    (entry,) = graph.graph.input
    assert entry.name == "sequence"
    assert [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim] == [
        "N", SEQUENCE_BARS, len(SEQUENCE_CHANNELS),
    ]  # fmt: skip
    assert [node.name for node in graph.graph.output] == list(model.outputs)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["feature_hash"] == rows.feature_hash
    assert next(entry.version for entry in graph.opset_import if not entry.domain) == 15


@pytest.mark.parametrize("count", [1, 300])
def test_graph_agrees_with_the_model(model: AttentionModel, rows: Dataset, count: int) -> None:
    some = rows.take(np.arange(count))
    assert onnx_parity(model, some) <= PARITY_MAX
    shapes = {name: values.shape for name, values in onnx_answers(model.to_onnx(), some.tensors()).items()}
    assert shapes == {"p_up": (count, 1), "weights": (count, SEQUENCE_BARS)}


def test_graph_agrees_far_outside_the_training_rows(model: AttentionModel, rows: Dataset) -> None:
    some = rows.take(np.arange(50))
    assert some.windows is not None
    far = replace(some, windows=replace(some.windows, channels=some.windows.channels * np.float32(1e6)))
    assert onnx_parity(model, far) <= PARITY_MAX


def test_card_is_plain_json(model: AttentionModel) -> None:
    card = json.loads(json.dumps(model.card().to_dict(), allow_nan=False))
    assert (card["name"], card["rows"], card["seed"]) == ("attention", ROWS, 3)
    assert card["parameters"]["fit"]["rows_fitted"] < ROWS


class TestRefusals:
    def test_too_few_rows(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="attention: 40 training rows, 500 are needed"):
            AttentionModel(rows.spec(seed=1)).fit(rows.take(np.arange(40)))

    def test_one_class(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match=r"labels hold only \[1\]"):
            AttentionModel(rows.spec(seed=1)).fit(rows.with_labels(np.ones_like(rows.y)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_window_that_is_not_finite(self, rows: Dataset, model: AttentionModel, value: float) -> None:
        assert rows.windows is not None
        channels = rows.windows.channels.copy()
        channels[100, 5] = value
        broken = replace(rows, windows=replace(rows.windows, channels=channels))
        with pytest.raises(TrainingError, match="attention: NaN or infinite values in the sequence of 48 rows"):
            AttentionModel(rows.spec(seed=1)).fit(broken)
        with pytest.raises(TrainingError, match="in the sequence of 48 rows"):
            model.predict(broken)

    def test_no_windows(self, rows: Dataset, model: AttentionModel) -> None:
        bare = replace(rows, windows=None)
        with pytest.raises(TrainingError, match="no windows"):
            AttentionModel(rows.spec(seed=1)).fit(bare)
        with pytest.raises(TrainingError, match="no windows"):
            model.predict(bare)

    def test_not_fitted(self, rows: Dataset) -> None:
        bare = AttentionModel(rows.spec(seed=1))
        for call in (bare.to_onnx, bare.card, bare.importance, lambda: bare.predict(rows)):
            with pytest.raises(TrainingError, match="not fitted yet"):
                call()
