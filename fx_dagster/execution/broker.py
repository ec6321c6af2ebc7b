"""What a real broker is to this project: a few calls with typed answers, each checked where it comes in.

Nothing here knows which broker or terminal it is. All times are int64 ns UTC on the market's clock, which an adapter
converts the broker's to; symbols are canonical; lots are signed (> 0: bought) unless a field says otherwise; money is
in the account's currency. An adapter that cannot tell raises BrokerError: what is not known is never an empty list.
"""

import asyncio
import math
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol, TypeAlias, TypeVar

from fx_dagster.errors import BrokerError, DataError
from fx_dagster.execution.orders import Deal, DealReason, OrderIntent
from fx_dagster.market.instruments import Instrument, check_symbol

LOTS_TINY = 1e-8
"""Lots nearer than this are equal: sums of floats, far below any broker's step."""
TEXT_MAX = 500
_NUMBER_END = 2**63


def _whole(owner: str, field: str, value: int, *, least: int = 0) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _NUMBER_END:
        raise DataError(
            f"{owner}: {field} is {value!r}, not a whole number in [{least}, 2^63)", mend="correct the broker's adapter"
        )


def _finite(owner: str, field: str, value: float, *, least: float = -math.inf, above: float = -math.inf) -> None:
    if isinstance(value, bool) or not (isinstance(value, int | float) and math.isfinite(value)):
        raise DataError(f"{owner}: {field} is {value!r}, not a finite number", mend="correct the broker's adapter")
    if value < least or value <= above:
        bound = f"at least {least:g}" if value < least else f"above {above:g}"
        raise DataError(f"{owner}: {field} is {value!r}, must be {bound}", mend="correct the broker's adapter")


def _not_zero(owner: str, field: str, value: float) -> None:
    _finite(owner, field, value)
    if value == 0.0:
        raise DataError(f"{owner}: {field} is 0", mend="leave out what has no lots")


def _text(owner: str, field: str, value: str) -> None:
    if not isinstance(value, str) or len(value) > TEXT_MAX or "\x00" in value:
        raise DataError(
            f"{owner}: {field} is no text of at most {TEXT_MAX} characters without NUL", mend="cut it in the adapter"
        )


# -- answers to an order -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Accepted:
    """The broker took the order. ``lots`` (≥ 0, unsigned) is what it says to have executed; deals confirm it."""

    order: int
    code: int = 0
    text: str = ""
    deal: int = 0
    lots: float = 0.0
    price: float = 0.0

    def __post_init__(self) -> None:
        _check_taken("accepted order", self.order, self.deal, self.lots, self.price, self.text)


@dataclass(frozen=True, slots=True)
class Partial:
    """A part was executed, ``lots`` (> 0, unsigned). ``working``: the rest waits at the broker; else it is gone."""

    order: int
    lots: float
    working: bool
    code: int = 0
    text: str = ""
    deal: int = 0
    price: float = 0.0

    def __post_init__(self) -> None:
        _check_taken("partly executed order", self.order, self.deal, self.lots, self.price, self.text)
        _finite("partly executed order", "lots", self.lots, above=0.0)


@dataclass(frozen=True, slots=True)
class Refused:
    """Definitely not taken, and the same again would not be either."""

    code: int
    text: str

    def __post_init__(self) -> None:
        _whole("refusal", "code", self.code)
        _text("refusal", "text", self.text)


