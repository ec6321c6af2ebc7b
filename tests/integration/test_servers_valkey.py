"""A real Valkey: a cache with a password and a bound, that keeps nothing."""

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError

from fx_dagster.errors import PortInUseError, ServerError
from resources.servers import valkey
from resources.servers.selfcheck import require_loopback_only
from resources.servers.valkey import ValkeyServer

pytestmark = pytest.mark.integration


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    home = Path(tempfile.mkdtemp(prefix="fx-vk-"))
    one = ValkeyServer(home / "run", logs=home / "logs", memory_mb=8)
    one.start()
    yield one
    one.stop()
    shutil.rmtree(home)


def test_bounded_private_and_on_loopback(server: ValkeyServer) -> None:
    assert server.process is not None
    assert [one.port for one in require_loopback_only([psutil.Process(server.process.pid)])] == [server.port]
    assert server.url not in " ".join(psutil.Process(server.process.pid).cmdline())
    with Redis.from_url(server.url) as client:
        for key in range(400):
            client.set(f"key{key}", b"x" * 50_000)
        assert int(client.info("memory")["used_memory"]) <= 8 * 1024**2
        assert client.get("key0") is None
        assert client.get("key399") is not None
    with Redis(host="127.0.0.1", port=server.port) as stranger, pytest.raises(AuthenticationError):
        stranger.ping()


def test_kill_9_and_back_on_the_same_port_with_the_same_url(server: ValkeyServer) -> None:
    url = server.url
    assert server.healthy()
    assert server.process is not None
    server.process.kill()
    assert not server.healthy()
    server.start()
    assert server.url == url
    assert valkey.answers(url)


def test_configuration_is_private(server: ValkeyServer) -> None:
    assert server.process is not None
    path = Path(psutil.Process(server.process.pid).cwd()) / "valkey.conf"
    assert "requirepass" in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_taken_port_names_its_holder(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = ValkeyServer(tmp_path / "run", logs=tmp_path / "logs", port=other.getsockname()[1])
        with pytest.raises(PortInUseError, match=rf"\(pid {os.getpid()}\)") as caught:
            one.start()
    assert "FX_REDIS_PORT" in caught.value.mend


def test_external_cache_is_checked_without_showing_its_password(server: ValkeyServer) -> None:
    valkey.require_external(server.url)
    with pytest.raises(ServerError, match=f"the cache at 127.0.0.1:{server.port}/0 does not answer") as caught:
        valkey.require_external(f"redis://:guessed@127.0.0.1:{server.port}/0")
    assert "guessed" not in str(caught.value)
    with pytest.raises(ServerError, match="FX_REDIS_URL is not a URL"):
        valkey.require_external("nonsense")
