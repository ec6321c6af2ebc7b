"""The life of an order: what may follow what, whatever order the broker's words come in.

::

    planned → journalled → sent → accepted | rejected | unknown → filled | partial | cancelled

:func:`advance` is pure: an order and an event give the order after it. Deals alone fill an order, each once by its
ticket; what an answer claims to have executed is only waited for. An event falls under one of three rules: it changes
something, it says what is known already (counted, ignored: :class:`Verdict`), or it cannot be and raises
:class:`LifecycleError`. One more case is real and must not be lost: the broker shows life in an order that had ended
here. It lives again, and the step says :attr:`Verdict.CONTRADICTION`, which is an alarm.

An order is sent at most once: only a journalled order can be sent, and none ever comes back to that state. All times
are int64 ns UTC on the market's clock.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeAlias

from fx_dagster.errors import TradingError
from fx_dagster.execution.broker import LOTS_TINY, Accepted, Answer, BrokerDeal, Partial, Refused, Requote, Unknown
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, Transition

PLANNED, JOURNALLED, SENT, UNKNOWN, ACCEPTED, PARTIAL, FILLED, REJECTED, CANCELLED = (
    OrderState.PLANNED, OrderState.JOURNALLED, OrderState.SENT, OrderState.UNKNOWN, OrderState.ACCEPTED,
    OrderState.PARTIAL, OrderState.FILLED, OrderState.REJECTED, OrderState.CANCELLED,
)  # fmt: skip

TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = MappingProxyType(
    {
        PLANNED: frozenset({JOURNALLED, CANCELLED}),
        # An engine that died may have sent a journalled order: the next one knows neither.
        JOURNALLED: frozenset({SENT, UNKNOWN, CANCELLED}),
        SENT: frozenset({ACCEPTED, REJECTED, UNKNOWN, PARTIAL, FILLED, CANCELLED}),
        UNKNOWN: frozenset({ACCEPTED, REJECTED, PARTIAL, FILLED, CANCELLED}),
        ACCEPTED: frozenset({REJECTED, PARTIAL, FILLED, CANCELLED}),
        PARTIAL: frozenset({FILLED, CANCELLED}),
        FILLED: frozenset(),
        REJECTED: frozenset(),
        CANCELLED: frozenset(),
    }
)
"""What may follow a state."""

REVIVALS: Mapping[OrderState, frozenset[OrderState]] = MappingProxyType(
    {REJECTED: frozenset({ACCEPTED, PARTIAL, FILLED}), CANCELLED: frozenset({ACCEPTED, PARTIAL, FILLED})}
)
"""What the broker's evidence makes of an order that had ended here; always a contradiction."""

_NEVER_SENT = frozenset({PLANNED, JOURNALLED})
_ENDED_UNFILLED = frozenset({REJECTED, CANCELLED})


class LifecycleError(TradingError):
    """An event that cannot be: a bug here or in an adapter, never the broker's doing."""


class Verdict(StrEnum):
    """What an event meant."""

    APPLIED = "applied"
    REPEATED = "repeated"
    """The same thing again, as a deal with a known ticket."""
    LATE = "late"
    """True once, and overtaken by what is known already."""
    CONTRADICTION = "contradiction"
    """Against what was known: applied as far as it moves money, and an alarm."""


# -- events ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Journalled:
    """The intent is committed."""

    key: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Sent:
    """The order is about to leave. Made before the call: a crash in between leaves doubt, not an order unknown here."""

    key: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Withheld:
    """The order is not sent, and whoever says so knows."""

    key: int
    time_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Doubted:
    """Whoever knew whether the order was sent, or what came back, is no more."""

    key: int
    time_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The broker's answer to the order."""

    key: int
    time_ns: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class Found:
    """The broker shows the order, or a position that it opened, by its key."""

    key: int
    time_ns: int
    broker_order: int = 0


@dataclass(frozen=True, slots=True)
class Ended:
    """The order no longer works at the broker; ``executed_lots`` (unsigned) of it were executed."""

    key: int
    time_ns: int
    executed_lots: float
    reason: str
    refused: bool = False
    broker_order: int = 0


