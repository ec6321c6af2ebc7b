"""The bridge as a process over a simulated terminal as another: hung, killed, doubled, and asked by strangers."""

import asyncio
import contextlib
import datetime as dt
import ipaddress
import itertools
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from fx_dagster.errors import BrokerError, SettingsError
from fx_dagster.execution.broker import Accepted, Answer, Refused, TradeMode, Unknown
from fx_dagster.execution.orders import DealReason, OrderIntent, Purpose
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS, Timeframe
from fx_dagster.settings import SourceSettings
from resources.market import open_source
from resources.mt5.bridge.broker import BridgeBroker
from resources.mt5.bridge.client import BridgeAddress, BridgeCallError, BridgeClient, server_second
from resources.mt5.clock import SteppedClock
from resources.mt5.constants import Mt5Constants
from resources.mt5.feed import TerminalFeed
from resources.mt5.simulated import SimulatedTerminal

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP"),
]

SOURCE = {"kind": "simulator", "symbols": "EURUSD", "start": "2024-03-04", "simulator_days": 4}
TOKEN = "a-token-of-the-test-" * 2
KILLS = 12
_keys = itertools.count(1)


def variables(folder: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a bridge to the terminal of ``folder``'s parent."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FX_")}
    source = {f"FX_SOURCE_{name.upper()}": str(value) for name, value in SOURCE.items()}
    live = {"FX_LIVE_REPLAY_DAYS": "1.5", "FX_HOME": str(folder)}
    bridge = {
        "terminal": "simulated", "simulated_address": str(folder.parent / "line.sock"), "login": "77",
        "server": "Sim-Demo", "port": "0", "folder": str(folder), "heartbeat_s": "20", "call_limit_s": "2",
        "order_limit_s": "2",
    }  # fmt: skip
    return kept | source | live | {f"FX_BRIDGE_{name.upper()}": value for name, value in (bridge | changes).items()}


def until(condition: Callable[[], Any], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.02)


class Running:
    """A bridge's process, and a client and a broker of it."""

    def __init__(self, process: subprocess.Popen[bytes], folder: Path, address: str, **where: Any) -> None:
        self.process, self.folder, self.address = process, folder / "77", address
        self.client = BridgeClient(BridgeAddress(address, **where), deadline_s=12.0)
        self.broker = BridgeBroker(self.client, login="77", order_deadline_s=15.0)
        self._ahead_ns = 0

    def worker(self) -> int:
        return int(json.loads((self.folder / "worker.json").read_text())["pid"])

    def ready(self) -> bool:
        with contextlib.suppress(BridgeCallError):
            return self.client.health().ready
        return False

    def now_ns(self) -> int:
        """Return the market's present, asked once: the replay runs as fast as the clock."""
        if not self._ahead_ns:
            self._ahead_ns = self.client.now_ns() - time.monotonic_ns()
        return time.monotonic_ns() + self._ahead_ns

    def intent(self, lots: float = 0.01, **changes: Any) -> OrderIntent:
        now_ns = self.now_ns()
        values = {
            "client_order_id": next(_keys), "account": "live", "symbol": "EURUSD", "purpose": Purpose.OPEN,
            "lots": lots, "stop": 0.5 if lots > 0 else 3.0, "target": 0.0, "decided_ns": now_ns,
            "expires_ns": now_ns + 600 * SECOND_NS, "epoch": 1,
        }  # fmt: skip
        return OrderIntent(**(values | changes))

    def send(self, intent: OrderIntent) -> Answer:
        return asyncio.run(self.broker.send(intent))

    def dealt(self) -> Counter[int]:
        """Return how many deals each key has."""
        deals = asyncio.run(self.broker.deals(self.client.now_ns() - HOUR_NS))
        return Counter(deal.key for deal in deals)


@contextlib.contextmanager
def bridge(folder: Path, *, where: dict[str, Any] | None = None, **changes: str) -> Iterator[Running]:
    folder.mkdir(exist_ok=True)
    with (folder / "bridge.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "resources.mt5.bridge.server"], env=variables(folder, **changes),
            stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line, (folder / "bridge.log").read_text()[-2000:]
        running = Running(process, folder, json.loads(line)["address"], **(where or {}))
        try:
            until(running.ready)
            running.now_ns()
            yield running
        finally:
            running.broker.close()
            running.client.close()
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait(10)
        process.stdout.close()


def refused(folder: Path, **changes: str) -> str:
    """Return what a bridge says that does not start."""
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "resources.mt5.bridge.server"], env=variables(folder, **changes), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    return done.stderr


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short folder: sockets have short names."""
    folder = Path(tempfile.mkdtemp(prefix="fx-br-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def terminal(place: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A simulated terminal that outlives bridges."""
    address = place / "terminal.sock"
    with (place / "terminal.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "resources.mt5.bridge.simulated_host", str(address)],
            env=variables(place / "bridge"), stderr=log,
        )  # fmt: skip
    try:
        until(lambda: address.exists() or process.poll() is not None, 120.0)
        assert process.poll() is None, (place / "terminal.log").read_text()[-2000:]
        yield process
    finally:
        process.kill()
        process.wait(10)


class Line:
    """What is between workers and the terminal: it can hold one call, before the terminal has it or after."""

    def __init__(self, address: Path, terminal: Path) -> None:
        self._listener, self._terminal = Listener(str(address)), str(terminal)
        self._held, self._go = threading.Event(), threading.Event()
        self._name, self._where = "", ""
        threading.Thread(target=self._accept, daemon=True).start()

    @contextlib.contextmanager
    def holding(self, name: str, where: str) -> Iterator[threading.Event]:
        """Hold the next call of that name; yield what is set when it is there.

        ``late``: the terminal gets it at the end; ``lost``: never; ``answered``: at once, only its answer waits.
        """
        self._held.clear()
        self._go.clear()
        self._name, self._where = name, where
        try:
            yield self._held
        finally:
            self._name = ""
            self._go.set()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._carry, args=(self._listener.accept(),), daemon=True).start()

    def _carry(self, worker: Connection) -> None:
        with contextlib.suppress(EOFError, OSError), Client(self._terminal) as terminal, worker:
            while True:
                call = worker.recv_bytes()
                name = json.loads(call)[0]
                where, self._name = (self._where, "") if name == self._name else ("", self._name)
                if where in ("late", "lost"):
                    self._hold()
                if where == "lost":
                    return
                terminal.send_bytes(call)
                answer = terminal.recv_bytes()
                if where == "answered":
                    self._hold()
                worker.send_bytes(answer)

    def _hold(self) -> None:
        self._held.set()
        assert self._go.wait(120)


