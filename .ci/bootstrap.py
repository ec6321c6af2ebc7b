"""Make the environment, as ``make setup`` does: ``python3.11 .ci/bootstrap.py``.

Creates ``.venv``, installs the locked packages and this project, and puts Triton's runtime beside them in
``.venv/triton``: its wheel asks for an older NumPy, and runs well with ours. ``.venv/.ready`` is written last; an
environment without it is made from nothing again, so that an interrupted set-up is never taken for a whole one.
"""

import hashlib
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
READY = VENV / ".ready"
LOG = VENV / "setup.log"
LOCK = ROOT / "requirements.lock"
TRITON_WHEEL = "nvidia-pytriton==0.7.0"
FREE_GIB_MIN = 6.0
PLAIN_EVERY_S = 15.0
_NEWS = re.compile(rb"^\s*(Collecting|Downloading|Using cached|Requirement already satisfied: )\s*([\w.-]+)")


class SetupError(Exception):
    """Set-up cannot go on; the message says why and what to do."""


class Ticker:
    """One line that shows how far a step is: redrawn in a terminal, a new line every 15 s elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.note = ""
        self._began_s = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._terminal = sys.stderr.isatty()

    def start(self) -> None:
        """Begin to show it."""
        if not self._terminal:
            _say(f"… {self.title}")
        self._thread.start()

    def stop(self, mark: str) -> None:
        """Write the last line."""
        self._ended.set()
        self._thread.join()
        _say(f"{self._clear}{mark} {self.title} {self._elapsed}")

    @property
    def _clear(self) -> str:
        return "\r\x1b[K" if self._terminal else ""

    @property
    def _elapsed(self) -> str:
        return f"({time.monotonic() - self._began_s:.0f} s)"

    def _run(self) -> None:
        while not self._ended.wait(0.5 if self._terminal else PLAIN_EVERY_S):
            text = f"… {self.title} {self._elapsed} {self.note}"
            if self._terminal:
                sys.stderr.write(f"{self._clear}{text[: shutil.get_terminal_size().columns - 1]}")
                sys.stderr.flush()
            else:
                _say(text)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def ticker(title: str) -> Iterator[Ticker]:
    """Show a step while it runs."""
    shown = Ticker(title)
    shown.start()
    mark = "✗"
    try:
        yield shown
        mark = "✓"
    finally:
        shown.stop(mark)


def run(title: str, argv: list[str | Path]) -> None:
    """Run a program, its output in the log and the gist of it in the ticker.

    Raises:
        SetupError: it failed; the telling lines of its output are in the message.
    """
    total = sum(1 for line in LOCK.read_text().splitlines() if "==" in line)
    with ticker(title) as shown, LOG.open("ab") as log:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert process.stdout is not None  # noqa: S101 - it was asked for
        seen: set[bytes] = set()
        lines: list[str] = []
        try:
            for line in process.stdout:
                log.write(line)
                lines = [*lines[-40:], line.decode(errors="replace").rstrip()]
                if news := _NEWS.match(line):
                    if news[1] != b"Downloading":
                        seen.add(news[2].lower())
                    shown.note = f"{min(len(seen), total)} of {total} packages: {news[2].decode()}"
                elif line.startswith(b"Installing collected"):
                    shown.note = "unpacking, which takes a minute or two"
        finally:
            if process.poll() is None and sys.exc_info()[0] is not None:
                process.terminate()
            code = process.wait()
    if code != 0:
        _raise_failed(title, code, lines)


def _raise_failed(title: str, code: int, lines: list[str]) -> NoReturn:
    telling = [line for line in lines if "ERROR" in line or "error:" in line.lower()] or lines
    hint = "see the log"
    text = "\n".join(lines)
    if "No space left" in text:
        hint = "free some disk space"
    elif "NewConnectionError" in text or "Temporary failure in name resolution" in text or "timed out" in text:
        hint = "check the network, or pip's index (pip config list)"
    elif "No matching distribution" in text:
        hint = "this machine may lack a wheel for it; see docs for supported machines"
    raise SetupError(f"{title} failed with {code}: {' / '.join(telling[-3:])} → {hint} ({LOG}), then: make setup")


def create() -> None:
    """Create an empty environment.

    Raises:
        SetupError: this Python cannot, or there is no room.
    """
    free = shutil.disk_usage(ROOT).free / 1024**3
    if free < FREE_GIB_MIN:
        raise SetupError(f"only {free:.1f} GiB are free in {ROOT} → free {FREE_GIB_MIN:.0f} GiB, then: make setup")
    with ticker("Creating .venv"):
        done = subprocess.run(
            [sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())
        raise SetupError(f"cannot create {VENV}: {said} → install Python 3.11's venv and pip (Debian: python3.11-venv)")


def install(fingerprint: str) -> None:
    """Install everything into the environment."""
    pip: list[str | Path] = [
        *(VENV / "bin" / "python", "-I", "-m", "pip", "install"),
        *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
    ]
    LOG.unlink(missing_ok=True)
    run("Installing the locked packages", [*pip, "-r", LOCK])
    run("Installing this project", [*pip, "--no-deps", "-e", ROOT])
    if sys.platform == "linux" and platform.machine() == "x86_64":
        install_triton([*pip, "--no-deps"])
    else:
        _say(f"! No Triton runtime for {sys.platform} {platform.machine()}: set FX_TRITON_URL, or go without")
    READY.write_text(fingerprint)


def install_triton(pip: list[str | Path]) -> None:
    """Install Triton's wheel beside the environment, unless that very one is there."""
    target = VENV / "triton"
    mark = target / ".wheel"
    if mark.exists() and mark.read_text() == TRITON_WHEEL:
        return
    shutil.rmtree(target, ignore_errors=True)
    run("Installing Triton's runtime", [*pip, "--target", target, TRITON_WHEEL])
    mark.write_text(TRITON_WHEEL)


def wanted() -> str:
    """Return what the environment is made from, as a hash."""
    parts = (LOCK.read_bytes(), (ROOT / "pyproject.toml").read_bytes(), TRITON_WHEEL.encode(), str(ROOT).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def main() -> int:
    """Bring the environment up to date and return the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # SIGINT too: after `&` in a script it is ignored
        signal.signal(number, signal.default_int_handler)
    if sys.version_info[:2] != (3, 11):
        _say(f"error: this is Python {platform.python_version()} → run it with Python 3.11")
        return 1
    fingerprint = wanted()
    if READY.exists() and READY.read_text() == fingerprint:
        READY.touch()
        return 0
    try:
        whole = READY.exists()
        READY.unlink(missing_ok=True)
        if not whole:
            _say("Setting up: about three minutes and 4 GiB, once.")
            create()
        install(fingerprint)
    except SetupError as error:
        _say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        _say("\ninterrupted → make setup begins again")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
