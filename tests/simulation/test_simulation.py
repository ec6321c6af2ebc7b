"""Seeds of the simulation, that a seed is one history, and that what must not be is seen when it is."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fx_dagster.execution.lifecycle import Dealt
from fx_dagster.execution.orders import OrderIntent, Purpose
from fx_dagster.live import engine as engines_module
from fx_dagster.live.broker_link import BrokerLink
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.engine import Engine
from fx_dagster.live.records import JournalEntry, KillSwitch
from fx_dagster.live.ticks import TickBatch, columns

from .engines import Simulation, simulate, warm_up
from .loop import NS, KilledError, Process, StuckError, World
from .plan import FAULTS_MIN, KINDS, Fault, Plan, plan_of

SEEDS = range(24)
TWICE = (3, 17, 42, 91, 120)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


def quiet_plan(*faults: Fault, seed: int = 5, speed: int = 3, length_s: float = 20.0) -> Plan:
    """Return a world in which nothing goes wrong but what is given."""
    return Plan(seed, speed, length_s, faults, 1.2, flattens=False, options={})


def fault(kind: str, at_s: float, for_s: float = 1.0, **changes: Any) -> Fault:
    return replace(Fault(kind, int(at_s * NS), int(for_s * NS), 1, "EURUSD", 0.5), **changes)


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_goes_wrong_nothing_is_doubled_lost_or_unprotected(seed: int) -> None:
    made = simulate(plan_of(seed))
    assert made.violations == (), f"python -m tests.simulation --seed {seed} --show"
    assert made.faults >= 10


def test_seeds_trade_break_and_differ() -> None:
    plans = [plan_of(seed) for seed in range(400)]
    kinds = {one.kind for plan in plans for one in plan.faults}
    assert kinds == {kind for group in KINDS for kind in group}
    assert min(len(plan.faults) for plan in plans) >= FAULTS_MIN
    assert len({plan.faults for plan in plans}) == len(plans)
    made = [simulate(plan) for plan in plans[:6]]
    assert sum(one.deals for one in made) >= 30, "worlds without trades prove little"
    assert sum(one.lives for one in made) >= 12
    assert len({one.digest for one in made}) == len(made)


_ANOTHER = """
import logging
from tests.simulation.engines import simulate, warm_up
from tests.simulation.plan import plan_of
logging.disable(logging.CRITICAL)
warm_up()
for seed in {seeds}:
    print(seed, simulate(plan_of(seed)).digest)
