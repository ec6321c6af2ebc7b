"""The world beside an engine, as a process: the simulated terminal, and the line to PostgreSQL, which can be cut.

In its folder, ``terminal.sock`` is what bridges connect to, ``control.sock`` what a test says. The terminal keeps no
state of its own but that of the simulated one; a reset makes a new one. An order may kill a process on its way: before
the terminal does it, or after, before its answer.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any
from unittest.mock import patch

from resources.mt5 import faults
from resources.mt5.bridge.simulated_host import serve_one

LOGIN, SERVER = 77, "Sim-Demo"
SYMBOL = "EURUSD"
_SECOND_NS = 1_000_000_000
_FIRST_HOUR, _HOURS = 30, 40
"""Market time in which cases begin, hours after the start of the source, a Monday."""


class RunningClock:
    """Market time that runs with this machine's, and can be moved on."""

    def __init__(self, start_ns: int) -> None:
        self._ahead_ns = start_ns - time.monotonic_ns()

    def now_ns(self) -> int:
        """Return the market's present, ns UTC."""
        return time.monotonic_ns() + self._ahead_ns

    def skip(self, seconds: float) -> None:
        """Let that much market time pass at once."""
        self._ahead_ns += round(seconds * _SECOND_NS)


class Stage:
    """A terminal that can be replaced by a new one, and kills at an order."""

    def __init__(self) -> None:
        from fx_dagster.settings import SourceSettings
        from resources.market import open_source
        from resources.mt5 import simulated

        self._tape = functools.cache(simulated.Tape)
        self._source = open_source(
            SourceSettings(kind="simulator", symbols=SYMBOL, start="2024-03-04", simulator_days=4)
        )
        self.clock = RunningClock(0)
        self.requests: list[dict[str, Any]] = []
        self._kill: tuple[str, int] | None = None
        self.killed = 0
        self.reset(0.0, 0)
        self.terminal.symbols_get()  # what is made once takes long

    def reset(self, part: float, filling_mask: int) -> None:
        """Begin anew, in ``part`` (0 … 1) of the time in which cases begin."""
        from resources.mt5 import simulated
        from resources.mt5.trading import BrokerOptions

        start, _ = self._source.span(SYMBOL)
        self.clock = RunningClock(start + int((_FIRST_HOUR + _HOURS * part) * 3600 * _SECOND_NS))
        options = BrokerOptions(login=LOGIN, server=SERVER, filling_mask=filling_mask)
        # What the market did is the same in all cases, and takes long to make.
        with patch.object(simulated, "Tape", self._tape):
            self.terminal = simulated.SimulatedTerminal(self._source, clock=self.clock, options=options)
        self.terminal.initialize()
        self.requests, self._kill, self.killed = [], None, 0

    def arm(self, planned: list[dict[str, Any]], kill: tuple[str, int] | None) -> None:
        """Let the next order meet faults, and kill a process."""
        nth = self.terminal.plan.count(faults.ORDER_SEND) + 1
        for one in planned:
            values = {name: value for name, value in one.items() if name != "fault"}
            self.terminal.plan.add(getattr(faults, one["fault"])(faults.AtCall(faults.ORDER_SEND, nth), **values))
        self._kill = kill

    def now_ns(self) -> int:
        """Return the market's present; the bridge's clock."""
        return self.clock.now_ns()

    def order_send(self, request: dict[str, Any]) -> Any:
        """Do as the terminal does, note it, and kill where that was asked for."""
        noted = {"magic": request.get("magic"), "action": request.get("action"), "retcode": None}
        self.requests.append(noted)
        self._kill_now("arrived")
        answer = self.terminal.order_send(request)
        noted["retcode"] = None if answer is None else answer.retcode
        self._kill_now("executed")
        return answer

    def _kill_now(self, when: str) -> None:
        if self._kill is not None and self._kill[0] == when:
            pid, self._kill = self._kill[1], None
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed += 1

    def truth(self) -> dict[str, Any]:
        """Return what really is at the broker, shown or not."""
        server = self.terminal.server
        self.terminal.account_info()  # lets what is due by now happen
        orders = [*server.past_orders, *server.orders.values()]
        return {
            "deals": [
                {
                    "ticket": record.deal.ticket, "order": record.deal.order, "magic": record.deal.magic,
                    "position": record.deal.position_id, "lots": record.position_lots, "price": record.deal.price,
                }
                for record in server.deals if record.deal.symbol
            ],
            "orders": [{"ticket": one.ticket, "magic": one.magic, "state": one.state} for one in orders],
            "working": len(server.orders),
            "positions": [
                {"ticket": one.ticket, "magic": one.magic, "lots": one.lots, "sl": one.sl, "tp": one.tp}
                for one in server.positions.values()
            ],
            "requests": self.requests,
            "killed": self.killed, "bid": self.terminal.symbol_info_tick(SYMBOL).bid,
        }  # fmt: skip

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["terminal"], name)


