"""The market of a simulation: two symbols on minute bars, history made once, minutes of ticks made of each seed."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.live.protocols import FeedInfo
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import tick_frame
from fx_dagster.market.timeframes import SECOND_NS, Timeframe, bar_open

SYMBOLS = ("EURUSD", "USDJPY")
PRICES = {"EURUSD": 1.1000, "USDJPY": 150.00}
BASE = Timeframe.M1
BEGIN = 1_709_553_600 * SECOND_NS
"""A Monday, noon UTC: the whole world trades."""
HISTORY_BARS = 320
FLAGS = 6
Float64, Int64 = NDArray[np.float64], NDArray[np.int64]


@functools.cache
def history(symbol: str, timeframe: Timeframe) -> pd.DataFrame:
    """Return BARS that have closed by ``BEGIN``, oldest first: a random walk that ends at the symbol's price."""
    chance = np.random.default_rng([SYMBOLS.index(symbol), list(Timeframe).index(timeframe)])
    nominal, count = timeframe.nominal_ns, HISTORY_BARS
    last = int(bar_open(np.array([BEGIN]), timeframe)[0])
    opening = bar_open(last - nominal * np.arange(count, 0, -1, dtype=np.int64) + nominal // 2, timeframe)
    opening = np.unique(opening[opening < last])
    point, price = instrument(symbol).point, PRICES[symbol]
    scale = price * 0.00008 * (nominal / BASE.nominal_ns) ** 0.35
    steps = chance.normal(0.0, scale, len(opening))
    close = price - np.concatenate([np.cumsum(steps[::-1])[::-1][1:], [0.0]])
    begin = np.concatenate([[close[0] - steps[0]], close[:-1]])
    reach = np.abs(chance.normal(0.0, scale / 2, (2, len(opening))))
    grid = lambda values: np.round(values / point) * point  # noqa: E731
    return pd.DataFrame({
        "time": opening, "open": grid(begin), "high": grid(np.maximum(begin, close) + reach[0]),
        "low": grid(np.minimum(begin, close) - reach[1]), "close": grid(close),
        "tick_volume": chance.integers(20, 90, len(opening)).astype(np.float64),
        "spread": np.full(len(opening), instrument(symbol).typical_spread_points),
    })  # fmt: skip


@functools.cache
def history_until(symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
    """Return the last ``bars`` of them that open before ``until`` (ns UTC); nobody changes them."""
    frame = history(symbol, timeframe)
    return frame[frame["time"] < until].tail(bars).reset_index(drop=True)


@dataclass(frozen=True)
class Ticks:
    """Ticks of all symbols in order of time; ``time`` ns UTC, ``symbol`` a place in ``SYMBOLS``."""

    symbol: NDArray[np.int32]
    time: Int64
    bid: Float64
    ask: Float64


def walk(chance: np.random.Generator, seconds: float, pace_s: float) -> Ticks:
    """Return what the market really does from ``BEGIN`` on: waves, noise, now and then a jump."""
    parts = []
    for place, symbol in enumerate(SYMBOLS):
        count = max(2, int(seconds / pace_s))
        pauses = chance.exponential(pace_s, count)
        time = BEGIN + (np.cumsum(pauses) * 1e3).astype(np.int64) * 1_000_000
        item, price = instrument(symbol), PRICES[symbol]
        wave = np.sin(np.cumsum(pauses) * 2 * np.pi / chance.uniform(40.0, 160.0) + chance.uniform(0, 6))
        noise = np.cumsum(chance.normal(0.0, price * 1.2e-5, count))
        jumps = np.cumsum(np.where(chance.random(count) < 0.01, chance.normal(0.0, price * 3e-4, count), 0.0))
        mid = price + wave * price * 1.5e-4 * chance.uniform(0.2, 1.5) + noise + jumps
        half = item.typical_spread_points * item.point * chance.uniform(0.3, 0.6, count)
        bid, ask = (np.round((mid + side * half) / item.point) * item.point for side in (-1, 1))
        parts.append((np.full(count, place, np.int32), time, np.round(bid, item.digits), np.round(ask, item.digits)))
    whole = [np.concatenate(columns) for columns in zip(*parts, strict=True)]
    inside = whole[1] < BEGIN + int(seconds * SECOND_NS)
    whole = [column[inside] for column in whole]
    order = np.argsort(whole[1], kind="stable")
    return Ticks(*(column[order] for column in whole))


class TrueMarket:
    """A market source over the real ticks of a seed: what the broker trades at."""

    name, has_ticks = "simulation", True

    def __init__(self, ticks: Ticks, seconds: float) -> None:
        self._end = BEGIN + int((seconds + 3_600) * SECOND_NS)
        self._frames = {}
        for place, symbol in enumerate(SYMBOLS):
            mine = ticks.symbol == place
            time = np.concatenate([[BEGIN - 5 * SECOND_NS], ticks.time[mine]])
            spread = instrument(symbol).typical_spread_points * instrument(symbol).point
            bid = np.concatenate([[PRICES[symbol]], ticks.bid[mine]])
            ask = np.concatenate([[round(PRICES[symbol] + spread, instrument(symbol).digits)], ticks.ask[mine]])
            self._frames[symbol] = tick_frame(time, bid, ask, np.zeros(len(time)), np.full(len(time), FLAGS))

    def symbols(self) -> tuple[str, ...]:
        return SYMBOLS

    def left_out(self) -> dict[str, str]:
        return {}

    def base_timeframe(self) -> Timeframe:
        return BASE

    def span(self, symbol: str) -> tuple[int, int]:
        return BEGIN - 3_600 * SECOND_NS, self._end

    def ticks(self, symbol: str, start: int, end: int) -> Any:
        frame = self._frames[symbol]
        first, last = np.searchsorted(frame["time"].to_numpy(), (start, end))
        return frame.iloc[first:last].reset_index(drop=True)

    def bars(self, symbol: str, start: int, end: int) -> None:
        return None


INFO = FeedInfo(SYMBOLS, BASE, 6.0, lossless=False)
