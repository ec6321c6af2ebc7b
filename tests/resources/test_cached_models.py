"""Answers from memory in front of a service: which rows are asked, and what other sessions can help with."""

import asyncio
import secrets
from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.live.caches import PREDICTIONS, Event, Level, prediction_keys, rows_of
from fx_dagster.models.answer import DIRECTIONS, EXTRAS, SIMPLE_MODELS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.service import ModelAnswer, ModelCallError, UnavailableReason
from fx_dagster.settings import CacheSettings
from resources import cached_models
from resources.cache import LiveCache, SharedCache
from resources.cached_models import CachedModels, CachedProvider

SECOND_NS = 1_000_000_000
DEADLINE_S = 1.0
HASH = "a" * 64


class HandClock:
    def __init__(self):
        self.now_ns = 1_700_000_000 * SECOND_NS

    def monotonic_ns(self):
        return self.now_ns

    def wall_ns(self):
        return self.now_ns


class Release:
    """A release whose answers follow from all of a row's tensors; it can be told to fail."""

    models = DIRECTIONS
    symbols = ("EURUSD", "XAUUSD")

    def __init__(self, identity, release=7, bias=0.0):
        self.identity, self.release, self.feature_hash, self.bias = identity, release, HASH, bias
        self.asked = []
        self.fails = None
        self.discards = False
        self.lacks_confidence = False
        self.health = True

    async def predict(self, inputs, *, deadline_s, whole=True):
        self.asked.append((whole, len(inputs)))
        await asyncio.sleep(0)
        if self.fails is not None:
            raise ModelCallError(self.fails, "told to")
        models = self.models if whole else SIMPLE_MODELS
        score = self.bias + inputs.features.sum(axis=1) + inputs.sequence.sum(axis=(1, 2)) + inputs.chart.sum((1, 2, 3))
        score = score.astype(np.float64) + inputs.symbol + inputs.time % 1_000 / 1e3
        p_up = 1 / (1 + np.exp(-score[:, None] * np.arange(1, len(models) + 1) / 10))
        extras = np.full((len(inputs), len(EXTRAS)), np.nan)
        if whole:
            extras[:, :2] = p_up[:, :2]
        discarded = ()
        if self.discards:
            p_up[:, 2] = np.nan
            discarded = ("p_up_lstm",)
        if self.lacks_confidence:
            extras[:, 0] = np.nan
            discarded = ("confidence",)
        explained = {"patterns": p_up[:, :2] / 2} if whole else {}
        return ModelAnswer(models, p_up, extras, explained, self.release, 0.1, discarded, whole)

    async def bare_call_ms(self, inputs, *, deadline_s):
        return 0.25

    async def healthy(self):
        return self.health

    async def close(self):
        self.health = False


def rows(n, seed=0):
    rng = np.random.default_rng(seed)
    return ModelInputs(
        rng.normal(size=(n, 4)).astype(np.float32), rng.normal(size=(n, 3, 2)).astype(np.float32),
        rng.normal(size=(n, 2, 5, 3)).astype(np.float32), np.arange(n) * 3_600 * SECOND_NS + n, np.arange(n) % 2,
    )  # fmt: skip


def said(answer):
    """Return all that an answer says, in bytes."""
    explained = {name: values.tobytes() for name, values in answer.explained.items()}
    return (answer.models, answer.p_up.tobytes(), answer.extras.tobytes(), explained, answer.release, answer.whole)


async def plainly(release, inputs, whole=True):
    """Return what the service itself says."""
    return said(await Release("", release.release, release.bias).predict(inputs, deadline_s=1.0, whole=whole))


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def run(clock):
    """Run a coroutine function with a release and its cached self, without a server."""

    def runs(script):
        async def inside():
            release = Release(secrets.token_hex(32))
            cache = LiveCache("", CacheSettings(), source="sample", clock=clock)
            await script(release, CachedModels(release, cache, identity=release.identity), cache)

        asyncio.run(inside())

    return runs


