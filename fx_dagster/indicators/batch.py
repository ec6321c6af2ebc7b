"""All classical indicators over whole histories, compiled."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES, BarArrays, Float64, bar_arrays
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS
from fx_dagster.indicators.levels import fill_levels
from fx_dagster.indicators.multi_timeframe import fill_trends
from fx_dagster.indicators.oscillators import fill_moments, fill_wilder
from fx_dagster.indicators.trend import fill_averages
from fx_dagster.indicators.volume import fill_volume
from fx_dagster.market.timeframes import Timeframe


def compute_indicators(bars: Mapping[Timeframe, pd.DataFrame], timeframe: Timeframe) -> pd.DataFrame:
    """Compute the thirteen classical indicators of one symbol on one timeframe.

    Args:
        bars: BARS frames of the symbol by timeframe: ``timeframe`` itself and ``CONTEXT_TIMEFRAMES[timeframe]``. Rows
            are closed bars, oldest first. For values that do not depend on where history begins, each frame starts at
            least ``MEMORY_BARS`` before the first row that is used.
        timeframe: which one to compute.

    Returns:
        INDICATORS frame, one row a bar: ``time`` (opening, int64 ns UTC) and ``INDICATOR_COLUMNS`` float64, in price
        units unless the indicator says otherwise. NaN during warm-up. A row uses only what was closed at its own close.

    Raises:
        DataError: a timeframe or column is missing, or bars are out of order.
    """
    own = bar_arrays(bars, timeframe)
    values = indicator_values(own, [bar_arrays(bars, context) for context in CONTEXT_TIMEFRAMES[timeframe]])
    frame = pd.DataFrame(values.T, columns=list(INDICATOR_COLUMNS), copy=False)
    frame.insert(0, "time", own.time)
    return frame


def indicator_columns(own: BarArrays, coarser: Sequence[BarArrays]) -> dict[str, Float64]:
    """Return every indicator column, float64 ``[n]``, from arrays; as :func:`indicator_values`."""
    return dict(zip(INDICATOR_COLUMNS, indicator_values(own, coarser), strict=True))


def indicator_values(own: BarArrays, coarser: Sequence[BarArrays], out: Float64 | None = None) -> Float64:
    """Return the matrix of all indicators, float64 ``[len(INDICATOR_COLUMNS), n]``, from arrays.

    Without ``coarser`` bars the timeframe's own trend stands for theirs. ``out`` is filled and returned where it is
    given: fresh memory costs a fifth of the time.
    """
    values = np.empty((len(INDICATOR_COLUMNS), len(own))) if out is None else out
    fill_averages(own.close, values)
    fill_wilder(own.high, own.low, own.close, values)
    fill_moments(own.close, values)
    fill_trends(own, coarser, values)
    fill_volume(own.high, own.low, own.close, own.tick_volume, values)
    fill_levels(own.high, own.low, own.close, values)
    return values
