import datetime as dt
import importlib.util
from collections.abc import Callable

import numpy as np
import pytest

from fx_dagster.market.bars import resample_bars, ticks_to_bars
from fx_dagster.market.schemas import TickFlag
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe, bar_close, to_server
from resources.market.simulator import SimulatorSource
from resources.mt5.clock import SteppedClock
from resources.mt5.constants import Mt5Constants
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.structures import RATE_DTYPE, TICK_DTYPE, AccountInfo, SymbolInfo, TerminalInfo, Tick

MONDAY = 1_709_503_200 * SECOND_NS
NAMES = ("open", "high", "low", "close", "tick_volume")


def server_s(time_ns: int) -> int:
    return int(to_server(np.array([time_ns]))[0]) // SECOND_NS


def test_rows_are_packed_as_in_the_module() -> None:
    assert RATE_DTYPE.itemsize == TICK_DTYPE.itemsize == 60
    offsets = {name: RATE_DTYPE.fields[name][1] for name in RATE_DTYPE.names}
    assert offsets["tick_volume"] == 40
    assert (offsets["spread"], RATE_DTYPE["spread"]) == (48, np.dtype("<i4"))
    assert (offsets["real_volume"], RATE_DTYPE["real_volume"]) == (52, np.dtype("<u8"))
    offsets = {name: TICK_DTYPE.fields[name][1] for name in TICK_DTYPE.names}
    assert (offsets["volume"], offsets["time_msc"], offsets["flags"], offsets["volume_real"]) == (32, 40, 48, 52)
    assert [len(kind._fields) for kind in (Tick, TerminalInfo, AccountInfo, SymbolInfo)] == [8, 22, 28, 96]


def test_constants_have_the_module_s_values() -> None:
    assert (Mt5Constants.TIMEFRAME_H1, Mt5Constants.TIMEFRAME_W1, Mt5Constants.TIMEFRAME_MN1) == (16385, 32769, 49153)
    assert (Mt5Constants.COPY_TICKS_ALL, Mt5Constants.TRADE_RETCODE_DONE) == (-1, 10009)
    if importlib.util.find_spec("MetaTrader5") is None:
        return
    import MetaTrader5  # type: ignore[import-not-found,unused-ignore]

    for name, value in vars(Mt5Constants).items():
        if name.isupper():
            assert getattr(MetaTrader5, name) == value


def test_before_initialize_everything_fails_with_no_connection(m1_market: SimulatorSource, clock: SteppedClock) -> None:
    terminal = SimulatedTerminal(m1_market, clock=clock)
    calls = (
        terminal.version,
        terminal.terminal_info,
        terminal.account_info,
        terminal.symbols_total,
        terminal.symbols_get,
        terminal.orders_get,
        terminal.positions_total,
        lambda: terminal.symbol_info("EURUSD"),
        lambda: terminal.symbol_info_tick("EURUSD"),
        lambda: terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_M1, 0, 1),
        lambda: terminal.copy_ticks_from("EURUSD", 0, 1, terminal.COPY_TICKS_ALL),
        lambda: terminal.history_deals_get(0, 1),
    )
    for call in calls:
        assert call() is None
        assert terminal.last_error() == (-10004, "No IPC connection")
    assert not terminal.symbol_select("EURUSD")
    assert terminal.initialize(login=1, server="x", timeout=100)
    assert terminal.last_error() == (1, "Success")
    assert terminal.version()[0] == 500
    terminal.shutdown()
    assert terminal.version() is None


def test_a_broken_connection_fails_every_call_until_it_is_mended(terminal: SimulatedTerminal) -> None:
    terminal.break_connection()
    assert terminal.symbol_info_tick("EURUSD") is None
    assert terminal.last_error() == (-10005, "IPC timeout")
    assert not terminal.initialize()
    terminal.mend_connection()
    assert terminal.symbol_info_tick("EURUSD") is not None


