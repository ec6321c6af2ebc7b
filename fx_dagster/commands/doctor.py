"""``fx doctor``: what is wrong on this machine, and how to mend it."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from fx_dagster.commands import console
from fx_dagster.commands.options import HomeOption, JsonOption, settings_of
from fx_dagster.errors import FxError, SettingsError

if TYPE_CHECKING:
    from fx_dagster.settings import Settings

State = Literal["ok", "warn", "fail"]

GIB = 1024**3
DISK_FAIL_GIB = 1.0
DISK_WARN_GIB = 5.0
MEMORY_FAIL_GIB = 1.0
MEMORY_WARN_GIB = 3.0
SHARED_MEMORY_WARN_GIB = 0.25
_MARKS = {"ok": console.GOOD, "warn": console.WARN, "fail": console.BAD}


@dataclass(frozen=True)
class Finding:
    """What was looked at, how it is, and how to mend it."""

    check: str
    state: State
    text: str
    mend: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Help")(doctor)


def doctor(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Look at this machine, the installation, the settings and the servers, and say how to mend what is wrong.

    Nothing is changed. Exit code 1: something is so wrong that fx cannot work.
    """
    findings = []
    for finding in examine(home):
        findings.append(finding)
        if not as_json:
            _show(finding)
    failed = [finding for finding in findings if finding.state == "fail"]
    if as_json:
        console.print_json({"healthy": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        warned = sum(finding.state == "warn" for finding in findings)
        console.out.print(f"\n{len(findings)} looked at, {warned} to note, {len(failed)} to mend", markup=False)
    if failed:
        raise typer.Exit(1)


def _show(finding: Finding) -> None:
    from rich.markup import escape

    mend = f"\n    [dim]→ {escape(finding.mend)}[/dim]" if finding.mend else ""
    console.out.print(f"{_MARKS[finding.state]} {finding.check:<12} {escape(finding.text)}{mend}", soft_wrap=True)


def examine(home: Path | None) -> Iterator[Finding]:
    """Return everything that can be found, one after the other."""
    yield check_python()
    yield check_packages()
    yield check_platform()
    try:
        settings = settings_of(home)
    except SettingsError as error:
        yield _from_error("settings", error)
        return
    yield Finding("settings", "ok", f"valid; {_changed()}")
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_home,
        check_room,
        check_postgres,
        check_valkey,
        check_triton,
        check_bridge,
        check_ports,
        check_servers,
    )
    for check in checks:
        yield from check(settings)
    yield from check_leftovers()


def _from_error(check: str, error: FxError, state: State = "fail") -> Finding:
    return Finding(check, state, Exception.__str__(error), error.mend)


def _changed() -> str:
    from fx_dagster.settings import variables

    names = sorted(name for name in variables() if name in os.environ)
    return f"set: {', '.join(names)}" if names else "all defaults"


def check_python() -> Finding:
    """Python must be the version that the lock file was made for."""
    version = platform.python_version()
    if sys.version_info[:2] != (3, 11):
        return Finding("Python", "fail", f"{version} at {sys.executable}", "install Python 3.11, then: make setup")
    return Finding("Python", "ok", f"{version} at {sys.executable}")


def check_packages() -> Finding:
    """Each package of the lock file must be there in its version."""
    from packaging.requirements import Requirement

    lock = Path(__file__).parents[2] / "requirements.lock"
    if not lock.exists():
        return Finding("packages", "warn", f"there is no {lock}", "install from a checkout: make setup")
    wrong = []
    count = 0
    for line in lock.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-"):
            continue
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        count += 1
        try:
            found = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} is {found}, locked {requirement.specifier}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Finding("packages", "fail", "; ".join(wrong[:3]) + more, "make clean setup")
    return Finding("packages", "ok", f"{count} as locked")


def check_platform() -> Finding:
    """Linux on x86_64 has every server; other machines go without some."""
    name, version = platform.libc_ver()
    text = f"{platform.system()} {platform.machine()}, {name} {version}".strip().rstrip(",")
    text += f", {os.cpu_count()} cores"
    if sys.platform == "win32":
        return Finding("platform", "fail", text, "run fx in WSL; only MetaTrader's bridge runs on Windows")
    if sys.platform != "linux":
        return Finding("platform", "warn", text, "a killed fx ends its servers a moment later here than on Linux")
    return Finding("platform", "ok", text)


