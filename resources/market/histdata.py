"""HistData's files: ticks, M1 bars, and M1 bars of both sides.

=====================  ==============================================  ===============================  ============
what                   file name (``.csv``, ``.csv.gz`` or ``.zip``)   rows                             clock
=====================  ==============================================  ===============================  ============
ticks                  ``DAT_ASCII_EURUSD_T_202001``,                  ``YYYYMMDD HHMMSSmmm,bid,ask,    New York, no
                       ``HISTDATA_COM_ASCII_EURUSD_T202001``,          volume``, no header              daylight
                       ``EURUSD_2020-01-01_histdata``                                                   saving (UTC-5)
M1                     ``DAT_ASCII_EURUSD_M1_2019``,                   ``YYYYMMDD HHMMSS;open;high;     UTC-5
                       ``HISTDATA_COM_ASCII_EURUSD_M1_2019``           low;close;volume``, bid
M1 of bid and ask      ``GBPUSD_M1_2012-02_bid``, ``…_ask``            ``timestamp,open,high,low,       UTC, or the
                                                                       close`` with a header            zone written
=====================  ==============================================  ===============================  ============

A folder is either a tick source or a bar source, whichever most of its symbols are (ticks in a tie); the others are
left out, and named. A symbol with a pair of sides and plain M1 is read from the pair, which has real spreads: those of
a bar are the mean of what lies between the sides at open, high, low and close. HistData counts no volume: a bar stands
for the four ticks that are modelled from it.

Refused, with file, row and column: see :mod:`fx_dagster.market.source`. Duplicated or unordered bars are refused;
ticks that are duplicated, out of order or not above 0 are handed on for quarantine, unless more than one in a hundred
is (out of order, or not above 0): then the file as a whole is not believed.
"""

import re
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError, UnknownSymbolError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import TickFlag, empty_ticks, tick_frame
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import HOUR_NS, MINUTE_NS, Int64, Timeframe
from resources.market.bar_source import (
    UNKNOWN_TICK_VOLUME,
    BarSource,
    FrameCache,
    bar_frame,
    refuse_bad_prices,
    refuse_disorder,
    rows_between,
    span_of_bars,
)
from resources.market.file_series import FileSeries, Part
from resources.market.files import Layout, list_files, parse_rows, read_file, read_first_lines, row_of
from resources.market.mt5_export import resolve_symbol
from resources.market.selection import refuse_unknown

NEW_YORK_STANDARD_NS = -5 * HOUR_NS
BAD_SHARE_MAX = 0.01

_ENDING = r"\.(?:csv|csv\.gz|zip)"
_NAMES = (
    re.compile(
        rf"(?:DAT|HISTDATA_COM)_ASCII_(?P<symbol>[A-Za-z0-9]+)_(?P<kind>T|M1)_?\d{{4,6}}{_ENDING}", re.IGNORECASE
    ),
    re.compile(rf"(?P<symbol>[A-Za-z0-9.#]+)_\d{{4}}-\d{{2}}(?:-\d{{2}})?_(?P<kind>histdata){_ENDING}", re.IGNORECASE),
    re.compile(rf"(?P<symbol>[A-Za-z0-9.#]+)_M1_[\d-]+_(?P<kind>bid|ask){_ENDING}", re.IGNORECASE),
)
_TICKS = Layout(",", ("time", "bid", "ask", "volume"), 0, {"time": "YYYYMMDD hhmmssfff"}, ("bid", "ask", "volume"))
_PRICES = ("open", "high", "low", "close")
_M1 = Layout(";", ("time", *_PRICES, "volume"), 0, {"time": "YYYYMMDD hhmmss"}, (*_PRICES, "volume"))
_ZONE = re.compile(r"Z|[+-]\d{2}:?\d{2}|")

Loader = Callable[[Path], pd.DataFrame]


