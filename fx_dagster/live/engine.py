"""The live engine: ticks in, a decision at every tick, journalled orders out.

The compiled core works through the ticks and hands control back where something outside is needed: the models at a
bar's close or a material move, the journal before an order is sent. Everything between is one loop without a pause.

Orders of a real broker leave beside the decisions, and answers and views come in beside them; what they change reaches
the core between two decisions, and the tape with it.

Start and recovery are one path. The journal holds, in one transaction each, what was decided and a checkpoint: every
tick before its position is in it. A restart restores the checkpoint, follows the market again from the last market
state on disk, sends what was journalled and not sent, and goes on with the ticks from the position. Nothing that
happened after the last checkpoint was visible to anybody, so that nothing can happen twice.

The engine knows market time from its feed alone, and this machine's time for durations and records only: the same ticks
give the same decisions, however often it was killed.
"""

import asyncio
import contextlib
import gc
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from fx_dagster.core.rows import Event, Kind
from fx_dagster.core.tape import Conditions, TapeWriter, adopted_body, answer_body, conditions_body
from fx_dagster.core.trading import Question, TradingCore
from fx_dagster.decision.codes import Level
from fx_dagster.errors import BrokerError, SettingsError
from fx_dagster.execution.broker import Broker
from fx_dagster.execution.orders import OrderIntent
from fx_dagster.live import recovery, status
from fx_dagster.live.account import Movement, PaperDesk
from fx_dagster.live.broker_desk import REMEMBERED_NS, BrokerDesk
from fx_dagster.live.broker_link import BrokerLink
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.latency import StageTimes
from fx_dagster.live.model_desk import Asked, ModelDesk
from fx_dagster.live.outbox import Outbox, PaperOutbox
from fx_dagster.live.protocols import Clock, DriftGauge, Journal, MarketStates, OrderKeeper, Publisher, TickFeed
from fx_dagster.live.quotes import QuoteWatch
from fx_dagster.live.records import Checkpoint, DecisionRecord, JournalEntry, SessionState
from fx_dagster.live.scribe import Circumstances, Scribe, command_of
from fx_dagster.live.session import Memory
from fx_dagster.live.ticks import TickBatch, TickQueue, columns, empty_batch
from fx_dagster.market.timeframes import SECOND_NS
from fx_dagster.settings import LiveSettings

ENDING_S, FLUSH_S_MIN = 9.5, 0.5
"""Of the ten seconds that an orderly end may take: for everything, and at least for what is not written yet."""
STATUS_S = 0.25
BASELINE_S = 1.0
MARKET_STATE_S, MARKET_STATE_SHARE = 5.0, 0.02
"""How often the market's state is written at most, which is what a restart has to follow again, and what part of the
time packing it may take: that of a thousand symbols takes a second."""
TAPE_FLUSH_S = 0.05
FEED_PAUSE_S = 0.5
BUSY_NS, GATHER_S = 4_000_000, 0.002
"""A feed that has news again within 4 ms is busy: its ticks are gathered for 2 ms, which costs a third."""
ANSWERS_S = 3.0
"""Of the ten seconds of an orderly end, how long answers of a real broker are waited for."""
NO_INTENTS: Mapping[int, OrderIntent] = MappingProxyType({})


