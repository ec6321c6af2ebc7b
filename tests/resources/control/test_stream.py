"""The stream with real readers: a slow one loses and is told, nobody else notices; bad clients go alone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
import pytest
import websockets
from websockets.asyncio.client import ClientConnection, connect

from resources.control.stream import TOPICS, Reader
from resources.live_publisher import LivePublisher, read_message

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def reading(control: Any, token: str | None = None, **keywords: Any) -> AsyncIterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {control.read if token is None else token}"}
    address = control.url.replace("http", "ws") + "/stream"
    async with connect(address, additional_headers=headers, proxy=None, **keywords) as link:
        yield link


async def until(link: ClientConnection, topic: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            said = json.loads(await link.recv())
            if said["topic"] == topic:
                return said


async def ending(link: ClientConnection) -> int | None:
    """Return the code with which the server closes."""
    async with asyncio.timeout(10):
        with contextlib.suppress(websockets.exceptions.ConnectionClosed):
            while True:
                await link.recv()
    return link.close_code


def test_decisions_orders_and_events_are_told_as_they_are_journalled(control: Any, session: Any) -> None:
    session.decide(1)
    session.order(7)

    async def check() -> None:
        async with reading(control) as link:
            health = await until(link, "health")
            assert health["engine"]["status"]["level"] == 3
            assert "FX_REDIS_URL" in health["source_problem"]
            session.decide(2, breakers=["spread"])
            said = await until(link, "decisions")
            assert [one["number"] for one in said["items"]] == [2]
            assert said["items"][0]["client_order_id"] == str(2**62 + 2)
            assert said["items"][0]["score"] is None  # NaN is no JSON
            session.order(7, "filled")
            assert [(one["client_order_id"], one["state"]) for one in (await until(link, "orders"))["items"]] == [
                ("7", "filled")
            ]
            session.event("level", "level 4")
            assert (await until(link, "events"))["items"][0]["message"] == "level 4"
            session.beat(level=4)
            assert (await until(link, "health"))["engine"]["status"]["level"] == 4

    asyncio.run(check())


def test_a_reader_hears_only_of_the_topics_it_wishes(control: Any, session: Any) -> None:
    async def check() -> None:
        async with reading(control) as link:
            await until(link, "health")
            await link.send(json.dumps({"topics": ["events"]}))
            await asyncio.sleep(0.2)
            session.decide(1)
            session.beat(level=2)
            session.event("note", "here")
            async with asyncio.timeout(10):
                said = json.loads(await link.recv())
            assert said["topic"] == "events"

    asyncio.run(check())


def test_who_has_no_token_is_refused_before_the_handshake(control: Any) -> None:
    async def check() -> None:
        for token in ("", "nonsense"):
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                async with reading(control, token=token):
                    raise AssertionError("it was let in")
            assert refused.value.response.status_code == 401

    asyncio.run(check())


def test_more_readers_than_allowed_are_refused(serve: Callable[..., Any]) -> None:
    async def check(control: Any) -> None:
        async with reading(control):
            with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
                async with reading(control):
                    raise AssertionError("it was let in")
            assert refused.value.response.status_code == 503

    with serve(readers_max=1) as control:
        asyncio.run(check(control))


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("x" * 5_000, 1009),
        ("[" * 2_000, 1008),
        ("nonsense", 1008),
        (b"\x00\x01", 1003),
        ('{"topics": ["secrets"]}', 1008),
        ('{"topics": [], "more": 1}', 1008),
        ('{"topics": NaN}', 1008),
        ("[]", 1008),
    ],
)
def test_an_impossible_message_closes_that_reader_only(
    control: Any, session: Any, message: str | bytes, code: int
) -> None:
    async def check() -> None:
        async with reading(control) as good, reading(control) as bad:
            await until(good, "health")
            await bad.send(message)
            assert await ending(bad) == code
            session.event("note", "still here")
            assert (await until(good, "events"))["items"][0]["message"] == "still here"

    asyncio.run(check())


def test_a_flood_of_messages_closes_the_reader(control: Any) -> None:
    async def check() -> None:
        async with reading(control) as link:
            with contextlib.suppress(websockets.exceptions.ConnectionClosed):
                for _ in range(200):
                    await link.send('{"topics": []}')
            assert await ending(link) == 1008

    asyncio.run(check())


def test_a_slow_reader_loses_and_is_told_while_a_fast_one_gets_all(serve: Callable[..., Any], session: Any) -> None:
    """The slow one reads nothing while 30 MB go by: kernel, server and client hold a part of it, the rest is lost."""
    count, together, filling = 600, 20, "x" * 50_000

    async def check(control: Any) -> None:
        async with reading(control, max_queue=1) as slow, reading(control) as fast:
            await until(fast, "health")
            for first in range(0, count, together):
                for n in range(first, first + together):
                    control.publish("bars", {"n": n, "filling": filling})
                seen = [(await until(fast, "bars"))["n"] for _ in range(together)]
                assert seen == list(range(first, first + together))
            lost, got, newest = 0, 0, -1
            while newest < count - 1:
                said = json.loads(await slow.recv())
                lost += said["count"] if said["topic"] == "lost" else 0
                if said["topic"] == "bars":
                    assert said["n"] > newest
                    newest, got = said["n"], got + 1
            assert lost > 0
            assert got + lost >= count

    with serve(reader_queue_max=64) as control:
        asyncio.run(check(control))


def test_what_is_journalled_while_postgresql_is_away_is_told_when_it_is_back(
    control: Any, session: Any, url: str
) -> None:
    base, name = url.replace("+psycopg2", "").rsplit("/", 1)

    def allow(connections: bool) -> None:
        with psycopg.connect(f"{base}/postgres", autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {connections}")

    async def check() -> None:
        async with reading(control) as link:
            assert (await until(link, "health"))["problem"] == ""
            with psycopg.connect(f"{base}/{name}", autocommit=True, options="-c search_path=fx") as engine:
                allow(False)
                try:
                    while "PostgreSQL" not in (await until(link, "health"))["problem"]:
                        pass
                    engine.execute(
                        "INSERT INTO live_event (session_id, kind, message, market_time, at)"
                        " VALUES (%s, 'note', 'meanwhile', 5, now())",
                        (session.session_id,),
                    )
                finally:
                    allow(True)
            assert (await until(link, "events"))["items"][0]["message"] == "meanwhile"

    asyncio.run(check())


def test_ticks_and_bars_come_from_the_engine_over_valkey(
    serve: Callable[..., Any], session: Any, valkey_url: str
) -> None:
    async def check(control: Any) -> None:
        publisher = LivePublisher(valkey_url, "paper", every_s=0.01)
        publisher.start()
        try:
            async with reading(control) as link:
                while (await until(link, "health"))["source_problem"]:
                    session.beat()
                for n in range(50):
                    publisher.offer("ticks", {"symbol": "EURUSD", "time_ns": n, "bid": 1.1, "ask": float("nan")})
                publisher.offer("bars", {"symbol": "EURUSD", "timeframe": "M1", "time_ns": 5, "close": 1.2})
                bars = await until(link, "bars")
                assert bars["items"][0]["close"] == 1.2
                newest = -1
                while newest < 49:
                    publisher.offer("ticks", {"symbol": "EURUSD", "time_ns": 49, "bid": 1.1, "ask": float("nan")})
                    ticks = (await until(link, "ticks"))["items"]
                    assert len(ticks) == 1
                    assert ticks[0]["ask"] is None
                    newest = ticks[0]["time_ns"]
        finally:
            publisher.close()

    with serve(redis=valkey_url) as control:
        asyncio.run(check(control))


def test_a_reader_is_told_of_losses_first_and_keeps_the_newest_quote_of_a_symbol() -> None:
    async def check() -> None:
        reader = Reader(2)
        for n in range(5):
            reader.put("bars", json.dumps({"n": n}))
            reader.put_quotes([{"symbol": "EURUSD", "n": n}, {"symbol": "XAUUSD", "n": -n}])
        assert json.loads(await reader.next()) == {"topic": "lost", "count": 3}
        assert [json.loads(await reader.next())["n"] for _ in range(2)] == [3, 4]
        quotes = json.loads(await reader.next())
        assert quotes == {"topic": "ticks", "items": [{"symbol": "EURUSD", "n": 4}, {"symbol": "XAUUSD", "n": -4}]}
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.next(), 0.05)
        reader.topics = frozenset(TOPICS) - {"bars"}
        reader.put("bars", "{}")
        assert not reader.lost

    asyncio.run(check())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"nonsense", b"[]", b"[" * 50_000, b'{"v": 2, "topic": "bars", "items": [{"symbol": "A", "time_ns": 1}]}',
        b'{"v": 1, "topic": "orders", "items": [{"symbol": "A", "time_ns": 1}]}',
        b'{"v": 1, "topic": "bars", "items": [1]}',
        b'{"v": 1, "topic": "bars", "items": [{"symbol": 5, "time_ns": 1}]}', b" " * 70_000,
    ],
)  # fmt: skip
def test_what_is_not_the_publishers_is_not_handed_on(data: bytes) -> None:
    assert read_message(data) is None
