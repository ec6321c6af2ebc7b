"""Exits that are sent while PostgreSQL is away: a local file that is written ahead of the order.

Only what makes a position smaller or its stop tighter gets in; entries wait for the journal. A record is on the disk
before :meth:`ExitLog.append` returns, and only then may the order be sent. When PostgreSQL is back, the records are
joined into the journal (:func:`resources.order_store.rejoin`, once each by the log's id and their number) and
:meth:`ExitLog.clear` begins a new log.

File: a head of 32 bytes (``FXEXITS1``, 16 bytes of id, CRC-32, 4 zero bytes), then records: ``FXR1``, length and CRC-32
(uint32, little-endian) of what follows, a number (uint64) and JSON text. Room is reserved when the file is made, so
that exits stay possible on a disk that fills up later; what is reserved reads as zeros, which is no record. A record
that was being written when the machine stopped is at the very end: it was never sent and is cut off. A damaged record
with whole ones behind it is no torn end, and refused.
"""

import contextlib
import json
import math
import os
import secrets
import struct
import sys
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, get_type_hints

from fx_dagster.errors import FencedError, JournalError, TradingError
from fx_dagster.execution.lifecycle import protects
from fx_dagster.execution.orders import OrderIntent, OrderState, Purpose, Transition
from resources.servers.private_files import make_own_folder

RESERVED_BYTES = 1 << 20
RECORD_MAX_BYTES = 16_384
_MAGIC, _MARK = b"FXEXITS1", b"FXR1"
_HEAD = struct.Struct("<8s16sI4x")
_FRAME = struct.Struct("<4sII")
_NUMBER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class ExitIntent:
    """An exit that may be sent from now on."""

    intent: OrderIntent


@dataclass(frozen=True, slots=True)
class ExitChange:
    """A state that an exit reached."""

    transition: Transition


ExitRecord: TypeAlias = ExitIntent | ExitChange


class ExitLog:
    """The write-ahead file of one account's exits. One owner; calls block for one write to the disk.

    Made by :meth:`open`, ended by :meth:`close`.

    Attributes:
        log_id: of this log, 32 hexadecimal digits; another one after each :meth:`clear`.
        torn_bytes: what was cut off the end when it was opened.
    """

    def __init__(self, path: Path, lock: int, reserved_bytes: int) -> None:
        self.path = path
        self.log_id = ""
        self.torn_bytes = 0
        self._lock = lock
        self._reserved = reserved_bytes
        self._file = -1
        self._end = 0
        self._number = 0
        self._broken = ""

    @classmethod
    def open(cls, folder: Path, account: str, *, reserved_bytes: int = RESERVED_BYTES) -> Self:
        """Take the account's log, and make it where there is none.

        Raises:
            FencedError: another process has it.
            JournalError: it is damaged, or there is no room for it.
        """
        make_own_folder(folder)
        path = folder / f"exits-{account}.log"
        log = cls(path, _locked(path.with_suffix(".lock")), reserved_bytes)
        try:
            if path.exists():
                log._file = os.open(path, os.O_RDWR | _BINARY)
                log._scan()
            else:
                log._begin()
        except BaseException:
            log.close()
            raise
        return log

    def append(self, intent: OrderIntent, *, position_lots: float, position_stop: float) -> int:
        """Write an exit to the disk and return its number; the order may be sent after that, and not otherwise.

        Args:
            intent: to close, or to tighten the stop of, a position.
            position_lots: signed lots of the position as it is known.
            position_stop: its stop; 0: none.

        Raises:
            TradingError: it is no exit.
            JournalError: it is not on the disk: it must not be sent.
        """
        if not protects(intent, position_lots, position_stop):
            asked = f"{intent.purpose} of {intent.lots:g} lots {intent.symbol}"
            raise TradingError(
                f"{asked} beside a position of {position_lots:g} lots is no exit",
                mend="entries wait until PostgreSQL is back",
            )
        return self._append({"intent": asdict(intent)})

    def note(self, transition: Transition) -> int:
        """Write a state that an exit reached to the disk and return the record's number.

        Raises:
            JournalError: it is not on the disk.
        """
        return self._append({"change": asdict(transition)})

    def records(self, after: int = 0) -> tuple[tuple[int, ExitRecord], ...]:
        """Return the records behind number ``after``, with their numbers, in order."""
        found, _, _ = _read(os.pread(self._file, os.fstat(self._file).st_size, 0), self.path)
        return tuple((number, _record(text, self.path)) for number, text in found if number > after)

    @property
    def last(self) -> int:
        """Number of the last record; 0: there is none."""
        return self._number

    def clear(self) -> None:
        """Begin a new, empty log: every record is in PostgreSQL.

        Raises:
            JournalError: there is no room for it; the old one stays.
        """
        self._begin()

    def close(self) -> None:
        """Free it for others."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                with contextlib.suppress(OSError):
                    os.close(descriptor)
        self._file = self._lock = -1
        self._broken = self._broken or "the log is closed"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _append(self, content: Mapping[str, Any]) -> int:
        if self._broken:
            raise JournalError(f"{self.path.name} takes nothing more: {self._broken}", mend="restart, and reconcile")
        body = _NUMBER.pack(self._number + 1) + json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
        if len(body) > RECORD_MAX_BYTES:
            raise JournalError(f"an exit of {len(body)} bytes", mend=f"keep it below {RECORD_MAX_BYTES} bytes")
        frame = _FRAME.pack(_MARK, len(body), zlib.crc32(body)) + body
        try:
            _write(self._file, frame, self._end)
        except OSError as error:
            self._undo(len(frame))
            raise JournalError(
                f"{self.path.name}: the exit cannot be written ({error.strerror}) and must not be sent",
                mend="make room on that disk; the stops at the broker stand",
            ) from error
        self._sync()
        self._end += len(frame)
        self._number += 1
        return self._number

    def _sync(self) -> None:
        try:
            os.fsync(self._file)
        except OSError as error:
            # What the page cache holds after a failed fsync is not what the disk holds.
            self._broken = f"fsync failed ({error.strerror})"
            raise JournalError(
                f"{self.path.name}: {self._broken}; the exit must not be sent", mend="restart, and reconcile"
            ) from error

    def _undo(self, length: int) -> None:
        """Take back a half-written record, so that the next one does not lie behind rubble."""
        try:
            size = os.fstat(self._file).st_size
            _write(self._file, bytes(max(0, min(length, size - self._end))), self._end)
            os.fsync(self._file)
        except OSError as error:
            self._broken = f"a half-written record cannot be taken back ({error.strerror})"

    def _begin(self) -> None:
        """Make a new file aside and put it in place, so that there is always a whole one."""
        aside, log_id = self.path.with_suffix(".new"), secrets.token_bytes(16)
        file = -1
        try:
            file = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | _BINARY, 0o600)
            _write(file, _HEAD.pack(_MAGIC, log_id, zlib.crc32(log_id)), 0)
            if hasattr(os, "posix_fallocate") and self._reserved > _HEAD.size:
                os.posix_fallocate(file, 0, self._reserved)
            os.fsync(file)
            aside.replace(self.path)
            _sync_folder(self.path.parent)
        except OSError as error:
            if file >= 0:
                os.close(file)
            raise JournalError(
                f"{self.path}: no room for the log of exits ({error.strerror})", mend="make room on that disk"
            ) from error
        if self._file >= 0:
            os.close(self._file)
        self._file, self.log_id = file, log_id.hex()
        self._end, self._number, self._broken = _HEAD.size, 0, ""

    def _scan(self) -> None:
        data = os.pread(self._file, os.fstat(self._file).st_size, 0)
        found, log_id, self._end = _read(data, self.path)
        self.log_id = log_id
        self._number = found[-1][0] if found else 0
        torn = data[self._end :].rstrip(b"\0")
        self.torn_bytes = len(torn)
        if torn:
            _write(self._file, bytes(len(torn)), self._end)
            self._sync()


def _read(data: bytes, path: Path) -> tuple[list[tuple[int, bytes]], str, int]:
    """Return the whole records with their numbers, the log's id, and where the records end."""
    if len(data) < _HEAD.size:
        raise _damaged(path, 0)
    magic, log_id, check = _HEAD.unpack_from(data)
    if magic != _MAGIC or check != zlib.crc32(log_id):
        raise _damaged(path, 0)
    found: list[tuple[int, bytes]] = []
    at = _HEAD.size
    while (body := _frame(data, at)) is not None:
        number = _NUMBER.unpack_from(body)[0]
        if number != len(found) + 1:
            raise _damaged(path, at)
        found.append((number, body[_NUMBER.size :]))
        at += _FRAME.size + len(body)
    behind = data.find(_MARK, at)
    while behind >= 0:
        if behind > at and _frame(data, behind) is not None:
            raise _damaged(path, at)
        behind = data.find(_MARK, behind + 1)
    return found, log_id.hex(), at


