"""Features from indicators, returns and the shape of a bar: all free of the price's unit."""

from collections.abc import Mapping

import numpy as np

from fx_dagster.features.catalogue import RETURN_LAGS, SLOPE_LAG, VOLATILITY_FLOOR, VOLATILITY_SHORT
from fx_dagster.indicators.arrays import BarArrays, Columns, Float64, floored_atr, lagged


def indicator_features(bars: BarArrays, columns: Columns) -> dict[str, Float64]:
    """Return the stationary forms of a timeframe's indicators, float64 ``[n]`` each; NaN during warm-up."""
    close = bars.close
    atr = floored_atr(columns["atr_14"], close)
    features = {
        f"{name}_distance": (close - columns[name]) / atr
        for name in ("sma_20", "sma_50", "sma_200", "ema_12", "ema_26")
    }
    return features | {
        "sma_20_slope": (columns["sma_20"] - lagged(columns["sma_20"], SLOPE_LAG)) / atr,
        "rsi_14": (columns["rsi_14"] - 50.0) / 50.0,
        "macd": columns["macd"] / atr,
        "macd_histogram": (columns["macd"] - columns["macd_signal"]) / atr,
        "bollinger_position": 2.0 * columns["bollinger_position"] - 1.0,
        "bollinger_width": (columns["bollinger_upper"] - columns["bollinger_lower"]) / atr,
        "atr_move": columns["atr_move"],
        "atr_ratio": np.log(atr / lagged(atr, VOLATILITY_SHORT)),
        "trend_strength": columns["trend_strength"],
        "trend_coarse": columns["trend_coarse"],
        "trend_correlation": columns["trend_correlation"],
        "vwap_distance": (close - columns["vwap_20"]) / atr,
        "volume_momentum": columns["volume_momentum"] / atr,
        "support_distance": (close - columns["support"]) / atr,
        "resistance_distance": (columns["resistance"] - close) / atr,
    }


def return_features(bars: BarArrays, columns: Columns, long_volatility: Float64) -> dict[str, Float64]:
    """Return log returns in units of long volatility, and the shape of the bar in ATR, float64 ``[n]`` each.

    ``return_k`` = ln(c(t)/c(t-k)) / (σ·√k), about standard normal on a random walk.
    """
    close, atr = bars.close, floored_atr(columns["atr_14"], bars.close)
    extent = bars.high - bars.low
    skew = (bars.close - bars.low) - (bars.high - bars.close)
    return scaled_returns(close, long_volatility, RETURN_LAGS) | {
        "bar_body": (close - bars.open) / atr,
        "bar_range": extent / atr,
        "bar_skew": np.where(extent > 0.0, skew / np.where(extent > 0.0, extent, 1.0), 0.0),
    }


def scaled_returns(close: Float64, volatility: Float64, lags: tuple[int, ...]) -> dict[str, Float64]:
    """Return ``return_k`` for each lag k: the log return over k bars / (volatility of a bar·√k)."""
    unit = np.maximum(volatility, VOLATILITY_FLOOR)
    return {f"return_{lag}": np.log(close / lagged(close, lag)) / (unit * np.sqrt(lag)) for lag in lags}


def prefixed(features: Mapping[str, Float64], prefix: str, names: tuple[str, ...]) -> dict[str, Float64]:
    """Return the named features under ``prefix_name``."""
    return {f"{prefix}_{name}": features[name] for name in names}