def test_an_unknown_symbol_is_none_with_the_reason(terminal: SimulatedTerminal) -> None:
    assert terminal.symbol_info("NOPE") is None
    assert terminal.last_error() == (-4, "Terminal: Not found")
    assert terminal.copy_rates_from_pos("eurusd", terminal.TIMEFRAME_M1, 0, 1) is None
    assert terminal.last_error() == (-1, "Terminal: Call failed")
    assert not terminal.symbol_select("NOPE")


def test_impossible_arguments_are_refused(terminal: SimulatedTerminal, h1_market: SimulatorSource) -> None:
    calls = (
        lambda: terminal.copy_rates_from_pos("EURUSD", 7, 0, 1),
        lambda: terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_M1, -1, 1),
        lambda: terminal.copy_rates_from("EURUSD", terminal.TIMEFRAME_M1, 0, 0),
        lambda: terminal.copy_ticks_from("EURUSD", 0, -5, terminal.COPY_TICKS_ALL),
        lambda: terminal.copy_ticks_range("EURUSD", 0, 1, 99),
    )
    for call in calls:
        assert call() is None
        assert terminal.last_error() == (-2, "Terminal: Invalid params")
    hourly = SimulatedTerminal(h1_market, clock=SteppedClock(MONDAY + DAY_NS))
    hourly.initialize()
    assert hourly.copy_rates_from_pos("EURUSD", hourly.TIMEFRAME_M1, 0, 1) is None
    assert hourly.last_error() == (-4, "Terminal: Not found")


