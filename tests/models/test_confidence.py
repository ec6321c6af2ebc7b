"""Confidence: one half where nothing is known, calibrated where something is, one graph."""

import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS
from fx_dagster.models.calibration import calibration_of, sigmoid
from fx_dagster.models.confidence import SPLITS, ConfidenceModel, is_right
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.graph import GRAPH
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity
from fx_dagster.models.stack import STACKED, StackedRows

MODELS = len(BASE_MODELS)
NAMES = ("signal", "volatility_ratio", "hour_sin", "spread_atr", "noise_d")
"""Three of these are looked at."""
Maker = Callable[..., Dataset]


def stacked(rows: Dataset, seed: int = 0, knows: float = 0.0) -> StackedRows:
    """Return rows of which the base models and the meta model know the signal more or less, or nothing."""
    rng = np.random.default_rng(1_000 + seed)
    common = rng.standard_normal(len(rows))
    scores = [knows * rows.X[:, 0] + 0.3 * (0.5 * common + 0.9 * rng.standard_normal(len(rows))) for _ in range(MODELS)]
    regime = rng.dirichlet(np.full(4, 0.3), len(rows))
    said = {name: sigmoid(score) for name, score in zip(BASE_MODELS, scores, strict=True)}
    named = replace(rows, feature_names=NAMES)
    return StackedRows.of(named, said, regime, sigmoid(np.mean(scores, axis=0)))


@pytest.fixture(scope="module")
def rows(make_dataset: Maker) -> StackedRows:
    return stacked(make_dataset(6_000, strength=0.6), knows=0.8)


@pytest.fixture(scope="module")
def model(rows: StackedRows) -> ConfidenceModel:
    return ConfidenceModel(rows.spec(seed=3)).fit(rows)


@pytest.fixture(scope="module")
def unseen(make_dataset: Maker) -> StackedRows:
    return stacked(make_dataset(4_000, strength=0.6, seed=2), seed=5, knows=0.8)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_in_a_world_without_signal_it_is_one_half(make_dataset: Maker, seed: int) -> None:
    train, test = (stacked(make_dataset(2_400, strength=0.0, seed=seed + more), seed + more) for more in (0, 40))
    said = ConfidenceModel(train.spec(seed=1)).fit(train).predict(test)["confidence"][:, 0]
    assert np.mean((said >= 0.45) & (said <= 0.55)) >= 0.99


def test_it_is_calibrated_on_rows_that_it_has_not_seen(model: ConfidenceModel, unseen: StackedRows) -> None:
    said, right = model.predict(unseen)["confidence"][:, 0], is_right(unseen)
    found = calibration_of(right, said, unseen.time, unseen.end_time)
    assert right.mean() > 0.6
    assert found.calibrated
    assert found.brier_high < 0.25
    assert found.roc_auc > 0.55
    assert found.table[-1].share > found.table[0].share + 0.15


def test_a_meta_model_that_is_always_wrong_is_told_so(make_dataset: Maker) -> None:
    rows = stacked(make_dataset(4_000, strength=0.6), knows=-0.8)
    said = ConfidenceModel(rows.spec(seed=1)).fit(rows).predict(rows)["confidence"]
    assert said.mean() < 0.45


def test_what_it_looks_at_is_named(model: ConfidenceModel) -> None:
    importance = model.importance()
    assert tuple(importance) == model.columns
    assert model.columns[-3:] == ("volatility_ratio", "spread_atr", "hour_sin")
    assert sum(importance.values()) == pytest.approx(1.0)
    assert max(importance, key=importance.__getitem__) == "strength"


def test_platt_follows_where_the_regression_is_not_calibrated_and_only_there(
    rows: StackedRows, unseen: StackedRows, model: ConfidenceModel
) -> None:
    assert model.card().parameters["platt"]["chosen"] is False
    narrow = {"strength_deviation": 0.02, "level_deviation": 0.005}
    timid = ConfidenceModel(replace(model.spec, parameters=narrow)).fit(rows)
    decision = timid.card().parameters["platt"]
    assert decision["chosen"] is True
    assert decision["error_with"] < decision["error_without"] - 0.02
    never = ConfidenceModel(replace(model.spec, parameters={**narrow, "platt_gain_min": 1.0})).fit(rows)
    right = is_right(unseen)
    brier = [np.mean((own.predict(unseen)["confidence"][:, 0] - right) ** 2) for own in (model, timid, never)]
    assert brier == sorted(brier)
    assert onnx_parity(timid, unseen) <= PARITY_MAX


def test_what_judges_platts_line_has_no_part_in_it(rows: StackedRows) -> None:
    times = np.unique(rows.time)
    last = rows.time >= times[int(SPLITS[1] * len(times))]
    turned = rows.with_labels(np.where(last, 1 - rows.y, rows.y).astype(np.int8))
    one, other = (ConfidenceModel(own.spec(seed=3)).fit(own).card().parameters["platt"] for own in (rows, turned))
    assert (one["slope"], one["intercept"]) == (other["slope"], other["intercept"])
    assert one["error_without"] < other["error_without"]


