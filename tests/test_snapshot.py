"""Arrays as bytes: exact, and refused where they are not what they should be."""

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster import snapshot
from fx_dagster.errors import DataError

ROW = np.dtype([("a", np.float64), ("b", np.int8), ("ring", np.float64, (3, 2))], align=True)


def rows(n: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed)
    made = np.zeros(n, dtype=ROW)
    made["a"], made["b"], made["ring"] = noise.normal(size=n), 3, noise.normal(size=(n, 3, 2))
    return made


@given(st.integers(1, 5), st.integers(0, 1000))
def test_what_is_packed_comes_back_bit_for_bit(n: int, seed: int) -> None:
    there = {"rows": rows(n, seed), "one": rows(1, seed + 1)}
    there["rows"]["a"][0] = np.nan
    facts, found = snapshot.unpack(snapshot.pack(there, {"symbols": ["EURUSD"]}))
    here = {"rows": rows(n, seed + 2), "one": rows(1, seed + 3)}
    snapshot.fill(here, found, [(row, row) for row in range(n)])
    assert facts == {"symbols": ["EURUSD"]}
    assert all(here[name].tobytes() == there[name].tobytes() for name in here)


def test_rows_are_taken_over_by_pairs_and_others_stay() -> None:
    _, found = snapshot.unpack(snapshot.pack({"rows": rows(3, 1)}, {}))
    here = {"rows": rows(2, 2)}
    before = here["rows"][1].copy()
    snapshot.fill(here, found, [(0, 2)])
    assert here["rows"][0] == rows(3, 1)[2]
    assert here["rows"][1] == before


def test_nothing_is_changed_when_something_is_missing() -> None:
    _, found = snapshot.unpack(snapshot.pack({"rows": rows(2, 1)}, {}))
    here = {"rows": rows(2, 5), "more": rows(2, 6)}
    before = here["rows"].tobytes()
    with pytest.raises(DataError, match="no more"):
        snapshot.fill(here, found, [(0, 0), (1, 1)])
    assert here["rows"].tobytes() == before


OTHER = np.dtype([("a", np.float64), ("b", np.int16), ("ring", np.float64, (3, 2))], align=True)


@pytest.mark.parametrize("other", [np.zeros(2, dtype=OTHER), np.zeros((2, 4), dtype=ROW), np.zeros(2)])
def test_another_layout_is_refused(other: np.ndarray) -> None:
    _, found = snapshot.unpack(snapshot.pack({"rows": other}, {}))
    with pytest.raises(DataError, match="another layout"):
        snapshot.fill({"rows": rows(2, 1)}, found, [(0, 0)])


@given(st.integers(0, 400))
def test_damage_is_an_error_with_a_way_out(length: int) -> None:
    whole = snapshot.pack({"rows": rows(4, 1)}, {})
    data = whole[: min(length, len(whole) - 1)]
    with pytest.raises(DataError, match="snapshot"):
        snapshot.unpack(data)


def test_another_version_is_refused() -> None:
    inner = zlib.decompress(snapshot.pack({}, {})).replace(b"fx-state-1", b"fx-state-0")
    with pytest.raises(DataError, match="fx-state-0"):
        snapshot.unpack(zlib.compress(inner))
