"""Fewer points for the eye: nothing that a person would see is lost."""

from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.market.timeframes import Timeframe, bar_open

Int64 = NDArray[np.int64]


def candles(bars: pd.DataFrame, base: Timeframe, n_max: int) -> tuple[pd.DataFrame, Timeframe]:
    """Join bars into the finest timeframe that needs at most ``n_max`` candles (or MN1, if none does).

    Unlike the lake's bars, the last candle may be unfinished.

    Returns:
        ``time open high low close``, and the candles' timeframe.
    """
    time = bars["time"].to_numpy(dtype=np.int64)
    timeframe, opening = base, time
    for timeframe in base.coarser():
        opening = bar_open(time, timeframe)
        if len(np.unique(opening)) <= n_max:
            break
    joined = bars.groupby(opening).agg(
        open=("open", "first"), high=("high", "max"), low=("low", "min"), close=("close", "last")
    )
    return joined.rename_axis("time").reset_index(), timeframe


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
    for start, end in pairwise(edges):
        part = values[start:end]
        keep += [start + part.argmin(axis=0), start + part.argmax(axis=0)]
    return np.unique(np.concatenate(keep)).astype(np.int64)
