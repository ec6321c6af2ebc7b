"""The paper broker: fills, stops, swap, margin, keys, restarts."""

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster import snapshot
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose
from fx_dagster.execution.paper import (
    EXPIRED,
    INVALID_STOPS,
    INVALID_VOLUME,
    NO_MONEY,
    NO_PRICES,
    POSITION_CLOSED,
    PaperBroker,
)
from fx_dagster.market.instruments import instrument
from fx_dagster.settings import CostSettings, RiskSettings

START = pd.Timestamp("2024-01-09 12:00", tz="America/New_York").value
SECOND = 1_000_000_000


class Account(PaperBroker):
    def quote(self, symbol, time, bid, ask, *, continuous=False):
        """Show the account a quote, as the core's loop does; return the deals that follow."""
        ledgers.quote(self.ledger, self._rows[symbol], time, bid, ask, continuous)
        return self.drain()


def broker(*symbols, balance=10_000.0, currency="USD", slippage=2.0, commission=3.5, leverage=30.0):
    return Account(
        "paper",
        [instrument(symbol) for symbol in symbols or ("EURUSD",)],
        RiskSettings(initial_balance=balance, account_currency=currency, leverage=leverage),
        CostSettings(slippage_points=slippage, commission_per_lot=commission),
    )


def intent(key, lots, *, purpose=Purpose.OPEN, symbol="EURUSD", stop=None, target=0.0, decided=START, expires=0):
    stop = stop if stop is not None else (0.5 if lots > 0 else 3.0)
    return OrderIntent(key, "paper", symbol, purpose, lots, stop, target, decided, expires, risk_money=20.0)


def opened(lots=0.1, *, stop=None, target=0.0, **changes):
    paper = broker(**changes)
    paper.quote("EURUSD", START, 1.1000, 1.1001)
    paper.place(intent(1, lots, stop=stop, target=target))
    paper.quote("EURUSD", START + SECOND, 1.1002, 1.1003)
    return paper


def test_an_order_is_filled_at_the_next_quote_and_never_at_the_one_that_decided():
    paper = broker()
    paper.quote("EURUSD", START, 1.1000, 1.1001)
    result = paper.place(intent(1, 0.1))
    assert (result.state, result.deals) == (OrderState.ACCEPTED, ())
    assert paper.quote("EURUSD", START, 1.0000, 1.0001) == ()
    (deal,) = paper.quote("EURUSD", START + 1, 1.1002, 1.1003)
    assert deal.price == pytest.approx(1.1003 + 0.00002)
    assert (deal.lots, deal.client_order_id, deal.closing, deal.reason) == (0.1, 1, False, DealReason.CLIENT)
    assert deal.commission == pytest.approx(0.35)
    assert paper.balance == pytest.approx(10_000 - 0.35)
    result = paper.result(1)
    assert result.state is OrderState.FILLED
    assert result.deals == (deal,)
    assert paper.quote("EURUSD", START + 2, 1.1002, 1.1003) == ()


def test_only_its_own_symbols_quote_fills_it():
    paper = broker("EURUSD", "GBPUSD")
    paper.quote("EURUSD", START, 1.1, 1.1001)
    paper.place(intent(1, 0.1))
    assert paper.quote("GBPUSD", START + SECOND, 1.3, 1.3001) == ()


def test_equity_is_balance_and_what_closing_would_bring():
    paper = opened()
    money = paper.money()
    assert money.equity - money.balance == pytest.approx((1.1002 - 1.10032) * 10_000)
    assert money.margin_used == pytest.approx(1.1003 * 10_000 / 30)


def test_a_close_realises_the_profit():
    paper = opened()
    paper.place(intent(2, -0.1, purpose=Purpose.CLOSE, decided=START + SECOND))
    (deal,) = paper.quote("EURUSD", START + 2 * SECOND, 1.1050, 1.1051)
    assert deal.profit == pytest.approx((1.1050 - 0.00002 - 1.10032) * 10_000)
    assert (deal.closing, deal.risk_money) == (True, 20.0)
    assert paper.open_positions() == ()
    assert paper.balance == pytest.approx(10_000 - 0.70 + deal.profit)


