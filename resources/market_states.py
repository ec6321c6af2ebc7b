"""The market's state on disk: the newest three, each written aside and renamed, by a thread of its own."""

import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

_NAMES = ("market-0.bin", "market-1.bin", "market-2.bin")
_log = logging.getLogger(__name__)


class FileMarketStates:
    """Implements :class:`fx_dagster.live.protocols.MarketStates`.

    Args:
        folder: where the files lie; made when the first is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="market state")
        self._writing: Future[None] | None = None
        self._next = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is being written."""
        return self._writing is None or self._writing.done()

    def save(self, pack: Callable[[], bytes]) -> None:
        """Keep what ``pack()`` returns; it is called in the writing thread."""
        self._writing = self._pool.submit(self._write, pack, _NAMES[self._next])
        self._next = (self._next + 1) % len(_NAMES)

    def _write(self, pack: Callable[[], bytes], name: str) -> None:
        data = pack()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            aside = self._folder / f".{name}.{os.getpid()}"
            aside.write_bytes(data)
            aside.replace(self._folder / name)
        except OSError as error:
            # A restart then builds the market from history.
            _log.warning("the market's state is not kept: %s", error)

    def load(self) -> list[bytes]:
        """Return what is kept, newest first."""
        found = [path for name in _NAMES if (path := self._folder / name).is_file()]
        return [path.read_bytes() for path in sorted(found, key=lambda path: path.stat().st_mtime_ns, reverse=True)]

    def close(self) -> None:
        """Wait for the last write."""
        self._pool.shutdown()
