"""What the product writes cannot act on whoever opens it: no spreadsheets, and SQL only with parameters."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("fx_dagster", "resources", "assets")
SPREADSHEETS = {"to_csv", "to_excel", "write_csv", "DictWriter", "ExcelWriter", "to_clipboard"}
"""A cell that begins with ``= + - @`` is a formula to whoever opens the table: none is written."""
QUOTED = {
    "resources/lake.py": "DuckDB takes no parameters for paths and names of views; both pass a check and are quoted",
    "resources/servers/postgres.py": "the database's name is a constant",
    "assets/research.py": "the schema's name is a constant",
}


@cache
def calls() -> tuple[tuple[str, ast.Call, str], ...]:
    """Return every call of the product: its file, itself, and the name that is called."""
    return tuple(_calls())


def _calls() -> Iterator[tuple[str, ast.Call, str]]:
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                    yield path.relative_to(ROOT).as_posix(), node, name


def test_no_spreadsheet_is_written() -> None:
    found = [f"{path}:{node.lineno}" for path, node, name in calls() if name in SPREADSHEETS]
    found += [
        f"{path}:{node.lineno}"
        for path, node, name in calls()
        if name == "writer" and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "csv"
    ]
    assert found == [], "escape a leading = + - @ in every cell, then say so here"


def test_values_never_become_part_of_a_statement() -> None:
    found = []
    for path, node, name in calls():
        if name not in ("execute", "executemany") or not node.args or path in QUOTED:
            continue
        statement = node.args[0]
        if any(isinstance(part, ast.JoinedStr | ast.Mod) for part in ast.walk(statement)):
            found.append(f"{path}:{node.lineno}")
    assert found == []
    assert all((ROOT / path).exists() for path in QUOTED)


def test_nothing_is_unpickled() -> None:
    found = []
    for path, node, name in calls():
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        unpickles = name in ("load", "loads", "Unpickler") and owner in ("pickle", "cPickle", "dill", "joblib", "torch")
        allows = any(
            word.arg == "allow_pickle" and not (isinstance(word.value, ast.Constant) and word.value.value is False)
            for word in node.keywords
        )
        if unpickles or allows or name == "read_pickle":
            found.append(f"{path}:{node.lineno}")
    assert found == []