def test_features_that_the_catalogue_does_not_have_are_not_needed(rows: StackedRows) -> None:
    bare = replace(rows, feature_names=("a", "b", "c", "d", "e"))
    model = ConfidenceModel(bare.spec(seed=1)).fit(bare)
    assert model.inputs == (*STACKED, "p_up_meta")
    assert [node.name for node in onnx.load_from_string(model.to_onnx()).graph.input] == list(model.inputs)
    assert onnx_parity(model, bare.take(np.arange(200))) <= PARITY_MAX


def test_the_same_rows_fit_the_same_model(model: ConfidenceModel, rows: StackedRows) -> None:
    assert ConfidenceModel(rows.spec(seed=3)).fit(rows).to_onnx() == model.to_onnx()


class TestGraph:
    def test_has_the_fixed_form(self, model: ConfidenceModel, rows: StackedRows) -> None:
        graph = onnx.load_from_string(model.to_onnx())
        assert tuple(node.name for node in graph.graph.input) == model.inputs
        assert set(model.inputs) == set(GRAPH["confidence"].inputs)
        assert [node.name for node in graph.graph.output] == ["confidence"]
        assert {entry.key: entry.value for entry in graph.metadata_props}["feature_hash"] == rows.feature_hash
        assert next(entry.version for entry in graph.opset_import if not entry.domain) == 15

    @pytest.mark.parametrize("count", [1, 900])
    def test_agrees_with_the_model(self, model: ConfidenceModel, unseen: StackedRows, count: int) -> None:
        assert onnx_parity(model, unseen.take(np.arange(count))) <= PARITY_MAX

    @settings(deadline=None, max_examples=40)
    @given(
        said=arrays(np.float64, (3, MODELS + 1), elements=st.floats(0.0, 1.0)),
        X=arrays(np.float32, (3, len(NAMES)), elements=st.floats(-(2.0**20), 2.0**20, width=32)),
        seed=st.integers(0, 100),
    )
    def test_never_leaves_the_unit_interval(
        self, model: ConfidenceModel, unseen: StackedRows, said: np.ndarray, X: np.ndarray, seed: int
    ) -> None:
        regime = np.random.default_rng(seed).dirichlet(np.full(4, 0.2), 3)
        some = replace(unseen.take(np.arange(3)), said=said[:, 1:], meta=said[:, 0], regime=regime, X=X)
        found = model.predict(some)["confidence"]
        assert ((found >= 0.0) & (found <= 1.0)).all()
        assert onnx_parity(model, some) <= PARITY_MAX

    @pytest.mark.parametrize("tensor", [*STACKED, "p_up_meta", "features"])
    def test_an_answer_that_is_absent_is_no_answer(
        self, model: ConfidenceModel, unseen: StackedRows, tensor: str
    ) -> None:
        tensors = unseen.take(np.arange(40)).tensors()
        tensors[tensor][::2] = np.nan
        said = onnx_answers(model.to_onnx(), tensors)["confidence"][:, 0]
        assert np.array_equal(np.isnan(said), np.arange(40) % 2 == 0)


def test_card_is_plain_json(model: ConfidenceModel, rows: StackedRows) -> None:
    card = json.loads(json.dumps(model.card().to_dict(), allow_nan=False))
    assert (card["name"], card["rows"]) == ("confidence", len(rows))
    assert card["up_share"] == pytest.approx(is_right(rows).mean())
    assert set(card["parameters"]["coefficients"]) == {*model.columns, "level"}


class TestRefusals:
    def test_rows_without_the_meta_model(self, rows: StackedRows, model: ConfidenceModel) -> None:
        bare = replace(rows, meta=None)
        for asked in (model.fit, model.predict):
            with pytest.raises(TrainingError, match="confidence: the rows lack the answers of the meta model"):
                asked(bare)

    def test_too_few_rows(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="confidence: 40 training rows, 500 are needed"):
            ConfidenceModel(rows.spec(seed=1)).fit(rows.take(np.arange(40)))

    def test_a_signal_that_is_always_right(self, rows: StackedRows) -> None:
        known = replace(rows, meta=0.25 + 0.5 * rows.y)
        with pytest.raises(TrainingError, match=r"outcomes are only \[1\]"):
            ConfidenceModel(rows.spec(seed=1)).fit(known)

    def test_a_feature_that_is_not_finite(self, rows: StackedRows) -> None:
        X = rows.X.copy()
        X[5, 3] = np.nan
        with pytest.raises(TrainingError, match="confidence: NaN or infinite values in spread_atr"):
            ConfidenceModel(rows.spec(seed=1)).fit(replace(rows, X=X))

    def test_before_a_fit(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="confidence is not fitted yet"):
            ConfidenceModel(rows.spec(seed=1)).predict(rows)
