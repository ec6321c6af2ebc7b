"""Journal and broker compared: what became of orders in doubt, which deals are new, and where the two disagree.

:func:`reconcile` is pure: it reads a book and a view of the broker, and returns actions. It never sends anything again;
the only order that it asks for is a stop for a position of ours that has none.

Absence proves something only under conditions. An order whose fate is unknown counts as *not sent* when two complete
views show no order, no position and no deal with its key: one begun a quiet period after the last moment at which the
order could have reached the broker, and one a quiet period later, as an order that is just being filled may be neither
in the list any more nor among the deals yet. The quiet period is longer than the broker's worst delay of showing what
it did. Where no such views come, or where something without a key looks like the order, a person decides.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from fx_dagster.errors import SettingsError
from fx_dagster.execution.broker import LOTS_TINY, BrokerDeal, BrokerOrder, BrokerPosition, BrokerView, OrderStatus
from fx_dagster.execution.lifecycle import (
    ACCEPTED,
    JOURNALLED,
    PARTIAL,
    SENT,
    UNKNOWN,
    Changed,
    Dealt,
    Doubted,
    Ended,
    Event,
    Found,
    Held,
    NotSent,
    OrderBook,
    OwnPosition,
    Step,
    TrackedOrder,
    Verdict,
    chronological,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, Purpose
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS

_PRICE_NEAR = 1e-7
"""Relative; a hundredth of the smallest step of a price."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long doubt lasts.

    Attributes:
        quiet_ns: longer than the broker's worst delay of showing what it did.
        hold_after_ns: doubt older than that is a person's, if nothing was proven.
        requotes_max: most decisions in a row that one purpose of one symbol may be refused a price.
    """

    quiet_ns: int = 30 * SECOND_NS
    hold_after_ns: int = 600 * SECOND_NS
    requotes_max: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.quiet_ns < self.hold_after_ns:
            raise SettingsError(
                f"quiet period {self.quiet_ns} ns, hold after {self.hold_after_ns} ns",
                mend="give a quiet period above 0 and below the time after which an order is held",
            )
        if self.requotes_max < 1:
            raise SettingsError(f"requotes_max is {self.requotes_max}", mend="give at least 1")


@dataclass(frozen=True, slots=True)
class Difference:
    """A position that is not the sum of its deals, as first seen."""

    since_ns: int
    expected_lots: float
    shown_lots: float


@dataclass(frozen=True, slots=True)
class Doubts:
    """What one reconciliation hands to the next; nothing is lost but time where it is forgotten.

    Attributes:
        differences: by the position's ticket.
        missing: of an order's key, when (ns UTC) a view first showed nothing of it that it should have.
    """

    differences: Mapping[int, Difference] = field(default_factory=lambda: MappingProxyType({}))
    missing: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Apply:
    """Give the event to the book and journal the step."""

    event: Event


@dataclass(frozen=True, slots=True)
class Protect:
    """Set the stop of a position of ours that has none; close the position where the broker refuses that."""

    position: int
    symbol: str
    lots: float
    stop: float
    target: float


@dataclass(frozen=True, slots=True)
class Closed:
    """A position of ours is closed, and by no order of ours: news for the log, the deal itself is applied."""

    position: int
    symbol: str
    reason: DealReason
    deal: int


@dataclass(frozen=True, slots=True)
class Halt:
    """No entries for the symbol until a person has looked."""

    symbol: str
    reason: str


Action: TypeAlias = Apply | Protect | Closed | Halt


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What follows from a comparison.

    Attributes:
        actions: in the order in which they are to be done.
        doubts: for the next comparison.
        foreign: positions that are not ours: counted in risk, never managed; None: the broker did not tell.
    """

    actions: tuple[Action, ...]
    doubts: Doubts
    foreign: tuple[BrokerPosition, ...] | None

    def events(self) -> tuple[Event, ...]:
        """Return the events of the actions."""
        return tuple(action.event for action in self.actions if isinstance(action, Apply))

    def foreign_lots(self) -> dict[str, float]:
        """Return the signed lots of foreign positions by symbol."""
        sums: dict[str, float] = {}
        for position in self.foreign or ():
            sums[position.symbol] = sums.get(position.symbol, 0.0) + position.lots
        return sums


