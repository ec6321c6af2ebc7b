"""Windows: what is drawn, bar by bar as in the batch, and nothing of the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import CHART_BARS, CLIP, SEQUENCE_BARS, SEQUENCE_CHANNELS, feature_catalogue
from fx_dagster.features.incremental import channel_places
from fx_dagster.features.windows import draw_chart, pooled, windows_of
from fx_dagster.features.windows_incremental import new_windows, peek_windows, push_chart, push_sequence, read_windows
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe, bar_close

from .test_incremental import Walk

H1, H4, D1, W1 = Timeframe.H1, Timeframe.H4, Timeframe.D1, Timeframe.W1
EURUSD = instrument("EURUSD")
STYLES = ["walk", "jumps", "stops", "one_tick", "silent", "flat"]


class WindowWalk(Walk):
    """Pushes bars into windows too."""

    def __init__(self, frames, catalogue):
        super().__init__(frames, catalogue)
        self.windows, self.channels = new_windows(1), channel_places(catalogue)
        self.count = len(catalogue.timeframes)

    def push(self, row):
        before = dict(self.next)
        super().push(row)
        for slot, timeframe in enumerate(self.catalogue.context):
            for at in range(before[timeframe], self.next[timeframe]):
                push_chart(self.windows[0], 1 + slot, self.bars[timeframe][at])
        bar = self.bars[self.base][row]
        push_sequence(self.windows[0], self.count, self.channels, bar, self.state[0])

    def empty(self):
        sequence = np.empty(self.catalogue.sequence_shape, dtype=np.float32)
        return sequence, np.empty(self.catalogue.chart_shape, dtype=np.float32)

    def read(self):
        sequence, chart = self.empty()
        read_windows(self.windows[0], self.count, sequence, chart)
        return sequence, chart

    def peek(self, row):
        """What would be shown if the bar in ``row`` closed, without a context bar that closes with it."""
        ahead = Walk.__new__(Walk)
        ahead.__dict__ = {**self.__dict__, "state": self.state.copy(), "next": dict.fromkeys(self.next, 1 << 60)}
        Walk.push(ahead, row)
        sequence, chart = self.empty()
        bar = self.bars[self.base][row]
        peek_windows(
            self.windows[0], self.count, self.channels, bar, ahead.state[0]["values"], sequence, chart
        )  # fmt: skip
        return sequence, chart


def assert_same(found, expected):
    """The sequence to float32 of values that equal to 1e-9, the chart bit for bit."""
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-6, atol=2e-9)
    assert found[1].tobytes() == expected[1].tobytes()


def batch_windows(frames, catalogue):
    """Sequences and charts of a history, by the opening of the bar."""
    features = compute_features(frames, catalogue, instrument=EURUSD)
    windows, enough = windows_of(features, frames, catalogue, symbol="EURUSD")
    times = features["time"].to_numpy()[enough].tolist()
    return dict(zip(times, zip(windows.sequence(), windows.chart(), strict=True), strict=True))


def assert_walk_is_batch(frames, catalogue, *, late=0):
    """Compare every bar that has both; ``late`` plants a shift by so many bars."""
    expected, walk, compared = batch_windows(frames, catalogue), WindowWalk(frames, catalogue), 0
    time = frames[catalogue.base]["time"].tolist()
    for row in range(len(time)):
        walk.push(row)
        if row >= late and time[row - late] in expected:
            assert walk.windows[0]["ready"]
            assert_same(walk.read(), expected[time[row - late]])
            compared += 1
    return compared


# -- bar by bar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", [H1, H4, D1, W1])
def test_bar_by_bar_the_windows_are_the_batchs_on_every_base(make_bars, with_context, base):
    catalogue = feature_catalogue(base, cross_symbol=False)
    frames = with_context(make_bars(1400, base=base), base, catalogue.context)
    assert assert_walk_is_batch(frames, catalogue) > 60


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(STYLES))
def test_in_any_market(make_bars, with_context, seed, style):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(500, base=H4, seed=seed, style=style), H4, (D1,))
    assert assert_walk_is_batch(frames, catalogue) > 100


@pytest.mark.parametrize("late", [1, 2])
def test_a_shift_by_a_bar_would_be_noticed(make_bars, with_context, late):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(500, base=H4), H4, (D1,))
    with pytest.raises(AssertionError):
        assert_walk_is_batch(frames, catalogue, late=late)


def test_a_forming_bar_is_shown_as_the_newest_and_not_taken_in(make_bars, with_context):
    """The batch sees it as a closed bar while no context bar has closed with it."""
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(420, base=H4), H4, (D1,))
    walk, time = WindowWalk(frames, catalogue), frames[H4]["time"].to_numpy()
    for row in range(len(time) - 1):
        walk.push(row)
        if row < 400:
            continue
        before, peeked = walk.windows.tobytes(), walk.peek(row + 1)
        assert walk.windows.tobytes() == before
        closed = bar_close(time[row : row + 1], H4)[0]
        known = {
            H4: frames[H4].iloc[: row + 2],
            D1: frames[D1][bar_close(frames[D1]["time"].to_numpy(), D1) <= closed],
        }
        assert_same(peeked, batch_windows(known, catalogue)[int(time[row + 1])])


def test_before_there_are_enough_bars_nothing_is_ready(make_bars, with_context):
    catalogue = feature_catalogue(H1, cross_symbol=False)
    frames = with_context(make_bars(1500, base=H1), H1, catalogue.context)
    walk = WindowWalk(frames, catalogue)
    for row in range(1500):
        walk.push(row)
        ready = bool(walk.windows[0]["ready"])
        full = (walk.windows[0]["bars"][: walk.count] >= CHART_BARS).all()
        sequence, _ = walk.read()
        assert ready == (bool(walk.state[0]["warm"]) and full and bool(np.isfinite(sequence).all()))
    assert ready


def test_what_is_not_finite_keeps_a_symbol_from_being_ready(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(450, base=H4), H4, (D1,))
    walk = WindowWalk(frames, catalogue)
    for row in range(400):
        walk.push(row)
    assert walk.windows[0]["ready"]
    state = walk.state.copy()
    state[0]["values"][walk.channels[3]] = np.inf
    push_sequence(walk.windows[0], walk.count, walk.channels, walk.bars[H4][400], state[0])
    for row in range(401, 401 + SEQUENCE_BARS):
        assert not walk.windows[0]["ready"]
        walk.push(row)
    assert walk.windows[0]["ready"]


def test_channels_are_where_the_catalogue_has_them(make_bars, with_context):
    for base in (H1, H4, W1):
        for cross in (False, True):
            catalogue = feature_catalogue(base, cross_symbol=cross)
            own = [feature.name for feature in catalogue.features if feature.group != "cross"]
            assert [own[place] for place in channel_places(catalogue)] == list(SEQUENCE_CHANNELS)


# -- the batch --------------------------------------------------------------------------------------------------------


def test_what_happens_later_changes_no_window(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    bars = make_bars(500, base=H4)
    whole = batch_windows(with_context(bars, H4, (D1,)), catalogue)
    compared = 0
    for rows in (380, 431, 499):
        cut = batch_windows(with_context(bars.iloc[:rows], H4, (D1,)), catalogue)
        for time, windows in cut.items():
            assert windows[0].tobytes() == whole[time][0].tobytes()
            assert windows[1].tobytes() == whole[time][1].tobytes()
            compared += 1
    assert compared > 150


def test_a_chart_ends_with_the_newest_closed_bar_of_each_timeframe(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(450, base=H4), H4, (D1,))
    features = compute_features(frames, catalogue, instrument=EURUSD)
    windows, enough = windows_of(features, frames, catalogue, symbol="EURUSD")
    for row in (0, len(windows) // 2, len(windows) - 1):
        time = features["time"].to_numpy()[enough][row : row + 1]
        for slot, timeframe in enumerate(catalogue.timeframes):
            opening = frames[timeframe]["time"].to_numpy()
            closed = np.flatnonzero(bar_close(opening, timeframe) <= bar_close(time, H4)[0])
            expected = frames[timeframe].iloc[closed[-CHART_BARS:]]
            found = windows.window(slot)[row]
            np.testing.assert_array_equal(found[:, 3], expected["close"])
            np.testing.assert_array_equal(found[:, 4], expected["tick_volume"])


def test_pooled_windows_are_those_of_each_symbol(make_bars, with_context):
    catalogue, parts = feature_catalogue(H4, cross_symbol=False), []
    for seed in (1, 2):
        frames = with_context(make_bars(400, base=H4, seed=seed), H4, (D1,))
        features = compute_features(frames, catalogue, instrument=EURUSD)
        parts.append(windows_of(features, frames, catalogue, symbol="EURUSD")[0])
    both = pooled(parts)
    np.testing.assert_array_equal(both.sequence(), np.concatenate([part.sequence() for part in parts]))
    np.testing.assert_array_equal(both.chart(), np.concatenate([part.chart() for part in parts]))
    order = np.array([5, 0, len(both) - 1])
    np.testing.assert_array_equal(both.take(order).chart(), both.chart()[order])


def test_bars_that_do_not_fit_the_features_are_refused(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(400, base=H4), H4, (D1,))
    features = compute_features(frames, catalogue, instrument=EURUSD)
    with pytest.raises(DataError, match="EURUSD: no bars of D1"):
        windows_of(features, {H4: frames[H4]}, catalogue, symbol="EURUSD")
    moved = features.assign(time=features["time"] + 1)
    with pytest.raises(DataError, match="other times"):
        windows_of(moved, frames, catalogue, symbol="EURUSD")


# -- what is drawn ----------------------------------------------------------------------------------------------------


def drawn(window):
    out = np.empty((5, len(window)), dtype=np.float32)
    draw_chart(np.ascontiguousarray(window, dtype=np.float64), out)
    return out


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), scale=st.sampled_from([1e-3, 0.5, 7.0, 2_000.0]))
def test_a_chart_has_no_units(seed, scale):
    rng = np.random.default_rng(seed)
    close = 1.1 * np.exp(np.cumsum(rng.normal(0, 1e-3, 48)))
    window = np.column_stack(
        [close, close * 1.001, close * 0.999, close, rng.integers(1, 500, 48).astype(np.float64)]
    )  # fmt: skip
    window[:, 0] = np.roll(close, 1)
    scaled = window * np.array([scale] * 4 + [1.0])
    np.testing.assert_allclose(drawn(scaled), drawn(window), rtol=1e-4, atol=1e-5)
    assert drawn(window)[3, -1] == 0.0
    assert np.abs(drawn(window)).max() <= CLIP


def test_prices_that_stand_still_and_silence_are_drawn_finite():
    flat = np.tile([1.1, 1.1, 1.1, 1.1, 0.0], (48, 1))
    assert (drawn(flat) == 0.0).all()
    flat[-1, :4] = 2.2
    assert np.abs(drawn(flat)).max() == CLIP


def test_frames_are_left_as_they_are(make_bars, with_context):
    catalogue = feature_catalogue(H4, cross_symbol=False)
    frames = with_context(make_bars(400, base=H4), H4, (D1,))
    before = {name: frame.copy() for name, frame in frames.items()}
    batch_windows(frames, catalogue)
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, before[name])
