from pathlib import Path

from bench.page import machine, text
from bench.table import Figure, Limit, Row

GOOD = Row("fast work", Figure(1.0, 1.0, 1.0), "µs", Limit(2.0), note="of what", tried="what was tried")
BAD = Row("slow work", Figure(3.0, 3.0, 3.0), "µs", Limit(2.0), tried="where the time goes")


def test_what_was_tried_is_told_only_where_a_limit_is_not_kept():
    page = text([GOOD], {"processor": "one"})
    assert "Not reached" not in page
    assert "what was tried" not in page
    page = text([GOOD, BAD], {"processor": "one"})
    assert "## Not reached\n\n- **slow work**: where the time goes" in page
    assert "what was tried" not in page


def test_the_page_has_machine_table_notes_and_what_is_missing():
    page = text([GOOD], {"processor": "one"}, ["live: no server"])
    assert "| processor | one |" in page
    assert "| fast work | 1.00 µs | – | – | – | ≤ 2 | yes |" in page
    assert "- **fast work**: of what" in page
    assert "- live: no server" in page


def test_the_machine_is_described_without_its_paths():
    facts = machine()
    assert facts["processor"]
    assert not any(str(folder) in "".join(facts.values()) for folder in (Path.home(), Path.cwd()))
