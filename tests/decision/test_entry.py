"""Limits of entries through the step: each binds, each is named, none is ever exceeded."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.decision.codes import Action, Reason, Regime, Size

from .conftest import FULL, fill_extras

ONCE = [HealthCheck.function_scoped_fixture]
THREE = ("EURUSD", "GBPUSD", "USDJPY")
ASK, MIDDLE = 1.1001, 1.10005
BULL = {"explore_risk": 0.01}
"""With the bull regime: wished 0.47 lots, of which the regime's 15 % of equity as margin allows 0.409."""
REGIME_LOTS = 1_500 / (ASK * 100_000 / 30)
WIDE = {"currency_exposure_max": 100.0, "var_max": 1.0, "cvar_max": 1.0, "margin_used_max": 1.0}


def eager(bench, *symbols, **risk):
    b = bench(*symbols, risk={**BULL, **risk}, models=FULL)
    for row in range(len(b.symbols)):
        fill_extras(b.inputs, row, regime=Regime.BULL)
    # All symbols alike, whatever their names: prices, and a profit currency that is worth one dollar.
    b.inputs.bid[:], b.inputs.ask[:], b.inputs.atr[:] = 1.1, ASK, 0.001
    b.table["point"] = 0.00001
    return b


def sure(b):
    """Let only the first symbol enter."""
    b.inputs.tradable[1:] = False
    return b


def noise(rows, columns, seed=1, scale=0.001):
    return np.random.default_rng(seed).normal(0.0, scale, (rows, columns))


def test_few_returns_mean_normal_ones_that_move_together(bench):
    b = sure(eager(bench, *THREE, correlation_max=1.0))
    b.hold(0.1, row=1)
    b.returns = noise(59, 3)
    out = b.decide()
    # 99 % of one day: 2.3263 deviations of 10 % a year; GBPUSD has used its part already.
    sigma = 500 / 2.32635 * math.sqrt(252)
    expected = (sigma - 0.1 * 100_000 * MIDDLE * 0.1) / (100_000 * MIDDLE * 0.1)
    assert out.sizes[0, Size.CORRELATION_CAP] == pytest.approx(REGIME_LOTS)
    assert out.sizes[0, Size.VAR_CAP] == pytest.approx(expected, rel=1e-5)
    assert out.target_lots[0] == math.floor(expected * 100) / 100 == 0.21


@pytest.mark.parametrize("limit", ["var_max", "cvar_max"])
def test_historical_losses_of_the_whole_book_cut_the_size(bench, limit):
    b = sure(eager(bench, *THREE, **{**WIDE, limit: 0.02}))
    b.hold(0.1, row=1)
    b.returns = noise(240, 3)
    out = b.decide()
    # A day has 24 of these returns; the tail is that of position and entry together.
    moves = b.returns * 100_000 * MIDDLE * math.sqrt(24)

    def tail(lots):
        losses = -(lots * moves[:, 0] + 0.1 * moves[:, 1])
        if limit == "var_max":
            return np.quantile(losses, 0.99, method="inverted_cdf")
        return np.sort(losses)[-6:].mean()

    fitting = max(k for k in range(1, 41) if tail(k / 100) <= 200)
    assert 1 < fitting < 40
    assert out.target_lots[0] == fitting / 100
    assert out.sizes[0, Size.VAR_CAP] == fitting / 100
    assert tail(fitting / 100) <= 200 < tail((fitting + 1) / 100)


def test_one_catastrophe_counts_for_the_shortfall_alone(bench):
    sizes = []
    for limits in ({"var_max": 0.03, "cvar_max": 1.0}, {"var_max": 1.0, "cvar_max": 0.03}):
        b = eager(bench, currency_exposure_max=100.0, **limits)
        b.returns = np.full((240, 1), 0.0001)
        b.returns[17] = -0.03
        sizes.append(b.decide().target_lots[0])
    assert sizes[0] == 0.4
    # A sixth of the tail's six days has it: 0.03 sqrt(24) / 6 of notional less what the others bring.
    assert 0 < sizes[1] < 0.15


def test_a_risk_limit_that_leaves_nothing_is_named(bench):
    b = eager(bench, **{**WIDE, "var_max": 0.0001})
    b.returns = noise(240, 1)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.RISK_LIMIT in b.reasons(out)
    assert Reason.BELOW_MINIMUM_LOT not in b.reasons(out)


def test_unknown_volatility_and_returns_allow_nothing(bench):
    b = eager(bench)
    b.inputs.volatility_long[0] = np.nan
    assert Reason.RISK_LIMIT in b.reasons(b.decide())
    b.returns = noise(240, 1)
    assert b.decide().action[0] == Action.OPEN


