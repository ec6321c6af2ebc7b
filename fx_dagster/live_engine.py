"""One live engine as a process: ``python -m fx_dagster.live_engine``, or ``fx live`` in the foreground.

Puts the adapters together and runs the engine. Exit codes: 0 the session is finished, 2 settings or data make one
impossible, 3 another engine trades the account, 4 stopped by a signal (the session can be resumed), 1 anything else.
"""

import asyncio
import hashlib
import json
import logging
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import TradingCore, rehearse
from fx_dagster.decision.config import paper_config
from fx_dagster.decision.rows import MEMORY
from fx_dagster.errors import DataError, FencedError, FxError, SettingsError
from fx_dagster.execution.broker import Broker, BrokerSpecification, TradeMode
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.execution.paper import EVENTS, PaperBroker
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.broker_desk import BrokerDesk, rules_of
from fx_dagster.live.engine import Ending, Engine, EngineParts
from fx_dagster.live.market import Market, MarketOpener
from fx_dagster.live.model_desk import ModelDesk
from fx_dagster.live.protocols import FeedInfo, ModelProvider, TickFeed
from fx_dagster.live.records import SessionState
from fx_dagster.live.supervisor import EXIT_FENCED, EXIT_FINISHED, EXIT_REFUSED, EXIT_STOPPED
from fx_dagster.live.surroundings import ClockWatch, RoomWatch, WatchedJournal, free_bytes
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.timeframes import SECOND_NS, Timeframe, bar_open
from fx_dagster.models.answer import DIRECTIONS
from fx_dagster.settings import Settings, load_settings
from resources.cache import LiveCache
from resources.cached_models import CachedProvider
from resources.drift_store import LiveDrift
from resources.journal import JournalTarget, PostgresJournal
from resources.live_feed import ReplayFeed, Tape, tape_of, tick_spacing_s
from resources.live_publisher import LivePublisher
from resources.market import open_source
from resources.market_states import FileMarketStates
from resources.model_provider import ReleasedModels
from resources.mt5.bridge.market import open_bridge_market
from resources.order_keeper import PostgresOrders
from resources.order_store import Writer
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.tapes import FileTape

EXIT_ERROR = 1
ENDLESS_NS = 7_258_118_400 * SECOND_NS
"""The year 2200: a session at a real broker ends when a person ends it."""
_log = logging.getLogger("fx_dagster.live")


class WallClock:
    """This machine's time."""

    def monotonic_ns(self) -> int:
        """Return a time that never goes back."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Return ns since 1970, UTC."""
        return time.time_ns()

    async def sleep(self, seconds: float) -> None:
        """Let others work for that long."""
        await asyncio.sleep(seconds)


@dataclass(frozen=True)
class RunOptions:
    """How one engine is run.

    Attributes:
        restart: begin a new session even if there is one to resume or a finished one.
        until: market time (ns UTC) at which a new session's tape ends; None: where the source ends.
        on_status: called with each status, a few times a second.
        connect: opens the market of a session whose broker is a real one; None: by the bridge of the settings.
    """

    restart: bool = False
    until: int | None = None
    connect: MarketOpener | None = None
    on_status: Callable[[dict[str, Any]], None] | None = None


