"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fx_dagster.settings import Settings

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", help="Folder of everything that is written. Default: FX_HOME, else a per-user data folder."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document, for programs.")]


def settings_of(home: Path | None, given: "Mapping[str, str] | None" = None) -> "Settings":
    """Read the settings; ``home`` and the ``FX_…`` variables ``given`` win over the environment.

    Raises:
        SettingsError: a setting is unknown or impossible.
    """
    from fx_dagster.settings import load_settings

    place = {"FX_HOME": str(home.expanduser().absolute())} if home is not None else {}
    return load_settings({**(given or {}), **place})


def source_overrides(source: str, data: Path | None, symbols: str, home: Path | None) -> dict[str, str]:
    """Return the settings that the options of a source stand for."""
    given = {
        "FX_SOURCE_KIND": source,
        "FX_SOURCE_PATH": str(data.expanduser().absolute()) if data is not None else "",
        "FX_SOURCE_SYMBOLS": symbols,
        "FX_HOME": str(home.expanduser().absolute()) if home is not None else "",
    }
    return {name: value for name, value in given.items() if value}
