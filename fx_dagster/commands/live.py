"""``fx live``, ``fx kill``, ``fx resume``: the live session from the command line."""

import getpass
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, settings_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fx_dagster.settings import Settings
    from resources.live_store import LiveStore

_LINE_EVERY_S = 5.0


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(rich_help_panel="Trading")(live)
    app.command(rich_help_panel="Trading")(kill)
    app.command(rich_help_panel="Trading")(resume)


def live(
    home: HomeOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin a new session, even after a finished or an unfinished one.")
    ] = False,
    broker: Annotated[
        str, typer.Option("--broker", help="Instead of FX_LIVE_BROKER: paper, or mt5 for the bridge of FX_BRIDGE_….")
    ] = "",
    until: Annotated[
        str, typer.Option("--until", help="End a new session's tape at this market time (ISO 8601, UTC if no zone).")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print each status as one line of JSON.")] = False,
) -> None:
    """Trade in the foreground: one engine, until the tape is over or Ctrl-C.

    On paper it replays the last FX_LIVE_REPLAY_DAYS days of the source at FX_LIVE_REPLAY_SPEED. With --broker mt5 it
    trades the account behind the bridge of FX_BRIDGE_… (fx bridge serve), with the source's symbols and timeframe. A
    session that was interrupted, however it was, goes on after its last decision. The servers must run (fx up). While
    the sensor keeps a session of this account alive, a second engine is refused.
    """
    import asyncio

    from fx_dagster.live.engine import Ending
    from fx_dagster.live_engine import RunOptions, run_engine

    settings = attached_settings(home, {"FX_LIVE_BROKER": broker} if broker else {})
    options = RunOptions(restart=restart, until=_market_time(until), on_status=_Printer(as_json))
    ending = asyncio.run(run_engine(settings, options))
    if ending is Ending.FINISHED:
        console.say(f"{console.GOOD} The session is finished. [dim]fx live --restart begins a new one[/dim]")
    else:
        console.say(f"{console.GOOD} Stopped, everything written. [dim]fx live goes on where it was[/dim]")


def kill(
    home: HomeOption = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept with the switch.")] = "",
    flatten: Annotated[bool, typer.Option("--flatten", help="Close all positions too, at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Stop new positions at once; it stays so over restarts, until fx resume.

    Open positions keep their stops and are closed as the strategy closes them; with --flatten they are closed now.
    While the switch is on, the sensor starts no session.
    """
    settings = attached_settings(home)
    account = settings.live.account
    live_store(settings).kill(account, reason=reason, flatten=flatten, by_whom=getpass.getuser())
    _answer(as_json, {"account": account, "killed": True, "flatten": flatten, "reason": reason})
    if not as_json:
        what = "no new positions, and all open ones closed" if flatten else "no new positions"
        console.say(f"{console.GOOD} Kill switch of account {account} is on: {what}. [dim]fx resume turns it off[/dim]")


def resume(
    home: HomeOption = None,
    restart: Annotated[
        bool, typer.Option("--restart", help="Let the sensor begin a new session, also after a finished one.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Let the account trade again: after fx kill, after a halt by drawdown, after a run that a person cancelled."""
    settings = attached_settings(home)
    account = settings.live.account
    store = live_store(settings)
    if restart:
        store.begin_anew(account)
    store.resume(account, by_whom=getpass.getuser())
    _answer(as_json, {"account": account, "killed": False, "restart": restart})
    if not as_json:
        console.say(f"{console.GOOD} Account {account} may trade. [dim]The sensor starts its session[/dim]")


def attached_settings(home: "Path | None", given: "Mapping[str, str] | None" = None) -> "Settings":
    """Return the settings with the addresses of the servers that run in this home.

    Args:
        home: instead of FX_HOME.
        given: further ``FX_…`` variables, as from options.

    Raises:
        SettingsError: a setting is unknown or impossible, or there is no PostgreSQL to talk to.
    """
    from fx_dagster.errors import SettingsError
    from fx_dagster.settings import load_settings
    from resources.servers.state import running_state

    settings = settings_of(home, given)
    if settings.postgres.url.get_secret_value():
        return settings
    state = running_state(settings)
    if state is None:
        raise SettingsError(
            f"no servers run in {settings.home}, and FX_POSTGRES_URL is not set", mend="start them: fx up"
        )
    addresses = {name: value for name, value in state.environment.items() if name.endswith("_URL")}
    return load_settings(addresses)


def live_store(settings: "Settings") -> "LiveStore":
    """Return what sessions left in PostgreSQL, its tables brought up to date."""
    from resources.live_store import LiveStore
    from resources.postgres import migrate

    url = settings.postgres.url.get_secret_value()
    migrate(url)
    return LiveStore(url)


def _answer(as_json: bool, document: dict[str, Any]) -> None:
    if as_json:
        console.print_json(document)


def _market_time(text: str) -> int | None:
    from fx_dagster.errors import SettingsError

    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise SettingsError(f"--until {text!r} is no time", mend="write 2017-12-01T00:00") from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()) * 1_000_000_000


class _Printer:
    """Shows the engine's status: every one as JSON, or a line for a person when something changed or time passed."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._spoke: tuple[Any, ...] = ()
        self._spoke_s = 0.0

    def __call__(self, status: dict[str, Any]) -> None:
        """Show one status."""
        if self._as_json:
            sys.stdout.write(json.dumps(status) + "\n")
            sys.stdout.flush()
            return
        import time

        key = (status["state"], status["level"], status["killed"], status["journal_problem"])
        now = time.monotonic()
        if key == self._spoke and now - self._spoke_s < _LINE_EVERY_S:
            return
        self._spoke, self._spoke_s = key, now
        console.say(_line(status))


def _line(status: dict[str, Any]) -> str:
    total = status["latency"]["total"]
    latency = f"p50 {total['p50_ms']:.0f} ms, p99 {total['p99_ms']:.0f} ms" if total["n"] else "no decision yet"
    reason = f" ({status['level_reason']})" if status["level_reason"] else ""
    killed = " · [red]kill switch on[/red]" if status["killed"] else ""
    return (
        f"  {status['market_time']} · level {status['level']} {status['level_name']}[dim]{escape(reason)}[/dim]{killed}"
        f" · {status['decisions']} decisions, {status['deals']} deals"
        f" · equity {status['equity']:.2f} {status['currency']} · [dim]{latency}[/dim]"
    )
