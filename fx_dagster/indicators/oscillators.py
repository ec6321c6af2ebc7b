"""RSI, Bollinger Bands and ATR: over-extension votes against the move, a breakout votes with it."""

from typing import Final

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.indicators.arrays import ATR_FLOOR, Columns, Float64
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.trend import smooth, squash
from fx_dagster.indicators.windows import BLOCK_ROWS, FLAT_SHARE, MOMENT_WINDOW, Array, slide_moments

RSI_WINDOW: Final = 14
BOLLINGER_WINDOW: Final = MOMENT_WINDOW
BOLLINGER_DEVIATIONS: Final = 2.0
ATR_WINDOW: Final = 14
RSI_VOTE_SCALE: Final = 20.0
"""Points from 50 to the classical bounds 30 and 70, where the vote is ±0.7."""

_RSI, _ATR, _MOVE, _STRENGTH = int(Column.RSI_14), int(Column.ATR_14), int(Column.ATR_MOVE), int(Column.TREND_STRENGTH)
_UPPER, _LOWER, _POSITION = int(Column.BOLLINGER_UPPER), int(Column.BOLLINGER_LOWER), int(Column.BOLLINGER_POSITION)


@compiled
def true_range(high: float, low: float, previous: float) -> float:
    """Return the greatest distance between a bar's high, its low and the previous close (Wilder 1978)."""
    return max(high, previous) - min(low, previous)


@compiled
def strength_index(gain: float, loss: float, unchanged: int) -> float:
    """Return the RSI of Wilder's averages of gains and losses; 50 after 14 (``unchanged``) equal closes in a row."""
    if unchanged >= RSI_WINDOW or gain + loss <= 0.0:
        return 50.0
    return 100.0 * (gain / (gain + loss))


@compiled
def atr_move(close: float, previous: float, previous_atr: float) -> float:
    """Return the move of the close by the ATR before it, which is at least ``ATR_FLOOR`` of the previous close."""
    return (close - previous) / max(previous_atr, ATR_FLOOR * previous)


@compiled
def bands(mean: float, deviation: float, close: float) -> tuple[float, float, float]:
    """Return the upper and the lower Bollinger band and %b; ``mean`` is an offset from the close."""
    half = BOLLINGER_DEVIATIONS * deviation
    flat = deviation <= FLAT_SHARE * close
    position = 0.5 - 0.5 * mean / (1.0 if flat else half)
    return close + (mean + half), close + (mean - half), 0.5 if flat else position


@compiled
def fill_wilder(high: Array, low: Array, close: Array, values: Array) -> None:
    """Write RSI 14, ATR 14 and the move in ATR into their rows of ``values``.

    RSI (Wilder 1978): 100·gain / (gain + loss), both Wilder averages of 14 moves. After 14 unchanged closes it is 50:
    there is no strength on either side, where ``talib.RSI`` keeps the ratio of two vanishing averages and in the end
    returns 0, as if everything had been sold. First value at row 14.

    ATR (Wilder 1978): Wilder average of 14 true ranges. ``atr_move`` = (close - previous close) / previous ATR: by the
    ATR before the move, which the move itself has not yet widened. ATR from row 14, the move from row 15.
    """
    rsi, atr, moves = values[_RSI], values[_ATR], values[_MOVE]
    gain = loss = average = 0.0
    unchanged = 0
    for row in range(1, len(close)):
        previous = close[row - 1]
        change = close[row] - previous
        gain = smooth(gain, max(change, 0.0), row - 1, RSI_WINDOW, 1.0 / RSI_WINDOW)
        loss = smooth(loss, max(-change, 0.0), row - 1, RSI_WINDOW, 1.0 / RSI_WINDOW)
        unchanged = unchanged + 1 if change == 0.0 else 0
        rsi[row] = strength_index(gain, loss, unchanged)
        moves[row] = atr_move(close[row], previous, average)
        average = smooth(average, true_range(high[row], low[row], previous), row - 1, ATR_WINDOW, 1.0 / ATR_WINDOW)
        atr[row] = average
    rsi[:RSI_WINDOW] = np.nan
    atr[:ATR_WINDOW] = np.nan
    moves[: ATR_WINDOW + 1] = np.nan


@compiled
def fill_moments(close: Array, values: Array) -> None:
    """Write the Bollinger Bands and the trend strength of ``close`` into their rows of ``values``.

    Bollinger Bands 20/2 (Bollinger 2001): mean ± 2 population standard deviations of the close.
    ``bollinger_position`` is %b = (close - lower)/(upper - lower): 0 at the lower band, 1 at the upper, 0.5 where the
    bands have no width. First value at row 19. ``talib.BBANDS`` has the same formula but cancels in E[x²] - E[x]².

    ``trend_strength`` is :func:`fx_dagster.indicators.multi_timeframe.trend_strength`.
    """
    upper, lower, position, strength = values[_UPPER], values[_LOWER], values[_POSITION], values[_STRENGTH]
    first = MOMENT_WINDOW - 1
    mean, deviation = np.empty(BLOCK_ROWS), np.empty(BLOCK_ROWS)
    for start in range(first, len(close), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(close))
        count = stop - start
        slide_moments(close[start - first : stop], mean[:count], deviation[:count], strength[start:stop])
        for place in range(count):
            row = start + place
            upper[row], lower[row], position[row] = bands(mean[place], deviation[place], close[row])
    for row in (_UPPER, _LOWER, _POSITION, _STRENGTH):
        values[row, :first] = np.nan


def rsi_vote(columns: Columns, _close: Float64) -> Float64:
    """Mean reversion: oversold (low RSI) votes up, overbought down; 0 at 50."""
    return squash((50.0 - columns["rsi_14"]) / RSI_VOTE_SCALE)


def bollinger_vote(columns: Columns, _close: Float64) -> Float64:
    """Mean reversion: a close at the lower band votes +0.7, at the upper -0.7, at the mean 0."""
    return -squash(2.0 * columns["bollinger_position"] - 1.0)


def atr_vote(columns: Columns, _close: Float64) -> Float64:
    """Volatility breakout: a move of more than an ATR votes with the move.

    The move is damped by its own size, m·m²/(1 + m²), so that ordinary bars hardly vote.
    """
    move = columns["atr_move"]
    square = move * move
    return squash(move * (square / (1.0 + square)))
