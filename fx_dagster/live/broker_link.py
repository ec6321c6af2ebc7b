"""What goes on between desk and broker beside the decisions: orders that leave, and looks at what the broker shows.

Nothing here changes the account: answers and views are reports for the desk. An order is sent once; whatever goes wrong
with its call is an answer that says nothing.
"""

import asyncio
import contextlib
import logging

from fx_dagster.errors import BrokerError, DataError, ServerError
from fx_dagster.execution.broker import Answer, Broker, BrokerAccount, BrokerSpecification, TradeMode, Unknown, look
from fx_dagster.execution.lifecycle import Answered, NotSent
from fx_dagster.execution.orders import OrderIntent
from fx_dagster.live.broker_desk import BrokerDesk, Seen, Terms
from fx_dagster.live.protocols import OrderKeeper
from fx_dagster.market.instruments import Instrument

LOOK_S = 1.0
LOOK_PAUSE_S = 0.05
"""Least pause between two looks, however much there is to ask for."""
LOOK_DEADLINE_S = 15.0
SEND_DEADLINE_S = 40.0
"""Longer than an adapter's own: a late answer tells more than silence, and nobody executes an order that is too old."""
_FIXED = (
    "digits", "point", "contract_size", "lot_step", "lot_min", "lot_max", "base_currency", "profit_currency",
)  # fmt: skip
"""What of a contract must not change while a session trades it."""
_REASON_LENGTH = 300
_log = logging.getLogger(__name__)


class BrokerLink:
    """Sends orders and looks at the broker.

    Args:
        broker: the adapter.
        desk: takes what comes back.
        keeper: knows what a person has said of held orders.
        deadline_s: longest wait for an answer.
    """

    def __init__(
        self, broker: Broker, desk: BrokerDesk, keeper: OrderKeeper, *, deadline_s: float = SEND_DEADLINE_S
    ) -> None:
        self._broker, self._desk, self._keeper = broker, desk, keeper
        self._deadline_s = deadline_s
        self._sending: set[asyncio.Task[None]] = set()
        self._hurry = asyncio.Event()
        self._next_terms = 0
        self._closed = False

    def send(self, intent: OrderIntent) -> None:
        """Send an order, without waiting for its answer."""
        task = asyncio.create_task(self._deliver(intent), name=f"order {intent.client_order_id}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _deliver(self, intent: OrderIntent) -> None:
        answer: Answer
        try:
            async with asyncio.timeout(self._deadline_s):
                answer = await self._broker.send(intent)
        except TimeoutError:
            answer = Unknown(f"no answer within {self._deadline_s:g} s")
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the broker may have the order
            _log.warning("order %s: %s", intent.client_order_id, error)
            answer = Unknown(f"{type(error).__name__}: {error}".replace("\0", "")[:_REASON_LENGTH])
        self._desk.receive(Answered(intent.client_order_id, self._desk.now(), answer))
        self._hurry.set()  # what became of it is seen in deals and positions

    async def watch(self) -> None:
        """Look again and again, at once after an answer, until :meth:`close`.

        A cancellation may get lost in a question that was answered at that very moment: the end is looked for as well.
        """
        steps = (self.look, self._decided_by_person, self._look_at_terms, self._pause)
        while not self._closed:
            self._hurry.clear()
            for step in steps:
                if not self._closed:
                    await step()

    async def _pause(self) -> None:
        await asyncio.sleep(LOOK_PAUSE_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOOK_S):
                await self._hurry.wait()

    async def look(self) -> None:
        """Look once, and report."""
        view = await look(self._broker, self._desk.now(), self._desk.since_ns(), deadline_s=LOOK_DEADLINE_S)
        account: BrokerAccount | None = None
        problem = ""
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                account = await self._broker.account()
        except (BrokerError, DataError, TimeoutError) as error:
            problem = f"account: {str(error) or 'no answer in time'}"
        self._desk.receive(Seen(view, account, problem))

    async def _decided_by_person(self) -> None:
        if not self._desk.counts()["orders_held"]:
            return
        try:
            keys = await self._keeper.not_sent()
        except ServerError as error:
            _log.warning("what a person said of held orders is not known: %s", error)
            return
        for key in keys:
            self._desk.receive(NotSent(key, self._desk.now(), "the broker does not have it", by_operator=True))

    async def _look_at_terms(self) -> None:
        """Look at one symbol's contract, another one each time."""
        symbols = tuple(self._desk.instruments)
        symbol = symbols[self._next_terms % len(symbols)]
        self._next_terms += 1
        try:
            async with asyncio.timeout(LOOK_DEADLINE_S):
                said = await self._broker.specification(symbol)
        except DataError as error:
            self._desk.receive(Terms(symbol, str(error)))
        except (BrokerError, TimeoutError):
            return  # the views say so already
        else:
            self._desk.receive(terms_of(self._desk.instruments[symbol], said))

    async def settle(self, within_s: float) -> None:
        """Wait for the answers to what was sent."""
        if self._sending:
            await asyncio.wait(set(self._sending), timeout=within_s)

    async def finish(self) -> None:
        """Wait for the answers to what was sent, and look a last time; silence is doubt for the next engine."""
        await self.settle(self._deadline_s)
        await self.look()

    def close(self) -> None:
        """Look no more, and give up what is still waited for."""
        self._closed = True
        for task in tuple(self._sending):
            task.cancel()


def terms_of(item: Instrument, said: BrokerSpecification) -> Terms:
    """Return whether a symbol may be entered, by what the broker says of the contract that a session trades."""
    changed = [name for name in _FIXED if getattr(said, name) != getattr(item, name)]
    if changed:
        words = ", ".join(f"{name} {getattr(item, name)} → {getattr(said, name)}" for name in changed)
        return Terms(item.symbol, f"the contract has changed ({words}): restart the session", for_good=True)
    return Terms(item.symbol, "" if said.mode is TradeMode.FULL else f"the broker says {said.mode}")
