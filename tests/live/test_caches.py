"""Keys, seals, bounds and counts of the caches, without any server."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.live.caches import (
    FEATURES,
    KINDS,
    PATTERNS,
    PREDICTIONS,
    Counters,
    Event,
    FeatureRow,
    Level,
    MemoryLevel,
    PatternFact,
    PredictedRow,
    answer_of,
    facts_from,
    is_fresh,
    lifetimes_ns,
    opened,
    prediction_keys,
    rows_of,
    sealed,
)
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.inputs import TENSORS, ModelInputs
from fx_dagster.models.service import ModelAnswer
from fx_dagster.settings import CacheSettings

RELEASE = {"identity": "d" * 64, "release": 7, "feature_hash": "a" * 64, "whole": True}
SHAPES = {"features": (5,), "sequence": (3, 2), "chart": (2, 5, 3), "time": (), "symbol": ()}
FACT = PatternFact("hammer", "EURUSD", 12, 40, 11, 22, 0.55, 0.28, 0.79, 1e-4, -1e-4, -3e-4)


def inputs(rows: int = 3, seed: int = 0) -> ModelInputs:
    rng = np.random.default_rng(seed)
    values = {
        name: rng.normal(size=(rows, *SHAPES[name])).astype(np.float32) for name in ("features", "sequence", "chart")
    }
    time = 1_700_000_000_000_000_000 + np.arange(rows) * 3_600_000_000_000
    return ModelInputs(**values, time=time, symbol=np.arange(rows, dtype=np.int64))


def answer(rows: int = 3, seed: int = 0) -> ModelAnswer:
    rng = np.random.default_rng(seed)
    extras = rng.random((rows, len(EXTRAS)))
    extras[:, 3] = np.nan
    explained = {"patterns": rng.random((rows, 4)), "expected_return": rng.normal(size=(rows, 1))}
    return ModelAnswer(("xgboost", "random_forest"), rng.random((rows, 2)), extras, explained, 7, 1.0, (), True)


def same(one: ModelAnswer, other: ModelAnswer) -> bool:
    """Whether two answers are equal to the last bit, NaN included."""
    return (
        one.p_up.tobytes() == other.p_up.tobytes()
        and one.extras.tobytes() == other.extras.tobytes()
        and {name: values.tobytes() for name, values in one.explained.items()}
        == {name: values.tobytes() for name, values in other.explained.items()}
        and (one.models, one.release, one.whole) == (other.models, other.release, other.whole)
    )


@given(st.sampled_from(sorted(TENSORS)), st.integers(0, 2), st.integers(0, 10**6))
def test_any_bit_of_any_tensor_is_in_the_key_of_its_row_alone(name: str, row: int, place: int) -> None:
    first, other = inputs(), inputs()
    raw = getattr(other, name)[row : row + 1].view(np.uint8).reshape(-1)
    raw[place // 8 % raw.size] ^= np.uint8(1 << place % 8)
    before, after = prediction_keys(first, **RELEASE), prediction_keys(other, **RELEASE)
    assert [before[k] == after[k] for k in range(3)] == [k != row for k in range(3)]


@given(
    st.sampled_from(
        [{"release": 8}, {"identity": "e" * 64}, {"feature_hash": "b" * 64}, {"whole": False}, {"release": 70}]
    ),
    st.integers(0, 50),
)
def test_another_release_never_finds_an_answer(changed: dict, seed: int) -> None:
    rows = inputs(4, seed)
    assert not set(prediction_keys(rows, **RELEASE)) & set(prediction_keys(rows, **{**RELEASE, **changed}))


def test_equal_bytes_of_another_shape_are_another_key() -> None:
    rows = inputs(2)
    turned = replace(rows, sequence=rows.sequence.reshape(2, 2, 3))
    assert not set(prediction_keys(rows, **RELEASE)) & set(prediction_keys(turned, **RELEASE))


def test_a_row_has_the_same_key_wherever_it_stands() -> None:
    rows = inputs(4)
    keys = prediction_keys(rows, **RELEASE)
    assert prediction_keys(rows.take(np.array([3, 1])), **RELEASE) == (keys[3], keys[1])
    assert prediction_keys(rows.take(np.array([], dtype=int)), **RELEASE) == ()


@given(st.binary(max_size=300), st.integers(-(2**62), 2**62), st.integers(0, 10**9))
def test_a_seal_opens_only_what_was_sealed(body: bytes, born_ns: int, flip: int) -> None:
    content = sealed("one", born_ns, body)
    assert opened("one", content) == (born_ns, body)
    damaged = bytearray(content)
    damaged[flip // 8 % len(damaged)] ^= 1 << flip % 8
    for key, wrong in (("one", bytes(damaged)), ("two", content), ("one", content[:-1]), ("one", b""), ("one", body)):
        with pytest.raises(DataError):
            opened(key, wrong)


def test_an_answer_comes_back_to_the_last_bit() -> None:
    given_answer = answer()
    rows = [PREDICTIONS.unpack(PREDICTIONS.pack(row)) for row in rows_of(given_answer)]
    back = answer_of(rows, 0.1)
    assert same(back, given_answer)
    assert np.isnan(back.extras).sum() == 3
    back.p_up[0, 0] = 0.0
    assert rows[0].p_up[0] == given_answer.p_up[0, 0]


@pytest.mark.parametrize(
    "change",
    [
        {"p_up": np.array([0.5, np.nan])},
        {"p_up": np.array([0.5, 1.5])},
        {"p_up": np.array([0.5])},
        {"extras": np.zeros(3)},
    ],
)
def test_a_prediction_that_no_model_made_is_refused(change: dict) -> None:
    row = replace(rows_of(answer())[0], **change)
    with pytest.raises(DataError):
        PREDICTIONS.unpack(PREDICTIONS.pack(row))


@pytest.mark.parametrize(
    "body", [b"", b"\x80\x04N.", b"[]", b'{"a": 1}', FEATURES.pack(FeatureRow("A", 1, np.ones(2, "f4")))]
)
def test_a_body_of_another_kind_is_refused(body: bytes) -> None:
    with pytest.raises(DataError):
        PREDICTIONS.unpack(body)
    if body != b"[]":
        with pytest.raises(DataError):
            PATTERNS.unpack(body)


def test_what_an_incomplete_answer_discarded_is_absent_from_every_row() -> None:
    known, doubted = answer(2, 1), answer(1, 2)
    doubted.p_up[:, 1] = np.nan
    doubted.extras[:, 0] = np.nan
    doubted = replace(doubted, explained={"patterns": doubted.explained["patterns"]}, discarded=("p_up_random_forest",))
    rows: list[PredictedRow] = [*rows_of(known), *rows_of(doubted)]
    merged = answer_of(rows, 0.1, doubted)
    assert np.isnan(merged.p_up[:, 1]).all()
    assert np.isnan(merged.extras[:, 0]).all()
    assert merged.p_up[:2, 0].tolist() == known.p_up[:, 0].tolist()
    assert list(merged.explained) == ["patterns"]
    assert merged.discarded == ("p_up_random_forest",)


def test_features_and_facts_come_back() -> None:
    row = FeatureRow("XAUUSD", 17, np.array([1.5, np.nan, -0.0], dtype=np.float32))
    back = FEATURES.unpack(FEATURES.pack(row))
    assert (back.symbol, back.time, back.features.tobytes()) == (row.symbol, row.time, row.features.tobytes())
    assert PATTERNS.unpack(PATTERNS.pack((FACT, replace(FACT, symbol="")))) == (FACT, replace(FACT, symbol=""))


def test_facts_with_numbers_that_are_none_are_refused() -> None:
    record = vars(FACT)
    assert facts_from([record, {**record, "count": 0, "share": float("nan")}]) == (FACT,)
    for wrong in ({**record, "low": float("nan")}, {**record, "count": "many"}, {"count": 3}):
        with pytest.raises(DataError):
            facts_from([wrong])


def test_an_entry_is_gone_at_the_end_of_its_life() -> None:
    level = MemoryLevel[str](60, entries_max=5, bytes_max=100)
    level.put("a", "first", born_ns=1_000, size=1)
    assert level.get("a", 1_059) == "first"
    assert not level.is_empty(1_059)
    assert level.is_empty(1_060)
    assert level.get("a", 1_060) is None
    assert (len(level), level.size) == (0, 0)


def test_reading_an_entry_does_not_make_it_younger() -> None:
    level = MemoryLevel[str](60, entries_max=5, bytes_max=100)
    level.put("a", "first", born_ns=0, size=1)
    assert [level.get("a", now) for now in (30, 59, 61)] == ["first", "first", None]


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 60)), max_size=60))
def test_a_level_is_bounded_in_entries_and_bytes(puts: list[tuple[int, int]]) -> None:
    level = MemoryLevel[int](10**9, entries_max=4, bytes_max=50)
    for born, (key, size) in enumerate(puts):
        level.put(str(key), born, born_ns=born, size=size)
        held = {key: level.get(str(key), born) for key in range(13)}
        assert len(level) == sum(value is not None for value in held.values()) <= 4
        assert 0 <= level.size <= 50
        assert held[key] == (born if size <= 50 else None)


def test_of_too_many_the_least_recently_used_goes() -> None:
    level = MemoryLevel[str](100, entries_max=2, bytes_max=100)
    for key in "ab":
        level.put(key, key, born_ns=0, size=1)
    assert level.get("a", 1) == "a"
    level.put("c", "c", born_ns=2, size=1)
    assert [level.get(key, 3) for key in "abc"] == ["a", None, "c"]


def test_what_the_future_made_is_not_believed() -> None:
    assert is_fresh(0, 60)
    assert is_fresh(-1_000_000_000, 60)
    assert not is_fresh(-1_000_000_001, 60)
    assert not is_fresh(60, 60)


def test_the_contract_is_the_default() -> None:
    hours = 3_600 * 10**9
    assert lifetimes_ns(CacheSettings()) == {
        Level.PREDICTIONS: 60 * 10**9, Level.FEATURES: 300 * 10**9, Level.PATTERNS: hours, Level.WEIGHTS: 24 * hours,
    }  # fmt: skip
    assert [kind.level for kind in KINDS] == list(Level)


def test_rates_are_plain_numbers() -> None:
    counters = Counters()
    assert counters.rates()["predictions"]["hit_rate"] is None
    counters.add(Level.PREDICTIONS, Event.MEMORY_HIT, 2)
    counters.add(Level.PREDICTIONS, Event.SERVER_HIT)
    counters.add(Level.PREDICTIONS, Event.MISS)
    counters.add(Level.WEIGHTS, Event.DROP)
    assert counters.rates()["predictions"] == {
        "memory_hits": 2, "server_hits": 1, "misses": 1, "drops": 0, "errors": 0, "hit_rate": 0.75,
    }  # fmt: skip
    assert counters.count(Level.WEIGHTS, Event.DROP) == 1
