"""Rules of alerts, and when each is told."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.live.alerts import HOUR_S, Alert, Limits, Notice, Severity, Suppressor, View, alerts

STATUS: dict[str, Any] = {"level": 1, "level_reason": "", "journal_problem": "", "model_problem": ""}
GOOD = View("paper", status=STATUS, heartbeat_age_s=1.0, running=True, level_age_s=500.0, disk_free=0.5)


def keys(view: View) -> list[str]:
    return [alert.key for alert in alerts(view)]


def with_status(**changes: Any) -> View:
    return replace(GOOD, status=STATUS | changes)


def test_a_session_in_health_needs_nobody() -> None:
    assert keys(GOOD) == []
    assert keys(View("paper")) == []


@pytest.mark.parametrize(
    ("view", "key"),
    [
        (replace(GOOD, kill_reason=""), "kill"),
        (with_status(level=4, level_reason="stale"), "level"),
        (replace(GOOD, heartbeat_age_s=46.0), "heartbeat"),
        (replace(GOOD, doubtful=({"client_order_id": "7", "symbol": "EURUSD", "state": "unknown"},)), "order 7"),
        (replace(GOOD, doubtful=({"client_order_id": "8", "symbol": "EURUSD", "state": "held"},)), "order 8"),
        (replace(GOOD, decisions={"EURUSD": {"breakers": ["daily_loss"]}}), "breaker daily_loss"),
        (replace(GOOD, decisions={"EURUSD": {"stage": "close_only"}}), "drawdown"),
        (replace(GOOD, decisions={"EURUSD": {"stage": "halt"}}), "drawdown"),
        (with_status(journal_problem="PostgreSQL is away"), "journal"),
        (with_status(broker_problem="the terminal lets no program trade"), "broker"),
        (with_status(feed_problem="the bridge does not answer"), "feed"),
        (with_status(feed_remark="this machine's clock is +5.0 s beside the broker's"), "clock"),
        (replace(GOOD, decisions={"EURUSD": {"drift": 0.8}}), "drift"),
        (with_status(model_problem="the active release is not known: release 3 was altered"), "release"),
        (replace(GOOD, disk_free=0.049), "disk"),
        (replace(GOOD, store_problem="refused"), "store"),
    ],
)
def test_each_thing_that_needs_a_person_is_told_with_what_to_do(view: View, key: str) -> None:
    found = alerts(view)
    assert [alert.key for alert in found] == [key]
    assert found[0].text
    assert found[0].mend


@pytest.mark.parametrize(
    "view",
    [
        replace(with_status(level=4), level_age_s=59.0),
        replace(GOOD, heartbeat_age_s=45.0),
        replace(GOOD, heartbeat_age_s=1e6, market_open=False),
        replace(GOOD, heartbeat_age_s=1e6, running=False),
        replace(with_status(level=4), running=False),
        replace(GOOD, decisions={"EURUSD": {"breakers": [], "stage": "halve", "drift": 0.79}}),
        replace(GOOD, decisions={"EURUSD": {"breakers": None, "stage": "nonsense", "drift": None}}),
        replace(GOOD, decisions={"EURUSD": {"breakers": ["spread"]}}, running=False),
        with_status(model_problem="no release is active"),
        replace(GOOD, disk_free=0.05),
        replace(GOOD, disk_free=None),
    ],
)
def test_what_is_usual_is_not_told(view: View) -> None:
    assert keys(view) == []


def test_a_stopped_account_is_not_also_missed() -> None:
    assert keys(replace(GOOD, kill_reason="news", heartbeat_age_s=1e6)) == ["kill"]


def test_what_an_engine_said_last_is_not_told_once_it_is_silent() -> None:
    assert keys(replace(with_status(level=4, journal_problem="x"), heartbeat_age_s=100.0)) == ["heartbeat"]


def test_a_breaker_is_one_alert_over_all_symbols() -> None:
    decisions = {f"S{n}": {"breakers": ["spread"]} for n in range(9)}
    found = alerts(replace(GOOD, decisions=decisions))
    assert len(found) == 1
    assert "and 4 more" in found[0].text


VIEWS = st.builds(
    View,
    account=st.just("paper"),
    store_problem=st.sampled_from(["", "away"]),
    status=st.none() | st.fixed_dictionaries(
        {"level": st.integers(0, 4)},
        optional={name: st.sampled_from(["", "x refused"]) for name in ("journal_problem", "model_problem")},
    ),
    heartbeat_age_s=st.floats(0, 1e6),
    running=st.booleans(),
    market_open=st.booleans(),
    kill_reason=st.none() | st.just("why"),
    level_age_s=st.none() | st.floats(0, 1e6),
    decisions=st.dictionaries(
        st.sampled_from(["EURUSD", "XAUUSD"]),
        st.fixed_dictionaries(
            {},
            optional={
                "breakers": st.none() | st.lists(st.sampled_from(["spread", "drawdown"])),
                "stage": st.sampled_from(["normal", "halt", "", "?"]),
                "drift": st.none() | st.floats(allow_nan=True),
            },
        ),
    ),
    doubtful=st.lists(
        st.fixed_dictionaries({"client_order_id": st.sampled_from("123"), "state": st.just("held")}), max_size=3
    ),
    disk_free=st.none() | st.floats(0, 1),
)  # fmt: skip


@given(VIEWS)
def test_any_view_gives_alerts_in_order_of_urgency_the_same_each_time(view: View) -> None:
    found = alerts(view, Limits())
    assert found == alerts(view, Limits())
    assert list(found) == sorted(found, key=lambda alert: -alert.severity)
    assert all(alert.text and alert.mend and "\n" not in alert.text for alert in found)


# -- what is told ------------------------------------------------------------------------------------------------------

A = Alert("a", Severity.WARNING, "a", "mend")
B = Alert("b", Severity.CRITICAL, "b", "mend")


def told(suppressor: Suppressor, found: list[Alert], now_s: float) -> list[tuple[str, str]]:
    notices = suppressor.due(found, now_s)
    for notice in notices:
        suppressor.sent(notice, now_s)
    return [(notice.alert.key, notice.kind) for notice in notices]


def test_an_alert_is_told_once_and_again_after_an_hour() -> None:
    suppressor = Suppressor()
    assert told(suppressor, [A, B], 0.0) == [("b", "new"), ("a", "new")]
    assert told(suppressor, [A, B], 3_599.0) == []
    assert told(suppressor, [A, B], 3_600.0) == [("b", "reminder"), ("a", "reminder")]


def test_what_cleared_is_told_once_it_stays_away_and_is_new_when_it_returns() -> None:
    suppressor = Suppressor()
    told(suppressor, [A], 0.0)
    assert told(suppressor, [], 59.0) == []
    assert told(suppressor, [A], 59.5) == []
    assert told(suppressor, [], 100.0) == []
    assert told(suppressor, [], 120.0) == [("a", "cleared")]
    assert told(suppressor, [], 200.0) == []
    assert told(suppressor, [A], 201.0) == [("a", "new")]


def test_what_was_not_sent_stays_due() -> None:
    suppressor = Suppressor()
    assert suppressor.due([A], 0.0) == suppressor.due([A], 1.0) == (Notice(A, "new"),)


def test_what_becomes_more_urgent_is_news() -> None:
    suppressor = Suppressor()
    told(suppressor, [A], 0.0)
    assert told(suppressor, [replace(A, severity=Severity.CRITICAL)], 1.0) == [("a", "new")]
    assert told(suppressor, [A], 2.0) == []


def test_the_most_urgent_goes_first_where_there_is_room_for_one() -> None:
    suppressor = Suppressor(per_hour_max=1)
    assert told(suppressor, [A, B], 0.0) == [("b", "new")]
    assert told(suppressor, [A, B], 1.0) == []
    assert told(suppressor, [A, B], 3_600.0) == [("b", "reminder")]


@given(
    st.lists(st.tuples(st.sets(st.sampled_from("abcdef")), st.floats(0.1, 2_000.0)), max_size=60),
    st.integers(1, 5),
)
def test_no_hour_has_more_than_its_messages_and_no_alert_is_repeated_early(
    steps: list[tuple[set[str], float]], most: int
) -> None:
    suppressor, now_s = Suppressor(per_hour_max=most), 0.0
    sent: list[tuple[float, str, str]] = []
    for present, pause_s in steps:
        now_s += pause_s
        found = [Alert(key, Severity.WARNING, key, "mend") for key in sorted(present)]
        for key, kind in told(suppressor, found, now_s):
            sent.append((now_s, key, kind))
            assert (key in present) == (kind != "cleared")
    for time_s, _, _ in sent:
        assert sum(time_s <= other < time_s + HOUR_S for other, _, _ in sent) <= most
    for key in "abcdef":
        mine = [(time_s, kind) for time_s, name, kind in sent if name == key]
        for (before_s, before), (after_s, after) in pairwise(mine):
            assert (after == "new") == (before == "cleared")
            assert after != "reminder" or after_s - before_s >= HOUR_S
