"""Multi-timeframe trend correlation: does this timeframe's trend agree with the coarser ones'?"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, last_closed, take, window_moments

TREND_WINDOW: Final = 20


def trend_strength(close: Float64) -> Float64:
    """Pearson correlation of the close with time over 20 bars: +1 a straight rise, -1 a straight fall, 0 flat."""
    return window_moments(close, TREND_WINDOW)[2]


def trend_correlation(bars: BarArrays, coarser: Sequence[BarArrays]) -> dict[str, Float64]:
    """Agreement of the trends of this timeframe and its context timeframes.

    ``trend_strength`` r is :func:`trend_strength` of this timeframe; ``trend_coarse`` R the mean of the context
    timeframes' strengths as of their last closed bar (the timeframe's own strength where it has no context: D1, W1,
    MN1); ``trend_correlation`` = r·R in [-1, 1], the uncentred correlation of the two trends: positive where they
    agree. Own strength from row 19; the others once every context timeframe has 20 closed bars.
    """
    own = trend_strength(bars.close)
    coarse = own
    if coarser:
        strengths = [
            take(trend_strength(other.close), last_closed(bars.time, bars.timeframe, other.time, other.timeframe))
            for other in coarser
        ]
        coarse = np.asarray(sum(strengths[1:], start=strengths[0]) / len(strengths))
    return {"trend_strength": own, "trend_coarse": coarse, "trend_correlation": own * coarse}


def trend_correlation_vote(columns: Columns, _close: Float64) -> Float64:
    """The mean of both trends, weighted by (1 + agreement)/2: full where they agree, none where they are opposed."""
    mean = (columns["trend_strength"] + columns["trend_coarse"]) / 2.0
    return mean * ((1.0 + columns["trend_correlation"]) / 2.0)