@dataclass(frozen=True, slots=True)
class Dealt:
    """A fill; ``key`` is the order of ours that made it, 0 for one of a position of ours that no order made."""

    key: int
    deal: BrokerDeal

    @property
    def time_ns(self) -> int:
        """When it was made."""
        return self.deal.time_ns


@dataclass(frozen=True, slots=True)
class Changed:
    """The position's stop and target are what the order asked for: how an order that only moves them is found."""

    key: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class NotSent:
    """The broker never took the order: proven by its absence, or said by the operator who looked."""

    key: int
    time_ns: int
    reason: str
    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class Held:
    """What became of the order cannot be proven: a person must look."""

    key: int
    time_ns: int
    reason: str


Event: TypeAlias = Journalled | Sent | Withheld | Doubted | Answered | Found | Ended | Dealt | Changed | NotSent | Held


# -- an order ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TrackedOrder:
    """An order and all that is known of it.

    Attributes:
        intent: as journalled.
        state: where it is.
        changed_ns: when it came there.
        attempt: how many decisions before it were refused a price for the same purpose.
        sent_ns: when it was sent; 0: not known to be.
        broker_order: the broker's ticket; 0: not known.
        filled_lots: sum of its deals, unsigned.
        claimed_lots: most that the broker ever said to have executed, unsigned.
        remainder_gone: whether what is not executed will not be.
        refused: whether the broker said that it ended by a refusal.
        deals: tickets of its deals.
        held: why a person must look; empty: nobody must.
        message: the last words about it.
        revision: how many changes made it what it is: the journal takes each once, and in this order.
    """

    intent: OrderIntent
    state: OrderState = PLANNED
    changed_ns: int = 0
    attempt: int = 0
    sent_ns: int = 0
    broker_order: int = 0
    filled_lots: float = 0.0
    claimed_lots: float = 0.0
    remainder_gone: bool = False
    refused: bool = False
    deals: frozenset[int] = frozenset()
    held: str = ""
    message: str = ""
    revision: int = 0

    @property
    def key(self) -> int:
        """Its key."""
        return self.intent.client_order_id

    @property
    def lots(self) -> float:
        """What it asks for, unsigned."""
        return abs(self.intent.lots)

    @property
    def moves_only(self) -> bool:
        """Whether it trades nothing and only moves stop and target."""
        return self.intent.purpose is Purpose.MODIFY

    @property
    def complete(self) -> bool:
        """Whether its deals are all that it asked for."""
        return not self.moves_only and self.filled_lots >= self.lots - LOTS_TINY

    @property
    def owed_lots(self) -> float:
        """What the broker said to have executed and no deal shows yet."""
        owed = self.claimed_lots - self.filled_lots
        return owed if owed > LOTS_TINY else 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """What an event did.

    Attributes:
        event: the event.
        verdict: what it meant.
        order: the order after it; None: a deal that no order of ours made.
        before: the order's state before it.
        transitions: the states that it reached, in order; often none.
        note: what contradicts, in words.
        position: of a deal, the position after it; with 0 lots it is closed.
    """

    event: Event
    verdict: Verdict
    order: TrackedOrder | None
    before: OrderState | None
    transitions: tuple[Transition, ...] = ()
    note: str = ""
    position: "OwnPosition | None" = None


def advance(order: TrackedOrder, event: Event) -> Step:
    """Return what an event makes of an order.

    Raises:
        LifecycleError: the event cannot come in this state.
    """
    if event.key != order.key:
        raise LifecycleError(f"event of order {event.key} for order {order.key}", mend="a bug: please report it")
    return _RULES[type(event)](order, event)


def _impossible(order: TrackedOrder, event: Event) -> LifecycleError:
    name = type(event).__name__.lower()
    return LifecycleError(
        f"order {order.key} of {order.intent.symbol} is {order.state} and cannot be {name}",
        mend="a bug: please report it; the account must be reconciled before it trades on",
    )


def _same(order: TrackedOrder, event: Event, verdict: Verdict, note: str = "") -> Step:
    return Step(event, verdict, order, order.state, (), note)


