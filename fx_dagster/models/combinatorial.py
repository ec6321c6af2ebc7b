"""Combinatorial purged cross-validation: several histories out of one, instead of the single one of a walk-forward.

The times are cut into blocks, every choice of test blocks is one fit, and the answers to the blocks are joined into
paths, each of which covers all times once by models that had not seen them (López de Prado 2018, ch. 12).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.evaluate import Metrics, evaluate, label_span
from fx_dagster.models.protocol import OUTPUT_NAME, Float64, ModelFactory, ModelSpec
from fx_dagster.models.training import Index, Progress, judged, require_no_leak

N_FOLDS = 6
N_TEST_FOLDS = 2
"""Six blocks, two of them tested by each fit: 15 fits, 5 paths."""

SPREAD = ("accuracy", "log_loss", "mean_net_return")
"""Numbers whose spread over the paths is told."""


@dataclass(frozen=True)
class CombinatorialSplit:
    """One fit.

    Attributes:
        train: positions of the training rows; they may lie on both sides of a test block.
        tests: positions of the rows of each test block.
        paths: path that the answers to each test block belong to.
    """

    train: Index
    tests: tuple[Index, ...]
    paths: tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """A number over the paths. Paths share fits and rows: ``deviation`` is no standard error."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class PathResult:
    """What models say of all rows, once a path.

    Attributes:
        name: the family.
        fits: models that were fitted.
        p_up: float64 ``[paths, n]``.
        metrics: one judgement a path.
    """

    name: str
    fits: int
    p_up: Float64
    metrics: tuple[Metrics, ...]

    def spread(self, number: str) -> Spread:
        """Return how one of the metrics' numbers differs between paths; ``deviation`` is the sample's (n - 1)."""
        values = np.array([getattr(one, number) for one in self.metrics])
        return Spread(float(values.mean()), float(values.std(ddof=1)), float(values.min()), float(values.max()))

    def frame(self) -> pd.DataFrame:
        """Return one row a path: ``family, path, rows`` and the numbers beside what costs nothing."""
        return pd.DataFrame(
            [
                {
                    "family": self.name,
                    "path": path,
                    "rows": one.rows,
                    "accuracy": one.accuracy,
                    "accuracy_low": one.accuracy_low,
                    "accuracy_high": one.accuracy_high,
                    "majority": one.majority_accuracy,
                    "log_loss": one.log_loss,
                    "base_log_loss": one.base_log_loss,
                    "mean_net_return": one.mean_net_return,
                }
                for path, one in enumerate(self.metrics)
            ]
        )


def combinatorial_splits(
    dataset: Dataset, *, n_folds: int = N_FOLDS, n_test_folds: int = N_TEST_FOLDS, embargo_bars: int = 0
) -> list[CombinatorialSplit]:
    """Cut pooled rows by their distinct times.

    The rows of one time stay together. On both sides of a test block as many times are purged as a label usually spans,
    after it the embargo too. A label that spans more, as over one symbol's holiday, is left out of training by its own
    end.

    Args:
        dataset: n rows.
        n_folds: blocks of time, at least 3.
        n_test_folds: blocks that each fit is tested on, at least 2, fewer than ``n_folds``.
        embargo_bars: times after a test block that no fit learns from, beside the purge.

    Raises:
        TrainingError: the numbers are impossible, the history is too short for them, or a split would leak.
    """
    from skfolio.model_selection import CombinatorialPurgedCV

    times, position = np.unique(dataset.time, return_inverse=True)
    span = label_span(times, dataset.time, dataset.end_time)
    try:
        cutter = CombinatorialPurgedCV(n_folds, n_test_folds, purged_size=span, embargo_size=embargo_bars)
        cuts = list(cutter.split(times[:, None]))
    except ValueError as error:
        raise TrainingError(
            f"{len(times)} distinct times cannot be cut into {n_folds} folds: {error}",
            mend="use a longer history, a shorter horizon or a smaller embargo (FX_TRAINING_EMBARGO_BARS)",
        ) from error
    splits = []
    for (train, tests), paths in zip(cuts, cutter.get_path_ids(), strict=True):
        blocks = tuple(_rows(position, test) for test in tests)
        rows = _clear(dataset, _rows(position, train), blocks)
        for number, block in enumerate(blocks):
            # Training rows lie on both sides: each block is held against them by itself.
            require_no_leak(dataset, rows, block, number)
        splits.append(CombinatorialSplit(rows, blocks, tuple(int(path) for path in paths)))
    return splits


def _rows(position: NDArray[np.intp], moments: NDArray[np.intp]) -> Index:
    """Return the rows of the chosen times; ``position`` is each row's place among the distinct times."""
    chosen = np.zeros(int(position.max()) + 1, dtype=bool)
    chosen[moments] = True
    return np.flatnonzero(chosen[position])


def _clear(dataset: Dataset, train: Index, blocks: Sequence[Index]) -> Index:
    """Return the training rows whose span from bar to known label meets no test row's."""
    kept = np.ones(len(train), dtype=bool)
    for block in blocks:
        first, last = dataset.time[block].min(), dataset.end_time[block].max()
        kept &= (dataset.end_time[train] <= first) | (dataset.time[train] >= last)
    return train[kept]


def combinatorial(
    factory: ModelFactory,
    spec: ModelSpec,
    dataset: Dataset,
    *,
    n_folds: int = N_FOLDS,
    n_test_folds: int = N_TEST_FOLDS,
    embargo_bars: int = 0,
    progress: Progress | None = None,
) -> PathResult:
    """Fit one model a split and judge the paths that its answers make.

    Args:
        factory: the family.
        spec: of its models.
        dataset: n rows; the caller leaves the holdout out.
        n_folds: see :func:`combinatorial_splits`.
        n_test_folds: see there.
        embargo_bars: see there.
        progress: told after each fit.

    Raises:
        TrainingError: the history is too short, a split leaks, or a fit is refused.
    """
    splits = combinatorial_splits(dataset, n_folds=n_folds, n_test_folds=n_test_folds, embargo_bars=embargo_bars)
    p_up = np.full((1 + max(max(split.paths) for split in splits), len(dataset)), np.nan)
    name = ""
    for number, split in enumerate(splits):
        model = factory(spec).fit(dataset.take(split.train))
        for block, path in zip(split.tests, split.paths, strict=True):
            p_up[path, block] = model.predict(dataset.take(block))[OUTPUT_NAME][:, 0]
        name = model.name
        if progress is not None:
            progress(name, number + 1, len(splits))
    # A row without an answer would be NaN, which is refused here: a path covers all rows.
    metrics = tuple(evaluate(judged(dataset, path), seed=spec.seed) for path in p_up)
    return PathResult(name, len(splits), p_up, metrics)
