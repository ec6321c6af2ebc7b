"""A MetaTrader 5 terminal that replays a market source, with the ``MetaTrader5`` module's own surface.

Functions, constants, structures, rows and codes are those of the module (5.0.6231), so that what reads this reads the
real one: times are the broker's server clock written as epochs, dates become whole seconds, a failure is ``None`` (or
``False``) with the reason in :meth:`SimulatedTerminal.last_error`, an unknown symbol is one, an empty answer is not.

It trades: what the broker behind it assumes is said in :mod:`resources.mt5.trading`, what can go wrong on purpose in
:mod:`resources.mt5.faults`. Stops, waiting orders and faults happen in their order when the next call comes, as of
their own market time.

Differences to the module: ticks that were modelled from bars say so (``flags`` have ``TickFlag.MODELLED``,
``volume_real`` is the number of real ticks they stand for); the helpers ``Buy``, ``Sell`` and ``Close`` are left out,
since they loop and set no magic. The broker has no depth of market: it can be subscribed, and is empty.
"""

import datetime as dt
import fnmatch
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from fx_dagster.market.instruments import Instrument, SymbolResolver
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import SECOND_NS, Timeframe, from_server, to_server
from resources.mt5.clock import Clock
from resources.mt5.constants import Mt5Constants
from resources.mt5.disturbances import Disturbances
from resources.mt5.faults import (
    AnswerLost,
    ConfirmedTwice,
    Fault,
    FaultPlan,
    FillBeforeAnswer,
    Hidden,
    PartialFill,
    Refused,
    RequestFault,
    RequestLate,
    RequestLost,
)
from resources.mt5.requests import RETCODE_TEXTS, InvalidArgumentError, read_request
from resources.mt5.structures import (
    TICK_DTYPE,
    AccountInfo,
    OrderCheckResult,
    OrderSendResult,
    SymbolInfo,
    TerminalInfo,
    Tick,
)
from resources.mt5.tape import MILLISECOND_NS, WINDOW_AFTER_NS, Tape
from resources.mt5.trading import BrokerOptions, Contract, Outcome, TradeServer

BUILD = 5200
BUILD_DATE = "01 Aug 2025"
ORDER_MODE_ALL = 127

