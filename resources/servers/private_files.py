"""Files and folders that hold secrets or belong to servers."""

import os
from pathlib import Path


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
