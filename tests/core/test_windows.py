"""What the models are shown: on any tape the batch's windows, however it is cut and wherever it is taken up again."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fx_dagster.core.rows import Kind, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import Question, TradingCore
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import FeatureCatalogue, feature_catalogue
from fx_dagster.features.windows import Windows, windows_of
from fx_dagster.market.bars import build_timeframes
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, Timeframe, bar_close
from fx_dagster.models.inputs import UNKNOWN_SYMBOL

from .conftest import Frames, Market, Tick, Work, logistic, new_work, ticks_of

M5, H1 = Timeframe.M5, Timeframe.H1
SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
START = int(pd.Timestamp("2024-04-01").as_unit("ns").value)
BARS = 3_400
"""Of five minutes: until every chart is full, and a few hundred more."""
Specs = Callable[..., CoreSpec]
Shown = dict[tuple[str, int], tuple[np.ndarray, np.ndarray, np.ndarray]]
"""Features, sequence and chart by symbol and opening of the bar."""


def random_market(seed: int, symbols: Sequence[str] = SYMBOLS[:2]) -> Market:
    """Return ticks of a few symbols that know silence, bars of one tick and bars that a symbol alone lacks."""
    rng, n = np.random.default_rng(seed), len(symbols)
    opening = START + np.arange(BARS, dtype=np.int64) * M5.nominal_ns
    weekday = (opening // DAY_NS + 3) % 7
    opening = opening[weekday < 5]
    ticks: list[Tick] = []
    price = np.full(n, 1.2)
    for bar in opening.tolist():
        for row in range(n):
            if rng.random() < 0.02:
                continue
            count = int(rng.integers(1, 4))
            for at in np.sort(rng.choice(290_000, count, replace=False)).tolist():
                price[row] = round(price[row] * np.exp(rng.normal(0, 2e-4)), 5)
                ticks.append(Tick(row, bar + at * 1_000_000 + row, price[row], round(price[row] + 1e-4, 5)))
    ticks.sort(key=lambda tick: tick.time)
    end = int(opening[-1]) + M5.nominal_ns
    frames = {name: bars_of(ticks, row, name, end) for row, name in enumerate(symbols)}
    return Market(tuple(symbols), M5, START, ticks_of(ticks), frames)


def bars_of(ticks: Sequence[Tick], row: int, symbol: str, end: int) -> Frames:
    names = ("time", "bid", "ask", "volume", "flags")
    frame = pd.DataFrame([tick[1:] for tick in ticks if tick.row == row], columns=list(names))
    return build_timeframes(frame.astype({"flags": np.int32}), M5, instrument(symbol).point, complete_until=end)


def batch(market: Market, *, late: int = 0) -> Shown:
    """What training shows, by symbol and bar; ``late`` plants a shift by so many bars."""
    catalogue, found = feature_catalogue(market.base, cross_symbol=len(market.symbols) > 1), {}
    for symbol in market.symbols:
        frames = market.frames[symbol]
        features, windows, enough = history_of(market, frames, symbol, catalogue)
        moved = Windows(windows.channels, windows.bars, windows.at - late)
        kept = features[enough]
        rows = zip(kept.iloc[:, 1:].to_numpy(), moved.sequence(), moved.chart(), strict=True)
        found.update(dict(zip(((symbol, time) for time in kept["time"].tolist()), rows, strict=True)))
    return found


def history_of(
    market: Market, frames: Frames, symbol: str, catalogue: FeatureCatalogue
) -> tuple[pd.DataFrame, Windows, np.ndarray]:
    peers = {other: market.frames[other][market.base] for other in market.symbols if other != symbol}
    features = compute_features(frames, catalogue, instrument=instrument(symbol), peers=peers or None)
    return features, *windows_of(features, frames, catalogue, symbol=symbol)


def shown(questions: Sequence[Question]) -> Shown:
    """What the models were shown at closes of bars."""
    found: Shown = {}
    for question in questions:
        if question.kind is not Kind.BAR:
            continue
        inputs = question.inputs
        assert inputs.symbol.tolist() == [UNKNOWN_SYMBOL] * len(inputs)
        for place, key in enumerate(zip(question.symbols, inputs.time.tolist(), strict=True)):
            assert key not in found, "asked twice about one bar"
            found[key] = (inputs.features[place], inputs.sequence[place], inputs.chart[place])
    return found


def assert_same(found: Shown, expected: Shown) -> None:
    """Float32 of values that are equal to 1e-9, and charts bit for bit; at every bar that training has."""
    assert expected.keys() <= found.keys()
    for key, (features, sequence, chart) in expected.items():
        np.testing.assert_allclose(found[key][0], features, rtol=1e-6, atol=2e-9, err_msg=str(key))
        np.testing.assert_allclose(found[key][1], sequence, rtol=1e-6, atol=2e-9, err_msg=str(key))
        assert found[key][2].tobytes() == chart.tobytes(), key


def lived(market: Market, spec: Callable[[], CoreSpec], cuts: Sequence[int], restarts: Sequence[int]) -> Work:
    """Work through a market in batches; at restarts another core goes on from a state of the last one."""
    work, done = new_work(spec(), logistic, keeps_log=False), 0
    for last in sorted({*cuts, *restarts, len(market.ticks.time)}):
        work.take(market.ticks, done, last)
        done = last
        if last in restarts:
            state, questions = work.core.whole(), work.questions
            work = new_work(spec(), logistic, keeps_log=False)
            work.core.restore_whole(state)
            work.questions = questions
    work.reach(max(bar_close(market.frames[name][M5]["time"].to_numpy()[-1:], M5)[0] for name in market.symbols))
    return work


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(data=st.data())
def test_on_any_tape_in_any_pieces_the_models_see_what_training_saw(spec_of: Specs, data: st.DataObject) -> None:
    symbols = SYMBOLS[: data.draw(st.integers(1, 3))]
    market = random_market(data.draw(st.integers(0, 2**31)), symbols)
    places = st.lists(st.integers(0, len(market.ticks.time)), max_size=6)
    spec = lambda: spec_of(*symbols, start=START, stale_s=7_200.0)  # noqa: E731
    work = lived(market, spec, data.draw(places), data.draw(places))
    expected = batch(market)
    assert len(expected) > 300 * len(symbols)
    assert_same(shown(work.questions), expected)


@pytest.fixture(scope="module")
def market() -> Market:
    return random_market(5)


@pytest.fixture(scope="module")
def work(market: Market, spec_of: Specs) -> Work:
    spec = spec_of(*market.symbols, start=START, stale_s=7_200.0, move_atr=0.8)
    return lived(market, lambda: spec, [], [])


@pytest.mark.parametrize("late", [-1, 1])
def test_a_shift_by_a_bar_would_be_noticed(market: Market, work: Work, late: int) -> None:
    expected = batch(market, late=max(late, 0))
    if late < 0:
        found = shown(work.questions)
        keys = list(expected)
        expected = {before: found[after] for before, after in pairwise(keys[:200])}
    with pytest.raises(AssertionError):
        assert_same(shown(work.questions), expected)


def test_what_comes_later_changes_nothing(market: Market, spec_of: Specs, work: Work) -> None:
    """A core that never saw the rest was asked the same, to the bit."""
    count = len(market.ticks.time) * 9 // 10
    spec = spec_of(*market.symbols, start=START, stale_s=7_200.0, move_atr=0.8)
    cut = market._replace(ticks=Ticks(*(column[:count].copy() for column in market.ticks)))
    early = lived(cut, lambda: spec, [], [])
    known = [question for question in early.questions if question.time <= cut.ticks.time[-1]]
    assert len(known) > 300
    for one, other in zip(known, work.questions, strict=False):
        assert (one.kind, one.time, one.symbols) == (other.kind, other.time, other.symbols)
        for name in ("features", "sequence", "chart", "time"):
            assert getattr(one.inputs, name).tobytes() == getattr(other.inputs, name).tobytes()


def test_at_a_far_move_the_forming_bar_is_the_newest(market: Market, work: Work) -> None:
    """The batch says the same of a history that ends with the bar as it forms, but for what the others' bars say."""
    moves = [question for question in work.questions if question.kind is Kind.MOVE and len(question.rows)]
    catalogue = work.core.spec.catalogue
    assert len(moves) > 20
    for question in moves[-4:]:
        (symbol,), inputs = question.symbols, question.inputs
        row = market.symbols.index(symbol)
        opening = int(inputs.time[0])
        assert opening <= question.time < opening + M5.nominal_ns
        ticks = [Tick(*values) for values in zip(*(column.tolist() for column in market.ticks), strict=True)]
        seen = [tick for tick in ticks if tick.time <= question.time]
        forming = bars_of(seen, row, symbol, opening + M5.nominal_ns)[M5]
        frames = {
            timeframe: bars[bar_close(bars["time"].to_numpy(), timeframe) <= opening]
            for timeframe, bars in market.frames[symbol].items()
            if timeframe in catalogue.timeframes
        } | {M5: forming}
        assert forming["time"].iloc[-1] == opening
        _, windows, _ = history_of(market, frames, symbol, catalogue)
        np.testing.assert_allclose(inputs.sequence[0], windows.sequence()[-1], rtol=1e-6, atol=2e-9)
        assert inputs.chart[0].tobytes() == windows.chart()[-1].tobytes()


