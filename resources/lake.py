"""The lake: tables as immutable Parquet files under any fsspec URL, queried with DuckDB.

``<url>/<table>/symbol=EURUSD/timeframe=H1/month=2017-01/data.parquet``. A file is written aside and renamed, so that a
reader sees the old one or the new one, never half of either, and any number of processes may write different files.
"""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from fx_dagster.errors import LakeError
from fx_dagster.market.schemas import BAR_TYPES, LABEL_TYPES, TICK_TYPES, empty_frame
from fx_dagster.market.timeframes import DAY_NS, from_server

KEYS = ("symbol", "timeframe", "month")
"""Partition keys, in the order of the folders."""

FILE = "data.parquet"
_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]{0,63}$")
_VALUE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._#-]{0,28}$")
_MONTH_MARGIN_NS = 40 * DAY_NS
"""A row belongs to the month in which it became known: up to a month, and a weekend, after its ``time``."""

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

    def write(
        self, table: str, frame: pd.DataFrame, *, metadata: Mapping[str, str] | None = None, **keys: str
    ) -> str:
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
        content = pa.Table.from_pandas(frame, preserve_index=False)
        kept = {**(content.schema.metadata or {}), **{f"fx.{k}": v for k, v in (metadata or {}).items()}}
        aside = f"{path.rsplit('/', 1)[0]}/.{uuid.uuid4().hex}.tmp"
        try:
            self._fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
            with self._fs.open(aside, "wb") as file:
                pq.write_table(content.replace_schema_metadata(kept), file, compression="zstd")
            self._replace(aside, path)
        except (OSError, pa.ArrowException) as error:
            self._discard(aside)
            reason = getattr(error, "strerror", None) or str(error)
            raise LakeError(
                f"{path}: cannot be written ({reason})", mend="free disk space or check the folder's permissions"
            ) from error
        return path

    def _replace(self, aside: str, path: str) -> None:
        if _is_local(self._fs):
            os.replace(aside, path)  # noqa: PTH105 - both are text paths of one file system
        else:
            self._fs.mv(aside, path)

    def _discard(self, aside: str) -> None:
        if self._fs.exists(aside):
            self._fs.rm(aside)

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

        A table or symbol without files gives an empty frame; of the known tables, with its columns.

        Raises:
            LakeError: a file is corrupt; the message names it.
        """
        wanted = {"symbol": symbol, "timeframe": timeframe}
        paths = [path for path, keys in self._files(table) if _matches(keys, wanted) and _may_hold(keys, start, end)]
        parts = [frame for path in paths if len(frame := self._read_file(path, columns))]
        if not parts:
            return self._empty(table, paths, columns)
        whole = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        if "time" not in whole:
            return whole
        time = whole["time"].to_numpy()
        inside = np.ones(len(time), dtype=bool)
        if start is not None:
            inside &= time >= start
        if end is not None:
            inside &= time < end
        chosen = whole if inside.all() else whole[inside]
        return chosen.sort_values("time", kind="stable", ignore_index=True)

    def _read_file(self, path: str, columns: Sequence[str] | None) -> pd.DataFrame:
        try:
            with self._fs.open(path, "rb") as file:
                return pq.read_table(file, columns=list(columns) if columns else None).to_pandas()
        except (OSError, pa.ArrowException, ValueError, EOFError) as error:
            raise _corrupt(path, error) from error

    def _empty(self, table: str, paths: Sequence[str], columns: Sequence[str] | None) -> pd.DataFrame:
        if paths:
            return self._read_file(paths[-1], columns)
        types = _KNOWN_TYPES.get(table, {"time": "int64"})
        return empty_frame({name: types.get(name, "float64") for name in (columns or types)})

    def metadata(self, table: str, **keys: str) -> dict[str, str]:
        """Return the texts kept in one file.

        Raises:
            LakeError: the file is missing or corrupt.
        """
        path = self._path(table, keys)
        try:
            with self._fs.open(path, "rb") as file:
                found = pq.read_metadata(file).metadata or {}
        except FileNotFoundError as error:
            raise LakeError(f"{path}: no such file", mend=f"materialise {table} for it first") from error
        except (OSError, pa.ArrowException) as error:
            raise _corrupt(path, error) from error
        texts = {name.decode(): text.decode() for name, text in found.items() if name.startswith(b"fx.")}
        return {name.removeprefix("fx."): text for name, text in texts.items()}

    def rows(self, table: str, **keys: str) -> int:
        """Return the number of rows of one file, without reading them.

        Raises:
            LakeError: the file is missing or corrupt.
        """
        path = self._path(table, keys)
        try:
            with self._fs.open(path, "rb") as file:
                return int(pq.read_metadata(file).num_rows)
        except FileNotFoundError as error:
            raise LakeError(f"{path}: no such file", mend=f"materialise {table} for it first") from error
        except (OSError, pa.ArrowException) as error:
            raise _corrupt(path, error) from error

    def keys(self, table: str) -> list[dict[str, str]]:
        """Return the keys of every file of a table, sorted."""
        return [keys for _, keys in self._files(table)]

    def delete(self, table: str, **keys: str) -> None:
        """Delete the files whose keys match; no files is no error."""
        _check(table, keys)
        for path, found in self._files(table):
            if _matches(found, keys):
                self._fs.rm(path)

    def tables(self) -> list[str]:
        """Return the names of the tables that have files."""
        if not self._fs.exists(self._root):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in self._fs.ls(self._root, detail=False))
        return sorted(name for name in names if _NAME.match(name) and self._files(name))

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Run SQL with every table as a view; the keys are columns of it.

        Args:
            sql: DuckDB's SQL; values from outside go into ``$name`` parameters, never into the text.
            parameters: values of the parameters.

        Raises:
            LakeError: the SQL is wrong or a file is corrupt.
        """
        with duckdb.connect() as connection:
            if not _is_local(self._fs):
                connection.register_filesystem(self._fs)
            try:
                for table in self.tables():
                    connection.execute(self._view(table))
                return connection.execute(sql, dict(parameters or {})).df()
            except duckdb.Error as error:
                raise LakeError(
                    f"query on the lake {self._root}: {error}", mend="check the SQL, and the file where one is named"
                ) from error

    def _view(self, table: str) -> str:
        prefix = "" if _is_local(self._fs) else f"{_protocol(self._fs)}://"
        paths = ", ".join("'" + (prefix + path).replace("'", "''") + "'" for path, _ in self._files(table))
        return (
            f'CREATE VIEW "{table}" AS SELECT * FROM read_parquet([{paths}], '  # noqa: S608 - names are allow-listed
            "hive_partitioning = true, union_by_name = true, hive_types_autocast = false)"
        )

    def _files(self, table: str) -> list[tuple[str, dict[str, str]]]:
        _check(table, {})
        folder = f"{self._root}/{table}"
        self._fs.invalidate_cache()
        if not self._fs.exists(folder):
            return []
        paths = sorted(str(path) for path in self._fs.find(folder) if str(path).endswith(f"/{FILE}"))
        return [(path, _keys_of(path)) for path in paths]

    def _path(self, table: str, keys: Mapping[str, str]) -> str:
        _check(table, keys)
        folders = [f"{name}={keys[name]}" for name in KEYS if name in keys]
        return "/".join([self._root, table, *folders, FILE])


