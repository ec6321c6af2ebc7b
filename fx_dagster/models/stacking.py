"""The order in which models that stand on others are trained, so that none of them learns from an answer to a row that
the answering model had seen.

::

    fold          0          1          2          3          release
    base, regime  tested     tested     tested     tested     fitted on all rows
    meta          –          tested     tested     tested     fitted on folds 0 … 3 as answered out of fold
    confidence    –          –          tested     tested     fitted on folds 1 … 3 as answered out of fold

Base models and the regime model are tested over one walk-forward. For fold k the meta model is fitted on what they said
of earlier folds, less the rows whose label reaches into fold k, and answers fold k. The first fold has nothing before
it: the meta model begins with the second, the confidence with the third.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.calibration import Calibration, calibration_of
from fx_dagster.models.canary import CanaryResult, chance_band
from fx_dagster.models.confidence import CONFIDENCE, is_right
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.evaluate import evaluate
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Model, ModelArtifact, ModelFactory, ModelSpec
from fx_dagster.models.regime import REGIME_NAME, RegimeMetrics, regime_labels, regime_metrics
from fx_dagster.models.stack import StackedRows
from fx_dagster.models.training import (
    NOT_TESTED,
    Answered,
    Index,
    OutOfFold,
    Progress,
    Split,
    answer_out_of_fold,
    cross_validate,
    judged,
    proved,
)

Fold = NDArray[np.int32]
Judgement_co = TypeVar("Judgement_co", covariant=True)


class HasFold(Protocol):
    """Answers out of fold."""

    @property
    def name(self) -> str:
        """The model's name."""
        ...

    @property
    def fold(self) -> Fold:
        """Number of each row's test fold, int32 ``[n]``; -1: in none."""
        ...


