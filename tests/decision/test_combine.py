import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.codes import Combine
from fx_dagster.decision.combine import (
    classical_signal,
    combined_signal,
    learn_outcomes,
    log_loss,
    mean_signal,
    model_support,
    model_trust,
    path_weights,
    traditional_signal,
    validate,
    vote_support,
)
from fx_dagster.decision.state import new_state

NAN = math.nan
EQUAL = np.full(13, 1 / 13)
LN2 = math.log(2)


def weights(combine, signals, meta=NAN, losses=(LN2, LN2, LN2), sharpness=20.0, traditional=0.5, trust=1.0):
    out = np.empty(3)
    path_weights(int(combine), np.array(signals), meta, np.array(losses), sharpness, traditional, trust, out)
    return out


def test_absent_votes_are_left_out():
    votes = np.full(13, NAN)
    assert math.isnan(traditional_signal(votes, EQUAL))
    votes[:2] = 1.0, -0.5
    assert traditional_signal(votes, EQUAL) == pytest.approx(0.25)
    votes[2] = 7.0
    assert traditional_signal(votes, EQUAL) == pytest.approx(0.5)


def test_the_classical_signal_knows_nothing_of_the_vote_behind_it():
    weights = np.full(14, 1 / 14)
    votes = np.full(14, NAN)
    votes[13] = 1.0
    assert math.isnan(classical_signal(votes, weights))
    assert traditional_signal(votes, weights) == 1.0
    votes[:2] = 0.5, -0.2
    assert classical_signal(votes, weights) == pytest.approx(0.15)
    assert traditional_signal(votes, weights) == pytest.approx(1.3 / 3)


def test_mean_of_usable_models():
    assert mean_signal(np.array([0.8, NAN, 0.6]), 0, 3) == pytest.approx(0.4)
    assert math.isnan(mean_signal(np.array([1.5, NAN]), 0, 2))


@pytest.mark.parametrize("combine", Combine)
@pytest.mark.parametrize("signals", [(0.3, 0.1, NAN), (0.3, NAN, NAN), (NAN, 0.1, NAN), (0.3, 0.1, -0.2), (NAN,) * 3])
def test_weights_sum_to_one_over_what_is_there(combine, signals):
    out = weights(combine, signals)
    present = [math.isfinite(signal) for signal in signals]
    assert out.sum() == pytest.approx(1.0 if any(present) else 0.0)
    assert all(weight == 0.0 for weight, there in zip(out, present, strict=True) if not there)


def test_parallel_is_a_fixed_vote():
    assert weights(Combine.PARALLEL, (0.3, 0.1, NAN)) == pytest.approx([0.5, 0.5, 0.0])
    assert weights(Combine.PARALLEL, (0.3, 0.1, 0.2)) == pytest.approx([0.5, 0.25, 0.25])


def test_hierarchical_follows_the_models_and_falls_back():
    models = weights(Combine.HIERARCHICAL, (0.3, -0.1, NAN))
    assert models == pytest.approx([0.0, 1.0, 0.0])
    assert combined_signal(Combine.HIERARCHICAL, np.array([0.3, -0.1, NAN]), NAN, models) == pytest.approx(-0.1)
    assert combined_signal(Combine.HIERARCHICAL, np.array([0.3, -0.1, NAN]), 0.7, models) == 0.7
    alone = weights(Combine.HIERARCHICAL, (0.3, NAN, NAN))
    assert combined_signal(Combine.HIERARCHICAL, np.array([0.3, NAN, NAN]), NAN, alone) == pytest.approx(0.3)


def test_hybrid_follows_the_better_log_loss():
    assert weights(Combine.HYBRID, (0.3, 0.1, NAN)) == pytest.approx([0.5, 0.5, 0.0])
    better = weights(Combine.HYBRID, (0.3, 0.1, NAN), losses=(0.72, 0.68, 0.1))
    assert better[1] / better[0] == pytest.approx(math.exp(20.0 * 0.04))
    assert better[2] == 0.0


