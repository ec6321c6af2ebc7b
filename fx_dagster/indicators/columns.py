"""Positions of the indicators' values: in a row of values, and in the matrix of a whole history."""

from enum import IntEnum


class Column(IntEnum):
    """One value of the thirteen indicators; its name in lower case is the column of an INDICATORS frame."""

    SMA_20 = 0
    SMA_50 = 1
    SMA_200 = 2
    EMA_12 = 3
    EMA_26 = 4
    RSI_14 = 5
    MACD = 6
    MACD_SIGNAL = 7
    BOLLINGER_UPPER = 8
    BOLLINGER_LOWER = 9
    BOLLINGER_POSITION = 10
    ATR_14 = 11
    ATR_MOVE = 12
    TREND_STRENGTH = 13
    TREND_COARSE = 14
    TREND_CORRELATION = 15
    VWAP_20 = 16
    VOLUME_MOMENTUM = 17
    SUPPORT = 18
    RESISTANCE = 19
