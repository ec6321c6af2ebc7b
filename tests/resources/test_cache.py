"""Both caches over a real Valkey: ages, bounds, what is damaged, and what is not there."""

import asyncio
import hashlib
import secrets
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from redis import Redis

from fx_dagster.errors import DataError
from fx_dagster.live.caches import (
    FEATURES,
    PATTERNS,
    PREDICTIONS,
    WEIGHTS,
    Event,
    FeatureRow,
    Level,
    PatternFact,
    PredictedRow,
    features_key,
    patterns_key,
    sealed,
    weights_key,
)
from fx_dagster.models.answer import EXTRAS
from fx_dagster.settings import CacheSettings, load_settings
from resources.cache import PATTERN_HISTORY, QUEUE_MAX, LiveCache, SharedCache, pattern_facts, source_of
from resources.lake import Lake

DEFAULTS = CacheSettings()
SECOND_NS = 1_000_000_000
PATIENT_S = 2.0
FACT = PatternFact("hammer", "EURUSD", 12, 40, 11, 22, 0.55, 0.28, 0.79, 1e-4, -1e-4, -3e-4)


class HandClock:
    """A clock that a test moves on."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000 * SECOND_NS

    def monotonic_ns(self) -> int:
        return self.now_ns - 1_600_000_000 * SECOND_NS

    def wall_ns(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * SECOND_NS)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def key():
    """A key of the test's own."""
    return f"fx1:test:{secrets.token_hex(8)}"


@pytest.fixture
def server(valkey_url):
    with Redis.from_url(valkey_url) as client:
        yield client


@pytest.fixture
def live(valkey_url, clock):
    """Return a function that runs a coroutine function with two sessions' caches."""

    def run(script, settings=DEFAULTS, url=valkey_url):
        async def both():
            one = LiveCache(url, settings, source="sample", clock=clock)
            other = LiveCache(url, settings, source="sample", clock=clock)
            try:
                return await script(one, other)
            finally:
                await one.close()
                await other.close()

        return asyncio.run(both())

    return run


@pytest.fixture
def shared(valkey_url, clock):
    cache = SharedCache(valkey_url, CacheSettings(), clock=clock)
    yield cache
    cache.close()


def row(value: float = 0.25) -> PredictedRow:
    extras = np.full(len(EXTRAS), np.nan)
    return PredictedRow(("xgboost", "random_forest"), np.array([value, 0.5]), extras, {"patterns": np.ones(3)}, 7, True)


def test_what_one_session_keeps_another_finds(live, key):
    async def script(one, other):
        one.keep(PREDICTIONS, key, row())
        assert one.known(PREDICTIONS, key) is not None
        assert other.known(PREDICTIONS, key) is None
        assert await one.flush()
        found = await other.fetch(PREDICTIONS, [f"{key}-absent", key], PATIENT_S)
        assert list(found) == [key]
        assert found[key].p_up.tobytes() == row().p_up.tobytes()
        assert np.isnan(found[key].extras).all()
        assert other.known(PREDICTIONS, key) is not None
        assert other.problem == ""

    live(script)


def test_connections_are_made_before_they_are_needed(live, key, server):
    async def script(one, other):
        before = len(server.client_list())
        assert await one.open()
        assert len(server.client_list()) == before + 2
        one.keep(PREDICTIONS, key, row())
        assert await one.flush()
        await one.fetch(PREDICTIONS, [key], PATIENT_S)
        assert len(server.client_list()) == before + 2

    live(script)


def test_an_entry_lives_a_minute_on_the_server_too_and_keeps_its_age(live, key, clock, server):
    async def script(one, other):
        one.keep(PREDICTIONS, key, row())
        await one.flush()
        assert 59_000 < server.pttl(key) <= 60_000
        clock.pass_s(59)
        assert key in await other.fetch(PREDICTIONS, [key], PATIENT_S)
        clock.pass_s(1)
        assert other.known(PREDICTIONS, key) is None
        assert other.is_empty(Level.PREDICTIONS)
        assert await other.fetch(PREDICTIONS, [key], PATIENT_S) == {}
        assert one.known(PREDICTIONS, key) is None

    live(script)


def test_what_waited_too_long_is_not_written(live, key, clock, server):
    async def script(one, other):
        one.keep(PREDICTIONS, key, row())
        clock.pass_s(60)
        await one.flush()
        assert one.counters.count(Level.PREDICTIONS, Event.DROP) == 1
        assert not server.exists(key)

    live(script)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04\x95\x0b\x00\x00\x00.",
        b"FXC0" + bytes(40),
        "sealed for another key",
        "another level's",
        "cut",
        "one bit",
        "no probability",
    ],
)
def test_damaged_and_foreign_values_are_a_miss_and_go(live, key, clock, server, content):
    good = sealed(key, clock.wall_ns(), PREDICTIONS.pack(row()))
    made = {
        "sealed for another key": sealed("other", clock.wall_ns(), PREDICTIONS.pack(row())),
        "another level's": sealed(key, clock.wall_ns(), FEATURES.pack(FeatureRow("A", 1, np.ones(2, np.float32)))),
        "cut": good[:-3],
        "one bit": good[:40] + bytes([good[40] ^ 1]) + good[41:],
        "no probability": sealed(key, clock.wall_ns(), PREDICTIONS.pack(row(float("nan")))),
    }
    server.set(key, made.get(content, content))

    async def script(one, other):
        assert await one.fetch(PREDICTIONS, [key], PATIENT_S) == {}
        assert one.counters.count(Level.PREDICTIONS, Event.ERROR) == 1
        assert one.is_empty(Level.PREDICTIONS)
        await one.flush()
        assert not server.exists(key)
        assert one.problem == ""

    live(script)


