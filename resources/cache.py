"""The caches in Valkey (or Redis), behind those of this process.

:class:`LiveCache` is the live session's. What it keeps is written in the background, from a bounded queue; reading has
a time limit of milliseconds. :class:`SharedCache` is everybody else's, and waits for the server, shortly.

Neither ever raises for the server: while it is away every question is a miss, and it is tried again after a pause that
grows up to :data:`PAUSE_S_MAX`. Entries are sealed bytes (:mod:`fx_dagster.live.caches`); what does not open is a miss
and is deleted.
"""

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from fx_dagster.errors import DataError
from fx_dagster.live.caches import (
    FEATURES,
    KINDS,
    PATTERNS,
    POOLED,
    WEIGHTS,
    CacheClock,
    Counters,
    Event,
    FeatureRow,
    Level,
    LevelKind,
    MemoryLevel,
    PatternFacts,
    facts_from,
    features_key,
    is_fresh,
    lifetimes_ns,
    opened,
    patterns_key,
    sealed,
    weights_key,
)
from fx_dagster.settings import CacheSettings, Settings
from resources.lake import Lake

V = TypeVar("V")

PATTERN_HISTORY: Final = "pattern_history"
"""Table of the lake with what followed each chart pattern."""
QUEUE_MAX: Final = 1_024
"""Entries that wait to be written; of more, the oldest are dropped."""
BATCH_MAX: Final = 64
TIMEOUT_S: Final = 0.5
"""Longest that a call of the server takes, whoever waits for it."""
CLOSE_S: Final = 0.5
"""Longest that the end of a session waits for what is still to be written."""
PAUSE_S_MIN: Final = 0.1
PAUSE_S_MAX: Final = 5.0
QUIET_S: Final = 60.0
"""Least time between two log lines about the server."""

# What a server that is away, or is none, makes redis raise; the last two for answers that are not of its protocol.
_AWAY: Final = (RedisError, OSError, EOFError, ValueError)
_log = logging.getLogger(__name__)


def source_of(settings: Settings) -> str:
    """Return what tells these market data from others in a shared cache: their kind, and where their lake is."""
    place = hashlib.blake2b(settings.lake_url.encode(), digest_size=8).hexdigest()
    return f"{settings.source.kind}-{place}"


class SystemClock:
    """This machine's time."""

    def monotonic_ns(self) -> int:
        """Return a time that never goes back."""
        return time.monotonic_ns()

    def wall_ns(self) -> int:
        """Return ns since 1970, UTC."""
        return time.time_ns()


class _Line:
    """Whether the server is tried, and what is said about it.

    Its time is always this machine's: pauses are for a real server.
    """

    def __init__(self) -> None:
        self.problem = ""
        self._pause_s = 0.0
        self._closed_until = 0.0
        self._said_at = float("-inf")

    @property
    def pause_s(self) -> float:
        """Seconds until the server is tried again; 0: it may be tried now."""
        return max(0.0, self._closed_until - time.monotonic())

    def failed(self, error: Exception) -> None:
        self._pause_s = min(max(2 * self._pause_s, PAUSE_S_MIN), PAUSE_S_MAX)
        self._closed_until = time.monotonic() + self._pause_s
        # Some of redis' errors carry the command, and with it what was to be written.
        self.problem = f"{type(error).__name__}: {str(error)[:200]}"
        if time.monotonic() - self._said_at >= QUIET_S:
            self._said_at = time.monotonic()
            _log.warning("the shared cache does not answer, all goes on without it: %s", self.problem)

    def worked(self) -> None:
        if self.problem:
            _log.info("the shared cache answers again")
        self.problem, self._pause_s, self._closed_until = "", 0.0, 0.0


