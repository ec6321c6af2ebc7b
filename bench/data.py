"""What is measured on: seeded walks of bars and ticks, and real gold bars where a folder of exports is at hand."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.core.rows import Ticks
from fx_dagster.indicators.arrays import BarArrays
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_TYPES, TickFlag
from fx_dagster.market.timeframes import HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe
from resources.market.mt5_export import read_bars

Float64 = NDArray[np.float64]

POINT = 1e-5
START = int(pd.Timestamp("2020-01-06", tz="UTC").value)
"""A Monday, 00:00 UTC."""
GOLD = "XAUUSD"
GOLD_BARS = 57_600
"""Of the walk: ten years of hours."""
QUOTE = int(TickFlag.BID | TickFlag.ASK)


@cache
def minute_bars(count: int, seed: int = 20240101) -> BarArrays:
    """Return a walk of M1 bars around 1.1, read-only as :func:`fx_dagster.indicators.arrays.bar_arrays` gives them."""
    rng = np.random.default_rng(seed)
    close = (1.1 * np.exp(np.cumsum(rng.normal(0.0, 1e-4, count)))).round(5)
    opening, high, low = _around(close, np.abs(rng.normal(0.0, 5e-5, (2, count))).round(5))
    time = START + np.arange(count, dtype=np.int64) * MINUTE_NS
    bars = BarArrays(Timeframe.M1, time, opening, high, low, close, rng.integers(1, 500, count).astype(np.float64))
    for array in columns(bars).values():
        array.flags.writeable = False
    return bars


def columns(bars: BarArrays) -> dict[str, NDArray[Any]]:
    """Return the arrays of some bars by name."""
    return {name: getattr(bars, name) for name in ("time", "open", "high", "low", "close", "tick_volume")}


def ticks(count: int, seed: int = 20240101) -> Ticks:
    """Return a walk of one symbol's quotes in open hours: 2 s between them on average, spreads of 6 to 19 points."""
    rng = np.random.default_rng(seed)
    gap = (rng.exponential(2_000.0, count) + 1).astype(np.int64) * (SECOND_NS // 1_000)
    middle = (1.1 + np.cumsum(rng.integers(-4, 5, count)) * POINT).round(5)
    spread = rng.integers(6, 20, count) * POINT
    bid = (middle - spread / 2).round(5)
    return Ticks(
        symbol=np.zeros(count, dtype=np.int32),
        time=without_weekends(np.cumsum(gap)),
        bid=bid,
        ask=(bid + spread).round(5),
        volume=np.zeros(count),
        flags=np.full(count, QUOTE, dtype=np.int32),
    )


def without_weekends(passed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return times (ns UTC) of what happens after so many ns of weekdays, from Monday to Friday 21:00 UTC."""
    week = (4 * 24 + 21) * HOUR_NS
    return START + passed // week * (7 * 24 * HOUR_NS) + passed % week


def tick_table(source: Ticks) -> pd.DataFrame:
    """Return ticks of one symbol as TICKS."""
    return pd.DataFrame({name: getattr(source, name) for name in Ticks._fields if name != "symbol"}, copy=False)


def gold_bars(folder: Path | None, count: int = GOLD_BARS) -> tuple[pd.DataFrame, str]:
    """Return H1 BARS of gold, and what they are: the real export below ``folder``, else a walk of ``count`` bars."""
    path = None if folder is None else folder / "mt5_export" / f"{GOLD}_H1.csv.gz"
    if path is not None and path.is_file():
        return read_bars(path, Timeframe.H1), f"{GOLD} H1, real export"
    return _gold_walk(count), f"{GOLD} H1, seeded walk"


def _gold_walk(count: int) -> pd.DataFrame:
    item, rng = instrument(GOLD), np.random.default_rng(20120517)
    time = START - 10 * 365 * 24 * HOUR_NS + np.arange(2 * count, dtype=np.int64) * HOUR_NS
    time = time[item.session.is_open(time)][:count]
    close = (1_550.0 * np.exp(np.cumsum(rng.normal(0.0, 0.0016, count)))).round(item.digits)
    reach = (np.abs(rng.normal(0.0, 0.0006, (2, count))) * close).round(item.digits)
    opening, high, low = _around(close, reach)
    volume = rng.integers(500, 9_000, count).astype(np.float64)
    values = (time, opening, high, low, close, volume, np.zeros(count))
    return pd.DataFrame(dict(zip(BAR_TYPES, values, strict=True))).astype(BAR_TYPES)


def _around(close: Float64, reach: Float64) -> tuple[Float64, Float64, Float64]:
    """Return opens, each the close before, and highs and lows that reach beyond both."""
    opening = np.concatenate([close[:1], close[:-1]])
    return opening, np.maximum(opening, close) + reach[0], np.minimum(opening, close) - reach[1]
