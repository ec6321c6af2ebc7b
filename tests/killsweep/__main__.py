"""``python -m tests.killsweep``: a live engine is killed with SIGKILL at every point of an order's way.

PostgreSQL, the bridge and its worker are real processes, the terminal is the simulated one in a process of its own. The
engine's order path is that of production, in a process that kills itself (or is killed) at the point; another process
then takes up as after any crash, decides the same once more, and goes on until nothing is in doubt. The verdict is read
from the terminal's own books and from PostgreSQL. Exit code 1: a fault was found; the command for each one is shown.
"""

import argparse
import datetime as dt
import signal
import sys

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from bench.sections import RELIABILITY, write_section
from tests.killsweep.cases import Case, Point, cases
from tests.killsweep.sweep import COMMAND, Result, run


def _points(text: str) -> tuple[Point, ...]:
    if text == "all":
        return tuple(Point)
    try:
        return tuple(Point[name.strip().upper()] for name in text.split(","))
    except KeyError as error:
        known = ", ".join(point.name.lower() for point in Point)
        raise argparse.ArgumentTypeError(f"{error.args[0].lower()} is no point; there are: {known}") from None


def _case(text: str) -> Case:
    try:
        return Case.named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--repeats", type=int, default=12, help="of each point, operation and outcome (default: 12)")
    parser.add_argument("--points", type=_points, default=tuple(Point), help="comma-separated, or all (default)")
    parser.add_argument("--case", type=_case, action="append", help="one case: point/operation/outcome/repeat")
    parser.add_argument("--slots", type=int, default=3, help="cases at once (default: 3)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="end after that long (default: never)")
    parser.add_argument("--write", action="store_true", help=f"put the result into {RELIABILITY.name}")
    given = parser.parse_args()
    if given.repeats < 1 or given.slots < 1:
        parser.error("--repeats and --slots are 1 or more")
    return given


def _sweep(todo: list[Case], given: argparse.Namespace, console: Console) -> Result:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("killed and taken up", total=len(todo))

        def tell(result: Result, case: Case) -> None:
            progress.advance(bar)
            for text in result.faults().get(case, []):
                progress.console.print(f"[red]{escape(text)}[/]\n  again: {COMMAND} --case {case.name}")

        return run(todo, slots=given.slots, tell=tell, minutes=given.minutes)


def main() -> int:
    """Run the sweep of the command line."""
    given, console = _asked(), Console()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    console.width = max(console.width, 130)
    result = _sweep(given.case or cases(given.repeats, given.points), given, console)
    head, rows = result.table(short=True)
    table = Table(*head)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    faults = result.faults()
    if given.write:
        when = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
        write_section(RELIABILITY, "killsweep", result.markdown(f"{COMMAND} {' '.join(sys.argv[1:])}", when))
    for case in faults:
        console.print(f"again: {COMMAND} --case {case.name}", soft_wrap=True, markup=False)
    console.print(result.line(), soft_wrap=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
