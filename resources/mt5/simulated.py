"""A MetaTrader 5 terminal that replays a market source, with the ``MetaTrader5`` module's own surface.

Functions, constants, structures, rows and codes are those of the module (5.0.6231), so that what reads this reads the
real one: times are the broker's server clock written as epochs, dates become whole seconds, a failure is ``None`` (or
``False``) with the reason in :meth:`SimulatedTerminal.last_error`, an unknown symbol is one, an empty answer is not.

Two things differ. Ticks that were modelled from bars say so: their ``flags`` have ``TickFlag.MODELLED`` and their
``volume_real`` is the number of real ticks they stand for. And it has no function that trades: a broker brings them.
"""

import datetime as dt
import fnmatch
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fx_dagster.market.instruments import Instrument, SymbolResolver
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import SECOND_NS, Timeframe, from_server, to_server
from resources.mt5.clock import Clock
from resources.mt5.constants import Mt5Constants
from resources.mt5.structures import TICK_DTYPE, AccountInfo, SymbolInfo, TerminalInfo, Tick
from resources.mt5.tape import WINDOW_AFTER_NS, Tape

BUILD = 5200
BUILD_DATE = "01 Aug 2025"
ORDER_MODE_ALL = 127
FILLING_FOK_IOC = 3
"""Bit mask of allowed fillings: FOK 1, IOC 2."""

_INT32_MAX = 2**31 - 1
_TEXTS = {
    Mt5Constants.RES_S_OK: "Success",
    Mt5Constants.RES_E_FAIL: "Terminal: Call failed",
    Mt5Constants.RES_E_INVALID_PARAMS: "Terminal: Invalid params",
    Mt5Constants.RES_E_NOT_FOUND: "Terminal: Not found",
    Mt5Constants.RES_E_INTERNAL_FAIL_SEND: "IPC send failed",
    Mt5Constants.RES_E_INTERNAL_FAIL_RECEIVE: "IPC recv failed",
    Mt5Constants.RES_E_INTERNAL_FAIL_INIT: "IPC initialize failed",
    Mt5Constants.RES_E_INTERNAL_FAIL_CONNECT: "No IPC connection",
    Mt5Constants.RES_E_INTERNAL_FAIL_TIMEOUT: "IPC timeout",
}
_TIMEFRAMES = {
    value: Timeframe(name.removeprefix("TIMEFRAME_"))
    for name, value in vars(Mt5Constants).items()
    if name.startswith("TIMEFRAME_") and name.removeprefix("TIMEFRAME_") in set(Timeframe)
}

Date = dt.datetime | int | float
Answer = TypeVar("Answer")