@dataclass(frozen=True, slots=True)
class Requote:
    """Definitely not taken, because the price moved or there was none: a new decision may try under a new key."""

    code: int
    text: str = ""

    def __post_init__(self) -> None:
        _whole("requote", "code", self.code)
        _text("requote", "text", self.text)


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nobody can tell whether the broker took it: a timeout, a lost connection, an answer without meaning."""

    reason: str
    code: int = 0

    def __post_init__(self) -> None:
        _text("unknown answer", "reason", self.reason)


Answer: TypeAlias = Accepted | Partial | Refused | Requote | Unknown


def _check_taken(owner: str, order: int, deal: int, lots: float, price: float, text: str) -> None:
    _whole(owner, "order", order)
    _whole(owner, "deal", deal)
    _finite(owner, "lots", lots, least=0.0)
    _finite(owner, "price", price, least=0.0)
    _text(owner, "text", text)


# -- what the broker shows ---------------------------------------------------------------------------------------------


class OrderStatus(StrEnum):
    """What the broker says of an order of its list or history."""

    WORKING = "working"
    FILLED = "filled"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class BrokerOrder:
    """An order at the broker: one that works, or, where the adapter has the history, one that ended lately."""

    ticket: int
    key: int
    """Our key; 0: it carries none."""
    symbol: str
    lots: float
    """As asked for; signed."""
    lots_left: float
    """Not executed, of the same sign."""
    stop: float
    target: float
    placed_ns: int
    status: OrderStatus = OrderStatus.WORKING
    comment: str = ""

    def __post_init__(self) -> None:
        owner = f"broker's order {self.ticket!r}"
        _whole(owner, "ticket", self.ticket, least=1)
        _whole(owner, "key", self.key)
        _whole(owner, "placed_ns", self.placed_ns)
        check_symbol(self.symbol)
        _not_zero(owner, "lots", self.lots)
        _finite(owner, "lots_left", self.lots_left)
        _finite(owner, "stop", self.stop, least=0.0)
        _finite(owner, "target", self.target, least=0.0)
        _text(owner, "comment", self.comment)
        if self.lots_left * self.lots < 0.0 or abs(self.lots_left) > abs(self.lots) + LOTS_TINY:
            raise DataError(
                f"{owner}: lots_left is {self.lots_left} of {self.lots}",
                mend="give it the sign and at most the size of lots",
            )

    @property
    def executed_lots(self) -> float:
        """What was executed of it, unsigned."""
        return abs(self.lots) - abs(self.lots_left)


@dataclass(frozen=True, slots=True)
class BrokerPosition:
    """An open position at the broker: one a ticket on a hedging account, one a symbol on a netting one."""

    ticket: int
    key: int
    """Our key of the order that opened it; 0: it carries none."""
    symbol: str
    lots: float
    entry_price: float
    stop: float
    """0: none."""
    target: float
    """0: none."""
    opened_ns: int
    profit: float
    swap: float
    comment: str = ""

    def __post_init__(self) -> None:
        owner = f"broker's position {self.ticket!r}"
        _whole(owner, "ticket", self.ticket, least=1)
        _whole(owner, "key", self.key)
        _whole(owner, "opened_ns", self.opened_ns)
        check_symbol(self.symbol)
        _not_zero(owner, "lots", self.lots)
        _finite(owner, "entry_price", self.entry_price, above=0.0)
        _finite(owner, "stop", self.stop, least=0.0)
        _finite(owner, "target", self.target, least=0.0)
        _finite(owner, "profit", self.profit)
        _finite(owner, "swap", self.swap)
        _text(owner, "comment", self.comment)


@dataclass(frozen=True, slots=True)
class BrokerDeal:
    """A fill. Bookings that trade nothing (deposits, credits) are no deals."""

    ticket: int
    order: int
    """The broker's order that made it; 0: none."""
    position: int
    """The broker's ticket of the position that it opened, added to or closed."""
    key: int
    """Our key; 0: it carries none (stop, target, stop-out, a person)."""
    symbol: str
    time_ns: int
    lots: float
    price: float
    commission: float
    """Money paid, ≥ 0; < 0: a rebate."""
    swap: float
    profit: float
    """Of the part that it closed, before commission and swap; 0 where it closed nothing."""
    reason: DealReason
    closing: bool
    comment: str = ""

    def __post_init__(self) -> None:
        owner = f"broker's deal {self.ticket!r}"
        for field in ("order", "position", "key", "time_ns"):
            _whole(owner, field, getattr(self, field))
        _whole(owner, "ticket", self.ticket, least=1)
        check_symbol(self.symbol)
        _not_zero(owner, "lots", self.lots)
        _finite(owner, "price", self.price, above=0.0)
        for field in ("commission", "swap", "profit"):
            _finite(owner, field, getattr(self, field))
        _text(owner, "comment", self.comment)

    def as_deal(self, client_order_id: int, risk_money: float = 0.0) -> Deal:
        """Return it as the session's own record of a fill, of the order ``client_order_id`` (0: none of ours)."""
        return Deal(
            self.ticket, client_order_id, self.symbol, self.time_ns, self.lots, self.price, self.commission, self.swap,
            self.profit, self.reason, self.closing, risk_money,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BrokerAccount:
    """The account as the broker states it."""

    login: str
    currency: str
    balance: float
    equity: float
    margin_used: float
    leverage: float
    hedging: bool
    """Whether one symbol may have several positions; else they are netted."""
    demo: bool
    trade_allowed: bool
    """Whether broker and terminal let programs trade it now."""

    def __post_init__(self) -> None:
        owner = "broker's account"
        _text(owner, "login", self.login)
        if not (len(self.currency) == 3 and self.currency.isascii() and self.currency.isupper()):
            raise DataError(f"{owner}: currency is {self.currency!r}", mend="give an ISO code of three capital letters")
        _finite(owner, "balance", self.balance)
        _finite(owner, "equity", self.equity)
        _finite(owner, "margin_used", self.margin_used, least=0.0)
        _finite(owner, "leverage", self.leverage, above=0.0)


class TradeMode(StrEnum):
    """What the broker lets one do with a symbol."""

    FULL = "full"
    CLOSE_ONLY = "close_only"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class BrokerSpecification:
    """A symbol's contract as the broker states it; prices in its digits, volumes in lots."""

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
    """Monday = 0."""
    stop_distance_points: float
    """Least distance of a stop or target from the price; 0: none."""
    mode: TradeMode

    def __post_init__(self) -> None:
        owner = f"specification of {self.symbol!r}"
        check_symbol(self.symbol)
        _whole(owner, "digits", self.digits)
        _whole(owner, "triple_swap_weekday", self.triple_swap_weekday)
        for field in ("point", "contract_size", "lot_step", "lot_min"):
            _finite(owner, field, getattr(self, field), above=0.0)
        _finite(owner, "lot_max", self.lot_max, least=self.lot_min)
        _finite(owner, "swap_long_points", self.swap_long_points)
        _finite(owner, "swap_short_points", self.swap_short_points)
        _finite(owner, "stop_distance_points", self.stop_distance_points, least=0.0)
        if not math.isclose(self.point, 10.0**-self.digits, rel_tol=1e-9):
            raise DataError(
                f"{owner}: point is {self.point} with {self.digits} digits", mend="reload the specification"
            )

    def over(self, item: Instrument) -> Instrument:
        """Return the catalogue's instrument with what the broker says in place of what is usual.

        Raises:
            DataError: they are two symbols, or of two currencies.
        """
        mine = (self.symbol, self.base_currency, self.profit_currency)
        if mine != (item.symbol, item.base_currency, item.profit_currency):
            raise DataError(
                f"the broker's {' '.join(mine)} is not {item.symbol} ({item.base_currency}/{item.profit_currency})",
                mend="map the broker's name to another symbol",
            )
        return replace(
            item, digits=self.digits, point=self.point, contract_size=self.contract_size, lot_step=self.lot_step,
            lot_min=self.lot_min, lot_max=self.lot_max, swap_long_points=self.swap_long_points,
            swap_short_points=self.swap_short_points, triple_swap_weekday=self.triple_swap_weekday,
        )  # fmt: skip


class Broker(Protocol):
    """A broker's adapter. Every call has a deadline of its own and never blocks the event loop.

    What :meth:`send` raises counts as Unknown: only a typed answer says that the broker did not take an order.
    """

    async def send(self, intent: OrderIntent) -> Answer:
        """Send one order, once: no adapter sends by itself again."""
        ...

    async def orders(self) -> tuple[BrokerOrder, ...]:
        """Return all orders that work, whoever's they are, and those that ended lately where they can be told.

        Raises:
            BrokerError: they cannot be told.
        """
        ...

    async def positions(self) -> tuple[BrokerPosition, ...]:
        """Return all open positions, whoever's they are.

        Raises:
            BrokerError: they cannot be told.
        """
        ...

    async def deals(self, since_ns: int) -> tuple[BrokerDeal, ...]:
        """Return all deals from ``since_ns`` on, whoever's they are, in any order; earlier ones do no harm.

        Raises:
            BrokerError: they cannot be told.
        """
        ...

    async def account(self) -> BrokerAccount:
        """Return the account's money and whether it may trade.

        Raises:
            BrokerError: it cannot be told.
        """
        ...

    async def specification(self, symbol: str) -> BrokerSpecification:
        """Return a canonical symbol's contract.

        Raises:
            BrokerError: it cannot be told.
            UnknownSymbolError: the broker does not have it.
        """
        ...


@dataclass(frozen=True, slots=True)
class BrokerView:
    """What the broker shows. None: it could not be told, which is not the same as nothing.

    Attributes:
        time_ns: the market's clock *before* the first question: everything before it may be expected to be seen, apart
            from the broker's delay.
        deals_since_ns: from when on ``deals`` is complete.
    """

    time_ns: int
    deals_since_ns: int
    orders: tuple[BrokerOrder, ...] | None
    positions: tuple[BrokerPosition, ...] | None
    deals: tuple[BrokerDeal, ...] | None
    problem: str = ""

    @property
    def complete(self) -> bool:
        """Whether absence from it means something."""
        return self.orders is not None and self.positions is not None and self.deals is not None


_Seen = TypeVar("_Seen")


async def look(broker: Broker, time_ns: int, deals_since_ns: int, *, deadline_s: float = 5.0) -> BrokerView:
    """Ask the broker for everything that reconciliation needs.

    Orders come first, then positions, then deals: an order that is filled in between is then seen twice, which is
    harmless, and never not at all.

    Args:
        broker: whom to ask.
        time_ns: the market's clock now.
        deals_since_ns: from when on deals are wanted.
        deadline_s: longest wait for each of the three.
    """
    problems: list[str] = []

    async def ask(name: str, call: Awaitable[_Seen]) -> _Seen | None:
        try:
            async with asyncio.timeout(deadline_s):
                return await call
        except (BrokerError, DataError, TimeoutError) as error:
            problems.append(f"{name}: {str(error) or 'no answer in time'}")
            return None

    orders = await ask("orders", broker.orders())
    positions = await ask("positions", broker.positions())
    deals = await ask("deals", broker.deals(deals_since_ns))
    return BrokerView(time_ns, deals_since_ns, orders, positions, deals, "; ".join(problems))
