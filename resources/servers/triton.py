"""Triton Inference Server from its wheel, on the CPU, for this machine only.

The wheel carries the server and its python backend; ``resources/triton_backend`` adds a backend named ``onnxruntime``.
What it is told: loopback only, no HTTP, models are loaded on request only, and everything but inference and health
asks for a secret that changes at every start and is kept in ``FX_HOME/run``, readable by its owner alone.
"""

import os
import platform
import secrets
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fx_dagster.errors import ServerError, UnsupportedPlatformError
from fx_dagster.settings import Settings
from resources.servers.ports import LOOPBACK, choose_port
from resources.servers.process import ManagedProcess, StopFlag, base_environment, spawn, wait_until

RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
SECRET_HEADER = "triton-grpc-protocol-fx-key"  # noqa: S105 - a header's name
BACKENDS = Path(__file__).parents[1] / "triton_backend"
GLIBC_MIN = (2, 35)
SHM = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory


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
    """The embedded server; started, restarted on the same port, and stopped by its owner.

    Args:
        settings: ports, deadlines and folders.
        repository: model repository; nothing is loaded from it until asked.
    """

    def __init__(self, settings: Settings, repository: Path) -> None:
        self._settings = settings
        self._repository = repository
        self._scratch: Path | None = None
        self.process: ManagedProcess | None = None
        self.port = 0
        self.metrics_port = 0
        self.secret = ""

    @property
    def url(self) -> str:
        """``host:port`` of gRPC."""
        return f"{LOOPBACK}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether the process runs; it may still not answer."""
        return self.process is not None and self.process.alive

    def start(self, stop: StopFlag | None = None) -> None:
        """Start the server and wait until it answers.

        Raises:
            UnsupportedPlatformError: this machine cannot run it.
            ServerError: it does not start; its log is named.
            PortInUseError: a port that was asked for is taken.
        """
        runtime = require_runtime()
        chosen = self._settings.triton
        self.port = self.port or choose_port(chosen.port, setting="FX_TRITON_PORT", server="Triton")
        self.metrics_port = self.metrics_port or choose_port(
            chosen.metrics_port, setting="FX_TRITON_METRICS_PORT", server="Triton's metrics"
        )
        self._repository.mkdir(parents=True, exist_ok=True)
        self._prepare(runtime)
        self.secret = secrets.token_urlsafe(24)
        write_secret(self._settings, self.secret)
        self.process = spawn(
            self._arguments(runtime),
            env=_environment(runtime),
            log=self._settings.logs / "triton.log",
            name="Triton",
        )
        wait_until(self._ready, self.process, timeout_s=chosen.start_timeout_s, stop=stop)

    def _prepare(self, runtime: Path) -> None:
        """Lay out a scratch folder whose path has no space: Triton hands paths to its stub unquoted.

        The backends are copied, since Triton refuses links that lead out of their folder; models may be linked.
        """
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="fx-triton-"))
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
        shutil.copytree(
            BACKENDS / "onnxruntime", backends / "onnxruntime", ignore=shutil.ignore_patterns("__pycache__")
        )
        for left in SHM.glob(f"{self._shm_prefix}*") if SHM.is_dir() else ():
            left.unlink(missing_ok=True)

    @property
    def _shm_prefix(self) -> str:
        return f"fxtriton{self.port}_"

    def _arguments(self, runtime: Path) -> list[str]:
        return [
            str(runtime / "bin" / "tritonserver"),
            f"--model-repository={self._scratch}/models",
            f"--backend-directory={self._scratch}/backends",
            f"--backend-config=python,shm-region-prefix-name={self._shm_prefix}",
            "--backend-config=python,shm-default-byte-size=1048576",
            "--model-control-mode=explicit",
            "--strict-readiness=false",
            "--allow-http=false",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.port}",
            f"--grpc-restricted-protocol={RESTRICTED}:fx-key={self.secret}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.metrics_port}",
            "--allow-gpu-metrics=false",
            "--exit-timeout-secs=5",
            "--log-verbose=0",
        ]

    def _ready(self) -> bool:
        import tritonclient.grpc as grpc_client
        from tritonclient.utils import InferenceServerException

        try:
            with grpc_client.InferenceServerClient(self.url) as client:
                return bool(client.is_server_live(client_timeout=1.0))
        except InferenceServerException:
            return False

    def kill(self) -> None:
        """End it by force, as a fault would."""
        if self.process is not None:
            self.process.kill()

    def stop(self, timeout_s: float = 6.0) -> None:
        """End it and forget its secret."""
        if self.process is not None:
            self.process.stop(timeout_s)
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        secret_file(self._settings).unlink(missing_ok=True)


def secret_file(settings: Settings) -> Path:
    """Return the file that lets other processes of this installation load models."""
    return settings.run_folder / "triton.key"


def write_secret(settings: Settings, secret: str) -> None:
    """Keep the server's secret, readable by its owner alone."""
    path = secret_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secret)
    aside.replace(path)


def read_secret(settings: Settings) -> str:
    """Return the running server's secret.

    Raises:
        ServerError: there is none: no embedded server runs.
    """
    try:
        return secret_file(settings).read_text()
    except OSError as error:
        raise ServerError("no embedded Triton runs here", mend="start it: fx up") from error


def _environment(runtime: Path) -> dict[str, str]:
    """Return what the server needs to find its libraries, and its stub to find this environment's packages."""
    libraries: Sequence[str] = (
        str(runtime.parents[1] / "nvidia_pytriton.libs"),
        str(sysconfig.get_config_var("LIBDIR") or ""),
    )
    packages = (sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    return {
        **base_environment(),
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in libraries if part),
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(packages)),
        "OMP_NUM_THREADS": "1",
    }
