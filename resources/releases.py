"""Which releases there are and which one answers, in PostgreSQL.

A switch is one row. Every process reads the newest before its next decision, so that promotion and rollback take
effect there; nothing is loaded or unloaded by the switch itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg

from fx_dagster.errors import ReleaseError
from fx_dagster.models.release import ReleaseManifest
from resources.postgres import connect, unreachable

ACTIVE_VERSION = "SELECT version FROM release_switches ORDER BY id DESC LIMIT 1"
MANIFEST = "SELECT manifest::text, digest FROM releases WHERE version = %s"


@dataclass(frozen=True)
class ReleaseRow:
    """One release as the store lists it."""

    version: int
    created_at: datetime
    feature_hash: str
    active: bool


class ReleaseStore:
    """Releases of one installation.

    Args:
        url: PostgreSQL, as in ``FX_POSTGRES_URL``. The tables must be there: :func:`resources.postgres.migrate`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def next_version(self, *, above: int = 0) -> int:
        """Return a number that no release had or will have, greater than ``above``.

        ``above`` is the newest release on disk: folders may be older than this database.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            number = int(_one(connection.execute("SELECT nextval('release_number')")))
            if number <= above:
                number = above + 1
                connection.execute("SELECT setval('release_number', %s)", (number,))
            return number

    def record(self, manifest: ReleaseManifest) -> None:
        """Keep a release's manifest for good.

        Raises:
            ReleaseError: that number is recorded already with another content.
        """
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO releases (version, feature_hash, digest, manifest) VALUES (%s, %s, %s, %s::jsonb)"
                " ON CONFLICT (version) DO NOTHING",
                (manifest.version, manifest.feature_hash, manifest.digest(), manifest.to_json()),
            )
            kept = _one(connection.execute("SELECT digest FROM releases WHERE version = %s", (manifest.version,)))
            if kept != manifest.digest():
                raise ReleaseError(
                    f"release {manifest.version} is recorded with another content", mend="release with the next number"
                )

    def activate(self, version: int, *, reason: str) -> None:
        """Let a recorded release answer from the next decision on.

        Raises:
            ReleaseError: it is not recorded.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            try:
                _switch(connection, version, "activate", reason)
            except psycopg.errors.ForeignKeyViolation as error:
                raise ReleaseError(f"release {version} is not recorded", mend="train and release first") from error

    def active(self) -> int | None:
        """Return the release that answers; None: none was ever activated."""
        with self._connect() as connection:
            row = connection.execute(ACTIVE_VERSION).fetchone()
        return None if row is None else int(row[0])

    def rollback(self, *, reason: str = "rollback") -> int:
        """Activate the release that was active before the current one and return its number.

        A second rollback goes one further back, never forth to the release that was rolled back.

        Raises:
            ReleaseError: there was none.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            stack = _active_stack(
                connection.execute("SELECT version, kind FROM release_switches ORDER BY id").fetchall()
            )
            if len(stack) < 2:
                raise ReleaseError("there is no earlier release to go back to", mend="train and release again")
            _switch(connection, stack[-2], "rollback", reason)
            return stack[-2]

    def previous(self) -> int | None:
        """Return the release that a rollback would activate; None: there is none."""
        with self._connect() as connection:
            stack = _active_stack(
                connection.execute("SELECT version, kind FROM release_switches ORDER BY id").fetchall()
            )
        return stack[-2] if len(stack) > 1 else None

    def manifest(self, version: int) -> ReleaseManifest:
        """Return a recorded manifest.

        Raises:
            ReleaseError: it is not recorded, or was altered since.
        """
        with self._connect() as connection:
            row = connection.execute(MANIFEST, (version,)).fetchone()
        return manifest_of(version, row)

    def list(self) -> list[ReleaseRow]:
        """Return all releases, newest first."""
        active = self.active()
        with self._connect() as connection:
            rows = connection.execute(
                "SELECT version, created_at, feature_hash FROM releases ORDER BY version DESC"
            ).fetchall()
        return [ReleaseRow(int(version), at, digest, version == active) for version, at, digest in rows]

    def _connect(self) -> psycopg.Connection:
        return connect(self._url, name="fx releases")


def manifest_of(version: int, row: tuple | None) -> ReleaseManifest:
    """Return the manifest that a row of :data:`MANIFEST` holds.

    Raises:
        ReleaseError: there is no row, or its manifest is not the one that was recorded.
    """
    if row is None:
        raise ReleaseError(f"release {version} is not recorded", mend="train and release first")
    manifest = ReleaseManifest.from_json(row[0], place=f"release {version} in PostgreSQL")
    if manifest.digest() != row[1]:
        raise ReleaseError(f"the manifest of release {version} in PostgreSQL was altered", mend="release again")
    return manifest


def _active_stack(switches: Sequence[tuple]) -> list[int]:
    """Return the releases that were active one after another, less those that were rolled back; newest last."""
    stack: list[int] = []
    for version, kind in switches:
        if kind == "rollback":
            while stack and stack[-1] != version:
                stack.pop()
        if not stack or stack[-1] != version:
            stack.append(int(version))
    return stack


def _switch(connection: psycopg.Connection, version: int, kind: str, reason: str) -> None:
    connection.execute(
        "INSERT INTO release_switches (version, kind, reason) VALUES (%s, %s, %s)", (version, kind, reason)
    )


def _lock(connection: psycopg.Connection) -> None:
    """Let one process at a time number or switch releases, until its transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('fx releases'))")


def _one(cursor: psycopg.Cursor) -> Any:
    row = cursor.fetchone()
    if row is None:
        raise unreachable(psycopg.OperationalError("no answer to a query of one row"))
    return row[0]
