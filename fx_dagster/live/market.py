"""A real broker's market and account, as opened for one session."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from fx_dagster.execution.broker import Broker
from fx_dagster.live.protocols import FeedInfo, TickFeed
from fx_dagster.live.records import SessionState
from fx_dagster.settings import Settings


@dataclass(frozen=True)
class Market:
    """What a session at a real broker works with.

    Attributes:
        info: what its feed carries.
        now_ns: the market's clock when it was opened, ns UTC.
        broker: fills orders; its market's clock is the feed's.
        feed_of: returns ticks and history for a session.
        close: ends all of it.
    """

    info: FeedInfo
    now_ns: int
    broker: Broker
    feed_of: Callable[[SessionState], TickFeed]
    close: Callable[[], Awaitable[None]]


MarketOpener = Callable[[Settings], Awaitable[Market]]
