"""Fewer points for the eye: nothing that a person would see is lost."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def downsample_bars(bars: pd.DataFrame, n_max: int) -> tuple[pd.DataFrame, int]:
    """Join runs of consecutive bars until at most ``n_max`` are left.

    Returns:
        ``time open high low close`` and how many bars each candle holds. Extremes and the first open and last close
        of every run are kept.
    """
    run = max(1, -(-len(bars) // n_max))
    if run == 1:
        return bars[["time", "open", "high", "low", "close"]].reset_index(drop=True), 1
    group = np.arange(len(bars)) // run
    joined = bars.groupby(group).agg(
        time=("time", "first"),
        open=("open", "first"),
        high=("high", "max"),
        low=("low", "min"),
        close=("close", "last"),
    )
    return joined.reset_index(drop=True), run


def extreme_rows(values: NDArray[np.float64], n_max: int) -> Int64:
    """Return rows ``[≤ n_max]``, ascending, that keep every bucket's first row and each column's extremes in it.

    Args:
        values: ``[n, columns]``.
        n_max: at most so many rows are returned; at least ``2 × columns + 3``.
    """
    n, columns = values.shape
    if n <= n_max:
        return np.arange(n, dtype=np.int64)
    buckets = max(1, (n_max - 1) // (2 * columns + 1))
    edges = np.linspace(0, n, buckets + 1).astype(np.int64)
    keep = [np.array([n - 1]), edges[:-1]]
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        part = values[start:end]
        keep += [start + part.argmin(axis=0), start + part.argmax(axis=0)]
    return np.unique(np.concatenate(keep)).astype(np.int64)
