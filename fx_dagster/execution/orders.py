"""Orders: what is asked of the broker, what it answers, and the states between.

An order is journalled before it is sent; an accepted one waits for a quote.
"""

import hashlib
from dataclasses import dataclass, field
from enum import StrEnum


class OrderState(StrEnum):
    """Where an order is in its life; :mod:`fx_dagster.execution.lifecycle` says what may follow what."""

    PLANNED = "planned"
    """Decided; nothing durable knows of it."""
    JOURNALLED = "journalled"
    SENT = "sent"
    UNKNOWN = "unknown"
    """The broker may have it or not."""
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    PARTIAL = "partial"
    """Some of it is filled; the rest waits, or what became of it is not confirmed."""
    FILLED = "filled"
    CANCELLED = "cancelled"
    """Nothing more comes of it; a part may have been filled before."""

    @property
    def terminal(self) -> bool:
        """Whether nothing can follow."""
        return self in {OrderState.REJECTED, OrderState.FILLED, OrderState.CANCELLED}


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
    MANUAL = "manual"
    """By a person or another program."""
    OTHER = "other"
    """By the broker: a rollover, a split, a correction."""


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
    position: int = 0
    """The broker's ticket of the position that a CLOSE or MODIFY is about; 0: the symbol's only one."""


@dataclass(frozen=True, slots=True)
class Transition:
    """A state that an order reached."""

    client_order_id: int
    state: OrderState
    time_ns: int
    broker_order: int = 0
    message: str = ""


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
