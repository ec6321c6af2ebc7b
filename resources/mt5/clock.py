"""What time it is in the market: now, in a replay, or as a test says."""

import time
from collections.abc import Callable
from typing import Final, Protocol

from fx_dagster.errors import SettingsError

QUOTE_FAR_NS: Final = 15 * 60 * 1_000_000_000
"""A quote further from this machine's time is old, as after a weekend, or wrong."""
QUOTES_COUNT_NS: Final = 10 * 60 * 1_000_000_000


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


class QuotedClock:
    """The broker's time as its quotes tell it, carried on by this machine's monotonic clock.

    A quote is as old as its way was long: of the differences between quotes and the monotonic clock the largest is the
    truest. Those of the last ten to twenty minutes count, so that it follows a clock that drifts. Before the first
    quote it is this machine's time.

    Args:
        wall_ns: this machine's time, ns UTC.
        monotonic_ns: a time that never goes back.
    """

    def __init__(
        self, wall_ns: Callable[[], int] = time.time_ns, monotonic_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._older_ns: int | None = None
        self._newer_ns: int | None = None
        self._turn_ns = 0
        self._latest_ns = 0

    def hear(self, quoted_ns: int) -> None:
        """Take the time (ns UTC) of a quote that has just come; one that is far from this machine's time is not."""
        now = self._monotonic_ns()
        if abs(quoted_ns - self._wall_ns()) > QUOTE_FAR_NS:
            return
        if self._newer_ns is None or now >= self._turn_ns:
            self._older_ns, self._newer_ns, self._turn_ns = self._newer_ns, None, now + QUOTES_COUNT_NS
        offset = quoted_ns - now
        self._newer_ns = offset if self._newer_ns is None else max(self._newer_ns, offset)

    def now_ns(self) -> int:
        """Return the broker's present, ns UTC; it never goes back."""
        offsets = [offset for offset in (self._older_ns, self._newer_ns) if offset is not None]
        now = self._monotonic_ns() + max(offsets) if offsets else self._wall_ns()
        self._latest_ns = max(self._latest_ns, now)
        return self._latest_ns

    @property
    def skew_ns(self) -> int:
        """By how much the broker's clock is ahead of this machine's; 0 before the first quote."""
        return self.now_ns() - self._wall_ns() if self._newer_ns is not None else 0


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
