"""``fx up``, ``fx down``, ``fx status``, ``fx env``: the servers."""

import shlex
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, settings_of

if TYPE_CHECKING:
    from fx_dagster.settings import Settings
    from resources.servers.group import ServerEvent
    from resources.servers.state import GroupState, ServerState

_MARKS = {
    "ready": console.GOOD,
    "external": console.GOOD,
    "restarted": console.GOOD,
    "skipped": console.WARN,
    "died": console.WARN,
    "failed": console.BAD,
}


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Servers")(up)
    app.command(rich_help_panel="Servers")(down)
    app.command(rich_help_panel="Servers")(status)
    app.command(rich_help_panel="Servers")(env)


DefinitionsOption = Annotated[
    Path | None, typer.Option(hidden=True, help="Python file with other Dagster definitions than the project's.")
]


DagsterOption = Annotated[
    bool,
    typer.Option("--dagster/--no-dagster", help="Dagster's three processes too; without, run your own: dagster dev."),
]


def up(
    home: HomeOption = None,
    as_json: JsonOption = False,
    dagster: DagsterOption = True,
    definitions: DefinitionsOption = None,
) -> None:
    """Start all servers and Dagster's page, and keep them until Ctrl-C.

    PostgreSQL, Valkey, Triton and Dagster's code server, daemon and page, all on this machine only. A server that dies
    or hangs is started again. Addresses of your own in FX_POSTGRES_URL, FX_REDIS_URL or FX_TRITON_URL are used instead.
    """
    from resources.servers.group import ServerGroup

    settings = settings_of(home)
    with ExitStack() as stack:
        with console.step("Starting the servers") as step:
            group = ServerGroup(
                settings,
                on_event=show_event,
                on_triton_start=load_active_release,
                dagster=dagster,
                definitions=definitions,
            )
            stack.enter_context(group)
            step.result = f"data in {settings.home}"
        if as_json:
            console.print_json({"page": group.page, "home": str(settings.home), "servers": _rows(group.states())})
        way = f"Dagster's page  [bold]{group.page}[/bold]" if group.page else 'For a shell: eval "$(fx env)"'
        console.say(f"\n  {way}\n  Ctrl-C ends everything.\n")
        while True:
            time.sleep(3600)


def show_event(event: "ServerEvent") -> None:
    """Print what has just happened to a server, if a person would want to know."""
    if event.kind == "stopping":
        console.say("Ending the servers [dim](Ctrl-C again: at once)[/dim]")
    elif event.kind == "stopped":
        console.say(f"{console.GOOD} All servers ended")
    elif event.kind in _MARKS:
        verb = {"died": "gone: ", "failed": "failed: ", "restarted": "", "skipped": "left out: "}.get(event.kind, "")
        console.say(f"  {_MARKS[event.kind]} {event.server:<15} [dim]{verb}{escape(event.text)}[/dim]")


def load_active_release(settings: "Settings") -> None:
    """Have a Triton that has just started load the release that is active; without one nothing is loaded.

    Raises:
        ReleaseError: the active one cannot be loaded; a challenger that cannot is only told.
        ServerError: Triton or PostgreSQL does not answer.
    """
    from fx_dagster.errors import ReleaseError
    from resources.model_repository import ModelRepository
    from resources.releases import ReleaseStore
    from resources.servers.triton import read_secret
    from resources.triton import serve_release

    store, repository = ReleaseStore.of(settings), ModelRepository.of(settings)
    active = store.active()
    if active is None:
        return
    lost: ReleaseError | None = None
    for version in (active, *store.challengers()[:1]):
        try:
            manifest = repository.verify(version, store.manifest(version))
            serve_release(settings.triton.url, read_secret(settings), manifest)
        except ReleaseError as error:
            if version == active:
                lost = error
                continue
            console.say(f"  {console.WARN} {'Release':<15} [dim]{version} is not loaded: {escape(str(error))}[/dim]")
            continue
        role = "is loaded" if version == active else "is loaded for its trial in shadow"
        console.say(f"  {console.GOOD} {'Release':<15} [dim]{version} {role}[/dim]")
    if lost is not None:
        raise lost


def down(home: HomeOption = None) -> None:
    """End the servers that another fx runs in this FX_HOME, and that fx with them."""
    from resources.servers.group import end_servers

    settings = settings_of(home)
    with console.step("Ending the servers") as step:
        who = end_servers(settings)
        step.result = f"were run by {who}" if who else "none ran"


def status(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show which servers run in this FX_HOME, and where. Exit code 1: not all do."""
    from resources.servers.state import HomeLock, running_state

    settings = settings_of(home)
    state = running_state(settings)
    servers = state.servers if state is not None else ()
    if as_json:
        page = state.page if state is not None else ""
        document = {"running": state is not None, "home": str(settings.home), "page": page, "servers": _rows(servers)}
        console.print_json(document)
    elif state is None:
        starting = HomeLock(settings).holder() if HomeLock(settings).holder_pid() else ""
        text = f"being started by {starting}" if starting else "none run; start them: fx up"
        console.out.print(f"Servers of {settings.home}: {text}", markup=False, soft_wrap=True)
    else:
        _show_status(state, settings)
    if state is None or any(server.pid and not server.alive for server in servers):
        raise typer.Exit(1)


def _show_status(state: "GroupState", settings: "Settings") -> None:
    console.out.print(f"Servers of {settings.home}, since {state.started}\n", markup=False, soft_wrap=True)
    rows = [(server.name, _word(server), server.address or server.note, server.pid or "") for server in state.servers]
    console.table(("server", "state", "address", "pid"), rows)
    console.out.print(f"\nlogs in {settings.logs}", markup=False, soft_wrap=True)


def _word(server: "ServerState") -> str:
    if not server.pid:
        return "–"
    return "runs" if server.alive else "gone"


def _rows(servers: "tuple[ServerState, ...]") -> list[dict[str, object]]:
    return [{**asdict(server), "alive": server.alive} for server in servers]


def env(home: HomeOption = None) -> None:
    """Print what a shell needs to run Dagster's own commands: eval "$(fx env)".

    Passwords of the running servers are among it. Without running servers the settings are printed as they are. Two
    daemons over one PostgreSQL disturb each other: for dagster dev, start the servers with fx up --no-dagster.
    """
    from resources.servers.dagster_services import install_instance
    from resources.servers.process import dagster_environment
    from resources.servers.state import running_state

    settings = settings_of(home)
    install_instance(settings)
    state = running_state(settings)
    variables = {**(state.environment if state else settings.environment()), **dagster_environment(settings)}
    for name, value in sorted(variables.items()):
        typer.echo(f"export {name}={shlex.quote(value)}")
