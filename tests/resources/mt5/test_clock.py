import time

import pytest

from fx_dagster.errors import SettingsError
from resources.mt5.clock import ReplayClock, SteppedClock, SystemClock

SECOND = 1_000_000_000


class Monotonic:
    """The machine's monotonic clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 5_000 * SECOND
        monkeypatch.setattr(time, "monotonic_ns", lambda: self.now)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> Monotonic:
    return Monotonic(monkeypatch)


def test_market_time_runs_at_its_speed_and_stops_at_the_end(monotonic: Monotonic) -> None:
    clock = ReplayClock(100 * SECOND, 700 * SECOND, 60.0)
    assert (clock.now_ns(), clock.finished) == (100 * SECOND, False)
    monotonic.now += 5 * SECOND
    assert clock.now_ns() == 400 * SECOND
    assert clock.seconds_until(700 * SECOND) == pytest.approx(5.0)
    monotonic.now += 20 * SECOND
    assert (clock.now_ns(), clock.finished) == (700 * SECOND, True)
    assert clock.seconds_until(700 * SECOND) == 0.0


def test_a_pause_is_no_market_time(monotonic: Monotonic) -> None:
    clock = ReplayClock(0, 10_000 * SECOND, 10.0)
    monotonic.now += SECOND
    clock.pause()
    clock.pause()
    monotonic.now += 100 * SECOND
    assert (clock.now_ns(), clock.paused) == (10 * SECOND, True)
    clock.resume()
    clock.resume()
    assert (clock.now_ns(), clock.paused) == (10 * SECOND, False)
    monotonic.now += SECOND
    assert clock.now_ns() == 20 * SECOND


def test_another_process_goes_on_from_the_anchor(monotonic: Monotonic) -> None:
    first = ReplayClock(0, 10_000 * SECOND, 10.0)
    monotonic.now += 7 * SECOND
    second = ReplayClock(0, 10_000 * SECOND, 10.0, anchor_ns=first.anchor_ns)
    assert second.now_ns() == first.now_ns() == 70 * SECOND


def test_it_never_stands_before_its_start(monotonic: Monotonic) -> None:
    assert ReplayClock(100, 200, 1.0, anchor_ns=monotonic.now + SECOND).now_ns() == 100


@pytest.mark.parametrize("speed", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_speeds_are_refused(speed: float) -> None:
    with pytest.raises(SettingsError, match="FX_LIVE_REPLAY_SPEED"):
        ReplayClock(0, 1, speed)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(SettingsError, match="ends"):
        ReplayClock(2, 1, 1.0)


def test_a_stepped_clock_only_goes_forward() -> None:
    clock = SteppedClock(10)
    clock.move_to(20)
    assert clock.now_ns() == 20
    with pytest.raises(ValueError, match="cannot go back"):
        clock.move_to(19)


def test_the_system_clock_is_the_machine_s() -> None:
    assert abs(SystemClock().now_ns() - time.time_ns()) < SECOND
