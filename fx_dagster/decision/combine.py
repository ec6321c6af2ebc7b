"""From votes and probabilities to one signal: three paths, three ways to combine them, validation.

A signal lies in [-1, 1]; a probability p of a rise is the signal 2 p − 1. Absent values are NaN on the way in and have
weight 0 on the way out.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fx_dagster.compiled import compiled
from fx_dagster.decision.codes import Combine
from fx_dagster.decision.fallback import usable_probability
from fx_dagster.decision.rows import CLASSICAL

TRADITIONAL, MACHINE, DEEP = 0, 1, 2
_PARALLEL = int(Combine.PARALLEL)
_HIERARCHICAL = int(Combine.HIERARCHICAL)
_CLIP = 0.02


@compiled
def traditional_signal(votes: np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """Return the weighted mean of one symbol's votes (``[v]``); absent votes are left out; NaN where all are."""
    return _mean_vote(votes, weights, votes.shape[0])


@compiled
def classical_signal(votes: np.ndarray, weights: Sequence[float] | np.ndarray) -> float:
    """Return :func:`traditional_signal` of the classical indicators alone: no model has a part in it."""
    return _mean_vote(votes, weights, CLASSICAL)


@compiled
def _mean_vote(votes: np.ndarray, weights: Sequence[float] | np.ndarray, count: int) -> float:
    total = 0.0
    weight = 0.0
    for j in range(count):
        if math.isfinite(votes[j]) and weights[j] > 0.0:
            total += weights[j] * min(max(votes[j], -1.0), 1.0)
            weight += weights[j]
    return total / weight if weight > 0.0 else math.nan


@compiled
def mean_signal(p_up: np.ndarray, start: int, stop: int) -> float:
    """Return the mean signal of the usable probabilities in ``p_up[start:stop]``; NaN where there is none."""
    total = 0.0
    count = 0
    for j in range(start, min(stop, p_up.shape[0])):
        if usable_probability(p_up[j]):
            total += 2.0 * p_up[j] - 1.0
            count += 1
    return total / count if count > 0 else math.nan


@compiled
def log_loss(signal: float, up: bool) -> float:
    """Return the log-loss of a signal read as a probability, clipped so that one certainty cannot end a path."""
    p = min(max((1.0 + signal) / 2.0, _CLIP), 1.0 - _CLIP)
    return -math.log(p) if up else -math.log(1.0 - p)


@compiled
def learn_outcomes(state: Any, price: float, signals: np.ndarray, decay: float) -> None:
    """On a new bar: score what was said ``horizon`` bars ago by what has happened since, and remember today's signals.

    Each path's ``log_loss`` moves towards its new one by ``1 - decay``. The ring has one place a bar of the horizon, so
    that only outcomes that are known by now are ever used, in constant time.

    Args:
        state: the symbol's record (:func:`fx_dagster.decision.rows.state_dtype`), changed in place.
        price: mid price now.
        signals: ``[3]`` what the paths say now; NaN: absent.
        decay: what remains of the old log-loss.
    """
    at = state.pending_at
    before = state.pending_price[at]
    for k in range(3):
        said = state.pending_signal[at, k]
        if math.isfinite(before) and price != before and math.isfinite(said):
            state.log_loss[k] = decay * state.log_loss[k] + (1.0 - decay) * log_loss(said, price > before)
        state.pending_signal[at, k] = signals[k]
    state.pending_price[at] = price
    state.pending_at = (at + 1) % state.pending_price.shape[0]


@compiled
def model_trust(drift: float, drift_max: float, drift_strong: float) -> float:
    """Return what drift leaves of the models' weight, in [0, 1].

    1 up to ``drift_max``, from there down in a straight line to 0 at ``drift_strong``; 1 where drift is unknown (NaN).
    """
    if math.isnan(drift) or drift <= drift_max:
        return 1.0
    if drift >= drift_strong:
        return 0.0
    return (drift_strong - drift) / (drift_strong - drift_max)


