"""Each fault of a broker: what the caller sees, and what the broker has really done."""

from collections.abc import Callable
from typing import Any

import pytest

from fx_dagster.errors import SettingsError
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS
from resources.mt5 import faults
from resources.mt5.clock import SteppedClock
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.faults import AtCall, AtTime, FaultPlan, seeded_plan
from resources.mt5.simulated import SimulatedTerminal

MONDAY = 1_709_503_200 * SECOND_NS
Make = Callable[..., SimulatedTerminal]
EVER = (0, 2**31 - 1)
QUIET = [(3000, 1.1000, 1.1001), (3700, 1.1010, 1.1011)]
FIRST = AtCall("order_send", 1)


def at(terminal: SimulatedTerminal, second: float) -> None:
    clock = terminal.clock
    assert isinstance(clock, SteppedClock)
    clock.move_to(MONDAY + round(second * SECOND_NS))


def request(kind: int = Mt5.ORDER_TYPE_BUY, volume: float = 0.1, **fields: Any) -> dict[str, Any]:
    return {"action": Mt5.TRADE_ACTION_DEAL, "symbol": "EURUSD", "volume": volume, "type": kind, "magic": 77} | fields


def trades(terminal: SimulatedTerminal) -> list[Any]:
    return [deal for deal in terminal.history_deals_get(*EVER) if deal.type <= Mt5.DEAL_TYPE_SELL]


@pytest.mark.parametrize("taken", [True, False])
@pytest.mark.parametrize("retcode", [0, Mt5.TRADE_RETCODE_TIMEOUT])
def test_a_timeout_says_nothing_about_the_order(trade: Make, taken: bool, retcode: int) -> None:
    fault = faults.AnswerLost(FIRST, retcode) if taken else faults.RequestLost(FIRST, retcode)
    terminal = trade(EURUSD=QUIET, faults=[fault])
    answer = terminal.order_send(request())
    if retcode:
        assert (answer.retcode, answer.order, answer.deal) == (10012, 0, 0)
    else:
        assert answer is None
        assert terminal.last_error() == (-10005, "IPC timeout")
    assert [item.magic for item in terminal.positions_get()] == [77] * taken
    assert len(trades(terminal)) == taken
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_DONE


def test_a_request_may_arrive_late(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.RequestLate(FIRST, 150_000)])
    assert terminal.order_send(request()) is None
    at(terminal, 3749)
    assert terminal.positions_get() == ()
    at(terminal, 3750)
    assert [item.price_open for item in terminal.positions_get()] == [1.1011]


def test_what_an_order_did_is_seen_after_a_delay(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.Hidden(FIRST, 3_000), faults.AnswerLost(FIRST)])
    assert terminal.order_send(request()) is None
    assert terminal.positions_get() == terminal.history_orders_get(*EVER) == ()
    assert trades(terminal) == []
    at(terminal, 3602.999)
    assert terminal.positions_total() == 0
    at(terminal, 3603)
    assert len(terminal.positions_get()) == len(trades(terminal)) == len(terminal.history_orders_get(*EVER)) == 1
    assert trades(terminal)[0].time_msc == terminal.positions_get()[0].time_msc


def test_a_hidden_close_still_shows_the_position(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.Hidden(AtCall(nth=2), 3_000)])
    opened = terminal.order_send(request())
    terminal.order_send(request(Mt5.ORDER_TYPE_SELL, position=opened.order))
    assert terminal.positions_total() == len(trades(terminal)) == 1
    at(terminal, 3603)
    assert terminal.positions_total() == 0
    assert len(trades(terminal)) == 2


@pytest.mark.parametrize("retcode", [10004, 10006, 10016, 10018, 10019, 10021, 10024, 10026])
def test_a_refusal_leaves_nothing(trade: Make, retcode: int) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.Refused(FIRST, retcode)])
    answer = terminal.order_send(request())
    assert (answer.retcode, answer.order, answer.deal, answer.bid) == (retcode, 0, 0, 1.1000)
    assert answer.comment
    assert terminal.positions_get() == terminal.orders_get() == terminal.history_orders_get(*EVER) == ()
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_DONE


