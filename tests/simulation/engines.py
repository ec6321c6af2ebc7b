"""One seed: a world with a market, a broker, a database and models, and engines that are started in it and die."""

import asyncio
import functools
import gc
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fx_dagster.core.trading import TradingCore
from fx_dagster.core.warm_up import History
from fx_dagster.errors import DataError, FencedError, FxError, SettingsError
from fx_dagster.execution.broker import BrokerSpecification, TradeMode
from fx_dagster.live import engine as engine_module
from fx_dagster.live.engine import Ending, Engine, EngineParts
from fx_dagster.live.model_desk import ModelDesk
from fx_dagster.live.records import JournalEntry, KillSwitch, SessionState
from fx_dagster.live_engine import broker_core
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import SECOND_NS
from fx_dagster.models.answer import DIRECTIONS
from fx_dagster.settings import CostSettings, LiveSettings, RiskSettings, Settings
from resources.mt5 import faults as broken
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.trading import BrokerOptions

from . import market
from .loop import NS, KilledError, Process, World
from .outside import (
    Arrivals,
    DiskStates,
    FixedProvider,
    Gauge,
    MachineClock,
    MarketClock,
    Moods,
    SimulatedBroker,
    SimulatedFeed,
    SimulatedService,
    Terminal,
    WatchedTape,
    Wire,
)
from .plan import REQUESTS, Fault, Plan, disturbed
from .store import Database, Link, SimulatedJournal, SimulatedKeeper
from .watch import Watch

RECOVER_S = 8.0
SETTINGS = Settings(
    live=LiveSettings(
        account="simulated", broker="mt5", history_bars=300, tape_mb_max=0.0, order_valid_s=5.0, quiet_s=8.0,
        hold_after_s=30.0, recover_after_s=RECOVER_S, stale_after_s=10.0, move_atr=0.3, refresh_s=2.5,
    ),
    risk=RiskSettings(entry_score_min=0.05, valid_above=0.35, hold_bars_max=6, breaker_hours=0.02, loss_streak_max=20),
    cost=CostSettings(),
)  # fmt: skip
END_S_MAX = 10.0
"""Longest that an orderly end may take."""


@dataclass(frozen=True)
class Outcome:
    """What came of a seed."""

    seed: int
    faults: int
    violations: tuple[str, ...]
    digest: str
    lines: tuple[str, ...]
    deals: int
    lives: int
    opened: int


class Machine:
    """A machine that engines run on: its disk outlives them."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder, self.states = folder, DiskStates(world)


@dataclass(eq=False)
class Life:
    """One engine's life."""

    process: Process
    machine: Machine
    engine: Any = None
    keeper: Any = None
    feed: Any = None
    journal: Any = None
    ending: str = ""
    ready: bool = False
    stopped_ns: int = 0


