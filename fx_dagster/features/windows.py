"""What sequence and chart models look at: the last bars of a few features, and OHLCV windows of several timeframes.

Windows are gathered from two stores that hold every bar once, so that a history of n rows needs memory for n bars and
not for n windows. A live session keeps the same two stores as rings and calls the same :func:`draw_chart`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.compiled import compiled
from fx_dagster.errors import DataError
from fx_dagster.features.catalogue import (
    CHART_BARS,
    CHART_ROWS,
    CLIP,
    SEQUENCE_BARS,
    SEQUENCE_CHANNELS,
    FeatureCatalogue,
)
from fx_dagster.indicators.arrays import Float64, Int64, last_closed
from fx_dagster.market.timeframes import Timeframe

Float32 = NDArray[np.float32]

OHLCV = ("open", "high", "low", "close", "tick_volume")
RANGE_FLOOR = 1e-6
"""Least mean extent of a bar over the price that a chart is drawn in."""


@compiled
def draw_chart(window: np.ndarray, out: np.ndarray) -> None:
    """Draw one timeframe's window free of units.

    Prices are distances from the newest close in mean extents (high - low) of the window's bars; volume is the log of
    tick volume over the window's mean, one tick more on both sides. Both are clipped at ±``CLIP``.

    Args:
        window: float64 ``[W, 5]`` open, high, low, close, tick volume; the newest bar last.
        out: float32 ``[5, W]``, filled.
    """
    bars = window.shape[0]
    extent = 0.0
    volume = 0.0
    for k in range(bars):
        extent += window[k, 1] - window[k, 2]
        volume += window[k, 4]
    anchor = window[bars - 1, 3]
    unit = max(extent / bars, RANGE_FLOOR * anchor)
    usual = volume / bars + 1.0
    for k in range(bars):
        for row in range(4):
            out[row, k] = min(max((window[k, row] - anchor) / unit, -CLIP), CLIP)
        out[4, k] = min(max(np.log((window[k, 4] + 1.0) / usual), -CLIP), CLIP)


@dataclass(frozen=True)
class Windows:
    """Sequences and charts of n rows; T timeframes.

    Attributes:
        channels: :data:`SEQUENCE_CHANNELS` of every bar, float32 ``[m, C]``, one symbol after the other.
        bars: by timeframe, float64 ``[m_t, 5]`` OHLCV of every bar, one symbol after the other.
        at: int64 ``[n, 1 + T]`` place of each row's newest bar in ``channels``, then in each of ``bars``.
    """

    channels: Float32
    bars: tuple[Float64, ...]
    at: Int64

    def __len__(self) -> int:
        return len(self.at)

    def take(self, index: NDArray) -> Self:
        """Return the rows at ``index``; the stores are shared."""
        return replace(self, at=self.at[index])

    def sequence(self) -> Float32:
        """Return float32 ``[n, L, C]``, the newest bar last."""
        return self.channels[self.at[:, :1] + np.arange(1 - SEQUENCE_BARS, 1)]

    def chart(self) -> Float32:
        """Return float32 ``[n, T, 5, W]``, the newest bar last."""
        out = np.empty((len(self), len(self.bars), CHART_ROWS, CHART_BARS), dtype=np.float32)
        for slot, store in enumerate(self.bars):
            _draw(store, np.ascontiguousarray(self.at[:, 1 + slot]), out[:, slot])
        return out

    def spoiled(self, index: NDArray, rng: np.random.Generator, factor: float) -> Self:
        """Return the same windows with every bar that the rows at ``index`` do not show multiplied by noise."""
        stores: list[NDArray[Any]] = []
        shown: list[tuple[NDArray[Any], int]] = [(self.channels, SEQUENCE_BARS)]
        shown += [(own, CHART_BARS) for own in self.bars]
        for column, (store, reach) in enumerate(shown):
            hidden = np.ones(len(store), dtype=bool)
            hidden[(self.at[index, column, None] + np.arange(1 - reach, 1)).ravel()] = False
            noise = factor * rng.uniform(0.5, 1.5, (int(hidden.sum()), 1))
            changed = store.copy()
            changed[hidden] = changed[hidden] * noise
            stores.append(changed)
        return replace(self, channels=stores[0], bars=tuple(stores[1:]))

    def window(self, slot: int) -> Float64:
        """Return the raw OHLCV of timeframe number ``slot``, float64 ``[n, W, 5]``, the newest bar last."""
        return self.bars[slot][self.at[:, 1 + slot, None] + np.arange(1 - CHART_BARS, 1)]


@compiled
def _draw(store: np.ndarray, at: np.ndarray, out: np.ndarray) -> None:
    for k in range(at.shape[0]):
        draw_chart(store[at[k] - CHART_BARS + 1 : at[k] + 1], out[k])


def windows_of(
    features: pd.DataFrame, bars: Mapping[Timeframe, pd.DataFrame], catalogue: FeatureCatalogue, *, symbol: str
) -> tuple[Windows, NDArray[np.bool_]]:
    """Return the windows of one symbol's FEATURES rows, and which rows have enough history for both.

    Args:
        features: FEATURES frame of the symbol.
        bars: BARS frames of ``catalogue.timeframes``, closed bars only.
        catalogue: of the features.
        symbol: for messages.

    Returns:
        Windows of the rows that have them, and bool ``[len(features)]``.

    Raises:
        DataError: a timeframe or column is missing, or features have rows that bars have not.
    """
    missing = [str(timeframe) for timeframe in catalogue.timeframes if timeframe not in bars]
    if missing:
        raise DataError(f"{symbol}: no bars of {', '.join(missing)}", mend="materialise the bars of all timeframes")
    time = features["time"].to_numpy(np.int64)
    frames = [bars[timeframe] for timeframe in catalogue.timeframes]
    places = [
        _newest(time, catalogue.base, frame, timeframe)
        for frame, timeframe in zip(frames, catalogue.timeframes, strict=True)
    ]
    base_time = frames[0]["time"].to_numpy(np.int64)
    if len(time) and not np.array_equal(base_time[np.maximum(places[0], 0)], time):
        raise DataError(
            f"{symbol}: features and {catalogue.base} bars are of other times", mend="materialise both again"
        )
    at = np.column_stack([np.arange(len(time)), *places])
    enough = (at[:, 0] >= SEQUENCE_BARS - 1) & (at[:, 1:] >= CHART_BARS - 1).all(axis=1)
    stores = tuple(np.ascontiguousarray(frame[list(OHLCV)].to_numpy(np.float64)) for frame in frames)
    channels = np.ascontiguousarray(features[list(SEQUENCE_CHANNELS)].to_numpy(np.float32))
    return Windows(channels, stores, np.ascontiguousarray(at[enough])), enough


def pooled(parts: Sequence[Windows]) -> Windows:
    """Return the windows of several symbols, their rows one after the other."""
    offsets = np.zeros(parts[0].at.shape[1], dtype=np.int64)
    places = []
    for part in parts:
        places.append(part.at + offsets)
        offsets = offsets + np.array([len(part.channels), *(len(store) for store in part.bars)])
    stores = tuple(np.concatenate(store) for store in zip(*(part.bars for part in parts), strict=True))
    return Windows(np.concatenate([part.channels for part in parts]), stores, np.concatenate(places))


def _newest(time: Int64, base: Timeframe, frame: pd.DataFrame, timeframe: Timeframe) -> Int64:
    return last_closed(time, base, frame["time"].to_numpy(np.int64), timeframe)
