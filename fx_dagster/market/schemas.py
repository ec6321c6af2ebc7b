"""The tables of market data: columns, types and bounds, as pandera schemas.

Every time is int64 nanoseconds UTC. A schema states what holds *after* quarantine; rows are sorted out before, in
:mod:`fx_dagster.market.validation`.
"""

from enum import IntFlag

import numpy as np
import pandas as pd
import pandera.pandas as pa

from fx_dagster.errors import DataError


class TickFlag(IntFlag):
    """Bits of a tick's ``flags``: MetaTrader's own, and one of ours."""

    BID = 2
    ASK = 4
    LAST = 8
    VOLUME = 16
    BUY = 32
    SELL = 64
    MODELLED = 1 << 10
    """Modelled from a bar; the tick's ``volume`` is the number of real ticks it stands for."""
    IMPOSSIBLE = 1 << 11
    """Modelled from a bar whose prices contradict each other: nothing else would show it once the bar is ticks."""


TICK_TYPES = {"time": "int64", "bid": "float64", "ask": "float64", "volume": "float64", "flags": "int32"}
BAR_TYPES = {
    "time": "int64",
    "open": "float64",
    "high": "float64",
    "low": "float64",
    "close": "float64",
    "tick_volume": "float64",
    "spread": "float64",
}
LABEL_TYPES = {
    "time": "int64",
    "forward_return": "float64",
    "cost": "float64",
    "up": "int8",
    "barrier": "int8",
    "end_time": "int64",
}


class SchemaMismatchError(DataError):
    """A table does not have the columns, types or values that it promises.

    Attributes:
        failure_cases: one row a failure, with columns ``schema_context, column, check, failure_case, index``.
    """

    def __init__(self, message: str, failure_cases: pd.DataFrame) -> None:
        super().__init__(message, mend="see the failure cases; quarantine the rows or repair the source")
        self.failure_cases = failure_cases


def _finite() -> pa.Check:
    return pa.Check(lambda column: np.isfinite(column), name="finite", error="not finite")


def _positive_price() -> pa.Column:
    return pa.Column("float64", [pa.Check.gt(0), _finite()])


def _count() -> pa.Column:
    return pa.Column("float64", [pa.Check.ge(0), _finite()])


def _time() -> pa.Column:
    return pa.Column("int64", pa.Check.gt(0))


def _ascending(*, strictly: bool) -> pa.Check:
    def ascending(frame: pd.DataFrame) -> bool:
        steps = np.diff(frame["time"].to_numpy())
        return bool(np.all(steps > 0) if strictly else np.all(steps >= 0))

    name = "time_strictly_ascending" if strictly else "time_ascending"
    return pa.Check(ascending, name=name, error=name)


def _row_check(name: str, expression: str) -> pa.Check:
    return pa.Check(lambda frame: frame.eval(expression, engine="python"), name=name, error=name)


TICK_SCHEMA = pa.DataFrameSchema(
    {
        "time": _time(),
        "bid": _positive_price(),
        "ask": _positive_price(),
        "volume": _count(),
        "flags": pa.Column("int32"),
    },
    checks=[_ascending(strictly=False), _row_check("ask_not_below_bid", "ask >= bid")],
    strict=True,
    name="ticks",
)
"""Sorted, sane ticks."""

BAR_SCHEMA = pa.DataFrameSchema(
    {
        "time": _time(),
        "open": _positive_price(),
        "high": _positive_price(),
        "low": _positive_price(),
        "close": _positive_price(),
        "tick_volume": _count(),
        "spread": _count(),
    },
    checks=[
        _ascending(strictly=True),
        _row_check("high_is_highest", "(high >= open) & (high >= close) & (high >= low)"),
        _row_check("low_is_lowest", "(low <= open) & (low <= close)"),
    ],
    strict=True,
    name="bars",
)
"""Bars of one symbol and timeframe: bid prices, opening time, mean spread in points."""

LABEL_SCHEMA = pa.DataFrameSchema(
    {
        "time": _time(),
        "forward_return": pa.Column("float64", _finite()),
        "cost": pa.Column("float64", [pa.Check.ge(0), _finite()]),
        "up": pa.Column(None, pa.Check.isin([0, 1])),
        "barrier": pa.Column(None, pa.Check.isin([-1, 0, 1])),
        "end_time": _time(),
    },
    checks=[_ascending(strictly=True), _row_check("known_after_start", "end_time > time")],
    strict=True,
    name="labels",
)
"""Labels of one symbol on the base timeframe."""


def numeric_schema(name: str, columns: tuple[str, ...], dtype: str, *, finite: bool = True) -> pa.DataFrameSchema:
    """Return the schema of ``time`` and numeric columns: indicators (``float64``) or features (``float32``).

    Args:
        name: what the table is called in messages.
        columns: the catalogue's columns, without ``time``.
        dtype: type of those columns.
        finite: whether NaN and infinity are refused, as after warm-up.
    """
    checks = [_finite()] if finite else []
    named = {column: pa.Column(dtype, checks, nullable=not finite) for column in columns}
    return pa.DataFrameSchema({"time": _time(), **named}, checks=[_ascending(strictly=True)], strict=True, name=name)


def feature_schema(columns: tuple[str, ...]) -> pa.DataFrameSchema:
    """Return the schema of a feature table: ``time`` and float32 columns, all finite."""
    return numeric_schema("features", columns, "float32")


def indicator_schema(columns: tuple[str, ...]) -> pa.DataFrameSchema:
    """Return the schema of an indicator table: ``time`` and float64 columns, NaN during warm-up."""
    return numeric_schema("indicators", columns, "float64", finite=False)


def validate(frame: pd.DataFrame, schema: pa.DataFrameSchema) -> pd.DataFrame:
    """Return ``frame`` if it satisfies ``schema``, checking everything before giving up.

    Raises:
        SchemaMismatchError: it does not; ``failure_cases`` holds every failure.
    """
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as error:
        cases = error.failure_cases
        first = cases.iloc[0]
        where = f"column {first['column']}" if pd.notna(first["column"]) else "the table"
        row = f", row {first['index']}" if pd.notna(first["index"]) else ""
        message = (
            f"{schema.name}: {len(cases)} failures, first in {where}{row}: {first['check']} ({first['failure_case']})"
        )
        raise SchemaMismatchError(message, cases) from None
    return frame


def empty_frame(types: dict[str, str]) -> pd.DataFrame:
    """Return a frame without rows and with the columns and types given."""
    return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in types.items()})


def empty_ticks() -> pd.DataFrame:
    """Return a tick table without rows."""
    return empty_frame(TICK_TYPES)


def empty_bars() -> pd.DataFrame:
    """Return a bar table without rows."""
    return empty_frame(BAR_TYPES)


def tick_frame(
    time: np.ndarray, bid: np.ndarray, ask: np.ndarray, volume: np.ndarray, flags: np.ndarray
) -> pd.DataFrame:
    """Return a tick table of the arrays, cast to the table's types without a copy where they have them already."""
    columns = dict(zip(TICK_TYPES, (time, bid, ask, volume, flags), strict=True))
    return pd.DataFrame({name: np.asarray(columns[name], dtype=kind) for name, kind in TICK_TYPES.items()}, copy=False)
