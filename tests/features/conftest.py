"""Synthetic bars on the market's real grid of hours."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fx_dagster.market.bars import resample_bars
from fx_dagster.market.timeframes import DAY_NS, Timeframe, from_server

Frames = dict[Timeframe, pd.DataFrame]


def _openings(rows: int, step: int) -> np.ndarray:
    # On the server's clock, where H4 and D1 lie on a grid that daylight saving does not shift.
    start = np.datetime64("2017-01-09T00:00", "ns").astype(np.int64)
    server = start + step * np.arange(int(rows * 1.45) + 3000, dtype=np.int64)
    weekday = (server // DAY_NS + 3) % 7
    return from_server(server[weekday < 5][:rows] if step <= DAY_NS else server[:rows])


def _make(rows: int, *, seed: int = 0, base: Timeframe = Timeframe.H1, style: str = "walk") -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    moves = rng.normal(0.0, 5e-4, (rows, 6)) * np.exp(rng.normal(0.0, 0.5, (rows, 1)))
    volume = rng.integers(1, 500, rows).astype(np.float64)
    if style in ("flat", "stops"):
        moves[0 if style == "flat" else rows // 2 :] = 0.0
    if style == "jumps":
        moves[rng.random(rows) < 0.9] = 0.0
    if style == "one_tick":
        moves[:, 1:] = 0.0
        volume[:] = 1.0
    if style == "silent":
        volume[:] = 0.0
    path = np.cumsum(moves, axis=1)
    start = np.concatenate([[0.0], np.cumsum(path[:-1, -1])])
    price = np.round(1.1 * np.exp(start[:, None] + path), 5)
    if style == "one_tick":
        price[:] = price[:, -1:]
    return pd.DataFrame(
        {
            "time": _openings(rows, base.nominal_ns),
            "open": price[:, 0],
            "high": price.max(axis=1),
            "low": price.min(axis=1),
            "close": price[:, -1],
            "tick_volume": volume,
            "spread": rng.integers(5, 20, rows).astype(np.float64),
        }
    )


@pytest.fixture(scope="session")
def make_bars() -> Callable[..., pd.DataFrame]:
    """Return a maker of BARS: ``make_bars(rows, seed=, base=, style=)``."""
    return _make


@pytest.fixture(scope="session")
def with_context() -> Callable[..., Frames]:
    """Return a maker of bars by timeframe: ``with_context(bars, base, context)``."""

    def frames(bars: pd.DataFrame, base: Timeframe, context: tuple[Timeframe, ...]) -> Frames:
        return {base: bars} | {timeframe: resample_bars(bars, base, timeframe) for timeframe in context}

    return frames
