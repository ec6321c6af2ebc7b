"""One symbol's rows spread over files that follow each other in time, each read when it is needed."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from fx_dagster.errors import SourceError
from resources.market.bar_source import FrameCache


@dataclass(frozen=True)
class Part:
    """A file (or a pair of files) of one symbol.

    Attributes:
        path: the file, as named in errors.
        partner: second file of a pair.
        first: time of its first row, ns UTC.
        load: reads and checks the whole file.
    """

    path: Path
    first: int
    load: Callable[[], pd.DataFrame]
    partner: Path | None = None

    @property
    def key(self) -> Hashable:
        """Identity of the file's present content."""
        paths = (self.path,) if self.partner is None else (self.path, self.partner)
        return tuple((path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths)


class FileSeries:
    """Parts in the order of their first rows.

    Args:
        parts: at least one.
        cache: parsed frames; may be shared with other series.
    """

    def __init__(self, parts: Sequence[Part], cache: FrameCache) -> None:
        self._parts = sorted(parts, key=lambda part: part.first)
        self._cache = cache

    def edges(self) -> tuple[int, int]:
        """Return the smallest time of the first part and the largest of the last, ns UTC."""
        return int(self._frame(0)["time"].min()), int(self._frame(len(self._parts) - 1)["time"].max())

    def load(self, start: int, end: int) -> pd.DataFrame:
        """Return all rows of the parts that may hold some with ``start <= time < end``.

        Raises:
            SourceError: a file cannot be read, or overlaps with the next.
        """
        frames = [self._frame(index) for index in range(len(self._parts)) if self._may_hold(index, start, end)]
        if not frames:
            return self._frame(0).iloc[:0]
        return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)

    def _may_hold(self, index: int, start: int, end: int) -> bool:
        last = index + 1 == len(self._parts)
        return self._parts[index].first < end and (last or self._parts[index + 1].first >= start)

    def _frame(self, index: int) -> pd.DataFrame:
        part = self._parts[index]
        frame = self._cache.get(part.key, part.load)
        if index + 1 < len(self._parts):
            following = self._parts[index + 1]
            if int(frame["time"].iloc[-1]) >= following.first:
                raise SourceError(
                    f"{part.path}: its rows overlap with those of {following.path.name}: duplicated rows",
                    mend="keep only one file for each stretch of time",
                )
        return frame
