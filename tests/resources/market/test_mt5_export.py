from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_files import MT5_HEADER, all_bars, mt5_rows, simulator, write

from fx_dagster.errors import SourceError, UnknownSymbolError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_SCHEMA, validate
from fx_dagster.market.tick_model import model_spread
from fx_dagster.market.timeframes import HOUR_NS, MINUTE_NS, Timeframe
from resources.market.mt5_export import Mt5ExportSource, read_bars

ROW = "2024.07.01\t10:00:00\t1.07\t1.08\t1.06\t1.075\t100\t0\t12"


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("2024.01.15\t10:00:00", "2024-01-15T08:00"),
        ("2024.07.01\t10:00:00", "2024-07-01T07:00"),
        # New York on daylight saving since 10 March, Europe not before 31 March: a fixed European zone would be wrong.
        ("2024.03.12\t10:00:00", "2024-03-12T07:00"),
        ("2024.10.29\t10:00:00", "2024-10-29T07:00"),
        ("2024.11.05\t10:00:00", "2024-11-05T08:00"),
    ],
)
def test_server_time_becomes_utc_by_zone_rules(server: str, expected: str, tmp_path: Path) -> None:
    path = write(tmp_path / "EURUSD_H1.csv", [MT5_HEADER, f"{server}\t1.07\t1.08\t1.06\t1.075\t100\t0\t12"])
    bars = read_bars(path, Timeframe.H1)
    assert bars["time"].tolist() == [utc(expected)]
    assert bars.iloc[0, 1:].tolist() == [1.07, 1.08, 1.06, 1.075, 100.0, 12.0]


