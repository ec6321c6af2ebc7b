"""Nothing listens beyond loopback, or it is named."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from fx_dagster.errors import ServerError
from resources.servers.selfcheck import Listener, listeners, require_loopback_only


@contextlib.contextmanager
def _listening(address: str, family: str = "AF_INET") -> Iterator[psutil.Process]:
    code = (
        "import socket, sys\n"
        f"s = socket.create_server(({address!r}, 0), family=socket.{family})\n"
        "print(s.getsockname()[1], flush=True)\n"
        "sys.stdin.read()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child:
        child.stdout.readline()
        yield psutil.Process(child.pid)
        child.kill()


def test_loopback_is_fine() -> None:
    with _listening("127.0.0.1") as process:
        found = require_loopback_only([process])
    assert [listener.address for listener in found] == ["127.0.0.1"]


def test_every_address_is_refused_by_name() -> None:
    with (
        _listening("0.0.0.0") as process,
        pytest.raises(ServerError, match=rf"\(pid {process.pid}\) listens on 0\.0\.0\.0"),
    ):
        require_loopback_only([process])


def test_own_descendants_are_looked_at() -> None:
    with _listening("0.0.0.0"), pytest.raises(ServerError, match="which other machines can reach"):
        require_loopback_only()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_every_ipv6_address_is_refused() -> None:
    with _listening("::", "AF_INET6") as process, pytest.raises(ServerError, match="listens on ::"):
        require_loopback_only([process])


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:10.0.0.1", False),
        ("192.168.1.2", False),
    ],
)
def test_what_is_loopback(address: str, loopback: bool) -> None:
    assert Listener("x", 1, address, 1).loopback is loopback


def test_ended_process_has_no_listeners() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    process = psutil.Process(child.pid)
    child.wait()
    assert listeners([process]) == []