def tape_fingerprint(settings: Settings) -> str:
    """Return what identifies the tape that these settings replay; a session is resumed on the same one only.

    At a real broker there is no tape: a session goes on with the same account, symbols and timeframe.
    """
    if settings.live.broker == "paper":
        source = settings.source.model_dump(mode="json")
        what: dict[str, Any] = {"source": source, "replay_days": settings.live.replay_days}
    else:
        account = settings.bridge.model_dump(mode="json", include={"login", "server", "mode"})
        what = {"broker": settings.live.broker, "account": account, "symbols": settings.source.symbols}
    content = json.dumps(what, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


async def run_engine(settings: Settings, options: RunOptions = RunOptions()) -> Ending:
    """Run one engine until its session is finished or a signal asks it to stop.

    Raises:
        BrokerError: the broker does not answer, or does not state its contracts or its account.
        FencedError: another engine trades the account.
        SettingsError: the settings make a session impossible.
        DataError: the source does.
        ServerError: PostgreSQL does not answer.
    """
    url = settings.postgres.url.get_secret_value()
    if not url:
        raise SettingsError("FX_POSTGRES_URL is not set", mend="start the servers: fx up")
    migrate(url)
    if settings.live.broker == "paper":
        return await _run_on_paper(settings, options)
    market = await (options.connect or open_bridge_market)(settings)
    try:
        return await _run_real(settings, options, market)
    finally:
        await market.close()


@asynccontextmanager
async def _journal(settings: Settings, options: RunOptions, window: tuple[int, int]) -> AsyncIterator[PostgresJournal]:
    target = JournalTarget(
        account=settings.live.account,
        fingerprint=tape_fingerprint(settings),
        window=window,
        restart=options.restart,
        stale_s=settings.live.heartbeat_stale_s,
        realtime=settings.live.broker != "paper",
    )
    journal = await PostgresJournal.open(settings.postgres.url.get_secret_value(), target)
    try:
        yield journal
    finally:
        await journal.close()


def _finished(session: SessionState) -> bool:
    if session.finished:
        _log.info("session %s is finished already", session.session_id)
    return session.finished


async def _run_on_paper(settings: Settings, options: RunOptions) -> Ending:
    source = open_source(settings.source)
    tape = tape_of(source, settings.live.replay_days)
    async with _journal(settings, options, (tape.start, min(tape.end, options.until or tape.end))) as journal:
        session = journal.session
        if _finished(session):
            return Ending.FINISHED
        feed = ReplayFeed(
            source, Tape(session.replay_start, session.replay_end), speed=settings.live.replay_speed,
            spike_z=settings.validation.spike_robust_z,
        )  # fmt: skip
        core, desk = trading_core(settings, feed.info, session.replay_start)
        book = _Account(core, desk, tape_facts(settings, feed.info, session.replay_start))
        return await _run_on(settings, options, feed, journal, book)


async def _run_real(settings: Settings, options: RunOptions, market: Market) -> Ending:
    """Run a session at a real broker; it begins with the base bar that forms now."""
    info = market.info
    await _demand_account(settings, market.broker)
    contracts = tuple([await market.broker.specification(symbol) for symbol in info.symbols])
    start = int(bar_open(np.array([market.now_ns]), info.base)[0])
    async with _journal(settings, options, (start, options.until or ENDLESS_NS)) as journal:
        session = journal.session
        if _finished(session):
            return Ending.FINISHED
        core, desk = broker_core(settings, info, session.replay_start, contracts)
        writer = Writer(settings.live.account, session.session_id, journal.epoch)
        keeper = PostgresOrders.open(settings.postgres.url.get_secret_value(), writer, settings.live_state / "exits")
        facts = tape_facts(settings, info, session.replay_start, contracts)
        try:
            account = _Account(core, desk, facts, market.broker, keeper)
            return await _run_on(settings, options, market.feed_of(session), journal, account)
        finally:
            keeper.close()


async def _demand_account(settings: Settings, broker: Broker) -> None:
    account, risk = await broker.account(), settings.risk
    if account.currency != risk.account_currency:
        raise SettingsError(
            f"the broker's account is in {account.currency}, FX_RISK_ACCOUNT_CURRENCY is {risk.account_currency}",
            mend="set it to the account's currency",
        )
    if account.leverage < risk.leverage:
        raise SettingsError(
            f"the broker's leverage is {account.leverage:g}, FX_RISK_LEVERAGE is {risk.leverage:g}",
            mend="set it to the account's leverage: margin would be counted too low",
        )


@dataclass(frozen=True)
class _Account:
    """A core and the account that it trades on."""

    core: TradingCore
    desk: PaperDesk | BrokerDesk
    facts: dict[str, Any]
    broker: Broker | None = None
    keeper: PostgresOrders | None = None


async def _run_on(
    settings: Settings, options: RunOptions, feed: TickFeed, journal: PostgresJournal, account: _Account
) -> Ending:
    session = journal.session
    provider = ReleasedModels(
        ReleaseStore.of(settings), settings.triton.url, pinned=settings.release.pinned or None,
        drift=LiveDrift.of(settings),
    )  # fmt: skip
    cache = LiveCache.of(settings)
    if cache is not None:
        await cache.open()
    parts = _parts(settings, feed, journal, CachedProvider(provider, cache), options, account)
    parts = replace(parts, drift=provider, cache_rates=cache.rates if cache is not None else None)
    publisher = None
    if url := settings.redis.url.get_secret_value():
        publisher = LivePublisher(url, settings.live.account)
        publisher.start()
        parts = replace(parts, publisher=publisher)
    engine = Engine(parts, session)
    journal.start()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, engine.stop)
    try:
        return await engine.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        parts.tape.close()
        await provider.close()
        if publisher is not None:
            publisher.close()
        if cache is not None:
            await cache.close()


