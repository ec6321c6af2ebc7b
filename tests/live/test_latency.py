"""Quantiles of durations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.live.latency import Histogram


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(0.001, 1e5), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_right_within_five_percent(values: list[float], share: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = float(np.quantile(values, share, method="inverted_cdf"))
    assert histogram.quantile_ms(share) == pytest.approx(exact, rel=0.05)


def test_nothing_measured_is_nothing_and_extremes_fit() -> None:
    histogram = Histogram()
    assert histogram.summary() == {"n": 0, "p50_ms": None, "p90_ms": None, "p99_ms": None, "max_ms": None}
    for value in (0.0, 1e12):
        histogram.add(value)
    assert histogram.summary()["max_ms"] == 1e12