def test_a_value_of_another_type_is_a_miss(live, key, server, shared):
    server.rpush(key, b"a list")

    async def script(one, other):
        assert await one.fetch(PREDICTIONS, [key], PATIENT_S) == {}

    live(script)
    assert shared.get(PATTERNS, key) is None
    assert shared.problem == ""
    shared.put(PATTERNS, key, (FACT,))
    assert server.type(key) == b"string"


def test_the_queue_is_bounded_and_the_oldest_go(live, key, server):
    more = QUEUE_MAX + 5

    async def script(one, other):
        # The writer runs only when this coroutine waits.
        for number in range(more):
            one.keep(PREDICTIONS, f"{key}:{number}", row())
        assert one.waiting == QUEUE_MAX
        assert one.counters.count(Level.PREDICTIONS, Event.DROP) == 5
        assert await one.flush(30.0)

    live(script)
    assert not server.exists(f"{key}:0")
    assert server.exists(f"{key}:{more - 1}")


def test_a_newer_value_takes_the_place_of_one_that_waits(live, key):
    async def script(one, other):
        for value in (0.1, 0.2, 0.3):
            one.keep(PREDICTIONS, key, row(value))
        assert one.waiting == 1
        assert one.counters.count(Level.PREDICTIONS, Event.DROP) == 0
        await one.flush()
        assert (await other.fetch(PREDICTIONS, [key], PATIENT_S))[key].p_up[0] == 0.3

    live(script)


def test_memory_is_bounded(live, key):
    async def script(one, other):
        for number in range(20):
            one.keep(PREDICTIONS, f"{key}:{number}", row())
        kept = [number for number in range(20) if one.known(PREDICTIONS, f"{key}:{number}") is not None]
        assert kept == [17, 18, 19]

    live(script, CacheSettings(entries_max=3))


def test_too_large_is_told_and_not_written(live, key, server):
    async def script(one, other):
        one.keep(PREDICTIONS, key, replace(row(), explained={"patterns": np.ones(200_000)}))
        await one.flush()
        assert one.counters.count(Level.PREDICTIONS, Event.DROP) == 1
        assert not server.exists(key)

    live(script)


@pytest.mark.parametrize("url", ["", "nonsense"])
def test_without_a_server_this_process_has_what_it_kept(live, key, url):
    async def script(one, other):
        assert not await one.open()
        one.keep(PREDICTIONS, key, row())
        assert one.known(PREDICTIONS, key) is not None
        assert await other.fetch(PREDICTIONS, [key], PATIENT_S) == {}
        assert one.waiting == 0

    live(script, url=url)
    cache = SharedCache(url, CacheSettings())
    assert cache.weights(cache.keep_weights(b"model")) == b"model"
    assert cache.latest_features("a", "sample", ["EURUSD"]) == {}


def test_a_reader_does_not_wait_longer_than_told_and_what_is_late_is_kept(live, key, server):
    async def script(one, other):
        one.keep(PREDICTIONS, key, row())
        await one.flush()
        server.client_pause(300, all=True)
        assert await other.fetch(PREDICTIONS, [key], 0.002) == {}
        assert await other.fetch(PREDICTIONS, [key], PATIENT_S) == {}, "a second question while the first is on its way"
        assert other.counters.count(Level.PREDICTIONS, Event.ERROR) == 1
        while other.is_empty(Level.PREDICTIONS):
            await asyncio.sleep(0.01)
        assert other.known(PREDICTIONS, key) is not None

    live(script)


def test_sessions_at_once_read_and_write_the_same_keys(valkey_url, key):
    async def session(number):
        cache = LiveCache(valkey_url, CacheSettings(), source="sample")
        seen = []
        for turn in range(30):
            name = f"{key}:{turn % 4}"
            cache.keep(PREDICTIONS, name, row(turn % 4 / 10))
            seen += [(name, one) for one in (await cache.fetch(PREDICTIONS, [name], PATIENT_S)).values()]
        await cache.close()
        assert cache.counters.count(Level.PREDICTIONS, Event.ERROR) == 0, cache.problem
        return seen

    async def all_at_once():
        return await asyncio.gather(*(session(number) for number in range(6)))

    seen = [pair for pairs in asyncio.run(all_at_once()) for pair in pairs]
    assert seen
    assert all(one.p_up[0] == int(name[-1]) / 10 for name, one in seen)


