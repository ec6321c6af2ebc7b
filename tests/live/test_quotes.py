"""Whose quotes do not count, in words, and said once."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fx_dagster.core.rows import Event, Ticks
from fx_dagster.core.trading import TradingCore
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.quotes import QuoteWatch
from fx_dagster.live_engine import trading_core
from fx_dagster.market.incremental import CROSSED_STALE, QUARANTINE_GOOD_TICKS
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, SECOND_NS, Timeframe
from fx_dagster.settings import Settings

START = int(pd.Timestamp("2024-03-05 10:00").as_unit("ns").value)
PRICES = (1.1, 2_000.0)
SILENT, WRONG, BACK = (
    "halted: silent while its market is open", "halted: impossible or crossed prices", "quotes count again",
)  # fmt: skip
Quote = Callable[..., None]


@pytest.fixture
def core() -> TradingCore:
    info = FeedInfo(("EURUSD", "XAUUSD"), Timeframe.M5, tick_spacing_s=60.0, lossless=True)
    return trading_core(Settings(), info, START)[0]


@pytest.fixture
def quote(core: TradingCore) -> Quote:
    """Take a quote of a symbol: ``quote(row, seconds after the start, bid=, ask=)``."""

    def take(row: int, seconds: float, bid: float | None = None, ask: float | None = None) -> None:
        price = PRICES[row] + int(seconds) % 7 * PRICES[row] * 1e-5
        bid, ask = price if bid is None else bid, price * 1.0001 if ask is None else ask
        time = START + int(seconds * SECOND_NS)
        columns = (np.array([time]), np.array([bid]), np.array([ask]), np.ones(1), np.zeros(1, dtype=np.int32))
        assert core.take(Ticks(np.array([row], dtype=np.int32), *columns), 0, 1) == (1, Event.DONE)

    return take


def at(seconds: float) -> int:
    return START + int(seconds * SECOND_NS)


def test_silence_in_an_open_market_is_said_once_and_so_is_its_end(core: TradingCore, quote: Quote) -> None:
    watch = QuoteWatch(core)
    quote(0, 1)
    quote(1, 1)
    assert watch.news(at(100)) == []
    quote(1, 100)
    assert watch.news(at(121)) == []
    assert watch.news(at(122)) == [("EURUSD", SILENT)]
    assert watch.news(at(123)) == []
    assert watch.halted() == {"EURUSD": SILENT}
    quote(0, 130)
    assert watch.halted() == {"EURUSD": SILENT}, "as of the last look"
    assert watch.news(at(131)) == [("EURUSD", BACK)]
    assert watch.halted() == {}


def test_a_symbol_that_never_came_is_silent_from_the_sessions_begin_on(core: TradingCore, quote: Quote) -> None:
    watch = QuoteWatch(core)
    quote(1, 110)
    assert watch.news(at(120)) == []
    assert watch.news(at(121)) == [("EURUSD", SILENT)]


def test_a_closed_market_is_not_silent(core: TradingCore, quote: Quote) -> None:
    watch = QuoteWatch(core)
    rest = (pd.Timestamp("2024-03-05 22:30").as_unit("ns").value - START) / SECOND_NS
    for row in (0, 1):
        quote(row, rest - 40)
    assert watch.news(at(rest + 100)) == [("EURUSD", SILENT)], "gold rests"
    for row in (0, 1):
        quote(row, (3 * DAY_NS + 12 * HOUR_NS) / SECOND_NS - 20)
    assert watch.news(START + 3 * DAY_NS + 12 * HOUR_NS) == [("EURUSD", BACK)], "Friday, 17:00 New York"
    for hours in range(1, 48):
        assert watch.news(START + 3 * DAY_NS + (12 + hours) * HOUR_NS) == []


def test_many_crossed_quotes_halt_a_symbol_until_a_good_one(core: TradingCore, quote: Quote) -> None:
    watch = QuoteWatch(core)
    for row in (0, 1):
        quote(row, 1)
    for number in range(CROSSED_STALE):
        assert watch.news(at(number)) == []
        quote(0, 2 + number, bid=1.2, ask=1.1)
    assert watch.news(at(10)) == [("EURUSD", WRONG)]
    quote(0, 11)
    assert watch.news(at(11)) == [("EURUSD", BACK)]


@pytest.mark.parametrize("bid", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_price_halts_a_symbol_for_some_good_ticks(core: TradingCore, quote: Quote, bid: float) -> None:
    watch = QuoteWatch(core)
    for row in (0, 1):
        quote(row, 1)
    quote(1, 2, bid=bid)
    assert watch.news(at(2)) == [("XAUUSD", WRONG)]
    for number in range(QUARANTINE_GOOD_TICKS - 1):
        quote(1, 3 + number)
        assert watch.news(at(3 + number)) == []
    quote(1, 20)
    assert watch.news(at(20)) == [("XAUUSD", BACK)]


def test_another_reason_is_news(core: TradingCore, quote: Quote) -> None:
    watch = QuoteWatch(core)
    for row in (0, 1):
        quote(row, 1)
    assert watch.news(at(130)) == [("EURUSD", SILENT), ("XAUUSD", SILENT)]
    quote(0, 131, bid=-1.0)
    assert watch.news(at(131)) == [("EURUSD", WRONG)], "impossible prices are the worse of the two"
    assert watch.halted() == {"EURUSD": WRONG, "XAUUSD": SILENT}
