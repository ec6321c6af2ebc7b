from pathlib import Path

import numpy as np
import pytest
from source_files import MT5_HEADER, all_bars, mt5_rows, simulator, write

from fx_dagster.errors import FxError, SettingsError, SourceError, UnknownSymbolError
from fx_dagster.market.timeframes import DAY_NS
from fx_dagster.settings import SourceSettings
from resources.market import open_source
from resources.market.selection import SelectedSource, parse_day, split_symbols


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


def test_the_sample_is_the_default() -> None:
    source = open_source(SourceSettings())
    assert (source.name, source.symbols()) == ("sample", ("EURUSD",))


@pytest.mark.parametrize("kind", ["mt5_export", "histdata"])
def test_sources_of_files_need_a_folder(kind: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"source {kind} reads files, and FX_SOURCE_PATH names no folder"):
        open_source(SourceSettings(kind=kind))
    with pytest.raises(SourceError, match="holds no data file"):
        open_source(SourceSettings(kind=kind, path=tmp_path))


def test_files_are_opened(tmp_path: Path) -> None:
    write(tmp_path / "EURUSD_M1.csv", [MT5_HEADER, *mt5_rows(all_bars(simulator(), "EURUSD"))])
    source = open_source(SourceSettings(kind="mt5_export", path=tmp_path, symbols=" eurusd "))
    assert (source.name, source.symbols()) == ("mt5_export", ("EURUSD",))


def test_days_are_trading_days() -> None:
    # New York is on daylight saving from 12 March 2017.
    source = open_source(SourceSettings(start="2017-03-01", end="2017-03-16"))
    assert source.span("EURUSD") == (utc("2017-02-28T22:00"), utc("2017-03-15T21:00"))
    bars = source.bars("EURUSD", 0, 2**62)
    assert bars is not None
    assert bars["time"].iloc[[0, -1]].tolist() == [utc("2017-02-28T22:00"), utc("2017-03-15T20:00")]
    assert len(source.ticks("EURUSD", 0, 2**62)) == 4 * len(bars)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2017-13-01", "", "FX_SOURCE_START: '2017-13-01' is not a day"),
        ("", "yesterday", "FX_SOURCE_END: 'yesterday' is not a day"),
        ("2017-03-02", "2017-03-02", "FX_SOURCE_END 2017-03-02 is not after FX_SOURCE_START 2017-03-02"),
        ("2030-01-01", "", "has no usable symbol .EURUSD: no data in the days asked for"),
    ],
)
def test_impossible_days_are_refused(start: str, end: str, message: str) -> None:
    with pytest.raises(FxError, match=message) as caught:
        open_source(SourceSettings(start=start, end=end))
    assert caught.value.mend


def test_symbols_are_chosen_and_the_others_named() -> None:
    source = open_source(SourceSettings(kind="simulator", simulator_days=3, symbols="SIM002,EURUSD"))
    assert source.symbols() == ("EURUSD", "SIM002")
    chosen = SelectedSource(source, symbols=("SIM002",))
    assert chosen.left_out() == {"EURUSD": "not asked for"}
    with pytest.raises(UnknownSymbolError, match="leaves EURUSD out: not asked for"):
        chosen.ticks("EURUSD", 0, 1)


def test_a_symbol_the_source_lacks_is_refused() -> None:
    with pytest.raises(UnknownSymbolError, match="did you mean EURUSD"):
        open_source(SourceSettings(symbols="EURUSX"))


def test_dukascopy_is_opened_without_the_network() -> None:
    source = open_source(SourceSettings(kind="dukascopy", symbols="XAUUSD", start="2024-01-02", end="2024-01-03"))
    start, end = source.span("XAUUSD")
    assert (source.symbols(), end - start) == (("XAUUSD",), DAY_NS)


def test_small_parsers() -> None:
    assert split_symbols(" eurusd,, XAUUSD ,EURUSD") == ("EURUSD", "XAUUSD")
    assert parse_day("X", "") is None
    assert parse_day("X", "2024-07-01") == utc("2024-06-30T21:00")