@pytest.fixture(scope="module")
def line(terminal: subprocess.Popen[bytes], place: Path) -> Iterator[Line]:
    made = Line(place / "line.sock", place / "terminal.sock")
    yield made
    made.close()


@pytest.fixture(scope="module")
def running(line: Line, place: Path) -> Iterator[Running]:
    with bridge(place / "bridge") as found:
        yield found


@contextlib.contextmanager
def hung(process: subprocess.Popen[bytes]) -> Iterator[None]:
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="module")
def direct() -> SimulatedTerminal:
    """The same market without a bridge, at its end."""
    source = open_source(SourceSettings(**SOURCE))
    opened = SimulatedTerminal(source, clock=SteppedClock(source.span("EURUSD")[1]))
    assert opened.initialize()
    return opened


def test_ticks_and_bars_through_it_are_the_terminals(running: Running, direct: SimulatedTerminal) -> None:
    now_ns = running.client.now_ns()
    second = server_second(now_ns - 4 * HOUR_NS)
    asked = ("EURUSD", second, 400, Mt5Constants.COPY_TICKS_ALL)
    through, straight = running.client.copy_ticks_from(*asked), direct.copy_ticks_from(*asked)
    assert len(through) == 400
    assert through.tobytes() == straight.tobytes()
    bars = running.client.copy_rates_from_pos("EURUSD", Mt5Constants.TIMEFRAME_M1, 0, 50)
    times = (
        dt.datetime.fromtimestamp(int(bars["time"][0]), dt.UTC),
        dt.datetime.fromtimestamp(int(bars["time"][-2]), dt.UTC),
    )
    same = direct.copy_rates_range("EURUSD", Mt5Constants.TIMEFRAME_M1, *times)
    assert bars[:-1].tobytes() == same.tobytes()


