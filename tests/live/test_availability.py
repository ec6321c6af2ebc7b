"""Availability: the arithmetic of intervals, and what counts as required."""

from datetime import date
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.live.availability import (
    Availability,
    History,
    Interval,
    Intervals,
    Span,
    availability,
    by_day,
    condition_of,
    difference,
    history_of,
    intersection,
    open_intervals,
    overall,
    required_of_market,
    required_of_tape,
    total_ns,
    union,
)
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS

edges = st.integers(0, 40)
parts = st.lists(st.tuples(edges, edges), max_size=8)
intervals = parts.map(union)


def covered(some: Intervals | list[Interval]) -> np.ndarray:
    """Return, for each of 41 moments, whether it is covered: the same thing said in the plainest way."""
    seen = np.zeros(41, dtype=bool)
    for start, end in some:
        seen[start:end] = True
    return seen


def at(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


@given(parts)
def test_union_covers_what_any_covers_and_is_tidy(some: list[Interval]) -> None:
    found = union(some)
    assert np.array_equal(covered(found), covered(some))
    assert all(start < end for start, end in found)
    assert all(before[1] < after[0] for before, after in pairwise(found))
    assert union(found) == found


@given(intervals, intervals)
def test_intersection_and_difference_are_those_of_sets(left: Intervals, right: Intervals) -> None:
    both, only = intersection(left, right), difference(left, right)
    assert np.array_equal(covered(both), covered(left) & covered(right))
    assert np.array_equal(covered(only), covered(left) & ~covered(right))
    assert union(both) == both
    assert union(only) == only
    assert both == intersection(right, left)
    assert total_ns(both) + total_ns(only) == total_ns(left) == int(covered(left).sum())


@given(st.builds(History, intervals, intervals, intervals, intervals), st.lists(edges, max_size=4))
def test_stretches_add_up_and_no_share_exceeds_another(history: History, cuts: list[int]) -> None:
    history = History(history.required, history.deciding, intersection(history.deciding, history.ai), history.held)
    whole = availability(history, (0, 41))
    bounds = [0, *sorted(cuts), 41]
    pieces = overall(availability(history, (a, b)) for a, b in pairwise(bounds))
    for name in ("required_s", "decision_s", "ai_s", "held_s"):
        assert getattr(pieces, name) == pytest.approx(getattr(whole, name), abs=1e-12)
    assert 0 <= whole.ai_s <= whole.decision_s <= whole.required_s
    assert whole.required_s + whole.held_s == pytest.approx(total_ns(history.required) / SECOND_NS)


spans = st.lists(
    st.tuples(st.integers(0, 30 * 24), st.integers(0, 400), st.booleans(), st.booleans()), min_size=1, max_size=12
)


@given(spans)
def test_days_add_up_to_the_whole_and_weekends_are_never_asked_for(
    drawn: list[tuple[int, int, bool, bool]],
) -> None:
    begin = at("2026-03-02T00:00")  # New York puts its clocks forward in that month's first half
    made, clock = [], begin
    for pause_h, length_min, deciding, in_order in drawn:
        start = clock + pause_h * HOUR_NS // 10
        clock = start + length_min * MINUTE_NS
        made.append(Span(start, clock, start, clock, deciding, deciding, in_order))
    now = clock + DAY_NS
    history = history_of(made, [], [], now)
    days = by_day(history)
    together, whole = overall(days.values()), availability(history, (begin, now))
    assert together.required_s == pytest.approx(whole.required_s)
    assert together.decision_s == pytest.approx(whole.decision_s)
    assert all(day.weekday() < 5 for day in days)
    assert all(one.required_s <= 86_400 for one in days.values())


def test_a_real_market_asks_for_nothing_on_weekends_and_holidays() -> None:
    friday = at("2026-03-20T12:00")
    one = Span(friday, friday + HOUR_NS, friday, friday + HOUR_NS, True, True)
    monday = at("2026-03-23T12:00")
    required = required_of_market([one], monday)
    # New York is 4 h behind UTC: closed from Friday 21:00 to Sunday 21:00.
    assert required == ((friday, at("2026-03-20T21:00")), (at("2026-03-22T21:00"), monday))
    assert open_intervals(at("2026-12-25T00:00"), at("2026-12-26T00:00")) == ()
    assert open_intervals(at("2027-01-01T00:00"), at("2027-01-01T20:00")) == ()
    assert required_of_market([], monday) == ()


def test_an_outage_over_a_weekend_costs_its_open_hours_only() -> None:
    thursday, back = at("2026-03-19T21:00"), at("2026-03-22T22:00")
    first = Span(thursday, at("2026-03-20T20:00"), thursday, at("2026-03-20T20:00"), True, True)
    second = Span(back, at("2026-03-23T21:00"), back, at("2026-03-23T21:00"), True, False)
    days = by_day(history_of([first, second], [], [], second.end))
    assert list(days) == [date(2026, 3, 20), date(2026, 3, 23)]
    assert days[date(2026, 3, 20)] == Availability(86_400, 82_800, 82_800, 0)
    assert days[date(2026, 3, 23)] == Availability(86_400, 82_800, 0, 0)
    assert days[date(2026, 3, 23)].decision == pytest.approx(23 / 24)
    assert overall(days.values()).ai == pytest.approx(23 / 48)


def test_time_under_the_kill_switch_is_held_not_lost() -> None:
    start = at("2026-03-18T00:00")
    one = Span(start, start + HOUR_NS, start, start + HOUR_NS, True, True)
    held = [(start + HOUR_NS, start + 3 * HOUR_NS)]
    found = availability(history_of([one], [], held, start + 4 * HOUR_NS), (0, start + DAY_NS))
    assert found == Availability(7_200, 3_600, 3_600, 7_200)


def test_a_tape_that_was_stopped_in_order_waits_and_one_that_died_counts() -> None:
    wall, clock = at("2026-03-21T12:00"), at("2017-03-22T00:00")  # a Saturday here, a Wednesday there
    one = Span(wall, wall + 60 * SECOND_NS, clock, clock + HOUR_NS, True, True)
    later = wall + 100 * SECOND_NS
    assert total_ns(required_of_tape([one], later)) == 100 * SECOND_NS
    calm = Span(one.start, one.end, one.start_clock, one.end_clock, True, True, in_order=True)
    assert required_of_tape([calm], later) == ((wall, one.end),)
    again = Span(later, later + SECOND_NS, one.end_clock, one.end_clock, True, True, in_order=True)
    assert total_ns(required_of_tape([one, again], later + 9 * SECOND_NS)) == 101 * SECOND_NS
    assert total_ns(required_of_tape([calm, again], later + 9 * SECOND_NS)) == 61 * SECOND_NS


def test_a_tapes_own_weekend_is_left_out() -> None:
    wall, friday = at("2026-03-18T00:00"), at("2017-03-17T20:00")
    hours = 72  # one hour a second: Friday 20:00 to Monday 20:00; closed from Friday 21:00 to Sunday 21:00 UTC
    one = Span(wall, wall + hours * SECOND_NS, friday, friday + hours * HOUR_NS, True, True)
    required = required_of_tape([one], one.end)
    assert total_ns(required) == (hours - 48) * SECOND_NS
    asleep = Span(wall, wall + SECOND_NS, friday + 2 * HOUR_NS, friday + 3 * HOUR_NS, True, True)
    assert required_of_tape([asleep], wall + DAY_NS) == ()


@pytest.mark.parametrize(
    ("status", "deciding", "ai", "why"),
    [
        ({"level": 1}, True, True, ""),
        ({"level": 2}, True, True, ""),
        ({"level": 3, "level_reason": "no Triton"}, True, False, "no Triton"),
        ({"level": 4, "level_reason": "stale"}, False, False, "stale"),
        ({"level": 0}, True, True, ""),
        ({"level": 0, "model_problem": "no release is active"}, True, False, "no release is active"),
        ({"level": 1, "journal_problem": "away"}, False, False, "away"),
        ({"level": 1, "broker_problem": "gone"}, False, False, "gone"),
        ({"level": 1, "feed_problem": "cut"}, False, False, "cut"),
        ({"level": 1, "state": "stopped"}, False, False, "stopped"),
    ],
)
def test_a_heartbeat_says_what_the_engine_could_do(
    status: dict[str, object], deciding: bool, ai: bool, why: str
) -> None:
    found = condition_of({"state": "running", **status})
    assert (found.deciding, found.ai, found.why) == (deciding, ai, why)
    assert found.in_order == ("state" in status)
