"""The ``fx`` command: help, exit codes, and errors in one line."""

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from fx_dagster import cli
from fx_dagster.errors import ServerError


def _fx(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "fx_dagster.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **options,
    )


def test_help_names_the_commands() -> None:
    done = _fx("--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "env", "doctor", "settings"):
        assert f" {command} " in done.stdout


def test_no_command_shows_help_and_is_wrong_usage() -> None:
    done = _fx()
    assert done.returncode == 2
    assert "Usage: fx" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["up", "--hoem", "x"], "No such option: --hoem"),
        (["upp"], "No such command 'upp'"),
        (["status", "extra"], "unexpected extra argument"),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], says: str) -> None:
    done = _fx(*arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert line.endswith("--help")
    assert done.stdout == ""


def test_impossible_setting_is_one_line_and_1(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RISK_LEVERAGE", "nan")
    done = _fx("status")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "FX_RISK_LEVERAGE" in line


def test_misspelt_setting_is_refused_with_a_guess(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RISK_LEVERAG", "3")
    done = _fx("status")
    assert done.returncode == 1
    assert "did you mean FX_RISK_LEVERAGE?" in done.stderr


def test_home_option_wins_over_the_environment(free_home: Path, tmp_path: Path) -> None:
    done = _fx("status", "--home", str(tmp_path / "other"))
    assert done.returncode == 1
    assert str(tmp_path / "other") in done.stdout.replace("\n", "")


def test_relative_home_is_made_absolute(free_home: Path, tmp_path: Path) -> None:
    done = _fx("settings", "--home", "here", "--json", cwd=tmp_path)
    assert f'"{tmp_path}/here"' in done.stdout


def _app_that_raises(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @app.callback()
    def top() -> None:
        return

    @app.command()
    def fail() -> None:
        raise error

    return app


def test_own_error_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = ServerError("first line\nsecond", mend="do that")
    monkeypatch.setattr(cli, "build", lambda: _app_that_raises(error))
    assert cli.run(["fail"]) == 1
    assert capsys.readouterr().err == "error: first line second → do that\n"


def test_fault_is_one_line_and_its_traceback_is_logged(
    free_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "build", lambda: _app_that_raises(ZeroDivisionError("of all things")))
    assert cli.run(["fail"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "ZeroDivisionError: of all things" in err
    (log,) = (free_home / "logs").glob("error-*.log")
    assert str(log) in err
    assert "Traceback (most recent call last)" in log.read_text()


def test_interrupted_is_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli, "build", lambda: _app_that_raises(KeyboardInterrupt()))
    assert cli.run(["fail"]) == 130
    assert capsys.readouterr().err == "\ninterrupted\n"


def test_reader_that_goes_away_is_no_traceback(free_home: Path) -> None:
    command = f'"{sys.executable}" -m fx_dagster.cli settings --json | head -1'
    done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from fx_dagster import cli; cli.build(); "
        "heavy = ('numpy', 'pandas', 'dagster', 'torch', 'pydantic', 'grpc', 'psycopg', 'duckdb', 'sqlalchemy'); "
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"


def test_every_module_with_commands_is_listed() -> None:
    folder = Path(cli.__file__).parent / "commands"
    modules = {path.stem for path in folder.glob("*.py") if "\ndef register(" in path.read_text()}
    assert modules == set(cli.COMMANDS)
