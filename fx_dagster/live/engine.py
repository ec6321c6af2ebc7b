"""The live engine: ticks in, one decision step for all symbols whenever a base bar closes, journalled orders out.

Start and recovery are one path. The journal holds, in one transaction each, what was decided and a checkpoint: every
tick before its position is in it. A restart restores the checkpoint, sends what was journalled and not sent, builds the
forming bar again from the ticks before the position, and goes on with the ticks from it. Nothing that happened after
the last checkpoint was visible to anybody, so that nothing can happen twice.

The engine knows market time from its feed alone, and this machine's time for durations and records only: the same ticks
give the same decisions, however often it was killed.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.codes import Command, Level, Stage
from fx_dagster.decision.decider import DecisionStep
from fx_dagster.errors import BrokerError
from fx_dagster.execution.orders import Deal
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.live import status
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.bars import BarBook
from fx_dagster.live.judge import Judge, Judgement, command_of, decision_record, why
from fx_dagster.live.latency import StageTimes
from fx_dagster.live.model_desk import Asked, ModelDesk
from fx_dagster.live.observation import Observation, Observer
from fx_dagster.live.outbox import Outbox
from fx_dagster.live.protocols import Clock, Journal, TickFeed
from fx_dagster.live.quotes import QuoteWatch
from fx_dagster.live.records import Checkpoint, JournalEntry, SessionState
from fx_dagster.live.session import Memory, unpack
from fx_dagster.live.ticks import TickBatch, TickGate, TickQueue, empty_batch
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import SECOND_NS
from fx_dagster.models.protocol import Float32
from fx_dagster.settings import LiveSettings

FLUSH_S = 8.0
"""Of the ten seconds that an orderly end may take."""
STATUS_S = 0.25
BASELINE_S = 1.0
FEED_PAUSE_S = 0.5
_HALTED = Stage.HALT.name.lower()


class Ending(StrEnum):
    """Why the engine ended."""

    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True)
class EngineParts:
    """What an engine is put together from.

    Attributes:
        account: account name.
        instruments: one a symbol, in the feed's order.
        catalogue: features that are computed.
        feed: ticks and history.
        journal: what happened, durably.
        models: asks for probabilities.
        clock: this machine's time.
        step: the decision step, before its first decision.
        desk: the paper account, as new.
        observer: computes features and votes.
        settings: of the live session.
        on_status: called with each status, a few times a second.
    """

    account: str
    instruments: Sequence[Instrument]
    catalogue: FeatureCatalogue
    feed: TickFeed
    journal: Journal
    models: ModelDesk
    clock: Clock
    step: DecisionStep
    desk: PaperDesk
    observer: Observer
    settings: LiveSettings
    on_status: Callable[[dict[str, Any]], None] | None = None


class Engine:
    """One session's engine: made, then :meth:`run` once.

    Args:
        parts: what it works with.
        session: where it goes on.
    """

    def __init__(self, parts: EngineParts, session: SessionState) -> None:
        self._parts = parts
        self._session = session
        self._feed, self._journal, self._clock = parts.feed, parts.journal, parts.clock
        self._info = parts.feed.info
        stale_s = max(parts.settings.stale_after_s, self._info.tick_spacing_s)
        self._queue = TickQueue(parts.settings.queue_ticks_max)
        self._gate = TickGate(self._info.symbols)
        self._book = BarBook(parts.instruments, parts.catalogue.timeframes, parts.settings.history_bars)
        self._quotes = QuoteWatch(
            parts.instruments, self._gate, stale_ns=int(stale_s * SECOND_NS), since=session.position
        )
        self._judge = Judge(
            parts.step, parts.desk, account=parts.account, session=session.session_id, base=self._info.base
        )
        self._outbox = Outbox(parts.journal, parts.desk, parts.clock, self._checkpoint)
        self._times = StageTimes()
        self._counters = status.Counters()
        self._sequence = session.sequence
        self._closed_until = self._position = session.position
        self._market_clock = session.clock
        self._stopping = asyncio.Event()
        self._feed_problem = ""
        self._level, self._level_reason = int(Level.UNSET), ""
        self._release: int | None = None
        self._resumed_ns = 0
        self._halted = False
        self._asked_features: Float32 | None = None
        self._next_baseline_ns = 0
        self._next_quotes_ns = 0

    def stop(self) -> None:
        """Ask for an orderly end: no entries any more, everything written, out within ten seconds."""
        self._stopping.set()
        self._queue.put(empty_batch(self._market_clock, self._clock.monotonic_ns()))

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
        try:
            await asyncio.wait({worker, *others}, return_when=asyncio.FIRST_COMPLETED)
            for task in (worker, *others):
                if task.done():
                    task.result()  # raises what ended it
            return await self._end()
        finally:
            for task in (worker, *others):
                task.cancel()
            await asyncio.gather(worker, *others, return_exceptions=True)

    async def _end(self) -> Ending:
        ending = Ending.STOPPED if self._stopping.is_set() else Ending.FINISHED
        self._outbox.note(str(ending), None, f"at {status.market_time_text(self._position)}", self._position)
        self._outbox.post_notes()
        self._show(str(ending))
        if ending is Ending.FINISHED:
            await self._journal.finish("the tape is over")
        await self._journal.flush(FLUSH_S)
        return ending

    async def _recover(self) -> None:
        """Take up the session where the last engine left it; a new one is the same with nothing to take up."""
        session = self._session
        self._resumed_ns = self._journal.kill_switch.resumed_ns
        if session.snapshot is not None:
            self._remember(unpack(session.snapshot))
        self._parts.step.warm_up()
        self._book.load(self._feed, self._closed_until)
        if self._closed_until < session.position:
            self._rebuild_forming(session.position)
        await self._warm_up()
        self._outbox.settle(session.unsettled, session.position)
        self._feed.start(session.position, session.clock)
        where = status.market_time_text(session.position)
        self._outbox.note("resumed" if session.resumed else "began", None, f"at {where}", session.position)
        self._outbox.post_notes()

    def _remember(self, memory: Memory) -> None:
        self._parts.step.restore(memory.decision)
        self._parts.desk.restore(memory.account)
        self._gate.restore(memory.gate)
        self._closed_until, self._resumed_ns, self._halted = memory.closed_until, memory.resumed_ns, memory.halted
        self._counters = status.Counters(**memory.counts)

    def _rebuild_forming(self, position: int) -> None:
        """Give the bar that was forming its ticks before the checkpoint again: the account knows them already."""
        raw = self._feed.ticks(self._closed_until, position)
        ticks = TickGate(self._info.symbols).check(raw, closed_until=self._closed_until)
        if len(ticks):
            self._book.add(ticks)

    async def _warm_up(self) -> None:
        """Let compiled code and the models' connection be ready before the first decision is timed."""
        ready = [place for place in range(len(self._info.symbols)) if self._book.last_open(place)]
        if ready:
            seen = self._parts.observer.look(self._book, np.array(ready, dtype=np.intp))
            await self._parts.models.warm_up(np.nan_to_num(seen.features[ready]))

    # -- ticks -----------------------------------------------------------------------------------------------------

    async def _take_in(self) -> None:
        """Ask the terminal again and again, beside the decisions; a replay waits while they are behind."""
        while not self._stopping.is_set() and not self._feed.finished:
            room = self._queue.room if self._queue.idle or not self._info.lossless else 0
            try:
                batch = self._feed.poll(room)
                self._feed_problem = ""
                # Every batch moves the clock on; a paused replay's says nothing new.
                if len(batch) or batch.clock > self._market_clock or self._feed.finished:
                    self._queue.put(batch)
            except BrokerError as error:
                self._feed_problem = str(error)
                await self._clock.sleep(FEED_PAUSE_S)
            await self._clock.sleep(self._parts.settings.poll_ms / 1000)
        while True:  # the worker ends the session
            await self._clock.sleep(FEED_PAUSE_S)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            finished = self._feed.finished
            if finished and self._queue.idle:
                return
            await self._process(await self._queue.get())
            await self._between_batches()

    async def _process(self, batch: TickBatch) -> None:
        """Work through a batch bar by bar: a bar's ticks, then, once the market's clock is past its end, its close."""
        clock = max(batch.clock, self._market_clock)
        rest = self._without_late(batch)
        while not self._stopping.is_set():
            closing = self._book.forming_close
            if closing is None:
                if not len(rest):
                    break
                closing = self._book.end_of_bar(int(rest.time.min()))
            inside = rest.time < closing
            self._take(rest.take(inside), until=min(closing, clock))
            rest = rest.take(~inside)
            if clock >= closing or len(rest):
                await self._close_bar(closing, batch.received_ns)
            else:
                break
        if not self._stopping.is_set():
            self._market_clock, self._position = clock, max(self._position, clock)

    def _without_late(self, batch: TickBatch) -> TickBatch:
        """Count and leave out ticks of bars that are closed."""
        late = batch.time < self._closed_until
        if not late.any():
            return batch
        self._gate.check(batch.take(late), closed_until=self._closed_until)
        return batch.take(~late)

    def _take(self, raw: TickBatch, *, until: int) -> None:
        """Hand ticks to gate, account and bars; what they changed in the account is journalled with a checkpoint."""
        good = self._gate.check(raw, closed_until=self._closed_until)
        if not len(good):
            return
        movement = self._parts.desk.take(good)
        self._book.add(good)
        self._position = max(self._position, until)
        if movement:
            self._learn(movement.deals)
            entry = JournalEntry(deals=movement.deals, transitions=movement.transitions)
            self._outbox.post(entry, checkpoint=True)

    def _learn(self, deals: Sequence[Deal]) -> None:
        self._counters.deals += len(deals)
        for deal in deals:
            if deal.closing:
                # The entry paid the same commission a lot as the exit.
                self._parts.step.record_trade(deal.profit + deal.swap - 2 * deal.commission, deal.risk_money)

    # -- decisions -------------------------------------------------------------------------------------------------

    async def _close_bar(self, closing: int, received_ns: int) -> None:
        """Close the bar of all symbols together, and decide for those that have one."""
        began = self._clock.monotonic_ns()
        rows = self._book.close()
        self._closed_until = self._position = closing
        if not len(rows):
            return
        seen = await asyncio.to_thread(self._parts.observer.look, self._book, rows)
        self._times.add("features", self._since(began))
        asked = await self._ask(seen)
        quotes = self._quotes.at(closing)
        began = self._clock.monotonic_ns()
        judged = self._judge.at_bar_close(
            closing, self._bar_time(), seen, asked, quotes, healthy=not self._journal.problem, command=self._command()
        )
        self._times.add("decide", self._since(began))
        total_ms = self._since(received_ns)
        self._times.add("total", total_ms)
        self._note_level(judged, asked, closing)
        await self._record(judged, seen, asked, total_ms, closing)

    async def _ask(self, seen: Observation) -> Asked:
        """Ask the models once for all symbols that closed a bar and are warm."""
        ready = np.flatnonzero(seen.warm)
        p_up = np.full((len(self._info.symbols), self._parts.step.model_columns), np.nan)
        if not len(ready):
            return Asked(p_up, None, None, "features are warming up")
        features = np.ascontiguousarray(seen.features[ready])
        asked = await self._parts.models.ask(features)
        if asked.latency_ms is not None:
            self._times.add("model", asked.latency_ms)
        p_up[ready] = asked.p_up
        self._release = asked.release
        self._asked_features = features
        return Asked(p_up, asked.release, asked.latency_ms, asked.problem)

    async def _record(self, judged: Judgement, seen: Observation, asked: Asked, total_ms: float, closing: int) -> None:
        """Journal the decisions and their intents in one transaction, then send the orders."""
        records = tuple(
            decision_record(
                said, asked=asked, row=row, seen=seen, intent=judged.intents.get(row),
                feature_hash=self._parts.catalogue.hash, journal_problem=self._journal.problem,
                total_ms=total_ms, wall_ns=self._clock.wall_ns(),
            )
            for row, said in judged.said.items()
        )  # fmt: skip
        for record in records:
            self._counters.decided(record.level)
        self._counters.orders += len(judged.intents)
        entry = JournalEntry(
            decisions=records, intents=tuple(judged.intents.values()), account=self._parts.desk.record(closing)
        )
        took_ms = await self._outbox.send(entry, closing)
        if took_ms is not None:
            self._times.add("journal", took_ms)

    def _note_level(self, judged: Judgement, asked: Asked, closing: int) -> None:
        self._halted = any(said.stage == _HALTED for said in judged.said.values())
        worst = next((said for said in judged.said.values() if said.level == judged.level), None)
        if worst is None:
            return
        self._level_reason = why(worst, asked.problem, self._journal.problem)
        if judged.level != self._level:
            self._level = judged.level
            name = status.LEVEL_NAMES[Level(judged.level)]
            message = f"level {judged.level}, {name}: {self._level_reason}".removesuffix(": ")
            self._outbox.note("level", None, message, closing)

    def _bar_time(self) -> NDArray[np.int64]:
        return np.array([self._book.last_open(place) for place in range(len(self._info.symbols))], dtype=np.int64)

    def _command(self) -> Command:
        return command_of(self._journal.kill_switch, stopping=self._stopping.is_set())

    async def _between_batches(self) -> None:
        """What may wait for a decision, but not for the next bar."""
        kill = self._journal.kill_switch
        if kill.engaged and kill.flatten:
            await self._flatten()
        if not kill.engaged and kill.resumed_ns > self._resumed_ns:
            self._resume(kill.resumed_ns)
        if self._clock.monotonic_ns() >= self._next_baseline_ns and self._asked_features is not None:
            self._next_baseline_ns = self._clock.monotonic_ns() + int(BASELINE_S * SECOND_NS)
            await self._measure_baseline(self._asked_features)

    async def _flatten(self) -> None:
        """Close every position at once; the step says how, the command is a person's."""
        open_symbols = {position.symbol for position in self._parts.desk.positions()} - self._parts.desk.pending()
        rows = [place for place, symbol in enumerate(self._info.symbols) if symbol in open_symbols]
        if not rows:
            return
        now = self._position
        judged = self._judge.inside_bar(
            now, self._bar_time(), rows, healthy=not self._journal.problem, command=self._command()
        )
        if judged.intents:
            self._counters.orders += len(judged.intents)
            self._outbox.note("flatten", None, self._journal.kill_switch.reason or "kill switch", now)
            await self._outbox.send(JournalEntry(intents=tuple(judged.intents.values())), now)

    def _resume(self, resumed_ns: int) -> None:
        """Act on ``fx resume``: a halt after a drawdown ends by a person only."""
        self._resumed_ns = resumed_ns
        if self._halted:
            self._halted = False
            self._parts.step.resume(self._parts.desk.money().equity)
        self._outbox.note("resume", None, "a person lets the account trade again", self._position)

    async def _measure_baseline(self, features: Float32) -> None:
        bare_ms = await self._parts.models.bare_call_ms(features)
        if bare_ms is not None:
            self._times.add("model_bare", bare_ms)
            self._outbox.baseline(len(features), bare_ms)

    # -- what others see -------------------------------------------------------------------------------------------

    async def _report(self) -> None:
        """Hand the newest status over a few times a second, and end the engine when it lost its account."""
        while True:
            if self._journal.fatal is not None:
                raise self._journal.fatal
            self._watch_quotes()
            self._show("running")
            await self._clock.sleep(STATUS_S)

    def _show(self, state: str) -> None:
        seen = self._status(state)
        self._journal.beat(seen)
        if self._parts.on_status is not None:
            self._parts.on_status(seen)

    def _watch_quotes(self) -> None:
        now = self._clock.monotonic_ns()
        if now < self._next_quotes_ns:
            return
        self._next_quotes_ns = now + SECOND_NS
        for symbol, message in self._quotes.news(self._quotes.at(self._market_clock)):
            self._outbox.note("quotes", symbol, message, self._market_clock)

    def _checkpoint(self) -> Checkpoint:
        memory = Memory(
            decision=self._parts.step.snapshot(),
            account=self._parts.desk.snapshot(),
            gate=self._gate.state(),
            closed_until=self._closed_until,
            resumed_ns=self._resumed_ns,
            halted=self._halted,
            counts=vars(self._counters),
        )
        self._sequence += 1
        return Checkpoint(self._sequence, self._position, max(self._market_clock, self._position), memory.pack())

    def _since(self, began_ns: int) -> float:
        return (self._clock.monotonic_ns() - began_ns) / 1e6

    def _status(self, state: str) -> dict[str, Any]:
        kill = self._journal.kill_switch
        positions = self._parts.desk.positions()
        return {
            "state": state,
            **status.level_status(self._level, self._level_reason),
            **vars(self._counters),
            "orders_withheld": self._outbox.withheld,
            **status.account_status(self._parts.desk.money(), len(positions)),
            "market_time": status.market_time_text(self._market_clock),
            "clock_ns": self._market_clock,
            "release": self._release if self._release is not None else 0,
            "model_problem": self._parts.models.problem,
            "model_failures": self._parts.models.failed_calls,
            "journal_problem": self._journal.problem,
            "feed_problem": self._feed_problem,
            "killed": kill.engaged,
            "ticks": self._gate.accepted,
            "ticks_dropped": self._queue.dropped,
            "ticks_waiting_max": self._queue.highest,
            "ticks_rejected": dict(self._gate.rejected),
            "symbols_halted": self._quotes.halted(),
            "latency": self._times.summary(),
        }
