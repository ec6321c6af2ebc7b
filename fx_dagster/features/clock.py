"""Session and time of the week, from the clocks of New York, London and Tokyo, at the bar's close."""

import numpy as np
import pandas as pd

from fx_dagster.indicators.arrays import Float64, Int64
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe, bar_close, to_server

_TOKYO_AHEAD_OF_UTC_NS = 9 * HOUR_NS
_MONDAY_OFFSET_NS = 3 * DAY_NS
"""1970-01-01 was a Thursday."""


def clock_features(time: Int64, base: Timeframe) -> dict[str, Float64]:
    """Return phases and session flags at the close of bars that open at ``time`` (int64 ns UTC), float64 ``[n]`` each.

    Phases follow the trading day, which turns at 17:00 New York, so that daylight saving does not shift them. A
    session's flag is 1 from its opening, inclusive, to its end, exclusive.
    """
    close = bar_close(time, base)
    server = to_server(close)
    day = 2.0 * np.pi * (server % DAY_NS) / DAY_NS
    week = 2.0 * np.pi * ((server + _MONDAY_OFFSET_NS) % (7 * DAY_NS)) / (7 * DAY_NS)
    tokyo = (close + _TOKYO_AHEAD_OF_UTC_NS) % DAY_NS
    london = _london(close) % DAY_NS
    new_york = server % DAY_NS
    return {
        "hour_sin": np.sin(day),
        "hour_cos": np.cos(day),
        "session_tokyo": _between(tokyo, 9.0, 18.0),
        "session_london": _between(london, 8.0, 16.5),
        # 8:00 to 17:00 in New York on a clock that is 7 hours ahead.
        "session_new_york": _between(new_york, 15.0, 24.0),
        "week_sin": np.sin(week),
        "week_cos": np.cos(week),
    }


def _between(time_of_day: Int64, start_hour: float, end_hour: float) -> Float64:
    inside = (time_of_day >= start_hour * HOUR_NS) & (time_of_day < end_hour * HOUR_NS)
    return inside.astype(np.float64)


def _london(time: Int64) -> Int64:
    stamps = pd.DatetimeIndex(time.astype("datetime64[ns]"), tz="UTC").tz_convert("Europe/London")
    return np.asarray(stamps.tz_localize(None).as_unit("ns").asi8, dtype=np.int64)
