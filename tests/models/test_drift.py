"""Planted drift is found and named, and nothing is found where nothing has changed."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import DataError
from fx_dagster.features.drift import Bins, Neighbourhood
from fx_dagster.models.drift import (
    PredictionReference,
    TrainingReference,
    calibration_error,
    judge_features,
    judge_predictions,
)
from fx_dagster.models.evaluate import Judged, evaluate

HOUR_NS = 3_600_000_000_000
COLUMNS = 8
NAMES = tuple(f"f{place}" for place in range(COLUMNS))
EQUAL = dict.fromkeys(NAMES, 1.0)
BARS = 240


def market(rows: int, seed: int, memory: float = 0.97) -> np.ndarray:
    """Return features with a deviation of 1 that forget in about thirty bars."""
    rng = np.random.default_rng(seed)
    out, row = np.empty((rows, COLUMNS), np.float32), rng.standard_normal(COLUMNS)
    noise = rng.standard_normal((rows, COLUMNS)) * np.sqrt(1 - memory**2)
    for place in range(rows):
        row = memory * row + noise[place]
        out[place] = row
    return out


def hours(rows: int) -> np.ndarray:
    return np.arange(rows) * HOUR_NS


@pytest.fixture(scope="module")
def reference() -> TrainingReference:
    X = market(4_000, 1)
    return TrainingReference("c0ffee", Bins.of(NAMES, X, hours(4_000)), Neighbourhood.of(X, seed=1, rows=600))


def judge(reference, X, importance=EQUAL):
    return judge_features(reference, importance, X, hours(len(X)), psi_min=0.25)


def test_without_a_change_there_is_no_alarm(reference):
    found = np.array([judge(reference, market(BARS, 100 + seed)).drift for seed in range(100)])
    assert np.mean(found >= 0.3) <= 0.02
    assert found.max() < 0.5
    assert found.mean() < 0.08


def test_rules_of_thumb_would_have_been_alarms(reference):
    """What 0.25 means for rows that are independent says nothing about a market's: why windows are looked at."""
    found = [np.mean(reference.bins.stability(market(BARS, 100 + seed)) > 0.25) for seed in range(30)]
    assert np.mean(found) > 0.5


@pytest.mark.parametrize("planted", [(2,), (0, 5, 7), tuple(range(COLUMNS))])
def test_planted_drift_is_found_and_named(reference, planted):
    for seed in range(5):
        X = market(BARS, 200 + seed)
        X[:, planted] += 3.0
        found = judge(reference, X)
        named = set(found.features["feature"][found.features["drifted"]])
        assert named >= {NAMES[place] for place in planted}
        assert len(named) <= len(planted) + 2
        assert found.moved >= len(planted) / COLUMNS
        assert found.drift >= found.moved


def test_a_wider_spread_is_found_too(reference):
    X = market(BARS, 300)
    X[:, 4] *= 5
    found = judge(reference, X)
    assert "f4" in set(found.features["feature"][found.features["drifted"]])


def test_attention_decides_what_a_moved_feature_counts_for(reference):
    X = market(BARS, 400)
    X[:, 3] += 4.0
    ignored = judge(reference, X, {**EQUAL, "f3": 0.0})
    adored = judge(reference, X, {**dict.fromkeys(NAMES, 0.01), "f3": 0.93})
    assert ignored.moved < 0.3
    assert adored.moved > 0.9
    assert adored.features["feature"][0] == "f3"
    assert adored.features["importance"].sum() == pytest.approx(1)


def test_rows_far_from_everything_are_strange(reference):
    assert judge(reference, market(BARS, 500) + 5).strange > 0.95
    assert judge(reference, market(BARS, 500)).strange < 0.1


def test_drift_does_not_depend_on_the_order_of_features(reference):
    X, order = market(BARS, 600), np.array([4, 0, 7, 1, 2, 6, 3, 5])
    X[:, 1] += 2
    names = tuple(NAMES[place] for place in order)
    training = market(4_000, 1)[:, order]
    turned = TrainingReference(
        "c0ffee", Bins.of(names, training, hours(4_000)), Neighbourhood.of(training, seed=1, rows=600)
    )
    first, second = judge(reference, X), judge(turned, X[:, order])
    assert first.moved == pytest.approx(second.moved)
    assert first.strange == second.strange
    pd.testing.assert_frame_equal(
        first.features.sort_values("feature", ignore_index=True),
        second.features.sort_values("feature", ignore_index=True),
    )


