"""What the sensor does with the runs it finds."""

from datetime import UTC, datetime

import pytest
from dagster import DagsterRunStatus as Status

from fx_dagster.live_job import tagged_settings
from fx_dagster.sensors import SHADOW_PAUSE_S, RunView, Verdict, judge_runs, judge_shadow
from resources.live_store import KillState

NOW = 1_000_000.0


def run(
    status: Status,
    *,
    age: float = 100.0,
    beat: float | None = None,
    ended: float | None = None,
    name: str = "run",
    pinned: int | None = None,
    by_sensor: bool = False,
) -> RunView:
    """Make a run; ages and times in seconds before now."""
    started = None if status in (Status.QUEUED, Status.NOT_STARTED, Status.STARTING) else NOW - age
    ended_s, beat_s = (None if before is None else NOW - before for before in (ended, beat))
    return RunView(name, status, NOW - age, started, ended_s, beat_s, pinned, by_sensor)


def shadow(*runs: RunView, challenger: int | None = 7, kill: KillState | None = None, wanted: bool = True) -> Verdict:
    return judge_shadow(runs, challenger, kill or KillState(), wanted=wanted, now_s=NOW, stale_s=45.0)


def names(runs: tuple[RunView, ...]) -> list[str]:
    return [one.run_id for one in runs]


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
    "dead", [run(Status.STARTED, beat=50), run(Status.STARTED, age=60), run(Status.STARTING, age=190)]
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


def test_a_session_is_wanted_unless_a_person_keeps_it_down() -> None:
    def wanted(*runs: RunView, engaged: bool = False) -> bool:
        return judge_runs(runs, KillState(engaged=engaged), now_s=NOW, stale_s=45.0).wanted

    assert wanted()
    assert wanted(run(Status.STARTED, beat=1))
    assert wanted(run(Status.FAILURE, ended=1))
    assert not wanted(engaged=True)
    assert not wanted(run(Status.STARTED, beat=1), engaged=True)
    assert not wanted(run(Status.CANCELED, ended=1))


def test_a_challenger_gets_a_session_and_keeps_it() -> None:
    assert (shadow().launch, shadow().anew) == (True, False)
    kept = shadow(run(Status.STARTED, beat=1, pinned=7))
    assert "started" in kept.skip
    assert kept.ended == kept.stale == ()


def test_another_challengers_session_is_ended_before_the_next_one_begins_anew() -> None:
    old = run(Status.STARTED, beat=1, pinned=6, name="old")
    found = shadow(old)
    assert (names(found.ended), found.skip) == (["old"], "run old of release 6 is ending")
    ending = shadow(run(Status.CANCELING, beat=1, pinned=6, name="old"))
    assert (ending.ended, ending.launch) == ((), False)
    begun = shadow(run(Status.CANCELED, ended=1, pinned=6, by_sensor=True))
    assert (begun.launch, begun.anew) == (True, True)


def test_without_a_challenger_its_session_is_ended() -> None:
    found = shadow(run(Status.QUEUED, pinned=7), challenger=None)
    assert (names(found.ended), found.launch) == (["run"], False)
    assert shadow(challenger=None).skip == "no release is in shadow"


def test_what_keeps_the_live_session_down_ends_the_shadow_until_it_is_resumed() -> None:
    found = shadow(run(Status.STARTED, beat=1, pinned=7), wanted=False)
    assert (names(found.ended), found.skip) == (["run"], "the live session is kept down")
    assert shadow(wanted=False).skip == "the live session is kept down"
    after = shadow(run(Status.CANCELED, ended=1, pinned=7, by_sensor=True))
    assert (after.launch, after.anew) == (True, False)


def test_a_shadow_that_a_person_cancelled_stays_down_until_resumed() -> None:
    cancelled = run(Status.CANCELED, ended=30, pinned=7)
    assert "cancelled by a person" in shadow(cancelled).skip
    assert shadow(cancelled, kill=KillState(resumed_at=at(29))).launch
    assert shadow(cancelled, challenger=8).launch


def test_a_shadow_that_fails_is_tried_again_after_a_pause() -> None:
    fresh = shadow(run(Status.FAILURE, ended=SHADOW_PAUSE_S - 1, pinned=7))
    assert fresh.skip == "run run failed; the next starts in 1 s"
    assert shadow(run(Status.FAILURE, ended=SHADOW_PAUSE_S, pinned=7)).launch
    silent = shadow(run(Status.STARTED, beat=50, pinned=7))
    assert (names(silent.stale), silent.launch) == (["run"], False)
    assert names(shadow(run(Status.STARTED, beat=50, pinned=6), challenger=None).stale) == ["run"]


def test_a_runs_tags_are_laid_over_the_settings() -> None:
    tags = {"fx/role": "shadow", "fx/account": "paper-shadow", "fx/pinned": "7", "dagster/sensor_name": "x"}
    assert tagged_settings(tags) == {"FX_LIVE_ACCOUNT": "paper-shadow", "FX_RELEASE_PINNED": "7"}
    assert tagged_settings({"fx/role": "live"}) == {}
