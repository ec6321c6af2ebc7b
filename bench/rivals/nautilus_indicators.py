"""nautilus_trader: its own indicators, one bar at a time: the nearest it has to ours, 13 of the 14 usual ones."""

import sys

import numpy as np
from nautilus_trader.indicators import (
    AverageTrueRange,
    BollingerBands,
    CommodityChannelIndex,
    DirectionalMovement,
    ExponentialMovingAverage,
    MovingAverageConvergenceDivergence,
    OnBalanceVolume,
    RelativeStrengthIndex,
    SimpleMovingAverage,
    Stochastics,
)
from serve import serve

BARS = 20_000

data = np.load(sys.argv[1])
rows = list(zip(*(data[name][:BARS].tolist() for name in ("open", "high", "low", "close", "tick_volume")), strict=True))


def indicators() -> list[object]:
    """Return all of them, before the first bar."""
    return [
        *(SimpleMovingAverage(20), SimpleMovingAverage(50), SimpleMovingAverage(200)),
        *(ExponentialMovingAverage(12), ExponentialMovingAverage(26)),
        *(RelativeStrengthIndex(14), MovingAverageConvergenceDivergence(12, 26), ExponentialMovingAverage(9)),
        *(BollingerBands(20, 2.0), AverageTrueRange(14), DirectionalMovement(14), Stochastics(14, 3)),
        *(OnBalanceVolume(20), CommodityChannelIndex(20)),
    ]


def update(made: list) -> None:
    """Show all indicators every bar, through their fastest method."""
    short, middle, long, fast, slow, rsi, macd, signal, bands, atr, directional, stochastics, volume, channel = made
    for opening, high, low, close, ticks in rows:
        short.update_raw(close)
        middle.update_raw(close)
        long.update_raw(close)
        fast.update_raw(close)
        slow.update_raw(close)
        rsi.update_raw(close)
        macd.update_raw(close)
        signal.update_raw(macd.value)
        bands.update_raw(high, low, close)
        atr.update_raw(high, low, close)
        directional.update_raw(high, low)
        stochastics.update_raw(high, low, close)
        volume.update_raw(opening, close, ticks)
        channel.update_raw(high, low, close)


serve(len(rows), update, indicators)
