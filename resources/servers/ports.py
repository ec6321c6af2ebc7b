"""Loopback ports: a free one, or who holds the one that was asked for."""

import contextlib
import socket

import psutil

from fx_dagster.errors import PortInUseError

LOOPBACK = "127.0.0.1"


def is_free(port: int) -> bool:
    """Return whether a server could listen on that loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do: a port whose last connections are still closing is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return not _answers(port)


def _answers(port: int) -> bool:
    """Return whether someone listens there, also on all addresses at once, which binding need not notice."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((LOOPBACK, port)) == 0


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
    return port


def choose_port(wanted: int, *, setting: str, server: str, preferred: int = 0, tries: int = 50) -> int:
    """Return the port that a server shall listen on.

    Args:
        wanted: what the setting says; 0: choose.
        setting: name of that setting, for the message.
        server: name of the server, for the message.
        preferred: with ``wanted`` 0, the first of ``tries`` ports looked at; 0: any.
        tries: how many ports are looked at from ``preferred`` on.

    Raises:
        PortInUseError: the wanted port is taken; the message says by whom.
    """
    if wanted:
        require_free(wanted, setting=setting, server=server)
        return wanted
    if preferred:
        for port in range(preferred, min(preferred + tries, 65536)):
            if is_free(port):
                return port
    return free_port()


def require_free(port: int, *, setting: str, server: str) -> None:
    """Refuse a taken port.

    Raises:
        PortInUseError: it is taken; the message names the holder, and the setting to change.
    """
    if not is_free(port):
        raise PortInUseError(
            f"{server}: port {port} is taken by {holder(port)}", mend=f"end that process, or set {setting} to another"
        )


def holder(port: int) -> str:
    """Return name and pid of the process that listens on a TCP port, as far as we may know."""
    with contextlib.suppress(psutil.AccessDenied):  # macOS shows connections of other processes to root only
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port:
                return _name(connection.pid)
    return "another process"


def _name(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
