"""Fitting and judging: out-of-fold predictions over purged splits, and the model that is released."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.evaluate import Judged, Metrics, evaluate
from fx_dagster.models.onnx_export import require_parity
from fx_dagster.models.protocol import OUTPUT_NAME, Answers, Float64, Model, ModelArtifact, ModelFactory, ModelSpec

Index = NDArray[np.intp]
Split = tuple[Index, Index]
"""Positions of training rows and of test rows."""

Progress = Callable[[str, int, int], None]
"""Told the model's name, the fold that is done and the number of folds."""

NOT_TESTED = -1
_PARITY_ROWS = 2_000


@dataclass(frozen=True)
class OutOfFold:
    """Predictions of rows by models that have not seen them; n rows of the dataset.

    Attributes:
        name: the model's name.
        p_up: float64 ``[n]``; NaN where a row was in no test fold.
        fold: int32 ``[n]``; -1 there.
        fold_metrics: one judgement a fold.
        metrics: judgement of all tested rows.
        answers: every output of the model, float64 ``[n, w]`` by name; NaN where a row was in no test fold.
        importance: mean share of each feature over the folds.
    """

    name: str
    p_up: Float64
    fold: NDArray[np.int32]
    fold_metrics: tuple[Metrics, ...]
    metrics: Metrics
    answers: Answers
    importance: Mapping[str, float]

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Rows that have a prediction."""
        return np.asarray(self.fold != NOT_TESTED)


def judged(dataset: Dataset, p_up: Float64, index: Index | None = None) -> Judged:
    """Return the rows at ``index`` (all by default) as :func:`fx_dagster.models.evaluate.evaluate` reads them.

    ``p_up`` belongs to the rows at ``index``, in that order.
    """
    rows = dataset if index is None else dataset.take(index)
    return Judged(rows.y, p_up, rows.forward_return, rows.cost, rows.time, rows.end_time)


@dataclass(frozen=True)
class Answered:
    """What models said of rows that they had not seen; n rows of the data set.

    Attributes:
        name: the family's name.
        answers: every output, float64 ``[n, w]`` by name; NaN where a row was in no test fold.
        fold: int32 ``[n]``; -1 there.
        importance: mean share of each input over the folds.
    """

    name: str
    answers: Answers
    fold: NDArray[np.int32]
    importance: Mapping[str, float]

    @property
    def tested(self) -> NDArray[np.bool_]:
        """Rows that have an answer."""
        return np.asarray(self.fold != NOT_TESTED)


def answer_out_of_fold(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    splits: Iterable[Split],
    *,
    progress: Progress | None = None,
) -> Answered:
    """Fit one model a split and let it answer its test rows.

    Raises:
        TrainingError: a split leaks, a row is tested twice, there is no split, or a fit is refused.
    """
    pairs = list(splits)
    if not pairs:
        raise TrainingError("no splits to cross-validate over", mend="use a longer history or fewer folds")
    fold = np.full(len(dataset), NOT_TESTED, dtype=np.int32)
    answers: dict[str, Float64] = {}
    shares, name = [], ""
    for number, (train, test) in enumerate(pairs):
        require_no_leak(dataset, train, test, number)
        if (fold[test] != NOT_TESTED).any():
            raise TrainingError(f"fold {number} tests rows that an earlier fold tested", mend="use disjoint test folds")
        model = factory(spec).fit(dataset.take(train))
        for output, values in model.predict(dataset.take(test)).items():
            answers.setdefault(output, np.full((len(dataset), values.shape[1]), np.nan))[test] = values
        fold[test], name = number, model.name
        shares.append(model.importance())
        if progress is not None:
            progress(name, number + 1, len(pairs))
    mean = {key: float(np.mean([share[key] for share in shares])) for key in shares[0]}
    return Answered(name, answers, fold, mean)


def cross_validate(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    splits: Iterable[Split],
    *,
    progress: Progress | None = None,
) -> OutOfFold:
    """Fit one direction model a split, and judge what it says of its test rows.

    Raises:
        TrainingError: as of :func:`answer_out_of_fold`.
    """
    found = answer_out_of_fold(factory, spec, dataset, splits, progress=progress)
    p_up, fold = found.answers[OUTPUT_NAME][:, 0], found.fold
    folds = [np.flatnonzero(fold == number) for number in range(int(fold.max()) + 1)]
    tested = np.flatnonzero(found.tested)
    return OutOfFold(
        name=found.name,
        p_up=p_up,
        fold=fold,
        fold_metrics=tuple(evaluate(judged(dataset, p_up[test], test), seed=spec.seed) for test in folds),
        metrics=evaluate(judged(dataset, p_up[tested], tested), seed=spec.seed),
        answers=found.answers,
        importance=found.importance,
    )


def require_no_leak(dataset: Dataset, train: Index, test: Index, number: int) -> None:
    """Refuse a split in which a training label reaches into the test fold's time.

    Raises:
        TrainingError: a training row's span from bar to known label meets the span of the test rows.
    """
    if not len(train) or not len(test):
        raise TrainingError(f"fold {number}: {len(train)} training and {len(test)} test rows", mend="use fewer folds")
    first, last = dataset.time[test].min(), dataset.end_time[test].max()
    overlapping = (dataset.end_time[train] > first) & (dataset.time[train] < last)
    if overlapping.any():
        raise TrainingError(
            f"fold {number}: {np.count_nonzero(overlapping)} training labels reach into the test fold",
            mend="purge at least the label's horizon",
        )


def fit_release(
    factory: ModelFactory, spec: ModelSpec, dataset: Dataset, train: Index, holdout: Index | None = None
) -> tuple[Model, ModelArtifact]:
    """Fit the model that is released on ``train``, prove its ONNX graph, and judge it on ``holdout`` where given.

    Returns:
        The fitted model, and its artifact, whose card has ``onnx_parity`` and, where judged, ``holdout``.

    Raises:
        TrainingError: the fit is refused, the split leaks, or the graph's answers differ.
    """
    model = factory(spec).fit(dataset.take(train))
    artifact = proved(model, dataset.take(train))
    if holdout is None or not len(holdout):
        return model, artifact
    require_no_leak(dataset, train, holdout, NOT_TESTED)
    p_up = model.predict(dataset.take(holdout))[OUTPUT_NAME][:, 0]
    judgement = evaluate(judged(dataset, p_up, holdout), seed=spec.seed)
    return model, artifact.with_metrics({"holdout": judgement.to_dict()})


def proved(model: Model, rows: Dataset) -> ModelArtifact:
    """Export a fitted model; the card's ``onnx_parity`` is the largest difference of its graph on some of the rows.

    Raises:
        TrainingError: the graph's answers differ.
    """
    content = model.to_onnx()
    sample = np.linspace(0, len(rows) - 1, min(len(rows), _PARITY_ROWS)).astype(np.intp)
    parity = require_parity(model, rows.take(sample), content)
    return ModelArtifact(model.name, content, model.card()).with_metrics({"onnx_parity": parity})