"""


def test_a_seed_is_one_history_byte_for_byte_in_any_process() -> None:
    first, second = ([simulate(plan_of(seed)) for seed in TWICE] for _ in range(2))
    for one, two in zip(first, second, strict=True):
        assert "\n".join(one.lines).encode() == "\n".join(two.lines).encode()
        assert one.digest == hashlib.sha256("\n".join(two.lines).encode()).hexdigest()
        assert len(one.lines) > 60
    told = subprocess.run(
        [sys.executable, "-c", _ANOTHER.format(seeds=TWICE)], cwd=ROOT, check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONHASHSEED": "12345"}, timeout=240,
    )  # fmt: skip
    assert told.stdout.splitlines() == [f"{seed} {one.digest}" for seed, one in zip(TWICE, first, strict=True)]


def test_the_command_says_how_it_went(capsys: pytest.CaptureFixture[str]) -> None:
    from . import __main__ as command

    assert command.run([3, 4], 1) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("faults, 0 violations")


# -- planted bugs ------------------------------------------------------------------------------------------------------


def violated(plan: Plan, plant: Callable[[Any], None], words: str, **prepare: Any) -> None:
    """Demand that the plan is fine without the bug, and that the bug is seen."""
    assert simulate(plan).violations == ()

    def put_in(world: Simulation) -> None:
        world.plant = plant
        for name, value in prepare.items():
            setattr(world, name, value(world))

    found = simulate(plan, put_in).violations
    assert any(words in one for one in found), found


class EagerOutbox(BrokerOutbox):
    """Sends before the intent is committed."""

    async def send(self, entry: JournalEntry, time_ns: int) -> tuple[float | None, frozenset[int]]:
        for intent in self._desk.prepare(entry.intents):
            self._link.send(intent)
        return await super().send(entry, time_ns)


class ForgetfulOutbox(BrokerOutbox):
    """Does not ask whether an entry may leave now."""

    def _why_not(self, intent: OrderIntent, *, committed: bool) -> str:
        self._barred = lambda: ""
        return super()._why_not(intent, committed=committed)


class RepeatingLink(BrokerLink):
    """Sends again what is not answered at once."""

    async def _deliver(self, intent: OrderIntent) -> None:
        await super()._deliver(intent)
        await super()._deliver(intent)


def test_an_order_that_leaves_before_its_commit_is_seen() -> None:
    def plant(engine: Any) -> None:
        engine._outbox.__class__ = EagerOutbox

    violated(quiet_plan(fault("database_slow", 0.0, 20.0)), plant, "before it was durable")


def test_an_order_that_is_sent_again_is_seen() -> None:
    def plant(engine: Any) -> None:
        engine._real.link.__class__ = RepeatingLink

    violated(quiet_plan(), plant, "was sent twice")


def test_a_lost_deal_is_seen() -> None:
    def plant(engine: Any) -> None:
        desk, apply = engine._real.desk, engine._real.desk._apply
        desk._apply = lambda event: None if isinstance(event, Dealt) and event.deal.closing else apply(event)

    violated(quiet_plan(fault("stop_close", 8.0, symbol="EURUSD")), plant, "is lost")


def test_orders_that_are_too_large_are_seen() -> None:
    def plant(engine: Any) -> None:
        intents = engine._scribe.intents

        def greedy(acts: Any) -> Any:
            return {
                row: replace(one, lots=10 * one.lots, risk_money=10 * one.risk_money)
                for row, one in intents(acts).items()
            }

        engine._scribe.intents = greedy

    violated(quiet_plan(), plant, "above the position's")


@pytest.mark.parametrize("protects", [True, False])
def test_a_position_without_a_stop_is_seen(protects: bool) -> None:
    def prepare(world: Simulation) -> None:
        world.watch.unprotected = (6.0, 1)
        if not protects:
            world.plant = lambda engine: setattr(engine._real.desk, "protections", tuple)

    made = simulate(quiet_plan(*(fault("stop_removed", at) for at in range(1, 20, 6))), prepare)
    assert any("no stop for" in one for one in made.violations) is not protects, made.violations


def test_an_engine_of_an_older_epoch_is_seen() -> None:
    def unfenced(world: Simulation) -> Any:
        world.database.check = lambda epoch: None  # type: ignore[method-assign]
        world.database._advance = lambda entry: True  # type: ignore[method-assign]
        return world.database

    def blind(engine: Any) -> None:
        engine._journal._beat = lambda: None

    violated(quiet_plan(fault("paused_leader", 4.0, 5.0)), blind, "in the time of", database=unfenced)


def test_a_level_that_rises_too_soon_is_seen() -> None:
    def stricter(world: Simulation) -> Any:
        world.watch.recover_ns *= 3
        return world.watch

    violated(quiet_plan(fault("absent", 4.0, 3.0)), lambda engine: None, "s after a fault", watch=stricter)


def test_a_dead_engine_reaches_nobody() -> None:
    world = World()
    process, done = Process(world, 1), []

    async def work() -> None:
        process.call(NS, lambda: done.append("arrived"), 0)
        try:
            await asyncio.sleep(3)
        finally:
            done.append("unwound")
            process.require_alive()
            done.append("never")

    task = process.create_task(work())
    world.run(NS // 2)
    process.kill()
    world.run(10 * NS)
    assert done == ["unwound", "arrived"]
    assert isinstance(task.exception(), KilledError)


def test_time_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    monkeypatch.setattr("tests.simulation.loop.STEPS_MAX", 1_000, raising=False)
    monkeypatch.setattr(sys.modules[World.__module__], "STEPS_MAX", 1_000)
    process = Process(world, 1)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    process.create_task(spin())
    with pytest.raises(StuckError):
        world.run(NS)
    process.kill()


# -- what the simulation has found -------------------------------------------------------------------------------------


def engaged_meanwhile(world: Simulation) -> Callable[[Any, JournalEntry], None]:
    """Return a person who stops the account while an entry's commit is waited for."""

    def told(life: Any, entry: JournalEntry) -> None:
        if any(intent.purpose is Purpose.OPEN for intent in entry.intents):
            world.database.switch = KillSwitch(engaged=True, reason="now")
            world.database.switched_ns = world.world.now_ns

    return told


