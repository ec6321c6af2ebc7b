"""Fitting and judging: out-of-fold predictions over purged splits, and the model that is released."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
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


def cross_validate(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    splits: Iterable[Split],
    *,
    progress: Progress | None = None,
) -> OutOfFold:
    """Fit one model a split and predict its test rows.

    Raises:
        TrainingError: a split leaks, a row is tested twice, there is no split, or a fit is refused.
    """
    pairs = list(splits)
    if not pairs:
        raise TrainingError("no splits to cross-validate over", mend="use a longer history or fewer folds")
    p_up = np.full(len(dataset), np.nan)
    fold = np.full(len(dataset), NOT_TESTED, dtype=np.int32)
    answers: dict[str, Float64] = {}
    fold_metrics, shares, name = [], [], ""
    for number, (train, test) in enumerate(pairs):
        require_no_leak(dataset, train, test, number)
        if (fold[test] != NOT_TESTED).any():
            raise TrainingError(f"fold {number} tests rows that an earlier fold tested", mend="use disjoint test folds")
        model = factory(spec).fit(dataset.take(train))
        said = model.predict(dataset.take(test))
        for output, values in said.items():
            answers.setdefault(output, np.full((len(dataset), values.shape[1]), np.nan))[test] = values
        p_up[test], fold[test] = said[OUTPUT_NAME][:, 0], number
        fold_metrics.append(evaluate(judged(dataset, p_up[test], test), seed=spec.seed))
        shares.append(model.importance())
        name = model.name
        if progress is not None:
            progress(name, number + 1, len(pairs))
    tested = np.flatnonzero(fold != NOT_TESTED)
    return OutOfFold(
        name=name,
        p_up=p_up,
        fold=fold,
        fold_metrics=tuple(fold_metrics),
        metrics=evaluate(judged(dataset, p_up[tested], tested), seed=spec.seed),
        answers=answers,
        importance={key: float(np.mean([share[key] for share in shares])) for key in shares[0]},
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


def predictions_frame(dataset: Dataset, results: Iterable[OutOfFold]) -> pd.DataFrame:
    """Return PREDICTIONS: ``time, symbol, fold, up, p_up_<model>…`` of the rows that every model was tested on.

    Raises:
        TrainingError: models were tested over different folds.
    """
    found = list(results)
    first = found[0]
    for other in found[1:]:
        if not np.array_equal(first.fold, other.fold):
            raise TrainingError(f"{first.name} and {other.name} were tested over different folds", mend="use one split")
    rows = np.flatnonzero(first.tested)
    frame = pd.DataFrame(
        {
            "time": dataset.time[rows],
            "symbol": np.asarray(dataset.symbols, dtype=object)[dataset.symbol_code[rows]],
            "fold": first.fold[rows],
            "up": dataset.y[rows],
        }
    )
    return frame.assign(**{f"p_up_{result.name}": result.p_up[rows] for result in found})


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
    content = model.to_onnx()
    sample = train[np.linspace(0, len(train) - 1, min(len(train), _PARITY_ROWS)).astype(np.intp)]
    metrics: dict[str, object] = {"onnx_parity": require_parity(model, dataset.take(sample), content)}
    if holdout is not None and len(holdout):
        require_no_leak(dataset, train, holdout, NOT_TESTED)
        p_up = model.predict(dataset.take(holdout))[OUTPUT_NAME][:, 0]
        metrics["holdout"] = evaluate(judged(dataset, p_up, holdout), seed=spec.seed).to_dict()
    return model, ModelArtifact(model.name, content, replace(model.card(), metrics=metrics))
