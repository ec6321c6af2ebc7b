"""Purged, embargoed, expanding walk-forward over pooled symbols, and the final holdout.

Folds are blocks of time over all symbols at once: two symbols at one hour share that hour's news, so that rows of the
same time must not lie on both sides of a split (López de Prado 2018, ch. 7).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import Int64

HOLDOUT_FOLD: Final = -1


@dataclass(frozen=True)
class Fold:
    """One split: row positions (int64) to train and to test on, and the test block ``[start, end)`` in ns UTC.

    ``fold`` counts from 0; the final holdout is ``HOLDOUT_FOLD``. ``purged`` counts the earlier rows that are left out
    of training because their label comes too close to the test block.
    """

    fold: int
    train: Int64
    test: Int64
    test_start: int
    test_end: int
    purged: int


@dataclass(frozen=True)
class WalkForward:
    """The folds, in order of time, and the final holdout that only the release step scores (None without one)."""

    folds: tuple[Fold, ...]
    holdout: Fold | None


def walk_forward(
    time: Int64, end_time: Int64, *, folds: int, embargo_ns: int, holdout_share: float = 0.0
) -> WalkForward:
    """Split pooled rows by time.

    The distinct times are cut into a development part and the holdout, the development part into ``folds + 1`` equal
    blocks. Fold k trains on what lies before block k + 1 and tests on that block, so that each development row after
    the first block is tested once. A training label must end at least ``embargo_ns`` before the test block begins; in
    an expanding walk-forward nothing trains after its test, so the embargo widens the purge instead of following the
    test. Development rows whose labels reach that close to the holdout are used in no fold.

    Args:
        time: bar openings of the rows, int64 ns UTC, in any order, equal times allowed (several symbols).
        end_time: when each row's label is known, int64 ns UTC, after ``time``.
        folds: how many test blocks, at least 1.
        embargo_ns: least distance between a training label's end and the test block.
        holdout_share: share of the distinct times at the end that is held out, in [0, 1).

    Raises:
        DataError: arguments are impossible, or a fold would have nothing to train or test on.
    """
    time, end_time = np.asarray(time, dtype=np.int64), np.asarray(end_time, dtype=np.int64)
    _require(time, end_time, folds, embargo_ns, holdout_share)
    moments = np.unique(time)
    held_out = round(len(moments) * holdout_share)
    development = moments[: len(moments) - held_out]
    stop = int(moments[-1]) + 1
    holdout_start = int(moments[-held_out]) if held_out else stop
    usable = np.ones(len(time), dtype=bool)
    if held_out:
        usable = end_time + embargo_ns <= holdout_start
    edges = [int(block[0]) for block in np.array_split(development, folds + 1) if len(block)] + [holdout_start]
    if len(edges) != folds + 2:
        raise DataError(f"{len(development)} distinct times are too few for {folds} folds", mend="use fewer folds")
    made = tuple(
        _fold(time, end_time, usable, number, edges[number + 1], edges[number + 2], embargo_ns)
        for number in range(folds)
    )
    everything = np.ones(len(time), dtype=bool)
    held = _fold(time, end_time, everything, HOLDOUT_FOLD, holdout_start, stop, embargo_ns) if held_out else None
    return WalkForward(made, held)


def purged_train_mask(time: Int64, end_time: Int64, test_start: int, test_end: int, embargo_ns: int) -> NDArray:
    """Return which rows (bool ``[n]``) may be trained on beside the test block ``[test_start, test_end)``.

    Before the block, a row whose label ends at least ``embargo_ns`` before it; after the block, a row that begins at
    least ``embargo_ns`` after the end of the block and of its last label.
    """
    in_test = (time >= test_start) & (time < test_end)
    known = max(test_end, int(end_time[in_test].max())) if in_test.any() else test_end
    return (end_time + embargo_ns <= test_start) | (time >= known + embargo_ns)


def _fold(
    time: Int64, end_time: Int64, usable: NDArray, number: int, test_start: int, test_end: int, embargo_ns: int
) -> Fold:
    earlier = usable & (time < test_start)
    train = earlier & purged_train_mask(time, end_time, test_start, test_end, embargo_ns)
    test = usable & (time >= test_start) & (time < test_end)
    name = "the holdout" if number == HOLDOUT_FOLD else f"fold {number}"
    for part, rows in (("train", train), ("test", test)):
        if not rows.any():
            raise DataError(
                f"{name} has no rows to {part} on",
                mend="use fewer folds, a shorter horizon or embargo, or more history",
            )
    purged = int(earlier.sum() - train.sum())
    return Fold(number, np.flatnonzero(train), np.flatnonzero(test), test_start, test_end, purged)


def _require(time: Int64, end_time: Int64, folds: int, embargo_ns: int, holdout_share: float) -> None:
    if len(time) != len(end_time):
        raise DataError(f"splits: {len(time)} times and {len(end_time)} end times", mend="pass both of the same rows")
    if not len(time):
        raise DataError("splits: no rows", mend="compute features and labels first")
    if np.any(end_time <= time):
        raise DataError(
            f"splits, row {int(np.argmax(end_time <= time))}: the label ends before it begins",
            mend="pass end_time from compute_labels",
        )
    if folds < 1 or embargo_ns < 0 or not 0.0 <= holdout_share < 1.0:
        raise DataError(
            f"splits: folds {folds}, embargo_ns {embargo_ns}, holdout_share {holdout_share}",
            mend="folds ≥ 1, embargo_ns ≥ 0, 0 ≤ holdout_share < 1",
        )
