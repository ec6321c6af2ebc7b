"""How a symbol moves with the others of the run, over whole histories."""

from collections.abc import Mapping, Sequence

import numpy as np

from fx_dagster.features.catalogue import CROSS_PEERS_MAX
from fx_dagster.features.cross_incremental import CROSS_FEATURES, new_cross, walk_grid
from fx_dagster.indicators.arrays import BarArrays, Float64, Int64
from fx_dagster.market.instruments import catalogue

NAMES = ("cross_correlation", "cross_correlation_abs", "cross_strength", "cross_implied")


def leading(symbols: Sequence[str]) -> list[int]:
    """Return the places of the symbols that every symbol is compared with, ascending.

    All of them, up to ``CROSS_PEERS_MAX``; of more, the first in the order of the instrument catalogue, in which majors
    come before crosses and exotics, and then by name.
    """
    order = {symbol: place for place, symbol in enumerate(catalogue())}
    ranked = sorted(range(len(symbols)), key=lambda place: (order.get(symbols[place], len(order)), symbols[place]))
    return sorted(ranked[:CROSS_PEERS_MAX])


def cross_features(bars: BarArrays, peers: Mapping[str, BarArrays]) -> dict[str, Float64]:
    """Return correlation with and strength against other symbols, float64 ``[n]`` each; NaN while warming up.

    Computed on the common grid of all symbols' bars by the very functions of the live session; see
    :mod:`fx_dagster.features.cross_incremental`. The order of the peers does not matter.
    """
    others = [peers[name] for name in sorted(peers)]
    grid, closes = common_grid([bars.time, *(peer.time for peer in others)], [bars.close, *(p.close for p in others)])
    found, unused = np.empty((len(grid), CROSS_FEATURES)), np.empty((0, 0))
    walk_grid(
        new_cross(closes.shape[1]), closes, np.full_like(closes, np.nan), 0, found, unused, unused,
        np.empty_like(closes),
    )  # fmt: skip
    rows = found[np.searchsorted(grid, bars.time)]
    return {name: np.ascontiguousarray(rows[:, place]) for place, name in enumerate(NAMES)}


def common_grid(times: Sequence[Int64], values: Sequence[Float64]) -> tuple[Int64, Float64]:
    """Return the union of the symbols' bar times and ``[t, n]`` of their values on it; NaN where one has no bar."""
    grid = np.unique(np.concatenate([np.asarray(time, dtype=np.int64) for time in times]))
    table = np.full((len(grid), len(times)), np.nan)
    for column, (time, value) in enumerate(zip(times, values, strict=True)):
        table[np.searchsorted(grid, time), column] = value
    return grid, table
