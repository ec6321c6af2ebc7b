import json
import re
from pathlib import Path
from typing import Any

import pytest

from fx_dagster.errors import DataError
from fx_dagster.report.reference import SHARED, reference_rows, with_reference
from fx_dagster.report.summary import Summary

DOCUMENT = Path(__file__).parents[2] / "docs" / "report.md"


def test_the_document_lists_the_keys_as_they_are() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert with_reference(text) == text, "run: python -m fx_dagster.report.reference docs/report.md"


def test_every_key_has_a_description() -> None:
    parts = (Summary, *SHARED)
    assert [key for part in parts for key, _, text in reference_rows(part) if not text.endswith(".")] == []


def test_every_key_of_a_real_summary_is_documented(summary: Summary) -> None:
    documented = set(re.findall(r"^\| `([^`]+)`", DOCUMENT.read_text(encoding="utf-8"), flags=re.MULTILINE))
    free = {"data.left_out", "data.rows", "data.quarantined", "live.levels[].reasons", "versions.packages"}
    shared = {frozenset(part.model_fields) for part in SHARED}
    found = set(_keys(json.loads(summary.model_dump_json()), "", free, shared))
    assert found <= documented
    assert len(found) > 70


def _keys(node: Any, prefix: str, free: set[str], shared: set[frozenset[str]]) -> list[str]:
    if isinstance(node, list):
        return [prefix, *(key for item in node for key in _keys(item, prefix, free, shared))]
    if not isinstance(node, dict) or prefix in free or frozenset(node) in shared:
        return [prefix]
    inner = [
        key
        for name, value in node.items()
        for key in _keys(
            value, f"{prefix}.{name}".lstrip(".") + ("[]" if isinstance(value, list) else ""), free, shared
        )
    ]
    return [*([prefix] if prefix else []), *inner]


def test_a_document_without_its_marks_is_refused() -> None:
    with pytest.raises(DataError, match="mark"):
        with_reference("# The report\n")
