"""What goes wrong at a broker, each against the engine's own desk, outbox and link, over a terminal that breaks."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fx_dagster.errors import JournalError
from fx_dagster.execution.orders import OrderState, Purpose
from fx_dagster.live.alerts import View, alerts
from fx_dagster.market.timeframes import SECOND_NS
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.faults import (
    AtCall,
    AtTime,
    AutotradingOff,
    ConfirmedTwice,
    Disconnected,
    FillBeforeAnswer,
    ForeignTrade,
    Refused,
    ServerClose,
    SuffixChanged,
    SymbolMode,
)
from resources.order_keeper import PostgresOrders
from resources.order_store import Writer

from .test_broker_desk import BEGIN, QUIET, Make, OrderTable, Trader, run, sent_requests, terminal_of

FLAT = (0.0, 0.0, 0.0, False)


@pytest.fixture
def trader(tmp_path: Path) -> Iterator[Make]:
    """Make traders over one account; each ends the one before, as its process would."""
    living: list[Trader] = []

    def make(terminal: Any = None, table: OrderTable | None = None) -> Trader:
        for one in living:
            one.close()
        before = living[-1] if living else None
        terminal = terminal or (before.terminal if before else terminal_of())
        table = table or (before.table if before else OrderTable())
        living.append(Trader(terminal, table, tmp_path / "exits"))
        return living[-1]

    yield make
    for one in living:
        one.close()


def after(seconds: float) -> AtTime:
    return AtTime(BEGIN + round(seconds * SECOND_NS))


def test_a_close_only_symbol_takes_exits_and_no_entries(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, SymbolMode(after(10), "EURUSD", duration_ms=600_000))).begin()
        await one.trade()
        await one.turn(20.0)
        assert one.desk.held() == {"EURUSD": "the broker says close_only"}
        assert one.held == {0: True}, "the core opens nothing"
        entry = await one.trade()
        assert one.state(entry) is OrderState.REJECTED, "the broker does not either"
        await one.turn(6.0)
        closed = await one.trade(Purpose.CLOSE, -0.1)
        assert (one.state(closed), one.row[0]) == (OrderState.FILLED, 0.0)

    run(work)


def test_names_of_another_suffix_stop_trading_and_are_told(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, SuffixChanged(after(10), ".x"))).begin()
        await one.trade()
        assert one.held.get(0) in (None, False)
        await one.turn(20.0)
        await one.turn(1.0)
        assert "EURUSD" in one.desk.problem
        status = {"broker_problem": one.desk.problem, "symbols_halted": one.desk.held()}
        assert "broker" in {alert.key for alert in alerts(View("real", status=status, running=True))}
        assert one.terminal.positions_get()[0].sl == 1.09, "what is open keeps its stop under its new name"

    run(work)


def test_an_engine_that_begins_asks_for_the_brokers_names_anew(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, SuffixChanged(after(10), ".x"))).begin()
        await one.turn(20.0)
        await asyncio.sleep(0)  # the journal commits a little later
        two = await trader().begin()
        opened = await two.trade()
        assert (two.state(opened), two.desk.problem, two.desk.held()) == (OrderState.FILLED, "", {})
        assert two.terminal.positions_get()[0].symbol == "EURUSD.x"

    run(work)


def test_invalid_stops_are_final_and_not_repeated_at_once(trader: Make) -> None:
    async def work() -> None:
        faults = [Refused(AtCall(nth=nth), Mt5.TRADE_RETCODE_INVALID_STOPS) for nth in (1, 2)]
        one = await trader(terminal_of(QUIET, *faults)).begin()
        for pause_s in (5.0, 10.0):
            key = await one.trade()
            assert (one.state(key), one.table.orders[key].attempt) == (OrderState.REJECTED, 0)
            assert one.row[3], "nothing new at the next tick"
            await one.turn(pause_s - 1.0)
            assert one.row[3]
            await one.turn(1.0)
            assert not one.row[3]
        assert sent_requests(one.terminal) == 0

    run(work)


@pytest.mark.parametrize(
    "retcode", [Mt5.TRADE_RETCODE_REQUOTE, Mt5.TRADE_RETCODE_PRICE_CHANGED, Mt5.TRADE_RETCODE_PRICE_OFF]
)
def test_each_new_price_is_a_new_decision_with_its_own_key_and_there_are_few(trader: Make, retcode: int) -> None:
    async def work() -> None:
        faults = [Refused(AtCall(nth=nth), retcode) for nth in range(1, 9)]
        one = await trader(terminal_of(QUIET, *faults)).begin()
        keys = []
        while not one.row[3]:
            assert len(keys) < 5, "unbounded"
            keys.append(await one.trade())
        assert len(set(keys)) == len(keys) == 3
        assert {one.state(key) for key in keys} == {OrderState.REJECTED}
        await one.turn(29.0)
        assert one.row[3], "a pause, as long as the quiet period"

    run(work)


def test_a_fill_that_comes_before_its_answer_counts_once(trader: Make) -> None:
    async def work() -> None:
        terminal = terminal_of(QUIET, FillBeforeAnswer(AtCall(), 3_000), ConfirmedTwice(AtCall()))
        one = await trader(terminal).begin()
        key = await one.trade()
        assert one.row[0] == 0.1, "the deal is there already"
        await one.turn(5.0)
        await one.turn(5.0)
        assert (one.state(key), one.row) == (OrderState.FILLED, (0.1, 1.09, 0.0, False))
        assert one.desk.book.order(key).filled_lots == pytest.approx(0.1)
        assert len(one.table.deals) == 1

    run(work)


@pytest.mark.parametrize("reason", [Mt5.DEAL_REASON_SL, Mt5.DEAL_REASON_TP, Mt5.DEAL_REASON_SO])
def test_what_the_server_closes_is_flat_by_its_deals_and_learned_once(trader: Make, reason: int) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, ServerClose(after(20), reason=reason))).begin()
        await one.trade()
        await one.turn(30.0)
        await one.turn(30.0)
        assert one.row == FLAT
        one.journal._commit_all()
        assert [len(one.learned), len(one.table.deals)] == [1, 2]
        assert one.news.count("closed") == 1

    run(work)


def test_positions_of_others_count_and_are_left_alone(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, ForeignTrade(after(10), "EURUSD", -0.3))).begin()
        await one.trade()
        await one.turn(20.0)
        assert one.row == (0.1, 1.09, -0.3, False), "the limits see both"
        (foreign,) = [shown for shown in one.terminal.positions_get() if shown.magic == 0]
        assert float(one.ledger.money[0]["balance"]) == pytest.approx(10_000 + foreign.profit)
        one.journal._commit_all()
        assert one.table.foreign == [foreign.ticket]
        await one.trade(Purpose.CLOSE, -0.1)
        await one.turn(60.0)
        assert [shown.ticket for shown in one.terminal.positions_get()] == [foreign.ticket]
        assert one.row == (0.0, 0.0, -0.3, False)

    run(work)


def test_while_the_broker_is_away_nothing_is_opened_and_its_stops_stand(trader: Make) -> None:
    async def work() -> None:
        quotes = [(3_000.0, 1.1, 1.1001), (3_700.0, 1.0880, 1.0881), (90_000.0, 1.0880, 1.0881)]
        one = await trader(terminal_of(quotes, Disconnected(after(50), duration_ms=120_000))).begin()
        await one.trade()
        await one.turn(60.0)
        assert one.desk.problem, "no entries: the engine is told"
        assert one.row[0] == 0.1
        status = {"broker_problem": one.desk.problem}
        assert [alert.key for alert in alerts(View("real", status=status, running=True))] == ["broker"]
        await one.turn(60.0)  # the price has gone through the stop meanwhile
        await one.turn(61.0)
        assert (one.desk.problem, one.row) == ("", FLAT)
        assert len(one.learned) == 1

    run(work)


def test_automated_trading_switched_off_halts_and_is_told(trader: Make) -> None:
    async def work() -> None:
        one = await trader(terminal_of(QUIET, AutotradingOff(after(10), duration_ms=600_000))).begin()
        one.clock.move_to(BEGIN + 20 * SECOND_NS)  # nobody has looked since
        key = await one.trade()
        assert one.state(key) is OrderState.REJECTED
        assert "10027" in one.desk.book.order(key).message
        assert sent_requests(one.terminal) == 0
        assert "lets no program trade" in one.desk.problem
        assert {"refused", "broker"} <= set(one.news)
        (told,) = alerts(View("real", status={"broker_problem": one.desk.problem}, running=True))
        assert (told.key, "automated trading" in told.mend) == ("broker", True)

    run(work)


def test_a_failed_fsync_ends_the_engine_and_the_next_one_reconciles(
    trader: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    async def work() -> None:
        one = await trader().begin()
        one.outbox._keeper = PostgresOrders("postgresql://nobody@127.0.0.1:1/none", Writer("real", 1, 7), one.log)
        await one.trade()
        one.journal.trouble, one.journal.silent = "PostgreSQL is away", True
        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", failing)
            with pytest.raises(JournalError, match="fsync failed"):
                await one.order(Purpose.CLOSE, -0.1)
        assert one.terminal.positions_get()[0].volume == 0.1, "what is not on the disk is not sent"
        two = await trader().begin()
        assert two.row == (0.1, 1.09, 0.0, True), "the exit may be on the disk or not: it is in doubt, not sent again"
        for _ in range(3):
            await two.turn(31.0)
        assert two.row == (0.1, 1.09, 0.0, False)
        closed = await two.trade(Purpose.CLOSE, -0.1)
        assert (two.state(closed), two.row) == (OrderState.FILLED, FLAT)

    run(work)