@compiled
def path_weights(
    combine: int, signals: np.ndarray, meta: float, losses: np.ndarray, sharpness: float, traditional: float,
    trust: float, weights: np.ndarray,
) -> None:  # fmt: skip
    """Fill ``weights[3]``: what each path counts for; absent paths 0, the rest sum to 1.

    ``parallel``: ``traditional`` for the votes, the rest shared by the model paths. ``hierarchical``: the models
    decide (the meta model where there is one), the votes only where no model answers. ``hybrid``: proportional to
    ``exp(−sharpness × log-loss)``, the paths' posterior odds after as many independent outcomes as ``sharpness``.

    The models' weights are multiplied by ``trust`` (:func:`model_trust`) before they are scaled to a sum of 1; in
    ``hierarchical`` the votes get what the models lose.
    """
    machine = math.isfinite(signals[MACHINE]) or math.isfinite(meta)
    models = (1 if machine else 0) + (1 if math.isfinite(signals[DEEP]) else 0)
    least = math.inf
    for k in range(3):
        if math.isfinite(signals[k]):
            least = min(least, losses[k])
    total = 0.0
    for k in range(3):
        weight = 0.0
        present = math.isfinite(signals[k]) or (k == MACHINE and machine)
        if present:
            if combine == _PARALLEL:
                weight = traditional if k == TRADITIONAL else (1.0 - traditional) / max(models, 1)
            elif combine == _HIERARCHICAL:
                weight = (1.0 if models == 0 else (1.0 - trust) * models) if k == TRADITIONAL else 1.0
            else:
                weight = math.exp(-sharpness * (losses[k] - least)) if math.isfinite(least) else 1.0
            if k != TRADITIONAL:
                weight *= trust
        weights[k] = weight
        total += weight
    for k in range(3):
        weights[k] = weights[k] / total if total > 0.0 else 0.0


@compiled
def combined_signal(combine: int, signals: np.ndarray, meta: float, weights: np.ndarray) -> float:
    """Return the weighted signal; in ``hierarchical`` a present meta model's signal replaces those of the models."""
    if combine == _HIERARCHICAL and math.isfinite(meta):
        votes = signals[TRADITIONAL] if weights[TRADITIONAL] > 0.0 else 0.0
        return weights[TRADITIONAL] * votes + (1.0 - weights[TRADITIONAL]) * meta
    score = 0.0
    for k in range(3):
        if weights[k] > 0.0 and math.isfinite(signals[k]):
            score += weights[k] * signals[k]
    return min(max(score, -1.0), 1.0)


@compiled
def vote_support(votes: np.ndarray, weights: Sequence[float] | np.ndarray, direction: float, count: int) -> float:
    """Return the share of the first ``count`` votes' strength that agrees with ``direction`` (±1), in [0, 1].

    NaN where none of them speaks.
    """
    agree = 0.0
    total = 0.0
    for j in range(count):
        if math.isfinite(votes[j]):
            strength = weights[j] * min(abs(votes[j]), 1.0)
            total += strength
            if votes[j] * direction > 0.0:
                agree += strength
    return agree / total if total > 0.0 else math.nan


@compiled
def model_support(p_up: np.ndarray, count: int, direction: float) -> float:
    """Return the share of the models' strength |2 p − 1| that agrees with ``direction``; NaN where none answers."""
    agree = 0.0
    total = 0.0
    answered = False
    for j in range(min(count, p_up.shape[0])):
        if usable_probability(p_up[j]):
            answered = True
            signal = 2.0 * p_up[j] - 1.0
            total += abs(signal)
            if signal * direction > 0.0:
                agree += abs(signal)
    if not answered:
        return math.nan
    return agree / total if total > 0.0 else 0.5


@compiled
def validate(
    traditional: float, ai: float, correlation: float, weights: Sequence[float] | np.ndarray, parts: np.ndarray
) -> float:
    """Return the validation score in [0, 1] and fill ``parts[3]``.

    A part that is absent (NaN: no model answers, or there is no other symbol) is left out, and its weight is shared by
    the others in proportion, so that it neither speaks for nor against; its place in ``parts`` is then 0.
    """
    total = 0.0
    weight = 0.0
    for k in range(3):
        part = traditional if k == 0 else (ai if k == 1 else correlation)
        if math.isfinite(part):
            part = min(max(part, 0.0), 1.0)
            parts[k] = part
            total += weights[k] * part
            weight += weights[k]
        else:
            parts[k] = 0.0
    return total / weight if weight > 0.0 else 0.0
