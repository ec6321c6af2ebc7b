"""The fallback level: down in the very decision that saw the fault, up only after health.

1 full AI, 2 traditional + simple AI, 3 traditional only, 4 emergency (no entries). Pure: time is passed in.
"""

import math

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Level

_UNSET = int(Level.UNSET)
_SIMPLE = int(Level.SIMPLE_AI)
_TRADITIONAL = int(Level.TRADITIONAL)


@compiled
def next_level(
    level: int, candidate: int, since: int, observed: int, time: int, recover_ns: int
) -> tuple[int, int, int]:
    """Return the level now, the level it may rise to, and since when (ns UTC; 0: it may not rise).

    Args:
        level: level until now, 0 before the first decision.
        candidate: worst level observed since ``since``.
        since: since when a better level than ``level`` has been observed without interruption; 0: it was not.
        observed: best level that this moment's inputs allow, 1 … 4.
        time: now, ns UTC.
        recover_ns: how long it must have been observed before the level rises, and only to the worst seen meanwhile.
    """
    if level == _UNSET or observed >= level:
        return observed, observed, 0
    if since == 0 or time < since:
        return level, observed, max(time, 1)
    candidate = max(candidate, observed)
    if time - since >= recover_ns:
        return candidate, candidate, 0
    return level, candidate, since


@compiled
def usable_probability(p: float) -> bool:
    """Return whether a model's answer is a probability: finite and in [0, 1]."""
    return math.isfinite(p) and 0.0 <= p <= 1.0


@compiled
def model_level(
    p_up: np.ndarray, simple_models: int, deep_models: int, meta: bool, best_level: int, extras: bool
) -> int:
    """Return the best level that the models' answers about one symbol allow, 1 … 3.

    Args:
        p_up: ``[m]``; NaN: absent.
        simple_models: columns that level 2 needs.
        deep_models: further columns that level 1 needs.
        meta: whether level 1 needs the column of a meta model behind them.
        best_level: best level that may be reached.
        extras: whether confidence, attention and regime are there; without them there is no level 1.
    """
    level = best_level if extras else max(best_level, _SIMPLE)
    deep_end = min(simple_models + deep_models, p_up.shape[0])
    wanted = deep_end + (1 if meta else 0)
    if simple_models + deep_models > p_up.shape[0] or wanted > p_up.shape[0]:
        level = max(level, _SIMPLE)
    for j in range(simple_models, min(wanted, p_up.shape[0])):
        if not usable_probability(p_up[j]):
            level = max(level, _SIMPLE)
    if simple_models > p_up.shape[0]:
        return _TRADITIONAL
    for j in range(simple_models):
        if not usable_probability(p_up[j]):
            level = _TRADITIONAL
    return level
