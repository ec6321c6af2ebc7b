"""Time stamps of fixed width, parsed for a whole column at once.

A pattern has one letter a digit: ``Y`` year, ``M`` month, ``D`` day, ``h`` hour, ``m`` minute, ``s`` second, ``f``
decimals of the second; every other character stands for itself. ``YYYY.MM.DD``, ``YYYYMMDD hhmmssfff``.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Int64

_LETTERS = "YMDhmsf"


def parse_stamps(column: pa.ChunkedArray, pattern: str) -> Int64 | None:
    """Return nanoseconds since 1970-01-01 of the stamps' own clock; None if any stamp does not fit the pattern.

    A pattern without a date gives nanoseconds since midnight.
    """
    characters = _characters(column, len(pattern))
    return None if characters is None else _to_ns(characters, pattern)


def stamp_fits(text: str, pattern: str) -> bool:
    """Return whether one stamp fits the pattern and exists in the calendar."""
    return parse_stamps(pa.chunked_array([[text]], type=pa.string()), pattern) is not None


def _characters(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8] | None:
    """Return the column as ``uint8[n, width]``; None unless each text has ``width`` bytes."""
    parts = []
    for chunk in column.chunks:
        offsets = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[chunk.offset : chunk.offset + len(chunk) + 1]
        if not (np.diff(offsets) == width).all():
            return None
        if len(chunk):
            text = np.frombuffer(chunk.buffers()[2], dtype=np.uint8)[offsets[0] : offsets[-1]]
            parts.append(text.reshape(len(chunk), width))
    return np.concatenate(parts) if parts else np.empty((0, width), dtype=np.uint8)


def _to_ns(characters: NDArray[np.uint8], pattern: str) -> Int64 | None:
    values: dict[str, Int64] = {letter: np.zeros(len(characters), dtype=np.int64) for letter in _LETTERS}
    for position, letter in enumerate(pattern):
        column = characters[:, position]
        if letter not in values:
            if not (column == ord(letter)).all():
                return None
            continue
        digits = column - np.uint8(ord("0"))  # characters below "0" wrap around to more than nine
        if not (digits <= 9).all():
            return None
        values[letter] = values[letter] * 10 + digits
    return _assemble(values, decimals=pattern.count("f"), dated="Y" in pattern)


def _assemble(values: dict[str, Int64], *, decimals: int, dated: bool) -> Int64 | None:
    if (values["h"] > 23).any() or (values["m"] > 59).any() or (values["s"] > 59).any():
        return None
    time = values["h"] * HOUR_NS + values["m"] * MINUTE_NS + values["s"] * SECOND_NS
    time += values["f"] * 10 ** (9 - decimals)
    if not dated:
        return time
    if not ((values["M"] >= 1) & (values["M"] <= 12) & (values["D"] >= 1)).all():
        return None
    months = ((values["Y"] - 1970) * 12 + values["M"] - 1).astype("datetime64[M]")
    days = months.astype("datetime64[D]") + (values["D"] - 1)
    if not (days.astype("datetime64[M]") == months).all():
        return None
    return np.asarray(days.astype(np.int64) * DAY_NS + time, dtype=np.int64)
