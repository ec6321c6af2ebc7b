"""What a plan of faults does to the broker and the terminal, and how long it lasts."""

import heapq
import time
from collections.abc import Callable, Sequence

from fx_dagster.errors import SettingsError
from resources.mt5 import faults
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.faults import Fault, FaultPlan, RequestFault
from resources.mt5.requests import read_request
from resources.mt5.tape import MILLISECOND_NS
from resources.mt5.trading import TradeServer

_SHOWS_THE_MARKET = frozenset(
    {
        "initialize", "login", "version", "terminal_info", "symbols_total", "symbols_get", "symbol_select",
        "symbol_info", "symbol_info_tick", "copy_rates_from", "copy_rates_from_pos", "copy_rates_range",
        "copy_ticks_from", "copy_ticks_range", "market_book_add", "market_book_get", "market_book_release",
    }
)  # fmt: skip
"""Calls that are asked for a hundred symbols many times a second, and whose answers no order changes."""


class Disturbances:
    """The state of the world beside the market: what is broken now, and what is still to happen.

    Args:
        plan: faults to come.
        server: the broker.
        rename: called with a new suffix of all symbols.
        sleep: how a call hangs, in seconds of real time.
    """

    def __init__(
        self, plan: FaultPlan, server: TradeServer, *, rename: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        self.plan, self._server, self._rename, self.sleep = plan, server, rename, sleep
        self._later: list[tuple[int, int, Callable[[], object]]] = []
        self._number = 0
        self._now_ns = server.now_ns
        self._disconnected, self._terminal_lost = (0, 0, 0), (0, 0)
        self._frozen: dict[str, tuple[int, int]] = {}
        self._autotrading_off = self._api_off = 0

    def at(self, time_ns: int, action: Callable[[], object]) -> None:
        """Do something at a market time, ns UTC."""
        self._number += 1
        heapq.heappush(self._later, (time_ns, self._number, action))

    def advance(self, now_ns: int, *, trades: bool = True) -> None:
        """Let the world run up to ``now_ns`` (ns UTC), with everything that happens on the way in its order.

        Args:
            now_ns: the market's present.
            trades: whether the broker looks at its ticks, too; a call that only shows the market leaves them for later.
        """
        while True:
            due = [self._later[0][0]] if self._later and self._later[0][0] <= now_ns else []
            timed = self.plan.next_time(now_ns)
            if timed is not None:
                due.append(timed)
            if not due:
                break
            moment = max(min(due), self._server.now_ns)
            self._server.advance(moment)
            self._now_ns = max(moment, self._now_ns)
            while self._later and self._later[0][0] <= moment:
                heapq.heappop(self._later)[2]()
            for fault in self.plan.take_timed(moment):
                self.happen(fault, moment)
        self._now_ns = max(now_ns, self._now_ns)
        if trades:
            self._server.advance(now_ns)

    def call(self, function: str, symbol: str, now_ns: Callable[[], int]) -> list[RequestFault]:
        """Begin a call: the world moves to the present, faults that meet the call happen; return those of requests."""
        self.advance(now_ns(), trades=function not in _SHOWS_THE_MARKET)
        own: list[RequestFault] = []
        for fault in self.plan.take_called(function, symbol):
            if isinstance(fault, faults.REQUEST_FAULTS):
                own.append(fault)
                continue
            self.advance(now_ns())
            self.happen(fault, self._now_ns)
            self.advance(now_ns())
        return own

    def happen(self, fault: Fault, now_ns: int) -> None:
        """Let a fault of the world happen."""
        end_ns = now_ns + getattr(fault, "duration_ms", 0) * MILLISECOND_NS
        match fault:
            case faults.Disconnected():
                self._disconnected = (now_ns, end_ns, fault.retcode)
            case faults.TerminalLost():
                self._terminal_lost = (end_ns, fault.code)
            case faults.FeedFrozen():
                self._frozen[fault.symbol] = (now_ns, end_ns)
            case faults.AutotradingOff(api=True):
                self._api_off = end_ns
            case faults.AutotradingOff():
                self._autotrading_off = end_ns
            case faults.Hang():
                self.sleep(fault.seconds)
            case faults.SuffixChanged():
                self._rename(fault.suffix)
            case _:
                self._at_the_broker(fault, end_ns)

    def _at_the_broker(self, fault: Fault, end_ns: int) -> None:
        server = self._server
        symbol = getattr(fault, "symbol", "")
        if symbol and symbol not in server.contracts:
            raise SettingsError(
                f"{type(fault).__name__} names {symbol!r}, which the broker does not have",
                mend="give the broker's own name, with its suffix",
            )
        match fault:
            case faults.SymbolMode():
                server.change_contract(fault.symbol, trade_mode=fault.mode)
                contract = server.contracts[fault.symbol]
                self.at(end_ns, lambda: setattr(contract, "trade_mode", Mt5.SYMBOL_TRADE_MODE_FULL))
            case faults.SpecificationChanged():
                server.change_contract(fault.symbol, **fault.changes)
            case faults.Withdrawn():
                account = server.valuation()
                kept = account.margin * fault.margin_percent / 100.0
                amount = round(account.equity - kept if account.margin > 0 else fault.amount, 2)
                if amount:
                    server.change_balance(-amount, "Withdrawal")
            case faults.ForeignTrade():
                kind = Mt5.ORDER_TYPE_BUY if fault.lots > 0 else Mt5.ORDER_TYPE_SELL
                mask = server.contracts[fault.symbol].filling_mask
                filling = Mt5.ORDER_FILLING_FOK if mask & 1 else Mt5.ORDER_FILLING_IOC if mask & 2 else 2
                bid, ask = server.quote(server.contracts[fault.symbol])
                request = {
                    "action": Mt5.TRADE_ACTION_DEAL, "symbol": fault.symbol, "volume": abs(fault.lots), "type": kind,
                    "price": ask if fault.lots > 0 else bid, "magic": fault.magic, "comment": fault.comment,
                    "type_filling": filling,
                }  # fmt: skip
                server.execute(read_request(request), reason=fault.reason)
            case faults.ServerClose():
                held = [item for item in server.positions.values() if fault.symbol in ("", item.contract.name)]
                word = {Mt5.DEAL_REASON_SL: "[sl]", Mt5.DEAL_REASON_TP: "[tp]", Mt5.DEAL_REASON_SO: "[so]"}
                if held:
                    server.close(held[-1], reason=fault.reason, comment=word.get(fault.reason, ""))

    # What is broken now

    def lost_code(self) -> int:
        """Return the code with which every call fails now; 0: the terminal answers."""
        end_ns, code = self._terminal_lost
        return code if self._now_ns < end_ns else 0

    def refusal(self) -> int:
        """Return the code with which terminal or connection answer every request now; 0: requests reach the broker."""
        if self._now_ns < self._autotrading_off:
            return Mt5.TRADE_RETCODE_CLIENT_DISABLES_AT
        return self._disconnected[2] if self._now_ns < self._disconnected[1] else 0

    @property
    def disconnected(self) -> bool:
        """Whether the terminal has lost the broker."""
        return self._now_ns < self._disconnected[1]

    @property
    def autotrading_off(self) -> bool:
        """Whether automated trading is switched off in the terminal."""
        return self._now_ns < self._autotrading_off

    @property
    def api_off(self) -> bool:
        """Whether trading from Python is switched off in the terminal."""
        return self._now_ns < self._api_off

    def shown_until(self, symbol: str, now_ns: int) -> int:
        """Return up to when a symbol's ticks are shown, ns UTC."""
        spans: Sequence[tuple[int, int]] = [
            self._frozen.get(symbol, (0, 0)), self._frozen.get("", (0, 0)), self._disconnected[:2],
        ]  # fmt: skip
        return min([now_ns, *(since for since, until in spans if now_ns < until)])