def test_a_partial_fill_cancels_the_rest_or_lets_it_wait(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.PartialFill(FIRST, 0.34)])
    answer = terminal.order_send(request())
    assert (answer.retcode, answer.volume) == (Mt5.TRADE_RETCODE_DONE_PARTIAL, 0.03)
    (order,) = terminal.history_orders_get(*EVER)
    assert (order.state, order.volume_initial, order.volume_current) == (Mt5.ORDER_STATE_CANCELED, 0.1, 0.07)
    terminal = trade(EURUSD=QUIET, faults=[faults.PartialFill(FIRST, 0.34, rest_ms=1_000)])
    answer = terminal.order_send(request())
    (waiting,) = terminal.orders_get()
    assert (waiting.ticket, waiting.state, waiting.volume_current) == (answer.order, Mt5.ORDER_STATE_PARTIAL, 0.07)
    assert terminal.positions_get()[0].volume == 0.03
    at(terminal, 3700)
    (position,) = terminal.positions_get()
    assert (position.ticket, position.volume) == (answer.order, 0.1)
    assert position.price_open == pytest.approx((0.03 * 1.1001 + 0.07 * 1.1011) / 0.1)
    assert [deal.volume for deal in trades(terminal)] == [0.03, 0.07]
    assert terminal.orders_get() == ()


def test_a_deal_may_be_confirmed_twice(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.ConfirmedTwice(FIRST)])
    answer = terminal.order_send(request())
    assert [deal.ticket for deal in trades(terminal)] == [answer.deal] * 2
    assert terminal.positions_get()[0].volume == 0.1


def test_the_fill_may_come_before_the_answer_knows_of_it(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.FillBeforeAnswer(FIRST, 2_000)])
    answer = terminal.order_send(request())
    assert (answer.retcode, answer.deal) == (Mt5.TRADE_RETCODE_PLACED, 0)
    assert trades(terminal)[0].order == answer.order
    assert terminal.history_orders_get(*EVER) == ()
    at(terminal, 3602)
    assert terminal.history_orders_get(*EVER)[0].ticket == answer.order


@pytest.mark.parametrize("reason", [Mt5.DEAL_REASON_SL, Mt5.DEAL_REASON_TP, Mt5.DEAL_REASON_SO, Mt5.DEAL_REASON_CLIENT])
def test_the_server_or_a_person_may_close(trade: Make, reason: int) -> None:
    when = AtTime(MONDAY + 3650 * SECOND_NS)
    terminal = trade(EURUSD=QUIET, faults=[faults.ServerClose(when, "EURUSD", reason)])
    opened = terminal.order_send(request())
    at(terminal, 3650)
    assert terminal.positions_get() == ()
    out = terminal.history_deals_get(position=opened.order)[-1]
    assert (out.reason, out.price, out.entry) == (reason, 1.1000, Mt5.DEAL_ENTRY_OUT)


def test_a_disconnected_terminal_takes_no_requests_and_stops_stand(trade: Make) -> None:
    quotes = [*QUIET, (3720, 1.0900, 1.0901), (3800, 1.1200, 1.1201)]
    when = AtTime(MONDAY + 3650 * SECOND_NS)
    terminal = trade(EURUSD=quotes, faults=[faults.Disconnected(when, 100_000)])
    opened = terminal.order_send(request(sl=1.0950))
    at(terminal, 3730)
    assert not terminal.terminal_info().connected
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_CONNECTION
    assert terminal.symbol_info_tick("EURUSD").bid == 1.1000
    at(terminal, 3750)
    assert terminal.terminal_info().connected
    assert terminal.symbol_info_tick("EURUSD").bid == 1.0900
    assert terminal.history_deals_get(position=opened.order)[-1].price == 1.0900


def test_a_lost_terminal_answers_nothing_for_a_while(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.TerminalLost(AtCall("positions_get", 2), 10_000)])
    assert terminal.positions_get() == ()
    assert terminal.positions_get() is None
    assert terminal.last_error() == (-10004, "No IPC connection")
    assert terminal.order_send(request()) is None
    assert terminal.account_info() is None
    assert not terminal.initialize()
    at(terminal, 3610)
    assert terminal.positions_get() == ()


