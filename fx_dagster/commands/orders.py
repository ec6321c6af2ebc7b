"""``fx orders``: what a person has to look at among the orders of a real account, and his word on it."""

import getpass
from typing import Annotated

import typer

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings, live_store
from fx_dagster.commands.options import HomeOption, JsonOption


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Orders whose fate is not known, and a person's word on one that is held.")
    group.command("list")(list_)
    group.command("not-sent")(not_sent)
    app.add_typer(group, name="orders", no_args_is_help=True, rich_help_panel="Trading")


def list_(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the orders of the account that the broker may have or not; exit code 1 where one waits for a person."""
    settings = attached_settings(home)
    found = live_store(settings).doubtful_orders(settings.live.account)
    if as_json:
        console.print_json([{**row, "client_order_id": str(row["client_order_id"])} for row in found])
    elif found:
        names = ("key", "symbol", "purpose", "lots", "state", "for", "why")
        rows = [
            [
                str(row["client_order_id"]), row["symbol"], row["purpose"], f"{row['lots']:g}", row["state"],
                f"{row['age_s']:.0f} s", row["reason"],
            ]
            for row in found
        ]  # fmt: skip
        console.table(names, rows)
    else:
        console.say(f"{console.GOOD} No order of account {settings.live.account} is in doubt.")
    if any(row["state"] == "held" for row in found):
        raise typer.Exit(1)


def not_sent(
    key: Annotated[int, typer.Argument(min=1, max=2**63 - 1, help="Of the order, as fx orders list shows it.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say that the broker does not have a held order: neither in its history, nor as a deal or position.

    Look for the key in the terminal's history first (column magic). The engine then takes the order as never sent and
    opens positions in its symbol again. Where the broker shows the order by itself, no word is needed.
    """
    settings = attached_settings(home)
    live_store(settings).decide_held(settings.live.account, key, by_whom=getpass.getuser())
    if as_json:
        console.print_json({"client_order_id": str(key), "verdict": "not_sent"})
    else:
        console.say(f"{console.GOOD} Order {key} counts as not sent. [dim]The engine takes it up within a second[/dim]")
