"""Spans of heartbeats in a real PostgreSQL: what the journal writes, and what is read of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fx_dagster.live.availability import Availability, overall
from resources.availability_store import FRESH_S, AvailabilityStore, SpanPace, SpanWriter, note_span
from resources.journal import JournalTarget, PostgresJournal
from resources.live_store import LiveStore
from resources.postgres import connect, connect_async, migrate

pytestmark = pytest.mark.integration

CLOCK = 1_490_140_800_000_000_000  # 2017-03-22T00:00Z, a Wednesday
TARGET = JournalTarget(account="paper", fingerprint="tape", window=(CLOCK, CLOCK + 10**15), stale_s=30.0)


@pytest.fixture
def url(database_url: str) -> str:
    migrate(database_url)
    return database_url


def run(work: Awaitable[None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))  # type: ignore[arg-type]


def status(**said: Any) -> dict[str, Any]:
    return {"state": "running", "level": 1, "clock_ns": CLOCK, **said}


def spans(url: str) -> list[tuple[Any, ...]]:
    with connect(url) as connection:
        return connection.execute(
            "SELECT epoch, level, deciding, ai, in_order, round(extract(epoch FROM ended_at - began_at) * 10)::int"
            " FROM live_span ORDER BY id"
        ).fetchall()


async def until(condition: Callable[[], bool], within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "did not come about in time"
        await asyncio.sleep(0.05)


def test_the_journal_tells_how_long_the_engine_could_decide(url: str) -> None:
    async def work() -> None:
        journal = await PostgresJournal.open(url, TARGET)
        journal.start()
        journal.beat(status())
        await until(lambda: [row[:5] for row in spans(url)] == [(1, 1, True, True, False)] and spans(url)[0][5] > 0)
        journal.beat(status(level=2))  # not worth a row
        journal.beat(status(level=3))
        await until(lambda: len(spans(url)) == 2)
        journal.beat(status(state="stopped", level=3))
        assert await journal.flush(10.0)
        await journal.close()
        again = await PostgresJournal.open(url, TARGET)
        again.start()
        again.beat(status())
        await until(lambda: len(spans(url)) == 4)
        await again.close()

    run(work())
    assert [row[:5] for row in spans(url)] == [
        (1, 1, True, True, False), (1, 3, True, False, False), (1, 3, False, False, True), (2, 1, True, True, False),
    ]  # fmt: skip
    with connect(url) as connection:
        touching = connection.execute(
            "SELECT began_at = lag(ended_at) OVER (ORDER BY id) FROM live_span WHERE epoch = 1 ORDER BY id"
        ).fetchall()
    assert [row[0] for row in touching] == [None, True, True], "a change of mind is no outage"


def test_a_silence_is_an_outage_and_a_restart_never_goes_on_with_a_row(url: str) -> None:
    async def work() -> None:
        journal = await PostgresJournal.open(url, TARGET)
        connection = await connect_async(url)
        writer = SpanWriter("paper", journal.session.session_id, 1, realtime=False)
        await note_span(connection, writer, status())
        await connection.execute(
            "UPDATE live_span SET began_at = now() - interval '100 s', ended_at = now() - make_interval(secs => %s)",
            (FRESH_S - 1,),
        )
        await note_span(connection, writer, status())
        assert len(spans(url)) == 1, "a fresh one goes on"
        await connection.execute("UPDATE live_span SET ended_at = now() - make_interval(secs => %s)", (FRESH_S + 1,))
        await note_span(connection, writer, status())
        assert [row[5] for row in spans(url)] == [940, 0]
        await note_span(connection, SpanWriter("paper", writer.session_id, 2, realtime=False), status())
        assert [row[0] for row in spans(url)] == [1, 1, 2]
        await connection.close()
        await journal.close()

    run(work())
    store = AvailabilityStore(url)
    days = store.by_day("paper")
    found = overall(days.values())
    assert found.required_s == pytest.approx(100.0, abs=3.0)
    assert found.required_s - found.decision_s == pytest.approx(FRESH_S + 1, abs=3.0)
    assert found.ai_s == found.decision_s
    store.record("paper", days)
    store.record("paper", days)
    assert store.recorded("paper") == days
    assert store.of_session("paper", 1).required_s == pytest.approx(100.0, abs=3.0)
    assert store.of_session("paper", 77) == Availability(0, 0, 0, 0)
    assert store.by_day("nobody") == {}


def test_sessions_at_a_real_broker_are_one_history_and_its_weekends_are_none(url: str) -> None:
    with connect(url) as connection:
        connection.execute("INSERT INTO live_account (account, epoch) VALUES ('real', 2)")
        for number, (began, ended) in enumerate(
            [("2026-03-18T12:00Z", "2026-03-20T22:30Z"), ("2026-03-22T21:00:36Z", "2026-03-23T21:00Z")], start=1
        ):
            connection.execute(
                "INSERT INTO live_session (account, state, fingerprint, replay_start, replay_end, position, clock,"
                " finished_at) VALUES ('real', 'finished', 'tape', 1, 9, 1, 1, %s)",
                (ended,),
            )
            connection.execute(
                "INSERT INTO live_span (account, session_id, epoch, realtime, level, deciding, ai, why, began_at,"
                " ended_at, began_clock, ended_clock, in_order) VALUES ('real', %s, %s, true, 3, true, false, '', %s,"
                " %s, 1, 1, false)",
                (number, number, began, ended),
            )
    days = AvailabilityStore(url).by_day("real")
    told = {day.isoformat(): (one.required_s, one.decision_s, one.ai_s) for day, one in days.items()}
    # From Friday 21:00 to Sunday 21:00 UTC the market is closed, with an engine and without.
    assert told["2026-03-18"] == (9 * 3600, 9 * 3600, 0)
    assert told["2026-03-20"] == (86_400, 86_400, 0)
    assert told["2026-03-23"] == (86_400, 86_400 - 36, 0)
    assert list(told)[:4] == ["2026-03-18", "2026-03-19", "2026-03-20", "2026-03-23"]
    assert told["2026-03-24"] == (86_400, 0, 0), "since then nobody is there"


def test_time_under_the_kill_switch_is_held(url: str) -> None:
    async def work() -> None:
        journal = await PostgresJournal.open(url, TARGET)
        connection = await connect_async(url)
        await note_span(connection, SpanWriter("paper", journal.session.session_id, 1, realtime=False), status())
        await connection.execute("UPDATE live_span SET began_at = began_at - interval '10 s'")
        await connection.close()
        await journal.close()

    run(work())
    store, live = AvailabilityStore(url), LiveStore(url)
    live.kill("paper", reason="a test", flatten=False, by_whom="a test")
    time.sleep(0.5)
    held = overall(store.by_day("paper").values())
    assert held.held_s >= 0.5
    live.resume("paper", by_whom="a test")
    time.sleep(0.2)
    after = overall(store.by_day("paper").values())
    assert after.held_s == pytest.approx(overall(store.by_day("paper").values()).held_s)
    assert after.required_s > held.required_s


def test_what_is_wrong_with_a_span_never_stops_the_journal(url: str) -> None:
    async def work() -> None:
        journal = await PostgresJournal.open(url, TARGET)
        with connect(url) as connection:
            connection.execute("DROP TABLE live_span")
        journal.start()
        journal.beat(status(level=1))
        await until(lambda: LiveStore(url).status("paper") is not None)
        journal.beat(status(level=2))

        def second() -> bool:
            row = LiveStore(url).status("paper")
            return row is not None and row.status["level"] == 2

        await until(second)
        assert journal.problem == ""
        assert await journal.flush(10.0)
        await journal.close()

    run(work())


def test_a_status_that_says_the_same_is_not_written_again_and_again() -> None:
    async def work() -> None:
        pace = SpanPace()
        assert pace.due(status())
        assert not pace.due(status())
        assert not pace.due(status(level=3)), "a change waits for its second, too"
        pace.forget()
        assert pace.due(status())
        assert pace.due(status(state="stopped")), "a good-bye does not wait"

    run(work())
