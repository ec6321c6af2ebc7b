import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.execution.fills import (
    NOTHING,
    STOP,
    TARGET,
    exit_price,
    market_price,
    netted,
    open_profit,
    profit,
    stops_possible,
    swap_money,
    touched,
)


def test_a_market_order_pays_the_spread_and_slippage():
    assert market_price(1.0, 1.10, 1.12, 0.01) == pytest.approx(1.13)
    assert market_price(-1.0, 1.10, 1.12, 0.01) == pytest.approx(1.09)


@pytest.mark.parametrize(
    ("lots", "bid", "ask", "what"),
    [
        (1, 1.10, 1.11, NOTHING), (1, 1.05, 1.06, STOP), (1, 1.04, 1.20, STOP), (1, 1.15, 1.16, TARGET),
        (1, 1.149, 1.16, NOTHING), (-1, 1.10, 1.11, NOTHING), (-1, 1.14, 1.15, STOP), (-1, 1.04, 1.05, TARGET),
        (-1, 1.04, 1.06, NOTHING), (0, 0.5, 2.0, NOTHING),
    ],
)  # fmt: skip
def test_stops_and_targets_are_watched_on_the_closing_side(lots, bid, ask, what):
    stop, target = (1.05, 1.15) if lots >= 0 else (1.15, 1.05)
    assert touched(float(lots), stop, target, bid, ask) == what


def test_no_stop_is_never_touched():
    assert touched(1.0, 0.0, 0.0, 0.01, 0.02) == NOTHING
    assert touched(-1.0, 0.0, 0.0, 0.01, 0.02) == NOTHING


def test_a_gap_through_the_stop_fills_beyond_it():
    assert exit_price(STOP, 1.0, 1.05, 1.2, 1.02, 1.03, 0.01, False) == pytest.approx(1.01)
    assert exit_price(STOP, 1.0, 1.05, 1.2, 1.02, 1.03, 0.01, True) == pytest.approx(1.04)
    assert exit_price(STOP, -1.0, 1.05, 0.9, 1.08, 1.09, 0.01, False) == pytest.approx(1.10)
    assert exit_price(TARGET, 1.0, 1.05, 1.2, 1.3, 1.31, 0.01, False) == 1.2


@pytest.mark.parametrize(
    ("lots", "stop", "target", "possible"),
    [(1, 1.0, 1.2, True), (1, 1.10, 1.2, False), (1, 1.0, 1.10, False), (-1, 1.2, 1.0, True), (-1, 1.11, 1.0, False),
     (-1, 1.2, 1.11, False), (1, 1.0, 0.0, True)],
)  # fmt: skip
def test_stops_must_lie_beyond_the_market(lots, stop, target, possible):
    assert stops_possible(float(lots), stop, target, 1.10, 1.11) is possible


def test_profit_in_the_accounts_currency():
    assert profit(0.2, 1.10, 1.1050, 100_000, 1.0) == pytest.approx(100.0)
    assert profit(-1.0, 150.0, 149.0, 100_000, 1 / 149) == pytest.approx(671.14, abs=0.01)
    assert open_profit(1.0, 1.10, 1.11, 1.12, 100_000, 1.0) == pytest.approx(1_000.0)
    assert open_profit(-1.0, 1.10, 1.11, 1.12, 100_000, 1.0) == pytest.approx(-2_000.0)


@pytest.mark.parametrize(
    ("held", "entry", "traded", "price", "after"),
    [
        (0.0, 0.0, 0.5, 1.1, (0.5, 1.1, 0.0)),
        (0.5, 1.0, 0.5, 1.2, (1.0, 1.1, 0.0)),
        (1.0, 1.0, -0.4, 1.2, (0.6, 1.0, 0.4)),
        (1.0, 1.0, -1.0, 1.2, (0.0, 0.0, 1.0)),
        (1.0, 1.0, -1.5, 1.2, (-0.5, 1.2, 1.0)),
        (-0.3, 1.0, 0.1, 1.2, (-0.2, 1.0, -0.1)),
    ],
)
def test_netting(held, entry, traded, price, after):
    assert netted(held, entry, traded, price) == pytest.approx(after)


money = st.floats(0.5, 2.0)
sizes = st.integers(-300, 300).map(lambda hundredths: hundredths / 100)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(sizes, money), min_size=1, max_size=20), money)
def test_netting_keeps_the_money(trades, last):
    """Realised and open profit together are what the single trades are worth at the last price."""
    held = entry = realised = 0.0
    for lots, price in trades:
        before = entry
        held, entry, closed = netted(held, entry, lots, price)
        realised += profit(closed, before, price, 1.0, 1.0)
    together = realised + profit(held, entry, last, 1.0, 1.0)
    assert together == pytest.approx(sum(lots * (last - price) for lots, price in trades), abs=1e-9)


def test_swap_is_charged_or_credited_by_side():
    assert swap_money(0.5, 3.0, -7.0, 2.5, 0.00001, 100_000.0, 1.0) == pytest.approx(-10.5)
    assert swap_money(-0.5, 1.0, -7.0, 2.5, 0.00001, 100_000.0, 1.0) == pytest.approx(1.25)
