"""The network over charts: a planted signal, patterns on rows it has not seen, one graph, refusals."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import CHART_BARS, CHART_ROWS
from fx_dagster.models import cnn
from fx_dagster.models.cnn import CHANNELS, CnnModel
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity
from fx_dagster.models.patterns import PATTERNS, label_patterns

ROWS = 1_200


@pytest.fixture(scope="module")
def rows(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(ROWS, strength=1.5)


@pytest.fixture(scope="module")
def unseen(make_dataset: Callable[..., Dataset]) -> Dataset:
    return make_dataset(600, seed=2)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of one epoch a stage, for what does not depend on how well a model fits."""
    for name in ("PATTERN_TRAINING", "DIRECTION_TRAINING"):
        monkeypatch.setattr(cnn, name, replace(getattr(cnn, name), epochs_max=1))


@pytest.fixture(scope="module")
def model(rows: Dataset) -> CnnModel:
    return CnnModel(rows.spec(seed=3, threads=1)).fit(rows)


def test_finds_the_planted_signal_in_rows_that_it_has_not_seen(model: CnnModel, unseen: Dataset) -> None:
    p_up = model.predict(unseen)["p_up"]
    assert p_up.dtype == np.float64
    assert p_up.shape == (len(unseen), 1)
    assert ((p_up >= 0) & (p_up <= 1)).all()
    assert np.corrcoef(p_up[:, 0], unseen.X[:, 0])[0, 1] > 0.6


@pytest.mark.parametrize("name", ["engulfing_bull", "engulfing_bear"])
def test_names_patterns_in_rows_that_it_has_not_seen(model: CnnModel, unseen: Dataset, name: str) -> None:
    from sklearn.metrics import roc_auc_score

    assert unseen.windows is not None
    column = PATTERNS.index(name)
    truth = label_patterns(unseen.windows.window(0))[:, column]
    said = model.predict(unseen)["patterns"]
    assert said.shape == (len(unseen), len(PATTERNS))
    assert 20 < truth.sum() < 400
    assert roc_auc_score(truth, said[:, column]) > 0.7


def test_importance_sums_to_one_over_channels_of_all_timeframes(model: CnnModel) -> None:
    importance = model.importance()
    assert list(importance) == [f"chart_{slot}_{channel}" for slot in (0, 1) for channel in CHANNELS]
    assert sum(importance.values()) == pytest.approx(1.0)
    told = sum(share for name, share in importance.items() if name.endswith(("_body", "_step", "_level")))
    assert told > 0.5, "the newest body tells; volume is noise, the wicks follow"


def test_one_row_is_answered_as_among_others(model: CnnModel, rows: Dataset) -> None:
    together = model.predict(rows.take(np.arange(20)))
    for name, values in model.predict(rows.take(np.array([7]))).items():
        assert values == pytest.approx(together[name][7:8], abs=1e-6)


def test_no_rows_have_no_answers(model: CnnModel, rows: Dataset) -> None:
    said = model.predict(rows.take(np.arange(0)))
    assert {name: values.shape for name, values in said.items()} == {"p_up": (0, 1), "patterns": (0, len(PATTERNS))}


@pytest.mark.usefixtures("short")
def test_the_same_seed_fits_the_same_model_of_one_timeframe(rows: Dataset) -> None:
    assert rows.windows is not None
    one = replace(rows, windows=replace(rows.windows, bars=rows.windows.bars[:1], at=rows.windows.at[:, :2]))
    few = one.take(np.arange(520))
    models = [CnnModel(few.spec(seed=seed, threads=1)).fit(few) for seed in (3, 3, 4)]
    first, again, other = (model.predict(few) for model in models)
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["p_up"], other["p_up"])
    assert onnx_parity(models[0], few.take(np.arange(50))) <= PARITY_MAX
    with pytest.raises(TrainingError, match="charts of 2 timeframes, fitted on 1"):
        models[0].predict(rows)


def test_graph_has_the_fixed_form_and_carries_the_feature_hash(model: CnnModel, rows: Dataset) -> None:
    graph = onnx.load_from_string(model.to_onnx())
    (entry,) = graph.graph.input
    assert entry.name == "chart"
    assert [dim.dim_param or dim.dim_value for dim in entry.type.tensor_type.shape.dim] == [
        "N", 2, CHART_ROWS, CHART_BARS,
    ]  # fmt: skip
    assert [node.name for node in graph.graph.output] == list(model.outputs)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["feature_hash"] == rows.feature_hash
    assert next(entry.version for entry in graph.opset_import if not entry.domain) == 15


@pytest.mark.parametrize("count", [1, 300])
def test_graph_agrees_with_the_model(model: CnnModel, rows: Dataset, count: int) -> None:
    some = rows.take(np.arange(count))
    assert onnx_parity(model, some) <= PARITY_MAX
    shapes = {name: values.shape for name, values in onnx_answers(model.to_onnx(), some.tensors()).items()}
    assert shapes == {"p_up": (count, 1), "patterns": (count, len(PATTERNS))}


def test_card_is_plain_json(model: CnnModel) -> None:
    card = json.loads(json.dumps(model.card().to_dict(), allow_nan=False))
    assert (card["name"], card["rows"], card["seed"]) == ("cnn", ROWS, 3)
    assert card["parameters"]["timeframes"] == 2
    assert set(card["parameters"]["pattern_shares"]) == set(PATTERNS)


class TestRefusals:
    def test_too_few_rows(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match="cnn: 40 training rows, 500 are needed"):
            CnnModel(rows.spec(seed=1)).fit(rows.take(np.arange(40)))

    def test_one_class(self, rows: Dataset) -> None:
        with pytest.raises(TrainingError, match=r"labels hold only \[1\]"):
            CnnModel(rows.spec(seed=1)).fit(rows.with_labels(np.ones_like(rows.y)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("slot", [0, 1])
    def test_window_that_is_not_finite(self, rows: Dataset, model: CnnModel, slot: int, value: float) -> None:
        assert rows.windows is not None
        stores = [store.copy() for store in rows.windows.bars]
        stores[slot][100, 2] = value
        broken = replace(rows, windows=replace(rows.windows, bars=tuple(stores)))
        with pytest.raises(TrainingError, match="cnn: NaN or infinite values in the chart of 48 rows"):
            CnnModel(rows.spec(seed=1)).fit(broken)
        with pytest.raises(TrainingError, match="in the chart of 48 rows"):
            model.predict(broken)

    def test_no_windows(self, rows: Dataset, model: CnnModel) -> None:
        bare = replace(rows, windows=None)
        with pytest.raises(TrainingError, match="no windows"):
            CnnModel(rows.spec(seed=1)).fit(bare)
        with pytest.raises(TrainingError, match="no windows"):
            model.predict(bare)

    def test_not_fitted(self, rows: Dataset) -> None:
        bare = CnnModel(rows.spec(seed=1))
        for call in (bare.to_onnx, bare.card, bare.importance, lambda: bare.predict(rows)):
            with pytest.raises(TrainingError, match="not fitted yet"):
                call()
