"""Settings of the control server and of alerts, and files of secrets."""

from pathlib import Path

from fx_dagster.settings import AlertSettings, ControlSettings, Settings

__all__ = ["AlertSettings", "ControlSettings", "alert_settings", "control_settings", "read_private"]


def control_settings(settings: Settings) -> ControlSettings:
    """Return the group of the control server."""
    return settings.control


def alert_settings(settings: Settings) -> AlertSettings:
    """Return the group of alerts."""
    return settings.alert


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