def _to(order: TrackedOrder, event: Event, state: OrderState, message: str = "", **changes: Any) -> Step:
    """Change an order, and its state where that is another; a state that may not follow raises."""
    after: TrackedOrder = replace(order, message=message or order.message, revision=order.revision + 1, **changes)
    if state is order.state:
        return Step(event, Verdict.APPLIED, after, order.state)
    revived = state in REVIVALS.get(order.state, ())
    if not revived and state not in TRANSITIONS[order.state]:
        raise _impossible(order, event)
    after = replace(after, state=state, changed_ns=max(order.changed_ns, event.time_ns))
    reached = Transition(order.key, state, event.time_ns, after.broker_order, message)
    note = f"{order.state} here ({order.message}), yet {state} at the broker" if revived else ""
    return Step(event, Verdict.CONTRADICTION if revived else Verdict.APPLIED, after, order.state, (reached,), note)


def _settled(order: TrackedOrder, event: Event, message: str = "", *, least: OrderState = ACCEPTED) -> Step:
    """Move an order to where its deals and the broker's claims put it, ``least`` at the least."""
    if order.complete:
        return _to(order, event, FILLED, message)
    if order.remainder_gone and not order.owed_lots:
        if order.filled_lots:
            words = f"{order.filled_lots:g} of {order.lots:g} lots filled, the rest is gone"
            return _to(order, event, CANCELLED, f"{words}: {message}" if message else words)
        return _to(order, event, REJECTED if order.refused else CANCELLED, message)
    partly = order.filled_lots > 0.0 or least is PARTIAL or order.state is PARTIAL
    return _to(order, event, PARTIAL if partly else ACCEPTED, message)


def _journalled(order: TrackedOrder, event: Journalled) -> Step:
    if order.state is JOURNALLED:
        raise _impossible(order, event)
    return _to(order, event, JOURNALLED)


def _sent(order: TrackedOrder, event: Sent) -> Step:
    if order.state is SENT:
        raise _impossible(order, event)  # a second time
    return _to(order, event, SENT, sent_ns=event.time_ns)


def _withheld(order: TrackedOrder, event: Withheld) -> Step:
    if order.state not in _NEVER_SENT:
        raise _impossible(order, event)
    return _to(order, event, CANCELLED, event.reason)


def _doubted(order: TrackedOrder, event: Doubted) -> Step:
    if order.state is PLANNED:
        raise _impossible(order, event)
    if order.state not in (JOURNALLED, SENT):
        return _same(order, event, Verdict.LATE)
    return _to(order, event, UNKNOWN, event.reason)


def _answered(order: TrackedOrder, event: Answered) -> Step:
    if order.state in _NEVER_SENT:
        raise _impossible(order, event)
    answer = event.answer
    if isinstance(answer, Unknown):
        return _to(order, event, UNKNOWN, answer.reason) if order.state is SENT else _same(order, event, Verdict.LATE)
    if isinstance(answer, Refused | Requote):
        return _turned_down(order, event, answer)
    return _taken(order, event, answer)


def _turned_down(order: TrackedOrder, event: Answered, answer: Refused | Requote) -> Step:
    if order.state in _ENDED_UNFILLED:
        return _same(order, event, Verdict.LATE)
    if order.filled_lots or order.claimed_lots or order.state in (PARTIAL, FILLED):
        words = f"{order.state} here, yet refused by the broker ({answer.code} {answer.text})"
        return _same(order, event, Verdict.CONTRADICTION, words)
    kind = "requote" if isinstance(answer, Requote) else "refused"
    return _to(order, event, REJECTED, f"{kind} {answer.code} {answer.text}".strip(), refused=True, held="")


