"""``docs/security.md`` names tests that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / "docs" / "security.md").read_text())))


def test_the_page_names_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED, ids=lambda part: str(part))
def test_a_named_test_exists(file: str, name: str) -> None:
    found = [path for path in (ROOT / "tests").rglob(file) if re.search(rf"^def {name}\(", path.read_text(), re.M)]
    assert found, f"no {file} has {name}"
