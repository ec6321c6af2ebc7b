"""What leaves the engine for a real broker: orders after their intents are committed, each step before it happens.

While the journal is away entries wait. An order that only makes a position smaller or its stop tighter is written to a
local log instead, then sent; its rows wait in the journal's queue like all others, in order, so that the journal has
them by itself when it is back. The log is what a restart reads if the engine ends before that.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from fx_dagster.errors import JournalError, ServerError, TradingError
from fx_dagster.execution.orders import OrderIntent, Purpose
from fx_dagster.live.broker_desk import BrokerDesk
from fx_dagster.live.broker_link import BrokerLink
from fx_dagster.live.outbox import JOURNAL_DEADLINE_S, Outbox
from fx_dagster.live.protocols import Clock, Journal, OrderKeeper
from fx_dagster.live.records import Checkpoint, JournalEntry

JOIN_FLUSH_S = 1.0
"""Longest that ticks wait for the journal's queue when the local log is joined."""
_log = logging.getLogger(__name__)


class BrokerOutbox(Outbox):
    """Posts entries in order, and sends orders whose intents are durable.

    Args:
        journal: where entries go.
        desk: knows the orders.
        clock: this machine's time.
        checkpoint: makes the checkpoint of this moment.
        link: sends.
        keeper: keeps the local log.
        barred: tells why no entry may leave now; empty: it may.
    """

    def __init__(
        self, journal: Journal, desk: BrokerDesk, clock: Clock, checkpoint: Callable[[], Checkpoint], *,
        link: BrokerLink, keeper: OrderKeeper, barred: Callable[[], str] = lambda: "",
    ) -> None:  # fmt: skip
        super().__init__(journal, clock, checkpoint)
        self._desk, self._link, self._keeper, self._barred = desk, link, keeper, barred
        self._logged: set[int] = set()

    @property
    def problem(self) -> str:
        """Why no entry may be sent; empty: it may."""
        return "exits were sent without the journal, and are not joined yet" if self._logged else ""

    def post(self, entry: JournalEntry, *, checkpoint: bool) -> "asyncio.Future[None]":
        """Queue an entry; see :meth:`Outbox.post`. Steps of orders that are in the local log are written there too."""
        for reached in (reached for step in entry.steps for reached in step.transitions):
            if reached.client_order_id in self._logged:
                try:
                    self._keeper.log_change(reached)
                except JournalError as error:
                    _log.warning("order %s: %s", reached.client_order_id, error)
                    self._give_up_where_broken(error)
        return super().post(entry, checkpoint=checkpoint)

    async def send(self, entry: JournalEntry, time_ns: int) -> tuple[float | None, frozenset[int]]:
        """Commit an entry's intents, then let the orders leave; see :meth:`Outbox.send`.

        Raises:
            FencedError: another engine has the account.
            JournalError: the journal, or the local disk, takes nothing more.
        """
        intents = self._desk.prepare(entry.intents)
        attempts = self._desk.plan(intents)
        began = self._clock.monotonic_ns()
        written = self.post(replace(entry, intents=intents, attempts=attempts), checkpoint=True)
        if not intents:
            return None, frozenset()
        for intent in intents:
            self._desk.journalled(intent.client_order_id)
        if not self._journal.problem:
            await asyncio.wait({written}, timeout=JOURNAL_DEADLINE_S)
        took_ms = (self._clock.monotonic_ns() - began) / 1e6
        if written.done() and (error := written.exception()) is not None:
            raise error
        sent = {one.client_order_id for one in intents if self._let_go(one, committed=written.done(), time_ns=time_ns)}
        return took_ms, frozenset(sent)

    def _let_go(self, intent: OrderIntent, *, committed: bool, time_ns: int) -> bool:
        """Send an order, or withhold it; return whether it left."""
        reason = self._why_not(intent, committed=committed)
        if reason:
            self.withheld += 1
            self.note("withheld", intent.symbol, f"{intent.purpose}: {reason}", time_ns)
            self.post(JournalEntry(steps=self._desk.withhold(intent.client_order_id, reason)), checkpoint=False)
            return False
        self.post(JournalEntry(steps=self._desk.sent(intent.client_order_id)), checkpoint=False)
        self._link.send(intent)
        return True

    def _why_not(self, intent: OrderIntent, *, committed: bool) -> str:
        """Return why an order must not leave; empty: its intent is durable, and it may."""
        if self._desk.late(intent):
            return "not sent: what it was decided on is too old"
        if intent.purpose is Purpose.OPEN and (barred := self._barred()):
            return f"not sent: {barred}"
        if committed:
            return ""
        if intent.purpose is Purpose.OPEN:
            return "not sent: the journal did not confirm its intent in time"
        lots, stop = self._desk.own(intent.position)
        try:
            self._keeper.log_exit(intent, position_lots=lots, position_stop=stop)
        except JournalError as error:
            self._give_up_where_broken(error)
            return f"not sent: {error}"
        except TradingError as error:
            return f"not sent: {error}"
        self._logged.add(intent.client_order_id)
        return ""

    def _give_up_where_broken(self, error: JournalError) -> None:
        if self._keeper.broken:
            raise error

    async def between_batches(self) -> None:
        """Send the orders that protect positions without a stop, and join the local log when the journal is back.

        Raises:
            FencedError: another engine has the account.
            JournalError: log and journal contradict each other, or the local disk takes nothing more.
        """
        intents = self._desk.protections()
        if intents:
            await self.send(JournalEntry(intents=intents), self._desk.now())
        await self._join()

    async def _join(self) -> None:
        """Join the local log into the journal, once everything that was posted is in it."""
        if not self._logged or self._journal.problem or not await self._journal.flush(JOIN_FLUSH_S):
            return
        try:
            count = await self._keeper.join()
        except ServerError as error:
            _log.warning("the local log of exits waits: %s", error)
            return
        self._logged.clear()
        self.note("joined", None, f"{count} records of exits without the journal are in it", self._desk.now())
        self.post_notes()
