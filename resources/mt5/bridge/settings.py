"""Settings of the bridge, read from ``FX_BRIDGE_…``, and its secrets, of the environment or of a private file."""

import difflib
import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fx_dagster.errors import SettingsError
from fx_dagster.settings import BridgeSettings, Settings
from resources.mt5.bridge.checks import SYMBOL
from resources.servers.private_files import read_private

PREFIX = "FX_BRIDGE_"
TOKEN_LENGTH_MIN = 32


@dataclass(frozen=True)
class Secrets:
    """Never shown: not in logs, errors or a repr."""

    token: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def bridge_settings(overrides: Mapping[str, Any] | None = None) -> BridgeSettings:
    """Read the settings from the environment.

    Raises:
        SettingsError: a variable is unknown or impossible; the message names it, never its value.
    """
    known = {f"{PREFIX}{name}".upper() for name in BridgeSettings.model_fields}
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            raise SettingsError(f"unknown setting {name}", mend=f"did you mean {close[0]}?" if close else "unset it")
    try:
        return BridgeSettings(**dict(overrides or {}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"setting {PREFIX}{place}: {first['msg']}", mend="correct it") from None


def allowed_symbols(settings: BridgeSettings) -> frozenset[str]:
    """Return the broker's names that are let through; empty: all.

    Raises:
        SettingsError: one is no possible name.
    """
    names = frozenset(name for part in settings.symbols.split(",") if (name := part.strip()))
    for name in names:
        if not SYMBOL.fullmatch(name):
            raise SettingsError(f"{PREFIX}SYMBOLS: {name[:40]!r} is no symbol", mend="use 1 to 29 of A-Z 0-9 . _ # + -")
    return names


def require_account(settings: BridgeSettings) -> None:
    """Refuse settings that do not say which account is meant.

    Raises:
        SettingsError: there is no login or no server.
    """
    for name in ("login", "server"):
        if not getattr(settings, name):
            raise SettingsError(f"{PREFIX}{name.upper()} is not set", mend="say which account this bridge is for")


def bridge_folder(settings: BridgeSettings) -> Path:
    """Return the folder of the account's keys and locks; it is made, private, where it is missing."""
    home = settings.folder or Path(os.environ.get("FX_HOME") or _default_home()) / "bridge"
    folder = Path(os.path.abspath(home)) / settings.login  # noqa: PTH100 - links stay as they are named
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _default_home() -> Path:
    return Path(Settings.model_fields["home"].get_default(call_default_factory=True))


def bridge_secrets(settings: BridgeSettings) -> Secrets:
    """Return token and password, of the environment or of the file of secrets.

    Raises:
        SettingsError: the file is not private or not readable, a line of it is not understood, or the token is short.
    """
    found = {"token": settings.token.get_secret_value(), "password": settings.password.get_secret_value()}
    if settings.secrets_file is not None:
        text = read_private(settings.secrets_file, setting=f"{PREFIX}SECRETS_FILE")
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            name, _, value = line.strip().partition(" ")
            if name not in found or not value.strip():
                raise SettingsError(
                    f"{settings.secrets_file}, line {number} is not understood", mend="write: token … or password …"
                )
            found[name] = value.strip()
    token = found["token"]
    if token and (len(token) < TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token):
        raise SettingsError(
            f"{PREFIX}TOKEN has fewer than {TOKEN_LENGTH_MIN} characters, or odd ones", mend="openssl rand -hex 32"
        )
    return Secrets(**found)


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own and no other can reach it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def require_safe(settings: BridgeSettings, secrets: Secrets) -> tuple[bytes, bytes] | None:
    """Return private key and certificate chain; None: loopback without TLS.

    Raises:
        SettingsError: it would listen beyond this machine without TLS or without a token, or a file cannot be read.
    """
    if (settings.tls_certificate is None) != (settings.tls_key is None):
        raise SettingsError(f"{PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY go together", mend="set both or none")
    if not is_loopback(settings.host):
        if settings.tls_certificate is None:
            raise SettingsError(
                f"{PREFIX}HOST {settings.host} is not loopback, and there is no TLS",
                mend=f"set {PREFIX}TLS_CERTIFICATE and {PREFIX}TLS_KEY, or listen on 127.0.0.1",
            )
        if not secrets.token:
            raise SettingsError(
                f"{PREFIX}HOST {settings.host} is not loopback, and there is no token", mend=f"set {PREFIX}TOKEN"
            )
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    key = read_private(settings.tls_key, setting=f"{PREFIX}TLS_KEY").encode()
    try:
        return key, settings.tls_certificate.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{PREFIX}TLS_CERTIFICATE: cannot read {settings.tls_certificate}: {error.strerror}",
            mend="correct the path",
        ) from None
