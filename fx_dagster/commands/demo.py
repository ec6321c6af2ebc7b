"""``fx demo``: the whole way once, on real data, and what came of it."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, source_overrides

if TYPE_CHECKING:
    from fx_dagster.commands.live_watch import LiveOutcome
    from fx_dagster.market.source import MarketSource
    from fx_dagster.report.summary import Summary
    from fx_dagster.settings import Settings
    from resources.servers.group import ServerGroup

REPLAY_S = 75.0
"""Wall-clock seconds into which the live session's market time is pressed."""

REPLAY_BARS_MAX = 600
"""Most base bars that are replayed: a decision each."""

REPLAY_DAYS_MAX = 28.0


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Start here")(demo)


def demo(
    source: Annotated[
        str, typer.Option(help="Market source: sample, mt5_export, histdata, dukascopy or simulator.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Folder with the files of mt5_export or histdata.")] = None,
    symbols: Annotated[str, typer.Option(help="Comma-separated symbols; default: all that the source has.")] = "",
    kill_triton: Annotated[
        bool, typer.Option(help="Kill Triton in the middle of the live session, to see it fall back and recover.")
    ] = True,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the whole way once: real data to bars, features, models, a release on Triton, a backtest and a live session.

    Starts its own servers, on this machine only, and ends them. Everything it did stays in Dagster: `fx up` shows it.
    Writes a report for the browser and summary.json below FX_HOME/reports/latest.
    """
    from resources.market import open_source

    stopwatch = Stopwatch()
    settings = run_settings("demo", source, data, symbols, home)
    market = open_source(settings.source)
    settings = with_replay(settings, market)
    introduce("fx demo", settings, market)
    summary = _run(settings, market, stopwatch, kill_triton=kill_triton)
    _conclude(summary, as_json=as_json)


@dataclass
class Stopwatch:
    """Seconds by step, in the order in which they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Measure a step."""
        began = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - began


def run_settings(command: str, source: str, data: Path | None, symbols: str, home: Path | None) -> "Settings":
    """Read the settings with what the command line says, and an account of this run's own.

    Raises:
        SettingsError: a setting is unknown or impossible.
    """
    from fx_dagster.settings import load_settings

    overrides = {"FX_LIVE_ACCOUNT": f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"}
    overrides |= source_overrides(source, data, symbols, home)
    # A beat in ten seconds is right for a day, not for a minute.
    overrides["FX_LIVE_HEARTBEAT_S"] = os.environ.get("FX_LIVE_HEARTBEAT_S", "3")
    return load_settings(overrides)


def with_replay(settings: "Settings", market: "MarketSource") -> "Settings":
    """Choose how much is replayed and how fast, unless the environment says so."""
    from fx_dagster.market.timeframes import DAY_NS
    from fx_dagster.settings import load_settings

    # Five of seven days have bars.
    days = min(REPLAY_DAYS_MAX, REPLAY_BARS_MAX * market.base_timeframe().nominal_ns / DAY_NS * 7 / 5)
    days = float(os.environ.get("FX_LIVE_REPLAY_DAYS", days))
    speed = float(os.environ.get("FX_LIVE_REPLAY_SPEED", days * 86_400 / REPLAY_S))
    return load_settings(
        {**settings.environment(), "FX_LIVE_REPLAY_DAYS": f"{days:g}", "FX_LIVE_REPLAY_SPEED": f"{speed:g}"}
    )


def introduce(command: str, settings: "Settings", market: "MarketSource") -> None:
    """Say what is about to be run, on what, and what is left out."""
    symbols = market.symbols()
    named = ", ".join(symbols[:8]) + (f" and {len(symbols) - 8} more" if len(symbols) > 8 else "")
    console.say(f"[bold]{command}[/bold] · {market.name} · {named} · {market.base_timeframe()}")
    for symbol, why in market.left_out().items():
        console.say(f"  {console.WARN} {symbol} left out: {why}")
    console.say(f"  [dim]everything is written below {settings.home}[/dim]")


def _run(settings: "Settings", market: "MarketSource", stopwatch: Stopwatch, *, kill_triton: bool) -> "Summary":
    from fx_dagster.commands.demo_report import write_report
    from fx_dagster.commands.live_watch import hold, watch_session
    from fx_dagster.commands.pipeline import Pipeline
    from resources.dagster_runs import RunLauncher, open_instance

    group = server_group(settings, on_dagster=hold)
    try:
        with stopwatch.time("servers"), console.step("Starting PostgreSQL, Valkey, Triton and Dagster") as step:
            group.start()
            step.result = "on loopback only"
        children = group.settings_for_children()
        with open_instance(children) as instance:
            launcher = RunLauncher(instance, host="127.0.0.1", port=children.ui.port)
            pipeline = Pipeline(launcher, market)
            for name, part in pipeline.parts():
                with stopwatch.time(name):
                    part()
            with stopwatch.time("live session"):
                outcome: LiveOutcome = watch_session(children, group, kill_triton=kill_triton)
            with stopwatch.time("report"), console.step("Writing the report") as step:
                summary = write_report(children, market, pipeline.checks(), outcome, stopwatch.seconds)
                step.result = summary.places.html
    finally:
        with console.step("Ending the servers"):
            group.stop()
    return summary


def server_group(settings: "Settings", on_dagster: "Callable[[Settings], None]" = lambda _: None) -> "ServerGroup":
    """Return the servers of a command, not yet started; ``on_dagster`` is called before Dagster's sensors run."""
    from fx_dagster.commands.servers import load_active_release, show_event
    from resources.servers.group import ServerEvent, ServerGroup

    group: ServerGroup

    def tell(event: ServerEvent) -> None:
        if event.server == "Dagster code" and event.kind == "starting":
            # PostgreSQL's tables are there, Dagster's sensor not yet.
            on_dagster(group.settings_for_children())
        if event.kind not in ("stopping", "stopped"):
            show_event(event)

    group = ServerGroup(settings, on_event=tell, on_triton_start=load_active_release)
    return group


def _conclude(summary: "Summary", *, as_json: bool) -> None:
    from fx_dagster.report.console import summary_renderables

    if as_json:
        console.print_json(summary.model_dump(mode="json"))
        return
    for part in summary_renderables(summary):
        console.out.print(part, soft_wrap=True)