def _taken(order: TrackedOrder, event: Answered, answer: Accepted | Partial) -> Step:
    if order.moves_only:
        return _moved(order, event)
    late = order.state is FILLED or (order.state in _ENDED_UNFILLED and order.filled_lots > 0.0)
    claimed = max(order.claimed_lots, answer.lots)
    gone = order.remainder_gone or (isinstance(answer, Partial) and not answer.working)
    after = replace(order, broker_order=answer.order or order.broker_order, claimed_lots=claimed)
    if late or (after == order and order.state in (ACCEPTED, PARTIAL) and gone == order.remainder_gone):
        return _same(order, event, Verdict.LATE)
    # An order that ended here without a fill lives again, and what was thought gone is not.
    ended = order.state in _ENDED_UNFILLED
    after = replace(after, remainder_gone=gone and not ended, refused=order.refused and not ended, held="")
    return _settled(after, event, least=PARTIAL if isinstance(answer, Partial) else ACCEPTED)


def _moved(order: TrackedOrder, event: Event) -> Step:
    if not order.moves_only or order.state in _NEVER_SENT:
        raise _impossible(order, event)
    if order.state in (SENT, UNKNOWN, ACCEPTED):
        return _to(order, event, FILLED, held="")
    return _same(order, event, Verdict.LATE)


def _found(order: TrackedOrder, event: Found) -> Step:
    if order.state in _NEVER_SENT:
        raise _impossible(order, event)
    broker_order = event.broker_order or order.broker_order
    if order.state in (SENT, UNKNOWN):
        return _to(order, event, ACCEPTED, "found at the broker", broker_order=broker_order, held="")
    if order.state in _ENDED_UNFILLED and not order.filled_lots:
        alive = replace(order, remainder_gone=False, refused=False)
        return _to(alive, event, ACCEPTED, "found at the broker", broker_order=broker_order)
    return _same(order, event, Verdict.LATE)


def _ended(order: TrackedOrder, event: Ended) -> Step:
    if order.state in _NEVER_SENT:
        raise _impossible(order, event)
    if order.state.terminal:
        owed = event.executed_lots - order.filled_lots > LOTS_TINY
        words = f"{order.state} here with {order.filled_lots:g} lots, the broker says {event.executed_lots:g}"
        return _same(order, event, Verdict.CONTRADICTION, words) if owed else _same(order, event, Verdict.LATE)
    after = replace(
        order, remainder_gone=True, refused=event.refused, broker_order=event.broker_order or order.broker_order,
        claimed_lots=max(order.claimed_lots, event.executed_lots),
    )  # fmt: skip
    if after == order:
        return _same(order, event, Verdict.LATE)
    return _settled(replace(after, held=""), event, event.reason)


def _dealt(order: TrackedOrder, event: Dealt) -> Step:
    deal = event.deal
    if order.state in _NEVER_SENT:
        raise _impossible(order, event)
    if deal.ticket in order.deals:
        return _same(order, event, Verdict.REPEATED)
    if deal.symbol != order.intent.symbol or deal.lots * order.intent.lots <= 0.0:
        asked = f"{order.intent.lots:g} {order.intent.symbol}"
        words = f"deal {deal.ticket} of {deal.lots:g} {deal.symbol} for an order of {asked}"
        return _same(order, event, Verdict.CONTRADICTION, words)
    # Lots are sums of steps: rounding keeps 0.1 + 0.2 what it is.
    filled = round(order.filled_lots + abs(deal.lots), 8)
    ended = order.state.terminal
    after = replace(
        order, filled_lots=filled, deals=order.deals | {deal.ticket}, broker_order=order.broker_order or deal.order,
        held="" if filled >= order.claimed_lots - LOTS_TINY else order.held,
        remainder_gone=order.remainder_gone and not ended, refused=order.refused and not ended,
    )  # fmt: skip
    step = _settled(after, event)
    if filled > order.lots + LOTS_TINY:
        words = f"{filled:g} lots filled of an order of {order.lots:g}"
        return replace(step, verdict=Verdict.CONTRADICTION, note=words)
    return step


def _not_sent(order: TrackedOrder, event: NotSent) -> Step:
    if order.state in (PLANNED, JOURNALLED, SENT):
        raise _impossible(order, event)
    if order.state is not UNKNOWN:
        return _same(order, event, Verdict.LATE)
    if order.held and not event.by_operator:
        raise LifecycleError(
            f"order {order.key} is held for the operator ({order.held})", mend="only a person says that it was not sent"
        )
    return _to(order, event, CANCELLED, f"not sent: {event.reason}", held="")


