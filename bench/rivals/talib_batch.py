"""TA-Lib: the usual 14 indicators over a whole history."""

import sys

import numpy as np
import talib
from serve import serve

data = np.load(sys.argv[1])
high, low, close, volume = (np.ascontiguousarray(data[name]) for name in ("high", "low", "close", "tick_volume"))


def compute() -> list[object]:
    """Return all of them."""
    return [
        *(talib.SMA(close, window) for window in (20, 50, 200)),
        *(talib.EMA(close, window) for window in (12, 26)),
        talib.RSI(close, 14),
        talib.MACD(close, 12, 26, 9),
        talib.BBANDS(close, 20, 2, 2),
        talib.ATR(high, low, close, 14),
        talib.ADX(high, low, close, 14),
        talib.STOCH(high, low, close, 14, 3, 0, 3, 0),
        talib.OBV(close, volume),
        talib.MFI(high, low, close, volume, 14),
        talib.CCI(high, low, close, 20),
    ]


serve(len(close), compute)
