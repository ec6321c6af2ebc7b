"""``python -m bench``: measure, show one table, and write ``docs/benchmarks.md``.

Exit codes: 0 measured, whatever was reached; 1 a group could not be measured; 2 wrong usage.
"""

import importlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench import page
from bench.peers import FREQTRADE, NAUTILUS, POLARS, VECTORBT, Environment, Peers
from bench.session import Session
from bench.table import COLUMNS, Row, cells
from fx_dagster.commands import console
from fx_dagster.errors import FxError

GROUPS: dict[str, tuple[Environment, ...]] = {
    "indicators": (NAUTILUS,),
    "bars": (POLARS,),
    "replays": (NAUTILUS, FREQTRADE),
    "signals": (VECTORBT,),
    "growth": (),
    "decision": (),
    "live": (),
}
"""Modules of this package by name, in the order of the table, and the environments that their rivals need."""
ON_SERVERS: dict[str, tuple[Environment, ...]] = {"serving": (), "blue_green": ()}
"""The same of those that measure models on servers of their own."""
ALL = GROUPS | ON_SERVERS
HOME, TEST_DATA = "FX_BENCH_HOME", "FX_TEST_DATA"
PLAIN_WIDTH = 200
"""Columns of the table where no terminal says how many there are."""


def main(
    quick: Annotated[bool, typer.Option(help="A tenth of the work; writes nothing.")] = False,
    only: Annotated[list[str] | None, typer.Option(help=f"Groups of {', '.join(ALL)}; writes nothing.")] = None,
    live_minutes: Annotated[float, typer.Option(help="Of the longest live session; 0: no live rows.", min=0.0)] = 10.0,
) -> None:
    """Measure this project beside its peers, show one table, and write docs/benchmarks.md."""
    chosen = _chosen(only or ALL, live_minutes)
    session, facts = _session(quick=quick), page.machine()
    _install(session.peers, chosen)
    rows: list[Row] = []
    failures: list[str] = []
    for group in chosen:
        with console.step(f"Measuring {group}") as step:
            session.note = step.note
            try:
                for row in _rows(group, session, live_minutes):
                    rows.append(row)
                    step.line(" · ".join((row.work, cells(row)[0][1])))
            except FxError as error:
                failures.append(f"{group}: {error}")
                step.result = str(error)
    _show(rows)
    if not (quick or only):
        page.PAGE.write_text(page.text(rows, facts, failures), encoding="utf-8")
        console.say(f"{console.GOOD} docs/benchmarks.md is written")
    raise typer.Exit(1 if failures else 0)


def _chosen(names: Iterable[str], live_minutes: float) -> list[str]:
    unknown = sorted(set(names) - set(ALL))
    if unknown:
        raise typer.BadParameter(f"no group {unknown[0]}; there are {', '.join(ALL)}", param_hint="--only")
    return [group for group in ALL if group in set(names) and (group != "live" or live_minutes > 0.0)]


def _session(*, quick: bool) -> Session:
    """Read both variables and take them out of the environment, where a session of the project would refuse them."""
    home, data = os.environ.pop(HOME, ""), os.environ.pop(TEST_DATA, "")
    return Session(quick, Path(data) if data else None, peers=Peers(Path(home)) if home else Peers())


def _install(peers: Peers, groups: Sequence[str]) -> None:
    """Make the rivals' environments, each of which takes a minute or two the first time."""
    for environment in dict.fromkeys(one for group in groups for one in ALL[group]):
        with console.step(f"Environment of {environment.pins[0].replace('==', ' ')}") as step:
            step.result = peers.missing(environment)


def _show(rows: Sequence[Row]) -> None:
    shown = Table(*COLUMNS, box=None, header_style="bold", pad_edge=False)
    for line in (line for row in rows for line in cells(row)):
        shown.add_row(*map(escape, line))
    screen = console.out if console.out.is_terminal else Console(width=PLAIN_WIDTH, highlight=False)
    screen.print(shown)


def _rows(group: str, session: Session, live_minutes: float) -> Iterable[Row]:
    module = importlib.import_module(f"bench.{group}")
    found: Iterable[Row] = module.rows(live_minutes) if group == "live" else module.rows(session)
    return found


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    app(prog_name="make bench")
