"""Dagster for a command: the one that runs in this home already, or one of the command's own."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fx_dagster.commands import console
from fx_dagster.commands.servers import load_active_release, show_event
from fx_dagster.settings import Settings, load_settings
from resources.dagster_runs import RunLauncher, open_instance
from resources.servers.group import ServerGroup
from resources.servers.state import running_state


@contextmanager
def run_launcher(settings: Settings) -> Iterator[RunLauncher]:
    """Yield a launcher of runs; servers that were started for it end with it.

    Raises:
        ServerError: a server does not start.
    """
    with ExitStack() as stack:
        state = running_state(settings)
        if state is not None:
            children = load_settings(state.environment)
            console.say(f"  [dim]using the servers that run already ({state.page})[/dim]")
        else:
            with console.step("Starting the servers"):
                group = ServerGroup(settings, on_event=show_event, on_triton_start=load_active_release)
                stack.enter_context(group)
            children = group.settings_for_children()
        instance = stack.enter_context(open_instance(children))
        yield RunLauncher(instance, host="127.0.0.1", port=children.ui.port)
