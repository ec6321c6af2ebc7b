"""Settings of the control server and of alerts: ``FX_CONTROL_…`` and ``FX_ALERT_…``."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from fx_dagster.settings import AbsolutePath, Fraction, Port, Settings


def _group(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


def _one_line(text: str) -> str:
    if any(character in text for character in "\r\n\0"):
        raise ValueError("one line, please")
    return text.strip()


class ControlSettings(BaseSettings):
    """The control server: where it listens, and who may talk to it."""

    model_config = _group("FX_CONTROL_")

    host: Annotated[str, AfterValidator(_one_line)] = Field(
        "127.0.0.1", description="Address it listens on; any other than loopback needs a certificate and its key."
    )
    port: Port = Field(0, description="0: 8700, or the next free one.")
    tls_certificate: AbsolutePath | None = Field(None, description="PEM file with the certificate chain.")
    tls_key: AbsolutePath | None = Field(None, description="PEM file with the private key; only its owner reads it.")
    read_token: SecretStr = Field(SecretStr(""), description="Token with the role read, at least 32 characters.")
    operate_token: SecretStr = Field(SecretStr(""), description="Token with the role operate, at least 32 characters.")
    tokens_file: AbsolutePath | None = Field(
        None, description="File (mode 0600) of further tokens, a line each: role, name, token or sha256:digest."
    )
    metrics_open: bool = Field(False, description="Whether /metrics needs no token; on loopback only.")
    failures_per_minute_max: PositiveInt = Field(10, description="Wrong tokens of an address before it has to wait.")
    readers_max: PositiveInt = Field(64, description="Readers of the stream at once.")
    reader_queue_max: PositiveInt = Field(256, description="Messages that wait for a slow reader; older ones are lost.")
    stream_poll_s: PositiveFloat = Field(0.5, description="Pause between two looks at PostgreSQL for the stream.")


class AlertSettings(BaseSettings):
    """When a person is called, and how."""

    model_config = _group("FX_ALERT_")

    urls: SecretStr = Field(
        SecretStr(""), description="Where alerts go: Apprise URLs, separated by blanks; empty, and no file: nowhere."
    )
    urls_file: AbsolutePath | None = Field(None, description="File (mode 0600) of further such URLs, a line each.")
    every_s: PositiveFloat = Field(5.0, description="Pause between two looks.")
    emergency_s: PositiveFloat = Field(60.0, description="Time at level 4 after which a person is called.")
    disk_free_min: Fraction = Field(0.05, description="Free share of FX_HOME's disk below which a person is called.")
    reminder_s: PositiveFloat = Field(3_600.0, description="Pause before what has not cleared is told again.")
    clear_after_s: PositiveFloat = Field(60.0, description="Absence after which an alert counts as cleared.")
    per_hour_max: PositiveInt = Field(30, description="Messages an hour, at most.")


def control_settings(settings: Settings) -> ControlSettings:
    """Return the group of the control server."""
    found = getattr(settings, "control", None)
    return ControlSettings() if found is None else ControlSettings(**found.model_dump())


def alert_settings(settings: Settings) -> AlertSettings:
    """Return the group of alerts."""
    found = getattr(settings, "alert", None)
    return AlertSettings() if found is None else AlertSettings(**found.model_dump())


def read_private(path: Path, *, setting: str) -> str:
    """Return the text of a file of secrets that only its owner may read.

    Raises:
        SettingsError: it is missing, not a plain file, of another user, or others may read it; its content is never
            repeated.
    """
    import os
    import stat

    from fx_dagster.errors import SettingsError

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot open {path}: {error.strerror}", mend="correct the path") from None
    # Looked at through the open descriptor: what is checked is what is read.
    with os.fdopen(descriptor, encoding="utf-8") as file:
        facts = os.fstat(file.fileno())
        if not stat.S_ISREG(facts.st_mode):
            raise SettingsError(f"{setting}: {path} is not a plain file", mend="correct the path")
        if facts.st_uid != os.geteuid():
            raise SettingsError(f"{setting}: {path} belongs to another user", mend=f"chown it: {path}")
        if stat.S_IMODE(facts.st_mode) & 0o077:
            raise SettingsError(f"{setting}: others than its owner may read {path}", mend=f"chmod 600 {path}")
        try:
            return file.read(1 << 20)
        except UnicodeDecodeError:
            raise SettingsError(f"{setting}: {path} is not text", mend="write it in UTF-8") from None
