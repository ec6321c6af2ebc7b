"""A broker on paper: a netting account filled against real or modelled quotes.

Assumptions about execution, all in one place:

- A market order is filled whole at the first quote *after* the time of the data it was decided on: the ask for a buy,
  the bid for a sell, plus ``slippage_points`` against the account.
- Stops and targets are watched tick by tick on the side that closes the position (bid for long, ask for short). A gap
  through the stop fills at the quote beyond it; see :func:`fx_dagster.execution.fills.exit_price`.
- Commission is taken at each fill. Swap gathers on the position at 17:00 New York (three nights on the instrument's
  triple weekday) and is realised in proportion when the position closes.
- When equity falls below ``stop_out_level`` of margin, the position with the largest loss is closed, and so on.
- Modelled ticks inside one bar are passed with ``continuous=True``.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from fx_dagster.compiled import interpreted
from fx_dagster.decision.sizing import floor_steps, lot_grid
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import fills
from fx_dagster.execution.conversion import conversion_paths, converted
from fx_dagster.execution.orders import (
    Account,
    Deal,
    DealReason,
    OrderIntent,
    OrderResult,
    OrderState,
    Position,
    Purpose,
)
from fx_dagster.execution.swap import next_rollover, swap_nights
from fx_dagster.market.instruments import Instrument
from fx_dagster.settings import CostSettings, RiskSettings

FORMAT = "fx-paper-account-1"
KEPT_ORDERS = 2_000
KEPT_DEALS = 10_000

DONE, PLACED = 10009, 10008
INVALID_VOLUME, INVALID_STOPS, NO_MONEY, EXPIRED, POSITION_CLOSED, NO_PRICES = 10014, 10016, 10019, 10022, 10036, 10021
"""MetaTrader 5's return codes."""

_exit_price = interpreted(fills.exit_price)
_margin_of = interpreted(fills.margin)
_market_price = interpreted(fills.market_price)
_netted = interpreted(fills.netted)
_open_profit = interpreted(fills.open_profit)
_profit = interpreted(fills.profit)
_stops_possible = interpreted(fills.stops_possible)
_swap_money = interpreted(fills.swap_money)
_touched = interpreted(fills.touched)


@dataclass(slots=True)
class _Held:
    lots: float
    entry_price: float
    stop: float
    target: float
    opened_ns: int
    client_order_id: int
    ticket: int
    risk_money: float
    swap: float = 0.0


@dataclass(slots=True)
class _Quote:
    time_ns: int
    bid: float
    ask: float


