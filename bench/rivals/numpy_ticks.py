"""NumPy: ticks to M1 with ``reduceat``, and M1 to the eight longer timeframes."""

import sys

import numpy as np
from serve import serve

MINUTE_NS = 60_000_000_000
MINUTES = (5, 15, 30, 60, 240)

data = np.load(sys.argv[1])
time, bid = data["time"], data["bid"]
one = np.ones(len(bid), dtype=np.int32)


def bars(key: np.ndarray, columns: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """Return open, high, low, close and count of the rows that share a key, and their first rows."""
    opening, high, low, close, count = columns
    first = np.flatnonzero(np.concatenate(([True], key[1:] != key[:-1])))
    last = np.append(first[1:], len(key)) - 1
    return (
        opening[first], np.maximum.reduceat(high, first), np.minimum.reduceat(low, first), close[last],
        np.add.reduceat(count, first), first,
    )  # fmt: skip


def build() -> list[tuple[np.ndarray, ...]]:
    """Return bars of all nine timeframes."""
    minute = time // MINUTE_NS
    *base, first = bars(minute, (bid, bid, bid, bid, one))
    minute = minute[first]
    days = minute // 1_440
    months = days.astype("M8[D]").astype("M8[M]").astype(np.int64)
    keys = (*(minute // length for length in MINUTES), days, (days + 3) // 7, months)
    return [tuple(base), *(bars(key, tuple(base)) for key in keys)]


serve(len(time), build)
