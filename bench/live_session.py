"""One live session for a measurement, as a process of its own: the production engine on a made market.

``python -m bench.live_session`` reads a :class:`Plan` as JSON from its input and prints what it measured as JSON.
Everything is the engine's own, journal, tape, models and market states included, but for the ticks' source and for the
observers here: a core that notes when each tick was decided, and a model desk that notes its calls.
"""

import asyncio
import contextlib
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from bench.live_market import START, MadeFeed
from fx_dagster.core.rows import Event, Kind, Ticks
from fx_dagster.core.trading import TradingCore
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.engine import Engine, EngineParts
from fx_dagster.live.model_desk import Asked, ModelDesk
from fx_dagster.live_engine import WallClock, tape_facts, trading_core
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.models.answer import DIRECTIONS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.settings import Settings, load_settings
from resources.journal import JournalTarget, PostgresJournal
from resources.market_states import FileMarketStates
from resources.model_provider import ReleasedModels
from resources.releases import ReleaseStore
from resources.tapes import FileTape

SAMPLE_S = 1.0


@dataclass(frozen=True)
class Plan:
    """What one session does.

    Attributes:
        symbols: how many.
        rate: ticks a second and symbol.
        seconds: how long.
        environment: ``FX_…`` settings.
        seed: of the market.
    """

    symbols: int
    rate: float
    seconds: int
    environment: dict[str, str] = field(default_factory=dict)
    seed: int = 20240702


class Durations:
    """Durations one by one, in memory that is taken at the beginning, so that measuring does not look like growth."""

    def __init__(self, room: int) -> None:
        self._kept = np.ones(room, dtype=np.float32)
        self.count = 0
        self.left_out = 0

    def add(self, milliseconds: Any) -> None:
        """Add one or many."""
        new = np.atleast_1d(milliseconds)[: len(self._kept) - self.count]
        self._kept[self.count : self.count + len(new)] = new
        self.count += len(new)
        self.left_out += np.size(milliseconds) - len(new)

    def summary(self) -> dict[str, float]:
        """Return how many there were and how they lie, in ms."""
        kept = self._kept[: self.count]
        if not len(kept):
            return {"n": 0}
        p50, p90, p99, p999 = np.quantile(kept, (0.5, 0.9, 0.99, 0.999)).tolist()
        return {
            "n": self.count, "p50": p50, "p90": p90, "p99": p99, "p999": p999, "max": float(kept.max()),
            "left_out": self.left_out,
        }  # fmt: skip


class TimedCore(TradingCore):
    """A core that notes how long after its due moment each tick was decided.

    Attributes:
        every: of all ticks.
        asked: of those on which the models were asked; a bar that closes is asked on by the first tick after it.
    """

    def observe(self, feed: MadeFeed, ticks: int) -> None:
        """Begin to note."""
        self._market = feed
        self.every, self.asked = Durations(ticks), Durations(ticks)
        self._waiting: list[tuple[int, bool]] = []

    def take(self, ticks: Ticks, first: int, last: int) -> tuple[int, Event]:
        """Work through ticks; those that wait for the models are not decided yet."""
        done, event = super().take(ticks, first, last)
        decided = done
        if event is Event.ASK:
            bar = self.core.control[0]["event_kind"] == Kind.BAR
            decided -= not bar
            self._waiting = [(int(ticks.time[decided]), not bar)] if decided < last else []
        if decided > first:
            self.every.add((self._market.market_ns() - ticks.time[first:decided]) / 1e6)
        return done, event

    def decide(self) -> Event:
        """Decide what waited for the models."""
        event = super().decide()
        now = self._market.market_ns()
        for due, counts in self._waiting:
            self.asked.add((now - due) / 1e6)
            if counts:
                self.every.add((now - due) / 1e6)
        self._waiting = []
        return event


class TimedDesk(ModelDesk):
    """A model desk that notes its calls."""

    def observe(self, calls: int) -> None:
        """Begin to note."""
        self.calls, self.bare = Durations(calls), Durations(calls)

    async def ask(self, inputs: ModelInputs, symbols: Sequence[str]) -> Asked:
        """Ask."""
        asked = await super().ask(inputs, symbols)
        if asked.latency_ms is not None:
            self.calls.add(asked.latency_ms)
        return asked

    async def bare_call_ms(self, inputs: ModelInputs, symbols: Sequence[str]) -> float | None:
        """Time a bare call."""
        took = await super().bare_call_ms(inputs, symbols)
        if took is not None:
            self.bare.add(took)
        return took


