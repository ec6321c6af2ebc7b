"""The table of ``summary.json``'s keys, written from the models themselves into ``docs/report.md``."""

from datetime import datetime
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel

from fx_dagster.errors import DataError
from fx_dagster.report.summary import Accuracy, Interval, Latency, Performance, Summary

BEGIN, END = "<!-- keys: begin -->", "<!-- keys: end -->"

SHARED: tuple[type[BaseModel], ...] = (Performance, Accuracy, Latency, Interval)

_JSON_TYPES: dict[object, str] = {
    str: "string", int: "integer", float: "number", bool: "true/false", datetime: "time", AwareDatetime: "time"
}  # fmt: skip


def reference_rows(part: type[BaseModel] = Summary, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (key, type, description) of every key, depth first; an item of a list is written ``key[]``.

    The parts in ``SHARED`` are named, not opened: they occur in many places and have a table of their own.
    """
    rows: list[tuple[str, str, str]] = []
    for name, field in part.model_fields.items():
        kind, inner, many = _json_type(field.annotation)
        key = f"{prefix}{name}{'[]' if many else ''}"
        rows.append((key, kind, field.description or ""))
        if inner is not None and inner not in SHARED:
            rows += reference_rows(inner, f"{key}.")
    return rows


def _json_type(annotation: object) -> tuple[str, type[BaseModel] | None, bool]:
    """Return the JSON type in words, the part nested in it, and whether there are many of them."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _json_type(arguments[0])
    if origin in (Union, UnionType):
        kind, inner, many = _json_type(next(option for option in arguments if option is not NoneType))
        return f"{kind} or null", inner, many
    if origin is Literal:
        return ", ".join(f"`{option}`" for option in arguments), None, False
    if origin is tuple:
        kind, inner, _ = _json_type(arguments[0])
        return f"list of {kind}s", inner, True
    if origin is dict:
        return f"object of {_json_type(arguments[1])[0]}s", None, False
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        name = annotation.__name__.lower()
        return f"[{name}](#{name})" if annotation in SHARED else "object", annotation, False
    return _JSON_TYPES[annotation], None, False


def reference_markdown() -> str:
    """Return the keys as Markdown: one table for the whole, then one for each shared part."""
    sections = [_table(Summary)]
    sections += [f"### {part.__name__}\n\n{part.__doc__}\n\n{_table(part)}" for part in SHARED]
    return "\n\n".join(sections)


def _table(part: type[BaseModel]) -> str:
    lines = ["| key | type | meaning |", "| --- | --- | --- |"]
    lines += [f"| `{key}` | {kind} | {text.replace('|', '&#124;')} |" for key, kind, text in reference_rows(part)]
    return "\n".join(lines)


def with_reference(document: str) -> str:
    """Return the document with the table between its two marks renewed.

    Raises:
        DataError: a mark is missing.
    """
    head, begin, rest = document.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise DataError(f"docs/report.md: mark {BEGIN if not begin else END!r} is missing", mend="put it back")
    return f"{head}{BEGIN}\n\n{reference_markdown()}\n\n{END}{tail}"


def update_document(path: Path) -> None:
    """Renew the table in a document on disk."""
    path.write_text(with_reference(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    import sys

    update_document(Path(sys.argv[1]))
