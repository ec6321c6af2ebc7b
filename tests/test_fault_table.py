"""Every fault has its tests, the tests are there, and the page shows the table as it is."""

import re

from bench.sections import RELIABILITY, put_between
from tests.fault_table import Fault, faults, markdown, missing


def test_every_fault_has_its_row_once() -> None:
    assert [row.number for row in faults()] == list(range(1, 61))


def test_every_test_that_is_named_is_there() -> None:
    assert missing(faults()) == []


def test_a_test_that_is_not_there_is_named() -> None:
    rows = [Fault(1, "a", "b", ("tests/test_fault_table.py::test_x", "tests/nowhere.py::test_y"))]
    assert missing(rows) == ["tests/test_fault_table.py::test_x", "tests/nowhere.py::test_y"]


def test_rows_are_cells() -> None:
    for row in faults():
        assert not re.search(r"[|\n]", row.fault + row.expected), row.number
        assert len(set(row.tests)) == len(row.tests), row.number


def test_the_page_shows_the_table() -> None:
    page = RELIABILITY.read_text(encoding="utf-8")
    assert put_between(page, "faults", markdown(faults())) == page, "python -m tests.fault_table --write"
