"""The stream: what happens, to any number of readers, none of which slows another or the engine.

Quotes and bars come from the engine over Valkey (:mod:`resources.live_publisher`); decisions, orders, deals, the
account's money, events and health come from PostgreSQL, where they are once they are certain. One task asks for all
readers together, and only while there are any. Without Valkey there are no quotes and bars, which ``health`` says.

A reader has a queue of its own. Of quotes it has the newest of each symbol at most; of everything else the newest
messages, and if older ones were lost, the next thing that it is told is how many.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import psycopg
from fastapi import WebSocket, WebSocketDisconnect
from redis.exceptions import RedisError

from fx_dagster.errors import FxError
from resources.control.limits import too_deep
from resources.control.reads import ROWS_MAX, SessionReads
from resources.live_publisher import channel, read_message

TOPICS = ("ticks", "bars", "decisions", "orders", "deals", "equity", "events", "health")
CLIENT_BYTES_MAX = 4_096
CLIENT_MESSAGES_PER_S = 20
SEND_TIMEOUT_S = 20.0
RECHECK_S = 30.0
_BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)
_POLICY, _UNSUPPORTED, _TOO_BIG, _AGAIN_LATER = 1008, 1003, 1009, 1013
_log = logging.getLogger("fx_dagster.control")


class _Closed(Exception):  # noqa: N818 - an end, not a fault
    """The connection is to be closed, and with which code and reason."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Reader:
    """What waits for one reader.

    Args:
        queue_max: messages that wait at most, quotes aside.
    """

    def __init__(self, queue_max: int) -> None:
        self._waiting: deque[str] = deque(maxlen=queue_max)
        self._quotes: dict[str, dict[str, Any]] = {}
        self._news = asyncio.Event()
        self.topics: frozenset[str] = frozenset(TOPICS)
        self.lost = 0
        """Messages lost since the reader was last told."""

    def put(self, topic: str, text: str) -> None:
        """Leave a message; the oldest one goes where there is no room."""
        if topic in self.topics:
            self.lost += len(self._waiting) == self._waiting.maxlen
            self._waiting.append(text)
            self._news.set()

    def put_quotes(self, items: Iterable[dict[str, Any]]) -> None:
        """Leave quotes; each takes the place of its symbol's."""
        if "ticks" in self.topics:
            self._quotes.update((item["symbol"], item) for item in items)
            self._news.set()

    async def next(self) -> str:
        """Return what is to be sent next: how many were lost, then messages, then quotes."""
        while True:
            if self.lost:
                lost, self.lost = self.lost, 0
                return _text("lost", {"count": lost})
            if self._waiting:
                return self._waiting.popleft()
            if self._quotes:
                quotes, self._quotes = list(self._quotes.values()), {}
                return _text("ticks", {"items": quotes})
            self._news.clear()
            await self._news.wait()


def _text(topic: str, body: Mapping[str, Any]) -> str:
    return json.dumps({"topic": topic, **body}, separators=(",", ":"), allow_nan=False, default=str)


class Hub:
    """Hands messages to the readers; never waits for one.

    Args:
        readers_max: readers at once.
        queue_max: messages that wait for each.
    """

    def __init__(self, *, readers_max: int, queue_max: int) -> None:
        self._readers_max = readers_max
        self._queue_max = queue_max
        self._readers: set[Reader] = set()
        self._first = asyncio.Event()

    def __len__(self) -> int:
        return len(self._readers)

    @property
    def full(self) -> bool:
        """Whether no further reader is taken."""
        return len(self._readers) >= self._readers_max

    def join(self) -> Reader:
        """Add a reader."""
        reader = Reader(self._queue_max)
        self._readers.add(reader)
        self._first.set()
        return reader

    def leave(self, reader: Reader) -> None:
        """Remove a reader."""
        self._readers.discard(reader)
        if not self._readers:
            self._first.clear()

    async def wanted(self) -> None:
        """Return when there is a reader."""
        await self._first.wait()

    def publish(self, topic: str, body: Mapping[str, Any]) -> None:
        """Give a message to all that want it; it is written as text once."""
        if self._readers:
            text = _text(topic, body)
            for reader in self._readers:
                reader.put(topic, text)

    def publish_quotes(self, items: list[dict[str, Any]]) -> None:
        """Give quotes to all that want them."""
        for reader in self._readers:
            reader.put_quotes(items)


class Feed(Protocol):
    """Something that fills the hub until it is cancelled."""

    async def run(self) -> None:
        """Work."""
        ...


