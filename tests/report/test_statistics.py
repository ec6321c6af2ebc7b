import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.report.statistics import (
    log_histogram,
    summarise_latency,
    summarise_model,
    wilson_accuracy,
    wilson_interval,
)


def test_wilson_agrees_with_its_formula() -> None:
    n, share, z = 10, 0.8, 1.959963984540054
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    interval = wilson_interval(8, 10)
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((centre - half, centre + half), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5_000), st.floats(0, 1))
def test_wilson_holds_the_share_and_stays_a_share(n: int, part: float) -> None:
    right = round(part * n)
    interval = wilson_interval(right, n)
    assert interval is not None
    assert 0 <= interval.low <= right / n + 1e-12
    assert right / n - 1e-12 <= interval.high <= 1


def test_no_forecasts_have_no_accuracy() -> None:
    assert wilson_accuracy([]).value is None
    assert wilson_accuracy([]).interval is None


def test_accuracy_counts_the_right_ones() -> None:
    found = wilson_accuracy([True, False, True, True])
    assert (found.n, found.value) == (4, 0.75)


def test_latency_leaves_out_calls_that_never_were() -> None:
    found = summarise_latency([1.0, np.nan, 2.0, 3.0, np.inf])
    assert (found.n, found.p50_ms, found.max_ms) == (3, 2.0, 3.0)
    assert found.p99_ms == pytest.approx(2.98)


def test_latency_of_nothing_is_null() -> None:
    assert summarise_latency([]).p50_ms is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-3, 1e5), max_size=60), st.lists(st.floats(1e-3, 1e5), max_size=60))
def test_histogram_shares_sum_to_one(first: list[float], second: list[float]) -> None:
    edges, shares = log_histogram([first, second])
    assert np.all(np.diff(edges) > 0)
    assert [share.sum() for share in shares] == pytest.approx([float(bool(first)), float(bool(second))])


def test_a_models_numbers_keep_their_meaning(inputs) -> None:  # type: ignore[no-untyped-def]
    metrics = inputs.metrics["xgboost"]
    found = summarise_model("xgboost", metrics)
    assert found.accuracy.interval is not None
    assert (found.accuracy.value, found.accuracy.interval.low) == (metrics.accuracy, metrics.accuracy_low)
    assert (found.break_even, found.log_loss_base_rate) == (metrics.break_even_accuracy, metrics.base_log_loss)
