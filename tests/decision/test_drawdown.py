import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.codes import Stage
from fx_dagster.decision.drawdown import next_stage, releasable

THRESHOLDS = (0.03, 0.05, 0.08, 0.10)


def stage(before, drawdown, released=0.0):
    return next_stage(before, drawdown, THRESHOLDS, 0.8, released, 0.005)


@pytest.mark.parametrize(
    ("drawdown", "expected"),
    [(0.0, 0), (0.0299, 0), (0.03, 1), (0.05, 2), (0.0799, 2), (0.08, 3), (0.0999, 3), (0.10, 4), (0.5, 4)],
)
def test_thresholds(drawdown, expected):
    assert stage(0, drawdown) == expected


def test_hysteresis():
    assert stage(Stage.REDUCE, 0.025) == Stage.REDUCE
    assert stage(Stage.REDUCE, 0.0239) == Stage.NORMAL
    assert stage(Stage.HALVE, 0.041) == Stage.HALVE
    assert stage(Stage.HALVE, 0.039) == Stage.REDUCE
    assert stage(Stage.HALVE, 0.0) == Stage.NORMAL
    assert stage(Stage.CLOSE_ONLY, 0.07) == Stage.CLOSE_ONLY


def test_halt_stays_whatever_happens():
    assert stage(Stage.HALT, 0.0) == Stage.HALT


@settings(max_examples=500, deadline=None)
@given(
    st.integers(0, 4),
    st.floats(0.0, 0.2),
    st.floats(0.0, 0.2),
    st.one_of(st.just(0.0), st.floats(0.0, 0.1)),
)
def test_more_drawdown_never_leads_to_a_milder_stage(before, one, other, released):
    low, high = sorted((one, other))
    assert stage(before, low, released) <= stage(before, high, released)


def test_close_only_is_released_when_flat_and_trips_again_a_little_deeper():
    assert not releasable(Stage.CLOSE_ONLY, 0, 99, 100, True)
    assert not releasable(Stage.CLOSE_ONLY, 0, 100, 100, False)
    assert releasable(Stage.CLOSE_ONLY, 0, 100, 100, True)
    assert not releasable(Stage.HALT, 0, 100, 100, True)
    assert stage(Stage.HALVE, 0.081, released=0.081) == Stage.HALVE
    assert stage(Stage.HALVE, 0.0861, released=0.081) == Stage.CLOSE_ONLY
    assert stage(Stage.HALVE, 0.10, released=0.099) == Stage.HALT
