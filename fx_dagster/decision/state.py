"""What the step remembers, kept and restored so that a restarted engine goes on as if it had never stopped."""

import base64
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from fx_dagster.decision.rows import MEMORY, Rows, state_dtype
from fx_dagster.errors import DataError

FORMAT = "fx-decision-state-2"
Columns: TypeAlias = dict[str, list[Any]]
"""Type, shape and base64 bytes of each field."""


class DecisionState(NamedTuple):
    """Memory of the step; changed in place."""

    rows: Rows
    """``[n]`` of :func:`fx_dagster.decision.rows.state_dtype`."""
    memory: Rows
    """``[1]`` of :data:`fx_dagster.decision.rows.MEMORY`."""


def new_state(rows: int, horizon_bars: int) -> DecisionState:
    """Return the state before the first decision."""
    state = np.zeros(rows, dtype=state_dtype(horizon_bars))
    state["bar_time"] = state["entry_bar"] = np.iinfo(np.int64).min
    state["log_loss"] = math.log(2.0)
    state["pending_signal"] = state["pending_price"] = np.nan
    forget_derived(state)
    return DecisionState(state, np.zeros(1, dtype=MEMORY))


def forget_derived(rows: Rows) -> None:
    """Have everything derived anew at the next decision: needed where ``version`` counts from other inputs."""
    rows["derived"] = np.zeros((), dtype=rows.dtype["derived"])
    rows["derived"]["version"] = -1


def copy_state(state: DecisionState) -> DecisionState:
    """Return an independent copy."""
    return DecisionState(state.rows.copy(), state.memory.copy())


def snapshot(state: DecisionState, symbols: Sequence[str]) -> bytes:
    """Return the state as JSON bytes; exact, floats included."""
    body = {"format": FORMAT, "symbols": list(symbols), "rows": _columns(state.rows), "memory": _columns(state.memory)}
    return json.dumps(body, sort_keys=True).encode()


def restore(data: bytes, symbols: Sequence[str], horizon_bars: int) -> DecisionState:
    """Return the state of a snapshot for these symbols; a symbol that it does not know starts anew.

    Raises:
        DataError: the snapshot is not one, or of another version or horizon.
    """
    body = _parse(data)
    kept = [str(symbol) for symbol in body["symbols"]]
    state = new_state(len(symbols), horizon_bars)
    places = {symbol: row for row, symbol in enumerate(kept)}
    found = np.zeros(len(kept), dtype=state.rows.dtype)
    _read("rows", body["rows"], found)
    _read("memory", body["memory"], state.memory)
    for row, symbol in enumerate(symbols):
        if symbol in places:
            state.rows[row] = found[places[symbol]]
    forget_derived(state.rows)
    return state


def _kept(rows: Rows) -> list[str]:
    """Return the fields that a snapshot keeps: what can be derived again is not among them."""
    return [name for name in rows.dtype.names or () if name != "derived"]


def _columns(rows: Rows) -> Columns:
    columns: Columns = {}
    for name in _kept(rows):
        column = np.ascontiguousarray(rows[name])
        columns[name] = [column.dtype.str, list(column.shape), base64.b64encode(column.tobytes()).decode()]
    return columns


def _parse(data: bytes) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(data)
        kind = body["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"decision snapshot cannot be read: {error}", mend="start with an empty state") from error
    if kind != FORMAT:
        raise DataError(f"decision snapshot of format {kind!r}", mend=f"this version reads {FORMAT}")
    return body


def _read(part: str, columns: Columns, rows: Rows) -> None:
    for name in _kept(rows):
        try:
            kind, shape, text = columns[name]
            values = np.frombuffer(base64.b64decode(str(text), validate=True), dtype=str(kind))
            column = values.reshape(shape)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"decision snapshot, {part}.{name} cannot be read: {error}", mend="start with an empty state"
            ) from error
        if column.shape != rows[name].shape or column.dtype != rows[name].dtype:
            raise DataError(
                f"decision snapshot, {part}.{name} has shape {column.shape}, not {rows[name].shape}",
                mend="start with an empty state: it is of another version or horizon",
            )
        rows[name] = column
