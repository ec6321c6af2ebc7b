"""Which features there are: names, what they mean, warm-up, and the hash that ties models to them.

Every feature is stationary and free of units: a ratio, a distance in ATR, a correlation, a phase. Multiplying all
prices by a constant changes none of them. Ratios without bounds of their own are clipped at ±``CLIP``, so that the
first move after dead-flat prices cannot blow up a scaler.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import MappingProxyType
from typing import Final

from fx_dagster.indicators.catalogue import CONTEXT_TIMEFRAMES, INDICATORS
from fx_dagster.market.timeframes import Timeframe

DEFINITIONS_VERSION: Final = 3
"""Raised whenever a formula changes without a change of name or parameter."""

CLIP: Final = 50.0
RETURN_LAGS: Final = (1, 2, 3, 6, 12, 24, 48)
SLOPE_LAG: Final = 5
VOLATILITY_SHORT: Final = 24
VOLATILITY_LONG: Final = 240
PERCENTILE_WINDOW: Final = 250
VOLUME_LONG: Final = 120
SPREAD_WINDOW: Final = 120
CROSS_WINDOW: Final = 60
CROSS_LAG: Final = 24
CROSS_PEERS_MAX: Final = 32
"""Symbols that every symbol is compared with, at most: a thousand symbols have half a million pairs."""
SEQUENCE_BARS: Final = 48
"""Base bars that a sequence model looks back on, the newest included."""
SEQUENCE_CHANNELS: Final = (
    "return_1", "bar_body", "bar_range", "bar_skew", "atr_move", "rsi_14", "macd_histogram", "bollinger_position",
    "sma_20_distance", "sma_50_distance", "trend_strength", "vwap_distance", "volume_momentum", "volatility_ratio",
    "volume_ratio", "spread_atr",
)  # fmt: skip
"""Features of every bar of a sequence, in order; every catalogue has them."""
CHART_BARS: Final = 48
"""Bars of each timeframe that a chart shows, the newest included."""
CHART_ROWS: Final = 5
"""Open, high, low, close and tick volume."""
VOLATILITY_FLOOR: Final = 1e-6
"""Smallest volatility of a bar's log return that anything is divided by."""


@dataclass(frozen=True)
class Feature:
    """One column of a FEATURES frame."""

    name: str
    group: str
    timeframe: Timeframe
    description: str


_INDICATOR_FEATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sma_20_distance": "(close - SMA 20) in ATR",
        "sma_50_distance": "(close - SMA 50) in ATR",
        "sma_200_distance": "(close - SMA 200) in ATR",
        "ema_12_distance": "(close - EMA 12) in ATR",
        "ema_26_distance": "(close - EMA 26) in ATR",
        "sma_20_slope": "change of SMA 20 over 5 bars, in ATR",
        "rsi_14": "(RSI - 50)/50",
        "macd": "MACD line in ATR",
        "macd_histogram": "(MACD - signal) in ATR",
        "bollinger_position": "2·%b - 1: -1 at the lower band, +1 at the upper",
        "bollinger_width": "width of the bands in ATR",
        "atr_move": "last move in previous ATR",
        "atr_ratio": "log of ATR over its value 24 bars ago",
        "trend_strength": "correlation of close and time, 20 bars",
        "trend_coarse": "mean trend strength of the coarser timeframes",
        "trend_correlation": "product of own and coarser trend strength",
        "vwap_distance": "(close - VWAP 20) in ATR",
        "volume_momentum": "volume-weighted mean move of 20 bars, in ATR",
        "support_distance": "(close - support) in ATR",
        "resistance_distance": "(resistance - close) in ATR",
    }
)
INDICATOR_FEATURE_NAMES: Final = tuple(_INDICATOR_FEATURES)
"""Features that come from a timeframe's indicators, in order."""
_BASE_ONLY: Final = frozenset(
    {"sma_200_distance", "trend_coarse", "trend_correlation", "support_distance", "resistance_distance"}
)
_CONTEXT_WARMUP: Final = 49
"""Rows before SMA 50 is there, the slowest of a context timeframe."""
CONTEXT_NAMES: Final = tuple(name for name in _INDICATOR_FEATURES if name not in _BASE_ONLY)
"""Features of a context timeframe, without its prefix, in order."""