def test_ticks_are_the_source_s_on_the_server_clock(terminal: SimulatedTerminal, m1_market: SimulatorSource) -> None:
    start, end = MONDAY + HOUR_NS, MONDAY + 2 * HOUR_NS
    expected = m1_market.ticks("EURUSD", start, end + 1)
    rows = terminal.copy_ticks_range("EURUSD", server_s(start), server_s(end), terminal.COPY_TICKS_ALL)
    assert rows is not None
    assert rows.dtype == TICK_DTYPE
    server = to_server(expected["time"].to_numpy())
    assert rows["time_msc"].tolist() == (server // 1_000_000).tolist()
    assert rows["time"].tolist() == (server // SECOND_NS).tolist()
    assert np.array_equal(rows["bid"], expected["bid"])
    assert np.array_equal(rows["ask"], expected["ask"])
    assert np.array_equal(rows["volume_real"], expected["volume"])
    assert (rows["flags"] & TickFlag.MODELLED != 0).all()
    counted = terminal.copy_ticks_from("EURUSD", server_s(start), 100, terminal.COPY_TICKS_INFO)
    assert np.array_equal(counted, rows[:100])
    assert len(terminal.copy_ticks_from("EURUSD", server_s(start), 100, terminal.COPY_TICKS_TRADE)) == 0


def test_dates_are_datetimes_or_whole_seconds(terminal: SimulatedTerminal) -> None:
    second = server_s(MONDAY + HOUR_NS)
    as_number = terminal.copy_ticks_from("EURUSD", second, 5, terminal.COPY_TICKS_ALL)
    as_date = dt.datetime.fromtimestamp(second + 0.9, tz=dt.UTC)
    assert np.array_equal(terminal.copy_ticks_from("EURUSD", as_date, 5, terminal.COPY_TICKS_ALL), as_number)


def test_nothing_from_the_future_is_shown(terminal: SimulatedTerminal, clock: SteppedClock) -> None:
    for step_ns in (0, 1, 20 * SECOND_NS, MINUTE_NS, 7 * HOUR_NS, 2 * DAY_NS):
        clock.move_to(clock.now_ns() + step_ns)
        now_msc = int(to_server(np.array([clock.now_ns()]))[0]) // 1_000_000
        rows = terminal.copy_ticks_range("EURUSD", 0, 2**31 - 1, terminal.COPY_TICKS_ALL)
        tick = terminal.symbol_info_tick("EURUSD")
        assert rows["time_msc"][-1] <= now_msc
        assert tuple(tick) == rows[-1].item()
        for name in ("M1", "H4", "D1", "MN1"):
            rates = terminal.copy_rates_from_pos("EURUSD", getattr(terminal, f"TIMEFRAME_{name}"), 0, 10)
            assert rates["time"][-1] * 1000 <= now_msc
            assert rates["close"][-1] == tick.bid


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_bars_agree_with_the_source_and_the_last_one_forms_from_ticks(
    timeframe: Timeframe, m1_market: SimulatorSource
) -> None:
    now = MONDAY + 9 * DAY_NS + 13 * HOUR_NS + 27 * MINUTE_NS + 41 * SECOND_NS
    terminal = SimulatedTerminal(m1_market, clock=SteppedClock(now))
    terminal.initialize()
    rates = terminal.copy_rates_from_pos("EURUSD", getattr(terminal, f"TIMEFRAME_{timeframe}"), 0, 100_000)
    ticks = m1_market.ticks("EURUSD", MONDAY, now + 1)
    m1 = ticks_to_bars(ticks, Timeframe.M1, 1e-5, complete_until=now + 90 * DAY_NS)
    bars = resample_bars(m1, Timeframe.M1, timeframe, complete_until=now + 90 * DAY_NS)
    assert rates["time"].tolist() == (to_server(bars["time"].to_numpy()) // SECOND_NS).tolist()
    for name in NAMES:
        assert np.array_equal(rates[name], bars[name].to_numpy().astype(RATE_DTYPE[name]))
    assert np.abs(rates["spread"] - bars["spread"]).max() <= 0.5


def test_the_last_bar_of_a_week_stays_the_newest_over_the_weekend(m1_market: SimulatorSource) -> None:
    saturday = MONDAY + 5 * DAY_NS + 10 * HOUR_NS
    terminal = SimulatedTerminal(m1_market, clock=SteppedClock(saturday))
    terminal.initialize()
    last = terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_H1, 0, 1)
    assert last["time"].tolist() == [server_s(MONDAY + 5 * DAY_NS - HOUR_NS)]
    assert terminal.symbol_info_tick("EURUSD").time_msc == (server_s(MONDAY + 5 * DAY_NS)) * 1000 - 1


def test_rates_by_position_date_and_range_are_the_same_bars(terminal: SimulatedTerminal) -> None:
    frame = terminal.TIMEFRAME_M15
    every = terminal.copy_rates_from_pos("EURUSD", frame, 0, 10_000)
    assert np.array_equal(terminal.copy_rates_from_pos("EURUSD", frame, 3, 4), every[-7:-3])
    assert len(terminal.copy_rates_from_pos("EURUSD", frame, 10_000, 4)) == 0
    at = int(every["time"][8])
    assert np.array_equal(terminal.copy_rates_from("EURUSD", frame, at, 3), every[6:9])
    assert np.array_equal(terminal.copy_rates_from("EURUSD", frame, at - 1, 3), every[5:8])
    assert np.array_equal(terminal.copy_rates_range("EURUSD", frame, at, int(every["time"][10])), every[8:11])
    assert len(terminal.copy_rates_range("EURUSD", frame, at + 1, at + 2)) == 0


def test_answers_are_copies(terminal: SimulatedTerminal) -> None:
    first = terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_M1, 1, 5)
    first["close"] = 0
    assert (terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_M1, 1, 5)["close"] > 0).all()
    ticks = terminal.copy_ticks_from("EURUSD", 0, 5, terminal.COPY_TICKS_ALL)
    ticks["bid"] = 0
    assert (terminal.copy_ticks_from("EURUSD", 0, 5, terminal.COPY_TICKS_ALL)["bid"] > 0).all()


