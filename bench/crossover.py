"""How fast the bare crossover replay is: one pair of windows, and many.

Both do the work that a vectorized library does for a crossover with costs: averages, crossings, fills with commission
and slippage, and the account's value after every bar. Compiling is not counted.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fx_dagster.backtest.signals import crossover, replay_targets, sweep_crossovers

COSTS: dict[str, Any] = {
    "cost_per_side": 2e-5, "slippage": 5e-5, "units": 1.0, "initial_cash": 1e7, "fill": "close",
}  # fmt: skip
REPEATS = 7


def crossover_bars_per_s(close: ArrayLike, fast: int = 20, slow: int = 50) -> float:
    """Return bars a second of one crossover, from closes to equity curve, trades and metrics; median of ``REPEATS``."""
    closes = np.asarray(close, dtype=np.float64)

    def run() -> None:
        replay_targets(closes, closes, crossover(closes, fast, slow), **COSTS)

    return len(closes) / _median_s(run)


def sweep_bars_per_s(close: ArrayLike, fasts: Sequence[int], slows: Sequence[int]) -> float:
    """Return combinations times bars a second of a sweep over pairs of windows; median of ``REPEATS``."""
    closes = np.asarray(close, dtype=np.float64)

    def run() -> None:
        sweep_crossovers(closes, closes, fasts, slows, **COSTS)

    return len(fasts) * len(closes) / _median_s(run)


def _median_s(run: Callable[[], None]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return median(seconds)
