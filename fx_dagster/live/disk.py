"""How full a disk is."""

import shutil
from pathlib import Path
from typing import NamedTuple


class DiskUsage(NamedTuple):
    """Of a disk, bytes."""

    total: int
    used: int
    free: int


def disk_usage(folder: Path) -> DiskUsage | None:
    """Return what is used of the disk that a folder is, or would be, on; None: it cannot be asked."""
    place = next((one for one in (folder, *folder.parents) if one.exists()), None)
    if place is None:
        return None
    try:
        return DiskUsage(*shutil.disk_usage(place))
    except OSError:
        return None
