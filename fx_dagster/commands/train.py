"""``fx train``: data, features, every model, a release and its backtests, without a live session."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.demo import Stopwatch, introduce, run_settings, server_group
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from fx_dagster.market.source import MarketSource
    from fx_dagster.models.release import ReleaseManifest
    from fx_dagster.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Data and evaluation")(train)


def train(
    source: Annotated[
        str, typer.Option(help="Market source: sample, mt5_export, histdata, dukascopy or simulator.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with the files of mt5_export or histdata.")] = None,
    symbols: Annotated[str, typer.Option(help="Comma-separated symbols; default: all that the source has.")] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load the data, fit and judge every model, build a release and backtest it.

    The first release answers at once; a later one goes to shadow, and `fx release promote` lets it answer. Starts
    its own servers, on this machine only, and ends them. Everything it did stays in Dagster: `fx up` shows it.
    """
    from resources.market import open_source

    stopwatch = Stopwatch()
    settings = run_settings("train", source, data, symbols, home)
    market = open_source(settings.source)
    introduce("fx train", settings, market)
    manifest = _run(settings, market, stopwatch)
    if as_json:
        console.print_json({**_plain(manifest), "seconds": stopwatch.seconds})
        return
    _show(manifest)


def _run(settings: "Settings", market: "MarketSource", stopwatch: Stopwatch) -> "ReleaseManifest":
    from fx_dagster.commands.live_watch import hold
    from fx_dagster.commands.pipeline import Pipeline
    from resources.dagster_runs import RunLauncher, open_instance
    from resources.model_repository import ModelRepository

    group = server_group(settings, on_dagster=hold)
    try:
        with stopwatch.time("servers"), console.step("Starting PostgreSQL, Valkey, Triton and Dagster") as step:
            group.start()
            step.result = "on loopback only"
        children = group.settings_for_children()
        with open_instance(children) as instance:
            pipeline = Pipeline(RunLauncher(instance, host="127.0.0.1", port=children.ui.port), market)
            for name, part in pipeline.parts():
                with stopwatch.time(name):
                    part()
    finally:
        with console.step("Ending the servers"):
            group.stop()
    repository = ModelRepository.of(settings)
    return repository.manifest(repository.versions()[-1])


def _plain(manifest: "ReleaseManifest") -> dict[str, Any]:
    return {"release": manifest.version, "models": list(manifest.models), "metrics": dict(manifest.metrics)}


def _show(manifest: "ReleaseManifest") -> None:
    rows = []
    for name in manifest.models:
        found = manifest.metrics[name]["out_of_fold"]
        interval = f"{found['accuracy_low']:.2%} to {found['accuracy_high']:.2%}"
        rows.append(
            (
                name, f"{found['rows']:,}", f"{found['accuracy']:.2%}", interval, f"{found['majority_accuracy']:.2%}",
                f"{found['break_even_accuracy']:.2%}", f"{found['log_loss']:.4f}", f"{found['base_log_loss']:.4f}",
            )
        )  # fmt: skip
    console.out.print(f"Release {manifest.version}: bars that no model had seen", markup=False)
    console.table(("model", "bars", "right", "95 %", "majority", "break-even", "log-loss", "of base rate"), rows)
