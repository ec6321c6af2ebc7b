"""A broker on paper: a netting account filled against real or modelled quotes.

The account itself is the compiled :mod:`fx_dagster.execution.ledger`, which says how orders are filled; this is its
face for whoever speaks in intents, results and deals.
"""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import numpy as np

from fx_dagster import snapshot
from fx_dagster.decision.rows import MEMORY, Rows
from fx_dagster.errors import DataError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import (
    BUSY,
    DONE,
    EXPIRED,
    INVALID_STOPS,
    INVALID_VOLUME,
    NO_MONEY,
    NO_PRICES,
    PLACED,
    POSITION_CLOSED,
    Cause,
    Entry,
    Order,
    new_ledger,
)
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
from fx_dagster.market.instruments import Instrument
from fx_dagster.settings import CostSettings, RiskSettings

FORMAT = "fx-paper-account-2"
KEPT_ORDERS = 200
"""Orders whose end is remembered; the journal has all."""
EVENTS = 4_096

_REASONS = {
    Cause.ORDER: DealReason.CLIENT, Cause.STOP: DealReason.STOP, Cause.TARGET: DealReason.TARGET,
    Cause.STOP_OUT: DealReason.STOP_OUT,
}  # fmt: skip
_ORDERS = {Purpose.OPEN: Order.OPEN, Purpose.CLOSE: Order.CLOSE}
_WORDS = {
    INVALID_VOLUME: "the lots are not on the instrument's grid, out of bounds, or against an open position",
    INVALID_STOPS: "an entry needs a stop, and the market must not be beyond stop or target",
    NO_MONEY: "free margin does not suffice",
    NO_PRICES: "no quote converts its profit currency yet",
    EXPIRED: "expired before a quote came",
    BUSY: "an order of this symbol waits already",
    POSITION_CLOSED: "there is no such position",
}