def _frame(data: bytes, at: int) -> bytes | None:
    """Return the body of the record at a place; None: there is no whole one."""
    if len(data) - at < _FRAME.size:
        return None
    mark, length, check = _FRAME.unpack_from(data, at)
    body = data[at + _FRAME.size : at + _FRAME.size + length]
    whole = mark == _MARK and _NUMBER.size <= length <= RECORD_MAX_BYTES and len(body) == length
    return body if whole and zlib.crc32(body) == check else None


def _damaged(path: Path, at: int) -> JournalError:
    return JournalError(
        f"{path} is damaged at byte {at}",
        mend="compare the broker's deals of that time with the journal, then move the file away",
    )


def _record(text: bytes, path: Path) -> ExitRecord:
    try:
        content = json.loads(text)
        if "intent" not in content:
            return ExitChange(Transition(**_fields(Transition, content["change"])))
        intent = OrderIntent(**_fields(OrderIntent, content["intent"]))
        if intent.purpose is Purpose.OPEN:
            raise ValueError("it opens a position")
        return ExitIntent(intent)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise JournalError(f"{path}: a record of another version: {error}", mend="read it with that version") from error


def _fields(kind: type[OrderIntent] | type[Transition], plain: Any) -> dict[str, Any]:
    """Return the fields of a record, each of its type and finite; ValueError names the one that is not."""
    if not isinstance(plain, dict):
        raise ValueError("no fields")
    kinds, fields = get_type_hints(kind), dict(plain)
    for name, value in fields.items():
        wanted = kinds.get(name, object)
        if wanted is float and type(value) is int:
            fields[name] = float(value)
        elif wanted in (Purpose, OrderState):
            fields[name] = wanted(value)
        elif type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise ValueError(f"its {name} is {value!r:.40}")
    return fields


def _write(file: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return  # there is nothing to be done there
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


_BINARY = getattr(os, "O_BINARY", 0)


def _locked(path: Path) -> int:
    """Return the descriptor of a lock file that this process alone holds."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FencedError(
            f"{path.name} is held by another process", mend="one engine an account: stop that one first"
        ) from error
    return descriptor
