"""Bars in the files that MetaTrader 5's History Center exports.

A folder of ``<SYMBOL>_<TIMEFRAME>.csv`` (also ``.csv.gz``, and with the ``_<from>_<to>`` that MetaTrader adds), tabs or
commas between the columns ``<DATE> <TIME> <OPEN> <HIGH> <LOW> <CLOSE> <TICKVOL> <VOL> <SPREAD>``; D1 and longer may
lack ``<TIME>``, and all may lack ``<VOL>`` and ``<SPREAD>``. Names of brokers (``EURUSD.m``, ``GOLD``) are resolved.
Prices are bids, times the opening on the broker's server clock (New York + 7 h), converted to UTC by zone rules; a file
with bars at the server's weekend is on another clock and refused. A spread of 0 means that the export has none: it is
modelled.

The base timeframe is the finest that more than half of the symbols have (else the one that most have). Files of other
timeframes are not read: longer bars are built from base bars, so that all agree. Symbols without a base file are left
out, and named.

Refused here, with file, row and column: see :mod:`fx_dagster.market.source`; for bars that includes any duplicated or
unordered row, since which of two bars is true cannot be known. Prices ≤ 0 are handed on for quarantine unless more than
one row in a hundred has one.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError, UnknownSymbolError
from fx_dagster.market.instruments import SymbolResolver, check_symbol
from fx_dagster.market.timeframes import DAY_NS, Int64, Timeframe, from_server
from resources.market.bar_source import (
    UNKNOWN_TICK_VOLUME,
    BarSource,
    FrameCache,
    bar_frame,
    refuse_bad_prices,
    refuse_disorder,
    span_of_bars,
)
from resources.market.file_series import FileSeries, Part
from resources.market.files import Layout, Rows, list_files, parse_rows, read_file, read_first_lines, row_of

BAD_PRICE_SHARE_MAX = 0.01
WEEKEND_SHARE_MAX = 0.01

_NAME = re.compile(r"(?P<symbol>.+?)_(?P<timeframe>[A-Za-z]+\d+)(?:_\d{8,14}_\d{8,14})?\.csv(?:\.gz)?", re.IGNORECASE)
_PRICES = ("OPEN", "HIGH", "LOW", "CLOSE")
_ALIASES = {"TICK_VOLUME": "TICKVOL", "TICKVOLUME": "TICKVOL", "REAL_VOLUME": "VOL"}
_MEND_HEADER = "export the bars again from MetaTrader's History Center (Symbols, Bars, Export)"


def resolve_symbol(path: Path, broker_name: str) -> str:
    """Return the canonical symbol of a broker's name in a file's name.

    Raises:
        SourceError: it is no symbol known.
    """
    try:
        resolver = SymbolResolver([check_symbol(broker_name)])
        return resolver.canonical(broker_name)
    except UnknownSymbolError:
        raise SourceError(
            f"{path}: unknown symbol {broker_name!r} in the file's name",
            mend="rename the file to the canonical symbol (as EURUSD, XAUUSD), or take it out of the folder",
        ) from None


class Mt5ExportSource(BarSource):
    """A folder of exported bars as a market source.

    Args:
        folder: where the files are.
        symbols: canonical symbols wanted, which alone decide the base timeframe; empty: all.

    Raises:
        SourceError: the folder is missing or empty, or a file's name says nothing that is known.
    """

    name = "mt5_export"

    def __init__(self, folder: Path, *, symbols: tuple[str, ...] = ()) -> None:
        self._folder = folder
        self._cache = FrameCache()
        self._series: dict[str, FileSeries] = {}
        found = _find(folder)
        self._left_out = {symbol: "not asked for" for symbol in found if symbols and symbol not in symbols}
        wanted = {symbol: files for symbol, files in found.items() if symbol not in self._left_out}
        if not wanted:
            raise UnknownSymbolError(
                f"folder {folder} has no file of {', '.join(symbols)}", mend=f"it has {', '.join(sorted(found))}"
            )
        self._base = _base_of(folder, wanted)
        for symbol, files in wanted.items():
            if self._base not in files:
                has = ", ".join(timeframe for timeframe in Timeframe if timeframe in files)
                self._left_out[symbol] = f"has only {has} while the base timeframe is {self._base}"
        self._files = {symbol: wanted[symbol][self._base] for symbol in sorted(wanted) if symbol not in self._left_out}

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that have a file of the base timeframe, sorted."""
        return tuple(self._files)

    def left_out(self) -> dict[str, str]:
        """Return the symbols of the folder that are not used, with the reason."""
        return dict(self._left_out)

    def base_timeframe(self) -> Timeframe:
        """Return the finest timeframe that most symbols have."""
        return self._base

    def _of(self, symbol: str) -> FileSeries:
        if symbol not in self._series:
            parts = [self._part(path) for path in self._files[symbol]]
            self._series[symbol] = FileSeries(parts, self._cache)
        return self._series[symbol]

    def _part(self, path: Path) -> Part:
        base = self._base
        return Part(path, _first_time(path, base), lambda: read_bars(path, base))

    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        return self._of(symbol).load(start, end)

    def _span(self, symbol: str) -> tuple[int, int]:
        return span_of_bars(*self._of(symbol).edges(), self._base)


