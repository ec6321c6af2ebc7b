"""Reconciliation: examples of every rule, and a journal beside a model broker that does all that brokers do."""

import asyncio
import os
from dataclasses import dataclass, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fx_dagster.errors import BrokerError, SettingsError
from fx_dagster.execution.broker import (
    Accepted,
    Answer,
    BrokerDeal,
    BrokerOrder,
    BrokerPosition,
    BrokerView,
    OrderStatus,
    Partial,
    Refused,
    Requote,
    Unknown,
    look,
)
from fx_dagster.execution.lifecycle import (
    Answered,
    Dealt,
    Event,
    Found,
    Held,
    Journalled,
    NotSent,
    OrderBook,
    Sent,
    TrackedOrder,
    Verdict,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose
from fx_dagster.execution.reconcile import (
    Apply,
    Closed,
    Doubts,
    Halt,
    Patience,
    Protect,
    Reconciliation,
    after_restart,
    history_since,
    reconcile,
)

NIGHT = os.environ.get("FX_TEST_PROFILE") == "night"
SIZE = settings(
    max_examples=2_000 if NIGHT else 50, stateful_step_count=100 if NIGHT else 30, deadline=None, derandomize=not NIGHT
)
S = 1_000_000_000
START = 10_000_000 * S
QUIET = 30 * S
PATIENCE = Patience(quiet_ns=QUIET, hold_after_ns=600 * S, requotes_max=3)


def intent(key: int = 1, lots: float = 0.3, *, now: int = START, **changes: object) -> OrderIntent:
    made = OrderIntent(key, "real", "EURUSD", Purpose.OPEN, lots, 1.09, 1.2, now, now + 5 * S, 30.0)
    return replace(made, **changes)


def deal(ticket: int, lots: float, *, key: int = 1, position: int = 900, **changes: object) -> BrokerDeal:
    reason = DealReason.CLIENT
    made = BrokerDeal(ticket, 0, position, key, "EURUSD", START + S, lots, 1.1, 0.5, 0.0, 0.0, reason, False)
    return replace(made, **changes)


def position(lots: float, *, ticket: int = 900, key: int = 1, stop: float = 1.09) -> BrokerPosition:
    return BrokerPosition(ticket, key, "EURUSD", lots, 1.1, stop, 1.2, START + S, 0.0, 0.0)


def working(ticket: int = 70, key: int = 1, **changes: object) -> BrokerOrder:
    return replace(BrokerOrder(ticket, key, "EURUSD", 0.3, 0.3, 1.09, 1.2, START), **changes)


def view(after_s: float, **changes: object) -> BrokerView:
    now = START + int(after_s * S)
    return replace(BrokerView(now, START - 86_400 * S, (), (), ()), **changes)


def book_with(*events: Event, order: OrderIntent | None = None) -> OrderBook:
    book = OrderBook()
    order = order or intent()
    book.plan(order)
    for event in (Journalled(order.client_order_id, START), Sent(order.client_order_id, START), *events):
        book.apply(event)
    return book


def in_doubt() -> OrderBook:
    return book_with(Answered(1, START + S, Unknown("timeout")))


def act(book: OrderBook, found: Reconciliation) -> None:
    for event in found.events():
        book.apply(event)


def test_nothing_is_concluded_before_the_quiet_period_nor_from_one_view() -> None:
    book, doubts = in_doubt(), Doubts()
    # The bridge might have delivered it until it expired, after 5 s.
    for after_s in (2.0, 34.0, 35.0):
        found = reconcile(book, view(after_s), PATIENCE, doubts)
        assert found.actions == ()
        assert not found.doubts.missing
    first = reconcile(book, view(36.0), PATIENCE)
    assert first.actions == ()
    assert reconcile(book, view(60.0), PATIENCE, first.doubts).actions == ()
    last = reconcile(book, view(67.0), PATIENCE, first.doubts)
    act(book, last)
    order = book.ended[1]
    assert order.state is OrderState.CANCELLED
    assert order.message.startswith("not sent: no order, position or deal of it")


@pytest.mark.parametrize("blind", [{"orders": None}, {"positions": None}, {"deals": None}, {"deals_since_ns": START}])
def test_a_view_that_is_not_whole_proves_nothing_and_the_order_is_held(blind: dict[str, object]) -> None:
    book, doubts = in_doubt(), Doubts()
    for after_s in (100.0, 300.0, 600.0):
        found = reconcile(book, view(after_s, **blind), PATIENCE, doubts)
        assert not found.events()
    act(book, reconcile(book, view(606.0, **blind), PATIENCE, doubts))
    assert "cannot be proven" in book.open[1].held
    assert not reconcile(book, view(900.0), PATIENCE, Doubts(missing={1: START})).events(), "a person's now"


@pytest.mark.parametrize(
    ("shown", "state", "filled"),
    [
        ({"orders": (working(),)}, "accepted", 0.0),
        ({"positions": (position(0.3),)}, "accepted", 0.0),
        ({"deals": (deal(1, 0.3),), "positions": (position(0.3),)}, "filled", 0.3),
        ({"deals": (deal(1, 0.1),), "positions": (position(0.1),), "orders": (working(),)}, "partial", 0.1),
        ({"orders": (working(status=OrderStatus.REJECTED),)}, "rejected", 0.0),
        ({"orders": (working(status=OrderStatus.EXPIRED),)}, "cancelled", 0.0),
        (
            {
                "orders": (working(status=OrderStatus.CANCELLED, lots_left=0.2),),
                "deals": (deal(1, 0.1),),
                "positions": (position(0.1),),
            },
            "cancelled",
            0.1,
        ),
    ],
)
def test_an_order_in_doubt_is_found_by_its_key(shown: dict[str, object], state: str, filled: float) -> None:
    for book in (in_doubt(), book_with()):
        act(book, reconcile(book, view(2.0, **shown), PATIENCE))
        order = book.order(1)
        assert order is not None
        if order.state is not OrderState.SENT:  # a position alone says nothing while the answer is on its way
            assert (order.state, order.filled_lots) == (state, filled)
    held = in_doubt()
    held.apply(Held(1, START + 2 * S, "no view"))
    act(held, reconcile(held, view(900.0, **shown), PATIENCE))
    assert held.order(1).state == state  # type: ignore[union-attr]
    assert not held.unresolved()


def test_a_restart_doubts_what_was_journalled_or_sent_and_never_sends() -> None:
    book = book_with()
    book.plan(intent(2))
    book.apply(Journalled(2, START))
    events = after_restart(book, START + 3 * S)
    assert {event.key for event in events} == {1, 2}
    for event in events:
        book.apply(event)
    assert [order.state for order in book.open.values()] == [OrderState.UNKNOWN] * 2
    assert history_since(book, START + 9 * S) == START - 86_400 * S
    act(book, reconcile(book, view(9.0, deals=(deal(1, 0.3, key=2),), positions=(position(0.3, key=2),)), PATIENCE))
    assert book.order(2).state is OrderState.FILLED  # type: ignore[union-attr]


def test_something_without_a_key_that_looks_like_the_order_is_a_persons() -> None:
    for shown in (
        {"positions": (position(0.3, key=0, ticket=5),)},
        {"deals": (deal(8, 0.2, key=0, position=5),)},
    ):
        book = in_doubt()
        found = reconcile(book, view(90.0, **shown), PATIENCE, Doubts(missing={1: START + 40 * S}))
        act(book, found)
        assert "may be this order" in book.open[1].held
    book = in_doubt()
    other_side = view(90.0, positions=(position(-0.3, key=0, ticket=5), position(0.3, key=77, ticket=6)))
    act(book, reconcile(book, other_side, PATIENCE, Doubts(missing={1: START + 40 * S})))
    assert book.ended[1].state is OrderState.CANCELLED


def test_foreign_positions_are_counted_and_left_alone() -> None:
    foreign = (position(0.5, ticket=5, key=0, stop=0.0), position(-0.2, ticket=6, key=77, stop=0.0))
    found = reconcile(OrderBook(), view(1.0, positions=foreign), PATIENCE)
    assert found.foreign == foreign
    assert found.foreign_lots() == {"EURUSD": pytest.approx(0.3)}
    assert found.actions == ()
    assert reconcile(OrderBook(), view(1.0, positions=None), PATIENCE).foreign is None


def test_a_position_of_ours_without_a_stop_gets_its_stop() -> None:
    book = book_with(Dealt(1, deal(1, 0.3)))
    naked = view(9.0, positions=(position(0.3, stop=0.0),))
    assert reconcile(book, naked, PATIENCE).actions == (Protect(900, "EURUSD", 0.3, 1.09, 1.2),)
    early = in_doubt()  # before its deal is seen
    assert Protect(900, "EURUSD", 0.3, 1.09, 1.2) in reconcile(early, naked, PATIENCE).actions
    move = intent(2, 0.0, purpose=Purpose.MODIFY, position=900)
    book.plan(move)
    book.apply(Journalled(2, START))
    assert not [a for a in reconcile(book, naked, PATIENCE).actions if isinstance(a, Protect)], "on its way"
    unknown = book_with(Dealt(1, deal(1, 0.3)), order=intent(stop=0.0))
    assert isinstance(reconcile(unknown, naked, PATIENCE).actions[0], Halt)


def test_a_moved_stop_is_found_where_it_stands() -> None:
    book = book_with(Dealt(1, deal(1, 0.3)))
    book.plan(intent(2, 0.0, purpose=Purpose.MODIFY, position=900, stop=1.095))
    for event in (Journalled(2, START), Sent(2, START), Answered(2, START, Unknown("timeout"))):
        book.apply(event)
    assert not reconcile(book, view(9.0, positions=(position(0.3),)), PATIENCE).events()
    act(book, reconcile(book, view(9.0, positions=(position(0.3, stop=1.095),)), PATIENCE))
    assert (book.ended[2].state, book.positions[900].stop) == (OrderState.FILLED, 1.095)


@pytest.mark.parametrize("reason", [DealReason.STOP, DealReason.TARGET, DealReason.STOP_OUT, DealReason.MANUAL])
def test_what_the_server_closes_is_seen_in_its_deals_whatever_comes_first(reason: DealReason) -> None:
    book = in_doubt()
    closing = deal(2, -0.3, key=0, closing=True, reason=reason, time_ns=START + 5 * S)
    found = reconcile(book, view(9.0, deals=(closing, deal(1, 0.3), closing)), PATIENCE)
    act(book, found)
    assert Closed(900, "EURUSD", reason, 2) in found.actions
    assert not list(book.open_positions())
    assert book.ended[1].state is OrderState.FILLED
    assert not reconcile(book, view(10.0, deals=(closing, deal(1, 0.3))), PATIENCE).actions


def test_a_position_that_stays_different_from_its_deals_halts() -> None:
    book = book_with(Dealt(1, deal(1, 0.3)))
    shown = view(10.0, positions=(position(0.2),))
    first = reconcile(book, shown, PATIENCE)
    assert first.actions == ()
    assert not reconcile(book, replace(shown, time_ns=START + 39 * S), PATIENCE, first.doubts).actions
    later = reconcile(book, replace(shown, time_ns=START + 41 * S), PATIENCE, first.doubts)
    assert later.actions == (Halt("EURUSD", "position 900: its deals sum to 0.3 lots, the broker shows 0.2"),)
    blind = reconcile(book, replace(shown, time_ns=START + 41 * S, deals=None), PATIENCE, first.doubts)
    assert blind.actions == (), "the deals may explain it"
    assert blind.doubts.differences == first.doubts.differences
    other = reconcile(book, view(41.0, positions=(position(0.1),)), PATIENCE, first.doubts)
    assert other.actions == (), "another difference has a time of its own"
    assert not reconcile(book, view(42.0, positions=(position(0.3),)), PATIENCE, first.doubts).doubts.differences
    gone = reconcile(book, view(42.0), PATIENCE)
    assert gone.doubts.differences[900].shown_lots == 0.0


def test_an_accepted_order_that_vanishes_is_over_and_one_with_a_claim_is_held() -> None:
    book = book_with(Answered(1, START + S, Accepted(70)))
    first = reconcile(book, view(90.0), PATIENCE)
    assert first.actions == ()
    seen = reconcile(book, view(100.0, orders=(working(),)), PATIENCE, first.doubts)
    assert not seen.doubts.missing
    act(book, reconcile(book, view(121.0), PATIENCE, first.doubts))
    assert book.ended[1].message == "no longer at the broker"
    claimed = book_with(Answered(1, START + S, Accepted(70, lots=0.3)))
    assert not reconcile(claimed, view(500.0), PATIENCE, Doubts(missing={1: START})).events()
    act(claimed, reconcile(claimed, view(602.0), PATIENCE, Doubts(missing={1: START})))
    assert "0.3 lots are executed, deals show 0" in claimed.open[1].held


def test_life_in_an_order_that_had_ended_is_an_alarm_and_counts() -> None:
    book = in_doubt()
    book.apply(NotSent(1, START + 70 * S, "quiet"))
    assert not reconcile(book, view(80.0, orders=(working(),)), PATIENCE).actions, "a list may lag"
    found = reconcile(book, view(200.0, orders=(working(),)), PATIENCE)
    assert [type(action) for action in found.actions] == [Apply, Halt]
    assert isinstance(found.events()[0], Found)
    dealt = reconcile(book, view(80.0, deals=(deal(1, 0.3),), positions=(position(0.3),)), PATIENCE)
    assert [type(action) for action in dealt.actions] == [Apply, Halt]


def test_impossible_patience_is_refused() -> None:
    with pytest.raises(SettingsError, match="quiet period"):
        Patience(quiet_ns=0)
    with pytest.raises(SettingsError, match="requotes_max"):
        Patience(requotes_max=0)


# -- a model broker ----------------------------------------------------------------------------------------------------

DELAY_S = 29
"""Worst delay of showing anything: below the quiet period."""


@dataclass
class Taken:
    """An order as the model broker has it."""

    ticket: int
    key: int
    symbol: str
    lots: float
    left: float
    stop: float
    visible_ns: int
    working: bool


class ModelBroker:
    """Takes orders or not, shows each thing after a delay of its own, and repeats itself."""

    def __init__(self) -> None:
        self.now = START
        self.keys: set[int] = set()
        self.taken: dict[int, Taken] = {}
        self.deals: list[tuple[int, BrokerDeal]] = []
        self.positions: dict[int, float] = {}
        self.keys_of: dict[int, int] = {}
        self.tickets = 100
        self.blind: set[str] = set()

    def ticket(self) -> int:
        self.tickets += 1
        return self.tickets

    def take(self, order: OrderIntent, delay_s: int) -> Taken:
        assert order.client_order_id not in self.keys, "a key came twice"
        self.keys.add(order.client_order_id)
        ticket = self.ticket()
        key, symbol, lots, visible = order.client_order_id, order.symbol, order.lots, self.now + delay_s * S
        self.taken[ticket] = Taken(ticket, key, symbol, lots, lots, order.stop, visible, True)
        return self.taken[ticket]

    def fill(self, order: Taken, lots: float, delay_s: int) -> BrokerDeal:
        signed = lots if order.lots > 0 else -lots
        place = order.ticket
        order.left = round(order.left - signed, 8)
        order.working = abs(order.left) > 1e-9
        self.positions[place] = round(self.positions.get(place, 0.0) + signed, 8)
        self.keys_of[place] = order.key
        made = deal(self.ticket(), signed, key=order.key, position=place, order=order.ticket, time_ns=self.now)
        self.deals.append((self.now + delay_s * S, made))
        return made

    def close_by_stop(self, place: int, delay_s: int) -> None:
        lots = -self.positions.pop(place)
        made = deal(
            self.ticket(), lots, key=0, position=place, time_ns=self.now, closing=True, reason=DealReason.STOP
        )  # fmt: skip
        self.deals.append((self.now + delay_s * S, made))

    async def orders(self) -> tuple[BrokerOrder, ...]:
        self._look("orders")
        return tuple(
            BrokerOrder(one.ticket, one.key, one.symbol, one.lots, one.left, one.stop, 0.0, self.now)
            for one in self.taken.values() if one.working and one.visible_ns <= self.now
        )  # fmt: skip

    async def positions_shown(self) -> tuple[BrokerPosition, ...]:
        self._look("positions")
        return tuple(
            position(lots, ticket=place, key=self.keys_of[place]) for place, lots in self.positions.items() if lots
        )

    async def deals_shown(self, since_ns: int) -> tuple[BrokerDeal, ...]:
        self._look("deals")
        seen = [made for visible, made in self.deals if visible <= self.now and made.time_ns >= since_ns]
        return (*reversed(seen), *seen[:2])

    def _look(self, what: str) -> None:
        if what in self.blind:
            raise BrokerError(f"{what}: the terminal does not answer")


class _Shown:
    """The model broker's face for :func:`look`."""

    def __init__(self, broker: ModelBroker) -> None:
        self.orders = broker.orders
        self.positions = broker.positions_shown
        self.deals = broker.deals_shown


class JournalBesideBroker(RuleBasedStateMachine):
    """An engine that dies anywhere, beside a broker that answers anything, within its worst delay."""

    def __init__(self) -> None:
        super().__init__()
        self.broker = ModelBroker()
        self.book = OrderBook()
        self.doubts = Doubts()
        self.key = 0
        # What is durable: orders as after their last journalled step, deals by ticket.
        self.orders: dict[int, TrackedOrder] = {}
        self.deals: dict[int, tuple[int, BrokerDeal]] = {}

    def _apply(self, event: Event) -> None:
        step = self.book.apply(event)
        assert step.verdict is not Verdict.CONTRADICTION, step.note
        if step.order is not None:
            self.orders[step.order.key] = step.order
        if isinstance(event, Dealt) and step.verdict is Verdict.APPLIED:
            assert event.deal.ticket not in self.deals, "a deal was applied twice"
            self.deals[event.deal.ticket] = (event.key, event.deal)

    @rule(
        lots=st.integers(1, 5), buys=st.booleans(), dies=st.sampled_from([0, 0, 0, 1, 2, 3]),
        outcome=st.sampled_from(["lost", "refused", "requote", "rests", "full", "part", "part_gone"]),
        heard=st.booleans(), delays=st.tuples(*[st.integers(0, DELAY_S)] * 3), late_answer=st.booleans(),
    )  # fmt: skip
    def send(
        self,
        lots: int,
        buys: bool,
        dies: int,
        outcome: str,
        heard: bool,
        delays: tuple[int, int, int],
        late_answer: bool,
    ) -> None:
        self.key += 1
        order = intent(self.key, lots / 10 if buys else -lots / 10, now=self.broker.now)
        self.book.plan(order)
        self._apply(Journalled(self.key, self.broker.now))
        if dies == 1:
            return self._restart()
        self._apply(Sent(self.key, self.broker.now))
        if dies == 2:
            return self._restart()
        answer = self._serve(order, outcome, delays)
        if dies == 3:
            return self._restart()
        if late_answer:
            self._look()
        return self._apply(Answered(self.key, self.broker.now, answer if heard else Unknown("timeout")))

    def _serve(self, order: OrderIntent, outcome: str, delays: tuple[int, int, int]) -> Answer:
        if outcome == "lost":
            return Unknown("timeout")
        if outcome == "refused":
            return Refused(10016, "invalid stops")
        if outcome == "requote":
            return Requote(10004, "requote")
        taken, size = self.broker.take(order, delays[0]), abs(order.lots)
        if outcome == "rests":
            return Accepted(taken.ticket)
        if outcome == "full" or size < 0.15:
            made = self.broker.fill(taken, size, delays[1])
            return Accepted(taken.ticket, deal=made.ticket, lots=size)
        self.broker.fill(taken, 0.1, delays[1])
        taken.working = outcome == "part"
        return Partial(taken.ticket, 0.1, working=taken.working)

    @rule()
    def restart(self) -> None:
        self._restart()

    def _restart(self) -> None:
        keys = {ticket: key for ticket, (key, _) in self.deals.items()}
        deals = [made for _, made in self.deals.values()]
        again = OrderBook.restored(self.orders.values(), deals, keys)
        assert (again.open, again.ended) == (
            {key: order for key, order in self.orders.items() if not order.state.terminal},
            {key: order for key, order in self.orders.items() if order.state.terminal},
        )
        self.book, self.doubts = again, Doubts()
        for event in after_restart(self.book, self.broker.now):
            self._apply(event)

    @rule(seconds=st.sampled_from([1, 5, 20, 31, 90]))
    def time_passes(self, seconds: int) -> None:
        self.broker.now += seconds * S

    def _resting(self) -> list[int]:
        return sorted(one.ticket for one in self.broker.taken.values() if one.working)

    @precondition(lambda self: self._resting())
    @rule(data=st.data(), whole=st.booleans(), delay_s=st.integers(0, DELAY_S))
    def fill_later(self, data: st.DataObject, whole: bool, delay_s: int) -> None:
        order = self.broker.taken[data.draw(st.sampled_from(self._resting()))]
        self.broker.fill(order, abs(order.left) if whole else 0.1, delay_s)

    @precondition(lambda self: self._resting())
    @rule(data=st.data())
    def cancel_at_the_broker(self, data: st.DataObject) -> None:
        self.broker.taken[data.draw(st.sampled_from(self._resting()))].working = False

    @precondition(lambda self: self.broker.positions)
    @rule(data=st.data(), delay_s=st.integers(0, DELAY_S))
    def stop_out(self, data: st.DataObject, delay_s: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.broker.positions)))
        if place not in self._resting():
            self.broker.close_by_stop(place, delay_s)

    @rule(blind=st.sets(st.sampled_from(["orders", "positions", "deals"]), max_size=1))
    def look_at_the_broker(self, blind: set[str]) -> None:
        self.broker.blind = blind
        self._look()
        self.broker.blind = set()

    @rule(seconds=st.sampled_from([3, 10, 40]))
    def look_for_a_while(self, seconds: int) -> None:
        for _ in range(3):
            self.broker.now += seconds * S
            self._look()

    def _look(self) -> None:
        now = self.broker.now
        shown = _Shown(self.broker)
        seen = asyncio.run(look(shown, now, history_since(self.book, now)))  # type: ignore[arg-type]
        assert seen.complete == (not self.broker.blind)
        found = reconcile(self.book, seen, PATIENCE, self.doubts)
        for action in found.actions:
            assert not isinstance(action, Halt), action
            if isinstance(action, Apply):
                self._apply(action.event)
        self.doubts = found.doubts

    @invariant()
    def positions_are_the_sums_of_journalled_deals(self) -> None:
        sums: dict[int, float] = {}
        for _, made in self.deals.values():
            sums[made.position] = sums.get(made.position, 0.0) + made.lots
        assert {place: one.lots for place, one in self.book.positions.items()} == {
            place: pytest.approx(lots) for place, lots in sums.items()
        }

    @invariant()
    def nothing_is_believed_that_the_broker_did_not_do(self) -> None:
        truth = {made.ticket: made for _, made in self.broker.deals}
        assert all(truth[ticket] == made for ticket, (_, made) in self.deals.items())
        # One that rested and ended without a trace may count as not sent; one that works or traded, never.
        alive = {made.key for made in truth.values()} | {one.key for one in self.broker.taken.values() if one.working}
        for key, order in self.orders.items():
            if order.state is OrderState.CANCELLED and order.message.startswith("not sent"):
                assert key not in alive

    def teardown(self) -> None:
        for one in self.broker.taken.values():
            one.working = False
        for _ in range(6):
            self.broker.now += 31 * S
            self._look()
        truth = {made.ticket for _, made in self.broker.deals}
        assert self.deals.keys() == truth, "a fill is lost"
        assert {one.ticket: one.lots for one in self.book.open_positions()} == {
            place: pytest.approx(lots) for place, lots in self.broker.positions.items()
        }
        for order in self.book.open.values():
            assert order.held, f"order {order.key} is {order.state} for ever"


JournalBesideBroker.TestCase.settings = SIZE
TestJournalBesideBroker = JournalBesideBroker.TestCase
