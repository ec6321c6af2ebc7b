"""``docs/settings.md`` says what the settings are."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fx_dagster.commands import settings as command
from fx_dagster.settings import variables

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text() == command.page(), "write it again: fx settings --markdown > docs/settings.md"


def test_page_names_every_variable_once() -> None:
    named = re.findall(r"^\| `(FX_\w+)` ", command.page(), re.MULTILINE)
    assert sorted(named) == sorted(variables())


def test_page_does_not_depend_on_the_environment(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RISK_LEVERAGE", "7")
    assert command.page() == PAGE.read_text()
    assert str(free_home) not in command.page()


def test_bounds_and_choices_are_words() -> None:
    rows = dict(re.findall(r"^\| `(FX_\w+)` \| [^|]* \| ([^|]*) \|", command.page(), re.MULTILINE))
    assert rows["FX_TRITON_DEADLINE_MS"] == "number > 0"
    assert rows["FX_TRAINING_HOLDOUT_SHARE"] == "number ≥ 0, < 0.9"
    assert rows["FX_RISK_COMBINE"] == "`parallel`, `hierarchical`, `hybrid`"
    assert rows["FX_POSTGRES_URL"] == "secret"


def test_secrets_are_not_shown(free_home: Path) -> None:
    import os

    done = subprocess.run(
        [sys.executable, "-m", "fx_dagster.cli", "settings", "--json"],
        env={**os.environ, "FX_POSTGRES_URL": "postgresql+psycopg2://me:hidden@h/d", "FX_RISK_LEVERAGE": "7"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    rows = {row["name"]: row["value"] for row in json.loads(done.stdout)}
    assert "hidden" not in done.stdout
    assert rows["FX_POSTGRES_URL"] == "(set)"
    assert rows["FX_REDIS_URL"] == ""
    assert rows["FX_RISK_LEVERAGE"] == "7.0"
    assert rows["FX_HOME"] == str(free_home)
