"""The table of faults in docs/reliability.md, made from faults.toml: ``python -m tests.fault_table --write``."""

import argparse
import ast
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.sections import RELIABILITY, put_between

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "faults.toml"
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


def main() -> int:
    """Write the page, or say whether it is as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="renew docs/reliability.md")
    wanted = parser.parse_args()
    there = RELIABILITY.read_text(encoding="utf-8")
    renewed = put_between(there, "faults", markdown(faults()))
    if wanted.write:
        RELIABILITY.write_text(renewed, encoding="utf-8")
    return 0 if wanted.write or renewed == there else 1


if __name__ == "__main__":
    sys.exit(main())