def history_since(book: OrderBook, now_ns: int) -> int:
    """Return from when on (ns UTC) deals must be asked for: a day before the oldest order that is not at its end."""
    return min((order.intent.decided_ns for order in book.open.values()), default=now_ns) - DAY_NS


def after_restart(book: OrderBook, now_ns: int) -> tuple[Event, ...]:
    """Return a new engine's events for what the last one left: nobody knows what it still sent or was answered."""
    reason = "the engine ended before it knew"
    return tuple(
        Doubted(order.key, now_ns, reason) for order in book.open.values() if order.state in (JOURNALLED, SENT)
    )


def reconcile(book: OrderBook, view: BrokerView, patience: Patience, doubts: Doubts | None = None) -> Reconciliation:
    """Return what follows from what the broker shows. Neither ``book`` nor anything else is changed."""
    work = _Comparison(book.copy(), view, patience, doubts or Doubts())
    work.take_deals()
    work.find_orders()
    work.find_moves()
    work.judge_absent()
    foreign = work.compare_positions()
    return Reconciliation(tuple(work.actions), work.next_doubts(), foreign)


class _Comparison:
    """One comparison at work, on a copy of the book."""

    def __init__(self, book: OrderBook, view: BrokerView, patience: Patience, doubts: Doubts) -> None:
        self.book = book
        self.view = view
        self.patience = patience
        self.actions: list[Action] = []
        self.before = doubts
        self.missing: dict[int, int] = {}
        self.differences: Mapping[int, Difference] = doubts.differences
        self.strange: list[BrokerDeal] = []

    def next_doubts(self) -> Doubts:
        """Return what the next comparison must know of this one."""
        return Doubts(MappingProxyType(dict(self.differences)), MappingProxyType(self.missing))

    def _apply(self, event: Event) -> Step:
        order = self.book.order(event.key) if event.key else None
        if order is not None and order.state is JOURNALLED and not isinstance(event, Doubted):
            self._apply(Doubted(order.key, event.time_ns, "the broker shows it, and nobody knows who sent it"))
        step = self.book.apply(event)
        self.actions.append(Apply(event))
        if step.verdict is Verdict.CONTRADICTION:
            symbol = event.deal.symbol if isinstance(event, Dealt) else step.order.intent.symbol if step.order else ""
            self.actions.append(Halt(symbol, f"order {event.key}: {step.note}"))
        return step

    # -- what the broker shows -------------------------------------------------------------------------------------

    def take_deals(self) -> None:
        """Apply the new deals that are ours. A position's own deals may lie behind those that reveal it as ours."""
        left = sorted(
            (deal for deal in self.view.deals or () if not self.book.knows_deal(deal.ticket)), key=chronological
        )
        while left:
            # By ticket, as a list with repetitions is no reason to apply one twice.
            later = [deal for deal in left if not self.book.knows_deal(deal.ticket) and not self._take(deal)]
            if len(later) == len(left):
                break
            left = later
        self.strange = left

    def _take(self, deal: BrokerDeal) -> bool:
        key = self.book.maker(deal)
        if key is None:
            return False
        step = self._apply(Dealt(key, deal))
        if step.position is not None and not step.position.open and not key:
            self.actions.append(Closed(deal.position, deal.symbol, deal.reason, deal.ticket))
        return True

    def find_orders(self) -> None:
        """Recognise orders of ours among the broker's orders, and by the key of a position."""
        for shown in self.view.orders or ():
            order = self.book.order(shown.key) if shown.key else None
            if order is not None and not order.moves_only:
                self._find(order, shown)
        for position in self.view.positions or ():
            order = self.book.open.get(position.key) if position.key else None
            if order is not None and order.state in (JOURNALLED, UNKNOWN):
                self._apply(Found(order.key, self.view.time_ns))

    def _find(self, order: TrackedOrder, shown: BrokerOrder) -> None:
        now = self.view.time_ns
        if shown.status is not OrderStatus.WORKING:
            if not order.state.terminal or shown.executed_lots - order.filled_lots > LOTS_TINY:
                refused, reason = shown.status is OrderStatus.REJECTED, f"{shown.status} at the broker"
                self._apply(Ended(order.key, now, shown.executed_lots, reason, refused, shown.ticket))
            return
        # A list may show an order as working for a moment after it ended: that alone revives nothing.
        fresh = now <= order.changed_ns + self.patience.quiet_ns
        if order.state in (JOURNALLED, SENT, UNKNOWN) or (order.state.terminal and not order.filled_lots and not fresh):
            self._apply(Found(order.key, now, shown.ticket))

    def find_moves(self) -> None:
        """Recognise orders that only move a stop by the stop's being where they wanted it."""
        if self.view.positions is None:
            return
        shown = {position.ticket: position for position in self.view.positions}
        for order in tuple(self.book.open.values()):
            if not order.moves_only or order.state is not UNKNOWN:
                continue
            own = self.book.of_order(order.intent)
            if own and all(_stands(shown.get(position.ticket), order.intent) for position in own):
                self._apply(Changed(order.key, self.view.time_ns))

    # -- what it does not show -------------------------------------------------------------------------------------

    def judge_absent(self) -> None:
        """Conclude from absence, where that is proof; hold what stays in doubt for too long."""
        for order in tuple(self.book.open.values()):
            if order.held:
                continue
            if order.state is UNKNOWN:
                self._judge_unknown(order)
            elif order.state in (ACCEPTED, PARTIAL):
                self._judge_taken(order)

    def _judge_unknown(self, order: TrackedOrder) -> None:
        reach_ns = max(order.changed_ns, order.sent_ns, order.intent.expires_ns)
        if not self._proves(order, reach_ns):
            if self.view.time_ns >= reach_ns + self.patience.hold_after_ns:
                self._apply(Held(order.key, self.view.time_ns, f"absence cannot be proven: {self._why(order)}"))
            self._keep_missing(order)
            return
        if not self._missed_for_long(order):
            return
        alike = self._alike(order)
        if alike:
            self._apply(Held(order.key, self.view.time_ns, f"{alike} carries no key and may be this order"))
            return
        quiet_s = self.patience.quiet_ns / SECOND_NS
        self._apply(NotSent(order.key, self.view.time_ns, f"no order, position or deal of it after {quiet_s:g} s"))

    def _judge_taken(self, order: TrackedOrder) -> None:
        if self._works(order):
            return
        if order.owed_lots:
            if self.view.time_ns >= order.changed_ns + self.patience.hold_after_ns:
                reason = (
                    f"the broker said that {order.claimed_lots:g} lots are executed, deals show {order.filled_lots:g}"
                )
                self._apply(Held(order.key, self.view.time_ns, reason))
            return
        if not self._proves(order, order.changed_ns) or self._shows_unexplained(order):
            if self.view.time_ns >= order.changed_ns + self.patience.hold_after_ns:
                self._apply(Held(order.key, self.view.time_ns, f"its end cannot be proven: {self._why(order)}"))
            self._keep_missing(order)
            return
        if self._missed_for_long(order):
            self._apply(Ended(order.key, self.view.time_ns, order.filled_lots, "no longer at the broker"))

    def _keep_missing(self, order: TrackedOrder) -> None:
        if not self.view.complete and order.key in self.before.missing:
            self.missing[order.key] = self.before.missing[order.key]

    def _missed_for_long(self, order: TrackedOrder) -> bool:
        """Whether an earlier view, by more than the quiet period, showed nothing of the order either."""
        since = self.missing[order.key] = self.before.missing.get(order.key, self.view.time_ns)
        return self.view.time_ns > since + self.patience.quiet_ns

    def _proves(self, order: TrackedOrder, reach_ns: int) -> bool:
        """Whether the view's silence about an order is proof."""
        quiet = self.patience.quiet_ns
        whole = self.view.complete and self.view.deals_since_ns <= order.intent.decided_ns - quiet
        return whole and self.view.time_ns > reach_ns + quiet

    def _why(self, order: TrackedOrder) -> str:
        if not self.view.complete:
            return self.view.problem or "the broker does not tell"
        if self._shows_unexplained(order):
            return "a position has its key, and no deal explains it"
        return "the broker's history does not reach back to it"

    def _works(self, order: TrackedOrder) -> bool:
        tickets = (order.broker_order,) if order.broker_order else ()
        return any(
            shown.status is OrderStatus.WORKING and (shown.key == order.key or shown.ticket in tickets)
            for shown in self.view.orders or ()
        )

    def _shows_unexplained(self, order: TrackedOrder) -> bool:
        """Whether the broker shows a position with the order's key of which no deal is known."""
        return any(
            shown.key == order.key and shown.ticket not in self.book.positions for shown in self.view.positions or ()
        )

    def _alike(self, order: TrackedOrder) -> str:
        """Name what might be the order without its key; empty: nothing is."""
        intent, since = order.intent, order.intent.decided_ns - self.patience.quiet_ns
        if intent.purpose is Purpose.MODIFY:
            return ""
        for deal in self.strange:
            if not deal.key and deal.time_ns >= since and _could_be(intent, deal.symbol, deal.lots):
                return f"deal {deal.ticket}"
        for position in self.view.positions or ():
            known = position.key or position.ticket in self.book.positions
            if not known and position.opened_ns >= since and _could_be(intent, position.symbol, position.lots):
                return f"position {position.ticket}"
        return ""

    # -- positions -------------------------------------------------------------------------------------------------

    def compare_positions(self) -> tuple[BrokerPosition, ...] | None:
        """Compare positions with sums of deals, and see that ours have stops; return those that are not ours."""
        if self.view.positions is None:
            return None
        shown = {position.ticket: position for position in self.view.positions}
        ours = {ticket: position for ticket, position in shown.items() if self._is_ours(position)}
        for position in ours.values():
            self._protect(position)
        self._find_differences(ours)
        return tuple(position for ticket, position in shown.items() if ticket not in ours)

    def _is_ours(self, position: BrokerPosition) -> bool:
        known = position.key != 0 and self.book.order(position.key) is not None
        return known or position.ticket in self.book.positions

    def _protect(self, position: BrokerPosition) -> None:
        if position.stop > 0.0 or self._on_its_way(position):
            return
        own = self.book.positions.get(position.ticket)
        order = self.book.order(position.key) if position.key else None
        stop, target = (own.stop, own.target) if own else (0.0, 0.0)
        if not stop and order is not None:
            stop, target = order.intent.stop, order.intent.target
        if stop > 0.0:
            self.actions.append(Protect(position.ticket, position.symbol, position.lots, stop, target))
        else:
            self.actions.append(Halt(position.symbol, f"position {position.ticket} has no stop, and none is known"))

    def _on_its_way(self, position: BrokerPosition) -> bool:
        """Whether an order that closes the position, or moves its stop, is not at its end."""
        return any(
            order.intent.purpose is not Purpose.OPEN and not order.held
            and order.intent.symbol == position.symbol and order.intent.position in (0, position.ticket)
            for order in self.book.open.values()
        )  # fmt: skip

    def _find_differences(self, ours: Mapping[int, BrokerPosition]) -> None:
        now, found = self.view.time_ns, {}
        for ticket in self.book.positions.keys() | ours.keys():
            own: OwnPosition | None = self.book.positions.get(ticket)
            expected = own.lots if own is not None and own.open else 0.0
            seen = ours[ticket].lots if ticket in ours else 0.0
            if abs(expected - seen) <= LOTS_TINY:
                continue
            before = self.before.differences.get(ticket)
            same = before is not None and (before.expected_lots, before.shown_lots) == (expected, seen)
            since = before.since_ns if before is not None and same else now
            found[ticket] = Difference(since, expected, seen)
            # Positions and deals are two questions: for as long as a deal may be on its way, or cannot be seen, nothing
            # is wrong.
            if self.view.deals is not None and now > since + self.patience.quiet_ns:
                symbol = own.symbol if own is not None else ours[ticket].symbol
                words = f"position {ticket}: its deals sum to {expected:g} lots, the broker shows {seen:g}"
                self.actions.append(Halt(symbol, words))
        self.differences = found


def _stands(position: BrokerPosition | None, intent: OrderIntent) -> bool:
    return (
        position is not None
        and math.isclose(position.stop, intent.stop, rel_tol=_PRICE_NEAR)
        and math.isclose(position.target, intent.target, rel_tol=_PRICE_NEAR)
    )


def _could_be(intent: OrderIntent, symbol: str, lots: float) -> bool:
    return symbol == intent.symbol and lots * intent.lots > 0.0 and abs(lots) <= abs(intent.lots) + LOTS_TINY
