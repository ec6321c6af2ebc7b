"""What the live session needs of an order journal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from fx_dagster.execution.orders import Deal, OrderIntent, OrderState, Position


@dataclass(frozen=True, slots=True)
class JournalledOrder:
    """An order as the journal knows it."""

    intent: OrderIntent
    state: OrderState
    changed_ns: int
    broker_order: int
    filled_lots: float
    """Signed sum of its deals."""


@dataclass(frozen=True, slots=True)
class OpenState:
    """What a starting engine continues from."""

    orders: tuple[JournalledOrder, ...]
    """Orders in a state that is not terminal."""
    positions: tuple[Position, ...]
    last_deal_ns: int
    snapshots: dict[str, bytes]
    """Newest snapshot by name (``decision``, ``paper``)."""


@runtime_checkable
class Journal(Protocol):
    """Durable memory of the account. Each method has committed when it returns.

    Raises:
        JournalError: nothing was committed; no order may be sent.
        FencedError: another engine holds the account.
    """

    async def record(self, intent: OrderIntent) -> bool:
        """Commit an intent as ``journalled``; False where its key is already there (then it must not be sent)."""
        ...

    async def transition(
        self, client_order_id: int, state: OrderState, *, time_ns: int, broker_order: int = 0, message: str = ""
    ) -> None:
        """Commit a change of state; an illegal one raises TradingError."""
        ...

    async def apply(self, deal: Deal) -> bool:
        """Commit a deal and the position it leads to; False where its ticket was applied before."""
        ...

    async def snapshot(self, name: str, data: bytes, *, time_ns: int) -> None:
        """Commit the newest snapshot of a part's state."""
        ...

    async def load(self) -> OpenState:
        """Return what was open at the last commit."""
        ...

    async def orders(self, states: Sequence[OrderState]) -> Sequence[JournalledOrder]:
        """Return orders in one of the states, oldest first."""
        ...