def test_a_feed_reads_through_it_as_from_the_terminal(running: Running, direct: SimulatedTerminal) -> None:
    since_ns = running.client.now_ns() - HOUR_NS
    through = TerminalFeed(running.client, ["EURUSD"], since_ns=since_ns, ticks_max=500)
    straight = TerminalFeed(
        direct, ["EURUSD"], since_ns=since_ns, clock=SteppedClock(through.watermark_ns), ticks_max=500
    )
    ticks = through.poll()["EURUSD"]
    same = straight.poll()["EURUSD"]
    assert len(ticks.time) > 100
    for name in ticks._fields:
        np.testing.assert_array_equal(getattr(ticks, name), getattr(same, name)[: len(ticks.time)])
    assert len(through.history("EURUSD", Timeframe.H1, 5)) == 5


def test_what_cannot_be_asked_is_told_as_the_module_does(running: Running) -> None:
    assert running.client.copy_ticks_from("GBPUSD", 0, 10, -1) is None
    code, text = running.client.last_error()
    assert code < 0
    assert text
    assert running.client.copy_ticks_from("../x", 0, 10, -1) is None
    assert "Ticks.symbol" in running.client.last_error()[1]
    assert running.client.copy_ticks_from("EURUSD", 0, 10**7, -1) is None
    assert "Ticks.count" in running.client.last_error()[1]
    assert [info.name for info in running.client.symbols_get()] == ["EURUSD"]
    assert running.client.last_error()[0] == Mt5Constants.RES_S_OK


def test_the_bridge_says_how_it_is(running: Running) -> None:
    health = running.client.require(login="77", mode="demo")
    assert (health.login, health.server, health.mode, health.simulated) == ("77", "Sim-Demo", "demo", True)
    assert health.trading_allowed
    assert not health.clock_wrong
    with pytest.raises(SettingsError, match="account"):
        running.client.require(login="78", mode="demo")
    with pytest.raises(SettingsError, match="mode"):
        running.client.require(login="77", mode="real")


def test_an_order_is_filled_moved_closed_and_read_back(running: Running) -> None:
    opening = running.intent(0.03, target=2.0)
    answer = running.send(opening)
    assert isinstance(answer, Accepted)
    key, broker = opening.client_order_id, running.broker

    async def shown() -> tuple[Any, ...]:
        return (
            [item for item in await broker.positions() if item.key == key],
            [item for item in await broker.orders() if item.key == key],
            await broker.account(),
            await broker.specification("EURUSD"),
        )

    (position,), (order,), account, specification = asyncio.run(shown())
    assert (position.symbol, position.lots, position.stop, position.target) == ("EURUSD", 0.03, 0.5, 2.0)
    assert (order.lots, order.executed_lots, order.status) == (0.03, 0.03, "filled")
    assert abs(position.opened_ns - running.client.now_ns()) < 60 * SECOND_NS
    assert (account.login, account.hedging, account.demo, account.trade_allowed) == ("77", True, True, True)
    assert (specification.digits, specification.lot_step, specification.mode) == (5, 0.01, TradeMode.FULL)

    moving = running.intent(0.0, stop=0.6, target=1.9, purpose=Purpose.MODIFY, position=position.ticket)
    assert isinstance(running.send(moving), Accepted)
    ((moved,), _, _, _) = asyncio.run(shown())
    assert (moved.stop, moved.target) == (0.6, 1.9)

    closing = running.intent(-0.03, stop=0.0, purpose=Purpose.CLOSE, position=position.ticket)
    assert isinstance(running.send(closing), Accepted)
    deals = asyncio.run(broker.deals(running.client.now_ns() - HOUR_NS))
    (entry,) = [deal for deal in deals if deal.key == key]
    (leave,) = [deal for deal in deals if deal.key == closing.client_order_id]
    assert (entry.lots, entry.closing, entry.reason) == (0.03, False, DealReason.CLIENT)
    assert (leave.lots, leave.closing, leave.position) == (-0.03, True, entry.position)
    assert answer.deal == entry.ticket
    assert abs(entry.time_ns - running.client.now_ns()) < 60 * SECOND_NS
    assert running.send(closing) == running.send(closing)


