"""Compiled functions with a cache that is never stale and never in the way.

Numba's own ``cache=True`` has two habits that a trading system cannot have: a function is not compiled anew when a
function that it calls in *another* file changes, and a cache folder that cannot be written is an error. Here the stamp
of a cached function covers its own source file, every file of this package that it imports, directly or through
others, and the rules of the time zones, which are constants of compiled code; and a folder that is read-only, full or
corrupt only means that the function is compiled in memory.
"""

import ast
import hashlib
import logging
import pickle
import zoneinfo
from collections.abc import Callable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGE = Path(__file__).resolve().parent
_ZONES = ("America/New_York", "Europe/London")
"""The zones that :mod:`fx_dagster.market.calendar` compiles."""
_log = logging.getLogger(__name__)


@cache
def _source_stamp(path: Path) -> str:
    """Return a digest of the zones, a source file and every file of this package that it imports, directly or not."""
    digest = hashlib.sha256()
    for zone in _ZONES:
        digest.update(_zone_rules(zone))
    for source in sorted(_sources(path)):
        digest.update(source.name.encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _zone_rules(key: str) -> bytes:
    """Return the bytes from which :mod:`zoneinfo` reads a zone: the system's, or else those of the tzdata package."""
    for folder in zoneinfo.TZPATH:
        file = Path(folder, key)
        if file.is_file():
            return file.read_bytes()
    return resources.files("tzdata").joinpath("zoneinfo", key).read_bytes()


def _sources(start: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path)
    return found


def _imported(path: Path) -> list[Path]:
    """Return the files of this package that a source file imports."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
    own = [name.split(".") for name in names if name.startswith(f"{_PACKAGE.name}.")]
    return [file for parts in own if (file := _PACKAGE.parent.joinpath(*parts).with_suffix(".py")).is_file()]


# What the documentation of pickle names, and what NumPy's and Numba's own types add to it.
_UNREADABLE = (
    OSError, EOFError, pickle.UnpicklingError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError,
)  # fmt: skip


class _IndexFile(IndexDataCacheFile):
    """Numba's cache files; an index that cannot be read (corrupt, or of types that are gone) is an empty one."""

    def _load_index(self) -> dict[Any, str]:
        try:
            return super()._load_index()
        except _UNREADABLE as error:
            _log.info("compiled cache is unreadable, compiling anew: %s", error)
            return {}


class _PackageCache(FunctionCache):
    """Numba's function cache, stamped with every source that matters; its troubles are logged, not raised."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _IndexFile(
            cache_path=self._cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=_source_stamp(Path(function.__code__.co_filename).resolve()),
        )

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except _UNREADABLE as error:
            _log.info("compiled code of %s is unreadable, compiling anew: %s", self._name, error)
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _log.warning("compiled code of %s is not kept: %s", self._name, error)


def compiled(function: Function) -> Function:
    """Compile ``function`` in nopython mode, cached on disk where that is possible."""
    return _compiled(function, inline="never")


def uncounted(function: Function) -> Function:
    """As :func:`compiled`, without counting references to arrays: for what handles bundles of them and makes none.

    Counting takes nine tenths of a quiet tick. A function that makes an array is refused by Numba; one that calls what
    returns a new array would leak it, and must not be written: such a function is :func:`compiled`.
    """
    return _compiled(function, inline="never", counted=False)


def inlined(function: Function) -> Function:
    """As :func:`compiled`, and copied into compiled callers: for what is called at every tick with a bundle of arrays.

    A copy is of the kind of its caller: within :func:`uncounted` code it counts nothing.
    """
    return _compiled(function, inline="always")


def _compiled(function: Function, inline: str, *, counted: bool = True) -> Function:
    dispatcher = njit(function, nogil=True, error_model="numpy", inline=inline, _nrt=counted)
    try:
        dispatcher._cache = _PackageCache(function)
    except (RuntimeError, OSError) as error:
        _log.info("no folder for compiled code, compiling in memory: %s", error)
    return dispatcher