class _Levels:
    """What both caches have in common: the levels of this process, the counters and how an entry is opened."""

    def __init__(self, settings: CacheSettings, clock: CacheClock | None) -> None:
        self.counters = Counters()
        self._clock: CacheClock = clock or SystemClock()
        self._lifetimes_ns = lifetimes_ns(settings)
        self._line = _Line()
        self._memory: dict[Level, MemoryLevel[Any]] = {
            kind.level: MemoryLevel(
                self._lifetimes_ns[kind.level], entries_max=settings.entries_max, bytes_max=kind.memory_max
            )
            for kind in KINDS
        }

    @property
    def problem(self) -> str:
        """Why the server did not answer the last call; empty: it did, or there is none."""
        return self._line.problem

    def rates(self) -> dict[str, dict[str, float | int | None]]:
        """Return hits, misses, drops, errors and the hit rate of each level."""
        return self.counters.rates()

    def known(self, kind: LevelKind[V], key: str) -> V | None:
        """Return an entry of this process and count it as a hit; None, which is not counted: there is none."""
        value: V | None = self._memory[kind.level].get(key, self._clock.monotonic_ns())
        if value is not None:
            self.counters.add(kind.level, Event.MEMORY_HIT)
        return value

    def is_empty(self, level: Level) -> bool:
        """Whether this process has nothing of a level."""
        return self._memory[level].is_empty(self._clock.monotonic_ns())

    def _remember(self, kind: LevelKind[V], key: str, value: V, age_ns: int = 0) -> None:
        born_ns = self._clock.monotonic_ns() - age_ns
        self._memory[kind.level].put(key, value, born_ns=born_ns, size=kind.size(value))

    def _open(self, kind: LevelKind[V], key: str, content: object) -> V | None:
        """Return a server's entry, also remembered with its age; None: it is too old.

        Raises:
            DataError: it is damaged or foreign.
        """
        if not isinstance(content, bytes):
            raise DataError(f"{key}: no bytes", mend="leave it out")
        born_ns, body = opened(key, content)
        age_ns = self._clock.wall_ns() - born_ns
        if not is_fresh(age_ns, self._lifetimes_ns[kind.level]):
            return None
        value = kind.unpack(body)
        self._remember(kind, key, value, max(age_ns, 0))
        return value

    def _left_ms(self, level: Level, born_ns: int) -> int:
        """Return for how long an entry that was made at ``born_ns`` is still believed."""
        return (self._lifetimes_ns[level] - (self._clock.wall_ns() - born_ns)) // 1_000_000


@dataclass(frozen=True)
class _Write:
    """An entry on its way to the server; ``body`` is made by the writer, not by whoever keeps it."""

    level: Level
    born_ns: int
    body: Callable[[], bytes]
    body_max: int


