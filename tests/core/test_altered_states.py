"""States of a core that were altered, or are of another making: refused, and nothing of them is taken."""

import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster import snapshot
from fx_dagster.core.loop import NEVER
from fx_dagster.errors import DataError, FeatureMismatchError

from .conftest import Work, remembered

Make = Callable[..., Work]
QUICK = settings(
    max_examples=30, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
ODD = st.none() | st.integers() | st.text(max_size=4) | st.lists(st.integers(), max_size=2) | st.just(["EURUSD"])


def with_fact(data: bytes, name: str, value: Any) -> bytes:
    """Return a snapshot with one fact changed; None: without it."""
    body = zlib.decompress(data)
    size = int.from_bytes(body[:4], "big")
    header = json.loads(body[4 : 4 + size])
    header["facts"].pop(name)
    if value is not None:
        header["facts"][name] = value
    text = json.dumps(header).encode()
    return zlib.compress(len(text).to_bytes(4, "big") + text + body[4 + size :], 1)


@pytest.fixture(scope="module")
def worked(warm_work: Make) -> Work:
    """Make a core that has worked a while."""
    work = warm_work()
    work.take(work.calm(50, rows=(0,)))
    return work


@QUICK
@given(st.sampled_from(("symbols", "features", "clock", "clock_ticks")), ODD)
def test_a_market_state_with_another_fact_is_refused_and_nothing_is_taken(worked: Work, name: str, value: Any) -> None:
    data = with_fact(worked.core.market_copy()(), name, value)
    before = remembered(worked.core)
    try:
        worked.core.restore_market(data, not_after=(NEVER, NEVER))
    except (DataError, FeatureMismatchError):
        assert remembered(worked.core) == before, "half taken"
    else:
        assert isinstance(value, int) or value == ["EURUSD"], "taken for what it is not"


@QUICK
@given(st.sampled_from(("symbols", "features", "clock", "clock_ticks")), ODD)
def test_a_session_state_with_another_fact_is_refused(worked: Work, name: str, value: Any) -> None:
    data = with_fact(worked.core.session_state(), name, value)
    try:
        worked.core.reached(data)
        worked.core.restore_session(data)
    except (DataError, FeatureMismatchError) as error:
        told = str(error)
    else:
        told = "read"
    assert told


def test_rows_beyond_a_snapshots_end_are_refused_whole() -> None:
    _, found = snapshot.unpack(snapshot.pack({"a": np.ones(2), "b": np.ones(3)}, {}))
    target = {"a": np.zeros(3), "b": np.zeros(3)}
    with pytest.raises(DataError, match="a is of another layout"):
        snapshot.fill(target, found, [(0, 0), (1, 2)])
    assert not target["a"].any()
    assert not target["b"].any()
    snapshot.fill(target, found, [(2, 1)])
    assert target["a"].tolist() == [0.0, 0.0, 1.0]
