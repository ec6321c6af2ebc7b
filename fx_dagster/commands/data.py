"""``fx import``: a source's history into the lake."""

from pathlib import Path
from typing import Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, source_overrides


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("import", rich_help_panel="Data and evaluation")(import_data)


def import_data(
    source: Annotated[
        str, typer.Option(help="Market source: sample, mt5_export, histdata, dukascopy or simulator.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with the files of mt5_export or histdata.")] = None,
    symbols: Annotated[str, typer.Option(help="Comma-separated symbols; default: all that the source has.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load a source into the lake: ticks, bars, indicators, features and labels, with all their checks.

    The runs stay in Dagster. With `fx up` running elsewhere its servers are used, otherwise some are started for it.
    """
    from fx_dagster.commands.pipeline import Pipeline
    from fx_dagster.commands.with_dagster import run_launcher
    from fx_dagster.settings import load_settings
    from resources.lake import Lake
    from resources.market import open_source

    settings = load_settings(source_overrides(source, data, symbols, home))
    market = open_source(settings.source)
    for symbol, why in market.left_out().items():
        console.say(f"  {console.WARN} {symbol} left out: {why}")
    with run_launcher(settings) as launcher:
        pipeline = Pipeline(launcher, market)
        pipeline.ingest()
        pipeline.compute_features()
        checks = pipeline.checks()
    lake = Lake(settings.lake_url)
    rows = {
        table: {
            symbol: sum(lake.rows(table, **keys) for keys in lake.keys(table) if keys["symbol"] == symbol)
            for symbol in market.symbols()
        }
        for table in ("ticks", "bars", "features", "labels", "quarantine")
    }
    if as_json:
        passed = sum(check.passed for check in checks)
        console.print_json({"lake": settings.lake_url, "rows": rows, "checks": {"passed": passed, "of": len(checks)}})
        return
    console.table(
        ("symbol", *rows), [(symbol, *(f"{rows[table][symbol]:,}" for table in rows)) for symbol in market.symbols()]
    )
    warned = [check for check in checks if not check.passed]
    for check in warned:
        console.say(f"  {console.WARN} {check.symbol} {check.asset}, {check.check}: {check.description}")
    console.say(f"{console.GOOD} {len(checks) - len(warned)} of {len(checks)} checks passed · {settings.lake_url}")
