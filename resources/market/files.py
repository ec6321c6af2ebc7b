"""Reading delimited market data files strictly and fast.

The fast path is Arrow's CSV reader and vectorised time stamps. Whatever it does not accept is looked at again, line by
line, only to say exactly what is wrong and where: file, row (1-based line of the file, header included) and column.
Files may be plain, gzipped (``.gz``) or the one CSV inside a ``.zip``; UTF-8 or, as terminals save charts, UTF-16.
"""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv

from fx_dagster.errors import SourceError
from fx_dagster.market.timeframes import Int64
from resources.market.stamps import parse_stamps, stamp_fits

Float64 = NDArray[np.float64]

_MEND_ROW = "mend or remove the row, or export the file again"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_SEPARATORS = ("\t", ",", ";", "|", " ")
_SEPARATOR_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "bar", " ": "blank"}


@dataclass(frozen=True)
class Layout:
    """How the rows of a file look.

    Attributes:
        delimiter: one character.
        columns: names of all columns, in order.
        header_lines: lines before the first row.
        stamps: column → pattern of its time stamp (see :mod:`resources.market.stamps`).
        numbers: columns that must be finite numbers.
    """

    delimiter: str
    columns: tuple[str, ...]
    header_lines: int
    stamps: Mapping[str, str]
    numbers: tuple[str, ...]


class Rows(NamedTuple):
    """Parsed columns: time stamps as int64 ns of the file's own clock, numbers as float64."""

    stamps: dict[str, Int64]
    numbers: dict[str, Float64]

    def matrix(self, names: Sequence[str]) -> Float64:
        """Return number columns side by side, ``[n, len(names)]``."""
        return np.stack([self.numbers[name] for name in names], axis=1)