def check_home(settings: "Settings") -> Iterator[Finding]:
    """FX_HOME must be ours to write, and its secrets ours alone to read."""
    home = settings.home
    existing = _existing(home)
    if not os.access(existing, os.W_OK | os.X_OK):
        yield Finding("FX_HOME", "fail", f"cannot write to {existing}", "set FX_HOME to a folder of yours")
        return
    if home.exists() and home.stat().st_mode & 0o002:
        yield Finding("FX_HOME", "warn", f"everybody may write to {home}", f"chmod o-w '{home}'")
    else:
        yield Finding("FX_HOME", "ok", f"{home}" + ("" if home.exists() else " (made at the first start)"))
    for path in (home / "postgres" / "password", home / "run" / "servers.json", home / "run" / "valkey.conf"):
        if path.exists() and path.stat().st_mode & 0o077:
            yield Finding("secrets", "fail", f"others may read {path}", f"chmod 600 '{path}'")


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def check_room(settings: "Settings") -> Iterator[Finding]:
    """Disk, memory and shared memory must suffice."""
    import psutil

    disk = shutil.disk_usage(_existing(settings.home)).free / GIB
    yield _amount("disk", disk, DISK_FAIL_GIB, DISK_WARN_GIB, "free for FX_HOME", "free some, or set FX_HOME elsewhere")
    memory = psutil.virtual_memory().available / GIB
    yield _amount("memory", memory, MEMORY_FAIL_GIB, MEMORY_WARN_GIB, "available", "end what needs much memory")
    shared = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory; only asked for its size
    if shared.exists():
        free = shutil.disk_usage(shared).free / GIB
        if free < SHARED_MEMORY_WARN_GIB:
            yield Finding(
                "memory",
                "warn",
                f"{free:.2f} GiB of shared memory: Triton may need more",
                "run the container with --shm-size=1g",
            )


def _amount(check: str, found: float, fail: float, warn: float, what: str, mend: str) -> Finding:
    state: State = "fail" if found < fail else "warn" if found < warn else "ok"
    return Finding(check, state, f"{found:.1f} GiB {what}", "" if state == "ok" else mend)


def check_postgres(settings: "Settings") -> Iterator[Finding]:
    """The embedded PostgreSQL must run here, or the given one answer."""
    from resources.servers import postgres, postgres_host

    try:
        if url := settings.postgres.url.get_secret_value():
            postgres.require_external(url, 5.0)
            yield Finding("PostgreSQL", "ok", "FX_POSTGRES_URL answers")
            return
        user = postgres_host.server_user()
        version = postgres_host.version(postgres_host.usable_binaries(user), user)
        runs_as = f", runs as user {user.name}" if user is not None else ""
        yield Finding("PostgreSQL", "ok", f"{version}{runs_as}")
    except FxError as error:
        yield _from_error("PostgreSQL", error)


def check_valkey(settings: "Settings") -> Iterator[Finding]:
    """The embedded Valkey must run here, or the given cache answer; without one, sessions are slower."""
    from resources.servers import valkey

    try:
        if url := settings.redis.url.get_secret_value():
            valkey.require_external(url)
            yield Finding("Valkey", "ok", "FX_REDIS_URL answers")
            return
        yield _runs("Valkey", [str(valkey.binary()), "--version"])
    except FxError as error:
        yield _from_error("Valkey", error, "fail" if settings.redis.url.get_secret_value() else "warn")


def _runs(check: str, argv: list[str]) -> Finding:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(check, "fail", f"does not run: {error}", "make clean setup")
    said = (done.stdout or done.stderr).strip().splitlines()[:1] or [""]
    if done.returncode != 0:
        return Finding(check, "fail", f"does not run: {said[0]}", "make clean setup")
    return Finding(check, "ok", said[0])


