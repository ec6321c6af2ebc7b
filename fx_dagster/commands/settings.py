"""``fx settings``: every setting, its value and where it may be changed; and the page ``docs/settings.md``.

``fx settings --markdown > docs/settings.md`` writes the page; a test holds the two equal.
"""

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, settings_of

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

_HOME_DEFAULT = "a per-user data folder; root: /var/lib/fx_dagster"
_INTRODUCTION = """# Settings

<!-- Written by `fx settings --markdown > docs/settings.md`; a test fails when it is out of date. -->

Settings are environment variables. They are read once, when a command starts; an unknown `FX_` variable, a value out
of bounds or not a number is refused with its name. `fx settings` shows the values in force, `fx doctor` checks them.
Secrets (the URLs with a password) come from the environment only, and are shown nowhere.

Dagster's own commands need, beside these, `DAGSTER_HOME` (an absolute folder with this project's `dagster.yaml`),
`DAGSTER_LOCAL_FOLDER` (where logs of steps are kept), and `FX_POSTGRES_URL` of a running server. `fx env` prints them
all for the servers that run. `dagster dev` has a daemon of its own, so start the servers without ours, and in another
terminal, in the folder of this repository:

```sh
fx up --no-dagster
```

```sh
eval "$(fx env)" && dagster dev
```
"""


@dataclass(frozen=True)
class Setting:
    """One setting: its variable, what it may be, what it is, and what it means."""

    name: str
    default: str
    allowed: str
    value: str
    meaning: str


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Help")(settings)


def settings(
    home: HomeOption = None,
    as_json: JsonOption = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """Show every setting with its value in force. Changed ones are marked."""
    if markdown:
        typer.echo(page(), nl=False)
        return
    rows = [row for _, _, rows in _sections(settings_of(home)) for row in rows]
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    shown = [("*" if row.name in os.environ else "", row.name, row.value, row.meaning) for row in rows]
    console.table(("", "setting", "value", "meaning"), shown)


def page() -> str:
    """Return the text of ``docs/settings.md``, which depends on nothing but the code."""
    parts = [_INTRODUCTION]
    for title, text, rows in _sections(None):
        parts.append(
            f"\n## {title}\n\n{text}\n\n| variable | default | may be | meaning |\n| --- | --- | --- | --- |\n"
        )
        parts += [f"| `{row.name}` | {_code(row.default)} | {row.allowed} | {_cell(row.meaning)} |\n" for row in rows]
    return "".join(parts)


def _code(text: str) -> str:
    return f"`{_cell(text)}`" if text and text != _HOME_DEFAULT else text


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sections(current: "BaseSettings | None") -> Iterator[tuple[str, str, list[Setting]]]:
    """Yield title, text and settings of each group; values are empty without ``current``."""
    from pydantic_settings import BaseSettings

    from fx_dagster.settings import Settings

    top: list[Setting] = []
    groups: list[tuple[str, str, list[Setting]]] = []
    for name, field in Settings.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            rows = _group(kind, f"FX_{name.upper()}_", getattr(current, name) if current else None)
            groups.append((name.capitalize(), kind.__doc__ or "", rows))
        else:
            top += [row for row in _group(Settings, "FX_", current) if row.name == f"FX_{name.upper()}"]
    yield "General", "Where everything is kept, and how much is told.", top
    yield from groups


def _group(group: "type[BaseSettings]", prefix: str, current: "BaseSettings | None") -> list[Setting]:
    from pydantic_settings import BaseSettings

    schemas = group.model_json_schema()["properties"]
    rows = []
    for name, field in group.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseSettings):
            continue
        default = _HOME_DEFAULT if prefix + name == "FX_home" else _text(field.get_default(call_default_factory=True))
        value = _text(getattr(current, name)) if current is not None else ""
        rows.append(
            Setting(f"{prefix}{name.upper()}", default, _allowed(schemas[name]), value, field.description or "")
        )
    return rows


def _text(value: Any) -> str:
    """Return a value for reading; a secret is only said to be set."""
    if hasattr(value, "get_secret_value"):
        return "(set)" if value.get_secret_value() else ""
    return "" if value is None else str(value)


def _allowed(schema: dict[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    if "anyOf" in schema:
        return " or ".join(_allowed(one) for one in schema["anyOf"] if one.get("type") != "null")
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    bounds = [
        f"{sign} {schema[key]:g}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
        if key in schema
    ]
    if "pattern" in schema:
        bounds.append(f"matching `{_cell(schema['pattern'])}`")
    kinds = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`True` or `False`"}
    kind = kinds.get(schema.get("type", ""), "text")
    kind = "absolute path" if schema.get("format") == "path" else kind
    kind = "secret" if schema.get("format") == "password" else kind
    return " ".join((kind, ", ".join(bounds))).strip()