def test_a_frozen_feed_is_not_the_market(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.FeedFrozen(AtTime(MONDAY + 3601 * SECOND_NS), "EURUSD", 200_000)])
    at(terminal, 3750)
    assert terminal.symbol_info_tick("EURUSD").bid == 1.1000
    assert len(terminal.copy_ticks_range("EURUSD", *EVER, terminal.COPY_TICKS_ALL)) == 1
    assert terminal.order_send(request()).price == 1.1011
    at(terminal, 3801)
    assert len(terminal.copy_ticks_range("EURUSD", *EVER, terminal.COPY_TICKS_ALL)) == 2


def test_a_withdrawal_makes_a_margin_call(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.Withdrawn(AtTime(MONDAY + 3650 * SECOND_NS), 45.0)])
    terminal.order_send(request())
    at(terminal, 3650)
    account = terminal.account_info()
    assert account.margin_so_so < account.margin_level < account.margin_so_call
    assert account.margin_level == pytest.approx(45.0, abs=0.05)
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_NO_MONEY
    assert terminal.positions_total() == 1


def test_a_foreign_position_appears(trade: Make) -> None:
    when = AtTime(MONDAY + 3650 * SECOND_NS)
    terminal = trade(EURUSD=QUIET, faults=[faults.ForeignTrade(when, "EURUSD", -0.2, magic=5)])
    assert terminal.positions_get() == ()
    at(terminal, 3800)
    (position,) = terminal.positions_get()
    assert (position.type, position.volume, position.magic, position.reason) == (1, 0.2, 5, Mt5.POSITION_REASON_CLIENT)
    assert position.price_open == 1.1000
    assert trades(terminal)[0].reason == Mt5.DEAL_REASON_CLIENT


def test_automated_trading_is_switched_off(trade: Make) -> None:
    plan = [faults.AutotradingOff(AtCall(nth=1), 10_000), faults.AutotradingOff(AtCall(nth=3), 10_000, api=True)]
    terminal = trade(EURUSD=QUIET, faults=plan)
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_CLIENT_DISABLES_AT
    assert not terminal.terminal_info().trade_allowed
    at(terminal, 3610)
    assert terminal.terminal_info().trade_allowed
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_DONE
    assert terminal.order_send(request()) is None
    assert terminal.last_error()[0] == Mt5.RES_E_AUTO_TRADING_DISABLED
    assert terminal.terminal_info().tradeapi_disabled


@pytest.mark.parametrize(("mode", "opening", "closing"), [(0, 10017, 10017), (3, 10044, 10009)])
def test_a_symbol_is_halted_or_close_only(trade: Make, mode: int, opening: int, closing: int) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.SymbolMode(AtCall(nth=2), "EURUSD", mode, 10_000)])
    opened = terminal.order_send(request())
    assert terminal.order_send(request()).retcode == opening
    assert terminal.symbol_info("EURUSD").trade_mode == mode
    assert terminal.order_send(request(Mt5.ORDER_TYPE_SELL, position=opened.order)).retcode == closing
    at(terminal, 3610)
    assert terminal.symbol_info("EURUSD").trade_mode == Mt5.SYMBOL_TRADE_MODE_FULL
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_DONE


