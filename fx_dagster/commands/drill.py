"""``fx drill``: faults made on purpose, to see that the installation stands them."""

import getpass
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.markup import escape

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings
from fx_dagster.commands.options import HomeOption, JsonOption

LIST, LOG = "list", "log"
_MARKS = {True: console.GOOD, False: console.BAD, None: console.WARN}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Trading")(drill)


def drill(
    name: Annotated[str, typer.Argument(help="Of a drill; list shows them all, log those that were run.")] = LIST,
    real_account: Annotated[
        str, typer.Option("--real-account", help="Name of a real account, to run it there all the same.")
    ] = "",
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Break something on purpose and see whether it comes back: a server, the engine, the kill switch.

    Against the servers that fx up runs in this home, and the live session of its account, on paper or a demo account.
    What was stopped goes on afterwards in any case; each drill leaves a record. Exit code 1: not all was as expected.
    """
    from fx_dagster.errors import SettingsError
    from resources.drills.runner import LocalDrills

    drills = LocalDrills(attached_settings(home), real_account=real_account, on_step=_say_step)
    if name == LIST:
        _show_list(drills, as_json=as_json)
        return
    if name == LOG:
        _show_log(home, as_json=as_json)
        return
    try:
        result = drills.carry_out(name, by_whom=getpass.getuser())
    except KeyError:
        known = ", ".join(one.name for one in drills.list())
        raise SettingsError(f"there is no drill {name!r} here", mend=f"one of {known}") from None
    if as_json:
        console.print_json(asdict(result))
    else:
        rows = [(_word(check.passed), check.what, check.seen) for check in result.checks]
        console.table(("", "expected", "seen"), rows)
    mark = _MARKS[result.passed]
    verdict = "passed" if result.passed else "not passed"
    console.say(f"{mark} Drill {name} {verdict} after {result.seconds:.1f} s [dim]· record {result.id}[/dim]")
    if not result.passed:
        raise typer.Exit(1)


def _say_step(text: str) -> None:
    console.say(f"  [dim]{escape(text)}[/dim]")


def _word(passed: bool | None) -> str:
    return {True: "ok", False: "NOT", None: "unseen"}[passed]


def _show_list(drills: Any, *, as_json: bool) -> None:
    rows = drills.list()
    if as_json:
        console.print_json([asdict(one) for one in rows])
    else:
        console.table(("drill", "does", "expected"), [(one.name, one.what, one.expected) for one in rows])


def _show_log(home: Any, *, as_json: bool) -> None:
    from resources.drill_store import DrillStore
    from resources.postgres import migrate

    settings = attached_settings(home)
    url = settings.postgres.url.get_secret_value()
    migrate(url)
    rows = DrillStore(url).newest(settings.live.account)
    if as_json:
        console.print_json([asdict(row) for row in rows])
        return
    shown = [
        (
            row.id, f"{row.started_at:%Y-%m-%d %H:%M:%S}", row.name, row.by_whom,
            "cut off" if row.passed is None else "passed" if row.passed else "NOT passed",
            "–" if row.seconds is None else f"{row.seconds:.1f}", row.text,
        )
        for row in rows
    ]  # fmt: skip
    console.table(("record", "at (UTC)", "drill", "by", "result", "seconds", "seen"), shown)
