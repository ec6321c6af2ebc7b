"""PostgreSQL of a simulation: what was committed and nothing else, its rules, and the engine's journal in front of it.

The journal here behaves as :mod:`resources.journal` does: batches in order, the epoch in every transaction, silence and
absence of the server that it notices, an answer to a commit that gets lost, so that the batch comes again.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from fx_dagster.errors import FencedError, FxError, JournalError, ServerError
from fx_dagster.execution.broker import BrokerDeal
from fx_dagster.execution.lifecycle import TRANSITIONS, Dealt, OrderBook, TrackedOrder, Verdict
from fx_dagster.execution.orders import OrderIntent, OrderState
from fx_dagster.live.records import DecisionRecord, JournalEntry, KillSwitch, SessionState
from resources.exit_log import ExitIntent, ExitLog

from .loop import NS, Process
from .watch import Watch

BATCH_MAX = 64
POLL_S, BEAT_S, ANSWER_S = 0.25, 1.0, 1.5
BACKOFF_S = (0.1, 0.2, 0.5, 1.0)


@dataclass
class Database:
    """What is committed.

    Attributes:
        away_until: no connection reaches it before (ns of the world).
        slow_until: its commits take ``slow_s`` until then.
        lost: of how many commits more the answer gets lost.
    """

    watch: Watch
    session: SessionState
    epoch: int = 0
    switch: KillSwitch = field(default_factory=KillSwitch)
    switched_ns: int = 0
    """When (ns of the world) a person engaged it last."""
    orders: dict[int, TrackedOrder] = field(default_factory=dict)
    deals: dict[int, tuple[BrokerDeal, int]] = field(default_factory=dict)
    decisions: int = 0
    events: list[tuple[str, str]] = field(default_factory=list)
    foreign: tuple[int, ...] = ()
    words: set[int] = field(default_factory=set)
    joined: dict[str, int] = field(default_factory=dict)
    away_until: int = 0
    slow_until: int = 0
    slow_s: float = 0.0
    lost: int = 0
    kills: int = 0
    """Of how many commits more the engine dies before it hears of them."""
    writer: int = 0
    """Epoch of the last write."""

    def check(self, epoch: int) -> None:
        """Refuse another than the account's engine."""
        if epoch != self.epoch:
            raise FencedError(f"epoch {epoch} is not {self.epoch}", mend="a newer engine trades")

    def demand(self, now_ns: int) -> None:
        """Refuse everything while it is away."""
        if now_ns < self.away_until:
            raise ServerError("PostgreSQL is away", mend="wait")

    def commit(self, batch: list["_Pending"], epoch: int) -> None:
        """Write a batch as a whole."""
        self.check(epoch)
        for pending in batch:
            again, pending.tried = pending.tried, True
            self._write(pending, epoch, again=again)

    def _write(self, pending: "_Pending", epoch: int, *, again: bool) -> None:
        entry = pending.entry
        if pending.seen and again:
            return
        if entry.checkpoint is not None and not self._advance(entry):
            raise JournalError("this checkpoint is there already", mend="restart")
        self.watch.committing(self, entry, epoch)
        self.writer = epoch
        pending.seen = True
        for row in entry.decisions:
            self._decided(row)
        for intent in entry.intents:
            self.watch.demand(intent.client_order_id not in self.orders, "a key was journalled twice")
            self.insert(intent, entry.attempts.get(intent.client_order_id, 0))
        for step in entry.steps:
            self._step(step, entry)
        self.events += [(event.kind, event.message) for event in entry.events]
        if entry.foreign is not None:
            self.foreign = tuple(position.ticket for position in entry.foreign)
        if pending.finish:
            self.session = replace(self.session, finished=True)

    def _advance(self, entry: JournalEntry) -> bool:
        made, session = entry.checkpoint, self.session
        if made is None or session.finished or made.sequence <= session.sequence:
            return False
        self.watch.demand(made.sequence == session.sequence + 1, "a checkpoint was left out")
        self.watch.demand(made.position >= session.position, "a checkpoint goes back in market time")
        self.session = replace(
            session, sequence=made.sequence, position=made.position, clock=max(session.clock, made.clock),
            snapshot=made.snapshot,
        )  # fmt: skip
        return True

    def _decided(self, row: DecisionRecord) -> None:
        self.watch.demand(row.number > self.decisions, f"decision {row.number} was made twice")
        self.decisions = row.number

    def _step(self, step: Any, entry: JournalEntry) -> None:
        if isinstance(step.event, Dealt):
            self.watch.demand(entry.checkpoint is not None, "a deal without a checkpoint")
            self.deals.setdefault(step.event.deal.ticket, (step.event.deal, step.event.key))
        order = step.order
        if order is None or step.before is None or step.verdict in (Verdict.LATE, Verdict.REPEATED):
            return
        known = self.orders.get(order.key)
        if known is not None and known.revision >= order.revision:
            return
        if known is None or order.revision != known.revision + 1:
            raise JournalError(f"order {order.key}: revision {order.revision} on {known}", mend="a bug")
        self.orders[order.key] = order

    def insert(self, intent: OrderIntent, attempt: int = 0) -> None:
        """Take an intent; a key that is there with another one is refused."""
        known = self.orders.get(intent.client_order_id)
        if known is None:
            self.orders[intent.client_order_id] = TrackedOrder(
                intent, OrderState.JOURNALLED, intent.decided_ns, attempt, revision=1
            )
            return
        self.watch.demand(known.intent == replace(intent, epoch=known.intent.epoch), "a key was used for two intents")

    def rejoin(self, log: ExitLog, epoch: int) -> int:
        """Take the records of a local log, each once."""
        self.check(epoch)
        records = log.records(self.joined.get(log.log_id, 0))
        for number, one in records:
            if isinstance(one, ExitIntent):
                self.insert(one.intent)
            else:
                self._rejoin_change(one.transition)
            self.joined[log.log_id] = number
        return len(records)

    def _rejoin_change(self, reached: Any) -> None:
        known = self.orders.get(reached.client_order_id)
        if known is None:
            raise JournalError(f"a local change of order {reached.client_order_id}, which is unknown", mend="compare")
        maybe_sent = known.state is not OrderState.JOURNALLED
        by_deals = reached.state in (OrderState.PARTIAL, OrderState.FILLED) or (
            reached.state is OrderState.CANCELLED and maybe_sent
        )
        if by_deals and not known.moves_only:
            return  # the log has no deals: the broker shows them
        if reached.state in TRANSITIONS[known.state]:
            sent = reached.time_ns if reached.state is OrderState.SENT else known.sent_ns
            self.orders[known.key] = replace(
                known, state=reached.state, changed_ns=max(known.changed_ns, reached.time_ns), sent_ns=sent,
                broker_order=reached.broker_order or known.broker_order, message=reached.message,
                revision=known.revision + 1,
            )  # fmt: skip

    def book(self) -> OrderBook:
        """Return the account's book."""
        keys = {ticket: key for ticket, (_, key) in self.deals.items()}
        return OrderBook.restored(self.orders.values(), [deal for deal, _ in self.deals.values()], keys)


