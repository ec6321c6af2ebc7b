"""``fx control``: the server that looks at a live session and steers it from outside, and who may talk to it."""

import getpass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fx_dagster.commands import console
from fx_dagster.commands.live import attached_settings
from fx_dagster.commands.options import HomeOption, JsonOption

if TYPE_CHECKING:
    from pathlib import Path

    from resources.control.store import ControlStore, TokenRow


class _Role(StrEnum):
    READ = "read"
    OPERATE = "operate"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Control and observation from outside: HTTP, stream, metrics, alerts, tokens.")
    for command in (serve, token, tokens, revoke):
        group.command()(command)
    app.add_typer(group, name="control", no_args_is_help=True, rich_help_panel="Trading")


def serve(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Instead of FX_CONTROL_PORT; 0: 8700 or the next.")] = 0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run the control server in the foreground, until Ctrl-C.

    It listens on this machine only, unless FX_CONTROL_HOST says otherwise and a certificate and its key are given.
    Every request needs a token: fx control token. Alerts go to the addresses of FX_ALERT_URLS.
    """
    import logging

    from resources.control.server import choose, control_parts, make_server, require_safe
    from resources.drills.runner import LocalDrills

    settings = attached_settings(home)
    control = settings.control
    if port:
        control = control.model_copy(update={"port": port})
    with_tls = require_safe(control)
    control = choose(control)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("httpx", "httpcore", "apprise", "urllib3", "requests"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they would log addresses with secrets
    parts = control_parts(settings, control, settings.alert, drills=LocalDrills(settings))
    server = make_server(parts)
    host = f"[{control.host}]" if ":" in control.host else control.host
    url = f"{'https' if with_tls else 'http'}://{host}:{control.port}"
    if as_json:
        console.print_json({"url": url, "account": settings.live.account})
    console.say(f"{console.GOOD} Control server of account {settings.live.account}  [bold]{url}[/bold]")
    server.run()
    if not server.started:
        from fx_dagster.errors import ServerError

        raise ServerError(f"the control server cannot listen on {host}:{control.port}", mend="set FX_CONTROL_PORT")


def token(
    role: Annotated[_Role, typer.Option(help="read: look on; operate: commands too.")] = _Role.READ,
    name: Annotated[str, typer.Option(help="Whose it is, for the audit. Default: yours.")] = "",
    days: Annotated[float, typer.Option(min=0.01, max=3650, help="How long it is valid.")] = 365.0,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and show it, this once: only a digest of it is kept."""
    from resources.control.auth import Role, create_token

    owner = name or getpass.getuser()
    token_id, secret = create_token(_store(home), role=Role(role.value), name=owner, days=days)
    if as_json:
        console.print_json({"id": token_id, "token": secret, "role": role.value, "name": owner, "days": days})
        return
    typer.echo(secret)
    console.say(f"{console.GOOD} Token {token_id} of {owner}, role {role.value}. [dim]It is not shown again[/dim]")


def tokens(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the tokens, newest first; never the secrets, which nobody has."""
    rows = [_shown(row) for row in _store(home).tokens()]
    if as_json:
        console.print_json(rows)
        return
    columns = ("id", "name", "role", "valid", "made", "expires", "revoked")
    console.table(columns, [[row[column] if row[column] is not None else "–" for column in columns] for row in rows])
    if not rows:
        console.say("[dim]none yet: fx control token --role read[/dim]")


def revoke(
    token_id: Annotated[str, typer.Argument(help="Of fx control tokens.")],
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a token: the next request with it is refused; a stream ends within 30 s."""
    from fx_dagster.errors import SettingsError

    if not _store(home).revoke(token_id):
        raise SettingsError(f"there is no token {token_id!r} to revoke", mend="fx control tokens lists them")
    if as_json:
        console.print_json({"id": token_id, "revoked": True})
    else:
        console.say(f"{console.GOOD} Token {token_id} is revoked")


def _store(home: "Path | None") -> "ControlStore":
    from resources.control.store import ControlStore
    from resources.postgres import migrate

    url = attached_settings(home).postgres.url.get_secret_value()
    migrate(url)
    return ControlStore(url)


def _shown(row: "TokenRow") -> dict[str, Any]:
    def text(moment: Any) -> str | None:
        return None if moment is None else moment.isoformat(timespec="seconds")

    return {
        "id": row.token_id, "name": row.name, "role": row.role, "valid": row.valid, "made": text(row.created_at),
        "expires": text(row.expires_at), "revoked": text(row.revoked_at),
    }  # fmt: skip
