"""How long the live session is without an engine after a kill: ``python -m bench.restarts [--kills 20] [--write]``.

The engine trades at a bridge over a simulated terminal, journals into a real PostgreSQL, and is supervised as the live
job does it. It is killed (SIGKILL) at random moments; the time ends when the next engine's first heartbeat is in
PostgreSQL, which it writes after it has reconciled with the broker and lets orders out again.
"""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console

from bench.sections import RELIABILITY, write_section
from fx_dagster.live.supervisor import Supervisor, SupervisorNews
from fx_dagster.live_job import engine_starter
from fx_dagster.settings import Settings, load_settings
from resources.live_store import LiveStore
from resources.postgres import migrate
from resources.servers.postgres import PostgresServer
from resources.servers.process import child_environment
from resources.standby import DELAY_S, Standby

SPEED = 60
READY_S = 15.0
"""After the delay: until the next engine has made itself ready."""
LONGEST_S = 120.0
_console = Console(stderr=True)

Kills = Annotated[int, typer.Option(min=1, help="How often the engine is killed.")]
Write = Annotated[bool, typer.Option("--write", help="Renew the section of docs/reliability.md.")]
Cold = Annotated[bool, typer.Option("--cold", help="Without a standby: every engine begins from nothing.")]


def environment(home: Path, url: str) -> dict[str, str]:
    """Return the settings of a session at a bridge with a simulated terminal of its own."""
    seconds = {"order_valid": 300, "quiet": 600, "hold_after": 90_000, "stale_after": 600, "recover_after": 60}
    return {
        **{f"FX_LIVE_{name.upper()}_S": str(value) for name, value in seconds.items()},
        "FX_HOME": str(home), "FX_POSTGRES_URL": url, "FX_LIVE_BROKER": "mt5", "FX_LIVE_ACCOUNT": "restarts",
        "FX_LIVE_REPLAY_DAYS": "4", "FX_LIVE_REPLAY_SPEED": str(SPEED), "FX_LIVE_RESTARTS_PER_MINUTE_MAX": "60",
        "FX_SOURCE_KIND": "simulator", "FX_SOURCE_START": "2024-03-04", "FX_SOURCE_SIMULATOR_DAYS": "60",
        "FX_BRIDGE_TERMINAL": "simulated", "FX_BRIDGE_LOGIN": "77", "FX_BRIDGE_SERVER": "Sim-Demo",
        "FX_BRIDGE_PORT": "0",
    }  # fmt: skip


@contextmanager
def _bridge(settings: Settings) -> Iterator[int]:
    """Run a bridge and return its port."""
    command = [sys.executable, "-m", "resources.mt5.bridge.server"]
    with (settings.home / "bridge.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=child_environment(settings), stdout=subprocess.PIPE, stderr=log, text=True
        )
    try:
        line = process.stdout.readline() if process.stdout is not None else ""
        if not line:
            raise RuntimeError((settings.home / "bridge.log").read_text()[-2_000:])
        yield int(json.loads(line)["address"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(20)
        if process.stdout is not None:
            process.stdout.close()


def _begun(store: LiveStore, account: str, not_pid: int) -> int:
    """Wait for another engine that may trade; return its process id."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        row = store.status(account)
        if row is not None and row.pid != not_pid and not row.status.get("broker_problem", "unknown"):
            return row.pid
        time.sleep(0.01)
    raise RuntimeError(f"no engine within {LONGEST_S:.0f} s")


def measure(kills: int, *, cold: bool) -> list[float]:
    """Return the seconds from each kill to the next engine's first heartbeat."""
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fx-restarts-")))
        home.chmod(0o711)
        server = PostgresServer(home / "postgres", logs=home / "logs")
        server.start()
        stack.callback(server.stop)
        settings = load_settings(environment(home, server.url))
        migrate(server.url)
        settings = load_settings({"FX_BRIDGE_PORT": str(stack.enter_context(_bridge(settings)))})
        start = Standby(engine_starter(settings), delay_s=1e6 if cold else DELAY_S)
        stack.callback(start.close)
        supervisor = Supervisor(
            start, restart_delay_s=settings.live.restart_delay_s, restarts_per_minute_max=60, on_tick=_quiet
        )
        thread = threading.Thread(target=supervisor.run, daemon=True)
        thread.start()
        stack.callback(thread.join, 30.0)
        stack.callback(supervisor.stop)
        return _kill_again_and_again(LiveStore(server.url), settings.live.account, kills, cold=cold)


def _quiet(news: SupervisorNews) -> bool:  # noqa: ARG001 - as the supervisor calls it
    return True


def _kill_again_and_again(store: LiveStore, account: str, kills: int, *, cold: bool) -> list[float]:
    took: list[float] = []
    moments = random.Random(7)  # noqa: S311 - moments, not secrets
    pid = _begun(store, account, 0)
    for number in range(1, kills + 1):
        time.sleep((0.0 if cold else DELAY_S + READY_S) + moments.uniform(1.0, 5.0))
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        pid = _begun(store, account, pid)
        took.append(time.monotonic() - began)
        _console.print(f"  kill {number} of {kills}: {took[-1]:.2f} s")
    return took


def section(took: Sequence[float], *, cold: Sequence[float]) -> str:
    """Return the page's section."""

    def row(name: str, values: Sequence[float]) -> str:
        return f"| {name} | {len(values)} | {np.median(values):.2f} s | {max(values):.2f} s |" if values else ""

    lines = [
        "From SIGKILL to the next engine's first heartbeat in PostgreSQL, after it has reconciled with the broker "
        "(bridge and simulated terminal, four symbols, M1), on 2 cores:",
        "",
        "| engine | kills | median | longest |",
        "| --- | --- | --- | --- |",
        row("made ready before (standby)", took),
        row("from nothing", cold),
        "",
        f"`python -m bench.restarts --kills {len(took)} --write`",
    ]
    return "\n".join(lines)


def main(kills: Kills = 20, write: Write = False) -> None:
    """Kill a supervised engine again and again, and measure how long nobody decides."""
    warm = measure(kills, cold=False)
    cold = measure(max(kills // 4, 1), cold=True)
    text = section(warm, cold=cold)
    _console.print(text, markup=False)
    if write:
        write_section(RELIABILITY, "restarts", text)


if __name__ == "__main__":
    typer.run(main)
