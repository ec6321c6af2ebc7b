"""The order of training: who may learn from whose answers, and what a leak looks like."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS
from fx_dagster.models.calibration import logit, sigmoid
from fx_dagster.models.canary import looks_elsewhere
from fx_dagster.models.confidence import ConfidenceModel, is_right
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.meta import MetaModel
from fx_dagster.models.onnx_export import PARITY_MAX
from fx_dagster.models.protocol import ModelFactory, ModelSpec
from fx_dagster.models.random_forest import RandomForestModel
from fx_dagster.models.regime import RegimeModel
from fx_dagster.models.stack import StackedRows
from fx_dagster.models.stacking import (
    OutOfFoldAnswers,
    cross_validate_confidence,
    cross_validate_regime,
    cross_validate_stacked,
    fit_stacked_release,
    stacked_rows,
    stacked_shuffled_labels,
    stacked_splits,
)
from fx_dagster.models.training import NOT_TESTED, OutOfFold, cross_validate

FOLDS = 4
Maker = Callable[..., Dataset]
Splits = list[tuple[np.ndarray, np.ndarray]]


def folded(rows: int, folds: int = FOLDS) -> np.ndarray:
    """Return folds of equal length; both symbols of a time are in one."""
    return (np.arange(rows) // 2 * folds // (rows // 2)).astype(np.int32)


def stacked(rows: Dataset, strength: float = 0.8, seed: int = 0) -> StackedRows:
    """Return rows whose LSTM knows the signal; the others are noise."""
    rng = np.random.default_rng(1_000 + seed)
    said = {name: sigmoid(0.4 * rng.standard_normal(len(rows))) for name in BASE_MODELS}
    said["lstm"] = sigmoid(strength * rows.X[:, 0] + 0.2 * rng.standard_normal(len(rows)))
    return StackedRows.of(rows, said, rng.dirichlet(np.full(4, 0.3), len(rows)))


def on_top(rows: StackedRows, found: OutOfFold) -> tuple[StackedRows, np.ndarray]:
    """Return the rows that the meta model was tested on, with what it said, and their folds."""
    tested = np.flatnonzero(found.tested)
    return replace(rows.take(tested), meta=found.p_up[tested]), found.fold[tested]


@pytest.fixture(scope="module")
def rows(make_dataset: Maker) -> StackedRows:
    return stacked(make_dataset(4_800))


@pytest.fixture(scope="module")
def fold(rows: StackedRows) -> np.ndarray:
    return folded(len(rows))


@pytest.fixture(scope="module")
def meta(rows: StackedRows, fold: np.ndarray) -> OutOfFold:
    return cross_validate_stacked(MetaModel, rows.spec(seed=3), rows, fold)


class TestOrder:
    def test_a_fold_is_answered_by_what_was_known_before_it(self, rows: StackedRows, fold: np.ndarray) -> None:
        splits = stacked_splits(rows, fold)
        assert len(splits) == FOLDS - 1
        for number, (train, test) in enumerate(splits, start=1):
            assert (fold[test] == number).all()
            assert (rows.end_time[train] <= rows.time[test].min()).all()
            # Three hours of two symbols have labels that reach into the fold.
            assert len(train) == np.count_nonzero(fold < number) - 6

    def test_an_embargo_widens_the_purge(self, rows: StackedRows, fold: np.ndarray) -> None:
        (train, _), *_ = stacked_splits(rows, fold, embargo_ns=5 * 3_600_000_000_000)
        assert len(train) == np.count_nonzero(fold < 1) - 16

    def test_the_first_fold_has_no_stacked_answer(self, rows: StackedRows, fold: np.ndarray, meta: OutOfFold) -> None:
        assert meta.name == "meta"
        assert np.array_equal(np.isnan(meta.p_up), fold == 0)
        assert np.array_equal(meta.fold, np.where(fold == 0, NOT_TESTED, fold))
        assert len(meta.fold_metrics) == FOLDS - 1
        train, test = stacked_splits(rows, fold)[1]
        alone = MetaModel(rows.spec(seed=3)).fit(rows.take(train)).predict(rows.take(test))["p_up"]
        assert np.array_equal(meta.answers["p_up"][test], alone)

    def test_confidence_begins_with_the_third_fold(self, rows: StackedRows, meta: OutOfFold) -> None:
        above, fold = on_top(rows, meta)
        found = cross_validate_confidence(ConfidenceModel, rows.spec(seed=3), above, fold)
        assert sorted(set(found.fold[found.tested].tolist())) == [2, 3]
        said = found.answers["confidence"][:, 0]
        assert np.array_equal(np.isnan(said), fold == 1)
        assert len(found.fold_metrics) == 2
        assert found.metrics.rows == found.tested.sum()
        assert found.metrics.share == pytest.approx(is_right(above)[found.tested].mean())
        assert found.metrics.calibrated

    def test_nothing_else_is_looked_at(self, rows: StackedRows, fold: np.ndarray, meta: OutOfFold) -> None:
        above, own = on_top(rows, meta)
        assert looks_elsewhere(MetaModel, rows.spec(seed=3), rows, stacked_splits(rows, fold)[0]) == 0.0
        assert looks_elsewhere(ConfidenceModel, rows.spec(seed=3), above, stacked_splits(above, own)[0]) == 0.0


class TestWorth:
    def test_a_signal_in_one_model_is_found(self, rows: StackedRows, meta: OutOfFold) -> None:
        tested, up = meta.tested, rows.y[meta.tested] == 1
        best = max(float(np.mean((rows.said[tested, place] > 0.5) == up)) for place in range(len(BASE_MODELS)))
        mean = float(np.mean((logit(rows.said[tested]).mean(axis=1) > 0) == up))
        assert meta.metrics.accuracy >= best - 0.01
        assert meta.metrics.accuracy > mean + 0.02

    def test_without_signal_confidence_is_one_half_and_the_meta_model_guesses(self, make_dataset: Maker) -> None:
        noise = stacked(make_dataset(4_800, strength=0.0, seed=9))
        fold = folded(len(noise))
        found = cross_validate_stacked(MetaModel, noise.spec(seed=3), noise, fold)
        assert found.metrics.accuracy_low < 0.5 < found.metrics.accuracy_high
        confidence = cross_validate_confidence(ConfidenceModel, noise.spec(seed=3), *on_top(noise, found))
        said = confidence.answers["confidence"][confidence.tested, 0]
        assert np.mean((said >= 0.45) & (said <= 0.55)) >= 0.99


class TestRelease:
    def test_is_fitted_on_all_rows_proved_and_judged_on_later_ones(
        self, rows: StackedRows, fold: np.ndarray, meta: OutOfFold, make_dataset: Maker
    ) -> None:
        later = make_dataset(1_000, seed=8)
        shift = rows.end_time.max() - later.time.min()
        later = replace(later, time=later.time + shift, end_time=later.end_time + shift)
        model, artifact = fit_stacked_release(MetaModel, rows.spec(seed=3), rows, fold, holdout=stacked(later, seed=4))
        assert artifact.name == "meta"
        assert artifact.card.rows == len(rows)
        assert artifact.card.metrics["onnx_parity"] <= PARITY_MAX
        assert artifact.card.metrics["holdout"]["accuracy"] > 0.6
        above, own = on_top(rows, meta)
        holdout = replace(stacked(later, seed=4), meta=model.predict(stacked(later, seed=4))["p_up"][:, 0])
        _, confidence = fit_stacked_release(ConfidenceModel, rows.spec(seed=3), above, own, holdout=holdout)
        assert confidence.card.metrics["holdout"]["rows"] == 1_000
        assert confidence.card.metrics["holdout"]["share"] == pytest.approx(is_right(holdout).mean())

    def test_a_mask_chooses_its_rows(self, rows: StackedRows, fold: np.ndarray) -> None:
        _, artifact = fit_stacked_release(MetaModel, rows.spec(seed=3), rows, fold, train_mask=fold < 3)
        assert artifact.card.rows == np.count_nonzero(fold < 3)

    def test_a_holdout_that_labels_reach_into_is_refused(self, rows: StackedRows, fold: np.ndarray) -> None:
        with pytest.raises(TrainingError, match="meta: training labels reach into the holdout"):
            fit_stacked_release(
                MetaModel, rows.spec(seed=3), rows, fold, train_mask=fold < 3, holdout=rows.take(fold == 3)
            )


@pytest.fixture(scope="module")
def base(dataset: Dataset, splits: Splits) -> OutOfFold:
    small = replace(dataset.spec(seed=3, threads=1), parameters={"n_estimators": 10})
    return cross_validate(RandomForestModel, small, dataset, splits)


@pytest.fixture(scope="module")
def regime(dataset: Dataset, splits: Splits) -> OutOfFoldAnswers:
    told: list[tuple[str, int, int]] = []
    spec = replace(dataset.spec(seed=3, threads=1), parameters={"n_estimators": 10})
    found = cross_validate_regime(RegimeModel, spec, dataset, splits, progress=lambda *progress: told.append(progress))
    assert told[-1] == ("regime", 3, 3)
    return found


class TestBelow:
    """What the models below said of rows, out of fold, put beside these."""

    def test_regimes_are_judged_out_of_fold(self, regime: OutOfFoldAnswers, dataset: Dataset) -> None:
        # Features of noise tell no regime: no better than always saying the most frequent one.
        assert regime.metrics.rows == 1_200
        assert regime.metrics.accuracy < regime.metrics.majority_accuracy + 0.05
        assert len(regime.fold_metrics) == 3
        assert np.isnan(regime.answers["regime"][:1_200]).all()

    def test_rows_that_all_were_tested_on(self, base: OutOfFold, regime: OutOfFoldAnswers, dataset: Dataset) -> None:
        rows, fold = stacked_rows(dataset, dict.fromkeys(BASE_MODELS, base), regime)
        assert np.array_equal(rows.time, dataset.time[1_200:])
        assert np.array_equal(rows.said[:, 0], base.p_up[1_200:])
        assert np.bincount(fold).tolist() == [400, 400, 400]

    def test_the_meta_models_first_fold_is_left_out(
        self, base: OutOfFold, regime: OutOfFoldAnswers, dataset: Dataset
    ) -> None:
        later = base.fold > 0
        meta = replace(base, name="meta", fold=np.where(later, base.fold, NOT_TESTED).astype(np.int32))
        rows, fold = stacked_rows(dataset, dict.fromkeys(BASE_MODELS, base), regime, meta)
        assert np.array_equal(rows.time, dataset.time[1_600:])
        assert np.array_equal(rows.meta, base.p_up[1_600:])
        assert sorted(set(fold.tolist())) == [1, 2]

    def test_other_folds_are_refused(self, base: OutOfFold, regime: OutOfFoldAnswers, dataset: Dataset) -> None:
        other = replace(base, name="cnn", fold=np.roll(base.fold, 2))
        with pytest.raises(TrainingError, match="cnn and regime were tested over different folds"):
            stacked_rows(dataset, {**dict.fromkeys(BASE_MODELS, base), "cnn": other}, regime)


class TestLeaks:
    def test_rows_that_were_in_no_test_fold_are_refused(self, rows: StackedRows, fold: np.ndarray) -> None:
        in_sample = np.where(np.arange(len(rows)) < 100, NOT_TESTED, fold)
        for asked in (cross_validate_stacked, fit_stacked_release):
            with pytest.raises(TrainingError, match="100 rows were in no test fold"):
                asked(MetaModel, rows.spec(seed=3), rows, in_sample)

    def test_folds_that_are_not_in_order_of_time_are_refused(self, rows: StackedRows, fold: np.ndarray) -> None:
        for wrong in (fold[::-1], np.random.default_rng(1).permutation(fold)):
            with pytest.raises(TrainingError, match=r"fold \d begins before fold \d ends"):
                stacked_splits(rows, wrong)

    def test_one_fold_is_refused(self, rows: StackedRows) -> None:
        with pytest.raises(TrainingError, match="1 folds, two are needed"):
            stacked_splits(rows, np.zeros(len(rows), dtype=np.int32))

    def test_folds_of_other_rows_are_refused(self, rows: StackedRows, fold: np.ndarray) -> None:
        with pytest.raises(TrainingError, match="4800 rows, 4799 folds"):
            stacked_splits(rows, fold[1:])

    def test_labels_that_all_reach_into_the_fold_are_refused(self, rows: StackedRows, fold: np.ndarray) -> None:
        with pytest.raises(TrainingError, match="fold 1: every earlier label reaches into it"):
            stacked_splits(rows, fold, embargo_ns=10**18)

    def test_shuffled_labels_stay_in_the_chance_band(self, make_dataset: Maker) -> None:
        result = stacked_shuffled_labels(
            MetaModel, meta_spec(make_dataset), make_dataset(), partial(trained_below, in_sample=False)
        )
        assert result.passed
        assert result.kind == "shuffled_labels"

    def test_a_meta_model_fitted_on_answers_in_sample_fails_the_canary(self, make_dataset: Maker) -> None:
        """The folds are called as they should be; what base models said is of rows that they were fitted on."""
        result = stacked_shuffled_labels(
            MetaModel, meta_spec(make_dataset), make_dataset(), partial(trained_below, in_sample=True)
        )
        assert not result.passed
        assert result.accuracy > result.high


def meta_spec(make_dataset: Maker) -> ModelSpec:
    return make_dataset().spec(seed=3, threads=1, rows_min=200)


def trained_below(rows: Dataset, *, in_sample: bool) -> tuple[StackedRows, np.ndarray]:
    """Train a forest as each base model, and answer its test rows; in sample these were fitted on too."""
    spec = replace(rows.spec(seed=3, threads=1, rows_min=200), parameters={"n_estimators": 20, "min_samples_leaf": 5})
    factory: ModelFactory = RandomForestModel
    fold = folded(len(rows), FOLDS + 1) - 1
    said = np.full(len(rows), np.nan)
    for number in range(FOLDS):
        test = np.flatnonzero(fold == number)
        train = np.flatnonzero(rows.end_time <= rows.time[test].min())
        fitted = np.concatenate([train, test]) if in_sample else train
        said[test] = factory(spec).fit(rows.take(fitted)).predict(rows.take(test))["p_up"][:, 0]
    tested = np.flatnonzero(fold >= 0)
    regime = np.full((len(tested), 4), 0.25)
    return StackedRows.of(rows.take(tested), dict.fromkeys(BASE_MODELS, said[tested]), regime), fold[tested]
