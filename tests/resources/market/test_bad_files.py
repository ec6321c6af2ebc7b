"""What a file may have wrong: each fault is one clear error that names file, row, column and the mend."""

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from source_files import MT5_HEADER, all_bars, mt5_rows, new_york_stamps, simulator, write

from fx_dagster.errors import SourceError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.market.validation import split_bars, split_ticks
from fx_dagster.settings import ValidationSettings
from resources.market.histdata import open_histdata
from resources.market.mt5_export import Mt5ExportSource
from resources.market.sample import SampleSource

Lines = list[str]
Mutation = Callable[[Lines], Lines]


def replaced(row: int, old: str, new: str, count: int = 1) -> Mutation:
    """Return what replaces a text in a row (1-based line)."""

    def mutate(lines: Lines) -> Lines:
        assert old in lines[row - 1]
        return [*lines[: row - 1], lines[row - 1].replace(old, new, count), *lines[row:]]

    return mutate


def field(row: int, column: int, value: str, separator: str) -> Mutation:
    """Return what sets a field of a row (1-based line, 0-based column)."""

    def mutate(lines: Lines) -> Lines:
        fields = lines[row - 1].split(separator)
        fields[column] = value
        return [*lines[: row - 1], separator.join(fields), *lines[row:]]

    return mutate


def twice(row: int) -> Mutation:
    return lambda lines: [*lines[:row], lines[row - 1], *lines[row:]]


def swapped(row: int) -> Mutation:
    return lambda lines: [*lines[: row - 1], lines[row], lines[row - 1], *lines[row + 1 :]]


def h1_lines() -> Lines:
    return [MT5_HEADER, *mt5_rows(all_bars(simulator(timeframe=Timeframe.H1, days=5), "EURUSD"))]


def m1_lines() -> Lines:
    bars = all_bars(simulator(days=1), "EURUSD")
    stamps = new_york_stamps(bars, "%Y%m%d %H%M%S")
    return [f"{s};{b.open};{b.high};{b.low};{b.close};0" for s, b in zip(stamps, bars.itertuples(), strict=True)]


def side_lines(shift: float = 0.0) -> Lines:
    rows = [f"{b.open + shift:.5f},{b.high + shift:.5f},{b.low + shift:.5f},{b.close + shift:.5f}" for b in _minutes()]
    return ["timestamp,open,high,low,close", *(f"2024-03-05 10:{n:02d}:00+00:00,{row}" for n, row in enumerate(rows))]


def _minutes() -> list:
    return list(all_bars(simulator(days=1), "EURUSD").head(50).itertuples())


def tick_lines() -> Lines:
    ticks = simulator(days=1).ticks("EURUSD", *simulator(days=1).span("EURUSD")).head(1000)
    stamps = new_york_stamps(ticks, "%Y%m%d %H%M%S%f")
    return [f"{s[:-3]},{t.bid:.6f},{t.ask:.6f},0" for s, t in zip(stamps, ticks.itertuples(), strict=True)]


def read_mt5(folder: Path) -> None:
    source = Mt5ExportSource(folder)
    source.bars("EURUSD", *source.span("EURUSD"))


def read_histdata(folder: Path) -> None:
    source = open_histdata(folder)
    source.ticks("EURUSD", *source.span("EURUSD"))