def _held(order: TrackedOrder, event: Held) -> Step:
    if order.state in (PLANNED, JOURNALLED, SENT):
        raise _impossible(order, event)
    if order.state.terminal:
        return _same(order, event, Verdict.LATE)
    if order.held:
        return _same(order, event, Verdict.REPEATED)
    return _to(order, event, order.state, event.reason, held=event.reason)


_RULES: Mapping[type, Callable[[TrackedOrder, Any], Step]] = MappingProxyType(
    {
        Journalled: _journalled, Sent: _sent, Withheld: _withheld, Doubted: _doubted, Answered: _answered,
        Found: _found, Ended: _ended, Dealt: _dealt, Changed: _moved, NotSent: _not_sent, Held: _held,
    }
)  # fmt: skip


# -- positions and the book --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OwnPosition:
    """A position of ours: the sum of its deals.

    Attributes:
        ticket: the broker's.
        symbol: canonical symbol.
        lots: signed sum of its deals.
        entry_price: average of what opened it.
        stop: where its stop should be; 0: not known.
        target: where its target should be; 0: none.
        opened_ns: first deal.
        key: of the order that opened it.
        risk_money: money that what is still open of it had at risk when it was opened.
        commission: paid for what is still open of it.
        changed_ns: last deal.
    """

    ticket: int
    symbol: str
    lots: float = 0.0
    entry_price: float = 0.0
    stop: float = 0.0
    target: float = 0.0
    opened_ns: int = 0
    key: int = 0
    risk_money: float = 0.0
    commission: float = 0.0
    changed_ns: int = 0

    @property
    def open(self) -> bool:
        """Whether there is anything left of it."""
        return abs(self.lots) > LOTS_TINY

    def after(self, deal: BrokerDeal, intent: OrderIntent | None) -> "OwnPosition":
        """Return it after a deal, whose order ``intent`` is (None: none of ours)."""
        lots = round(self.lots + deal.lots, 8)
        after = replace(
            self, lots=lots, opened_ns=min(self.opened_ns or deal.time_ns, deal.time_ns),
            changed_ns=max(self.changed_ns, deal.time_ns), entry_price=self._average(deal, lots),
        )  # fmt: skip
        if deal.closing:
            left = max(0.0, 1.0 - abs(deal.lots / self.lots)) if self.open else 1.0
            return replace(after, commission=self.commission * left, risk_money=self.risk_money * left)
        after = replace(after, commission=self.commission + deal.commission)
        if intent is None or intent.purpose is not Purpose.OPEN or not intent.lots:
            return after
        return replace(
            after, stop=intent.stop, target=intent.target, key=self.key or intent.client_order_id,
            risk_money=self.risk_money + intent.risk_money * abs(deal.lots / intent.lots),
        )  # fmt: skip

    def _average(self, deal: BrokerDeal, lots: float) -> float:
        """Return the entry price after a deal that leaves ``lots``."""
        if self.lots * deal.lots > 0.0 and not deal.closing:
            return (self.entry_price * self.lots + deal.price * deal.lots) / (self.lots + deal.lots)
        turned_around = self.lots * lots < 0.0
        return deal.price if turned_around or not deal.closing else self.entry_price


