"""TA-Lib's streams: its compiled incremental update, one Python call an indicator and bar."""

import sys

import numpy as np
from serve import serve
from talib._ta_lib import (
    ADX_Stream,
    ATR_Stream,
    BBANDS_Stream,
    CCI_Stream,
    EMA_Stream,
    MACD_Stream,
    MFI_Stream,
    OBV_Stream,
    RSI_Stream,
    SMA_Stream,
    STOCH_Stream,
)

WARM, BARS = 512, 20_000

data = np.load(sys.argv[1])
names = ("high", "low", "close", "tick_volume")
high, low, close, volume = (np.ascontiguousarray(data[name][:WARM]) for name in names)
rows = list(zip(*(data[name][WARM : WARM + BARS].tolist() for name in names), strict=True))


def streams() -> tuple[list, list, list, list]:
    """Return all streams after the first bars, by what they are shown."""
    return (
        [
            *(SMA_Stream(close, window) for window in (20, 50, 200)),
            *(EMA_Stream(close, span) for span in (12, 26)),
            *(RSI_Stream(close, 14), MACD_Stream(close, 12, 26, 9), BBANDS_Stream(close, 20, 2, 2)),
        ],
        [
            *(ATR_Stream(high, low, close, 14), ADX_Stream(high, low, close, 14), CCI_Stream(high, low, close, 20)),
            STOCH_Stream(high, low, close, 14, 3, 0, 3, 0),
        ],
        [OBV_Stream(close, volume)],
        [MFI_Stream(high, low, close, volume, 14)],
    )


def update(made: tuple[list, list, list, list]) -> None:
    """Show all streams every bar."""
    of_close, of_prices, of_volume, of_all = made
    for top, bottom, last, count in rows:
        for stream in of_close:
            stream.update(last)
        for stream in of_prices:
            stream.update(top, bottom, last)
        for stream in of_volume:
            stream.update(last, count)
        for stream in of_all:
            stream.update(top, bottom, last, count)


serve(len(rows), update, streams)
