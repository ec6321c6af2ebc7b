"""Inputs of the decision step that follow from bars, over whole histories; a live session has the same, bar by bar."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from fx_dagster.compiled import compiled
from fx_dagster.decision.combine import classical_signal
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.errors import DataError
from fx_dagster.features.catalogue import SPREAD_WINDOW, VOLATILITY_LONG, VOLATILITY_SHORT
from fx_dagster.features.cross_incremental import new_cross, walk_grid
from fx_dagster.features.volatility import bars_a_year, exact_realised_volatility, realised_volatility
from fx_dagster.market.timeframes import DAY_NS, Timeframe, to_server

LONG_BARS = VOLATILITY_LONG


def trading_day(time: Int64) -> Int64:
    """Return the number of the trading day (it turns at 17:00 New York) of each time, int64 ns UTC."""
    return to_server(np.asarray(time, dtype=np.int64)) // DAY_NS


def volatilities(close: Float64, timeframe: Timeframe) -> tuple[Float64, Float64]:
    """Return the annualised realised volatility over 24 and 240 bars; float64 [n], NaN while warming up.

    Args:
        close: closes of consecutive bars, > 0.
        timeframe: their length.
    """
    close, scale = np.asarray(close, dtype=np.float64), math.sqrt(bars_a_year(timeframe))
    return exact_realised_volatility(close, VOLATILITY_SHORT) * scale, realised_volatility(close, LONG_BARS) * scale


def spread_medians(spread: Float64) -> Float64:
    """Return the median spread (price) of the last 120 bars, of fewer at the start; float64 [n]."""
    return pd.Series(spread).rolling(SPREAD_WINDOW, min_periods=1).median().to_numpy(dtype=np.float64)


@compiled
def traditional_signals(votes: np.ndarray, weights: tuple[float, ...]) -> np.ndarray:
    """Return the classical indicators' signal of each row of ``votes[n, v]``; NaN where no vote is there."""
    out = np.empty(votes.shape[0])
    for i in range(votes.shape[0]):
        out[i] = classical_signal(votes[i], weights)
    return out


def cross_symbol(
    close: Float64, signals: Float64, leaders: Sequence[int] | None = None
) -> tuple[Float64, Float64, Float64]:
    """Return what the leading symbols say for each one, how far correlations have moved, and the returns.

    See :func:`fx_dagster.features.cross_incremental.compare_one`.

    Args:
        close: ``[t, n]`` closes on the common grid of the symbols' bars; NaN where a symbol has no bar.
        signals: ``[t, n]`` traditional signals of the same bars (:func:`traditional_signals`).
        leaders: columns of the leading symbols (:func:`fx_dagster.features.cross.leading`); None: all lead.

    Returns:
        ``agreement`` and ``shift``, float64 ``[t, n]``, NaN with a single symbol and while warming up; and log returns
        on the grid, NaN where unknown.

    Raises:
        DataError: shapes differ.
    """
    close, signals = (np.ascontiguousarray(values, dtype=np.float64) for values in (close, signals))
    if close.shape != signals.shape or close.ndim != 2:
        raise DataError(f"closes {close.shape} and signals {signals.shape} differ", mend="pass [t, n] of the same bars")
    agreement, shift, returns = (np.full(close.shape, np.nan) for _ in range(3))
    walk_grid(new_cross(close.shape[1], leaders), close, signals, -1, np.empty((0, 0)), agreement, shift, returns)
    absent = ~np.isfinite(close)
    agreement[absent] = shift[absent] = np.nan
    return agreement, shift, returns