class OrderBook:
    """Orders that are not at their end, those that ended lately, and the positions that their deals made.

    The state of one account as far as it is ours. Not thread-safe; one owner. What it knows can be read again from the
    journal: :meth:`restored`.

    Attributes:
        open: orders that are not at their end, by key.
        ended: orders that ended, by key, until :meth:`forget`.
        positions: positions of ours, by the broker's ticket; closed ones until :meth:`forget`.
        counts: events by what they meant.
    """

    def __init__(self) -> None:
        self.open: dict[int, TrackedOrder] = {}
        self.ended: dict[int, TrackedOrder] = {}
        self.positions: dict[int, OwnPosition] = {}
        self.counts: Counter[Verdict] = Counter()
        self._tickets: dict[int, int] = {}
        self._by_broker_order: dict[int, int] = {}

    def copy(self) -> "OrderBook":
        """Return a book that changes by itself."""
        other = OrderBook()
        other.open, other.ended, other.positions = dict(self.open), dict(self.ended), dict(self.positions)
        other.counts = Counter(self.counts)
        other._tickets, other._by_broker_order = dict(self._tickets), dict(self._by_broker_order)
        return other

    @classmethod
    def restored(
        cls, orders: Iterable[TrackedOrder], deals: Iterable[BrokerDeal], keys: Mapping[int, int]
    ) -> "OrderBook":
        """Return the book that the journal describes.

        Args:
            orders: as journalled; what their deals say is made anew.
            deals: every deal of the orders and of the positions that matter, in any order.
            keys: of a deal's ticket, the order of ours that made it; 0 or absent: none.
        """
        book = cls()
        known = {order.key: replace(order, filled_lots=0.0, deals=frozenset()) for order in orders}
        for deal in sorted(deals, key=chronological):
            made_by = known.get(keys.get(deal.ticket, 0))
            book._take(deal, made_by.intent if made_by else None)
            if made_by and deal.symbol == made_by.intent.symbol and deal.lots * made_by.intent.lots > 0.0:
                filled = round(made_by.filled_lots + abs(deal.lots), 8)
                known[made_by.key] = replace(made_by, filled_lots=filled, deals=made_by.deals | {deal.ticket})
        for order in sorted(known.values(), key=lambda order: order.changed_ns):
            book._put(order)
            book._move_stop(order)
        return book

    def plan(self, intent: OrderIntent, attempt: int = 0) -> TrackedOrder:
        """Take a new order, planned.

        Raises:
            LifecycleError: its key was used before.
        """
        if self.order(intent.client_order_id) is not None:
            raise LifecycleError(f"key {intent.client_order_id} was used before", mend="a new decision has a new key")
        order = TrackedOrder(intent, changed_ns=intent.decided_ns, attempt=attempt)
        self._put(order)
        return order

    def order(self, key: int) -> TrackedOrder | None:
        """Return the order of a key."""
        return self.open.get(key) or self.ended.get(key)

    def unresolved(self, symbol: str | None = None) -> tuple[TrackedOrder, ...]:
        """Return the orders of which nobody knows whether the broker has them: nothing is opened beside one."""
        return tuple(
            order for order in self.open.values()
            if (order.state is UNKNOWN or order.held) and symbol in (None, order.intent.symbol)
        )  # fmt: skip

    def pending(self, symbol: str) -> bool:
        """Whether an order of a symbol is on its way or its fate unknown."""
        return any(order.intent.symbol == symbol for order in self.open.values())

    def open_positions(self) -> Iterator[OwnPosition]:
        """Yield the positions that are open."""
        return (position for position in self.positions.values() if position.open)

    def knows_deal(self, ticket: int) -> bool:
        """Whether a deal was applied."""
        return ticket in self._tickets

    def maker(self, deal: BrokerDeal) -> int | None:
        """Return the key of the order of ours that made a deal, 0 for one of our position's, None for a foreign one."""
        if deal.key and self.order(deal.key) is not None:
            return deal.key
        if deal.order and (key := self._by_broker_order.get(deal.order)):
            return key
        return 0 if deal.position in self.positions else None

    def apply(self, event: Event) -> Step:
        """Take an event.

        Raises:
            LifecycleError: it cannot be, or is of an order that the book does not have.
        """
        step = self._step(event)
        self.counts[step.verdict] += 1
        return step

    def _step(self, event: Event) -> Step:
        if isinstance(event, Dealt):
            return self._deal(event)
        order = self.order(event.key)
        if order is None:
            raise LifecycleError(f"order {event.key} is not in the book", mend="load the book from the journal anew")
        step = advance(order, event)
        if step.order is not None and step.order != order:
            self._put(step.order)
            if step.transitions:
                self._move_stop(step.order)
        return step

    def _deal(self, event: Dealt) -> Step:
        deal, order = event.deal, self.order(event.key) if event.key else None
        if event.key and order is None:
            raise LifecycleError(f"order {event.key} is not in the book", mend="load the book from the journal anew")
        if deal.ticket in self._tickets:
            return Step(event, Verdict.REPEATED, order, order.state if order else None)
        if order is None:
            if deal.position not in self.positions:
                raise LifecycleError(f"deal {deal.ticket} is of no position of ours", mend="leave foreign deals out")
            return Step(event, Verdict.APPLIED, None, None, position=self._take(deal, None))
        step = advance(order, event)
        if step.order is not None:
            self._put(step.order)
        return replace(step, position=self._take(deal, order.intent))

    def _take(self, deal: BrokerDeal, intent: OrderIntent | None) -> OwnPosition:
        before = self.positions.get(deal.position) or OwnPosition(deal.position, deal.symbol)
        self._tickets[deal.ticket] = deal.position
        self.positions[deal.position] = before.after(deal, intent)
        return self.positions[deal.position]

    def _put(self, order: TrackedOrder) -> None:
        here, there = (self.ended, self.open) if order.state.terminal else (self.open, self.ended)
        here[order.key] = order
        there.pop(order.key, None)
        if order.broker_order:
            self._by_broker_order[order.broker_order] = order.key

    def _move_stop(self, order: TrackedOrder) -> None:
        if not order.moves_only or order.state is not FILLED:
            return
        for position in self.of_order(order.intent):
            self.positions[position.ticket] = replace(position, stop=order.intent.stop, target=order.intent.target)

    def of_order(self, intent: OrderIntent) -> tuple[OwnPosition, ...]:
        """Return the open positions that an order to close or to move stops is about."""
        if intent.position:
            found = self.positions.get(intent.position)
            return (found,) if found is not None and found.open else ()
        return tuple(position for position in self.open_positions() if position.symbol == intent.symbol)

    def forget(self, before_ns: int) -> None:
        """Forget what ended before ``before_ns`` (ns UTC): longer ago than any question to the broker goes back."""
        for key, order in list(self.ended.items()):
            if order.changed_ns < before_ns:
                del self.ended[key]
        for position in list(self.positions.values()):
            if not position.open and position.changed_ns < before_ns:
                del self.positions[position.ticket]
        # A deal is known as long as anything that it could be applied to again is.
        orders = (*self.open.values(), *self.ended.values())
        of_orders = frozenset[int]().union(*(order.deals for order in orders))
        self._tickets = {
            ticket: position for ticket, position in self._tickets.items()
            if position in self.positions or ticket in of_orders
        }  # fmt: skip
        kept = self.open.keys() | self.ended.keys()
        self._by_broker_order = {order: key for order, key in self._by_broker_order.items() if key in kept}


def chronological(deal: BrokerDeal) -> tuple[int, int]:
    """Return what sorts deals as they were made."""
    return deal.time_ns, deal.ticket


def next_attempt(order: TrackedOrder, attempts_max: int) -> int | None:
    """Return the attempt's number of a new decision after an order that was refused a price; None: no more.

    Args:
        order: ended by a requote or for lack of prices.
        attempts_max: most decisions in a row for one purpose of one symbol.
    """
    return order.attempt + 1 if order.attempt + 1 < attempts_max else None


def protects(intent: OrderIntent, position_lots: float, position_stop: float) -> bool:
    """Whether an order can only make a position smaller or its stop tighter, as what may be sent without the journal.

    Args:
        intent: the order.
        position_lots: signed lots of the position as it is known.
        position_stop: its stop; 0: none.
    """
    if intent.purpose is Purpose.CLOSE:
        return intent.lots * position_lots < 0.0 and abs(intent.lots) <= abs(position_lots) + LOTS_TINY
    if intent.purpose is not Purpose.MODIFY or position_lots == 0.0 or not intent.stop > 0.0:
        return False
    return position_stop == 0.0 or math.copysign(1.0, position_lots) * (intent.stop - position_stop) >= 0.0
