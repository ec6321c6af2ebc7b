"""Parts of a page that a command renews: what stands between two markers of a name."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELIABILITY = ROOT / "docs" / "reliability.md"


def put_between(page: str, name: str, text: str) -> str:
    """Return a page with ``text`` between the markers of ``name``; where these are missing they come to its end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    block = f"{begin}\n{text.strip()}\n{end}"
    if begin in page and end in page:
        before, _, rest = page.partition(begin)
        return before + block + rest.partition(end)[2]
    return f"{page.rstrip()}\n\n{block}\n".lstrip()


def write_section(path: Path, name: str, text: str) -> None:
    """Renew the part of a page between the markers of ``name``."""
    path.write_text(put_between(path.read_text() if path.exists() else "", name, text))