@dataclass(frozen=True)
class OutOfFoldAnswers(Generic[Judgement_co]):
    """Answers, of a model that tells no direction, to rows that it had not seen; n rows of the dataset.

    Attributes:
        name: the model's name.
        fold: int32 ``[n]``; -1 where a row was in no test fold.
        answers: every output of the model, float64 ``[n, w]`` by name; NaN there.
        fold_metrics: one judgement a fold.
        metrics: judgement of all tested rows.
        importance: mean share of each input over the folds.
    """

    name: str
    fold: Fold
    answers: Answers
    fold_metrics: tuple[Judgement_co, ...]
    metrics: Judgement_co
    importance: Mapping[str, float]

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Rows that have an answer."""
        return np.asarray(self.fold != NOT_TESTED)


def cross_validate_regime(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    splits: Iterable[Split],
    *,
    progress: Progress | None = None,
) -> OutOfFoldAnswers[RegimeMetrics]:
    """Fit one regime model a split and judge its regimes on the test rows.

    A row's regime is known at its close, so that no label reaches forward; splits are purged all the same, because the
    models that stand on this one learn directions.

    Raises:
        TrainingError: a split leaks, a row is tested twice, there is no split, or a fit is refused.
    """
    labels = regime_labels(dataset)

    def judge(index: Index, answers: Answers) -> RegimeMetrics:
        return regime_metrics(labels[index], answers[REGIME_NAME], dataset.symbol_code[index])

    return _judged_answers(answer_out_of_fold(factory, spec, dataset, splits, progress=progress), judge)


def stacked_rows(
    dataset: Dataset,
    base: Mapping[str, OutOfFold],
    regime: OutOfFoldAnswers[RegimeMetrics],
    meta: OutOfFold | None = None,
) -> tuple[StackedRows, Fold]:
    """Return the rows that every model was tested on, with what was said of them, and their folds.

    Args:
        dataset: n rows that all were tested over.
        base: results of every base model by name.
        regime: result of the regime model.
        meta: result of the meta model; its first fold has none, and is left out.

    Returns:
        m ≤ n rows in the dataset's order, and int32 ``[m]``.

    Raises:
        TrainingError: a base model is missing, or models were tested over different folds.
    """
    everyone: list[HasFold] = [*base.values(), regime, *([] if meta is None else [meta])]
    fold = everyone[-1].fold
    for other in everyone:
        same = other.fold == fold if meta is None else (other.fold == fold) | (fold == NOT_TESTED)
        if len(other.fold) != len(dataset) or not same.all():
            raise TrainingError(
                f"{other.name} and {everyone[-1].name} were tested over different folds", mend="use one split"
            )
    tested = np.flatnonzero(fold != NOT_TESTED)
    rows = StackedRows.of(
        dataset.take(tested),
        {name: result.p_up[tested] for name, result in base.items()},
        regime.answers[REGIME_NAME][tested],
        None if meta is None else meta.p_up[tested],
    )
    return rows, fold[tested]


def stacked_splits(rows: Dataset, fold: Fold, *, embargo_ns: int = 0) -> list[Split]:
    """Return, for each fold but the first, the rows of earlier folds to fit on and its own to test.

    Args:
        rows: n rows.
        fold: in which each was tested by the models below, int32 ``[n]``.
        embargo_ns: least distance between a training label's end and the test fold.

    Raises:
        TrainingError: a row was in no test fold, so that what was said of it may have been learned from it; folds are
            not one after another in time; there are fewer than two; or purging leaves nothing to fit on.
    """
    require_out_of_fold(rows, fold)
    splits = []
    for number in np.unique(fold)[1:]:
        test = np.flatnonzero(fold == number)
        train = np.flatnonzero((fold < number) & (rows.end_time + embargo_ns <= rows.time[test].min()))
        if not len(train):
            raise TrainingError(
                f"fold {number}: every earlier label reaches into it", mend="use fewer folds or a shorter horizon"
            )
        splits.append((train, test))
    return splits


def require_out_of_fold(rows: Dataset, fold: Fold) -> None:
    """Refuse rows whose answers may come from models that had seen them.

    Raises:
        TrainingError: a row was in no test fold, folds are not one after another in time, or there are fewer than two.
    """
    if len(fold) != len(rows):
        raise TrainingError(f"{len(rows)} rows, {len(fold)} folds", mend="one fold a row")
    unseen = int(np.count_nonzero(fold < 0))
    if unseen:
        raise TrainingError(
            f"{unseen} rows were in no test fold: what was said of them may have been learned from them",
            mend="take only rows that every model was tested on",
        )
    numbers = np.unique(fold)
    if len(numbers) < 2:
        raise TrainingError(f"{len(numbers)} folds, two are needed", mend="use more folds (FX_TRAINING_FOLDS)")
    for before, after in pairwise(numbers):
        if rows.time[fold == before].max() >= rows.time[fold == after].min():
            raise TrainingError(
                f"fold {after} begins before fold {before} ends", mend="use the folds of one walk-forward"
            )


def cross_validate_stacked(
    factory: ModelFactory,
    spec: ModelSpec,
    rows: StackedRows,
    fold: Fold,
    *,
    embargo_ns: int = 0,
    progress: Progress | None = None,
) -> OutOfFold:
    """Walk a direction model that stands on others forward over the folds in which those were tested.

    Args:
        factory: of the model.
        spec: of the model.
        rows: n rows with answers out of fold.
        fold: in which each was tested, int32 ``[n]``.
        embargo_ns: least distance between a training label's end and the test fold.
        progress: told of each fold.

    Returns:
        As :func:`fx_dagster.models.training.cross_validate`; ``fold`` is that of the models below, and -1 with a
        prediction of NaN in the first fold, which has nothing before it.

    Raises:
        TrainingError: see :func:`stacked_splits`; or a fit is refused.
    """
    splits = stacked_splits(rows, fold, embargo_ns=embargo_ns)
    found = cross_validate(factory, spec, rows, splits, progress=progress)
    return replace(found, fold=np.where(found.tested, fold, NOT_TESTED).astype(np.int32))


def cross_validate_confidence(
    factory: ModelFactory,
    spec: ModelSpec,
    rows: StackedRows,
    fold: Fold,
    *,
    embargo_ns: int = 0,
    progress: Progress | None = None,
) -> OutOfFoldAnswers[Calibration]:
    """Walk the confidence forward as :func:`cross_validate_stacked` does, judged by its calibration.

    Args:
        factory: of the model.
        spec: of the model.
        rows: n rows with answers out of fold, the meta model's too.
        fold: in which each was tested, int32 ``[n]``; begins with the meta model's first.
        embargo_ns: least distance between a training label's end and the test fold.
        progress: told of each fold.

    Raises:
        TrainingError: see :func:`stacked_splits`; or a fit is refused.
    """
    right = is_right(rows)

    def judge(index: Index, answers: Answers) -> Calibration:
        said = answers[CONFIDENCE][:, 0]
        return calibration_of(right[index], said, rows.time[index], rows.end_time[index], seed=spec.seed)

    splits = stacked_splits(rows, fold, embargo_ns=embargo_ns)
    found = _judged_answers(answer_out_of_fold(factory, spec, rows, splits, progress=progress), judge)
    return replace(found, fold=np.where(found.tested, fold, NOT_TESTED).astype(np.int32))


def fit_stacked_release(
    factory: ModelFactory,
    spec: ModelSpec,
    rows: StackedRows,
    fold: Fold,
    *,
    train_mask: NDArray[np.bool_] | None = None,
    holdout: StackedRows | None = None,
) -> tuple[Model, ModelArtifact]:
    """Fit the model that is released on answers out of fold, and prove its ONNX graph.

    Args:
        factory: of the model.
        spec: of the model.
        rows: n rows with answers out of fold.
        fold: in which each was tested, int32 ``[n]``.
        train_mask: rows to fit on, bool ``[n]``; None: all.
        holdout: rows after all of these, with what the released models below say of them; judged, never fitted on.

    Returns:
        The fitted model, and its artifact, whose card has ``onnx_parity`` and, where judged, ``holdout``.

    Raises:
        TrainingError: see :func:`require_out_of_fold`; the fit is refused, the graph's answers differ, or a training
            label reaches into the holdout.
    """
    require_out_of_fold(rows, fold)
    own = rows if train_mask is None else rows.take(np.flatnonzero(train_mask))
    model = factory(spec).fit(own)
    artifact = proved(model, own)
    if holdout is None or not len(holdout):
        return model, artifact
    if own.end_time.max() > holdout.time.min():
        raise TrainingError(
            f"{model.name}: training labels reach into the holdout", mend="purge at least the label's horizon"
        )
    return model, artifact.with_metrics({"holdout": _judgement(model, holdout, spec.seed)})


StackRecipe = Callable[[Dataset], tuple[StackedRows, Fold]]
"""Trains all that stands below a model on a data set, and returns what they said of its rows, and in which fold."""


def stacked_shuffled_labels(
    factory: ModelFactory, spec: ModelSpec, dataset: Dataset, recipe: StackRecipe, *, seed: int = 7
) -> CanaryResult:
    """Judge a direction model and all below it on the dataset with its labels permuted over all rows.

    The models below must be trained anew on the permuted labels: a meta model that is given what base models said of
    the very rows that they were fitted on finds these labels again, whatever their folds are called.

    Raises:
        TrainingError: see :func:`cross_validate_stacked`; or the recipe's fits are refused.
    """
    shuffled = dataset.with_labels(np.random.default_rng(seed).permutation(dataset.y))
    rows, fold = recipe(shuffled)
    found = cross_validate_stacked(factory, spec, rows, fold)
    tested = found.tested
    low, high = chance_band(rows.y[tested], found.p_up[tested] > 0.5, int(tested.sum()))
    count = int(tested.sum())
    return CanaryResult("shuffled_labels", found.name, found.metrics.accuracy, low, high, count, count)


def _judgement(model: Model, rows: StackedRows, seed: int) -> dict[str, object]:
    said = model.predict(rows)
    if OUTPUT_NAME in said:
        return evaluate(judged(rows, said[OUTPUT_NAME][:, 0]), seed=seed).to_dict()
    return calibration_of(is_right(rows), said[CONFIDENCE][:, 0], rows.time, rows.end_time, seed=seed).to_dict()


def _judged_answers(found: Answered, judge: Callable[[Index, Answers], Judgement_co]) -> OutOfFoldAnswers[Judgement_co]:
    """Judge what a model answered, each fold and all of them; ``judge`` is given rows and the answers to these."""

    def at(index: Index) -> Judgement_co:
        return judge(index, {output: values[index] for output, values in found.answers.items()})

    return OutOfFoldAnswers(
        name=found.name,
        fold=found.fold,
        answers=found.answers,
        fold_metrics=tuple(at(np.flatnonzero(found.fold == number)) for number in range(int(found.fold.max()) + 1)),
        metrics=at(np.flatnonzero(found.tested)),
        importance=found.importance,
    )