def _parts(
    settings: Settings, feed: TickFeed, journal: PostgresJournal, provider: ModelProvider, options: RunOptions,
    account: _Account,
) -> EngineParts:  # fmt: skip
    session, clock, core = journal.session, WallClock(), account.core
    states = FileMarketStates(settings.live_state / "market")
    room = RoomWatch(partial(free_bytes, (settings.live_state,)))
    return EngineParts(
        account=settings.live.account,
        core=core,
        desk=account.desk,
        feed=feed,
        journal=WatchedJournal(journal, room, ClockWatch(clock)),
        models=ModelDesk(
            provider,
            feature_hash=core.spec.catalogue.hash,
            models=DIRECTIONS,
            deadline_s=settings.triton.deadline_ms / 1000,
            clock=clock,
        ),
        states=states,
        tape=FileTape(
            settings.live_state / "tapes", session.session_id, core.symbols, account.facts, state=core.whole,
            size_mb_max=settings.live.tape_mb_max,
        ),
        clock=clock,
        settings=settings.live,
        on_status=options.on_status,
        broker=account.broker,
        keeper=account.keeper,
    )  # fmt: skip


def trading_core(settings: Settings, info: FeedInfo, start: int) -> tuple[TradingCore, PaperDesk]:
    """Return the core of a session that begins at ``start`` (ns UTC), and the account on paper that it trades on.

    Raises:
        SettingsError: a number is impossible, or a profit currency cannot be converted with these symbols.
    """
    instruments = tuple(instrument(symbol) for symbol in info.symbols)
    broker = PaperBroker(settings.live.account, instruments, settings.risk, settings.cost)
    return TradingCore(_core_spec(settings, info, start, instruments), broker.ledger), PaperDesk(broker)


def broker_core(
    settings: Settings, info: FeedInfo, start: int, contracts: Sequence[BrokerSpecification]
) -> tuple[TradingCore, BrokerDesk]:
    """Return the core of a session that begins at ``start`` (ns UTC), and the real account that it trades on.

    Args:
        settings: of the installation.
        info: what the feed carries.
        start: ns UTC.
        contracts: of the feed's symbols, in their order, as the broker states them.

    Raises:
        DataError: a contract is of another symbol or other currencies.
        SettingsError: a number is impossible, or a profit currency cannot be converted with these symbols.
    """
    instruments = tuple(
        said.over(instrument(symbol)) for symbol, said in zip(info.symbols, contracts, strict=True)
    )  # fmt: skip
    live, risk = settings.live, settings.risk
    ledger = new_ledger(
        instruments, settings.cost, memory=np.zeros(1, MEMORY), balance=risk.initial_balance, leverage=risk.leverage,
        account_currency=risk.account_currency, events=EVENTS + len(instruments), real=True,
    )  # fmt: skip
    rules = rules_of(
        quiet_s=live.quiet_s, hold_after_s=live.hold_after_s, requotes_max=live.requotes_max,
        order_valid_s=live.order_valid_s, currency=risk.account_currency,
    )  # fmt: skip
    core = TradingCore(_core_spec(settings, info, start, instruments), ledger)
    return core, BrokerDesk(live.account, instruments, ledger, rules)