def _find(folder: Path) -> dict[str, dict[Timeframe, list[Path]]]:
    found: dict[str, dict[Timeframe, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in list_files(folder, (".csv", ".csv.gz")):
        match = _NAME.fullmatch(path.name)
        if not match:
            raise SourceError(
                f"{path}: the name says no symbol and timeframe",
                mend="name it <SYMBOL>_<TIMEFRAME>.csv, as EURUSD_H1.csv",
            )
        try:
            timeframe = Timeframe.parse(match["timeframe"])
        except UnknownSymbolError as error:
            raise SourceError(f"{path}: {error.args[0]} in the file's name", mend=error.mend) from None
        found[resolve_symbol(path, match["symbol"])][timeframe].append(path)
    return {symbol: dict(files) for symbol, files in sorted(found.items())}


def _base_of(folder: Path, files: dict[str, dict[Timeframe, list[Path]]]) -> Timeframe:
    counts = Counter(timeframe for of_symbol in files.values() for timeframe in of_symbol)
    usable = [timeframe for timeframe in Timeframe if timeframe in counts and timeframe.nominal_ns <= DAY_NS]
    if not usable:
        raise SourceError(f"folder {folder} has only bars longer than a day", mend="export D1 or shorter bars")
    for timeframe in usable:
        if counts[timeframe] * 2 > len(files):
            return timeframe
    return max(usable, key=lambda timeframe: (counts[timeframe], -timeframe.nominal_ns))


def _layout(path: Path, lines: list[str], timeframe: Timeframe) -> Layout:
    """Return the layout that the header and the first row show."""
    header = lines[0].lstrip("\ufeff").strip()
    delimiter = "\t" if "\t" in header else ","
    columns = tuple(_column(name) for name in header.split(delimiter))
    if "OPEN" not in columns and re.search(r"open.*high", header, re.IGNORECASE):
        raise SourceError(
            f"{path}: row 1: wrong separator", mend="save the file with tabs or commas between the columns"
        )
    needed = ["DATE", *_PRICES, "TICKVOL"]
    if timeframe.nominal_ns < DAY_NS:
        needed.insert(1, "TIME")
    missing = [name for name in needed if name not in columns]
    if missing:
        raise SourceError(f"{path}: row 1: column <{missing[0]}> is missing", mend=_MEND_HEADER)
    stamps = {"DATE": "YYYY.MM.DD"}
    if "TIME" in columns:
        stamps["TIME"] = _time_pattern(lines, delimiter, columns.index("TIME"))
    numbers = (*_PRICES, "TICKVOL", *(("SPREAD",) if "SPREAD" in columns else ()))
    return Layout(delimiter, columns, 1, stamps, numbers)


def _column(text: str) -> str:
    name = text.strip().strip("<>").upper()
    return _ALIASES.get(name, name)


def _time_pattern(lines: list[str], delimiter: str, position: int) -> str:
    fields = lines[1].split(delimiter) if len(lines) > 1 else []
    return "hh:mm" if len(fields) > position and len(fields[position]) == 5 else "hh:mm:ss"


def _first_time(path: Path, timeframe: Timeframe) -> int:
    lines = read_first_lines(path, 2)
    layout = _layout(path, lines, timeframe)
    rows = parse_rows(path, "\n".join(lines).encode(), layout)
    return int(from_server(_server_time(rows))[0])


def _server_time(rows: Rows) -> Int64:
    return rows.stamps["DATE"] + rows.stamps["TIME"] if "TIME" in rows.stamps else rows.stamps["DATE"]


def read_bars(path: Path, timeframe: Timeframe) -> pd.DataFrame:
    """Return the BARS of one exported file, times in UTC; ``spread`` 0 where the export has none.

    Raises:
        SourceError: the file breaks its format; names row and column.
    """
    data = read_file(path)
    lines = data[:4096].decode("utf-8", errors="replace").splitlines()[:2]
    rows = parse_rows(path, data, _layout(path, lines, timeframe))
    server = _server_time(rows)

    def line(index: int) -> int:
        return row_of(data, 1, index)

    refuse_disorder(str(path), server, line)
    _refuse_other_clock(path, server, line)
    prices = rows.matrix(_PRICES)
    refuse_bad_prices(str(path), tuple(f"<{name}>" for name in _PRICES), prices, line, BAD_PRICE_SHARE_MAX)
    counts = rows.numbers["TICKVOL"]
    counts = counts if counts.any() else np.full(len(counts), UNKNOWN_TICK_VOLUME)
    return bar_frame(from_server(server), prices, counts, rows.numbers.get("SPREAD", np.zeros(len(server))))


def _refuse_other_clock(path: Path, server: Int64, line: Callable[[int], int]) -> None:
    # 1970-01-01 was a Thursday, so that Saturday and Sunday are days 2 and 3 of this count.
    weekend = np.isin(server // DAY_NS % 7, (2, 3))
    if weekend.mean() > WEEKEND_SHARE_MAX:
        raise SourceError(
            f"{path}: row {line(int(weekend.argmax()))}: bars at the weekend of the server clock: the file is "
            "in another time zone than New York + 7 h",
            mend="export from a server on that clock, or shift the file's times to it",
        )
