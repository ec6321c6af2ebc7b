"""The audit of dependencies: what it makes of pip-audit's answers, and of none."""

import datetime as dt
import importlib.util
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
TODAY = dt.date(2026, 11, 25)
_SPEC = importlib.util.spec_from_file_location("fx_ci_audit", ROOT / ".ci" / "audit.py")
assert _SPEC is not None
assert _SPEC.loader is not None
audit: Any = importlib.util.module_from_spec(_SPEC)
sys.modules["fx_ci_audit"] = audit
_SPEC.loader.exec_module(audit)

CLEAN = {"dependencies": [{"name": "numpy", "version": "2.4.1", "vulns": []}], "fixes": []}
HIT = {
    "dependencies": [
        {"name": "numpy", "version": "2.4.1", "vulns": []},
        {"name": "jinja2", "version": "2.10", "vulns": [
            {"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "x"},
        ]},
        {"name": "fx-own", "skip_reason": "Dependency not found on PyPI and could not be audited: fx-own (1)"},
    ],
    "fixes": [],
}  # fmt: skip
MIRROR = {"dependencies": [{"name": "jinja2", "skip_reason": "Dependency not found on PyPI"}], "fixes": []}
IGNORE = '[tool.fx-audit]\nignore = [{{ id = "{name}", reason = "{reason}", reviewed = {day} }}]\n'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a project beside which ``python -m pip_audit`` says what it is told."""

    def make(stdout: str = "", stderr: str = "", code: int = 0, pyproject: str = "") -> tuple[int, str]:
        module = tmp_path / "modules" / "pip_audit"
        module.mkdir(parents=True)
        (module / "__init__.py").touch()
        (module / "__main__.py").write_text(
            f"import sys\nassert '--no-deps' in sys.argv and '--disable-pip' in sys.argv\n"
            f"sys.stdout.write({stdout!r})\nsys.stderr.write({stderr!r})\nsys.exit({code})\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(module.parent))
        (tmp_path / "pyproject.toml").write_text(pyproject)
        (tmp_path / "requirements.lock").write_text("numpy==2.4.1\n")
        out = io.StringIO()
        return audit.main(tmp_path, out, TODAY), out.getvalue()

    return make


def test_nothing_known_passes(project: Any) -> None:
    assert project(json.dumps(CLEAN)) == (0, "audit: 1 packages, 0 known vulnerabilities\n")


def test_a_vulnerability_fails_with_all_that_is_needed_to_mend_it(project: Any) -> None:
    code, said = project(json.dumps(HIT), code=1)
    assert code == 1
    assert "VULNERABLE jinja2 2.10: PYSEC-2019-217 (CVE-2019-10906), fixed in 2.10.1" in said
    assert "not looked up, as the service does not know them: fx-own" in said
    assert "2 packages, 1 known" in said


def test_one_without_a_fix_says_so() -> None:
    (row,) = audit.read_report(json.dumps({"dependencies": [
        {"name": "a", "version": "1", "vulns": [{"id": "GHSA-1"}]}]})).found  # fmt: skip
    assert str(row) == "a 1: GHSA-1, not fixed in any version yet"


@pytest.mark.parametrize("name", ["PYSEC-2019-217", "CVE-2019-10906"])
def test_what_a_person_has_looked_at_is_left_out_and_said(project: Any, name: str) -> None:
    code, said = project(json.dumps(HIT), code=1, pyproject=IGNORE.format(name=name, reason="no such use", day=TODAY))
    assert code == 0
    assert f"{name} left out (no such use; reviewed 2026-11-25)" in said
    assert "0 known" in said


def test_an_entry_that_is_no_longer_needed_is_said(project: Any) -> None:
    code, said = project(json.dumps(CLEAN), pyproject=IGNORE.format(name="CVE-1", reason="once", day=TODAY))
    assert code == 0
    assert "CVE-1 left out, and no longer there: remove it" in said


@pytest.mark.parametrize(
    ("name", "reason", "day", "words"),
    [
        ("CVE-1", "once", TODAY - dt.timedelta(days=184), "not in the last 183 days"),
        ("CVE-1", "once", TODAY + dt.timedelta(days=1), "not in the last 183 days"),
        ("CVE-1", " ", TODAY, "entry 1"),
        ("", "once", TODAY, "entry 1"),
        ("CVE-1", "once", '"2026-11-25"', "entry 1"),
    ],
)
def test_an_entry_that_nobody_looks_at_any_more_is_refused(
    project: Any, name: str, reason: str, day: object, words: str
) -> None:
    code, said = project(json.dumps(HIT), code=1, pyproject=IGNORE.format(name=name, reason=reason, day=day))
    assert code == 2
    assert words in said


@pytest.mark.parametrize(
    "stderr",
    [
        "requests.exceptions.ConnectionError: HTTPSConnectionPool(host='pypi.org'): Max retries exceeded",
        "ERROR:pip_audit._cli:Could not connect to PyPI's vulnerability feed",
    ],
)
def test_where_the_service_is_away_the_audit_is_skipped_and_says_so(project: Any, stderr: str) -> None:
    code, said = project("", stderr, 1)
    assert code == 0
    assert said.startswith("audit: SKIPPED, the vulnerability service cannot be reached: ")


def test_a_mirror_that_knows_nothing_is_no_clean_audit(project: Any) -> None:
    code, said = project(json.dumps(MIRROR))
    assert code == 0
    assert said.startswith("audit: SKIPPED, the vulnerability service knows none of the packages")


@pytest.mark.parametrize(
    ("stdout", "stderr", "code"),
    [("", "error: unrecognized arguments: --x", 2), ("", "", 1), ("nonsense", "", 0), ('{"dependencies": 5}', "", 0),
     ("", "No module named pip_audit", 1)],
)  # fmt: skip
def test_a_broken_audit_is_no_clean_one(project: Any, stdout: str, stderr: str, code: int) -> None:
    found, said = project(stdout, stderr, code)
    assert found == 2
    assert said.startswith("audit: error: ")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(st.none() | st.integers() | st.text(max_size=5),
                    lambda part: st.lists(part, max_size=3)
                    | st.dictionaries(st.sampled_from(("dependencies", "name", "vulns", "id")), part)))  # fmt: skip
def test_any_report_is_read_or_refused(document: Any) -> None:
    try:
        audit.read_report(json.dumps(document))
    except audit.AuditError as error:
        said = str(error)
    else:
        said = "pip-audit's report"
    assert said.startswith("pip-audit's report")