def _core_spec(settings: Settings, info: FeedInfo, start: int, instruments: Sequence[Instrument]) -> CoreSpec:
    live = settings.live
    return CoreSpec(
        instruments=instruments,
        catalogue=feature_catalogue(info.base, cross_symbol=len(info.symbols) > 1),
        config=paper_config(settings, info.base),
        start=start,
        stale_s=max(live.stale_after_s, info.tick_spacing_s),
        spike_z=settings.validation.spike_robust_z,
        move_atr=live.move_atr,
        refresh_s=live.refresh_s,
        history_bars=live.history_bars,
    )


_DECIDING = ("feature", "risk", "cost", "validation", "live")
"""Groups of settings that a core is made from."""


def tape_facts(
    settings: Settings, info: FeedInfo, start: int, contracts: Sequence[BrokerSpecification] = ()
) -> dict[str, Any]:
    """Return what :func:`recorded_core` needs to know of a session, as JSON values."""
    facts = {
        "settings": settings.model_dump(mode="json", include=set(_DECIDING)), "feed": asdict(info), "start": start,
    }  # fmt: skip
    return facts | ({"contracts": [asdict(one) for one in contracts]} if contracts else {})


def recorded_core(facts: Mapping[str, Any]) -> TradingCore:
    """Return a core like the one whose tape has these facts.

    Raises:
        DataError: they are of another version.
    """
    try:
        feed = facts["feed"]
        info = FeedInfo(tuple(feed["symbols"]), Timeframe(feed["base"]), feed["tick_spacing_s"], feed["lossless"])
        settings, start = Settings(**facts["settings"]), int(facts["start"])
        if settings.live.broker == "paper":
            return trading_core(settings, info, start)[0]
        contracts = [BrokerSpecification(**one | {"mode": TradeMode(one["mode"])}) for one in facts["contracts"]]
        return broker_core(settings, info, start, contracts)[0]
    except (KeyError, TypeError, ValueError, SettingsError) as error:
        raise DataError(
            f"the tape's settings cannot be used: {error}", mend="replay it with the version that recorded it"
        ) from error


def exit_code(error: FxError) -> int:
    """Return the exit code that tells a supervisor what an error means."""
    if isinstance(error, FencedError):
        return EXIT_FENCED
    if isinstance(error, SettingsError | DataError):
        return EXIT_REFUSED
    return EXIT_ERROR


def make_ready(settings: Settings) -> None:
    """Load and compile what a session will run, on a market and an account of its own that nobody sees.

    Raises:
        DataError: the source makes a session impossible.
        SettingsError: the settings do.
    """
    source = open_source(settings.source)
    tape = tape_of(source, settings.live.replay_days)
    info = FeedInfo(source.symbols(), source.base_timeframe(), tick_spacing_s(source), lossless=True)
    rehearse(trading_core(settings, info, tape.start)[0])


def main() -> int:
    """Run one engine with the settings of the environment, for a supervisor.

    With ``--standby`` it makes itself ready, and begins when it reads a line: :mod:`resources.standby`.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        settings = load_settings()
        if "--standby" in sys.argv[1:]:
            if not select.select([sys.stdin], [], [], 0)[0]:  # told to begin already: a session first, ready or not
                make_ready(settings)
            if not sys.stdin.buffer.readline():
                return EXIT_STOPPED
        ending = asyncio.run(run_engine(settings))
    except FxError as error:
        _log.error("%s", error)
        return exit_code(error)
    _log.info("session %s", ending)
    return EXIT_FINISHED if ending is Ending.FINISHED else EXIT_STOPPED


if __name__ == "__main__":
    sys.exit(main())
