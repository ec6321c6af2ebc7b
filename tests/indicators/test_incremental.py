import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES, bar_arrays
from fx_dagster.indicators.batch import compute_indicators, indicator_values
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS, INDICATOR_NAMES
from fx_dagster.indicators.columns import Column
from fx_dagster.indicators.incremental import (
    VALUES,
    VOTES,
    is_warm,
    new_states,
    push_bar,
    push_history,
    push_one,
    push_rows,
    push_trends,
    vote_row,
)
from fx_dagster.indicators.votes import votes, warm
from fx_dagster.market.timeframes import Timeframe, bar_close

H1, H4, D1 = Timeframe.H1, Timeframe.H4, Timeframe.D1
NO_CONTEXT = np.empty(0)
FIELDS = ["open", "high", "low", "close", "tick_volume"]
STYLES = ["walk", "jumps", "stops", "one_tick", "silent", "flat"]
PIECES = st.lists(
    st.tuples(st.sampled_from(["walk", "flat", "steps", "spike", "level", "silent"]), st.integers(1, 130)),
    min_size=1,
    max_size=8,
)


def tape(pieces, seed, price):
    """Bars made of pieces: walks, flat stretches, equal closes, spikes, other price levels, no volume."""
    rng = np.random.default_rng(seed)
    rows = []
    for kind, length in pieces:
        for _ in range(length):
            move = {"flat": 0.0, "steps": rng.integers(-1, 2) * 1e-4}.get(kind, rng.normal(0.0, 1e-3))
            before, price = price, price * (1.0 + move)
            extent = 0.0 if kind == "flat" else abs(rng.normal(0.0, 5e-4)) * price
            volume = 0.0 if kind == "silent" else float(rng.integers(0, 4))
            rows.append([before, max(before, price) + extent, min(before, price) - extent / 2.0, price, volume])
        if kind == "spike":
            rows[-1][1:4] = [price * 1e9, price * 1e-3, price * 1e9 if rng.random() < 0.5 else price]
        if kind == "level":
            price *= 10.0 ** rng.integers(-3, 4)
    return np.array(rows)


def frame_of(rows):
    time = np.arange(len(rows), dtype=np.int64) * D1.nominal_ns
    return pd.DataFrame(rows, columns=FIELDS).assign(time=time)


def columns_of(bars):
    return [np.ascontiguousarray(bars[name].to_numpy(dtype=np.float64)) for name in FIELDS[1:]]


def whole(bars):
    return indicator_values(bar_arrays({D1: bars}, D1), []).T


def bar_by_bar(bars, states=None):
    states = new_states(1) if states is None else states
    values = np.empty((len(bars), VALUES))
    push_history(states[0], *columns_of(bars), NO_CONTEXT, values)
    return values


def same_bits(actual, wanted):
    for column, name in enumerate(INDICATOR_COLUMNS):
        np.testing.assert_array_equal(actual[:, column], wanted[:, column], err_msg=name)


def test_the_values_are_in_the_order_of_the_columns():
    assert tuple(column.name.lower() for column in Column) == INDICATOR_COLUMNS
    assert len(INDICATOR_NAMES) == VOTES


@pytest.mark.parametrize("style", STYLES)
def test_bar_by_bar_gives_the_bits_of_the_batch(make_bars, style):
    bars = make_bars(1500, base=D1, style=style)
    same_bits(bar_by_bar(bars), whole(bars))


@settings(deadline=None, max_examples=60)
@given(pieces=PIECES, seed=st.integers(0, 2**31), power=st.integers(-12, 9))
def test_any_tape_gives_the_bits_of_the_batch(pieces, seed, power):
    bars = frame_of(tape(pieces, seed, 1.37 * 10.0**power))
    same_bits(bar_by_bar(bars), whole(bars))


def test_the_sample_and_made_markets_give_the_bits_of_the_batch():
    from resources.market.sample import SampleSource
    from resources.market.simulator import SimulatorSource

    monday = pd.Timestamp("2024-01-08").value
    simulator = SimulatorSource(("EURUSD", "XAUUSD"), start=monday, end=monday + 4 * D1.nominal_ns, seed=3)
    for source in (SampleSource(), simulator):
        for symbol in source.symbols():
            bars = source.bars(symbol, *source.span(symbol))
            assert len(bars) > 4000
            same_bits(bar_by_bar(bars), whole(bars))


