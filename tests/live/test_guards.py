"""Guards of live trading, each alone: what it lets through, and what it stops."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fx_dagster.errors import SettingsError
from fx_dagster.execution.broker import BrokerAccount, BrokerDeal, BrokerPosition, BrokerView
from fx_dagster.execution.lifecycle import (
    Accepted,
    Answered,
    Dealt,
    Journalled,
    LifecycleError,
    OrderBook,
    Sent,
    TrackedOrder,
    Verdict,
    advance,
)
from fx_dagster.execution.orders import DealReason, OrderIntent, OrderState, Purpose
from fx_dagster.live.broker_desk import BrokerDesk, Seen
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.release import Canary

from .test_broker_desk import BEGIN, OrderTable, Trader, terminal_of

Make = Callable[[], Trader]
INTENT = OrderIntent(5, "real", "EURUSD", Purpose.OPEN, 0.1, 1.09, 1.12, BEGIN, BEGIN + 5, 30.0)
DEAL = BrokerDeal(1, 8, 7, 5, "EURUSD", BEGIN + 1, 0.1, 1.1, 0.3, 0.0, 0.0, DealReason.CLIENT, False)
CLOSING = BrokerDeal(2, 9, 7, 0, "EURUSD", BEGIN + 2, -0.1, 1.09, 0.3, -0.5, -100.0, DealReason.STOP, True)
FOREIGN = BrokerPosition(77, 0, "EURUSD", -0.3, 1.1, 0.0, 0.0, BEGIN, 12.5, -0.5)
MONEY = BrokerAccount("1", "USD", 10_000.0, 10_000.0, 0.0, 30.0, True, True, True)


@pytest.fixture
def trader(tmp_path: Path) -> Any:
    """Make a trader with a terminal of its own."""
    made: list[Trader] = []

    def make() -> Trader:
        made.append(Trader(terminal_of(), OrderTable(), tmp_path / f"exits-{len(made)}"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await work()

    asyncio.run(main())


def view(*positions: BrokerPosition, deals: tuple[BrokerDeal, ...] = ()) -> BrokerView:
    return BrokerView(BEGIN + 10, 0, (), positions, deals)


def filled_book() -> OrderBook:
    """Return a book with one position of ours, opened and closed."""
    book = OrderBook()
    book.plan(INTENT)
    for event in (Journalled(5, BEGIN), Sent(5, BEGIN), Answered(5, BEGIN, Accepted(8)), Dealt(5, DEAL)):
        book.apply(event)
    return book


def test_an_order_leaves_with_this_engines_epoch(trader: Make) -> None:
    desk = trader().desk
    (made,) = desk.prepare((replace(INTENT, epoch=99),))
    assert made.epoch == 7


def test_an_order_is_sent_once_and_only_when_it_is_journalled() -> None:
    order = TrackedOrder(INTENT)
    with pytest.raises(LifecycleError):
        advance(order, Sent(5, BEGIN))
    journalled = advance(order, Journalled(5, BEGIN)).order
    assert journalled is not None
    sent = advance(journalled, Sent(5, BEGIN)).order
    assert sent is not None
    with pytest.raises(LifecycleError):
        advance(sent, Sent(5, BEGIN + 1))


def test_an_order_takes_a_deal_once_whoever_hands_it_over() -> None:
    order = filled_book().order(5)
    assert order is not None
    assert order.state is OrderState.FILLED
    again = advance(order, Dealt(5, DEAL))
    assert again.verdict is Verdict.REPEATED
    assert again.order is not None
    assert again.order.filled_lots == 0.1


def test_a_closed_deal_is_learned_from_once_over_restarts(trader: Make) -> None:
    async def work() -> None:
        one, two = trader(), trader()
        for desk, known in ((one.desk, 1), (two.desk, 0)):
            desk.begin(filled_book())  # the journal's book has not seen the closing deal
            if desk is two.desk:
                desk.restore(*one.desk.snapshot())
            desk.receive(Seen(view(deals=(DEAL, CLOSING)), MONEY))
            adopted = desk.drain().adopted
            assert len(adopted["closed"] if adopted else ()) == known

    run(work)


def test_foreign_positions_count_in_limits_and_in_what_the_account_is_worth(trader: Make) -> None:
    async def work() -> None:
        desk = trader().desk
        desk.begin(OrderBook())
        desk.receive(Seen(view(FOREIGN), MONEY))
        movement = desk.drain()
        assert movement.foreign == (FOREIGN,)
        assert movement.adopted is not None
        (seen,) = movement.adopted["seen"]
        assert (seen.lots, seen.foreign_lots) == (0.0, -0.3)
        assert movement.adopted["balance"] == 10_000.0 + 12.5 - 0.5

    run(work)


def test_an_account_of_another_currency_is_refused(trader: Make) -> None:
    async def work() -> None:
        desk = trader().desk
        desk.begin(OrderBook())
        desk.receive(Seen(view(), replace(MONEY, currency="EUR")))
        with pytest.raises(SettingsError, match="FX_RISK_ACCOUNT_CURRENCY"):
            desk.drain()

    run(work)


def test_before_the_broker_has_shown_everything_nothing_may_be_opened(trader: Make) -> None:
    async def work() -> None:
        desk: BrokerDesk = trader().desk
        desk.begin(OrderBook())
        assert desk.problem
        desk.receive(Seen(BrokerView(BEGIN + 10, 0, (), (), None), MONEY))  # deals are not told
        desk.drain()
        assert desk.problem
        desk.receive(Seen(view(), MONEY))
        desk.drain()
        assert desk.problem == ""

    run(work)


SAID = {"p_up_xgboost": np.full((2, 1), 0.5)}
CANARY = Canary.of(
    ModelInputs(
        np.ones((2, 2), np.float32), np.zeros((2, 0, 0), np.float32), np.zeros((2, 0, 0, 0), np.float32),
        np.array([5, 6]), np.array([0, 0]),
    ),
    SAID,
)  # fmt: skip


@pytest.mark.parametrize(
    "found",
    [
        {"p_up_xgboost": np.array([[0.5], [np.nan]])},
        {"p_up_xgboost": np.array([[0.5]])},
        {"p_up_xgboost": "0.5"},
        {"p_up_other": np.full((2, 1), 0.5)},
    ],
)
def test_a_canary_that_does_not_sing_is_not_healthy(found: dict[str, Any]) -> None:
    assert CANARY.difference(SAID) == 0.0
    assert CANARY.difference({"p_up_xgboost": np.array([[0.5], [0.75]])}) == 0.25
    assert CANARY.difference(found) == np.inf
