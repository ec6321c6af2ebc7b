"""Market data files: whatever is in them, rows or an error that names the file."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import LakeError, SettingsError, SourceError, UnknownSymbolError
from fx_dagster.market.schemas import BAR_TYPES, TICK_TYPES
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.settings import SourceSettings
from resources.lake import Lake
from resources.market import open_source
from resources.market.histdata import read_m1, read_pair, read_ticks
from resources.market.mt5_export import read_bars
from resources.market.selection import parse_day

from .mutations import budget, contents, mutated, refused

BARS = (
    b"<DATE>\t<TIME>\t<OPEN>\t<HIGH>\t<LOW>\t<CLOSE>\t<TICKVOL>\t<VOL>\t<SPREAD>\n"
    b"2017.01.09\t00:00:00\t1.05300\t1.05400\t1.05200\t1.05350\t120\t0\t7\n"
    b"2017.01.09\t01:00:00\t1.05350\t1.05380\t1.05310\t1.05320\t90\t0\t8\n"
    b"2017.01.09\t02:00:00\t1.05320\t1.05330\t1.05290\t1.05300\t70\t0\t6\n"
)
TICKS = (
    b"20200102 000000123,1.12110,1.12120,0\n"
    b"20200102 000001456,1.12111,1.12121,0\n20200102 000002001,1.12109,1.12119,0\n"
)
M1 = b"20190102 000000;1.14;1.15;1.13;1.141;5\n20190102 000100;1.141;1.142;1.140;1.1415;6\n"
SIDE = (
    b"timestamp,open,high,low,close\n"
    b"2012-02-01 00:00:00+00:00,1.5,1.6,1.4,1.55\n2012-02-01 00:01:00+00:00,1.5,1.6,1.4,1.5\n"
)
FILES: dict[str, tuple[bytes, Callable[[Path], pd.DataFrame], dict[str, Any]]] = {
    "EURUSD_H1.csv": (BARS, lambda path: read_bars(path, Timeframe.H1), BAR_TYPES),
    "DAT_ASCII_EURUSD_T_202001.csv": (TICKS, read_ticks, TICK_TYPES),
    "DAT_ASCII_EURUSD_M1_2019.csv": (M1, read_m1, BAR_TYPES),
    "GBPUSD_M1_2012-02_bid.csv": (
        SIDE, lambda path: read_pair(path, path.with_name("GBPUSD_M1_2012-02_ask.csv"), 1e-5), BAR_TYPES
    ),
}  # fmt: skip
ROWS = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30)
    | st.text("0123456789.:-+e;,\t <>", max_size=40),
    max_size=6,
).map(lambda lines: "\n".join(lines).encode())


def checked(frame: pd.DataFrame, types: dict[str, Any]) -> None:
    """See that rows are what a source promises."""
    assert list(frame.columns) == list(types)
    assert len(frame), "no row, and no error"
    for name, kind in types.items():
        assert frame[name].dtype == np.dtype(kind)
    prices = frame.drop(columns="time").to_numpy(np.float64)
    assert np.isfinite(prices).all()


@pytest.mark.parametrize("name", list(FILES))
def test_valid_files_are_read_whole_however_they_are_packed(tmp_path: Path, name: str) -> None:
    data, read, types = FILES[name]
    lines = len(data.splitlines()) - (not data[:1].isdigit())
    (tmp_path / "GBPUSD_M1_2012-02_ask.csv").write_bytes(SIDE)
    (tmp_path / name).write_bytes(data)
    plain = read(tmp_path / name)
    checked(plain, types)
    assert len(plain) == lines
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(data))
    if "bid" not in name:
        pd.testing.assert_frame_equal(read(tmp_path / f"{name}.gz"), plain)
    (tmp_path / name).write_bytes(data.decode().encode("utf-16"))
    pd.testing.assert_frame_equal(read(tmp_path / name), plain)


@pytest.mark.parametrize("name", list(FILES))
@budget(50)
@given(st.data())
def test_altered_files_give_rows_or_name_themselves(tmp_path: Path, name: str, data: st.DataObject) -> None:
    whole, read, types = FILES[name]
    content = data.draw(mutated(whole) | ROWS | st.binary(max_size=60))
    (tmp_path / "GBPUSD_M1_2012-02_ask.csv").write_bytes(SIDE)
    path = tmp_path / name
    path.write_bytes(content)
    before = contents(tmp_path)
    with refused(SourceError, names=path.name):
        checked(read(path), types)
    assert contents(tmp_path) == before


def _zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inside.csv", data)
    return buffer.getvalue()


@pytest.mark.parametrize("ending", [".csv.gz", ".zip"])
@budget(50)
@given(st.data())
def test_altered_packed_files_give_rows_or_name_themselves(tmp_path: Path, ending: str, data: st.DataObject) -> None:
    whole = gzip.compress(TICKS, mtime=0) if ending == ".csv.gz" else _zipped(TICKS)
    path = tmp_path / f"DAT_ASCII_EURUSD_T_202001{ending}"
    path.write_bytes(data.draw(mutated(whole, 2)))
    with refused(SourceError, names=path.name):
        checked(read_ticks(path), TICK_TYPES)


@pytest.mark.parametrize("kind", ["mt5_export", "histdata"])
@budget(50)
@given(st.data())
def test_a_folder_of_anything_is_a_source_or_says_why_not(
    tmp_path_factory: Any, kind: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("source")
    names = st.sampled_from(list(FILES)) | st.text(
        st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=20
    ).filter(lambda name: name not in (".", ".."))
    for name in data.draw(st.lists(names, max_size=3)):
        whole = FILES[name][0] if name in FILES else TICKS
        (folder / name).write_bytes(data.draw(st.just(whole) | mutated(whole)))
    symbols = data.draw(st.sampled_from(("", "EURUSD", "EURUSD,XAUUSD")) | st.text(max_size=20))
    with refused(SourceError, UnknownSymbolError, SettingsError):
        source = open_source(SourceSettings(kind=kind, path=folder, symbols=symbols))  # type: ignore[arg-type]
        for symbol in source.symbols():
            first, end = source.span(symbol)
            assert first < end
            source.ticks(symbol, first, end)
            source.bars(symbol, first, end)


@budget(50)
@given(st.text(max_size=14) | st.dates().map(str) | st.text("0123456789-WT", max_size=12))
def test_a_day_is_a_day_or_the_setting_is_named(text: str) -> None:
    with refused(SettingsError, names="FX_SOURCE_START"):
        parse_day("FX_SOURCE_START", text)


@budget(50)
@given(st.data())
def test_an_altered_table_of_the_lake_is_a_lake_error(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("lake")
    lake = Lake(str(folder))
    lake.write("bars", pd.DataFrame({"time": np.arange(4, dtype=np.int64), "close": np.ones(4)}))
    (path,) = folder.rglob("*.parquet")
    path.write_bytes(data.draw(mutated(path.read_bytes())))
    with refused(LakeError):
        lake.read("bars")
        lake.metadata("bars")
