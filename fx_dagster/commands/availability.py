"""``fx availability``: how much of its market's time the live engine could decide."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from fx_dagster.live.availability import Availability


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Trading")(availability)


def availability(
    days: Annotated[int, typer.Option(min=1, max=3650, help="Newest trading days to show.")] = 14,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show how much of the market's time the live engine could decide, a trading day a line, and in all.

    Decisions: alive, with a fresh heartbeat, at level 1, 2 or 3. AI: at level 1 or 2. Weekends and holidays are no
    outage, and time under the kill switch is held. The target is more than 99.9 %.
    """
    from fx_dagster.live.availability import TARGET, overall
    from resources.availability_store import AvailabilityStore
    from resources.postgres import migrate

    settings = attached_settings(home)
    url, account = settings.postgres.url.get_secret_value(), settings.live.account
    migrate(url)
    found = AvailabilityStore(url).by_day(account)
    newest = dict(sorted(found.items())[-days:])
    whole = overall(newest.values())
    if as_json:
        told = {day.isoformat(): _document(one) for day, one in newest.items()}
        console.print_json({"account": account, "target": TARGET, "all": _document(whole), "days": told})
        return
    if not newest:
        console.say(f"[dim]no heartbeat of account {account} is recorded yet: fx up, or fx live[/dim]")
        return
    rows = [_row(day.isoformat(), one) for day, one in newest.items()]
    console.table(("day", "decisions", "AI", "open", "outage", "held"), [*rows, _row("all", whole)])


def _document(one: "Availability") -> dict[str, Any]:
    return {
        "decision": one.decision, "ai": one.ai, "required_s": one.required_s, "decision_s": one.decision_s,
        "ai_s": one.ai_s, "held_s": one.held_s,
    }  # fmt: skip


def _row(name: str, one: "Availability") -> tuple[str, ...]:
    outage_s = one.required_s - one.decision_s
    shares = ("–" if share is None else f"{share:.3%}" for share in (one.decision, one.ai))
    return (name, *shares, f"{one.required_s / 3_600:.2f} h", f"{outage_s:.1f} s", f"{one.held_s:.1f} s")
