"""``fx live --broker mt5`` as a user runs it: engine, bridge and terminal are three processes, and each is killed.

What the journal knows in the end is what the terminal itself has dealt, to the last lot.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resources.mt5.bridge.simulated_module import SimulatedModule
from resources.mt5.constants import Mt5Constants as Mt5
from resources.postgres import connect

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP"),
]

SPEED = 120
SECONDS = {"order_valid": 600, "quiet": 900, "hold_after": 90_000, "stale_after": 600, "recover_after": 300}
"""Of the market, which runs at SPEED."""


SHOWN = (
    "market_time",
    "level",
    "level_reason",
    "decisions",
    "deals",
    "broker_problem",
    "feed_problem",
    "journal_problem",
)


def until(condition: Callable[[], Any], within_s: float, what: str, seen: Callable[[], str] = str) -> Any:
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {within_s:g} s {seen()}"
        time.sleep(0.05)
    return found


class Place:
    """A home with its terminal; bridges and engines come and go."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.address = folder, folder / "terminal.sock"
        live = {f"FX_LIVE_{name.upper()}_S": str(value) for name, value in SECONDS.items()}
        bridge = {
            "terminal": "simulated", "simulated_address": str(self.address), "login": "77", "server": "Sim-Demo",
            "port": "0", "call_limit_s": "2", "order_limit_s": "3", "heartbeat_s": "0.5",
        }  # fmt: skip
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("FX_")}
        self.environment |= live | {f"FX_BRIDGE_{name.upper()}": value for name, value in bridge.items()}
        self.environment |= {
            "FX_HOME": str(folder), "FX_POSTGRES_URL": url, "FX_LIVE_ACCOUNT": "real", "FX_LIVE_REPLAY_DAYS": "2.5",
            "FX_LIVE_REPLAY_SPEED": str(SPEED), "FX_SOURCE_KIND": "simulator", "FX_SOURCE_SYMBOLS": "EURUSD,XAUUSD",
            "FX_SOURCE_START": "2024-03-04", "FX_SOURCE_SIMULATOR_DAYS": "5", "FX_LIVE_HISTORY_BARS": "500",
        }  # fmt: skip
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, name: str, *command: str) -> subprocess.Popen[str]:
        with (self.folder / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command], env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self.processes.append(process)
        return process

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3_000:]

    def close(self) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            if process.stdout is not None:
                process.stdout.close()


class Bridge:
    """A bridge's process; the second one is at the first one's port."""

    def __init__(self, place: Place) -> None:
        self.process = place.start("bridge", "fx_dagster.cli", "bridge", "serve", "--json")
        assert self.process.stdout is not None
        told = "".join(iter(self.process.stdout.readline, "}\n"))
        address = json.loads(told + "}")["address"]
        place.environment["FX_BRIDGE_PORT"] = address.rpartition(":")[2]
        self._worker = place.folder / "bridge" / "77" / "worker.json"

    def worker(self) -> int:
        return int(json.loads(self._worker.read_text())["pid"])


class Engine:
    """``fx live --broker mt5``, and what it says."""

    def __init__(self, place: Place) -> None:
        self.began_s = time.monotonic()
        self.process = place.start("engine", "fx_dagster.cli", "live", "--broker", "mt5", "--json")
        self._place, self._lines = place, deque[dict[str, Any]](maxlen=2_000)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ValueError):  # it is closed in the end
            for line in self.process.stdout or ():
                self._lines.append(json.loads(line))

    @property
    def status(self) -> dict[str, Any]:
        return self._lines[-1] if self._lines else {}

    def until(self, condition: Callable[[dict[str, Any]], Any], within_s: float, what: str) -> dict[str, Any]:
        def seen() -> dict[str, Any] | None:
            assert self.process.poll() is None, self._place.said("engine")
            return self.status if self.status and condition(self.status) else None

        return until(seen, within_s, what, lambda: str({name: self.status.get(name) for name in SHOWN}))

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)


