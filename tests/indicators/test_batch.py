import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import bar_arrays
from fx_dagster.indicators.batch import compute_indicators, indicator_values
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS, MEMORY_BARS
from fx_dagster.market.timeframes import HOUR_NS, Timeframe, bar_close, bar_open

H1, H4, D1 = Timeframe.H1, Timeframe.H4, Timeframe.D1
COLUMNS = list(INDICATOR_COLUMNS)
STYLES = st.sampled_from(["walk", "jumps", "stops", "one_tick", "silent", "flat"])


class Recursive:
    """The textbook definitions, one bar at a time, in plain Python: what the batch must equal."""

    def __init__(self, bars: pd.DataFrame) -> None:
        self.high, self.low, self.close = (bars[name].tolist() for name in ("high", "low", "close"))
        self.volume = bars["tick_volume"].tolist()
        self.rows = len(bars)

    def sma(self, window):
        return [sum(self.close[t - window + 1 : t + 1]) / window for t in range(window - 1, self.rows)]

    @staticmethod
    def ema(values, span):
        average = sum(values[:span]) / span
        averages = [average]
        for value in values[span:]:
            average += 2.0 / (span + 1) * (value - average)
            averages.append(average)
        return averages

    @staticmethod
    def wilder(values, window=14):
        average = sum(values[:window]) / window
        averages = [average]
        for value in values[window:]:
            average = (average * (window - 1) + value) / window
            averages.append(average)
        return averages

    def rsi(self):
        moves = [b - a for a, b in zip(self.close, self.close[1:], strict=False)]
        gains = self.wilder([max(move, 0.0) for move in moves])
        losses = self.wilder([max(-move, 0.0) for move in moves])
        unchanged = [len(set(self.close[t - 14 : t + 1])) == 1 for t in range(14, self.rows)]
        return [
            50.0 if still else 100.0 * gain / (gain + loss)
            for gain, loss, still in zip(gains, losses, unchanged, strict=True)
        ]

    def atr(self):
        ranges = [
            max(self.high[t], self.close[t - 1]) - min(self.low[t], self.close[t - 1]) for t in range(1, self.rows)
        ]
        return self.wilder(ranges)

    def deviation(self, t):
        window = self.close[t - 19 : t + 1]
        return np.std(np.array(window) - window[-1])

    def levels(self, t):
        levels = [max(self.high[t - 100 : t]), min(self.low[t - 100 : t])]
        for sign, values in ((1, self.high), (-1, self.low)):
            swings = [
                p
                for p in range(3, t - 2)
                if all(sign * values[p] > sign * values[p - k] for k in (1, 2, 3))
                and all(sign * values[p] >= sign * values[p + k] for k in (1, 2, 3))
            ]
            levels += [values[p] for p in swings[-8:] if t - p < 100]
        close = self.close[t]
        lowest, highest = min(self.low[t - 99 : t + 1]), max(self.high[t - 99 : t + 1])
        return (
            max([lowest, *(level for level in levels if level <= close)]),
            min([highest, *(level for level in levels if level >= close)]),
        )


def close_to(actual: np.ndarray, wanted: list[float], scale: float = 1.1) -> None:
    np.testing.assert_allclose(actual[-len(wanted) :], wanted, rtol=1e-9, atol=1e-12 * scale)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(["walk", "jumps", "one_tick", "silent"]))
