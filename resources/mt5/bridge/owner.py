"""Who owns a terminal: one bridge, by a lock that the operating system lets go when its process ends."""

import hashlib
import sqlite3
from pathlib import Path

from fx_dagster.errors import FencedError, ServerError


class OwnerLock:
    """Held from its making until :meth:`release` or the process's end.

    SQLite's lock, since it is the same on Windows.

    Args:
        path: the file; made where it is missing.
        owned: what it stands for, for the error.

    Raises:
        FencedError: another process holds it.
        ServerError: it cannot be opened.
    """

    def __init__(self, path: Path, owned: str) -> None:
        try:
            self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise ServerError(f"{path}: {error}", mend="check the folder") from error
        try:
            self._db.execute("BEGIN EXCLUSIVE")
        except sqlite3.Error as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
                raise FencedError(f"another bridge owns {owned}", mend="stop the other bridge first") from error
            raise ServerError(f"{path}: {error}", mend="check the file and the disk") from error

    def release(self) -> None:
        """Let it go."""
        self._db.close()


def terminal_lock_name(terminal: str, path: str) -> str:
    """Return the lock's file name of a terminal: two accounts on one terminal would log each other out."""
    return f"terminal-{hashlib.sha256(f'{terminal}:{path}'.lower().encode()).hexdigest()[:16]}.lock"
