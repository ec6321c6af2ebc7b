"""vectorbt: crossovers of simple moving averages with costs; one pair of windows, or pairs of all of both lists.

Arguments: the data, windows of the fast averages, of the slow ones, each ``5,10,15``.
"""

import sys
from itertools import product

import numpy as np
import pandas as pd
import vectorbt as vbt
from serve import serve

COSTS = {"fees": 2e-5, "slippage": 5e-5, "size": 1.0, "init_cash": 1e7, "freq": "1h"}

data = np.load(sys.argv[1])
close = pd.Series(data["close"], index=pd.DatetimeIndex(data["time"].view("M8[ns]")))
pairs = list(product(*([int(window) for window in words.split(",")] for words in sys.argv[2:4])))
fasts, slows = (list(windows) for windows in zip(*pairs, strict=True))


def replay() -> object:
    """Return what each pair earned."""
    fast, slow = vbt.MA.run(close, fasts), vbt.MA.run(close, slows)
    entries, exits = fast.ma_crossed_above(slow), fast.ma_crossed_below(slow)
    portfolio = vbt.Portfolio.from_signals(close, entries, exits, short_entries=exits, short_exits=entries, **COSTS)
    return portfolio.total_return()


serve(len(close) * len(pairs), replay)
