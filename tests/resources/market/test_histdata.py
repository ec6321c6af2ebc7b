import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from source_files import all_bars, write

from fx_dagster.errors import UnknownSymbolError
from fx_dagster.market.schemas import TICK_SCHEMA, TickFlag, validate
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from resources.market.histdata import open_histdata

TICKS = ["20240703 170000065,1.121200,1.121720,0", "20240703 170010447,1.121200,1.121920,0"]
M1 = ["20240103 170000;1.1;1.2;1.05;1.15;0", "20240103 170100;1.15;1.2;1.1;1.12;0"]
SIDE = ["timestamp,open,high,low,close", "2024-01-03 10:00:00{zone},1.10000,1.10020,1.09990,1.10010"]


def utc(text: str) -> int:
    return int(np.datetime64(text, "ns").astype(np.int64))


@pytest.mark.parametrize(
    "name",
    ["DAT_ASCII_EURUSD_T_202407.csv", "EURUSD_2024-07-03_histdata.csv.gz", "EURUSD_2024-07_histdata.csv"],
)
def test_ticks_are_new_york_time_without_daylight_saving(name: str, tmp_path: Path) -> None:
    write(tmp_path / name, TICKS)
    source = open_histdata(tmp_path)
    ticks = source.ticks("EURUSD", *source.span("EURUSD"))
    assert ticks["time"].tolist() == [utc("2024-07-03T22:00:00.065"), utc("2024-07-03T22:00:10.447")]
    assert ticks["bid"].tolist() == [1.1212, 1.1212]
    assert ticks["ask"].tolist() == [1.12172, 1.12192]
    assert set(ticks["flags"]) == {TickFlag.BID | TickFlag.ASK}
    assert (source.has_ticks, source.base_timeframe()) == (True, Timeframe.M1)
    assert source.bars("EURUSD", *source.span("EURUSD")) is None


def test_zips_hold_one_csv_beside_their_report(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "HISTDATA_COM_ASCII_EURUSD_T202407.zip", "w") as archive:
        archive.writestr("DAT_ASCII_EURUSD_T_202407.csv", "\r\n".join(TICKS))
        archive.writestr("DAT_ASCII_EURUSD_T_202407.txt", "status report")
    source = open_histdata(tmp_path)
    assert len(source.ticks("EURUSD", *source.span("EURUSD"))) == 2


def test_m1_bars_have_the_ticks_that_are_modelled_from_them(tmp_path: Path) -> None:
    write(tmp_path / "DAT_ASCII_EURUSD_M1_2024.csv", M1)
    source = open_histdata(tmp_path)
    bars = all_bars(source, "EURUSD")
    assert bars["time"].tolist() == [utc("2024-01-03T22:00"), utc("2024-01-03T22:01")]
    assert bars["tick_volume"].tolist() == [4.0, 4.0]
    # 22:00 UTC in winter is 17:00 New York: the modelled spread is at its widest.
    assert bars["spread"].tolist() == [40.0, 40.0]
    assert source.ticks("EURUSD", *source.span("EURUSD"))["volume"].tolist() == [1.0] * 8


@pytest.mark.parametrize(
    ("zone", "hours"), [("+00:00", 0), ("Z", 0), ("", 0), ("+02:00", -2), ("-05:00", 5), ("+0530", -5.5)]
)
def test_a_pair_has_real_spreads_and_says_its_zone(zone: str, hours: float, tmp_path: Path) -> None:
    rows = [line.format(zone=zone) for line in SIDE]
    write(tmp_path / "EURUSD_M1_2024-01_bid.csv", rows)
    ask = rows[1].replace("1.10000", "1.10008").replace("1.10020", "1.10032").replace("1.09990", "1.09994")
    write(tmp_path / "EURUSD_M1_2024-01_ask.csv", [rows[0], ask.replace("1.10010", "1.10026")])
    bars = all_bars(open_histdata(tmp_path), "EURUSD")
    assert bars["time"].tolist() == [utc("2024-01-03T10:00") + int(hours * HOUR_NS)]
    assert bars["spread"].tolist() == [10.0]  # 8, 12, 4 and 16 points
    assert bars["open"].tolist() == [1.1]


def test_sides_that_crossed_are_handed_on_as_they_are(tmp_path: Path) -> None:
    rows = [line.format(zone="Z") for line in SIDE]
    write(tmp_path / "EURUSD_M1_2024-01_ask.csv", rows)
    higher = rows[1].replace(",1.1", ",1.2").replace(",1.0", ",1.1")
    write(tmp_path / "EURUSD_M1_2024-01_bid.csv", [rows[0], higher])
    source = open_histdata(tmp_path)
    assert (all_bars(source, "EURUSD")["spread"] < 0).all()
    ticks = source.ticks("EURUSD", *source.span("EURUSD"))
    assert (ticks["ask"] < ticks["bid"]).all()


def test_a_pair_wins_over_plain_m1(tmp_path: Path) -> None:
    write(tmp_path / "DAT_ASCII_EURUSD_M1_2024.csv", M1)
    rows = [line.format(zone="Z") for line in SIDE]
    write(tmp_path / "EURUSD_M1_2024-01_bid.csv", rows)
    write(tmp_path / "EURUSD_M1_2024-01_ask.csv", rows)
    assert all_bars(open_histdata(tmp_path), "EURUSD")["time"].tolist() == [utc("2024-01-03T10:00")]


def test_a_folder_is_what_most_of_its_symbols_are(tmp_path: Path) -> None:
    write(tmp_path / "DAT_ASCII_EURUSD_T_202407.csv", TICKS)
    write(tmp_path / "DAT_ASCII_GBPUSD_M1_2024.csv", M1)
    source = open_histdata(tmp_path)
    assert (source.symbols(), source.has_ticks) == (("EURUSD",), True)
    assert source.left_out() == {"GBPUSD": "has only M1 bars while most symbols have ticks"}
    write(tmp_path / "DAT_ASCII_USDJPY_M1_2024.csv", M1)
    source = open_histdata(tmp_path)
    assert (source.symbols(), source.has_ticks) == (("GBPUSD", "USDJPY"), False)
    assert source.left_out() == {"EURUSD": "has only ticks while most symbols have M1 bars"}
    assert open_histdata(tmp_path, symbols=("EURUSD",)).symbols() == ("EURUSD",)
    with pytest.raises(UnknownSymbolError, match="no file of XAUUSD"):
        open_histdata(tmp_path, symbols=("XAUUSD",))


def test_real_ticks(real_data: Callable[[str], Path]) -> None:
    source = open_histdata(real_data("ticks"))
    ticks = validate(source.ticks("EURUSD", *source.span("EURUSD")), TICK_SCHEMA)
    assert len(ticks) == 9_500
    assert ticks["time"].iloc[0] == utc("2020-01-01T22:00:00.065")


def test_real_sides(real_data: Callable[[str], Path]) -> None:
    bars = all_bars(open_histdata(real_data("m1_bid_ask")), "GBPUSD")
    assert len(bars) == 30_117
    assert bars["spread"].median() == pytest.approx(6.5)
    assert (bars["spread"] < 0).mean() < 0.005