def test_what_is_late_or_of_an_older_session_is_refused(running: Running) -> None:
    before = running.dealt().total()
    late = running.intent(expires_ns=running.client.now_ns() - 10 * SECOND_NS)
    assert "expired" in _text(running.send(late))
    assert "epoch" in _text(running.send(running.intent(epoch=0)))
    assert isinstance(running.send(running.intent(lots=float("nan"))), Refused)
    assert running.dealt().total() == before


def _text(answer: Answer) -> str:
    assert isinstance(answer, Refused)
    return answer.text


def test_workers_killed_at_any_moment_double_and_lose_nothing(running: Running) -> None:
    chance = random.Random(4)
    starts = running.client.health().worker_starts
    ended = threading.Event()

    def kill() -> None:
        for number in range(KILLS):
            until(lambda: running.ready() and running.client.health().worker_starts >= starts + number)  # noqa: B023
            time.sleep(chance.uniform(0.02, 0.12))
            psutil.Process(running.worker()).kill()
        ended.set()

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill)
        answers: list[tuple[OrderIntent, Answer]] = []
        while not ended.is_set() and len(answers) < 400 and not killing.done():
            intent = running.intent(0.01 if len(answers) % 2 else -0.01)
            answers.append((intent, running.send(intent)))
        killing.result(60)
    until(lambda: running.client.health().worker_starts == starts + KILLS and running.ready())
    taken = running.dealt()
    for intent, answer in answers:
        times = taken[intent.client_order_id]
        assert times <= 1
        if isinstance(answer, Accepted | Refused):
            assert times == isinstance(answer, Accepted), answer
    assert any(isinstance(answer, Accepted) for _, answer in answers)
    # A worker that was killed before it had read an order knows nothing of its key: that one may go once, now.
    for intent, answer in answers[-40:]:
        again = running.send(intent)
        if taken[intent.client_order_id] or isinstance(answer, Accepted):
            assert isinstance(again, Accepted | Unknown)
    after = running.dealt()
    assert all(times == 1 for key, times in after.items() if key)
    assert all(after[key] == times for key, times in taken.items())


@pytest.mark.parametrize(("where", "times"), [("late", 1), ("lost", 0), ("answered", 1)])
def test_an_order_that_hangs_is_ended_and_unknown_for_ever(
    running: Running, line: Line, where: str, times: int
) -> None:
    intent = running.intent()
    starts = running.client.health().worker_starts
    with line.holding("order_send", where) as held:
        assert isinstance(running.send(intent), Unknown)
        assert held.is_set()
        until(lambda: running.ready() and running.client.health().worker_starts == starts + 1)
        assert isinstance(running.send(intent), Unknown)
    until(lambda: running.dealt()[intent.client_order_id] == times)
    assert isinstance(running.send(intent), Unknown)
    time.sleep(0.2)
    assert running.dealt()[intent.client_order_id] == times


def test_a_question_that_hangs_is_ended(running: Running, line: Line) -> None:
    starts = running.client.health().worker_starts
    with line.holding("positions_get", "answered"), pytest.raises(BrokerError, match="Positions took longer"):
        asyncio.run(running.broker.positions())
    until(lambda: running.ready() and running.client.health().worker_starts == starts + 1)
    assert len(asyncio.run(running.broker.positions())) > 0


def test_a_terminal_that_hangs_is_told_and_takes_no_orders(running: Running, terminal: subprocess.Popen[bytes]) -> None:
    intent = running.intent()
    with hung(terminal):
        with pytest.raises(BrokerError):
            asyncio.run(running.broker.positions())
        health = running.client.health()
        assert not health.ready
        assert not health.trading_allowed
        assert "Positions" in health.reason
        assert isinstance(running.send(intent), Refused)  # no worker to hand it to: definitely not sent
    until(running.ready)
    assert running.dealt()[intent.client_order_id] == 0


def test_a_second_bridge_is_refused(running: Running, place: Path) -> None:
    assert "another bridge owns account 77" in refused(place / "bridge")
    assert "another bridge owns the terminal" in refused(place / "bridge", login="78")
    assert running.ready()


@pytest.mark.parametrize(
    ("changes", "name"), [({"login": "78"}, "FX_BRIDGE_LOGIN"), ({"mode": "real"}, "FX_BRIDGE_MODE")]
)
def test_another_account_than_the_one_meant_is_refused(
    running: Running, place: Path, changes: dict[str, str], name: str
) -> None:
    text = refused(place / "other", **changes)
    assert name in text
    assert "Traceback" not in text


