"""What the engine needs from outside, as small protocols; ``resources`` implements them."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import pandas as pd

from fx_dagster.errors import FxError
from fx_dagster.execution import orders as order_states
from fx_dagster.execution.lifecycle import OrderBook
from fx_dagster.execution.orders import OrderIntent
from fx_dagster.live.records import JournalEntry, KillSwitch
from fx_dagster.live.ticks import TickBatch
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.service import ModelService


class Clock(Protocol):
    """This machine's time. The market's time is the feed's."""

    def monotonic_ns(self) -> int:
        """Return a time that never goes back; for durations."""
        ...

    def wall_ns(self) -> int:
        """Return ns since 1970, UTC; for records only."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Let others work for that long."""
        ...


@dataclass(frozen=True)
class FeedInfo:
    """What a feed carries.

    Attributes:
        symbols: canonical symbols; a batch's ``symbol`` column indexes them.
        base: timeframe of decisions.
        tick_spacing_s: longest usual pause between two ticks of a symbol in an open market; for ticks modelled from
            bars, the bar's length.
        lossless: whether the feed waits for a slow reader (a replay), so that nothing needs to be dropped.
    """

    symbols: tuple[str, ...]
    base: Timeframe
    tick_spacing_s: float
    lossless: bool


class TickFeed(Protocol):
    """Ticks as they come, and the history before them. Calls block for milliseconds at most."""

    @property
    def info(self) -> FeedInfo:
        """What it carries."""
        ...

    @property
    def problem(self) -> str:
        """Why no ticks can come now; empty: they can."""
        ...

    @property
    def remark(self) -> str:
        """What a person should know of it, though ticks come; empty: nothing."""
        ...

    def history(self, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
        """Return the last ``bars`` BARS of ``timeframe`` that have closed by ``until`` (ns UTC)."""
        ...

    def ticks(self, start: int, until: int) -> TickBatch:
        """Return the raw ticks of all symbols in ``[start, until)`` (ns UTC), in order of time: the bar that formed."""
        ...

    def start(self, position: int, clock: int) -> None:
        """Go on with the ticks from ``position``; the market's clock stands at ``clock``."""
        ...

    def poll(self, room: int) -> TickBatch:
        """Return what came since the last call, and how far the market's clock is.

        A lossless feed returns at most ``room`` ticks and keeps the rest; any other returns all.
        """
        ...

    async def news(self, within_s: float) -> None:
        """Return when there may be something to poll: at once where the feed is told so, else after ``within_s``."""
        ...

    @property
    def finished(self) -> bool:
        """Whether no tick will ever come again: the tape is over."""
        ...


class Journal(Protocol):
    """Keeps what happened, in order, durably. Every entry carries the epoch of this engine."""

    def post(self, entry: JournalEntry) -> asyncio.Future[None]:
        """Queue an entry; the future ends when it is committed.

        The future raises FencedError when another engine has taken the account, and JournalError when the entry can
        never be written. While the server is away it stays pending, and the entry is written when it is back.
        """
        ...

    @property
    def problem(self) -> str:
        """Why the journal cannot be trusted now; empty: it can."""
        ...

    @property
    def fatal(self) -> FxError | None:
        """The error after which this engine never writes again, as when another took the account."""
        ...

    @property
    def kill_switch(self) -> KillSwitch:
        """The switch as last read; at most half a second old unless :attr:`problem` says otherwise."""
        ...

    def beat(self, status: Mapping[str, Any]) -> None:
        """Hand over the newest status; it is written soon, and a newer one replaces it."""
        ...

    async def finish(self, reason: str) -> None:
        """Mark the session finished: it is not resumed again."""
        ...

    async def flush(self, timeout_s: float) -> bool:
        """Wait until everything posted is committed; False: some is not."""
        ...


class OrderKeeper(Protocol):
    """Where a real broker's orders are kept between engines, and the local log of exits for when that is away."""

    @property
    def epoch(self) -> int:
        """Of this engine; part of every order that is sent."""
        ...

    async def load(self, since_ns: int) -> OrderBook:
        """Join the local log into the journal, and return the account's book as of ``since_ns`` (ns UTC).

        Raises:
            FencedError: another engine has the account.
            JournalError: log and journal contradict each other.
            ServerError: PostgreSQL does not answer.
        """
        ...

    def log_exit(self, intent: OrderIntent, *, position_lots: float, position_stop: float) -> None:
        """Have an exit on the local disk: after that it may be sent, and not otherwise.

        Raises:
            TradingError: it does more than make a position smaller or its stop tighter.
            JournalError: it is not on the disk.
        """
        ...

    def log_change(self, reached: order_states.Transition) -> None:
        """Write a state that a logged exit reached to the local disk.

        Raises:
            JournalError: it is not on the disk.
        """
        ...

    @property
    def broken(self) -> bool:
        """Whether the local disk failed to keep what it took: only a restart, which reconciles, mends that."""
        ...

    async def join(self) -> int:
        """Join the local log into the journal and begin a new one; return how many records it had.

        Raises:
            FencedError, JournalError, ServerError: as of :meth:`load`.
        """
        ...

    async def not_sent(self) -> tuple[int, ...]:
        """Return the keys of held orders of which a person has said that the broker does not have them.

        Raises:
            ServerError: PostgreSQL does not answer.
        """
        ...


class MarketStates(Protocol):
    """Keeps what is known of the market over restarts; a lost or damaged state costs time, never correctness."""

    @property
    def idle(self) -> bool:
        """Whether nothing is being written."""
        ...

    def save(self, pack: Callable[[], bytes]) -> None:
        """Keep what ``pack()`` returns, soon; it is called beside the decisions, in another thread."""
        ...

    def load(self) -> Sequence[bytes]:
        """Return the states that are kept, newest first."""
        ...


class ModelProvider(Protocol):
    """Knows which release is active and how to reach it."""

    async def refresh(self) -> None:
        """Look whether the active release changed; called between decisions, never waited for by one."""
        ...

    @property
    def service(self) -> ModelService | None:
        """The service of the active release; None: there is none, or it is refused."""
        ...

    @property
    def problem(self) -> str:
        """Why there is no service; empty: there is."""
        ...


class DriftGauge(Protocol):
    """Knows the newest measurement of the features' drift. Calls never block."""

    def drift_at(self, clock: int) -> float:
        """Return the drift from what the active release learned on, 0 … 1, as known at ``clock`` (ns UTC).

        NaN: unknown, as where nothing was measured, or too long ago, or of another release.
        """
        ...


class Publisher(Protocol):
    """Where the engine leaves what others may look at; never blocks and never raises."""

    def offer(self, topic: Literal["ticks", "bars"], item: Mapping[str, Any]) -> None:
        """Leave an item with ``symbol`` and ``time_ns``."""
        ...