def test_rows_that_are_known_are_not_asked_again_for_a_minute(run, clock):
    async def script(release, cached, cache):
        first = await cached.predict(rows(3), deadline_s=DEADLINE_S)
        clock.now_ns += 59 * SECOND_NS
        again = await cached.predict(rows(3), deadline_s=DEADLINE_S)
        assert said(again) == said(first) == await plainly(release, rows(3))
        assert release.asked == [(True, 3)]
        clock.now_ns += SECOND_NS
        await cached.predict(rows(3), deadline_s=DEADLINE_S)
        assert release.asked == [(True, 3), (True, 3)]
        assert cache.rates()["predictions"]["hit_rate"] == 3 / 9

    run(script)


@pytest.mark.parametrize("known", [[0], [2], [0, 3], [1, 2, 3], [3, 1]])
def test_only_missing_rows_are_asked_and_the_order_stays(run, known):
    async def script(release, cached, cache):
        await cached.predict(rows(4).take(np.array(known)), deadline_s=DEADLINE_S)
        answer = await cached.predict(rows(4), deadline_s=DEADLINE_S)
        assert release.asked == [(True, len(known)), (True, 4 - len(known))]
        assert said(answer) == await plainly(release, rows(4))

    run(script)


def test_the_simple_models_answers_are_kept_apart(run):
    async def script(release, cached, cache):
        for whole in (True, False, True, False):
            answer = await cached.predict(rows(2), deadline_s=DEADLINE_S, whole=whole)
            assert said(answer) == await plainly(release, rows(2), whole=whole)
        assert release.asked == [(True, 2), (False, 2)]

    run(script)


@pytest.mark.parametrize("name", ["features", "sequence", "chart", "time", "symbol"])
def test_a_changed_tensor_is_asked(run, name):
    async def script(release, cached, cache):
        await cached.predict(rows(2), deadline_s=DEADLINE_S)
        changed = rows(2)
        values = getattr(changed, name).reshape(2, -1)
        values[1, -1] = 0 if name == "symbol" else np.nextafter(values[1, -1], 9) if name != "time" else 1
        answer = await cached.predict(changed, deadline_s=DEADLINE_S)
        assert release.asked == [(True, 2), (True, 1)]
        assert said(answer) == await plainly(release, changed)

    run(script)


def test_a_switch_of_releases_leaves_nothing_of_the_old_one(run):
    async def script(release, cached, cache):
        await cached.predict(rows(2), deadline_s=DEADLINE_S)
        for new in (Release(release.identity, 8, bias=1.0), Release(secrets.token_hex(32), 7, bias=2.0)):
            other = CachedModels(new, cache, identity=new.identity)
            assert said(await other.predict(rows(2), deadline_s=DEADLINE_S)) == await plainly(new, rows(2))
            assert new.asked == [(True, 2)]
        # Back to the first: its own answers are still young.
        assert said(await cached.predict(rows(2), deadline_s=DEADLINE_S)) == await plainly(release, rows(2))
        assert release.asked == [(True, 2)]

    run(script)


def test_incomplete_answers_are_not_kept_and_spoil_no_row(run):
    async def script(release, cached, cache):
        good = await cached.predict(rows(3).take(np.array([1])), deadline_s=DEADLINE_S)
        release.discards = True
        answer = await cached.predict(rows(3), deadline_s=DEADLINE_S)
        assert answer.discarded == ("p_up_lstm",)
        assert np.isnan(answer.p_up[:, 2]).all()
        assert np.isnan(answer.p_up).sum() == 3
        assert answer.p_up[1, 0] == good.p_up[0, 0]
        release.discards = False
        assert said(await cached.predict(rows(3), deadline_s=DEADLINE_S)) == await plainly(release, rows(3))
        assert release.asked == [(True, 1), (True, 2), (True, 2)]

    run(script)


def test_an_answer_whose_probabilities_stand_but_not_the_rest_is_not_kept(run):
    async def script(release, cached, cache):
        release.lacks_confidence = True
        assert np.isnan((await cached.predict(rows(2), deadline_s=DEADLINE_S)).extras[:, 0]).all()
        release.lacks_confidence = False
        assert said(await cached.predict(rows(2), deadline_s=DEADLINE_S)) == await plainly(release, rows(2))
        assert len(release.asked) == 2

    run(script)


def test_an_answer_of_another_release_is_not_kept(run):
    async def script(release, cached, cache):
        asked = release.predict

        async def stale(inputs, **how):
            return replace(await asked(inputs, **how), release=6)

        release.predict = stale
        for _ in range(2):
            assert (await cached.predict(rows(1), deadline_s=DEADLINE_S)).release == 6
        assert len(release.asked) == 2

    run(script)


