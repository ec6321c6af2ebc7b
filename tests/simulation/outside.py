"""What surrounds an engine in a simulation: clock, feed, models, drift, broker, market states and tape."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import numpy as np
import pandas as pd

from fx_dagster.core.rows import Ticks
from fx_dagster.core.tape import What
from fx_dagster.errors import BrokerError
from fx_dagster.execution.broker import Answer, BrokerAccount, BrokerSpecification, Refused, Unknown
from fx_dagster.execution.orders import OrderIntent
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, empty_batch
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.answer import DIRECTIONS, SIMPLE_MODELS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.service import ModelAnswer, ModelCallError, UnavailableReason, validated
from resources.mt5.local_broker import LocalBroker
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.structures import SymbolInfo

from . import market
from .loop import NS, Process, World
from .watch import Watch

SEND_S, QUESTION_S = 8.0, 4.0
"""An adapter's own deadlines."""
LAZY = 6.0
"""By how much a busy machine sleeps longer than asked to."""


class MarketClock:
    """The market's present, ``speed`` market seconds a second."""

    def __init__(self, world: World, speed: int) -> None:
        self._world, self.speed = world, speed

    def now_ns(self) -> int:
        return market.BEGIN + self._world.now_ns * self.speed

    def delay_s(self, market_ns: int) -> float:
        """Return how long (seconds of the world) it is until a market time."""
        return max(0, market_ns - self.now_ns()) / self.speed / NS


