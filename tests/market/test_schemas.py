import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import DataError
from fx_dagster.market.schemas import (
    BAR_SCHEMA,
    BAR_TYPES,
    LABEL_SCHEMA,
    LABEL_TYPES,
    TICK_SCHEMA,
    TICK_TYPES,
    SchemaMismatchError,
    empty_bars,
    empty_frame,
    empty_ticks,
    feature_schema,
    indicator_schema,
    tick_frame,
    validate,
)

BAR = ("2017-03-15 09:00", 1.1, 1.2, 1.0, 1.15)


def test_sane_tables_pass(make_ticks, make_bars, sample_bars):
    for frame, schema in (
        (make_ticks([1.1, 1.2]), TICK_SCHEMA),
        (make_bars([BAR]), BAR_SCHEMA),
        (sample_bars, BAR_SCHEMA),
    ):
        assert validate(frame, schema) is frame


def test_empty_tables_pass():
    for frame, schema in (
        (empty_ticks(), TICK_SCHEMA),
        (empty_bars(), BAR_SCHEMA),
        (empty_frame(LABEL_TYPES), LABEL_SCHEMA),
    ):
        validate(frame, schema)
    assert empty_ticks().dtypes.astype(str).to_dict() == TICK_TYPES
    assert empty_bars().dtypes.astype(str).to_dict() == BAR_TYPES


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("bid", np.nan, "bid"),
        ("bid", np.inf, "bid"),
        ("bid", 0.0, "greater_than"),
        ("ask", 1.0, "ask_not_below_bid"),
        ("volume", -1.0, "volume"),
        ("time", -5, "time"),
    ],
)
def test_bad_ticks_fail(make_ticks, column: str, value: float, check: str):
    ticks = make_ticks([1.1, 1.2, 1.3])
    ticks.loc[1, column] = value
    with pytest.raises(SchemaMismatchError, match=r"ticks: .*→ see the failure cases") as caught:
        validate(ticks, TICK_SCHEMA)
    assert check in caught.value.failure_cases.to_string()


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("high", 1.1, "high_is_highest"),
        ("low", 1.12, "low_is_lowest"),
        ("close", -1.0, "greater_than"),
        ("spread", np.nan, "spread"),
        ("tick_volume", -1.0, "tick_volume"),
    ],
)
def test_bad_bars_fail(make_bars, column: str, value: float, check: str):
    bars = make_bars([BAR])
    bars.loc[0, column] = value
    with pytest.raises(SchemaMismatchError) as caught:
        validate(bars, BAR_SCHEMA)
    assert check in caught.value.failure_cases.to_string()


def test_order(make_ticks, make_bars):
    validate(make_ticks([1.1, 1.2], time=[7, 7]), TICK_SCHEMA)
    with pytest.raises(SchemaMismatchError, match="time_ascending"):
        validate(make_ticks([1.1, 1.2], time=[7, 6]), TICK_SCHEMA)
    with pytest.raises(SchemaMismatchError, match="time_strictly_ascending"):
        validate(make_bars([BAR, BAR]), BAR_SCHEMA)


def test_columns_and_types(make_ticks):
    ticks = make_ticks([1.1])
    for wrong in (ticks.drop(columns="ask"), ticks.assign(symbol="X"), ticks.astype({"flags": "int64"})):
        with pytest.raises(SchemaMismatchError):
            validate(wrong, TICK_SCHEMA)


def test_everything_that_is_wrong_is_told_at_once(make_ticks):
    ticks = make_ticks([1.1, 0.0, np.nan, 1.4])
    ticks.loc[3, "volume"] = -1.0
    with pytest.raises(SchemaMismatchError) as caught:
        validate(ticks, TICK_SCHEMA)
    cases = caught.value.failure_cases
    assert {"bid", "volume"} <= set(cases["column"])
    assert {1, 2, 3} <= set(cases["index"].dropna().astype(int))
    assert isinstance(caught.value, DataError)
    assert "\n" not in str(caught.value)


def test_features_are_float32_and_finite_and_indicators_may_warm_up():
    time = np.array([1, 2], dtype=np.int64)
    features = pd.DataFrame({"time": time, "rsi": np.array([0.1, 0.2], dtype=np.float32)})
    validate(features, feature_schema(("rsi",)))
    with pytest.raises(SchemaMismatchError, match=r"features: .* rsi"):
        validate(features.assign(rsi=np.array([np.nan, 1], dtype=np.float32)), feature_schema(("rsi",)))
    with pytest.raises(SchemaMismatchError):
        validate(features.astype({"rsi": "float64"}), feature_schema(("rsi",)))
    validate(pd.DataFrame({"time": time, "rsi": [np.nan, 50.0]}), indicator_schema(("rsi",)))


def test_labels():
    labels = pd.DataFrame(
        {"time": [1], "forward_return": [0.1], "cost": [0.0], "up": [1], "barrier": [-1], "end_time": [5]}
    ).astype(LABEL_TYPES)
    validate(labels, LABEL_SCHEMA)
    for wrong in ({"up": 2}, {"barrier": 3}, {"end_time": 1}, {"cost": -1.0}, {"forward_return": np.nan}):
        with pytest.raises(SchemaMismatchError):
            validate(labels.assign(**wrong).astype(LABEL_TYPES), LABEL_SCHEMA)


def test_tick_frame_shares_memory_with_arrays_of_the_right_type():
    bid = np.array([1.0, 2.0])
    frame = tick_frame(np.array([1, 2]), bid, bid, bid, np.array([0, 0]))
    assert frame.dtypes.astype(str).to_dict() == TICK_TYPES
    assert np.shares_memory(frame["bid"].to_numpy(), bid)
