"""Volatility regime and activity."""

import numpy as np
import pandas as pd

from fx_dagster.features.catalogue import (
    PERCENTILE_WINDOW,
    VOLATILITY_FLOOR,
    VOLATILITY_LONG,
    VOLATILITY_SHORT,
    VOLUME_LONG,
)
from fx_dagster.indicators.arrays import BarArrays, Float64, in_blocks, lagged
from fx_dagster.indicators.windows import slide_mean
from fx_dagster.market.timeframes import DAY_NS, Timeframe

TRADING_DAYS_A_YEAR = 252


def bars_a_year(timeframe: Timeframe) -> float:
    """Return the number of bars in a trading year of 252 days, 52 weeks or 12 months."""
    if timeframe is Timeframe.MN1:
        return 12.0
    if timeframe is Timeframe.W1:
        return 52.0
    return TRADING_DAYS_A_YEAR * DAY_NS / timeframe.nominal_ns


def sliding_sum(values: Float64, window: int) -> Float64:
    """Return the sum of the last ``window`` values; NaN in the leading rows that are NaN, and until a window is full.

    Nothing is ever subtracted: a huge value leaves no trace once it is out of the window.
    """
    out = np.full(len(values), np.nan)
    finite = np.isfinite(values)
    first = int(finite.argmax()) if finite.any() else len(values)
    slide_mean(np.ascontiguousarray(values[first:]), window, out[first:])
    return out * window


def log_returns(close: Float64) -> Float64:
    """Return ln(c(t)/c(t-1)), NaN in the first row."""
    return np.log(close / lagged(close, 1))


def realised_volatility(close: Float64, window: int) -> Float64:
    """Realised volatility of a bar: sqrt(Σ r² / window), r the log returns. First value at row ``window``."""
    returns = log_returns(close)
    return np.sqrt(sliding_sum(returns * returns, window) / window)


def exact_realised_volatility(close: Float64, window: int) -> Float64:
    """As :func:`realised_volatility`, each window summed afresh from its newest return to its oldest.

    Ranks need it: equal windows must give equal bits, wherever history began.
    """
    returns = log_returns(close)
    squares = returns * returns

    def kernel(start: int, stop: int) -> tuple[Float64, ...]:
        total = np.zeros(stop - start)
        for lag in range(window):
            total += squares[start - lag : stop - lag]
        return (np.sqrt(total / window),)

    return in_blocks(len(close), window, 1, kernel)[0]


def parkinson_volatility(high: Float64, low: Float64, window: int) -> Float64:
    """Range volatility of a bar (Parkinson 1980): sqrt(Σ ln(high/low)² / (4·ln 2·window))."""
    ranges = np.log(high / low)
    return np.sqrt(sliding_sum(ranges * ranges, window) / (4.0 * np.log(2.0) * window))


def volatility_features(bars: BarArrays, long_volatility: Float64) -> dict[str, Float64]:
    """Return the volatility regime and the activity, float64 ``[n]`` each; NaN during warm-up.

    ``volatility_percentile`` is the mean rank of the short volatility among its last 250 values (itself included),
    over 250. ``return_autocorrelation`` is of lag 1 and uncentred: negative in a bouncing market.
    """
    short = exact_realised_volatility(bars.close, VOLATILITY_SHORT)
    floored = np.maximum(short, VOLATILITY_FLOOR)
    parkinson = np.maximum(parkinson_volatility(bars.high, bars.low, VOLATILITY_SHORT), VOLATILITY_FLOOR)
    returns = log_returns(bars.close)
    products = sliding_sum(returns * lagged(returns, 1), VOLATILITY_LONG)
    energy = np.maximum(sliding_sum(returns * returns, VOLATILITY_LONG), VOLATILITY_LONG * VOLATILITY_FLOOR**2)
    recent = sliding_sum(bars.tick_volume, VOLATILITY_SHORT) / VOLATILITY_SHORT
    usual = sliding_sum(bars.tick_volume, VOLUME_LONG) / VOLUME_LONG
    return {
        "volatility_ratio": np.log(floored / np.maximum(long_volatility, VOLATILITY_FLOOR)),
        "parkinson_ratio": np.log(parkinson / floored),
        "volatility_percentile": pd.Series(short).rolling(PERCENTILE_WINDOW).rank(pct=True).to_numpy(),
        "return_autocorrelation": products / energy,
        # One tick more on both sides: silence is not a division by zero.
        "volume_ratio": np.log((recent + 1.0) / (usual + 1.0)),
    }


def spread_features(spread_points: Float64, point: float, atr: Float64, window: int) -> dict[str, Float64]:
    """Return the spread over its running median and in ATR, float64 ``[n]`` each.

    Args:
        spread_points: mean spread of each bar, in points.
        point: price of a point.
        atr: floored ATR in price units.
        window: bars of the median.
    """
    median = pd.Series(spread_points).rolling(window).median().to_numpy()
    # A tenth of a point more on both sides: a source without spreads gives 0, not 0/0.
    return {
        "spread_ratio": np.log((spread_points + 0.1) / (median + 0.1)),
        "spread_atr": spread_points * point / atr,
    }
