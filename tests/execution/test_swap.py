import numpy as np
import pandas as pd
import pytest

from fx_dagster.errors import SettingsError
from fx_dagster.execution.swap import next_rollover, swap_nights


def at(text):
    return pd.Timestamp(text, tz="America/New_York").value


@pytest.mark.parametrize(
    ("since", "until", "nights"),
    [
        ("2024-01-08 16:59", "2024-01-08 17:00", 1),  # Monday
        ("2024-01-08 17:00", "2024-01-09 16:59", 0),
        ("2024-01-10 16:59", "2024-01-10 17:00", 3),  # Wednesday
        ("2024-01-12 16:00", "2024-01-14 17:00", 1),  # over the weekend
        ("2024-01-08 12:00", "2024-01-15 12:00", 7),
        ("2024-01-08 12:00", "2024-02-05 12:00", 28),
        ("2024-07-10 16:59", "2024-07-10 17:00", 3),  # in summer time
    ],
)
def test_nights(since, until, nights):
    assert swap_nights(np.array([at(since), at(until)]), 2).tolist() == [0, nights]


def test_any_path_between_two_moments_has_the_same_nights():
    times = np.arange(at("2024-03-01 00:00"), at("2024-04-20 00:00"), 3_600_000_000_000)
    assert swap_nights(times, 4).sum() == swap_nights(times[[0, -1]], 4).sum()


def test_the_triple_day_is_a_trading_day():
    with pytest.raises(SettingsError, match="triple_swap_weekday"):
        swap_nights(np.array([0, 1]), 5)


def test_next_rollover():
    assert next_rollover(at("2024-01-08 16:59:59")) == at("2024-01-08 17:00")
    assert next_rollover(at("2024-01-08 17:00")) == at("2024-01-09 17:00")
    assert next_rollover(at("2024-03-09 17:00")) == at("2024-03-10 17:00")
