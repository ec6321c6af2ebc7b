"""A session's market and account behind the bridge of the settings."""

from fx_dagster.errors import SettingsError
from fx_dagster.live.market import Market
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.records import SessionState
from fx_dagster.settings import BridgeSettings, Settings
from resources.live_feed import REAL_TICK_SPACING_S, tick_spacing_s
from resources.market import open_source
from resources.mt5.bridge.broker import aliases_of, open_broker
from resources.mt5.bridge.client import BridgeClient, open_client
from resources.mt5.bridge.feed import BridgeFeed
from resources.mt5.bridge.settings import require_account
from resources.mt5.clock import Clock, QuotedClock


async def open_bridge_market(settings: Settings) -> Market:
    """Connect to the bridge of ``FX_BRIDGE_…``; symbols and the timeframe of decisions are the source's.

    Raises:
        BrokerError: the bridge or its terminal does not answer.
        SettingsError: it is another account's or another kind's, or its server's clock is not known.
    """
    bridge, source = settings.bridge, open_source(settings.source)
    client = open_client(bridge)
    try:
        simulated = _require(client, bridge)
        spacing_s = tick_spacing_s(source) if simulated else REAL_TICK_SPACING_S
        info = FeedInfo(source.symbols(), source.base_timeframe(), spacing_s, lossless=False)
        clock: Clock = client.clock if simulated else QuotedClock()
        now_ns = clock.now_ns()
    except BaseException:
        client.close()
        raise
    broker = open_broker(client, bridge)
    feeds: list[BridgeFeed] = []

    def feed_of(session: SessionState) -> BridgeFeed:
        feeds.append(
            BridgeFeed(
                client, info, clock=clock, poll_s=settings.live.poll_ms / 1000, until_ns=session.replay_end,
                aliases=aliases_of(bridge),
            )
        )  # fmt: skip
        return feeds[-1]

    async def close() -> None:
        for feed in feeds:
            feed.close()
        broker.close()
        client.close()

    return Market(info, now_ns, broker, feed_of, close)


def _require(client: BridgeClient, bridge: BridgeSettings) -> bool:
    """Return whether the terminal is a simulated one, if the bridge is that of the account that is meant."""
    require_account(bridge)
    health = client.require(login=bridge.login, mode=bridge.mode)
    if health.server != bridge.server:
        raise SettingsError(
            f"the bridge is for server {health.server}, FX_BRIDGE_SERVER is {bridge.server}",
            mend="name the right bridge",
        )
    return health.simulated
