"""What is traded: contract specifications, the catalogue and broker names.

The catalogue holds usual retail specifications; a broker connection overrides them with what the broker says. Swap,
spread and margin are typical values of retail accounts, good enough for a backtest's costs and no more.
"""

import difflib
import functools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fx_dagster.errors import UnknownSymbolError
from fx_dagster.market.sessions import FX_SESSION, METAL_SESSION, Session

BROKER_SYMBOL = re.compile(r"(?!.*\.\.)[A-Za-z0-9#_][A-Za-z0-9#_.+-]{0,28}")
"""Names a broker may use: at most 29 characters, nothing that a path, a query or a shell would read as its own."""

WEDNESDAY = 2


@dataclass(frozen=True)
class Instrument:
    """Contract specification of one symbol.

    Attributes:
        symbol: canonical name, upper-case.
        digits: decimals of a price.
        point: smallest price step, ``10 ** -digits``.
        contract_size: units of the base currency (ounces of a metal) in one lot.
        lot_step, lot_min, lot_max: volume grid, in lots.
        base_currency, profit_currency: what is bought, and what profit is counted in.
        swap_long_points, swap_short_points: overnight credit (negative: charge) a lot and night, in points.
        triple_swap_weekday: trading day with three nights' swap, Monday = 0.
        margin_rate: share of the contract's value that a position ties up.
        typical_spread_points: spread in liquid hours, in points.
        session: trading hours.
    """

    symbol: str
    digits: int
    point: float
    contract_size: float
    lot_step: float
    lot_min: float
    lot_max: float
    base_currency: str
    profit_currency: str
    swap_long_points: float
    swap_short_points: float
    triple_swap_weekday: int
    margin_rate: float
    typical_spread_points: float
    session: Session


# Minor currencies that retail brokers quote; ISO 4217.
_CURRENCY = re.compile(
    "AED|ARS|AUD|BGN|BHD|BRL|CAD|CHF|CLP|CNH|CNY|COP|CZK|DKK|EGP|EUR|GBP|GEL|HKD|HRK|HUF|IDR|ILS|INR|ISK|"
    "JOD|JPY|KES|KRW|KWD|KZT|MAD|MXN|MYR|NGN|NOK|NZD|OMR|PEN|PHP|PKR|PLN|QAR|RON|RSD|RUB|SAR|SEK|SGD|THB|"
    "TND|TRY|TWD|UAH|USD|UYU|VND|ZAR"
)
_DIGITS_BY_PROFIT_CURRENCY = {
    **dict.fromkeys(("JPY", "HUF", "ISK", "KES", "INR", "THB", "RUB", "PHP", "TWD", "ARS", "PKR", "KZT", "NGN"), 3),
    **dict.fromkeys(("KRW", "CLP", "COP"), 2),
    **dict.fromkeys(("IDR", "VND"), 1),
}