def list_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Return the files of ``folder`` whose names end in one of ``suffixes``, by name; hidden ones are passed over.

    Raises:
        SourceError: the folder is missing, is a file, or holds no such file.
    """
    if not folder.exists():
        raise SourceError(f"folder {folder} is missing", mend="set FX_SOURCE_PATH to the folder with the data files")
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file", mend="set FX_SOURCE_PATH to the folder that holds it")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.name.lower().endswith(tuple(suffixes))
    )
    if not found:
        raise SourceError(
            f"folder {folder} holds no data file", mend=f"put files there that end in {', '.join(suffixes)}"
        )
    return found


def read_file(path: Path) -> bytes:
    """Return the file's text, decompressed, as UTF-8 bytes.

    Raises:
        SourceError: it cannot be opened, is cut off, is not what its ending says, or is empty.
    """
    with _readable(path), _opened(path) as stream:
        data = _as_utf8(stream.read())
    if not data.strip():
        raise SourceError(f"{path}: the file is empty", mend="export it again, or remove it")
    return data


def read_first_lines(path: Path, count: int) -> list[str]:
    """Return the first ``count`` lines without reading the whole file.

    Raises:
        SourceError: as :func:`read_file`.
    """
    with _readable(path), _opened(path) as stream:
        head = stream.read(2)
        if head in _UTF16:
            data = _as_utf8(head + stream.read())
        else:
            data = _as_utf8(head + b"".join(stream.readline() for _ in range(count)))
    lines = data.decode("utf-8", errors="replace").splitlines()[:count]
    if not any(line.strip() for line in lines):
        raise SourceError(f"{path}: the file is empty", mend="export it again, or remove it")
    return lines


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    # A zip's head may also say that it is encrypted, or packed in a way that Python does not know: RuntimeError.
    except (EOFError, zlib.error, gzip.BadGzipFile, zipfile.BadZipFile, struct.error, RuntimeError) as error:
        raise SourceError(
            f"{path}: the compressed file is cut off or corrupt ({error})", mend="copy or download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: not a text file ({error})", mend="export it again as CSV") from error
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror or error})", mend="see to its rights") from error


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    name = path.name.lower()
    if name.endswith(".gz"):
        with gzip.open(path, "rb") as packed:
            yield packed  # type: ignore[misc]
    elif name.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.namelist() if member.lower().endswith(".csv")]
            if len(members) != 1:
                raise SourceError(
                    f"{path}: holds {len(members)} CSV files, expected one", mend="unpack it into the folder"
                )
            with archive.open(members[0]) as stream:
                yield stream
    else:
        with path.open("rb") as stream:
            yield stream


def _as_utf8(data: bytes) -> bytes:
    if data[:2] in _UTF16:
        return data.decode("utf-16").encode()
    return data.removeprefix(b"\xef\xbb\xbf")


def parse_rows(path: Path, data: bytes, layout: Layout) -> Rows:
    """Return the wanted columns.

    Raises:
        SourceError: no row, or one that does not parse; names row and column.
    """
    wanted = [*layout.stamps, *layout.numbers]
    types = {name: pa.string() if name in layout.stamps else pa.float64() for name in wanted}
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            csv.ReadOptions(use_threads=False, skip_rows=layout.header_lines, column_names=list(layout.columns)),
            csv.ParseOptions(delimiter=layout.delimiter, quote_char=False),
            csv.ConvertOptions(column_types=types, include_columns=wanted, null_values=[], check_utf8=True),
        )
    except pa.ArrowInvalid as error:
        if next(_rows(data, layout.header_lines), None) is None:
            raise SourceError(f"{path}: the file has no row", mend="export it again, or remove it") from None
        raise _fault(path, data, layout) or SourceError(f"{path}: {error}", mend=_MEND_ROW) from error
    if table.num_rows == 0:
        raise SourceError(f"{path}: the file has no row", mend="export it again, or remove it")
    rows = Rows({}, {})
    for name, pattern in layout.stamps.items():
        parsed = parse_stamps(table.column(name), pattern)
        if parsed is None:
            raise _fault(path, data, layout) or SourceError(f"{path}: column {name} does not parse", mend=_MEND_ROW)
        rows.stamps[name] = parsed
    for name in layout.numbers:
        values = table.column(name).to_numpy()
        if not np.isfinite(values).all():
            raise _fault(path, data, layout) or SourceError(f"{path}: column {name} does not parse", mend=_MEND_ROW)
        rows.numbers[name] = values
    return rows


def row_of(data: bytes, header_lines: int, index: int) -> int:
    """Return the 1-based line of the file on which the parsed row ``index`` stands; blank lines hold none."""
    for row, _ in _rows(data, header_lines):
        if index == 0:
            return row
        index -= 1
    raise IndexError(index)


def _rows(data: bytes, header_lines: int) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(data.splitlines(), start=1):
        if number > header_lines and raw:
            yield number, raw.decode("utf-8", errors="replace")


def _fault(path: Path, data: bytes, layout: Layout) -> SourceError | None:
    """Return the first fault in the rows, described; None if every row is as the layout says."""
    positions = {name: layout.columns.index(name) for name in (*layout.stamps, *layout.numbers)}
    checks = [(name, position, _check_of(name, layout)) for name, position in positions.items()]
    for row, line in _rows(data, layout.header_lines):
        fields = line.split(layout.delimiter)
        if len(fields) != len(layout.columns):
            return _wrong_width(path, row, line, layout)
        for name, position, fits in checks:
            if not fits(fields[position]):
                return _wrong_field(path, row, name, fields[position], layout)
    return None


def _check_of(name: str, layout: Layout) -> Callable[[str], bool]:
    return partial(stamp_fits, pattern=layout.stamps[name]) if name in layout.stamps else _is_number


def _wrong_field(path: Path, row: int, name: str, text: str, layout: Layout) -> SourceError:
    place = f"{path}: row {row}, column {name}: {text[:40]!r}"
    pattern = layout.stamps.get(name, "")
    kind = f"a time like {pattern}" if pattern else "a finite number"
    if len(pattern) > 10 and len(text) >= 10 and stamp_fits(text[:10], pattern[:10]) and _zone(text) != _zone(pattern):
        return SourceError(
            f"{place} is in another time zone than the rows before it: mixed time zones",
            mend="write every row of the file in one time zone",
        )
    return SourceError(f"{place} is not {kind}", mend=_MEND_ROW)


def _zone(text: str) -> str:
    return text[19:] if len(text) > 19 else ""


def _wrong_width(path: Path, row: int, line: str, layout: Layout) -> SourceError:
    width = len(layout.columns)
    for separator in _SEPARATORS:
        if separator != layout.delimiter and len(line.split(separator)) == width:
            return SourceError(
                f"{path}: row {row}: wrong separator, {_SEPARATOR_NAMES[separator]} instead of "
                f"{_SEPARATOR_NAMES[layout.delimiter]}",
                mend=f"save the file with {_SEPARATOR_NAMES[layout.delimiter]} between the columns",
            )
    found = len(line.split(layout.delimiter))
    missing = f", column {layout.columns[found]} is missing" if found < width else ""
    return SourceError(f"{path}: row {row}: {found} columns, expected {width}{missing}", mend=_MEND_ROW)


def _is_number(text: str) -> bool:
    try:
        return bool(np.isfinite(float(text)))
    except ValueError:
        return False
