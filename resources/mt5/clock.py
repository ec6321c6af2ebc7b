"""What time it is in the market: now, in a replay, or as a test says."""

import time
from typing import Protocol

from fx_dagster.errors import SettingsError


class Clock(Protocol):
    """Tells market time."""

    def now_ns(self) -> int:
        """Return the market's present, ns UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        """Return the present, ns UTC."""
        return time.time_ns()


class SteppedClock:
    """A clock that stands still until it is moved.

    Args:
        now_ns: where it stands, ns UTC.
    """

    def __init__(self, now_ns: int) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        """Return where it stands, ns UTC."""
        return self._now_ns

    def move_to(self, now_ns: int) -> None:
        """Move it to ``now_ns``.

        Raises:
            ValueError: that is in its past.
        """
        if now_ns < self._now_ns:
            raise ValueError(f"the clock stands at {self._now_ns} and cannot go back to {now_ns}")
        self._now_ns = now_ns


class ReplayClock:
    """Market time that runs over ``[start_ns, end_ns]`` at ``speed`` market seconds a second.

    It follows the machine's monotonic clock, so that a step of the wall clock changes nothing. That clock is the same
    in all processes since the machine started: a process that resumes a replay passes the ``anchor_ns`` of the one
    before, and market time has run on meanwhile.

    Args:
        start_ns: market time at the anchor, ns UTC.
        end_ns: market time at which it stops, ns UTC.
        speed: market seconds a second, above 0.
        anchor_ns: monotonic time at which it started; None: now.

    Raises:
        SettingsError: the end is before the start, or the speed is not above 0.
    """

    def __init__(self, start_ns: int, end_ns: int, speed: float, *, anchor_ns: int | None = None) -> None:
        if end_ns < start_ns:
            raise SettingsError(
                f"replay ends ({end_ns}) before it starts ({start_ns})", mend="widen FX_LIVE_REPLAY_DAYS"
            )
        if not 0 < speed < float("inf"):
            raise SettingsError(f"replay speed {speed} is not above 0", mend="set FX_LIVE_REPLAY_SPEED to 1 or more")
        self._start_ns, self._end_ns, self._speed = start_ns, end_ns, speed
        self._anchor_ns = time.monotonic_ns() if anchor_ns is None else anchor_ns
        self._paused_ns: int | None = None

    @property
    def start_ns(self) -> int:
        """Market time at which the replay starts, ns UTC."""
        return self._start_ns

    @property
    def end_ns(self) -> int:
        """Market time at which the replay stops, ns UTC."""
        return self._end_ns

    @property
    def speed(self) -> float:
        """Market seconds a second."""
        return self._speed

    @property
    def anchor_ns(self) -> int:
        """Monotonic time that belongs to ``start_ns``; it moves on with each pause."""
        return self._anchor_ns

    @property
    def finished(self) -> bool:
        """Whether market time has reached the end."""
        return self.now_ns() >= self._end_ns

    @property
    def paused(self) -> bool:
        """Whether market time stands still."""
        return self._paused_ns is not None

    def now_ns(self) -> int:
        """Return market time, ns UTC; never beyond the end, never going back."""
        monotonic = time.monotonic_ns() if self._paused_ns is None else self._paused_ns
        return min(self._end_ns, self._start_ns + int(max(monotonic - self._anchor_ns, 0) * self._speed))

    def pause(self) -> None:
        """Let market time stand still; again: no effect."""
        if self._paused_ns is None:
            self._paused_ns = time.monotonic_ns()

    def resume(self) -> None:
        """Let market time run on from where it stands; when it runs: no effect."""
        if self._paused_ns is not None:
            self._anchor_ns += time.monotonic_ns() - self._paused_ns
            self._paused_ns = None

    def seconds_until(self, market_ns: int) -> float:
        """Return how many real seconds from now market time reaches ``market_ns``; 0 if it has."""
        return max(market_ns - self.now_ns(), 0) / self._speed / 1e9
