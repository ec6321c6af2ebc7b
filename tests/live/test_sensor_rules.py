"""What the sensor does with the runs it finds."""

from datetime import UTC, datetime

import pytest
from dagster import DagsterRunStatus as Status

from fx_dagster.sensors import RunView, judge_runs
from resources.live_store import KillState

NOW = 1_000_000.0


def run(
    status: Status, *, age: float = 100.0, beat: float | None = None, ended: float | None = None, name: str = "run"
) -> RunView:
    """Make a run; ages and times in seconds before now."""
    started = None if status in (Status.QUEUED, Status.NOT_STARTED, Status.STARTING) else NOW - age
    return RunView(
        name, status, NOW - age, started, None if ended is None else NOW - ended, None if beat is None else NOW - beat
    )


def judge(*runs: RunView, kill: KillState | None = None) -> tuple[list[str], str]:
    verdict = judge_runs(runs, kill or KillState(), now_s=NOW, stale_s=45.0)
    return [one.run_id for one in verdict.stale], verdict.skip


def at(before_s: float) -> datetime:
    return datetime.fromtimestamp(NOW - before_s, tz=UTC)


def test_nothing_there_is_a_reason_to_launch() -> None:
    assert judge() == ([], "")


@pytest.mark.parametrize("status", [Status.STARTED, Status.CANCELING])
def test_a_fresh_heartbeat_is_left_alone(status: Status) -> None:
    stale, skip = judge(run(status, beat=10))
    assert stale == []
    assert "heartbeat 10 s ago" in skip


def test_a_run_that_only_just_started_needs_no_heartbeat_yet() -> None:
    assert judge(run(Status.STARTED, age=20))[1]
    assert judge(run(Status.STARTING, age=50))[1]


@pytest.mark.parametrize(
    "dead", [run(Status.STARTED, beat=50), run(Status.STARTED, age=60), run(Status.STARTING, age=70)]
)
def test_a_silent_run_is_reported_and_replaced(dead: RunView) -> None:
    assert judge(dead) == (["run"], "")


def test_a_queued_run_waits_for_ever_and_is_not_doubled() -> None:
    assert judge(run(Status.QUEUED, age=9999))[1]


def test_a_dead_run_before_a_queued_one_is_reported_and_nothing_is_launched() -> None:
    stale, skip = judge(run(Status.QUEUED, age=10, name="new"), run(Status.STARTED, beat=99, name="old"))
    assert stale == ["old"]
    assert skip


def test_a_failed_run_is_replaced() -> None:
    assert judge(run(Status.FAILURE, ended=3)) == ([], "")


def test_a_cancelled_run_stays_down_until_a_person_resumes() -> None:
    cancelled = run(Status.CANCELED, ended=30)
    assert "fx resume" in judge(cancelled)[1]
    assert "fx resume" in judge(cancelled, kill=KillState(resumed_at=at(31)))[1]
    assert judge(cancelled, kill=KillState(resumed_at=at(29)))[1] == ""


def test_the_cancelling_counts_even_if_a_later_run_ended_before_it() -> None:
    second = run(Status.FAILURE, age=50, ended=49, name="second")
    first = run(Status.CANCELED, age=100, ended=10, name="first")
    assert "cancelled" in judge(second, first)[1]


def test_the_kill_switch_keeps_down_but_the_dead_are_reported() -> None:
    stale, skip = judge(run(Status.STARTED, beat=99), kill=KillState(engaged=True, reason="news"))
    assert stale == ["run"]
    assert "kill switch is on (news)" in skip


def test_a_living_run_is_left_alone_under_the_kill_switch() -> None:
    assert "started" in judge(run(Status.STARTED, beat=1), kill=KillState(engaged=True))[1]