class Simulation:
    """A world of one seed.

    Args:
        plan: what goes wrong.
        folder: where its machines have their disks.

    Attributes:
        plant: called with every engine before it runs; a test puts a bug into it there.
        told: called with whatever an engine hands to its journal.
    """

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.plant: Callable[[Engine], None] = lambda engine: None
        self.world = World()
        self.clock = MarketClock(self.world, plan.speed)
        self.chance = Random(f"world {plan.seed}")
        risk = SETTINGS.risk
        self.watch = Watch(
            lambda: self.world.now_ns, recover_ns=int(RECOVER_S * SECOND_NS), risk_max=risk.risk_per_trade_max,
            margin_max=risk.margin_used_max,
        )  # fmt: skip
        self.heal_s = plan.length_s
        self.end_s = self.heal_s + 72.0 / plan.speed + 11.0
        # In the last seconds nothing moves: what the engine saw last is what there is.
        market_s = (self.end_s - 2.0) * plan.speed
        ticks = market.walk(np.random.default_rng(plan.seed), market_s, plan.pace_s)
        shown, arrival = disturbed(ticks, plan)
        self.arrivals = Arrivals(shown, arrival)
        self.terminal = self._terminal(market.TrueMarket(ticks, market_s))
        self.wire = Wire(self.world, self.terminal, self.chance)
        self.moods, self.gauge = Moods(self.chance, market_s), Gauge()
        self.ends = market.BEGIN + int(self.end_s * plan.speed * NS)
        session = SessionState(1, market.BEGIN, self.ends, 0, market.BEGIN, market.BEGIN, None)
        self.database = Database(self.watch, session)
        self.watch.database, self.watch.terminal = self.database, self.terminal
        self.machines = [Machine(folder / "machine-0", self.world)]
        self.lives: list[Life] = []
        self.told: Callable[[Life, JournalEntry], None] = lambda life, entry: None
        self.feed_broken_until = 0
        self.posts_left = -1
        self.healing = False
        self._next_start_ns = 0
        self._happened = 0

    def _terminal(self, source: market.TrueMarket) -> Terminal:
        planned = [_at_request(fault) for fault in self.plan.faults if fault.kind in REQUESTS]
        terminal = Terminal(source, clock=self.clock, faults=planned, options=BrokerOptions(**self.plan.options))
        terminal.watch = self.watch
        if not terminal.initialize():
            raise AssertionError("the terminal does not begin")
        return terminal

    # -- running ---------------------------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Let everything happen, and look at what came of it."""
        for fault in self.plan.faults:
            if fault.kind not in REQUESTS:
                self.world.at(fault.time_ns, lambda fault=fault: self._happen(fault))
        self.world.at(int(self.heal_s * NS), self._heal)
        self.world.at(0, self._start)
        self.world.at(NS, self._second)
        self.world.run(int((self.end_s + 15.0) * NS))
        self._look_back()
        for life in self.lives:
            life.process.kill()
        server = self.terminal.server
        self.watch.note(f"balance {server.valuation().balance:.2f} deals {len(server.deals)}")
        faults = self._happened + sum(1 for one in self.terminal.plan.happened if isinstance(one.when, broken.AtCall))
        return Outcome(
            self.plan.seed, faults, tuple(self.watch.violations), self.watch.digest, tuple(self.watch.lines),
            len(server.deals) - 1, len(self.lives), self.watch.opened,
        )  # fmt: skip

    def _look_back(self) -> None:
        finished = [life for life in self.lives if life.ending == str(Ending.FINISHED) and life.engine is not None]
        last = (finished or self.lives)[-1]
        self.watch.demand(last.ending == str(Ending.FINISHED), f"the session did not finish: {last.ending or 'runs'}")
        for life in self.lives:
            for complaint in life.process.complaints:
                self.watch.demand(False, f"engine {life.process.number}: {complaint}")
        if last.engine is not None:
            self.watch.finish(last.engine)
        if self.plan.flattens:
            left = [one.ticket for one in self.watch.ours()]
            self.watch.demand(not left, f"a person flattened the account, and {left} are still open")

    # -- engines ---------------------------------------------------------------------------------------------------

    @property
    def living(self) -> list[Life]:
        """Engines that have not ended."""
        return [life for life in self.lives if not life.process.dead]

    def _start(self, machine: Machine | None = None) -> None:
        if self.database.session.finished:
            return
        process = Process(self.world, len(self.lives) + 1)
        life = Life(process, machine or self.machines[-1])
        self.lives.append(life)
        process.on_death = lambda: self._died(life)
        self.watch.note(f"process {process.number} starts")
        process.call_soon(lambda: process.create_task(self._live(life), name="engine"))

    def _died(self, life: Life) -> None:
        if life.keeper is not None:
            life.keeper.close()
        if not life.ending:
            life.ending = "killed"
        self.watch.note(f"process {life.process.number} ends: {life.ending}")
        if life.ending != "fenced" and not [one for one in self.living if one is not life]:
            self.world.after(self.chance.randint(100, 1_500) * 1_000_000, self._start_if_none)

    def _start_if_none(self) -> None:
        if not [life for life in self.living if not life.process.paused]:
            self._start()

    async def _live(self, life: Life) -> None:
        """Run an engine from start to end, as :mod:`fx_dagster.live_engine` does, and say how it ended."""
        try:
            life.ending = str(await self._run_engine(life))
        except KilledError:
            return
        except asyncio.CancelledError:
            return
        except FencedError as error:
            life.ending = "fenced" if not life.process.dead else ""
            self.watch.note(f"fenced: {error}")
        except (SettingsError, DataError) as error:
            self.watch.demand(False, f"an engine refuses to start or to go on: {error}")
            life.ending = "refused"
        except FxError as error:
            life.ending = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not be
            self.watch.demand(False, f"an engine fails: {type(error).__name__}: {error}")
            life.ending = "failed"
        if life.stopped_ns:
            took_s = (self.world.now_ns - life.stopped_ns) / NS
            self.watch.demand(took_s <= END_S_MAX, f"an orderly end took {took_s:.2f} s")
        if not life.process.dead:
            self.world.after(0, life.process.kill)

    async def _run_engine(self, life: Life) -> Ending:
        process, database = life.process, self.database
        link = Link(process, database, self.chance)
        epoch, session = await link.ask(lambda: self._take_account())
        if session.finished:
            return Ending.FINISHED
        life.keeper = SimulatedKeeper(process, database, link, epoch, life.machine.folder)
        life.journal = SimulatedJournal(process, database, link, epoch)
        life.journal.on_post = lambda entry: self._posted(life, entry)
        parts = await self._parts(life)
        life.engine = Engine(parts, session)
        self.plant(life.engine)
        parts.broker.engine = parts.tape.engine = life.engine  # type: ignore[union-attr, attr-defined]
        life.journal.start()
        life.ready = True
        return await life.engine.run()

    def _able(self) -> bool:
        """Whether an engine lives that has seen the broker, and the broker takes orders."""
        terminal, now = self.terminal, self.world.now_ns
        lost = terminal.disturbances.lost_code() or terminal.disturbances.refusal() or terminal.disturbances.api_off
        full = all(item.trade_mode == Mt5.SYMBOL_TRADE_MODE_FULL for item in terminal.server.contracts.values())
        deaf = now < max(self.wire.slow_until, self.wire.silent_until)
        ready = [life for life in self.living if life.ready and not (life.process.paused or life.stopped_ns)]
        return bool(full and not (lost or deaf) and ready and ready[-1].feed.started)

    def _take_account(self) -> tuple[int, SessionState]:
        self.database.epoch += 1
        return self.database.epoch, self.database.session

    async def _parts(self, life: Life) -> EngineParts:
        process, settings = life.process, SETTINGS
        life.feed = feed = SimulatedFeed(process, self.clock, self.arrivals, self.ends)
        feed.broken_until = lambda: self.feed_broken_until
        broker = SimulatedBroker(process, self.wire, self.watch)
        contracts = tuple([await broker.specification(symbol) for symbol in feed.info.symbols])
        core, desk = broker_core(settings, feed.info, self.database.session.replay_start, contracts)
        _ready_made(core)
        clock = MachineClock(process)
        service = SimulatedService(process, self.clock, self.moods, core.spec.catalogue.hash, self.chance)
        return EngineParts(
            account=settings.live.account, core=core, desk=desk, feed=feed, journal=life.journal,
            models=ModelDesk(
                FixedProvider(service), feature_hash=core.spec.catalogue.hash, models=DIRECTIONS, deadline_s=0.05,
                clock=clock,
            ),
            states=life.machine.states, tape=WatchedTape(process, self.watch), clock=clock, settings=settings.live,
            drift=self.gauge, broker=broker, keeper=life.keeper,
        )  # fmt: skip

    def _posted(self, life: Life, entry: JournalEntry) -> None:
        self.told(life, entry)
        if self.posts_left > 0:
            self.posts_left -= 1
            if self.posts_left == 0:
                self.watch.note(f"process {life.process.number} dies at a post")
                life.process.die()

    # -- what goes wrong -------------------------------------------------------------------------------------------

    def _happen(self, fault: Fault) -> None:
        if self.healing:
            return
        self._happened += 1
        self.watch.note(f"fault {fault}")
        until = self.world.now_ns + fault.length_ns
        getattr(self, f"_{fault.kind}", self._elsewhere)(fault, until)

    def _elsewhere(self, fault: Fault, until: int) -> None:
        """Do what is said of one of the models' failures, or of the feed's ticks, which are as they are."""
        if fault.kind in self.FAILURES:
            self.moods.failing[fault.kind] = self._market(until)

    FAILURES = frozenset({"nan", "range", "late", "whole_late", "absent", "refused", "absent_tensor", "constant"})

    def _market(self, world_ns: int) -> int:
        return market.BEGIN + world_ns * self.plan.speed

    def _at_terminal(self, made: Callable[[broken.AtTime, int], Any], fault: Fault) -> None:
        now = self.clock.now_ns()
        disturbances = self.terminal.disturbances
        disturbances.advance(now)
        length_ms = fault.length_ns * self.plan.speed // 1_000_000
        disturbances.happen(made(broken.AtTime(now), length_ms), now)

    def _disconnected(self, fault: Fault, until: int) -> None:
        self._at_terminal(lambda when, ms: broken.Disconnected(when, ms), fault)

    def _terminal_lost(self, fault: Fault, until: int) -> None:
        self._at_terminal(lambda when, ms: broken.TerminalLost(when, ms), fault)

    def _foreign_position(self, fault: Fault, until: int) -> None:
        lots = round((fault.size - 0.5) / 5, 2) or 0.01
        self._at_terminal(lambda when, ms: broken.ForeignTrade(when, fault.symbol, lots), fault)

    def _manual_close(self, fault: Fault, until: int) -> None:
        reason = Mt5.DEAL_REASON_CLIENT
        self._at_terminal(lambda when, ms: broken.ServerClose(when, fault.symbol, reason), fault)

    def _stop_close(self, fault: Fault, until: int) -> None:
        reason = (Mt5.DEAL_REASON_SL, Mt5.DEAL_REASON_TP, Mt5.DEAL_REASON_SO)[int(fault.size * 3)]
        self._at_terminal(lambda when, ms: broken.ServerClose(when, fault.symbol, reason), fault)

    def _autotrading_off(self, fault: Fault, until: int) -> None:
        self._at_terminal(lambda when, ms: broken.AutotradingOff(when, ms, api=fault.size < 0.3), fault)

    def _close_only(self, fault: Fault, until: int) -> None:
        self._at_terminal(lambda when, ms: broken.SymbolMode(when, fault.symbol, duration_ms=ms), fault)

    def _disabled(self, fault: Fault, until: int) -> None:
        mode = Mt5.SYMBOL_TRADE_MODE_DISABLED
        self._at_terminal(lambda when, ms: broken.SymbolMode(when, fault.symbol, mode, ms), fault)

    def _stops_level(self, fault: Fault, until: int) -> None:
        changes = {"stops_level": int(fault.size * 30)}
        self._at_terminal(lambda when, ms: broken.SpecificationChanged(when, fault.symbol, changes), fault)

    def _stop_removed(self, fault: Fault, until: int) -> None:
        self.terminal.disturbances.advance(self.clock.now_ns())
        for position in self.watch.ours()[-1:]:
            position.sl = 0.0

    def _withdrawn(self, fault: Fault, until: int) -> None:
        self.terminal.disturbances.advance(self.clock.now_ns())
        self.terminal.server.change_balance(-round(80.0 * fault.size, 2), "Withdrawal")

    def _order_vanishes(self, fault: Fault, until: int) -> None:
        self.wire.lost += 1

    def _answer_vanishes(self, fault: Fault, until: int) -> None:
        self.wire.unanswered += 1

    def _answer_late(self, fault: Fault, until: int) -> None:
        self.wire.late_s = fault.length_ns / NS

    def _questions_slow(self, fault: Fault, until: int) -> None:
        self.wire.slow_until = until

    def _questions_silent(self, fault: Fault, until: int) -> None:
        self.wire.silent_until = self.world.now_ns + fault.length_ns // 4

    def _database_away(self, fault: Fault, until: int) -> None:
        self.database.away_until = until

    def _database_slow(self, fault: Fault, until: int) -> None:
        self.database.slow_until, self.database.slow_s = until, 0.1 + 3.0 * fault.size

    def _commit_unconfirmed(self, fault: Fault, until: int) -> None:
        self.database.lost += 1 + int(fault.size * 3)

    def _killed_after_commit(self, fault: Fault, until: int) -> None:
        self.database.kills = 1

    def _feed_error(self, fault: Fault, until: int) -> None:
        self.feed_broken_until = self._market(until)

    def _killed(self, fault: Fault, until: int) -> None:
        for life in self.living[-1:]:
            life.process.kill_after = 1 + int(fault.size**2 * 400)

    def _killed_at_post(self, fault: Fault, until: int) -> None:
        self.posts_left = 1 + int(fault.size * 12)

    def _stopped(self, fault: Fault, until: int) -> None:
        for life in self.living[-1:]:
            # Before it has begun, it is not asked: what waits for a silent broker then is ended by force.
            if life.feed is not None and life.feed.started and not life.process.paused and not life.stopped_ns:
                life.stopped_ns = self.world.now_ns
                life.process.call_soon(life.engine.stop)

    def _paused_leader(self, fault: Fault, until: int) -> None:
        """Freeze the engine; another machine takes the account; later the frozen one thinks that nothing happened."""
        for life in [life for life in self.living if not life.process.paused][-1:]:
            life.process.paused, life.stopped_ns = True, 0  # an end takes as long as it stands still
            self.machines.append(Machine(self.folder / f"machine-{len(self.machines)}", self.world))
            self.world.after(int(0.3 * fault.length_ns), self._start_if_none)
            self.world.at(until, functools.partial(setattr, life.process, "paused", False))

    def _kill_switch(self, fault: Fault, until: int) -> None:
        self._engage(until, flatten=False, why=f"a person, {fault.size:.2f}")

    def _flatten(self, fault: Fault, until: int) -> None:
        self._engage(until, flatten=True, why=f"a person, {fault.size:.2f}")

    def _engage(self, until: int, *, flatten: bool, why: str) -> None:
        database = self.database
        database.switch, database.switched_ns = (
            replace(database.switch, engaged=True, flatten=flatten, reason=why), self.world.now_ns,
        )  # fmt: skip
        self.world.at(until, self._resume)

    def _resume(self) -> None:
        if not self.healing:
            switch = self.database.switch
            self.database.switch = KillSwitch(resumed_ns=self.clock.now_ns(), best_level=switch.best_level)

    def _ceiling(self, fault: Fault, until: int) -> None:
        database = self.database
        database.switch = replace(database.switch, best_level=2 + int(fault.size * 3))
        self.world.at(until, lambda: setattr(database, "switch", replace(database.switch, best_level=1)))

    def _drift(self, fault: Fault, until: int) -> None:
        self.gauge.drift = fault.size
        self.world.at(until, lambda: setattr(self.gauge, "drift", float("nan")))

    # -- the end ---------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        """Nothing goes wrong any more: what is left must come right by itself."""
        self.watch.note("nothing goes wrong any more")
        self._resume()
        self.healing = True
        database, wire = self.database, self.wire
        database.away_until = database.slow_until = database.lost = database.kills = 0
        wire.lost = wire.unanswered = wire.slow_until = wire.silent_until = 0
        wire.late_s, self.posts_left, self.feed_broken_until = 0.0, -1, 0
        self.moods.failing, self.moods.tired, self.gauge.drift = {}, True, float("nan")
        self.terminal.plan._called = []
        for life in self.living:
            life.process.paused, life.process.kill_after = False, None
        if self.plan.flattens:
            database.switch, database.switched_ns = (
                KillSwitch(engaged=True, flatten=True, reason="the end"), self.world.now_ns,
            )  # fmt: skip
        self.world.after(NS, self._start_if_none)

    def _second(self) -> None:
        """Look at the account every second, and be the person who decides what is held."""
        terminal, now = self.terminal, self.clock.now_ns()
        terminal.disturbances.advance(now)
        self.watch.second(2.0 * self.plan.speed, able=self._able())
        if self.healing:
            done = {record.deal.magic for record in terminal.server.deals}
            held = {key for key, order in self.database.orders.items() if self._is_held(order)}
            self.database.words |= held - done
        self.world.after(2 * NS, self._second)

    def _is_held(self, order: Any) -> bool:
        return bool(order.held) and not order.state.terminal