class Ending(StrEnum):
    """Why the engine ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True)
class EngineParts:
    """What an engine is put together from.

    Attributes:
        account: account name.
        core: decides, as new.
        desk: the account that the core trades on, on paper or at a real broker, as new.
        feed: ticks and history.
        journal: what happened, durably.
        models: asks for probabilities.
        states: keeps the market's state over restarts.
        tape: records what reaches the core.
        clock: this machine's time.
        settings: of the live session.
        on_status: called with each status, a few times a second.
        cache_rates: returns hits and misses of each cache level, for the status; None: nothing is cached.
        drift: knows how far the features have drifted from what the active release learned on; None: nobody measures.
        publisher: takes quotes and closed bars for whoever looks on; None: nobody does.
        broker: fills the orders of a :class:`BrokerDesk`; None on paper.
        keeper: keeps its orders over restarts; None on paper.
    """

    account: str
    core: TradingCore
    desk: PaperDesk | BrokerDesk
    feed: TickFeed
    journal: Journal
    models: ModelDesk
    states: MarketStates
    tape: TapeWriter
    clock: Clock
    settings: LiveSettings
    on_status: Callable[[dict[str, Any]], None] | None = None
    cache_rates: Callable[[], dict[str, Any]] | None = None
    publisher: Publisher | None = None
    drift: DriftGauge | None = None
    broker: Broker | None = None
    keeper: OrderKeeper | None = None


@dataclass(frozen=True)
class _RealBroker:
    """What an engine has of a real broker."""

    desk: BrokerDesk
    link: BrokerLink
    keeper: OrderKeeper


class Engine:
    """One session's engine: made, then :meth:`run` once.

    Args:
        parts: what it works with.
        session: where it goes on.
    """

    def __init__(self, parts: EngineParts, session: SessionState) -> None:
        self._parts = parts
        self._session = session
        self._core, self._feed, self._journal = parts.core, parts.feed, parts.journal
        self._clock, self._tape = parts.clock, parts.tape
        self._info = parts.feed.info
        self._queue = TickQueue(parts.settings.queue_ticks_max)
        self._quotes = QuoteWatch(parts.core)
        self._real = self._link_to_broker()
        self._scribe = Scribe(
            parts.core, account=parts.account, session=session.session_id, models=parts.models.models,
            valid_ns=self._real.desk.rules.valid_ns if self._real is not None else 0,
        )  # fmt: skip
        self._outbox = self._new_outbox()
        self._fed_ns = 0
        self._times = StageTimes()
        self._counters = status.Counters()
        self._sequence = session.sequence
        self._stopping = asyncio.Event()
        self._stopped_ns = 0
        self._flattening = False
        self._feed_problem = ""
        self._level, self._level_reason = int(Level.UNSET), ""
        self._release: int | None = None
        self._resumed_ns = 0
        self._calls = asyncio.Lock()
        self._asked: tuple[Question, Asked] | None = None
        self._newest: Question | None = None
        self._next_baseline_ns = self._next_quotes_ns = self._next_state_ns = self._next_flush_ns = 0
        self._packing_s = 0.0
        self._skip = 0
        self._records: list[DecisionRecord] = []
        self._bar_time = 0

    def stop(self) -> None:
        """Ask for an orderly end: no entries any more, everything written, out within ten seconds."""
        self._stopped_ns = self._stopped_ns or self._clock.monotonic_ns()
        self._stopping.set()
        self._wake()

    def _wake(self) -> None:
        """Let the worker look around, although there is no tick."""
        clock = max(self._fed_ns, self._core.clock[0])  # not behind a batch that waits: the last one's clock counts
        self._queue.put(empty_batch(clock, self._clock.monotonic_ns()))

    # -- a real broker ---------------------------------------------------------------------------------------------

    def _link_to_broker(self) -> "_RealBroker | None":
        parts, desk = self._parts, self._parts.desk
        if isinstance(desk, PaperDesk):
            return None
        if parts.broker is None or parts.keeper is None:
            raise SettingsError("a real account without a broker, or without a journal of orders", mend="give both")
        desk.now, desk.wake, desk.epoch = self._market_now, self._wake, parts.keeper.epoch
        link = BrokerLink(parts.broker, desk, parts.keeper)
        return _RealBroker(desk, link, parts.keeper)

    def _new_outbox(self) -> Outbox:
        parts, real = self._parts, self._real
        if real is not None:
            return BrokerOutbox(
                parts.journal, real.desk, parts.clock, self._checkpoint, link=real.link, keeper=real.keeper,
                barred=self._why_no_entry,
            )  # fmt: skip
        if not isinstance(parts.desk, PaperDesk):
            raise AssertionError("a real account has a broker")
        return PaperOutbox(parts.journal, parts.desk, parts.clock, self._checkpoint)

    def _market_now(self) -> int:
        """Return how far the market is known to be, ns UTC; decisions may be behind."""
        return max(self._fed_ns, self._session.clock, self._core.clock[0])

    async def _take_up_orders(self, real: "_RealBroker") -> None:
        """Reconcile what the journal says with what the broker shows, before the first decision.

        Where the broker does not answer now, nothing is opened before it does.
        """
        since_ns = min(self._session.position, self._session.clock) - REMEMBERED_NS
        real.desk.begin(await real.keeper.load(since_ns))
        await real.link.look()
        await self._write_down(self._clock.monotonic_ns())
        if not (self._session.resumed or real.desk.stated):
            raise BrokerError(
                f"the broker does not state the account: {real.desk.problem}", mend="a session begins with its money"
            )
        # Seen by a clock that stood still while no engine ran: how long something is missing is counted from now on.
        real.desk.begin_doubts_anew()

    def _take_over(self) -> Movement:
        """Take over what has changed at the account, between two decisions."""
        movement = self._parts.desk.drain()
        if movement.adopted is not None:
            self._core.adopt(**movement.adopted)
            self._tape.event("adopt", adopted_body(movement.adopted))
        for kind, symbol, message in movement.news:
            self._outbox.note(kind, symbol, message, self._core.clock[0])
        if movement.news and not movement:
            self._outbox.post_notes()
        return movement

    @property
    def _broker_problem(self) -> str:
        """Why nothing may be opened at the broker now; empty: it may."""
        return (self._real.desk.problem or self._outbox.problem) if self._real is not None else ""

    def _why_no_entry(self) -> str:
        """Return why an entry that was decided must not leave after all; empty: it may.

        Its commit is waited for, and meanwhile it may have become known.
        """
        kill = self._journal.kill_switch
        if self._stopping.is_set():
            return "the engine is ending"
        if kill.engaged or kill.best_level >= Level.EMERGENCY:
            return f"the kill switch is engaged: {kill.reason}" if kill.engaged else "a person allows no entries"
        return self._journal.problem or self._broker_problem

    # -- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> Ending:
        """Trade until the tape is over or :meth:`stop` is called.

        Raises:
            FencedError: another engine took the account.
            JournalError: the journal takes nothing from this engine any more.
        """
        await self._recover()
        worker = asyncio.create_task(self._work(), name="decisions")
        others = [
            asyncio.create_task(self._take_in(), name="tick intake"),
            asyncio.create_task(self._parts.models.watch(), name="model watch"),
            asyncio.create_task(self._report(), name="status"),
        ]
        if self._real is not None:
            others.append(asyncio.create_task(self._real.link.watch(), name="broker watch"))
        try:
            await asyncio.wait({worker, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in (worker, *others):
                if task.done():
                    task.result()  # raises what ended it
            return await self._end()
        finally:
            if self._real is not None:
                self._real.link.close()
            for task in (worker, *others):
                task.cancel()
            await asyncio.gather(worker, *others, return_exceptions=True)
            gc.unfreeze()

    async def _end(self) -> Ending:
        if self._real is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(ANSWERS_S):
                    await self._real.link.finish()
            await self._write_down(self._clock.monotonic_ns())
        ending = Ending.STOPPED if self._stopping.is_set() else Ending.FINISHED
        clock = self._core.clock[0]
        self._outbox.note(str(ending), None, f"at {status.market_time_text(clock)}", clock)
        self._outbox.post_notes()
        self._tape.flush()
        self._show(str(ending))
        if ending is Ending.FINISHED:
            await self._journal.finish("the tape is over")
        passed_s = self._since(self._stopped_ns) / 1e3 if self._stopped_ns else 0.0
        await self._journal.flush(max(FLUSH_S_MIN, ENDING_S - passed_s))
        return ending

    async def _recover(self) -> None:
        """Take up the session where the last engine left it; a new one is the same with nothing to take up."""
        session = self._session
        self._resumed_ns = self._journal.kill_switch.resumed_ns
        memory = recovery.take_up(self._core, self._parts.desk, self._feed, self._parts.states, session)
        if memory is not None:
            self._resumed_ns = memory.resumed_ns
            self._counters = status.Counters(**memory.counts)
            self._skip = self._core.clock[1]
        self._keep_market()
        self._core.rehearse()
        symbols, inputs = self._core.sample()
        await self._parts.models.warm_up(inputs, symbols)
        if self._real is not None:
            await self._take_up_orders(self._real)
        elif isinstance(self._outbox, PaperOutbox):
            self._outbox.settle(session.unsettled, session.position)
        self._tape.begin()
        gc.freeze()  # what there is stays: the collector would look at it again and again, and ticks would wait
        self._feed.start(session.position, session.clock)
        where = status.market_time_text(session.position)
        self._outbox.note("resumed" if session.resumed else "began", None, f"at {where}", session.position)
        self._outbox.post_notes()

    # -- ticks -----------------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        """Ask the terminal again and again, beside the decisions; a replay waits while they are behind."""
        before_ns = 0
        while not self._stopping.is_set() and not self._feed.finished:
            room = self._queue.room if self._queue.idle or not self._info.lossless else 0
            try:
                batch = self._feed.poll(room)
                self._feed_problem = self._feed.problem
                self._fed_ns = max(self._fed_ns, batch.clock)
                # Every batch moves the clock on; a paused replay's says nothing new.
                if len(batch) or batch.clock > self._core.clock[0] or self._feed.finished:
                    self._queue.put(batch)
                if batch.received_ns - before_ns < BUSY_NS and not self._info.lossless:
                    await self._clock.sleep(GATHER_S)
                before_ns = batch.received_ns
            except BrokerError as error:
                self._feed_problem = str(error)
                await self._clock.sleep(FEED_PAUSE_S)
            await self._feed.news(self._parts.settings.poll_ms / 1000)
        while True:  # the worker ends the session
            await self._clock.sleep(FEED_PAUSE_S)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            finished = self._feed.finished
            if finished and self._queue.idle:
                return
            await self._process(self._unseen(await self._queue.get()))
            await self._between_batches()

    def _unseen(self, batch: TickBatch) -> TickBatch:
        """Leave out what the checkpoint has taken already of the moment that it was made in."""
        if not self._skip or not len(batch):
            return batch
        again = np.flatnonzero(batch.time == self._session.position)[: self._skip]
        self._skip -= len(again)
        if len(again) == 0:
            self._skip = 0
        return batch.take(np.setdiff1d(np.arange(len(batch)), again))

    async def _process(self, batch: TickBatch) -> None:
        """Let the core work through a batch; do what it asks for where it stops."""
        ticks, done = columns(batch), 0
        while not self._stopping.is_set():
            self._set_conditions()  # a stop waits for models and journal, and meanwhile something may have become known
            first = done
            done, event = self._core.take(ticks, first, len(batch))
            self._tape.ticks(ticks, first, done)
            if event is Event.DONE and batch.clock > self._core.clock[0]:
                event = self._core.reach(batch.clock)
                self._tape.event("clock", {"clock": batch.clock})
            if event is Event.DONE:
                break
            await self._attend(event, batch.received_ns)
        self._times.add("tick", self._since(batch.received_ns), max(1, len(batch)))
        await self._write_down(batch.received_ns)

    async def _attend(self, event: Event, received_ns: int) -> None:
        if event is Event.ASK:
            event = await self._ask(received_ns)
        if event is Event.ACT:
            await self._act(received_ns)
        else:
            await self._write_down(received_ns)

    # -- decisions -------------------------------------------------------------------------------------------------

    async def _ask(self, received_ns: int) -> Event:
        """Ask the models once for all symbols that wait, and decide these."""
        self._gather(received_ns)  # what was decided so far has nothing to do with this answer
        began = self._clock.monotonic_ns()
        question = self._core.question()
        features_ms = self._since(began)
        async with self._calls:
            asked = await self._parts.models.ask(question.inputs, question.symbols)
        self._set_conditions()
        began = self._clock.monotonic_ns()
        self._core.answer(question.rows, asked.values)
        event = self._core.decide()
        # What is only written down comes after the decision.
        self._times.add("decide", self._since(began))
        self._times.add("total", self._since(received_ns))
        self._times.add("features", features_ms)
        if asked.latency_ms is not None:
            self._times.add("model", asked.latency_ms)
        self._tape.event("answer", answer_body(question.rows, asked.values))
        self._asked, self._newest, self._release = (question, asked), question, asked.release
        return event

    async def _act(self, received_ns: int) -> None:
        """Journal the decisions that want orders with their intents, in one transaction, then send the orders."""
        intents = self._scribe.intents(tuple(self._core.acts()))
        self._core.acts_done()
        self._counters.orders += len(intents)
        sent = await self._write_down(received_ns, intents)
        placed = [row for row, intent in intents.items() if intent.client_order_id in sent]
        self._tape.event("placed", {"rows": placed})
        if self._real is not None:
            self._core.place_acts(placed)
            await self._write_down(received_ns)  # what was withheld is not decided again at every tick

    def _gather(self, received_ns: int, intents: Mapping[int, OrderIntent] = NO_INTENTS) -> None:
        """Take over what the core has decided, with what stood around it, until it is journalled."""
        logged = self._core.drain_log()
        question, asked = self._asked or (None, None)
        self._asked = None
        if not logged:
            return
        around = Circumstances(
            question, asked, self._journal.problem, self._since(received_ns), self._clock.wall_ns(),
            self._broker_problem,
        )  # fmt: skip
        records = self._scribe.records(logged, around, intents)
        self._note_levels(records)
        self._records += records
        if self._parts.publisher is not None:
            for row in {one.row for one in logged if one.kind is Kind.BAR}:
                self._parts.publisher.offer("bars", self._core.closed_bar(row))
        bars = [one.time for one in logged if one.kind is Kind.BAR]
        self._bar_time = max(bars, default=self._bar_time)

    async def _write_down(self, received_ns: int, intents: Mapping[int, OrderIntent] = NO_INTENTS) -> frozenset[int]:
        """Journal what was decided and what the account did; return the keys of the orders that were sent.

        Only where no decision is pending: a checkpoint in between would lose it.
        """
        self._gather(received_ns, intents)
        # Between an act and its order the account stays as it was decided on.
        movement = Movement() if intents and self._real is not None else self._take_over()
        self._counters.deals += movement.deal_count
        if not (self._records or movement or intents):
            return frozenset()
        entry = JournalEntry(
            decisions=tuple(self._records),
            intents=tuple(intents.values()),
            transitions=movement.transitions,
            deals=movement.deals,
            # Once a bar is enough for a curve.
            account=self._parts.desk.record(self._bar_time) if self._bar_time else None,
            steps=movement.steps,
            foreign=movement.foreign,
            foreign_ns=movement.foreign_ns,
        )
        self._records, self._bar_time = [], 0
        self._tape.event("mark", {"decisions": self._core.decisions, "digest": self._core.digest})
        took_ms, sent = await self._outbox.send(entry, self._core.clock[0])
        if took_ms is not None:
            self._times.add("journal", took_ms)
        self._keep_market()
        await self._clock.sleep(0)  # the journal, the intake and the status have their turn
        return sent

    def _keep_market(self) -> None:
        """Write the market's state now and then, always together with a checkpoint: a restart goes on from both."""
        now = self._clock.monotonic_ns()
        if now >= self._next_state_ns and self._parts.states.idle:
            pause_s = max(MARKET_STATE_S, self._packing_s / MARKET_STATE_SHARE)
            self._next_state_ns = now + int(pause_s * SECOND_NS)
            self._parts.states.save(partial(self._pack_market, self._core.market_copy()))

    def _pack_market(self, pack: Callable[[], bytes]) -> bytes:
        began = self._clock.monotonic_ns()
        packed = pack()
        self._packing_s = self._since(began) / 1e3
        return packed

    def _note_levels(self, records: Sequence[DecisionRecord]) -> None:
        """Say it when the worst level of what was decided together changes."""
        answering = [record for record in records if record.kind in ("bar", "move", "retry")]
        if not answering:
            return
        worst = max(answering, key=lambda record: record.level)
        self._show_level(worst.level, worst.level_reason, worst.time)

    def _watch_level(self) -> None:
        """Show level 4 where no decision can tell it: without ticks there is none, however long."""
        trouble = self._journal.problem or self._broker_problem or self._feed_problem
        if trouble and self._level != Level.UNSET:
            self._show_level(int(Level.EMERGENCY), trouble, self._core.clock[0])

    def _show_level(self, level: int, reason: str, time: int) -> None:
        self._level_reason = reason
        if level != self._level:
            self._level = level
            name = status.LEVEL_NAMES[Level(level)]
            self._outbox.note("level", None, f"level {level}, {name}: {reason}".removesuffix(": "), time)

    def _set_conditions(self, *, again: bool = False) -> None:
        """Tell the core what stands around it, and the tape if that is news, or ``again``."""
        gauge = self._parts.drift
        self._note_flatten()
        conditions = Conditions(
            healthy=not (self._journal.problem or self._broker_problem),
            command=int(command_of(self._journal.kill_switch, stopping=self._stopping.is_set())),
            drift=gauge.drift_at(self._core.clock[0]) if gauge is not None else math.nan,
            best_level=self._journal.kill_switch.best_level,
        )
        if self._core.set_conditions(**conditions) or again:
            self._tape.event("conditions", conditions_body(conditions))

    def _note_flatten(self) -> None:
        """Say that all positions are closed for a person, once: by the next decision on each, or at once."""
        kill = self._journal.kill_switch
        if not (kill.engaged and kill.flatten):
            self._flattening = False
        elif not self._flattening and self._parts.desk.open_rows():
            self._flattening = True
            self._outbox.note("flatten", None, kill.reason or "kill switch", self._core.clock[0])

    # -- between batches -------------------------------------------------------------------------------------------

    async def _between_batches(self) -> None:
        """What may wait for a decision, but not for the next bar."""
        kill, now = self._journal.kill_switch, self._clock.monotonic_ns()
        await self._outbox.between_batches()
        if kill.engaged and kill.flatten:
            await self._flatten()
        if not kill.engaged and kill.resumed_ns > self._resumed_ns:
            self._resume(kill.resumed_ns)
        if self._tape.full:
            self._tape.begin()
            self._set_conditions(again=True)  # the ceiling is no part of the state that a stretch begins with
        if now >= self._next_flush_ns:
            self._next_flush_ns = now + int(TAPE_FLUSH_S * SECOND_NS)
            self._tape.flush()

    async def _flatten(self) -> None:
        """Close every position at once; the step says how, the command is a person's."""
        rows = self._parts.desk.open_rows()
        if not rows:
            return
        self._set_conditions()
        now = self._core.clock[0]
        self._tape.event("command", {"rows": rows, "time": now})
        if self._core.decide_now(rows, now) is Event.ACT:
            await self._act(self._clock.monotonic_ns())

    def _resume(self, resumed_ns: int) -> None:
        """Act on ``fx resume``: a halt after a drawdown ends by a person only."""
        if self._core.halted:
            equity = self._parts.desk.money().equity
            if not equity > 0.0:
                return  # a position cannot be valued now: it is asked again after the next ticks
            self._core.end_halt(equity)
            self._tape.event("resume", {"equity": equity})
        if self._real is not None:
            self._real.desk.resume()
        self._resumed_ns = resumed_ns
        self._outbox.note("resume", None, "a person lets the account trade again", self._core.clock[0])

    async def _measure_baseline(self) -> None:
        """Time a bare call now and then, beside the decisions, as they come: from rest, and never two at once."""
        now, asked = self._clock.monotonic_ns(), self._newest
        if asked is None or not len(asked.rows) or now < self._next_baseline_ns:
            return
        self._next_baseline_ns = now + int(BASELINE_S * SECOND_NS)
        async with self._calls:
            bare_ms = await self._parts.models.bare_call_ms(asked.inputs, asked.symbols)
        if bare_ms is not None:
            self._times.add("model_bare", bare_ms)
            self._outbox.baseline(len(asked.rows), bare_ms)

    # -- what others see -------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        """Hand the newest status over a few times a second, and end the engine when it lost its account."""
        while True:
            if self._journal.fatal is not None:
                raise self._journal.fatal
            self._watch_quotes()
            self._watch_level()
            self._show("running")
            if self._parts.publisher is not None:
                for quote in self._core.quotes():
                    self._parts.publisher.offer("ticks", quote)
            await self._measure_baseline()
            await self._clock.sleep(STATUS_S)

    def _show(self, state: str) -> None:
        seen = self._status(state)
        self._journal.beat(seen)
        if self._parts.on_status is not None:
            self._parts.on_status(seen)

    def _watch_quotes(self) -> None:
        now, clock = self._clock.monotonic_ns(), self._core.clock[0]
        if now < self._next_quotes_ns:
            return
        self._next_quotes_ns = now + SECOND_NS
        for symbol, message in self._quotes.news(clock):
            self._outbox.note("quotes", symbol, message, clock)

    def _checkpoint(self) -> Checkpoint:
        account, orders = self._parts.desk.snapshot()
        memory = Memory(
            core=self._core.session_state(),
            account=account,
            orders=orders,
            resumed_ns=self._resumed_ns,
            counts=vars(self._counters),
        )
        self._sequence += 1
        clock = self._core.clock[0]
        return Checkpoint(self._sequence, clock, clock, memory.pack())

    def _since(self, began_ns: int) -> float:
        return (self._clock.monotonic_ns() - began_ns) / 1e6

    def _status(self, state: str) -> dict[str, Any]:
        kill, clock, drift = self._journal.kill_switch, self._core.clock[0], self._core.drift
        return {
            "state": state,
            **status.level_status(self._level, self._level_reason),
            **vars(self._counters),
            **self._core.counts(),
            "orders_withheld": self._outbox.withheld,
            **(self._real.desk.counts() if self._real is not None else {}),
            **status.account_status(self._parts.desk.money(), len(self._parts.desk.open_rows())),
            "market_time": status.market_time_text(clock),
            "clock_ns": clock,
            "release": self._release if self._release is not None else 0,
            "model_problem": self._parts.models.problem,
            "model_failures": self._parts.models.failed_calls,
            "drift": None if math.isnan(drift) else drift,
            "journal_problem": self._journal.problem,
            "broker_problem": self._broker_problem,
            "feed_problem": self._feed_problem,
            "feed_remark": self._feed.remark,
            "killed": kill.engaged,
            "ticks_dropped": self._queue.dropped,
            "ticks_waiting_max": self._queue.highest,
            "symbols_halted": self._quotes.halted() | (self._real.desk.held() if self._real is not None else {}),
            "latency": self._times.summary(),
            "caches": self._parts.cache_rates() if self._parts.cache_rates is not None else {},
        }
