"""The table of faults in docs/reliability.md, made from faults.toml: ``python -m tests.fault_table --write``."""

import argparse
import ast
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE, PAGE = ROOT / "tests" / "faults.toml", ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- faults: begin -->", "<!-- faults: end -->"
FIELDS = {"number", "fault", "expected", "tests"}


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, what then happens, and the ids of the tests that prove it."""

    number: int
    fault: str
    expected: str
    tests: tuple[str, ...]


def faults(path: Path = TABLE) -> list[Fault]:
    """Return the table's rows in their order.

    Raises:
        ValueError: a row has other fields than it should.
    """
    found = []
    for row in tomllib.loads(path.read_text(encoding="utf-8"))["fault"]:
        if set(row) != FIELDS or not all(row.values()):
            raise ValueError(f"{path.name}: fault {row.get('number')} has the fields {sorted(row)}")
        found.append(Fault(row["number"], row["fault"], row["expected"], tuple(row["tests"])))
    return found


@cache
def tests_of(file: str) -> frozenset[str]:
    """Return the names of the tests in a file, relative to the repository; none where there is no such file."""
    path = ROOT / file
    if not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    )


def missing(rows: list[Fault]) -> list[str]:
    """Return the test ids that name no test."""
    ids = [test for row in rows for test in row.tests]
    return [one for one in ids if one.partition("::")[2] not in tests_of(one.partition("::")[0])]


def markdown(rows: list[Fault]) -> str:
    """Return the table as Markdown."""
    lines = [
        "## Faults",
        "",
        f"{len(rows)} things that go wrong, and what then happens. Each is proven against the production code by the"
        " tests named: `tests/faults.toml`, which makes this table (`python -m tests.fault_table --write`).",
        "",
        "| # | fault | what happens | tests |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        names = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in row.tests)
        lines.append(f"| {row.number} | {row.fault} | {row.expected} | {names} |")
    return "\n".join(lines)


def with_table(page: str, table: str) -> str:
    """Return a page with the table between its marks, which are added where it has none."""
    if BEGIN not in page or END not in page:
        page = f"{page.rstrip() or '# Reliability'}\n\n{BEGIN}\n{END}\n"
    head, _, rest = page.partition(BEGIN)
    return f"{head}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}"


def main() -> int:
    """Write the page, or say whether it is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/reliability.md")
    wanted = parser.parse_args()
    there = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
    renewed = with_table(there, markdown(faults()))
    if wanted.write:
        PAGE.write_text(renewed, encoding="utf-8")
    return 0 if wanted.write or renewed == there else 1


if __name__ == "__main__":
    sys.exit(main())
