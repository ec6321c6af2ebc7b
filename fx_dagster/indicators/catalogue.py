"""The thirteen classical indicators, in the order of their votes.

The fourteenth, the neural-attention pattern score, is a trained model and is served like one; it is not here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, Final

from fx_dagster.indicators import levels, multi_timeframe, oscillators, trend, volume
from fx_dagster.indicators.arrays import ATR_FLOOR, CONTEXT_TIMEFRAMES, Columns, Float64

__all__ = ["ATR_FLOOR", "CONTEXT_TIMEFRAMES", "INDICATORS", "INDICATOR_COLUMNS", "INDICATOR_NAMES", "Indicator"]

Vote = Callable[[Columns, Float64], Float64]

MEMORY_BARS: Final = 600
"""Bars after which the slowest recursion (EMA 26, Wilder 14) has forgotten its beginning to 1e-9 relative."""


@dataclass(frozen=True)
class Indicator:
    """One indicator of the catalogue.

    ``warmup_bars`` counts the rows without a value at the beginning of a history. ``vote`` takes columns and closes and
    returns votes in [-1, 1], positive for a rise.
    """

    name: str
    columns: tuple[str, ...]
    warmup_bars: int
    vote: Vote = field(repr=False)
    parameters: Mapping[str, Any] = field(hash=False)


def _sma(window: int) -> Indicator:
    name = f"sma_{window}"
    return Indicator(
        name,
        (name,),
        window - 1,
        partial(trend.average_vote, column=name),
        MappingProxyType({"window": window, "scale_atr": trend.SCALES_ATR[name]}),
    )


def _ema(span: int) -> Indicator:
    name = f"ema_{span}"
    return Indicator(
        name,
        (name,),
        span - 1,
        partial(trend.average_vote, column=name),
        MappingProxyType({"span": span, "scale_atr": trend.SCALES_ATR[name]}),
    )


INDICATORS: Final[tuple[Indicator, ...]] = (
    *(_sma(window) for window in trend.SMA_WINDOWS),
    *(_ema(span) for span in trend.EMA_SPANS),
    Indicator(
        "rsi_14",
        ("rsi_14",),
        oscillators.RSI_WINDOW,
        oscillators.rsi_vote,
        MappingProxyType({"window": oscillators.RSI_WINDOW, "scale": oscillators.RSI_VOTE_SCALE}),
    ),
    Indicator(
        "macd",
        ("macd",),
        max(trend.EMA_SPANS) - 1,
        trend.macd_vote,
        MappingProxyType({"fast": 12, "slow": 26, "scale_atr": trend.SCALES_ATR["macd"]}),
    ),
    Indicator(
        "macd_signal",
        ("macd_signal",),
        max(trend.EMA_SPANS) + trend.SIGNAL_SPAN - 2,
        trend.macd_signal_vote,
        MappingProxyType({"span": trend.SIGNAL_SPAN, "scale_atr": trend.SCALES_ATR["macd_signal"]}),
    ),
    Indicator(
        "bollinger",
        ("bollinger_upper", "bollinger_lower", "bollinger_position"),
        oscillators.BOLLINGER_WINDOW - 1,
        oscillators.bollinger_vote,
        MappingProxyType({"window": oscillators.BOLLINGER_WINDOW, "deviations": oscillators.BOLLINGER_DEVIATIONS}),
    ),
    Indicator(
        "atr_14",
        ("atr_14", "atr_move"),
        oscillators.ATR_WINDOW + 1,
        oscillators.atr_vote,
        MappingProxyType({"window": oscillators.ATR_WINDOW, "floor": ATR_FLOOR}),
    ),
    Indicator(
        "trend_correlation",
        ("trend_strength", "trend_coarse", "trend_correlation"),
        multi_timeframe.TREND_WINDOW - 1,
        multi_timeframe.trend_correlation_vote,
        MappingProxyType({"window": multi_timeframe.TREND_WINDOW}),
    ),
    Indicator(
        "volume_weighted",
        ("vwap_20", "volume_momentum"),
        volume.VOLUME_WINDOW,
        volume.volume_weighted_vote,
        MappingProxyType(
            {
                "window": volume.VOLUME_WINDOW,
                "distance_scale_atr": volume.DISTANCE_SCALE_ATR,
                "momentum_scale_atr": volume.MOMENTUM_SCALE_ATR,
            }
        ),
    ),
    Indicator(
        "support_resistance",
        ("support", "resistance"),
        levels.LEVEL_WINDOW,
        levels.support_resistance_vote,
        MappingProxyType(
            {"window": levels.LEVEL_WINDOW, "swing_bars": levels.SWING_BARS, "swings_kept": levels.SWINGS_KEPT}
        ),
    ),
)
"""All classical indicators, in the order of :data:`INDICATOR_NAMES` and of the columns of ``votes``."""

INDICATOR_NAMES: Final = tuple(indicator.name for indicator in INDICATORS)
"""The thirteen names, in the order of the vote columns."""

INDICATOR_COLUMNS: Final = tuple(column for indicator in INDICATORS for column in indicator.columns)
"""Value columns of an INDICATORS frame, after ``time``."""
