"""Which releases there are and which one answers, in PostgreSQL.

A switch is one row. Every process reads the newest before its next decision, so that promotion and rollback take
effect there; nothing is loaded or unloaded by the switch itself.
"""

from dataclasses import dataclass
from datetime import datetime

import psycopg

from fx_dagster.errors import ReleaseError
from fx_dagster.models.release import ReleaseManifest
from resources.postgres import connect, unreachable


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

    def next_version(self) -> int:
        """Return a number that no release had or will have."""
        with self._connect() as connection:
            return int(_one(connection.execute("SELECT nextval('release_number')")))

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
        with self._connect() as connection:
            try:
                connection.execute(
                    "INSERT INTO release_switches (version, reason) VALUES (%s, %s)", (version, reason)
                )
            except psycopg.errors.ForeignKeyViolation as error:
                raise ReleaseError(f"release {version} is not recorded", mend="fx release list shows them") from error

    def active(self) -> int | None:
        """Return the release that answers; None: none was ever activated."""
        with self._connect() as connection:
            row = connection.execute("SELECT version FROM release_switches ORDER BY id DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def rollback(self, *, reason: str = "rollback") -> int:
        """Activate the release that was active before the current one and return its number.

        Raises:
            ReleaseError: there was none.
        """
        with self._connect() as connection:
            rows = connection.execute("SELECT version FROM release_switches ORDER BY id DESC").fetchall()
        current = rows[0][0] if rows else None
        earlier = next((int(row[0]) for row in rows if row[0] != current), None)
        if earlier is None:
            raise ReleaseError("there is no earlier release to go back to", mend="fx release list shows them")
        self.activate(earlier, reason=reason)
        return earlier

    def manifest(self, version: int) -> ReleaseManifest:
        """Return a recorded manifest.

        Raises:
            ReleaseError: it is not recorded.
        """
        with self._connect() as connection:
            row = connection.execute("SELECT manifest::text FROM releases WHERE version = %s", (version,)).fetchone()
        if row is None:
            raise ReleaseError(f"release {version} is not recorded", mend="fx release list shows them")
        return ReleaseManifest.from_json(row[0], place=f"release {version} in PostgreSQL")

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


def _one(cursor: psycopg.Cursor) -> object:
    row = cursor.fetchone()
    if row is None:
        raise unreachable(psycopg.OperationalError("no answer to a query of one row"))
    return row[0]
