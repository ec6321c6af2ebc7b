"""Limits over all positions: arithmetic by itself, each function against a plain one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.portfolio import (
    BOOK,
    KNOWN_ROWS_MIN,
    currency_room,
    known_correlation,
    shared_margin,
    tail_risk,
)
from fx_dagster.market.instruments import instrument

SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "EURGBP", "XAUUSD", "AUDNZD")
EURUSD, GBPUSD, USDJPY, EURGBP, XAUUSD, AUDNZD = range(6)
TABLE = instrument_table([instrument(symbol) for symbol in SYMBOLS], 30.0)
NO_RETURNS = np.zeros((0, len(SYMBOLS)))


def book_of(**exposure):
    book = np.zeros(len(SYMBOLS), dtype=BOOK)
    for name, value in exposure.items():
        book[SYMBOLS.index(name)] = (value, abs(value) / 30)
    return book, np.flatnonzero(book["exposure"])


def room(i, direction, limit=50_000.0, **exposure):
    return currency_room(TABLE, *book_of(**exposure), i, direction, limit)


def shared(i, direction, returns=NO_RETURNS, limit=0.8, **exposure):
    return shared_margin(TABLE, *book_of(**exposure), returns, i, direction, limit)


def tails(losses, level):
    return tail_risk(losses, np.zeros(len(losses)), 0.0, level, level)


@pytest.mark.parametrize(("level", "value_at_risk", "cvar"), [(0.7, 4.0, 4.6667), (0.8, 4.0, 5.0), (0.0, 1.0, 3.0)])
def test_tails_of_one_to_five(level, value_at_risk, cvar):
    assert tails(np.array([3.0, 1.0, 5.0, 2.0, 4.0]), level) == pytest.approx((value_at_risk, cvar), abs=5e-5)


def test_a_hundred_losses_have_one_beyond_99_percent():
    assert tails(np.arange(1.0, 101.0), 0.99) == (99.0, pytest.approx(100.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60), st.sampled_from([0.5, 0.7, 0.9, 0.975, 0.99]))
def test_tails_agree_with_their_definitions(values, level):
    losses = np.array(values)
    value_at_risk, cvar = tails(losses, level)
    assert value_at_risk == np.quantile(losses, level, method="inverted_cdf")
    # Rockafellar and Uryasev: the least of a + E[(loss - a)+] / (1 - level), reached at one of the losses.
    least = min(a + np.maximum(losses - a, 0.0).mean() / (1 - level) for a in losses)
    assert cvar == pytest.approx(least, rel=1e-9, abs=1e-6)
    assert cvar >= value_at_risk - 1e-6


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)), min_size=1, max_size=60), st.floats(0.0, 10.0))
def test_an_entry_adds_its_losses_to_those_of_the_book(moves, lots):
    losses, added = (np.array(values) for values in zip(*moves, strict=True))
    assert tail_risk(losses, added, lots, 0.9, 0.8) == (tails(losses + lots * added, 0.9)[0],
                                                        tails(losses + lots * added, 0.8)[1])  # fmt: skip


def test_currencies_are_numbered_alike_and_metals_are_among_them():
    base, profit = TABLE["base_currency"], TABLE["profit_currency"]
    assert base[EURUSD] == base[EURGBP]
    assert profit[EURUSD] == profit[GBPUSD] == base[USDJPY] == profit[XAUUSD]
    assert base[GBPUSD] == profit[EURGBP]
    assert len({*base, *profit}) == len({"EUR", "USD", "GBP", "JPY", "XAU", "AUD", "NZD"})


def test_an_exposure_counts_after_netting():
    assert room(EURUSD, 1.0) == 50_000.0
    assert room(EURUSD, 1.0, EURUSD=20_000.0) == 30_000.0
    assert room(GBPUSD, 1.0, EURUSD=20_000.0) == 30_000.0
    # Long euro against dollar, then dollar against yen: the dollar nets to nothing.
    assert room(GBPUSD, 1.0, EURUSD=20_000.0, USDJPY=20_000.0) == 50_000.0
    assert room(XAUUSD, 1.0, EURUSD=50_000.0) == 0.0
    assert room(XAUUSD, 1.0, XAUUSD=45_000.0, USDJPY=50_000.0) == 5_000.0
    assert room(AUDNZD, 1.0, EURUSD=50_000.0) == 50_000.0


def test_what_reduces_an_exposure_has_room_up_to_the_other_side():
    assert room(EURUSD, -1.0, EURUSD=20_000.0) == 70_000.0
    assert room(GBPUSD, -1.0, EURUSD=60_000.0) == 50_000.0
    assert room(EURUSD, -1.0, EURUSD=60_000.0) == 110_000.0


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-40_000, 40_000), min_size=6, max_size=6), st.integers(0, 5), st.sampled_from([-1.0, 1.0]))
def test_the_room_is_exactly_what_takes_a_currency_to_its_limit(exposures, i, direction):
    limit = 50_000.0
    found = room(i, direction, limit, **dict(zip(SYMBOLS, exposures, strict=True)))
    net = np.zeros(10)
    for k, exposure in enumerate(exposures):
        net[TABLE["base_currency"][k]] += exposure
        net[TABLE["profit_currency"][k]] -= exposure
    own = [TABLE["base_currency"][i], TABLE["profit_currency"][i]]
    signs = np.array([direction, -direction])
    after = signs * net[own] + found
    assert found >= 0.0
    if found > 0.0:
        assert after.max() == pytest.approx(limit)
    else:
        assert after.max() >= limit


def test_correlation_is_that_of_the_rows_that_both_know():
    rng = np.random.default_rng(2)
    returns = rng.normal(size=(240, 6))
    returns[:, 1] = 0.9 * returns[:, 0] + 0.3 * returns[:, 1]
    returns[::3, 0] = np.nan
    known = np.isfinite(returns[:, 0])
    expected = np.corrcoef(returns[known, 0], returns[known, 1])[0, 1]
    assert known_correlation(returns, 0, 1) == pytest.approx(expected)
    assert known_correlation(np.roll(returns, 100, axis=0), 0, 1) == pytest.approx(expected)
    assert math.isnan(known_correlation(returns[: KNOWN_ROWS_MIN - 1], 0, 1))
    assert math.isnan(known_correlation(np.zeros((240, 2)), 0, 1))


def test_positions_that_move_together_share_a_limit():
    move = np.random.default_rng(3).normal(size=(240, 1))
    returns = np.ascontiguousarray(move * np.array([1.0, 1.0, -1.0, 0.0, 1.0, 1.0]))
    assert shared(EURUSD, 1.0, returns, GBPUSD=3_000.0) == pytest.approx(100.0)
    assert shared(EURUSD, 1.0, returns, GBPUSD=-3_000.0) == 0.0
    # A short position in what falls when the other rises is the same bet.
    assert shared(EURUSD, 1.0, returns, USDJPY=-3_000.0) == pytest.approx(100.0)
    assert shared(EURUSD, -1.0, returns, USDJPY=3_000.0, GBPUSD=-6_000.0) == pytest.approx(300.0)
    assert shared(EURUSD, 1.0, returns, limit=1.0, GBPUSD=3_000.0) == 0.0
    assert shared(EURUSD, 1.0, returns, EURUSD=3_000.0) == 0.0


@pytest.mark.parametrize(
    ("i", "direction", "held", "same"),
    [
        (EURUSD, 1.0, {"GBPUSD": 3_000.0}, True),
        (EURUSD, 1.0, {"GBPUSD": -3_000.0}, False),
        (EURUSD, 1.0, {"USDJPY": -3_000.0}, True),
        (EURUSD, 1.0, {"USDJPY": 3_000.0}, False),
        (EURUSD, -1.0, {"EURGBP": -3_000.0}, True),
        (GBPUSD, 1.0, {"EURGBP": -3_000.0}, True),
        (EURUSD, 1.0, {"AUDNZD": 3_000.0}, False),
    ],
)
def test_an_unknown_correlation_is_one_where_a_currency_is_shared(i, direction, held, same):
    assert shared(i, direction, **held) == pytest.approx(100.0 if same else 0.0)
