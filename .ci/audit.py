"""Look for known vulnerabilities in the locked packages: ``python .ci/audit.py``.

pip-audit asks PyPI's vulnerability service about every line of ``requirements.lock``, nothing is installed or resolved.
A vulnerability fails the audit, with package, version, advisory and the version that mends it. Where the service cannot
be reached, or knows none of the packages (a mirror), the audit says so and is skipped.

One that cannot be mended yet, or does not concern this project, may be left out for half a year at a time, with a
reason, in ``pyproject.toml``::

    [tool.fx-audit]
    ignore = [{ id = "GHSA-xxxx-xxxx-xxxx", reason = "why it does not matter here", reviewed = 2026-11-25 }]

Exit code: 0 nothing known, or skipped; 1 vulnerable; 2 the audit itself is broken.
"""

import datetime as dt
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[1]
DEADLINE_S = 600
REVIEW_DAYS_MAX = 183
_AWAY = ("ConnectionError", "ConnectionFailed", "Could not connect", "Max retries exceeded", "Tip: your network",
         "ReadTimeout", "ConnectTimeout", "Name or service not known", "503 Server Error", "502 Server Error",
         "504 Server Error")  # fmt: skip
"""What pip-audit says where its service does not answer; anything else that goes wrong is a fault."""


class AuditError(Exception):
    """The audit cannot be made; the message says why and what to do."""


@dataclass(frozen=True)
class Vulnerability:
    """One advisory about one locked package.

    Attributes:
        package: its name.
        version: as locked.
        names: the advisory's id first, then its aliases (CVE, GHSA, PYSEC).
        fixed: versions that mend it.
    """

    package: str
    version: str
    names: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        """Return it in one line."""
        mend = f"fixed in {', '.join(self.fixed)}" if self.fixed else "not fixed in any version yet"
        others = f" ({', '.join(self.names[1:])})" if self.names[1:] else ""
        return f"{self.package} {self.version}: {self.names[0]}{others}, {mend}"


@dataclass(frozen=True)
class Ignored:
    """An advisory that a person has looked at."""

    name: str
    reason: str
    reviewed: dt.date


@dataclass(frozen=True)
class Report:
    """What pip-audit said: how many packages it could look up, which it could not, and what it found."""

    audited: int
    unknown: tuple[str, ...]
    found: tuple[Vulnerability, ...]


def read_report(text: str) -> Report:
    """Read pip-audit's JSON.

    Raises:
        AuditError: it is none.
    """
    try:
        rows = json.loads(text)["dependencies"]
        unknown = tuple(str(row["name"]) for row in rows if "skip_reason" in row)
        known = [row for row in rows if "skip_reason" not in row]
        found = tuple(
            Vulnerability(
                str(row["name"]), str(row["version"]), (str(one["id"]), *map(str, one.get("aliases", ()))),
                tuple(map(str, one.get("fix_versions", ()))),
            )
            for row in known for one in row["vulns"]
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"pip-audit's report cannot be read ({error!r}) → is its version another?") from error
    return Report(len(known), unknown, found)


def read_ignored(pyproject: Mapping[str, Any], today: dt.date) -> tuple[Ignored, ...]:
    """Return the advisories that are left out.

    Raises:
        AuditError: an entry lacks id, reason or date, or was reviewed too long ago.
    """
    entries = pyproject.get("tool", {}).get("fx-audit", {}).get("ignore", [])
    found = []
    for place, entry in enumerate(entries, start=1):
        name, reason, reviewed = (entry.get(key) for key in ("id", "reason", "reviewed"))
        dated = isinstance(reviewed, dt.date) and not isinstance(reviewed, dt.datetime)
        if not (isinstance(name, str) and name and isinstance(reason, str) and reason.strip() and dated):
            raise AuditError(f"pyproject.toml, tool.fx-audit.ignore, entry {place} → give id, reason and reviewed")
        if not 0 <= (today - reviewed).days <= REVIEW_DAYS_MAX:
            raise AuditError(
                f"pyproject.toml, tool.fx-audit.ignore: {name} was reviewed on {reviewed}, not in the last "
                f"{REVIEW_DAYS_MAX} days → look at it again, and set the date or remove it"
            )
        found.append(Ignored(name, reason, reviewed))
    return tuple(found)


def judge(report: Report, ignored: Sequence[Ignored], out: TextIO) -> int:
    """Say what was found, and return the exit code."""
    if not report.audited:
        out.write("audit: SKIPPED, the vulnerability service knows none of the packages: is it a mirror?\n")
        return 0
    if report.unknown:
        out.write(f"audit: not looked up, as the service does not know them: {', '.join(report.unknown)}\n")
    left_out = {one.name: one for one in ignored}
    open_ones = [one for one in report.found if not set(one.names) & left_out.keys()]
    met = {name for one in report.found for name in one.names}
    for one in ignored:
        state = "left out" if one.name in met else "left out, and no longer there: remove it"
        out.write(f"audit: {one.name} {state} ({one.reason}; reviewed {one.reviewed})\n")
    for vulnerability in open_ones:
        out.write(f"audit: VULNERABLE {vulnerability}\n")
    out.write(f"audit: {report.audited} packages, {len(open_ones)} known vulnerabilities\n")
    return 1 if open_ones else 0


def ask(lock: Path, out: TextIO) -> Report | None:
    """Run pip-audit over a lock file; None: its service cannot be reached, which is said.

    Raises:
        AuditError: pip-audit is not here, or failed for another reason.
    """
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip",
        "--format", "json", "--progress-spinner", "off",
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    except subprocess.TimeoutExpired:
        out.write(f"audit: SKIPPED, the vulnerability service did not answer within {DEADLINE_S} s\n")
        return None
    if "No module named pip_audit" in done.stderr:
        raise AuditError("pip-audit is not installed → make setup")
    if done.returncode in (0, 1) and done.stdout.strip():
        return read_report(done.stdout)
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    if any(words in done.stderr for words in _AWAY):
        out.write(f"audit: SKIPPED, the vulnerability service cannot be reached: {said[:300]}\n")
        return None
    raise AuditError(f"pip-audit ended with {done.returncode}: {said[:300]} → run it by hand")


def main(root: Path = ROOT, out: TextIO = sys.stdout, today: dt.date | None = None) -> int:
    """Audit the project in ``root`` and return the exit code."""
    try:
        pyproject = tomllib.loads((root / "pyproject.toml").read_text())
        ignored = read_ignored(pyproject, today or dt.datetime.now(dt.UTC).date())
        report = ask(root / "requirements.lock", out)
        return 0 if report is None else judge(report, ignored, out)
    except (AuditError, OSError, tomllib.TOMLDecodeError) as error:
        out.write(f"audit: error: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
