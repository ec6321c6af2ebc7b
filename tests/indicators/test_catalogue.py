import numpy as np
import pytest

from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.indicators.catalogue import CONTEXT_TIMEFRAMES, INDICATOR_COLUMNS, INDICATOR_NAMES, INDICATORS
from fx_dagster.market.timeframes import Timeframe


def test_the_thirteen_indicators_are_in_the_order_of_the_contract():
    assert INDICATOR_NAMES == (
        "sma_20", "sma_50", "sma_200", "ema_12", "ema_26", "rsi_14", "macd", "macd_signal", "bollinger", "atr_14",
        "trend_correlation", "volume_weighted", "support_resistance",
    )  # fmt: skip
    assert len(set(INDICATOR_COLUMNS)) == len(INDICATOR_COLUMNS)


def test_context_timeframes_are_longer_than_the_timeframe():
    assert set(CONTEXT_TIMEFRAMES) == set(Timeframe)
    for base, context in CONTEXT_TIMEFRAMES.items():
        assert all(other.nominal_ns > base.nominal_ns for other in context)


@pytest.mark.parametrize("indicator", INDICATORS, ids=INDICATOR_NAMES)
def test_the_stated_warm_up_is_the_real_one(indicator, make_bars):
    frame = compute_indicators({Timeframe.D1: make_bars(300, base=Timeframe.D1)}, Timeframe.D1)
    ready = np.isfinite(frame[list(indicator.columns)].to_numpy()).all(axis=1)
    assert ready.argmax() == indicator.warmup_bars
    assert ready[indicator.warmup_bars :].all()