MT5 = "EURUSD_H1.csv"
M1 = "DAT_ASCII_EURUSD_M1_2024.csv"
TICKS = "DAT_ASCII_EURUSD_T_202403.csv"
MT5_FAULTS: dict[str, tuple[Mutation, str]] = {
    "missing column": (lambda lines: [line.rsplit("\t", 3)[0] for line in lines], "row 1: column <TICKVOL> is missing"),
    "no time": (lambda lines: [_without(line, 1, "\t") for line in lines], "row 1: column <TIME> is missing"),
    "no header": (lambda lines: lines[1:], "row 1: column <DATE> is missing"),
    "wrong separator": (lambda lines: [line.replace("\t", ";") for line in lines], "row 1: wrong separator"),
    "separator changes": (replaced(9, "\t", ",", 9), "row 9: wrong separator, comma instead of tab"),
    "row cut off": (lambda lines: [*lines[:-1], lines[-1][:30]], r"row 121: \d columns, expected 9"),
    "price is text": (field(7, 4, "abc", "\t"), "row 7, column LOW: 'abc' is not a finite number"),
    "price is empty": (field(7, 5, "", "\t"), "row 7, column CLOSE: '' is not a finite number"),
    "price is not finite": (field(7, 3, "inf", "\t"), "row 7, column HIGH: 'inf' is not a finite number"),
    "price is NaN": (field(8, 2, "nan", "\t"), "row 8, column OPEN: 'nan' is not a finite number"),
    "decimal comma": (field(7, 2, "1,0912", "\t"), "row 7, column OPEN: '1,0912'"),
    "date of another form": (field(5, 0, "04/03/2024", "\t"), "row 5, column DATE: '04/03/2024' is not a time like"),
    "no such day": (field(5, 0, "2024.02.30", "\t"), "row 5, column DATE: '2024.02.30'"),
    "no such hour": (field(5, 1, "24:00:00", "\t"), "row 5, column TIME: '24:00:00'"),
    "time with a zone": (field(5, 1, "10:00:00+02:00", "\t"), "row 5, column TIME: '10:00:00"),
    "another clock": (lambda lines: _shifted_days(lines), "row 2: bars at the weekend of the server clock"),
    "duplicated bar": (twice(20), "row 21: duplicated bar"),
    "unordered bars": (swapped(20), "row 21: bar out of order"),
    "newest first": (lambda lines: [lines[0], *lines[:0:-1]], "row 3: bar out of order"),
    "prices not above 0": (
        lambda lines: field(9, 4, "-1.1", "\t")(field(8, 5, "0.0", "\t")(lines)),
        r"row 8, column <CLOSE>: price 0 is not above 0, and 1\.7% of the rows",
    ),
    "no row": (lambda lines: lines[:1], "the file has no row"),
    "empty": (lambda lines: [""], "the file is empty"),
}


def _without(line: str, column: int, separator: str) -> str:
    fields = line.split(separator)
    return separator.join(fields[:column] + fields[column + 1 :])


def _shifted_days(lines: Lines) -> Lines:
    # The week begins on Monday 4 March of the server: three days earlier most of it is a weekend.
    days = {f"2024.03.{day:02d}": f"2024.03.{day - 2:02d}" for day in range(4, 9)}
    return [lines[0], *(days[line[:10]] + line[10:] for line in lines[1:])]


@pytest.mark.parametrize("fault", MT5_FAULTS)
def test_mt5_export_names_the_place_and_the_mend(fault: str, tmp_path: Path) -> None:
    mutate, message = MT5_FAULTS[fault]
    write(tmp_path / MT5, mutate(h1_lines()))
    with pytest.raises(SourceError, match=message) as caught:
        read_mt5(tmp_path)
    assert str(tmp_path / MT5) in str(caught.value)
    assert caught.value.mend
    assert "\n" not in str(caught.value)


def test_the_same_lines_without_a_fault_are_read(tmp_path: Path) -> None:
    write(tmp_path / MT5, h1_lines())
    read_mt5(tmp_path)


def test_the_row_counts_lines_of_the_file_also_after_blank_ones(tmp_path: Path) -> None:
    lines = h1_lines()
    write(tmp_path / MT5, twice(20)([*lines[:10], "", *lines[10:]]))
    with pytest.raises(SourceError, match="row 21: duplicated bar"):
        read_mt5(tmp_path)