def test_what_is_kept_is_out_of_a_callers_reach(run):
    async def script(release, cached, cache):
        expected = await plainly(release, rows(2))
        for _ in range(3):
            answer = await cached.predict(rows(2), deadline_s=DEADLINE_S)
            assert said(answer) == expected
            for values in (answer.p_up, answer.extras, *answer.explained.values()):
                values[:] = -1.0

    run(script)


def test_a_failure_is_the_services_own(run):
    async def script(release, cached, cache):
        await cached.predict(rows(2).take(np.array([0])), deadline_s=DEADLINE_S)
        release.fails = UnavailableReason.UNREACHABLE
        with pytest.raises(ModelCallError, match="told to"):
            await cached.predict(rows(2), deadline_s=DEADLINE_S)
        assert (await cached.predict(rows(2).take(np.array([0])), deadline_s=DEADLINE_S)).complete
        release.health = False
        assert not await cached.healthy()
        with pytest.raises(ModelCallError):
            await cached.direct.predict(rows(2).take(np.array([0])), deadline_s=DEADLINE_S)

    run(script)


def test_no_rows_and_the_rest_go_through(run):
    async def script(release, cached, cache):
        assert len((await cached.predict(rows(0), deadline_s=DEADLINE_S)).p_up) == 0
        assert (cached.models, cached.symbols, cached.release, cached.feature_hash) == (
            release.models, release.symbols, 7, HASH,
        )  # fmt: skip
        assert await cached.bare_call_ms(rows(1), deadline_s=DEADLINE_S) == 0.25
        assert cached.direct is release
        await cached.close()
        assert not release.health

    run(script)


def test_questions_at_once_are_answered_right(run):
    async def script(release, cached, cache):
        async def ask(seed):
            inputs = rows(3, seed % 4)
            return said(await cached.predict(inputs, deadline_s=DEADLINE_S)) == await plainly(release, inputs)

        assert all(await asyncio.gather(*(ask(number) for number in range(40))))

    run(script)


class Provider:
    """Knows a service that a test changes."""

    def __init__(self, service):
        self.service, self.problem, self.refreshed = service, "", 0

    async def refresh(self):
        self.refreshed += 1


def test_the_provider_wraps_each_release_once(run):
    async def script(release, cached, cache):
        behind = Provider(release)
        provider = CachedProvider(behind, cache)
        wrapped = provider.service
        assert isinstance(wrapped, CachedModels)
        assert provider.service is wrapped
        behind.service = Release(secrets.token_hex(32), 8)
        assert provider.service is not wrapped
        assert provider.service.release == 8
        behind.service, behind.problem = None, "no release is active"
        assert provider.service is None
        assert provider.problem == "no release is active"
        await provider.refresh()
        assert behind.refreshed == 1
        assert CachedProvider(Provider(release), None).service is release

    run(script)


def test_a_service_without_identity_is_not_cached(run):
    async def script(release, cached, cache):
        del release.identity
        assert CachedProvider(Provider(release), cache).service is release

    run(script)


@pytest.fixture
def sessions(valkey_url, clock):
    """Run a coroutine function with two sessions of one release over one server."""

    def runs(script):
        async def inside():
            identity = secrets.token_hex(32)
            caches = [LiveCache(valkey_url, CacheSettings(), source="sample", clock=clock) for _ in range(2)]
            releases = [Release(identity) for _ in caches]
            made = [CachedModels(one, cache, identity=identity) for one, cache in zip(releases, caches, strict=True)]
            try:
                await script(releases, made, caches)
            finally:
                for cache in caches:
                    await cache.close()

        asyncio.run(inside())

    return runs


async def until_helped(cached, inputs, *, whole=True):
    """Ask until the shared cache answers within its two milliseconds, which a busy machine may not manage at once."""
    while True:
        try:
            return await cached.predict(inputs, deadline_s=DEADLINE_S, whole=whole)
        except ModelCallError:
            await asyncio.sleep(0.01)


