"""What leaves the engine: journal entries with checkpoints, and orders after their intents are committed."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace

from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose
from fx_dagster.live.account import Movement, PaperDesk
from fx_dagster.live.protocols import Clock, Journal
from fx_dagster.live.records import Baseline, Checkpoint, EventRecord, JournalEntry, Transition

JOURNAL_DEADLINE_S = 1.0
"""Longest that an order waits for its intent to be committed."""


class Outbox(ABC):
    """Posts entries in order; no caller waits for the journal except an order that is about to be sent.

    Args:
        journal: where entries go.
        clock: this machine's time.
        checkpoint: makes the checkpoint of this moment.
    """

    def __init__(self, journal: Journal, clock: Clock, checkpoint: Callable[[], Checkpoint]) -> None:
        self._journal = journal
        self._clock = clock
        self._checkpoint = checkpoint
        self._events: list[EventRecord] = []
        self._baselines: list[Baseline] = []
        self.withheld = 0

    def note(self, kind: str, symbol: str | None, message: str, market_time: int) -> None:
        """Keep an event; it is written with the next entry."""
        self._events.append(EventRecord(kind, symbol, message, market_time, self._clock.wall_ns()))

    def baseline(self, rows: int, latency_ms: float) -> None:
        """Keep a bare model call; it is written with the next entry."""
        self._baselines.append(Baseline(rows, latency_ms, self._clock.wall_ns()))

    def post(self, entry: JournalEntry, *, checkpoint: bool) -> "asyncio.Future[None]":
        """Queue an entry, with what was noted since the last one.

        Raises:
            FencedError: another engine has the account.
            JournalError: the journal takes nothing more.
        """
        entry = replace(
            entry,
            events=tuple(self._events),
            baselines=tuple(self._baselines),
            checkpoint=self._checkpoint() if checkpoint else None,
        )
        self._events, self._baselines = [], []
        written = self._journal.post(entry)
        if written.done() and (error := written.exception()) is not None:
            raise error
        return written

    def post_notes(self) -> None:
        """Write what was noted, if anything was, without waiting for an occasion."""
        if self._events or self._baselines:
            self.post(JournalEntry(), checkpoint=False)

    @property
    def problem(self) -> str:
        """Why no entry may be sent; empty: it may."""
        return ""

    @abstractmethod
    async def send(self, entry: JournalEntry, time_ns: int) -> tuple[float | None, frozenset[int]]:
        """Commit an entry's intents, then let the orders leave.

        Returns:
            How long the commit took in milliseconds (None without intents), and the keys of the orders that were sent.
        """

    async def between_batches(self) -> None:
        """Do what may wait for a decision, but not for long: nothing, for an account on paper."""
        return


class PaperOutbox(Outbox):
    """An outbox whose orders go to an account on paper.

    Args:
        journal: where entries go.
        desk: where orders go.
        clock: this machine's time.
        checkpoint: makes the checkpoint of this moment.
    """

    def __init__(self, journal: Journal, desk: PaperDesk, clock: Clock, checkpoint: Callable[[], Checkpoint]) -> None:
        super().__init__(journal, clock, checkpoint)
        self._desk = desk

    async def send(self, entry: JournalEntry, time_ns: int) -> tuple[float | None, frozenset[int]]:
        """Commit an entry's intents, then send them.

        Returns:
            How long the commit took in milliseconds (None without intents), and the keys of the orders that were sent.

        An entry order whose intent is not committed in time is not sent. Exits are sent all the same: they protect, and
        their intents are in the queue.
        """
        began = self._clock.monotonic_ns()
        written = self.post(entry, checkpoint=True)
        if not entry.intents:
            return None, frozenset()
        await asyncio.wait({written}, timeout=JOURNAL_DEADLINE_S)
        took_ms = (self._clock.monotonic_ns() - began) / 1e6
        if written.done() and (error := written.exception()) is not None:
            raise error
        sent = set()
        for intent in entry.intents:
            if written.done() or intent.purpose is not Purpose.OPEN:
                self.place(intent, time_ns)
                sent.add(intent.client_order_id)
            else:
                self._withhold(intent, time_ns)
        return took_ms, frozenset(sent)

    def settle(self, intents: Sequence[OrderIntent], time_ns: int) -> None:
        """Send what was journalled with the last checkpoint and never reached the account.

        The paper account's memory is the checkpoint itself: an order that it does not know was not sent.
        """
        for intent in intents:
            if not self._desk.knows(intent.client_order_id):
                self.place(intent, time_ns)

    def place(self, intent: OrderIntent, time_ns: int) -> None:
        """Send one order and post what became of it."""
        movement: Movement = self._desk.place(intent, time_ns)
        self.post(JournalEntry(transitions=movement.transitions), checkpoint=False)

    def _withhold(self, intent: OrderIntent, time_ns: int) -> None:
        reason = "not sent: the journal did not confirm its intent in time"
        self.withheld += 1
        self.note("withheld", intent.symbol, reason, time_ns)
        cancelled = Transition(intent.client_order_id, OrderState.CANCELLED, time_ns, message=reason)
        self.post(JournalEntry(transitions=(cancelled,)), checkpoint=False)
