"""A small live session: real bars, real decision step and paper account, and stand-ins behind the protocols.

The journal stands for PostgreSQL: it commits a little later than it is asked to, and can be killed at any entry, when
everything not committed is lost, as with kill -9. What it keeps is what the next engine starts from.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from fx_dagster.core.rows import Ticks
from fx_dagster.core.tape import TapeWriter, What
from fx_dagster.core.trading import TradingCore
from fx_dagster.errors import FxError
from fx_dagster.execution.orders import Deal, OrderIntent, OrderState
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live.engine import Ending, Engine, EngineParts
from fx_dagster.live.model_desk import ModelDesk
from fx_dagster.live.records import DecisionRecord, JournalEntry, KillSwitch, SessionState
from fx_dagster.live_engine import trading_core
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.models.answer import DIRECTIONS, EXTRAS, SIMPLE_MODELS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import Float32, Float64
from fx_dagster.models.service import ModelAnswer, ModelCallError, ModelService, UnavailableReason
from fx_dagster.settings import LiveSettings, Settings
from resources.live_feed import ReplayFeed, Tape
from resources.market.sample import SampleSource

FAST = 1e10


class KilledError(BaseException):
    """Stands for SIGKILL."""


@dataclass
class Store:
    """What PostgreSQL would hold."""

    session: SessionState
    decisions: list[DecisionRecord] = field(default_factory=list)
    intents: dict[int, tuple[OrderIntent, int]] = field(default_factory=dict)
    states: dict[int, list[OrderState]] = field(default_factory=dict)
    deals: dict[int, Deal] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)
    transitions: set[tuple[int, str, int]] = field(default_factory=set)
    equity: dict[int, float] = field(default_factory=dict)

    def commit(self, entry: JournalEntry) -> None:
        """Apply an entry as a whole."""
        if entry.checkpoint is not None:
            assert entry.checkpoint.sequence == self.session.sequence + 1, "a checkpoint was left out or written twice"
            assert entry.checkpoint.position >= self.session.position
            self.session = replace(
                self.session, sequence=entry.checkpoint.sequence, position=entry.checkpoint.position,
                clock=max(self.session.clock, entry.checkpoint.clock), snapshot=entry.checkpoint.snapshot,
            )  # fmt: skip
        else:
            assert (entry.decisions, entry.intents, entry.deals) == ((), (), ()), "committed without a checkpoint"
        known = {row.number for row in self.decisions}
        for row in entry.decisions:
            assert row.number not in known, "a decision was made twice"
            self.decisions.append(row)
        for intent in entry.intents:
            assert intent.client_order_id not in self.intents, "an order was journalled twice"
            self.intents[intent.client_order_id] = (intent, self.session.sequence)
        for one in entry.transitions:
            key = (one.client_order_id, str(one.state), one.time_ns)
            if key not in self.transitions:
                self.transitions.add(key)
                self.states.setdefault(one.client_order_id, []).append(one.state)
        for deal in entry.deals:
            assert deal.ticket not in self.deals, "a deal was made twice"
            self.deals[deal.ticket] = deal
        self.events += [(event.kind, event.message) for event in entry.events]
        if entry.account is not None:
            self.equity[entry.account.time] = entry.account.account.equity

    def reopened(self) -> SessionState:
        """Return the session as the next engine finds it."""
        unsettled = tuple(
            intent
            for key, (intent, sequence) in self.intents.items()
            if sequence == self.session.sequence and OrderState.CANCELLED not in self.states.get(key, [])
        )
        return replace(self.session, unsettled=unsettled)


class MemoryJournal:
    """Implements the engine's journal over a :class:`Store`.

    Args:
        store: what was committed.
        kill_at: number of the post at which the process dies; 0: never.
        commit_last: whether that post is committed before.
    """

    def __init__(self, store: Store, *, kill_at: int = 0, commit_last: bool = True) -> None:
        self.store = store
        self.posts = 0
        self.switch = KillSwitch()
        self.trouble = ""
        self.silent = False
        self.statuses: list[dict[str, Any]] = []
        self.on_post: Callable[[int, JournalEntry], None] = lambda number, entry: None
        self._kill_at, self._commit_last = kill_at, commit_last
        self._waiting: list[tuple[JournalEntry, asyncio.Future[None]]] = []
        self._dead = False

    def post(self, entry: JournalEntry) -> "asyncio.Future[None]":
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.posts += 1
        self._waiting.append((entry, written))
        if self.posts == self._kill_at:
            if self._commit_last:
                self._commit_all()
            self._dead = True
            raise KilledError
        self.on_post(self.posts, entry)
        asyncio.get_running_loop().call_soon(self._commit_all)
        return written

    def _commit_all(self) -> None:
        if self._dead or self.silent:
            return
        waiting, self._waiting = self._waiting, []
        for entry, written in waiting:
            self.store.commit(entry)
            if not written.done():
                written.set_result(None)

    @property
    def problem(self) -> str:
        return self.trouble

    @property
    def fatal(self) -> FxError | None:
        return None

    @property
    def kill_switch(self) -> KillSwitch:
        return self.switch

    def beat(self, status: Mapping[str, Any]) -> None:
        self.statuses.append(dict(status))

    async def finish(self, reason: str) -> None:
        self._commit_all()
        self.store.session = replace(self.store.session, finished=True)

    async def flush(self, timeout_s: float) -> bool:
        self._commit_all()
        return not self._waiting


def logistic_answer(features: Float32, models: tuple[str, ...], *, whole: bool) -> tuple[Float64, Float64]:
    """Return p(up) ``[n, m]`` and extras ``[n, 7]`` that depend on the features alone."""
    score = np.tanh(np.nan_to_num(features.astype(np.float64)).mean(axis=1) * 3)
    p_up = np.column_stack([0.5 + (0.45 - 0.05 * place) * score for place in range(len(models))])
    extras = np.full((len(features), len(EXTRAS)), np.nan)
    if whole:
        bull_or_bear = np.where(score >= 0, 1.0, 2.0)
        said = (0.5 + 0.3 * np.abs(score), bull_or_bear, score, 1.0 + 0.4 * score, 0.9, 0.1, 0.1)
        for column, values in enumerate(said):
            extras[:, column] = values
    return p_up, extras


class LogisticService:
    """A served release whose answers depend on the features alone; can be told to fail."""

    def __init__(self, feature_hash: str, models: tuple[str, ...] = DIRECTIONS) -> None:
        self.models = models
        self.symbols = ("XAUUSD", "EURUSD")
        self.release = 4
        self.feature_hash = feature_hash
        self.asked: list[tuple[bool, ModelInputs]] = []
        self.failing: Callable[[int], UnavailableReason | None] = lambda call: None
        self.failing_whole: Callable[[int], UnavailableReason | None] = lambda call: None
        self.bad: tuple[str, ...] = ()

    @property
    def calls(self) -> int:
        return len(self.asked)

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        self.asked.append((whole, inputs))
        reason = self.failing(self.calls) or (self.failing_whole(self.calls) if whole else None)
        if reason is not None:
            raise ModelCallError(reason, "told to")
        models = self.models if whole else tuple(name for name in self.models if name in SIMPLE_MODELS)
        p_up, extras = logistic_answer(inputs.features, models, whole=whole)
        bad = []
        for name in self.bad:
            if name in models:
                p_up[:, models.index(name)] = np.nan
                bad.append(f"p_up_{name}")
            elif whole:
                extras[:, EXTRAS.index(name)] = np.nan
                bad.append(name)
        explained = (
            {
                "patterns": p_up[:, :3],
                "expected_return": p_up[:, :1] / 1e3,
                "regime": np.tile([0.6, 0.2, 0.1, 0.1], (len(inputs), 1)),
            }
            if whole
            else {}
        )
        return ModelAnswer(models, p_up, extras, explained, self.release, 0.1, tuple(bad), whole)

    async def healthy(self) -> bool:
        return self.failing(self.calls + 1) is None and self.failing_whole(self.calls + 1) is None

    async def close(self) -> None:
        return


class FixedProvider:
    """A provider of one service, or of none."""

    def __init__(self, service: ModelService | None, problem: str = "") -> None:
        self.service = service
        self.problem = problem

    async def refresh(self) -> None:
        return


class MachineClock:
    """This machine's time."""

    def monotonic_ns(self) -> int:
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class ImpatientClock(MachineClock):
    """The same, but sleeps a thousand times shorter: who watches looks at every turn."""

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / 1e3)


