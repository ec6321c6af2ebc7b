import json
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from fx_dagster.errors import DataError
from fx_dagster.report.summary import (
    CheckOutcome,
    ChecksSummary,
    Interval,
    Step,
    Summary,
    level_counts,
    package_versions,
    read_summary,
)


def test_a_summary_comes_back_from_its_json_unchanged(summary: Summary, tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text(summary.model_dump_json(indent=2))
    assert read_summary(path) == summary


def test_an_unknown_key_is_named(summary: Summary, tmp_path: Path) -> None:
    content = json.loads(summary.model_dump_json())
    content["data"]["sybmols"] = ["EURUSD"]
    path = tmp_path / "summary.json"
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"data\.sybmols"):
        read_summary(path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"summary\.json"):
        read_summary(path)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fx demo"):
        read_summary(tmp_path / "summary.json")


def test_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError):
        Step(name="models", seconds=float("nan"))


def test_a_time_without_zone_is_refused(summary: Summary) -> None:
    content = json.loads(summary.model_dump_json())
    content["created"] = datetime(2026, 11, 23, 12).isoformat()  # noqa: DTZ001 - the point of the test
    with pytest.raises(ValidationError, match="created"):
        Summary.model_validate(content)


def test_an_interval_does_not_stand_on_its_head() -> None:
    with pytest.raises(ValidationError, match="lies above"):
        Interval(low=0.6, high=0.5, method="wilson")


def test_checks_are_counted_with_the_failed_ones_first() -> None:
    outcomes = ("passed", "failed", "warned", "passed")
    checks = ChecksSummary.of([CheckOutcome(asset="bars", name=str(n), outcome=o) for n, o in enumerate(outcomes)])  # type: ignore[arg-type]
    assert (checks.passed, checks.warned, checks.failed) == (2, 1, 1)
    assert [result.outcome for result in checks.results] == ["failed", "warned", "passed", "passed"]


def test_levels_are_counted_with_their_commonest_reason_first() -> None:
    counts = level_counts([2, 3, 3, 3], ["", "late", "unreachable", "unreachable"])
    assert [(count.level, count.decisions, count.share) for count in counts] == [(2, 1, 0.25), (3, 3, 0.75)]
    assert list(counts[1].reasons.items()) == [("unreachable", 2), ("late", 1)]


def test_versions_leave_out_what_is_not_installed() -> None:
    assert list(package_versions(["numpy", "no-such-package-here"])) == ["numpy"]