@dataclass(eq=False)
class _Pending:
    entry: JournalEntry
    written: "asyncio.Future[None]"
    finish: bool = False
    tried: bool = False
    seen: bool = False


class Link:
    """A process's way to the database: how long it takes, and whether the answer comes back."""

    def __init__(self, process: Process, database: Database, chance: Random) -> None:
        self._process, self._database, self._chance = process, database, chance

    def ask(self, action: Any, *, commits: bool = False) -> "asyncio.Future[Any]":
        """Have something done at the database; fails while it is away, on the way there and on the way back."""
        database, chance, world = self._database, self._chance, self._process.world
        slow = commits and world.now_ns < database.slow_until
        there = round((database.slow_s if slow else chance.uniform(0.0003, 0.004)) * NS)

        def act() -> Any:
            database.demand(world.now_ns)
            result = action()
            if commits and database.kills:
                database.kills -= 1
                self._process.kill()
            if commits and database.lost:
                database.lost -= 1
                raise ServerError("the connection broke before the answer", mend="ask again")
            return result

        return self._process.call(there, act, round(chance.uniform(0.0003, 0.004) * NS))


class SimulatedJournal:
    """Implements the engine's journal over the database, as one engine with its epoch."""

    def __init__(self, process: Process, database: Database, link: Link, epoch: int) -> None:
        self.epoch, self._process, self._database, self._link = epoch, process, database, link
        self._pending: deque[_Pending] = deque()
        self._wake = asyncio.Event()
        self._problems: dict[str, str] = {}
        self._fatal: FxError | None = None
        self._switch = database.switch
        self._status: Mapping[str, Any] | None = None
        self.on_post: Callable[[JournalEntry], None] = lambda entry: None

    def start(self) -> None:
        """Begin to write and to read the kill switch."""
        self._process.create_task(self._write_forever(), name="journal writer")
        self._process.create_task(self._control_forever(), name="journal control")

    def post(self, entry: JournalEntry) -> "asyncio.Future[None]":
        return self._queue(entry)

    def _queue(self, entry: JournalEntry, *, finish: bool = False) -> "asyncio.Future[None]":
        self._process.require_alive()
        self.on_post(entry)
        written: asyncio.Future[None] = self._process.create_future()
        written.add_done_callback(lambda future: future.cancelled() or future.exception())
        if self._fatal is not None:
            written.set_exception(self._fatal)
            return written
        self._database.watch.posted(entry, self.epoch)
        self._pending.append(_Pending(entry, written, finish))
        self._wake.set()
        return written

    @property
    def problem(self) -> str:
        return str(self._fatal) if self._fatal else "; ".join(self._problems.values())

    @property
    def fatal(self) -> FxError | None:
        return self._fatal

    @property
    def kill_switch(self) -> KillSwitch:
        return self._switch

    def beat(self, status: Mapping[str, Any]) -> None:
        self._process.require_alive()
        self._status = status

    async def finish(self, reason: str) -> None:
        await self._queue(JournalEntry(), finish=True)

    async def flush(self, timeout_s: float) -> bool:
        if self._fatal is None:
            await asyncio.wait({self._queue(JournalEntry())}, timeout=timeout_s)
        return not self._pending and self._fatal is None

    async def _write_forever(self) -> None:
        attempt = 0
        while self._fatal is None:
            if not self._pending:
                self._wake.clear()
                await self._wake.wait()
            batch = list(islice(self._pending, BATCH_MAX))
            try:
                commit = self._link.ask(lambda batch=batch: self._database.commit(batch, self.epoch), commits=True)
                await self._watched("writer", commit)
            except ServerError as error:
                self._problems["writer"] = str(error)
                await asyncio.sleep(BACKOFF_S[min(attempt, len(BACKOFF_S) - 1)])
                attempt += 1
            except FxError as error:
                self._give_up(error)
            else:
                attempt = 0
                for pending in batch:
                    self._pending.popleft()
                    if not pending.written.done():
                        pending.written.set_result(None)

    def _give_up(self, error: FxError) -> None:
        self._fatal = error
        while self._pending:
            written = self._pending.popleft().written
            if not written.done():
                written.set_exception(error)

    async def _watched(self, who: str, work: "asyncio.Future[Any]") -> Any:
        done, _ = await asyncio.wait({work}, timeout=ANSWER_S)
        if not done:
            self._problems[who] = f"PostgreSQL has been silent for {ANSWER_S:g} s"
        result = await work
        self._problems.pop(who, None)
        return result

    async def _control_forever(self) -> None:
        next_beat = 0.0
        while self._fatal is None:
            try:
                self._switch = await self._watched("control", self._link.ask(lambda: self._database.switch))
                if self._status is not None and self._process.time() >= next_beat:
                    next_beat = self._process.time() + BEAT_S
                    await self._watched("control", self._link.ask(self._beat))
            except ServerError as error:
                self._problems["control"] = str(error)
                await asyncio.sleep(BACKOFF_S[-1])
            except FencedError as error:
                self._give_up(error)
            await asyncio.sleep(POLL_S)

    def _beat(self) -> None:
        if self.epoch < self._database.epoch:
            raise FencedError("a later engine writes its heartbeat", mend="nothing to do")
        clock = self._status.get("clock_ns") if self._status else None
        if isinstance(clock, int):
            session = self._database.session
            self._database.session = replace(session, clock=max(session.clock, clock))