class MachineClock:
    """A process's clock."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def monotonic_ns(self) -> int:
        return self._process.world.now_ns

    def wall_ns(self) -> int:
        return market.BEGIN + self._process.world.now_ns

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds * LAZY)


class Arrivals:
    """The ticks as the feed shows them: each with the market time at which it arrives."""

    def __init__(self, ticks: market.Ticks, arrival: Any) -> None:
        order = np.argsort(arrival, kind="stable")
        self.arrival = arrival[order]
        self.symbol, self.time = ticks.symbol[order], ticks.time[order]
        self.bid, self.ask = ticks.bid[order], ticks.ask[order]

    def batch(self, rows: Any, clock: int, received_ns: int) -> TickBatch:
        """Return some of them as a batch."""
        count = len(rows)
        return TickBatch(
            self.symbol[rows], self.time[rows], self.bid[rows], self.ask[rows], np.ones(count),
            np.full(count, market.FLAGS, np.int32), clock, received_ns,
        )  # fmt: skip


class SimulatedFeed:
    """Implements the engine's feed over arrivals.

    Attributes:
        broken_until: market time before which every question fails.
        ends: market time at which the tape is over.
    """

    def __init__(self, process: Process, clock: MarketClock, arrivals: Arrivals, ends: int) -> None:
        self._process, self._clock, self._arrivals, self.ends = process, clock, arrivals, ends
        self.broken_until: Callable[[], int] = lambda: 0
        self._next, self._early, self._told = 0, np.zeros(0, np.int64), 0
        self.started = False

    @property
    def info(self) -> FeedInfo:
        return market.INFO

    @property
    def problem(self) -> str:
        return ""

    @property
    def remark(self) -> str:
        return ""

    def history(self, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
        return market.history_until(symbol, timeframe, min(until, market.BEGIN), bars)

    def ticks(self, start: int, until: int) -> TickBatch:
        found = self._arrivals
        rows = np.flatnonzero((found.time >= start) & (found.time < until) & (found.arrival < self._clock.now_ns()))
        rows = rows[np.argsort(found.time[rows], kind="stable")]
        return found.batch(rows, until, 0)

    def start(self, position: int, clock: int) -> None:
        found = self._arrivals
        self._next = int(np.searchsorted(found.arrival, self._clock.now_ns()))
        early = np.flatnonzero(found.time[: self._next] >= position)
        self._early, self._told = early[np.argsort(found.time[early], kind="stable")], clock
        self.started = True

    def poll(self, room: int) -> TickBatch:
        self._process.require_alive()
        now, received_ns = self._clock.now_ns(), self._process.world.now_ns
        if now < self.broken_until():
            raise BrokerError("the terminal does not tell its ticks", mend="look at the terminal")
        last = int(np.searchsorted(self._arrivals.arrival, now))
        rows = np.concatenate([self._early, np.arange(self._next, last)])
        self._early, self._next, self._told = self._early[:0], last, now
        return self._arrivals.batch(rows, now, received_ns) if len(rows) else empty_batch(now, received_ns)

    async def news(self, within_s: float) -> None:
        arrival = self._arrivals.arrival
        wait_s = self._clock.delay_s(int(arrival[self._next]) + 1) if self._next < len(arrival) else 1.0
        await asyncio.sleep(min(max(wait_s, within_s, 0.25), 1.0))

    @property
    def finished(self) -> bool:
        return self._told >= self.ends


class Moods:
    """What the models believe, and how they fail now: the same for all engines.

    Attributes:
        turns: of each symbol, market times at which the models change their mind.
        failing: kind of failure, and until when (market time).
    """

    def __init__(self, chance: Random, seconds: float) -> None:
        self.turns: list[list[int]] = []
        for _ in market.SYMBOLS:
            at, turns = float(chance.uniform(-60, 60)), []
            while at < seconds:
                turns.append(market.BEGIN + int(at * NS))
                at += chance.uniform(20, 100)
            self.turns.append(turns)
        self.failing: dict[str, int] = {}
        self.tired = False

    def direction(self, place: int, now: int) -> float:
        """Return -1 or 1; 0 when they have no opinion any more."""
        if self.tired:
            return 0.0
        return 1.0 if sum(turn <= now for turn in self.turns[place]) % 2 else -1.0

    def fails(self, kind: str, now: int) -> bool:
        """Whether they fail in that way now."""
        return now < self.failing.get(kind, 0)


class SimulatedService:
    """Implements the models' service; what it answers is validated as a server's answer is."""

    def __init__(self, process: Process, clock: MarketClock, moods: Moods, feature_hash: str, chance: Random) -> None:
        self._process, self._clock, self._moods, self._chance = process, clock, moods, chance
        self.models, self.symbols, self.release, self.feature_hash = DIRECTIONS, market.SYMBOLS, 4, feature_hash

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        moods, now, began = self._moods, self._clock.now_ns(), self._process.world.now_ns
        took_s = self._chance.uniform(0.001, 0.012)
        if moods.fails("late", now) or (whole and moods.fails("whole_late", now)):
            await asyncio.sleep(deadline_s)
            raise ModelCallError(UnavailableReason.DEADLINE, "late")
        await asyncio.sleep(min(took_s, deadline_s))
        if moods.fails("absent", now):
            raise ModelCallError(UnavailableReason.UNREACHABLE, "absent")
        if whole and moods.fails("refused", now):
            raise ModelCallError(UnavailableReason.REFUSED, "not loaded")
        asked = DIRECTIONS if whole else SIMPLE_MODELS
        outputs = self._outputs(inputs, asked, now, whole=whole)
        names = [name for name in outputs if name in outputs]
        if moods.fails("absent_tensor", now):
            del outputs["p_up_xgboost" if self._chance.random() < 0.5 or not whole else "p_up_lstm"]
        found = validated(outputs, asked, len(inputs), names)
        taken_ms = (self._process.world.now_ns - began) / 1e6
        return ModelAnswer(
            asked, found.p_up, found.extras, found.explained, self.release, taken_ms, found.discarded, whole
        )

    def _outputs(self, inputs: ModelInputs, asked: Sequence[str], now: int, *, whole: bool) -> dict[str, Any]:
        rows, moods = len(inputs), self._moods
        places = [int(place) if 0 <= int(place) < len(self.symbols) else 0 for place in inputs.symbol]
        lean = np.array([moods.direction(place, now) for place in places])
        if moods.fails("constant", now):
            lean = np.ones(rows) * 0.2
        outputs = {f"p_up_{name}": (0.5 + 0.42 * lean)[:, None] for name in asked}
        if whole:
            shares = np.tile([0.6, 0.2, 0.1, 0.1], (rows, 1))
            leaves = np.column_stack([np.full(rows, 0.9), np.where(lean < 0, 0.7, 0.1), np.where(lean > 0, 0.7, 0.1)])
            outputs |= {
                "p_up_attention": (0.5 + 0.4 * lean)[:, None], "regime": shares,
                "confidence": np.full((rows, 1), 0.9), "size": np.full((rows, 1), 1.0), "timing": leaves,
            }  # fmt: skip
        if moods.fails("nan", now):
            outputs[self._chance.choice(sorted(outputs))][:, 0] = np.nan
        if moods.fails("range", now):
            outputs[self._chance.choice([f"p_up_{name}" for name in asked])][:, 0] = 1.7
        return outputs

    async def healthy(self) -> bool:
        now = self._clock.now_ns()
        return not any(self._moods.fails(kind, now) for kind in ("late", "whole_late", "absent", "refused"))

    async def close(self) -> None:
        return


class FixedProvider:
    """Knows one service."""

    problem = ""

    def __init__(self, service: SimulatedService) -> None:
        self.service = service

    async def refresh(self) -> None:
        return


class Terminal(SimulatedTerminal):
    """The simulated terminal; the day's high and low, which nobody reads, are its last quote: that is much faster."""

    watch: Watch

    def _symbol_info(self, symbol: str) -> Any:
        contract, tick = self.server.contracts[symbol].instrument, self._tick(symbol)
        values = dict.fromkeys(SymbolInfo._fields, 0) | dict.fromkeys(("basis", "bank"), "")
        known = self._specification(symbol, contract) | self._state(contract, tick, tick.bid, tick.bid)
        return SymbolInfo(**(values | known))

    def order_send(self, request: Any) -> Any:
        self.watch.requested(request, self)
        result = super().order_send(request)
        self.watch.note(f"terminal answers {None if result is None else (result.retcode, result.order, result.deal)}")
        return result


class Broker(LocalBroker):
    """Asks for everything since the beginning: that is less work than to find out since when."""

    _AROUND = tuple(datetime.fromtimestamp(market.BEGIN / NS + side * 86_400, tz=UTC) for side in (-1, 1))

    def _since(self, since_ns: int) -> tuple[datetime, datetime]:
        return self._AROUND[0], self._AROUND[1]


