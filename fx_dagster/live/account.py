"""The paper account as the engine uses it: ticks in, deals and order states out, positions for the decision step."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fx_dagster.decision.arrays import AccountState, PositionTable
from fx_dagster.execution.orders import Account, Deal, OrderIntent, OrderState, Position
from fx_dagster.execution.paper import PaperBroker
from fx_dagster.live.records import AccountRecord, Transition
from fx_dagster.live.ticks import TickBatch
from fx_dagster.market.schemas import TickFlag
from fx_dagster.market.timeframes import Timeframe, bar_open


@dataclass(frozen=True)
class Movement:
    """What ticks or an order changed."""

    deals: tuple[Deal, ...] = ()
    transitions: tuple[Transition, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.deals or self.transitions)


class PaperDesk:
    """Feeds the paper broker and follows its open orders.

    Args:
        broker: the account on paper.
        symbols: canonical symbols, in the feed's order.
        base: timeframe inside whose bars modelled ticks move without gaps.
    """

    def __init__(self, broker: PaperBroker, symbols: Sequence[str], base: Timeframe) -> None:
        self._broker = broker
        self._symbols = tuple(symbols)
        self._base = base
        self._open: dict[int, tuple[str, OrderState]] = {}
        self._last_bar = np.zeros(len(self._symbols), dtype=np.int64)
        self._clock = 0
        self.bid = np.full(len(self._symbols), np.nan)
        self.ask = np.full(len(self._symbols), np.nan)

    def take(self, ticks: TickBatch) -> Movement:
        """Hand good ticks to the broker, in order of time."""
        if not len(ticks):
            return Movement()
        openings = bar_open(ticks.time, self._base)
        modelled = (ticks.flags & np.int32(TickFlag.MODELLED)) != 0
        deals: list[Deal] = []
        for row in range(len(ticks)):
            place = int(ticks.symbol[row])
            inside = bool(modelled[row]) and int(openings[row]) == int(self._last_bar[place])
            self._last_bar[place] = openings[row]
            # Clocks of several symbols may differ by a poll; the account's own never goes back.
            self._clock = max(self._clock, int(ticks.time[row]))
            bid, ask = float(ticks.bid[row]), float(ticks.ask[row])
            self.bid[place], self.ask[place] = bid, ask
            deals += self._broker.on_tick(self._symbols[place], self._clock, bid, ask, continuous=inside)
        return Movement(tuple(deals), self._changes(self._clock))

    def place(self, intent: OrderIntent, time_ns: int) -> Movement:
        """Send one order; a key that the broker knows is never traded again."""
        result = self._broker.place(intent)
        sent = Transition(intent.client_order_id, OrderState.SENT, time_ns)
        state = Transition(intent.client_order_id, result.state, time_ns, result.broker_order, result.message)
        if not result.state.terminal:
            self._open[intent.client_order_id] = (intent.symbol, result.state)
        return Movement(result.deals, (sent, state))

    def knows(self, client_order_id: int) -> bool:
        """Whether the broker ever took an order of that key."""
        return self._broker.result(client_order_id) is not None

    def _changes(self, time_ns: int) -> tuple[Transition, ...]:
        changes = []
        for key, (symbol, state) in list(self._open.items()):
            result = self._broker.result(key)
            if result is None or result.state is state:
                continue
            changes.append(Transition(key, result.state, time_ns, result.broker_order, result.message))
            if result.state.terminal:
                del self._open[key]
            else:
                self._open[key] = (symbol, result.state)
        return tuple(changes)

    def money(self) -> Account:
        """Return the account's money at the last quotes."""
        return self._broker.money()

    def positions(self) -> tuple[Position, ...]:
        """Return the open positions."""
        return self._broker.open_positions()

    def state(self, *, healthy: bool, command: int) -> AccountState:
        """Return the account as the decision step wants it."""
        money = self.money()
        # Floats, always: a sum over no positions is the integer 0, which compiled code would be compiled again for.
        return AccountState(float(money.balance), float(money.equity), float(money.margin_used), healthy, command)

    def fill(self, table: PositionTable) -> PositionTable:
        """Write the positions into the decision step's table and return it."""
        for column in table:
            column[:] = 0
        for position in self.positions():
            row = self._symbols.index(position.symbol)
            table.lots[row], table.entry_price[row] = position.lots, position.entry_price
            table.stop[row], table.target[row] = position.stop, position.target
        for symbol, _ in self._open.values():
            table.pending[self._symbols.index(symbol)] = True
        return table

    def pending(self) -> frozenset[str]:
        """Return the symbols with an order on its way."""
        return frozenset(symbol for symbol, _ in self._open.values())

    def record(self, time: int) -> AccountRecord:
        """Return the account as the journal keeps it."""
        return AccountRecord(time, self.money(), self.positions())

    def snapshot(self) -> str:
        """Return all that a restart needs, as JSON text."""
        return json.dumps(
            {
                "broker": self._broker.snapshot().decode(),
                "open": {str(key): [symbol, str(state)] for key, (symbol, state) in self._open.items()},
                "symbols": list(self._symbols),
                "last_bar": self._last_bar.tolist(),
                "clock": self._clock,
                "bid": self.bid.tolist(),
                "ask": self.ask.tolist(),
            }
        )

    def restore(self, text: str) -> None:
        """Take up :meth:`snapshot`."""
        body = json.loads(text)
        self._broker.restore(body["broker"].encode())
        self._open = {int(key): (symbol, OrderState(state)) for key, (symbol, state) in body["open"].items()}
        self._clock = int(body["clock"])
        for place, symbol in enumerate(self._symbols):
            if symbol in body["symbols"]:
                kept = body["symbols"].index(symbol)
                self._last_bar[place] = body["last_bar"][kept]
                self.bid[place], self.ask[place] = body["bid"][kept], body["ask"][kept]
