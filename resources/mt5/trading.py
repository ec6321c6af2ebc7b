"""The broker behind the simulated terminal: one account that trades against the replayed quotes.

Assumptions, all in one place:

- A market order is filled at the newest quote at the terminal's present: the ask for a buy, the bid for a sell,
  worsened by slippage. With market execution price and deviation of a request are not looked at; with instant execution
  a quote further away than the deviation is a requote.
- Stops, targets, waiting orders and the stop-out are looked at in every tick since the last call. After a gap a stop is
  filled at the gapped quote, a target at its own price, a waiting order at the quote that set it off.
- A symbol's larger side binds margin; the rate is the stricter of the instrument's and 1 / leverage.
- Commission is money of the account a lot and fill. Swap gathers at the server's midnight, and is realised in
  proportion when a position closes. Money of a deal is rounded to the currency's digits.
- Prices are refused that have more digits than the symbol; a market order's remainder is cancelled or rests as asked of
  :meth:`TradeServer.execute`.
- The account's first deal is its deposit, as at a broker.

Everything is in ns UTC inside; what is handed out carries the server clock, as the terminal shows it.
"""

import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from fx_dagster.decision.sizing import floor_steps, lot_grid
from fx_dagster.errors import SettingsError
from fx_dagster.execution.conversion import conversion_path
from fx_dagster.execution.fills import exit_price, margin, market_price, netted, open_profit, profit, stops_possible
from fx_dagster.execution.fills import swap_money as swap_of_nights
from fx_dagster.execution.ledger import swap_nights_between
from fx_dagster.market.calendar import server_time, utc_of_server
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS
from resources.mt5 import scan
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.structures import TradeDeal, TradeOrder, TradePosition
from resources.mt5.tape import MILLISECOND_NS, Tape

FILLING_FOK, FILLING_IOC = 1, 2
"""Bits of a symbol's ``filling_mode``."""
FIRST_ORDER, FIRST_DEAL = 50_000_001, 40_000_001
LOT_DECIMALS = 8
MONEY_DIGITS = 2

_GRID = 1e-6
"""Share of a point within which a price is on the symbol's grid."""
_BUYING = (Mt5.ORDER_TYPE_BUY, Mt5.ORDER_TYPE_BUY_LIMIT, Mt5.ORDER_TYPE_BUY_STOP, Mt5.ORDER_TYPE_BUY_STOP_LIMIT)
_BY_EVENT = {
    scan.STOP: (Mt5.DEAL_REASON_SL, "sl"), scan.TARGET: (Mt5.DEAL_REASON_TP, "tp"),
}  # fmt: skip


@dataclass(frozen=True)
class BrokerOptions:
    """What a broker may choose; the defaults are a usual retail account's.

    Attributes:
        margin_mode: ``ACCOUNT_MARGIN_MODE_…``: 2 hedging, 0 netting.
        login, server, password: of the account; an empty password lets every one in.
        commission_per_lot: money of the account, ≥ 0, at every fill.
        slippage_points: by which market orders and stops are filled worse than the quote.
        stops_level_points: least distance of stops, targets and waiting orders from the quote.
        freeze_level_points: within this distance of the quote stops and orders cannot be changed.
        filling_mask: FOK 1, IOC 2.
        execution: ``SYMBOL_TRADE_EXECUTION_…``; with INSTANT a far price is a requote.
        margin_call_percent, stop_out_percent: equity over margin.
        limit_orders: waiting orders that an account may have.
        requests_per_s_max: of market time; 0: no limit.
        comments: what becomes of an order's comment: kept, cut to ``comment_length`` or dropped.
        comment_length: characters that are left of a cut comment.
        server_deals_keep_magic: whether deals by stop, target and stop-out carry the position's magic.
        swaps: whether swap is counted.
    """

    margin_mode: int = Mt5.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
    login: int = 1
    server: str = "Simulated-Server"
    password: str = field(default="", repr=False)
    commission_per_lot: float = 0.0
    slippage_points: float = 0.0
    stops_level_points: int = 0
    freeze_level_points: int = 0
    filling_mask: int = FILLING_FOK | FILLING_IOC
    execution: int = Mt5.SYMBOL_TRADE_EXECUTION_MARKET
    margin_call_percent: float = 50.0
    stop_out_percent: float = 30.0
    limit_orders: int = 200
    requests_per_s_max: int = 0
    comments: Literal["keep", "cut", "drop"] = "keep"
    comment_length: int = 16
    server_deals_keep_magic: bool = True
    swaps: bool = True

    def __post_init__(self) -> None:
        if self.margin_mode not in (Mt5.ACCOUNT_MARGIN_MODE_RETAIL_NETTING, Mt5.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING):
            raise SettingsError(f"margin_mode is {self.margin_mode}", mend="give 0 (netting) or 2 (hedging)")
        if self.filling_mask not in range(4):
            raise SettingsError(f"filling_mask is {self.filling_mask}", mend="give a sum of FOK 1 and IOC 2")
        if not 0 < self.stop_out_percent <= self.margin_call_percent < math.inf:
            raise SettingsError(f"stop_out_percent is {self.stop_out_percent}", mend="give one below the margin call's")
        names = (
            "commission_per_lot", "slippage_points", "stops_level_points", "freeze_level_points", "requests_per_s_max",
            "comment_length",
        )  # fmt: skip
        for name in names:
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise SettingsError(f"{name} is {value}", mend="give a number of at least 0")


@dataclass(slots=True)
class Contract:
    """A symbol as the broker offers it now."""

    row: int
    name: str
    tape: Tape
    instrument: Instrument
    stops_level: int
    freeze_level: int
    filling_mask: int
    trade_mode: int = Mt5.SYMBOL_TRADE_MODE_FULL


