import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.report.sampling import candles, extreme_rows


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3_000), st.integers(1, 3))
def test_no_extreme_is_lost(seed: int, n: int, columns: int) -> None:
    values = np.random.default_rng(seed).normal(size=(n, columns)).cumsum(axis=0)
    rows = extreme_rows(values, 200)
    assert len(rows) <= 200
    assert np.all(np.diff(rows) > 0)
    assert rows[0] == 0
    assert rows[-1] == n - 1
    assert np.array_equal(values[rows].min(axis=0), values.min(axis=0))
    assert np.array_equal(values[rows].max(axis=0), values.max(axis=0))


def _bars(n: int) -> pd.DataFrame:
    close = 1.1 + np.random.default_rng(3).normal(0, 1e-3, n).cumsum()
    time = 1_483_304_400 * 10**9 + np.arange(n) * HOUR_NS
    opening = np.concatenate([[1.1], close[:-1]])
    return pd.DataFrame(
        {
            "time": time, "open": opening, "close": close,
            "high": np.maximum(opening, close) + 1e-4, "low": np.minimum(opening, close) - 1e-4,
        }
    )  # fmt: skip


def test_candles_join_into_the_finest_timeframe_that_fits() -> None:
    bars = _bars(1_000)
    shown, timeframe = candles(bars, Timeframe.H1, 300)
    assert timeframe is Timeframe.H4
    assert len(shown) <= 300
    assert shown["high"].max() == bars["high"].max()
    assert shown["low"].min() == bars["low"].min()
    assert shown["open"].iloc[0] == bars["open"].iloc[0]
    assert shown["close"].iloc[-1] == bars["close"].iloc[-1]


def test_few_candles_stay_as_they_are() -> None:
    bars = _bars(50)
    shown, timeframe = candles(bars, Timeframe.H1, 300)
    assert timeframe is Timeframe.H1
    pd.testing.assert_frame_equal(shown[bars.columns], bars)
