import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import soak
from bench.soak import (
    Bill,
    Decided,
    Outage,
    Record,
    Watcher,
    checks,
    grown,
    highest_bound,
    made_count,
    outage,
    outages_of,
    section,
    started_again,
    trend,
)
from fx_dagster.commands import console
from fx_dagster.live.latency import BOUNDS_MS, Histogram

TIMES = [5.0 * place for place in range(120)]


@settings(deadline=None)  # the first example imports scipy.stats
@given(st.floats(-200, 200), st.floats(1, 1_000))
def test_a_straight_line_has_its_own_slope(per_hour: float, level: float):
    found = trend(TIMES, [level + per_hour * t / 3600 for t in TIMES])
    assert found.per_hour == pytest.approx(per_hour, abs=1e-6)
    assert found.low <= found.per_hour + 1e-9
    assert found.high >= found.per_hour - 1e-9


def test_a_leak_under_noise_is_no_flat_memory():
    noise = np.random.default_rng(1).normal(0.0, 0.5, len(TIMES))
    leaking = trend(TIMES, [450 + 60 * t / 3600 + more for t, more in zip(TIMES, noise, strict=True)])
    assert not leaking.flat
    assert leaking.low < 60 < leaking.high
    assert trend(TIMES, (450 + noise).tolist()).flat


def test_what_grew_in_the_first_half_only_is_flat():
    found = trend(TIMES, [min(400 + t, 690.0) for t in TIMES])
    assert found.per_hour == 0.0
    assert found.flat
    assert found.median == 690.0


def test_less_than_a_hundredth_an_hour_counts_as_flat():
    assert trend(TIMES, [1_000 + 9.0 * t / 3600 for t in TIMES]).flat
    assert not trend(TIMES, [1_000 + 11.0 * t / 3600 for t in TIMES]).flat


