"""What an engine stands on and cannot mend: room on the disk, and this machine's clock.

A full disk is noticed before the journal fails: below a reserve nothing is opened any more, while what is open is still
written down and closed. A clock that was set, or that the market's runs ahead of, is told to a person and changes no
decision: these know the market's time and durations only.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fx_dagster.errors import FxError
from fx_dagster.live.disk import disk_usage
from fx_dagster.live.protocols import Clock, Journal
from fx_dagster.live.records import JournalEntry, KillSwitch
from fx_dagster.market.timeframes import SECOND_NS

ROOM_BYTES = 256 * 1024 * 1024
"""Free bytes below which nothing is opened: sixteen of PostgreSQL's 16 MB of log ahead, and hours of exits."""
ROOM_AGAIN = 1.1
"""Share of it that must be free before entries go on: at the edge they would come and go."""
STEP_S, STEP_SHOWN_S = 1.0, 600.0
"""Least jump of this machine's clock that is told, and for how long it is."""
AHEAD_S = 2.0
"""How far the market's clock may run ahead of this machine's: delays only ever make it run behind."""


def free_bytes(folders: Sequence[Path]) -> int | None:
    """Return the free bytes of the fullest disk that the folders are, or would be, on; None: none can be asked."""
    found = (disk_usage(folder) for folder in folders)
    # A disk that cannot be asked is the journal's to fail on.
    return min((usage.free for usage in found if usage is not None), default=None)


class RoomWatch:
    """Whether there is room left for what a session has to write.

    Args:
        free: returns free bytes; None: unknown, which stops nothing.
        room: bytes that must be free.
    """

    def __init__(self, free: Callable[[], int | None], *, room: int = ROOM_BYTES) -> None:
        self._free, self._room = free, room
        self.problem = ""
        """Why nothing may be opened; empty: it may."""
        self.look()

    def look(self) -> None:
        """Ask anew."""
        free = self._free()
        needed = self._room * (ROOM_AGAIN if self.problem else 1.0)
        self.problem = (
            f"the disk is almost full: {free / 1e6:.0f} MB left, {self._room / 1e6:.0f} MB are kept for exits"
            if free is not None and free < needed
            else ""
        )


class ClockWatch:
    """Whether this machine's clock can be believed.

    Args:
        clock: of this machine.
        ahead_s: how far the market's clock may run ahead of it.
    """

    def __init__(self, clock: Clock, *, ahead_s: float = AHEAD_S) -> None:
        self._clock, self._ahead_s = clock, ahead_s
        self._offset_ns = self._offset()
        self._stepped_s, self._told_until_ns = 0.0, 0

    def _offset(self) -> int:
        return self._clock.wall_ns() - self._clock.monotonic_ns()

    def problem(self, market_ns: int) -> str:
        """Return what is wrong at a market time (ns UTC); empty: nothing that can be seen from here.

        A market that lies behind is none: it is closed, silent, or a replay.
        """
        now, offset = self._clock.monotonic_ns(), self._offset()
        moved_s = (offset - self._offset_ns) / SECOND_NS
        self._offset_ns = offset  # it is slewed all the time: a jump is between two looks
        if abs(moved_s) >= STEP_S:
            self._stepped_s, self._told_until_ns = moved_s, now + int(STEP_SHOWN_S * SECOND_NS)
        ahead_s = (market_ns - self._clock.wall_ns()) / SECOND_NS
        if ahead_s > self._ahead_s:
            return f"this machine's clock is {ahead_s:.1f} s behind the market's"
        if now < self._told_until_ns:
            return f"this machine's clock was set by {self._stepped_s:+.1f} s, or it slept"
        return ""


class WatchedJournal:
    """A journal whose engine is told of its disk, and whose status says what stands around it.

    Args:
        journal: where everything goes.
        room: of its disk.
        clock: of its machine.
    """

    def __init__(self, journal: Journal, room: RoomWatch, clock: ClockWatch) -> None:
        self._journal, self._room, self._clock = journal, room, clock

    def post(self, entry: JournalEntry) -> "asyncio.Future[None]":
        """Queue an entry; see the protocol: what has happened is written as long as there is a byte."""
        return self._journal.post(entry)

    @property
    def problem(self) -> str:
        """Why the journal cannot be trusted now; empty: it can."""
        return self._journal.problem or self._room.problem

    @property
    def fatal(self) -> FxError | None:
        """The error after which this engine never writes again."""
        return self._journal.fatal

    @property
    def kill_switch(self) -> KillSwitch:
        """The switch as last read."""
        return self._journal.kill_switch

    def beat(self, status: Mapping[str, Any]) -> None:
        """Look around, and hand over the newest status with what was seen."""
        self._room.look()
        self._journal.beat({**status, "clock_problem": self._clock.problem(int(status["clock_ns"]))})

    async def finish(self, reason: str) -> None:
        """Mark the session finished."""
        await self._journal.finish(reason)

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything posted is committed; False: some is not."""
        return await self._journal.flush(timeout_s)
