"""Parts of a page are renewed, and nothing else of it is touched."""

from pathlib import Path

from bench.sections import put_between, write_section

BLOCK = "<!-- one: begin -->\n{}\n<!-- one: end -->"


def test_a_part_is_put_between_its_markers_and_nothing_else_is_touched() -> None:
    page = f"# Page\n\nbefore\n{BLOCK.format('old')}\n\n## after\n<!-- two: begin -->\n<!-- two: end -->\n"
    assert put_between(page, "one", "new\n") == page.replace("old", "new")
    assert put_between(put_between(page, "one", "new"), "one", "new") == put_between(page, "one", "new")


def test_a_page_without_the_markers_gets_them_at_its_end(tmp_path: Path) -> None:
    file = tmp_path / "page.md"
    write_section(file, "one", "text")
    assert file.read_text() == BLOCK.format("text") + "\n"
    assert put_between("# Page\n", "one", "text") == f"# Page\n\n{BLOCK.format('text')}\n"