@pytest.mark.parametrize(("where", "times"), [("late", 1), ("lost", 0), ("answered", 1)])
def test_a_bridge_killed_in_a_send_doubles_and_loses_nothing(line: Line, place: Path, where: str, times: int) -> None:
    folder = place / f"killed-{where}"
    with bridge(folder, order_limit_s="10") as first, ThreadPoolExecutor(1) as pool:
        intent = first.intent()
        with line.holding("order_send", where) as held:
            sending = pool.submit(first.send, intent)
            assert held.wait(20)
            first.process.kill()
            first.process.wait(10)
            assert isinstance(sending.result(20), Unknown)
            if where == "late":
                psutil.Process(first.worker()).kill()  # the terminal's own request goes on without it
    with bridge(folder) as second:
        until(lambda: second.dealt()[intent.client_order_id] == times)
        again = second.send(intent)
        assert isinstance(again, Accepted if where == "answered" else Unknown)
        assert second.dealt()[intent.client_order_id] == times


def certificate(folder: Path) -> tuple[Path, Path]:
    """Return PEM files of a certificate of this machine and its private key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1)).add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    paths = folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    paths[1].chmod(0o600)
    return paths


def test_with_tls_and_token_strangers_get_nothing(line: Line, place: Path) -> None:
    folder = place / "secure"
    folder.mkdir()
    cert, key = certificate(folder)
    secrets = folder / "secrets"
    secrets.write_text(f"token {TOKEN}\n")
    secrets.chmod(0o600)
    changes = {"tls_certificate": str(cert), "tls_key": str(key), "secrets_file": str(secrets)}
    with bridge(folder, where={"token": TOKEN, "authority": cert}, **changes) as right:
        assert right.client.require(login="77", mode="demo").ready
        assert isinstance(right.send(right.intent()), Accepted)
        before = right.dealt().total()
        for token in ("", "wrong", TOKEN[:-1], TOKEN + "x"):
            with BridgeClient(BridgeAddress(right.address, token, cert)) as stranger:
                with pytest.raises(BridgeCallError, match="UNAUTHENTICATED") as caught:
                    stranger.health()
                assert caught.value.not_sent
                broker = BridgeBroker(stranger, login="77")
                assert isinstance(asyncio.run(broker.send(right.intent())), Refused)
                broker.close()
        with BridgeClient(BridgeAddress(right.address, TOKEN)) as plain, pytest.raises(BridgeCallError):
            plain.health(2.0)
        assert right.dealt().total() == before
    logs = b"".join(path.read_bytes() for path in folder.rglob("*.log"))
    assert TOKEN.encode() not in logs


def test_rubbish_on_the_port_harms_nobody(running: Running) -> None:
    host, _, port = running.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=5) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" + os.urandom(4096))
    assert running.ready()
    import grpc

    with grpc.insecure_channel(running.address) as channel:
        for method, body in (("Send", b"\xff\xff"), ("Ticks", os.urandom(300)), ("Eval", b"")):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(f"/fx.bridge.v1.Bridge/{method}")(body, timeout=10)
            assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)
    assert running.ready()


def test_the_command_asks_the_bridge(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    import typer
    from typer.testing import CliRunner

    from fx_dagster.commands.bridge import register

    host, _, port = running.address.rpartition(":")
    for name in tuple(os.environ):
        if name.startswith("FX_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("FX_BRIDGE_HOST", host)
    monkeypatch.setenv("FX_BRIDGE_PORT", port)
    app = typer.Typer()
    register(app)
    done = CliRunner().invoke(app, ["bridge", "health", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["login"], told["mode"], told["ready"]) == ("77", "demo", True)


def test_a_terminal_of_its_own_ends_with_it(place: Path) -> None:
    with bridge(place / "own", simulated_address="") as own:
        assert isinstance(own.send(own.intent()), Accepted)
        children = psutil.Process(own.process.pid).children(recursive=True)
        assert len(children) == 2  # the worker and the terminal
        own.process.kill()
        own.process.wait(10)
        until(lambda: not any(_alive(child) for child in children))


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False
