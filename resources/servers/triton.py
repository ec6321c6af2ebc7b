"""Triton Inference Server from its wheel, on the CPU, for this machine only.

The wheel carries the server and its python backend; ``resources/triton_backend`` adds a backend named ``onnxruntime``.
What it is told: loopback only, no HTTP, models are loaded on request only, and everything but inference and health
asks for a secret that changes at every start and is kept in ``FX_HOME/run``, readable by its owner alone.
"""

import contextlib
import os
import platform
import re
import secrets
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psutil

from fx_dagster.errors import ServerError, UnsupportedPlatformError
from fx_dagster.settings import Settings
from resources.servers.ports import LOOPBACK, choose_port
from resources.servers.private_files import make_own_folder, write_private
from resources.servers.process import ManagedProcess, StopFlag, base_environment, spawn, wait_until

RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
HEADER_PREFIX = "triton-grpc-protocol-"
SECRET_HEADER = f"{HEADER_PREFIX}fx-key"
BACKENDS = Path(__file__).parents[1] / "triton_backend"
GLIBC_MIN = (2, 35)
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory
SHARED_MEMORY_PREFIX = "fx_triton_"
SCRATCH_PARENT = "/tmp"  # noqa: S108 - mkdtemp makes a private folder; TMPDIR may have a space in it
LOG_LINES = 1_000
"""Read back after a failed start; the usage that Triton prints for an unknown option has 400."""

_ERROR_LINE = re.compile(r"^E\d{4} |^(error|Error|failed|Unexpected)|unrecognized option|: error")
_STAMP = re.compile(r"^E\d{4} \S+ \d+ \S+\] ")
SCRATCH_PREFIX = "fx-triton-"


def runtime_folder() -> Path:
    """Return where setup installs the wheel: beside the environment, not in it."""
    return Path(sys.prefix) / "triton"


def require_runtime() -> Path:
    """Return the folder of the server's files.

    Raises:
        UnsupportedPlatformError: this machine cannot run it, or it is not installed.
    """
    elsewhere = "set FX_TRITON_URL to a server elsewhere, or go on at the traditional level"
    if sys.platform != "linux" or platform.machine() != "x86_64":
        raise UnsupportedPlatformError(
            f"the embedded Triton runs on Linux x86_64, this is {sys.platform} {platform.machine()}", mend=elsewhere
        )
    name, version = platform.libc_ver()
    if name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < GLIBC_MIN:
        needed = ".".join(str(part) for part in GLIBC_MIN)
        raise UnsupportedPlatformError(f"the embedded Triton needs glibc {needed}, this is {version}", mend=elsewhere)
    folder = runtime_folder() / "pytriton" / "tritonserver"
    if not (folder / "bin" / "tritonserver").exists():
        raise UnsupportedPlatformError(f"no Triton runtime in {runtime_folder()}", mend=f"make setup; or {elsewhere}")
    return folder


class TritonServer:
    """The embedded server; started, restarted on the same ports, and stopped by its owner.

    Args:
        settings: ports, deadlines and folders.
        repository: model repository; nothing is loaded from it until asked.
    """

    def __init__(self, settings: Settings, repository: Path | None = None) -> None:
        self._settings = settings
        self._repository = repository or settings.model_repository
        self._scratch: Path | None = None
        self.log = settings.logs / "triton.log"
        self.process: ManagedProcess | None = None
        self.port = 0
        self.metrics_port = 0
        self.secret = ""

    @property
    def url(self) -> str:
        """``host:port`` of gRPC."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def metrics_url(self) -> str:
        """Where Prometheus reads its metrics."""
        return f"http://{LOOPBACK}:{self.metrics_port}/metrics"

    @property
    def alive(self) -> bool:
        """Whether the process runs; it may still not answer."""
        return self.process is not None and self.process.alive

    @property
    def pid(self) -> int | None:
        """Pid of the process; None: it was never started."""
        return None if self.process is None else self.process.pid

    def start(self, stop: StopFlag | None = None) -> None:
        """Start the server and wait until it answers; it has no models yet.

        Raises:
            UnsupportedPlatformError: this machine cannot run it.
            ServerError: it does not start; the end of its log is quoted.
            PortInUseError: a port that was asked for is taken.
        """
        runtime = require_runtime()
        chosen = self._settings.triton
        self.port = choose_port(self.port or chosen.port, setting="FX_TRITON_PORT", server="Triton")
        self.metrics_port = choose_port(
            self.metrics_port or chosen.metrics_port, setting="FX_TRITON_METRICS_PORT", server="Triton's metrics"
        )
        make_own_folder(self._repository)
        clean_shared_memory()
        _remove_shared_memory(os.getpid(), self.port)  # of our last one, if it was killed
        self._prepare(runtime)
        self.secret = secrets.token_urlsafe(24)
        self.process = spawn(self._arguments(runtime), env=_environment(runtime), log=self.log, name="Triton")
        self.log.chmod(0o600)
        try:
            wait_until(self.healthy, self.process, timeout_s=chosen.start_timeout_s, stop=stop)
        except ServerError as error:
            line = _telling_line(self.process.tail(LOG_LINES))
            self.stop()
            raise ServerError(f"{error.args[0]}: {line}" if line else error.args[0], mend=error.mend) from error
        write_secret(self._settings, self.secret)

    def healthy(self, timeout_s: float = 1.0) -> bool:
        """Return whether it runs and answers in time; whether its models do, only an inference tells."""
        return self.alive and answers(self.url, timeout_s)

    def kill(self) -> None:
        """End it by force, as a fault would."""
        if self.process is not None:
            self.process.kill()

    def stop(self, timeout_s: float = 6.0) -> None:
        """End it, and forget its secret and its scratch folder."""
        process, self.process = self.process, None
        if process is not None:
            process.stop(timeout_s)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        _remove_shared_memory(os.getpid(), self.port)
        if self.secret and _read(secret_file(self._settings)) == self.secret:
            secret_file(self._settings).unlink(missing_ok=True)

    def _prepare(self, runtime: Path) -> None:
        """Lay out a scratch folder whose path has no space: Triton hands paths to its stub unquoted.

        The backends are copied, since Triton refuses links that lead out of their folder; models may be linked.
        """
        _remove_scratch_of_the_dead()
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH_PREFIX}{os.getpid()}-", dir=SCRATCH_PARENT))
        models = self._scratch / "models"
        models.unlink(missing_ok=True)
        models.symlink_to(self._repository)
        backends = self._scratch / "backends"
        shutil.rmtree(backends, ignore_errors=True)
        python = backends / "python"
        python.mkdir(parents=True)
        stub = runtime / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
        for source in (*(runtime / "backends" / "python").glob("*.*"), *stub.iterdir()):
            shutil.copy2(source, python / source.name)
        ours = backends / "onnxruntime"
        shutil.copytree(BACKENDS / "onnxruntime", ours, ignore=shutil.ignore_patterns("__pycache__"))

    def _arguments(self, runtime: Path) -> list[str]:
        return [
            str(runtime / "bin" / "tritonserver"),
            f"--model-repository={self._scratch}/models",
            f"--backend-directory={self._scratch}/backends",
            f"--backend-config=python,shm-region-prefix-name={_shared_memory_prefix(os.getpid(), self.port)}",
            "--backend-config=python,shm-default-byte-size=1048576",
            "--model-control-mode=explicit",
            "--strict-readiness=true",
            # Every configuration is complete; to complete it, the python backend would start each model twice.
            "--disable-auto-complete-config",
            "--allow-http=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.port}",
            f"--grpc-restricted-protocol={RESTRICTED}:{SECRET_HEADER.removeprefix(HEADER_PREFIX)}={self.secret}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
            "--log-verbose=0",
        ]


def _telling_line(log: str) -> str:
    """Return the last line of Triton's log that names an error; empty: none does."""
    lines = [line.strip() for line in log.splitlines() if _ERROR_LINE.search(line)]
    return _STAMP.sub("", lines[-1]) if lines else ""