def test_a_close_never_turns_the_position_around():
    paper = opened()
    paper.place(intent(2, -0.5, purpose=Purpose.CLOSE, decided=START + SECOND))
    (deal,) = paper.quote("EURUSD", START + 2 * SECOND, 1.1, 1.1001)
    assert deal.lots == -0.1
    assert paper.open_positions() == ()


def test_part_of_a_position_may_be_closed():
    paper = opened()
    paper.place(intent(2, -0.04, purpose=Purpose.CLOSE, decided=START + SECOND))
    (deal,) = paper.quote("EURUSD", START + 2 * SECOND, 1.1, 1.1001)
    (position,) = paper.open_positions()
    assert position.lots == 0.06
    assert deal.risk_money == pytest.approx(8.0)


@pytest.mark.parametrize(
    ("lots", "quote", "continuous", "price", "reason"),
    [
        (0.1, (1.0990, 1.0991), False, 1.0990 - 0.00002, DealReason.STOP),
        (0.1, (1.0990, 1.0991), True, 1.0995 - 0.00002, DealReason.STOP),
        (0.1, (1.1025, 1.1026), False, 1.1020, DealReason.TARGET),
        (-0.1, (1.1019, 1.1021), False, 1.1021 + 0.00002, DealReason.STOP),
        (-0.1, (1.0990, 1.0991), True, 1.0995, DealReason.TARGET),
    ],
)
def test_stops_and_targets(lots, quote, continuous, price, reason):
    stop, target = (1.0995, 1.1020) if lots > 0 else (1.1020, 1.0995)
    paper = opened(lots, stop=stop, target=target)
    assert paper.quote("EURUSD", START + 2 * SECOND, 1.1003, 1.1004) == ()
    (deal,) = paper.quote("EURUSD", START + 3 * SECOND, *quote, continuous=continuous)
    assert deal.price == pytest.approx(price)
    assert (deal.reason, deal.client_order_id, deal.lots) == (reason, 0, -lots)
    assert paper.open_positions() == ()


def test_a_stop_may_be_moved_but_not_beyond_the_market():
    paper = opened(stop=1.09)
    moved = paper.place(intent(2, 0.0, purpose=Purpose.MODIFY, stop=1.0999, target=1.2))
    assert moved.state is OrderState.FILLED
    assert paper.open_positions()[0].stop == 1.0999
    refused = paper.place(intent(3, 0.0, purpose=Purpose.MODIFY, stop=1.1002, target=1.2))
    assert (refused.state, refused.retcode) == (OrderState.REJECTED, INVALID_STOPS)
    assert paper.open_positions()[0].stop == 1.0999


@pytest.mark.parametrize(
    ("order", "retcode"),
    [
        (intent(9, 0.005), INVALID_VOLUME),
        (intent(9, 0.015), INVALID_VOLUME),
        (intent(9, 0.0), INVALID_VOLUME),
        (intent(9, 100.01), INVALID_VOLUME),
        (intent(9, 0.1, symbol="NZDUSD"), INVALID_VOLUME),
        (intent(9, 0.1, stop=0.0), INVALID_STOPS),
        (intent(9, 0.0, purpose=Purpose.MODIFY), POSITION_CLOSED),
    ],
)
def test_what_is_refused_at_once(order, retcode):
    paper = broker()
    paper.quote("EURUSD", START, 1.1, 1.1001)
    result = paper.place(order)
    assert (result.state, result.retcode) == (OrderState.REJECTED, retcode)
    assert paper.quote("EURUSD", START + SECOND, 1.1, 1.1001) == ()