def test_a_session_without_a_server_for_models_is_helped_by_another(sessions):
    async def script(releases, made, caches):
        await made[1].predict(rows(1, seed=9), deadline_s=DEADLINE_S)
        await made[0].predict(rows(3), deadline_s=DEADLINE_S)
        assert await caches[0].flush()
        releases[1].fails = UnavailableReason.UNREACHABLE
        answer = await until_helped(made[1], rows(3))
        assert said(answer) == await plainly(releases[1], rows(3))
        assert caches[1].counters.count(Level.PREDICTIONS, Event.SERVER_HIT) == 3
        with pytest.raises(ModelCallError):
            await made[1].predict(rows(4), deadline_s=DEADLINE_S)
        with pytest.raises(ModelCallError):
            await made[1].predict(rows(3), deadline_s=DEADLINE_S, whole=False)

    sessions(script)


def test_help_is_not_older_than_a_minute_and_not_of_another_release(sessions, clock):
    async def script(releases, made, caches):
        await made[0].predict(rows(2), deadline_s=DEADLINE_S)
        assert await caches[0].flush()
        for other in (Release(releases[0].identity, 8), Release(secrets.token_hex(32), 7)):
            other.fails = UnavailableReason.REFUSED
            with pytest.raises(ModelCallError):
                await CachedModels(other, caches[1], identity=other.identity).predict(rows(2), deadline_s=DEADLINE_S)
        clock.now_ns += 60 * SECOND_NS
        releases[1].fails = UnavailableReason.REFUSED
        with pytest.raises(ModelCallError):
            await made[1].predict(rows(2), deadline_s=DEADLINE_S)
        assert caches[1].counters.count(Level.PREDICTIONS, Event.SERVER_HIT) == 0

    sessions(script)


def test_what_another_release_said_is_no_help_whatever_it_is_kept_under(sessions, monkeypatch):
    """The key tells releases apart; the answer itself does too."""
    monkeypatch.setattr(cached_models, "READ_S", DEADLINE_S)  # the server's word is heard, however busy the machine is

    async def script(releases, made, caches):
        told = rows_of(await Release("", release=8).predict(rows(2), deadline_s=DEADLINE_S))
        keys = prediction_keys(rows(2), identity=releases[0].identity, release=7, feature_hash=HASH, whole=True)
        for key, row in zip(keys, told, strict=True):
            caches[0].keep(PREDICTIONS, key, row)
        assert await caches[0].flush()
        releases[1].fails = UnavailableReason.REFUSED
        with pytest.raises(ModelCallError):
            await made[1].predict(rows(2), deadline_s=DEADLINE_S)
        with pytest.raises(ModelCallError):  # what was heard is in this process now
            await made[1].predict(rows(2), deadline_s=DEADLINE_S)
        assert len(await caches[1].fetch(PREDICTIONS, keys, DEADLINE_S)) == 2
        assert caches[1].counters.count(Level.PREDICTIONS, Event.SERVER_HIT) == 0

    sessions(script)


def test_a_session_that_starts_finds_what_the_last_one_was_told(sessions):
    async def script(releases, made, caches):
        await made[0].predict(rows(2), deadline_s=DEADLINE_S)
        assert await caches[0].flush()
        releases[1].fails = UnavailableReason.UNREACHABLE
        assert said(await until_helped(made[1], rows(2))) == await plainly(releases[1], rows(2))

    sessions(script)


def test_the_newest_features_of_each_symbol_are_published(sessions, valkey_url, clock):
    async def script(releases, made, caches):
        feature_hash = secrets.token_hex(32)
        releases[0].feature_hash = feature_hash
        inputs = rows(4)
        unknown = replace(inputs, symbol=np.array([0, 1, 0, -1]))
        await made[0].predict(unknown, deadline_s=DEADLINE_S)
        await made[0].predict(inputs.take(np.array([0])), deadline_s=DEADLINE_S)
        assert await caches[0].flush()
        reader = SharedCache(valkey_url, CacheSettings(), clock=clock)
        found = reader.latest_features(feature_hash, "sample", ["EURUSD", "XAUUSD"])
        assert {name: row.time for name, row in found.items()} == {
            "EURUSD": int(inputs.time[2]), "XAUUSD": int(inputs.time[1]),
        }  # fmt: skip
        assert found["EURUSD"].features.tobytes() == inputs.features[2].tobytes()
        reader.close()

    sessions(script)
