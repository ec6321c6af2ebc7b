"""Ticks modelled from bars, as MetaTrader's tester does on "1 minute OHLC".

A bar becomes four ticks: open, the extreme that its direction makes likelier first (the low of a rising bar), the other
extreme, close. Rebuilding bars from them gives the very same prices, tick volumes and spreads. Every such tick carries
:attr:`TickFlag.MODELLED`, since the order of the extremes and all that lies between is not known.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.market.incremental import SPREAD_DECIMALS
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.schemas import TickFlag, empty_ticks, tick_frame
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Int64, Timeframe, bar_close, to_server

Float64 = NDArray[np.float64]

MILLISECOND_NS = 1_000_000

# Spread relative to the liquid hours, by hour of the server clock (0 = 17:00 New York). Rollover empties the book; Asia
# is thinner than London and New York. The shape is that of retail quotes; the level is the instrument's own.
SPREAD_BY_SERVER_HOUR = np.array(
    [
        4.0,
        1.8,
        1.4,
        1.3,
        1.3,
        1.3,
        1.3,
        1.3,
        1.2,
        1.1,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.0,
        1.1,
        1.2,
        1.3,
        1.5,
        2.5,
    ]
)


def model_spread(time: Int64, instrument: Instrument) -> Float64:
    """Return a plausible spread (whole points) at each time (ns UTC): the instrument's own, wider around rollover."""
    hour = to_server(np.asarray(time, dtype=np.int64)) % DAY_NS // HOUR_NS
    return np.maximum(np.round(SPREAD_BY_SERVER_HOUR[hour] * instrument.typical_spread_points), 1.0)


def model_ticks(
    bars: pd.DataFrame, timeframe: Timeframe, spread_points: NDArray | None, instrument: Instrument
) -> pd.DataFrame:
    """Return four ticks a bar: TICKS in the order of time.

    Args:
        bars: BARS of at most a day, as the source has them: what is not finite or positive stays so, and the ticks of
            a bar whose high or low contradicts its open or close carry :attr:`TickFlag.IMPOSSIBLE`, so that
            :func:`fx_dagster.market.validation.split_ticks` finds them.
        timeframe: length of the bars.
        spread_points: spread of each bar ``[n]``; None: the bar's own or, where that is 0, a modelled one.
        instrument: gives the point and the usual spread.

    Raises:
        DataError: bars longer than a day (their ticks would fall on closed days), or a spread too few or too many.
    """
    if timeframe.nominal_ns > DAY_NS:
        raise DataError(f"ticks cannot be modelled from {timeframe} bars", mend="use bars of a day at most")
    if bars.empty:
        return empty_ticks()
    time = bars["time"].to_numpy()
    spread = _spread(bars, spread_points, instrument)
    bid = _path(bars).reshape(-1)
    # What is infinite in the bar becomes infinite or undefined in the ticks, on purpose.
    with np.errstate(invalid="ignore"):
        ask = bid + np.repeat(spread * instrument.point, 4)
        volume = _volumes(bars["tick_volume"].to_numpy()).reshape(-1)
    return tick_frame(
        _times(time, timeframe).reshape(-1),
        bid,
        np.round(ask, instrument.digits + SPREAD_DECIMALS),
        volume,
        np.repeat(_flags(bars), 4),
    )


def _spread(bars: pd.DataFrame, given: NDArray | None, instrument: Instrument) -> Float64:
    if given is None:
        own = bars["spread"].to_numpy()
        # Only a missing spread is modelled; a negative or undefined one stays, to be found.
        spread = np.where(own != 0, own, model_spread(bars["time"].to_numpy(), instrument))
    else:
        spread = np.asarray(given, dtype=np.float64)
        if spread.shape != (len(bars),):
            raise DataError(f"{spread.size} spreads for {len(bars)} bars", mend="give one spread a bar")
    return np.asarray(np.round(spread, SPREAD_DECIMALS), dtype=np.float64)


def _flags(bars: pd.DataFrame) -> NDArray[np.int32]:
    opening, high, low, close = (bars[name].to_numpy() for name in ("open", "high", "low", "close"))
    impossible = (high < np.maximum(opening, close)) | (low > np.minimum(opening, close))
    flags = np.where(impossible, TickFlag.MODELLED | TickFlag.IMPOSSIBLE, TickFlag.MODELLED)
    return (flags | TickFlag.BID | TickFlag.ASK).astype(np.int32)


def _path(bars: pd.DataFrame) -> Float64:
    opening, high, low, close = (bars[name].to_numpy() for name in ("open", "high", "low", "close"))
    rising = close >= opening
    return np.stack([opening, np.where(rising, low, high), np.where(rising, high, low), close], axis=1)


def _times(opening: Int64, timeframe: Timeframe) -> Int64:
    closing = bar_close(opening, timeframe)
    third = (closing - opening) // (3 * MILLISECOND_NS) * MILLISECOND_NS
    return np.stack([opening, opening + third, opening + 2 * third, closing - MILLISECOND_NS], axis=1)


def _volumes(tick_volume: Float64) -> Float64:
    # Whole quarters and a remainder: floating-point addition of these is exact, so that the sum is the bar's own.
    quarter = np.floor(tick_volume / 4)
    return np.stack([quarter, quarter, quarter, tick_volume - 3 * quarter], axis=1)
