"""Keys that were used and the newest epoch, kept durably: a key is written before the terminal is called.

SQLite with ``synchronous=EXTRA``. The file is held exclusively, so that a second bridge on the same file is refused;
the operating system lets it go when the process ends, however it ends.
"""

import json
import sqlite3
from dataclasses import asdict
from pathlib import Path

from fx_dagster.errors import FencedError, JournalError
from resources.mt5.bridge.answers import Answer, Kind

_TABLES = (
    "CREATE TABLE IF NOT EXISTS epoch (account TEXT PRIMARY KEY, epoch INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS key (account TEXT, key INTEGER, content TEXT NOT NULL, answer TEXT,"
    " PRIMARY KEY (account, key))",
)


class KeyStore:
    """Keys and epochs of a terminal's accounts.

    Args:
        path: the file; made when it is missing.

    Raises:
        FencedError: another process holds the file.
        JournalError: it cannot be opened or is not such a file.
    """

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA synchronous=EXTRA")
            self._db.execute("BEGIN EXCLUSIVE")
            for table in _TABLES:
                self._db.execute(table)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            self._db.close()
            if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_BUSY:
                raise FencedError(f"{path} is held by another bridge", mend="stop the other bridge") from error
            raise JournalError(f"{path}: {error}", mend="check the disk and the file") from error

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def seen(self, account: str, key: int, content: str) -> Answer | None:
        """Return what is known of a key that was used before; None: it never was.

        A key without a recorded answer may or may not have reached the broker: unknown. So is one that comes with
        another content, whose order is not the one that is asked about.
        """
        row = self._one("SELECT content, answer FROM key WHERE account = ? AND key = ?", account, key)
        if row is None:
            return None
        if row[0] != content:
            return Answer(Kind.UNKNOWN, text=f"key {key} was used before for another intent")
        if row[1] is None:
            return Answer(Kind.UNKNOWN, text=f"key {key} was used before and has no recorded answer")
        values = json.loads(row[1])
        return Answer(**{**values, "kind": Kind(values["kind"])})

    def epoch(self, account: str) -> int:
        """Return the newest epoch seen of an account; -1: none."""
        row = self._one("SELECT epoch FROM epoch WHERE account = ?", account)
        return -1 if row is None else int(row[0])

    def claim(self, account: str, key: int, epoch: int, content: str) -> None:
        """Write a key and its epoch; they are on disk when this returns.

        Raises:
            FencedError: the epoch is lower than the newest.
            JournalError: the key is there already, or the disk refuses.
        """
        if epoch < self.epoch(account):
            raise FencedError(f"epoch {epoch} is older than {self.epoch(account)}", mend="a newer session trades")
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.execute("INSERT INTO key (account, key, content) VALUES (?, ?, ?)", (account, key, content))
            self._db.execute("INSERT OR REPLACE INTO epoch VALUES (?, ?)", (account, epoch))
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(f"key {key} cannot be written: {error}", mend="check the bridge's disk") from error

    def record(self, account: str, key: int, answer: Answer) -> None:
        """Write the answer to a claimed key.

        Raises:
            JournalError: the disk refuses.
        """
        try:
            self._db.execute(
                "UPDATE key SET answer = ? WHERE account = ? AND key = ?", (json.dumps(asdict(answer)), account, key)
            )
        except sqlite3.Error as error:
            raise JournalError(f"answer to {key} cannot be written: {error}", mend="check the disk") from error

    def _one(self, query: str, *values: object) -> tuple | None:
        try:
            return self._db.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise JournalError(f"keys cannot be read: {error}", mend="check the bridge's disk") from error
