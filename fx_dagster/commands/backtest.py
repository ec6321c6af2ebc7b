"""``fx backtest``: the decision step over the lake's history, beside the traditional control."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, source_overrides

if TYPE_CHECKING:
    from fx_dagster.report.summary import BacktestSummary


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Data and evaluation")(backtest)


def backtest(
    source: Annotated[str, typer.Option(help="Source whose lake is read; default: FX_SOURCE_KIND.")] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with the files of mt5_export or histdata.")] = None,
    symbols: Annotated[str, typer.Option(help="Comma-separated symbols; default: all that the source has.")] = "",
    ticks: Annotated[
        bool, typer.Option("--ticks", help="Replay the stored ticks through the live session's own loop.")
    ] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Replay the live decision step over history with costs, beside the same step without models.

    Bar by bar, or with --ticks tick by tick: then every tick is decided, and orders are filled by the next quote. Needs
    the lake's bars, indicators and out-of-fold predictions: `fx demo` or the training job makes them. Risk, costs and
    combination are the FX_RISK_ and FX_COST_ settings, so that other ones can be tried without changing anything.
    """
    from assets.evaluation import compare_on_ticks, compare_with_control
    from assets.history import read_history
    from assets.run_shape import RunShape
    from fx_dagster.settings import load_settings
    from resources.lake import Lake
    from resources.live_feed import tick_spacing_s
    from resources.market import open_source

    settings = load_settings(source_overrides(source, data, symbols, home))
    market = open_source(settings.source)
    shape, lake = RunShape.of(market), Lake(settings.lake_url)
    if ticks:
        with console.step("Replaying system and control, tick by tick") as step:
            system, _, summary = compare_on_ticks(lake, shape, settings, tick_spacing_s=tick_spacing_s(market))
            step.result = f"{system.counts['total']['decisions']:,} decisions"
    else:
        with console.step("Reading the lake") as step:
            history = read_history(lake, shape, settings)
            step.result = f"{len(history.market.time):,} bars"
        with console.step("Replaying system and control"):
            _, _, summary = compare_with_control(history, settings)
    if as_json:
        console.print_json(summary.model_dump(mode="json"))
    else:
        _show(summary)


def _show(summary: "BacktestSummary") -> None:
    system, control = summary.system.model_dump(), summary.control.model_dump()
    rows = [(name.replace("_", " "), _text(name, system[name]), _text(name, control[name])) for name in system]
    console.out.print(f"{summary.start:%Y-%m-%d} to {summary.end:%Y-%m-%d}, out of fold, after costs", markup=False)
    console.table(("", "system", "control"), rows)


def _text(name: str, value: float | int | None) -> str:
    if value is None:
        return "–"
    if name in ("net_return", "max_drawdown", "win_rate"):
        return f"{value:+.2%}" if name == "net_return" else f"{value:.2%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"