class Wire:
    """What stands between engines and the terminal, as the bridge does: the newest epoch, used keys, and bad luck.

    Attributes:
        lost, unanswered: how many orders more vanish on their way, or whose answers do.
        late_s: by how much the next answer is late; 0: it is not.
        slow_until, silent_until: until when (ns of the world) questions are slow, or never answered.
    """

    def __init__(self, world: World, terminal: Terminal, chance: Random) -> None:
        self.world, self.terminal, self.chance = world, terminal, chance
        self.broker = Broker(terminal)
        self.epoch = self.refused_epochs = 0
        self.keys: set[int] = set()
        self.lost = self.unanswered = self.slow_until = self.silent_until = 0
        self.late_s = 0.0

    def send(self, intent: OrderIntent) -> Answer:
        """Take an order as the bridge's gate does."""
        if intent.epoch < self.epoch:
            self.refused_epochs += 1
            return Refused(0, f"epoch {intent.epoch} is older than {self.epoch}")
        self.epoch = intent.epoch
        if intent.client_order_id in self.keys:
            return Unknown("this key was used before")
        self.keys.add(intent.client_order_id)
        return now(self.broker.send(intent))


def now(call: Any) -> Any:
    """Return what a coroutine that never waits returns."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits")


class SimulatedBroker:
    """Implements the broker over the wire, for one engine."""

    def __init__(self, process: Process, wire: Wire, watch: Watch) -> None:
        self._process, self._wire, self._watch = process, wire, watch
        self.engine: Any = None

    async def send(self, intent: OrderIntent) -> Answer:
        self._process.require_alive()
        self._watch.sending(intent, self.engine, self._process)
        wire, chance = self._wire, self._wire.chance
        there, back = chance.uniform(0.002, 0.15), chance.uniform(0.002, 0.1)
        answer_ns: int | None = round((back + wire.late_s) * NS)
        wire.late_s = 0.0
        arrives: Callable[[], Any] = lambda: wire.send(intent)  # noqa: E731
        if wire.lost:
            wire.lost -= 1
            arrives, answer_ns = lambda: None, None
        elif wire.unanswered:
            wire.unanswered -= 1
            answer_ns = None
        try:
            async with asyncio.timeout(SEND_S):
                return await self._process.call(round(there * NS), arrives, answer_ns)
        except TimeoutError:
            return Unknown(f"the bridge has not answered within {SEND_S:g} s")

    async def _ask(self, question: Callable[[], Any]) -> Any:
        wire = self._wire
        slow = wire.world.now_ns < wire.slow_until
        there = wire.chance.uniform(0.2, 1.0) if slow else wire.chance.uniform(0.002, 0.03)
        back = None if wire.world.now_ns < wire.silent_until else round(there * NS)
        try:
            async with asyncio.timeout(QUESTION_S):
                return await self._process.call(round(there * NS), lambda: now(question()), back)
        except TimeoutError as error:
            raise BrokerError(f"the bridge has not answered within {QUESTION_S:g} s", mend="wait") from error

    async def orders(self) -> Any:
        return await self._ask(self._wire.broker.orders)

    async def positions(self) -> Any:
        return await self._ask(self._wire.broker.positions)

    async def deals(self, since_ns: int) -> Any:
        return await self._ask(lambda: self._wire.broker.deals(since_ns))

    async def account(self) -> BrokerAccount:
        return await self._ask(self._wire.broker.account)

    async def specification(self, symbol: str) -> BrokerSpecification:
        return await self._ask(lambda: self._wire.broker.specification(symbol))


class Gauge:
    """Knows the drift."""

    def __init__(self) -> None:
        self.drift = float("nan")

    def drift_at(self, clock: int) -> float:
        return self.drift


class DiskStates:
    """Market states on one machine's disk; they survive its engines."""

    def __init__(self, world: World) -> None:
        self._world, self._next_ns = world, 0
        self.kept: list[bytes] = []

    @property
    def idle(self) -> bool:
        """Whether the last state is written; this disk is slow."""
        return self._world.now_ns >= self._next_ns

    def save(self, pack: Callable[[], bytes]) -> None:
        self.kept = [pack(), *self.kept][:3]
        self._next_ns = self._world.now_ns + 11 * NS

    def load(self) -> list[bytes]:
        return self.kept


class WatchedTape:
    """A tape that keeps nothing, and looks at what the core is told."""

    full = False

    def __init__(self, process: Process, watch: Watch) -> None:
        self._process, self._watch = process, watch
        self.engine: Any = None

    def begin(self) -> None:
        self._process.require_alive()

    def ticks(self, ticks: Ticks, first: int, last: int) -> None:
        self._watch.decided(self.engine, self._process)

    def event(self, what: What, body: dict[str, Any]) -> None:
        if what == "mark":
            self._watch.note(f"digest {body['digest']} after {body['decisions']}")

    def flush(self) -> None:
        return

    def close(self) -> None:
        return