def _at_request(fault: Fault) -> Any:
    when, delay_ms = broken.AtCall(nth=fault.nth), int(100 + 4_500 * fault.size)
    lost = Mt5.TRADE_RETCODE_TIMEOUT if fault.size < 0.5 else 0
    refusals = (Mt5.TRADE_RETCODE_REJECT, Mt5.TRADE_RETCODE_TOO_MANY_REQUESTS, Mt5.TRADE_RETCODE_NO_MONEY)
    made: dict[str, Callable[[], Any]] = {
        "answer_lost": lambda: broken.AnswerLost(when, lost),
        "request_lost": lambda: broken.RequestLost(when, lost),
        "request_late": lambda: broken.RequestLate(when, delay_ms, lost),
        "hidden": lambda: broken.Hidden(when, delay_ms),
        "refused": lambda: broken.Refused(when, refusals[int(fault.size * 3)]),
        "requote": lambda: broken.Refused(when, Mt5.TRADE_RETCODE_REQUOTE),
        "invalid_stops": lambda: broken.Refused(when, Mt5.TRADE_RETCODE_INVALID_STOPS),
        "partial_fill": lambda: broken.PartialFill(when, 0.2 + 0.6 * fault.size),
        "partial_rest": lambda: broken.PartialFill(when, 0.2 + 0.6 * fault.size, rest_ms=delay_ms),
        "confirmed_twice": lambda: broken.ConfirmedTwice(when),
        "fill_before_answer": lambda: broken.FillBeforeAnswer(when, delay_ms),
    }
    return made[fault.kind]()


