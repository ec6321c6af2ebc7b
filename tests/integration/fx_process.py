"""Runs the real ``fx`` in a home of its own, and looks for what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

FX = Path(sys.executable).with_name("fx")

DEFINITIONS = """
import dagster as dg

@dg.asset
def numbers(context: dg.AssetExecutionContext) -> int:
    context.log.info("here")
    print("printed")
    return 1

@dg.definitions
def defs():
    return dg.Definitions(assets=[numbers], jobs=[dg.define_asset_job("numbers_job")])
"""


def environment(home: Path, **extra: str) -> dict[str, str]:
    """Return our environment with this home and no other setting of ours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("FX_", "DAGSTER_"))}
    return {**kept, "FX_HOME": str(home), **extra}


def fx(home: Path, *arguments: str, timeout_s: float = 90.0, **extra: str) -> subprocess.CompletedProcess[str]:
    """Run an ``fx`` command to its end."""
    return subprocess.run(
        [FX, *arguments],
        env=environment(home, **extra),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        cwd="/",
    )


def write_definitions(folder: Path, text: str = DEFINITIONS) -> Path:
    """Write small definitions and return their path."""
    path = folder / "small_definitions.py"
    path.write_text(text)
    return path


class Up:
    """A running ``fx up``."""

    def __init__(self, home: Path, definitions: Path, **extra: str) -> None:
        self.home = home
        self.errors = home / "up.err"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [FX, "up", "--json", "--definitions", str(definitions)],
                env=environment(home, **extra),
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd="/",
                start_new_session=True,
            )

    def wait_ready(self) -> dict[str, Any]:
        """Wait for the document that it prints when all servers run."""
        assert self.process.stdout is not None
        text = ""
        for line in self.process.stdout:
            text += line
            if line == "}\n":
                document: dict[str, Any] = json.loads(text)
                return document
        raise AssertionError(f"fx up ended: {self.errors.read_text()}")

    def end(self, number: int = signal.SIGINT, timeout_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(number)
        self.process.wait(timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return self.process.returncode


def left_behind(home: Path) -> list[str]:
    """Return living processes of that home: named on their command line, or in the environment they began with."""
    found = []
    for process in psutil.process_iter():
        try:
            command = process.cmdline()
            ours = any(str(home) in part for part in command) or process.environ().get("FX_HOME") == str(home)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid} {' '.join(command)[:200]}")
        except (psutil.Error, OSError):
            continue
    return found


def until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait until something is so; return whether it became so in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return condition()