async def run(plan: Plan) -> dict[str, Any]:
    """Run one session and return what was measured."""
    settings = load_settings(plan.environment)
    url = settings.postgres.url.get_secret_value()
    target = JournalTarget(
        settings.live.account, fingerprint="made market", window=(START, START + DAY_NS), restart=True
    )
    journal = await PostgresJournal.open(url, target)
    feed = MadeFeed(plan.symbols, plan.rate, plan.seconds, plan.seed)
    provider = ReleasedModels(ReleaseStore.of(settings), settings.triton.url)
    try:
        core, desk = _core(settings, feed, plan)
        models = _models(settings, provider, core, plan)
        last: dict[str, Any] = {}
        parts = EngineParts(
            account=settings.live.account, core=core, desk=desk, feed=feed, journal=journal, models=models,
            states=FileMarketStates(settings.live_state / "market"), tape=_tape(settings, feed, journal, core),
            clock=WallClock(), settings=settings.live, on_status=last.update,
        )  # fmt: skip
        engine = Engine(parts, journal.session)
        journal.start()
        async with _samples(feed) as samples:
            await engine.run()
        return _report(core, models, feed, last, samples)
    finally:
        feed.close()
        await provider.close()
        await journal.close()


def _core(settings: Settings, feed: MadeFeed, plan: Plan) -> tuple[TimedCore, PaperDesk]:
    plain, desk = trading_core(settings, feed.info, START)
    core = TimedCore(plain.spec, desk.broker.ledger)
    core.observe(feed, int(1.1 * plan.symbols * plan.rate * plan.seconds) + 10_000)
    return core, desk


def _models(settings: Settings, provider: ReleasedModels, core: TimedCore, plan: Plan) -> TimedDesk:
    models = TimedDesk(
        provider, feature_hash=core.spec.catalogue.hash, models=DIRECTIONS,
        deadline_s=settings.triton.deadline_ms / 1000, clock=WallClock(),
    )  # fmt: skip
    models.observe(100 * plan.seconds + 1_000)
    return models


def _tape(settings: Settings, feed: MadeFeed, journal: PostgresJournal, core: TimedCore) -> FileTape:
    return FileTape(
        settings.live_state / "tapes", journal.session.session_id, core.symbols,
        tape_facts(settings, feed.info, START), state=core.whole, size_mb_max=settings.live.tape_mb_max,
    )  # fmt: skip


class _Samples:
    """What the process uses, once a second while the market runs."""

    def __init__(self, feed: MadeFeed) -> None:
        self._feed = feed
        self.rss_mb: list[float] = []
        self._before: tuple[float, float] | None = None
        self.cpu_s = self.wall_s = 0.0

    async def take_forever(self) -> None:
        """Sample until cancelled."""
        process = psutil.Process()
        while not self._feed.offset:
            await asyncio.sleep(0.05)
        self._before = _used()
        while True:
            await asyncio.sleep(SAMPLE_S)
            self.rss_mb.append(process.memory_info().rss / 1e6)

    def end(self) -> None:
        """Note what was used in all."""
        if self._before is not None:
            cpu_s, wall_s = _used()
            self.cpu_s, self.wall_s = cpu_s - self._before[0], wall_s - self._before[1]


def _used() -> tuple[float, float]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, time.monotonic()


@contextlib.asynccontextmanager
async def _samples(feed: MadeFeed) -> Any:
    samples = _Samples(feed)
    task = asyncio.create_task(samples.take_forever())
    try:
        yield samples
    finally:
        samples.end()
        task.cancel()


def _report(
    core: TimedCore, models: TimedDesk, feed: MadeFeed, status: dict[str, Any], samples: _Samples
) -> dict[str, Any]:
    seen, third = core.counts(), max(1, len(samples.rss_mb) // 3)
    return {
        "every_ms": core.every.summary(),
        "asked_ms": core.asked.summary(),
        "call_ms": models.calls.summary(),
        "bare_ms": models.bare.summary(),
        "sent": feed.sent,
        "taken": seen["ticks"],
        "rejected": seen["ticks_rejected"],
        "held": int(core.core.gate["held_open"].sum()),
        "dropped": status["ticks_dropped"],
        "waiting_max": status["ticks_waiting_max"],
        "counts": seen,
        "status": {
            name: status[name] for name in ("orders", "deals", "model_failures", "model_problem", "latency", "equity")
        },
        "cpu_us_a_tick": samples.cpu_s * 1e6 / max(1, feed.sent),
        "cpu_share": samples.cpu_s / max(samples.wall_s, 1e-9),
        "rss_mb": (float(np.mean(samples.rss_mb[:third])), float(np.mean(samples.rss_mb[-third:]))),
        "rss_mb_max": max(samples.rss_mb, default=0.0),
    }


def _main() -> None:
    plan = Plan(**json.loads(sys.stdin.readline()))
    sys.stdout.write(json.dumps(asyncio.run(run(plan))) + "\n")


if __name__ == "__main__":
    _main()
