"""A release's answer, taken into the row that the step reads: the same rules live and in backtests.

An answer is a row of numbers: p(up) of the models in the step's order, then :data:`fx_dagster.models.answer.EXTRAS`.
What lies outside its range is absent: a number that a model cannot mean is never believed, nor cut to what it can.
"""

import math
from typing import Any, Final, TypeAlias

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.fallback import usable_probability
from fx_dagster.decision.rows import CLASSICAL
from fx_dagster.models.answer import EXTRAS, REGIMES, SIZE_MAX

Record: TypeAlias = Any

ANSWER_EXTRAS: Final = len(EXTRAS)
"""Columns of an answer behind the probabilities."""

_ATTENTION_VOTE = CLASSICAL
"""Place of the attention score among the votes: behind the classical ones."""
_CONFIDENCE, _REGIME, _ATTENTION = EXTRAS.index("confidence"), EXTRAS.index("regime"), EXTRAS.index("attention")
_SIZE, _TIMING = EXTRAS.index("size"), EXTRAS.index("enter")
_REGIME_CODES = len(REGIMES)
ENTER, EXIT_LONG, EXIT_SHORT = (EXTRAS.index(name) - _TIMING for name in ("enter", "exit_long", "exit_short"))
"""Places in a row's ``timing``."""


@compiled
def _within(value: float, low: float, high: float) -> float:
    return value if low <= value <= high else math.nan


@compiled
def _regime_code(code: float) -> int:
    """Return a regime's code; 0 (unknown) where it is none."""
    if 1.0 <= code <= _REGIME_CODES and code == math.floor(code):
        return int(code)
    return 0


@compiled
def forget_answer(row: Record) -> None:
    """Have no model say anything about ``row`` (of :func:`fx_dagster.decision.rows.input_dtype`)."""
    row.p_up[:] = math.nan
    row.confidence = math.nan
    row.regime = 0
    row.votes[_ATTENTION_VOTE] = math.nan
    row.size = math.nan
    row.timing[:] = math.nan
    row.version += 1


@compiled
def take_answer(row: Record, values: np.ndarray) -> None:
    """Write an answer into ``row``: probabilities, confidence, regime, attention's vote, and what the agents want.

    Probabilities are kept as they are, since the step says by name when one is impossible. Nothing is allocated.

    Args:
        row: record of :func:`fx_dagster.decision.rows.input_dtype` with M models; its version is raised by one.
        values: float64 ``[M + ANSWER_EXTRAS]``, NaN: absent; an answer of any other length is absent as a whole.
    """
    models = row.p_up.shape[0]
    if values.shape[0] != models + ANSWER_EXTRAS:
        forget_answer(row)
        return
    for j in range(models):
        row.p_up[j] = values[j]
    row.confidence = _within(values[models + _CONFIDENCE], 0.0, 1.0)
    row.regime = _regime_code(values[models + _REGIME])
    row.votes[_ATTENTION_VOTE] = _within(values[models + _ATTENTION], -1.0, 1.0)
    row.size = _within(values[models + _SIZE], 0.0, SIZE_MAX)
    for k in range(row.timing.shape[0]):
        row.timing[k] = _within(values[models + _TIMING + k], 0.0, 1.0)
    row.version += 1


@compiled
def take_answers(rows: Record, values: np.ndarray) -> None:
    """Write the answers ``[n, M + ANSWER_EXTRAS]`` into as many rows: see :func:`take_answer`."""
    for k in range(rows.shape[0]):
        take_answer(rows[k], values[k])


@compiled
def has_deep_extras(row: Record) -> bool:
    """Return whether confidence, attention and a known regime are there: what level 1 needs beside probabilities."""
    known = 1 <= row.regime <= _REGIME_CODES
    return known and usable_probability(row.confidence) and abs(row.votes[_ATTENTION_VOTE]) <= 1.0


@compiled
def size_factor(row: Record) -> float:
    """Return the factor that the sizing agent wants; 1 where it says nothing."""
    return row.size if 0.0 <= row.size <= SIZE_MAX else 1.0


@compiled
def timing_probability(row: Record, place: int) -> float:
    """Return what the timing agent says (:data:`ENTER`, :data:`EXIT_LONG`, :data:`EXIT_SHORT`); NaN: nothing."""
    return row.timing[place] if usable_probability(row.timing[place]) else math.nan
