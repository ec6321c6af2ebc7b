"""The control server as one of the servers of a home."""

import http.client
import sys
from collections.abc import Sequence
from pathlib import Path

from fx_dagster.settings import ControlSettings, Settings
from resources.control.server import choose
from resources.servers.dagster_services import project_root
from resources.servers.process import ManagedProcess, StopFlag, child_environment, spawn, wait_until

START_TIMEOUT_S = 60.0


class ControlServer:
    """Starts ``fx control serve`` and keeps it.

    Args:
        settings: with the addresses of the running servers filled in.
    """

    name = "Control"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._control = settings.control
        self.process: ManagedProcess | None = None

    @property
    def port(self) -> int:
        """Its port; 0 before the first start, unless one was asked for."""
        return self._control.port

    @property
    def url(self) -> str:
        """Its address."""
        host = f"[{self._control.host}]" if ":" in self._control.host else self._control.host
        return f"{'https' if self._control.tls_certificate else 'http'}://{host}:{self.port}"

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it and return when it answers; started again, it has the port that it had.

        Raises:
            PortInUseError: the port that was asked for is taken.
            ServerError: it does not answer; the last line of its log is quoted.
        """
        self._control = choose(self._control)
        self.process = spawn(
            [sys.executable, *self.arguments()],
            env=child_environment(self._settings),
            log=self._settings.logs / "control.log",
            name=self.name,
            cwd=project_root(),
        )
        wait_until(lambda: self.answers(1.0), self.process, timeout_s=START_TIMEOUT_S, poll_s=0.1, stop=stop)

    def arguments(self) -> Sequence[str | Path]:
        """Return what follows ``python``."""
        return ("-m", "fx_dagster.cli", "control", "serve", "--port", str(self.port))

    def answers(self, timeout_s: float) -> bool:
        """Whether it answers, be it that a token is missing; no token is needed to see that it lives."""
        kind = http.client.HTTPSConnection if self._control.tls_certificate else http.client.HTTPConnection
        connection = kind(self._control.host, self.port, timeout=timeout_s)
        try:
            connection.request("GET", "/v1/health")
            return connection.getresponse().status in {200, 401, 429}
        except (OSError, http.client.HTTPException):
            # A certificate that this machine does not trust is an answer too.
            return _listens(self._control, timeout_s) if self._control.tls_certificate else False
        finally:
            connection.close()

    def healthy(self, timeout_s: float = 2.0) -> bool:
        """Whether it runs and answers in time."""
        return self.process is not None and self.process.alive and self.answers(timeout_s)

    def stop(self, timeout_s: float = 4.0) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is not None:
            process.stop(timeout_s)


def _listens(control: ControlSettings, timeout_s: float) -> bool:
    from resources.control.server import listening

    return listening(control, timeout_s)
