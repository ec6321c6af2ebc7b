import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.features.splits import HOLDOUT_FOLD, purged_train_mask, walk_forward


def pooled(seed: int, moments: int, symbols: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of several symbols in random order, each symbol with its own gaps."""
    rng = np.random.default_rng(seed)
    times, ends = [], []
    for _ in range(symbols):
        grid = np.flatnonzero(rng.random(moments + horizon) < 0.9).astype(np.int64)
        times.append(grid[:-horizon])
        ends.append(grid[horizon:])
    time, end = np.concatenate(times), np.concatenate(ends)
    order = rng.permutation(len(time))
    return time[order], end[order]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    symbols=st.integers(1, 5),
    folds=st.integers(1, 6),
    horizon=st.integers(1, 20),
    embargo=st.integers(0, 20),
    share=st.sampled_from([0.0, 0.1, 0.3]),
)
def test_no_training_label_reaches_a_test_block(seed, symbols, folds, horizon, embargo, share):
    time, end = pooled(seed, 1000, symbols, horizon)
    split = walk_forward(time, end, folds=folds, embargo_ns=embargo, holdout_share=share)
    assert len(split.folds) == folds
    tested = np.zeros(len(time), dtype=int)
    blocks = [*split.folds, *([split.holdout] if split.holdout else [])]
    for fold in blocks:
        tested[fold.test] += 1
        assert (end[fold.train] + embargo <= time[fold.test].min()).all()
        assert ((time[fold.test] >= fold.test_start) & (time[fold.test] < fold.test_end)).all()
        assert len(np.intersect1d(fold.train, fold.test)) == 0
    assert tested.max() == 1
    held = split.holdout.test_start if split.holdout else None
    expected = time >= split.folds[0].test_start
    if held is not None:
        expected &= (time >= held) | (end + embargo <= held)
        assert all((end[fold.train] <= held).all() and (end[fold.test] <= held).all() for fold in split.folds)
        assert (tested[time >= held] == 1).all()
    assert (tested == expected).all()


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_training_expands_and_the_order_of_rows_does_not_matter(seed):
    time, end = pooled(seed, 600, 3, 5)
    split = walk_forward(time, end, folds=4, embargo_ns=3, holdout_share=0.2)
    sizes = [len(fold.train) for fold in split.folds]
    assert sizes == sorted(sizes)
    assert all(set(one.train) <= set(two.train) for one, two in zip(split.folds, split.folds[1:], strict=False))
    order = np.random.default_rng(seed).permutation(len(time))
    turned = walk_forward(time[order], end[order], folds=4, embargo_ns=3, holdout_share=0.2)
    for one, two in zip(split.folds, turned.folds, strict=True):
        assert set(one.train) == set(order[two.train])
        assert set(one.test) == set(order[two.test])


def test_folds_follow_each_other_and_rows_close_to_the_holdout_are_in_none():
    time = np.arange(100, dtype=np.int64)
    split = walk_forward(time, time + 2, folds=3, embargo_ns=1, holdout_share=0.2)
    assert [(fold.fold, *fold.test[[0, -1]], len(fold.test)) for fold in split.folds] == [
        (0, 20, 39, 20), (1, 40, 59, 20), (2, 60, 77, 18),
    ]  # fmt: skip
    assert (split.holdout.fold, split.holdout.test.tolist()) == (HOLDOUT_FOLD, list(range(80, 100)))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31), start=st.integers(0, 900), length=st.integers(1, 100), embargo=st.integers(0, 30))
def test_training_on_both_sides_keeps_the_distance(seed, start, length, embargo):
    time, end = pooled(seed, 1000, 2, 10)
    train = purged_train_mask(time, end, start, start + length, embargo)
    test = (time >= start) & (time < start + length)
    if test.any():
        before, after = train & (time < start), train & (time >= start)
        assert (end[before] + embargo <= start).all()
        assert (time[after] >= end[test].max() + embargo).all()
        assert not (train & test).any()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"folds": 0}, "folds 0"),
        ({"embargo_ns": -1}, "embargo_ns -1"),
        ({"holdout_share": 1.0}, "holdout_share 1.0"),
        ({"folds": 200}, "too few for 200 folds"),
        ({"embargo_ns": 10_000}, "fold 0 has no rows to train on"),
    ],
)
def test_impossible_splits_are_refused(change, text):
    time = np.arange(100, dtype=np.int64)
    arguments = {"folds": 3, "embargo_ns": 0, "holdout_share": 0.0} | change
    with pytest.raises(DataError, match=text):
        walk_forward(time, time + 1, **arguments)


def test_labels_that_end_before_they_begin_are_refused():
    time = np.arange(100, dtype=np.int64)
    with pytest.raises(DataError, match="row 0: the label ends before it begins"):
        walk_forward(time, time, folds=2, embargo_ns=0)
    with pytest.raises(DataError, match="no rows"):
        walk_forward(time[:0], time[:0], folds=2, embargo_ns=0)
