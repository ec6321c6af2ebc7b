import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import DataError
from fx_dagster.features.checks import constant, look_ahead, not_finite, out_of_training_range, training_range
from fx_dagster.market.timeframes import Timeframe, bar_close

H1 = Timeframe.H1


@pytest.fixture
def features() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(rng.normal(size=(1000, 3)).astype(np.float32), columns=["a", "b", "c"])
    frame.insert(0, "time", np.arange(1000, dtype=np.int64))
    return frame


def test_sound_features_pass(features):
    bounds = training_range(features)
    for result in (not_finite(features), constant(features), out_of_training_range(features, bounds)):
        assert result.passed
        assert result.rows == 1000
        assert not result.offending
        assert "passed" in result.summary


def test_nan_and_infinity_are_counted_by_feature(features):
    features.loc[[1, 2], "b"] = np.nan
    features.loc[5, "c"] = -np.inf
    result = not_finite(features)
    assert not result.passed
    assert result.offending == {"b": 2, "c": 1}
    assert "b (2), c (1)" in result.summary


def test_a_constant_feature_is_found_when_there_are_rows_to_tell(features):
    features["b"] = np.float32(0.5)
    assert constant(features).offending == {"b": 1000}
    assert constant(features.head(50)).passed


def test_drifted_features_are_found(features):
    bounds = training_range(features)
    drifted = features.copy()
    drifted["a"] += 20.0
    drifted.loc[:4, "c"] = 1000.0
    assert out_of_training_range(drifted, bounds).offending == {"a": 1000}
    assert out_of_training_range(drifted, bounds, share_max=0.001).offending == {"a": 1000, "c": 5}


def test_the_range_of_other_features_is_refused(features):
    bounds = training_range(features)
    with pytest.raises(DataError, match="different columns"):
        out_of_training_range(features[["time", "b", "a", "c"]], bounds)
    with pytest.raises(DataError, match="no rows"):
        training_range(features.head(0))


def _leaky(bars, _peers):
    close = bars[H1]["close"]
    return pd.DataFrame(
        {
            "time": bars[H1]["time"],
            "honest": close.rolling(3).mean(),
            "centred": close.rolling(3, center=True).mean(),
            "scaled": close / close.iloc[-1],
        }
    )


def test_look_ahead_is_found_and_named(make_bars):
    bars = make_bars(300)
    cuts = [int(bar_close(bars["time"].to_numpy(), H1)[row]) for row in (150, 220)]
    result = look_ahead({H1: bars}, _leaky, H1, cuts=cuts)
    assert not result.passed
    assert "honest" not in result.offending
    assert result.offending["centred"] == 2
    assert result.offending["scaled"] > 2
    assert result.rows == 151 + 221


def test_rows_that_only_later_history_makes_are_look_ahead(make_bars):
    def waits(bars, _peers):
        frame = pd.DataFrame({"time": bars[H1]["time"], "close": bars[H1]["close"]})
        return frame.iloc[:-2]

    bars = make_bars(300)
    result = look_ahead({H1: bars}, waits, H1, cuts=[int(bars["time"].iloc[100])])
    assert result.offending == {"close": 2}
