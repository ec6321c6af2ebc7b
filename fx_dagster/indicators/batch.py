"""All classical indicators over whole histories, through TA-Lib and NumPy."""

from collections.abc import Mapping, Sequence

import pandas as pd

from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES, BarArrays, Float64, bar_arrays
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS, INDICATORS
from fx_dagster.indicators.multi_timeframe import trend_correlation
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
    columns = indicator_columns(own, [bar_arrays(bars, context) for context in CONTEXT_TIMEFRAMES[timeframe]])
    return pd.DataFrame({"time": own.time} | {name: columns[name] for name in INDICATOR_COLUMNS})


def indicator_columns(own: BarArrays, coarser: Sequence[BarArrays]) -> dict[str, Float64]:
    """Return every indicator column, float64 ``[n]``, from arrays.

    Without ``coarser`` bars the timeframe's own trend stands for theirs.
    """
    columns: dict[str, Float64] = {}
    for indicator in INDICATORS:
        found = indicator.batch(own, columns) if indicator.batch else trend_correlation(own, coarser)
        columns.update(found)
    return columns