_INT32_MAX = 2**31 - 1
_TEXTS = {
    Mt5Constants.RES_S_OK: "Success",
    Mt5Constants.RES_E_FAIL: "Terminal: Call failed",
    Mt5Constants.RES_E_INVALID_PARAMS: "Terminal: Invalid params",
    Mt5Constants.RES_E_NO_MEMORY: "Terminal: Out of memory",
    Mt5Constants.RES_E_NOT_FOUND: "Terminal: Not found",
    Mt5Constants.RES_E_AUTH_FAILED: "Terminal: Authorization failed",
    Mt5Constants.RES_E_UNSUPPORTED: "Terminal: Unsupported function",
    Mt5Constants.RES_E_AUTO_TRADING_DISABLED: "Auto-Trading using Python API disabled in Terminal",
    Mt5Constants.RES_E_INTERNAL_FAIL: "IPC call failed",
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
Arguments = ParamSpec("Arguments")


def _called(
    function: "Callable[Concatenate[SimulatedTerminal, Arguments], Answer]",
) -> "Callable[Concatenate[SimulatedTerminal, Arguments], Answer]":
    """Let the world move to the present, and faults meet the call, before a function of the module runs."""

    @functools.wraps(function)
    def call(self: "SimulatedTerminal", /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        named: Any = kwargs.get("symbol", args[0] if args else "")
        if isinstance(named, Mapping):
            named = named.get("symbol", "")
        self._request_faults = self.disturbances.call(
            function.__name__, named if isinstance(named, str) else "", self.clock.now_ns
        )
        return function(self, *args, **kwargs)

    return call


class SimulatedTerminal(Mt5Constants):
    """A terminal over a market source. Not for several threads at once, as the module itself.

    Args:
        source: what the market did.
        clock: the market's present; nothing after it is shown.
        balance: the account's first deposit.
        currency: of the account.
        leverage: of the account.
        suffix: what the broker appends to symbols, as ``.m``.
        options: the broker's choices.
        faults: what goes wrong.
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
        options: BrokerOptions | None = None,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.clock = clock
        self._tapes = {f"{symbol}{suffix}": Tape(source, symbol) for symbol in source.symbols()}
        self._resolver = SymbolResolver(self._tapes)
        self._selected = dict.fromkeys(self._tapes, True)
        self.options = options or BrokerOptions()
        self.server = TradeServer(
            self._tapes, now_ns=clock.now_ns(), balance=balance, currency=currency, leverage=leverage,
            options=self.options,
        )  # fmt: skip
        self.plan = FaultPlan(faults)
        self.disturbances = Disturbances(self.plan, self.server, rename=self._rename)
        self._request_faults: list[RequestFault] = []
        self._request_id = 0
        self._books: set[str] = set()
        self._initialized = False
        self._broken = 0
        self._error: tuple[int, str] = (Mt5Constants.RES_S_OK, _TEXTS[Mt5Constants.RES_S_OK])

    # The connection

    @_called
    def initialize(self, /, path: str = "", **login: Any) -> bool:  # noqa: ARG002
        """Connect to the terminal, and log in where an account is named."""
        code = self._broken or self.disturbances.lost_code()
        if code:
            return bool(self._fail(code))
        if not self._account_fits(login.get("login"), login.get("password")):
            return bool(self._fail(Mt5Constants.RES_E_AUTH_FAILED))
        self._initialized = True
        return self._done(True)

    @_called
    def login(self, login: int, password: str = "", server: str = "", timeout: int = 60_000) -> bool:  # noqa: ARG002
        """Log in to an account; there is one here."""
        if not self._connected():
            return False
        if not self._account_fits(login, password) or server not in ("", self.options.server):
            return bool(self._fail(Mt5Constants.RES_E_AUTH_FAILED))
        return self._done(True)

    def _account_fits(self, login: int | None, password: str | None) -> bool:
        if login is not None and login != self.options.login:
            return False
        return login is None or not self.options.password or password in (None, "", self.options.password)

    def shutdown(self) -> bool:
        """Disconnect from the terminal."""
        self._initialized = False
        return True

    def last_error(self) -> tuple[int, str]:
        """Return the code and description of the last call."""
        return self._error

    @_called
    def version(self) -> tuple[int, int, str] | None:
        """Return the version, build and build date of the terminal."""
        return self._done((500, BUILD, BUILD_DATE)) if self._connected() else None

    def break_connection(self, code: int = Mt5Constants.RES_E_INTERNAL_FAIL_TIMEOUT) -> None:
        """Let every call fail with ``code`` from now on, as with a terminal that hangs or has gone."""
        self._broken = code

    def mend_connection(self) -> None:
        """Let calls succeed again."""
        self._broken = 0

    @_called
    def terminal_info(self) -> Any:
        """Return the state of the terminal."""
        if not self._connected():
            return None
        return self._done(
            TerminalInfo(
                community_account=False,
                community_connection=False,
                connected=not self.disturbances.disconnected,
                dlls_allowed=False,
                trade_allowed=not self.disturbances.autotrading_off,
                tradeapi_disabled=self.disturbances.api_off,
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

    @_called
    def account_info(self) -> Any:
        """Return the account, valued at the newest quotes."""
        if not self._connected():
            return None
        value = self.server.valuation()
        return self._done(
            AccountInfo(
                login=self.options.login,
                trade_mode=self.ACCOUNT_TRADE_MODE_DEMO,
                leverage=self.server.leverage,
                limit_orders=self.options.limit_orders,
                margin_so_mode=self.ACCOUNT_STOPOUT_MODE_PERCENT,
                trade_allowed=True,
                trade_expert=True,
                margin_mode=self.options.margin_mode,
                currency_digits=2,
                fifo_close=False,
                balance=round(value.balance, 2),
                credit=0.0,
                profit=value.profit,
                equity=value.equity,
                margin=value.margin,
                margin_free=value.free,
                margin_level=value.level,
                margin_so_call=self.options.margin_call_percent,
                margin_so_so=self.options.stop_out_percent,
                margin_initial=0.0,
                margin_maintenance=0.0,
                assets=0.0,
                liabilities=0.0,
                commission_blocked=0.0,
                name="Simulated account",
                server=self.options.server,
                currency=self.server.currency,
                company="fx_dagster",
            )
        )

    # Symbols

    @_called
    def symbols_total(self) -> int | None:
        """Return the number of symbols."""
        return self._done(len(self._tapes)) if self._connected() else None

    @_called
    def symbols_get(self, group: str = "*") -> tuple[Any, ...] | None:
        """Return the symbols of a group: masks with ``*``, comma-separated, ``!`` before those to leave out."""
        if not self._connected():
            return None
        return self._done(tuple(self._symbol_info(name) for name in _chosen(self._tapes, group)))

    @_called
    def symbol_select(self, symbol: str, enable: bool = True) -> bool:
        """Show a symbol in the market watch, or hide it."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return False
        self._selected[symbol] = bool(enable)
        return self._done(True)

    @_called
    def symbol_info(self, symbol: str) -> Any:
        """Return the specification and present state of a symbol."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        return self._done(self._symbol_info(symbol))

    @_called
    def symbol_info_tick(self, symbol: str) -> Any:
        """Return the newest tick of a symbol; all zeros before its first."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        return self._done(self._tick(symbol))

    def _tick(self, symbol: str) -> Any:
        row = self._tapes[symbol].last_tick(self._present(symbol))
        return Tick(*(row if len(row) else np.zeros(1, dtype=TICK_DTYPE))[0].item())

    def _symbol_info(self, symbol: str) -> Any:
        contract = self.server.contracts[symbol].instrument
        tick = self._tick(symbol)
        today = self._tapes[symbol].rates(Timeframe.D1, self._present(symbol))[-1:]
        high, low = (float(today["high"][0]), float(today["low"][0])) if len(today) else (tick.bid, tick.bid)
        return SymbolInfo(**(_zeros() | self._specification(symbol, contract) | self._state(contract, tick, high, low)))

    def _specification(self, symbol: str, contract: Instrument) -> dict[str, Any]:
        offered = self.server.contracts[symbol]
        return {
            "select": self._selected[symbol],
            "visible": self._selected[symbol],
            "digits": contract.digits,
            "spread_float": True,
            "trade_calc_mode": self.SYMBOL_CALC_MODE_FOREX,
            "trade_mode": offered.trade_mode,
            "trade_stops_level": offered.stops_level,
            "trade_freeze_level": offered.freeze_level,
            "trade_exemode": self.options.execution,
            "margin_hedged_use_leg": True,
            "swap_mode": self.SYMBOL_SWAP_MODE_POINTS if self.options.swaps else self.SYMBOL_SWAP_MODE_DISABLED,
            # Monday is 0 in the catalogue and 1 in MetaTrader.
            "swap_rollover3days": (contract.triple_swap_weekday + 1) % 7,
            "expiration_mode": 15,
            "filling_mode": offered.filling_mask,
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
        if currency == self.server.currency:
            return 1.0
        for pair, inverse in (
            (f"{currency}{self.server.currency}", False),
            (f"{self.server.currency}{currency}", True),
        ):
            if pair in self._resolver.symbols:
                bid = self._tick(self._resolver.broker(pair)).bid
                if bid > 0:
                    return float(1 / bid if inverse else bid)
        return 0.0

    # Bars

    @_called
    def copy_rates_from(self, symbol: str, timeframe: int, date_from: Date, count: int) -> NDArray[np.void] | None:
        """Return the last ``count`` bars that open at or before ``date_from``, oldest first."""
        rates = self._rates(symbol, timeframe, count)
        if rates is None:
            return None
        end = int(np.searchsorted(rates["time"], _seconds(date_from), side="right"))
        return self._done(rates[max(end - count, 0) : end].copy())

    @_called
    def copy_rates_from_pos(self, symbol: str, timeframe: int, start_pos: int, count: int) -> NDArray[np.void] | None:
        """Return ``count`` bars, oldest first, the last of which is ``start_pos`` bars before the newest (0)."""
        rates = self._rates(symbol, timeframe, count)
        if rates is None:
            return None
        if start_pos < 0:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        end = max(len(rates) - start_pos, 0)
        return self._done(rates[max(end - count, 0) : end].copy())

    @_called
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
        return tape.rates(_TIMEFRAMES[timeframe], self._present(symbol))

    # Ticks

    @_called
    def copy_ticks_from(self, symbol: str, date_from: Date, count: int, flags: int) -> NDArray[np.void] | None:
        """Return the first ``count`` ticks from ``date_from`` on."""
        tape = self._tick_tape(symbol, flags)
        if tape is None or count <= 0:
            return None if tape is None else self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        if flags == Mt5Constants.COPY_TICKS_TRADE:
            return self._done(np.empty(0, dtype=TICK_DTYPE))
        end = self._present(symbol) + 1
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

    @_called
    def copy_ticks_range(self, symbol: str, date_from: Date, date_to: Date, flags: int) -> NDArray[np.void] | None:
        """Return the ticks from ``date_from`` to ``date_to``, whole seconds, both included."""
        tape = self._tick_tape(symbol, flags)
        if tape is None:
            return None
        if flags == Mt5Constants.COPY_TICKS_TRADE:
            return self._done(np.empty(0, dtype=TICK_DTYPE))
        # The end belongs to the range, to the millisecond in which it lies.
        end = min(_utc_ns(_seconds(date_to)) + MILLISECOND_NS, self._present(symbol) + 1)
        return self._done(tape.ticks(_utc_ns(_seconds(date_from)), end).copy())

    def _tick_tape(self, symbol: str, flags: int) -> Tape | None:
        if not self._known(symbol, Mt5Constants.RES_E_FAIL):
            return None
        if flags not in {self.COPY_TICKS_ALL, self.COPY_TICKS_INFO, self.COPY_TICKS_TRADE}:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
        return self._tapes[symbol]

    # Requests

    @_called
    def order_check(self, request: Any) -> Any:
        """Return what the account would be after a request, and why it would be refused; nothing is sent."""
        asked = self._asked(request)
        if asked is None:
            return None
        outcome = self.server.check(asked)
        now = self.server.valuation()
        after = self.server.valuation_after(asked) if outcome.retcode == 0 else now
        result = OrderCheckResult(
            outcome.retcode, round(now.balance, 2), after.equity, after.profit, after.margin, after.free, after.level,
            RETCODE_TEXTS[outcome.retcode], asked,
        )  # fmt: skip
        return self._done(result)

    @_called
    def order_send(self, request: Any) -> Any:
        """Send a request to the broker, and return its answer; ``None`` says nothing about what the broker did."""
        asked = self._asked(request)
        if asked is None:
            return None
        if self.disturbances.api_off:
            return self._fail(Mt5Constants.RES_E_AUTO_TRADING_DISABLED)
        self._request_id += 1
        refused = next((fault.retcode for fault in self._request_faults if isinstance(fault, Refused)), 0)
        refused = self.disturbances.refusal() or refused
        if refused:
            return self._answered(asked, Outcome(refused))
        for fault in self._request_faults:
            if isinstance(fault, RequestLate):
                late = self.server.now_ns + fault.delay_ms * MILLISECOND_NS
                self.disturbances.at(late, functools.partial(self.server.execute, asked))
            if isinstance(fault, RequestLate | RequestLost):
                return self._unanswered(asked, fault.retcode, fault.code)
        outcome = self._executed(asked)
        for fault in self._request_faults:
            if isinstance(fault, AnswerLost):
                return self._unanswered(asked, fault.retcode, fault.code)
        return self._answered(asked, outcome)

    def _executed(self, asked: Any) -> Outcome:
        """Let the broker execute a request, with the faults that do not lose it."""
        server, share, rest_ms, first = self.server, 1.0, None, len(self.server.deals)
        hidden_ns = max((f.delay_ms * MILLISECOND_NS for f in self._request_faults if isinstance(f, Hidden)), default=0)
        for fault in self._request_faults:
            if isinstance(fault, PartialFill):
                share, rest_ms = fault.share, fault.rest_ms
        if hidden_ns:
            server.hold_view(server.now_ns + hidden_ns)
        server.hidden_ns = hidden_ns
        outcome = server.execute(asked, share=share, rest_ms=rest_ms)
        server.hidden_ns = 0
        for fault in self._request_faults:
            if isinstance(fault, ConfirmedTwice):
                for record in server.deals[first:]:
                    record.shown_twice = True
            if isinstance(fault, FillBeforeAnswer) and outcome.deal:
                for order in (*server.past_orders, *server.orders.values()):
                    if order.ticket == outcome.order:
                        order.visible_ns = server.now_ns + fault.delay_ms * MILLISECOND_NS
                outcome = Outcome(Mt5Constants.TRADE_RETCODE_PLACED, outcome.order, volume=asked.volume)
        return outcome

    def _asked(self, request: Any) -> Any:
        if not self._connected():
            return None
        try:
            return read_request(request)
        except InvalidArgumentError as invalid:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS, str(invalid))

    def _answered(self, asked: Any, outcome: Outcome) -> Any:
        contract = self.server.contracts.get(asked.symbol)
        bid, ask = self.server.quote(contract) if contract else (0.0, 0.0)
        quote = (bid, ask) if math.isfinite(bid) else (0.0, 0.0)
        result = OrderSendResult(
            outcome.retcode, outcome.deal, outcome.order, outcome.volume, outcome.price, *quote,
            RETCODE_TEXTS.get(outcome.retcode, ""), self._request_id, 0, asked,
        )  # fmt: skip
        return self._done(result)

    def _unanswered(self, asked: Any, retcode: int, code: int) -> Any:
        return self._answered(asked, Outcome(retcode)) if retcode else self._fail(code)

    @_called
    def order_calc_margin(self, action: int, symbol: str, volume: float, price: float) -> float | None:
        """Return the margin of a market order, in the account's currency."""
        contract = self._calculable(action, symbol, volume)
        if contract is None:
            return None
        return self._money(self.server.margin_of(contract, volume, price))

    @_called
    def order_calc_profit(
        self, action: int, symbol: str, volume: float, price_open: float, price_close: float
    ) -> float | None:
        """Return the profit of a position between two prices, in the account's currency."""
        contract = self._calculable(action, symbol, volume)
        if contract is None:
            return None
        lots = volume if action == self.ORDER_TYPE_BUY else -volume
        return self._money(self.server.profit_of(contract, lots, price_open, price_close))

    def _calculable(self, action: int, symbol: str, volume: float) -> Contract | None:
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        if action not in (self.ORDER_TYPE_BUY, self.ORDER_TYPE_SELL) or not volume > 0:
            self._fail(Mt5Constants.RES_E_INVALID_PARAMS)
            return None
        return self.server.contracts[symbol]

    def _money(self, amount: float) -> float | None:
        return self._done(round(amount, 2)) if math.isfinite(amount) else self._fail(Mt5Constants.RES_E_FAIL)

    # Orders, positions and deals

    @_called
    def orders_total(self) -> int | None:
        """Return the number of waiting orders."""
        return self._done(sum(1 for _ in self.server.shown_orders(past=False))) if self._connected() else None

    @_called
    def orders_get(self, *unnamed: Any, symbol: str = "", group: str = "", ticket: int = 0) -> tuple[Any, ...] | None:
        """Return the waiting orders: all, or those of a symbol, a group or with a ticket."""
        if not self._selectable(unnamed):
            return None
        return self._done(_selected(self.server.shown_orders(past=False), symbol, group, ticket))

    @_called
    def positions_total(self) -> int | None:
        """Return the number of open positions."""
        return self._done(sum(1 for _ in self.server.shown_positions())) if self._connected() else None

    @_called
    def positions_get(
        self, *unnamed: Any, symbol: str = "", group: str = "", ticket: int = 0
    ) -> tuple[Any, ...] | None:
        """Return the open positions: all, or those of a symbol, a group or with a ticket."""
        if not self._selectable(unnamed):
            return None
        return self._done(_selected(self.server.shown_positions(), symbol, group, ticket))

    @_called
    def history_orders_total(self, date_from: Date, date_to: Date) -> int | None:
        """Return the number of orders that were done from ``date_from`` to ``date_to``, both included."""
        orders = self._past((date_from, date_to), self.server.shown_orders(past=True), "time_done")
        return None if orders is None else self._done(len(orders))

    @_called
    def history_orders_get(
        self, /, *dates: Date, group: str = "", ticket: int = 0, position: int = 0, **named: Date
    ) -> tuple[Any, ...] | None:
        """Return past orders by the time at which they were done, by ticket or by position."""
        orders = self.server.shown_orders(past=True)
        if ticket or position:
            if not self._connected():
                return None
            return self._done(
                tuple(item for item in orders if item.ticket == ticket or item.position_id == position != 0)
            )
        found = self._past(dates or tuple(named.values()), orders, "time_done")
        return None if found is None else self._done(_selected(found, "", group, 0))

    @_called
    def history_deals_total(self, date_from: Date, date_to: Date) -> int | None:
        """Return the number of deals from ``date_from`` to ``date_to``, both included."""
        deals = self._past((date_from, date_to), self.server.shown_deals(), "time")
        return None if deals is None else self._done(len(deals))

    @_called
    def history_deals_get(
        self, /, *dates: Date, group: str = "", ticket: int = 0, position: int = 0, **named: Date
    ) -> tuple[Any, ...] | None:
        """Return deals by time, by the ticket of their order, or by their position."""
        deals = self.server.shown_deals()
        if ticket or position:
            if not self._connected():
                return None
            return self._done(
                tuple(item for item in deals if (ticket and item.order == ticket) or item.position_id == position != 0)
            )
        found = self._past(dates or tuple(named.values()), deals, "time")
        return None if found is None else self._done(_selected(found, "", group, 0))

    def _past(self, dates: tuple[Date, ...], items: Iterable[Any], field: str) -> tuple[Any, ...] | None:
        if not self._connected():
            return None
        if len(dates) != 2:
            return self._fail(Mt5Constants.RES_E_INVALID_PARAMS, "Invalid number of arguments")
        first, last = (_seconds(date) for date in dates)
        return tuple(item for item in items if first <= getattr(item, field) <= last)

    def _selectable(self, unnamed: tuple[Any, ...]) -> bool:
        if not self._connected():
            return False
        if unnamed:
            self._fail(Mt5Constants.RES_E_INVALID_PARAMS, "Unnamed arguments not allowed")
            return False
        return True

    # Depth of market: the broker has none

    @_called
    def market_book_add(self, symbol: str) -> bool:
        """Subscribe to a symbol's depth of market, of which there is none."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return False
        self._books.add(symbol)
        return self._done(True)

    @_called
    def market_book_get(self, symbol: str) -> tuple[Any, ...] | None:
        """Return a subscribed symbol's depth of market: empty; of another: ``None``."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return None
        return self._done(()) if symbol in self._books else self._fail(Mt5Constants.RES_E_FAIL)

    @_called
    def market_book_release(self, symbol: str) -> bool:
        """Cancel a subscription; whether there was one."""
        if not self._known(symbol, Mt5Constants.RES_E_NOT_FOUND):
            return False
        if symbol not in self._books:
            return bool(self._fail(Mt5Constants.RES_E_FAIL))
        self._books.remove(symbol)
        return self._done(True)

    # How calls end

    def _connected(self) -> bool:
        code = self._broken or self.disturbances.lost_code()
        if not self._initialized:
            code = code or Mt5Constants.RES_E_INTERNAL_FAIL_CONNECT
        if code:
            self._fail(code)
        return not code

    def _known(self, symbol: str, code: int) -> bool:
        if not self._connected():
            return False
        if symbol not in self._tapes:
            self._fail(code)
            return False
        return True

    def _present(self, symbol: str) -> int:
        """Return up to when a symbol's market is shown, ns UTC."""
        return self.disturbances.shown_until(symbol, self.clock.now_ns())

    def _rename(self, suffix: str) -> None:
        names = {name: f"{tape.instrument.symbol}{suffix}" for name, tape in self._tapes.items()}
        self.server.rename(names)
        self._selected = {names[name]: shown for name, shown in self._selected.items()}
        self._tapes = {names[name]: tape for name, tape in self._tapes.items()}
        self._resolver = SymbolResolver(self._tapes)

    def _done(self, answer: Answer) -> Answer:
        self._error = (Mt5Constants.RES_S_OK, _TEXTS[Mt5Constants.RES_S_OK])
        return answer

    def _fail(self, code: int, text: str = "") -> Any:
        self._error = (code, text or _TEXTS.get(code, "Terminal: Call failed"))


def _chosen(names: Iterable[str], group: str) -> dict[str, None]:
    """Return the names of a group: masks with ``*``, comma-separated, ``!`` before those to leave out."""
    names = tuple(names)
    chosen: dict[str, None] = {}
    for mask in (part.strip() for part in group.split(",")):
        matching = fnmatch.filter(names, mask.removeprefix("!"))
        if mask.startswith("!"):
            chosen = {name: None for name in chosen if name not in matching}
        else:
            chosen |= dict.fromkeys(matching)
    return chosen


def _selected(items: Iterable[Any], symbol: str, group: str, ticket: int) -> tuple[Any, ...]:
    found = tuple(items)
    if ticket:
        return tuple(item for item in found if item.ticket == ticket)
    if symbol:
        return tuple(item for item in found if item.symbol == symbol)
    if group:
        names = _chosen({item.symbol for item in found}, group)
        return tuple(item for item in found if item.symbol in names)
    return found


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
