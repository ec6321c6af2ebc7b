"""What the control server hands on to others: drills, and the releases' switch."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from fx_dagster.errors import ReleaseError, ServerError

RELEASE_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Drill:
    """A fault that can be made on purpose.

    Attributes:
        name: lower-case letters, digits and ``-``.
        what: what it does, in a line.
        expected: what should come of it, in a line.
    """

    name: str
    what: str
    expected: str


@dataclass(frozen=True)
class DrillOutcome:
    """What came of a drill: whether what was expected happened, what was seen, and how long it took in seconds."""

    passed: bool
    text: str
    seconds: float


class Drills(Protocol):
    """The drills of this installation. Called in a thread; one drill at a time."""

    def list(self) -> Sequence[Drill]:
        """Return the drills that can be run here."""
        ...

    def run(self, name: str, *, by_whom: str) -> DrillOutcome:
        """Run one and return when it is over.

        Raises:
            KeyError: there is no such drill.
            FxError: it cannot be run now.
        """
        ...


class NoDrills:
    """An installation without drills."""

    def list(self) -> Sequence[Drill]:
        """Return none."""
        return ()

    def run(self, name: str, *, by_whom: str) -> DrillOutcome:  # noqa: ARG002 - as the protocol has it
        """Refuse.

        Raises:
            KeyError: always.
        """
        raise KeyError(name)


class ReleaseSwitch(Protocol):
    """Promotion and rollback. Called in a thread, one at a time; each answers with a JSON document."""

    def promote(self, version: int, *, reason: str, force: bool) -> dict[str, Any]:
        """Let a release answer, if every gate lets it through; ``promoted`` in the answer says whether.

        Raises:
            ReleaseError: it cannot be.
        """
        ...

    def rollback(self, *, reason: str) -> dict[str, Any]:
        """Go back to the release before.

        Raises:
            ReleaseError: there is none, or it cannot be gone back to.
        """
        ...


class ReleaseCommands:
    """The very commands ``fx release promote`` and ``fx release rollback``, as processes of their own.

    What they load (the features' catalogue, Triton's client, models' files) stays out of the control server.

    Args:
        environment: of the commands, as :func:`resources.servers.process.child_environment` makes it.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)

    def promote(self, version: int, *, reason: str, force: bool) -> dict[str, Any]:
        """Run ``fx release promote``."""
        forced = ["--force"] if force else []
        return self._run("promote", str(version), f"--reason={reason}", *forced)

    def rollback(self, *, reason: str) -> dict[str, Any]:
        """Run ``fx release rollback``."""
        return self._run("rollback", f"--reason={reason}")

    def _run(self, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "fx_dagster.cli", "release", *arguments, "--json"]
        try:
            ended = subprocess.run(
                command, env=self._environment, capture_output=True, text=True, timeout=RELEASE_TIMEOUT_S, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"fx release {arguments[0]} did not end within {RELEASE_TIMEOUT_S:.0f} s", mend="fx release list"
            ) from None
        try:
            document = json.loads(ended.stdout)
        except ValueError:
            document = None
        if isinstance(document, dict):
            return document
        said = next((line for line in reversed(ended.stderr.splitlines()) if line.startswith("error: ")), "")
        what, _, mend = said.removeprefix("error: ").partition(" → ")
        raise ReleaseError(what or f"fx release {arguments[0]} ended with {ended.returncode}", mend=mend or "fx doctor")