class PaperBroker:
    """An account on paper. Not thread-safe; one owner.

    Every quote reaches :attr:`ledger` before the decision on it, because whoever decides works on the ledger itself;
    :meth:`drain` is called afterwards.

    Args:
        name: account name.
        instruments: what is traded.
        risk: balance, leverage and currency of the account.
        cost: commission and slippage.
        memory: ``[1]``, the decision step's, which learns from closed trades; None: nobody learns.
        stop_out_level: equity over margin at which positions are closed.

    Attributes:
        name: account name.
        ledger: the account.
    """

    def __init__(
        self, name: str, instruments: Sequence[Instrument], risk: RiskSettings, cost: CostSettings, *,
        memory: Rows | None = None, stop_out_level: float = ledgers.STOP_OUT_LEVEL,
    ) -> None:  # fmt: skip
        self.name = name
        self._symbols = tuple(item.symbol for item in instruments)
        self._rows = {symbol: row for row, symbol in enumerate(self._symbols)}
        self._risk = risk
        self.ledger = new_ledger(
            instruments, cost, memory=np.zeros(1, MEMORY) if memory is None else memory, balance=risk.initial_balance,
            leverage=risk.leverage, account_currency=risk.account_currency, events=EVENTS + len(instruments),
            stop_out_level=stop_out_level,
        )  # fmt: skip
        self._results: OrderedDict[int, OrderResult] = OrderedDict()

    # -- orders and money ------------------------------------------------------------------------------------------

    @property
    def balance(self) -> float:
        """Money without open positions."""
        return float(self.ledger.money[0]["balance"])

    def place(self, intent: OrderIntent) -> OrderResult:
        """Take an order; market orders wait for the next quote. A repeated key returns the first one's state."""
        known = self._results.get(intent.client_order_id)
        if known is not None:
            return known
        row = self._rows.get(intent.symbol)
        if row is None:
            return self._settle(intent.client_order_id, INVALID_VOLUME, f"{intent.symbol} is not traded here")
        if intent.purpose is Purpose.MODIFY:
            code = ledgers.modify(self.ledger, row, float(intent.stop), float(intent.target))
        else:
            code = ledgers.place(
                self.ledger, row, int(_ORDERS[intent.purpose]), float(intent.lots), float(intent.stop),
                float(intent.target), float(intent.risk_money), intent.decided_ns, intent.expires_ns,
                intent.client_order_id,
            )  # fmt: skip
        return self._settle(intent.client_order_id, int(code))

    def result(self, client_order_id: int) -> OrderResult | None:
        """Return what became of an order."""
        return self._results.get(client_order_id)

    def open_positions(self) -> tuple[Position, ...]:
        """Return the open positions, by symbol."""
        rows = self.ledger.open_rows[: self.ledger.money[0]["open_count"]]
        return tuple(self._position(row) for row in sorted(rows.tolist(), key=self._symbols.__getitem__))

    def money(self) -> Account:
        """Return balance, equity and margin at the last quotes."""
        return Account(
            name=self.name, currency=self._risk.account_currency, balance=self.balance,
            equity=ledgers.equity(self.ledger), margin_used=ledgers.margin_used(self.ledger),
            leverage=self._risk.leverage,
        )  # fmt: skip

    def drain(self) -> tuple[Deal, ...]:
        """Take over what the ledger has booked since the last call; return the deals among it."""
        money = self.ledger.money[0]
        events = self.ledger.events[: money["events"]]
        made = tuple(deal for deal in map(self._absorb, events) if deal is not None)
        money["events"] = 0
        return made

    def _absorb(self, event: np.void) -> Deal | None:
        key = int(event["key"])
        if event["what"] != Entry.DEAL:
            self._settle(key, int(event["code"]))
            return None
        deal = Deal(
            ticket=int(event["ticket"]), client_order_id=key, symbol=self._symbols[int(event["row"])],
            time_ns=int(event["time"]), lots=float(event["lots"]), price=float(event["price"]),
            commission=float(event["commission"]), swap=float(event["swap"]), profit=float(event["profit"]),
            reason=_REASONS[Cause(int(event["cause"]))], closing=bool(event["closing"]),
            risk_money=float(event["risk"]),
        )  # fmt: skip
        if key:
            self._settle(key, DONE, deals=(deal,))
        return deal

    # -- state -----------------------------------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """Return everything that a restart needs, as bytes; call :meth:`drain` before."""
        results = [asdict(result) | {"deals": []} for result in self._results.values()]
        facts = {"kind": FORMAT, "symbols": self._symbols, "results": json.loads(json.dumps(results))}
        return snapshot.pack(self._arrays(), facts)

    def restore(self, data: bytes) -> None:
        """Go on from a snapshot; symbols that it does not know start flat.

        Raises:
            DataError: it is not one, of another version, or holds a symbol that is not traded here.
        """
        facts, found = snapshot.unpack(data)
        if facts.get("kind") != FORMAT:
            raise DataError(f"paper account of format {facts.get('kind')!r}", mend=f"this version reads {FORMAT}")
        known = facts.get("symbols")
        if not isinstance(known, list) or not all(isinstance(symbol, str) for symbol in known):
            raise DataError("a paper account without symbols", mend="begin anew: fx live --restart")
        results = _results(facts.get("results"))
        there = {name: np.zeros((len(known) if len(array) > 1 or name != "money" else 1), array.dtype)
                 for name, array in self._arrays().items()}  # fmt: skip
        snapshot.fill(there, found, [(row, row) for row in range(len(known))])
        self._demand_traded(known, there)
        for name, array in self._arrays().items():
            if name == "money":
                array[...] = there[name]
                continue
            for row, symbol in enumerate(self._symbols):
                if symbol in known:
                    array[row] = there[name][known.index(symbol)]
        ledgers.restore_open_rows(self.ledger)
        self._results = OrderedDict((result.client_order_id, result) for result in results)

    def _demand_traded(self, known: Sequence[str], there: Mapping[str, Rows]) -> None:
        held = (there["positions"]["lots"] != 0) | (there["helds"]["order"] != Order.NONE)
        unknown = sorted(known[row] for row in np.flatnonzero(held).tolist() if known[row] not in self._rows)
        if unknown:
            raise DataError(f"paper account holds {unknown[0]}, which is not traded here", mend="add it to the symbols")

    def _arrays(self) -> dict[str, Rows]:
        return {"positions": self.ledger.positions, "helds": self.ledger.helds, "money": self.ledger.money}

    # -- inside ----------------------------------------------------------------------------------------------------

    def _settle(self, key: int, code: int, message: str = "", deals: tuple[Deal, ...] = ()) -> OrderResult:
        known = self._results.get(key)
        order = known.broker_order if known else self._next_ticket()
        words = message or _WORDS.get(code, "waits for the next quote" if code == PLACED else "")
        result = OrderResult(key, _state(code), code, words, order, deals)
        self._results[key] = result
        while len(self._results) > KEPT_ORDERS:
            oldest = next(iter(self._results))
            if self._results[oldest].state is OrderState.ACCEPTED:
                break
            del self._results[oldest]
        return result

    def _position(self, row: int) -> Position:
        position, held = self.ledger.positions[row], self.ledger.helds[row]
        lots = float(position["lots"])
        return Position(
            symbol=self._symbols[row], ticket=int(held["ticket"]), lots=lots,
            entry_price=float(position["entry_price"]), stop=float(position["stop"]), target=float(position["target"]),
            opened_ns=int(held["opened"]), client_order_id=int(held["key"]),
            profit=float(held["value"] - held["swap"]), swap=float(held["swap"]), margin=float(held["bound"]),
        )  # fmt: skip

    def _next_ticket(self) -> int:
        self.ledger.money["ticket"] += 1
        return int(self.ledger.money[0]["ticket"])


def _state(code: int) -> OrderState:
    if code == PLACED:
        return OrderState.ACCEPTED
    if code == DONE:
        return OrderState.FILLED
    return OrderState.CANCELLED if code == EXPIRED else OrderState.REJECTED


def _results(rows: object) -> list[OrderResult]:
    try:
        return [_result(row) for row in rows]  # type: ignore[attr-defined]
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"a paper account with orders that are none: {error}", mend="fx live --restart") from error


def _result(row: Mapping[str, object]) -> OrderResult:
    return replace(OrderResult(**row), state=OrderState(str(row["state"])), deals=())  # type: ignore[arg-type]