def test_hedges_have_room_where_bets_have_none(bench):
    move = noise(240, 1)
    sizes = []
    for lots in (0.3, -0.3):
        b = sure(eager(bench, *THREE, **{**WIDE, "var_max": 0.02}))
        b.hold(lots, row=1)
        b.returns = np.ascontiguousarray(np.repeat(move, 3, axis=1))
        out = b.decide()
        sizes.append(out.target_lots[0])
    assert sizes[0] == 0.0
    assert sizes[1] == 0.4


def test_exposure_of_one_currency_is_limited_after_netting(bench):
    free = {**WIDE, "correlation_max": 1.0}
    for held, row, expected in ((0.0, 1, 0.18), (0.1, 1, 0.08), (-0.1, 1, 0.18), (0.1, 2, 0.18), (-0.1, 2, 0.08)):
        b = sure(eager(bench, *THREE, **{**free, "currency_exposure_max": 2.0}))
        b.hold(held, row=row)
        out = b.decide()
        # Twice the equity is 20,000 of notional; the dollar is sold by both GBPUSD long and USDJPY short.
        assert out.target_lots[0] == expected, (held, row)
    assert out.sizes[0, Size.CURRENCY_CAP] == pytest.approx((20_000 - 0.1 * 100_000 * MIDDLE) / (100_000 * MIDDLE))


def test_a_currency_without_room_is_named(bench):
    b = sure(eager(bench, *THREE, currency_exposure_max=2.0))
    b.hold(0.19, row=1)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.CURRENCY_LIMIT in b.reasons(out)


def test_what_moves_together_shares_the_regimes_limit(bench):
    move, other = noise(240, 1), noise(240, 1, seed=2)
    for columns, expected in ((np.hstack([move, move, other]), 0.1), (np.hstack([move, other, other]), 0.4)):
        b = sure(eager(bench, *THREE, **WIDE))
        b.hold(0.3, row=1)
        b.returns = np.ascontiguousarray(columns)
        assert b.decide().target_lots[0] == expected
    b = sure(eager(bench, *THREE, **WIDE))
    b.hold(0.41, row=1)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.CORRELATION_LIMIT in b.reasons(out)


def test_a_row_counts_for_those_after_it_in_the_same_call(bench):
    b = eager(bench, *THREE, **{**WIDE, "currency_exposure_max": 5.0})
    b.inputs.votes[2], b.inputs.p_up[2] = -0.5, 0.2
    b.returns = noise(240, 3)
    out = b.decide()
    dollars = np.abs(out.target_lots) * 100_000 * MIDDLE
    # All three sell dollars, USDJPY by being sold.
    assert list(np.sign(out.target_lots)) == [1, 1, 0]
    assert dollars.sum() <= 50_000
    assert Reason.CURRENCY_LIMIT in b.reasons(out, 2)


def test_an_entry_on_its_way_counts_and_a_refused_one_does_not(bench):
    b = eager(bench, *THREE, **{**WIDE, "currency_exposure_max": 4.5})
    b.returns = noise(240, 3)
    b.inputs.active[:] = [True, False, False]
    assert b.decide().target_lots[0] == 0.4
    b.inputs.active[:] = [False, True, False]
    b.positions.pending[0] = True
    assert b.decide(bars=0, seconds=1).action[1] == Action.NONE
    b.positions.pending[0] = False
    assert b.decide(bars=0, seconds=2).target_lots[1] == 0.4


def test_an_entry_is_forgotten_once_its_position_was_seen(bench):
    b = eager(bench, *THREE, **{**WIDE, "currency_exposure_max": 4.5})
    b.returns = noise(240, 3)
    b.inputs.active[:] = [True, False, False]
    b.decide()
    b.hold(0.4)
    b.decide(bars=0, seconds=1)
    # Its stop has closed it while an order to close it is still on the way.
    b.hold(0.0)
    b.positions.pending[0] = True
    b.inputs.active[:] = [False, True, False]
    assert b.decide(bars=0, seconds=2).target_lots[1] == 0.4


def test_foreign_positions_of_other_symbols_count(bench):
    b = sure(eager(bench, *THREE, currency_exposure_max=2.0, correlation_max=1.0))
    b.positions.foreign_lots[1] = 0.1
    assert b.decide().target_lots[0] == 0.08


@pytest.mark.parametrize(
    "spoil",
    [
        lambda b: b.inputs.conversion.__setitem__(1, np.nan),
        lambda b: b.inputs.bid.__setitem__(1, np.nan) or b.positions.entry_price.__setitem__(1, np.nan),
        lambda b: b.positions.foreign_lots.__setitem__(1, np.inf),
        lambda b: b.positions.lots.__setitem__(1, np.nan),
    ],
)
def test_nothing_is_added_to_a_book_that_nobody_can_value(bench, spoil):
    b = sure(eager(bench, *THREE))
    b.hold(0.01, row=1)
    spoil(b)
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.CURRENCY_LIMIT in b.reasons(out)


