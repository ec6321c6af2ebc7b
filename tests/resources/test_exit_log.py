"""The local log of exits: real files, real processes that are killed, ends that are torn."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.errors import FencedError, JournalError, TradingError
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, Transition
from resources.exit_log import RESERVED_BYTES, ExitChange, ExitIntent, ExitLog

SMALL = 4_096
NIGHT = os.environ.get("FX_TEST_PROFILE") == "night"


def close_of(key: int, lots: float = -0.1) -> OrderIntent:
    return OrderIntent(key, "real", "EURUSD", Purpose.CLOSE, lots, 0.0, 0.0, 100, 200, comment="ä", position=7)


def write(log: ExitLog, key: int) -> int:
    return log.append(close_of(key), position_lots=0.1, position_stop=1.0)


def write_until_refused(log: ExitLog) -> None:
    for key in range(1, 99):
        write(log, key)


def keys(log: ExitLog) -> list[int]:
    return [one.intent.client_order_id for _, one in log.records() if isinstance(one, ExitIntent)]


def test_what_is_written_is_read_again_by_the_next(tmp_path: Path) -> None:
    with ExitLog.open(tmp_path / "new", "real") as log:
        assert (log.last, log.records()) == (0, ())
        assert write(log, 5) == 1
        change = Transition(5, OrderState.SENT, 120, 9, "words")
        assert log.note(change) == 2
        first = log.log_id
    with ExitLog.open(tmp_path / "new", "real") as log:
        assert log.records() == ((1, ExitIntent(close_of(5))), (2, ExitChange(change)))
        assert log.records(after=1) == ((2, ExitChange(change)),)
        assert (log.log_id, log.last, log.torn_bytes) == (first, 2, 0)
        log.clear()
        assert (log.records(), log.last) == ((), 0)
        assert log.log_id != first
        assert write(log, 6) == 1
    assert (tmp_path / "new/exits-real.log").stat().st_size == RESERVED_BYTES


def test_only_exits_get_in(tmp_path: Path) -> None:
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        entry = replace(close_of(1), purpose=Purpose.OPEN, lots=0.1, stop=1.0)
        looser = replace(close_of(1), purpose=Purpose.MODIFY, lots=0.0, stop=0.9)
        for intent in (entry, looser, close_of(1, -0.2), close_of(1, 0.1)):
            with pytest.raises(TradingError, match="is no exit"):
                log.append(intent, position_lots=0.1, position_stop=1.0)
        assert log.records() == ()
        log.append(replace(looser, stop=1.1), position_lots=0.1, position_stop=1.0)
        assert log.last == 1


def test_one_process_alone_owns_it(tmp_path: Path) -> None:
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL):
        with pytest.raises(FencedError, match="another process"):
            ExitLog.open(tmp_path, "real", reserved_bytes=SMALL)
        ExitLog.open(tmp_path, "other", reserved_bytes=SMALL).close()
    log = ExitLog.open(tmp_path, "real", reserved_bytes=SMALL)
    log.close()
    with pytest.raises(JournalError, match="closed"):
        write(log, 1)


@contextmanager
def no_more_than(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond ``size``: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_refuses_the_exit_and_leaves_no_rubble(tmp_path: Path) -> None:
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        with no_more_than(SMALL), pytest.raises(JournalError, match=r"must not be sent.*make room"):
            write_until_refused(log)
        written = log.last
        assert 5 < written < 40
        assert keys(log) == list(range(1, written + 1))
        assert write(log, 777) == written + 1, "there is room again"
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        assert keys(log) == [*range(1, written + 1), 777]
        assert log.torn_bytes == 0


def test_without_room_there_is_no_log_and_the_old_one_stays(tmp_path: Path) -> None:
    with no_more_than(SMALL), pytest.raises(JournalError, match="no room"):
        ExitLog.open(tmp_path, "real", reserved_bytes=SMALL + 1)
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        write(log, 1)
        log._reserved = SMALL * 2
        with no_more_than(SMALL), pytest.raises(JournalError, match="no room"):
            log.clear()
        assert keys(log) == [1]
        assert write(log, 2) == 2


def test_after_a_failed_fsync_nothing_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        write(log, 1)

        def failing(descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("os.fsync", failing)
            with pytest.raises(JournalError, match="fsync failed"):
                write(log, 2)
        with pytest.raises(JournalError, match="takes nothing more"):
            write(log, 3)


@settings(
    max_examples=2_000 if NIGHT else 60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(count=st.integers(0, 5), cut=st.integers(1, 400), zeros=st.booleans(), noise=st.binary(max_size=40))
def test_a_torn_end_is_cut_off(tmp_path: Path, count: int, cut: int, zeros: bool, noise: bytes) -> None:
    path = tmp_path / "exits-real.log"
    path.unlink(missing_ok=True)
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL if zeros else 0) as log:
        for key in range(1, count + 1):
            write(log, key)
        whole = log._end
        write(log, 99)
        end = log._end
    data = path.read_bytes()
    kept = max(whole, end - cut)
    path.write_bytes(data[:kept] + noise + bytes(SMALL if zeros else 0))
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        assert keys(log) == list(range(1, count + 1))
        write(log, 100)
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        assert keys(log) == [*range(1, count + 1), 100]
        assert log.torn_bytes == 0


@settings(
    max_examples=1_000 if NIGHT else 60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(place=st.floats(0.0, 1.0, exclude_max=True), bit=st.integers(0, 7))
def test_damage_before_the_last_record_is_never_taken_for_a_torn_end(tmp_path: Path, place: float, bit: int) -> None:
    path = tmp_path / "exits-real.log"
    path.unlink(missing_ok=True)
    with ExitLog.open(tmp_path, "real", reserved_bytes=SMALL) as log:
        for key in (1, 2):
            write(log, key)
        end = log._end
        write(log, 3)
    data = bytearray(path.read_bytes())
    at = int(place * end)
    if 28 <= at < 32:
        return  # the head's four unused bytes
    data[at] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(JournalError, match="is damaged at byte"):
        ExitLog.open(tmp_path, "real", reserved_bytes=SMALL)


_WRITER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from fx_dagster.execution.orders import OrderIntent, Purpose
    from resources.exit_log import ExitLog
    log = ExitLog.open(Path(sys.argv[1]), "real", reserved_bytes=8192)
    key = log.last
    while True:
        key += 1
        exit = OrderIntent(key, "real", "EURUSD", Purpose.CLOSE, -0.1, 0.0, 0.0, 1, 2, comment="x" * (key % 50))
        log.append(exit, position_lots=0.1, position_stop=1.0)
        sys.stdout.write(f"{key}\\n")
        sys.stdout.flush()
""")


def test_a_killed_writer_loses_nothing_that_it_could_have_sent(tmp_path: Path) -> None:
    told = 0
    for round_number in range(20 if NIGHT else 5):
        writer = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        assert writer.stdout is not None
        first = writer.stdout.readline()
        assert first, "it did not begin"
        time.sleep(0.001 * (7 * round_number % 23))
        writer.kill()
        lines = [first, *writer.stdout.read().splitlines()]
        writer.wait()
        writer.stdout.close()
        told = max(told, *(int(line) for line in lines if line.strip()))
        with ExitLog.open(tmp_path, "real", reserved_bytes=8_192) as log:
            assert log.last >= told
            assert keys(log) == list(range(1, log.last + 1))