def open_histdata(folder: Path, *, symbols: tuple[str, ...] = ()) -> MarketSource:
    """Return the folder as a tick source or a bar source, whichever most of its symbols are.

    Args:
        folder: where the files are.
        symbols: canonical symbols wanted; empty: all.

    Raises:
        SourceError: the folder is missing or empty, a file's name says nothing known, or a side of a pair is missing.
        UnknownSymbolError: none of the wanted symbols is there.
    """
    found = _find(folder)
    left_out = {symbol: "not asked for" for symbol in found if symbols and symbol not in symbols}
    wanted = {symbol: kinds for symbol, kinds in found.items() if symbol not in left_out}
    if not wanted:
        raise UnknownSymbolError(
            f"folder {folder} has no file of {', '.join(symbols)}", mend=f"it has {', '.join(sorted(found))}"
        )
    ticking = [symbol for symbol, kinds in wanted.items() if "ticks" in kinds]
    barred = [symbol for symbol, kinds in wanted.items() if "m1" in kinds or "pair" in kinds]
    if len(ticking) >= len(barred):
        left_out |= {s: "has only M1 bars while most symbols have ticks" for s in barred if s not in ticking}
        return HistdataTickSource({symbol: wanted[symbol]["ticks"] for symbol in ticking}, left_out)
    left_out |= {s: "has only ticks while most symbols have M1 bars" for s in ticking if s not in barred}
    return HistdataBarSource({symbol: wanted[symbol] for symbol in barred}, left_out)


def _find(folder: Path) -> dict[str, dict[str, list[Path]]]:
    found: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in list_files(folder, (".csv", ".csv.gz", ".zip")):
        match = next((match for name in _NAMES if (match := name.fullmatch(path.name))), None)
        if match is None:
            raise SourceError(
                f"{path}: the name is none of HistData's",
                mend="keep HistData's own name, as DAT_ASCII_EURUSD_T_202001.csv, or take the file out of the folder",
            )
        kind = match["kind"].lower()
        group = {"t": "ticks", "histdata": "ticks", "m1": "m1", "bid": "pair", "ask": "ask"}[kind]
        found[resolve_symbol(path, match["symbol"])][group].append(path)
    for kinds in found.values():
        _refuse_single_sides(kinds.get("pair", []), kinds.pop("ask", []))
    return {symbol: dict(kinds) for symbol, kinds in sorted(found.items())}


def _refuse_single_sides(bids: list[Path], asks: list[Path]) -> None:
    expected = {_other_side(path) for path in bids}
    for path in asks:
        if path.name not in expected:
            raise SourceError(
                f"{path}: the bid side {_other_side(path)} is missing", mend="put both sides in the folder"
            )
    for path in bids:
        if not path.with_name(_other_side(path)).is_file():
            raise SourceError(
                f"{path}: the ask side {_other_side(path)} is missing", mend="put both sides in the folder"
            )


def _other_side(path: Path) -> str:
    stem, side, ending = re.split(r"(bid|ask)(?=\.[^_]*$)", path.name, maxsplit=1, flags=re.IGNORECASE)
    other = {"bid": "ask", "ask": "bid", "BID": "ASK", "ASK": "BID"}.get(side, side)
    return f"{stem}{other}{ending}"


class HistdataTickSource:
    """HistData's ticks; implements ``MarketSource``.

    Args:
        files: canonical symbol → its tick files, in any order.
        left_out: what the folder holds besides, with the reason.
    """

    name = "histdata"
    has_ticks = True

    def __init__(self, files: dict[str, list[Path]], left_out: dict[str, str] | None = None) -> None:
        cache = FrameCache()
        self._left_out = dict(left_out or {})
        self._series = {
            symbol: _series(paths, _first_tick, read_ticks, cache) for symbol, paths in sorted(files.items())
        }

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that have tick files, sorted."""
        return tuple(self._series)

    def left_out(self) -> dict[str, str]:
        """Return the symbols of the folder that are not used, with the reason."""
        return dict(self._left_out)

    def base_timeframe(self) -> Timeframe:
        """Return M1: there are ticks."""
        return Timeframe.M1

    def span(self, symbol: str) -> tuple[int, int]:
        """Return ``[first tick's minute, end of the last tick's minute)`` in ns UTC."""
        self._refuse_unknown(symbol)
        first, last = self._series[symbol].edges()
        return first - first % MINUTE_NS, last - last % MINUTE_NS + MINUTE_NS

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return the raw TICKS with ``start <= time < end`` in the files' order."""
        self._refuse_unknown(symbol)
        return rows_between(self._series[symbol].load(start, end), start, end) if start < end else empty_ticks()

    def bars(self, symbol: str, start: int, end: int) -> pd.DataFrame | None:  # noqa: ARG002
        """Return None: there are ticks, and bars are built from them."""
        self._refuse_unknown(symbol)
        return None

    def _refuse_unknown(self, symbol: str) -> None:
        refuse_unknown(symbol, self.symbols(), self._left_out, self.name)


