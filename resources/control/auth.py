"""Who asks, what they may do, and whether a command is a new one.

A token is ``fxc_<id>_<secret>``: the id leads to its row, the secret has 256 random bits, so that a plain SHA-256 of
the whole cannot be turned back, and a slow one would only make this server slow. Tokens of the environment and of the
tokens' file work without PostgreSQL, and are kept as digests too.
"""

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from fx_dagster.errors import SettingsError
from fx_dagster.settings import ControlSettings
from resources.control.errors import Refused
from resources.control.store import ControlStore
from resources.servers.private_files import read_private

STAMP_AGE_S = 60.0
TOKEN_LENGTH_MIN = 32
WINDOW_S = 60.0
ADDRESSES_MAX = 1_024
_TOKEN = re.compile(r"^fxc_([0-9a-f]{12})_[A-Za-z0-9_-]{43}$")
_NONCE = re.compile(r"^[A-Za-z0-9_-]{16,64}$")
_DIGEST = re.compile(r"^sha256:([0-9a-f]{64})$")
_NAME = re.compile(r"^[\w.@-]{1,64}$")
_NOBODY = bytes(32)


class Role(StrEnum):
    """What a token may do."""

    READ = "read"
    OPERATE = "operate"
    """Commands, and all that READ may."""


@dataclass(frozen=True)
class Caller:
    """Who asks: ``name`` for the audit, ``token_id`` of the token, ``client`` the address."""

    token_id: str
    name: str
    role: Role
    client: str


@dataclass(frozen=True)
class _Known:
    token_id: str
    name: str
    role: Role
    digest: bytes


def digest_of(token: str) -> bytes:
    """Return what is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def create_token(store: ControlStore, *, role: Role, name: str, days: float | None = None) -> tuple[str, str]:
    """Make a token, keep its digest, and return its id and the token itself, which nobody can look up again.

    Raises:
        SettingsError: the name is impossible.
        ServerError: PostgreSQL does not answer.
    """
    if not _NAME.match(name):
        raise SettingsError(f"{name!r} is no name for a token", mend="letters, digits, . _ @ -, at most 64")
    token_id = secrets.token_hex(6)
    token = f"fxc_{token_id}_{secrets.token_urlsafe(32)}"
    store.add_token(token_id, name=name, role=str(role), digest=digest_of(token), days=days)
    return token_id, token


def given_tokens(settings: ControlSettings) -> tuple[_Known, ...]:
    """Return the tokens of the environment and of the tokens' file, as digests.

    Raises:
        SettingsError: one is too short, or a line of the file cannot be read; no token is repeated.
    """
    found = []
    for role, secret in ((Role.READ, settings.read_token), (Role.OPERATE, settings.operate_token)):
        if token := secret.get_secret_value():
            found.append(_given(token, role, f"environment-{role}", f"FX_CONTROL_{role.upper()}_TOKEN"))
    if settings.tokens_file is not None:
        text = read_private(settings.tokens_file, setting="FX_CONTROL_TOKENS_FILE")
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                found.append(_line(line, f"{settings.tokens_file}, line {number}"))
    return tuple(found)


def _line(line: str, place: str) -> _Known:
    parts = line.split()
    if len(parts) != 3 or parts[0] not in set(Role) or not _NAME.match(parts[1]):
        raise SettingsError(f"{place} is no token", mend="write: role name token, the role being read or operate")
    role, name, token = Role(parts[0]), parts[1], parts[2]
    if found := _DIGEST.match(token):
        digest = bytes.fromhex(found[1])
        return _Known(f"given-{digest.hex()[:12]}", name, role, digest)
    return _given(token, role, name, place)


def _given(token: str, role: Role, name: str, place: str) -> _Known:
    if len(token) < TOKEN_LENGTH_MIN:
        raise SettingsError(
            f"{place}: a token of fewer than {TOKEN_LENGTH_MIN} characters", mend="openssl rand -hex 32"
        )
    digest = digest_of(token)
    return _Known(f"given-{digest.hex()[:12]}", name, role, digest)


class FailureLimit:
    """Wrong tokens an address and minute; of too many addresses, the longest quiet are forgotten.

    Args:
        most: wrong tokens of one address in 60 s, after which it has to wait.
        clock: seconds that never go back.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._seen: OrderedDict[str, deque[float]] = OrderedDict()
        self._lock = threading.Lock()

    def fail(self, address: str) -> None:
        """Count a wrong token."""
        with self._lock:
            times = self._seen.setdefault(address, deque(maxlen=self._most))
            times.append(self._clock())
            self._seen.move_to_end(address)
            while len(self._seen) > ADDRESSES_MAX:
                self._seen.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """Return how long the address has to wait; 0: it need not."""
        with self._lock:
            times = self._seen.get(address)
            if times is None or len(times) < self._most:
                return 0.0
            return max(0.0, times[0] + WINDOW_S - self._clock())