def answers(url: str, timeout_s: float = 1.0) -> bool:
    """Return whether a Triton answers at ``host:port`` in time."""
    import tritonclient.grpc as grpc_client
    from tritonclient.utils import InferenceServerException

    try:
        with grpc_client.InferenceServerClient(url) as client:
            return bool(client.is_server_live(client_timeout=timeout_s))
    except InferenceServerException:
        return False


def require_external(url: str, timeout_s: float = 5.0) -> None:
    """Check that a Triton of the user's answers.

    Raises:
        ServerError: it does not.
    """
    if not answers(url, timeout_s):
        raise ServerError(
            f"Triton at {url} does not answer within {timeout_s:g} s",
            mend="correct FX_TRITON_URL (host:port of its gRPC), or unset it",
        )


def secret_file(settings: Settings) -> Path:
    """Return the file that lets other processes of this installation load models."""
    return settings.run_folder / "triton.key"


def write_secret(settings: Settings, secret: str) -> None:
    """Keep the server's secret, readable by its owner alone."""
    path = secret_file(settings)
    make_own_folder(path.parent)
    write_private(path, secret)


def read_secret(settings: Settings) -> str:
    """Return the running embedded server's secret; empty for a server of the user's, which asks for none.

    Raises:
        ServerError: there is neither.
    """
    secret = _read(secret_file(settings))
    if not secret and not settings.triton.url:
        raise ServerError("no embedded Triton runs here", mend="start it: fx up")
    return secret


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def clean_shared_memory() -> None:
    """Remove the shared memory of servers whose owner is gone: a killed server leaves its regions behind."""
    for region in SHARED_MEMORY.glob(f"{SHARED_MEMORY_PREFIX}*") if SHARED_MEMORY.is_dir() else ():
        owner = region.name.removeprefix(SHARED_MEMORY_PREFIX).split("_")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            _unlink(region)


def _remove_shared_memory(pid: int, port: int) -> None:
    for region in SHARED_MEMORY.glob(f"{_shared_memory_prefix(pid, port)}*") if SHARED_MEMORY.is_dir() else ():
        _unlink(region)


def _shared_memory_prefix(pid: int, port: int) -> str:
    return f"{SHARED_MEMORY_PREFIX}{pid}_{port}_"


def _unlink(region: Path) -> None:
    with contextlib.suppress(PermissionError):  # of another user of this machine
        region.unlink(missing_ok=True)


def _remove_scratch_of_the_dead() -> None:
    for folder in Path(SCRATCH_PARENT).glob(f"{SCRATCH_PREFIX}*"):
        owner = folder.name.removeprefix(SCRATCH_PREFIX).split("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and folder.stat().st_uid == os.geteuid():
            shutil.rmtree(folder, ignore_errors=True)


def _environment(runtime: Path) -> dict[str, str]:
    """Return what the server needs to find its libraries, and its stub to find this environment's packages."""
    libraries: Sequence[str] = (
        str(runtime.parents[1] / "nvidia_pytriton.libs"),
        str(sysconfig.get_config_var("LIBDIR") or ""),
    )
    return {
        **base_environment(),
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in libraries if part),
        # The stub embeds Python, ignores PYTHONPATH, and takes the packages of the first python3 on the path.
        "PATH": os.pathsep.join((str(Path(sys.prefix) / "bin"), "/usr/bin", "/bin")),
        "OMP_NUM_THREADS": "1",
    }
