import numpy as np
import pytest

from fx_dagster.features.clock import clock_features
from fx_dagster.market.timeframes import HOUR_NS, Timeframe


def at(moment: str) -> dict[str, float]:
    """Features of the H1 bar that closes at ``moment`` (UTC)."""
    opening = np.array([np.datetime64(moment, "ns").astype(np.int64) - HOUR_NS])
    return {name: float(values[0]) for name, values in clock_features(opening, Timeframe.H1).items()}


@pytest.mark.parametrize(
    ("moment", "tokyo", "london", "new_york"),
    [
        ("2017-01-10T00:00", 1, 0, 0),
        ("2017-01-10T08:00", 1, 1, 0),
        ("2017-01-10T09:00", 0, 1, 0),
        ("2017-01-10T13:00", 0, 1, 1),
        ("2017-01-10T17:00", 0, 0, 1),
        ("2017-01-10T22:00", 0, 0, 0),
        # New York is on daylight saving, London not yet: 8:00 in New York is 12:00 UTC, 8:00 in London is 8:00 UTC.
        ("2017-03-15T07:00", 1, 0, 0),
        ("2017-03-15T12:00", 0, 1, 1),
        # Both are: London opens at 7:00 UTC.
        ("2017-07-11T07:00", 1, 1, 0),
        ("2017-07-11T21:00", 0, 0, 0),
    ],
)
def test_sessions_follow_their_own_clocks(moment, tokyo, london, new_york):
    features = at(moment)
    assert (features["session_tokyo"], features["session_london"], features["session_new_york"]) == (
        tokyo,
        london,
        new_york,
    )


@pytest.mark.parametrize("turn", ["2017-01-10T22:00", "2017-07-11T21:00"])
def test_the_day_turns_at_17_new_york_in_winter_and_summer(turn):
    features = at(turn)
    assert features["hour_sin"] == pytest.approx(0.0, abs=1e-12)
    assert features["hour_cos"] == pytest.approx(1.0)


def test_the_week_turns_on_sunday_at_17_new_york():
    start, middle = at("2017-01-08T22:00"), at("2017-01-12T10:00")
    assert start["week_cos"] == pytest.approx(1.0)
    assert middle["week_cos"] == pytest.approx(-1.0)
