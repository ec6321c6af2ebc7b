"""Settings of the control server and of alerts, and files of secrets."""

from fx_dagster.settings import AlertSettings, ControlSettings, Settings
from resources.servers.private_files import read_private

__all__ = ["AlertSettings", "ControlSettings", "alert_settings", "control_settings", "read_private"]


def control_settings(settings: Settings) -> ControlSettings:
    """Return the group of the control server."""
    return settings.control


def alert_settings(settings: Settings) -> AlertSettings:
    """Return the group of alerts."""
    return settings.alert
