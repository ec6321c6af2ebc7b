"""What the step remembers: of each symbol, and of the account."""

import math
from typing import NamedTuple

import numpy as np

from fx_dagster.decision.rows import MEMORY, Rows, state_dtype


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
