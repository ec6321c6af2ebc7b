import dataclasses
import re

import pytest

from fx_dagster.errors import UnknownSymbolError
from fx_dagster.market.instruments import (
    BROKER_SYMBOL,
    SymbolResolver,
    catalogue,
    check_symbol,
    instrument,
)
from fx_dagster.market.sessions import FX_SESSION, METAL_SESSION


def test_contracts():
    eurusd, usdjpy, gold = instrument("EURUSD"), instrument("USDJPY"), instrument("XAUUSD")
    assert (eurusd.digits, eurusd.point, eurusd.contract_size) == (5, 1e-5, 100_000.0)
    assert (usdjpy.digits, usdjpy.point, usdjpy.profit_currency) == (3, 1e-3, "JPY")
    assert (gold.digits, gold.point, gold.contract_size, gold.session) == (2, 0.01, 100.0, METAL_SESSION)
    assert gold.base_currency == "XAU"


def test_every_entry_is_sane():
    for symbol, entry in catalogue().items():
        assert entry.symbol == symbol
        assert re.fullmatch(r"[A-Z][A-Z0-9]{2,11}", symbol)
        assert entry.base_currency + entry.profit_currency == symbol
        assert entry.point == float(f"1e-{entry.digits}")
        assert 0 < entry.lot_step <= entry.lot_min < entry.lot_max
        assert 0 < entry.margin_rate < 1
        assert entry.typical_spread_points > 0
        assert entry.session is (METAL_SESSION if symbol.startswith("X") else FX_SESSION)


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        instrument("EURUSD").digits = 4  # type: ignore[misc]


@pytest.mark.parametrize(("symbol", "digits"), [("SEKJPY", 3), ("EURPLN", 5), ("CHFHUF", 3), ("USDIDR", 1)])
def test_derives_pairs_of_known_currencies(symbol: str, digits: int):
    derived = instrument(symbol)
    assert symbol not in catalogue()
    assert derived.digits == digits
    assert (derived.base_currency, derived.profit_currency) == (symbol[:3], symbol[3:])


def test_simulated_symbols_share_no_base_currency():
    first, second = instrument("SIM001"), instrument("SIM002")
    assert first.profit_currency == "USD"
    assert first.base_currency != second.base_currency


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        ("EURUSX", "did you mean EURUSD"),
        ("eurusd", "did you mean EURUSD"),
        ("EUREUR", "did you mean"),
        ("SIM1", "one of|did you mean"),
        ("ABCDEF", "unknown symbol 'ABCDEF'"),
        ("", "unknown symbol ''"),
        ("E" * 500, "unknown symbol 'EEEE"),
    ],
)
def test_names_what_it_does_not_know(symbol: str, message: str):
    with pytest.raises(UnknownSymbolError, match=message) as caught:
        instrument(symbol)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("symbol", ["EURUSD", "EURUSD.m", "#EURUSD", "EURUSD-pro", "EUR_USD", "A" * 29])
def test_possible_names(symbol: str):
    assert check_symbol(symbol) == symbol


@pytest.mark.parametrize(
    "symbol",
    ["", "A" * 30, "../x", "EUR/USD", "EUR\\USD", "EUR'USD", 'EUR"USD', "EUR\0USD", "EURUSD\n", "EU..SD", ".hid",
     "EUR USD", "-rf", "EUR;USD", "EÜRUSD", "$(x)"],
)  # fmt: skip
def test_impossible_names(symbol: str):
    assert not BROKER_SYMBOL.fullmatch(symbol)
    with pytest.raises(UnknownSymbolError, match="not a possible name"):
        check_symbol(symbol)


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("EURUSD", "EURUSD"),
        ("EURUSD.m", "EURUSD"),
        ("EURUSDm", "EURUSD"),
        ("EURUSDmicro", "EURUSD"),
        ("#EURUSD", "EURUSD"),
        ("mEURUSD", "EURUSD"),
        ("EURUSD.PRO", "EURUSD"),
        ("EURUSD_i", "EURUSD"),
        ("eurusd", "EURUSD"),
        ("GOLD", "XAUUSD"),
        ("Gold", "XAUUSD"),
        ("GOLD.ecn", "XAUUSD"),
        ("XAUUSD+", "XAUUSD"),
        ("SILVER", "XAGUSD"),
        ("NOKSEK.m", "NOKSEK"),
    ],
)
def test_recognises_broker_names_and_keeps_their_case(name: str, symbol: str):
    resolver = SymbolResolver([name, "BTCUSD"])
    assert resolver.canonical(name) == symbol
    assert resolver.broker(symbol) == name
    assert resolver.symbols == (symbol,)
    with pytest.raises(UnknownSymbolError, match="BTCUSD"):
        resolver.canonical("BTCUSD")


@pytest.mark.parametrize("name", ["US500", "EURUSDT", "GOLDMAN", "AAPL", "EURUSX", "MARIGOLD", "USDX"])
def test_leaves_others_alone(name: str):
    resolver = SymbolResolver([name])
    assert resolver.symbols == ()
    with pytest.raises(UnknownSymbolError):
        resolver.canonical(name)


def test_takes_the_plainest_of_several_names():
    resolver = SymbolResolver(["EURUSD.raw", "EURUSD", "EURUSDm"])
    assert resolver.broker("EURUSD") == "EURUSD"
    assert resolver.canonical("EURUSD.raw") == "EURUSD"


def test_an_alias_wins():
    resolver = SymbolResolver(["EURUSD", "FX1", "EURUSDm"], {"FX1": "GBPUSD", "EURUSDm": "EURUSD"})
    assert resolver.canonical("FX1") == "GBPUSD"
    assert resolver.broker("EURUSD") == "EURUSDm"


def test_says_what_the_broker_lacks():
    resolver = SymbolResolver(["EURUSD.m"])
    with pytest.raises(UnknownSymbolError, match="unknown symbol 'GBPUSD'"):
        resolver.broker("GBPUSD")
    with pytest.raises(UnknownSymbolError, match=r"did you mean EURUSD\.m"):
        resolver.canonical("EURUSD.x")
    with pytest.raises(UnknownSymbolError, match="not a possible name"):
        SymbolResolver(["EUR/USD"])
    with pytest.raises(UnknownSymbolError, match="unknown symbol"):
        SymbolResolver(["X"], {"X": "NOPE"})