class HistdataBarSource(BarSource):
    """HistData's M1 bars, of the bid or of both sides.

    Args:
        files: canonical symbol → kind (``pair``: the bid sides; ``m1``) → files, in any order.
        left_out: what the folder holds besides, with the reason.
    """

    name = "histdata"

    def __init__(self, files: dict[str, dict[str, list[Path]]], left_out: dict[str, str] | None = None) -> None:
        self._left_out = dict(left_out or {})
        cache = FrameCache()
        self._series: dict[str, FileSeries] = {}
        for symbol, kinds in sorted(files.items()):
            if "pair" in kinds:
                point = instrument(symbol).point
                parts = [_pair_part(path, point) for path in kinds["pair"]]
                self._series[symbol] = FileSeries(parts, cache)
            else:
                self._series[symbol] = _series(kinds["m1"], _first_m1, read_m1, cache)

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols that have M1 files, sorted."""
        return tuple(self._series)

    def left_out(self) -> dict[str, str]:
        """Return the symbols of the folder that are not used, with the reason."""
        return dict(self._left_out)

    def base_timeframe(self) -> Timeframe:
        """Return M1."""
        return Timeframe.M1

    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        return self._series[symbol].load(start, end)

    def _span(self, symbol: str) -> tuple[int, int]:
        return span_of_bars(*self._series[symbol].edges(), Timeframe.M1)


def _series(paths: list[Path], first: Callable[[Path], int], load: Loader, cache: FrameCache) -> FileSeries:
    return FileSeries([Part(path, first(path), partial(load, path)) for path in paths], cache)


def _first_tick(path: Path) -> int:
    return _first_stamp(path, _TICKS)


def _first_m1(path: Path) -> int:
    return _first_stamp(path, _M1)


def _first_stamp(path: Path, layout: Layout) -> int:
    line = read_first_lines(path, 1)[0]
    rows = parse_rows(path, line.encode(), layout)
    return int(rows.stamps["time"][0]) - NEW_YORK_STANDARD_NS


def read_ticks(path: Path) -> pd.DataFrame:
    """Return the TICKS of one file, times in UTC, raw.

    Raises:
        SourceError: the file breaks its format, or is out of order or without prices as a whole.
    """
    data = read_file(path)
    rows = parse_rows(path, data, _TICKS)
    time = rows.stamps["time"]
    late = np.diff(time) < 0
    if late.size and late.mean() > BAD_SHARE_MAX:
        raise SourceError(
            f"{path}: row {row_of(data, 0, int(late.argmax()) + 1)}: tick out of order, "
            f"as {late.mean():.1%} of the rows are",
            mend="sort the file by time; single late ticks would be quarantined",
        )
    prices = rows.matrix(("bid", "ask"))
    refuse_bad_prices(str(path), ("bid", "ask"), prices, lambda index: row_of(data, 0, index), BAD_SHARE_MAX)
    flags = np.full(len(time), TickFlag.BID | TickFlag.ASK, dtype=np.int32)
    return tick_frame(time - NEW_YORK_STANDARD_NS, prices[:, 0], prices[:, 1], rows.numbers["volume"], flags)


def read_m1(path: Path) -> pd.DataFrame:
    """Return the BARS (bid) of one M1 file, times in UTC; ``spread`` is 0, since the file has none.

    Raises:
        SourceError: the file breaks its format.
    """
    data = read_file(path)
    rows = parse_rows(path, data, _M1)
    time = rows.stamps["time"]
    prices = rows.matrix(_PRICES)
    _refuse_bad_bars(path, data, 0, time, prices)
    volume = rows.numbers["volume"]
    counts = volume if volume.any() else np.full(len(volume), UNKNOWN_TICK_VOLUME)
    return bar_frame(time - NEW_YORK_STANDARD_NS, prices, counts, np.zeros(len(time)))


def _pair_part(bid: Path, point: float) -> Part:
    ask = bid.with_name(_other_side(bid))
    lines = read_first_lines(bid, 2)
    first = int(_side_rows(bid, "\n".join(lines).encode())[0][0])
    return Part(bid, first, lambda: read_pair(bid, ask, point), partner=ask)


def read_pair(bid: Path, ask: Path, point: float) -> pd.DataFrame:
    """Return the BARS (bid) of a pair of files, with the spread between its sides in points.

    Raises:
        SourceError: a file breaks its format, or the sides do not have the same bars.
    """
    time, prices = _read_side(bid)
    ask_time, ask_prices = _read_side(ask)
    if not np.array_equal(time, ask_time):
        alone = np.setxor1d(time, ask_time)[:1].astype("datetime64[ns]")
        raise SourceError(
            f"{bid} and {ask.name} do not have the same bars, first at {np.datetime_as_string(alone, unit='s')[0]} UTC",
            mend="export both sides again over the same days",
        )
    # A side's prices need not be of the same instants as the other's: all four together say most. What is still below
    # 0 is no spread, and goes to quarantine.
    spread = np.round((ask_prices - prices).mean(axis=1) / point, 3)
    return bar_frame(time, prices, np.full(len(time), UNKNOWN_TICK_VOLUME), spread)


def _read_side(path: Path) -> tuple[Int64, np.ndarray]:
    data = read_file(path)
    time, prices = _side_rows(path, data)
    _refuse_bad_bars(path, data, 1, time, prices)
    return time, prices


def _side_rows(path: Path, data: bytes) -> tuple[Int64, np.ndarray]:
    lines = data[:4096].decode("utf-8", errors="replace").splitlines()[:2]
    header = tuple(name.strip().lower() for name in lines[0].split(","))
    if len(header) == 1 and "open" in header[0]:
        raise SourceError(f"{path}: row 1: wrong separator", mend="save the file with commas between the columns")
    missing = [name for name in ("timestamp", *_PRICES) if name not in header]
    if missing:
        raise SourceError(
            f"{path}: row 1: column {missing[0]} is missing", mend="export the file again with its header"
        )
    stamp = lines[1].split(",")[header.index("timestamp")] if len(lines) > 1 else ""
    zone = stamp[19:] if _ZONE.fullmatch(stamp[19:]) else ""
    pattern = f"YYYY-MM-DD{stamp[10:11] or ' '}hh:mm:ss{zone}"
    rows = parse_rows(path, data, Layout(",", header, 1, {"timestamp": pattern}, _PRICES))
    return rows.stamps["timestamp"] - _offset_ns(zone), rows.matrix(_PRICES)


def _offset_ns(zone: str) -> int:
    if zone in {"", "Z"}:
        return 0
    digits = zone[1:].replace(":", "")
    offset = int(digits[:2]) * HOUR_NS + int(digits[2:]) * MINUTE_NS
    return -offset if zone.startswith("-") else offset


def _refuse_bad_bars(path: Path, data: bytes, header_lines: int, time: Int64, prices: np.ndarray) -> None:
    def line(index: int) -> int:
        return row_of(data, header_lines, index)

    refuse_disorder(str(path), time, line)
    refuse_bad_prices(str(path), _PRICES, prices, line, BAD_SHARE_MAX)
