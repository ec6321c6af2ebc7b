"""One world with its bridge, and the cases that are run in it one after another, each with an account of its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import psycopg

from fx_dagster.execution.orders import OrderIntent
from resources.mt5.constants import Mt5Constants as Mt5
from resources.mt5.trading import FILLING_IOC
from resources.postgres import psycopg_url
from tests.killsweep import life
from tests.killsweep.cases import Case, Operation, Outcome, Point
from tests.killsweep.life import Life, Place
from tests.killsweep.traps import Trap
from tests.killsweep.verdict import Verdict, judge, read_books
from tests.killsweep.world import LOGIN, SERVER, World, start

START_S = 90.0
TRIES = 6
_REFUSALS = (
    Mt5.TRADE_RETCODE_REJECT,
    Mt5.TRADE_RETCODE_REQUOTE,
    Mt5.TRADE_RETCODE_PRICE_OFF,
    Mt5.TRADE_RETCODE_NO_MONEY,
)
_FIRST_DEATHS = (Point.EXECUTED, Point.AT_TERMINAL, Point.ANSWERED, Point.COMMITTED)


class Slot:
    """A world, a bridge, and a way to PostgreSQL. Ended by :meth:`close`.

    Args:
        folder: short, of this slot alone.
        url: SQLAlchemy URL of a migrated database.
    """

    def __init__(self, folder: Path, url: str) -> None:
        life.warm_up()
        self.folder, self._url = folder, url
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "lives.log"
        self._count = 0
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connection = psycopg.connect(psycopg_url(url), autocommit=True)
        port = str(psycopg.conninfo.conninfo_to_dict(psycopg_url(url))["port"])
        self._world, self._held = start(folder, int(port))
        _until((folder / "control.sock").exists)
        self.world = World(folder)
        self._line = url.replace(f":{port}/", f":{self.world.ask('line')}/")
        self._bridge_port, self._address = 0, ""
        self._bridge = self._start_bridge()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all processes; a worker ends by itself when its bridge does."""
        self.world.close()
        self._connection.close()
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        os.close(self._held)
        os.waitpid(self._world, 0)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _start_bridge(self) -> "subprocess.Popen[bytes]":
        kept = {name: value for name, value in os.environ.items() if not name.startswith("FX_")}
        bridge = {
            "terminal": "simulated", "simulated_address": str(self.folder / "terminal.sock"), "login": str(LOGIN),
            "server": SERVER, "port": str(self._bridge_port), "folder": str(self.folder / "bridge"),
            "heartbeat_s": "20", "call_limit_s": "20", "order_limit_s": "20",
        }  # fmt: skip
        (self.folder / "bridge").mkdir(exist_ok=True)
        with (self.folder / "bridge.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "resources.mt5.bridge.server"], stdout=subprocess.PIPE, stderr=log,
                env=kept | {f"FX_BRIDGE_{name.upper()}": value for name, value in bridge.items()}
                | {"FX_HOME": str(self.folder)},
            )  # fmt: skip
        self._processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (self.folder / "bridge.log").read_text()[-2000:]
        self._address = json.loads(line)["address"]
        self._bridge_port = int(self._address.rpartition(":")[2])
        return process

    def _keep_bridge(self) -> None:
        """Start the bridge anew where it has been killed, as a supervisor does."""
        if self._bridge.poll() is not None:
            before, self._bridge = self._bridge, self._start_bridge()
            self._processes.remove(before)
            if before.stdout is not None:
                before.stdout.close()

    def _worker(self) -> int:
        return int(json.loads((self.folder / "bridge" / str(LOGIN) / "worker.json").read_text())["pid"])

    # -- a case --------------------------------------------------------------------------------------------------------

    def run(self, case: Case) -> Verdict:
        """Run a case, and judge it. An engine that does not come as far as its order, on a busy machine, lives anew."""
        for _ in range(TRIES):
            place, met, said = self._kill(case, self._begin(case))
            if "key" in said:
                return self._judge(case, place, met, said)
        raise AssertionError(f"no victim came to its order: {said.get('error', said)}, see {self._log}")

    def _begin(self, case: Case) -> Place:
        self._count += 1
        account = f"k{os.getpid()}-{self._count}"
        # An account with a past: the bridge, which serves all of them as one, has seen the epochs of those before.
        self._connection.execute(
            "INSERT INTO fx.live_account (account, epoch) VALUES (%s, %s)", (account, self._count * 20)
        )
        # Of an order that is filled at once or cancelled, nothing rests.
        rests = any(fault.get("rest_ms") is not None for fault in faults_of(case))
        self.world.ask("reset", case.chance().random(), 0 if rests else FILLING_IOC)
        self.world.ask("mend")
        line = self._line if case.operation is Operation.CLOSE_AWAY else self._url
        return Place(account, line, self._address, self.folder / "exits", self.folder)

    def _judge(self, case: Case, place: Place, met: bool, said: dict[str, Any]) -> Verdict:
        told = self._take_up(place, said if case.again else {})
        verdict = judge(
            self.world.ask("truth"), read_books(self._connection, place.account), setup=frozenset(said["setup"]),
            key=int(said["key"]),
        )  # fmt: skip
        verdict.met = met
        _check_successor(verdict, told)
        with contextlib.suppress(OSError):
            for path in (self.folder / "exits").iterdir():
                path.unlink()
        return verdict

    def _kill(self, case: Case, place: Place) -> tuple[Place, bool, dict[str, Any]]:
        """Let an engine die, and the next one as well where the case says so; return whether it was at the point."""
        first = _FIRST_DEATHS[(case.repeat + case.repeat // 4) % 4] if case.point.at_restart else case.point
        trap = Trap(first, case.operation, case.repeat)
        status, said = self._victim(case, place, trap)
        if "key" not in said:
            return place, False, said
        if status != -signal.SIGKILL:
            raise AssertionError(f"the victim ended with {status}: {said.get('error', said)}, see {self._log}")
        met = bool(said.get("met")) or self.world.ask("truth")["killed"] > 0
        self.world.ask("mend")
        self._keep_bridge()
        if case.point.at_restart:
            again = Trap(case.point, case.operation, case.repeat)
            status, told = self._successor(place, None, again)
            met = bool(told.get("met"))
            if status not in (0, -signal.SIGKILL) and not _again(told):
                raise AssertionError(f"the one that took up ended with {status}: {told}, see {self._log}")
        return place, met, said

    def _victim(self, case: Case, place: Place, trap: Trap) -> tuple[int, dict[str, Any]]:
        def arm(life_: Life, pid: int) -> None:
            life_.world.ask("arm", faults_of(case), self._kill_of(case, trap.point, pid))
            trap.set(life_)

        return self._forked(lambda: life.victim(case, place, arm, trap))

    def _kill_of(self, case: Case, point: Point, pid: int) -> tuple[str, int] | None:
        """Return at which moment of the order the world kills which process."""
        when = "executed" if (case.repeat // 2) % 2 else "arrived"
        match point:
            case Point.AT_TERMINAL:
                return "arrived", pid
            case Point.EXECUTED:
                return "executed", pid
            case Point.WORKER:
                return when, self._worker()
            case Point.BRIDGE:
                return when, self._bridge.pid
        return None

    def _successor(self, place: Place, intent: OrderIntent | None, trap: Trap | None) -> tuple[int, dict[str, Any]]:
        return self._forked(lambda: life.successor(place, intent, trap))

    def _forked(self, work: Any) -> tuple[int, dict[str, Any]]:
        return life.fork(work, self._log, self._keep_bridge)

    def _take_up(self, place: Place, said: dict[str, Any]) -> dict[str, Any]:
        """Start an engine, again where it says that a server is not there or the account not free yet."""
        intent = life.unpacked(said["intent"]) if "intent" in said else None
        told: dict[str, Any] = {}
        for _ in range(TRIES):
            status, told = self._successor(place, intent, None)
            if not status:
                return told
            if not _again(told):
                break
        raise AssertionError(f"no engine takes up: {told}, see {self._log}")


def _again(told: dict[str, Any]) -> bool:
    """Whether an engine ended by what a supervisor starts it anew after; a contradiction is nothing of that kind."""
    return str(told.get("error", "")).split(":")[0] in ("FencedError", "ServerError", "BrokerError", "BridgeCallError")


def _check_successor(verdict: Verdict, told: dict[str, Any]) -> None:
    if not told["same_book"]:
        verdict.wrong.append("the engine's book is not the journal's")
    if told["log_records"] or told["pending"]:
        verdict.lost.append(f"{told['log_records']} exits are in the log alone, {told['pending']} entries unwritten")
    if told["halts"] or told["problem"]:
        verdict.wrong.append(f"the account does not trade on: {told['halts'] or told['problem']}")


def faults_of(case: Case) -> list[dict[str, Any]]:
    """Return what goes wrong with the order of a case, as the world takes it."""
    chance, moves = case.chance(), case.operation is Operation.MODIFY
    code = chance.choice((0, Mt5.TRADE_RETCODE_TIMEOUT))
    delay_ms = chance.randint(500, 5_000)
    match case.outcome:
        case Outcome.ANSWER_LOST:
            return [{"fault": "AnswerLost", "retcode": code}]
        case Outcome.REFUSED:
            return [{"fault": "Refused", "retcode": chance.choice(_REFUSALS)}]
        case Outcome.REQUEST_LOST:
            return [{"fault": "RequestLost", "retcode": code}]
        case Outcome.SLOW:
            late = {"fault": "RequestLate", "delay_ms": delay_ms, "retcode": code}
            parts = {"fault": "PartialFill", "share": 0.5, "rest_ms": chance.choice((None, delay_ms))}
            unseen = [{"fault": "Hidden", "delay_ms": delay_ms}, {"fault": "AnswerLost", "retcode": code}]
            return chance.choice([[late], unseen] if moves else [[late], unseen, [parts], [parts, *unseen]])
    return []


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_S
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("the world does not begin")
        time.sleep(0.02)


@contextmanager
def servers(home: Path) -> Iterator[str]:
    """Run a PostgreSQL with the project's tables; yield its URL."""
    from resources.postgres import migrate
    from resources.servers.postgres import PostgresServer

    server = PostgresServer(home, logs=home / "logs")
    try:
        server.start()
        migrate(server.url)
        yield server.url
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)
