import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.features.labels import compute_labels
from fx_dagster.market.timeframes import Timeframe


def bars_of(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    """Bars an hour apart from (open, high, low, close)."""
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close"])
    frame.insert(0, "time", np.arange(len(frame), dtype=np.int64) * 3_600_000_000_000)
    return frame


def test_entry_is_the_next_open_and_exit_the_open_after_the_horizon():
    bars = bars_of((1.0, 1.0, 1.0, 9.0), (2.0, 2.1, 1.9, 2.0), (2.0, 2.1, 1.9, 2.0), (3.0, 3.0, 3.0, 3.0))
    labels = compute_labels(bars, np.full(4, 1.0), horizon_bars=2, barrier_atr=5.0, cost=0.001)
    assert len(labels) == 1
    assert labels["forward_return"][0] == pytest.approx(np.log(3.0 / 2.0))
    assert labels["up"][0] == 1
    assert labels["cost"][0] == 0.001
    assert labels["end_time"][0] == bars["time"][3]
    assert labels["barrier"][0] == 0


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        ((2.0, 2.6, 1.9, 2.0), (2.0, 2.1, 1.0, 2.0), 1),
        ((2.0, 2.1, 1.4, 2.0), (2.0, 3.0, 1.9, 2.0), -1),
        ((2.0, 2.1, 1.9, 2.0), (2.0, 2.5, 1.9, 2.0), 1),
        ((2.0, 2.6, 1.4, 2.0), (2.0, 2.6, 1.9, 2.0), 0),
        ((2.0, 2.4, 1.6, 2.0), (2.0, 2.4, 1.6, 2.0), 0),
    ],
    ids=["up first", "down first", "touched exactly", "both in one bar", "none"],
)
def test_the_first_barrier_decides(first, second, outcome):
    bars = bars_of((1.0, 1.0, 1.0, 2.0), first, second, (2.0, 2.0, 2.0, 2.0))
    labels = compute_labels(bars, np.full(4, 0.25), horizon_bars=2, barrier_atr=2.0, cost=0.0)
    assert labels["barrier"].tolist() == [outcome]


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**31), horizon=st.integers(1, 30), width=st.floats(0.3, 4.0))
def test_labels_equal_a_walk_bar_by_bar(make_bars, seed, horizon, width):
    bars = make_bars(150, seed=seed, base=Timeframe.D1)
    atr = np.full(150, 0.001)
    labels = compute_labels(bars, atr, horizon_bars=horizon, barrier_atr=width, cost=0.0)
    assert len(labels) == 149 - horizon
    open_, high, low = (bars[name].to_numpy() for name in ("open", "high", "low"))
    for t in range(len(labels)):
        entry, outcome = open_[t + 1], 0
        for later in range(t + 1, t + 1 + horizon):
            above, below = high[later] >= entry + width * atr[t], low[later] <= entry - width * atr[t]
            if above or below:
                outcome = int(above) - int(below)
                break
        assert labels["barrier"][t] == outcome
    exits = open_[1 + horizon :]
    np.testing.assert_allclose(labels["forward_return"], np.log(exits / open_[1 : 150 - horizon]), rtol=1e-12)
    assert (labels["up"] == (labels["forward_return"] > 0)).all()
    assert (labels["end_time"] > labels["time"]).all()


def test_rows_without_atr_or_horizon_are_left_out(make_bars):
    bars = make_bars(50)
    atr = np.full(50, 0.001)
    atr[:14] = np.nan
    labels = compute_labels(bars, atr, horizon_bars=5, barrier_atr=2.0, cost=np.linspace(0.0, 1.0, 50))
    assert labels["time"].tolist() == bars["time"][14:44].tolist()
    assert labels["cost"][0] == pytest.approx(14 / 49)
    assert compute_labels(bars, atr, horizon_bars=49, barrier_atr=2.0, cost=0.0).empty
    assert compute_labels(bars, atr, horizon_bars=500, barrier_atr=2.0, cost=0.0).empty


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"horizon_bars": 0}, "horizon_bars is 0"),
        ({"barrier_atr": 0.0}, "barrier_atr is 0.0"),
        ({"cost": -1.0}, "cost is negative"),
        ({"cost": np.nan}, "cost is negative or not finite"),
        ({"atr": np.ones(3)}, "3 ATR values for 50 bars"),
    ],
)
def test_impossible_arguments_are_refused(make_bars, change, text):
    arguments = {"atr": np.ones(50), "horizon_bars": 5, "barrier_atr": 2.0, "cost": 0.0} | change
    atr = arguments.pop("atr")
    with pytest.raises(DataError, match=text):
        compute_labels(make_bars(50), atr, **arguments)