class PostgresLine:
    """A line to PostgreSQL that can be cut: connections end, and new ones are refused."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            self._cut = True
            for one in self._sockets:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Let connections through again."""
        with self._lock:
            self._cut = False

    def _accept(self) -> None:
        while True:
            here, _ = self._listener.accept()
            with self._lock:
                cut = self._cut
            if cut:
                here.close()
                continue
            there = socket.create_connection(self._to)
            for one in (here, there):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sockets |= {here, there}
            for source, target in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
        with contextlib.suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
        with self._lock:
            self._sockets.discard(source)
        source.close()


def _control(stage: Stage, line: PostgresLine, connection: Connection, turn: threading.Lock) -> None:
    """Do what a test says, one thing at a time."""

    def arm(planned: list[dict[str, Any]], kill: list[Any] | None) -> None:
        stage.arm(planned, None if kill is None else (str(kill[0]), int(kill[1])))

    calls: dict[str, Callable[..., Any]] = {
        "reset": stage.reset, "arm": arm, "skip": lambda seconds: stage.clock.skip(seconds), "truth": stage.truth,
        "cut": line.cut, "mend": line.mend, "line": lambda: line.port,
    }  # fmt: skip
    with contextlib.suppress(EOFError, OSError), connection:
        while True:
            name, args = json.loads(connection.recv_bytes())
            with turn:
                value = calls[name](*args)
            connection.send_bytes(json.dumps(value).encode())


def _forever(address: Path, serve: Callable[[Connection], None]) -> None:
    with Listener(str(address)) as listener:
        while True:
            with contextlib.suppress(OSError, EOFError):
                threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()


class World:
    """What a test says to the world. One connection a process: after a fork make another one.

    Args:
        folder: of the world.
    """

    def __init__(self, folder: Path) -> None:
        self._connection = Client(str(folder / "control.sock"))

    def ask(self, name: str, *args: Any) -> Any:
        """Have something done, and return what came of it."""
        self._connection.send_bytes(json.dumps([name, args]).encode())
        return json.loads(self._connection.recv_bytes())

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


@functools.cache
def prepared() -> Stage:
    """Return a stage, made once: a process that is forked from this one then has the market."""
    return Stage()


def start(folder: Path, port: int) -> tuple[int, int]:
    """Fork a world of this process; return its number and the descriptor whose end ends it.

    Args:
        folder: of its sockets.
        port: of PostgreSQL.
    """
    stage, (ends, held) = prepared(), os.pipe()
    pid = os.fork()
    if pid:
        os.close(ends)
        return pid, held
    try:
        os.close(held)
        line, turn = PostgresLine(port), threading.Lock()
        for name, serve in (
            ("terminal.sock", lambda one: serve_one(stage, stage, one, turn)),
            ("control.sock", lambda one: _control(stage, line, one, turn)),
        ):
            threading.Thread(target=_forever, args=(folder / name, serve), daemon=True).start()
        os.read(ends, 1)
    finally:
        os._exit(0)
