"""A real Valkey that is killed, comes back and stops answering, under sessions that go on."""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from fx_dagster.live.caches import PREDICTIONS, Event, Level, PredictedRow
from fx_dagster.models.answer import EXTRAS
from fx_dagster.settings import CacheSettings
from resources.cache import QUEUE_MAX, LiveCache, SharedCache
from resources.servers.valkey import ValkeyServer

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    home = Path(tempfile.mkdtemp(prefix="fx-vk-"))
    one = ValkeyServer(home / "run", logs=home / "logs", memory_mb=32)
    one.start()
    yield one
    one.stop()
    shutil.rmtree(home)


def row(value: float) -> PredictedRow:
    return PredictedRow(("xgboost", "random_forest"), np.array([value, 0.5]), np.zeros(len(EXTRAS)), {}, 7, True)


async def keep_until_written(cache: LiveCache, key: str) -> None:
    """Keep entries until the server takes one: the pause after a failure may be seconds."""
    async with asyncio.timeout(30):
        while True:
            cache.keep(PREDICTIONS, key, row(0.5))
            await cache.flush(1.0)
            if not cache.problem and not cache.waiting:
                return
            await asyncio.sleep(0.05)


def test_killed_in_the_middle_all_goes_on_and_it_comes_back(
    server: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="resources.cache")

    async def script() -> None:
        one, other = (LiveCache(server.url, CacheSettings(), source="sample") for _ in range(2))
        one.keep(PREDICTIONS, "fx1:before", row(0.25))
        assert await one.flush()
        assert "fx1:before" in await other.fetch(PREDICTIONS, ["fx1:before"], 2.0)
        assert server.process is not None
        server.process.kill()
        for number in range(2 * QUEUE_MAX):
            one.keep(PREDICTIONS, f"fx1:{number}", row(0.5))
            if number % 64 == 0:
                await asyncio.sleep(0)
        assert one.known(PREDICTIONS, "fx1:before") is not None
        assert one.waiting <= QUEUE_MAX
        assert await other.fetch(PREDICTIONS, ["fx1:before"], 2.0) == {}
        assert other.known(PREDICTIONS, "fx1:before") is not None
        async with asyncio.timeout(10):
            while not one.problem:
                await asyncio.sleep(0.01)
        assert one.counters.count(Level.PREDICTIONS, Event.ERROR) > 0
        assert one.counters.count(Level.PREDICTIONS, Event.DROP) > 0
        assert other.counters.count(Level.PREDICTIONS, Event.ERROR) == 1
        await asyncio.to_thread(server.start)
        await keep_until_written(one, "fx1:after")
        async with asyncio.timeout(30):
            while "fx1:after" not in await other.fetch(PREDICTIONS, ["fx1:after"], 2.0):
                await asyncio.sleep(0.05)
        assert (one.problem, other.problem) == ("", "")
        await one.close()
        await other.close()

    asyncio.run(script())
    warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 2, "one line a cache, however many calls fail"
    secret = server.url.split(":")[2].split("@")[0]
    assert secret not in caplog.text


def test_a_server_that_hangs_holds_nobody_up(server: ValkeyServer) -> None:
    async def script() -> None:
        cache = LiveCache(server.url, CacheSettings(), source="sample")
        cache.keep(PREDICTIONS, "fx1:a", row(0.5))
        assert await cache.flush()
        assert server.process is not None
        os.kill(server.process.pid, signal.SIGSTOP)
        try:
            loop, ticks = asyncio.get_running_loop(), []
            loop.call_later(0.0, ticks.append, 1)
            assert await cache.fetch(PREDICTIONS, ["fx1:a"], 0.002) == {}
            assert ticks, "the loop was held up"
            for number in range(10):
                cache.keep(PREDICTIONS, f"fx1:{number}", row(0.5))
            await cache.close()
        finally:
            os.kill(server.process.pid, signal.SIGCONT)
        assert cache.counters.count(Level.PREDICTIONS, Event.ERROR) >= 1

    asyncio.run(script())


def test_a_session_may_start_before_its_cache(server: ValkeyServer) -> None:
    server.stop()

    async def script() -> None:
        cache = LiveCache(server.url, CacheSettings(), source="sample")
        assert not await cache.open()
        cache.keep(PREDICTIONS, "fx1:early", row(0.5))
        assert await cache.fetch(PREDICTIONS, ["fx1:early"], 2.0) == {}
        await asyncio.to_thread(server.start)
        await keep_until_written(cache, "fx1:later")
        await cache.close()

    asyncio.run(script())
    with Redis.from_url(server.url) as client:
        assert client.exists("fx1:later")


def test_what_does_not_speak_the_protocol_is_no_cache() -> None:
    async def script() -> None:
        async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            await writer.drain()
            writer.close()

        stranger = await asyncio.start_server(greet, "127.0.0.1", 0)
        port = stranger.sockets[0].getsockname()[1]
        cache = LiveCache(f"redis://:guess@127.0.0.1:{port}/0", CacheSettings(), source="sample")
        cache.keep(PREDICTIONS, "fx1:a", row(0.5))
        await cache.flush(2.0)
        assert cache.known(PREDICTIONS, "fx1:a") is not None
        assert cache.counters.count(Level.PREDICTIONS, Event.ERROR) > 0
        assert "guess" not in cache.problem
        await cache.close()
        shared = SharedCache(f"redis://:guess@127.0.0.1:{port}/0", CacheSettings())
        assert await asyncio.to_thread(shared.weights, "0" * 64) is None
        shared.close()
        stranger.close()
        await stranger.wait_closed()

    asyncio.run(script())


def test_a_wrong_password_and_a_full_server_are_counted(server: ValkeyServer) -> None:
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        full = SharedCache(server.url, CacheSettings())
        sha256 = full.keep_weights(b"model")
        assert full.weights(sha256) == b"model"
        assert full.counters.count(Level.WEIGHTS, Event.ERROR) == 1

        async def script() -> None:
            cache = LiveCache(server.url, CacheSettings(), source="sample")
            cache.keep(PREDICTIONS, "fx1:a", row(0.5))
            await cache.flush()
            assert cache.counters.count(Level.PREDICTIONS, Event.ERROR) == 1
            await cache.close()

        asyncio.run(script())
        full.close()
    secret = secrets.token_hex(4)
    stranger = SharedCache(f"redis://:{secret}@127.0.0.1:{server.port}/0", CacheSettings())
    assert stranger.weights("0" * 64) is None
    assert stranger.counters.count(Level.WEIGHTS, Event.ERROR) == 1
    assert secret not in stranger.problem
    stranger.close()


def test_a_port_that_nobody_has_is_tried_less_and_less() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    cache = SharedCache(f"redis://127.0.0.1:{port}/0", CacheSettings())
    for _ in range(200):
        assert cache.weights("0" * 64) is None
    assert cache.counters.count(Level.WEIGHTS, Event.MISS) == 200
    assert 1 <= cache.counters.count(Level.WEIGHTS, Event.ERROR) < 10
    cache.close()
