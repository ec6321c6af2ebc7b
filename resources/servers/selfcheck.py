"""Nothing of ours may listen beyond this machine: Triton's own default, for one, is every address."""

import contextlib
import ipaddress
from collections.abc import Collection, Iterable
from typing import NamedTuple

import psutil

from fx_dagster.errors import ServerError
from resources.servers.guard import descendants


class Listener(NamedTuple):
    """A listening TCP socket, or a bound UDP socket, of a process."""

    process: str
    pid: int
    address: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        address = ipaddress.ip_address(self.address)
        mapped = getattr(address, "ipv4_mapped", None)
        return (mapped or address).is_loopback


def listeners(processes: Iterable[psutil.Process]) -> list[Listener]:
    """Return the listening sockets of processes; those that end meanwhile have none."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            name = process.name()
            for connection in process.net_connections(kind="inet"):
                listens = connection.status == psutil.CONN_LISTEN
                bound = connection.type.name == "SOCK_DGRAM" and not connection.raddr
                if connection.laddr and (listens or bound):
                    found.append(Listener(name, process.pid, connection.laddr.ip, connection.laddr.port))
    return found


def require_loopback_only(
    processes: Iterable[psutil.Process] | None = None, *, allowed: Collection[int] = ()
) -> list[Listener]:
    """Return what our descendants (or ``processes``) listen on, all of it on loopback but the ``allowed`` ports.

    Raises:
        ServerError: one listens beyond; the message names process and address.
    """
    found = listeners(descendants() if processes is None else processes)
    for listener in found:
        if not listener.loopback and listener.port not in allowed:
            raise ServerError(
                f"{listener.process} (pid {listener.pid}) listens on {listener.address}:{listener.port}, "
                "which other machines can reach",
                mend="stop it: fx down; it must listen on 127.0.0.1",
            )
    return found
