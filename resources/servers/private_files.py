"""Files and folders that hold secrets or belong to servers."""

import os
import stat
from pathlib import Path
from typing import Final

from fx_dagster.errors import SettingsError

PRIVATE_BYTES_MAX: Final = 1 << 20
"""Of a file of secrets."""


def make_own_folder(folder: Path) -> None:
    """Create a folder of ours and its missing parents. One that exists keeps its mode.

    Made by root, a server's system user may pass through it, not list it; made by anyone else, it is private.
    """
    mode = 0o711 if hasattr(os, "geteuid") and os.geteuid() == 0 else 0o700
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        path.chmod(mode)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all."""
    aside = path.with_name(f"{path.name}.{os.getpid()}.new")
    aside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{text}\n")
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read_private(path: Path, *, setting: str) -> str:
    """Return the text of a file of secrets that only its owner may read.

    The one way in which this project reads such a file. On Windows, which has no such bits, its folder's rights are the
    owner's affair.

    Args:
        path: the file; a link is not followed.
        setting: variable that names it, for errors.

    Raises:
        SettingsError: it is missing, not a plain file, of another user, too long or no text, or others may read it; its
            content is never repeated.
    """
    descriptor = _opened(path, setting)
    try:
        # Looked at through the open descriptor: what is checked is what is read.
        _require_private(os.fstat(descriptor), path, setting)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(PRIVATE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot read {path}: {error.strerror}", mend="see to its disk") from None
    finally:
        os.close(descriptor)
    if len(content) > PRIVATE_BYTES_MAX:
        raise SettingsError(f"{setting}: {path} is longer than {PRIVATE_BYTES_MAX} bytes", mend="name the right file")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise SettingsError(f"{setting}: {path} is not text", mend="write it in UTF-8") from None


def _opened(path: Path, setting: str) -> int:
    # A pipe would keep whoever opens it waiting for a writer.
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))
    try:
        return os.open(path, os.O_RDONLY | flags)
    except OSError as error:
        words = "it is a link" if path.is_symlink() else error.strerror
        raise SettingsError(f"{setting}: cannot open {path}: {words}", mend="correct the path") from None
    except ValueError:  # a zero byte in the path
        raise SettingsError(f"{setting}: {str(path)!r} is no path", mend="correct the path") from None


def _require_private(facts: os.stat_result, path: Path, setting: str) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise SettingsError(f"{setting}: {path} is not a plain file", mend="correct the path")
    if os.name != "posix":
        return
    if facts.st_uid != os.geteuid():
        raise SettingsError(f"{setting}: {path} belongs to another user", mend=f"chown it: {path}")
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise SettingsError(f"{setting}: others than its owner may read {path}", mend=f"chmod 600 {path}")