# symbol: typical spread, swap long, swap short (all in points)
_PAIRS: dict[str, tuple[float, float, float]] = {
    "EURUSD": (10, -7.0, 2.5), "GBPUSD": (13, -3.5, -1.5), "USDJPY": (11, 11.0, -19.0), "USDCHF": (14, 6.0, -11.0),
    "USDCAD": (16, 1.5, -6.0), "AUDUSD": (13, -3.0, -0.5), "NZDUSD": (17, -1.5, -1.5), "EURGBP": (14, -6.0, 1.5),
    "EURJPY": (17, 8.0, -16.0), "EURCHF": (18, 2.0, -8.0), "EURAUD": (23, -8.0, 1.0), "EURCAD": (22, -7.0, 0.5),
    "EURNZD": (30, -10.0, 2.0), "GBPJPY": (24, 15.0, -27.0), "GBPCHF": (25, 8.0, -15.0), "GBPAUD": (28, -3.0, -6.0),
    "GBPCAD": (28, -2.0, -6.0), "GBPNZD": (36, -4.0, -6.0), "AUDJPY": (18, 6.0, -13.0), "AUDCAD": (19, -1.5, -3.0),
    "AUDCHF": (19, 4.0, -8.0), "AUDNZD": (22, -3.0, -2.0), "CADJPY": (19, 5.0, -12.0), "CADCHF": (19, 3.0, -7.0),
    "CHFJPY": (23, 2.0, -11.0), "NZDJPY": (20, 5.0, -12.0), "NZDCAD": (22, -1.0, -4.0), "NZDCHF": (22, 3.0, -8.0),
    "USDSEK": (250, -10.0, -60.0), "USDNOK": (300, -15.0, -55.0), "USDDKK": (90, 10.0, -60.0),
    "USDMXN": (350, -250.0, 60.0), "USDZAR": (900, -260.0, 60.0), "USDTRY": (2500, -3500.0, 900.0),
    "USDPLN": (180, -20.0, -10.0), "USDSGD": (25, 2.0, -9.0), "USDCNH": (60, 15.0, -45.0), "USDHKD": (30, 1.0, -20.0),
}  # fmt: skip
# symbol: digits, ounces a lot, typical spread, swap long, swap short
_METALS: dict[str, tuple[int, float, float, float, float]] = {
    "XAUUSD": (2, 100.0, 25, -45.0, 22.0), "XAUEUR": (2, 100.0, 40, -40.0, 15.0), "XAGUSD": (3, 5_000.0, 25, -5.0, 2.0),
    "XPTUSD": (2, 100.0, 300, -30.0, 5.0), "XPDUSD": (2, 100.0, 900, -60.0, 10.0),
}  # fmt: skip
_METAL_NAMES = {"GOLD": "XAUUSD", "SILVER": "XAGUSD", "PLATINUM": "XPTUSD", "PALLADIUM": "XPDUSD"}
_SIMULATED = re.compile(r"SIM(\d{3})")
_SUFFIX = re.compile(r"[a-z]{0,6}|[._#+-][A-Za-z0-9._#+-]{0,8}")
_PREFIX = re.compile(r"[#._+-]?|[a-z]{1,3}[._#-]?")


def _pair(
    symbol: str, spread: float | None = None, swap_long: float | None = None, swap_short: float | None = None
) -> Instrument:
    profit = symbol[3:]
    digits = _DIGITS_BY_PROFIT_CURRENCY.get(profit, 5)
    return Instrument(
        symbol=symbol,
        digits=digits,
        point=float(f"1e-{digits}"),
        contract_size=100_000.0,
        lot_step=0.01,
        lot_min=0.01,
        lot_max=100.0,
        base_currency=symbol[:3],
        profit_currency=profit,
        swap_long_points=-5.0 if swap_long is None else swap_long,
        swap_short_points=-5.0 if swap_short is None else swap_short,
        triple_swap_weekday=WEDNESDAY,
        margin_rate=1 / 30 if symbol in _PAIRS else 1 / 20,
        typical_spread_points=30.0 if spread is None else float(spread),
        session=FX_SESSION,
    )


def _metal(symbol: str) -> Instrument:
    digits, ounces, spread, swap_long, swap_short = _METALS[symbol]
    return Instrument(
        symbol=symbol,
        digits=digits,
        point=float(f"1e-{digits}"),
        contract_size=ounces,
        lot_step=0.01,
        lot_min=0.01,
        lot_max=50.0,
        base_currency=symbol[:3],
        profit_currency=symbol[3:],
        swap_long_points=swap_long,
        swap_short_points=swap_short,
        triple_swap_weekday=WEDNESDAY,
        margin_rate=1 / 20 if symbol.startswith("XAU") else 1 / 10,
        typical_spread_points=float(spread),
        session=METAL_SESSION,
    )


def _simulated(symbol: str) -> Instrument:
    # A currency of its own for each symbol, so that exposures by currency do not net what is unrelated.
    plain = _pair("EURUSD", 10.0, 0.0, 0.0)
    fields = {**plain.__dict__, "symbol": symbol, "base_currency": symbol[3:]}
    return Instrument(**fields)


@functools.cache
def catalogue() -> Mapping[str, Instrument]:
    """Return the known instruments by canonical symbol: majors, crosses, common exotics and metals."""
    pairs = {symbol: _pair(symbol, *costs) for symbol, costs in _PAIRS.items()}
    return pairs | {symbol: _metal(symbol) for symbol in _METALS}