@dataclass(slots=True)
class Order:
    """An order at the broker, waiting or past; ``volume`` is what is left of ``volume_initial``, both > 0."""

    ticket: int
    contract: Contract
    kind: int
    volume_initial: float
    volume: float
    setup_ns: int
    magic: int = 0
    comment: str = ""
    reason: int = Mt5.ORDER_REASON_EXPERT
    state: int = Mt5.ORDER_STATE_PLACED
    price: float = 0.0
    stoplimit: float = 0.0
    sl: float = 0.0
    tp: float = 0.0
    filling: int = Mt5.ORDER_FILLING_RETURN
    lifetime: int = Mt5.ORDER_TIME_GTC
    expiration: int = 0
    """Server seconds; 0: none."""
    expires_ns: int = 0
    done_ns: int = 0
    since_ns: int = 0
    """It is not set off before."""
    position: int = 0
    position_by: int = 0
    visible_ns: int = 0

    @property
    def buys(self) -> bool:
        """Whether it buys."""
        return self.kind in _BUYING


@dataclass(slots=True)
class Position:
    """An open position; lots signed."""

    ticket: int
    identifier: int
    contract: Contract
    lots: float
    entry: float
    opened_ns: int
    updated_ns: int
    sl: float
    tp: float
    magic: int
    comment: str
    reason: int
    swap: float = 0.0
    visible_ns: int = 0


