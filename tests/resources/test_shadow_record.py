"""Champion and challenger read from a real PostgreSQL."""

from datetime import UTC, datetime

import numpy as np
import psycopg
import pytest

from fx_dagster.market.timeframes import HOUR_NS
from resources.postgres import migrate, psycopg_url
from resources.shadow_record import shadow_record

pytestmark = pytest.mark.integration

START = int(np.datetime64("2017-12-03T22:00", "ns").astype(np.int64))
HOURS = 24 * 6


def write_session(
    url: str, account: str, *, growth: float, release: int, tape: str = "tape", hours: int = HOURS
) -> int:
    """Write a session of whole hours with a decision an hour and a closed trade every six."""
    with psycopg.connect(psycopg_url(url), options="-c search_path=fx") as connection:
        connection.execute("INSERT INTO live_account (account) VALUES (%s) ON CONFLICT DO NOTHING", (account,))
        connection.execute("UPDATE live_session SET state = 'finished' WHERE account = %s", (account,))
        row = connection.execute(
            "INSERT INTO live_session (account, fingerprint, replay_start, replay_end, position, clock)"
            " VALUES (%s, %s, %s, %s, %s, %s) RETURNING session_id",
            (account, tape, START, START + hours * HOUR_NS, START, START),
        ).fetchone()
        assert row is not None
        cursor = connection.cursor()
        numbers = range(1, hours + 1)
        cursor.executemany(
            "INSERT INTO account_state VALUES (%s, %s, 'USD', %s, %s, 0, '[]')",
            [(row[0], START + hour * HOUR_NS, 1e4, 1e4 * (1 + growth) ** hour) for hour in numbers],
        )
        cursor.executemany(
            "INSERT INTO deal VALUES (%s, %s, %s, 0, 'EURUSD', %s, 0.1, 1.1, 0, 0, 1, 'target', %s, 10)",
            [(row[0], hour, account, START + hour * HOUR_NS, hour % 6 == 0) for hour in numbers if hour % 3 == 0],
        )
        cursor.executemany(
            "INSERT INTO decision (account, session_id, symbol, number, kind, time_ns, bar_time, level, level_reason,"
            " action, outcome, features, feature_hash, release, latency_total_ms, epoch, decided_at)"
            " VALUES (%s, %s, 'EURUSD', %s, 'bar', %s, %s, 1, '', 'wait', '{}', '', 'c0ffee', %s, 1, 1, %s)",
            [
                (account, row[0], hour, START + hour * HOUR_NS - 1, START + (hour - 1) * HOUR_NS,
                 None if hour % 5 == 0 else release, datetime.now(UTC))
                for hour in numbers
            ],
        )  # fmt: skip
        return int(row[0])


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


def test_the_whole_days_of_both_accounts_are_paired(url: str) -> None:
    write_session(url, "paper", growth=1e-4, release=1)
    write_session(url, "paper-shadow", growth=3e-4, release=2, hours=HOURS - 10)
    found = shadow_record(url, "paper", "paper-shadow", champion=1, challenger=2)
    assert len(found.day) == 4
    np.testing.assert_allclose(found.champion, 1.0001**24 - 1)
    np.testing.assert_allclose(found.challenger, 1.0003**24 - 1)
    assert (found.champion_trades, found.challenger_trades) == (16, 16)


def test_only_the_days_of_the_two_releases_count(url: str) -> None:
    write_session(url, "paper", growth=1e-4, release=1)
    write_session(url, "paper-shadow", growth=3e-4, release=2)
    assert len(shadow_record(url, "paper", "paper-shadow", champion=1, challenger=3).day) == 0
    assert len(shadow_record(url, "paper", "paper-shadow", champion=2, challenger=2).day) == 0
    assert len(shadow_record(url, "paper", "paper-shadow").day) == 4


def test_a_session_begun_anew_on_purpose_does_not_replace_its_days(url: str) -> None:
    write_session(url, "paper", growth=1e-4, release=1)
    write_session(url, "paper-shadow", growth=3e-4, release=2, tape="superseded: tape")
    write_session(url, "paper-shadow", growth=9e-4, release=2)
    found = shadow_record(url, "paper", "paper-shadow", champion=1, challenger=2)
    np.testing.assert_allclose(found.challenger, 1.0003**24 - 1)


def test_accounts_without_sessions_or_on_other_tapes_have_no_days(url: str) -> None:
    assert len(shadow_record(url, "paper", "paper-shadow").day) == 0
    write_session(url, "paper", growth=1e-4, release=1)
    write_session(url, "paper-shadow", growth=3e-4, release=2, tape="another")
    assert len(shadow_record(url, "paper", "paper-shadow").day) == 0
