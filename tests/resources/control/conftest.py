"""A session's rows in a real PostgreSQL, and a real control server on loopback."""

import asyncio
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from psycopg.types.json import Jsonb

from fx_dagster.settings import AlertSettings, ControlSettings, Settings
from resources.control.app import ControlParts
from resources.control.auth import Role, create_token
from resources.control.server import choose, control_parts, make_server
from resources.control.stream import Hub
from resources.postgres import connect, migrate

STATUS: dict[str, Any] = {
    "state": "running", "level": 3, "level_name": "traditional only", "level_reason": "model absent", "orders": 2,
    "deals": 1, "decisions": 40, "level_1": 10, "level_3": 30, "ticks": 900, "ticks_rejected": {"crossed": 2},
    "equity": 10_012.5, "balance": 10_000.0, "currency": "USD", "positions": 1, "clock_ns": 1_500_000_000_000_000_000,
    "release": 0, "model_problem": "", "model_failures": 4, "journal_problem": "", "feed_problem": "", "killed": False,
    "ticks_dropped": 3, "ticks_waiting_max": 17, "symbols_halted": [],
    "latency": {"tick": {"n": 900, "p50_ms": 0.1, "p90_ms": 0.2, "p99_ms": 1.5, "max_ms": 4.0}},
    "caches": {"predictions": {"miss": 3, "memory_hit": 1, "hit_rate": 0.25}},
}  # fmt: skip


@dataclass
class Session:
    """Writes rows as an engine's journal does."""

    url: str
    session_id: int

    def decide(self, number: int, symbol: str = "EURUSD", **outcome: Any) -> None:
        with connect(self.url) as connection:
            connection.execute(
                "INSERT INTO decision (account, session_id, symbol, number, kind, time_ns, bar_time, level,"
                " level_reason, action, score, outcome, features, feature_hash, release, client_order_id,"
                " latency_total_ms, latency_model_ms, epoch, decided_at)"
                " VALUES ('paper', %s, %s, %s, 'bar', 5, 4, 3, 'why', 'open', 'NaN', %s, '', 'hash', NULL, %s, 1.5,"
                " NULL, 1, now())",
                (self.session_id, symbol, number, Jsonb(outcome), 2**62 + number),
            )

    def order(self, key: int, state: str = "journalled") -> None:
        with connect(self.url) as connection:
            connection.execute(
                "INSERT INTO trade_order (client_order_id, account, session_id, symbol, purpose, lots, stop, target,"
                " decided_ns, expires_ns, risk_money, epoch, comment, sequence, state, changed_ns)"
                " VALUES (%s, 'paper', %s, 'EURUSD', 'open', 0.1, 1.1, 1.3, 5, 9, 5, 1, '', 1, %s, 5)"
                " ON CONFLICT (client_order_id) DO UPDATE SET state = excluded.state",
                (key, self.session_id, state),
            )

    def event(self, kind: str, message: str) -> None:
        with connect(self.url) as connection:
            connection.execute(
                "INSERT INTO live_event (session_id, kind, message, market_time, at) VALUES (%s, %s, %s, 5, now())",
                (self.session_id, kind, message),
            )

    def beat(self, **changes: Any) -> None:
        with connect(self.url) as connection:
            connection.execute(
                "INSERT INTO live_status (account, session_id, epoch, pid, host, status)"
                " VALUES ('paper', %s, 1, 1, 'here', %s)"
                " ON CONFLICT (account) DO UPDATE SET status = excluded.status, beat_at = clock_timestamp()",
                (self.session_id, Jsonb(STATUS | changes)),
            )


def begin_session(url: str) -> Session:
    with connect(url) as connection:
        connection.execute("INSERT INTO live_account (account) VALUES ('paper')")
        row = connection.execute(
            "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
            " VALUES ('paper', 'tape', 1, 9, 1, 1) RETURNING session_id"
        ).fetchone()
    assert row is not None
    session = Session(url, row[0])
    session.beat()
    return session


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


@pytest.fixture
def session(url: str) -> Session:
    return begin_session(url)


class FakeSwitch:
    """Stands for the two commands, which tests of their own run: what it is asked is what counts here."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.wait = threading.Event()
        self.wait.set()

    def promote(self, version: int, *, reason: str, force: bool) -> dict[str, Any]:
        self.wait.wait(10)
        self.asked.append(("promote", version, reason, force))
        return {"release": version, "promoted": True}

    def rollback(self, *, reason: str) -> dict[str, Any]:
        self.asked.append(("rollback", reason))
        return {"release": 1, "before": 2}


@dataclass
class Control:
    """A running control server, and clients of it."""

    parts: ControlParts
    url: str
    read: str
    operate: str
    switch: FakeSwitch
    thread: threading.Thread
    loop: asyncio.AbstractEventLoop
    hub: Hub

    def publish(self, topic: str, body: dict[str, Any]) -> None:
        """Publish as the server's own feeds do: in its loop."""
        self.loop.call_soon_threadsafe(self.hub.publish, topic, body)

    def get(self, path: str, token: str | None = None, **keywords: Any) -> httpx.Response:
        return self.ask("GET", path, self.read if token is None else token, **keywords)

    def post(self, path: str, token: str | None = None, **keywords: Any) -> httpx.Response:
        keywords["headers"] = fresh() | keywords.get("headers", {})
        if "content" not in keywords:
            keywords.setdefault("json", {})
        return self.ask("POST", path, self.operate if token is None else token, **keywords)

    def ask(self, method: str, path: str, token: str, **keywords: Any) -> httpx.Response:
        headers = keywords.pop("headers", {}) | ({"Authorization": f"Bearer {token}"} if token else {})
        with httpx.Client(base_url=self.url, trust_env=False, timeout=10.0) as client:
            return client.request(method, path, headers=headers, **keywords)


def fresh() -> dict[str, str]:
    return {"X-Fx-Nonce": secrets.token_urlsafe(16), "X-Fx-Timestamp": str(int(time.time()))}


@contextmanager
def running(settings: Settings, control: ControlSettings, **keywords: Any) -> Iterator[Control]:
    switch = FakeSwitch()
    alert = keywords.pop("alert", AlertSettings(every_s=0.2))
    parts = control_parts(settings, choose(control), alert, switch=switch, **keywords)
    server = make_server(parts)
    loops: list[asyncio.AbstractEventLoop] = []

    async def work() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve()

    thread = threading.Thread(target=asyncio.run, args=(work(),), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started
        read, operate = (create_token(parts.store, role=role, name=f"{role}er")[1] for role in Role)
        yield Control(
            parts,
            f"http://127.0.0.1:{parts.control.port}",
            read,
            operate,
            switch,
            thread,
            loops[0],
            server.config.app.state.hub,
        )
    finally:
        server.should_exit = True
        thread.join(10)


def settings_for(url: str, home: Path, **more: Any) -> Settings:
    return Settings(home=home, postgres={"url": url}, **more)  # type: ignore[arg-type]


@pytest.fixture
def serve(url: str, free_home: Path) -> Callable[..., Any]:
    """Return what runs a control server: ``with serve(failures_per_minute_max=3) as control``."""

    def start(*, drills: Any = None, alert: AlertSettings | None = None, redis: str = "", **control: Any) -> Any:
        settings = settings_for(url, free_home, redis={"url": redis})
        keywords = {"drills": drills} | ({"alert": alert} if alert else {})
        return running(settings, ControlSettings(stream_poll_s=0.05, **control), **keywords)

    return start


@pytest.fixture
def control(serve: Callable[..., Any]) -> Iterator[Control]:
    with serve() as server:
        yield server