class PaperBroker:
    """An account on paper; implements :class:`fx_dagster.execution.broker.Broker`.

    Feed it every tick through :meth:`on_tick`, before the decision on that tick. Not thread-safe; one owner.

    Attributes:
        name: account name.
        balance: money without open positions.
    """

    def __init__(
        self, name: str, instruments: Sequence[Instrument], risk: RiskSettings, cost: CostSettings, *,
        stop_out_level: float = 0.5,
    ) -> None:  # fmt: skip
        if not 0 < stop_out_level < 1:
            raise SettingsError(f"stop_out_level is {stop_out_level}", mend="give equity over margin, in (0, 1)")
        self.name = name
        self.balance = float(risk.initial_balance)
        self._instruments = {item.symbol: item for item in instruments}
        self._risk, self._cost, self._stop_out_level = risk, cost, stop_out_level
        self._paths = conversion_paths(instruments, risk.account_currency)
        self._grids = {item.symbol: lot_grid(item.lot_step) for item in instruments}
        self._quotes: dict[str, _Quote] = {}
        self._held: dict[str, _Held] = {}
        self._marks: dict[str, tuple[float, float]] = {}
        self._waiting: dict[str, list[OrderIntent]] = {}
        self._results: OrderedDict[int, OrderResult] = OrderedDict()
        self._deals: list[Deal] = []
        self._ticket = 0
        self._clock = 0
        self._rollover = 0

    # -- broker protocol -------------------------------------------------------------------------------------------

    async def submit(self, intent: OrderIntent) -> OrderResult:
        """Take an order; market orders wait for the next quote. A repeated key returns the first one's state."""
        return self.place(intent)

    async def find(self, client_order_id: int) -> OrderResult | None:
        """Return what became of an order; None: it was never taken."""
        return self._results.get(client_order_id)

    async def positions(self) -> Sequence[Position]:
        """Return the open positions."""
        return self.open_positions()

    async def account(self) -> Account:
        """Return the account's money at the last quotes."""
        return self.money()

    async def deals(self, since_ns: int) -> Sequence[Deal]:
        """Return kept deals from then on, oldest first."""
        return tuple(deal for deal in self._deals if deal.time_ns >= since_ns)

    # -- the same without waiting ----------------------------------------------------------------------------------

    def place(self, intent: OrderIntent) -> OrderResult:
        """Take an order; see :meth:`submit`."""
        known = self._results.get(intent.client_order_id)
        if known is not None:
            return known
        refusal = self._refusal(intent)
        if refusal is not None:
            return self._settle(intent, OrderState.REJECTED, *refusal)
        if intent.purpose is Purpose.MODIFY:
            return self._modify(intent)
        self._waiting.setdefault(intent.symbol, []).append(intent)
        return self._settle(intent, OrderState.ACCEPTED, PLACED, "waits for the next quote")

    def result(self, client_order_id: int) -> OrderResult | None:
        """Return what became of an order."""
        return self._results.get(client_order_id)

    def open_positions(self) -> tuple[Position, ...]:
        """Return the open positions, by symbol."""
        return tuple(self._position(symbol, held) for symbol, held in sorted(self._held.items()))

    def money(self) -> Account:
        """Return balance, equity and margin at the last quotes."""
        equity = self.balance + sum(self._floating(symbol) + held.swap for symbol, held in self._held.items())
        return Account(
            name=self.name, currency=self._risk.account_currency, balance=self.balance, equity=equity,
            margin_used=sum(self._margin(symbol, held.lots) for symbol, held in self._held.items()),
            leverage=self._risk.leverage,
        )  # fmt: skip

    def conversion(self, symbol: str) -> float:
        """Return account currency per unit of the symbol's profit currency; NaN while a quote for it is missing."""
        return converted(self._paths[symbol], self._mid, 1.0)

    def on_tick(
        self, symbol: str, time_ns: int, bid: float, ask: float, *, continuous: bool = False
    ) -> tuple[Deal, ...]:
        """Take a quote: swap that fell due, waiting orders, stops and targets, stop-out. Return the deals it made.

        Args:
            symbol: canonical symbol.
            time_ns: ns UTC, not before the quotes already taken.
            bid: > 0.
            ask: ≥ bid.
            continuous: price moved here without a gap from this symbol's last quote (modelled ticks inside a bar).

        Raises:
            DataError: the quote is impossible; ticks are validated before they come here.
        """
        if not (0.0 < bid <= ask < float("inf")):
            raise DataError(f"{symbol}: quote {bid}/{ask} reached the paper broker", mend="validate ticks first")
        first = len(self._deals)
        self._advance(time_ns)
        self._quotes[symbol] = _Quote(time_ns, bid, ask)
        if symbol in self._held:
            self._watch(symbol, continuous)
        if self._waiting.get(symbol):
            self._fill_waiting(symbol)
            if symbol in self._held:
                self._watch(symbol, False)
        if symbol in self._held:
            self._marks[symbol] = (
                self._floating(symbol) + self._held[symbol].swap,
                self._margin(symbol, self._held[symbol].lots),
            )
        if self._held and self._margin_is_thin():
            self._stop_out()
        made = tuple(self._deals[first:])
        if len(self._deals) > 2 * KEPT_DEALS:
            del self._deals[:-KEPT_DEALS]
        return made

    # -- state -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return everything that a restart needs, as JSON bytes."""
        return json.dumps(
            {
                "format": FORMAT,
                "balance": self.balance,
                "ticket": self._ticket,
                "clock": self._clock,
                "rollover": self._rollover,
                "quotes": {symbol: asdict(quote) for symbol, quote in self._quotes.items()},
                "held": {symbol: asdict(held) for symbol, held in self._held.items()},
                "waiting": {symbol: [asdict(intent) for intent in line] for symbol, line in self._waiting.items()},
                "results": [asdict(result) for result in self._results.values()],
                "deals": [asdict(deal) for deal in self._deals[-KEPT_DEALS:]],
            }
        ).encode()

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot.

        Raises:
            DataError: it is not one, of another version, or holds a symbol that is not traded here.
        """
        try:
            body = json.loads(data)
            if body["format"] != FORMAT:
                raise DataError(f"paper account of format {body['format']!r}", mend=f"this version reads {FORMAT}")
            held = {symbol: _Held(**row) for symbol, row in body["held"].items()}
            quotes = {symbol: _Quote(**row) for symbol, row in body["quotes"].items()}
            waiting = {symbol: [_intent(row) for row in line] for symbol, line in body["waiting"].items()}
            results = [_result(row) for row in body["results"]]
            deals = [_deal(row) for row in body["deals"]]
            numbers = (float(body["balance"]), int(body["ticket"]), int(body["clock"]), int(body["rollover"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"paper account snapshot cannot be read: {error}", mend="start a new account") from error
        unknown = sorted((set(held) | set(waiting)) - set(self._instruments))
        if unknown:
            raise DataError(f"paper account holds {unknown[0]}, which is not traded here", mend="add it to the symbols")
        self.balance, self._ticket, self._clock, self._rollover = numbers
        self._held, self._quotes, self._waiting, self._deals = held, quotes, waiting, deals
        self._marks = {
            symbol: (self._floating(symbol) + held.swap, self._margin(symbol, held.lots))
            for symbol, held in self._held.items()
        }
        self._results = OrderedDict((result.client_order_id, result) for result in results)

    # -- inside ----------------------------------------------------------------------------------------------------

    def _refusal(self, intent: OrderIntent) -> tuple[int, str] | None:
        item = self._instruments.get(intent.symbol)
        if item is None:
            return INVALID_VOLUME, f"{intent.symbol} is not traded here"
        if intent.purpose is Purpose.MODIFY:
            return None
        numerator, denominator = self._grids[intent.symbol]
        lots = abs(intent.lots)
        on_grid = floor_steps(lots, numerator, denominator) * numerator / denominator == lots
        if not (on_grid and (intent.purpose is Purpose.CLOSE or item.lot_min <= lots <= item.lot_max) and lots > 0):
            return INVALID_VOLUME, f"{intent.lots} lots are not on the grid of {item.lot_step}, or out of bounds"
        if intent.purpose is Purpose.OPEN and not intent.stop > 0:
            return INVALID_STOPS, "an entry needs a stop"
        return None

    def _settle(
        self, intent: OrderIntent, state: OrderState, retcode: int, message: str = "", deals: tuple[Deal, ...] = ()
    ) -> OrderResult:
        known = self._results.get(intent.client_order_id)
        order = known.broker_order if known else self._next_ticket()
        result = OrderResult(intent.client_order_id, state, retcode, message, order, deals)
        self._results[intent.client_order_id] = result
        while len(self._results) > KEPT_ORDERS:
            oldest = next(iter(self._results))
            if self._results[oldest].state is OrderState.ACCEPTED:
                break
            del self._results[oldest]
        return result

    def _modify(self, intent: OrderIntent) -> OrderResult:
        held, quote = self._held.get(intent.symbol), self._quotes.get(intent.symbol)
        if held is None or quote is None:
            return self._settle(intent, OrderState.REJECTED, POSITION_CLOSED, "there is no position to protect")
        if not (intent.stop > 0 and _stops_possible(held.lots, intent.stop, intent.target, quote.bid, quote.ask)):
            return self._settle(intent, OrderState.REJECTED, INVALID_STOPS, "the market is beyond the stop or target")
        held.stop, held.target = intent.stop, intent.target
        return self._settle(intent, OrderState.FILLED, DONE)

    def _fill_waiting(self, symbol: str) -> None:
        line, self._waiting[symbol] = self._waiting[symbol], []
        quote = self._quotes[symbol]
        for intent in line:
            if quote.time_ns <= intent.decided_ns:
                self._waiting[symbol].append(intent)
            elif intent.expires_ns and quote.time_ns >= intent.expires_ns:
                self._settle(intent, OrderState.CANCELLED, EXPIRED, "expired before a quote came")
            elif intent.purpose is Purpose.CLOSE:
                self._fill_close(intent)
            else:
                self._fill_open(intent)

    def _fill_close(self, intent: OrderIntent) -> None:
        held = self._held.get(intent.symbol)
        if held is None or held.lots * intent.lots >= 0:
            self._settle(intent, OrderState.REJECTED, POSITION_CLOSED, "there is no position to close")
            return
        # A close never turns the position around, however large it was when it was decided.
        lots = intent.lots if abs(intent.lots) < abs(held.lots) else -held.lots
        deal = self._trade(intent.symbol, lots, None, DealReason.CLIENT, intent.client_order_id)
        self._settle(intent, OrderState.FILLED, DONE, deals=(deal,))

    def _fill_open(self, intent: OrderIntent) -> None:
        quote, held = self._quotes[intent.symbol], self._held.get(intent.symbol)
        if not np.isfinite(self.conversion(intent.symbol)):
            self._settle(intent, OrderState.REJECTED, NO_PRICES, "no quote converts its profit currency yet")
            return
        if held is not None and held.lots * intent.lots < 0:
            self._settle(intent, OrderState.REJECTED, INVALID_VOLUME, "an entry against an open position: close first")
            return
        if not _stops_possible(intent.lots, intent.stop, intent.target, quote.bid, quote.ask):
            self._settle(intent, OrderState.REJECTED, INVALID_STOPS, "the market moved beyond the stop or target")
            return
        money = self.money()
        if money.equity - money.margin_used < self._margin(intent.symbol, intent.lots):
            self._settle(intent, OrderState.REJECTED, NO_MONEY, "free margin does not suffice")
            return
        deal = self._trade(intent.symbol, intent.lots, None, DealReason.CLIENT, intent.client_order_id)
        opened = self._held[intent.symbol]
        opened.stop, opened.target = intent.stop, intent.target
        opened.risk_money += intent.risk_money
        self._settle(intent, OrderState.FILLED, DONE, deals=(deal,))

    def _watch(self, symbol: str, continuous: bool) -> None:
        held, quote = self._held[symbol], self._quotes[symbol]
        what = _touched(held.lots, held.stop, held.target, quote.bid, quote.ask)
        if what == fills.NOTHING:
            return
        price = _exit_price(
            what, held.lots, held.stop, held.target, quote.bid, quote.ask, self._slippage(symbol), continuous
        )
        self._trade(symbol, -held.lots, price, DealReason.STOP if what == fills.STOP else DealReason.TARGET, 0)

    def _margin_is_thin(self) -> bool:
        # By each symbol's value at its own last quote, in one sum a tick; exact values only when it comes close.
        equity = self.balance + sum(value for value, _ in self._marks.values())
        return equity < 2 * self._stop_out_level * sum(bound for _, bound in self._marks.values())

    def _stop_out(self) -> None:
        while self._held:
            money = self.money()
            if money.margin_used <= 0 or money.equity >= self._stop_out_level * money.margin_used:
                return
            worst = min(self._held, key=lambda symbol: (self._floating(symbol) + self._held[symbol].swap, symbol))
            self._trade(worst, -self._held[worst].lots, None, DealReason.STOP_OUT, 0)

    def _trade(self, symbol: str, lots: float, price: float | None, reason: DealReason, key: int) -> Deal:
        quote, item = self._quotes[symbol], self._instruments[symbol]
        price = _market_price(lots, quote.bid, quote.ask, self._slippage(symbol)) if price is None else price
        held = self._held.get(symbol)
        before, entry = (held.lots, held.entry_price) if held else (0.0, 0.0)
        after, average, closed = _netted(before, entry, lots, price)
        share = abs(closed / before) if closed else 0.0
        gain = _profit(closed, entry, price, item.contract_size, self.conversion(symbol)) if closed else 0.0
        swap = held.swap * share if held else 0.0
        risk = held.risk_money * share if held else 0.0
        commission = self._cost.commission_per_lot * abs(lots)
        self.balance += gain + swap - commission
        deal = Deal(self._next_ticket(), key, symbol, quote.time_ns, lots, price, commission, swap, gain, reason,
                    closed != 0.0, risk)  # fmt: skip
        self._deals.append(deal)
        self._keep(symbol, held, self._on_grid(symbol, after), average, swap, risk, deal)
        return deal

    def _keep(
        self, symbol: str, held: _Held | None, lots: float, average: float, swap: float, risk: float, deal: Deal
    ) -> None:
        if lots == 0.0:
            self._held.pop(symbol, None)
            self._marks.pop(symbol, None)
        elif held is None:
            self._held[symbol] = _Held(lots, average, 0.0, 0.0, deal.time_ns, deal.client_order_id, deal.ticket, 0.0)
        else:
            held.lots, held.entry_price = lots, average
            held.swap -= swap
            held.risk_money -= risk

    def _on_grid(self, symbol: str, lots: float) -> float:
        numerator, denominator = self._grids[symbol]
        return float(np.sign(lots)) * round(abs(lots) * denominator / numerator) * numerator / denominator

    def _advance(self, time_ns: int) -> None:
        if time_ns < self._clock:
            raise DataError(f"quote at {time_ns} after one at {self._clock}", mend="feed ticks in the order of time")
        if self._clock and time_ns >= self._rollover:
            for symbol, held in self._held.items():
                held.swap += self._swap(symbol, held.lots, self._clock, time_ns)
        if time_ns >= self._rollover:
            self._rollover = next_rollover(time_ns)
        self._clock = time_ns

    def _swap(self, symbol: str, lots: float, since: int, until: int) -> float:
        item = self._instruments[symbol]
        nights = int(swap_nights(np.array([since, until], dtype=np.int64), item.triple_swap_weekday)[-1])
        return float(
            _swap_money(lots, nights, item.swap_long_points, item.swap_short_points, item.point, item.contract_size,
                       self.conversion(symbol))
        )  # fmt: skip

    def _floating(self, symbol: str) -> float:
        held, quote, item = self._held[symbol], self._quotes[symbol], self._instruments[symbol]
        return float(
            _open_profit(held.lots, held.entry_price, quote.bid, quote.ask, item.contract_size, self.conversion(symbol))
        )

    def _margin(self, symbol: str, lots: float) -> float:
        item, quote = self._instruments[symbol], self._quotes[symbol]
        rate = max(item.margin_rate, 1.0 / self._risk.leverage)
        return float(_margin_of(lots, quote.ask, item.contract_size, self.conversion(symbol), rate))

    def _position(self, symbol: str, held: _Held) -> Position:
        return Position(
            symbol=symbol, ticket=held.ticket, lots=held.lots, entry_price=held.entry_price, stop=held.stop,
            target=held.target, opened_ns=held.opened_ns, client_order_id=held.client_order_id,
            profit=self._floating(symbol), swap=held.swap, margin=self._margin(symbol, held.lots),
        )  # fmt: skip

    def _slippage(self, symbol: str) -> float:
        return self._cost.slippage_points * self._instruments[symbol].point

    def _mid(self, symbol: str) -> float:
        quote = self._quotes.get(symbol)
        return 0.5 * (quote.bid + quote.ask) if quote else float("nan")

    def _next_ticket(self) -> int:
        self._ticket += 1
        return self._ticket


def _intent(row: Mapping[str, object]) -> OrderIntent:
    return replace(OrderIntent(**row), purpose=Purpose(str(row["purpose"])))  # type: ignore[arg-type]


def _deal(row: Mapping[str, object]) -> Deal:
    return replace(Deal(**row), reason=DealReason(str(row["reason"])))  # type: ignore[arg-type]


def _result(row: Mapping[str, object]) -> OrderResult:
    deals = tuple(_deal(deal) for deal in row["deals"])  # type: ignore[attr-defined]
    return replace(OrderResult(**row), state=OrderState(str(row["state"])), deals=deals)  # type: ignore[arg-type]