def test_a_look_at_the_forming_bar_changes_nothing(work: Work) -> None:
    core = work.core
    before, windows = core.whole(), core.core.windows.tobytes()
    control = core.core.control[0]
    control["event_rows"], control["event_kind"], core.core.rows[0] = 1, Kind.MOVE, 0
    first = core.question()
    second = core.question()
    control["event_rows"] = control["event_kind"] = 0
    assert first.inputs.chart.tobytes() == second.inputs.chart.tobytes()
    assert core.core.windows.tobytes() == windows
    assert len(core.whole()) == len(before)


def test_a_market_state_brings_its_windows_along(market: Market, work: Work, spec_of: Specs) -> None:
    spec = spec_of(*market.symbols, start=START, stale_s=7_200.0, move_atr=0.8)
    other = new_work(spec, logistic).core
    other.restore_market(work.core.market_copy()(), not_after=(1 << 62, 0))
    assert other.core.windows.tobytes() == work.core.core.windows.tobytes()
    names, sampled = other.sample()
    assert names == market.symbols
    assert sampled.chart.tobytes() == work.core.sample()[1].chart.tobytes()


def test_history_is_shown_as_if_it_had_been_lived_through(made: Market, spec_of: Specs) -> None:
    """Of a warm-up on bars the windows are the stored bars' own."""
    until = int(made.frames["EURUSD"][M5]["time"].iloc[-200]) + M5.nominal_ns
    core = new_work(spec_of(*made.symbols, start=until)).core
    core.warm_up(made.history(until), until)
    names, inputs = core.sample()
    assert names == made.symbols
    expected = batch(made)
    for place, key in enumerate(zip(names, inputs.time.tolist(), strict=True)):
        assert inputs.chart[place].tobytes() == expected[key][2].tobytes()
        np.testing.assert_allclose(inputs.sequence[place], expected[key][1], rtol=1e-5, atol=1e-6)


def test_without_models_nothing_is_drawn(market: Market, spec_of: Specs, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(self: TradingCore) -> Question:
        raise AssertionError("a question was put together that nobody asks")

    monkeypatch.setattr(TradingCore, "question", never)
    work = new_work(spec_of(*market.symbols, start=START, asks=False), keeps_log=False)
    work.take(market.ticks)
    assert work.core.core.windows["ready"].all(), "a session that began to ask could at once"
    assert work.core.counts()["questions"] == 0
