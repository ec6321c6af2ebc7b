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
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_parity, onnx_predict, require_parity
from fx_dagster.models.protocol import Model, ModelArtifact


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def model(request: pytest.FixtureRequest, dataset: Dataset) -> Model:
    return FAMILIES[request.param](dataset.spec(seed=3, threads=1)).fit(dataset.X, dataset.y)


def test_probabilities_find_the_planted_signal(model: Model, dataset: Dataset) -> None:
    p_up = model.predict(dataset.X)
    assert p_up.dtype == np.float64
    assert p_up.shape == (len(dataset),)
    assert ((p_up >= 0) & (p_up <= 1)).all()
    assert np.corrcoef(p_up, dataset.X[:, 0])[0, 1] > 0.8


def test_the_same_seed_fits_the_same_model(model: Model, dataset: Dataset) -> None:
    again = type(model)(model.spec).fit(dataset.X, dataset.y)
    assert np.array_equal(again.predict(dataset.X[:200]), model.predict(dataset.X[:200]))
    other = type(model)(replace(model.spec, seed=4)).fit(dataset.X, dataset.y)
    assert not np.array_equal(other.predict(dataset.X[:200]), model.predict(dataset.X[:200]))


def test_importance_sums_to_one_and_ranks_the_signal_first(model: Model) -> None:
    importance = model.importance()
    assert sum(importance.values()) == pytest.approx(1.0)
    assert max(importance, key=lambda name: importance[name]) == "signal"


def test_graph_has_the_fixed_form_and_carries_the_feature_hash(model: Model, dataset: Dataset) -> None:
    graph = onnx.load_from_string(model.to_onnx())
    (entry,), (answer,) = graph.graph.input, graph.graph.output
    assert (entry.name, answer.name) == ("features", "p_up")
    assert entry.type.tensor_type.elem_type == answer.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert entry.type.tensor_type.shape.dim[1].dim_value == len(dataset.feature_names)
    assert answer.type.tensor_type.shape.dim[1].dim_value == 1
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["feature_hash"] == dataset.feature_hash
    assert json.loads(properties["feature_names"]) == list(dataset.feature_names)


def test_graph_agrees_with_the_model(model: Model, dataset: Dataset) -> None:
    assert onnx_parity(model, dataset.X) <= PARITY_MAX
    one_row = dataset.X[:1]
    assert onnx_predict(model.to_onnx(), one_row) == pytest.approx(model.predict(one_row), abs=PARITY_MAX)


def _thresholds(model: Model) -> list[tuple[int, np.float32]]:
    graph = onnx.load_from_string(model.to_onnx()).graph
    trees = next(node for node in graph.node if node.op_type.startswith("TreeEnsemble"))
    attributes = {attribute.name: attribute for attribute in trees.attribute}
    modes = attributes["nodes_modes"].strings
    pairs = zip(attributes["nodes_featureids"].ints, attributes["nodes_values"].floats, modes, strict=True)
    return [(feature, np.float32(value)) for feature, value, mode in pairs if mode != b"LEAF"]


def test_graph_agrees_on_the_thresholds_and_on_their_nearest_neighbours(model: Model, dataset: Dataset) -> None:
    """Trees jump there: a threshold rounded to the wrong side would show as a whole step."""
    chosen = _thresholds(model)[:3_000]
    assert chosen
    base = np.resize(dataset.X, (len(chosen), dataset.X.shape[1])).copy()
    rows = []
    for direction in (-np.inf, None, np.inf):
        block = base.copy()
        for row, (feature, value) in enumerate(chosen):
            block[row, feature] = value if direction is None else np.nextafter(value, np.float32(direction))
        rows.append(block)
    assert onnx_parity(model, np.concatenate(rows)) <= PARITY_MAX


def test_parity_beyond_the_limit_is_refused(model: Model, dataset: Dataset) -> None:
    other = type(model)(replace(model.spec, seed=99)).fit(dataset.X[:1_000], dataset.y[:1_000])
    with pytest.raises(TrainingError, match=f"{model.name}: the ONNX graph differs"):
        require_parity(model, dataset.X[:100], other.to_onnx())


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
            FAMILIES[family](dataset.spec(seed=1)).fit(dataset.X[:40], dataset.y[:40])

    def test_one_class(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match=r"labels hold only \[1\]"):
            FAMILIES[family](dataset.spec(seed=1)).fit(dataset.X, np.ones_like(dataset.y))

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, family: str, dataset: Dataset, value: float) -> None:
        X = dataset.X.copy()
        X[7, 2] = value
        with pytest.raises(TrainingError, match="NaN or infinite values in noise_b"):
            FAMILIES[family](dataset.spec(seed=1)).fit(X, dataset.y)

    def test_constant(self, family: str, dataset: Dataset) -> None:
        X = dataset.X.copy()
        X[:, 3] = 1.5
        with pytest.raises(TrainingError, match="one value only in noise_c"):
            FAMILIES[family](dataset.spec(seed=1)).fit(X, dataset.y)
        allowed = dataset.spec(seed=1, may_be_constant=frozenset({"noise_c"}))
        FAMILIES[family](allowed).fit(X, dataset.y)

    def test_width(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match="the catalogue names 5 features"):
            FAMILIES[family](dataset.spec(seed=1)).fit(dataset.X[:, :4], dataset.y)

    def test_not_fitted(self, family: str, dataset: Dataset) -> None:
        with pytest.raises(TrainingError, match="not fitted yet"):
            FAMILIES[family](dataset.spec(seed=1)).predict(dataset.X)
