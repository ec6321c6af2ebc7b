"""``fx replay``: a recorded live session once more, and whether every decision is the same, bit for bit."""

from pathlib import Path
from typing import Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, settings_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Trading")(replay)


def replay(
    tape: Annotated[
        Path | None, typer.Argument(help="Folder of a recorded stretch; default: the newest of all accounts.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Work through a recorded live session again, and compare every decision with the one that was made.

    A live session records what reaches it: ticks, answers of the models, the state of the journal, commands. The same
    loop, given the same, must decide the same, bit for bit. An error says from which tick on it did not.
    """
    from fx_dagster.core.tape import replay_tape
    from fx_dagster.errors import DataError
    from fx_dagster.live_engine import recorded_core
    from resources.tapes import latest_tape, read_tape

    folder = tape or latest_tape(settings_of(home).live_state.parent)
    recorded, facts = read_tape(folder)
    with console.step(f"Replaying {folder.name}") as step:
        core = recorded_core(facts)
        marks = replay_tape(core, recorded)
        step.result = f"{len(recorded.ticks):,} ticks"
    differing = next((mark for mark in marks if not mark.same), None)
    if differing is not None:
        raise DataError(
            f"{folder}: at tick {differing.ticks} the decisions are others than those that were made",
            mend="replay it with the version and the settings that recorded it",
        )
    decisions = marks[-1].decisions if marks else 0
    if as_json:
        counts = {"ticks": len(recorded.ticks), "decisions": decisions, "compared_at": len(marks)}
        console.print_json({"tape": str(folder), **counts, "digest": core.digest})
    else:
        console.say(f"{console.GOOD} {decisions:,} decisions, compared at {len(marks):,} places: the same, bit for bit")
