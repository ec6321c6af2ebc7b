"""Which releases there are, where each stands and which one answers, in PostgreSQL.

A release is recorded with a signature, tried in shadow, goes live, and is retired. A switch is one row. Every process
reads the newest before its next decision, so that promotion and rollback take effect there; nothing is loaded or
unloaded by the switch itself. Switches and stages are added, never changed, which the database itself sees to.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Self

import psycopg
from psycopg.types.json import Jsonb

from fx_dagster.errors import ReleaseError
from fx_dagster.models.promotion import GateResult, Stage
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.settings import Settings, load_settings
from resources.postgres import connect, unreachable
from resources.signing import ReleaseKeys, Signature

ACTIVE_VERSION = "SELECT version FROM release_switches ORDER BY id DESC LIMIT 1"
MANIFEST = "SELECT manifest::text, digest, signature, key_id FROM releases WHERE version = %s"
STAGES = """
SELECT r.version, s.stage, s.id, s.after_switch,
    (SELECT max(id) FROM release_switches w WHERE w.version = r.version)
FROM releases r LEFT JOIN LATERAL (
    SELECT id, stage, after_switch FROM release_stages WHERE version = r.version ORDER BY id DESC LIMIT 1
) s ON true
"""


@dataclass(frozen=True)
class ReleaseRow:
    """One release as the store lists it."""

    version: int
    created_at: datetime
    feature_hash: str
    active: bool
    stage: Stage


class ReleaseStore:
    """Releases of one installation.

    Args:
        url: PostgreSQL, as in ``FX_POSTGRES_URL``. The tables must be there: :func:`resources.postgres.migrate`.
        keys: sign what is recorded and verify what is read; None: those of the environment's settings, when needed.
    """

    def __init__(self, url: str, keys: ReleaseKeys | None = None) -> None:
        self._url = url
        self._given = keys

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the releases of an installation."""
        return cls(settings.postgres.url.get_secret_value(), ReleaseKeys.of(settings))

    @cached_property
    def _keys(self) -> ReleaseKeys:
        return self._given or ReleaseKeys.of(load_settings())

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
        """Sign a release's manifest and keep it for good.

        Raises:
            ReleaseError: that number is recorded already with another content, or this installation signs nothing.
        """
        text = manifest.to_json()
        signed = self._keys.sign(text)
        with self._connect() as connection:
            connection.execute(
                "INSERT INTO releases (version, feature_hash, digest, manifest, signature, key_id)"
                " VALUES (%s, %s, %s, %s::jsonb, %s, %s) ON CONFLICT (version) DO NOTHING",
                (manifest.version, manifest.feature_hash, manifest.digest(), text, signed.value, signed.key_id),
            )
            kept = _one(connection.execute("SELECT digest FROM releases WHERE version = %s", (manifest.version,)))
            if kept != manifest.digest():
                raise ReleaseError(
                    f"release {manifest.version} is recorded with another content", mend="release with the next number"
                )

    def introduce(self, version: int, *, reason: str) -> Stage:
        """Give a new release its place and return it: shadow beside a live release, live where there is none.

        A challenger that waits for the shadow account, and never had it, is retired in favour of the newer one.

        Raises:
            ReleaseError: it is not recorded.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            active, challengers = _active(connection), _challengers(connection)
            if active is None:
                _switch(connection, version, "activate", reason)
            if active in {None, version}:
                return Stage.LIVE
            if version in challengers:
                return Stage.SHADOW
            _stage(connection, version, Stage.SHADOW, reason)
            for old in challengers[1:]:
                _stage(connection, old, Stage.RETIRED, f"release {version} is newer")
            return Stage.SHADOW

    def stage(self, version: int, *, reason: str) -> None:
        """Let a recorded release be tried in shadow, behind the challengers that are there already.

        Raises:
            ReleaseError: it is not recorded, or is live.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            _require_not_live(connection, version)
            if version not in _challengers(connection):
                _stage(connection, version, Stage.SHADOW, reason)

    def retire(self, version: int, *, reason: str) -> None:
        """End a challenger's trial; the next one takes its place.

        Raises:
            ReleaseError: it is not recorded, or is live.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            _require_not_live(connection, version)
            _stage(connection, version, Stage.RETIRED, reason)

    def challengers(self) -> list[int]:
        """Return the releases in shadow, in the order in which they came; the first has the shadow account."""
        with self._connect() as connection:
            return _challengers(connection)

    def activate(
        self, version: int, *, reason: str, gates: Sequence[GateResult] | None = None, instead_of: int | None = None
    ) -> None:
        """Let a recorded release answer from the next decision on.

        Args:
            version: number of the release.
            reason: kept with the switch.
            gates: what they said, kept with the switch; None: nobody asked them.
            instead_of: the release that they compared it with; None: whichever is live.

        Raises:
            ReleaseError: it is not recorded, a gate is closed, or another release went live since they were asked.
        """
        closed = [str(one.gate) for one in gates or () if not one.open]
        if closed:
            raise ReleaseError(f"release {version} does not pass: {', '.join(closed)}", mend="train and release again")
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            active = _active(connection)
            if instead_of is not None and active != instead_of:
                raise ReleaseError(f"release {active} went live meanwhile, instead of {instead_of}", mend="look again")
            _switch(connection, version, "activate", reason, gates)

    def active(self) -> int | None:
        """Return the release that answers; None: none was ever activated."""
        with self._connect() as connection:
            return _active(connection)

    def rollback(self, *, reason: str = "rollback", to: int | None = None) -> int:
        """Activate the release that was active before the current one and return its number.

        A second rollback goes one further back, never forth to the release that was rolled back.

        Args:
            reason: kept with the switch.
            to: the release that is expected; None: whichever it is.

        Raises:
            ReleaseError: there was none, or it is another than expected.
        """
        with self._connect() as connection, connection.transaction():
            _lock(connection)
            stack = _active_stack(
                connection.execute("SELECT version, kind FROM release_switches ORDER BY id").fetchall()
            )
            if len(stack) < 2:
                raise ReleaseError("there is no earlier release to go back to", mend="train and release again")
            if to is not None and stack[-2] != to:
                raise ReleaseError(f"a rollback leads to release {stack[-2]} now, not to {to}", mend="look again")
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
            ReleaseError: it is not recorded, was altered since, or has no signature that is trusted here.
        """
        return manifest_of(version, self._manifest_row(version), self._keys)

    def signature(self, version: int) -> Signature | None:
        """Return the signature of a recorded manifest; None: it was recorded before there were any.

        Raises:
            ReleaseError: it is not recorded.
        """
        row = self._manifest_row(version)
        if row is None:
            raise _not_recorded(version)
        return _signature(row)

    def list(self) -> list[ReleaseRow]:
        """Return all releases, newest first."""
        with self._connect() as connection, connection.transaction():
            active, stages = _active(connection), _stages(connection)
            rows = connection.execute(
                "SELECT version, created_at, feature_hash FROM releases ORDER BY version DESC"
            ).fetchall()
        return [
            ReleaseRow(int(version), at, digest, version == active, stages.get(version, Stage.RECORDED))
            for version, at, digest in rows
        ]

    def _manifest_row(self, version: int) -> tuple | None:
        with self._connect() as connection:
            return connection.execute(MANIFEST, (version,)).fetchone()

    def _connect(self) -> psycopg.Connection:
        return connect(self._url, name="fx releases")