def check_triton(settings: "Settings") -> Iterator[Finding]:
    """The embedded Triton must run here, or the given one be reachable; without one, the level is traditional."""
    from resources.servers import triton

    if settings.triton.url:
        yield Finding("Triton", "ok", f"FX_TRITON_URL: {settings.triton.url}")
        return
    try:
        runtime = triton.require_runtime()
        done = subprocess.run(
            [runtime / "bin" / "tritonserver", "--help"],
            env=triton._environment(runtime),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if "Usage:" in done.stdout + done.stderr:
            yield Finding("Triton", "ok", f"runs from {runtime}")
        else:
            said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            yield Finding("Triton", "warn", f"does not run: {said}", "make clean setup, or set FX_TRITON_URL")
    except FxError as error:
        yield _from_error("Triton", error, "warn")


def check_bridge(settings: "Settings") -> Iterator[Finding]:
    """Yield whether the bridge that sessions trade at is there; nothing where they trade on paper."""
    if settings.live.broker == "paper":
        return
    from resources.mt5.bridge.client import open_client
    from resources.mt5.bridge.settings import require_account

    try:
        require_account(settings.bridge)
        with open_client(settings.bridge) as client:
            health = client.require(login=settings.bridge.login, mode=settings.bridge.mode)
    except FxError as error:
        yield _from_error("bridge", error)
        return
    account = f"account {health.login} at {health.server} ({health.mode}{', simulated' if health.simulated else ''})"
    if health.trading_allowed:
        yield Finding("bridge", "ok", f"answers: {account}")
    else:
        yield Finding("bridge", "warn", f"{account} may not trade: {health.trading_reason}", "see the terminal")


def check_ports(settings: "Settings") -> Iterator[Finding]:
    """A port that was asked for must be free, unless our own server has it."""
    from resources.servers import ports
    from resources.servers.state import running_state

    state = running_state(settings)
    ours = {server.address.rpartition(":")[2] for server in state.servers} if state is not None else set()
    wanted = {
        "FX_POSTGRES_PORT": settings.postgres.port,
        "FX_REDIS_PORT": settings.redis.port,
        "FX_TRITON_PORT": settings.triton.port,
        "FX_TRITON_METRICS_PORT": settings.triton.metrics_port,
        "FX_UI_PORT": settings.ui.port,
    }
    taken = 0
    for name, port in wanted.items():
        if port and state is None and not ports.is_free(port):
            taken += 1
            yield Finding(
                "ports", "fail", f"{port} ({name}) is taken by {ports.holder(port)}", f"set {name} to another"
            )
    if not taken:
        asked = ", ".join(f"{name}={port}" for name, port in wanted.items() if port)
        yield Finding("ports", "ok", asked or "free ones are chosen; Dagster's page on 3000 or the next")
    if not settings.ui.port and "3000" not in ours and not ports.is_free(3000):
        yield Finding("ports", "ok", f"3000 is taken by {ports.holder(3000)}: Dagster's page takes the next free one")


def check_servers(settings: "Settings") -> Iterator[Finding]:
    """Servers that run must all be alive."""
    from resources.servers.state import read_state

    try:
        state = read_state(settings)
    except FxError as error:
        yield _from_error("servers", error)
        return
    if state is None:
        yield Finding("servers", "ok", "none run")
    elif not state.alive:
        yield Finding("servers", "warn", f"fx (pid {state.pid}) was killed", "fx down, or start again: fx up")
    else:
        dead = [server.name for server in state.servers if server.pid and not server.alive]
        if dead:
            yield Finding("servers", "fail", f"gone: {', '.join(dead)}", f"see the logs in {settings.logs}")
        else:
            yield Finding("servers", "ok", f"run since {state.started}, page {state.page}")


def check_leftovers() -> Iterator[Finding]:
    """Data kept under /var/lib for a private home that is gone only takes room."""
    from resources.servers.postgres_host import SYSTEM_FOLDER

    for folder in sorted((SYSTEM_FOLDER / "homes").glob("*/home")) if os.access(SYSTEM_FOLDER, os.R_OK) else ():
        home = folder.read_text().strip()
        if not Path(home).exists():
            yield Finding(
                "leftovers",
                "warn",
                f"{folder.parent} holds PostgreSQL's data of {home}, which is gone",
                f"if you do not need it: rm -r '{folder.parent}'",
            )
