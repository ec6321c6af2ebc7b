"""The ``fx`` command. It only assembles; what a command does is in :mod:`fx_dagster.commands`.

Exit codes: 0 done, 1 an error (one line on standard error: what, where, and the mend), 2 wrong usage, 130 interrupted
(143, 129: ended by SIGTERM, SIGHUP).
"""

import importlib
import logging
import os
import sys
import traceback
from datetime import UTC, datetime

import typer

from fx_dagster.errors import FxError
from resources.servers import interrupts

COMMANDS = (
    "demo", "data", "train", "backtest", "ab", "live", "drill", "availability", "control", "bridge",
    "explain", "replay", "release", "servers", "doctor", "settings",
)  # fmt: skip
"""Modules of :mod:`fx_dagster.commands`, in the order of ``fx --help``."""

HELP = """Forex and gold trading around Dagster, with an AI ensemble on Triton.

**fx demo** runs the whole way once on real data and tells what came of it. **fx up** starts all
servers and Dagster's page and keeps them until Ctrl-C. **fx doctor** looks for what is wrong and says how to
mend it.

Everything is written below FX_HOME; every setting has an FX_… variable, listed in docs/settings.md.
"""


def build() -> typer.Typer:
    """Return the command with all its subcommands."""
    app = typer.Typer(
        name="fx",
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    )
    for name in COMMANDS:
        importlib.import_module(f"fx_dagster.commands.{name}").register(app)
    return app


def main() -> None:
    """Run ``fx`` and exit."""
    interrupts.install()
    code = 1
    try:
        code = run(sys.argv[1:])
    finally:
        _end_all()
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; errors become one line on standard error."""
    from typer._click.exceptions import ClickException

    try:
        answer = build()(args=arguments, prog_name="fx", standalone_mode=False)
    except ClickException as error:
        _usage(error)
        return error.exit_code
    except FxError as error:
        _complain(str(error))
        return 1
    except BrokenPipeError:
        # Who read our output has gone; writing what is left at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:  # noqa: BLE001 - the last line of defence: logged whole, told in one line
        _complain(f"{type(error).__name__}: {error} → {_log(error)}")
        return 1
    code = answer if isinstance(answer, int) else 0
    return _interrupted() if code == 130 else code


def _usage(error: Exception) -> None:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "fx"
    message = error.format_message() if hasattr(error, "format_message") else str(error)
    if message:
        _complain(f"{message.rstrip('.')} → {path} --help")
    elif context is not None:
        sys.stderr.write(context.get_help() + "\n")


def _interrupted() -> int:
    number = interrupts.received()
    sys.stderr.write("\ninterrupted\n" if number == interrupts.ENDING[0] else "\nended\n")
    return 128 + number


def _complain(text: str) -> None:
    line = " ".join(text.split())
    if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
        line = line.replace(" → ", " \x1b[2m→\x1b[0m ")
        sys.stderr.write(f"\x1b[31merror:\x1b[0m {line}\n")
    else:
        sys.stderr.write(f"error: {line}\n")


def _log(error: BaseException) -> str:
    """Write a traceback where it can be found, and say where."""
    from fx_dagster.settings import load_settings

    text = "".join(traceback.format_exception(error))
    try:
        folder = load_settings().logs
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"error-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
        path.write_text(f"fx {' '.join(sys.argv[1:])}\n\n{text}")
    except (FxError, OSError):
        sys.stderr.write(text)
        return "the traceback is above"
    return f"this is a fault in the program; the traceback is in {path}"


def _end_all() -> None:
    """End whatever a command has started and not stopped; nothing of ours stays behind."""
    from resources.servers import guard

    with interrupts.patient():
        try:
            guard.close_active()
        except FxError as error:
            _complain(str(error))
    logging.shutdown()


if __name__ == "__main__":
    main()