class EngineFeed:
    """Quotes and bars from the engine, over Valkey.

    Args:
        url: of Valkey; empty: there is none.
        account: account name.
        hub: where they go.
    """

    def __init__(self, url: str, account: str, hub: Hub) -> None:
        self._url = url
        self._channel = channel(account)
        self._hub = hub
        self.problem = "" if url else "FX_REDIS_URL is not set: no ticks, no bars"

    async def run(self) -> None:
        """Hand on what is published; while the server is away, try again."""
        failures = 0
        while self._url:
            try:
                await self._follow()
            except (RedisError, OSError, ValueError) as error:
                self.problem = f"the cache server is away ({type(error).__name__}): no ticks, no bars"
                await asyncio.sleep(_BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)])
                failures += 1

    async def _follow(self) -> None:
        from redis.asyncio import Redis

        client = Redis.from_url(self._url, socket_connect_timeout=2.0, health_check_interval=10)
        try:
            async with client.pubsub(ignore_subscribe_messages=True) as subscription:
                await subscription.subscribe(self._channel)
                self.problem = ""
                while True:
                    message = await subscription.get_message(timeout=5.0)
                    if message is not None:
                        self._take(message["data"])
        finally:
            await client.aclose()

    def _take(self, data: bytes) -> None:
        read = read_message(data)
        if read is None:
            return
        topic, items = read
        if topic == "ticks":
            self._hub.publish_quotes(items)
        else:
            self._hub.publish(topic, {"items": items})


Said = tuple[str, dict[str, Any]]
"""A topic and what is said under it."""


@dataclass(frozen=True)
class _Rows:
    """What one look at PostgreSQL found; ``after`` are the last decision and event that are no news."""

    session: int | None = None
    after: tuple[int, int] = (0, 0)
    decisions: list[dict[str, Any]] = field(default_factory=list)
    orders: list[dict[str, Any]] = field(default_factory=list)
    deals: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    account: dict[str, Any] | None = None
    status: dict[str, Any] | None = None


class JournalFeed:
    """Decisions, orders, deals, money, events and health from PostgreSQL.

    Args:
        reads: rows of the account.
        hub: where they go.
        source_problem: says why there are no quotes.
        poll_s: pause between two looks.
    """

    def __init__(self, reads: SessionReads, hub: Hub, source_problem: Callable[[], str], poll_s: float) -> None:
        self._reads = reads
        self._hub = hub
        self._source_problem = source_problem
        self._poll_s = poll_s
        self._session: int | None = None
        self._number = self._event = 0
        self._orders: dict[str, tuple[Any, Any]] = {}
        self._deals: set[str] = set()
        self._money_time: int | None = None
        self._beat: str | None = None

    async def run(self) -> None:
        """Look again and again while anybody reads."""
        failures = 0
        while True:
            if not len(self._hub):
                self._session = None  # who comes later is told of what happens from then on
                await self._hub.wanted()
            found: list[Said] = []
            try:
                found = self._news(await asyncio.to_thread(self._rows))
                failures, pause_s = 0, self._poll_s
            except (FxError, psycopg.Error, OSError) as error:
                text = " ".join(str(error).split())[:200] if isinstance(error, FxError) else type(error).__name__
                found = [("health", {"problem": text, "engine": None, "source_problem": self._source_problem()})]
                pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures += 1
            for topic, body in found:
                self._hub.publish(topic, body)
            await asyncio.sleep(pause_s)

    def _rows(self) -> "_Rows":
        """Read everything first: what fails half-way has moved nothing on, and nothing is missed."""
        session = self._reads.session_id()
        if session is None:
            return _Rows()
        begins = session != self._session
        number, event = self._number, self._event
        if begins:
            newest, last = self._reads.decisions(session, limit=1), self._reads.events(session, limit=1)
            number, event = newest[0]["number"] if newest else 0, last[0]["id"] if last else 0
        return _Rows(
            session=session,
            after=(number, event),
            decisions=[] if begins else self._reads.decisions_since(session, number),
            orders=self._reads.orders(session, limit=200),
            deals=self._reads.deals(session, limit=200),
            events=[] if begins else self._reads.events(session, above=event, limit=ROWS_MAX)[::-1],
            account=self._reads.account_row(session),
            status=self._reads.status(),
        )

    def _news(self, rows: "_Rows") -> list[Said]:
        """Return what was not there at the last look; what a session had before the first is not news."""
        if rows.session is None:
            return [("health", {"problem": "", "engine": None, "source_problem": self._source_problem()})]
        begins, self._session = rows.session != self._session, rows.session
        self._number, self._event = rows.after
        if begins:
            self._money_time = self._beat = None
        found: list[Said] = []
        if rows.decisions:
            self._number = rows.decisions[-1]["number"]
            found += [("decisions", {"items": rows.decisions[i : i + 50]}) for i in range(0, len(rows.decisions), 50)]
        states = {one["client_order_id"]: (one["state"], one["changed_ns"]) for one in rows.orders}
        tickets = {one["ticket"] for one in rows.deals}
        if not begins:
            changed = [
                one for one in rows.orders if self._orders.get(one["client_order_id"]) != states[one["client_order_id"]]
            ]
            dealt = [one for one in rows.deals if one["ticket"] not in self._deals]
            found += [(topic, {"items": new[::-1]}) for topic, new in (("orders", changed), ("deals", dealt)) if new]
        self._orders, self._deals = states, tickets
        if rows.events:
            self._event = rows.events[-1]["id"]
            found.append(("events", {"items": rows.events}))
        return found + self._changed(rows)

    def _changed(self, rows: "_Rows") -> list[Said]:
        found: list[Said] = []
        if rows.account is not None and rows.account["time"] != self._money_time:
            self._money_time = rows.account["time"]
            found.append(("equity", rows.account))
        if rows.status is not None and rows.status["beat_at"] != self._beat:
            self._beat = rows.status["beat_at"]
            found.append(("health", {"problem": "", "engine": rows.status, "source_problem": self._source_problem()}))
        return found