def test_trust_falls_in_a_straight_line_between_the_two_limits():
    said = [model_trust(drift, 0.3, 0.8) for drift in (NAN, -1.0, 0.0, 0.3, 0.55, 0.8, 1.0, math.inf)]
    assert said == pytest.approx([1.0, 1.0, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        (Combine.PARALLEL, [2 / 3, 1 / 6, 1 / 6]),
        (Combine.HIERARCHICAL, [0.5, 0.25, 0.25]),
        (Combine.HYBRID, [0.5, 0.25, 0.25]),
    ],
)
def test_the_votes_get_what_the_models_lose_by_drift(combine, expected):
    assert weights(combine, (0.3, 0.1, 0.2), trust=0.5) == pytest.approx(expected)
    assert weights(combine, (0.3, 0.1, 0.2), trust=0.0) == pytest.approx([1.0, 0.0, 0.0])
    assert weights(combine, (NAN, 0.1, 0.2), trust=0.5)[0] == 0.0


def test_a_drifted_meta_model_shares_with_the_votes():
    signals = np.array([0.4, 0.1, NAN])
    halved = weights(Combine.HIERARCHICAL, signals, meta=0.8, trust=0.5)
    assert combined_signal(Combine.HIERARCHICAL, signals, 0.8, halved) == pytest.approx(0.6)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0.5, 2.0), st.floats(-1, 1)), min_size=1, max_size=40))
def test_log_loss_uses_only_outcomes_known_by_then(tape):
    horizon, decay = 12, 0.9
    state = new_state(1, horizon).rows[0]
    expected = LN2
    for t, (price, signal) in enumerate(tape):
        learn_outcomes(state, price, np.array([signal, NAN, NAN]), decay)
        if t >= horizon and price != tape[t - horizon][0]:
            up = price > tape[t - horizon][0]
            expected = decay * expected + (1 - decay) * log_loss(tape[t - horizon][1], up)
        assert state["log_loss"][0] == pytest.approx(expected, rel=1e-12)
        assert state["log_loss"][1] == LN2


def test_log_loss_of_one_certainty_is_bounded():
    assert log_loss(1.0, False) == pytest.approx(-math.log(0.02))
    assert log_loss(0.0, True) == pytest.approx(LN2)


def test_support_is_the_share_of_strength_that_agrees():
    votes = np.full(13, NAN)
    votes[:3] = 0.6, -0.2, 0.0
    assert vote_support(votes, EQUAL, 1.0, 13) == pytest.approx(0.75)
    assert vote_support(votes, EQUAL, -1.0, 13) == pytest.approx(0.25)
    assert vote_support(votes, EQUAL, 1.0, 1) == 1.0
    assert math.isnan(vote_support(np.zeros(13), EQUAL, 1.0, 13))
    assert model_support(np.array([0.8, 0.4]), 2, 1.0) == pytest.approx(0.75)
    assert model_support(np.array([0.5, 0.5]), 2, 1.0) == 0.5
    assert math.isnan(model_support(np.array([NAN, 0.4]), 1, 1.0))


def test_validation_is_four_four_two_and_shares_the_weight_of_what_is_absent():
    parts = np.empty(3)
    assert validate(0.9, 0.5, 0.2, (0.4, 0.4, 0.2), parts) == pytest.approx(0.36 + 0.2 + 0.04)
    assert parts == pytest.approx([0.9, 0.5, 0.2])
    assert validate(0.9, 0.5, NAN, (0.4, 0.4, 0.2), parts) == pytest.approx(0.7)
    assert parts == pytest.approx([0.9, 0.5, 0.0])
    assert validate(0.9, NAN, NAN, (0.4, 0.4, 0.2), parts) == pytest.approx(0.9)
    assert validate(NAN, NAN, NAN, (0.4, 0.4, 0.2), parts) == 0.0