@functools.cache
def instrument(symbol: str) -> Instrument:
    """Return the instrument of a canonical symbol.

    A pair of two ISO currencies outside the catalogue gets a derived specification; ``SIM001`` … are simulated pairs.

    Raises:
        UnknownSymbolError: no such symbol; the message offers the nearest one.
    """
    if symbol in catalogue():
        return catalogue()[symbol]
    if _SIMULATED.fullmatch(symbol):
        return _simulated(symbol)
    base, profit = symbol[:3], symbol[3:]
    if _CURRENCY.fullmatch(base) and _CURRENCY.fullmatch(profit) and base != profit:
        return _pair(symbol)
    raise unknown_symbol(symbol, catalogue())


def unknown_symbol(symbol: str, known: Iterable[str]) -> UnknownSymbolError:
    """Return the error that says that ``symbol`` is not among ``known``, with the nearest match."""
    known = sorted(known)
    close = difflib.get_close_matches(symbol.upper(), known, n=1, cutoff=0.5)
    listed = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
    mend = f"did you mean {close[0]}?" if close else f"one of {listed}"
    return UnknownSymbolError(f"unknown symbol {symbol[:40]!r}", mend=mend)


def check_symbol(symbol: str) -> str:
    """Return ``symbol`` if its name is safe in paths, queries and orders.

    Raises:
        UnknownSymbolError: it holds a path, quote, NUL or other forbidden character, or more than 29 characters.
    """
    if not BROKER_SYMBOL.fullmatch(symbol):
        raise UnknownSymbolError(
            f"symbol {symbol[:40]!r} is not a possible name", mend="use at most 29 letters, digits and # _ . + -"
        )
    return symbol


class SymbolResolver:
    """Maps a broker's own names to canonical symbols and back, keeping the broker's case.

    ``EURUSD.m``, ``EURUSDm``, ``#EURUSD`` and ``GOLD`` are recognised; an alias says what no rule can know. If the
    broker has several names for one symbol, the plainest is taken and the others still resolve to it.
    """

    def __init__(self, broker_names: Iterable[str], aliases: Mapping[str, str] | None = None) -> None:
        names = [check_symbol(name) for name in broker_names]
        chosen = {name: instrument(symbol).symbol for name, symbol in (aliases or {}).items()}
        self._canonical = {name: symbol for name in names if (symbol := chosen.get(name) or _recognise(name))}
        self._broker: dict[str, str] = {}
        for name in sorted(self._canonical, key=lambda name: (name not in chosen, len(name), name)):
            symbol = self._canonical[name]
            plain = name == symbol and symbol not in chosen.values()
            if symbol not in self._broker or plain:
                self._broker[symbol] = name

    @property
    def symbols(self) -> tuple[str, ...]:
        """Canonical symbols the broker has, sorted."""
        return tuple(sorted(self._broker))

    def canonical(self, broker_name: str) -> str:
        """Return the canonical symbol of a broker's name.

        Raises:
            UnknownSymbolError: the broker has no such name, or it stands for no known symbol.
        """
        if broker_name not in self._canonical:
            raise unknown_symbol(broker_name, self._canonical)
        return self._canonical[broker_name]

    def broker(self, symbol: str) -> str:
        """Return the broker's name of a canonical symbol.

        Raises:
            UnknownSymbolError: the broker does not have it.
        """
        if symbol not in self._broker:
            raise unknown_symbol(symbol, self._broker)
        return self._broker[symbol]


def _recognise(name: str) -> str | None:
    for known, symbol in _spellings().items():
        at = name.upper().find(known)
        if at < 0:
            continue
        prefix, body, suffix = name[:at], name[at : at + len(known)], name[at + len(known) :]
        whole_lower = body.islower() and prefix.islower() == bool(prefix)
        if (
            _PREFIX.fullmatch(prefix)
            and _SUFFIX.fullmatch(suffix)
            and (body.isupper() or body.istitle() or whole_lower)
        ):
            return symbol
    if re.fullmatch(r"[A-Z]{6}", name[:6]) and _SUFFIX.fullmatch(name[6:]):
        return _derived(name[:6])
    return None


def _derived(symbol: str) -> str | None:
    try:
        return instrument(symbol).symbol
    except UnknownSymbolError:
        return None


@functools.cache
def _spellings() -> dict[str, str]:
    return {symbol: symbol for symbol in catalogue()} | _METAL_NAMES