VARIANTS = {
    "tabs": [MT5_HEADER, ROW],
    "commas": [MT5_HEADER.replace("\t", ","), ROW.replace("\t", ",")],
    "minutes only": [MT5_HEADER, ROW.replace("10:00:00", "10:00")],
    "no volume and spread": [MT5_HEADER.rsplit("\t", 2)[0], ROW.rsplit("\t", 2)[0]],
    "plain names": ["Date,Time,Open,High,Low,Close,Tick_Volume", ROW.rsplit("\t", 2)[0].replace("\t", ",")],
    "windows": [f"{MT5_HEADER}\r", f"{ROW}\r"],
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_export_are_read(variant: str, tmp_path: Path) -> None:
    bars = read_bars(write(tmp_path / "EURUSD_H1.csv", VARIANTS[variant]), Timeframe.H1)
    assert bars["time"].tolist() == [utc("2024-07-01T07:00")]
    assert bars.iloc[0, 1:6].tolist() == [1.07, 1.08, 1.06, 1.075, 100.0]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_with_a_byte_order_mark_are_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "EURUSD_H1.csv"
    path.write_bytes(f"{MT5_HEADER}\n{ROW}\n".encode(encoding))
    source = Mt5ExportSource(tmp_path)
    assert source.span("EURUSD") == (utc("2024-07-01T07:00"), utc("2024-07-01T08:00"))


def test_daily_files_may_have_no_time(tmp_path: Path) -> None:
    header = MT5_HEADER.replace("<TIME>\t", "")
    write(tmp_path / "EURUSD_D1.csv", [header, "2024.07.01\t1.07\t1.08\t1.06\t1.075\t100\t0\t12"])
    source = Mt5ExportSource(tmp_path)
    assert source.base_timeframe() is Timeframe.D1
    # The trading day of 1 July opens at 17:00 New York on 30 June.
    assert source.span("EURUSD") == (utc("2024-06-30T21:00"), utc("2024-07-01T21:00"))


def test_a_missing_spread_is_modelled_and_a_real_one_kept(tmp_path: Path) -> None:
    bars = all_bars(simulator(timeframe=Timeframe.H1, days=3), "EURUSD")
    bars.loc[bars.index[:10], "spread"] = 0.0
    write(tmp_path / "EURUSD_H1.csv", [MT5_HEADER, *mt5_rows(bars)])
    read = all_bars(Mt5ExportSource(tmp_path), "EURUSD")
    expected = model_spread(bars["time"].to_numpy()[:10], instrument("EURUSD"))
    assert read["spread"].tolist() == [*expected, *bars["spread"].iloc[10:]]


def folder_of(tmp_path: Path, *names: str) -> Path:
    for name in names:
        write(tmp_path / name, [MT5_HEADER, ROW])
    return tmp_path


def test_the_base_is_the_finest_that_most_symbols_have(tmp_path: Path) -> None:
    names = ("GBPUSD_H1.csv", "USDJPY_H1.csv", "XAUUSD_H1.csv", "XAUUSD_M5.csv", "EURUSD_H4.csv", "EURUSD_D1.csv")
    source = Mt5ExportSource(folder_of(tmp_path, *names))
    assert source.base_timeframe() is Timeframe.H1
    assert source.symbols() == ("GBPUSD", "USDJPY", "XAUUSD")
    assert source.left_out() == {"EURUSD": "has only H4, D1 while the base timeframe is H1"}
    with pytest.raises(UnknownSymbolError, match="leaves EURUSD out: has only H4, D1"):
        source.bars("EURUSD", 0, 1)


def test_only_the_symbols_asked_for_decide_the_base(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "GBPUSD_H1.csv", "USDJPY_H1.csv", "EURUSD_H4.csv")
    source = Mt5ExportSource(folder, symbols=("EURUSD",))
    assert (source.base_timeframe(), source.symbols()) == (Timeframe.H4, ("EURUSD",))
    assert source.left_out() == {"GBPUSD": "not asked for", "USDJPY": "not asked for"}
    with pytest.raises(UnknownSymbolError, match="it has EURUSD, GBPUSD, USDJPY"):
        Mt5ExportSource(folder, symbols=("NZDUSD",))


def test_bars_longer_than_a_day_alone_are_not_enough(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="only bars longer than a day"):
        Mt5ExportSource(folder_of(tmp_path, "EURUSD_W1.csv"))


def test_several_files_of_a_symbol_follow_each_other(tmp_path: Path) -> None:
    rows = mt5_rows(all_bars(simulator(timeframe=Timeframe.H1, days=5), "EURUSD"))
    write(tmp_path / "EURUSD_H1_202403060000_202403080000.csv", [MT5_HEADER, *rows[50:]])
    write(tmp_path / "EURUSD_H1_202403040000_202403060000.csv.gz", [MT5_HEADER, *rows[:50]])
    source = Mt5ExportSource(tmp_path)
    start, end = source.span("EURUSD")
    bars = all_bars(source, "EURUSD")
    assert (len(bars), end - start) == (len(rows), len(rows) * HOUR_NS)
    across = source.bars("EURUSD", start + 48 * HOUR_NS, start + 52 * HOUR_NS)
    assert np.diff(across["time"]).tolist() == [HOUR_NS] * 3


def test_a_file_is_read_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import resources.market.mt5_export as module

    read: list[Path] = []
    inner = module.read_bars
    monkeypatch.setattr(module, "read_bars", lambda path, timeframe: (read.append(path), inner(path, timeframe))[1])
    path = write(tmp_path / "EURUSD_H1.csv", [MT5_HEADER, ROW])
    source = Mt5ExportSource(tmp_path)
    for _ in range(3):
        assert len(all_bars(source, "EURUSD")) == 1
    assert len(read) == 1
    write(path, [MT5_HEADER, ROW, ROW.replace("10:00", "11:00")])
    assert len(all_bars(source, "EURUSD")) == 2


def test_real_files(real_data: Callable[[str], Path]) -> None:
    source = Mt5ExportSource(real_data("mt5_export"))
    assert source.symbols() == ("AUDUSD", "GBPUSD", "USDCAD", "USDCHF", "USDJPY", "XAUUSD")
    assert list(source.left_out()) == ["EURUSD"]
    for symbol in source.symbols():
        bars = validate(all_bars(source, symbol), BAR_SCHEMA)
        assert len(bars) > 44_000
        # Friday's last hour opens at 16:00 New York, whatever the season.
        assert set(instrument(symbol).session.may_trade(bars["time"].to_numpy() + 30 * MINUTE_NS)) == {True}