def simulate(plan: Plan, prepare: Callable[[Simulation], None] = lambda world: None) -> Outcome:
    """Run one seed in a folder of its own; ``prepare`` is called before it begins."""
    folder = Path(tempfile.mkdtemp(prefix="fx-simulation-", dir=_FAST if _FAST.is_dir() else None))
    try:
        world = Simulation(plan, folder)
        prepare(world)
        engine_module.gc = _OneCollector  # type: ignore[assignment]
        return world.run()
    finally:
        engine_module.gc = gc
        shutil.rmtree(folder, ignore_errors=True)


_FAST = Path("/dev/shm")


class _OneCollector:
    """The collector as engines see it: theirs is this process's, which many share, and no engine freezes it."""

    @staticmethod
    def freeze() -> None:
        """Do nothing."""

    @staticmethod
    def unfreeze() -> None:
        """Do nothing."""


def smallest(plan: Plan) -> Plan:
    """Leave out one fault after the other as long as something is still violated."""
    faults = list(plan.faults)
    for fault in plan.faults:
        fewer = replace(plan, faults=tuple(one for one in faults if one is not fault))
        if simulate(fewer).violations:
            faults = list(fewer.faults)
    return replace(plan, faults=tuple(faults))


@functools.cache
def _warm_state() -> bytes:
    """Return a new session's core after its history, as bytes: the same in every seed."""
    said = [
        BrokerSpecification(
            item.symbol, item.digits, item.point, item.contract_size, item.lot_step, item.lot_min, item.lot_max,
            item.base_currency, item.profit_currency, 0.0, 0.0, 2, 0.0, TradeMode.FULL,
        )
        for item in map(instrument, market.SYMBOLS)
    ]  # fmt: skip
    core, _ = broker_core(SETTINGS, market.INFO, market.BEGIN, said)
    core.warm_up(
        lambda symbol, timeframe, bars: market.history_until(symbol, timeframe, market.BEGIN, bars), market.BEGIN
    )
    core.rehearse()
    return core.whole()


def _ready_made(core: TradingCore) -> None:
    """Spare a core what is the same in every seed: compiling, and the history before the first tick."""
    warm_up = core.warm_up

    def begin(history: History, until: int) -> None:
        if until == market.BEGIN:
            core.restore_whole(_warm_state())
        else:
            warm_up(history, until)

    core.rehearse = lambda: None  # type: ignore[method-assign]
    core.warm_up = begin  # type: ignore[method-assign]


def warm_up() -> None:
    """Compile, or load, everything once; processes that are forked afterwards have it."""
    _warm_state()