# -- one connection ----------------------------------------------------------------------------------------------------


async def serve(websocket: WebSocket, hub: Hub, still_allowed: Callable[[], Awaitable[bool]]) -> None:
    """Serve one reader until either side closes.

    Args:
        websocket: accepted.
        hub: where messages come from.
        still_allowed: asked now and then whether the reader's token is still valid.
    """
    reader = hub.join()
    tasks = [
        asyncio.create_task(_send(websocket, reader)),
        asyncio.create_task(_listen(websocket, reader)),
        asyncio.create_task(_recheck(still_allowed)),
    ]
    closing = None
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.leave(reader)
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, _Closed):
                closing = ended
            elif isinstance(ended, Exception) and not isinstance(ended, WebSocketDisconnect | RuntimeError | OSError):
                _log.error("fault in the stream: %s", type(ended).__name__)
                closing = _Closed(1011, "a fault in the control server")
        if closing is not None:
            with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError, TimeoutError):
                await asyncio.wait_for(websocket.close(closing.code, closing.reason), 1.0)


async def _send(websocket: WebSocket, reader: Reader) -> None:
    while True:
        text = await reader.next()
        try:
            await asyncio.wait_for(websocket.send_text(text), SEND_TIMEOUT_S)
        except TimeoutError:
            raise _Closed(_AGAIN_LATER, f"nothing was read for {SEND_TIMEOUT_S:.0f} s") from None


async def _listen(websocket: WebSocket, reader: Reader) -> None:
    times: deque[float] = deque(maxlen=CLIENT_MESSAGES_PER_S)
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1000))
        now = time.monotonic()
        if len(times) == times.maxlen and now - times[0] < 1.0:
            raise _Closed(_POLICY, f"more than {CLIENT_MESSAGES_PER_S} messages a second")
        times.append(now)
        text = message.get("text")
        if text is None:
            raise _Closed(_UNSUPPORTED, "text only")
        reader.topics = wished(text)


def wished(text: str) -> frozenset[str]:
    """Return the topics that a client's message asks for: ``{"topics": ["orders", …]}``.

    Raises:
        _Closed: it is no such message.
    """
    data = text.encode()
    if len(data) > CLIENT_BYTES_MAX:
        raise _Closed(_TOO_BIG, f"a message of more than {CLIENT_BYTES_MAX} bytes")
    if too_deep(data):
        raise _Closed(_POLICY, "nested too deep")
    try:
        said = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _Closed(_POLICY, "not JSON") from None
    topics = said.get("topics") if isinstance(said, dict) and set(said) == {"topics"} else None
    if not isinstance(topics, list) or not all(isinstance(one, str) and one in TOPICS for one in topics):
        raise _Closed(_POLICY, f'write {{"topics": [...]}} with any of {", ".join(TOPICS)}')
    return frozenset(topics)


def _no_constant(name: str) -> float:
    raise ValueError(name)


async def _recheck(still_allowed: Callable[[], Awaitable[bool]]) -> None:
    while True:
        await asyncio.sleep(RECHECK_S)
        if not await still_allowed():
            raise _Closed(_POLICY, "the token is not valid any more")
