"""Plant one bug after the other in copies of the project, and see a test fail: ``python -m tests.plants``.

A copy has the same files without the environment and the caches of others; a plant changes one file of it, runs the
tests that must notice, and puts the file back. What no test notices is listed, and the exit code is 1.
"""

import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bench.sections import write_section

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "testing.md"
BEGIN, END = "<!-- plants: begin -->", "<!-- plants: end -->"
DEADLINE_S = 900
_IGNORED = shutil.ignore_patterns(
    ".git", ".venv", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", "build"
)
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)
_console = Console()


@dataclass(frozen=True)
class Plant:
    """One planted bug: ``old`` in ``file`` becomes ``new``, and one of ``tests`` must fail."""

    kind: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What became of a plant: the test that caught it, empty where none did."""

    plant: Plant
    caught_by: str
    seconds: float


def plants() -> list[Plant]:
    """Read the plants."""
    rows = tomllib.loads(Path(__file__).with_name("plants.toml").read_text())["plant"]
    return [Plant(**{**row, "tests": tuple(row["tests"])}) for row in rows]


@contextmanager
def planted(copy: Path, plant: Plant) -> Iterator[None]:
    """Change the file for as long as the tests run."""
    file = copy / plant.file
    text = file.read_text()
    if text.count(plant.old) != 1:
        raise typer.BadParameter(f"{plant.file}: {plant.old!r} is there {text.count(plant.old)} times, not once")
    file.write_text(text.replace(plant.old, plant.new))
    try:
        yield
    finally:
        file.write_text(text)


def judge(copy: Path, plant: Plant) -> Outcome:
    """Run the tests on a copy with the plant."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *plant.tests]
    with planted(copy, plant):
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    found = _FAILED.search(done.stdout)
    return Outcome(plant, found[1] if done.returncode == 1 and found else "", time.monotonic() - began)


def judge_all(chosen: Sequence[Plant], workers: int) -> list[Outcome]:
    """Judge plants on as many copies as there are workers; each is said as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="fx-plants-") as folder:
        copies: Queue[Path] = Queue()
        for number in range(workers):
            copies.put(Path(shutil.copytree(ROOT, Path(folder) / str(number), ignore=_IGNORED)))

        def one(plant: Plant) -> Outcome:
            copy = copies.get()
            try:
                outcome = judge(copy, plant)
            finally:
                copies.put(copy)
            mark = "[green]✓[/green]" if outcome.caught_by else "[red]✗ not caught[/red]"
            _console.print(
                f"{mark} {plant.file}  {outcome.caught_by}  [dim]{outcome.seconds:.0f} s[/dim]", soft_wrap=True
            )
            return outcome

        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, chosen))


def _row(outcome: Outcome) -> tuple[str, str]:
    """Return a table's row: what the plant is, and what caught it."""
    plant = outcome.plant
    caught = f"`{outcome.caught_by}`" if outcome.caught_by else "**nothing**"
    return f"| {plant.kind} | `{plant.file}` | {_code(plant.old)} | {_code(plant.new)} |", f" {caught} |"


def page_table(outcomes: Sequence[Outcome], before: Sequence[str] = ()) -> str:
    """Return the outcomes as Markdown, in place of their rows in the table ``before``, whose others stay."""
    rows = dict(map(_row, outcomes))
    lines = [line for line in before if not line.startswith(tuple(rows))]
    head = ["| plant | file | is | becomes | caught by |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*(lines or head), *(is_ + caught for is_, caught in rows.items())])


def _code(text: str) -> str:
    return "`" + " ⏎ ".join(line.strip() for line in text.strip().splitlines()).replace("|", "\\|") + "`"


def write_page(outcomes: Sequence[Outcome]) -> None:
    """Put the outcomes into the table of the page about testing."""
    table = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    write_section(PAGE, "plants", page_table(outcomes, table.strip().splitlines()))


def main(
    only: Annotated[str, typer.Option(help="Only plants whose file or kind contains this.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="How many at a time.")] = 2,
    write: Annotated[bool, typer.Option("--write", help="Write the table into docs/testing.md.")] = False,
) -> None:
    """Plant bugs in copies of the project and see that tests catch each."""
    chosen = [plant for plant in plants() if only in plant.file or only in plant.kind]
    outcomes = judge_all(chosen, workers)
    missed = [one.plant for one in outcomes if not one.caught_by]
    table = Table("kind", "plants", "caught")
    for kind in sorted({plant.kind for plant in chosen}):
        of_kind = [one for one in outcomes if one.plant.kind == kind]
        table.add_row(kind, str(len(of_kind)), str(sum(bool(one.caught_by) for one in of_kind)))
    _console.print(table)
    if write:
        write_page(outcomes)
    for plant in missed:
        _console.print(f"[red]not caught[/red] {plant.file}: {plant.old!r} → {plant.new!r}", soft_wrap=True)
    raise typer.Exit(1 if missed else 0)


if __name__ == "__main__":
    typer.run(main)