def test_batch_equals_the_textbook_definitions(make_bars, seed, style):
    bars = make_bars(260, seed=seed, base=D1, style=style)
    frame, plain = compute_indicators({D1: bars}, D1), Recursive(bars)
    value = {name: frame[name].to_numpy() for name in COLUMNS}
    for window in (20, 50, 200):
        close_to(value[f"sma_{window}"], plain.sma(window))
    fast, slow = plain.ema(plain.close, 12), plain.ema(plain.close, 26)
    close_to(value["ema_12"], fast)
    close_to(value["ema_26"], slow)
    line = [a - b for a, b in zip(fast[14:], slow, strict=True)]
    close_to(value["macd"], line)
    close_to(value["macd_signal"], plain.ema(line, 9))
    close_to(value["rsi_14"], plain.rsi())
    close_to(value["atr_14"], plain.atr())
    deviations = [plain.deviation(t) for t in range(19, 260)]
    close_to((value["bollinger_upper"] - value["bollinger_lower"]) / 4.0, deviations)
    close_to((value["bollinger_upper"] + value["bollinger_lower"]) / 2.0, plain.sma(20))
    levels = [plain.levels(t) for t in range(100, 260)]
    close_to(value["support"], [level[0] for level in levels])
    close_to(value["resistance"], [level[1] for level in levels])


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(["walk", "jumps"]))
def test_what_talib_has_too_is_as_talib_computes_it(make_bars, seed, style):
    bars = make_bars(2000, seed=seed, base=D1, style=style)
    frame = compute_indicators({D1: bars}, D1)
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    theirs = {f"sma_{window}": talib.SMA(close, window) for window in (20, 50, 200)}
    theirs |= {f"ema_{span}": talib.EMA(close, span) for span in (12, 26)}
    theirs |= {"atr_14": talib.ATR(high, low, close, 14), "rsi_14": talib.RSI(close, 14)}
    theirs["rsi_14"][talib.MAX(close, 15) == talib.MIN(close, 15)] = 50.0
    for name, values in theirs.items():
        np.testing.assert_allclose(frame[name], values, rtol=1e-11, err_msg=name)
    # Their MACD seeds the fast average later: the same once that is forgotten.
    line, signal, _ = talib.MACD(close, 12, 26, 9)
    np.testing.assert_allclose(frame["macd"][MEMORY_BARS:], line[MEMORY_BARS:], atol=1e-12)
    np.testing.assert_allclose(frame["macd_signal"][MEMORY_BARS:], signal[MEMORY_BARS:], atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_windowed_sums_equal_numpy_on_each_window(make_bars, seed):
    bars = make_bars(120, seed=seed, base=D1)
    frame = compute_indicators({D1: bars}, D1)
    close, volume = bars["close"].to_numpy(), bars["tick_volume"].to_numpy()
    typical = (bars["high"] + bars["low"] + bars["close"]).to_numpy() / 3.0
    for t in (20, 57, 119):
        rows = slice(t - 19, t + 1)
        assert frame["trend_strength"][t] == pytest.approx(np.corrcoef(np.arange(20), close[rows])[0, 1], abs=1e-9)
        assert frame["vwap_20"][t] == pytest.approx(np.average(typical[rows], weights=volume[rows]), rel=1e-9)
        moves = np.diff(close)[t - 20 : t]
        assert frame["volume_momentum"][t] == pytest.approx(np.average(moves, weights=volume[rows]), abs=1e-13)


def test_without_volume_all_bars_weigh_the_same(make_bars):
    bars = make_bars(60, base=D1, style="silent")
    frame = compute_indicators({D1: bars}, D1)
    typical = (bars["high"] + bars["low"] + bars["close"]).to_numpy() / 3.0
    assert frame["vwap_20"].iloc[-1] == pytest.approx(typical[-20:].mean(), rel=1e-12)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31), cut=st.integers(1, 3000))
def test_memory_bars_of_history_give_what_all_history_gives(make_bars, with_context, seed, cut):
    bars = make_bars(4000, seed=seed, base=D1)
    start = cut
    whole = compute_indicators({D1: bars}, D1).iloc[start + MEMORY_BARS :]
    part = compute_indicators({D1: bars.iloc[start:].reset_index(drop=True)}, D1).iloc[MEMORY_BARS:]
    # MACD is a difference of two prices: its error is counted against the price, as theirs is.
    np.testing.assert_allclose(part[COLUMNS].to_numpy(), whole[COLUMNS].to_numpy(), rtol=1e-9, atol=1e-12)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31), style=STYLES, hours=st.integers(600, 1900))
