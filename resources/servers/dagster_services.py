"""Dagster's code server, web server and daemon as three processes of ours over one instance.

The web server and the daemon talk to the code server over gRPC on loopback. ``DAGSTER_HOME`` is ``FX_HOME/dagster``,
with the project's ``dagster.yaml`` installed there. The code is loaded lazily, so that an error in it arrives as a
message instead of a dead server.
"""

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fx_dagster.errors import ServerError
from fx_dagster.settings import Settings
from resources.servers import ports
from resources.servers.private_files import make_own_folder
from resources.servers.probes import grpc_serves
from resources.servers.process import ManagedProcess, StopFlag, child_environment, spawn, wait_until

LOCATION = "fx_dagster"
UI_PORT = 3000
UI_SETTING = "FX_UI_PORT"
_START_TIMEOUT_S = 120.0
_LOAD_QUERY = """
{ workspaceOrError {
    __typename
    ... on PythonError { message }
    ... on Workspace { locationEntries { name loadStatus locationOrLoadError {
        __typename
        ... on PythonError { message errorChain { error { message } } }
    } } }
} }
"""


def project_root() -> Path:
    """Return the folder of the checkout, which the package is installed from.

    Raises:
        ServerError: the package lies elsewhere, without ``workspace.yaml``.
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / "workspace.yaml").exists() or not (root / "dagster.yaml").exists():
        raise ServerError(
            f"there is no workspace.yaml and dagster.yaml in {root}",
            mend="install the package from its checkout: make setup",
        )
    return root


def install_instance(settings: Settings) -> Path:
    """Put the project's ``dagster.yaml`` into ``DAGSTER_HOME``, create Dagster's folders, and return that home."""
    home = settings.dagster_home
    make_own_folder(home / "storage")
    aside = home / "dagster.yaml.new"
    shutil.copyfile(project_root() / "dagster.yaml", aside)
    aside.replace(home / "dagster.yaml")
    return home


class DagsterProcess(ABC):
    """One of Dagster's three processes.

    Args:
        name: for messages.
        log: its log file.
        cwd: working directory, from which relative imports of user code are found.
    """

    def __init__(self, name: str, *, log: Path, cwd: Path) -> None:
        self.name = name
        self.log = log
        self.port = 0
        self.process: ManagedProcess | None = None
        self._cwd = cwd

    @abstractmethod
    def arguments(self) -> Sequence[str | Path]:
        """Return what follows ``python -m``."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the environment it is started in."""

    @abstractmethod
    def answers(self, timeout_s: float) -> bool:
        """Ask it whether it is there."""

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it and return when it answers.

        Raises:
            ServerError: it does not; the last line of its log is quoted.
        """
        self.process = spawn(
            [sys.executable, "-m", *self.arguments()],
            env=self.environment(),
            log=self.log,
            name=self.name,
            cwd=self._cwd,
        )
        wait_until(lambda: self.answers(1.0), self.process, timeout_s=_START_TIMEOUT_S, poll_s=0.1, stop=stop)

    def healthy(self, timeout_s: float = 5.0) -> bool:
        """Return whether it runs and answers in time."""
        return self.process is not None and self.process.alive and self.answers(timeout_s)

    def stop(self, timeout_s: float = 5.0) -> None:
        """End it."""
        process, self.process = self.process, None
        if process is not None:
            process.stop(timeout_s)


class CodeServer(DagsterProcess):
    """Holds the definitions and starts run workers.

    Args:
        settings: with the addresses of the running servers filled in.
        definitions: Python file with the definitions; default: the project's.
    """

    def __init__(self, settings: Settings, *, definitions: Path | None = None) -> None:
        root = project_root()
        super().__init__("Dagster code", log=settings.logs / "dagster_code.log", cwd=root)
        self._settings = settings
        self._definitions = definitions or root / "fx_dagster" / "definitions.py"

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it on a free port, the same again on a restart: the other two know it."""
        self.port = self.port or ports.free_port()
        super().start(stop)

    def arguments(self) -> Sequence[str | Path]:
        """Return what follows ``python -m``."""
        return [
            *("dagster", "api", "grpc", "--host", ports.LOOPBACK, "--port", str(self.port)),
            *("--python-file", self._definitions, "--working-directory", self._cwd, "--location-name", LOCATION),
            *("--lazy-load-user-code", "--use-python-environment-entry-point"),
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment it and its run workers live in."""
        return child_environment(self._settings)

    def answers(self, timeout_s: float) -> bool:
        """Ask gRPC's standard health service."""
        return grpc_serves(self.port, "DagsterApi", timeout_s)


def write_workspace(settings: Settings, code_port: int) -> Path:
    """Write the workspace file that leads to the running code server, and return its path."""
    path = settings.run_folder / "workspace.yaml"
    make_own_folder(path.parent)
    path.write_text(
        "load_from:\n  - grpc_server:\n"
        f"      host: {ports.LOOPBACK}\n      port: {code_port}\n      location_name: {LOCATION}\n"
    )
    return path


class WebServer(DagsterProcess):
    """Dagster's page.

    Args:
        settings: with the addresses of the running servers filled in.
        workspace: file that leads to the code server.
    """

    def __init__(self, settings: Settings, workspace: Path) -> None:
        super().__init__("Dagster page", log=settings.logs / "dagster_web.log", cwd=project_root())
        self._settings = settings
        self._workspace = workspace

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{ports.LOOPBACK}:{self.port}"

    def start(self, stop: StopFlag | None = None) -> None:
        """Start it on the port asked for, or on 3000 or the next free one.

        Raises:
            PortInUseError: the port asked for is taken.
            ServerError: it does not answer.
        """
        wanted = self.port or self._settings.ui.port
        self.port = ports.choose_port(wanted, setting=UI_SETTING, server="Dagster's page", preferred=UI_PORT)
        super().start(stop)

    def arguments(self) -> Sequence[str | Path]:
        """Return what follows ``python -m``."""
        return [
            *("dagster_webserver", "--host", ports.LOOPBACK, "--port", str(self.port)),
            *("--workspace", self._workspace),
        ]

    def environment(self) -> dict[str, str]:
        """Return the environment it lives in."""
        return child_environment(self._settings)

    def answers(self, timeout_s: float) -> bool:
        """Ask for its version."""
        try:
            with _open(f"{self.url}/server_info", None, timeout_s) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def require_loaded(self, timeout_s: float = 60.0, stop: StopFlag | None = None) -> None:
        """Wait until the code location is loaded.

        Raises:
            ServerError: it cannot be loaded; the message is the innermost cause.
        """
        deadline = time.monotonic() + timeout_s
        while not self._loaded():
            if stop is not None and stop.is_set():
                raise ServerError("the start was given up", mend="start again")
            if time.monotonic() > deadline:
                raise ServerError(
                    f"Dagster did not load its code location within {timeout_s:g} s",
                    mend=f"the logs are {self._settings.logs / 'dagster_code.log'} and {self.log}",
                )
            time.sleep(0.2)

    def _loaded(self) -> bool:
        workspace = self.query(_LOAD_QUERY)["workspaceOrError"]
        if workspace["__typename"] == "PythonError":
            raise self._load_error(workspace)
        entries = [entry for entry in workspace["locationEntries"] if entry["name"] == LOCATION]
        if not entries or entries[0]["locationOrLoadError"] is None:
            return False
        outcome = entries[0]["locationOrLoadError"]
        if outcome["__typename"] == "PythonError":
            raise self._load_error(outcome)
        return bool(entries[0]["loadStatus"] == "LOADED")

    def _load_error(self, error: dict[str, Any]) -> ServerError:
        chain = [error, *(link["error"] for link in error.get("errorChain", []))]
        # The innermost cause comes last and says what is wrong in the code.
        lines = [line.strip() for line in chain[-1]["message"].strip().splitlines() if line.strip()]
        return ServerError(
            f"Dagster cannot load the definitions: {lines[0] if lines else 'no message'}",
            mend=f"the traceback is in {self._settings.logs / 'dagster_code.log'}",
        )

    def query(self, text: str, timeout_s: float = 30.0) -> dict[str, Any]:
        """Ask its GraphQL and return the data.

        Raises:
            ServerError: it does not answer, or refuses.
        """
        try:
            with _open(f"{self.url}/graphql", json.dumps({"query": text}).encode(), timeout_s) as answer:
                body = json.load(answer)
        except (OSError, ValueError) as error:
            raise ServerError(f"Dagster's page does not answer: {error}", mend=f"its log is {self.log}") from error
        if body.get("errors"):
            raise ServerError(f"Dagster refused a question: {body['errors'][0]['message']}", mend=f"see {self.log}")
        data: dict[str, Any] = body["data"]
        return data


def _open(url: str, body: bytes | None, timeout_s: float) -> Any:
    """Open a loopback URL, past any proxy that the environment names."""
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"})  # noqa: S310
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout_s)


class Daemon(DagsterProcess):
    """Runs schedules, sensors, the run queue and run monitoring.

    Args:
        settings: with the addresses of the running servers filled in.
        workspace: file that leads to the code server.
    """

    def __init__(self, settings: Settings, workspace: Path) -> None:
        super().__init__("Dagster daemon", log=settings.logs / "dagster_daemon.log", cwd=project_root())
        self._settings = settings
        self._workspace = workspace

    def arguments(self) -> Sequence[str | Path]:
        """Return what follows ``python -m``."""
        return ["dagster._daemon", "run", "--workspace", self._workspace]

    def environment(self) -> dict[str, str]:
        """Return the environment it lives in."""
        return child_environment(self._settings)

    def answers(self, timeout_s: float) -> bool:  # noqa: ARG002 - it listens nowhere; its heartbeats are in PostgreSQL
        """Return whether it runs."""
        return self.process is not None and self.process.alive
