"""One engine's order path, put together as the live engine does it, in a process that is killed or takes up."""

import asyncio
import base64
import gc
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fx_dagster.decision.rows import MEMORY
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Adoption, new_ledger
from fx_dagster.execution.orders import OrderIntent, Purpose, client_order_id
from fx_dagster.live.broker_desk import REMEMBERED_NS, BrokerDesk, rules_of
from fx_dagster.live.broker_link import BrokerLink
from fx_dagster.live.broker_outbox import BrokerOutbox
from fx_dagster.live.records import Checkpoint, JournalEntry
from fx_dagster.live_engine import WallClock
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS
from fx_dagster.settings import CostSettings
from resources.journal import JournalTarget, PostgresJournal
from resources.mt5.bridge.broker import BridgeBroker
from resources.mt5.bridge.client import BridgeAddress, BridgeClient
from resources.order_keeper import PostgresOrders
from resources.order_store import Writer
from tests.killsweep.cases import Case, Operation
from tests.killsweep.traps import Trap
from tests.killsweep.world import LOGIN, SYMBOL, World

QUIET_S, HOLD_AFTER_S, VALID_S = 30.0, 600.0, 5.0
"""Settings of production; what passes is the world's market time, which is moved on."""
TURN_S = 16.0
TURNS_MAX = 60
SETUPS_MAX = 5
LIFE_S = 120.0
"""Longest life of an engine, real time; one that hangs is ended otherwise than by the kill that is tested."""
LOTS = 0.10

Work: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True)
class Place:
    """Where an engine finds its world.

    Attributes:
        account: of the journal.
        url: of PostgreSQL.
        address: of the bridge.
        folder: of the log of exits.
        world: folder of the world.
    """

    account: str
    url: str
    address: str
    folder: Path
    world: Path


def desk_of(account: str, item: Instrument) -> BrokerDesk:
    """Return the account as the live engine makes it."""
    ledger = new_ledger(
        (item,), CostSettings(), memory=np.zeros(1, MEMORY), balance=10_000.0, leverage=30.0, account_currency="USD",
        events=100, real=True,
    )  # fmt: skip
    rules = rules_of(quiet_s=QUIET_S, hold_after_s=HOLD_AFTER_S, requotes_max=3, order_valid_s=VALID_S, currency="USD")
    return BrokerDesk(account, (item,), ledger, rules)


def warm_up() -> None:
    """Have done what takes a process long the first time, so that those that are forked from this one begin at once."""
    import grpc.experimental  # noqa: F401 - what a channel needs; none is made before a fork

    item = instrument(SYMBOL)
    desk = desk_of("warm", item)
    ledgers.adopt(desk.ledger, Adoption(0, 0.1, 1.1, 1.0, 1.2, False, 0.0, 1, 1, 1, 0.0, 0.0, 1.0))
    desk.snapshot()
    desk.drain()
    desk.restore(*desk.snapshot())
    gc.collect()
    gc.freeze()  # what there is by now is not looked at, and so not copied, in each of them


