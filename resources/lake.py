"""The lake: tables as immutable Parquet files under any fsspec URL, queried with DuckDB.

``<url>/<table>/symbol=EURUSD/timeframe=H1/month=2017-01/data.parquet``. A file appears as a whole: it is written aside
and renamed or, on an object store, put in one request. A reader sees the old one or the new one, never half of either,
and any number of processes may write different files at once; of two that write the same file, the last one wins.

The lake holds what can be computed again, so that files are not forced to the disk one by one: after a power cut a
file may be damaged, which page checksums show, and is materialised again.
"""

import io
import re
import time as clock
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fx_dagster.errors import LakeError
from fx_dagster.market.schemas import BAR_TYPES, LABEL_TYPES, TICK_TYPES, empty_frame
from fx_dagster.market.timeframes import DAY_NS, trading_month_window

KEYS = ("symbol", "timeframe", "month")
"""Partition keys, in the order of the folders."""

FILE = "data.parquet"
ASIDE = ".aside"
ASIDE_HOURS_MAX = 24.0
"""Older files aside belong to a writer that was killed."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_VALUES = {
    "symbol": re.compile(r"(?!.*\.\.)[A-Za-z0-9#_][A-Za-z0-9._#+-]{0,28}"),
    "timeframe": re.compile(r"[A-Z]{1,2}[0-9]{1,2}"),
    "month": re.compile(r"[0-9]{4}-(0[1-9]|1[0-2])"),
}
_METADATA_PREFIX = "fx."
_UNREADABLE = (
    OSError, pa.ArrowException, EOFError,
    # What pandas has written about its types into the file is JSON, and may be none any more.
    ValueError, KeyError, TypeError, AttributeError, OverflowError,
)  # fmt: skip
"""What reading a corrupt file raises."""
_MONTH_MARGIN_NS = 40 * DAY_NS
"""A row belongs to the month in which it became known: up to a month, and a weekend, after its ``time``."""

_OBJECT_STORES = frozenset({"memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "r2"})
"""Protocols under which an object appears when its upload is complete, and a rename is a copy."""

_KNOWN_TYPES: Mapping[str, Mapping[str, str]] = {
    "ticks": TICK_TYPES,
    "bars": BAR_TYPES,
    "source_bars": BAR_TYPES,
    "labels": LABEL_TYPES,
}


class Lake:
    """Tables of one source.

    Args:
        url: an absolute folder or any fsspec URL.
    """

    def __init__(self, url: str) -> None:
        self._fs, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")
        self._protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        self._local = self._protocol in {"file", "local"}
        self._swept = False

    def write(self, table: str, frame: pd.DataFrame, *, metadata: Mapping[str, str] | None = None, **keys: str) -> str:
        """Write one file of a table, replacing it as a whole, and return its path.

        Args:
            table: the table's name.
            frame: rows, without the keys as columns.
            metadata: texts kept in the file.
            keys: any of ``symbol``, ``timeframe``, ``month`` (``YYYY-MM``).

        Raises:
            LakeError: a name is impossible, or the file cannot be written; nothing half-written is left.
        """
        path = self._path(table, keys)
        try:
            self._put(path, _encode(frame, metadata or {}))
        except (OSError, pa.ArrowException) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise LakeError(
                f"{path}: cannot be written ({reason})", mend="free disk space or check the folder's permissions"
            ) from error
        return path

    def _put(self, path: str, content: bytes) -> None:
        if self._protocol in _OBJECT_STORES:
            self._fs.pipe_file(path, content)
            return
        self._sweep()
        aside = f"{self._root}/{ASIDE}/{uuid.uuid4().hex}"
        self._fs.makedirs(f"{self._root}/{ASIDE}", exist_ok=True)
        self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        try:
            self._fs.pipe_file(aside, content)
            self._replace(aside, path)
        except BaseException:
            # Also when the run is cancelled: what is aside would only take space.
            if self._fs.exists(aside):
                self._fs.rm(aside)
            raise

    def _replace(self, aside: str, path: str) -> None:
        if self._local:
            Path(aside).replace(path)
        else:
            self._fs.mv(aside, path)

    def _sweep(self) -> None:
        """Once a lake object: remove what killed writers left aside."""
        if self._swept or not self._local:
            return
        self._swept = True
        oldest = clock.time() - ASIDE_HOURS_MAX * 3600
        for left in Path(self._root, ASIDE).glob("*"):
            try:
                if left.stat().st_mtime < oldest:
                    left.unlink()
            except FileNotFoundError:
                # Another process swept it, or its writer was only slow.
                continue

    def read(
        self,
        table: str,
        *,
        symbol: str | None = None,
        timeframe: str | None = None,
        start: int | None = None,
        end: int | None = None,
        columns: Sequence[str] | None = None,
    ) -> pd.DataFrame:
        """Read the rows of a table with ``start <= time < end`` (ns UTC), sorted by time.

        A table or symbol without files gives an empty frame; of the known tables, with its columns. A key may be asked
        for in ``columns``; without ``columns``, the symbol is added as the last one where it is a key left open.

        Raises:
            LakeError: a file is corrupt, or has no such column; the message names it.
        """
        wanted = {"symbol": symbol, "timeframe": timeframe}
        parts = []
        for path, keys in self._files(table, wanted):
            if _may_hold(keys, start, end):
                part = self._read_file(path, columns, keys)
                if columns is None and symbol is None and "symbol" in keys and "symbol" not in part:
                    part = part.assign(symbol=keys["symbol"])
                parts.append(_between(part, start, end, path))
        whole = _together(parts) if parts else _empty(table, columns)
        if "time" in whole and not whole["time"].is_monotonic_increasing:
            whole = whole.sort_values("time", kind="stable", ignore_index=True)
        return whole if columns is None else whole[list(columns)]

    def _read_file(self, path: str, columns: Sequence[str] | None, keys: Mapping[str, str]) -> pd.DataFrame:
        """Return the columns asked for, the keys among them, and the time to choose and sort by."""
        try:
            with self._fs.open(path, "rb") as file:
                content = pq.ParquetFile(file, page_checksum_verification=True)
                names = content.schema_arrow.names
                wanted = names if columns is None else [name for name in names if name == "time" or name in columns]
                frame = content.read(columns=wanted).to_pandas()
        except _UNREADABLE as error:
            _refuse(path, table="it", error=error)
        for name in columns or ():
            if name not in frame:
                if name not in keys:
                    raise LakeError(f"{path}: no column {name}", mend=f"columns are {', '.join(names)}")
                frame[name] = keys[name]
        return frame

    def metadata(self, table: str, **keys: str) -> dict[str, str]:
        """Return the texts kept in one file.

        Raises:
            LakeError: the file is missing or corrupt.
        """
        found = self._footer(table, keys).metadata or {}
        try:
            texts = {name.decode(): text.decode() for name, text in found.items()}
        except UnicodeDecodeError as error:
            _refuse(self._path(table, keys), table=table, error=error)
        return {k.removeprefix(_METADATA_PREFIX): v for k, v in texts.items() if k.startswith(_METADATA_PREFIX)}

    def rows(self, table: str, **keys: str) -> int:
        """Return the number of rows of one file, without reading them.

        Raises:
            LakeError: the file is missing or corrupt.
        """
        return int(self._footer(table, keys).num_rows)

    def _footer(self, table: str, keys: Mapping[str, str]) -> Any:
        path = self._path(table, keys)
        try:
            with self._fs.open(path, "rb") as file:
                return pq.read_metadata(file)
        except _UNREADABLE as error:
            _refuse(path, table=table, error=error)

    def keys(self, table: str) -> list[dict[str, str]]:
        """Return the keys of every file of a table, sorted."""
        return [keys for _, keys in self._files(table)]

    def delete(self, table: str, **keys: str) -> int:
        """Delete the files whose keys match and return how many; without keys, the whole table.

        Raises:
            LakeError: a file cannot be deleted.
        """
        files = self._files(table, keys)
        for path, _ in files:
            try:
                self._fs.rm(path)
            except FileNotFoundError:
                # Another process deleted it first: it is gone, as was asked.
                continue
            except OSError as error:
                raise LakeError(
                    f"{path}: cannot be deleted ({error})", mend="check the folder's permissions"
                ) from error
        return len(files)

    def tables(self) -> list[str]:
        """Return the names of the tables that have files, sorted."""
        self._fs.invalidate_cache()
        if not self._fs.exists(self._root or "/"):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._root or "/", detail=False))
        return sorted(name for name in names if _NAME.fullmatch(name) and self._files(name))

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Run one SELECT in which every table is a view; a table's keys are text columns of it.

        The query reads the lake and nothing else: no other file, no network, no extension.

        Args:
            sql: DuckDB's SQL; values from outside go into ``$name`` parameters, never into the text.
            parameters: values of the parameters.

        Raises:
            LakeError: the SQL is wrong or is no SELECT, or a file is corrupt.
        """
        words = set(re.findall(r"\w+", sql.lower()))
        tables = [table for table in self.tables() if table.lower() in words]
        try:
            with duckdb.connect() as connection:
                kinds = [statement.type for statement in connection.extract_statements(sql)]
                if kinds != [duckdb.StatementType.SELECT]:
                    raise LakeError("a query is one SELECT", mend="change the lake with write and delete")
                self._prepare(connection, tables)
                return connection.execute(sql, dict(parameters or {})).df()
        except duckdb.Error as error:
            raise LakeError(
                f"query on the lake {self._root}: {' '.join(str(error).split())}",
                mend="check the SQL, and the file where one is named",
            ) from error

    def _prepare(self, connection: Any, tables: Sequence[str]) -> None:
        if not self._local:
            connection.register_filesystem(self._fs)
        connection.execute("SET TimeZone = 'UTC'")
        for table in tables:
            paths = ", ".join(_literal(self._duckdb_name(path)) for path, _ in self._files(table))
            connection.execute(
                f'CREATE VIEW "{table}" AS SELECT * FROM read_parquet([{paths}], '  # noqa: S608 - allow-listed names
                "hive_partitioning = true, hive_types_autocast = false, union_by_name = true)"
            )
        # Checked both as the pattern that the view says and as the file that it finds.
        allowed = {self._duckdb_name(self._root), self._root if self._local else f"{self._protocol}://{self._root}"}
        connection.execute(f"SET allowed_directories = [{', '.join(_literal(name + '/') for name in sorted(allowed))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def _duckdb_name(self, path: str) -> str:
        # DuckDB takes a file's name for a pattern: the root may hold characters that mean something in one.
        name = re.sub(r"([*?\[])", r"[\1]", path)
        return name if self._local else f"{self._protocol}://{name}"

    def _files(self, table: str, wanted: Mapping[str, str | None] | None = None) -> list[tuple[str, dict[str, str]]]:
        given = {name: value for name, value in (wanted or {}).items() if value is not None}
        _check(table, given)
        root = f"{self._root}/{table}"
        self._fs.invalidate_cache()
        if not self._fs.exists(root):
            return []
        found = sorted(str(path) for path in self._fs.find(self._narrowest(root, given)))
        files = [(path, _keys_of(path[len(root) :])) for path in found if path.endswith(f"/{FILE}")]
        return [(path, keys) for path, keys in files if all(keys.get(name) == value for name, value in given.items())]

    def _narrowest(self, root: str, given: Mapping[str, str]) -> str:
        """Return the deepest folder that holds all files wanted: a known symbol saves listing all others."""
        folder = root
        for name in KEYS:
            deeper = f"{folder}/{name}={given.get(name)}"
            if name not in given or not self._fs.exists(deeper):
                break
            folder = deeper
        return folder

    def _path(self, table: str, keys: Mapping[str, str]) -> str:
        _check(table, keys)
        folders = [f"{name}={keys[name]}" for name in KEYS if name in keys]
        return "/".join([self._root, table, *folders, FILE])


def _encode(frame: pd.DataFrame, metadata: Mapping[str, str]) -> bytes:
    content = pa.Table.from_pandas(frame, preserve_index=False)
    ours = {f"{_METADATA_PREFIX}{name}".encode(): text.encode() for name, text in metadata.items()}
    buffer = io.BytesIO()
    pq.write_table(
        content.replace_schema_metadata({**(content.schema.metadata or {}), **ours}),
        buffer,
        compression="zstd",
        write_page_checksum=True,
    )
    return buffer.getvalue()


def _check(table: str, keys: Mapping[str, str]) -> None:
    if not _NAME.fullmatch(table):
        raise LakeError(f"impossible table name {table[:80]!r}", mend="letters, digits and _, a letter first")
    for name, value in keys.items():
        if name not in KEYS:
            raise LakeError(f"table {table}: no key {name[:80]!r}", mend=f"keys are {', '.join(KEYS)}")
        if not isinstance(value, str) or not _VALUES[name].fullmatch(value):
            raise LakeError(
                f"table {table}: impossible {name} {str(value)[:80]!r}",
                mend="a symbol has letters, digits and . _ # + -, at most 29; a timeframe reads H1, a month 2017-01",
            )


def _keys_of(path: str) -> dict[str, str]:
    parts = (part.partition("=") for part in path.split("/"))
    return {name: value for name, equals, value in parts if equals and name in KEYS}


def _may_hold(keys: Mapping[str, str], start: int | None, end: int | None) -> bool:
    """Whether a file's month can hold rows of the range; a file without a month can."""
    if "month" not in keys:
        return True
    first, last = trading_month_window(keys["month"])
    return (start is None or last > start) and (end is None or first - _MONTH_MARGIN_NS < end)


def _empty(table: str, columns: Sequence[str] | None) -> pd.DataFrame:
    types = {**dict.fromkeys(KEYS, "str"), **_KNOWN_TYPES.get(table, {"time": "int64"})}
    names = _KNOWN_TYPES.get(table, {"time": "int64"}) if columns is None else columns
    return empty_frame({name: types.get(name, "float64") for name in names})


def _between(frame: pd.DataFrame, start: int | None, end: int | None, path: str) -> pd.DataFrame:
    if start is None and end is None:
        return frame
    if "time" not in frame:
        raise LakeError(f"{path}: no column time to choose rows by", mend="read it without start and end")
    time = frame["time"].to_numpy()
    inside = np.ones(len(time), dtype=np.bool_)
    if start is not None:
        inside &= time >= start
    if end is not None:
        inside &= time < end
    return frame if inside.all() else frame[inside].reset_index(drop=True)


def _together(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    # Files without rows have columns without a type, which would change the type of the others.
    filled = [part for part in parts if len(part)]
    if len(filled) <= 1:
        return filled[0] if filled else parts[-1]
    return pd.concat(filled, ignore_index=True)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _refuse(path: str, *, table: str, error: Exception) -> NoReturn:
    if isinstance(error, FileNotFoundError):
        raise LakeError(f"{path}: no such file", mend=f"materialise {table} for it first") from error
    raise LakeError(
        f"{path}: not a readable Parquet file ({(str(error).splitlines() or [type(error).__name__])[0][:200]})",
        mend="delete it and materialise it again",
    ) from error
