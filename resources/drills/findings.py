"""What a drill expects and sees."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

import psutil
import psycopg

from fx_dagster.errors import FxError

POLL_S = 0.05
T = TypeVar("T")
_AWAY = (FxError, psycopg.Error, OSError, psutil.Error)


@dataclass(frozen=True)
class Check:
    """One thing that was expected.

    Attributes:
        what: was expected.
        seen: what was seen.
        passed: whether it was so; None: nothing could be seen of it.
        seconds: how long it took; None: it is no duration.
        limit_s: how long it may take; None: it is no duration.
    """

    what: str
    seen: str
    passed: bool | None
    seconds: float | None = None
    limit_s: float | None = None


@dataclass
class Findings:
    """What a drill has found so far.

    Attributes:
        on_step: is told of everything as it happens.
        checks: what was expected and seen.
        touched: whether anything was done yet.
    """

    on_step: Callable[[str], None] = lambda _: None
    checks: list[Check] = field(default_factory=list)
    touched: bool = False

    def did(self, text: str) -> None:
        """Tell what was done; from then on it is a drill, and no refusal."""
        self.touched = True
        self.on_step(text)

    def found(self, what: str, passed: bool | None, seen: str) -> bool | None:
        """Keep something that is so or not, and return it."""
        return self._keep(Check(what, seen, passed))

    def took(self, what: str, seconds: float | None, limit_s: float, *, waited_s: float = 0.0) -> bool | None:
        """Keep a duration; None: it did not come about while it was waited for."""
        if seconds is None:
            return self._keep(Check(what, f"not within {waited_s:.1f} s", False, None, limit_s))
        return self._keep(Check(what, f"after {seconds:.2f} s", seconds <= limit_s, seconds, limit_s))

    def broke(self, error: BaseException) -> None:
        """Keep what has ended the drill; nobody is told, since telling may be what has failed."""
        seen = f"{type(error).__name__}: {error}".removesuffix(": ")
        self.checks.append(Check("the drill runs to its end", seen, passed=False))

    def _keep(self, check: Check) -> bool | None:
        self.checks.append(check)
        mark = {True: "as expected", False: "NOT as expected", None: "could not be seen"}[check.passed]
        self.on_step(f"{check.what}: {check.seen} ({mark})")
        return check.passed

    @property
    def passed(self) -> bool:
        """Whether something was seen, and all that was seen was as expected."""
        judged = [check.passed for check in self.checks if check.passed is not None]
        return bool(judged) and all(judged)

    @property
    def text(self) -> str:
        """What was seen, in one line."""
        return "; ".join(f"{_MARKS[check.passed]}{check.what}: {check.seen}" for check in self.checks)

    def rows(self) -> list[dict[str, Any]]:
        """Return the checks as JSON values."""
        return [asdict(check) for check in self.checks]


_MARKS = {True: "", False: "NOT ", None: "unseen: "}


def wait_for(probe: Callable[[], T | None], timeout_s: float, *, poll_s: float = POLL_S) -> T | None:
    """Ask again and again until something comes back that is true; None: nothing did in time.

    A server that is away is no answer, as is a process that has just gone.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := _asked(probe)) and time.monotonic() < deadline:
        time.sleep(poll_s)
    return found or None


def _asked(probe: Callable[[], T | None]) -> T | None:
    try:
        return probe()
    except _AWAY:
        return None