class SimulatedTerminal(Mt5Constants):
    """A terminal over a market source. Not for several threads at once, as the module itself.

    Args:
        source: what the market did.
        clock: the market's present; nothing after it is shown.
        balance: the account's balance; nothing trades here, so that equity equals it.
        currency: of the account.
        leverage: of the account.
        suffix: what the broker appends to symbols, as ``.m``.
    """

    def __init__(
        self,
        source: MarketSource,
        *,
        clock: Clock,
        balance: float = 10_000.0,
        currency: str = "USD",
        leverage: int = 30,
        suffix: str = "",
    ) -> None:
        self.clock = clock
        self._tapes = {f"{symbol}{suffix}": Tape(source, symbol) for symbol in source.symbols()}
        self._resolver = SymbolResolver(self._tapes)
        self._selected = dict.fromkeys(self._tapes, True)
        self._balance, self._currency, self._leverage = balance, currency, leverage
        self._initialized = False
        self._broken = 0
        self._error = Mt5Constants.RES_S_OK

    # The connection

    def initialize(self, path: str = "", **login: Any) -> bool:  # noqa: ARG002
        """Connect to the terminal; the arguments of the module are accepted and have nothing to choose from here."""
        if self._broken:
            self._error = self._broken
            return False
        self._initialized = True
        return self._done(True)

    def shutdown(self) -> bool:
        """Disconnect from the terminal."""
        self._initialized = False
        return True

    def last_error(self) -> tuple[int, str]:
        """Return the code and description of the last call."""
        return self._error, _TEXTS[self._error]

    def version(self) -> tuple[int, int, str] | None:
        """Return the version, build and build date of the terminal."""
        return self._done((500, BUILD, BUILD_DATE)) if self._connected() else None

    def break_connection(self, code: int = Mt5Constants.RES_E_INTERNAL_FAIL_TIMEOUT) -> None:
        """Let every call fail with ``code`` from now on, as with a terminal that hangs or has gone."""
        self._broken = code

    def mend_connection(self) -> None:
        """Let calls succeed again."""
        self._broken = 0

    def terminal_info(self) -> Any:
        """Return the state of the terminal."""
        if not self._connected():
            return None
        return self._done(
            TerminalInfo(
                community_account=False,
                community_connection=False,
                connected=True,
                dlls_allowed=False,
                trade_allowed=True,
                tradeapi_disabled=False,
                email_enabled=False,
                ftp_enabled=False,
                notifications_enabled=False,
                mqid=False,
                build=BUILD,
                maxbars=100_000_000,
                codepage=0,
                ping_last=0,
                community_balance=0.0,
                retransmission=0.0,
                company="fx_dagster",
                name="Simulated terminal",
                language="English",
                path="",
                data_path="",
                commondata_path="",
            )
        )

    def account_info(self) -> Any:
        """Return the account: a hedging demo account on which nothing has been traded."""
        if not self._connected():
            return None
        return self._done(
            AccountInfo(
                login=1,
                trade_mode=self.ACCOUNT_TRADE_MODE_DEMO,
                leverage=self._leverage,
                limit_orders=200,
                margin_so_mode=self.ACCOUNT_STOPOUT_MODE_PERCENT,
                trade_allowed=True,
                trade_expert=True,
                margin_mode=self.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING,
                currency_digits=2,
                fifo_close=False,
                balance=self._balance,
                credit=0.0,
                profit=0.0,
                equity=self._balance,
                margin=0.0,
                margin_free=self._balance,
                margin_level=0.0,
                margin_so_call=50.0,
                margin_so_so=30.0,
                margin_initial=0.0,
                margin_maintenance=0.0,
                assets=0.0,
                liabilities=0.0,
                commission_blocked=0.0,
                name="Simulated account",
                server="Simulated-Server",
                currency=self._currency,
                company="fx_dagster",
            )
        )

    # Symbols

    def symbols_total(self) -> int | None:
        """Return the number of symbols."""
        return self._done(len(self._tapes)) if self._connected() else None

    def symbols_get(self, group: str = "*") -> tuple[Any, ...] | None:
        """Return the symbols of a group: masks with ``*``, comma-separated, ``!`` before those to leave out."""
        if not self._connected():
            return None
        chosen: dict[str, None] = {}
        for mask in (part.strip() for part in group.split(",")):
            matching = fnmatch.filter(self._tapes, mask.removeprefix("!"))
            if mask.startswith("!"):
                chosen = {name: None for name in chosen if name not in matching}
            else:
                chosen |= dict.fromkeys(matching)
        return self._done(tuple(self._symbol_info(name) for name in chosen))

    def symbol_select(self, symbol: str, enable: bool = True) -> bool:
        """Show a symbol in the market watch, or hide it."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return False
        self._selected[symbol] = bool(enable)
        return self._done(True)

    def symbol_info(self, symbol: str) -> Any:
        """Return the specification and present state of a symbol."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        return self._done(self._symbol_info(symbol))

    def symbol_info_tick(self, symbol: str) -> Any:
        """Return the newest tick of a symbol; all zeros before its first."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        return self._done(self._tick(symbol))

    def _tick(self, symbol: str) -> Any:
        row = self._tapes[symbol].last_tick(self.clock.now_ns())
        return Tick(*(row if len(row) else np.zeros(1, dtype=TICK_DTYPE))[0].item())

    def _symbol_info(self, symbol: str) -> Any:
        contract = self._tapes[symbol].instrument
        tick = self._tick(symbol)
        today = self._tapes[symbol].rates(Timeframe.D1, self.clock.now_ns())[-1:]
        high, low = (float(today["high"][0]), float(today["low"][0])) if len(today) else (tick.bid, tick.bid)
        return SymbolInfo(**(_zeros() | self._specification(symbol, contract) | self._state(contract, tick, high, low)))

    def _specification(self, symbol: str, contract: Instrument) -> dict[str, Any]:
        return {
            "select": self._selected[symbol],
            "visible": self._selected[symbol],
            "digits": contract.digits,
            "spread_float": True,
            "trade_calc_mode": self.SYMBOL_CALC_MODE_FOREX,
            "trade_mode": self.SYMBOL_TRADE_MODE_FULL,
            "trade_exemode": self.SYMBOL_TRADE_EXECUTION_MARKET,
            "swap_mode": self.SYMBOL_SWAP_MODE_POINTS,
            # Monday is 0 in the catalogue and 1 in MetaTrader.
            "swap_rollover3days": (contract.triple_swap_weekday + 1) % 7,
            "expiration_mode": 15,
            "filling_mode": FILLING_FOK_IOC,
            "order_mode": ORDER_MODE_ALL,
            "order_gtc_mode": self.SYMBOL_ORDERS_GTC,
            "point": contract.point,
            "trade_tick_size": contract.point,
            "trade_contract_size": contract.contract_size,
            "volume_min": contract.lot_min,
            "volume_max": contract.lot_max,
            "volume_step": contract.lot_step,
            "swap_long": contract.swap_long_points,
            "swap_short": contract.swap_short_points,
            "margin_hedged": contract.contract_size,
            "currency_base": contract.base_currency,
            "currency_profit": contract.profit_currency,
            "currency_margin": contract.base_currency,
            "description": f"{contract.base_currency} against {contract.profit_currency}",
            "name": symbol,
            "path": f"{contract.session.name}\\{symbol}",
        }

    def _state(self, contract: Instrument, tick: Any, high: float, low: float) -> dict[str, Any]:
        spread = tick.ask - tick.bid
        value = contract.point * contract.contract_size * self._rate(contract.profit_currency)
        return {
            "time": tick.time,
            "bid": tick.bid,
            "ask": tick.ask,
            "bidhigh": high,
            "bidlow": low,
            "askhigh": high + spread,
            "asklow": low + spread,
            "spread": round(spread / contract.point),
            "trade_tick_value": value,
            "trade_tick_value_profit": value,
            "trade_tick_value_loss": value,
        }

    def _rate(self, currency: str) -> float:
        """Return the account's currency for one of ``currency``; 0 where no symbol here quotes it yet."""
        if currency == self._currency:
            return 1.0
        for pair, inverse in ((f"{currency}{self._currency}", False), (f"{self._currency}{currency}", True)):
            if pair in self._resolver.symbols:
                bid = self._tick(self._resolver.broker(pair)).bid
                if bid > 0:
                    return float(1 / bid if inverse else bid)
        return 0.0

    # Bars

    def copy_rates_from(self, symbol: str, timeframe: int, date_from: Date, count: int) -> NDArray[np.void] | None:
        """Return the last ``count`` bars that open at or before ``date_from``, oldest first."""
        rates = self._rates(symbol, timeframe, count)
        if rates is None:
            return None
        end = int(np.searchsorted(rates["time"], _seconds(date_from), side="right"))
        return self._done(rates[max(end - count, 0) : end].copy())

    def copy_rates_from_pos(self, symbol: str, timeframe: int, start_pos: int, count: int) -> NDArray[np.void] | None:
        """Return ``count`` bars, oldest first, the last of which is ``start_pos`` bars before the newest (0)."""
        rates = self._rates(symbol, timeframe, count)
        if rates is None:
            return None
        if start_pos < 0:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        end = max(len(rates) - start_pos, 0)
        return self._done(rates[max(end - count, 0) : end].copy())

    def copy_rates_range(self, symbol: str, timeframe: int, date_from: Date, date_to: Date) -> NDArray[np.void] | None:
        """Return the bars that open from ``date_from`` to ``date_to``, both included."""
        rates = self._rates(symbol, timeframe, 1)
        if rates is None:
            return None
        start = int(np.searchsorted(rates["time"], _seconds(date_from), side="left"))
        end = int(np.searchsorted(rates["time"], _seconds(date_to), side="right"))
        return self._done(rates[start:end].copy())

    def _rates(self, symbol: str, timeframe: int, count: int) -> NDArray[np.void] | None:
        if not self._known(symbol, Mt5Constants.RES_E_FAIL):
            return None
        if timeframe not in _TIMEFRAMES or count <= 0:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        tape = self._tapes[symbol]
        if not tape.has(_TIMEFRAMES[timeframe]):
            return self._fail(Mt5Constants.RES_E_NOT_FOUND)
        return tape.rates(_TIMEFRAMES[timeframe], self.clock.now_ns())

    # Ticks

    def copy_ticks_from(self, symbol: str, date_from: Date, count: int, flags: int) -> NDArray[np.void] | None:
        """Return the first ``count`` ticks from ``date_from`` on."""
        tape = self._tick_tape(symbol, flags)
        if tape is None or count <= 0:
            return None if tape is None else self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        if flags == Mt5Constants.COPY_TICKS_TRADE:
            return self._done(np.empty(0, dtype=TICK_DTYPE))
        end = self.clock.now_ns() + 1
        at = max(_utc_ns(_seconds(date_from)), tape.span[0])
        parts: list[NDArray[np.void]] = []
        missing = count
        while missing > 0 and at < end:
            stop = min(at + WINDOW_AFTER_NS, end)
            part = tape.ticks(at, stop)[:missing]
            parts.append(part)
            missing -= len(part)
            at = stop
        return self._done(np.concatenate(parts) if parts else np.empty(0, dtype=TICK_DTYPE))

    def copy_ticks_range(self, symbol: str, date_from: Date, date_to: Date, flags: int) -> NDArray[np.void] | None:
        """Return the ticks from ``date_from`` to ``date_to``, whole seconds, both included."""
        tape = self._tick_tape(symbol, flags)
        if tape is None:
            return None
        if flags == Mt5Constants.COPY_TICKS_TRADE:
            return self._done(np.empty(0, dtype=TICK_DTYPE))
        # The end belongs to the range, to the millisecond in which it lies.
        end = min(_utc_ns(_seconds(date_to)) + 1_000_000, self.clock.now_ns() + 1)
        return self._done(tape.ticks(_utc_ns(_seconds(date_from)), end).copy())

    def _tick_tape(self, symbol: str, flags: int) -> Tape | None:
        if not self._known(symbol, Mt5Constants.RES_E_FAIL):
            return None
        if flags not in {self.COPY_TICKS_ALL, self.COPY_TICKS_INFO, self.COPY_TICKS_TRADE}:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        return self._tapes[symbol]

    # Orders, positions and deals: there are none on this account

    def orders_total(self) -> int | None:
        """Return the number of pending orders: 0."""
        return self._done(0) if self._connected() else None

    def orders_get(self, symbol: str = "", **selection: Any) -> tuple[()] | None:  # noqa: ARG002
        """Return the pending orders: none."""
        return self._done(()) if self._connected() else None

    def positions_total(self) -> int | None:
        """Return the number of open positions: 0."""
        return self._done(0) if self._connected() else None

    def positions_get(self, symbol: str = "", **selection: Any) -> tuple[()] | None:  # noqa: ARG002
        """Return the open positions: none."""
        return self._done(()) if self._connected() else None

    def history_orders_total(self, date_from: Date, date_to: Date) -> int | None:  # noqa: ARG002
        """Return the number of past orders: 0."""
        return self._done(0) if self._connected() else None

    def history_orders_get(self, *dates: Date, **selection: Any) -> tuple[()] | None:  # noqa: ARG002
        """Return the past orders: none."""
        return self._done(()) if self._connected() else None

    def history_deals_total(self, date_from: Date, date_to: Date) -> int | None:  # noqa: ARG002
        """Return the number of past deals: 0."""
        return self._done(0) if self._connected() else None

    def history_deals_get(self, *dates: Date, **selection: Any) -> tuple[()] | None:  # noqa: ARG002
        """Return the past deals: none."""
        return self._done(()) if self._connected() else None

    # How calls end

    def _connected(self) -> bool:
        if self._broken or not self._initialized:
            self._error = self._broken or Mt5Constants.RES_E_INTERNAL_FAIL_CONNECT
            return False
        return True

    def _known(self, symbol: str, code: int) -> bool:
        if not self._connected():
            return False
        if symbol not in self._tapes:
            self._error = code
            return False
        return True

    def _done(self, answer: Answer) -> Answer:
        self._error = Mt5Constants.RES_S_OK
        return answer

    def _fail(self, code: int) -> Any:
        self._error = code
        return None


def _zeros() -> dict[str, Any]:
    texts = ("basis", "category", "bank", "description", "exchange", "formula", "isin", "page")
    return dict.fromkeys(SymbolInfo._fields, 0) | dict.fromkeys(texts, "") | {"custom": False}


def _seconds(date: Date) -> int:
    """Return whole seconds, as the module takes dates; a naive datetime is in this machine's zone, as there."""
    seconds = int(date.timestamp()) if isinstance(date, dt.datetime) else int(date)
    return max(min(seconds, _INT32_MAX), 0)


def _utc_ns(server_s: int) -> int:
    return int(from_server(np.array([server_s * SECOND_NS], dtype=np.int64))[0])


def server_seconds(time_ns: int) -> int:
    """Return the whole second of the server clock at ``time_ns`` (ns UTC), as the module's dates are counted."""
    return int(to_server(np.array([time_ns], dtype=np.int64))[0]) // SECOND_NS