def _check(table: str, keys: Mapping[str, str]) -> None:
    if not _NAME.match(table):
        raise LakeError(f"impossible table name {table!r}", mend="letters, digits and _, a letter first")
    for name, value in keys.items():
        if name not in KEYS or not _VALUE.match(value) or ".." in value:
            raise LakeError(
                f"impossible key {name}={value!r} of table {table}",
                mend=f"keys are {', '.join(KEYS)}; values are letters, digits and . _ # -, at most 29",
            )


def _keys_of(path: str) -> dict[str, str]:
    parts = (part.partition("=") for part in path.split("/"))
    return {name: value for name, equals, value in parts if equals and name in KEYS}



def _matches(keys: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    return all(value is None or keys.get(name) == value for name, value in wanted.items())


def _may_hold(keys: Mapping[str, str], start: int | None, end: int | None) -> bool:
    """Whether a file's month can hold rows of the range; a file without a month can."""
    if "month" not in keys:
        return True
    first = np.datetime64(keys["month"], "M")
    edges = from_server(np.array([first, first + 1]).astype("datetime64[ns]").astype(np.int64))
    return (start is None or int(edges[1]) > start) and (end is None or int(edges[0]) - _MONTH_MARGIN_NS < end)


def _corrupt(path: str, error: Exception) -> LakeError:
    return LakeError(f"{path}: not a readable Parquet file ({error})", mend="delete it and materialise it again")


def _protocol(fs: Any) -> str:
    return fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]


def _is_local(fs: Any) -> bool:
    return _protocol(fs) in ("file", "local")