def manifest_of(version: int, row: tuple | None, keys: ReleaseKeys) -> ReleaseManifest:
    """Return the manifest that a row of :data:`MANIFEST` holds, after checking digest and signature.

    Raises:
        ReleaseError: there is no row, its manifest is not the one that was recorded, or it has no signature that is
            trusted here.
    """
    if row is None:
        raise _not_recorded(version)
    place = f"release {version} in PostgreSQL"
    signature = _signature(row)
    if signature is None:
        raise ReleaseError(f"{place} has no signature", mend="release again")
    manifest = ReleaseManifest.from_json(row[0], place=place)
    if manifest.digest() != row[1] or manifest.version != version:
        raise ReleaseError(f"the manifest of {place} was altered", mend="release again")
    keys.verify(manifest.to_json(), signature, what=place)
    return manifest


def _signature(row: tuple) -> Signature | None:
    return None if row[2] is None else Signature(str(row[3]), bytes(row[2]))


def _not_recorded(version: int) -> ReleaseError:
    return ReleaseError(f"release {version} is not recorded", mend="train and release first")


def _active(connection: psycopg.Connection) -> int | None:
    row = connection.execute(ACTIVE_VERSION).fetchone()
    return None if row is None else int(row[0])


def _stages(connection: psycopg.Connection) -> dict[int, Stage]:
    """Return where each release stands: by its last switch or stage, whichever came later."""
    active = _active(connection)
    return {
        int(version): _stage_of(stage, after, switch, live=version == active)
        for version, stage, _, after, switch in connection.execute(STAGES).fetchall()
    }


def _stage_of(stage: str | None, after: int | None, switch: int | None, *, live: bool) -> Stage:
    if live:
        return Stage.LIVE
    if stage is not None and (after or 0) >= (switch or 0):
        return Stage(stage)
    return Stage.RECORDED if switch is None else Stage.RETIRED


def _challengers(connection: psycopg.Connection) -> list[int]:
    stages = _stages(connection)
    rows = connection.execute("SELECT version, max(id) FROM release_stages GROUP BY version ORDER BY 2").fetchall()
    return [int(version) for version, _ in rows if stages[version] is Stage.SHADOW]


def _require_not_live(connection: psycopg.Connection, version: int) -> None:
    if _active(connection) == version:
        raise ReleaseError(f"release {version} is live", mend="promote another, or: fx release rollback")


def _stage(connection: psycopg.Connection, version: int, stage: Stage, reason: str) -> None:
    try:
        connection.execute(
            "INSERT INTO release_stages (version, stage, after_switch, reason)"
            " VALUES (%s, %s, (SELECT coalesce(max(id), 0) FROM release_switches), %s)",
            (version, str(stage), reason),
        )
    except psycopg.errors.ForeignKeyViolation as error:
        raise _not_recorded(version) from error


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


def _switch(
    connection: psycopg.Connection, version: int, kind: str, reason: str, gates: Sequence[GateResult] | None = None
) -> None:
    said = None if gates is None else Jsonb([one.to_dict() for one in gates])
    forced = any(one.forced for one in gates or ())
    try:
        connection.execute(
            "INSERT INTO release_switches (version, kind, reason, gates, forced) VALUES (%s, %s, %s, %s, %s)",
            (version, kind, reason, said, forced),
        )
    except psycopg.errors.ForeignKeyViolation as error:
        raise _not_recorded(version) from error


def _lock(connection: psycopg.Connection) -> None:
    """Let one process at a time number or switch releases, until its transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock(hashtext('fx releases'))")


def _one(cursor: psycopg.Cursor) -> Any:
    row = cursor.fetchone()
    if row is None:
        raise unreachable(psycopg.OperationalError("no answer to a query of one row"))
    return row[0]