@pytest.mark.parametrize(
    ("order", "state", "retcode"),
    [
        (intent(9, 0.1, stop=1.1005), OrderState.REJECTED, INVALID_STOPS),
        (intent(9, 0.1, target=1.0995), OrderState.REJECTED, INVALID_STOPS),
        (intent(9, 50.0), OrderState.REJECTED, NO_MONEY),
        (intent(9, -0.1, purpose=Purpose.CLOSE), OrderState.REJECTED, POSITION_CLOSED),
        (intent(9, 0.1, expires=START + SECOND), OrderState.CANCELLED, EXPIRED),
    ],
)
def test_what_is_refused_at_the_fill(order, state, retcode):
    paper = broker()
    paper.quote("EURUSD", START, 1.1, 1.1001)
    paper.place(order)
    assert paper.quote("EURUSD", START + SECOND, 1.1, 1.1001) == ()
    result = paper.result(9)
    assert (result.state, result.retcode) == (state, retcode)
    assert paper.balance == 10_000.0


def test_a_key_trades_once():
    paper = broker()
    paper.quote("EURUSD", START, 1.1, 1.1001)
    first = paper.place(intent(1, 0.1))
    assert paper.place(intent(1, 0.1)) == first
    assert len(paper.quote("EURUSD", START + SECOND, 1.1, 1.1001)) == 1
    assert paper.place(intent(1, 0.1)).state is OrderState.FILLED
    assert paper.quote("EURUSD", START + 2 * SECOND, 1.1, 1.1001) == ()
    assert paper.open_positions()[0].lots == 0.1


def test_an_entry_against_the_position_is_refused():
    paper = opened()
    paper.place(intent(2, -0.1, decided=START + SECOND))
    paper.quote("EURUSD", START + 2 * SECOND, 1.1, 1.1001)
    assert paper.result(2).state is OrderState.REJECTED
    assert paper.open_positions()[0].lots == 0.1


def test_profit_is_converted_through_the_symbols_at_hand():
    paper = broker("EURGBP", "GBPUSD")
    paper.quote("EURGBP", START, 0.85, 0.8501)
    paper.place(intent(1, 0.1, symbol="EURGBP"))
    paper.quote("EURGBP", START + 1, 0.85, 0.8501)
    assert paper.result(1).retcode == NO_PRICES
    paper.quote("GBPUSD", START + 2, 1.27, 1.27)
    paper.place(intent(2, 0.1, symbol="EURGBP", decided=START + 2))
    paper.quote("EURGBP", START + 3, 0.85, 0.85)
    paper.place(intent(3, -0.1, symbol="EURGBP", purpose=Purpose.CLOSE, decided=START + 3))
    (deal,) = paper.quote("EURGBP", START + 4, 0.86004, 0.86004)
    assert deal.profit == pytest.approx(0.01 * 10_000 * 1.27)


def test_swap_gathers_at_five_and_three_nights_on_wednesday():
    paper = opened(commission=0.0, slippage=0.0)
    tuesday = pd.Timestamp("2024-01-09 17:00", tz="America/New_York").value
    day = 24 * 3_600 * SECOND
    paper.quote("EURUSD", tuesday - 1, 1.1, 1.1001)
    assert paper.open_positions()[0].swap == 0.0
    paper.quote("EURUSD", tuesday, 1.1, 1.1001)
    night = -7.0 * 0.00001 * 100_000 * 0.1
    assert paper.open_positions()[0].swap == pytest.approx(night)
    paper.quote("EURUSD", tuesday + day, 1.1, 1.1001)
    assert paper.open_positions()[0].swap == pytest.approx(4 * night)
    assert paper.balance == 10_000.0
    paper.place(intent(2, -0.05, purpose=Purpose.CLOSE, decided=tuesday + day))
    (deal,) = paper.quote("EURUSD", tuesday + day + 1, 1.1, 1.1001)
    assert deal.swap == pytest.approx(2 * night)
    assert paper.open_positions()[0].swap == pytest.approx(2 * night)


