"""What the live session needs of a broker."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from fx_dagster.execution.orders import Account, Deal, OrderIntent, OrderResult, Position


@runtime_checkable
class Broker(Protocol):
    """A trading account. Every call ends within a deadline; what cannot be known is ``unknown``, never guessed."""

    name: str

    async def submit(self, intent: OrderIntent) -> OrderResult:
        """Send one order, once. ``accepted`` without deals is normal: fills are seen in :meth:`deals`.

        A repeated ``client_order_id`` never trades again: the state of the first is returned.

        Raises:
            BrokerError: the broker refuses the call itself or cannot be reached *before* anything was sent.
        """
        ...

    async def find(self, client_order_id: int) -> OrderResult | None:
        """Return the broker's own view of an order by its key; None: the broker does not know it (yet)."""
        ...

    async def positions(self) -> Sequence[Position]:
        """Return all open positions, foreign ones (``client_order_id`` 0) included."""
        ...

    async def account(self) -> Account:
        """Return the account's money."""
        ...

    async def deals(self, since_ns: int) -> Sequence[Deal]:
        """Return deals with ``time_ns >= since_ns``, oldest first, also those made by the server."""
        ...
