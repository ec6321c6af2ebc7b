"""What a drill finds: when it has passed, and how it waits."""

import time

import pytest

from fx_dagster.errors import ServerError
from resources.drills.findings import Findings, wait_for


def test_a_drill_passes_where_something_was_seen_and_nothing_was_amiss() -> None:
    told: list[str] = []
    findings = Findings(told.append)
    assert not findings.passed, "nothing was seen"
    findings.found("it rains", None, "no window")
    assert not findings.passed, "nothing could be seen"
    findings.took("it comes back", 1.25, 2.0)
    assert findings.passed
    findings.found("nobody is wet", False, "one is")
    assert not findings.passed
    assert findings.text == "unseen: it rains: no window; it comes back: after 1.25 s; NOT nobody is wet: one is"
    assert told[1] == "it comes back: after 1.25 s (as expected)"
    assert not findings.touched
    findings.did("rained")
    assert findings.touched


@pytest.mark.parametrize(("seconds", "passed"), [(2.0, True), (2.01, False), (None, False)])
def test_a_duration_is_held_against_its_limit(seconds: float | None, passed: bool) -> None:
    findings = Findings()
    findings.took("it comes back", seconds, 2.0, waited_s=9.0)
    assert findings.passed is passed
    assert findings.rows()[0]["limit_s"] == 2.0
    assert ("not within 9.0 s" in findings.text) is (seconds is None)


def test_waiting_takes_an_absent_server_for_no_answer_and_a_fault_for_a_fault() -> None:
    answers = iter([ServerError("away"), OSError("gone"), 0, 7])

    def probe() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait_for(probe, 5.0, poll_s=0.0) == 7
    began = time.monotonic()
    assert wait_for(lambda: None, 0.1, poll_s=0.01) is None
    assert time.monotonic() - began >= 0.1
    with pytest.raises(ZeroDivisionError):
        wait_for(lambda: 1 // 0, 1.0)
