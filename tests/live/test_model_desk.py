"""The model desk: what is asked when, within one deadline, and how it finds back."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from fx_dagster.live.model_desk import FAILURES_MAX, Asked, ModelDesk
from fx_dagster.models.answer import DIRECTIONS, EXTRAS, SIMPLE_MODELS
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.service import ModelAnswer, ModelCallError, UnavailableReason

from .conftest import FixedProvider, LogisticService

HASH = "a" * 64
DEADLINE_S = 0.05
DEADLINE, REFUSED = UnavailableReason.DEADLINE, UnavailableReason.REFUSED
UNREACHABLE = UnavailableReason.UNREACHABLE
M = len(DIRECTIONS)


@dataclass
class HandClock:
    """A clock that a test moves on; nobody sleeps."""

    now_ns: int = 0
    naps: list[float] = field(default_factory=list)

    def monotonic_ns(self) -> int:
        return self.now_ns

    def wall_ns(self) -> int:
        return self.now_ns

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        await asyncio.sleep(0)


class Release(LogisticService):
    """A service whose calls take time and fail as they are told."""

    def __init__(self, clock: HandClock, models: tuple[str, ...] = DIRECTIONS) -> None:
        super().__init__(HASH, models)
        self.clock = clock
        self.takes_s = {True: 0.01, False: 0.002}
        self.whole_fails: UnavailableReason | None = None
        self.simple_fails: UnavailableReason | None = None
        self.deadlines: list[float] = []

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        reason = self.whole_fails if whole else self.simple_fails
        took_s = deadline_s if reason is DEADLINE else min(self.takes_s[whole], deadline_s)
        self.clock.now_ns += round(took_s * 1e9)
        self.deadlines.append(deadline_s)
        if reason is not None:
            self.asked.append((whole, inputs))
            raise ModelCallError(reason, "told to")
        return await super().predict(inputs, deadline_s=deadline_s, whole=whole)

    async def healthy(self) -> bool:
        return self.whole_fails is None

    @property
    def kinds(self) -> list[bool]:
        """Whether each call was to the whole graph."""
        return [whole for whole, _ in self.asked]


class Place:
    """A desk, its service and its clock."""

    def __init__(self, models: tuple[str, ...] = DIRECTIONS) -> None:
        self.clock = HandClock()
        self.release = Release(self.clock, models)
        self.provider = FixedProvider(self.release)
        self.desk = ModelDesk(
            self.provider, feature_hash=HASH, models=DIRECTIONS, deadline_s=DEADLINE_S, clock=self.clock
        )

    def ask(self, symbols: Sequence[str] = ("EURUSD",)) -> Asked:
        return asyncio.run(self.desk.ask(inputs_of(len(symbols)), symbols))

    def watch(self, turns: int = 1) -> None:
        """Let the desk watch so many times."""

        async def some() -> None:
            before = len(self.clock.naps)
            task = asyncio.create_task(self.desk.watch())
            while len(self.clock.naps) < before + turns:
                await asyncio.sleep(0)
            task.cancel()

        asyncio.run(some())


def inputs_of(n: int) -> ModelInputs:
    rng = np.random.default_rng(n)
    return ModelInputs(
        rng.normal(size=(n, 4)).astype(np.float32), np.zeros((n, 48, 16), np.float32),
        np.zeros((n, 3, 5, 48), np.float32), np.arange(n, dtype=np.int64), np.full(n, 77),
    )  # fmt: skip


@pytest.fixture
def place() -> Place:
    return Place()


def test_the_whole_answer_comes_in_the_decisions_columns(place: Place) -> None:
    place.release.models = tuple(reversed(DIRECTIONS))
    asked = place.ask(("EURUSD", "XAUUSD"))
    assert asked.values.shape == (2, M + len(EXTRAS))
    answer = asyncio.run(LogisticService(HASH, tuple(reversed(DIRECTIONS))).predict(inputs_of(2), deadline_s=1.0))
    np.testing.assert_array_equal(asked.values[:, :M], answer.p_up[:, ::-1])
    np.testing.assert_array_equal(asked.values[:, M:], answer.extras)
    assert (asked.release, asked.problem, asked.whole) == (4, "", True)
    assert asked.latency_ms == pytest.approx(10.0)
    assert set(asked.explained) == {"patterns", "expected_return", "regime"}
    assert place.desk.problem == ""
    assert place.release.deadlines == [DEADLINE_S]


def test_symbols_that_the_release_does_not_know_are_marked(place: Place) -> None:
    place.ask(("EURUSD", "USDJPY", "XAUUSD"))
    assert place.release.asked[-1][1].symbol.tolist() == [1, -1, 0]
    other = Release(place.clock)
    other.symbols = ("USDJPY",)
    place.provider.service = other
    place.ask(("EURUSD", "USDJPY"))
    assert other.asked[-1][1].symbol.tolist() == [-1, 0]


def test_nothing_is_asked_about_no_rows(place: Place) -> None:
    asked = place.ask(())
    assert asked.values.shape == (0, M + len(EXTRAS))
    assert (asked.latency_ms, asked.problem, place.release.calls) == (None, "", 0)


@pytest.mark.parametrize("reason", [REFUSED, UNREACHABLE, UnavailableReason.BAD_ANSWER])
def test_a_quick_refusal_is_followed_by_the_simple_models_at_once(place: Place, reason: UnavailableReason) -> None:
    place.release.whole_fails = reason
    asked = place.ask()
    assert place.release.kinds == [True, False]
    assert place.release.deadlines == [DEADLINE_S, pytest.approx(DEADLINE_S - 0.01)]
    assert np.isfinite(asked.values[:, :2]).all()
    assert np.isnan(asked.values[:, 2:]).all()
    assert (asked.release, asked.whole) == (4, False)
    assert f"{reason}: the whole graph of release 4" in asked.problem
    assert asked.latency_ms == pytest.approx(12.0)
    assert place.desk.failed_calls == 1


def test_a_refusal_that_comes_late_leaves_no_time_for_a_second_question(place: Place) -> None:
    place.release.whole_fails, place.release.takes_s[True] = REFUSED, 0.9 * DEADLINE_S
    asked = place.ask()
    assert place.release.kinds == [True]
    assert np.isnan(asked.values).all()


def test_a_missed_deadline_costs_one_decision_then_the_simple_models_answer(place: Place) -> None:
    place.release.whole_fails = DEADLINE
    asked = place.ask()
    assert np.isnan(asked.values).all()
    assert asked.release is None
    assert "deadline" in asked.problem
    assert "50 ms" in asked.problem
    assert asked.latency_ms == pytest.approx(DEADLINE_S * 1e3), "no decision waits longer"
    asked = place.ask()
    assert place.release.kinds == [True, False]
    assert np.isfinite(asked.values[:, :2]).all()
    assert "deadline" in asked.problem
    assert place.release.deadlines[-1] == pytest.approx(DEADLINE_S)


def test_the_whole_graph_is_asked_again_after_a_probe_with_the_last_rows(place: Place) -> None:
    place.release.whole_fails = DEADLINE
    place.ask(("XAUUSD",))
    place.watch(2)
    place.ask(("XAUUSD",))
    assert True not in place.release.kinds[1:], "it is not probed with rows before it knows its own answer again"
    place.release.whole_fails = None
    place.watch()
    whole, rows = place.release.asked[-1]
    assert (whole, rows.symbol.tolist()) == (True, [0])
    assert place.desk.problem == ""
    asked = place.ask()
    assert (asked.whole, asked.problem) == (True, "")


def test_a_graph_that_knows_its_answer_but_is_too_slow_for_the_rows_stays_aside(place: Place) -> None:
    place.release.whole_fails = DEADLINE
    place.ask()

    async def knows() -> bool:
        return True

    place.release.healthy = knows  # type: ignore[method-assign]
    place.watch(3)
    assert place.release.kinds == [True] * 4
    assert not place.ask().whole
    assert place.release.kinds[-1] is False


def test_after_some_failures_nothing_is_asked_until_a_probe_succeeds(place: Place) -> None:
    place.release.whole_fails = place.release.simple_fails = UNREACHABLE
    for _ in range(FAILURES_MAX):
        assert np.isnan(place.ask().values).all()
    assert place.release.kinds == [True] + [False] * FAILURES_MAX
    asked = place.ask()
    assert place.release.calls == 1 + FAILURES_MAX
    assert (asked.latency_ms, asked.release) == (None, None)
    assert f"not asked after {FAILURES_MAX} failures: unreachable" in asked.problem
    place.watch()
    assert np.isnan(place.ask().values).all()
    place.release.simple_fails = None
    place.watch()
    asked = place.ask()
    assert (asked.release, asked.whole) == (4, False)
    place.release.whole_fails = None
    place.watch()
    assert place.ask().whole


def test_one_failure_between_answers_is_forgotten(place: Place) -> None:
    place.release.whole_fails = DEADLINE
    place.ask()
    for _ in range(3 * FAILURES_MAX):
        place.release.simple_fails = DEADLINE
        place.ask()
        place.release.simple_fails = None
        assert place.ask().release == 4


@pytest.mark.parametrize("bad", ["lstm", "meta", "confidence"])
def test_a_part_that_is_discarded_is_absent_and_the_rest_stands(place: Place, bad: str) -> None:
    place.release.bad = (bad,)
    column = (*DIRECTIONS, *EXTRAS).index(bad)
    for _ in range(2 * FAILURES_MAX):
        asked = place.ask()
        assert np.isnan(asked.values[:, column]).all()
        assert np.isfinite(np.delete(asked.values, column, axis=1)).all()
        assert asked.problem == f"bad_answer: discarded {bad if bad in EXTRAS else f'p_up_{bad}'}"
    assert all(place.release.kinds)


def test_a_simple_model_that_is_discarded_again_and_again_ends_the_asking(place: Place) -> None:
    place.release.bad = ("xgboost",)
    for _ in range(FAILURES_MAX):
        assert np.isnan(place.ask().values[0, 0])
    assert "not asked after" in place.ask().problem
    place.watch()
    assert "not asked after" in place.ask().problem, "the probe's answer is as bad"
    place.release.bad = ()
    place.watch()
    assert place.ask().problem == ""


def test_a_release_of_simple_models_answers_what_it_has() -> None:
    place = Place(SIMPLE_MODELS)
    asked = place.ask()
    assert np.isfinite(asked.values[:, :2]).all()
    assert np.isnan(asked.values[:, 2:M]).all()
    assert asked.release == 4
    assert asked.problem == place.desk.problem == "release 4 has no lstm, cnn, meta"


def test_a_release_without_a_simple_model_is_refused() -> None:
    place = Place(tuple(name for name in DIRECTIONS if name != "random_forest"))
    asked = place.ask()
    assert place.release.calls == 0
    assert asked.problem == "refused: release 4 has no model random_forest"


def test_a_release_of_other_features_is_refused(place: Place) -> None:
    place.release.feature_hash = "b" * 64
    assert "feature_mismatch" in place.ask().problem
    assert place.release.calls == 0


def test_a_new_release_begins_without_the_old_ones_failures(place: Place) -> None:
    place.release.whole_fails = place.release.simple_fails = REFUSED
    for _ in range(FAILURES_MAX + 1):
        place.ask()
    other = Release(place.clock)
    other.release = 5
    place.provider.service = other
    asked = place.ask()
    assert (asked.release, asked.whole, asked.problem) == (5, True, "")


def test_without_a_service_it_says_why(place: Place) -> None:
    place.provider.service, place.provider.problem = None, "no release is active"
    asked = place.ask()
    assert (asked.release, asked.latency_ms, asked.problem) == (None, None, "no release is active")


def test_warming_up_asks_both_and_counts_for_nothing(place: Place) -> None:
    place.release.whole_fails = REFUSED
    asyncio.run(place.desk.warm_up(inputs_of(1), ("EURUSD",)))
    assert place.release.kinds == [True, False]
    assert place.desk.failed_calls == 0
    place.release.whole_fails = None
    assert place.ask().whole


def test_a_bare_call_is_timed_only_while_all_is_well(place: Place) -> None:
    timed: list[Any] = []

    async def bare_call_ms(inputs: ModelInputs, *, deadline_s: float) -> float:
        timed.append((inputs.symbol.tolist(), deadline_s))
        return 1.25

    place.release.bare_call_ms = bare_call_ms  # type: ignore[attr-defined]
    assert asyncio.run(place.desk.bare_call_ms(inputs_of(1), ("EURUSD",))) == 1.25
    assert timed == [([1], DEADLINE_S)]
    place.release.whole_fails = DEADLINE
    place.ask()
    assert asyncio.run(place.desk.bare_call_ms(inputs_of(1), ("EURUSD",))) is None


class Front:
    """A service in front of another that answers from memory whatever it was asked once."""

    def __init__(self, direct: Release) -> None:
        self.direct = direct
        self.known: dict[bool, ModelAnswer] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.direct, name)

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        if whole not in self.known:
            self.known[whole] = await self.direct.predict(inputs, deadline_s=deadline_s, whole=whole)
        return self.known[whole]


def test_a_probe_asks_the_service_behind_a_cache(place: Place) -> None:
    front = Front(place.release)
    place.provider.service = front  # type: ignore[assignment]
    asyncio.run(place.desk.warm_up(inputs_of(1), ("EURUSD",)))
    assert place.release.kinds == [True, False]
    assert not front.known
    place.release.whole_fails = DEADLINE
    assert not place.ask().whole
    place.release.whole_fails = None
    front.known[True] = asyncio.run(place.release.predict(inputs_of(1), deadline_s=DEADLINE_S))
    before = len(place.release.kinds)
    place.watch()
    assert place.release.kinds[before:] == [True]
    assert place.ask().whole
