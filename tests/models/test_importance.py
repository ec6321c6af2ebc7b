"""Importance out of sample: the planted signal is worth something, noise is not."""

from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.importance import (
    TRADITIONAL,
    ImportanceResult,
    feature_groups,
    log_loss,
    permutation_importance,
)
from fx_dagster.models.training import cross_validate
from fx_dagster.models.xgboost import XGBoostModel

GROUPS = {
    "signal": ("signal",),
    "noise": ("noise_a", "noise_b", "noise_c"),
    "with signal": ("signal", "noise_a"),
}


def quick(dataset: Dataset):
    return replace(dataset.spec(seed=3, threads=1), parameters={"n_estimators": 30})


@pytest.fixture(scope="module")
def result(dataset: Dataset, splits) -> ImportanceResult:
    return permutation_importance(XGBoostModel, quick(dataset), dataset, splits, GROUPS)


def of(result: ImportanceResult, group: str):
    return next(one for one in result.groups if one.group == group)


def test_the_planted_signal_is_worth_something_and_noise_is_not(result: ImportanceResult) -> None:
    assert of(result, "signal").low > 0
    assert of(result, "with signal").low > 0
    assert not of(result, "noise").low > 0
    assert abs(of(result, "noise").increase) < 0.1 * of(result, "signal").increase
    assert [one.group for one in result.groups][-1] == "noise"


def test_the_interval_is_that_of_the_folds(result: ImportanceResult) -> None:
    found = of(result, "signal")
    folds = np.array(found.by_fold)
    assert len(folds) == 3
    assert found.increase == pytest.approx(folds.mean())
    # Student's quantile of two degrees of freedom.
    assert found.high - found.low == pytest.approx(2 * 4.302653 * folds.std(ddof=1) / np.sqrt(3), rel=1e-6)
    frame = result.frame().set_index("group")
    assert frame.loc["signal", "folds_worse"] == 3
    assert frame.loc["noise", "features"] == 3


def test_the_loss_without_shuffling_is_the_walk_forwards(dataset: Dataset, splits, result: ImportanceResult) -> None:
    folds = cross_validate(XGBoostModel, quick(dataset), dataset, splits).fold_metrics
    assert result.log_loss == pytest.approx(np.mean([one.log_loss for one in folds]))


def test_a_model_of_noise_has_no_relevant_group(make_dataset, splits) -> None:
    noise = make_dataset(strength=0.0, seed=5)
    found = permutation_importance(XGBoostModel, quick(noise), noise, splits, GROUPS)
    assert all(one.low <= 0 for one in found.groups)


def test_columns_of_a_group_are_shuffled_together(make_dataset, splits) -> None:
    rows = make_dataset()
    X = rows.X.copy()
    X[:, 1] = X[:, 0]
    twice = replace(rows, X=X)
    groups = {"one": ("signal",), "both": ("signal", "noise_a")}
    found = permutation_importance(XGBoostModel, quick(twice), twice, splits, groups)
    assert of(found, "both").increase > 1.2 * of(found, "one").increase


def test_the_same_seed_gives_the_same_numbers_on_the_same_drawn_rows(dataset: Dataset, splits) -> None:
    one, other = (
        permutation_importance(XGBoostModel, quick(dataset), dataset, splits[:2], GROUPS, repeats=1, rows_max=100)
        for _ in range(2)
    )
    assert one == other


def test_what_cannot_be_told_is_refused(dataset: Dataset, splits) -> None:
    spec = quick(dataset)
    with pytest.raises(TrainingError, match="1 folds tell no interval"):
        permutation_importance(XGBoostModel, spec, dataset, splits[:1], GROUPS)
    with pytest.raises(TrainingError, match="no feature is named moon"):
        permutation_importance(XGBoostModel, spec, dataset, splits, {"sky": ("moon",)})
    leaky = [(np.arange(1_200), np.arange(1_200, 1_600)), splits[1]]
    with pytest.raises(TrainingError, match="reach into the test fold"):
        permutation_importance(XGBoostModel, spec, dataset, leaky, GROUPS)


def test_a_family_that_looks_at_more_than_features_is_refused(dataset: Dataset, splits) -> None:
    class Wider(XGBoostModel):
        inputs = ("features", "sequence")

    with pytest.raises(TrainingError, match="xgboost looks at features, sequence"):
        permutation_importance(Wider, quick(dataset), dataset, splits, GROUPS)


def test_log_loss_is_scikit_learns(dataset: Dataset) -> None:
    from sklearn.metrics import log_loss as reference

    p_up = np.random.default_rng(0).uniform(0.01, 0.99, len(dataset))
    assert log_loss(dataset.y, p_up) == pytest.approx(reference(dataset.y, p_up))
    assert log_loss(np.ones(2, np.int8), np.array([0.5, 0.5])) == pytest.approx(np.log(2))
    assert np.isfinite(log_loss(np.zeros(1, np.int8), np.ones(1)))


def test_groups_of_a_catalogue_hold_every_feature_once_by_group_and_once_by_indicator() -> None:
    catalogue = feature_catalogue(Timeframe.H1, cross_symbol=True)
    groups = feature_groups(catalogue)
    own = {feature.group for feature in catalogue.features}
    assert sorted(name for group in own for name in groups[group]) == sorted(catalogue.names)
    by_indicator = [name for group, names in groups.items() if group.startswith("indicator ") for name in names]
    assert sorted(by_indicator) == sorted(groups[TRADITIONAL]) == sorted([*groups["indicator"], *groups["context"]])
    assert {"H4_rsi_14", "rsi_14"} <= set(groups["indicator rsi"])
    assert set(groups["indicator levels"]) == {"support_distance", "resistance_distance"}
    assert "indicator H4" not in groups