class Life:
    """One engine's journal, desk, outbox and link.

    Args:
        place: its world.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.world = World(place.world)
        self.client = BridgeClient(BridgeAddress(place.address), deadline_s=12.0)
        self.broker = BridgeBroker(self.client, login=str(LOGIN))
        self.journal: PostgresJournal
        self.keeper: PostgresOrders
        self.desk: BrokerDesk
        self.link: BrokerLink
        self.outbox: BrokerOutbox
        self._fed_ns = self._sequence = 0

    async def begin(self, trap: Trap | None = None) -> None:
        """Start as the engine does, whatever was before."""
        first_ns = self.client.now_ns()
        day_ns = first_ns // DAY_NS * DAY_NS
        target = JournalTarget(self.place.account, "sweep", (day_ns - DAY_NS, day_ns + 3 * DAY_NS))
        self.journal = await PostgresJournal.open(self.place.url, target)
        session = self.journal.session
        self._sequence, self._fed_ns = session.sequence, session.clock
        writer = Writer(self.place.account, session.session_id, self.journal.epoch)
        self.keeper = PostgresOrders.open(self.place.url, writer, self.place.folder)
        await self._put_together()
        if session.snapshot is not None:
            kept = json.loads(session.snapshot)
            self.desk.restore(base64.b64decode(kept["account"]), kept["orders"])
        else:
            self._fed_ns = first_ns
        if trap is not None:
            trap.set(self)
        self.journal.start()
        self.desk.begin(await self.keeper.load(self._fed_ns - REMEMBERED_NS))
        if trap is not None:
            trap.reached("loaded")
        await self.link.look()
        self.take()
        self.desk.begin_doubts_anew()
        self._fed_ns = self.client.now_ns()

    async def _put_together(self) -> None:
        said = await self.broker.specification(SYMBOL)
        self.desk = desk_of(self.place.account, said.over(instrument(SYMBOL)))
        self.ledger = self.desk.ledger
        self.desk.now, self.desk.epoch = (lambda: self._fed_ns), self.keeper.epoch
        self.link = BrokerLink(self.broker, self.desk, self.keeper)
        self.outbox = BrokerOutbox(
            self.journal, self.desk, WallClock(), self._checkpoint, link=self.link, keeper=self.keeper
        )

    def _checkpoint(self) -> Checkpoint:
        self._sequence += 1
        account, orders = self.desk.snapshot()
        kept = {"account": base64.b64encode(account).decode(), "orders": orders}
        return Checkpoint(self._sequence, self._fed_ns, self._fed_ns, json.dumps(kept).encode())

    def take(self) -> None:
        """Take over what has changed at the account, between two decisions."""
        movement = self.desk.drain()
        for one in movement.adopted["seen"] if movement.adopted is not None else ():
            ledgers.adopt(self.ledger, one)
        if movement:
            entry = JournalEntry(steps=movement.steps, foreign=movement.foreign, foreign_ns=movement.foreign_ns)
            self.outbox.post(entry, checkpoint=True)

    async def turn(self, seconds: float) -> bool:
        """Let market time pass, look, and take in; return whether the broker showed everything."""
        self.world.ask("skip", seconds)
        now_ns = await asyncio.get_running_loop().run_in_executor(None, self._asked_time)
        if not now_ns:
            await asyncio.sleep(0.05)
            return False
        self._fed_ns = max(self._fed_ns, now_ns)
        await self.link.look()
        self.take()
        await self.outbox.between_batches()
        return not self.desk.problem

    def _asked_time(self) -> int:
        try:
            return self.client.now_ns()
        except Exception:  # noqa: BLE001 - the bridge is being started anew
            return 0

    def decide(self, purpose: Purpose, bid: float, lots: float) -> OrderIntent:
        """Return an order of now."""
        now_ns = self._fed_ns = self.client.now_ns()
        stop, target = (0.98, 1.02) if purpose is Purpose.OPEN else (0.985, 1.02)
        closes = purpose is Purpose.CLOSE
        return OrderIntent(
            client_order_id(self.place.account, str(self.journal.session.session_id), SYMBOL, now_ns, purpose),
            self.place.account, SYMBOL, purpose, lots if purpose is Purpose.OPEN else 0.0 if not closes else -LOTS,
            0.0 if closes else round(bid * stop, 5), 0.0 if closes else round(bid * target, 5), now_ns,
            now_ns + round(VALID_S * SECOND_NS), 20.0, comment="sweep",
        )  # fmt: skip

    async def send(self, intent: OrderIntent) -> None:
        """Have an order sent, and take in its answer."""
        await self.outbox.send(JournalEntry(intents=(intent,)), self._fed_ns)
        await self.link.settle(45.0)
        self.take()

    async def have_position(self, intent: OrderIntent) -> list[int]:
        """Open the position that a case needs; return the keys of the orders that it took.

        A busy machine may not confirm an intent in time: then the engine decides anew, as it should.
        """
        keys = []
        for _ in range(SETUPS_MAX):
            keys.append(intent.client_order_id)
            await self.send(intent)
            await self.turn(1.0)
            if self.desk.book.open_positions():
                assert await self.journal.flush(10.0)
                return keys
            intent = self.decide(intent.purpose, intent.stop / 0.98, intent.lots)
        raise AssertionError(f"no position was opened: {self.desk.book.ended}, {self.desk.problem}")

    async def settle(self) -> None:
        """Go on until nothing is open or in doubt, and everything is written."""
        quiet = 0
        for _ in range(TURNS_MAX):
            seen = await self.turn(TURN_S if not self.desk.problem and not self.journal.problem else 0.0)
            if not seen or self.journal.problem or self.outbox.problem:
                await asyncio.sleep(0.02)
                continue
            quiet = quiet + 1 if not any(not order.held for order in self.desk.book.open.values()) else 0
            if quiet >= 3:
                break
        await self.journal.flush(10.0)

    def close(self) -> None:
        """Say good-bye to nobody: what the operating system frees, it frees."""
        self.keeper.close()


def fork(work: Work, log: Path, meanwhile: Callable[[], None]) -> tuple[int, dict[str, Any]]:
    """Run in a process of its own; return its exit status (< 0: a signal) and what it said before.

    Args:
        work: to do.
        log: of its errors.
        meanwhile: called a few times a second.
    """
    said, says = os.pipe()
    pid = os.fork()
    if pid == 0:
        _be_child(work, log, said, says)
    os.close(says)
    text, deadline = b"", time.monotonic() + LIFE_S
    try:
        with os.fdopen(said, "rb") as pipe:
            while True:
                if not select.select([pipe], [], [], 0.1)[0]:
                    meanwhile()
                    if time.monotonic() > deadline:
                        os.kill(pid, signal.SIGABRT)
                elif data := os.read(pipe.fileno(), 65_536):
                    text += data
                else:
                    break
    except BaseException:
        os.kill(pid, signal.SIGABRT)
        os.waitpid(pid, 0)
        raise
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    lines = text.decode().splitlines()
    return status, json.loads(lines[-1]) if lines else {}


def _be_child(work: Work, log: Path, said: int, says: int) -> None:
    code = 1
    try:
        os.close(said)
        Trap.report = says
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)

        async def main() -> dict[str, Any]:
            return await work()

        told = asyncio.run(main())
        os.write(says, json.dumps(told).encode() + b"\n")
        code = 0
    except BaseException as error:  # noqa: BLE001 - the parent is told whatever it was
        traceback.print_exc(file=sys.stderr)
        os.write(says, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
    finally:
        os._exit(code)


async def victim(case: Case, place: Place, arm: Callable[[Life, int], None], trap: Trap) -> dict[str, Any]:
    """Live until the trap: begin, have what the order needs, and give it."""
    life = Life(place)
    await life.begin()
    truth = life.world.ask("truth")
    chance = case.chance()
    opening = case.operation is Operation.OPEN
    lots = chance.choice((0.02, 0.03, 0.04, 0.05)) if opening else LOTS
    intent = life.decide(Purpose.OPEN, truth["bid"], lots)
    said: dict[str, Any] = {"setup": []}
    if not opening:
        said["setup"] = await life.have_position(intent)
        purpose = Purpose.MODIFY if case.operation is Operation.MODIFY else Purpose.CLOSE
        intent = life.decide(purpose, truth["bid"], lots)
    if case.operation is Operation.CLOSE_AWAY:
        life.world.ask("cut")
        while not life.journal.problem:
            await asyncio.sleep(0.005)
    said |= {"key": intent.client_order_id, "decided_ns": intent.decided_ns, "intent": _packed(intent)}
    trap.say(said)
    arm(life, os.getpid())
    await life.send(intent)
    if case.operation is Operation.CLOSE_AWAY:
        life.world.ask("mend")
    await life.settle()
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


async def successor(place: Place, intent: OrderIntent | None, trap: Trap | None = None) -> dict[str, Any]:
    """Take up what another left, decide the same again, and go on until nothing is in doubt."""
    life = Life(place)
    await life.begin(trap)
    for _ in range(400):
        if await life.turn(0.0):
            break
    if intent is not None:
        await life.send(intent)
    await life.settle()
    book = life.desk.book
    from resources import order_store
    from resources.postgres import connect_async

    connection = await connect_async(place.url, name="sweep")
    stored = await order_store.load(connection, place.account, since_ns=0)
    return {
        "same_book": (stored.open, stored.ended) == (book.open, book.ended),
        "log_records": len(life.keeper._log.records()),
        "halts": dict(life.desk._halts),
        "problem": life.desk.problem or life.journal.problem or life.outbox.problem,
        "pending": life.journal.pending,
    }


def _packed(intent: OrderIntent) -> dict[str, Any]:
    return asdict(intent) | {"purpose": str(intent.purpose)}


def unpacked(values: dict[str, Any]) -> OrderIntent:
    """Return an intent that a victim told."""
    return OrderIntent(**(values | {"purpose": Purpose(values["purpose"])}))
