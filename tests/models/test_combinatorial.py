"""Combinatorial purged cross-validation: every row on every path, and never a label that reaches into a test block."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TrainingError
from fx_dagster.models import combinatorial as module
from fx_dagster.models.combinatorial import PathResult, combinatorial, combinatorial_splits
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.xgboost import XGBoostModel

HOUR_NS = 3_600_000_000_000
QUICK = {"n_estimators": 20}


@pytest.fixture(scope="module")
def result(dataset: Dataset) -> PathResult:
    spec = replace(dataset.spec(seed=3, threads=1), parameters=QUICK)
    return combinatorial(XGBoostModel, spec, dataset, embargo_bars=6)


def test_six_blocks_of_which_two_are_tested_make_fifteen_fits_and_five_paths(dataset: Dataset) -> None:
    splits = combinatorial_splits(dataset)
    assert len(splits) == 15
    tested = [tuple(int(dataset.time[block].min()) for block in split.tests) for split in splits]
    assert tested == list(combinations(sorted({start for pair in tested for start in pair}), 2))
    assert {path for split in splits for path in split.paths} == set(range(5))


@settings(max_examples=15, deadline=None)
@given(n_folds=st.integers(3, 7), data=st.data(), embargo_bars=st.integers(0, 20), span=st.integers(1, 12))
def test_each_path_covers_each_row_once_and_nothing_leaks(dataset, n_folds, data, embargo_bars, span) -> None:
    n_test_folds = data.draw(st.integers(2, n_folds - 1))
    rows = replace(dataset, end_time=dataset.time + span * HOUR_NS)
    splits = combinatorial_splits(rows, n_folds=n_folds, n_test_folds=n_test_folds, embargo_bars=embargo_bars)
    covered = np.zeros((1 + max(max(split.paths) for split in splits), len(rows)), dtype=int)
    for split in splits:
        for block, path in zip(split.tests, split.paths, strict=True):
            covered[path, block] += 1
            first, last = rows.time[block].min(), rows.time[block].max()
            before, after = split.train[rows.time[split.train] < first], split.train[rows.time[split.train] > last]
            assert (rows.end_time[before] <= first).all()
            assert (rows.time[after] >= last + (span + embargo_bars) * HOUR_NS).all()
            assert len(before) + len(after) == len(split.train)
    assert (covered == 1).all()


def test_rows_of_one_time_stay_together(dataset: Dataset) -> None:
    for split in combinatorial_splits(dataset):
        parts = [split.train, *split.tests]
        for one, other in combinations(parts, 2):
            assert not set(dataset.time[one]) & set(dataset.time[other])


def test_a_label_that_spans_a_holiday_is_not_trained_on(dataset: Dataset) -> None:
    plain = combinatorial_splits(dataset)[-1]
    # A hundred times before the first test block, but known in the middle of it.
    start = int(dataset.time[plain.tests[0]].min())
    row = int(np.flatnonzero(dataset.time == start - 100 * HOUR_NS)[0])
    end_time = dataset.end_time.copy()
    end_time[row] = start + 50 * HOUR_NS
    longer = combinatorial_splits(replace(dataset, end_time=end_time))[-1]
    assert row in plain.train
    assert set(plain.train) - set(longer.train) == {row}


def test_without_that_rule_the_split_is_refused(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    end_time = dataset.end_time.copy()
    end_time[0] = dataset.time[-1]
    monkeypatch.setattr(module, "_clear", lambda rows, train, blocks: train)
    with pytest.raises(TrainingError, match=r"\d+ training labels reach into the test fold"):
        combinatorial_splits(replace(dataset, end_time=end_time))


def test_a_short_history_is_refused(dataset: Dataset) -> None:
    with pytest.raises(TrainingError, match="100 distinct times cannot be cut into 6 folds"):
        combinatorial_splits(dataset.take(np.arange(200)), embargo_bars=24)


def test_every_path_finds_the_planted_signal(dataset: Dataset, result: PathResult) -> None:
    assert result.name == "xgboost"
    assert result.fits == 15
    assert result.p_up.shape == (5, len(dataset))
    for one in result.metrics:
        assert one.rows == len(dataset)
        assert one.accuracy_low > one.majority_accuracy
        assert one.log_loss < one.base_log_loss


def test_answers_are_those_of_the_fit_that_had_not_seen_the_block(dataset: Dataset, result: PathResult) -> None:
    spec = replace(dataset.spec(seed=3, threads=1), parameters=QUICK)
    split = combinatorial_splits(dataset, embargo_bars=6)[7]
    model = XGBoostModel(spec).fit(dataset.take(split.train))
    for block, path in zip(split.tests, split.paths, strict=True):
        assert np.array_equal(result.p_up[path, block], model.predict(dataset.take(block))["p_up"][:, 0])


def test_the_spread_is_that_of_the_paths(result: PathResult) -> None:
    accuracy = [one.accuracy for one in result.metrics]
    spread = result.spread("accuracy")
    assert (spread.low, spread.high) == (min(accuracy), max(accuracy))
    assert spread.mean == pytest.approx(np.mean(accuracy))
    assert spread.deviation == pytest.approx(np.std(accuracy, ddof=1))
    assert spread.deviation > 0
    assert list(result.frame()["accuracy"]) == accuracy