class LiveCache(_Levels):
    """The live session's cache; every method is called in one event loop.

    Args:
        url: ``redis://…`` of the server; empty: this process alone.
        settings: lifetimes and bounds.
        source: of the market data: features of one source are not another's.
        clock: tells ages.
    """

    def __init__(self, url: str, settings: CacheSettings, *, source: str, clock: CacheClock | None = None) -> None:
        super().__init__(settings, clock)
        self.source = source
        self._client = _async_client(url, self._line)
        self._queue: OrderedDict[str, _Write | None] = OrderedDict()
        self._wake = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._reading: asyncio.Task[Any] | None = None
        self._writing = False

    @classmethod
    def of(cls, settings: Settings, clock: CacheClock | None = None) -> "LiveCache | None":
        """Return the cache of an installation; None: FX_CACHE_ENABLED is false."""
        if not settings.cache.enabled:
            return None
        url = settings.redis.url.get_secret_value()
        return cls(url, settings.cache, source=source_of(settings), clock=clock)

    async def open(self) -> bool:
        """Make the connections, one to read and one to write, and return whether the server answers; never raises.

        A connection takes longer than a decision waits: without this, the first question finds nothing.
        """
        client = self._client
        if client is None:
            return False
        try:
            await asyncio.gather(client.ping(), client.ping())
        except _AWAY as error:
            self._line.failed(error)
            return False
        self._line.worked()
        return True

    @property
    def waiting(self) -> int:
        """Entries that wait to be written."""
        return len(self._queue)

    def keep(self, kind: LevelKind[V], key: str, value: V) -> None:
        """Keep an entry that was made now: here at once, on the server soon."""
        self._remember(kind, key, value)
        self._post(key, _Write(kind.level, self._clock.wall_ns(), lambda: kind.pack(value), kind.body_max))

    async def fetch(self, kind: LevelKind[V], keys: Sequence[str], within_s: float) -> dict[str, V]:
        """Return the server's entries that are there and young enough, by key; nothing after ``within_s``.

        What comes too late is of use to the next question: it is kept in this process. Meanwhile nothing else is read.
        """
        is_busy = self._reading is not None and not self._reading.done()
        if self._client is None or not keys or within_s <= 0 or is_busy or self._line.pause_s:
            return {}
        task = asyncio.create_task(self._read(self._client, kind, tuple(keys)))
        self._reading = task
        await asyncio.wait({task}, timeout=within_s)
        if not task.done():
            self.counters.add(kind.level, Event.ERROR)
            return {}
        return task.result()

    async def _read(self, client: "AsyncRedis", kind: LevelKind[V], keys: Sequence[str]) -> dict[str, V]:
        try:
            contents = await client.mget(keys)
        except _AWAY as error:
            self.counters.add(kind.level, Event.ERROR)
            self._line.failed(error)
            return {}
        self._line.worked()
        found: dict[str, V] = {}
        for key, content in zip(keys, contents, strict=False):
            if content is not None:
                try:
                    value = self._open(kind, key, content)
                except DataError:
                    self.counters.add(kind.level, Event.ERROR)
                    self._post(key, None)
                else:
                    if value is not None:
                        found[key] = value
        return found

    def _post(self, key: str, write: _Write | None) -> None:
        """Queue a write, or with None a deletion; a newer one of a key takes the older one's place."""
        if self._client is None:
            return
        self._queue.pop(key, None)
        self._queue[key] = write
        if len(self._queue) > QUEUE_MAX:
            self._dropped([self._queue.popitem(last=False)[1]])
        self._wake.set()
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write_forever(self._client))
            self._writer.add_done_callback(_tell)

    def _dropped(self, writes: Iterable[_Write | None]) -> None:
        for write in writes:
            if write is not None:
                self.counters.add(write.level, Event.DROP)

    async def _write_forever(self, client: "AsyncRedis") -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._queue:
                if self._line.pause_s:
                    await asyncio.sleep(self._line.pause_s)
                    continue
                batch = dict(self._queue.popitem(last=False) for _ in range(min(BATCH_MAX, len(self._queue))))
                self._writing = True
                try:
                    await self._write(client, batch)
                finally:
                    self._writing = False

    async def _write(self, client: "AsyncRedis", batch: Mapping[str, _Write | None]) -> None:
        """Write a batch; one that fails is given up: what it holds is soon too old anyway."""
        pipeline, levels = client.pipeline(transaction=False), []
        for key, write in batch.items():
            await asyncio.sleep(0)  # a decision that is due does not wait for the whole batch
            if write is None:
                pipeline.delete(key)
                continue
            body, left_ms = write.body(), self._left_ms(write.level, write.born_ns)
            if len(body) > write.body_max or left_ms <= 0:
                self._dropped([write])
                continue
            pipeline.set(key, sealed(key, write.born_ns, body), px=left_ms)
            levels.append(write.level)
        try:
            results = await pipeline.execute(raise_on_error=False)
        except _AWAY as error:
            self._line.failed(error)
            for level in levels:
                self.counters.add(level, Event.ERROR)
            return
        refused = [one for one in results if isinstance(one, Exception)]
        if refused and levels:
            # A server that is full or read-only answers, but keeps nothing.
            self.counters.add(levels[0], Event.ERROR, len(refused))
            self._line.failed(refused[0])
        else:
            self._line.worked()

    async def flush(self, within_s: float = CLOSE_S) -> bool:
        """Wait until everything that waits is written, or given up; return whether it is."""
        try:
            async with asyncio.timeout(within_s):
                while self._queue or self._writing:
                    await asyncio.sleep(0.001)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Write what waits, shortly, and close the connections."""
        if self._client is None:
            return
        await self.flush(0.0 if self._line.problem else CLOSE_S)
        self._dropped(self._queue.values())
        self._queue.clear()
        tasks = [task for task in (self._writer, self._reading) if task is not None and not task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._client.aclose()
        except _AWAY as error:
            _log.debug("closing the shared cache: %s", type(error).__name__)
        self._client = None


def _tell(task: "asyncio.Task[None]") -> None:
    """Say why a writer ended; the next entry starts another."""
    if not task.cancelled() and task.exception() is not None:
        _log.error("the cache's writer ended", exc_info=task.exception())


def _async_client(url: str, line: _Line) -> "AsyncRedis | None":
    try:
        return (
            AsyncRedis.from_url(
                url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=AsyncRetry(NoBackoff(), 0)
            )
            if url
            else None
        )
    except ValueError as error:
        line.failed(error)
        return None


class SharedCache(_Levels):
    """The cache of everybody who may wait a moment; any thread may ask.

    Args:
        url: ``redis://…`` of the server; empty: this process alone.
        settings: lifetimes and bounds.
        clock: tells ages.
    """

    def __init__(self, url: str, settings: CacheSettings, *, clock: CacheClock | None = None) -> None:
        super().__init__(settings, clock)
        self._client: Redis | None = None
        try:
            if url:
                self._client = Redis.from_url(
                    url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=Retry(NoBackoff(), 0)
                )
        except ValueError as error:
            self._line.failed(error)

    @classmethod
    def of(cls, settings: Settings) -> "SharedCache | None":
        """Return the cache of an installation; None: FX_CACHE_ENABLED is false."""
        return cls(settings.redis.url.get_secret_value(), settings.cache) if settings.cache.enabled else None

    def get(self, kind: LevelKind[V], key: str) -> V | None:
        """Return an entry of this process or of the server; None: neither has it."""
        value = self.known(kind, key)
        if value is not None:
            return value
        value = self._fetch(kind, key)
        self.counters.add(kind.level, Event.MISS if value is None else Event.SERVER_HIT)
        return value

    def _fetch(self, kind: LevelKind[V], key: str) -> V | None:
        # MGET has nothing to say of a value of another type, GET refuses it.
        contents = self._call(kind.level, lambda client: client.mget([key]))
        content = contents[0] if contents else None
        if content is None:
            return None
        try:
            return self._open(kind, key, content)
        except DataError:
            self.counters.add(kind.level, Event.ERROR)
            self._forget(kind, key)
            return None

    def _forget(self, kind: LevelKind[V], key: str) -> None:
        self._call(kind.level, lambda client: client.delete(key))

    def put(self, kind: LevelKind[V], key: str, value: V) -> None:
        """Keep an entry that was made now."""
        self._remember(kind, key, value)
        if self._client is None:
            return
        body, born_ns = kind.pack(value), self._clock.wall_ns()
        if len(body) > kind.body_max:
            self.counters.add(kind.level, Event.DROP)
            return
        content, left_ms = sealed(key, born_ns, body), max(self._left_ms(kind.level, born_ns), 1)
        self._call(kind.level, lambda client: client.set(key, content, px=left_ms))

    def _call(self, level: Level, call: Callable[["Redis"], Any]) -> Any:
        """Return what the server says; None: it says nothing now."""
        if self._client is None or self._line.pause_s:
            return None
        try:
            answer = call(self._client)
        except _AWAY as error:
            self.counters.add(level, Event.ERROR)
            self._line.failed(error)
            return None
        self._line.worked()
        return answer

    def latest_features(self, feature_hash: str, source: str, symbols: Sequence[str]) -> dict[str, FeatureRow]:
        """Return the newest features that a live session asked about in the last minutes, by symbol.

        Args:
            feature_hash: of the feature catalogue; rows of another are not found.
            source: of the market data.
            symbols: canonical symbols; those without a row are left out.
        """
        found: dict[str, FeatureRow] = {}
        for symbol in symbols:
            # From the server each time: what this process has may be older than what the session wrote since.
            key = features_key(feature_hash, source, symbol)
            row = self._fetch(FEATURES, key) if self._client is not None else None
            self.counters.add(Level.FEATURES, Event.MISS if row is None else Event.SERVER_HIT)
            if row is not None:
                found[symbol] = row
        return found

    def weights(self, sha256: str) -> bytes | None:
        """Return the model's file with that hash, verified; None: it is not there."""
        key = weights_key(sha256)
        content = self.get(WEIGHTS, key)
        if content is None or hashlib.sha256(content).hexdigest() == sha256:
            return content
        # Sealed as it should be, but another file: whoever stored it lied.
        self.counters.add(Level.WEIGHTS, Event.ERROR)
        self._memory[Level.WEIGHTS].discard(key)
        self._forget(WEIGHTS, key)
        return None

    def keep_weights(self, content: bytes) -> str:
        """Keep a model's file and return its SHA-256."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.put(WEIGHTS, weights_key(sha256), content)
        return sha256

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()


def pattern_facts(
    cache: SharedCache | None,
    lake: Lake,
    *,
    feature_hash: str,
    source: str,
    symbol: str,
    patterns: Collection[str] | None = None,
) -> PatternFacts:
    """Return what followed chart patterns in history: of a symbol, then of all together.

    Args:
        cache: the third level; None: the lake is read.
        lake: of the source.
        feature_hash: of the feature catalogue; a history of another gives nothing.
        source: of the market data.
        symbol: canonical symbol.
        patterns: names wanted, such as those that a decision's chart shows; None: all.

    Raises:
        LakeError: the table cannot be read.
        DataError: the table is not a pattern history.
    """
    key = patterns_key(feature_hash, source)
    facts = None if cache is None else cache.get(PATTERNS, key)
    if facts is None:
        facts = _read_facts(lake, feature_hash)
        if cache is not None and facts:
            cache.put(PATTERNS, key, facts)
    wanted = [fact for fact in facts if patterns is None or fact.pattern in patterns]
    return tuple(fact for name in (symbol, POOLED) for fact in wanted if fact.symbol == name)


def _read_facts(lake: Lake, feature_hash: str) -> PatternFacts:
    if PATTERN_HISTORY not in lake.tables() or lake.metadata(PATTERN_HISTORY).get("feature_hash") != feature_hash:
        return ()
    return facts_from(lake.read(PATTERN_HISTORY).to_dict(orient="records"))
