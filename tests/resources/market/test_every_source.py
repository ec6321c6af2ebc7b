"""One suite that every market source must pass."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_files import MT5_HEADER, all_bars, frame_of_library, mt5_rows, new_york_stamps, simulator, write

from fx_dagster.errors import UnknownSymbolError
from fx_dagster.market.bars import ticks_to_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_SCHEMA, BAR_TYPES, TICK_SCHEMA, TICK_TYPES, TickFlag, validate
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import Timeframe, bar_open
from resources.market.dukascopy import DukascopySource
from resources.market.histdata import open_histdata
from resources.market.mt5_export import Mt5ExportSource
from resources.market.sample import SampleSource
from resources.market.selection import SelectedSource


def _mt5_export(folder: Path) -> MarketSource:
    source = simulator("EURUSD", "XAUUSD", timeframe=Timeframe.H1, days=20)
    for symbol, name in (("EURUSD", "EURUSD.m_H1.csv"), ("XAUUSD", "GOLD_H1.csv.gz")):
        write(folder / name, [MT5_HEADER, *mt5_rows(all_bars(source, symbol), instrument(symbol).digits)])
    return Mt5ExportSource(folder)


def _histdata_ticks(folder: Path) -> MarketSource:
    ticks = simulator().ticks("EURUSD", *simulator().span("EURUSD"))
    half = len(ticks) // 2
    for part, month in ((ticks.iloc[:half], "202402"), (ticks.iloc[half:], "202403")):
        stamps = new_york_stamps(part, "%Y%m%d %H%M%S%f")
        rows = [f"{s[:-3]},{t.bid:.6f},{t.ask:.6f},0" for s, t in zip(stamps, part.itertuples(), strict=True)]
        write(folder / f"DAT_ASCII_EURUSD_T_{month}.csv", rows)
    return open_histdata(folder)


def _histdata_m1(folder: Path) -> MarketSource:
    bars = all_bars(simulator(), "EURUSD")
    stamps = new_york_stamps(bars, "%Y%m%d %H%M%S")
    rows = [f"{s};{b.open};{b.high};{b.low};{b.close};0" for s, b in zip(stamps, bars.itertuples(), strict=True)]
    write(folder / "DAT_ASCII_EURUSD_M1_2024.csv.gz", rows)
    return open_histdata(folder)


def _histdata_pair(folder: Path) -> MarketSource:
    bars = all_bars(simulator("GBPUSD"), "GBPUSD")
    stamps = pd.to_datetime(bars["time"]).dt.strftime("%Y-%m-%d %H:%M:%S+00:00")
    for side, shift in (("bid", 0.0), ("ask", 0.00012)):
        rows = [
            f"{s},{b.open + shift:.5f},{b.high + shift:.5f},{b.low + shift:.5f},{b.close + shift:.5f}"
            for s, b in zip(stamps, bars.itertuples(), strict=True)
        ]
        write(folder / f"GBPUSD_M1_2024-03_{side}.csv.gz", ["timestamp,open,high,low,close", *rows])
    return open_histdata(folder)


def _dukascopy(folder: Path) -> MarketSource:
    market = simulator()
    bars = all_bars(market, "EURUSD")

    def fetch(name: str, side: str, start: datetime, end: datetime) -> pd.DataFrame:
        frame = frame_of_library(bars, 0.0001 if side == "A" else 0.0)
        return frame[(frame.index >= start) & (frame.index <= end)]  # the library includes the end

    start, end = market.span("EURUSD")
    return DukascopySource(("EURUSD",), start=start, end=end, fetch=fetch)


SOURCES: dict[str, Callable[[Path], MarketSource]] = {
    "sample": lambda folder: SampleSource(),
    "mt5_export": _mt5_export,
    "histdata ticks": _histdata_ticks,
    "histdata M1": _histdata_m1,
    "histdata pair": _histdata_pair,
    "dukascopy": _dukascopy,
    "simulator M1": lambda folder: simulator("EURUSD", "XAUUSD", "SIM001"),
    "simulator H1": lambda folder: simulator("EURUSD", "USDJPY", timeframe=Timeframe.H1, days=40),
    "selection": lambda folder: SelectedSource(simulator("EURUSD", "SIM001"), symbols=("SIM001",)),
}


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MarketSource:
    return SOURCES[request.param](tmp_path_factory.mktemp("source"))


def test_it_is_a_market_source(source: MarketSource) -> None:
    assert isinstance(source, MarketSource)
    assert source.name in {"sample", "mt5_export", "histdata", "dukascopy", "simulator"}
    assert isinstance(source.base_timeframe(), Timeframe)


def test_symbols_are_known_sorted_and_none_is_left_out_too(source: MarketSource) -> None:
    symbols = source.symbols()
    assert symbols
    assert list(symbols) == sorted(symbols)
    assert all(instrument(symbol).symbol == symbol for symbol in symbols)
    assert not set(symbols) & set(source.left_out())


def test_ticks_satisfy_the_schema_in_order_of_time(source: MarketSource) -> None:
    for symbol in source.symbols():
        ticks = source.ticks(symbol, *source.span(symbol))
        assert len(ticks) > 100
        assert {name: str(kind) for name, kind in ticks.dtypes.items()} == TICK_TYPES
        assert isinstance(ticks.index, pd.RangeIndex)
        validate(ticks, TICK_SCHEMA)


def test_ticks_say_whether_they_are_modelled(source: MarketSource) -> None:
    symbol = source.symbols()[0]
    flags = source.ticks(symbol, *source.span(symbol))["flags"].to_numpy()
    assert ((flags & TickFlag.MODELLED != 0) == (not source.has_ticks)).all()


def test_bars_satisfy_the_schema_and_lie_on_the_grid(source: MarketSource) -> None:
    for symbol in source.symbols():
        bars = source.bars(symbol, *source.span(symbol))
        if bars is None:
            assert source.has_ticks
            continue
        assert {name: str(kind) for name, kind in bars.dtypes.items()} == BAR_TYPES
        validate(bars, BAR_SCHEMA)
        assert (bars["spread"] > 0).all()
        time = bars["time"].to_numpy()
        assert np.array_equal(bar_open(time, source.base_timeframe()), time)


def test_ticks_make_the_very_bars(source: MarketSource) -> None:
    for symbol in source.symbols():
        start, end = source.span(symbol)
        bars = source.bars(symbol, start, end)
        if bars is None:
            continue
        ticks = source.ticks(symbol, start, end)
        rebuilt = ticks_to_bars(ticks, source.base_timeframe(), instrument(symbol).point, complete_until=end)
        pd.testing.assert_frame_equal(rebuilt, bars, check_exact=True)


def test_the_span_covers_the_data_and_nothing_is_outside(source: MarketSource) -> None:
    for symbol in source.symbols():
        start, end = source.span(symbol)
        assert start < end
        wide = source.ticks(symbol, start - 10**15, end + 10**15)
        pd.testing.assert_frame_equal(wide, source.ticks(symbol, start, end))
        assert start <= wide["time"].iloc[0]
        assert wide["time"].iloc[-1] < end


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_half_open_ranges_compose(source: MarketSource, data: st.DataObject) -> None:
    symbol = data.draw(st.sampled_from(source.symbols()))
    start, end = source.span(symbol)
    cuts = st.integers(start - 10**12, end + 10**12)
    times = source.ticks(symbol, start, end)["time"]
    a, b, c = sorted(data.draw(st.tuples(cuts, cuts | st.sampled_from(times.iloc[::97].tolist()), cuts)))
    whole = source.ticks(symbol, a, c)
    parts = pd.concat([source.ticks(symbol, a, b), source.ticks(symbol, b, c)], ignore_index=True)
    pd.testing.assert_frame_equal(parts, whole, check_exact=True)
    if not source.has_ticks:
        parts = pd.concat([source.bars(symbol, a, b), source.bars(symbol, b, c)], ignore_index=True)
        pd.testing.assert_frame_equal(parts, source.bars(symbol, a, c), check_exact=True)


def test_an_empty_range_has_no_rows(source: MarketSource) -> None:
    symbol = source.symbols()[0]
    start, _ = source.span(symbol)
    empty = source.ticks(symbol, start, start)
    assert len(empty) == 0
    assert list(empty.columns) == list(TICK_TYPES)
    assert {name: str(kind) for name, kind in empty.dtypes.items()} == TICK_TYPES


def test_the_same_question_gets_the_same_answer_whatever_is_done_to_it(source: MarketSource) -> None:
    symbol = source.symbols()[0]
    span = source.span(symbol)
    first = source.ticks(symbol, *span)
    before = first.copy()
    first["bid"] = -1.0
    pd.testing.assert_frame_equal(source.ticks(symbol, *span), before)


def test_an_unknown_symbol_is_refused_with_the_nearest(source: MarketSource) -> None:
    known = source.symbols()[0]
    wrong = known[:-1] + "X"
    for call in (source.ticks, source.bars):
        with pytest.raises(UnknownSymbolError, match=f"did you mean {known}"):
            call(wrong, 0, 1)
    with pytest.raises(UnknownSymbolError, match=wrong):
        source.span(wrong)