def test_specification_and_suffix_change(trade: Make) -> None:
    changes = {"contract_size": 10_000.0, "lot_step": 0.1, "lot_min": 0.1, "stops_level": 100, "filling_mask": 2}
    moments = [AtTime(MONDAY + second * SECOND_NS) for second in (3650, 3660)]
    plan = [faults.SpecificationChanged(moments[0], "EURUSD", changes), faults.SuffixChanged(moments[1], ".pro")]
    terminal = trade(EURUSD=QUIET, faults=plan)
    terminal.order_send(request())
    before = terminal.account_info().margin
    at(terminal, 3650)
    info = terminal.symbol_info("EURUSD")
    assert (info.trade_contract_size, info.volume_step, info.trade_stops_level) == (10_000.0, 0.1, 100)
    assert terminal.account_info().margin == pytest.approx(before / 10, abs=0.01)
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_INVALID_FILL
    at(terminal, 3660)
    assert [item.name for item in terminal.symbols_get()] == ["EURUSD.pro"]
    assert terminal.symbol_info_tick("EURUSD") is None
    assert [item.symbol for item in terminal.positions_get()] == ["EURUSD.pro"]
    assert terminal.order_send(request()).retcode == Mt5.TRADE_RETCODE_INVALID
    filling = Mt5.ORDER_FILLING_IOC
    assert terminal.order_send(request(symbol="EURUSD.pro", type_filling=filling)).retcode == Mt5.TRADE_RETCODE_DONE


def test_a_call_hangs(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.Hang(AtCall("positions_get", 1), 0.5)])
    slept: list[float] = []
    terminal.disturbances.sleep = slept.append
    assert terminal.positions_get() == ()
    assert terminal.positions_get() == ()
    assert slept == [0.5]


def test_faults_meet_the_calls_that_they_name(trade: Make) -> None:
    plan = FaultPlan([faults.Refused(AtCall(nth=2, symbol="EURUSD")), faults.Hang(AtCall("*", 4))])
    assert plan.take_called("order_send", "EURUSD") == []
    assert plan.take_called("order_send", "USDJPY") == []
    assert [type(item) for item in plan.take_called("order_send", "EURUSD")] == [faults.Refused]
    assert [type(item) for item in plan.take_called("orders_get", "")] == [faults.Hang]
    assert len(plan.happened) == 2
    assert plan.count("order_send") == 3
    with pytest.raises(SettingsError, match="order_send"):
        FaultPlan([faults.AnswerLost(AtCall("orders_get"))])
    with pytest.raises(SettingsError, match="nth"):
        AtCall(nth=0)


def test_a_fault_of_an_unknown_symbol_is_refused_when_it_happens(trade: Make) -> None:
    terminal = trade(EURUSD=QUIET, faults=[faults.ForeignTrade(AtCall("orders_get"), "EURUSD.m", 0.1)])
    with pytest.raises(SettingsError, match=r"EURUSD\.m"):
        terminal.orders_get()


def test_a_seed_makes_one_plan_and_the_account_adds_up_under_it(m1_market: MarketSource) -> None:
    def plan(seed: int) -> Any:
        return seeded_plan(
            seed,
            symbols=("EURUSD", "USDJPY"),
            start_ns=MONDAY + HOUR_NS,
            end_ns=MONDAY + 20 * HOUR_NS,
            count=60,
            requests=40,
        )

    assert plan(1) == plan(1) != plan(2)
    for seed in range(3):
        clock = SteppedClock(MONDAY + HOUR_NS)
        terminal = SimulatedTerminal(m1_market, clock=clock, faults=plan(seed))
        assert terminal.initialize()
        for step in range(60):
            terminal.order_send(request(step % 2, 0.05))
            clock.move_to(clock.now_ns() + HOUR_NS // 3)
        clock.move_to(clock.now_ns() + HOUR_NS)
        assert terminal.positions_get() is not None
        assert len(terminal.plan.happened) == 60
        tickets = {deal.ticket: deal for deal in terminal.history_deals_get(*EVER)}
        total = sum(deal.profit + deal.commission + deal.swap for deal in tickets.values())
        assert terminal.account_info().balance == pytest.approx(total, abs=0.006)
        lots: dict[int, float] = {}
        for deal in tickets.values():
            if deal.position_id:
                signed = deal.volume if deal.type == Mt5.DEAL_TYPE_BUY else -deal.volume
                lots[deal.position_id] = lots.get(deal.position_id, 0.0) + signed
        held = {item.identifier: item.volume * (1 - 2 * item.type) for item in terminal.positions_get()}
        assert {key: value for key, value in lots.items() if abs(value) > 1e-9} == pytest.approx(held)