def test_stop_out_closes_the_largest_loss_first():
    paper = broker("EURUSD", "GBPUSD", balance=4_000.0)
    for symbol, key in (("EURUSD", 1), ("GBPUSD", 2)):
        paper.quote(symbol, START + 2 * key, 1.1, 1.1)
        paper.place(intent(key, 0.5, symbol=symbol, decided=START + 2 * key))
        paper.quote(symbol, START + 2 * key + 1, 1.1, 1.1)
    assert paper.quote("EURUSD", START + 10, 1.06, 1.06) == ()
    (deal,) = paper.quote("EURUSD", START + 11, 1.055, 1.055)[:1]
    assert (deal.reason, deal.symbol) == (DealReason.STOP_OUT, "EURUSD")
    assert [position.symbol for position in paper.open_positions()] == ["GBPUSD"]


def test_the_clock_does_not_go_back():
    paper = broker("EURUSD", "GBPUSD")
    paper.quote("EURUSD", START + SECOND, 1.1, 1.1001)
    paper.quote("GBPUSD", START, 1.3, 1.3001)
    assert paper.ledger.money["clock"][0] == START + SECOND


moves = st.lists(
    st.tuples(st.integers(-40, 40), st.sampled_from(["", "buy", "sell", "close", "modify"]), st.integers(1, 20)),
    min_size=1,
    max_size=40,
)


def play(paper, tape, first=0):
    """Drive an account over a tape of moves (points) and orders; return its deals."""
    price, deals = 1.1, []
    for number, (points, action, size) in enumerate(tape):
        price = max(price + points * 0.0001, 0.5)
        if number < first:
            continue
        now = START + number * 1_800 * SECOND
        deals += paper.quote("EURUSD", now, price, price + 0.0001)
        key, lots = 1_000 + number, size / 100
        held = sum(position.lots for position in paper.open_positions())
        if action in {"buy", "sell"}:
            side = 1 if action == "buy" else -1
            paper.place(intent(key, side * lots, stop=price - side * 0.003, target=price + side * 0.004, decided=now))
        elif action == "close":
            paper.place(intent(key, -lots if held > 0 else lots, purpose=Purpose.CLOSE, decided=now))
        elif action == "modify" and held:
            side = 1 if held > 0 else -1
            paper.place(intent(key, 0.0, purpose=Purpose.MODIFY, stop=price - side * 0.002, target=price + side * 0.01))
    return deals


@settings(max_examples=80, deadline=None)
@given(moves)
def test_money_is_never_made_or_lost_on_the_way(tape):
    paper = broker()
    deals = play(paper, tape)
    made = sum(deal.profit + deal.swap - deal.commission for deal in deals)
    assert paper.balance == pytest.approx(10_000 + made, abs=1e-6)
    held = sum(deal.lots for deal in deals)
    assert sum(position.lots for position in paper.open_positions()) == pytest.approx(held, abs=1e-9)
    money = paper.money()
    open_money = sum(position.profit + position.swap for position in paper.open_positions())
    assert money.equity == pytest.approx(money.balance + open_money, abs=1e-9)
    assert len({deal.ticket for deal in deals}) == len(deals)
    for position in paper.open_positions():
        assert round(position.lots * 100) / 100 == position.lots


@settings(max_examples=60, deadline=None)
@given(moves, st.integers(0, 40))
def test_a_restart_changes_nothing(tape, cut):
    whole, before, after = broker(), broker(), broker()
    expected = play(whole, tape)
    first = play(before, tape[:cut])
    after.restore(before.snapshot())
    assert first + play(after, tape, first=cut) == expected
    assert after.snapshot() == whole.snapshot()


def test_a_bad_snapshot_is_refused():
    paper = broker()
    with pytest.raises(DataError, match="cannot be read"):
        paper.restore(b"nonsense")
    with pytest.raises(DataError, match="format"):
        paper.restore(snapshot.pack({}, {"kind": "fx-paper-account-1"}))
    with pytest.raises(DataError, match="EURUSD"):
        broker("GBPUSD").restore(opened().snapshot())


def test_settings_are_checked():
    with pytest.raises(SettingsError, match="stop_out_level"):
        PaperBroker("p", [instrument("EURUSD")], RiskSettings(), CostSettings(), stop_out_level=1.5)
    with pytest.raises(SettingsError, match="JPY"):
        PaperBroker("p", [instrument("EURJPY")], RiskSettings(), CostSettings())