def test_too_few_samples_say_nothing():
    with pytest.raises(ValueError, match="2 samples"):
        trend([0.0, 1.0, 2.0], [1.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="0 samples"):
        trend([], [])
    with pytest.raises(ValueError, match="quarter"):
        grown([0.0, 1.0], [3, 3])


def test_counts_are_compared_after_the_first_quarter_and_without_single_peaks():
    assert grown(TIMES, [9] * 30 + [20] * 45 + [99] + [20] * 44) == (20, 20)
    assert grown(TIMES, [20] * 60 + [21] * 60) == (20, 21)


def test_kills_come_in_their_order_at_different_seconds_of_a_minute():
    due = [soak.kill_s(number, 300.0) for number in range(1, 12)]
    assert all(300.0 * number <= at < 300.0 * number + 60.0 for number, at in enumerate(due, start=1))
    seconds = sorted(at % 60.0 for at in due)
    assert max(np.diff([*seconds, seconds[0] + 60.0])) < 10.0
    assert soak.kill_s(2, 20.0) < 50.0


@given(st.lists(st.floats(0.01, 400), min_size=1, max_size=60), st.lists(st.floats(0.01, 400), max_size=60))
def test_the_bound_between_two_statuses_is_that_of_the_new_durations(new: list[float], old: list[float]):
    histogram = Histogram()
    for one in old:
        histogram.add(one)
    before = histogram.buckets()
    for one in new:
        histogram.add(one)
    bound = highest_bound(before, histogram.buckets(), len(new), 0.5)
    median = sorted(new)[math.ceil(0.5 * len(new)) - 1]
    assert bound in (*BOUNDS_MS, math.inf)
    assert bound >= median / 1.06  # buckets are right within a twentieth
    below = max((one for one in BOUNDS_MS if one < bound), default=0.0)
    assert median >= below / 1.06


def test_without_earlier_durations_all_are_new():
    assert highest_bound([], [[1.0, 5], [10.0, 10]], 10, 0.5) == 1.0
    assert highest_bound([], [[1.0, 5], [10.0, 10]], 10, 0.99) == 10.0
    assert highest_bound([[1.0, 5]], [[1.0, 5]], 3, 0.5) == math.inf


def test_a_tick_of_which_nothing_is_known_is_missing():
    assert Bill(10, 6, 1, 1, 2).missing == 0
    assert Bill(11, 6, 1, 1, 2).missing == 1


def decided(at_s: float, level: int, symbol: str = "A", *, asked: bool = True, answered: bool | None = None) -> Decided:
    return Decided(at_s, symbol, level, asked, level < 3 if answered is None else answered)


def test_an_outage_is_followed_from_the_kill_to_the_last_symbol():
    seen = [
        decided(99.0, 1),
        decided(100.2, 3),
        decided(100.4, 3, "B"),
        decided(101.0, 3, "C", asked=False),
        decided(103.5, 3, answered=True),
        decided(164.0, 1, asked=False),
        decided(165.0, 1, "B"),
        decided(166.0, 1, "C"),
        decided(170.0, 1),
    ]
    found = outage(100.0, math.inf, seen)
    assert found == Outage(pytest.approx(0.2), pytest.approx(3.5), pytest.approx(66.0), 3, 0)


def test_what_was_not_seen_is_none():
    assert outage(100.0, 400.0, [decided(99.0, 3), decided(101.0, 1), decided(400.0, 3)]).down_s is None
    still = outage(100.0, 400.0, [decided(101.0, 3), decided(102.0, 3, "B"), decided(110.0, 3)])
    assert (still.answered_s, still.risen_s, still.fallen) == (None, None, 2)
    half = outage(100.0, 400.0, [decided(101.0, 3), decided(102.0, 3, "B"), decided(103.0, 1, answered=True)])
    assert half.answered_s == pytest.approx(3.0)
    assert half.risen_s is None


def test_a_decision_without_an_answer_above_the_traditional_level_is_wrong():
    found = outage(0.0, math.inf, [decided(1.0, 3), decided(2.0, 1, answered=False), decided(3.0, 3, answered=True)])
    assert found.wrong == 1


def test_the_market_can_be_counted_anew():
    expected = soak.SYMBOLS * soak.RATE * 3
    assert made_count(3) == made_count(3)
    assert abs(made_count(3) - expected) < 6 * math.sqrt(expected)


# -- a whole record ------------------------------------------------------------------------------------------------

MADE = 100 * len(TIMES)


def sample(place: int) -> dict[str, object]:
    ticks = 100 * (place + 1)
    histogram = Histogram()
    histogram.add(0.2, 98 * (place + 1))
    histogram.add(7.0, 2 * (place + 1))
    return {
        "at_s": 1_000 + TIMES[place], "began": True, "state": "running", "level": 1, "engine_mb": 450.0,
        "triton_mb": 300.0, "postgres_mb": 40.0, "valkey_mb": 9.0, "regions": 12, "load": 1.5,
        "files": 21, "threads": 14, "tasks": 8, "cpu_s": 0.5 * place,
        "pending": 0, "held": 0, "sent": ticks, "ticks": ticks - 2, "ticks_rejected": {"crossed": 2},
        "ticks_dropped": 0, "ticks_waiting_max": 50, "decisions": ticks, "level_1": ticks - 10, "level_2": 0,
        "level_3": 10, "level_4": 0, "questions": 4, "orders": 2, "deals": 3, "balance": 9_990.0,
        "latency": {"tick": histogram.summary(), "model": histogram.summary()},
    }  # fmt: skip


def record() -> Record:
    return Record(
        seconds=600, kill_every_s=300.0, samples=[sample(place) for place in range(len(TIMES))], kills=[1_300.0],
        events=[(1_299.0, "Triton", "restarted", ""), (1_302.5, "Triton", "restarted", "")], starts=1,
        decisions=[decided(1_300.5, 3), decided(1_304.0, 3, answered=True), decided(1_365.0, 1)],
        bars=dict.fromkeys(map(str, range(soak.SYMBOLS)), 10), balances=(9_990.0, 9_990.0), journalled=(2, 3, True),
        replayed=(MADE, 50, 0),
    )  # fmt: skip


def failing(seen: Record, made: int | None = MADE) -> list[str]:
    return [check.name for check in checks(seen, made) if not check.holds]


def test_a_good_record_holds_everything():
    assert failing(record()) == []
    assert started_again(record()) == [2.5]


def spoil(**last: object):
    def change(seen: Record) -> None:
        seen.samples[-1] |= last

    return change


def leak(seen: Record) -> None:
    for place, one in enumerate(seen.samples):
        one["engine_mb"] = 450.0 + 0.1 * place


def descriptors(seen: Record) -> None:
    for one in seen.samples[90:]:
        one["files"] = 22


SPOILT = {
    "the engine's memory is flat": leak,
    "no tick lost": spoil(ticks=MADE - 3),
    "none dropped": spoil(ticks=MADE - 3, ticks_dropped=1),
    soak.OPEN_CHECK: descriptors,
    "the engine was started once": lambda seen: setattr(seen, "starts", 2),
    "models answer again within 5 s of each kill": lambda seen: setattr(seen, "decisions", seen.decisions[:1]),
    "every decision has a level": spoil(level_3=9),
    "every symbol's every bar was decided once": lambda seen: seen.bars.update({"7": 9}),
    "the balance is what the deals add up to": lambda seen: setattr(seen, "balances", (9_990.0, 9_990.5)),
    "replayed from the tapes, the same bit for bit": lambda seen: setattr(seen, "replayed", (MADE, 50, 1)),
    "the journal holds every order and deal": lambda seen: setattr(seen, "journalled", (1, 3, True)),
}


@pytest.mark.parametrize("name", SPOILT)
def test_each_thing_that_goes_wrong_is_found_by_its_own_check(name: str):
    seen = record()
    SPOILT[name](seen)
    assert failing(seen) == [name]


def test_every_check_is_spoilt_once():
    assert {check.name for check in checks(record(), MADE)} == set(SPOILT)


def test_ticks_that_were_made_and_never_read_are_lost():
    assert failing(record(), MADE + 5) == ["no tick lost"]


def test_a_slow_return_of_the_models_is_found():
    seen = record()
    seen.decisions[1] = decided(1_305.5, 3, answered=True)
    assert failing(seen) == ["models answer again within 5 s of each kill"]


def test_a_record_cut_short_is_judged_by_what_the_engine_read():
    seen = record()
    seen.cut, seen.bars, seen.journalled = True, {"A": 3}, (2, 3, False)
    assert failing(seen, None) == []


def test_the_page_tells_figures_checks_and_outages():
    seen = record()
    text = section(seen, checks(seen, MADE), 10, "img/soak.svg")
    assert "| no tick lost | yes | 12,000 made = 11,998 taken + 2 rejected" in text
    assert "| models answer again | 4.00 s (4.00 … 4.00) |" in text
    assert "| last symbol is up again (60 s of health are demanded) | 65.00 s" in text
    assert "![memory, latency and level over the run](img/soak.svg)" in text
    assert "**no**" not in text
    leak(seen)
    assert "| the engine's memory is flat | **no** | +72.00 MB an hour" in section(seen, checks(seen, MADE), 10, "")


def test_the_plot_is_the_same_for_the_same_record(tmp_path):
    first, second = tmp_path / "a" / "soak.svg", tmp_path / "soak.svg"
    soak.draw(record(), first)
    soak.draw(record(), second)
    assert first.read_bytes() == second.read_bytes()
    assert b"<svg" in first.read_bytes()


def test_a_torn_line_of_the_engine_waits_for_its_rest(tmp_path):
    probe, seen = tmp_path / "probe.jsonl", Record(600, 300.0)
    lines = [json.dumps(sample(place)) + "\n" for place in range(3)]
    with console.step("watched") as step:
        watcher = Watcher(
            SimpleNamespace(triton=None, postgres=None, valkey=None),
            seen,
            probe=probe,
            step=step,
            heartbeat=lambda _: True,
        )
        watcher.sample(None)
        assert seen.samples == []
        probe.write_text(lines[0] + lines[1][:40])
        watcher.sample(None)
        assert [one["sent"] for one in seen.samples] == [100]
        probe.write_text("".join(lines))
        watcher.sample(None)
        watcher.sample(None)
        assert [one["sent"] for one in seen.samples] == [100, 200, 300]


def test_a_decision_without_models_after_the_server_was_back_is_no_part_of_the_outage():
    seen = [decided(110.0, 1), decided(130.0, 3)]
    assert outage(100.0, 400.0, seen, back_s=105.0).down_s is None
    assert outage(100.0, 400.0, seen, back_s=140.0).down_s == pytest.approx(30.0)
    good = record()
    good.kills, good.events = [1_295.0], [(1_296.0, "Triton", "restarted", "")]
    assert outages_of(good)[0].down_s is None
    assert failing(good) == ["models answer again within 5 s of each kill"]  # of no kill it is known


def test_a_kill_that_follows_ends_the_outage_before_it():
    seen = record()
    seen.kills = [1_300.0, 1_303.0]
    first, second = outages_of(seen)
    assert first.answered_s is None
    assert second.down_s is None
