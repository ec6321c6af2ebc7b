"""Tapes on disk: what is read is what was written, up to a torn end; a disk that fails costs the tape only."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.core.rows import Ticks
from fx_dagster.core.tape import TICK, TapeEvent, tick_columns
from fx_dagster.errors import DataError
from resources.tapes import FORMAT, KEPT_STRETCHES, FileTape, latest_tape, read_tape

SYMBOLS = ("EURUSD", "XAUUSD")
FACTS = {"stale_s": 120.0, "name": "made"}
Make = Callable[..., FileTape]


def made_ticks(count: int, seed: int = 0) -> Ticks:
    noise = np.random.default_rng(seed)
    bid = noise.normal(1.1, 0.1, count)
    bid[noise.random(count) < 0.1] = np.nan
    return Ticks(
        noise.integers(0, 2, count).astype(np.int32), np.sort(noise.integers(0, 2**62, count)), bid, bid + 1e-4,
        noise.random(count), noise.integers(0, 2_000, count).astype(np.int32),
    )  # fmt: skip


@pytest.fixture
def tapes(tmp_path: Path) -> Iterator[Make]:
    """Make tapes of an account: ``tapes(session=, size_mb_max=, folder=)``."""
    opened: list[FileTape] = []

    def make(session: int = 3, size_mb_max: float = 10.0, folder: Path | None = None) -> FileTape:
        where = folder or tmp_path / "paper" / "tapes"
        states = iter(range(1_000))
        opened.append(
            FileTape(where, session, SYMBOLS, FACTS, state=lambda: b"state %d" % next(states), size_mb_max=size_mb_max)
        )
        return opened[-1]

    yield make
    for tape in opened:
        tape.close()


def names(live: Path) -> list[str]:
    return sorted(path.name for path in (live / "paper" / "tapes").iterdir())


# -- what is read is what was written ----------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ticks_and_events_come_back_exactly_and_in_order(tapes: Make, tmp_path: Path, data: st.DataObject) -> None:
    tape, ticks, taken, expected = tapes(), made_ticks(30, data.draw(st.integers(0, 99))), 0, []
    tape.begin()
    for _ in range(data.draw(st.integers(0, 8))):
        last = data.draw(st.integers(taken, 30))
        tape.ticks(ticks, taken, last)
        taken = last
        what = data.draw(st.sampled_from(["answer", "conditions", "clock", "placed", "resume", "command", "mark"]))
        body = data.draw(st.dictionaries(st.text(max_size=6), VALUES, max_size=3))
        tape.event(what, body)
        expected.append(TapeEvent(taken, what, body))
    tape.close()
    read, facts = read_tape(max((tmp_path / "paper" / "tapes").iterdir()))
    for name, column in zip(Ticks._fields, ticks, strict=True):
        assert read.ticks[name].tobytes() == column[:taken].tobytes()
    assert repr(read.events) == repr(expected), "NaN and all"
    assert (read.symbols, facts) == (SYMBOLS, FACTS)
    assert read.start.startswith(b"state ")
    columns = tick_columns(read.ticks)
    assert all(column.flags.c_contiguous and column.flags.writeable for column in columns)


def test_a_stretch_can_be_read_while_it_is_written(tapes: Make, tmp_path: Path) -> None:
    tape, ticks = tapes(), made_ticks(100)
    tape.begin()
    tape.ticks(ticks, 0, 60)
    tape.event("clock", {"clock": 5})
    tape.flush()
    tape.ticks(ticks, 60, 100)
    read, _ = read_tape(latest_tape(tmp_path))
    assert len(read.ticks) == 60
    assert read.events == [TapeEvent(60, "clock", {"clock": 5})]
    tape.close()
    assert len(read_tape(latest_tape(tmp_path))[0].ticks) == 100


def test_nothing_is_written_before_the_beginning_or_after_the_end(tapes: Make, tmp_path: Path) -> None:
    tape = tapes()
    tape.ticks(made_ticks(5), 0, 5)
    tape.event("mark", {})
    assert not (tmp_path / "paper").exists()
    tape.begin()
    tape.ticks(made_ticks(5), 3, 3)
    tape.close()
    tape.ticks(made_ticks(5), 0, 5)
    tape.event("mark", {})
    tape.flush()
    read, _ = read_tape(latest_tape(tmp_path))
    assert (len(read.ticks), read.events) == (0, [])


# -- a torn end --------------------------------------------------------------------------------------------------------


@pytest.fixture
def stretch(tapes: Make, tmp_path: Path) -> Path:
    """Forty ticks, an event after each tenth."""
    tape, ticks = tapes(), made_ticks(40)
    tape.begin()
    for first in range(0, 40, 10):
        tape.ticks(ticks, first, first + 10)
        tape.event("mark", {"decisions": first, "digest": "ab"})
    tape.close()
    return latest_tape(tmp_path)


@pytest.mark.parametrize("lost", [1, TICK.itemsize - 1, TICK.itemsize, 11 * TICK.itemsize + 5])
def test_a_torn_tick_is_left_out_with_what_follows_it(stretch: Path, lost: int) -> None:
    file = stretch / "ticks.bin"
    os.truncate(file, file.stat().st_size - lost)
    read, _ = read_tape(stretch)
    kept = 40 - -(-lost // TICK.itemsize)
    assert len(read.ticks) == kept
    assert [event.ticks for event in read.events] == [ticks for ticks in (10, 20, 30, 40) if ticks <= kept]


@pytest.mark.parametrize("lost", [1, 5, 30])
def test_a_torn_event_is_left_out(stretch: Path, lost: int) -> None:
    file = stretch / "events.jsonl"
    os.truncate(file, file.stat().st_size - lost)
    read, _ = read_tape(stretch)
    assert len(read.ticks) == 40
    assert [event.ticks for event in read.events] == [10, 20, 30]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "nonsense", "{}", "[1, 2]", '{"ticks": 20, "what": "dance", "body": {}}', '{"ticks": "20", "what": "mark"}',
        '{"ticks": 20, "what": "mark", "body": {}, "more": 1}',
    ],
)  # fmt: skip
def test_an_altered_line_is_named(stretch: Path, line: str) -> None:
    file = stretch / "events.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n")
    with pytest.raises(DataError, match=r"events\.jsonl, line 3"):
        read_tape(stretch)


def test_another_version_is_named(stretch: Path) -> None:
    head = json.loads((stretch / "head.json").read_text())
    (stretch / "head.json").write_text(json.dumps({**head, "format": "fx-tape-0"}))
    with pytest.raises(DataError, match=f"fx-tape-0.*{FORMAT}"):
        read_tape(stretch)


@pytest.mark.parametrize("missing", ["head.json", "start.bin", "ticks.bin", "events.jsonl"])
def test_a_folder_without_a_whole_tape_is_refused(stretch: Path, missing: str) -> None:
    (stretch / missing).unlink()
    with pytest.raises(DataError, match="holds no tape"):
        read_tape(stretch)


@pytest.mark.parametrize("head", ["", "{", "[]", "[1]", '"text"', "null"])
def test_a_damaged_head_is_refused(stretch: Path, head: str) -> None:
    (stretch / "head.json").write_text(head)
    with pytest.raises(DataError, match="tape"):
        read_tape(stretch)


def test_where_nothing_was_recorded_it_says_how_to(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="FX_LIVE_TAPE_MB_MAX"):
        latest_tape(tmp_path)


# -- stretches ---------------------------------------------------------------------------------------------------------


def test_the_oldest_stretches_go(tapes: Make, tmp_path: Path) -> None:
    tape = tapes()
    for _ in range(KEPT_STRETCHES + 3):
        tape.begin()
    assert names(tmp_path) == [f"session-3-{number:04d}" for number in range(4, 4 + KEPT_STRETCHES)]
    tapes(session=4).begin()
    assert names(tmp_path)[-1] == "session-4-0001"
    assert len(names(tmp_path)) == KEPT_STRETCHES


def test_numbers_go_on_after_a_restart_and_beyond_four_digits(tapes: Make, tmp_path: Path) -> None:
    tapes().begin()
    tapes().begin()
    assert names(tmp_path) == ["session-3-0001", "session-3-0002"]
    (tmp_path / "paper" / "tapes" / "session-3-0002").rename(tmp_path / "paper" / "tapes" / "session-3-9999")
    tape = tapes()
    tape.begin()
    tape.begin()
    assert names(tmp_path)[-3:] == ["session-3-10000", "session-3-10001", "session-3-9999"]


def test_what_is_no_stretch_is_left_alone(tapes: Make, tmp_path: Path) -> None:
    other = tmp_path / "paper" / "tapes" / "mine"
    other.mkdir(parents=True)
    tape = tapes()
    for _ in range(KEPT_STRETCHES + 2):
        tape.begin()
    assert other.is_dir()
    assert len(names(tmp_path)) == KEPT_STRETCHES + 1


def test_a_full_stretch_says_so_and_the_next_one_has_room_again(tapes: Make, tmp_path: Path) -> None:
    tape, ticks = tapes(size_mb_max=0.002), made_ticks(100)
    tape.begin()
    taken = 0
    while not tape.full:
        tape.ticks(ticks, taken, taken + 1)
        tape.event("clock", {"clock": taken})
        taken += 1
    written = sum((latest_tape(tmp_path) / name).stat().st_size for name in ("ticks.bin", "events.jsonl"))
    tape.begin()
    assert not tape.full
    assert 15 < taken < 50
    assert written <= 2_200
    first, second = (read_tape(tmp_path / "paper" / "tapes" / name)[0] for name in names(tmp_path))
    assert (len(first.ticks), len(second.ticks)) == (taken, 0)
    assert first.start != second.start, "each begins with the state of its own moment"


def test_without_room_nothing_is_recorded(tapes: Make, tmp_path: Path) -> None:
    tape = tapes(size_mb_max=0.0)
    tape.begin()
    tape.ticks(made_ticks(5), 0, 5)
    tape.event("mark", {})
    tape.flush()
    assert not tape.full, "else the next stretch would begin after every batch"
    assert not (tmp_path / "paper").exists()


# -- a disk that fails -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("kind", ["_ticks", "_events"])
@pytest.mark.parametrize("ending", ["flush", "close", "much"])
def test_a_full_disk_ends_the_tape_and_nothing_else(
    tapes: Make, caplog: pytest.LogCaptureFixture, kind: str, ending: str
) -> None:
    tape = tapes()
    tape.begin()
    getattr(tape, kind).close()
    full = Path("/dev/full").open("ab")  # noqa: SIM115 - the tape closes it
    setattr(tape, kind, full)
    with caplog.at_level(logging.WARNING, logger="resources.tapes"):
        tape.ticks(made_ticks(5), 0, 5)
        tape.event("mark", {"digest": "x"})
        if ending == "much":
            tape.ticks(made_ticks(5_000), 0, 5_000)
            tape.event("mark", {"digest": "x" * 200_000})
        elif ending == "flush":
            tape.flush()
        else:
            tape.close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the tape ends here" in caplog.text
    assert not tape.full
    quiet: list[Callable[[], Any]] = [
        tape.flush, tape.close, lambda: tape.event("mark", {}), lambda: tape.ticks(made_ticks(1), 0, 1),
    ]  # fmt: skip
    for call in quiet:
        call()
    assert len(caplog.records) == 1
    assert full.closed


def test_a_folder_that_cannot_be_made_ends_the_tape_before_it_begins(
    tapes: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    tape = tapes(folder=tmp_path / "file" / "tapes")
    with caplog.at_level(logging.WARNING, logger="resources.tapes"):
        tape.begin()
    tape.ticks(made_ticks(5), 0, 5)
    tape.flush()
    assert "the tape ends here" in caplog.text
    assert not tape.full


def test_the_newest_stretch_of_all_accounts_is_found(tapes: Make, tmp_path: Path) -> None:
    tapes(session=9).begin()
    tapes(session=1, folder=tmp_path / "other" / "tapes").begin()
    os.utime(tmp_path / "paper" / "tapes" / "session-9-0001", ns=(1, 1))
    assert latest_tape(tmp_path).parent.parent.name == "other"
