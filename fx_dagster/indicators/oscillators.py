"""RSI, Bollinger Bands and ATR: over-extension votes against the move, a breakout votes with it."""

from typing import Final

import numpy as np
import talib

from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, floored_atr, lagged, window_moments
from fx_dagster.indicators.trend import squash

RSI_WINDOW: Final = 14
BOLLINGER_WINDOW: Final = 20
BOLLINGER_DEVIATIONS: Final = 2.0
ATR_WINDOW: Final = 14
RSI_VOTE_SCALE: Final = 20.0
"""Points from 50 to the classical bounds 30 and 70, where the vote is ±0.7."""


def rsi(bars: BarArrays, _done: Columns) -> dict[str, Float64]:
    """Relative strength index (Wilder 1978): 100·gain / (gain + loss), both Wilder averages of 14 moves (TA-Lib).

    After 14 unchanged closes it is 50: there is no strength on either side, where TA-Lib keeps the ratio of two
    vanishing averages and in the end returns 0, as if everything had been sold. First value at row 14.
    """
    close = bars.close
    value = talib.RSI(close, RSI_WINDOW)
    unchanged = talib.MAX(close, RSI_WINDOW + 1) == talib.MIN(close, RSI_WINDOW + 1)
    return {"rsi_14": np.where(unchanged, 50.0, value)}


def rsi_vote(columns: Columns, _close: Float64) -> Float64:
    """Mean reversion: oversold (low RSI) votes up, overbought down; 0 at 50."""
    return squash((50.0 - columns["rsi_14"]) / RSI_VOTE_SCALE)


def bollinger(bars: BarArrays, _done: Columns) -> dict[str, Float64]:
    """Bollinger Bands 20/2 (Bollinger 2001): mean ± 2 population standard deviations of the close, and %b.

    ``bollinger_position`` is %b = (close - lower)/(upper - lower): 0 at the lower band, 1 at the upper, 0.5 where the
    bands have no width. First value at row 19. ``talib.BBANDS`` has the same formula but cancels in E[x²] - E[x]².
    """
    mean, deviation, _ = window_moments(bars.close, BOLLINGER_WINDOW)
    half = BOLLINGER_DEVIATIONS * deviation
    flat = deviation <= 1e-9 * bars.close
    position = np.where(flat, 0.5, 0.5 - 0.5 * mean / np.where(flat, 1.0, half))
    return {
        "bollinger_upper": bars.close + (mean + half),
        "bollinger_lower": bars.close + (mean - half),
        "bollinger_position": np.where(np.isnan(deviation), np.nan, position),
    }


def bollinger_vote(columns: Columns, _close: Float64) -> Float64:
    """Mean reversion: a close at the lower band votes +0.7, at the upper -0.7, at the mean 0."""
    return -squash(2.0 * columns["bollinger_position"] - 1.0)


def atr(bars: BarArrays, _done: Columns) -> dict[str, Float64]:
    """Average true range (Wilder 1978): Wilder average of 14 true ranges (TA-Lib), and the last move in it.

    ``atr_move`` = (close - previous close) / previous ATR: by the ATR before the move, which the move itself has not
    yet widened. ATR from row 14, the move from row 15.
    """
    value = talib.ATR(bars.high, bars.low, bars.close, ATR_WINDOW)
    previous = lagged(bars.close, 1)
    return {"atr_14": value, "atr_move": (bars.close - previous) / floored_atr(lagged(value, 1), previous)}


def atr_vote(columns: Columns, _close: Float64) -> Float64:
    """Volatility breakout: a move of more than an ATR votes with the move.

    The move is damped by its own size, m·m²/(1 + m²), so that ordinary bars hardly vote.
    """
    move = columns["atr_move"]
    square = move * move
    return squash(move * (square / (1.0 + square)))
