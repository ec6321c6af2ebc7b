from datetime import UTC, datetime, timedelta

import pandas as pd

from fx_dagster.report.inputs import empty_frame
from fx_dagster.report.sessions import find_drill, summarise_live

KILLED = datetime(2026, 11, 23, 12, 0, 40, tzinfo=UTC)


def _decisions(rows: list[tuple[float, int, float]]) -> pd.DataFrame:
    """Rows are (seconds after the kill, level, latency in ms)."""
    kill_ns = int(KILLED.timestamp()) * 10**9
    return pd.DataFrame(
        {
            "decided_wall_ns": [kill_ns + int(after * 1e9) for after, _, _ in rows],
            "bar_time": 0,
            "symbol": "EURUSD",
            "level": [level for _, level, _ in rows],
            "level_reason": ["" if level < 3 else "models unreachable" for _, level, _ in rows],
            "latency_total_ms": [latency for _, _, latency in rows],
            "latency_model_ms": [latency if level < 3 else None for _, level, latency in rows],
        }
    )


def test_the_moments_of_a_drill_are_found_in_any_order() -> None:
    rows = [(-1.0, 2, 3.0), (0.2, 3, 21.0), (1.0, 3, 2.0), (6.0, 2, 3.0), (7.0, 2, 3.0)]
    drill = find_drill(_decisions(rows[::-1]), KILLED, KILLED + timedelta(seconds=2))
    assert drill.lower_level == 3
    assert drill.lower_at == KILLED + timedelta(seconds=0.2)
    assert drill.lower_latency_ms == 21.0
    assert drill.late == 0
    assert (drill.server_away_s, drill.level_lower_s) == (2.0, 6.0)


def test_a_decision_that_still_used_the_models_is_late_unless_it_had_begun() -> None:
    begun = (0.001, 2, 5.0)
    assert find_drill(_decisions([(-1, 2, 3), begun, (0.2, 3, 2)]), KILLED, None).late == 0
    assert find_drill(_decisions([(-1, 2, 3), begun, (0.1, 2, 5), (0.2, 3, 2)]), KILLED, None).late == 1


def test_a_session_that_never_dropped_says_so() -> None:
    drill = find_drill(_decisions([(-1, 2, 3), (1, 2, 3), (2, 2, 3)]), KILLED, None)
    assert drill.lower_at is None
    assert drill.late == 2


def test_an_emergency_is_not_the_former_level() -> None:
    drill = find_drill(_decisions([(-1, 2, 3), (1, 3, 3), (2, 4, 3), (3, 3, 3)]), KILLED, None)
    assert drill.level_back_at is None


def test_absent_model_calls_are_not_timed() -> None:
    frame = _decisions([(-1, 2, 3.0), (1, 3, 2.0)])
    live = summarise_live(frame, start=KILLED, end=KILLED, ticks=8, bare_call_ms=[1.0, 1.2])
    assert (live.end_to_end.n, live.model_call.n, live.bare_call.n) == (2, 1, 2)
    assert live.kill_drill is None
    assert [level.level for level in live.levels] == [2, 3]


def test_a_session_without_decisions() -> None:
    live = summarise_live(empty_frame("decisions"), start=KILLED, end=KILLED, ticks=0, killed_at=KILLED)
    assert live.decisions == 0
    assert live.kill_drill is not None
    assert live.kill_drill.lower_at is None
