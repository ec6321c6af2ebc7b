"""From the engine outwards, one way: quotes and bars for whoever looks on, over Valkey's publish and subscribe.

The engine never waits for it. :meth:`LivePublisher.offer` puts an item into this process's memory and returns: of
quotes only the newest of a symbol is kept, everything else waits in a bounded queue whose oldest items are dropped and
counted. A thread of its own sends what there is, at most every 50 ms; while the server is away it tries again after 0.1
to 5 s, and what waits meanwhile goes the same way. Nobody answers, nothing is read back, and no decision depends on it.

Protocol
    Channel ``fx:live:<account>``. One message is one JSON object in UTF-8, at most 64 KiB:

    ``v``        1
    ``run``      a random number of the publisher: ``seq`` begins anew with each
    ``seq``      counts messages from 1; a gap means that the subscriber missed some
    ``topic``    ``ticks`` or ``bars``
    ``dropped``  items dropped so far for want of room
    ``sent_ns``  this machine's time, ns since 1970 UTC
    ``items``    a list of objects, each with ``symbol`` and ``time_ns`` (market time, ns UTC), and
                 for ticks ``bid``, ``ask``; for bars ``timeframe``, ``open``, ``high``, ``low``, ``close``,
                 ``tick_volume``, with ``time_ns`` the bar's opening; only closed bars are published

    Numbers that are not finite are null. A subscriber ignores keys that it does not know, and messages of another
    ``v``.
"""

import contextlib
import json
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

Topic = Literal["ticks", "bars"]
TOPICS: tuple[Topic, ...] = ("ticks", "bars")
VERSION = 1
MESSAGE_BYTES_MAX = 65_536
ITEMS_MAX = 256
_ANSWER_S = 0.5
_BACKOFF_S = (0.1, 0.5, 1.0, 2.0, 5.0)


class Publisher(Protocol):
    """Where the engine leaves what others may look at; never blocks and never raises."""

    def offer(self, topic: Topic, item: Mapping[str, Any]) -> None:
        """Leave an item with ``symbol`` and ``time_ns``."""
        ...


def channel(account: str) -> str:
    """Return the name of an account's channel."""
    return f"fx:live:{account}"


class LivePublisher:
    """Publishes one engine's quotes and bars.

    Args:
        url: of Valkey or Redis, as in ``FX_REDIS_URL``.
        account: account name.
        queue_max: items that wait at most; quotes are one a symbol beside it.
        every_s: least pause between two sendings.
    """

    def __init__(self, url: str, account: str, *, queue_max: int = 1_024, every_s: float = 0.05) -> None:
        self._url = url
        self._channel = channel(account)
        self._every_s = every_s
        self._quotes: dict[str, Mapping[str, Any]] = {}
        self._queue: deque[Mapping[str, Any]] = deque(maxlen=queue_max)
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._run, self._seq = secrets.randbits(48), 0
        self.dropped = 0
        self.problem = ""
        """Why nothing is published; empty: it is."""

    def start(self) -> None:
        """Begin to send."""
        self._thread = threading.Thread(target=self._send_forever, name="fx-publisher", daemon=True)
        self._thread.start()

    def close(self, timeout_s: float = 1.0) -> None:
        """End; what was not sent is lost."""
        self._stopping.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def offer(self, topic: Topic, item: Mapping[str, Any]) -> None:
        """Leave an item to be published; returns at once, whatever the server does."""
        with self._lock:
            if topic == "ticks":
                self._quotes[str(item["symbol"])] = item
            else:
                self.dropped += len(self._queue) == self._queue.maxlen
                self._queue.append(item)
        self._news.set()

    # -- the thread ------------------------------------------------------------------------------------------------

    def _send_forever(self) -> None:
        failures = 0
        client: Redis | None = None
        while not self._stopping.is_set():
            self._news.wait()
            self._news.clear()
            try:
                client = client or self._connected()
                self._send(client)
                self.problem, failures, pause_s = "", 0, self._every_s
            except (RedisError, OSError, ValueError) as error:
                self.problem = f"the cache server is away ({type(error).__name__})"
                pause_s = _BACKOFF_S[min(failures, len(_BACKOFF_S) - 1)]
                failures += 1
                self._news.set()
            self._stopping.wait(pause_s)
        if client is not None:
            with contextlib.suppress(RedisError, OSError):
                client.close()

    def _connected(self) -> Redis:
        return Redis.from_url(
            self._url, socket_timeout=_ANSWER_S, socket_connect_timeout=_ANSWER_S, retry=Retry(NoBackoff(), 0)
        )

    def _send(self, client: Redis) -> None:
        with self._lock:
            quotes, self._quotes = list(self._quotes.values()), {}
            others = list(self._queue)
            self._queue.clear()
        for topic, items in (("ticks", quotes), ("bars", others)):
            for first in range(0, len(items), ITEMS_MAX):
                client.publish(self._channel, self._message(topic, items[first : first + ITEMS_MAX]))

    def _message(self, topic: str, items: list[Mapping[str, Any]]) -> bytes:
        self._seq += 1
        message = {
            "v": VERSION, "run": self._run, "seq": self._seq, "topic": topic, "dropped": self.dropped,
            "sent_ns": time.time_ns(), "items": [_plain(item) for item in items],
        }  # fmt: skip
        return json.dumps(message, separators=(",", ":"), allow_nan=False, default=str).encode()


def _plain(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item of numpy's or Python's numbers as JSON values."""
    plain: dict[str, Any] = {}
    for name, value in item.items():
        value = value.item() if hasattr(value, "item") else value
        plain[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return plain


def read_message(data: bytes) -> tuple[Topic, list[dict[str, Any]]] | None:
    """Return topic and items of a message; None: it is none of this protocol, and is not handed on."""
    if len(data) > MESSAGE_BYTES_MAX:
        return None
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("v") != VERSION or not isinstance(said.get("items"), list):
        return None
    topic = next((one for one in TOPICS if one == said.get("topic")), None)
    items = [item for item in said["items"] if _is_item(item)]
    return (topic, items) if topic is not None and items else None


def _is_item(item: object) -> bool:
    if not isinstance(item, dict):
        return False
    symbol, time_ns = item.get("symbol"), item.get("time_ns")
    return isinstance(symbol, str) and 0 < len(symbol) <= 29 and isinstance(time_ns, int)