class Gate:
    """Lets callers in.

    Args:
        store: tokens and nonces.
        settings: of the control server; its tokens are read now.
        clock: seconds that never go back.
        wall: seconds since 1970, UTC.

    Raises:
        SettingsError: a token of the settings is impossible.
    """

    def __init__(
        self,
        store: ControlStore,
        settings: ControlSettings,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._given = given_tokens(settings)
        self._wall = wall
        self.limit = FailureLimit(settings.failures_per_minute_max, clock)
        self._proven: OrderedDict[bytes, None] = OrderedDict()
        self._lock = threading.Lock()

    def caller(self, headers: Mapping[str, str], client: str, role: Role) -> Caller:
        """Return who asks.

        Raises:
            Refused: 401 without a valid token, 403 where it may not, 429 after too many wrong ones.
            ServerError: PostgreSQL, which knows the tokens, does not answer.
        """
        kind, _, token = headers.get("authorization", "").partition(" ")
        if not token:
            raise _unknown("there is no token")
        if kind.lower() != "bearer" or len(token) > 256:
            raise self._failed(client)
        digest = digest_of(token.strip())
        # Who has shown a right token before is not locked out by a stranger at the same address.
        if digest not in self._proven and (wait_s := self.limit.wait_s(client)) > 0:
            retry = {"Retry-After": str(int(wait_s) + 1)}
            raise Refused(429, "too many wrong tokens from this address", f"wait {wait_s:.0f} s", retry)
        known = self._known(token.strip(), digest)
        if known is None:
            with self._lock:
                self._proven.pop(digest, None)
            raise self._failed(client)
        self._prove(digest)
        if role is Role.OPERATE and known.role is not Role.OPERATE:
            raise Refused(
                403, "this token may read only", "use one with the role operate: fx control token --role operate"
            )
        return Caller(known.token_id, known.name, known.role, client)

    def _known(self, token: str, digest: bytes) -> _Known | None:
        found = None
        for given in self._given:  # all of them, so that the time does not tell which
            if hmac.compare_digest(given.digest, digest):
                found = given
        if found is not None:
            return found
        named = _TOKEN.match(token)
        if named is None:
            return None
        row = self._store.token(named[1])
        right = hmac.compare_digest(row.digest if row else _NOBODY, digest)
        return _Known(row.token_id, row.name, Role(row.role), row.digest) if row and right and row.valid else None

    def _prove(self, digest: bytes) -> None:
        with self._lock:
            self._proven[digest] = None
            self._proven.move_to_end(digest)
            if len(self._proven) > ADDRESSES_MAX:
                self._proven.popitem(last=False)

    def _failed(self, client: str) -> Refused:
        self.limit.fail(client)
        return _unknown("the token is not valid")

    def fresh(self, headers: Mapping[str, str]) -> str:
        """Return a command's nonce, after checking its stamp; whether it was used before, the store says.

        Raises:
            Refused: 400 for a missing or impossible nonce or stamp, 409 for a stamp that is too old or too new.
        """
        nonce, stamp = headers.get("x-fx-nonce", ""), headers.get("x-fx-timestamp", "")
        if not _NONCE.match(nonce):
            raise Refused(400, "X-Fx-Nonce is not 16 to 64 letters, digits, - or _", "send a new random one each time")
        if not re.fullmatch(r"[0-9]{9,11}(\.[0-9]{1,9})?", stamp):
            raise Refused(400, "X-Fx-Timestamp is not a time", "send seconds since 1970, UTC")
        age_s = self._wall() - float(stamp)
        if abs(age_s) > STAMP_AGE_S:
            raise Refused(
                409, f"the command's stamp is {abs(age_s):.0f} s off", "send it again; check this machine's clock"
            )
        return nonce


def _unknown(what: str) -> Refused:
    return Refused(
        401, what, "send Authorization: Bearer …; fx control token makes one", {"WWW-Authenticate": "Bearer"}
    )
