"""Tokens, nonces, the audit of commands and the level's ceiling, in PostgreSQL.

Each call opens a connection with a deadline and closes it, and raises ServerError where the server does not answer.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from resources.postgres import connect, unreachable

NONCE_KEPT_S = 600.0
"""Longer than twice the age up to which a stamp is believed."""


@dataclass(frozen=True)
class TokenRow:
    """A token as it is kept; ``digest`` is the SHA-256 of the whole token."""

    token_id: str
    name: str
    role: str
    digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    valid: bool


@dataclass(frozen=True)
class AuditEntry:
    """A step of a command; see the table ``control_audit``."""

    request_id: str
    phase: str
    account: str
    token_id: str | None
    who: str
    role: str | None
    command: str
    arguments: dict[str, Any]
    client: str
    result: str = ""


@dataclass(frozen=True)
class Ceiling:
    """Best level that a person allows; 1: no ceiling."""

    level: int = 1
    reason: str = ""
    changed_at: datetime | None = None


_AUDIT = """
INSERT INTO control_audit (request_id, phase, account, token_id, who, role, command, arguments, client, result)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"""

_ROWS_OF_TOKENS = """
SELECT token_id, name, role, digest, created_at, expires_at, revoked_at,
    revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now()) AS valid FROM control_token"""


class ControlStore:
    """What the control server keeps.

    Args:
        url: of PostgreSQL; its tables are made by :func:`resources.postgres.migrate`.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    # -- tokens ------------------------------------------------------------------------------------------------

    def add_token(self, token_id: str, *, name: str, role: str, digest: bytes, days: float | None) -> None:
        """Keep a new token's digest; it is valid for ``days``, or until it is revoked."""
        self._do(
            "INSERT INTO control_token (token_id, name, role, digest, expires_at)"
            " VALUES (%s, %s, %s, %s, now() + make_interval(secs => %s))",
            token_id, name, role, digest, None if days is None else days * 86_400.0,
        )  # fmt: skip

    def token(self, token_id: str) -> TokenRow | None:
        """Return a token; None: there is none of that id."""
        rows = self._rows(_ROWS_OF_TOKENS + " WHERE token_id = %s", token_id)
        return TokenRow(**rows[0]) if rows else None

    def tokens(self) -> list[TokenRow]:
        """Return all tokens, newest first."""
        return [TokenRow(**row) for row in self._rows(_ROWS_OF_TOKENS + " ORDER BY created_at DESC, token_id")]

    def revoke(self, token_id: str) -> bool:
        """End a token at once; False: there is none of that id that was still valid."""
        return bool(
            self._rows(
                "UPDATE control_token SET revoked_at = now() WHERE token_id = %s AND revoked_at IS NULL"
                " RETURNING token_id",
                token_id,
            )
        )

    # -- commands ----------------------------------------------------------------------------------------------

    def accept(self, entry: AuditEntry, nonce: str) -> bool:
        """Take a command's nonce and write the command down, together; False: the nonce was used before."""
        with self._connect() as connection, connection.transaction():
            connection.execute(
                "DELETE FROM control_nonce WHERE seen_at < now() - make_interval(secs => %s)", (NONCE_KEPT_S,)
            )
            taken = connection.execute(
                "INSERT INTO control_nonce (token_id, nonce) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING nonce",
                (entry.token_id, nonce),
            ).fetchone()
            if taken is None:
                return False
            connection.execute(_AUDIT, _audit_values(entry))
        return True

    def audit(self, entry: AuditEntry) -> None:
        """Write a step of a command down."""
        self._do(_AUDIT, *_audit_values(entry))

    def audit_rows(self, account: str, *, limit: int) -> list[dict[str, Any]]:
        """Return the newest steps of commands about an account."""
        return self._rows("SELECT * FROM control_audit WHERE account = %s ORDER BY id DESC LIMIT %s", account, limit)

    # -- the level's ceiling -----------------------------------------------------------------------------------

    def ceiling(self, account: str) -> Ceiling:
        """Return the best level that a person allows the account."""
        rows = self._rows("SELECT level, reason, changed_at FROM level_ceiling WHERE account = %s", account)
        return Ceiling(**rows[0]) if rows else Ceiling()

    def set_ceiling(self, account: str, level: int, *, reason: str, by_whom: str) -> None:
        """Allow no better level than ``level`` (1 … 4) from the next decision on; 1 lifts the ceiling."""
        with self._connect() as connection, connection.transaction():
            connection.execute(
                "INSERT INTO level_ceiling (account, level, reason) VALUES (%s, %s, %s) ON CONFLICT (account)"
                " DO UPDATE SET level = excluded.level, reason = excluded.reason, changed_at = now()",
                (account, level, reason),
            )
            connection.execute(
                "INSERT INTO level_ceiling_log (account, level, reason, by_whom) VALUES (%s, %s, %s, %s)",
                (account, level, reason, by_whom),
            )

    # -- statements --------------------------------------------------------------------------------------------

    def _do(self, statement: LiteralString, *values: object) -> None:
        try:
            with self._connect() as connection:
                connection.execute(statement, values)
        except psycopg.OperationalError as error:
            raise unreachable(error) from None

    def _rows(self, statement: LiteralString, *values: object) -> list[dict[str, Any]]:
        with self._connect() as connection:
            return connection.cursor(row_factory=dict_row).execute(statement, values).fetchall()

    def _connect(self) -> psycopg.Connection:
        return connect(self._url, name="fx control", statement_timeout_s=5.0)


def _audit_values(entry: AuditEntry) -> tuple[object, ...]:
    return (
        entry.request_id, entry.phase, entry.account, entry.token_id, entry.who, entry.role, entry.command,
        Jsonb(entry.arguments), entry.client, entry.result[:2_000],
    )  # fmt: skip