@settings(deadline=None, max_examples=10)
@given(pieces=PIECES, seed=st.integers(0, 2**31), share=st.floats(0.0, 1.0))
def test_a_copy_goes_on_with_the_same_bits(pieces, seed, share):
    bars = frame_of(tape([("walk", 130), *pieces], seed, 1.1))
    cut = int(share * len(bars))
    states = new_states(1)
    bar_by_bar(bars.iloc[:cut], states)
    kept = np.frombuffer(states.tobytes(), dtype=states.dtype).copy()
    later = bar_by_bar(bars.iloc[cut:], states)
    same_bits(bar_by_bar(bars.iloc[cut:], kept), later)
    assert kept.tobytes() == states.tobytes()
    same_bits(later, whole(bars)[cut:])


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), count=st.integers(1, 9))
def test_many_rows_in_one_call_are_the_rows_one_by_one(seed, count):
    rng = np.random.default_rng(seed)
    tapes = np.stack([tape([("walk", 130)], seed + place, 1.1 + place) for place in range(count)])
    together, alone, parts = new_states(12), new_states(12), new_states(12)
    rows = rng.permutation(12)[:count].astype(np.int64)
    for bar in range(130):
        push_rows(together, rows, np.ascontiguousarray(tapes[:, bar]))
        for place, row in enumerate(rows):
            push_one(alone, row, tapes[place, bar])
            push_bar(parts[row], *tapes[place, bar, 1:])
            push_trends(parts[row], parts[row]["values"][Column.TREND_STRENGTH])
    assert together.tobytes() == alone.tobytes() == parts.tobytes()
    assert sorted(np.flatnonzero(together["bars"])) == sorted(rows)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31), base=st.sampled_from([H1, H4]), style=st.sampled_from(STYLES))
def test_with_context_it_gives_the_bits_of_the_batch(make_bars, with_context, seed, base, style):
    context = CONTEXT_TIMEFRAMES[base]
    frames = with_context(make_bars(900, seed=seed, base=base, style=style), base, context)
    wanted = compute_indicators(frames, base)[list(INDICATOR_COLUMNS)].to_numpy()
    strengths = {
        other: (bar_close(frames[other]["time"].to_numpy(), other), bar_by_bar(frames[other])[:, Column.TREND_STRENGTH])
        for other in context
    }
    means = np.full(900, np.nan)
    for row, closing in enumerate(bar_close(frames[base]["time"].to_numpy(), base)):
        known = [values[times <= closing][-1:] for times, values in strengths.values()]
        if all(map(len, known)):
            means[row] = sum(float(value[0]) for value in known) / len(known)
    values = np.empty((900, VALUES))
    push_history(new_states(1)[0], *columns_of(frames[base]), means, values)
    same_bits(values, wanted)
    assert np.isfinite(values[-1]).all()


@settings(deadline=None, max_examples=20)
@given(pieces=PIECES, seed=st.integers(0, 2**31), power=st.integers(-9, 9))
def test_votes_of_a_row_are_the_bits_of_the_batch(pieces, seed, power):
    bars = frame_of(tape([*pieces, ("walk", 120)], seed, 1.37 * 10.0**power))
    close, frame = bars["close"].to_numpy(), compute_indicators({D1: bars}, D1)
    values = np.ascontiguousarray(frame[list(INDICATOR_COLUMNS)].to_numpy())
    cast = np.empty((len(bars), VOTES))
    for row in range(len(bars)):
        vote_row(values[row], close[row], cast[row])
    np.testing.assert_array_equal(cast, votes(frame, close))
    assert [is_warm(row) for row in values] == warm(frame).tolist()


def test_a_spike_leaves_no_trace_in_a_window_that_is_past_it(make_bars):
    bars = make_bars(700, base=D1)
    spiked = bars.copy()
    spiked.loc[150, ["high", "close"]] = 1e15
    plain, after = bar_by_bar(bars), bar_by_bar(spiked)
    assert after[199, Column.SMA_200] > 1e12
    forgotten = ["sma_20", "sma_50", "sma_200", "bollinger_position", "trend_strength", "vwap_20", "support"]
    for name in forgotten:
        column = INDICATOR_COLUMNS.index(name)
        np.testing.assert_array_equal(after[351:, column], plain[351:, column], err_msg=name)


def test_no_error_grows_with_the_length_of_history():
    rows, states = 1_000_000, new_states(1)
    rng = np.random.default_rng(0)
    close = np.round(1.1 + 0.01 * rng.standard_normal(rows), 5)
    values = np.empty((rows, VALUES))
    push_history(states[0], close + 1e-4, close - 1e-4, close, np.ones(rows), NO_CONTEXT, values)
    assert states["bars"][0] == rows
    for window in (20, 50, 200):
        exact = math.fsum(close[-window:]) / window
        assert values[-1, INDICATOR_COLUMNS.index(f"sma_{window}")] == pytest.approx(exact, rel=1e-15 * window)


def test_a_flat_market_that_wakes_up_is_all_gain_or_all_loss(make_bars):
    bars = make_bars(400, base=D1, style="stops")
    bars.loc[399, ["high", "close"]] += 1e-3
    values = bar_by_bar(bars)
    assert values[398, Column.RSI_14] == 50.0
    assert values[399, Column.RSI_14] > 99.9
    assert values[399, Column.ATR_MOVE] > 100.0
