"""Compiled functions with a cache that is never stale and never in the way.

Numba's own ``cache=True`` has two habits that a trading system cannot have: a function is not compiled anew when a
function that it calls in *another* file changes, and a cache folder that cannot be written is an error. Here the stamp
of a cached function covers every source file of the packages that hold compiled code, and a folder that is read-only,
full or corrupt only means that the function is compiled in memory.
"""

import hashlib
import logging
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from numba import njit
from numba.core.caching import FunctionCache, IndexDataCacheFile

Function = TypeVar("Function", bound=Callable[..., Any])

_PACKAGES = ("decision", "execution", "backtest")
_log = logging.getLogger(__name__)


@cache
def _source_stamp() -> str:
    """Return a digest of every source file that compiled code may come from."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for package in _PACKAGES for path in (root / package).glob("*.py")):
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


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
    """Numba's function cache, stamped with all compiled sources; its troubles are logged, not raised."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = _IndexFile(
            cache_path=self._cache_path, filename_base=self._impl.filename_base, source_stamp=_source_stamp()
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
    dispatcher = njit(function, nogil=True, error_model="numpy")
    try:
        dispatcher._cache = _PackageCache(function)
    except (RuntimeError, OSError) as error:
        _log.info("no folder for compiled code, compiling in memory: %s", error)
    return dispatcher


def interpreted(function: Function) -> Function:
    """Return the Python function behind a compiled one: the same arithmetic, without compiling for new types.

    For callers that use a few numbers at a time and must never wait for the compiler.
    """
    return getattr(function, "py_func", function)
