"""One engine as a process against a real PostgreSQL: killed again and again, stopped, fenced, steered."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psycopg
import pytest

from fx_dagster.decision.codes import Level
from fx_dagster.live.supervisor import EXIT_FENCED, EXIT_FINISHED, EXIT_REFUSED, EXIT_STOPPED
from fx_dagster.market.timeframes import HOUR_NS
from resources.live_store import LiveStore
from resources.postgres import connect, migrate

pytestmark = pytest.mark.integration

ENGINE = [sys.executable, "-m", "fx_dagster.live_engine"]
BARS_SOME = 6


@pytest.fixture
def environment(free_home: Path, database_url: str) -> dict[str, str]:
    """The settings of a short session: a few days of the sample, an hour in a tenth of a second."""
    migrate(database_url)
    settings = {
        "FX_POSTGRES_URL": database_url,
        "FX_LIVE_REPLAY_DAYS": "3",
        "FX_LIVE_REPLAY_SPEED": "36000",
        "FX_LIVE_HEARTBEAT_STALE_S": "20",
    }
    return {**os.environ, **settings, "PYTHONUNBUFFERED": "1"}


@contextmanager
def engine(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(ENGINE, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


def until(condition: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        time.sleep(0.05)


def decided(store: LiveStore, account: str = "paper") -> int:
    session = store.last_session(account)
    return 0 if session is None else len(store.decisions(session.session_id))


def history(store: LiveStore, account: str) -> dict[str, pd.DataFrame]:
    """Return what must not depend on kills; keys of orders carry account and session, so they are left out."""
    session = store.last_session(account)
    assert session is not None
    number = session.session_id
    orders = store.orders(number)
    return {
        "decisions": store.decisions(number)[["symbol", "bar_time", "action", "score"]],
        "orders": orders[["symbol", "purpose", "lots", "stop", "target", "decided_ns", "state"]],
        "deals": store.deals(number)[["ticket", "symbol", "time_ns", "lots", "price", "profit", "reason"]],
        "equity": store.equity(number),
    }


def test_kill_9_again_and_again_changes_nothing(environment: dict[str, str], database_url: str, tmp_path: Path) -> None:
    store = LiveStore(database_url)
    log = tmp_path / "engine.log"
    calm = environment | {"FX_LIVE_ACCOUNT": "calm", "FX_LIVE_REPLAY_SPEED": "10000000"}
    with engine(calm, log) as process:
        assert process.wait(90) == EXIT_FINISHED, log.read_text()
    kills = 0
    for _ in range(5):
        before = decided(store)
        with engine(environment, log) as process:
            until(lambda: decided(store) >= before + BARS_SOME or process.poll() is not None)  # noqa: B023
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                kills += 1
    with engine(environment | {"FX_LIVE_REPLAY_SPEED": "10000000"}, log) as process:
        assert process.wait(90) == EXIT_FINISHED, log.read_text()
    assert kills >= 3
    undisturbed, killed = history(store, "calm"), history(store, "paper")
    assert len(undisturbed["deals"]) > 2
    for name, frame in undisturbed.items():
        # Each restart adds nothing to the account's history: it is the same market, lived through once.
        pd.testing.assert_frame_equal(killed[name], frame, obj=name)
    session = store.last_session("paper")
    assert session is not None
    kinds = store.events(session.session_id)["kind"].tolist()
    assert kinds.count("resumed") == kills
    with connect(database_url) as connection:
        doubled = connection.execute(
            "SELECT client_order_id FROM deal WHERE client_order_id <> 0 GROUP BY client_order_id, session_id"
            " HAVING count(*) > 1"
        ).fetchall()
    assert doubled == []


def test_sigterm_ends_it_within_ten_seconds_and_it_goes_on_later(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    store, log = LiveStore(database_url), tmp_path / "engine.log"
    with engine(environment, log) as process:
        until(lambda: decided(store) >= BARS_SOME)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == EXIT_STOPPED, log.read_text()
        assert time.monotonic() - began < 10
    status = store.status("paper")
    assert status is not None
    assert status.status["state"] == "stopped"
    with engine(environment | {"FX_LIVE_REPLAY_SPEED": "10000000"}, log) as process:
        assert process.wait(60) == EXIT_FINISHED, log.read_text()
    with engine(environment, log) as process:
        assert process.wait(60) == EXIT_FINISHED, "a finished session is not begun again"


def test_a_second_engine_takes_no_tick(environment: dict[str, str], database_url: str, tmp_path: Path) -> None:
    store, log = LiveStore(database_url), tmp_path / "engine.log"
    with engine(environment, log):
        until(lambda: decided(store) >= 1)
        with engine(environment, tmp_path / "second.log") as second:
            assert second.wait(30) == EXIT_FENCED
        assert "traded by another engine" in (tmp_path / "second.log").read_text()
        with connect(database_url) as connection:
            assert connection.execute("SELECT epoch FROM live_account").fetchall() == [(1,)]
        before = decided(store)
        until(lambda: decided(store) > before)


def test_a_stopped_process_that_continues_is_fenced(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    """SIGSTOP keeps the lock and the connection; only epoch and heartbeat tell."""
    environment = environment | {"FX_LIVE_HEARTBEAT_STALE_S": "2"}
    store, log = LiveStore(database_url), tmp_path / "engine.log"
    with engine(environment, log) as first:
        until(lambda: decided(store) >= 2)
        first.send_signal(signal.SIGSTOP)
        time.sleep(2.5)
        with engine(environment, tmp_path / "second.log"):
            before = decided(store)
            until(lambda: decided(store) > before)
            first.send_signal(signal.SIGCONT)
            assert first.wait(15) == EXIT_FENCED, log.read_text()
            before = decided(store)
            until(lambda: decided(store) > before)


def test_bad_settings_are_refused_by_name(environment: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    with engine(environment | {"FX_SOURCE_SYMBOLS": "EURUSX"}, log) as process:
        assert process.wait(30) == EXIT_REFUSED
    assert "EURUSX" in log.read_text()
    with engine(environment | {"FX_LIVE_REPLAY_SPED": "2"}, log) as process:
        assert process.wait(30) == EXIT_REFUSED
    assert "FX_LIVE_REPLAY_SPED" in log.read_text()


def _fx(environment: dict[str, str], *arguments: str) -> str:
    program = "import typer; from fx_dagster.commands import live; app = typer.Typer(); live.register(app); app()"
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], env=environment, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kill_and_resume_from_the_command_line(environment: dict[str, str], database_url: str, tmp_path: Path) -> None:
    store, log = LiveStore(database_url), tmp_path / "engine.log"
    assert '"killed": true' in _fx(environment, "kill", "--reason", "a test", "--flatten", "--json")
    state = store.kill_state("paper")
    assert (state.engaged, state.flatten, state.reason) == (True, True, "a test")
    with engine(environment, log) as process:
        until(lambda: decided(store) >= BARS_SOME)
        session = store.last_session("paper")
        assert session is not None
        assert store.orders(session.session_id).empty
        _fx(environment, "resume")
        until(lambda: not store.orders(session.session_id).empty or process.poll() is not None)
        assert not store.orders(session.session_id).empty
    assert not store.kill_state("paper").engaged


def test_live_in_the_foreground_shows_json_lines(environment: dict[str, str]) -> None:
    fast = environment | {"FX_LIVE_REPLAY_SPEED": "1000000"}
    out = _fx(fast, "live", "--json", "--until", "2017-12-28T00:00")
    assert '"state": "finished"' in out.splitlines()[-1]
    assert '"market_time": "2017-12-28T00:00:00Z"' in out.splitlines()[-1]


def _allow_connections(url: str, yes: bool) -> None:
    server, _, name = url.replace("+psycopg2", "").rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as other:
        other.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {'true' if yes else 'false'}".encode())
        if not yes:
            other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def test_with_postgresql_away_it_lives_on_without_entries_and_loses_nothing(
    environment: dict[str, str], database_url: str, tmp_path: Path
) -> None:
    store, log = LiveStore(database_url), tmp_path / "engine.log"
    with engine(environment, log) as process:
        until(lambda: decided(store) >= BARS_SOME)
        _allow_connections(database_url, False)
        try:
            time.sleep(2.5)
            assert process.poll() is None, log.read_text()
        finally:
            _allow_connections(database_url, True)
        assert process.wait(60) == EXIT_FINISHED, log.read_text()
    session = store.last_session("paper")
    assert session is not None
    rows = store.decisions(session.session_id)
    away = rows[rows["level"] == int(Level.EMERGENCY)]
    assert len(away) > 2
    assert away["level_reason"].str.contains("journal: PostgreSQL").any()
    assert "open" not in set(away["action"])
    assert int(rows["bar_time"].diff().max()) <= 50 * HOUR_NS, "only the weekend may be missing"
    assert rows["epoch"].unique().tolist() == [1]
    assert int(rows["level"].iloc[-1]) < Level.EMERGENCY