def test_rows_of_other_features_are_refused(reference):
    for X in (np.zeros((BARS, 3), np.float32), np.zeros((0, COLUMNS), np.float32)):
        with pytest.raises(DataError, match="8 features"):
            judge(reference, X)


def test_a_reference_is_named_by_its_content_and_comes_back_whole(dataset, make_dataset):
    kept = TrainingReference.of(dataset, seed=7)
    back = TrainingReference.from_table(kept.frame(), json.loads(json.dumps(kept.facts())))
    assert back.bins == kept.bins
    np.testing.assert_array_equal(back.near.sample, kept.near.sample)
    assert back.table == kept.table == TrainingReference.of(make_dataset(), seed=7).table
    assert kept.table.startswith("training_reference_")
    others = [replace(dataset, feature_hash="decaf"), replace(dataset, X=dataset.X + 1), make_dataset(seed=2)]
    assert len({kept.table, *(TrainingReference.of(other, seed=7).table for other in others)}) == 4


def test_what_is_no_reference_is_refused(dataset):
    kept = TrainingReference.of(dataset, seed=7)
    for frame, facts in ((kept.frame(), {}), (kept.frame().drop(columns="signal"), kept.facts())):
        with pytest.raises(DataError, match="not a training reference"):
            TrainingReference.from_table(frame, facts)


# -- predictions ---------------------------------------------------------------------------------------------------


def spoken(rows: int, seed: int, *, sharpness: float = 1.0, honest: bool = True) -> pd.DataFrame:
    """Return probabilities that come true as said, or are the same numbers with the coin's outcome."""
    rng = np.random.default_rng(seed)
    p_up = np.clip(0.5 + 0.12 * sharpness * rng.standard_normal(rows), 0.02, 0.98)
    up = rng.random(rows) < (p_up if honest else 1 - p_up)
    time = hours(rows)
    return pd.DataFrame({"time": time, "end_time": time + 4 * HOUR_NS, "p_up": p_up, "up": up.astype(np.int8)})


@pytest.fixture(scope="module")
def out_of_fold() -> PredictionReference:
    rows = spoken(5_000, 1)
    return PredictionReference.of(rows["p_up"].to_numpy(), rows["up"].to_numpy(), rows["time"].to_numpy())


def judged(reference, rows, known=None):
    known = rows if known is None else known
    return judge_predictions("m", reference, rows, known, psi_min=0.25, bars_min=120, seed=1)


def test_calibration_error_is_the_judgements_own():
    rows = spoken(1_000, 3)
    p_up, up, time = (rows[name].to_numpy() for name in ("p_up", "up", "time"))
    zero = np.zeros(len(rows))
    assert calibration_error(up, p_up) == pytest.approx(
        evaluate(Judged(up, p_up, zero, zero, time, time + 1)).calibration_error
    )


def test_honest_predictions_are_left_alone(out_of_fold):
    found = [judged(out_of_fold, spoken(480, 100 + seed)) for seed in range(60)]
    assert np.mean([one.moved for one in found]) == 0
    assert np.mean([one.miscalibrated for one in found]) <= 0.05


def test_predictions_that_come_true_the_other_way_are_found(out_of_fold):
    for seed in range(5):
        found = judged(out_of_fold, spoken(480, 200 + seed, honest=False))
        assert not found.moved
        assert found.miscalibrated
        assert found.calibration_error > found.calibration_limit
        assert found.brier > found.brier_low > found.brier_expected


def test_predictions_that_became_bold_or_one_sided_are_found(out_of_fold):
    assert judged(out_of_fold, spoken(480, 300, sharpness=3)).moved
    rows = spoken(480, 300)
    assert judged(out_of_fold, rows.assign(p_up=rows["p_up"] + 0.15)).moved
    assert judged(out_of_fold, rows.assign(p_up=0.5)).moved


def test_with_few_known_outcomes_only_the_distribution_is_judged(out_of_fold):
    rows = spoken(480, 400, honest=False)
    found = judged(out_of_fold, rows, rows.head(119))
    assert found.outcomes == 119
    assert np.isnan(found.brier)
    assert not found.miscalibrated
    assert not judged(out_of_fold, rows, rows.head(0)).miscalibrated


def test_a_prediction_reference_is_plain_json(out_of_fold):
    text = json.dumps(out_of_fold.to_dict(), allow_nan=False)
    assert PredictionReference.from_dict(json.loads(text)) == out_of_fold
    assert len(text) < 5_000
