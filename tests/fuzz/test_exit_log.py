"""The local log of exits: whatever happens to its bytes, what is read was written, or nothing is."""

import json
import struct
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import JournalError
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, Transition
from resources.exit_log import ExitChange, ExitIntent, ExitLog

from .mutations import DEEP, altered, budget, json_values, mutated, refused

CLOSE = OrderIntent(5, "real", "EURUSD", Purpose.CLOSE, -0.1, 0.0, 0.0, 100, 200, comment="ä", position=7)
MOVE = OrderIntent(6, "real", "EURUSD", Purpose.MODIFY, 0.0, 1.05, 1.2, 100, 200, position=7)
SENT = Transition(5, OrderState.SENT, 101)
HEAD_BYTES = 32
WRITTEN = (ExitIntent(CLOSE), ExitChange(SENT), ExitIntent(MOVE))


def write(folder: Path, reserved_bytes: int = 1_024) -> bytes:
    """Write three records and return the file."""
    with ExitLog.open(folder, "real", reserved_bytes=reserved_bytes) as log:
        log.append(CLOSE, position_lots=0.1, position_stop=1.0)
        log.note(SENT)
        log.append(MOVE, position_lots=0.1, position_stop=1.0)
        assert tuple(record for _, record in log.records()) == WRITTEN
    return (folder / "exits-real.log").read_bytes()


@budget(150)
@given(st.data(), st.sampled_from((0, 1_024)))
def test_an_altered_log_gives_what_was_written_or_nothing(
    tmp_path_factory: Any, data: st.DataObject, reserved: int
) -> None:
    folder = tmp_path_factory.mktemp("exits")
    content = data.draw(mutated(write(folder, reserved)))
    path = folder / "exits-real.log"
    path.write_bytes(content)
    with refused(JournalError, names=path.name), ExitLog.open(folder, "real") as log:
        found = tuple(record for _, record in log.records())
        assert found == WRITTEN[: len(found)], "an exit that was never written"
        number = log.append(CLOSE, position_lots=0.1, position_stop=1.0)
        assert number == len(found) + 1
        again = tuple(record for _, record in log.records())
        assert again == (*found, ExitIntent(CLOSE))


@budget(150)
@given(st.data())
def test_one_turned_bit_is_never_another_order(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("exits")
    content = bytearray(write(folder, 0))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / "exits-real.log").write_bytes(content)
    with refused(JournalError, names="exits-real.log"), ExitLog.open(folder, "real") as log:
        found = tuple(record for _, record in log.records())
        assert found == WRITTEN[: len(found)]


def framed(number: int, text: bytes) -> bytes:
    """Return a record with a right checksum."""
    body = struct.pack("<Q", number) + text
    return struct.pack("<4sII", b"FXR1", len(body), zlib.crc32(body)) + body


GOOD = ({"intent": asdict(CLOSE)}, {"change": asdict(SENT)})


@budget(250)
@given(
    st.sampled_from(GOOD).flatmap(altered).map(lambda one: json.dumps(one).encode())
    | json_values().map(lambda one: json.dumps(one).encode())
    | st.binary(max_size=60)
    | st.just(DEEP[:16_000])
)
def test_a_whole_record_of_another_making_is_refused(tmp_path_factory: Any, text: bytes) -> None:
    folder = tmp_path_factory.mktemp("exits")
    with ExitLog.open(folder, "real", reserved_bytes=0):
        pass
    with (folder / "exits-real.log").open("ab") as file:
        file.write(framed(1, text))
    with refused(JournalError, names="exits-real.log"), ExitLog.open(folder, "real") as log:
        for _, record in log.records():
            plain = asdict(record.intent if isinstance(record, ExitIntent) else record.transition)
            for name, kind in (
                ("lots", float), ("stop", float), ("symbol", str), ("account", str), ("client_order_id", int),
                ("time_ns", int), ("position", int), ("message", str), ("decided_ns", int), ("expires_ns", int),
            ):  # fmt: skip
                if name in plain:
                    assert type(plain[name]) is kind, f"{name} is {plain[name]!r}"
            if isinstance(record, ExitIntent):
                assert record.intent.purpose is not Purpose.OPEN, "an entry in the log of exits"
                assert abs(record.intent.lots) < 1e9


@pytest.mark.parametrize("head", [b"", b"FXEXITS1", bytes(HEAD_BYTES), b"FXEXITS2" + bytes(24)])
def test_a_file_that_is_no_log_is_refused_and_left_as_it_is(tmp_path: Path, head: bytes) -> None:
    path = tmp_path / "exits-real.log"
    path.write_bytes(head)
    with pytest.raises(JournalError, match=path.name):
        ExitLog.open(tmp_path, "real")
    assert path.read_bytes() == head
