"""How a session is taken up: from its last checkpoint and the market's last state, or from history.

The checkpoint says what was decided and traded; it is small and lies in the journal. The market's state (bars,
indicators, features) is large, is written now and then, and can always be made again: the ticks since it was written
are followed once more, without deciding anything. Without a usable state the market is built from history instead.
"""

import logging

import numpy as np

from fx_dagster.core.trading import TradingCore
from fx_dagster.core.warm_up import History
from fx_dagster.errors import DataError
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.broker_desk import BrokerDesk
from fx_dagster.live.protocols import MarketStates, TickFeed
from fx_dagster.live.records import SessionState
from fx_dagster.live.session import Memory, unpack
from fx_dagster.live.ticks import columns
from fx_dagster.market.timeframes import bar_open

_log = logging.getLogger(__name__)


def take_up(
    core: TradingCore, desk: PaperDesk | BrokerDesk, feed: TickFeed, states: MarketStates, session: SessionState
) -> Memory | None:
    """Bring a new core to where the session stands; return what else the checkpoint holds, None in a new session.

    Raises:
        DataError: the checkpoint cannot be read, or is of other features or another version.
    """
    if session.snapshot is None:
        core.warm_up(_history(feed, session.position), session.position)
        return None
    memory = unpack(session.snapshot)
    reached = core.reached(memory.core)
    if not _follow_from_state(core, feed, states, reached):
        start = int(bar_open(np.array([reached[0]]), core.timeframes[0])[0])
        core.warm_up(_history(feed, start), start)
        _follow(core, feed, (start, 0), reached)
    core.restore_session(memory.core)
    desk.restore(memory.account, memory.orders)
    return memory


def _history(feed: TickFeed, until: int) -> History:
    return lambda symbol, timeframe, bars: feed.history(symbol, timeframe, until, bars)


def _follow_from_state(core: TradingCore, feed: TickFeed, states: MarketStates, reached: tuple[int, int]) -> bool:
    """Restore the newest market state that is not after the checkpoint, and follow the market from it."""
    for data in states.load():
        try:
            since = core.restore_market(data, not_after=reached)
        except DataError as error:
            _log.warning("a market state is left out: %s", error)
            continue
        _follow(core, feed, since, reached)
        return True
    return False


def _follow(core: TradingCore, feed: TickFeed, since: tuple[int, int], reached: tuple[int, int]) -> None:
    """Show the core the ticks between two places again: moments (ns UTC), and ticks taken of exactly that moment."""
    raw = feed.ticks(since[0], reached[0] + 1)
    first, last = (int(np.searchsorted(raw.time, time)) + taken for time, taken in (since, reached))
    core.follow(columns(raw), first, last, reached[0])
