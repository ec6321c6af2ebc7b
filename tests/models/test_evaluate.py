import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TrainingError
from fx_dagster.models.evaluate import Judged, accuracy_interval, break_even_accuracy, evaluate, label_span, net_returns

HOUR_NS = 3_600_000_000_000


def judged(p_up: np.ndarray, forward_return: np.ndarray, cost: float = 1e-4, horizon: int = 3) -> Judged:
    time = np.arange(len(p_up), dtype=np.int64) * HOUR_NS
    y = (forward_return > 0).astype(np.int8)
    return Judged(y, p_up, forward_return, np.full(len(p_up), cost), time, time + horizon * HOUR_NS)


def test_known_values() -> None:
    rows = judged(np.array([0.9, 0.8, 0.3, 0.6]), np.array([2e-3, -1e-3, -1e-3, 4e-3]))
    found = evaluate(rows)
    assert found.accuracy == 0.75
    assert found.always_up_accuracy == found.majority_accuracy == 0.5
    assert found.break_even_accuracy == pytest.approx(0.5 + 1e-4 / (2 * 2e-3))
    assert found.log_loss == pytest.approx(-np.mean(np.log([0.9, 0.2, 0.7, 0.6])))
    assert found.base_log_loss == pytest.approx(np.log(2))
    assert found.brier == pytest.approx(np.mean([0.01, 0.64, 0.09, 0.16]))
    assert found.roc_auc == 0.75
    assert found.mean_net_return == pytest.approx(np.mean([2e-3, -1e-3, 1e-3, 4e-3]) - 1e-4)


@settings(max_examples=60, deadline=None)
@given(st.floats(1e-5, 1e-2), st.floats(0.0, 5e-3), st.integers(1, 99))
def test_at_the_break_even_accuracy_trading_each_bar_earns_nothing(move: float, cost: float, right: int) -> None:
    """Equal moves, a share of them predicted right: the mean net return has the sign of accuracy minus break-even."""
    forward_return = np.full(100, move)
    p_up = np.where(np.arange(100) < right, 0.9, 0.1)
    mean = net_returns(judged(p_up, forward_return, cost)).mean()
    needed = break_even_accuracy(forward_return, np.full(100, cost))
    assert mean == pytest.approx(2 * move * (right / 100 - needed), abs=1e-12)


def test_costs_that_nothing_can_pay_for_show_above_one() -> None:
    assert break_even_accuracy(np.array([1e-4, -1e-4]), np.array([3e-4, 3e-4])) == pytest.approx(2.0)


def test_calibrated_probabilities_have_a_small_calibration_error() -> None:
    rng = np.random.default_rng(0)
    p_up = rng.uniform(0.2, 0.8, 20_000)
    up = rng.random(20_000) < p_up
    honest = evaluate(judged(p_up, np.where(up, 1e-3, -1e-3)))
    boastful = evaluate(judged(np.clip(0.5 + 2 * (p_up - 0.5), 0, 1), np.where(up, 1e-3, -1e-3)))
    assert honest.calibration_error < 0.02 < boastful.calibration_error
    assert sum(row.rows for row in honest.calibration) == 20_000
    accuracies = [row.accuracy for row in honest.coverage]
    assert accuracies == sorted(accuracies)


def test_interval_is_wider_where_neighbours_repeat_each_other() -> None:
    rng = np.random.default_rng(1)
    independent = rng.random(4_000) < 0.55
    repeated = np.repeat(rng.random(400) < 0.55, 10)
    time = np.arange(4_000, dtype=np.int64) * HOUR_NS
    low, high = accuracy_interval(independent, time, time + HOUR_NS)
    wide_low, wide_high = accuracy_interval(repeated, time, time + 10 * HOUR_NS)
    assert low < 0.55 < high
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.55 * 0.45 / 4_000), rel=0.2)
    assert wide_high - wide_low > 2 * (high - low)


def test_label_span_counts_distinct_times() -> None:
    time = np.repeat(np.arange(10, dtype=np.int64), 3)
    assert label_span(np.unique(time), time, time + 4) == 4


def test_one_class_is_judged_too() -> None:
    found = evaluate(judged(np.array([0.6, 0.7]), np.array([1e-3, 1e-3])))
    assert (found.accuracy, found.roc_auc, found.base_log_loss) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize("value", [np.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(TrainingError, match="1 of 2 probabilities"):
        evaluate(judged(np.array([0.5, value]), np.array([1e-3, -1e-3])))


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(TrainingError, match="no rows"):
        evaluate(judged(np.array([]), np.array([])))