@dataclass(slots=True)
class DealRecord:
    """A deal, and how it is shown."""

    deal: Any
    time_ns: int
    position_lots: float
    """Signed lots by which it changed its position."""
    visible_ns: int = 0
    shown_twice: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the broker did with a request; the retcode is 0 for a request that would be executed."""

    retcode: int
    order: int = 0
    deal: int = 0
    volume: float = 0.0
    price: float = 0.0


@dataclass(frozen=True, slots=True)
class Valuation:
    """The account at the newest quotes, in its currency; ``profit`` has the gathered swap in it."""

    balance: float
    profit: float
    margin: float

    @property
    def equity(self) -> float:
        """Balance and open positions."""
        return round(self.balance + self.profit, MONEY_DIGITS)

    @property
    def free(self) -> float:
        """Equity that is not bound."""
        return round(self.equity - self.margin, MONEY_DIGITS)

    @property
    def level(self) -> float:
        """Equity over margin, percent; 0 without positions."""
        return 100.0 * self.equity / self.margin if self.margin > 0 else 0.0


class RefusedError(Exception):
    """The broker does not execute a request."""

    def __init__(self, retcode: int) -> None:
        super().__init__(retcode)
        self.retcode = retcode


class TradeServer:
    """One account at a broker whose market is a set of tapes. Time moves with :meth:`advance`, never back.

    Args:
        tapes: by the broker's symbol.
        now_ns: when the account is opened, ns UTC.
        balance: the first deposit, in the account's currency.
        currency: of the account.
        leverage: of the account.
        options: the broker's choices.
    """

    def __init__(
        self, tapes: Mapping[str, Tape], *, now_ns: int, balance: float, currency: str, leverage: int,
        options: BrokerOptions,
    ) -> None:  # fmt: skip
        self.options, self.currency, self.leverage = options, currency, leverage
        self.hedging = options.margin_mode == Mt5.ACCOUNT_MARGIN_MODE_RETAIL_HEDGING
        self.contracts = {
            name: Contract(
                row, name, tape, tape.instrument, options.stops_level_points, options.freeze_level_points,
                options.filling_mask,
            )
            for row, (name, tape) in enumerate(tapes.items())
        }  # fmt: skip
        self._by_row = list(self.contracts.values())
        self.positions: dict[int, Position] = {}
        self.orders: dict[int, Order] = {}
        self.past_orders: list[Order] = []
        self.deals: list[DealRecord] = []
        self.balance = 0.0
        self.now_ns = now_ns
        self._next_order, self._next_deal = FIRST_ORDER, FIRST_DEAL
        self._request_times: deque[int] = deque()
        self._quotes = np.full((len(tapes), 2), np.nan)
        self._held_view: tuple[int, tuple[Any, ...], tuple[Any, ...]] = (0, (), ())
        self.hidden_ns = 0
        """How long what happens now stays unseen."""
        self.learn_contracts()
        self.change_balance(balance, "Deposit")

    # What is traded

    def learn_contracts(self) -> None:
        """Take the contracts' numbers as they are now; after one of them was changed."""
        instruments = [contract.instrument for contract in self._by_row]
        self._sizes = np.array([item.contract_size for item in instruments], dtype=np.float64)
        self._rates = np.array([max(item.margin_rate, 1.0 / self.leverage) for item in instruments], dtype=np.float64)
        self._known_legs: Any = None

    @property
    def _legs(self) -> Any:
        """Paths of the profit currencies, found when they are first needed: most terminals only show prices."""
        if self._known_legs is None:
            self._known_legs = self._find_legs()
        return self._known_legs

    def _find_legs(self) -> Any:
        instruments = [contract.instrument for contract in self._by_row]
        rows = {item.symbol: row for row, item in enumerate(instruments)}
        paths = []
        for item in instruments:
            try:
                path = conversion_path(item.profit_currency, self.currency, instruments)
            except SettingsError:
                paths.append([(-2, 0)])
                continue
            paths.append([(rows[symbol], 1 if multiply else -1) for symbol, multiply in path])
        found = np.full((len(paths), max((len(path) for path in paths), default=0) or 1, 2), -1, dtype=np.int64)
        for row, legs in enumerate(paths):
            for place, leg in enumerate(legs):
                found[row, place] = leg
        return found

    def change_contract(self, name: str, **changes: Any) -> None:
        """Change a symbol: fields of its instrument, ``trade_mode``, ``stops_level``, ``freeze_level``, filling mask.

        Raises:
            KeyError: the broker has no such symbol.
            TypeError: an instrument has no such field.
        """
        contract = self.contracts[name]
        own = {key: changes.pop(key) for key in tuple(changes) if key in _CONTRACT_FIELDS}
        contract.instrument = replace(contract.instrument, **changes)
        for key, value in own.items():
            setattr(contract, key, value)
        self.learn_contracts()

    def rename(self, names: Mapping[str, str]) -> None:
        """Give symbols new names; positions, orders and past go with them."""
        for contract in self._by_row:
            contract.name = names.get(contract.name, contract.name)
        self.contracts = {contract.name: contract for contract in self._by_row}

    def quote(self, contract: Contract) -> tuple[float, float]:
        """Return bid and ask at the server's present; NaN where there is none."""
        return contract.tape.last_quote(self.now_ns) or (math.nan, math.nan)

    def conversion(self, contract: Contract) -> float:
        """Return account currency per profit currency; NaN where the symbols or their quotes do not say."""
        self._read_quotes({contract.row})
        return float(scan.conversion_rate(self._legs[contract.row], self._quotes))

    def margin_of(self, contract: Contract, lots: float, price: float) -> float:
        """Return what ``lots`` at a price bind, in the account's currency; NaN: unknown."""
        rate = self.conversion(contract)
        return float(margin(lots, price, self._sizes[contract.row], rate, self._rates[contract.row]))

    def profit_of(self, contract: Contract, lots: float, entry: float, price: float) -> float:
        """Return the profit of signed lots, in the account's currency; NaN: unknown."""
        return float(profit(lots, entry, price, self._sizes[contract.row], self.conversion(contract)))

    def _read_quotes(self, rows: set[int]) -> set[int]:
        """Take the newest quotes of symbols and of those that convert their profit; return all of these."""
        needed = rows | {int(row) for symbol in rows for row in self._legs[symbol, :, 0] if row >= 0}
        for row in needed:
            newest = self._by_row[row].tape.last_quote(self.now_ns)
            if newest is not None:
                self._quotes[row] = newest
        return needed

    # The account

    def valuation(self, held: list[tuple[int, float, float]] | None = None) -> Valuation:
        """Return the account; with other positions than it has: ``held`` as rows, signed lots and entry prices."""
        if held is None:
            held = [(item.contract.row, item.lots, item.entry) for item in self.positions.values()]
        self._read_quotes({row for row, _, _ in held})
        rows = np.array([item[0] for item in held], dtype=np.int64)
        lots = np.array([item[1] for item in held], dtype=np.float64)
        entries = np.array([item[2] for item in held], dtype=np.float64)
        gained, bound = scan.valuation(
            rows, lots, entries, scan.larger_sides(rows, lots), self._quotes, self._sizes, self._rates, self._legs
        )
        swap = sum(item.swap for item in self.positions.values())
        return Valuation(self.balance, round(float(gained) + swap, MONEY_DIGITS), round(float(bound), MONEY_DIGITS))

    def change_balance(self, amount: float, comment: str) -> None:
        """Pay in, or out (< 0): a deal of the balance."""
        self._book(None, 0, 0, Mt5.DEAL_TYPE_BALANCE, Mt5.DEAL_ENTRY_IN, 0.0, 0.0, profit_money=amount, comment=comment,
                   reason=Mt5.DEAL_REASON_CLIENT)  # fmt: skip

    # Time

    def advance(self, now_ns: int) -> None:
        """Let the market run up to ``now_ns`` (ns UTC): whatever the ticks on the way set off is done."""
        while self.now_ns < now_ns:
            if not self.positions and not self.orders:
                self.now_ns = now_ns
                return
            midnight = int(utc_of_server((server_time(self.now_ns) // DAY_NS + 1) * DAY_NS))
            ends = [order.expires_ns for order in self.orders.values() if order.expires_ns > self.now_ns]
            until = min([now_ns, midnight, *ends])
            self._watch(until)
            self.now_ns = until
            if until == midnight:
                self._roll_over()
            for order in [item for item in self.orders.values() if 0 < item.expires_ns <= until]:
                self._finish(order, Mt5.ORDER_STATE_EXPIRED)

    def _roll_over(self) -> None:
        if not self.options.swaps:
            return
        for position in self.positions.values():
            item = position.contract.instrument
            nights = float(swap_nights_between(self.now_ns - 1, self.now_ns, item.triple_swap_weekday))
            if nights:
                position.swap += float(
                    swap_of_nights(
                        position.lots, nights, item.swap_long_points, item.swap_short_points, item.point,
                        item.contract_size, self.conversion(position.contract),
                    )
                )  # fmt: skip

    def _watch(self, until: int) -> None:
        """Look at the ticks after the present, up to ``until``, and do what they set off."""
        watched = {item.contract.row for item in self.positions.values()}
        watched |= {item.contract.row for item in self.orders.values()}
        rows = sorted(self._read_quotes(watched))
        parts = [self._by_row[row].tape.quotes(self.now_ns + 1, until + 1) for row in rows]
        times = np.concatenate([part[0] for part in parts])
        order = np.argsort(times, kind="stable")
        ticked = np.repeat(np.array(rows, dtype=np.int64), [len(part[0]) for part in parts])[order]
        times = np.ascontiguousarray(times[order])
        bids = np.concatenate([part[1]["bid"] for part in parts])[order]
        asks = np.concatenate([part[1]["ask"] for part in parts])[order]
        at = 0
        while at < len(times) and (self.positions or self.orders):
            positions, orders = list(self.positions.values()), list(self.orders.values())
            at, what, which = self._first_event(times, ticked, bids, asks, at, positions, orders)
            if at < 0:
                return
            self.now_ns = int(times[at])
            if what == scan.ORDER:
                self._set_off(orders[which], float(bids[at]), float(asks[at]))
            elif what == scan.STOP_OUT:
                self._stop_out()
            else:
                self._leave(positions[which], what, float(bids[at]), float(asks[at]))

    def _first_event(
        self, times: Any, ticked: Any, bids: Any, asks: Any, start: int, positions: list[Position], orders: list[Order],
    ) -> tuple[int, int, int]:  # fmt: skip
        def column(values: list[float]) -> Any:
            return np.array(values, dtype=np.float64)

        def places(values: list[int]) -> Any:
            return np.array(values, dtype=np.int64)

        found = scan.first_event(
            times, ticked, bids, asks, start, self._quotes,
            places([item.contract.row for item in positions]), column([item.lots for item in positions]),
            column([item.entry for item in positions]), column([item.sl for item in positions]),
            column([item.tp for item in positions]),
            places([item.contract.row for item in orders]), places([item.kind for item in orders]),
            column([item.price for item in orders]), places([item.since_ns for item in orders]),
            self._sizes, self._rates, self._legs,
            float(self.balance + sum(item.swap for item in positions)), self.options.stop_out_percent / 100.0,
        )  # fmt: skip
        return int(found[0]), int(found[1]), int(found[2])

    def _leave(self, position: Position, what: int, bid: float, ask: float) -> None:
        item = position.contract.instrument
        slipped = self.options.slippage_points * item.point
        price = exit_price(what, position.lots, position.sl, position.tp, bid, ask, slipped, False)
        reason, word = _BY_EVENT[what]
        level = position.sl if what == scan.STOP else position.tp
        self.close(position, price=float(price), reason=reason, comment=f"[{word} {level:.{item.digits}f}]")

    def _stop_out(self) -> None:
        account = self.valuation()
        worst = min(self.positions.values(), key=self.open_profit)
        comment = f"[so {account.level:.2f}%/{account.equity:.2f}]"
        self.close(worst, reason=Mt5.DEAL_REASON_SO, comment=comment)

    def open_profit(self, position: Position) -> float:
        """Return what closing a position now would bring, without its swap; NaN: unknown."""
        bid, ask = self.quote(position.contract)
        size = self._sizes[position.contract.row]
        rate = self.conversion(position.contract)
        return float(open_profit(position.lots, position.entry, bid, ask, size, rate))

    def close(self, position: Position, *, reason: int, comment: str, price: float | None = None) -> int:
        """Close a position by the server or a person; return the deal's ticket.

        Args:
            position: open.
            reason: ``DEAL_REASON_…``.
            comment: of order and deal.
            price: of the fill; None: the newest quote.
        """
        contract = position.contract
        magic = position.magic if self.options.server_deals_keep_magic else 0
        order = self._new_order(
            contract, Mt5.ORDER_TYPE_SELL if position.lots > 0 else Mt5.ORDER_TYPE_BUY, abs(position.lots),
            magic=magic, comment=comment, reason=reason, position=position.ticket,
        )  # fmt: skip
        filled_at = self._market_price(contract, -position.lots) if price is None else price
        return self._fill(order, order.volume, filled_at)

    def _set_off(self, order: Order, bid: float, ask: float) -> None:
        """Fill a waiting order at the quote that set it off, or turn a stop limit into its limit."""
        if order.kind in (Mt5.ORDER_TYPE_BUY_STOP_LIMIT, Mt5.ORDER_TYPE_SELL_STOP_LIMIT):
            order.kind = Mt5.ORDER_TYPE_BUY_LIMIT if order.buys else Mt5.ORDER_TYPE_SELL_LIMIT
            order.price = order.stoplimit
            return
        lots = order.volume if order.buys else -order.volume
        price = ask if order.buys else bid
        if order.position == 0 and not self._affordable(order.contract, lots, price):
            self._finish(order, Mt5.ORDER_STATE_REJECTED)
            return
        self._fill(order, order.volume, price)

    # Requests

    def check(self, request: Any) -> Outcome:
        """Return what would become of a request, retcode 0 if it would be executed, without executing it."""
        try:
            return Outcome(0, price=self._checked(request))
        except RefusedError as refused:
            return Outcome(refused.retcode)

    def valuation_after(self, request: Any) -> Valuation:
        """Return the account as it would be after a market order that opens, without its commission."""
        contract = self.contracts.get(request.symbol)
        held = [(item.contract.row, item.lots, item.entry) for item in self.positions.values()]
        if contract is None or request.action != Mt5.TRADE_ACTION_DEAL:
            return self.valuation(held)
        lots = request.volume if request.type in _BUYING else -request.volume
        return self.valuation(self._held_after(contract, lots, self._market_price(contract, lots), request.position))

    def execute(
        self, request: Any, *, share: float = 1.0, rest_ms: int | None = None, reason: int = Mt5.ORDER_REASON_EXPERT
    ) -> Outcome:
        """Execute a request.

        Args:
            request: a TradeRequest.
            share: part of a market order's volume that is filled, in (0, 1].
            rest_ms: the remainder rests this long and is filled at the next quote; None: it is cancelled.
            reason: ``ORDER_REASON_…`` of orders and deals.
        """
        try:
            self._count_request()
            price = self._checked(request)
        except RefusedError as refused:
            return Outcome(refused.retcode)
        actions = {
            Mt5.TRADE_ACTION_SLTP: self._move_stops, Mt5.TRADE_ACTION_MODIFY: self._modify,
            Mt5.TRADE_ACTION_REMOVE: self._remove, Mt5.TRADE_ACTION_CLOSE_BY: self._close_by,
        }  # fmt: skip
        if request.action in actions:
            return actions[request.action](request)
        order = self._order_of(request, reason)
        if request.action == Mt5.TRADE_ACTION_PENDING:
            self.orders[order.ticket] = order
            return Outcome(Mt5.TRADE_RETCODE_DONE, order=order.ticket, volume=order.volume, price=order.price)
        return self._deal(order, price, share, rest_ms)

    def _deal(self, order: Order, price: float, share: float, rest_ms: int | None) -> Outcome:
        volume = self._part(order.contract, order.volume, share)
        if volume < order.volume:
            if rest_ms is not None:
                order.since_ns = self.now_ns + rest_ms * MILLISECOND_NS
                self.orders[order.ticket] = order
            deal = self._fill(order, volume, price, rests=rest_ms is not None)
            return Outcome(Mt5.TRADE_RETCODE_DONE_PARTIAL, order.ticket, deal, volume, price)
        deal = self._fill(order, volume, price)
        return Outcome(Mt5.TRADE_RETCODE_DONE, order.ticket, deal, volume, price)

    def _part(self, contract: Contract, volume: float, share: float) -> float:
        """Return a share of a volume on the lot grid, at least one step."""
        numerator, denominator = lot_grid(contract.instrument.lot_step)
        steps = max(floor_steps(volume * share, numerator, denominator), 1)
        return min(volume, steps * numerator / denominator)

    def _count_request(self) -> None:
        if not self.options.requests_per_s_max:
            return
        while self._request_times and self._request_times[0] <= self.now_ns - SECOND_NS:
            self._request_times.popleft()
        if len(self._request_times) >= self.options.requests_per_s_max:
            raise RefusedError(Mt5.TRADE_RETCODE_TOO_MANY_REQUESTS)
        self._request_times.append(self.now_ns)

    def _checked(self, request: Any) -> float:
        """Return the price of a market order's fill, or 0 for other requests.

        Raises:
            RefusedError: the broker would not execute it.
        """
        checks = {
            Mt5.TRADE_ACTION_DEAL: self._check_deal, Mt5.TRADE_ACTION_PENDING: self._check_pending,
            Mt5.TRADE_ACTION_SLTP: self._check_move, Mt5.TRADE_ACTION_MODIFY: self._check_modify,
            Mt5.TRADE_ACTION_REMOVE: self._check_remove, Mt5.TRADE_ACTION_CLOSE_BY: self._check_close_by,
        }  # fmt: skip
        if request.action not in checks:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        return checks[request.action](request)

    def _check_deal(self, request: Any) -> float:
        contract = self._tradable(request)
        if request.type not in (Mt5.ORDER_TYPE_BUY, Mt5.ORDER_TYPE_SELL):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        buys = request.type == Mt5.ORDER_TYPE_BUY
        lots = request.volume if buys else -request.volume
        closes = self._check_position(contract, request, lots)
        self._check_volume(contract, request.volume)
        self._check_filling(contract, request.type_filling, at_market=True)
        if not closes:
            self._check_side(contract, buys)
        bid, ask = self._open_quote(contract)
        price = self._market_price(contract, lots)
        if self.options.execution in (Mt5.SYMBOL_TRADE_EXECUTION_INSTANT, Mt5.SYMBOL_TRADE_EXECUTION_REQUEST):
            self._check_deviation(contract, request, ask if buys else bid)
        self._check_stops(contract, lots, request.sl, request.tp, bid, ask)
        if not math.isfinite(self.conversion(contract)):
            raise RefusedError(Mt5.TRADE_RETCODE_REJECT)
        if not closes and not self._affordable(contract, lots, price):
            raise RefusedError(Mt5.TRADE_RETCODE_NO_MONEY)
        return price

    def _tradable(self, request: Any) -> Contract:
        contract = self.contracts.get(request.symbol)
        if contract is None:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        if contract.trade_mode == Mt5.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(Mt5.TRADE_RETCODE_TRADE_DISABLED)
        return contract

    def _check_position(self, contract: Contract, request: Any, lots: float) -> bool:
        """Return whether a market order only closes."""
        if request.position:
            position = self.positions.get(request.position)
            if position is None:
                raise RefusedError(Mt5.TRADE_RETCODE_POSITION_CLOSED)
            if position.contract is not contract or (self.hedging and position.lots * lots > 0):
                raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
            if self.hedging and request.volume > abs(position.lots):
                raise RefusedError(Mt5.TRADE_RETCODE_INVALID_CLOSE_VOLUME)
        elif self.hedging:
            return False
        held = self._held(contract, request.position)
        return held is not None and held.lots * lots < 0 and abs(lots) <= abs(held.lots)

    def _held(self, contract: Contract, ticket: int) -> Position | None:
        """Return the position that a trade of a symbol changes."""
        if self.hedging:
            return self.positions.get(ticket)
        return next((item for item in self.positions.values() if item.contract is contract), None)

    def _check_volume(self, contract: Contract, volume: float) -> None:
        item = contract.instrument
        numerator, denominator = lot_grid(item.lot_step)
        steps = floor_steps(volume, numerator, denominator) if volume > 0 else 0
        on_grid = math.isclose(steps * numerator / denominator, volume, rel_tol=0, abs_tol=10**-LOT_DECIMALS)
        if not (on_grid and item.lot_min <= volume <= item.lot_max):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_VOLUME)

    def _check_filling(self, contract: Contract, filling: int, *, at_market: bool) -> None:
        mask = contract.filling_mask
        allowed = {
            Mt5.ORDER_FILLING_FOK: bool(mask & FILLING_FOK),
            Mt5.ORDER_FILLING_IOC: bool(mask & FILLING_IOC),
            Mt5.ORDER_FILLING_RETURN: not at_market or mask == 0,
        }
        if not allowed.get(filling, False):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_FILL)

    def _check_side(self, contract: Contract, buys: bool) -> None:
        refused = {
            Mt5.SYMBOL_TRADE_MODE_CLOSEONLY: Mt5.TRADE_RETCODE_CLOSE_ONLY,
            Mt5.SYMBOL_TRADE_MODE_SHORTONLY: Mt5.TRADE_RETCODE_SHORT_ONLY if buys else 0,
            Mt5.SYMBOL_TRADE_MODE_LONGONLY: 0 if buys else Mt5.TRADE_RETCODE_LONG_ONLY,
        }.get(contract.trade_mode, 0)
        if refused:
            raise RefusedError(refused)

    def _open_quote(self, contract: Contract) -> tuple[float, float]:
        if not bool(contract.instrument.session.is_open(np.array([self.now_ns]))[0]):
            raise RefusedError(Mt5.TRADE_RETCODE_MARKET_CLOSED)
        bid, ask = self.quote(contract)
        if not math.isfinite(bid):
            raise RefusedError(Mt5.TRADE_RETCODE_PRICE_OFF)
        return bid, ask

    def _check_deviation(self, contract: Contract, request: Any, price: float) -> None:
        self._check_grid(contract, request.price, Mt5.TRADE_RETCODE_INVALID_PRICE)
        if request.price <= 0:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_PRICE)
        if abs(request.price - price) > (request.deviation + _GRID) * contract.instrument.point:
            raise RefusedError(Mt5.TRADE_RETCODE_REQUOTE)

    def _check_grid(self, contract: Contract, price: float, retcode: int) -> None:
        steps = price / contract.instrument.point
        if price < 0 or abs(steps - round(steps)) > max(_GRID, 1e-9 * abs(steps)):
            raise RefusedError(retcode)

    def _check_stops(self, contract: Contract, lots: float, sl: float, tp: float, bid: float, ask: float) -> None:
        for price in (sl, tp):
            self._check_grid(contract, price, Mt5.TRADE_RETCODE_INVALID_STOPS)
        # The broker measures from the price that would close: the bid of what was bought.
        away = contract.stops_level * contract.instrument.point
        stop = sl if sl > 0 else (-math.inf if lots > 0 else math.inf)
        near = (bid - away, ask + away), (bid + away, ask - away)
        stop_fits = bool(stops_possible(lots, stop, 0.0, *near[0]))
        open_stop = -math.inf if lots > 0 else math.inf
        target_fits = bool(stops_possible(lots, open_stop, tp, *near[1]))
        if not (stop_fits and target_fits):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_STOPS)

    def _market_price(self, contract: Contract, lots: float) -> float:
        bid, ask = self.quote(contract)
        slipped = self.options.slippage_points * contract.instrument.point
        return round(float(market_price(lots, bid, ask, slipped)), contract.instrument.digits + 1)

    def _held_after(self, contract: Contract, lots: float, price: float, ticket: int) -> list[tuple[int, float, float]]:
        changed = self._held(contract, ticket)
        held = [(p.contract.row, p.lots, p.entry) for p in self.positions.values() if p is not changed]
        lots_held, entry = (changed.lots, changed.entry) if changed else (0.0, 0.0)
        after, entry, _ = netted(lots_held, entry, lots, price)
        return held if after == 0 else [*held, (contract.row, after, entry)]

    def _affordable(self, contract: Contract, lots: float, price: float) -> bool:
        after = self.valuation(self._held_after(contract, lots, price, 0))
        commission = round(self.options.commission_per_lot * abs(lots), MONEY_DIGITS)
        now = self.valuation()
        return after.margin <= now.margin or now.equity - commission >= after.margin

    def _check_pending(self, request: Any) -> float:
        contract = self._tradable(request)
        if not Mt5.ORDER_TYPE_BUY_LIMIT <= request.type <= Mt5.ORDER_TYPE_SELL_STOP_LIMIT:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        self._check_volume(contract, request.volume)
        self._check_filling(contract, request.type_filling, at_market=False)
        self._check_side(contract, request.type in _BUYING)
        if len(self.orders) >= self.options.limit_orders:
            raise RefusedError(Mt5.TRADE_RETCODE_LIMIT_ORDERS)
        bid, ask = self._open_quote(contract)
        self._check_order_prices(contract, request.type, request, bid, ask)
        self._expiry(request)
        return 0.0

    def _check_order_prices(self, contract: Contract, kind: int, request: Any, bid: float, ask: float) -> None:
        prices = [request.price]
        stop_limit = kind in (Mt5.ORDER_TYPE_BUY_STOP_LIMIT, Mt5.ORDER_TYPE_SELL_STOP_LIMIT)
        prices += [request.stoplimit] if stop_limit else []
        for price in prices:
            self._check_grid(contract, price, Mt5.TRADE_RETCODE_INVALID_PRICE)
        away = contract.stops_level * contract.instrument.point
        # An order that the present quote, or one within the stops level of it, would set off cannot wait.
        nearer = {
            Mt5.ORDER_TYPE_BUY_LIMIT: (bid - away, ask - away), Mt5.ORDER_TYPE_SELL_LIMIT: (bid + away, ask + away),
        }.get(kind, (bid - away, ask - away) if kind not in _BUYING else (bid + away, ask + away))  # fmt: skip
        if min(prices) <= 0 or scan.set_off(kind, request.price, *nearer):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_PRICE)
        at = request.stoplimit if stop_limit else request.price
        lots = 1.0 if kind in _BUYING else -1.0
        if stop_limit and (at - request.price) * lots > 0:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_PRICE)
        spread = ask - bid
        quote = (at - spread, at) if lots > 0 else (at, at + spread)
        self._check_stops(contract, lots, request.sl, request.tp, *quote)

    def _expiry(self, request: Any) -> int:
        """Return when a waiting order expires, ns UTC; 0: never."""
        day_ns = server_time(self.now_ns) // DAY_NS * DAY_NS
        if request.type_time == Mt5.ORDER_TIME_GTC:
            return 0
        if request.type_time == Mt5.ORDER_TIME_DAY:
            return int(utc_of_server(day_ns + DAY_NS))
        if request.type_time not in (Mt5.ORDER_TIME_SPECIFIED, Mt5.ORDER_TIME_SPECIFIED_DAY):
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_EXPIRATION)
        end = request.expiration * SECOND_NS
        if request.type_time == Mt5.ORDER_TIME_SPECIFIED_DAY:
            end = (end // DAY_NS + 1) * DAY_NS
        if end <= server_time(self.now_ns) or end >= 2**62:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_EXPIRATION)
        return int(utc_of_server(end))

    def _position_of(self, request: Any) -> Position:
        """Return the position that a request about one means: by ticket, on a netting account by symbol, too."""
        position = self.positions.get(request.position)
        if position is None and not request.position and not self.hedging:
            contract = self.contracts.get(request.symbol)
            position = None if contract is None else self._held(contract, 0)
        if position is None:
            raise RefusedError(Mt5.TRADE_RETCODE_POSITION_CLOSED)
        if request.symbol and request.symbol != position.contract.name:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        return position

    def _check_move(self, request: Any) -> float:
        position = self._position_of(request)
        contract = position.contract
        if contract.trade_mode == Mt5.SYMBOL_TRADE_MODE_DISABLED:
            raise RefusedError(Mt5.TRADE_RETCODE_TRADE_DISABLED)
        bid, ask = self._open_quote(contract)
        if (request.sl, request.tp) == (position.sl, position.tp):
            raise RefusedError(Mt5.TRADE_RETCODE_NO_CHANGES)
        self._check_frozen(contract, (position.sl, position.tp), bid if position.lots > 0 else ask)
        self._check_stops(contract, position.lots, request.sl, request.tp, bid, ask)
        return 0.0

    def _check_frozen(self, contract: Contract, prices: tuple[float, ...], quote: float) -> None:
        frozen = contract.freeze_level * contract.instrument.point
        if frozen > 0 and any(price > 0 and abs(price - quote) <= frozen for price in prices):
            raise RefusedError(Mt5.TRADE_RETCODE_FROZEN)

    def _move_stops(self, request: Any) -> Outcome:
        position = self._position_of(request)
        position.sl, position.tp, position.updated_ns = request.sl, request.tp, self.now_ns
        return Outcome(Mt5.TRADE_RETCODE_DONE)

    def _waiting(self, request: Any) -> Order:
        order = self.orders.get(request.order)
        if order is None:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_ORDER)
        return order

    def _check_modify(self, request: Any) -> float:
        order = self._waiting(request)
        if order.kind <= Mt5.ORDER_TYPE_SELL:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID_ORDER)
        bid, ask = self._open_quote(order.contract)
        self._check_frozen(order.contract, (order.price,), ask if order.buys else bid)
        self._check_order_prices(order.contract, order.kind, request, bid, ask)
        self._expiry(request)
        now = (request.price, request.stoplimit, request.sl, request.tp, request.type_time, request.expiration)
        if now == (order.price, order.stoplimit, order.sl, order.tp, order.lifetime, order.expiration):
            raise RefusedError(Mt5.TRADE_RETCODE_NO_CHANGES)
        return 0.0

    def _modify(self, request: Any) -> Outcome:
        order = self._waiting(request)
        order.price, order.stoplimit, order.sl, order.tp = request.price, request.stoplimit, request.sl, request.tp
        order.lifetime, order.expiration, order.expires_ns = (
            request.type_time, request.expiration, self._expiry(request),
        )  # fmt: skip
        return Outcome(Mt5.TRADE_RETCODE_DONE, order=order.ticket)

    def _check_remove(self, request: Any) -> float:
        order = self._waiting(request)
        bid, ask = self.quote(order.contract)
        self._check_frozen(order.contract, (order.price,), ask if order.buys else bid)
        return 0.0

    def _remove(self, request: Any) -> Outcome:
        self._finish(self._waiting(request), Mt5.ORDER_STATE_CANCELED)
        return Outcome(Mt5.TRADE_RETCODE_DONE, order=request.order)

    def _check_close_by(self, request: Any) -> float:
        if not self.hedging:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        one, other = self.positions.get(request.position), self.positions.get(request.position_by)
        if one is None or other is None:
            raise RefusedError(Mt5.TRADE_RETCODE_POSITION_CLOSED)
        if one.contract is not other.contract or one.lots * other.lots > 0:
            raise RefusedError(Mt5.TRADE_RETCODE_INVALID)
        self._open_quote(one.contract)
        return 0.0

    def _close_by(self, request: Any) -> Outcome:
        """Close two opposite positions by each other, at the entry of the second; the first takes the profit."""
        one, other = self.positions[request.position], self.positions[request.position_by]
        volume = min(abs(one.lots), abs(other.lots))
        order = self._new_order(
            one.contract, Mt5.ORDER_TYPE_CLOSE_BY, volume, magic=request.magic,
            comment=request.comment or f"close #{one.ticket} by #{other.ticket}", position=one.ticket,
        )  # fmt: skip
        order.position_by = other.ticket
        price = other.entry
        deals = [
            self._trade(order, position, -math.copysign(volume, position.lots), price, by_other=True)
            for position in (one, other)
        ]
        order.volume = 0.0
        self._finish(order, Mt5.ORDER_STATE_FILLED)
        return Outcome(Mt5.TRADE_RETCODE_DONE, order.ticket, deals[0], volume, price)

    # Bookkeeping

    def _order_of(self, request: Any, reason: int) -> Order:
        order = self._new_order(
            self.contracts[request.symbol], request.type, request.volume, magic=request.magic,
            comment=self._kept(request.comment), reason=reason, position=request.position,
        )  # fmt: skip
        order.price, order.stoplimit, order.sl, order.tp = request.price, request.stoplimit, request.sl, request.tp
        order.filling, order.lifetime, order.expiration = request.type_filling, request.type_time, request.expiration
        if request.action == Mt5.TRADE_ACTION_PENDING:
            order.expires_ns = self._expiry(request)
        return order

    def _kept(self, comment: str) -> str:
        if self.options.comments == "drop":
            return ""
        return comment[: self.options.comment_length] if self.options.comments == "cut" else comment

    def _new_order(
        self, contract: Contract, kind: int, volume: float, *, magic: int, comment: str,
        reason: int = Mt5.ORDER_REASON_EXPERT, position: int = 0,
    ) -> Order:  # fmt: skip
        ticket = self._next_order
        self._next_order += 1
        return Order(
            ticket, contract, kind, volume, volume, self.now_ns, magic=magic, comment=comment, reason=reason,
            position=position, visible_ns=self.now_ns + self.hidden_ns,
        )  # fmt: skip

    def _fill(self, order: Order, volume: float, price: float, *, rests: bool = False) -> int:
        """Fill a volume of an order; what is left rests, or is cancelled."""
        lots = volume if order.buys else -volume
        position = self._held(order.contract, order.position or order.ticket)
        deal = self._trade(order, position, lots, price)
        order.position = self.deals[-1].deal.position_id
        order.volume = round(order.volume - volume, LOT_DECIMALS)
        if rests:
            order.state = Mt5.ORDER_STATE_PARTIAL
        else:
            self._finish(order, Mt5.ORDER_STATE_CANCELED if order.volume > 0 else Mt5.ORDER_STATE_FILLED)
        return deal

    def _finish(self, order: Order, state: int) -> None:
        self.orders.pop(order.ticket, None)
        order.state, order.done_ns = state, self.now_ns
        self.past_orders.append(order)

    def _trade(
        self, order: Order, position: Position | None, lots: float, price: float, *, by_other: bool = False
    ) -> int:
        """Trade signed lots into a position, or open one; return the deal's ticket."""
        commission = -round(self.options.commission_per_lot * abs(lots), MONEY_DIGITS)
        if by_other:
            commission = 0.0
        kind = Mt5.DEAL_TYPE_BUY if lots > 0 else Mt5.DEAL_TYPE_SELL
        if position is None:
            position = self._open(order, lots, price)
            return self._book(
                order, position.identifier, order.ticket, kind, Mt5.DEAL_ENTRY_IN, lots, price, commission=commission
            )
        after, entry, closed = netted(position.lots, position.entry, lots, price)
        after, held = round(float(after), LOT_DECIMALS), position.lots
        gained = round(self.profit_of(order.contract, float(closed), position.entry, price), MONEY_DIGITS)
        swap = round(position.swap * abs(float(closed)) / abs(held), MONEY_DIGITS)
        entered = (
            Mt5.DEAL_ENTRY_IN if closed == 0 else Mt5.DEAL_ENTRY_OUT if after * held >= 0 else Mt5.DEAL_ENTRY_INOUT
        )
        position.lots, position.entry, position.updated_ns = after, float(entry), self.now_ns
        position.swap = 0.0 if after * held <= 0 else position.swap - swap
        if after == 0:
            del self.positions[position.ticket]
        elif order.reason not in (Mt5.ORDER_REASON_SL, Mt5.ORDER_REASON_TP, Mt5.ORDER_REASON_SO) and not by_other:
            self._restop(position, order, reversed_by=order.ticket if after * held < 0 else 0)
        return self._book(
            order, position.identifier, order.ticket, kind, Mt5.DEAL_ENTRY_OUT_BY if by_other else entered, lots, price,
            commission=commission, swap=swap, profit_money=gained,
        )  # fmt: skip

    def _open(self, order: Order, lots: float, price: float) -> Position:
        position = Position(
            order.ticket, order.ticket, order.contract, lots, price, self.now_ns, self.now_ns, order.sl, order.tp,
            order.magic, order.comment, order.reason, visible_ns=self.now_ns + self.hidden_ns,
        )  # fmt: skip
        self.positions[position.ticket] = position
        return position

    def _restop(self, position: Position, order: Order, *, reversed_by: int) -> None:
        """Take an order's stops into the netted position that it changed; a reversed one gets the order's ticket."""
        if self.hedging:
            return
        if reversed_by:
            del self.positions[position.ticket]
            position.ticket, position.opened_ns = reversed_by, self.now_ns
            position.magic, position.comment, position.reason = order.magic, order.comment, order.reason
            position.sl, position.tp = order.sl, order.tp
            self.positions[position.ticket] = position
        elif order.sl or order.tp:
            position.sl, position.tp = order.sl, order.tp

    def _book(
        self, order: Order | None, position: int, order_ticket: int, kind: int, entry: int, lots: float, price: float,
        *, commission: float = 0.0, swap: float = 0.0, profit_money: float = 0.0, comment: str = "", reason: int = 0,
    ) -> int:  # fmt: skip
        """Write a deal and change the balance by it."""
        ticket = self._next_deal
        self._next_deal += 1
        msc = server_msc(self.now_ns)
        deal = TradeDeal(
            ticket=ticket, order=order_ticket, time=msc // 1000, time_msc=msc, type=kind, entry=entry,
            magic=order.magic if order else 0, position_id=position, reason=order.reason if order else reason,
            volume=abs(lots), price=price, commission=commission, swap=swap, profit=profit_money, fee=0.0,
            symbol=order.contract.name if order else "", comment=order.comment if order else comment, external_id="",
        )  # fmt: skip
        self.balance = round(self.balance + commission + swap + profit_money, LOT_DECIMALS)
        self.deals.append(DealRecord(deal, self.now_ns, lots, self.now_ns + self.hidden_ns))
        return ticket

    # What is shown

    def hold_view(self, until_ns: int) -> None:
        """Show open positions and waiting orders as they are now until ``until_ns`` (ns UTC)."""
        view = tuple(self.shown_positions()), tuple(self.shown_orders(past=False))
        self._held_view = (until_ns, *view)

    def shown_positions(self) -> Iterator[Any]:
        """Yield the open positions that can be seen, as TradePosition."""
        if self.now_ns < self._held_view[0]:
            yield from self._held_view[1]
            return
        for item in self.positions.values():
            if item.visible_ns <= self.now_ns:
                yield self._position_tuple(item)

    def _position_tuple(self, item: Position) -> Any:
        bid, ask = self.quote(item.contract)
        opened, updated = server_msc(item.opened_ns), server_msc(item.updated_ns)
        return TradePosition(
            ticket=item.ticket, time=opened // 1000, time_msc=opened, time_update=updated // 1000,
            time_update_msc=updated, type=Mt5.POSITION_TYPE_BUY if item.lots > 0 else Mt5.POSITION_TYPE_SELL,
            magic=item.magic, identifier=item.identifier, reason=item.reason, volume=abs(item.lots),
            price_open=item.entry, sl=item.sl, tp=item.tp, price_current=bid if item.lots > 0 else ask,
            swap=round(item.swap, MONEY_DIGITS), profit=round(self.open_profit(item), MONEY_DIGITS),
            symbol=item.contract.name, comment=item.comment, external_id="",
        )  # fmt: skip

    def shown_orders(self, *, past: bool) -> Iterator[Any]:
        """Yield the waiting or the past orders that can be seen, as TradeOrder."""
        if not past and self.now_ns < self._held_view[0]:
            yield from self._held_view[2]
            return
        for item in self.past_orders if past else self.orders.values():
            if item.visible_ns <= self.now_ns:
                yield self._order_tuple(item)

    def _order_tuple(self, item: Order) -> Any:
        bid, ask = self.quote(item.contract)
        setup, done = server_msc(item.setup_ns), server_msc(item.done_ns) if item.done_ns else 0
        return TradeOrder(
            ticket=item.ticket, time_setup=setup // 1000, time_setup_msc=setup, time_done=done // 1000,
            time_done_msc=done, time_expiration=item.expiration, type=item.kind, type_time=item.lifetime,
            type_filling=item.filling, state=item.state, magic=item.magic,
            position_id=item.position,
            position_by_id=item.position_by, reason=item.reason, volume_initial=item.volume_initial,
            volume_current=item.volume, price_open=item.price, sl=item.sl, tp=item.tp,
            price_current=ask if item.buys else bid, price_stoplimit=item.stoplimit, symbol=item.contract.name,
            comment=item.comment, external_id="",
        )  # fmt: skip

    def shown_deals(self) -> Iterator[Any]:
        """Yield the deals that can be seen, as TradeDeal, oldest first."""
        for item in self.deals:
            if item.visible_ns <= self.now_ns:
                yield from (item.deal,) * (2 if item.shown_twice else 1)


_CONTRACT_FIELDS = frozenset({"trade_mode", "stops_level", "freeze_level", "filling_mask"})


def server_msc(time_ns: int) -> int:
    """Return milliseconds of the server clock, written as an epoch, at ``time_ns`` (ns UTC)."""
    return int(server_time(time_ns)) // MILLISECOND_NS
