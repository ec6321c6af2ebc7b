"""Ports: free ones, and who holds a taken one."""

import os
import socket

import pytest

from fx_dagster.errors import PortInUseError
from resources.servers import ports


def test_free_port_is_free() -> None:
    assert ports.is_free(ports.free_port())


def test_taken_port_names_holder_and_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(PortInUseError, match=rf"Demo: port {port} is taken by .*\(pid {os.getpid()}\)") as caught:
            ports.choose_port(port, setting="FX_DEMO_PORT", server="Demo")
    assert "FX_DEMO_PORT" in caught.value.mend


def test_port_taken_on_every_address_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        assert not ports.is_free(server.getsockname()[1])


def test_preferred_port_or_the_next() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        chosen = ports.choose_port(0, setting="X", server="Demo", preferred=taken)
    assert chosen > taken
    assert ports.choose_port(0, setting="X", server="Demo", preferred=chosen) >= chosen


def test_closed_port_is_free_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        peer, _ = server.accept()
        peer.close()  # this side waits in TIME_WAIT
        client.close()
    assert ports.is_free(port)