HISTDATA_FAULTS: dict[str, tuple[str, Callable[[], Lines], Mutation, str]] = {
    "tick is text": (TICKS, tick_lines, field(5, 1, "x", ","), "row 5, column bid: 'x' is not a finite number"),
    "tick without ask": (
        TICKS,
        tick_lines,
        lambda lines: [*lines[:4], _without(lines[4], 2, ","), *lines[5:]],
        "row 5",
    ),
    "tick separator": (
        TICKS,
        tick_lines,
        lambda lines: [line.replace(",", ";") for line in lines],
        "row 1: wrong separator, semicolon instead of comma",
    ),
    "ticks newest first": (TICKS, tick_lines, lambda lines: lines[::-1], "row 2: tick out of order, as 100.0%"),
    "ticks at no price": (
        TICKS,
        tick_lines,
        lambda lines: [_set(line, 2, "0") for line in lines],
        "row 1, column ask: price 0",
    ),
    "ticks of two clocks": (TICKS, tick_lines, field(9, 0, "20240304 000001000Z", ","), "row 9, column time: '2024"),
    "M1 duplicated": (M1, m1_lines, twice(30), "row 31: duplicated bar"),
    "M1 unordered": (M1, m1_lines, swapped(30), "row 31: bar out of order"),
    "M1 price": (
        M1,
        m1_lines,
        lambda lines: [_set(line, 1, "-1", ";") for line in lines],
        "row 1, column open: price -1",
    ),
    "M1 separator": (M1, m1_lines, lambda lines: [line.replace(";", ",") for line in lines], "row 1: wrong separator"),
    "M1 cut off": (M1, m1_lines, lambda lines: [*lines[:-1], lines[-1][:18]], r"row \d+: 2 columns, expected 6"),
    "empty": (M1, m1_lines, lambda lines: [""], "the file is empty"),
}


def _set(line: str, column: int, value: str, separator: str = ",") -> str:
    fields = line.split(separator)
    fields[column] = value
    return separator.join(fields)


@pytest.mark.parametrize("fault", HISTDATA_FAULTS)
def test_histdata_names_the_place_and_the_mend(fault: str, tmp_path: Path) -> None:
    name, lines, mutate, message = HISTDATA_FAULTS[fault]
    write(tmp_path / name, mutate(lines()))
    with pytest.raises(SourceError, match=message) as caught:
        read_histdata(tmp_path)
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.mend


PAIR_FAULTS: dict[str, tuple[Mutation, str]] = {
    "mixed time zones": (replaced(8, "+00:00", "+02:00"), "row 8, column timestamp: .* mixed time zones"),
    "a zone is missing": (replaced(8, "+00:00", ""), "row 8, column timestamp: .* mixed time zones"),
    "missing column": (lambda lines: [_without(line, 3, ",") for line in lines], "row 1: column low is missing"),
    "wrong separator": (lambda lines: [line.replace(",", ";") for line in lines], "row 1: wrong separator"),
    "sides differ": (lambda lines: lines[:-1], "do not have the same bars, first at 2024-03-05T10:49:00 UTC"),
    "duplicated": (twice(9), "row 10: duplicated bar"),
}


@pytest.mark.parametrize("fault", PAIR_FAULTS)
def test_a_pair_of_sides_names_the_place_and_the_mend(fault: str, tmp_path: Path) -> None:
    mutate, message = PAIR_FAULTS[fault]
    write(tmp_path / "EURUSD_M1_2024-03_ask.csv", side_lines(0.0001))
    write(tmp_path / "EURUSD_M1_2024-03_bid.csv", mutate(side_lines()))
    with pytest.raises(SourceError, match=message) as caught:
        read_histdata(tmp_path)
    assert "EURUSD_M1_2024-03_bid.csv" in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize("alone", ["bid", "ask"])
def test_a_side_without_the_other_is_refused(alone: str, tmp_path: Path) -> None:
    write(tmp_path / f"EURUSD_M1_2024-03_{alone}.csv", side_lines())
    with pytest.raises(
        SourceError, match=rf"{alone}\.csv: the (ask|bid) side EURUSD_M1_2024-03_(ask|bid)\.csv is missing"
    ):
        open_histdata(tmp_path)


