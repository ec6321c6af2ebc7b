"""Progress, as it reads where nobody looks on."""

import io

import pytest
from rich.console import Console

from fx_dagster.commands import console


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Console:
    recorder = Console(record=True, force_terminal=False, width=200, file=io.StringIO())
    monkeypatch.setattr(console, "err", recorder)
    return recorder


def test_step_says_before_and_after(plain: Console) -> None:
    with console.step("Reading [all]") as step:
        step.note("half")  # too soon for another line
        step.result = "42 rows"
    first, last = plain.export_text().splitlines()
    assert first == "… Reading [all]"
    assert last.startswith("✓ Reading [all] · 42 rows 0.")


def test_failed_step_is_marked(plain: Console) -> None:
    with pytest.raises(ValueError, match="no"), console.step("Reading"):
        raise ValueError("no")
    assert plain.export_text().splitlines()[-1].startswith("✗ Reading")


def test_long_step_is_heard_of(plain: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "_PLAIN_EVERY_S", 0.0)
    with console.step("Reading") as step:
        step.note("half [1/2]")
    assert "  Reading: half [1/2]" in plain.export_text().splitlines()


def test_table_shows_cells_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Console(record=True, width=80, file=io.StringIO())
    monkeypatch.setattr(console, "out", recorder)
    console.table(("name", "value"), [("[red]a", 1)])
    assert "[red]a" in recorder.export_text()
