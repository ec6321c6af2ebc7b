"""The paper account as the engine uses it: orders in, deals and order states out; and what any account says is new.

Quotes reach the account inside the core's loop; what they changed there is taken over here.
"""

import json
from dataclasses import dataclass

import numpy as np

from fx_dagster.core.tape import Adopted
from fx_dagster.execution.broker import BrokerPosition
from fx_dagster.execution.lifecycle import Dealt, Step, Verdict
from fx_dagster.execution.orders import Account, Deal, OrderIntent, OrderState, Position
from fx_dagster.execution.paper import PaperBroker
from fx_dagster.live.records import AccountRecord, Transition


@dataclass(frozen=True)
class Movement:
    """What changed at an account.

    Attributes:
        deals: on paper.
        transitions: of orders on paper.
        steps: at a real broker, in order.
        foreign: positions there that are not ours, where they are others than before; None: they are not.
        foreign_ns: as of when, ns UTC.
        adopted: what the core is to take over of a real account; None: nothing new.
        news: for a person: kind, symbol, message.
    """

    deals: tuple[Deal, ...] = ()
    transitions: tuple[Transition, ...] = ()
    steps: tuple[Step, ...] = ()
    foreign: tuple[BrokerPosition, ...] | None = None
    foreign_ns: int = 0
    adopted: Adopted | None = None
    news: tuple[tuple[str, str | None, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.deals or self.transitions or self.steps or self.foreign is not None)

    @property
    def deal_count(self) -> int:
        """How many deals are new."""
        fresh = sum(isinstance(one.event, Dealt) and one.verdict is not Verdict.REPEATED for one in self.steps)
        return len(self.deals) + fresh


class PaperDesk:
    """Follows the open orders of the paper broker.

    Args:
        broker: the account on paper.
    """

    def __init__(self, broker: PaperBroker) -> None:
        self.broker = broker
        self._open: dict[int, OrderState] = {}

    def drain(self) -> Movement:
        """Return what the quotes since the last call changed."""
        deals = self.broker.drain()
        return Movement(deals, self._changes()) if deals or self._open else Movement()

    def place(self, intent: OrderIntent, time_ns: int) -> Movement:
        """Send one order; a key that the broker knows is never traded again."""
        result = self.broker.place(intent)
        sent = Transition(intent.client_order_id, OrderState.SENT, time_ns)
        state = Transition(intent.client_order_id, result.state, time_ns, result.broker_order, result.message)
        if not result.state.terminal:
            self._open[intent.client_order_id] = result.state
        return Movement(result.deals, (sent, state))

    def knows(self, client_order_id: int) -> bool:
        """Whether the broker ever took an order of that key."""
        return self.broker.result(client_order_id) is not None

    def _changes(self) -> tuple[Transition, ...]:
        changes, clock = [], int(self.broker.ledger.money[0]["clock"])
        for key, before in list(self._open.items()):
            result = self.broker.result(key)
            if result is None or result.state is before:
                continue
            changes.append(Transition(key, result.state, clock, result.broker_order, result.message))
            if result.state.terminal:
                del self._open[key]
            else:
                self._open[key] = result.state
        return tuple(changes)

    def money(self) -> Account:
        """Return the account's money at the last quotes."""
        return self.broker.money()

    def positions(self) -> tuple[Position, ...]:
        """Return the open positions."""
        return self.broker.open_positions()

    def open_rows(self) -> list[int]:
        """Return the symbols (rows) that have a position and no order on its way."""
        positions = self.broker.ledger.positions
        return [int(row) for row in np.flatnonzero((positions["lots"] != 0) & ~positions["pending"])]

    def record(self, time: int) -> AccountRecord:
        """Return the account as the journal keeps it."""
        return AccountRecord(time, self.money(), self.positions())

    def snapshot(self) -> tuple[bytes, str]:
        """Return all that a restart needs: the account, and the orders that are followed, as JSON text."""
        return self.broker.snapshot(), json.dumps({str(key): str(state) for key, state in self._open.items()})

    def restore(self, account: bytes, orders: str) -> None:
        """Take up :meth:`snapshot`."""
        self.broker.restore(account)
        self._open = {int(key): OrderState(state) for key, state in json.loads(orders).items()}