class MemoryStates:
    """Keeps the newest three market states."""

    def __init__(self) -> None:
        self.idle = True
        self.kept: list[bytes] = []

    def save(self, pack: Callable[[], bytes]) -> None:
        self.kept = [pack(), *self.kept][:3]

    def load(self) -> list[bytes]:
        return self.kept


class NoTape:
    """Records nothing."""

    full = False

    def begin(self) -> None:
        return

    def ticks(self, ticks: Ticks, first: int, last: int) -> None:
        return

    def event(self, what: What, body: dict[str, Any]) -> None:
        return

    def flush(self) -> None:
        return

    def close(self) -> None:
        return


@dataclass
class Session:
    """A live session over the last ``bars`` hours of the sample, run as often as it takes."""

    source: SampleSource
    tape: Tape
    store: Store
    service: LogisticService | None = None
    provider_problem: str = ""
    speed: float = FAST
    deadline_s: float = 0.02
    probes_soon: bool = False
    settings: LiveSettings = field(default_factory=lambda: LiveSettings(poll_ms=1.0, history_bars=900, tape_mb_max=0.0))
    journals: list[MemoryJournal] = field(default_factory=list)
    states: "MemoryStates" = field(default_factory=lambda: MemoryStates())
    recording: Callable[[TradingCore], TapeWriter] | None = None
    engine: Engine | None = None

    def run(
        self, *, kill_at: int = 0, commit_last: bool = True, prepare: Callable[[MemoryJournal], None] = lambda j: None
    ) -> Ending | None:
        """Run one engine; None: it was killed."""
        return asyncio.run(self.engine_life(kill_at, commit_last, prepare))

    async def engine_life(
        self, kill_at: int, commit_last: bool, prepare: Callable[[MemoryJournal], None]
    ) -> Ending | None:
        journal = MemoryJournal(self.store, kill_at=kill_at, commit_last=commit_last)
        self.journals.append(journal)
        prepare(journal)
        try:
            self.engine = Engine(self._parts(journal), self.store.reopened())
            return await self.engine.run()
        except KilledError:
            return None

    def _parts(self, journal: MemoryJournal) -> EngineParts:
        feed = ReplayFeed(self.source, self.tape, speed=self.speed)
        settings = Settings(live=self.settings)
        core, desk = trading_core(settings, feed.info, self.tape.start)
        clock = MachineClock()
        return EngineParts(
            account="paper",
            core=core,
            desk=desk,
            feed=feed,
            journal=journal,
            models=ModelDesk(
                FixedProvider(self.service, self.provider_problem), feature_hash=core.spec.catalogue.hash,
                models=DIRECTIONS, deadline_s=self.deadline_s, clock=ImpatientClock() if self.probes_soon else clock,
            ),
            states=self.states,
            tape=NoTape() if self.recording is None else self.recording(core),
            clock=clock,
            settings=self.settings,
        )  # fmt: skip

    def history(self) -> dict[str, Any]:
        """Return everything that must not depend on kills and batches."""
        return {
            "decisions": [
                (
                    row.symbol,
                    row.number,
                    row.kind,
                    row.time,
                    row.bar_time,
                    row.action,
                    row.score,
                    row.outcome,
                    row.features.tobytes(),
                    row.client_order_id,
                )
                for row in self.store.decisions
            ],
            "orders": {key: (intent, self.store.states[key]) for key, (intent, _) in self.store.intents.items()},
            "deals": self.store.deals,
            "equity": {time: value for time, value in self.store.equity.items() if time % HOUR_NS == 0},
        }


@pytest.fixture(scope="session")
def sample() -> SampleSource:
    return SampleSource()


@pytest.fixture
def session_of(sample: SampleSource) -> Callable[..., Session]:
    """Make sessions over some hours of the sample that end ``before`` hours before its end."""

    def make(bars: int = 40, before: int = 500, *, models: bool = True, **options: Any) -> Session:
        end = sample.span("EURUSD")[1] - before * HOUR_NS
        start = end - bars * HOUR_NS
        state = SessionState(1, start, end, 0, start, start, None)
        catalogue = feature_catalogue(sample.base_timeframe(), cross_symbol=False)
        service = LogisticService(catalogue.hash) if models else None
        problem = "" if models else "no release is active"
        return Session(sample, Tape(start, end), Store(state), service, problem, **options)

    return make
