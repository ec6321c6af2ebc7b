"""Orders: what is asked of the broker, what it answers, and the states between.

``planned → journalled → sent → accepted | rejected | unknown → filled | partial | cancelled``; the table
:data:`TRANSITIONS` is the whole truth. ``unknown`` (no answer in time) is resolved by asking the broker by
``client_order_id``, never by sending again; ``not_sent`` and ``held`` are its two other ends. A fill may arrive
before the acknowledgement.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum

from fx_dagster.errors import TradingError


class OrderState(StrEnum):
    """Where an order is in its life."""

    PLANNED = "planned"
    JOURNALLED = "journalled"
    SENT = "sent"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    PARTIAL = "partial"
    FILLED = "filled"
    CANCELLED = "cancelled"
    NOT_SENT = "not_sent"
    """Asked after a quiet period longer than the broker's worst delay: it never had the order."""
    HELD = "held"
    """Beyond doubt's reach; a person decides."""

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow."""
        return not TRANSITIONS[self]

    @property
    def open(self) -> bool:
        """Whether the broker may have it or get it: nothing else is sent for the symbol meanwhile."""
        return self in {OrderState.JOURNALLED, OrderState.SENT, OrderState.ACCEPTED, OrderState.UNKNOWN,
                        OrderState.PARTIAL, OrderState.HELD}  # fmt: skip


_S = OrderState
TRANSITIONS: dict[OrderState, frozenset[OrderState]] = {
    _S.PLANNED: frozenset({_S.JOURNALLED, _S.CANCELLED}),
    _S.JOURNALLED: frozenset({_S.SENT, _S.CANCELLED}),
    _S.SENT: frozenset({_S.ACCEPTED, _S.REJECTED, _S.UNKNOWN, _S.PARTIAL, _S.FILLED, _S.CANCELLED}),
    _S.ACCEPTED: frozenset({_S.PARTIAL, _S.FILLED, _S.CANCELLED, _S.UNKNOWN, _S.REJECTED}),
    _S.UNKNOWN: frozenset({_S.ACCEPTED, _S.REJECTED, _S.PARTIAL, _S.FILLED, _S.CANCELLED, _S.NOT_SENT, _S.HELD}),
    _S.HELD: frozenset({_S.ACCEPTED, _S.REJECTED, _S.PARTIAL, _S.FILLED, _S.CANCELLED, _S.NOT_SENT}),
    _S.PARTIAL: frozenset({_S.PARTIAL, _S.FILLED, _S.CANCELLED, _S.UNKNOWN}),
    _S.REJECTED: frozenset(),
    _S.FILLED: frozenset(),
    _S.CANCELLED: frozenset(),
    _S.NOT_SENT: frozenset(),
}


def transition(current: OrderState, following: OrderState) -> OrderState:
    """Return ``following`` if an order may go there from ``current``.

    Raises:
        TradingError: it may not.
    """
    if following not in TRANSITIONS[current]:
        allowed = ", ".join(sorted(TRANSITIONS[current])) or "nothing: it is final"
        raise TradingError(
            f"an order cannot go from {current} to {following}", mend=f"from {current} it may go to {allowed}"
        )
    return following


class Purpose(StrEnum):
    """What an order is for."""

    OPEN = "open"
    CLOSE = "close"
    MODIFY = "modify"


class DealReason(StrEnum):
    """Why a deal was made."""

    CLIENT = "client"
    STOP = "stop"
    TARGET = "target"
    STOP_OUT = "stop_out"


def client_order_id(account: str, session: str, symbol: str, bar_time: int, purpose: Purpose, attempt: int = 0) -> int:
    """Return the order's key: 63 bits, never 0, the same for the same decision in every process and after a restart.

    Args:
        account: account name.
        session: trading session, stable over restarts of the engine inside it.
        symbol: canonical symbol.
        bar_time: opening time (ns UTC) of the newest closed bar.
        purpose: open, close or modify.
        attempt: 0, or a count for a new decision in the same bar after a definite refusal.
    """
    parts = "\x1f".join((account, session, symbol, str(bar_time), purpose, str(attempt)))
    digest = hashlib.blake2b(parts.encode(), digest_size=8, person=b"fx-order").digest()
    return (int.from_bytes(digest, "big") & 0x7FFF_FFFF_FFFF_FFFF) or 1


@dataclass(frozen=True, slots=True)
class OrderIntent:
    """A market order (or a change of stop and target) as it is journalled before it is sent."""

    client_order_id: int
    account: str
    symbol: str
    purpose: Purpose
    lots: float
    """Signed lots to trade: > 0 buys. 0 for MODIFY."""
    stop: float
    """Server-side stop price; 0 only for CLOSE."""
    target: float
    decided_ns: int
    """Time of the deciding data: no fill may use a quote at or before it."""
    expires_ns: int
    """A broker or bridge refuses the intent from then on."""
    risk_money: float = 0.0
    """Money lost at the stop, for the statistics of closed trades."""
    epoch: int = 0
    """Fencing: a lower epoch than the newest seen is refused."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Deal:
    """A fill."""

    ticket: int
    """Unique at the broker; a deal is applied once by it."""
    client_order_id: int
    """0 for deals that the server made (stop, target, stop-out)."""
    symbol: str
    time_ns: int
    lots: float
    """Signed: > 0 bought."""
    price: float
    commission: float
    """Money paid, ≥ 0."""
    swap: float
    """Swap realised with the closed part; < 0 is paid."""
    profit: float
    """Profit of the closed part before commission and swap; 0 for an entry."""
    reason: DealReason
    closing: bool
    """Whether it closed (a part of) a position."""
    risk_money: float = 0.0
    """Of a closing deal: money that the closed part had at risk when it opened; 0: unknown."""


@dataclass(frozen=True, slots=True)
class OrderResult:
    """What the broker says of an order."""

    client_order_id: int
    state: OrderState
    retcode: int
    """MetaTrader 5's return code, or 0."""
    message: str = ""
    broker_order: int = 0
    deals: tuple[Deal, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Position:
    """An open position, netted per symbol."""

    symbol: str
    ticket: int
    lots: float
    entry_price: float
    stop: float
    target: float
    opened_ns: int
    client_order_id: int
    """Of the entry; 0 for a manual or foreign position."""
    profit: float
    swap: float
    margin: float


@dataclass(frozen=True, slots=True)
class Account:
    """Money of the account, in its currency."""

    name: str
    currency: str
    balance: float
    equity: float
    margin_used: float
    leverage: float

    @property
    def margin_free(self) -> float:
        """Equity not bound by positions."""
        return self.equity - self.margin_used
