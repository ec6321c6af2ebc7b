"""Nights of swap, against a plain count over the calendar of New York."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.rows import MEMORY
from fx_dagster.errors import SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import new_ledger, swap_nights_between
from fx_dagster.market.instruments import instrument
from fx_dagster.settings import CostSettings

YEARS = (pd.Timestamp("2010-01-01", tz="UTC").value, pd.Timestamp("2035-01-01", tz="UTC").value)


def at(text):
    return pd.Timestamp(text, tz="America/New_York").value


def ledger(item):
    return new_ledger(
        [item], CostSettings(), memory=np.zeros(1, MEMORY), balance=10_000.0, leverage=30.0, account_currency="USD",
        events=8,
    )  # fmt: skip


def plain_nights(since, until, triple_weekday):
    """Count each 17:00 New York in ``(since, until]``, weekends left out."""
    first, last = (pd.Timestamp(time, tz="UTC").tz_convert("America/New_York") for time in (since, until))
    days = pd.date_range(first.date(), last.date(), freq="D")
    rollovers = [(day + pd.Timedelta(hours=17)).tz_localize("America/New_York") for day in days]
    due = [moment.weekday() for moment in rollovers if since < moment.value <= until and moment.weekday() < 5]
    return sum(3 if weekday == triple_weekday else 1 for weekday in due)


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
    assert swap_nights_between(at(since), at(until), 2) == nights


@settings(max_examples=200, deadline=None)
@given(st.integers(*YEARS), st.integers(0, 60 * 24 * 3_600_000_000_000), st.integers(0, 4))
def test_nights_are_those_of_the_calendar(since, length, triple_weekday):
    until = since + length
    assert swap_nights_between(since, until, triple_weekday) == plain_nights(since, until, triple_weekday)


def test_any_path_between_two_moments_has_the_same_nights():
    times = range(at("2024-03-01 00:00"), at("2024-04-20 00:00"), 3_600_000_000_000)
    steps = [swap_nights_between(one, two, 4) for one, two in itertools.pairwise(times)]
    assert sum(steps) == swap_nights_between(times[0], times[-1], 4)


@pytest.mark.parametrize("weekday", [-1, 5])
def test_the_triple_day_is_a_trading_day(weekday):
    with pytest.raises(SettingsError, match="triple_swap_weekday"):
        ledger(replace(instrument("EURUSD"), triple_swap_weekday=weekday))


@pytest.mark.parametrize(
    ("now", "following"),
    [
        ("2024-01-08 16:59:59", "2024-01-08 17:00"),
        ("2024-01-08 17:00", "2024-01-09 17:00"),
        ("2024-03-09 17:00", "2024-03-10 17:00"),  # the clock is put forward in between
    ],
)
def test_the_next_rollover(now, following):
    account = ledger(instrument("EURUSD"))
    ledgers.quote(account, 0, at(now), 1.1, 1.1001, False)
    assert account.money["rollover"][0] == at(following)
