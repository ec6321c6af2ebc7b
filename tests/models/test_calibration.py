"""Judging probabilities, and the logistic fits: against scikit-learn, by hand, and where chance alone speaks."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fx_dagster.errors import TrainingError
from fx_dagster.models.calibration import (
    LOGIT_MAX,
    Calibration,
    calibration_of,
    expected_calibration_error,
    fit_logistic,
    fit_platt,
    logit,
    sigmoid,
)

HOUR_NS = 3_600_000_000_000


def times(rows: int, horizon: int = 1) -> tuple[np.ndarray, np.ndarray]:
    time = np.arange(rows) * HOUR_NS
    return time, time + horizon * HOUR_NS


def drawn(rows: int, seed: int, *, stretch: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Return outcomes and probabilities; with another stretch than 1 these are of logits that are wrong by it."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0.0, 0.8, rows)
    return (rng.random(rows) < sigmoid(scores)).astype(np.int8), sigmoid(stretch * scores)


def test_error_by_hand() -> None:
    p = np.array([0.2, 0.2, 0.7, 0.7])
    outcome = np.array([0, 1, 1, 1], dtype=np.int8)
    assert expected_calibration_error(outcome, p, bins=2) == pytest.approx((0.3 + 0.3) / 2)
    found = calibration_of(outcome, p, *times(4), bins=2)
    assert found.error == pytest.approx(0.3)
    assert found.brier == pytest.approx((0.04 + 0.64 + 0.09 + 0.09) / 4)
    assert found.base_brier == pytest.approx(0.75 * 0.25)
    assert [(row.rows, row.said, row.share) for row in found.table] == [(2, 0.2, 0.5), (2, pytest.approx(0.7), 1.0)]


def test_a_calibrated_model_is_called_calibrated_as_often_as_promised() -> None:
    found = [calibration_of(*drawn(1_500, seed), *times(1_500)).calibrated for seed in range(60)]
    assert np.mean(found) > 0.85


@pytest.mark.parametrize("stretch", [0.2, 3.0])
def test_too_much_and_too_little_confidence_are_found(stretch: float) -> None:
    outcome, p = drawn(3_000, 5, stretch=stretch)
    found = calibration_of(outcome, p, *times(3_000))
    assert not found.calibrated
    assert found.error > 2 * found.error_by_chance
    assert found.brier > calibration_of(*drawn(3_000, 5), *times(3_000)).brier


def test_intervals_hold_the_truth_and_widen_where_outcomes_repeat() -> None:
    outcome, p = drawn(400, 3)
    alone = calibration_of(outcome, p, *times(400))
    repeated = calibration_of(np.repeat(outcome, 12), np.repeat(p, 12), *times(4_800, horizon=12))
    for found in (alone, repeated):
        assert found.brier_low < found.brier < found.brier_high
        assert all(row.share_low <= row.share <= row.share_high for row in found.table)
    # Twelve copies of a row say no more than one.
    assert repeated.brier_high - repeated.brier_low > 0.6 * (alone.brier_high - alone.brier_low)


def test_one_outcome_only_is_judged() -> None:
    found = calibration_of(np.ones(50, dtype=np.int8), np.full(50, 0.9), *times(50))
    assert (found.share, found.roc_auc, found.base_brier) == (1.0, 0.5, 0.0)
    assert found.brier == pytest.approx(0.01)


def test_judgement_survives_json() -> None:
    found = calibration_of(*drawn(200, 1), *times(200))
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))) == found


@pytest.mark.parametrize("p", [np.array([0.5, np.nan]), np.array([0.5, 1.2]), np.array([])])
def test_what_is_no_probability_is_refused(p: np.ndarray) -> None:
    with pytest.raises(TrainingError):
        calibration_of(np.zeros(len(p), dtype=np.int8), p, *times(len(p)))


@settings(deadline=None, max_examples=50)
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0.0, 1.0)), st.integers(0, 2**32 - 1))
def test_error_is_a_share(p: np.ndarray, seed: int) -> None:
    outcome = np.random.default_rng(seed).integers(0, 2, len(p)).astype(np.int8)
    assert 0.0 <= expected_calibration_error(outcome, p) <= 1.0
    assert expected_calibration_error(outcome, outcome.astype(np.float64)) == pytest.approx(0.0, abs=1e-12)


@settings(deadline=None)
@given(st.floats(0.0, 1.0))
def test_logit_is_bounded_odd_and_undone_by_the_sigmoid(p: float) -> None:
    found = float(logit(np.array([p]))[0])
    assert abs(found) <= LOGIT_MAX + 1e-6
    assert found == pytest.approx(-float(logit(np.array([1.0 - p]))[0]), abs=1e-9)
    if 0.011 < p < 0.989:
        assert float(sigmoid(np.array([found]))[0]) == pytest.approx(p, abs=1e-12)


def test_nan_stays_nan() -> None:
    assert np.isnan(logit(np.array([np.nan]))).all()
    assert np.isnan(sigmoid(np.array([np.nan]))).all()


def test_logistic_fit_is_that_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(4)
    design = rng.standard_normal((500, 4))
    outcome = (rng.random(500) < sigmoid(design @ [1.0, -0.5, 0.0, 0.3])).astype(np.int8)
    found = fit_logistic(design, outcome, prior=np.zeros(4), precision=np.full(4, 2.0), evidence=500.0)
    peer = LogisticRegression(C=0.5, fit_intercept=False, tol=1e-12, max_iter=10_000).fit(design, outcome)
    assert found == pytest.approx(peer.coef_[0], abs=1e-6)


def test_logistic_fit_goes_from_prior_to_likelihood_as_evidence_grows() -> None:
    rng = np.random.default_rng(4)
    design = rng.standard_normal((2_000, 1))
    outcome = (rng.random(2_000) < sigmoid(2.0 * design[:, 0])).astype(np.int8)
    prior, precision = np.array([0.5]), np.array([10.0])
    found = [
        float(fit_logistic(design, outcome, prior=prior, precision=precision, evidence=evidence)[0])
        for evidence in (1e-3, 30.0, 1_000.0, 1e6)
    ]
    assert found == sorted(found)
    assert found[0] == pytest.approx(0.5, abs=1e-3)
    assert found[-1] == pytest.approx(2.0, abs=0.2)


def test_logistic_fit_of_what_can_be_told_apart_stays_finite() -> None:
    design = np.linspace(-1e3, 1e3, 200)[:, None]
    outcome = (design[:, 0] > 0).astype(np.int8)
    found = fit_logistic(design, outcome, prior=np.zeros(1), precision=np.ones(1), evidence=200.0)
    assert np.isfinite(found).all()


def test_weights_are_rows() -> None:
    rng = np.random.default_rng(4)
    design = rng.standard_normal((300, 2))
    outcome = (rng.random(300) < sigmoid(design[:, 0])).astype(np.int8)
    count = rng.integers(1, 4, 300)
    options = {"prior": np.zeros(2), "precision": np.ones(2), "evidence": 100.0}
    weighted = fit_logistic(design, outcome, weight=count.astype(np.float64), **options)
    assert weighted == pytest.approx(fit_logistic(np.repeat(design, count, 0), np.repeat(outcome, count), **options))


def test_platt_undoes_what_was_stretched() -> None:
    outcome, p = drawn(4_000, 2, stretch=0.5)
    slope, intercept = fit_platt(outcome, logit(p), evidence=40_000.0)
    assert slope == pytest.approx(2.0, abs=0.25)
    assert intercept == pytest.approx(0.0, abs=0.1)
    assert fit_platt(outcome, logit(p), evidence=1.0) == pytest.approx((1.0, 0.0), abs=0.05)
