"""Snapshots, checkpoints, market states, tapes and what the shared cache holds: read as written, or refused."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster import snapshot
from fx_dagster.core.tape import TICK, What, adopted_of, answer_values, conditions_of
from fx_dagster.errors import DataError
from fx_dagster.execution.ledger import Adoption
from fx_dagster.live import caches, session
from fx_dagster.live.caches import FEATURES, KINDS, PATTERNS, PREDICTIONS, FeatureRow, PatternFact, PredictedRow
from fx_dagster.models.answer import EXTRAS
from resources.market_states import FileMarketStates
from resources.tapes import FORMAT, read_tape

from .mutations import DEEP, altered, budget, contents, json_values, mutated, refused

RECORD = np.dtype([("lots", np.float64), ("row", np.int32)])
FACTS = {"symbols": ["EURUSD"], "clock": 7}


def arrays() -> dict[str, np.ndarray]:
    """Return three arrays of different kinds."""
    records = np.zeros(3, RECORD)
    records["lots"] = (0.1, -2.0, 1e-9)
    return {"a": np.arange(6, dtype=np.float32).reshape(3, 2), "b": records, "c": np.zeros(0)}


def packed_by_hand(header: Any, body: bytes) -> bytes:
    """Return a snapshot with any header."""
    text = json.dumps(header).encode()
    return zlib.compress(len(text).to_bytes(4, "big") + text + body)


GOOD_HEADER = json.loads(zlib.decompress(snapshot.pack(arrays(), FACTS))[4:].split(b"]]}", 1)[0] + b"]]}")


@budget(50)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), st.integers(0, 9), max_size=3), st.integers(0, 1))
def test_a_snapshot_comes_back_as_it_was(facts: dict[str, int], level: int) -> None:
    found_facts, found = snapshot.unpack(snapshot.pack(arrays(), facts, level))
    target = {name: np.zeros_like(one) for name, one in arrays().items()}
    snapshot.fill(target, found)
    assert found_facts == facts
    assert all(np.array_equal(target[name], one) for name, one in arrays().items())


@budget(120)
@given(
    mutated(snapshot.pack(arrays(), FACTS, snapshot.SMALL))
    | mutated(zlib.decompress(snapshot.pack(arrays(), FACTS))).map(zlib.compress)
    | st.builds(packed_by_hand, altered(GOOD_HEADER), st.binary(max_size=80))
    | st.binary(max_size=40)
    | st.just(zlib.compress(len(DEEP).to_bytes(4, "big") + DEEP))
)
def test_an_altered_snapshot_is_refused_whole(data: bytes) -> None:
    target = arrays()
    with refused(DataError) as told:
        _, found = snapshot.unpack(data)
        snapshot.fill(target, found)
    if told:
        assert all(np.array_equal(target[name], one) for name, one in arrays().items()), "half filled"


MEMORY = session.Memory(core=b"core", account=b"account", orders="{}", resumed_ns=3, counts={"orders": 2})


def head_of(**changes: Any) -> bytes:
    head = {"format": session.FORMAT, "orders": "{}", "resumed_ns": 3, "counts": {"orders": 2}, "account_bytes": 7}
    packed = zlib.compress(json.dumps({**head, **changes}).encode())
    return len(packed).to_bytes(4, "big") + packed + b"accountcore"


@budget(50)
@given(
    mutated(MEMORY.pack())
    | st.builds(lambda name, value: head_of(**{name: value}),
                st.sampled_from(("format", "orders", "resumed_ns", "counts", "account_bytes", "x")), json_values(4))
)  # fmt: skip
def test_a_checkpoint_is_read_or_refused(data: bytes) -> None:
    assert session.unpack(MEMORY.pack()) == MEMORY
    with refused(DataError):
        memory = session.unpack(data)
        assert isinstance(memory.orders, str)
        assert isinstance(memory.resumed_ns, int)
        assert all(isinstance(count, int) for count in memory.counts.values())
        assert memory.account + memory.core == data[len(data) - len(memory.account) - len(memory.core) :]


@budget(50)
@given(st.lists(st.tuples(st.sampled_from(("market-0.bin", "market-1.bin", "x.bin", ".market-0.bin.1")),
                          st.binary(max_size=20)), max_size=4))  # fmt: skip
def test_market_states_are_what_lies_there(tmp_path_factory: Any, files: list[tuple[str, bytes]]) -> None:
    folder = tmp_path_factory.mktemp("states")
    for name, content in files:
        (folder / name).write_bytes(content)
    states = FileMarketStates(folder)
    found = states.load()
    assert sorted(found) == sorted({n: c for n, c in files if n.startswith("market")}.values())
    states.save(lambda: b"new")
    states.close()
    assert b"new" in FileMarketStates(folder).load()


# -- tapes -------------------------------------------------------------------------------------------------------------

HEAD = {"format": FORMAT, "symbols": ["EURUSD"], "facts": {"stale_s": 1.0}}
EVENTS = [{"ticks": 1, "what": "clock", "body": {"clock": 5}}, {"ticks": 3, "what": "placed", "body": {"rows": [0]}}]


def write_tape(folder: Path, head: bytes, events: bytes, ticks: bytes) -> None:
    """Write a stretch."""
    for name, content in (("head.json", head), ("start.bin", b"s"), ("events.jsonl", events), ("ticks.bin", ticks)):
        (folder / name).write_bytes(content)


def lines(events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@budget(50)
@given(
    altered(HEAD).map(lambda head: json.dumps(head).encode()) | mutated(json.dumps(HEAD).encode())
    | st.just(json.dumps(HEAD).encode()),
    st.lists(st.sampled_from(EVENTS).flatmap(altered), max_size=3).map(lines) | mutated(lines(EVENTS))
    | st.sampled_from((lines(EVENTS), DEEP + b"\n")),
    st.integers(0, 3 * TICK.itemsize),
)  # fmt: skip
def test_a_tape_is_read_or_refused_by_name(tmp_path_factory: Any, head: bytes, events: bytes, length: int) -> None:
    folder = tmp_path_factory.mktemp("tape")
    write_tape(folder, head, events, bytes(3 * TICK.itemsize)[:length])
    before = contents(folder)
    with refused(DataError, names=str(folder)):
        tape, facts = read_tape(folder)
        assert isinstance(facts, dict)
        assert all(isinstance(symbol, str) for symbol in tape.symbols)
        assert len(tape.ticks) == length // TICK.itemsize
        for event in tape.events:
            assert event.what in get_args(What)
            assert 0 <= event.ticks <= len(tape.ticks)
            assert isinstance(event.body, dict)
    assert contents(folder) == before


@pytest.mark.parametrize("missing", ["head.json", "start.bin", "events.jsonl", "ticks.bin"])
def test_a_tape_without_a_file_is_refused_by_name(tmp_path: Path, missing: str) -> None:
    write_tape(tmp_path, json.dumps(HEAD).encode(), lines(EVENTS), b"")
    assert read_tape(tmp_path)[0].symbols == ("EURUSD",)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=missing):
        read_tape(tmp_path)


SEEN = Adoption(0, 0.1, 1.1, 1.0, 1.2, False, 0.0, 5, 6, 7, 0.0, 0.3, 30.0)._asdict()
BODIES: list[tuple[Callable[[Any], Any], dict[str, Any]]] = [
    (conditions_of, {"healthy": True, "command": 0, "drift": None, "best_level": 1}),
    (adopted_of, {"seen": [SEEN], "balance": 5.0, "closed": [[1.0, 2.0]], "held": [[0, True]]}),
    (answer_values, {"rows": [0, 1], "values": [[0.5, None], [0.1, 0.2]]}),
]


@pytest.mark.parametrize(("read", "good"), BODIES)
@budget(50)
@given(st.data())
def test_an_events_body_is_read_or_refused(read: Callable[[Any], Any], good: Any, data: st.DataObject) -> None:
    read(good)
    body = data.draw(altered(good).filter(lambda one: isinstance(one, dict)))
    with refused(DataError):
        read(body)


# -- the shared cache --------------------------------------------------------------------------------------------------

ROW = PredictedRow(("xgboost", "random_forest"), np.array([0.4, 0.6]), np.full(len(EXTRAS), np.nan),
                   {"regime": np.full(4, 0.25)}, 7, True)  # fmt: skip
FACT = PatternFact("flag", "EURUSD", 12, 40, 20, 22, 0.55, 0.4, 0.7, 1e-4, 5e-5, -2e-4)
ENTRIES = {
    "predictions": (PREDICTIONS, ROW), "features": (FEATURES, FeatureRow("EURUSD", 9, np.ones(3, np.float32))),
    "patterns": (PATTERNS, (FACT,)),
}  # fmt: skip


@pytest.mark.parametrize("name", list(ENTRIES))
@budget(50)
@given(st.data())
def test_an_altered_cache_entry_never_opens(name: str, data: st.DataObject) -> None:
    kind, value = ENTRIES[name]
    key, body = f"fx:{name}:k", kind.pack(value)  # type: ignore[arg-type]
    whole = caches.sealed(key, 5, body)
    assert caches.opened(key, whole) == (5, body)
    content = data.draw(mutated(whole) | st.binary(max_size=80))
    if content != whole:
        with pytest.raises(DataError, match=key):
            caches.opened(key, content)
    with pytest.raises(DataError):
        caches.opened(f"{key}2", whole)


@pytest.mark.parametrize("name", list(ENTRIES))
@budget(50)
@given(st.data())
def test_a_sealed_body_of_another_making_is_refused(name: str, data: st.DataObject) -> None:
    kind, value = ENTRIES[name]
    body = kind.pack(value)  # type: ignore[arg-type]
    if name == "patterns":
        other = altered(json.loads(body)).map(lambda one: json.dumps(one).encode())
    else:
        size = int.from_bytes(zlib.decompress(body)[:4], "big")
        header = json.loads(zlib.decompress(body)[4 : 4 + size])
        rest = zlib.decompress(body)[4 + size :]
        other = st.builds(packed_by_hand, altered(header), st.just(rest) | mutated(rest))
    with refused(DataError):
        found = kind.unpack(data.draw(mutated(body) | other | st.binary(max_size=60) | st.just(DEEP)))
        if isinstance(found, PredictedRow):
            assert ((found.p_up >= 0.0) & (found.p_up <= 1.0)).all()
        if isinstance(found, FeatureRow):
            assert found.features.dtype == np.float32


def test_every_level_that_is_unpacked_is_here() -> None:
    assert {kind.level for kind in KINDS} == {kind.level for kind, _ in ENTRIES.values()} | {caches.Level.WEIGHTS}