class SimulatedKeeper:
    """Keeps orders in the database, and exits in a real log of its machine."""

    def __init__(self, process: Process, database: Database, link: Link, epoch: int, folder: Path) -> None:
        self.epoch, self._process, self._database, self._link = epoch, process, database, link
        self.log = ExitLog.open(folder, "simulated", reserved_bytes=4_096)
        self.broken = False

    def close(self) -> None:
        """Free the log."""
        self.log.close()

    async def load(self, since_ns: int) -> OrderBook:
        await self.join()
        return await self._link.ask(self._database.book)

    def log_exit(self, intent: OrderIntent, *, position_lots: float, position_stop: float) -> None:
        self._process.require_alive()
        self.log.append(intent, position_lots=position_lots, position_stop=position_stop)
        self._database.watch.logged.add(intent.client_order_id)

    def log_change(self, reached: Any) -> None:
        self._process.require_alive()
        self.log.note(reached)

    async def join(self) -> int:
        self._process.require_alive()
        if not self.log.records():
            return 0
        count: int = await self._link.ask(lambda: self._database.rejoin(self.log, self.epoch))
        self._process.require_alive()
        self.log.clear()
        return count

    async def not_sent(self) -> tuple[int, ...]:
        return await self._link.ask(lambda: tuple(sorted(self._database.words)))