_GROUPS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "returns": {f"return_{lag}": f"log return over {lag} bars / (long volatility·√{lag})" for lag in RETURN_LAGS}
        | {
            "bar_body": "(close - open) in ATR",
            "bar_range": "(high - low) in ATR",
            "bar_skew": "place of the close in the bar: -1 at the low, +1 at the high, 0 in a bar of one price",
        },
        "volatility": {
            "volatility_ratio": "log of realised volatility, 24 bars over 240 bars",
            "parkinson_ratio": "log of Parkinson's over realised volatility, 24 bars",
            "volatility_percentile": "mean rank of short volatility among its last 250 values, in (0, 1]",
            "return_autocorrelation": "Σ r(t)·r(t-1) / Σ r², 240 bars",
            "volume_ratio": "log of mean tick volume, 24 bars over 120 bars",
        },
        "spread": {
            "spread_ratio": "log of spread over its median of 120 bars",
            "spread_atr": "spread in ATR",
        },
        "cross": {
            "cross_correlation": "mean correlation of returns with the other symbols, 60 bars of the common grid",
            "cross_correlation_abs": "mean absolute correlation with the other symbols, 60 bars of the common grid",
            "cross_strength": "24-bar return in its volatility, minus the other symbols' mean, on the common grid",
            "cross_implied": "mean of correlation times the other symbols' 24-bar return in its volatility",
        },
    }
)
_HOUR_FEATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "hour_sin": "sine of the trading day's phase (17:00 New York = 0)",
        "hour_cos": "cosine of the trading day's phase",
        "session_tokyo": "1 from 9:00 to 18:00 in Tokyo",
        "session_london": "1 from 8:00 to 16:30 in London",
        "session_new_york": "1 from 8:00 to 17:00 in New York",
    }
)
_WEEK_FEATURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "week_sin": "sine of the trading week's phase (Sunday 17:00 New York = 0, 7 days a turn)",
        "week_cos": "cosine of the trading week's phase",
    }
)


@dataclass(frozen=True)
class FeatureCatalogue:
    """The features of one base timeframe; equal catalogues have equal hashes.

    ``context`` are the coarser timeframes whose last closed bar is looked at; ``cross_symbol`` says whether the run has
    several symbols to compare.
    """

    base: Timeframe
    context: tuple[Timeframe, ...]
    cross_symbol: bool
    features: tuple[Feature, ...]

    @property
    def warmup_bars(self) -> Mapping[Timeframe, int]:
        """Rows without features at the beginning of a history, by timeframe and in that timeframe's own bars.

        Enough for a value, not for a value that has forgotten where history began: that takes ``MEMORY_BARS``.
        """
        base = VOLATILITY_SHORT + PERCENTILE_WINDOW - 1
        return {self.base: base} | dict.fromkeys(self.context, _CONTEXT_WARMUP)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""
        return tuple(feature.name for feature in self.features)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) over names, parameters, version of the definitions, base and context."""
        content = {
            "version": DEFINITIONS_VERSION,
            "base": self.base,
            "context": self.context,
            "features": [(feature.name, feature.description) for feature in self.features],
            "parameters": _parameters(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def timeframes(self) -> tuple[Timeframe, ...]:
        """Base and context: the bars that the features are computed from."""
        return (self.base, *self.context)

    @property
    def sequence_shape(self) -> tuple[int, int]:
        """Bars and channels of a sequence: L, C."""
        return SEQUENCE_BARS, len(SEQUENCE_CHANNELS)

    @property
    def chart_shape(self) -> tuple[int, int, int]:
        """Timeframes, rows and bars of a chart: T, 5, W."""
        return len(self.timeframes), CHART_ROWS, CHART_BARS

    def __len__(self) -> int:
        return len(self.features)


@cache
def feature_catalogue(base: Timeframe, *, cross_symbol: bool) -> FeatureCatalogue:
    """Return the catalogue for a base timeframe.

    Context timeframes come from ``CONTEXT_TIMEFRAMES``. They leave out SMA 200 and the levels of 100 bars, because 200
    or 100 trading days of warm-up would eat a year's data, and the comparison with timeframes coarser still. Hours and
    sessions are left out where every bar closes at the same hour (D1 and longer), the time of the week where every bar
    closes at the same time of it (W1, MN1).
    """
    context = CONTEXT_TIMEFRAMES[base]
    features = [Feature(name, "indicator", base, text) for name, text in _INDICATOR_FEATURES.items()]
    for timeframe in context:
        features += [
            Feature(f"{timeframe}_{name}", "context", timeframe, f"{timeframe}: {_INDICATOR_FEATURES[name]}")
            for name in CONTEXT_NAMES
        ]
    groups = dict(_GROUPS)
    if not cross_symbol:
        groups.pop("cross")
    if base.intraday:
        groups["hour"] = _HOUR_FEATURES
    if base.nominal_ns <= Timeframe.D1.nominal_ns:
        groups["week"] = _WEEK_FEATURES
    for group, members in groups.items():
        features += [Feature(name, group, base, text) for name, text in members.items()]
    return FeatureCatalogue(base, context, cross_symbol, tuple(features))


def _parameters() -> dict[str, object]:
    return {
        "clip": CLIP,
        "return_lags": RETURN_LAGS,
        "slope_lag": SLOPE_LAG,
        "volatility": (VOLATILITY_SHORT, VOLATILITY_LONG, PERCENTILE_WINDOW, VOLATILITY_FLOOR),
        "volume": VOLUME_LONG,
        "spread": SPREAD_WINDOW,
        "cross": (CROSS_WINDOW, CROSS_LAG, CROSS_PEERS_MAX),
        "sequence": (SEQUENCE_BARS, SEQUENCE_CHANNELS),
        "chart": CHART_BARS,
        "context": {base: list(context) for base, context in CONTEXT_TIMEFRAMES.items()},
        "indicators": {indicator.name: dict(indicator.parameters) for indicator in INDICATORS},
    }