def test_features_of_a_session_are_read_by_others(live, shared, clock):
    values = np.array([1.0, np.nan, -0.0], dtype=np.float32)
    feature_hash = secrets.token_hex(32)

    async def script(one, other):
        one.keep(FEATURES, features_key(feature_hash, "sample", "EURUSD"), FeatureRow("EURUSD", 5, values))
        await one.flush()

    live(script)
    found = shared.latest_features(feature_hash, "sample", ["XAUUSD", "EURUSD"])
    assert list(found) == ["EURUSD"]
    assert found["EURUSD"].features.tobytes() == values.tobytes()
    assert shared.latest_features("b" * 64, "sample", ["EURUSD"]) == {}
    assert shared.latest_features(feature_hash, "simulator", ["EURUSD"]) == {}
    clock.pass_s(300)
    assert shared.latest_features(feature_hash, "sample", ["EURUSD"]) == {}


def test_weights_are_what_their_hash_says(valkey_url, shared, clock, server):
    content = secrets.token_bytes(100_000)
    sha256 = shared.keep_weights(content)
    assert sha256 == hashlib.sha256(content).hexdigest()
    reader = SharedCache(valkey_url, CacheSettings(), clock=clock)
    assert reader.weights(sha256) == content
    assert reader.weights(sha256) == content
    assert reader.weights("0" * 64) is None
    assert {name: reader.rates()["weights"][name] for name in ("memory_hits", "server_hits", "misses")} == {
        "memory_hits": 1, "server_hits": 1, "misses": 1,
    }  # fmt: skip
    clock.pass_s(86_400)
    assert reader.weights(sha256) is None
    reader.close()


def test_another_file_under_a_hash_is_refused_though_its_seal_is_good(shared, clock, server):
    sha256 = secrets.token_hex(32)
    name = weights_key(sha256)
    server.set(name, sealed(name, clock.wall_ns(), WEIGHTS.pack(b"another model")))
    assert shared.weights(sha256) is None
    assert shared.counters.count(Level.WEIGHTS, Event.ERROR) == 1
    assert not server.exists(name)
    assert shared.weights(sha256) is None


def test_large_weights_stay_in_this_process(shared, server):
    sha256 = shared.keep_weights(bytes(WEIGHTS.body_max + 1))
    assert len(shared.weights(sha256) or b"") == WEIGHTS.body_max + 1
    assert not server.exists(weights_key(sha256))
    assert shared.counters.count(Level.WEIGHTS, Event.DROP) == 1


def test_threads_may_share_a_cache(shared):
    contents = [bytes([number]) * 1_000 for number in range(8)]
    wrong = []

    def work(content):
        for _ in range(20):
            if shared.weights(shared.keep_weights(content)) != content:
                wrong.append(content)

    threads = [threading.Thread(target=work, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shared.counters.count(Level.WEIGHTS, Event.MEMORY_HIT) == 160


def test_pattern_facts_are_read_once_an_hour_and_of_the_same_features_only(shared, tmp_path, clock):
    lake, feature_hash = Lake(str(tmp_path)), secrets.token_hex(32)
    arguments = {"feature_hash": feature_hash, "source": "sample", "symbol": "EURUSD"}
    assert pattern_facts(shared, lake, **arguments) == ()
    facts = [FACT, replace(FACT, symbol=""), replace(FACT, symbol="XAUUSD"), replace(FACT, pattern="bull_flag")]
    lake.write(PATTERN_HISTORY, pd.DataFrame(facts), metadata={"feature_hash": feature_hash})
    assert pattern_facts(shared, lake, **arguments, patterns=["hammer"]) == (FACT, replace(FACT, symbol=""))
    assert len(pattern_facts(shared, lake, **arguments)) == 3
    lake.write(PATTERN_HISTORY, pd.DataFrame([replace(FACT, rises=1)]), metadata={"feature_hash": feature_hash})
    assert pattern_facts(shared, lake, **arguments)[0].rises == 22
    assert pattern_facts(None, lake, **arguments)[0].rises == 1
    assert pattern_facts(shared, lake, **{**arguments, "feature_hash": "b" * 64}) == ()
    clock.pass_s(3_600)
    assert pattern_facts(shared, lake, **arguments)[0].rises == 1
    lake.write(PATTERN_HISTORY, pd.DataFrame({"count": [1]}), metadata={"feature_hash": "c" * 64})
    with pytest.raises(DataError):
        pattern_facts(shared, lake, **{**arguments, "feature_hash": "c" * 64})
    assert shared.get(PATTERNS, patterns_key("c" * 64, "sample")) is None


def test_the_settings_choose(free_home, monkeypatch, valkey_url):
    async def made():
        return LiveCache.of(load_settings())

    monkeypatch.setenv("FX_REDIS_URL", valkey_url)
    here = asyncio.run(made()).source
    assert here.startswith("sample-")
    # Another lake is another source, whatever its kind: two installations may share one server.
    assert source_of(load_settings({"FX_LAKE_URL": str(free_home / "elsewhere")})) != here
    monkeypatch.delenv("FX_LAKE_URL")
    cache = SharedCache.of(load_settings({"FX_CACHE_PATTERNS_S": "5"}))
    assert cache is not None
    cache.close()
    assert SharedCache.of(load_settings({"FX_CACHE_ENABLED": "false"})) is None
    assert asyncio.run(made()) is None