@pytest.fixture
def place(database_url: str) -> Iterator[Place]:
    folder = Path(tempfile.mkdtemp(prefix="fx-mt5-"))  # short: sockets have short names
    made = Place(folder, database_url)
    try:
        terminal = made.start("terminal", "fx_dagster.cli", "bridge", "terminal", str(made.address))
        until(lambda: made.address.exists() or terminal.poll() is not None, 120.0, "the terminal")
        assert terminal.poll() is None, made.said("terminal")
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def trades(status: dict[str, Any]) -> bool:
    return not status["broker_problem"] and not status["journal_problem"] and status["level"] < 4


def test_whatever_is_killed_journal_and_terminal_agree_to_the_last_lot(place: Place, database_url: str) -> None:
    bridge, engine = Bridge(place), Engine(place)
    engine.until(lambda status: status["deals"] >= 2 and trades(status), 150.0, "two deals")

    for _ in range(2):  # the engine dies, at any moment
        before = engine.status["decisions"]
        engine.kill()
        engine = Engine(place)
        engine.until(lambda status: status["decisions"] > before and trades(status), 60.0, "a decision after a kill")  # noqa: B023

    os.kill(bridge.worker(), signal.SIGKILL)  # the bridge starts another one
    engine.until(trades, 60.0, "trading after the worker's death")

    os.killpg(bridge.process.pid, signal.SIGKILL)
    engine.until(lambda status: status["level"] == 4 and status["broker_problem"], 60.0, "level 4 without a bridge")
    bridge = Bridge(place)
    engine.until(trades, 60.0, "trading with a new bridge")

    terminal = place.processes[0]
    os.kill(terminal.pid, signal.SIGSTOP)  # it hangs
    engine.until(lambda status: status["broker_problem"] or status["feed_problem"], 60.0, "news of a hung terminal")
    os.kill(terminal.pid, signal.SIGCONT)
    deals = engine.status["deals"]
    engine.until(trades, 60.0, "trading after the terminal hung")
    engine.until(lambda status: status["deals"] > deals, 120.0, "another deal")

    os.kill(engine.process.pid, signal.SIGTERM)
    began = time.monotonic()
    assert engine.process.wait(30) == 0, place.said("engine")
    assert time.monotonic() - began < 10.0
    _compare(place, database_url)


def _compare(place: Place, url: str) -> None:
    terminal = SimulatedModule(str(place.address))
    made = [deal for deal in terminal.history_deals_get(0, 2**31 - 1) if deal.symbol]
    with connect(url) as connection:
        known = dict(connection.execute("SELECT ticket, lots FROM broker_deal").fetchall())
        orders = connection.execute("SELECT client_order_id, state, purpose FROM trade_order").fetchall()
    side = {Mt5.DEAL_TYPE_BUY: 1.0, Mt5.DEAL_TYPE_SELL: -1.0}
    theirs = {deal.ticket: side[deal.type] * deal.volume for deal in made}
    late = {ticket for ticket in theirs if ticket not in known}
    assert set(known) <= set(theirs), "a deal that never was"
    for ticket, lots in known.items():
        assert lots == pytest.approx(theirs[ticket])
    # The market goes on: what a server-side stop closed after the engine had ended is not known yet.
    assert all(deal.reason in (Mt5.DEAL_REASON_SL, Mt5.DEAL_REASON_TP) for deal in made if deal.ticket in late)
    keys = [key for key, _, _ in orders]
    entries: dict[int, set[int]] = defaultdict(set)
    for deal in made:
        if deal.entry == Mt5.DEAL_ENTRY_IN:
            entries[deal.magic].add(deal.order)
    assert len(keys) == len(set(keys))
    assert all(len(tickets) == 1 for tickets in entries.values()), "a key became two orders"
    assert set(entries) <= set(keys), "an order that is in no journal"
    held = sum(position.volume * (1 if position.type == Mt5.POSITION_TYPE_BUY else -1)
               for position in terminal.positions_get())  # fmt: skip
    assert held == pytest.approx(sum(theirs.values()))
    assert all(position.sl > 0.0 for position in terminal.positions_get()), "a position without a stop"
    assert {state for _, state, _ in orders} <= {"filled", "rejected", "cancelled", "unknown"}
    assert sum(state == "filled" for _, state, _ in orders) >= 2
