"""How a symbol moves with the others of the run."""

from collections.abc import Mapping

import numpy as np
import talib

from fx_dagster.features.catalogue import CROSS_LAG, CROSS_WINDOW, VOLATILITY_FLOOR, VOLATILITY_LONG
from fx_dagster.features.prices import scaled_returns
from fx_dagster.features.volatility import log_returns, realised_volatility
from fx_dagster.indicators.arrays import BarArrays, Float64, take


def cross_features(bars: BarArrays, peers: Mapping[str, BarArrays]) -> dict[str, Float64]:
    """Return correlation with and strength against the other symbols, float64 ``[n]`` each.

    A peer is seen through its last close known at each of this symbol's closes, so that a missing bar is a move of 0
    and nothing is seen early. A peer counts from where it has history; rows before any has are 0. The mean runs over
    the peers by name: their order does not matter.
    """
    own = log_returns(bars.close)
    own_strength = _strength(bars.close)
    rows = len(bars)
    count, correlation, absolute, strength, implied = (np.zeros(rows) for _ in range(5))
    for name in sorted(peers):
        close = _as_of(bars, peers[name])
        peer_correlation = rolling_correlation(own, log_returns(close), CROSS_WINDOW)
        peer_strength = _strength(close)
        known = np.isfinite(peer_correlation) & np.isfinite(peer_strength)
        count += known
        correlation += np.where(known, peer_correlation, 0.0)
        absolute += np.where(known, np.abs(peer_correlation), 0.0)
        strength += np.where(known, peer_strength, 0.0)
        implied += np.where(known, peer_correlation * peer_strength, 0.0)
    some = np.maximum(count, 1.0)
    return {
        "cross_correlation": correlation / some,
        "cross_correlation_abs": absolute / some,
        "cross_strength": np.where(count > 0, own_strength - strength / some, 0.0),
        "cross_implied": implied / some,
    }


def rolling_correlation(first: Float64, second: Float64, window: int) -> Float64:
    """Pearson correlation of two series over ``window`` rows; 0 where either does not move.

    NaN until both have ``window`` values. The inputs are log returns: near 0, so that running sums do not cancel.
    """
    both = np.isfinite(first) & np.isfinite(second)
    x, y = np.where(both, first, np.nan), np.where(both, second, np.nan)
    sum_x, sum_y = talib.SUM(x, window), talib.SUM(y, window)
    spread_x = talib.SUM(x * x, window) - sum_x * sum_x / window
    spread_y = talib.SUM(y * y, window) - sum_y * sum_y / window
    shared = talib.SUM(x * y, window) - sum_x * sum_y / window
    still = (np.minimum(spread_x, spread_y) <= window * VOLATILITY_FLOOR**2) & np.isfinite(shared)
    scale = np.sqrt(np.where(still, 1.0, spread_x) * np.where(still, 1.0, spread_y))
    return np.where(still, 0.0, np.clip(shared / scale, -1.0, 1.0))


def _strength(close: Float64) -> Float64:
    return scaled_returns(close, realised_volatility(close, VOLATILITY_LONG), (CROSS_LAG,))[f"return_{CROSS_LAG}"]


def _as_of(bars: BarArrays, peer: BarArrays) -> Float64:
    # Bars of one timeframe that open together close together: the openings can be compared.
    return take(peer.close, np.searchsorted(peer.time, bars.time, side="right") - 1)