def test_what_comes_later_changes_nothing_earlier(make_bars, with_context, seed, style, hours):
    frames = with_context(make_bars(2000, seed=seed, style=style), H1, (H4, D1))
    limit = int(bar_close(frames[H1]["time"].to_numpy(), H1)[hours])
    known = {
        timeframe: frame[bar_close(frame["time"].to_numpy(), timeframe) <= limit].reset_index(drop=True)
        for timeframe, frame in frames.items()
    }
    whole = compute_indicators(frames, H1).iloc[: hours + 1]
    pd.testing.assert_frame_equal(compute_indicators(known, H1), whole, check_exact=True)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), style=STYLES)
def test_dull_markets_give_numbers(make_bars, seed, style):
    frame = compute_indicators({D1: make_bars(700, seed=seed, base=D1, style=style)}, D1)
    assert np.isfinite(frame[COLUMNS].to_numpy()[199:]).all()


def test_flat_prices_have_no_strength_and_no_trend(make_bars):
    last = compute_indicators({D1: make_bars(400, base=D1, style="stops")}, D1).iloc[-1]
    assert last["rsi_14"] == 50.0
    assert last["trend_strength"] == 0.0
    assert last["bollinger_position"] == 0.5
    assert last["atr_move"] == 0.0


def test_the_coarse_trend_is_that_of_the_last_closed_bars(make_bars, with_context):
    frames = with_context(make_bars(1500), H1, (H4, D1))
    before = compute_indicators(frames, H1)
    row = 1000
    closing = bar_close(frames[H1]["time"].to_numpy(), H1)[row]
    for timeframe in (H4, D1):
        later = bar_close(frames[timeframe]["time"].to_numpy(), timeframe) > closing
        frames[timeframe] = frames[timeframe].copy()
        frames[timeframe].loc[later, ["open", "high", "low", "close"]] *= 2.0
    after = compute_indicators(frames, H1)
    assert (after["trend_coarse"][: row + 1].dropna() == before["trend_coarse"][: row + 1].dropna()).all()
    assert (after["trend_coarse"][row + 1 :] != before["trend_coarse"][row + 1 :]).any()
    # The bar that closes with the day sees that day: waiting an hour longer would be a lag of the daily trend.
    day_ends = int(bar_close(bar_open(np.array([closing]), D1), D1)[0])
    position = int(np.flatnonzero(frames[H1]["time"].to_numpy() == day_ends - HOUR_NS)[0])
    assert before["trend_coarse"][position] != before["trend_coarse"][position - 1]


@pytest.mark.parametrize("timeframe", [Timeframe.W1, Timeframe.MN1])
def test_a_history_shorter_than_the_warm_up_is_all_nan(make_bars, timeframe):
    bars = make_bars(10, base=Timeframe.W1)
    frame = compute_indicators({timeframe: bars}, timeframe)
    assert len(frame) == 10
    assert frame[COLUMNS].isna().all().all()


@pytest.mark.parametrize("rows", [5, 300])
def test_a_matrix_at_hand_is_filled_whole(make_bars, rows):
    bars = bar_arrays({D1: make_bars(rows, base=D1)}, D1)
    out = np.full((len(COLUMNS), rows), 7.0)
    assert indicator_values(bars, [], out) is out
    np.testing.assert_array_equal(out, indicator_values(bars, []))


def test_no_bars_give_an_empty_frame(make_bars):
    frame = compute_indicators({D1: make_bars(5, base=D1).iloc[:0]}, D1)
    assert list(frame.columns) == ["time", *COLUMNS]
    assert frame.empty


def test_missing_or_disordered_bars_are_named(make_bars):
    bars = make_bars(30)
    with pytest.raises(DataError, match="bars of H4 are missing"):
        compute_indicators({H1: bars}, H1)
    with pytest.raises(DataError, match="column 'close' is missing"):
        compute_indicators({D1: bars.drop(columns="close")}, D1)
    with pytest.raises(DataError, match="row 3: time does not ascend"):
        compute_indicators({D1: bars.iloc[[0, 1, 2, 2, 3]].reset_index(drop=True)}, D1)
