import json

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.training import OutOfFold, cross_validate, fit_release
from fx_dagster.models.xgboost import XGBoostModel

Splits = list[tuple[np.ndarray, np.ndarray]]


@pytest.fixture(scope="module")
def results(dataset: Dataset, splits: Splits) -> list[OutOfFold]:
    spec = dataset.spec(seed=3, threads=1)
    return [cross_validate(factory, spec, dataset, splits) for factory in (XGBoostModel, RandomForestModel)]


def test_out_of_fold_finds_the_planted_signal(results: list[OutOfFold]) -> None:
    for result in results:
        assert result.metrics.accuracy_low > result.metrics.majority_accuracy
        assert result.metrics.log_loss < result.metrics.base_log_loss
        assert max(result.importance, key=lambda name: result.importance[name]) == "signal"


def test_each_row_is_predicted_by_the_fold_that_tested_it(dataset: Dataset, splits: Splits) -> None:
    spec = dataset.spec(seed=3, threads=1)
    seen: list[tuple[str, int, int]] = []
    result = cross_validate(XGBoostModel, spec, dataset, splits, progress=lambda *told: seen.append(told))
    assert seen == [("xgboost", 1, 3), ("xgboost", 2, 3), ("xgboost", 3, 3)]
    train, test = splits[1]
    alone = XGBoostModel(spec).fit(dataset.take(train)).predict(dataset.take(test))["p_up"]
    assert np.array_equal(result.p_up[test], alone[:, 0])
    assert np.array_equal(result.answers["p_up"][test], alone)
    assert (result.fold[test] == 1).all()
    assert np.isnan(result.p_up[:1_200]).all()
    assert result.tested.sum() == 1_200


def test_a_leaking_split_is_refused(dataset: Dataset) -> None:
    leaky = [(np.arange(1_200), np.arange(1_200, 1_600))]
    with pytest.raises(TrainingError, match="fold 0: 6 training labels reach into the test fold"):
        cross_validate(XGBoostModel, dataset.spec(seed=1), dataset, leaky)


def test_a_row_tested_twice_is_refused(dataset: Dataset, splits: Splits) -> None:
    with pytest.raises(TrainingError, match="fold 1 tests rows that an earlier fold tested"):
        cross_validate(XGBoostModel, dataset.spec(seed=1, threads=1), dataset, [splits[0], splits[0]])


def test_no_split_is_refused(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match="no splits"):
        cross_validate(XGBoostModel, dataset.spec(seed=1), dataset, [])


def test_released_model_is_proved_and_judged_on_the_holdout(dataset: Dataset, splits: Splits) -> None:
    train, holdout = splits[-1]
    model, artifact = fit_release(XGBoostModel, dataset.spec(seed=3, threads=1), dataset, train, holdout)
    metrics = artifact.card.metrics
    assert metrics["onnx_parity"] <= 1e-5
    accuracy = np.mean((model.predict(dataset.take(holdout))["p_up"][:, 0] > 0.5) == dataset.y[holdout])
    assert metrics["holdout"]["accuracy"] == pytest.approx(accuracy)
    json.dumps(artifact.card.to_dict(), allow_nan=False)
