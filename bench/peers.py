"""The rivals' environments, one each, outside the project; and the processes in which they run.

An environment is made by pip the first time it is wanted, below the user's cache folder, under a name that changes with
its pins. Where one cannot be made, its rows say so and the bench goes on.
"""

import hashlib
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from platformdirs import user_cache_path

from bench.timing import Contender, RivalError

INSTALL_S = 900.0
START_S = 180.0
RUN_S = 120.0
_SCRIPTS = Path(__file__).parent / "rivals"


@dataclass(frozen=True)
class Environment:
    """Where a rival runs.

    Attributes:
        name: of the environment.
        pins: its packages, the rival first; none: this project's own environment.
        variables: of the rival's process.
    """

    name: str
    pins: tuple[str, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


NAUTILUS = Environment("nautilus_trader", ("nautilus_trader==1.221.0", "numpy==2.4.6", "pandas==2.3.3"))
VECTORBT = Environment("vectorbt", ("vectorbt==1.2.0", "numba==0.68.1", "numpy==2.4.6", "pandas==3.1.1"))
POLARS = Environment("polars", ("polars==2.1.0", "numpy==2.4.6"))
FREQTRADE = Environment("freqtrade", ("freqtrade==2026.9", "ta-lib==0.8.2", "pandas==3.1.1"))
OWN = Environment("own")
REUSING = Environment(
    "own", variables=(("MALLOC_MMAP_THRESHOLD_", str(4 << 30)), ("MALLOC_TRIM_THRESHOLD_", str(8 << 30)))
)
"""Memory that was freed is given out again instead of being handed back to the system (glibc)."""


@dataclass
class Peers:
    """Makes environments, each once, and starts rivals in them."""

    home: Path = field(default_factory=lambda: user_cache_path("fx_dagster", appauthor=False) / "bench")
    _pythons: dict[str, Path | RivalError] = field(default_factory=dict)

    @contextmanager
    def start(
        self, environment: Environment, script: str, arrays: Mapping[str, Any], *arguments: str
    ) -> Iterator[Contender]:
        """Start a rival's script on some arrays, by name, and give a contender that runs it; it ends with the context.

        What goes wrong is raised by the contender, as :class:`bench.timing.RivalError`.
        """
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fx-bench-")))
            np.savez(folder / "data.npz", **arrays)
            try:
                command: list[str | Path] = [
                    self._python(environment),
                    _SCRIPTS / script,
                    folder / "data.npz",
                    *arguments,
                ]
                log = self.home / f"{Path(script).stem}.log"
                rival = stack.enter_context(_started(command, dict(environment.variables), log))
            except RivalError as error:
                rival = _raiser(error)
            yield rival

    def missing(self, environment: Environment) -> str:
        """Make an environment where it is not there yet; return why it cannot be, or nothing."""
        try:
            self._python(environment)
        except RivalError as error:
            return str(error)
        return ""

    def _python(self, environment: Environment) -> Path:
        if not environment.pins:
            return Path(sys.executable)
        if environment.name not in self._pythons:
            try:
                self._pythons[environment.name] = _made(self.home, environment)
            except RivalError as error:
                self._pythons[environment.name] = error
        found = self._pythons[environment.name]
        if isinstance(found, RivalError):
            raise found
        return found


def _raiser(error: RivalError) -> Contender:
    def run() -> float:
        raise error

    return run


def _made(home: Path, environment: Environment) -> Path:
    """Return the environment's Python, making it where it is not there whole.

    Raises:
        RivalError: it cannot be made.
    """
    digest = hashlib.sha256("\n".join((sys.version, *environment.pins)).encode()).hexdigest()[:12]
    folder = home / f"{environment.name}-{digest}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    pip: tuple[str | Path, ...] = (
        python,
        "-I",
        "-m",
        "pip",
        "install",
        "--no-input",
        "--disable-pip-version-check",
        "--retries",
        "1",
    )
    with (home / f"{environment.name}.log").open("wb") as log:
        _run((sys.executable, "-m", "venv", folder), log)
        _run((*pip, *environment.pins), log)
    ready.touch()
    return python


def _run(command: tuple[str | Path, ...], log: Any) -> None:
    try:
        subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, timeout=INSTALL_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise RivalError("could not be installed here") from error


@contextmanager
def _started(command: list[str | Path], variables: dict[str, str], log: Path) -> Iterator[Contender]:
    """Start a rival, wait until it is ready, and give a contender that has it run once; end it with the context.

    Raises:
        RivalError: here or by the contender: it failed, ended or takes too long.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0,
            env=_environment() | variables,
        ) as process,
    ):  # fmt: skip

        def run() -> float:
            with suppress(BrokenPipeError):  # that it has ended is seen below
                _pipe(process.stdin).write(b"\n")
            return float(_answer(_pipe(process.stdout), RUN_S)["seconds"])

        try:
            _answer(_pipe(process.stdout), START_S)
            yield run
        finally:
            process.kill()


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None  # noqa: S101 - it was asked for
    return pipe


def _answer(answers: IO[bytes], deadline_s: float) -> dict[str, Any]:
    line = b""
    while not line.startswith(b"{"):  # libraries greet, too
        if not select.select([answers], [], [], deadline_s)[0]:
            raise RivalError(f"did not answer within {deadline_s:.0f} s")
        line = answers.readline()
        if not line:
            raise RivalError("ended with an error")
    said: dict[str, Any] = json.loads(line)
    return said


def _environment() -> dict[str, str]:
    """Return this process' variables without those that would lead a rival to this project's packages."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
