"""The control server as a process: checks where it may listen, and runs the application."""

import ipaddress
import logging
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from fx_dagster.errors import SettingsError
from fx_dagster.settings import AlertSettings, ControlSettings, Settings
from resources.alerts import AlertSender, AlertWatch, addresses
from resources.control.auth import Gate
from resources.control.protocols import Drills, NoDrills, ReleaseCommands, ReleaseSwitch
from resources.control.reads import SessionReads
from resources.control.store import ControlStore
from resources.live_store import LiveStore
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.servers.ports import choose_port
from resources.servers.private_files import read_private
from resources.servers.process import child_environment

if TYPE_CHECKING:
    import uvicorn

    from resources.control.app import ControlParts

PORT = 8700
CONNECTIONS_MAX = 256
_CLIENT_BYTES_MAX = 4_096


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address.

    Raises:
        SettingsError: it is neither an address nor ``localhost``: a name may lead anywhere.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise SettingsError(
            f"FX_CONTROL_HOST: {host!r} is no IP address", mend="127.0.0.1, ::1, or this machine's"
        ) from None


def require_safe(settings: ControlSettings) -> bool:
    """Check where the server shall listen; whether with TLS.

    Raises:
        SettingsError: other machines could reach it without TLS, metrics would be open to them, or certificate and key
            cannot be used.
    """
    local = is_loopback(settings.host)
    certificate, key = settings.tls_certificate, settings.tls_key
    if (certificate is None) != (key is None):
        raise SettingsError("FX_CONTROL_TLS_CERTIFICATE and FX_CONTROL_TLS_KEY go together", mend="give both, or none")
    if not local and certificate is None:
        raise SettingsError(
            f"FX_CONTROL_HOST {settings.host} can be reached by other machines, and there is no certificate",
            mend="give FX_CONTROL_TLS_CERTIFICATE and FX_CONTROL_TLS_KEY, or listen on 127.0.0.1",
        )
    if not local and settings.metrics_open:
        raise SettingsError("FX_CONTROL_METRICS_OPEN is for loopback only", mend="give Prometheus a token that reads")
    if certificate is not None and key is not None:
        _require_pair(certificate, key)
    return certificate is not None


def _require_pair(certificate: Path, key: Path) -> None:
    read_private(key, setting="FX_CONTROL_TLS_KEY")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
        raise SettingsError(f"certificate and key cannot be used: {reason}", mend="check both PEM files") from None


def control_parts(
    settings: Settings,
    control: ControlSettings,
    alert: AlertSettings,
    *,
    switch: ReleaseSwitch | None = None,
    drills: Drills | None = None,
) -> "ControlParts":
    """Return what the application works with, after bringing the tables up to date.

    Raises:
        SettingsError: a token, a file of secrets or an alert's address is impossible.
        ServerError: PostgreSQL does not answer.
    """
    from resources.control.app import ControlParts

    url = settings.postgres.url.get_secret_value()
    migrate(url)
    store = ControlStore(url)
    return ControlParts(
        settings=settings,
        control=control,
        gate=Gate(store, control),
        store=store,
        live=LiveStore(url),
        reads=SessionReads(url, settings.live.account),
        releases=ReleaseStore.of(settings),
        switch=switch or ReleaseCommands(child_environment(settings)),
        watch=AlertWatch(settings, alert, AlertSender(addresses(alert))),
        drills=drills or NoDrills(),
        open_metrics=control.metrics_open and is_loopback(control.host),
    )


def make_server(parts: "ControlParts") -> "uvicorn.Server":
    """Return the server, which listens once it is run.

    Raises:
        SettingsError: it may not listen there.
    """
    import uvicorn

    from resources.control.app import create_app

    control = parts.control
    with_tls = require_safe(control)
    config = uvicorn.Config(
        create_app(parts),
        host=control.host,
        port=control.port,
        # Headers and paths of requests stay out of the log; commands are in the audit.
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        ws_max_size=_CLIENT_BYTES_MAX,
        ws_max_queue=8,
        # What is small need not be packed, and what is packed may be large.
        ws_per_message_deflate=False,
        limit_concurrency=CONNECTIONS_MAX,
        timeout_graceful_shutdown=3,
        timeout_keep_alive=15,
        ssl_certfile=str(control.tls_certificate) if with_tls else None,
        ssl_keyfile=str(control.tls_key) if with_tls else None,
    )
    # Each connection of the stream would log its address and query.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    return uvicorn.Server(config)


def choose(control: ControlSettings) -> ControlSettings:
    """Return the settings with a port that is free now.

    Raises:
        PortInUseError: the port that was asked for is taken.
    """
    if not is_loopback(control.host) or control.host == "::1":
        return control if control.port else control.model_copy(update={"port": PORT})
    port = choose_port(control.port, setting="FX_CONTROL_PORT", server="control server", preferred=PORT)
    return control.model_copy(update={"port": port})


def listening(control: ControlSettings, timeout_s: float = 1.0) -> bool:
    """Return whether something answers at the server's address."""
    with socket.socket(socket.AF_INET6 if ":" in control.host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(timeout_s)
        return probe.connect_ex((control.host, control.port)) == 0
