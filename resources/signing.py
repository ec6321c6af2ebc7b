"""Signatures of release manifests: Ed25519 (RFC 8032).

One key pair an installation, below ``FX_HOME/keys``, made when the first release is recorded; or the private key comes
from ``FX_RELEASE_SIGNING_KEY``. Whoever can write to PostgreSQL or to the model repository, and has no private key,
cannot make a release that is believed. ``release.pub`` holds one trusted public key a line: a key that was replaced
stays in it, so that earlier releases can still be gone back to.
"""

import base64
import binascii
import hashlib
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fx_dagster.errors import ReleaseError, SettingsError
from fx_dagster.settings import Settings
from resources.servers.private_files import make_own_folder

PRIVATE_FILE = "release.key"
PUBLIC_FILE = "release.pub"
KEY_BYTES = 32
_CONTEXT = b"fx_dagster release manifest\0"
"""Before what is signed: a signature of anything else made with this key is none of a manifest."""


@dataclass(frozen=True)
class Signature:
    """A signature and the key that made it.

    Attributes:
        key_id: first 16 hexadecimal digits of the SHA-256 of the public key.
        value: 64 bytes.
    """

    key_id: str
    value: bytes


class ReleaseKeys:
    """What this installation signs with, and whom it believes.

    Args:
        folder: of the key files; they are read when needed, and made by the first :meth:`sign`.
        seed: private key, 32 bytes, instead of the folder's; None: the folder's.
        trusted: public keys, 32 bytes each, that are believed beside the folder's.
        makes: whether a private key is made where there is none.
    """

    def __init__(
        self, folder: Path, *, seed: bytes | None = None, trusted: tuple[bytes, ...] = (), makes: bool = True
    ) -> None:
        self._folder = folder
        self._seed = seed
        self._trusted = trusted
        self._makes = makes

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the keys of an installation.

        Raises:
            SettingsError: a key in the settings is none; it is not repeated.
        """
        given = settings.release.signing_key.get_secret_value()
        texts = [text.strip() for text in settings.release.verify_key.split(",") if text.strip()]
        return cls(
            settings.home / "keys",
            seed=_decoded(given, "FX_RELEASE_SIGNING_KEY") if given else None,
            trusted=tuple(_decoded(text, "FX_RELEASE_VERIFY_KEY") for text in texts),
            makes=not texts,
        )

    def sign(self, text: str) -> Signature:
        """Sign a manifest's canonical text; the key pair is made on first use.

        Raises:
            ReleaseError: this installation only verifies, or others may read its private key.
        """
        private = Ed25519PrivateKey.from_private_bytes(self._private() or self._make())
        return Signature(key_id(_public_bytes(private)), private.sign(_CONTEXT + text.encode()))

    def verify(self, text: str, signature: Signature, *, what: str) -> None:
        """Check that one of the trusted keys signed a text.

        Args:
            text: as it was signed.
            signature: to check.
            what: names it in errors.

        Raises:
            ReleaseError: the key is not trusted here, or it did not sign this text.
        """
        public = self.trusted().get(signature.key_id)
        if public is None:
            raise ReleaseError(
                f"{what} is signed with key {signature.key_id}, which is not trusted here",
                mend=f"add its public key to {self._folder / PUBLIC_FILE} or FX_RELEASE_VERIFY_KEY, or release again",
            )
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature.value, _CONTEXT + text.encode())
        except InvalidSignature:
            raise ReleaseError(f"{what} does not have the signature of its content", mend="release again") from None

    def trusted(self) -> Mapping[str, bytes]:
        """Return the public keys that are believed, by their id.

        Raises:
            ReleaseError: others may write the file of them, or read that of the private key; or one is no key.
        """
        path = self._folder / PUBLIC_FILE
        keys = list(self._trusted)
        if path.exists():
            _require_mode(path, stat.S_IWGRP | stat.S_IWOTH, "written")
            keys += [_from_file(line, path) for line in _text(path).split()]
        private = self._private()
        if private is not None:
            keys.append(_public_bytes(Ed25519PrivateKey.from_private_bytes(private)))
        return {key_id(key): key for key in keys}

    def _private(self) -> bytes | None:
        if self._seed is not None:
            return self._seed
        path = self._folder / PRIVATE_FILE
        if not path.exists():
            return None
        _require_mode(path, stat.S_IRWXG | stat.S_IRWXO, "read")
        return _from_file(_text(path).strip(), path)

    def _make(self) -> bytes:
        if not self._makes:
            raise ReleaseError(
                "FX_RELEASE_VERIFY_KEY is set and there is no private key: this installation signs no release",
                mend="release where the private key is, or set FX_RELEASE_SIGNING_KEY",
            )
        make_own_folder(self._folder)
        self._folder.chmod(stat.S_IRWXU)
        private = Ed25519PrivateKey.generate()
        # The public key first: a private key that exists is then always a trusted one.
        public = os.open(self._folder / PUBLIC_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        with os.fdopen(public, "w") as file:
            file.write(base64.b64encode(_public_bytes(private)).decode() + "\n")
        _create(self._folder / PRIVATE_FILE, base64.b64encode(private.private_bytes_raw()).decode())
        made = self._private()
        if made is None:
            raise ReleaseError(f"{self._folder / PRIVATE_FILE} is gone again", mend="release again")
        return made


def key_id(public: bytes) -> str:
    """Return the id of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return hashlib.sha256(public).hexdigest()[:16]


def _create(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole; one that another process made meanwhile stays."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{text}\n")
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _require_mode(path: Path, forbidden: int, verb: str) -> None:
    if os.name == "nt":  # Windows has no such bits; its files are the user's
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & forbidden:
        raise ReleaseError(
            f"{path} has mode {mode:04o}: it may be {verb} by others than its owner",
            mend=f"chmod {mode & ~forbidden:o} {path}, and make a new key if somebody did",
        )


def _public_bytes(private: Ed25519PrivateKey) -> bytes:
    return private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read: {error.strerror}", mend="see to its rights") from None
    except UnicodeDecodeError:
        return "?"  # is no key, either


def _from_file(text: str, path: Path) -> bytes:
    try:
        return _key(text)
    except ValueError:
        raise ReleaseError(
            f"{path} holds no Ed25519 key", mend="restore it from a backup, or move it away and release again"
        ) from None


def _decoded(text: str, variable: str) -> bytes:
    try:
        return _key(text)
    except ValueError:
        raise SettingsError(f"{variable} is no key", mend=f"write the base64 of its {KEY_BYTES} bytes") from None


def _key(text: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error
    if len(key) != KEY_BYTES:
        raise ValueError(f"{len(key)} bytes")
    return key
