"""Multi-timeframe trend correlation: does this timeframe's trend agree with the coarser ones'?"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import BarArrays, Columns, Float64
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.windows import MOMENT_WINDOW, Array, slide_moments
from fx_dagster.market.timeframes import bar_close

TREND_WINDOW: Final = MOMENT_WINDOW

_STRENGTH, _COARSE = int(Column.TREND_STRENGTH), int(Column.TREND_COARSE)
_CORRELATION = int(Column.TREND_CORRELATION)


@compiled
def trend_strength(close: Array) -> Array:
    """Pearson correlation of the close with time over 20 bars: +1 a straight rise, -1 a straight fall, 0 flat."""
    strength = np.full(len(close), np.nan)
    known = strength[TREND_WINDOW - 1 :]
    slide_moments(close, np.empty(len(known)), np.empty(len(known)), known)
    return strength


@compiled
def add_last_closed(closing: Array, coarse_closing: Array, strength: Array, out: Array) -> None:
    """Add to ``out``, for each base bar, the strength of the newest coarse bar that is closed when it closes.

    NaN where no coarse bar is closed yet. Closing times are int64 ns UTC, ascending.
    """
    known = 0
    for row in range(len(closing)):
        while known < len(coarse_closing) and coarse_closing[known] <= closing[row]:
            known += 1
        out[row] += strength[known - 1] if known else np.nan


def fill_trends(bars: BarArrays, coarser: Sequence[BarArrays], values: Float64) -> None:
    """Write the agreement of the trends of this timeframe and its context timeframes into their rows of ``values``.

    ``trend_strength`` r is :func:`trend_strength` of this timeframe, already there; ``trend_coarse`` R the mean of the
    context timeframes' strengths as of their last closed bar (the timeframe's own strength where it has no context: D1,
    W1, MN1); ``trend_correlation`` = r·R in [-1, 1], the uncentred correlation of the two trends: positive where they
    agree. Own strength from row 19; the others once every context timeframe has 20 closed bars.
    """
    own, coarse = values[_STRENGTH], values[_COARSE]
    if coarser:
        coarse[:] = 0.0
        closing = bar_close(bars.time, bars.timeframe)
        for other in coarser:
            add_last_closed(closing, bar_close(other.time, other.timeframe), trend_strength(other.close), coarse)
        coarse /= len(coarser)
    else:
        coarse[:] = own
    np.multiply(own, coarse, out=values[_CORRELATION])


def trend_correlation_vote(columns: Columns, _close: Float64) -> Float64:
    """The mean of both trends, weighted by (1 + agreement)/2: full where they agree, none where they are opposed."""
    mean = (columns["trend_strength"] + columns["trend_coarse"]) / 2.0
    return mean * ((1.0 + columns["trend_correlation"]) / 2.0)
