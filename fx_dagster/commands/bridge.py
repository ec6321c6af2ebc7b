"""``fx bridge``: the process beside a MetaTrader 5 terminal that alone talks to it, and what it says of itself."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from fx_dagster.settings import BridgeSettings


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="The bridge to a MetaTrader 5 terminal: run it beside the terminal, and look at it.")
    for command in (serve, health, terminal):
        group.command()(command)
    app.add_typer(group, name="bridge", no_args_is_help=True, rich_help_panel="Trading")


def serve(
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Instead of FX_BRIDGE_PORT; 0: a free one.")
    ] = None,
    simulated: Annotated[bool, typer.Option("--simulated", help="Over a simulated terminal of its own.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the bridge in the foreground, until Ctrl-C.

    FX_BRIDGE_LOGIN, FX_BRIDGE_SERVER and FX_BRIDGE_MODE say which account is meant; on another it refuses to start. It
    listens on this machine only, unless FX_BRIDGE_HOST says otherwise and certificate, key and token are given.
    """
    import logging

    from resources.mt5.bridge.server import Bridge
    from resources.mt5.bridge.server import serve as run
    from resources.mt5.bridge.settings import bridge_secrets

    settings = _settings(home, port=port, terminal="simulated" if simulated else None)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")

    def tell(bridge: Bridge) -> None:
        if as_json:
            console.print_json({"address": bridge.address, "login": settings.login, "mode": settings.mode})
        console.say(
            f"{console.GOOD} Bridge of account {settings.login} ({settings.mode})  [bold]{bridge.address}[/bold]"
        )

    run(settings, bridge_secrets(settings), tell)


def health(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Ask the bridge of FX_BRIDGE_HOST and FX_BRIDGE_PORT how it is; exit code 1 where it is not ready."""
    from dataclasses import asdict

    from resources.mt5.bridge.client import open_client

    with open_client(_settings(home)) as client:
        found = asdict(client.health())
    if as_json:
        console.print_json(found)
    else:
        console.table(("of", "is"), [[name, "–" if value in (None, "") else value] for name, value in found.items()])
    if not found["ready"]:
        raise typer.Exit(1)


def terminal(
    address: Annotated[str, typer.Argument(help="Path of its socket (on Windows: name of its pipe).")],
) -> None:
    """Run a simulated terminal that bridges may connect to: FX_BRIDGE_SIMULATED_ADDRESS."""
    import logging

    from resources.mt5.bridge.simulated_host import open_simulated
    from resources.mt5.bridge.simulated_host import serve as run

    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s")
    opened, clock = open_simulated()
    run(opened, clock, address)


def _settings(home: Path | None, **given: Any) -> "BridgeSettings":
    from resources.mt5.bridge.settings import bridge_settings

    overrides = {name: value for name, value in given.items() if value is not None}
    if home is not None:
        overrides["folder"] = home.expanduser().absolute() / "bridge"
    return bridge_settings(overrides)