@pytest.mark.parametrize("open_it", [Mt5ExportSource, open_histdata])
def test_the_folder_is_missing_empty_or_a_file(open_it: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="missing is missing"):
        open_it(tmp_path / "missing")
    with pytest.raises(SourceError, match="holds no data file"):
        open_it(tmp_path)
    (tmp_path / "README.txt").write_text("not data")
    (tmp_path / ".hidden.csv").write_text("not data")
    with pytest.raises(SourceError, match="holds no data file"):
        open_it(tmp_path)
    with pytest.raises(SourceError, match=r"README\.txt is a file"):
        open_it(tmp_path / "README.txt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EURUSD_H2.csv", "unknown timeframe 'H2'"),
        ("NONSENSE_H1.csv", "unknown symbol 'NONSENSE'"),
        ("a'b_H1.csv", "unknown symbol"),
        ("EURUSD.csv", "the name says no symbol and timeframe"),
    ],
)
def test_a_file_name_of_mt5_export_must_say_symbol_and_timeframe(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / name, h1_lines())
    with pytest.raises(SourceError, match=message) as caught:
        Mt5ExportSource(tmp_path)
    assert name in str(caught.value)
    assert caught.value.mend


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("DAT_ASCII_NONSENSE_T_202403.csv", "unknown symbol 'NONSENSE'"),
        ("EURUSD.csv", "the name is none of HistData's"),
    ],
)
def test_a_file_name_of_histdata_must_be_one(name: str, message: str, tmp_path: Path) -> None:
    write(tmp_path / name, tick_lines())
    with pytest.raises(SourceError, match=message) as caught:
        open_histdata(tmp_path)
    assert name in str(caught.value)


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_gzip_is_refused(kept: float, tmp_path: Path) -> None:
    packed = gzip.compress("\n".join(h1_lines()).encode())
    (tmp_path / "EURUSD_H1.csv.gz").write_bytes(packed[: int(len(packed) * kept)])
    with pytest.raises(SourceError, match=r"EURUSD_H1.csv.gz: the compressed file is cut off or corrupt"):
        read_mt5(tmp_path)


def test_a_file_that_is_no_gzip_or_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "EURUSD_H1.csv.gz").write_bytes(b"plain text")
    with pytest.raises(SourceError, match="cut off or corrupt"):
        read_mt5(tmp_path)
    (tmp_path / "HISTDATA_COM_ASCII_EURUSD_T202403.zip").write_bytes(b"plain text")
    (tmp_path / "EURUSD_H1.csv.gz").unlink()
    with pytest.raises(SourceError, match="cut off or corrupt"):
        read_histdata(tmp_path)


def test_files_that_overlap_are_refused(tmp_path: Path) -> None:
    lines = h1_lines()
    write(tmp_path / "EURUSD_H1_202403040000_202403060000.csv", lines[:60])
    write(tmp_path / "EURUSD_H1_202403060000_202403080000.csv", [lines[0], *lines[50:]])
    with pytest.raises(SourceError, match=r"overlap with those of EURUSD_H1_202403060000_202403080000.csv"):
        read_mt5(tmp_path)


def test_the_sample_is_checked_like_any_file(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", ["Time,Open,High,Low,Close,Volume", "01.01.2017 22:00:00.000,1,1,1,oops,1"])
    source = SampleSource(path)
    with pytest.raises(SourceError, match=r"x.csv: row 2, column Close: 'oops'"):
        source.span("EURUSD")


def test_a_single_impossible_price_goes_to_quarantine_as_a_row(tmp_path: Path) -> None:
    lines = h1_lines()
    write(tmp_path / MT5, field(9, 4, "0.0", "\t")(lines))
    source = Mt5ExportSource(tmp_path)
    bars = all_bars(source, "EURUSD")
    assert len(bars) == len(lines) - 1
    sorted_out = split_bars(bars, Timeframe.H1, instrument("EURUSD"), ValidationSettings())
    assert sorted_out.bad["reason"].tolist() == ["non_positive"]


def test_single_late_doubled_and_impossible_ticks_go_to_quarantine_as_rows(tmp_path: Path) -> None:
    lines = twice(300)(swapped(200)(field(100, 2, "0", ",")(tick_lines())))
    write(tmp_path / TICKS, lines)
    source = open_histdata(tmp_path)
    ticks = source.ticks("EURUSD", *source.span("EURUSD"))
    assert len(ticks) == len(lines)
    sorted_out = split_ticks(ticks, instrument("EURUSD"), ValidationSettings())
    assert sorted(sorted_out.bad["reason"]) == ["duplicate", "non_positive", "order"]
