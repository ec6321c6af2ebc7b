import os
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fx_dagster.errors import DataError, TradingError
from fx_dagster.execution.broker import (
    Accepted,
    BrokerDeal,
    BrokerOrder,
    BrokerSpecification,
    Partial,
    Refused,
    Requote,
    TradeMode,
    Unknown,
)
from fx_dagster.execution.lifecycle import (
    REVIVALS,
    TRANSITIONS,
    Answered,
    Changed,
    Dealt,
    Doubted,
    Ended,
    Found,
    Held,
    Journalled,
    LifecycleError,
    NotSent,
    OrderBook,
    Sent,
    TrackedOrder,
    Verdict,
    Withheld,
    advance,
    next_attempt,
    protects,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose
from fx_dagster.market.instruments import instrument

NIGHT = os.environ.get("FX_TEST_PROFILE") == "night"
SIZE = settings(
    max_examples=2_000 if NIGHT else 60, stateful_step_count=100 if NIGHT else 25, deadline=None, derandomize=not NIGHT
)


def intent(key: int = 1, lots: float = 0.3, purpose: Purpose = Purpose.OPEN, position: int = 0) -> OrderIntent:
    return OrderIntent(key, "real", "EURUSD", purpose, lots, 1.09, 1.2, 100, 200, 30.0, position=position)


def deal(ticket: int, lots: float, *, key: int = 1, position: int = 900, **changes: object) -> BrokerDeal:
    made = BrokerDeal(
        ticket, 70 + key, position, key, "EURUSD", 150 + ticket, lots, 1.1, 0.5, 0.0, 0.0, DealReason.CLIENT, False
    )
    return replace(made, **changes)


def at(state: OrderState, **changes: object) -> TrackedOrder:
    return replace(TrackedOrder(intent(), state, 110, sent_ns=110), **changes)


def sent_book(purpose: Purpose = Purpose.OPEN) -> OrderBook:
    book = OrderBook()
    book.plan(intent(lots=0.0 if purpose is Purpose.MODIFY else 0.3, purpose=purpose))
    book.apply(Journalled(1, 100))
    book.apply(Sent(1, 101))
    return book


EVENTS = {
    "journalled": Journalled(1, 120),
    "sent": Sent(1, 120),
    "withheld": Withheld(1, 120, "late"),
    "doubted": Doubted(1, 120, "restart"),
    "accepted": Answered(1, 120, Accepted(71)),
    "partial": Answered(1, 120, Partial(71, 0.1, working=True)),
    "refused": Answered(1, 120, Refused(10016, "stops")),
    "requote": Answered(1, 120, Requote(10004)),
    "unknown": Answered(1, 120, Unknown("timeout")),
    "found": Found(1, 120, 71),
    "ended": Ended(1, 120, 0.0, "cancelled"),
    "dealt": Dealt(1, deal(1, 0.1)),
    "not_sent": NotSent(1, 120, "quiet"),
    "held": Held(1, 120, "doubt"),
}
# What each event makes of each state: a state, "=" no change of it, "late", "!" a contradiction (with the state), "x".
STATES = ("planned", "journalled", "sent", "unknown", "accepted", "partial", "filled", "rejected", "cancelled")
TABLE = """
journalled journalled x          x         x         x         x         x     x         x
sent       x          sent       x         x         x         x         x     x         x
withheld   cancelled  cancelled  x         x         x         x         x     x         x
doubted    x          unknown    unknown   late      late      late      late  late      late
accepted   x          x          accepted  accepted  =         =         late  !accepted !accepted
partial    x          x          partial   partial   partial   =         late  !partial  !partial
refused    x          x          rejected  rejected  rejected  !         !     late      late
requote    x          x          rejected  rejected  rejected  !         !     late      late
unknown    x          x          unknown   late      late      late      late  late      late
found      x          x          accepted  accepted  late      late      late  !accepted !accepted
ended      x          x          cancelled cancelled cancelled cancelled late  late      late
dealt      x          x          partial   partial   partial   =         !     !partial  !partial
not_sent   x          x          x         cancelled late      late      late  late      late
held       x          x          x         =         =         =         late  late      late
"""
CASES = [
    (state, line.split()[0], word)
    for line in TABLE.strip().splitlines()
    for state, word in zip(STATES, line.split()[1:], strict=True)
]


@pytest.mark.parametrize(("state", "name", "word"), CASES)
def test_every_event_in_every_state(state: str, name: str, word: str) -> None:
    order = at(OrderState(state), filled_lots=0.3 if state == "filled" else 0.0)
    if word == "x":
        with pytest.raises(LifecycleError):
            advance(order, EVENTS[name])
        return
    step = advance(order, EVENTS[name])
    assert step.order is not None
    assert step.before == state
    if word == "late":
        assert (step.verdict, step.order, step.transitions) == (Verdict.LATE, order, ())
    elif word.startswith("!"):
        assert step.verdict is Verdict.CONTRADICTION
        assert step.note
        assert step.order.state == (word[1:] or state)
    else:
        assert step.verdict is Verdict.APPLIED
        assert step.order.state == (state if word == "=" else word)
    reached = [step.before, *(transition.state for transition in step.transitions)]
    for before, after in pairwise(reached):
        assert after in TRANSITIONS[before] | REVIVALS.get(before, frozenset())


def test_every_state_has_a_row_and_terminal_ones_lead_nowhere() -> None:
    assert set(TRANSITIONS) == set(OrderState)
    assert all(not TRANSITIONS[state] for state in OrderState if state.terminal)
    assert all(OrderState.SENT not in after for state, after in TRANSITIONS.items() if state != "journalled")


def test_a_fill_before_the_answer_and_every_confirmation_twice() -> None:
    book = sent_book()
    book.apply(Dealt(1, deal(1, 0.1)))
    assert book.order(1).state is OrderState.PARTIAL  # type: ignore[union-attr]
    assert book.apply(Dealt(1, deal(1, 0.1))).verdict is Verdict.REPEATED
    book.apply(Answered(1, 120, Accepted(71, lots=0.3)))
    assert book.order(1).owed_lots == pytest.approx(0.2)  # type: ignore[union-attr]
    done = book.apply(Dealt(1, deal(2, 0.2)))
    assert done.order is not None
    assert done.order.state is OrderState.FILLED
    assert book.apply(Answered(1, 121, Accepted(71, lots=0.3))).verdict is Verdict.LATE
    assert [position.lots for position in book.open_positions()] == [0.3]
    assert not book.pending("EURUSD")


def test_a_partial_fill_whose_rest_is_gone_waits_for_its_deal() -> None:
    book = sent_book()
    step = book.apply(Answered(1, 120, Partial(71, 0.1, working=False)))
    assert step.order is not None
    assert step.order.state is OrderState.PARTIAL
    done = book.apply(Dealt(1, deal(5, 0.1)))
    assert done.order is not None
    assert done.order.state is OrderState.CANCELLED
    assert "0.1 of 0.3 lots filled" in done.order.message
    assert book.positions[900].stop == 1.09
    assert book.positions[900].risk_money == pytest.approx(10.0)


def test_a_fill_after_the_order_was_given_up_moves_the_position_and_is_an_alarm() -> None:
    book = sent_book()
    book.apply(Answered(1, 102, Unknown("timeout")))
    book.apply(NotSent(1, 300, "quiet"))
    assert book.order(1).state is OrderState.CANCELLED  # type: ignore[union-attr]
    step = book.apply(Dealt(1, deal(1, 0.3)))
    assert step.verdict is Verdict.CONTRADICTION
    assert "not sent" in step.note
    assert book.order(1).state is OrderState.FILLED  # type: ignore[union-attr]
    assert book.positions[900].lots == 0.3


def test_more_lots_than_asked_for_and_deals_of_another_symbol_are_alarms_that_count() -> None:
    book = sent_book()
    book.apply(Dealt(1, deal(1, 0.3)))
    assert book.apply(Dealt(1, deal(2, 0.1))).verdict is Verdict.CONTRADICTION
    assert book.positions[900].lots == 0.4
    assert book.apply(Dealt(1, deal(3, 0.1, symbol="GBPUSD", position=901))).verdict is Verdict.CONTRADICTION
    assert book.order(1).filled_lots == 0.4  # type: ignore[union-attr]
    assert book.positions[901].lots == 0.1


def test_a_held_order_is_released_by_evidence_or_by_a_person_only() -> None:
    book = sent_book()
    book.apply(Answered(1, 102, Unknown("timeout")))
    book.apply(Held(1, 400, "no view"))
    assert [order.key for order in book.unresolved("EURUSD")] == [1]
    assert book.unresolved("GBPUSD") == ()
    with pytest.raises(LifecycleError, match="held for the operator"):
        book.apply(NotSent(1, 500, "quiet"))
    found = book.copy()
    found.apply(Found(1, 500, 71))
    assert (found.order(1).state, found.order(1).held) == (OrderState.ACCEPTED, "")  # type: ignore[union-attr]
    book.apply(NotSent(1, 500, "seen in the terminal", by_operator=True))
    assert book.order(1).state is OrderState.CANCELLED  # type: ignore[union-attr]
    assert not book.unresolved()


def test_a_key_is_used_once_and_sent_once() -> None:
    book = sent_book()
    with pytest.raises(LifecycleError, match="used before"):
        book.plan(intent())
    with pytest.raises(LifecycleError):
        book.apply(Sent(1, 102))
    book.apply(Answered(1, 103, Requote(10004, "requote")))
    with pytest.raises(LifecycleError, match="used before"):
        book.plan(intent())
    assert [next_attempt(replace(book.ended[1], attempt=n), 3) for n in range(4)] == [1, 2, None, None]


def test_a_stop_is_moved_where_the_broker_took_it() -> None:
    book = sent_book()
    book.apply(Dealt(1, deal(1, 0.3)))
    move = replace(intent(2, 0.0, Purpose.MODIFY, position=900), stop=1.095)
    book.plan(move)
    book.apply(Journalled(2, 100))
    book.apply(Sent(2, 101))
    book.apply(Answered(2, 102, Unknown("timeout")))
    assert book.positions[900].stop == 1.09
    book.apply(Changed(2, 300))
    assert book.positions[900].stop == 1.095
    with pytest.raises(LifecycleError):
        book.apply(Changed(1, 300))


def test_a_book_is_read_again_as_it_was() -> None:
    book = sent_book()
    book.apply(Answered(1, 120, Accepted(71, lots=0.3)))
    book.apply(Dealt(1, deal(2, 0.2)))
    book.apply(Dealt(1, deal(1, 0.1)))
    closing = deal(3, -0.1, key=0, closing=True, reason=DealReason.STOP, time_ns=400)
    assert book.maker(closing) == 0
    assert book.maker(replace(closing, position=1)) is None
    assert book.maker(replace(closing, position=1, order=71)) == 1
    book.apply(Dealt(0, closing))
    deals = [deal(1, 0.1), deal(2, 0.2), closing]
    again = OrderBook.restored([book.ended[1]], deals, {1: 1, 2: 1, 3: 0})
    assert (again.open, again.ended) == (book.open, book.ended)
    assert again.positions[900].lots == book.positions[900].lots == 0.2
    assert again.positions[900].commission == pytest.approx(2 / 3)
    assert all(again.knows_deal(ticket) for ticket in (1, 2, 3))


def test_what_is_long_over_is_forgotten_and_what_could_come_again_is_not() -> None:
    book = sent_book()
    book.apply(Dealt(1, deal(1, 0.3)))
    book.forget(10_000)
    assert book.order(1) is None
    assert book.knows_deal(1), "its position is open"
    assert book.maker(deal(1, 0.3)) == 0
    book.apply(Dealt(0, deal(2, -0.3, key=0, closing=True)))
    book.forget(10_000)
    assert not book.positions
    assert not book.knows_deal(1)
    assert book.maker(deal(1, 0.3)) is None


@pytest.mark.parametrize(
    ("purpose", "lots", "stop", "position_lots", "position_stop", "yes"),
    [
        (Purpose.OPEN, 0.1, 1.0, 0.0, 0.0, False),
        (Purpose.CLOSE, -0.1, 0.0, 0.1, 1.0, True),
        (Purpose.CLOSE, -0.2, 0.0, 0.1, 1.0, False),
        (Purpose.CLOSE, 0.1, 0.0, 0.1, 1.0, False),
        (Purpose.CLOSE, 0.1, 0.0, -0.1, 1.0, True),
        (Purpose.MODIFY, 0.0, 1.1, 0.1, 1.0, True),
        (Purpose.MODIFY, 0.0, 0.9, 0.1, 1.0, False),
        (Purpose.MODIFY, 0.0, 0.9, -0.1, 1.0, True),
        (Purpose.MODIFY, 0.0, 1.1, -0.1, 1.0, False),
        (Purpose.MODIFY, 0.0, 0.9, 0.1, 0.0, True),
        (Purpose.MODIFY, 0.0, 0.0, 0.1, 1.0, False),
    ],
)
def test_what_protects(
    purpose: Purpose, lots: float, stop: float, position_lots: float, position_stop: float, yes: bool
) -> None:
    order = replace(intent(1, lots, purpose), stop=stop)
    assert protects(order, position_lots, position_stop) is yes


def test_what_comes_from_a_broker_is_checked_where_it_comes_in() -> None:
    with pytest.raises(DataError, match=r"deal 1.*price"):
        deal(1, 0.1, price=float("nan"))
    with pytest.raises(DataError, match="lots is 0"):
        deal(1, 0.0)
    with pytest.raises(DataError, match="ticket"):
        deal(-1, 0.1)
    with pytest.raises(DataError, match="2\\^63"):
        deal(1, 0.1, key=2**63)
    with pytest.raises(DataError, match="lots_left"):
        BrokerOrder(1, 1, "EURUSD", 0.1, -0.1, 1.0, 0.0, 1)
    with pytest.raises(DataError, match="above 0"):
        Partial(1, 0.0, working=True)
    with pytest.raises(TradingError):
        advance(at(OrderState.SENT), replace(EVENTS["sent"], key=2))
    spec = BrokerSpecification(
        "EURUSD", 4, 1e-4, 1e5, 0.1, 0.1, 5.0, "EUR", "USD", -1.0, 0.5, 2, 10.0, TradeMode.FULL
    )  # fmt: skip
    assert spec.over(instrument("EURUSD")).lot_step == 0.1
    with pytest.raises(DataError, match="is not GBPUSD"):
        spec.over(instrument("GBPUSD"))
    with pytest.raises(DataError, match="point"):
        replace(spec, digits=5)


class LifeOfOrders(RuleBasedStateMachine):
    """Any broker's words in any order: nothing but the rules may refuse them, and money is what the deals say."""

    def __init__(self) -> None:
        super().__init__()
        self.book = OrderBook()
        self.sent: list[int] = []
        self.deals: dict[int, BrokerDeal] = {}
        self.path: dict[int, list[OrderState]] = {}
        self.clock = 1_000

    def _apply(self, event: object) -> None:
        self.clock += 1
        step = self.book.apply(event)  # type: ignore[arg-type]
        if step.order is None:
            return
        path = self.path[step.order.key]
        assert step.before is path[-1]
        for transition in step.transitions:
            revived = transition.state in REVIVALS.get(path[-1], frozenset())
            assert transition.state in TRANSITIONS[path[-1]] or revived
            assert not revived or step.verdict is Verdict.CONTRADICTION
            path.append(transition.state)
        assert path[-1] is step.order.state

    @rule(steps=st.integers(1, 5))
    def order(self, steps: int) -> None:
        key = len(self.path) + 1
        self.path[key] = [OrderState.PLANNED]
        self.book.plan(intent(key, steps / 10))
        self._apply(Journalled(key, self.clock))
        self._apply(Sent(key, self.clock))
        self.sent.append(key)

    @precondition(lambda self: self.path)
    @rule(data=st.data())
    def word(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(sorted(self.path)))
        name = data.draw(st.sampled_from(["doubted", "accepted", "partial", "refused", "requote", "unknown", "found"]))
        self._apply(replace(EVENTS[name], key=key, time_ns=self.clock))

    @precondition(lambda self: self.path)
    @rule(data=st.data(), steps=st.integers(1, 3))
    def fill(self, data: st.DataObject, steps: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.path)))
        made = deal(len(self.deals) + 1, steps / 10, key=key, position=900 + key)
        self.deals[made.ticket] = made
        self._apply(Dealt(key, made))

    @precondition(lambda self: self.deals)
    @rule(data=st.data())
    def confirm_again(self, data: st.DataObject) -> None:
        made = self.deals[data.draw(st.sampled_from(sorted(self.deals)))]
        before = self.book.positions[made.position]
        self._apply(Dealt(made.key, made))
        assert self.book.positions[made.position] == before

    @precondition(lambda self: self.path)
    @rule(data=st.data(), executed=st.integers(0, 5))
    def end(self, data: st.DataObject, executed: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.path)))
        self._apply(Ended(key, self.clock, executed / 10, "over"))

    @rule()
    def read_again(self) -> None:
        orders = [*self.book.open.values(), *self.book.ended.values()]
        made_by = {ticket: made.key for ticket, made in self.deals.items()}
        again = OrderBook.restored(orders, self.deals.values(), made_by)
        assert (again.open, again.ended) == (self.book.open, self.book.ended)
        self.book = again

    @invariant()
    def positions_are_sums_of_deals(self) -> None:
        for ticket, position in self.book.positions.items():
            total = sum(made.lots for made in self.deals.values() if made.position == ticket)
            assert position.lots == pytest.approx(total)
        assert len(self.book.positions) == len({made.position for made in self.deals.values()})

    @invariant()
    def nothing_is_sent_twice(self) -> None:
        assert all(path.count(OrderState.SENT) == 1 for path in self.path.values())
        assert self.book.open.keys() | self.book.ended.keys() == self.path.keys()
        assert not self.book.open.keys() & self.book.ended.keys()

    @invariant()
    def an_order_that_is_filled_is_filled(self) -> None:
        for order in (*self.book.open.values(), *self.book.ended.values()):
            assert order.complete == (order.state is OrderState.FILLED)
            if order.state.terminal and not order.complete:
                assert not order.owed_lots


LifeOfOrders.TestCase.settings = SIZE
TestLifeOfOrders = LifeOfOrders.TestCase