def test_a_position_without_a_quote_is_valued_at_its_entry(bench):
    b = sure(eager(bench, *THREE, currency_exposure_max=2.0, correlation_max=1.0))
    b.hold(0.1, row=1, entry=MIDDLE)
    b.inputs.bid[1] = np.nan
    assert b.decide().target_lots[0] == 0.08


@pytest.mark.parametrize(("rate", "expected"), [(1.0, 7.0), (0.5, 3.5), (150.0, 1_050.0), (math.nan, 7.0), (0.0, 7.0)])
def test_commission_is_turned_into_the_accounts_currency(bench, rate, expected):
    b = bench()
    b.commission_rate = rate
    assert b.decide().sizes[0, Size.KELLY] == pytest.approx(25 / (200 + 4 + expected))


def test_margin_that_is_bound_leaves_less_for_an_entry(bench):
    b = eager(bench, **{**WIDE, "margin_used_max": 0.5})
    b.margin_used = 4_500.0
    out = b.decide()
    assert out.sizes[0, Size.MARGIN_CAP] == pytest.approx(500 / (ASK * 100_000 / 30))
    assert out.target_lots[0] == 0.13
    b = eager(bench, **{**WIDE, "margin_used_max": 0.5})
    b.margin_used = 5_000.0
    assert b.decide().action[0] == Action.NONE


LIMITS = ("risk_per_trade_max", "margin_used_max", "currency_exposure_max", "correlation_max", "var_max", "cvar_max")
held_lots = st.lists(st.integers(-40, 40), min_size=2, max_size=2)


def size_with(bench, lots, seed, direction, size=np.nan, **risk):
    b = sure(eager(bench, *THREE, **{"explore_risk": 0.0025, **risk}))
    b.inputs["size"] = size
    for row, steps in enumerate(lots, 1):
        b.hold(steps / 100, row=row)
    move = noise(240, 1, seed)
    b.returns = np.ascontiguousarray(0.7 * move + noise(240, 3, seed + 1, scale=0.0007))
    if direction < 0:
        b.inputs.votes[0], b.inputs.p_up[0] = -0.5, 0.2
    b.margin_used = sum(abs(steps) for steps in lots) / 100 * ASK * 100_000 / 30
    return b, b.decide()


@settings(max_examples=60, deadline=None, suppress_health_check=ONCE)
@given(held_lots, st.integers(0, 20), st.sampled_from([-1, 1]), st.sampled_from(LIMITS), st.data())
def test_a_tighter_limit_never_allows_more(bench, lots, seed, direction, name, data):
    wide = {"currency_exposure_max": 8.0}
    top = {"currency_exposure_max": 8.0, "risk_per_trade_max": 0.01, "var_max": 0.05, "cvar_max": 0.05}.get(name, 1.0)
    tight, loose = sorted(data.draw(st.floats(0.3, 1.0)) * top for _ in range(2))
    sizes = [
        abs(size_with(bench, lots, seed, direction, **{**wide, name: value})[1].target_lots[0])
        for value in (tight, loose)
    ]
    assert sizes[0] <= sizes[1]


@settings(max_examples=60, deadline=None, suppress_health_check=ONCE)
@given(
    held_lots, st.integers(0, 20), st.sampled_from([-1, 1]), st.floats(0.01, 0.05), st.floats(1.0, 6.0),
    st.sampled_from([np.nan, 0.3, 1.0, 1.5]),
)  # fmt: skip
def test_no_limit_of_the_portfolio_is_exceeded_by_an_entry(bench, lots, seed, direction, risk_max, exposure_max, size):
    limits = {"var_max": risk_max, "cvar_max": 1.2 * risk_max, "currency_exposure_max": exposure_max}
    b, out = size_with(bench, lots, seed, direction, size, explore_risk=0.01, **limits)
    if out.action[0] != Action.OPEN:
        return
    assert np.all(np.diff(out.sizes[0, Size.AGENT :]) <= 0.0)
    all_lots = np.array([out.target_lots[0], *(steps / 100 for steps in lots)])
    notional = all_lots * 100_000 * MIDDLE
    losses = -(b.returns * math.sqrt(24)) @ notional
    assert np.quantile(losses, 0.99, method="inverted_cdf") <= risk_max * 10_000 + 1e-6
    assert np.sort(losses)[-6:].mean() <= 1.2 * risk_max * 10_000 + 1e-6
    # Euro bought or sold; dollars the other way, beside what the others hold of them.
    others = notional[2] - notional[1]
    assert abs(notional[0]) <= exposure_max * 10_000 + 1e-6
    assert abs(others - notional[0]) <= max(exposure_max * 10_000, abs(others)) + 1e-6
    assert b.margin_used + abs(all_lots[0]) * ASK * 100_000 / 30 <= 0.5 * 10_000 + 1e-6
    assert out.risk_money[0] <= 0.01 * 10_000 + 1e-9
