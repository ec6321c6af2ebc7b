"""``fx availability``, and when it is counted by itself, over a real PostgreSQL."""

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from fx_dagster import cli
from fx_dagster.schedules import hourly_availability
from resources.postgres import connect, migrate

pytestmark = pytest.mark.integration

CLOCK = 1_490_140_800_000_000_000  # 2017-03-22T00:00Z, a Wednesday


@pytest.fixture
def url(free_home: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    migrate(database_url)
    return database_url


def days(url: str, *spans: tuple[str, str]) -> None:
    """Write a finished session with spans, of which the first is with models."""
    with connect(url) as connection:
        connection.execute("INSERT INTO live_account (account, epoch) VALUES ('paper', 2)")
        connection.execute(
            "INSERT INTO live_session (account, state, fingerprint, replay_start, replay_end, position, clock,"
            " finished_at) VALUES ('paper', 'finished', 'tape', 1, 9, 1, 1, %s)",
            (spans[-1][1],),
        )
        for number, (began, ended) in enumerate(spans):
            connection.execute(
                "INSERT INTO live_span (account, session_id, epoch, realtime, level, deciding, ai, why, began_at,"
                " ended_at, began_clock, ended_clock, in_order) VALUES ('paper', 1, %s, false, 1, true, %s, '', %s,"
                " %s, %s, %s, false)",
                (number, number == 0, began, ended, CLOCK, CLOCK),
            )


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.run(["availability", "--json", *arguments]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_each_day_is_shown_and_all_together(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys)["days"] == {}
    # 21:00 UTC in summer is 17:00 in New York: the trading day turns.
    days(url, ("2026-06-16T20:00Z", "2026-06-16T21:00Z"), ("2026-06-16T21:00:36Z", "2026-06-16T22:00Z"))
    found = shown(capsys)
    assert list(found["days"]) == ["2026-06-16", "2026-06-17"]
    assert found["days"]["2026-06-16"]["decision"] == 1.0
    assert found["days"]["2026-06-17"] == {
        "decision": 0.99, "ai": 0.0, "required_s": 3600.0, "decision_s": 3564.0, "ai_s": 0.0, "held_s": 0.0,
    }  # fmt: skip
    assert found["all"]["decision"] == pytest.approx(0.995)
    assert found["target"] == 0.999
    assert list(shown(capsys, "--days", "1")["days"]) == ["2026-06-17"]
    assert cli.run(["availability"]) == 0
    said = capsys.readouterr().out
    assert "99.000%" in said
    assert "36.0 s" in said


def test_it_is_counted_once_there_is_something_to_count(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    skipped = hourly_availability(dg.build_schedule_context())
    assert isinstance(skipped, dg.SkipReason)
    assert "never had a live session" in (skipped.skip_message or "")
    days(url, ("2026-06-16T20:00Z", "2026-06-16T21:00Z"))
    assert isinstance(hourly_availability(dg.build_schedule_context()), dg.RunRequest)
    monkeypatch.setenv("FX_POSTGRES_URL", "postgresql+psycopg2://me:secret@127.0.0.1:1/db")
    away = hourly_availability(dg.build_schedule_context())
    assert isinstance(away, dg.SkipReason)
    assert "cannot be read" in (away.skip_message or "")
    assert "secret" not in (away.skip_message or "")
    monkeypatch.delenv("FX_POSTGRES_URL")
    assert isinstance(hourly_availability(dg.build_schedule_context()), dg.SkipReason)