def test_symbols_have_the_broker_s_names_and_specifications(m1_market: SimulatorSource, clock: SteppedClock) -> None:
    terminal = SimulatedTerminal(m1_market, clock=clock, suffix=".m", currency="USD")
    terminal.initialize()
    assert terminal.symbols_total() == 2
    assert [info.name for info in terminal.symbols_get()] == ["EURUSD.m", "USDJPY.m"]
    assert [info.name for info in terminal.symbols_get("*USD*,!*JPY*")] == ["EURUSD.m"]
    euro, yen = terminal.symbols_get()
    assert (euro.digits, euro.point, euro.trade_contract_size, euro.volume_step) == (5, 1e-5, 100_000.0, 0.01)
    assert euro.trade_tick_value == pytest.approx(1.0)
    assert yen.trade_tick_value == pytest.approx(100_000 * 0.001 / yen.bid)
    assert (euro.currency_base, euro.currency_profit, euro.filling_mode) == ("EUR", "USD", 3)
    assert euro.swap_rollover3days == terminal.DAY_OF_WEEK_WEDNESDAY
    assert euro.spread == round((euro.ask - euro.bid) / euro.point)
    assert euro.bidlow <= euro.bid <= euro.bidhigh
    assert euro.select
    assert terminal.symbol_select("EURUSD.m", False)
    assert not terminal.symbol_info("EURUSD.m").select


def test_a_symbol_without_a_tick_yet_has_zeros(m1_market: SimulatorSource) -> None:
    terminal = SimulatedTerminal(m1_market, clock=SteppedClock(MONDAY - DAY_NS))
    terminal.initialize()
    assert terminal.symbol_info_tick("EURUSD") == Tick(0, 0.0, 0.0, 0.0, 0, 0, 0, 0.0)
    assert len(terminal.copy_ticks_from("EURUSD", 0, 5, terminal.COPY_TICKS_ALL)) == 0
    assert len(terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_M1, 0, 5)) == 0


def test_the_account_is_consistent_and_empty(m1_market: SimulatorSource, clock: SteppedClock) -> None:
    terminal = SimulatedTerminal(m1_market, clock=clock, balance=2_500.0, currency="EUR", leverage=100)
    terminal.initialize()
    account = terminal.account_info()
    assert account.balance == account.equity == account.margin_free == 2_500.0
    assert (account.currency, account.leverage, account.profit, account.margin) == ("EUR", 100, 0.0, 0.0)
    assert account.margin_mode == terminal.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
    assert terminal.terminal_info().connected
    assert terminal.orders_get() == terminal.positions_get(symbol="EURUSD") == terminal.history_deals_get(0, 1) == ()
    assert terminal.orders_total() == terminal.positions_total() == terminal.history_orders_total(0, 1) == 0
    deposit = terminal.history_deals_get(0, 2**31 - 1)
    assert [(deal.type, deal.profit) for deal in deposit] == [(terminal.DEAL_TYPE_BALANCE, 2_500.0)]


def test_closed_bars_do_not_change_as_time_goes_on(m1_market: SimulatorSource, clock: SteppedClock) -> None:
    terminal = SimulatedTerminal(m1_market, clock=clock)
    terminal.initialize()
    before = terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_H1, 1, 100)
    clock.move_to(clock.now_ns() + DAY_NS)
    after = terminal.copy_rates_from_pos("EURUSD", terminal.TIMEFRAME_H1, 0, 1000)
    assert np.array_equal(after[: len(before)], before)
    assert int(bar_close(np.array([clock.now_ns()]), Timeframe.H1)[0]) > clock.now_ns()


def test_a_tick_is_shown_from_its_own_nanosecond_on(tape: Callable[..., MarketSource]) -> None:
    clock = SteppedClock(MONDAY + 500_000_000 - 1)
    terminal = SimulatedTerminal(tape(EURUSD=[100, 500]), clock=clock)
    terminal.initialize()
    assert len(terminal.copy_ticks_from("EURUSD", 0, 9, terminal.COPY_TICKS_ALL)) == 1
    clock.move_to(MONDAY + 500_000_000)
    assert len(terminal.copy_ticks_from("EURUSD", 0, 9, terminal.COPY_TICKS_ALL)) == 2
    end = server_s(MONDAY)
    assert len(terminal.copy_ticks_range("EURUSD", 0, end, terminal.COPY_TICKS_ALL)) == 0
    assert len(terminal.copy_ticks_range("EURUSD", 0, end + 1, terminal.COPY_TICKS_ALL)) == 2
