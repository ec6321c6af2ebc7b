"""What came next: forward return, direction and triple-barrier outcome.

A decision taken at a bar's close is carried out at the next bar's open, and left at the open of the bar after the
horizon: the prices a trader could have had, not the close that the decision was made on.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import Float64

_COLUMNS = ("time", "open", "high", "low")


def compute_labels(
    bars: pd.DataFrame, atr: Float64, *, horizon_bars: int, barrier_atr: float, cost: Float64 | float
) -> pd.DataFrame:
    """Label each bar with what followed it.

    Args:
        bars: BARS frame of one symbol and timeframe, ``n`` rows, ascending.
        atr: ATR of the same rows in price units, float64 ``[n]``; NaN while it warms up.
        horizon_bars: bars that a position is held, at least 1.
        barrier_atr: distance of either barrier from the entry, in ATR of the deciding bar.
        cost: round-trip spread and commission as a fraction of the price, float64 ``[n]`` or one number.

    Returns:
        LABELS frame. For bar t with horizon h: ``forward_return`` = ln(open(t+1+h) / open(t+1)), before costs;
        ``cost`` as given; ``up`` 1 if the forward return is above 0; ``barrier`` (López de Prado 2018, ch. 3) +1 or
        -1 for the barrier that bars t+1 … t+h touch first, 0 if none, or both within one bar, whose order bars do not
        tell; ``end_time`` = opening of bar t+1+h (int64 ns UTC), from which the label is known. Rows without a complete
        horizon or without ATR are left out.

    Raises:
        DataError: a column is missing, lengths differ, or horizon, barrier or cost are impossible.
    """
    _require(bars, atr, horizon_bars, barrier_atr)
    count = max(len(bars) - 1 - horizon_bars, 0)
    time = bars["time"].to_numpy(dtype=np.int64)
    price = {name: np.ascontiguousarray(bars[name].to_numpy(dtype=np.float64)) for name in _COLUMNS[1:]}
    costs = np.broadcast_to(np.asarray(cost, dtype=np.float64), (len(bars),))[:count]
    if not np.all(np.isfinite(costs) & (costs >= 0.0)):
        raise DataError("labels: cost is negative or not finite", mend="pass spread and commission over the price")
    entry = price["open"][1 : 1 + count]
    forward = np.log(price["open"][1 + horizon_bars : 1 + horizon_bars + count] / entry)
    labels = pd.DataFrame(
        {
            "time": time[:count],
            "forward_return": forward,
            "cost": costs,
            "up": (forward > 0.0).astype(np.int8),
            "barrier": _first_touch(price, entry, barrier_atr * atr[:count], horizon_bars),
            "end_time": time[1 + horizon_bars : 1 + horizon_bars + count],
        }
    )
    return labels[np.isfinite(atr[:count])].reset_index(drop=True)


def _require(bars: pd.DataFrame, atr: Float64, horizon_bars: int, barrier_atr: float) -> None:
    absent = [name for name in _COLUMNS if name not in bars]
    if absent:
        raise DataError(f"labels: column {absent[0]!r} is missing", mend="pass a BARS frame")
    if len(atr) != len(bars):
        raise DataError(f"labels: {len(atr)} ATR values for {len(bars)} bars", mend="pass the ATR of the same bars")
    if horizon_bars < 1:
        raise DataError(f"labels: horizon_bars is {horizon_bars}", mend="at least 1")
    if not barrier_atr > 0.0:
        raise DataError(f"labels: barrier_atr is {barrier_atr}", mend="above 0")


def _first_touch(
    price: Mapping[str, Float64], entry: Float64, distance: Float64, horizon_bars: int
) -> NDArray[np.int8]:
    count = len(entry)
    outcome = np.zeros(count, dtype=np.int8)
    is_open = np.ones(count, dtype=bool)
    for step in range(1, horizon_bars + 1):
        above = price["high"][step : step + count] >= entry + distance
        below = price["low"][step : step + count] <= entry - distance
        outcome[is_open & above & ~below] = 1
        outcome[is_open & below & ~above] = -1
        is_open &= ~(above | below)
    return outcome
