"""Trading on the simulated terminal, as a broker would have it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.errors import SettingsError
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, SECOND_NS
from resources.mt5.clock import SteppedClock
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.simulated import SimulatedTerminal, server_seconds
from resources.mt5.structures import OrderSendResult, TradeRequest
from resources.mt5.trading import BrokerOptions

MONDAY = 1_709_503_200 * SECOND_NS
Make = Callable[..., SimulatedTerminal]
EVER = (0, 2**31 - 1)

QUIET = [(3000, 1.1000, 1.1001)]


def at(terminal: SimulatedTerminal, second: float) -> None:
    clock = terminal.clock
    assert isinstance(clock, SteppedClock)
    clock.move_to(MONDAY + round(second * SECOND_NS))


def ask_for(kind: int, volume: float = 0.1, **fields: Any) -> dict[str, Any]:
    request = {"action": Mt5.TRADE_ACTION_DEAL, "symbol": "EURUSD", "volume": volume, "type": kind, "magic": 77}
    return request | {"type_filling": Mt5.ORDER_FILLING_FOK, "comment": "fx:key"} | fields


def buy(terminal: SimulatedTerminal, volume: float = 0.1, **fields: Any) -> Any:
    return terminal.order_send(ask_for(Mt5.ORDER_TYPE_BUY, volume, **fields))


def sell(terminal: SimulatedTerminal, volume: float = 0.1, **fields: Any) -> Any:
    return terminal.order_send(ask_for(Mt5.ORDER_TYPE_SELL, volume, **fields))


def pending(kind: int, price: float, **fields: Any) -> dict[str, Any]:
    filling = {"action": Mt5.TRADE_ACTION_PENDING, "price": price, "type_filling": Mt5.ORDER_FILLING_RETURN}
    return ask_for(kind) | filling | fields


def deals(terminal: SimulatedTerminal) -> list[Any]:
    return [deal for deal in terminal.history_deals_get(*EVER) if deal.type != Mt5.DEAL_TYPE_BALANCE]


def test_a_market_order_is_filled_at_the_quote_and_leaves_order_deal_and_position(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET)
    answer = buy(terminal, sl=1.0950, tp=1.1100, magic=2**63 - 1)
    assert isinstance(answer, OrderSendResult)
    assert isinstance(answer.request, TradeRequest)
    assert (answer.retcode, answer.volume, answer.price, answer.bid, answer.ask) == (10009, 0.1, 1.1001, 1.1000, 1.1001)
    assert (answer.comment, answer.request_id, answer.request.magic) == ("Request executed", 1, 2**63 - 1)
    (position,) = terminal.positions_get(symbol="EURUSD")
    assert position.ticket == position.identifier == answer.order
    assert (position.type, position.volume, position.sl, position.tp) == (0, 0.1, 1.0950, 1.1100)
    assert (position.magic, position.comment, position.reason) == (2**63 - 1, "fx:key", Mt5.POSITION_REASON_EXPERT)
    assert position.profit == pytest.approx(-1.0)
    assert position.time == server_seconds(MONDAY + HOUR_NS)
    assert position.time_msc == position.time * 1000
    (deal,) = terminal.history_deals_get(ticket=answer.order)
    assert (deal.ticket, deal.position_id, deal.entry, deal.price) == (answer.deal, answer.order, 0, 1.1001)
    (order,) = terminal.history_orders_get(position=answer.order)
    assert (order.state, order.volume_initial, order.volume_current) == (Mt5.ORDER_STATE_FILLED, 0.1, 0.0)
    assert terminal.orders_total() == 0


def test_a_stop_is_filled_at_the_gapped_price_and_a_target_at_its_own(trade: Make) -> None:
    quotes = [*QUIET, (3700, 1.0960, 1.0961), (3800, 1.0900, 1.0901), (3900, 1.1000, 1.1001), (4000, 1.1200, 1.1201)]
    terminal = trade(EURUSD=quotes)
    first = buy(terminal, sl=1.0950)
    at(terminal, 3950)
    assert terminal.positions_get() == ()
    entry, out = terminal.history_deals_get(position=first.order)
    assert (out.price, out.reason, out.entry, out.magic) == (1.0900, Mt5.DEAL_REASON_SL, Mt5.DEAL_ENTRY_OUT, 77)
    assert out.comment == "[sl 1.09500]"
    assert out.profit == pytest.approx((1.0900 - 1.1001) * 10_000)
    assert out.time == entry.time + 200
    second = buy(terminal, tp=1.1100)
    at(terminal, 4000)
    out = terminal.history_deals_get(position=second.order)[-1]
    assert (out.price, out.reason, out.comment) == (1.1100, Mt5.DEAL_REASON_TP, "[tp 1.11000]")
    assert terminal.account_info().balance == pytest.approx(10_000 - 101 + 99)


def test_the_stop_out_closes_the_largest_loss_first(trade: Make) -> None:
    terminal = trade(EURUSD=[*QUIET, (3700, 1.0640, 1.0641)], balance=1_000.0)
    large, small = buy(terminal, 0.2), buy(terminal, 0.05)
    assert terminal.account_info().margin == pytest.approx(0.25 * 100_000 * 1.1001 / 30, abs=0.01)
    at(terminal, 3701)
    out = [deal for deal in deals(terminal) if deal.entry == Mt5.DEAL_ENTRY_OUT]
    assert [deal.position_id for deal in out] == [large.order]
    assert (out[0].reason, out[0].price) == (Mt5.DEAL_REASON_SO, 1.0640)
    assert out[0].comment.startswith("[so ")
    assert [item.ticket for item in terminal.positions_get()] == [small.order]


def test_closing_needs_the_position_on_a_hedging_account(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET)
    bought = buy(terminal)
    against = sell(terminal)
    assert terminal.positions_total() == 2
    assert terminal.account_info().margin == pytest.approx(0.1 * 100_000 * 1.1001 / 30, abs=0.01)
    assert sell(terminal, position=1).retcode == Mt5.TRADE_RETCODE_POSITION_CLOSED
    assert sell(terminal, 0.2, position=bought.order).retcode == Mt5.TRADE_RETCODE_INVALID_CLOSE_VOLUME
    assert buy(terminal, position=bought.order).retcode == Mt5.TRADE_RETCODE_INVALID
    part = sell(terminal, 0.04, position=bought.order)
    assert part.retcode == Mt5.TRADE_RETCODE_DONE
    assert terminal.positions_get(ticket=bought.order)[0].volume == 0.06
    by = {"action": Mt5.TRADE_ACTION_CLOSE_BY, "position": bought.order, "position_by": against.order}
    assert terminal.order_send(by).retcode == Mt5.TRADE_RETCODE_DONE
    (rest,) = terminal.positions_get()
    assert (rest.ticket, rest.volume) == (against.order, 0.04)
    assert [deal.entry for deal in deals(terminal)] == [0, 0, 1, 3, 3]
    assert terminal.account_info().balance == pytest.approx(10_000 - 0.4 - 0.6)


def test_a_netting_account_has_one_position_a_symbol(trade: Make) -> None:
    terminal = trade({"margin_mode": 0}, EURUSD=[*QUIET, (3700, 1.1100, 1.1101)])
    assert terminal.account_info().margin_mode == 0
    first = buy(terminal, 0.1, sl=1.09)
    at(terminal, 3700)
    buy(terminal, 0.1)
    (position,) = terminal.positions_get()
    assert (position.volume, position.sl) == (0.2, 1.09)
    assert position.price_open == pytest.approx((1.1001 + 1.1101) / 2)
    turned = sell(terminal, 0.3)
    (position,) = terminal.positions_get()
    assert (position.type, position.volume, position.price_open) == (Mt5.POSITION_TYPE_SELL, 0.1, 1.1100)
    assert (position.ticket, position.identifier) == (turned.order, first.order)
    assert [deal.entry for deal in deals(terminal)] == [0, 0, Mt5.DEAL_ENTRY_INOUT]
    assert len(terminal.history_orders_get(position=first.order)) == 3
    assert len(terminal.history_deals_get(position=first.order)) == 3
    assert deals(terminal)[-1].profit == pytest.approx(0.2 * 100_000 * (1.1100 - 1.1051))


@pytest.mark.parametrize(
    ("fields", "retcode"),
    [
        ({"volume": 0.001}, 10014),
        ({"volume": 0.015}, 10014),
        ({"volume": 101.0}, 10014),
        ({"volume": 0.29}, 10009),
        ({"volume": 10.0}, 10019),
        ({"sl": 1.1000}, 10016),
        ({"sl": 1.0999}, 10016),
        ({"sl": 1.0990}, 10009),
        ({"tp": 1.1005}, 10016),
        ({"sl": 1.0900001}, 10016),
        ({"type_filling": Mt5.ORDER_FILLING_RETURN}, 10030),
        ({"type_filling": Mt5.ORDER_FILLING_IOC}, 10009),
        ({"type": Mt5.ORDER_TYPE_BUY_LIMIT}, 10013),
        ({"action": 2}, 10013),
        ({"symbol": "EURUSX"}, 10013),
        ({"price": 9.0}, 10009),
    ],
)
def test_the_broker_validates(trade: Make, fields: dict[str, Any], retcode: int) -> None:
    terminal = trade({"stops_level_points": 60}, EURUSD=QUIET)
    request = ask_for(Mt5.ORDER_TYPE_BUY) | fields
    assert terminal.order_check(request).retcode == (0 if retcode == 10009 else retcode)
    before = terminal.account_info()
    answer = terminal.order_send(request)
    assert answer.retcode == retcode
    assert terminal.positions_total() == (retcode == 10009)
    if retcode != 10009:
        assert (answer.order, answer.deal) == (0, 0)
        assert terminal.account_info() == before


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"comment": "c" * 30}, 'Invalid "comment" argument'),
        ({"symbol": "s" * 30}, 'Invalid "symbol" argument'),
        ({"magic": 2**63}, 'Invalid "magic" argument'),
        ({"magic": -1}, 'Invalid "magic" argument'),
        ({"volume": "0.1"}, 'Invalid "volume" argument'),
        ({"sl": math.nan}, 'Invalid "sl" argument'),
        ({"type": 0.0}, 'Invalid "type" argument'),
    ],
)
def test_the_module_refuses_what_it_cannot_send(trade: Make, fields: dict[str, Any], text: str) -> None:
    terminal = trade(EURUSD=QUIET)
    assert buy(terminal, **fields) is None
    assert terminal.last_error() == (-2, text)
    assert terminal.order_check(ask_for(0) | fields) is None
    assert terminal.order_send("buy") is None
    assert terminal.last_error() == (-2, "Invalid arguments")


def test_markets_are_closed_off_or_restricted(trade: Make, m1_market: MarketSource) -> None:
    terminal = trade(EURUSD=[*QUIET, (9 * 86_400, 1.1, 1.2)])
    at(terminal, 5.2 * 86_400)
    assert buy(terminal).retcode == Mt5.TRADE_RETCODE_MARKET_CLOSED
    terminal = trade(EURUSD=[(5000, 1.1, 1.2)])
    assert buy(terminal).retcode == Mt5.TRADE_RETCODE_PRICE_OFF
    terminal = trade(EURUSD=QUIET)
    held = buy(terminal)
    for mode, bought, sold in ((0, 10017, 10017), (1, 10009, 10042), (2, 10043, 10009), (3, 10044, 10044)):
        terminal.server.change_contract("EURUSD", trade_mode=mode)
        assert terminal.symbol_info("EURUSD").trade_mode == mode
        assert (buy(terminal, 0.01).retcode, sell(terminal, 0.01).retcode) == (bought, sold)
    assert sell(terminal, position=held.order).retcode == Mt5.TRADE_RETCODE_DONE


def test_instant_execution_requotes_and_requests_are_counted(trade: Make) -> None:
    terminal = trade({"execution": 1, "requests_per_s_max": 3}, EURUSD=QUIET)
    assert buy(terminal).retcode == Mt5.TRADE_RETCODE_INVALID_PRICE
    far = buy(terminal, price=1.0990, deviation=5)
    assert (far.retcode, far.bid, far.ask) == (Mt5.TRADE_RETCODE_REQUOTE, 1.1000, 1.1001)
    assert buy(terminal, price=1.1000, deviation=10).retcode == Mt5.TRADE_RETCODE_DONE
    assert buy(terminal, price=1.1001).retcode == Mt5.TRADE_RETCODE_TOO_MANY_REQUESTS
    at(terminal, 3601.5)
    assert buy(terminal, price=1.1001).retcode == Mt5.TRADE_RETCODE_DONE


def test_stops_move_and_freeze(trade: Make) -> None:
    terminal = trade({"freeze_level_points": 50}, EURUSD=[*QUIET, (3700, 1.0953, 1.0954)])
    opened = buy(terminal, sl=1.0950)
    move = {"action": Mt5.TRADE_ACTION_SLTP, "symbol": "EURUSD", "position": opened.order, "sl": 1.0940, "tp": 1.2}
    assert terminal.order_send(move | {"sl": 1.1001}).retcode == Mt5.TRADE_RETCODE_INVALID_STOPS
    assert terminal.order_send(move).retcode == Mt5.TRADE_RETCODE_DONE
    assert terminal.order_send(move).retcode == Mt5.TRADE_RETCODE_NO_CHANGES
    assert terminal.positions_get()[0].sl == 1.0940
    assert terminal.order_send(move | {"sl": 1.0950}).retcode == Mt5.TRADE_RETCODE_DONE
    at(terminal, 3700)
    assert terminal.order_send(move).retcode == Mt5.TRADE_RETCODE_FROZEN
    assert terminal.order_send(move | {"position": 5}).retcode == Mt5.TRADE_RETCODE_POSITION_CLOSED


def test_waiting_orders_are_filled_changed_removed_and_expire(trade: Make) -> None:
    quotes = [*QUIET, (3700, 1.0950, 1.0951), (3800, 1.1080, 1.1081), (3900, 1.1060, 1.1061)]
    terminal = trade(EURUSD=quotes)
    send = terminal.order_send
    assert send(pending(Mt5.ORDER_TYPE_BUY_LIMIT, 1.1050)).retcode == Mt5.TRADE_RETCODE_INVALID_PRICE
    limit = send(pending(Mt5.ORDER_TYPE_BUY_LIMIT, 1.0960, sl=1.0900))
    stop = send(pending(Mt5.ORDER_TYPE_BUY_STOP, 1.1070))
    stop_limit = send(pending(Mt5.ORDER_TYPE_BUY_STOP_LIMIT, 1.1075, stoplimit=1.1065))
    gone = send(pending(Mt5.ORDER_TYPE_SELL_STOP, 1.0500))
    ends = server_seconds(MONDAY + 3650 * SECOND_NS)
    timed = send(pending(Mt5.ORDER_TYPE_SELL_LIMIT, 1.2, type_time=Mt5.ORDER_TIME_SPECIFIED, expiration=ends))
    late = send(pending(Mt5.ORDER_TYPE_SELL_LIMIT, 1.2, type_time=Mt5.ORDER_TIME_SPECIFIED, expiration=5))
    assert late.retcode == Mt5.TRADE_RETCODE_INVALID_EXPIRATION
    assert [item.ticket for item in terminal.orders_get(symbol="EURUSD")] == [
        limit.order, stop.order, stop_limit.order, gone.order, timed.order,
    ]  # fmt: skip
    change = pending(Mt5.ORDER_TYPE_SELL_STOP, 1.0600, order=gone.order) | {"action": Mt5.TRADE_ACTION_MODIFY}
    assert send(change).retcode == Mt5.TRADE_RETCODE_DONE
    assert terminal.orders_get(ticket=gone.order)[0].price_open == 1.0600
    remove = {"action": Mt5.TRADE_ACTION_REMOVE, "order": gone.order}
    assert send(remove).retcode == Mt5.TRADE_RETCODE_DONE
    assert send(remove).retcode == Mt5.TRADE_RETCODE_INVALID_ORDER
    at(terminal, 4000)
    states = {item.ticket: item.state for item in terminal.history_orders_get(*EVER)}
    assert states[gone.order] == Mt5.ORDER_STATE_CANCELED
    assert states[timed.order] == Mt5.ORDER_STATE_EXPIRED
    prices = {item.ticket: item.price_open for item in terminal.positions_get()}
    assert prices == {limit.order: 1.0951, stop.order: 1.1081, stop_limit.order: 1.1061}


def test_swap_gathers_at_midnight_and_commission_at_each_fill(trade: Make) -> None:
    terminal = trade({"commission_per_lot": 3.5}, EURUSD=[*QUIET, (80_000, 1.1, 1.1001), (90_000, 1.1, 1.1001)])
    opened = buy(terminal)
    at(terminal, 90_000)
    (position,) = terminal.positions_get()
    assert position.swap == pytest.approx(-7.0 * 1e-5 * 10_000)
    account = terminal.account_info()
    assert account.profit == pytest.approx(position.profit + position.swap)
    assert account.equity == pytest.approx(account.balance + account.profit)
    sell(terminal, position=opened.order)
    first, second = deals(terminal)
    assert (first.commission, second.commission, second.swap) == (-0.35, -0.35, -0.7)
    assert terminal.account_info().balance == pytest.approx(10_000 - 0.7 - 0.7 - 1.0)


def test_money_is_converted_as_on_the_paper_account(trade: Make) -> None:
    yen = [(3000, 150.0, 150.01)]
    terminal = trade(USDJPY=yen, EURUSD=QUIET)
    assert terminal.order_calc_profit(0, "EURUSD", 1.0, 1.1, 1.2) == pytest.approx(10_000)
    assert terminal.order_calc_profit(1, "USDJPY", 1.0, 150.0, 151.0) == pytest.approx(-100_000 / 150.005, abs=0.01)
    assert terminal.order_calc_margin(0, "USDJPY", 1.0, 150.01) == pytest.approx(100_000 / 30, rel=1e-4)
    assert terminal.order_calc_margin(0, "EURUSD", 1.0, 1.1) == pytest.approx(110_000 / 30, abs=0.01)
    assert terminal.order_calc_margin(5, "EURUSD", 1.0, 1.1) is None
    assert terminal.order_calc_profit(0, "GBPUSD", 1.0, 1.1, 1.2) is None
    check = terminal.order_check(ask_for(0, 1.0))
    assert (check.retcode, check.comment, check.margin) == (0, "Done", pytest.approx(110_010 / 30, abs=0.01))
    assert check.margin_free == pytest.approx(check.equity - check.margin)


def test_comments_may_be_cut_or_dropped(trade: Make) -> None:
    for option, kept in (("cut", "abcd"), ("drop", ""), ("keep", "abcdefgh")):
        terminal = trade({"comments": option, "comment_length": 4}, EURUSD=QUIET)
        buy(terminal, comment="abcdefgh")
        assert terminal.positions_get()[0].comment == terminal.history_deals_get(*EVER)[-1].comment == kept


def test_selections_login_and_depth_answer_as_the_module(trade: Make) -> None:
    terminal = trade({"login": 7, "password": "right"}, EURUSD=QUIET, USDJPY=[(3000, 150.0, 150.01)])
    buy(terminal)
    buy(terminal, symbol="USDJPY")
    assert [item.symbol for item in terminal.positions_get(group="*USD,!USDJPY")] == ["EURUSD"]
    assert terminal.positions_get(symbol="GBPUSD") == ()
    assert terminal.positions_get("EURUSD") is None
    assert terminal.last_error() == (-2, "Unnamed arguments not allowed")
    assert terminal.history_deals_get() is None
    assert [item.symbol for item in terminal.history_deals_get(*EVER, group="*JPY")] == ["USDJPY"]
    assert terminal.history_deals_total(*EVER) == 3
    assert terminal.history_orders_total(*EVER) == 2
    assert terminal.login(7, password="right")
    assert not terminal.login(7, password="wrong")
    assert terminal.last_error() == (-6, "Terminal: Authorization failed")
    assert not terminal.login(8, password="right")
    assert terminal.market_book_get("EURUSD") is None
    assert terminal.market_book_add("EURUSD")
    assert terminal.market_book_get("EURUSD") == ()
    assert terminal.market_book_release("EURUSD")


def test_impossible_options_are_refused() -> None:
    for options in ({"margin_mode": 1}, {"filling_mask": 4}, {"stop_out_percent": 60.0}, {"slippage_points": math.nan}):
        with pytest.raises(SettingsError):
            BrokerOptions(**options)


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell", "close", "wait", "limit", "stops"]),
        st.sampled_from(["EURUSD", "USDJPY", "XAUUSD"]),
        st.integers(1, 60),
        st.integers(5, 400),
    ),
    min_size=1,
    max_size=25,
)


@pytest.mark.parametrize("margin_mode", [0, 2])
@given(actions=ACTIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_account_adds_up_whatever_is_ordered(h1_market: MarketSource, margin_mode: int, actions: Any) -> None:
    clock = SteppedClock(MONDAY + 30 * HOUR_NS)
    options = BrokerOptions(margin_mode=margin_mode, commission_per_lot=3.0, slippage_points=1.5)
    terminal = SimulatedTerminal(h1_market, clock=clock, balance=5_000.0, options=options)
    assert terminal.initialize()
    for what, symbol, steps, points in actions:
        act(terminal, what, symbol, steps / 100, points)
        check_account(terminal)


def act(terminal: SimulatedTerminal, what: str, symbol: str, volume: float, points: int) -> None:
    info = terminal.symbol_info(symbol)
    away = points * 10 * info.point
    if what == "wait":
        terminal.clock.move_to(terminal.clock.now_ns() + points * HOUR_NS // 20)  # type: ignore[attr-defined]
    elif what == "close":
        for position in terminal.positions_get(symbol=symbol)[:1]:
            part = min(volume, position.volume)
            terminal.order_send(ask_for(1 - position.type, part, symbol=symbol, position=position.ticket))
    elif what == "limit":
        price = round(info.bid - away, info.digits)
        terminal.order_send(pending(Mt5.ORDER_TYPE_BUY_LIMIT, price, symbol=symbol, volume=volume))
    elif what == "stops":
        prices = {"sl": round(info.bid - away, info.digits), "tp": round(info.ask + away, info.digits)}
        terminal.order_send(ask_for(0, volume, symbol=symbol, **prices))
    else:
        terminal.order_send(ask_for(0 if what == "buy" else 1, volume, symbol=symbol))


def check_account(terminal: SimulatedTerminal) -> None:
    account, positions = terminal.account_info(), terminal.positions_get()
    every = terminal.history_deals_get(*EVER)
    assert account.balance == pytest.approx(sum(d.profit + d.commission + d.swap for d in every), abs=0.006)
    lots: dict[int, float] = {}
    for deal in every:
        if deal.type != Mt5.DEAL_TYPE_BALANCE:
            signed = deal.volume if deal.type == Mt5.DEAL_TYPE_BUY else -deal.volume
            lots[deal.position_id] = lots.get(deal.position_id, 0.0) + signed
    held = {p.identifier: p.volume * (1 if p.type == Mt5.POSITION_TYPE_BUY else -1) for p in positions}
    assert {key: value for key, value in lots.items() if abs(value) > 1e-9} == pytest.approx(held)
    assert account.profit == pytest.approx(sum(p.profit + p.swap for p in positions), abs=0.02 * (len(positions) + 1))
    assert account.equity == pytest.approx(account.balance + account.profit, abs=0.011)
    assert account.margin_free == pytest.approx(account.equity - account.margin, abs=0.011)
    bound = 0.0
    for symbol in {p.symbol for p in positions}:
        sides = [sum(p.volume for p in positions if p.symbol == symbol and p.type == side) for side in (0, 1)]
        ask = terminal.symbol_info_tick(symbol).ask
        bound += terminal.order_calc_margin(0, symbol, max(sides), ask) or 0.0
    assert account.margin == pytest.approx(bound, abs=0.05)
    if positions:
        assert account.margin_level > account.margin_so_so


def test_a_week_of_ticks_of_open_positions_is_looked_at_once(m1_market: MarketSource) -> None:
    clock = SteppedClock(MONDAY + HOUR_NS)
    terminal = SimulatedTerminal(m1_market, clock=clock)
    terminal.initialize()
    for _ in range(50):
        assert buy(terminal, 0.01, tp=2.0, sl=0.5).retcode == Mt5.TRADE_RETCODE_DONE
    clock.move_to(MONDAY + 4 * DAY_NS)
    assert terminal.positions_total() == 50
    assert terminal.server.now_ns == clock.now_ns()