def test_an_entry_does_not_leave_when_it_is_forbidden_while_its_commit_is_waited_for() -> None:
    plan = quiet_plan(fault("database_slow", 0.0, 30.0, size=0.2))

    def prepare(world: Simulation) -> None:
        world.told = engaged_meanwhile(world)

    made = simulate(plan, prepare)
    assert made.violations == ()
    before = made.lines[: next(place for place, line in enumerate(made.lines) if "nothing goes wrong" in line)]
    assert any("withheld" in line and "kill switch" in line for line in before)
    assert not any("sends open" in line for line in before)

    def forgetful(world: Simulation) -> None:
        prepare(world)
        world.plant = lambda engine: setattr(engine._outbox, "__class__", ForgetfulOutbox)

    assert any("kill switch is known" in one for one in simulate(plan, forgetful).violations)


async def _once_a_batch(self: Any, batch: TickBatch) -> None:
    """Work through a batch as engines did that looked around at its beginning only."""
    self._set_conditions()
    ticks, done = columns(batch), 0
    while not self._stopping.is_set():
        first = done
        done, event = self._core.take(ticks, first, len(batch))
        self._tape.ticks(ticks, first, done)
        if event is engines_module.Event.DONE:
            break
        await self._attend(event, batch.received_ns)
    await self._write_down(batch.received_ns)


def test_what_becomes_known_within_a_batch_counts_for_its_next_tick() -> None:
    def plant(engine: Engine) -> None:
        engine._process = _once_a_batch.__get__(engine)  # type: ignore[method-assign]

    def prepare(world: Simulation) -> None:
        world.told = engaged_meanwhile(world)
        world.plant = plant

    plan = quiet_plan(fault("database_slow", 0.0, 30.0, size=0.2), fault("held_back", 0.0, 6.0))
    assert simulate(plan).violations == ()
    assert any("nobody had stopped it" in one for one in simulate(plan, prepare).violations)


def test_an_orderly_end_takes_ten_seconds_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [fault("answer_vanishes", 0.1), fault("database_away", 3.0, 25.0), fault("stopped", 4.0)]
    plan = quiet_plan(*faults, length_s=30.0)
    assert simulate(plan).violations == ()
    monkeypatch.setattr(engines_module, "ENDING_S", 14.0)
    assert any("an orderly end took" in one for one in simulate(plan).violations)


def test_a_restarted_engine_protects_a_position_soon() -> None:
    """Its market clock stands where the last engine died: the first order is too old when the feed has begun."""
    plan = quiet_plan(fault("stop_removed", 6.0), fault("killed", 6.05, size=0.0), length_s=25.0)
    made = simulate(plan)
    assert made.violations == ()
    moved = [float(line.split()[0]) for line in made.lines if "sends modify" in line or "sends close" in line]
    begun = [float(line.split()[0]) for line in made.lines if "resumed" in line]
    assert begun
    assert moved
    assert min(at for at in moved if at > begun[0]) - begun[0] < 3.5
