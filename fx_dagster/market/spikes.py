"""Prices that leave the market for a moment and come back: errors of a feed, told from jumps that stay.

A move is measured against the median absolute move of the rows before it, which no outlier can inflate (Hampel 1974,
"The influence curve and its role in robust estimation"). Only the moves that pass a cheap first test are looked at
closely, so that clean ticks cost two passes over an array.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from fx_dagster.settings import ValidationSettings

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Rows = NDArray[np.intp]

MAD_TO_SIGMA = 1.4826
"""Median absolute deviation to standard deviation, for a normal distribution."""

SPIKE_ROWS_MAX = 3
"""A price that stays away for more rows is a price."""

RETURNED_SHARE = 0.7
"""Share of the move that must be taken back."""

WICK_SHARE = 0.2
"""A bar's extreme may be an honest crash that recovered within the bar; beyond this share of the price it is not."""

_NEAR_ROWS = 6
"""Rows to either side whose median is the market's level around a move."""

_BATCH_ROWS = 65_536


def spikes(price: Float64, continuous: Bool, quiet: float, settings: ValidationSettings) -> Bool:
    """Return the rows whose price moved far beyond local volatility and was taken back at once.

    Args:
        price: prices ``[n]`` > 0 in the order of time.
        continuous: ``[n]``, whether a row is the quote that followed the row before. Where it is not (the extremes of
            a bar), a move away and back is disbelieved only beyond :data:`WICK_SHARE`.
        quiet: least standard deviation of a move (price).
        settings: robust z and window.
    """
    found = np.zeros(len(price), dtype=np.bool_)
    if len(price) < 3:
        return found
    # A first row that is wrong has no row before it: the level of its neighbours stands in.
    before = np.concatenate([[np.median(price[: 2 * _NEAR_ROWS + 1])], price[:-1]])
    move = price - before
    rows = np.flatnonzero(np.abs(move) > settings.spike_robust_z * quiet)
    scale = np.maximum(MAD_TO_SIGMA * local_median(np.abs(move), rows, settings.spike_window), quiet)
    rows = rows[np.abs(move[rows]) > settings.spike_robust_z * scale]
    rows = rows[_leads_away(price, move, rows)]
    for length in range(1, SPIKE_ROWS_MAX + 1):
        starts = _taken_back(price, before, move, rows, length)
        starts = starts[_implausible(price, continuous, move, starts, length)]
        for offset in range(length):
            found[starts + offset] = True
    return found


def local_median(values: Float64, rows: Rows, window: int) -> Float64:
    """Return, for each of ``rows``, the median of the ``window`` values before it; at the start, of the first ones."""
    medians = np.empty(len(rows))
    size = min(window, len(values))
    if size == 0:
        return medians
    windows = sliding_window_view(values, size)
    first = np.clip(rows - size, 0, len(values) - size)
    for at in range(0, len(rows), _BATCH_ROWS):
        medians[at : at + _BATCH_ROWS] = np.median(windows[first[at : at + _BATCH_ROWS]], axis=1)
    return medians


def _leads_away(price: Float64, move: Float64, rows: Rows) -> Bool:
    """Return whether each move ends far from the level around it: the way back from a spike does not."""
    size = min(2 * _NEAR_ROWS + 1, len(price))
    first = np.clip(rows - _NEAR_ROWS, 0, len(price) - size)
    level = np.median(sliding_window_view(price, size)[first], axis=1) if len(rows) else np.zeros(0)
    return np.asarray(np.abs(price[rows] - level) > 0.5 * np.abs(move[rows]), dtype=np.bool_)


def _taken_back(price: Float64, before: Float64, move: Float64, rows: Rows, length: int) -> Rows:
    """Return the rows after which ``length`` prices stay away and the next is back."""
    rows = rows[rows + length < len(price)]
    size, origin = np.abs(move[rows]), before[rows]
    back = np.abs(price[rows + length] - origin) <= (1 - RETURNED_SHARE) * size
    for offset in range(1, length):
        back &= (price[rows + offset] - origin) * np.sign(move[rows]) >= 0.5 * size
    return rows[back]


def _implausible(price: Float64, continuous: Bool, move: Float64, starts: Rows, length: int) -> Bool:
    tick_by_tick = continuous[starts] | continuous[starts + length]
    beyond_any_wick = np.abs(move[starts]) > WICK_SHARE * (price[starts] - move[starts])
    return np.asarray(tick_by_tick | beyond_any_wick, dtype=np.bool_)
