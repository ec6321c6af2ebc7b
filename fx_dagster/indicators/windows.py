"""Windows over bars, compiled: exact moments of the last 20 closes, sliding sums and extremes without subtraction.

Windows of squares are summed afresh for each row, around the row's own close and from the newest bar to the oldest: a
running sum of squared prices loses half its digits after a million bars, and its error would depend on where history
began. The loops are plain on purpose: the inner one has a constant length, so that the compiler unrolls it and works on
several rows at once, without changing the order of operations within a row.

Sliding means and extremes are made of two parts (van Herk 1992): rows are cut into blocks as long as the window, and
each window is the tail of one block and the head of the next. Nothing is ever subtracted, so that a huge price leaves
no trace once it is out of the window, and no error grows with the length of history. A state keeps the tails in a ring,
where each new value takes the place of the tail that is no longer needed.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np

from fx_dagster.compiled import compiled

Array: TypeAlias = Any
"""A contiguous float64 array; Numba knows its shape."""

MOMENT_WINDOW: Final = 20
BLOCK_ROWS: Final = 4_096
"""Rows of one pass: the buffers between two loops then stay in the processor's cache."""

FLAT_SHARE: Final = 1e-9
"""A deviation of at most this share of the close is rounding noise: the window counts as flat."""

_ROWS: Final = float(MOMENT_WINDOW)
_MEAN_LAG: Final = (_ROWS - 1.0) / 2.0
_TIME_DEVIATION: Final = float(np.sqrt((_ROWS * _ROWS - 1.0) / 12.0))


@compiled
def moments(total: float, squares: float, product: float, close: float) -> tuple[float, float, float]:
    """Return mean offset from the close, population standard deviation and correlation with time of 20 closes.

    With d_k = close[t-k] - close[t], k = 0 … 19: offset = Σd/n; σ² = Σd²/n - offset²; the correlation is Pearson's, of
    d_k with -k. It is 0 where the window is flat.

    Args:
        total: Σ d_k.
        squares: Σ d_k².
        product: -Σ k·d_k.
        close: close[t].
    """
    mean = total / _ROWS
    variance = squares / _ROWS - mean * mean
    deviation = math.sqrt(variance if variance > 0.0 else 0.0)
    flat = deviation <= FLAT_SHARE * close
    covariance = product / _ROWS + mean * _MEAN_LAG
    correlation = covariance / (1.0 if flat else deviation * _TIME_DEVIATION)
    return mean, deviation, 0.0 if flat else min(max(correlation, -1.0), 1.0)


@compiled
def slide_moments(close: Array, mean: Array, deviation: Array, correlation: Array) -> None:
    """Write :func:`moments` of the 20 closes up to each row; the outputs begin at row 19, where the first are known."""
    # Rows are counted from 0: from another start the compiler does not see that no index is negative.
    for place in range(len(mean)):
        newest = place + MOMENT_WINDOW - 1
        now = close[newest]
        total = squares = product = 0.0
        for lag in range(1, MOMENT_WINDOW):
            offset = close[newest - lag] - now
            total += offset
            product -= lag * offset
            squares += offset * offset
        mean[place], deviation[place], correlation[place] = moments(total, squares, product, now)


@compiled
def slide_mean(values: Array, window: int, out: Array) -> None:
    """Write the mean of the last ``window`` values; NaN in the first ``window - 1`` rows."""
    tail = np.zeros(window + 1)
    for start in range(0, len(values), window):
        head = 0.0
        length = min(window, len(values) - start)
        for place in range(length):
            head += values[start + place]
            out[start + place] = (tail[place + 1] + head) / window
        for place in range(length - 1, -1, -1):
            tail[place] = tail[place + 1] + values[start + place]
    out[: window - 1] = np.nan


@compiled
def push_sum(ring: Array, head: float, count: int, value: float) -> tuple[float, float]:
    """Return the sum of the last ``len(ring)`` values, this one included, and the new head.

    Args:
        ring: tails of the last block; changed.
        head: sum of the present block's values.
        count: values before this one; with fewer than the window the sum is of those.
        value: the new one.
    """
    last = len(ring) - 1
    place = count % len(ring)
    head = value if place == 0 else head + value
    ring[place] = value
    if place < last:
        return ring[place + 1] + head, head
    for earlier in range(last - 1, -1, -1):
        ring[earlier] += ring[earlier + 1]
    return head, head


@compiled
def slide_max(values: Array, sign: float, window: int, out: Array) -> None:
    """Write ``sign`` times the maximum of the last ``window`` values of ``sign × values``: with -1, the minimum.

    The first ``window - 1`` rows are those of as many values as there are.
    """
    tail = np.full(window + 1, -np.inf)
    for start in range(0, len(values), window):
        head = -np.inf
        length = min(window, len(values) - start)
        for place in range(length):
            head = max(head, sign * values[start + place])
            out[start + place] = sign * max(tail[place + 1], head)
        for place in range(length - 1, -1, -1):
            tail[place] = max(tail[place + 1], sign * values[start + place])


@compiled
def push_max(ring: Array, head: float, count: int, value: float) -> tuple[float, float]:
    """Return the maximum of the last ``len(ring)`` values, this one included, and the new head; as :func:`push_sum`.

    The ring of a new state is filled with -inf.
    """
    last = len(ring) - 1
    place = count % len(ring)
    head = value if place == 0 else max(head, value)
    ring[place] = value
    if place < last:
        return max(ring[place + 1], head), head
    for earlier in range(last - 1, -1, -1):
        ring[earlier] = max(ring[earlier], ring[earlier + 1])
    return head, head
