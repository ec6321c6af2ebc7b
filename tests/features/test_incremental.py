"""Features bar by bar: the batch's values on any tape, from any copy, and without a look ahead."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.decision.inputs import spread_medians, volatilities
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.features.incremental import new_features, new_layout, push_base, push_context, write_features
from fx_dagster.indicators.arrays import bar_arrays
from fx_dagster.indicators.batch import indicator_values
from fx_dagster.market.incremental import BAR
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe, bar_close

H1, H4, D1, W1 = Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1
EURUSD = instrument("EURUSD")
STYLES = ["walk", "jumps", "stops", "one_tick", "silent", "flat"]
NO_PEERS = np.full(4, np.nan)


class Walk:
    """Pushes bars into a state in the order of their closes."""

    def __init__(self, frames, catalogue):
        self.catalogue, self.base = catalogue, catalogue.base
        self.bars, self.values = {}, {}
        for timeframe in catalogue.timeframes:
            arrays = bar_arrays(frames, timeframe)
            coarser = [bar_arrays(frames, other) for other in catalogue.context] if timeframe is self.base else []
            self.bars[timeframe] = _records(frames[timeframe], timeframe)
            self.values[timeframe] = np.ascontiguousarray(indicator_values(arrays, coarser).T)
        self.state, self.layout = new_features(1), new_layout(catalogue)
        self.next = dict.fromkeys(catalogue.context, 0)

    def push(self, row):
        bar = self.bars[self.base][row]
        for slot, timeframe in reversed(list(enumerate(self.catalogue.context))):
            coarse = self.bars[timeframe]
            while self.next[timeframe] < len(coarse) and coarse[self.next[timeframe]]["end"] <= bar["end"]:
                at = self.next[timeframe]
                push_context(self.state[0], slot, coarse[at]["close"], self.values[timeframe][at])
                self.next[timeframe] += 1
        push_base(self.state[0], self.layout[0], bar, self.values[self.base][row], EURUSD.point, bar["end"])

    def features(self):
        out = np.empty(len(self.catalogue), dtype=np.float32)
        write_features(self.state[0], self.layout[0], NO_PEERS, out)
        return out


def _records(frame, timeframe):
    rows = np.zeros(len(frame), dtype=BAR)
    for name in ("time", "open", "high", "low", "close", "tick_volume", "spread"):
        rows[name] = frame[name].to_numpy()
    rows["end"] = bar_close(rows["time"], timeframe)
    return rows


def walked(frames, catalogue):
    walk = Walk(frames, catalogue)
    rows = []
    for row in range(len(walk.bars[walk.base])):
        walk.push(row)
        rows.append(walk.features())
    return walk, np.array(rows)


@pytest.mark.parametrize("base", [H1, H4, D1, W1])
def test_every_feature_is_the_batchs_on_every_base(make_bars, with_context, base):
    catalogue = feature_catalogue(base, cross_symbol=False)
    frames = with_context(make_bars(1400, base=base), base, catalogue.context)
    batch = compute_features(frames, catalogue, instrument=EURUSD)
    _, rows = walked(frames, catalogue)
    np.testing.assert_allclose(rows[-len(batch) :], batch[list(catalogue.names)], rtol=1e-6, atol=1e-9)
    assert not np.isfinite(rows[: -len(batch)]).all(axis=1).any(), "warm before the batch is"


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(STYLES))
def test_parity_to_1e_9_in_any_market(make_bars, with_context, seed, style):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(700, base=H4, seed=seed, style=style), H4, (D1,))
    walk = Walk(frames, catalogue)
    exact = _exact_batch(frames, catalogue)
    for row in range(700):
        walk.push(row)
        found = walk.state[0]["values"][: len(catalogue)]
        np.testing.assert_allclose(found, exact[row], rtol=1e-9, atol=1e-9, err_msg=f"row {row}")
        assert bool(walk.state[0]["warm"]) == bool(np.isfinite(exact[row]).all())


def _exact_batch(frames, catalogue):
    """The batch's float64 columns before they are clipped and rounded to float32."""
    from fx_dagster.features import batch

    columns = {}
    original = batch._frame

    def keep(base, values, names):
        columns["all"] = np.column_stack([values[name] for name in names])
        return original(base, values, names)

    batch._frame = keep
    try:
        compute_features(frames, catalogue, instrument=EURUSD)
    finally:
        batch._frame = original
    return columns["all"]


def test_a_copy_of_the_state_goes_on_exactly_as_it_does(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(600, base=H4), H4, (D1,))
    whole, restarted = Walk(frames, catalogue), Walk(frames, catalogue)
    for row in range(600):
        whole.push(row)
        if row == 431:
            restarted.state, restarted.next = whole.state.copy(), dict(whole.next)
        elif row > 431:
            restarted.push(row)
    for name in whole.state.dtype.names:
        if name not in ("base", "context"):
            np.testing.assert_array_equal(restarted.state[name], whole.state[name], err_msg=name)


def test_a_forming_bar_is_looked_at_in_a_copy(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(500, base=H4), H4, (D1,))
    looking, other = Walk(frames, catalogue), Walk(frames, catalogue)
    for row in range(499):
        looking.push(row)
        other.push(row)
    kept = looking.state.copy()
    looking.push(499)
    seen = looking.features()
    looking.state[:] = kept
    other.push(499)
    assert seen.tobytes() == other.features().tobytes()


def test_the_decisions_numbers_are_the_batchs(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(600, base=H4, style="jumps"), H4, (D1,))
    short, long = volatilities(frames[H4]["close"].to_numpy(), H4)
    medians = spread_medians(frames[H4]["spread"].to_numpy() * EURUSD.point)
    walk = Walk(frames, catalogue)
    for row in range(600):
        walk.push(row)
        state = walk.state[0]
        found = [state["volatility_short"], state["volatility_long"], state["spread_median"]]
        np.testing.assert_allclose(found, [short[row], long[row], medians[row]], rtol=1e-9)


def test_no_feature_knows_what_comes_later(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(600, base=H4), H4, (D1,))
    _, whole = walked(frames, catalogue)
    for cut in (420, 555):
        until = int(bar_close(frames[H4]["time"].to_numpy()[cut - 1 : cut], H4)[0])
        part = {
            timeframe: frame[bar_close(frame["time"].to_numpy(), timeframe) <= until].reset_index(drop=True)
            for timeframe, frame in frames.items()
        }
        _, known = walked(part, catalogue)
        assert known.tobytes() == whole[:cut].tobytes()
    assert isinstance(frames[H4], pd.DataFrame)
