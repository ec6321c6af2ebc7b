"""Rows of the models that stand on others."""

from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.stack import STACKED, StackedRows, require_stackable, require_stacked


def said(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.random(rows) for name in BASE_MODELS}


@pytest.fixture(scope="module")
def stacked(dataset: Dataset) -> StackedRows:
    rng = np.random.default_rng(3)
    regime = rng.dirichlet(np.ones(4), len(dataset))
    return StackedRows.of(dataset, said(len(dataset)), regime, rng.random(len(dataset)))


def test_tensors_are_what_was_said_of_each_row(stacked: StackedRows) -> None:
    some = stacked.take(np.array([5, 3, 900]))
    tensors = some.tensors()
    assert {*STACKED, "p_up_meta", "features"} <= set(tensors)
    for name, values in said(len(stacked)).items():
        assert tensors[f"p_up_{name}"] == pytest.approx(values[[5, 3, 900], None].astype(np.float32))
    assert tensors["regime"].shape == (3, 4)
    assert {tensors[name].dtype for name in (*STACKED, "p_up_meta")} == {np.dtype(np.float32)}
    assert np.array_equal(tensors["features"], stacked.X[[5, 3, 900]])


def test_a_mask_takes_as_positions_do(stacked: StackedRows) -> None:
    mask = np.zeros(len(stacked), dtype=bool)
    mask[[3, 900]] = True
    assert np.array_equal(stacked.take(mask).said, stacked.take(np.array([3, 900])).said)


def test_rows_without_the_meta_model_have_no_tensor_of_it(stacked: StackedRows) -> None:
    assert "p_up_meta" not in replace(stacked, meta=None).take(np.arange(2)).tensors()


def test_a_missing_model_is_named(dataset: Dataset) -> None:
    answers = said(len(dataset))
    del answers["cnn"]
    with pytest.raises(TrainingError, match="no out-of-fold predictions of cnn"):
        StackedRows.of(dataset, answers, np.full((len(dataset), 4), 0.25))


def test_a_row_that_was_in_no_test_fold_is_refused(dataset: Dataset) -> None:
    answers = said(len(dataset))
    answers["lstm"][7] = np.nan
    with pytest.raises(TrainingError, match="a row has no out-of-fold prediction"):
        StackedRows.of(dataset, answers, np.full((len(dataset), 4), 0.25))


def test_plain_rows_are_refused(dataset: Dataset, stacked: StackedRows) -> None:
    with pytest.raises(TrainingError, match="meta: the rows lack the answers of the base models"):
        require_stacked("meta", dataset)
    with pytest.raises(TrainingError, match="confidence: the rows lack the answers of the meta model"):
        require_stacked("confidence", replace(stacked, meta=None), meta=True)
    assert require_stacked("confidence", stacked, meta=True) is stacked


def test_an_answer_that_is_no_probability_is_refused(stacked: StackedRows) -> None:
    wrong = stacked.said.copy()
    wrong[3, 1] = 1.5
    with pytest.raises(TrainingError, match=r"an answer lies outside \[0, 1\]"):
        require_stacked("meta", replace(stacked, said=wrong))


def test_too_few_rows_and_one_outcome_are_refused(stacked: StackedRows) -> None:
    spec = stacked.spec(seed=1, rows_min=100)
    few = stacked.take(np.arange(40))
    with pytest.raises(TrainingError, match="40 training rows, 100 are needed"):
        require_stackable("meta", few, few.y, spec)
    with pytest.raises(TrainingError, match=r"outcomes are only \[1\]"):
        require_stackable("meta", stacked, np.ones_like(stacked.y), spec)
