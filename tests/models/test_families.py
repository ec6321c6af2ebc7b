"""What every family promises, over all families."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from fx_dagster.errors import ReleaseError, TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity, require_parity
from fx_dagster.models.protocol import Model, ModelArtifact

TREES = ("xgboost", "random_forest")
FINDS = {"xgboost": 0.8, "random_forest": 0.8, "lstm": 0.5, "cnn": 0.4, "attention": 0.4}
"""Least correlation of p(up) with the planted signal."""


def fit(family: str, rows: Dataset, *, seed: int = 3, **changes: object) -> Model:
    return FAMILIES[family](replace(rows.spec(seed=seed, threads=1), **changes)).fit(rows)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, dataset: Dataset) -> Model:
    return fit(request.param, dataset)


def p_up(model: Model, rows: Dataset) -> np.ndarray:
    return model.predict(rows)["p_up"][:, 0]


def test_probabilities_find_the_planted_signal(model: Model, dataset: Dataset) -> None:
    said = model.predict(dataset)
    assert {name: values.shape for name, values in said.items()} == {
        name: (len(dataset), width) for name, width in model.outputs.items()
    }
    assert all(values.dtype == np.float64 and np.isfinite(values).all() for values in said.values())
    assert ((said["p_up"] >= 0) & (said["p_up"] <= 1)).all()
    assert np.corrcoef(said["p_up"][:, 0], dataset.X[:, 0])[0, 1] > FINDS[model.name]


def test_the_same_seed_fits_the_same_model(model: Model, dataset: Dataset) -> None:
    part = dataset.take(np.arange(200))
    again, other = fit(model.name, dataset), fit(model.name, dataset, seed=4)
    assert np.array_equal(p_up(again, part), p_up(model, part))
    assert not np.array_equal(p_up(other, part), p_up(model, part))


def test_importance_sums_to_one(model: Model) -> None:
    importance = model.importance()
    assert sum(importance.values()) == pytest.approx(1.0)
    assert min(importance.values()) >= 0.0


def test_trees_rank_the_signal_first(model: Model) -> None:
    if model.name in TREES:
        importance = model.importance()
        assert max(importance, key=lambda name: importance[name]) == "signal"


def test_graph_has_its_tensors_and_carries_the_feature_hash(model: Model, dataset: Dataset) -> None:
    graph = onnx.load_from_string(model.to_onnx())
    assert tuple(entry.name for entry in graph.graph.input) == model.inputs
    widths = {entry.name: entry.type.tensor_type.shape.dim[1].dim_value for entry in graph.graph.output}
    # 0: a width that only a run tells.
    assert {name: width or model.outputs[name] for name, width in widths.items()} == dict(model.outputs)
    assert all(entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT for entry in graph.graph.output)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["feature_hash"] == dataset.feature_hash
    assert json.loads(properties["feature_names"]) == list(dataset.feature_names)


def test_graph_agrees_with_the_model(model: Model, dataset: Dataset) -> None:
    content = model.to_onnx()
    for rows in (dataset.take(np.arange(300)), dataset.take(np.array([7]))):
        assert onnx_parity(model, rows, content=content) <= PARITY_MAX
        assert onnx_answers(content, rows.tensors())["p_up"].shape == (len(rows), 1)


def _thresholds(model: Model) -> list[tuple[int, np.float32]]:
    graph = onnx.load_from_string(model.to_onnx()).graph
    trees = next(node for node in graph.node if node.op_type.startswith("TreeEnsemble"))
    attributes = {attribute.name: attribute for attribute in trees.attribute}
    modes = attributes["nodes_modes"].strings
    pairs = zip(attributes["nodes_featureids"].ints, attributes["nodes_values"].floats, modes, strict=True)
    return [(feature, np.float32(value)) for feature, value, mode in pairs if mode != b"LEAF"]


@pytest.mark.parametrize("family", TREES)
def test_graph_agrees_on_the_thresholds_and_on_their_nearest_neighbours(family: str, dataset: Dataset) -> None:
    """Trees jump there: a threshold rounded to the wrong side would show as a whole step."""
    model = fit(family, dataset)
    chosen = _thresholds(model)[:3_000]
    assert chosen
    base = np.resize(dataset.X, (len(chosen), dataset.X.shape[1])).copy()
    rows = []
    for direction in (-np.inf, None, np.inf):
        block = base.copy()
        for row, (feature, value) in enumerate(chosen):
            block[row, feature] = value if direction is None else np.nextafter(value, np.float32(direction))
        rows.append(block)
    X = np.concatenate(rows)
    beside = replace(dataset.take(np.arange(len(X)) % len(dataset)), X=X)
    assert onnx_parity(model, beside) <= PARITY_MAX


def test_parity_beyond_the_limit_is_refused(model: Model, dataset: Dataset) -> None:
    other = fit(model.name, dataset, seed=99)
    with pytest.raises(TrainingError, match=f"{model.name}: the ONNX graph differs"):
        require_parity(model, dataset.take(np.arange(100)), other.to_onnx())


def test_artifact_comes_back_as_it_was_saved(model: Model, tmp_path: Path) -> None:
    artifact = ModelArtifact.of(model)
    artifact.save(tmp_path)
    loaded = ModelArtifact.load(tmp_path, model.name)
    assert loaded.onnx == artifact.onnx
    assert loaded.card.to_dict() == artifact.card.to_dict()
    assert {path.suffix for path in tmp_path.iterdir()} == {".onnx", ".json"}


def test_damaged_artifact_is_named(model: Model, tmp_path: Path) -> None:
    ModelArtifact.of(model).save(tmp_path)
    (tmp_path / f"{model.name}.json").write_text('{"name": 1')
    with pytest.raises(ReleaseError, match=rf"{model.name}\.json: not a model artifact"):
        ModelArtifact.load(tmp_path, model.name)


@pytest.mark.parametrize("family", sorted(FAMILIES))
class TestRefusals:
    def test_too_few_rows(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match=f"{family}: 40 training rows, 500 are needed"):
            fit(family, dataset.take(np.arange(40)))

    def test_one_class(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match=r"labels hold only \[1\]"):
            fit(family, dataset.with_labels(np.ones_like(dataset.y)))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, family: str, dataset: Dataset, value: float) -> None:
        X = dataset.X.copy()
        X[7, 2] = value
        with pytest.raises(TrainingError, match="NaN or infinite values in noise_b"):
            fit(family, replace(dataset, X=X))

    def test_constant(self, family: str, dataset: Dataset) -> None:
        X = dataset.X.copy()
        X[:, 3] = 1.5
        with pytest.raises(TrainingError, match="one value only in noise_c"):
            fit(family, replace(dataset, X=X))

    def test_not_fitted(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match="not fitted yet"):
            FAMILIES[family](dataset.spec(seed=1)).predict(dataset)


@pytest.mark.parametrize("family", TREES)
def test_a_feature_may_be_constant_where_it_is_named(family: str, dataset: Dataset) -> None:
    X = dataset.X.copy()
    X[:, 3] = 1.5
    assert fit(family, replace(dataset, X=X), may_be_constant=frozenset({"noise_c"})).importance()


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in TREES])
class TestWindows:
    def test_a_data_set_without_windows(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match=f"{family}: .*windows"):
            fit(family, replace(dataset, windows=None))

    def test_a_window_that_is_not_finite(self, family: str, dataset: Dataset) -> None:
        windows = dataset.windows
        channels, stores = windows.channels.copy(), [store.copy() for store in windows.bars]
        channels[100, 1] = np.nan
        for store in stores:
            store[100, 1] = np.nan
        spoiled = replace(windows, channels=channels, bars=tuple(stores))
        with pytest.raises(TrainingError, match=f"{family}: .*(NaN|finite)"):
            fit(family, replace(dataset, windows=spoiled))
