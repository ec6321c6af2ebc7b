"""Recorded sessions on disk: one folder a stretch, appended to as it happens, read back for a replay.

A stretch is four files: ``head.json`` (symbols and settings), ``start.bin`` (the core's state at its beginning),
``ticks.bin`` (rows of the tape's tick type) and ``events.jsonl``. Appending is all that is ever done, so that a process
that dies leaves at most a torn last row, which a reader leaves out. When a stretch is full the next one begins, and the
oldest go.
"""

import contextlib
import json
import logging
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self, get_args

import numpy as np

from fx_dagster.core.rows import Ticks
from fx_dagster.core.tape import TICK, Tape, TapeEvent, What
from fx_dagster.errors import DataError

FORMAT = "fx-tape-2"
KEPT_STRETCHES = 4
_NAME = re.compile(r"session-(\d+)-(\d{4,})")
_log = logging.getLogger(__name__)


class FileTape:
    """Implements :class:`fx_dagster.core.tape.TapeWriter`.

    Args:
        folder: of the account's tapes.
        session: number of the session.
        symbols: canonical symbols, in the order of the ticks' ``symbol``.
        facts: what a reader wants to know: settings that the decisions depend on; JSON values.
        state: returns the core's state of this moment; called when a stretch begins.
        size_mb_max: size of a stretch.
    """

    def __init__(
        self, folder: Path, session: int, symbols: tuple[str, ...], facts: dict[str, Any], *,
        state: Callable[[], bytes], size_mb_max: float,
    ) -> None:  # fmt: skip
        self._folder, self._session, self._symbols, self._facts = folder, session, symbols, facts
        self._state = state
        self._room = self._room_max = int(size_mb_max * 1e6)
        self._ticks: IO[bytes] | None = None
        self._events: IO[bytes] | None = None
        self._taken = 0

    def begin(self) -> None:
        """Begin a stretch with the core's state as it is now; none where stretches have no room."""
        self.close()
        if self._room_max > 0:
            self._try(self._open)

    def _open(self) -> None:
        stretches = _stretches(self._folder)
        number = 1 + max((place for session, place, _ in stretches if session == self._session), default=0)
        for _, _, old in stretches[: max(0, len(stretches) - KEPT_STRETCHES + 1)]:
            shutil.rmtree(old)
        folder = self._folder / f"session-{self._session}-{number:04d}"
        folder.mkdir(parents=True)
        (folder / "start.bin").write_bytes(self._state())
        head = {"format": FORMAT, "symbols": self._symbols, "facts": self._facts}
        (folder / "head.json").write_text(json.dumps(head))
        self._ticks = (folder / "ticks.bin").open("ab")
        self._events = (folder / "events.jsonl").open("ab")
        self._room, self._taken = self._room_max, 0

    def ticks(self, ticks: Ticks, first: int, last: int) -> None:
        """Add ticks ``first`` … ``last - 1``."""
        if self._ticks is None or last <= first:
            return
        rows = np.zeros(last - first, dtype=TICK)
        for name in Ticks._fields:
            rows[name] = getattr(ticks, name)[first:last]
        self._write(self._ticks, rows.tobytes())
        self._taken += len(rows)

    def event(self, what: What, body: dict[str, Any]) -> None:
        """Add what happened after the ticks so far."""
        if self._events is not None:
            self._write(self._events, json.dumps({"ticks": self._taken, "what": what, "body": body}).encode() + b"\n")

    @property
    def full(self) -> bool:
        """Whether the stretch is as large as it may be: the owner begins the next one between two batches."""
        return self._ticks is not None and self._room <= 0

    def flush(self) -> None:
        """Hand everything to the operating system; ticks first, so that no event is ahead of them."""
        for file in (self._ticks, self._events):
            if file is not None and not file.closed:
                self._try(file.flush)

    def close(self) -> None:
        """End the stretch."""
        for file in (self._ticks, self._events):
            if file is not None:
                self._try(file.close)
        self._ticks = self._events = None

    def _write(self, file: IO[bytes], data: bytes) -> None:
        self._room -= len(data)
        self._try(lambda: file.write(data))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            # A tape is worth less than the session that it records.
            _log.warning("the tape ends here: %s", error)
            for file in (self._ticks, self._events):
                if file is not None:
                    with contextlib.suppress(OSError):
                        file.close()
            self._ticks = self._events = None


def read_tape(folder: Path) -> tuple[Tape, dict[str, Any]]:
    """Return a stretch and the facts it was recorded with.

    Raises:
        DataError: the folder holds no tape, or one of another version.
    """
    try:
        head = _Head.of(json.loads((folder / "head.json").read_bytes()))
        start, raw = (folder / "start.bin").read_bytes(), (folder / "ticks.bin").read_bytes()
        lines = (folder / "events.jsonl").read_bytes().split(b"\n")[:-1]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{folder} holds no tape: {error}", mend="name a folder that a live session recorded"
        ) from error
    if head.format != FORMAT:
        raise DataError(f"{folder}: a tape of format {head.format[:40]!r}", mend=f"this version reads {FORMAT}")
    ticks = np.frombuffer(raw[: len(raw) // TICK.itemsize * TICK.itemsize], dtype=TICK)
    events = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(_event(line))
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{folder}/events.jsonl, line {number}: {error}", mend="the file was altered") from error
    known = [event for event in events if event.ticks <= len(ticks)]
    return Tape(start, ticks, known, head.symbols), head.facts


@dataclass(frozen=True)
class _Head:
    """What ``head.json`` says."""

    format: str
    symbols: tuple[str, ...]
    facts: dict[str, Any]

    @classmethod
    def of(cls, plain: Any) -> Self:
        """Read it; ValueError names the field that is not as it must be."""
        found = plain if isinstance(plain, dict) else {}
        names, facts = found.get("symbols"), found.get("facts")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("head.json has no symbols")
        if not isinstance(facts, dict):
            raise ValueError("head.json has no facts")
        return cls(str(found.get("format")), tuple(names), facts)


def _event(line: bytes) -> TapeEvent:
    event = TapeEvent(**json.loads(line))
    counted = isinstance(event.ticks, int) and not isinstance(event.ticks, bool) and event.ticks >= 0
    if not (counted and isinstance(event.what, str) and event.what in get_args(What)):
        raise ValueError(f"no event: {str(event.what)[:40]!r} after {str(event.ticks)[:40]} ticks")
    if not isinstance(event.body, dict):
        raise ValueError(f"event {event.what} has no body")
    return event


def latest_tape(live: Path) -> Path:
    """Return the newest stretch of all accounts, ``<live>/<account>/tapes/<stretch>``.

    Raises:
        DataError: there is none.
    """
    # Its head is written last: a stretch without one was never begun.
    stretches = [
        path for folder in live.glob("*/tapes") for _, _, path in _stretches(folder) if (path / "head.json").is_file()
    ]
    if not stretches:
        raise DataError(f"no tape in {live}", mend="record one: FX_LIVE_TAPE_MB_MAX above 0, and fx live or fx demo")
    return max(stretches, key=lambda path: path.stat().st_mtime_ns)


def _stretches(folder: Path) -> list[tuple[int, int, Path]]:
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        matched = _NAME.fullmatch(path.name)
        if matched:
            found.append((int(matched[1]), int(matched[2]), path))
    return sorted(found)
