"""What the step remembers, kept and restored so that a restarted engine goes on as if it had never stopped."""

import base64
import json
import math
from collections.abc import Sequence

import numpy as np

from fx_dagster.decision.arrays import DecisionState
from fx_dagster.decision.codes import Level
from fx_dagster.errors import DataError

FORMAT = "fx-decision-state-1"
_ACCOUNT_FIELDS = frozenset(
    {
        "peak_equity", "day_start_equity", "day", "stage", "stage_since", "released_drawdown", "day_loss_until",
        "streak_until", "unhealthy_until", "loss_streak", "trades", "wins", "gain_sum", "loss_sum",
    }
)  # fmt: skip


def new_state(rows: int, horizon_bars: int) -> DecisionState:
    """Return the state before the first decision."""

    def times(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype=np.int64)

    return DecisionState(
        level=np.full(rows, Level.UNSET, dtype=np.int8),
        level_candidate=np.full(rows, Level.UNSET, dtype=np.int8),
        level_since=times(rows),
        emergency_at=times(rows),
        bar_time=np.full(rows, np.iinfo(np.int64).min, dtype=np.int64),
        entry_bar=np.full(rows, np.iinfo(np.int64).min, dtype=np.int64),
        age_bars=times(rows),
        breaker_until=times(rows, 2),
        log_loss=np.full((rows, 3), math.log(2.0)),
        pending_p=np.full((rows, horizon_bars, 3), np.nan),
        pending_price=np.full((rows, horizon_bars), np.nan),
        pending_at=times(rows),
        peak_equity=np.zeros(1),
        day_start_equity=np.zeros(1),
        day=times(1),
        stage=np.zeros(1, dtype=np.int8),
        stage_since=times(1),
        released_drawdown=np.zeros(1),
        day_loss_until=times(1),
        streak_until=times(1),
        unhealthy_until=times(1),
        loss_streak=times(1),
        trades=times(1),
        wins=times(1),
        gain_sum=np.zeros(1),
        loss_sum=np.zeros(1),
    )


def copy_state(state: DecisionState) -> DecisionState:
    """Return an independent copy."""
    return DecisionState(*(array.copy() for array in state))


def snapshot(state: DecisionState, symbols: Sequence[str]) -> bytes:
    """Return the state as JSON bytes; exact, floats included."""
    arrays = {
        name: [array.dtype.str, list(array.shape), base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()]
        for name, array in state._asdict().items()
    }
    return json.dumps({"format": FORMAT, "symbols": list(symbols), "arrays": arrays}, sort_keys=True).encode()


def restore(data: bytes, symbols: Sequence[str], horizon_bars: int) -> DecisionState:
    """Return the state of a snapshot for these symbols; a symbol that it does not know starts anew.

    Raises:
        DataError: the snapshot is not one, or of another version or horizon.
    """
    kept, arrays = _parse(data)
    state = new_state(len(symbols), horizon_bars)
    rows = {symbol: row for row, symbol in enumerate(kept)}
    common = [(row, rows[symbol]) for row, symbol in enumerate(symbols) if symbol in rows]
    new_rows = np.array([row for row, _ in common], dtype=np.int64)
    old_rows = np.array([row for _, row in common], dtype=np.int64)
    for name, array in state._asdict().items():
        found = arrays.get(name)
        length = 1 if name in _ACCOUNT_FIELDS else len(kept)
        if found is None or found.dtype != array.dtype or found.shape != (length, *array.shape[1:]):
            raise DataError(f"decision snapshot: {name} does not fit", mend="start with an empty state: it is of another version")
        if name in _ACCOUNT_FIELDS:
            array[:] = found
        else:
            array[new_rows] = found[old_rows]
    return state


def _parse(data: bytes) -> tuple[list[str], dict[str, np.ndarray]]:
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise DataError(f"decision snapshot of format {body['format']!r}", mend=f"this version reads {FORMAT}")
        arrays = {
            name: np.frombuffer(base64.b64decode(text, validate=True), dtype=np.dtype(kind)).reshape(shape)
            for name, (kind, shape, text) in body["arrays"].items()
        }
        return [str(symbol) for symbol in body["symbols"]], arrays
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"decision snapshot cannot be read: {error}", mend="start with an empty state") from error
