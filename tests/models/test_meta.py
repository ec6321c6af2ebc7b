"""The meta model: what it learns of base models, what it leaves alone, one graph."""

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
from fx_dagster.models.answer import BASE_MODELS, REGIMES
from fx_dagster.models.calibration import logit, sigmoid
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.meta import MetaModel
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_answers, onnx_parity
from fx_dagster.models.stack import STACKED, StackedRows

MODELS = len(BASE_MODELS)
Maker = Callable[..., Dataset]


def stacked(rows: Dataset, good: dict[str, list[int]], seed: int = 0, spread: float = 0.6) -> StackedRows:
    """Return rows whose base models are noise, but for some that know the signal in some regimes."""
    rng = np.random.default_rng(1_000 + seed)
    now = np.repeat(rng.integers(0, 4, -(-len(rows) // 40)), 40)[: len(rows)]
    regime = 0.88 * np.eye(4)[now] + 0.03
    scores = {name: spread * rng.standard_normal(len(rows)) for name in BASE_MODELS}
    for name, regimes in good.items():
        knows = np.isin(now, regimes)
        scores[name][knows] = spread * (2.0 * rows.X[knows, 0] + 0.3 * rng.standard_normal(int(knows.sum())))
    return StackedRows.of(rows, {name: sigmoid(values) for name, values in scores.items()}, regime)


def accuracy(p_up: np.ndarray, rows: Dataset) -> float:
    return float(np.mean((p_up > 0.5) == (rows.y == 1)))


def log_loss(p_up: np.ndarray, rows: Dataset) -> float:
    return float(-np.mean(np.log(np.where(rows.y == 1, p_up, 1.0 - p_up))))


@pytest.fixture(scope="module")
def rows(make_dataset: Maker) -> StackedRows:
    return stacked(make_dataset(6_000, strength=1.0), {"lstm": [0, 1], "cnn": [2, 3]})


@pytest.fixture(scope="module")
def unseen(make_dataset: Maker) -> StackedRows:
    return stacked(make_dataset(3_000, strength=1.0, seed=2), {"lstm": [0, 1], "cnn": [2, 3]}, seed=7)


@pytest.fixture(scope="module")
def model(rows: StackedRows) -> MetaModel:
    return MetaModel(rows.spec(seed=3)).fit(rows)


def test_stacking_by_regime_beats_the_mean_where_models_are_good_in_different_regimes(
    model: MetaModel, unseen: StackedRows
) -> None:
    said = model.predict(unseen)["p_up"][:, 0]
    mean = sigmoid(logit(unseen.said).mean(axis=1))
    one_fits_all = MetaModel(replace(model.spec, parameters={"regime_deviation": 1e-4}))
    # The same regression without a difference between regimes.
    flat = one_fits_all.fit(unseen).predict(unseen)["p_up"][:, 0]
    assert accuracy(said, unseen) > accuracy(mean, unseen) + 0.02
    assert accuracy(said, unseen) > accuracy(flat, unseen) + 0.01
    assert log_loss(said, unseen) < log_loss(flat, unseen) < log_loss(mean, unseen)


def test_a_model_that_knows_has_the_weight_where_it_knows(model: MetaModel) -> None:
    weights = model.card().parameters["weights"]
    for regime in REGIMES:
        best = max(BASE_MODELS, key=weights[regime].__getitem__)
        assert best == ("lstm" if regime in REGIMES[:2] else "cnn")
    importance = model.importance()
    assert tuple(importance) == STACKED[:-1]
    assert sum(importance.values()) == pytest.approx(1.0)
    assert set(sorted(importance, key=importance.__getitem__)[-2:]) == {"p_up_lstm", "p_up_cnn"}


def test_a_signal_in_one_model_is_found(make_dataset: Maker) -> None:
    own, other = make_dataset(4_000, strength=1.0), make_dataset(3_000, strength=1.0, seed=2)
    train, test = (stacked(part, {"attention": [0, 1, 2, 3]}, seed) for seed, part in enumerate((own, other)))
    said = MetaModel(train.spec(seed=1)).fit(train).predict(test)["p_up"][:, 0]
    best = max(accuracy(test.said[:, place], test) for place in range(MODELS))
    assert accuracy(said, test) >= best - 0.01


def test_without_evidence_it_is_the_mean_of_the_logits(make_dataset: Maker) -> None:
    few = stacked(make_dataset(40), {}, spread=0.1)
    few = replace(few, end_time=few.time.max() + 10**13 + 0 * few.end_time)  # every label overlaps every other
    said = MetaModel(few.spec(seed=1, rows_min=10)).fit(few).predict(few)["p_up"][:, 0]
    assert said == pytest.approx(sigmoid(logit(few.said).mean(axis=1)), abs=0.01)


def test_models_that_know_nothing_are_not_believed(make_dataset: Maker) -> None:
    noise = stacked(make_dataset(6_000, strength=0.0), {})
    said = MetaModel(noise.spec(seed=1)).fit(noise).predict(noise)["p_up"][:, 0]
    assert np.std(said) < 0.5 * np.std(sigmoid(logit(noise.said).mean(axis=1)))
    assert np.abs(said - 0.5).mean() < 0.03


def test_labels_that_overlap_count_less(rows: StackedRows) -> None:
    longer = replace(rows, end_time=rows.time + 40 * (rows.end_time - rows.time))
    evidence = [MetaModel(part.spec(seed=1)).fit(part).card().parameters["independent_rows"] for part in (rows, longer)]
    assert evidence[0] == pytest.approx(len(rows) / 4)
    assert evidence[1] == pytest.approx(len(rows) / 160, rel=0.05)


def test_the_same_rows_fit_the_same_model(model: MetaModel, rows: StackedRows) -> None:
    again = MetaModel(rows.spec(seed=3)).fit(rows)
    assert again.to_onnx() == model.to_onnx()


class TestGraph:
    def test_has_the_fixed_form(self, model: MetaModel, rows: StackedRows) -> None:
        graph = onnx.load_from_string(model.to_onnx())
        assert tuple(node.name for node in graph.graph.input) == STACKED
        assert [node.name for node in graph.graph.output] == ["p_up"]
        assert {entry.key: entry.value for entry in graph.metadata_props}["feature_hash"] == rows.feature_hash
        assert next(entry.version for entry in graph.opset_import if not entry.domain) == 15

    @pytest.mark.parametrize("count", [1, 900])
    def test_agrees_with_the_model(self, model: MetaModel, unseen: StackedRows, count: int) -> None:
        assert onnx_parity(model, unseen.take(np.arange(count))) <= PARITY_MAX

    @settings(deadline=None, max_examples=40)
    @given(said=arrays(np.float64, (3, MODELS), elements=st.floats(0.0, 1.0)), seed=st.integers(0, 100))
    def test_agrees_on_any_probabilities(
        self, model: MetaModel, unseen: StackedRows, said: np.ndarray, seed: int
    ) -> None:
        regime = np.random.default_rng(seed).dirichlet(np.full(4, 0.2), 3)
        some = replace(unseen.take(np.arange(3)), said=said, regime=regime)
        p_up = model.predict(some)["p_up"]
        assert ((p_up >= 0.0) & (p_up <= 1.0)).all()
        assert onnx_parity(model, some) <= PARITY_MAX

    @pytest.mark.parametrize("tensor", STACKED)
    def test_an_answer_that_is_absent_is_no_answer(self, model: MetaModel, unseen: StackedRows, tensor: str) -> None:
        tensors = unseen.take(np.arange(40)).tensors()
        tensors[tensor][::2] = np.nan
        said = onnx_answers(model.to_onnx(), tensors)["p_up"][:, 0]
        assert np.array_equal(np.isnan(said), np.arange(40) % 2 == 0)


def test_card_is_plain_json(model: MetaModel, rows: StackedRows) -> None:
    card = json.loads(json.dumps(model.card().to_dict(), allow_nan=False))
    assert (card["name"], card["rows"], card["seed"]) == ("meta", len(rows), 3)
    assert set(card["parameters"]["weights"]["bull"]) == {*BASE_MODELS, "intercept"}


class TestRefusals:
    def test_rows_of_which_nothing_was_said(self, dataset: Dataset, model: MetaModel) -> None:
        with pytest.raises(TrainingError, match="meta: the rows lack the answers of the base models"):
            MetaModel(dataset.spec(seed=1)).fit(dataset)
        with pytest.raises(TrainingError, match="lack the answers"):
            model.predict(dataset)

    def test_too_few_rows(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="meta: 40 training rows, 500 are needed"):
            MetaModel(rows.spec(seed=1)).fit(rows.take(np.arange(40)))

    def test_one_class(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match=r"outcomes are only \[1\]"):
            MetaModel(rows.spec(seed=1)).fit(replace(rows, y=np.ones_like(rows.y)))

    def test_before_a_fit(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="meta is not fitted yet"):
            MetaModel(rows.spec(seed=1)).predict(rows)

    def test_an_unknown_parameter(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="meta has no parameter depth"):
            MetaModel(replace(rows.spec(seed=1), parameters={"depth": 3}))
