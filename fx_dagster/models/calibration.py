"""How well probabilities of anything are calibrated, and the small logistic fits that calibrate them.

A probability is calibrated if of the rows that were told 0.6 six in ten came true. Intervals come from the circular
block bootstrap of :mod:`fx_dagster.models.evaluate`: labels of neighbouring bars overlap.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.evaluate import CALIBRATION_BINS, RESAMPLES, CalibrationBin, calibration_table, label_span
from fx_dagster.models.protocol import Float64, Int8

LOGIT_MAX: Final = 4.6
"""Largest size of a logit that one model is believed: p of 0.99."""
PLATT_PRECISION: Final = 100.0
"""Prior precision of Platt's slope and intercept around 1 and 0: worth about four hundred independent rows."""
_EPSILON: Final = 1e-7
_STEPS_MAX: Final = 100
_GRADIENT_MAX: Final = 1e-8


@dataclass(frozen=True)
class ReliabilityBin:
    """Rows that were told nearly the same: their number, what they were told, and what share came true.

    ``share_low`` and ``share_high`` bound the share by the block bootstrap, 95 %.
    """

    rows: int
    said: float
    share: float
    share_low: float
    share_high: float


@dataclass(frozen=True)
class Calibration:
    """Judgement of probabilities of an outcome on rows that the model has not seen.

    Attributes:
        rows: number of rows.
        said: mean probability.
        share: share of rows in which it came true.
        brier: mean squared error of the probability (Brier 1950).
        brier_low: 2.5 % bound of the block bootstrap.
        brier_high: 97.5 % bound.
        base_brier: that of always saying ``share``.
        log_loss: mean negative log-likelihood, nats.
        roc_auc: area under the ROC curve; 0.5 where one outcome only is present.
        error: expected calibration error: mean absolute difference of said and seen over the bins, weighted by rows.
        error_by_chance: what 95 of 100 calibrated models would stay below on as many rows that overlap as much.
        table: bins of equal numbers of rows.
    """

    rows: int
    said: float
    share: float
    brier: float
    brier_low: float
    brier_high: float
    base_brier: float
    log_loss: float
    roc_auc: float
    error: float
    error_by_chance: float
    table: tuple[ReliabilityBin, ...]

    @property
    def calibrated(self) -> bool:
        """Whether the calibration error is no larger than chance makes that of a calibrated model."""
        return self.error <= self.error_by_chance

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the judgement that :meth:`to_dict` described."""
        return cls(**{**plain, "table": tuple(ReliabilityBin(**row) for row in plain["table"])})


def expected_calibration_error(outcome: Int8, p: Float64, bins: int = CALIBRATION_BINS) -> float:
    """Return the mean absolute difference of said and seen over bins of equal numbers of rows (Naeini et al. 2015)."""
    table: tuple[CalibrationBin, ...] = calibration_table(outcome, p, bins)
    return sum(row.rows * abs(row.p_up_mean - row.up_share) for row in table) / len(p)


def calibration_of(
    outcome: Int8,
    p: Float64,
    time: NDArray[np.int64],
    end_time: NDArray[np.int64],
    *,
    bins: int = CALIBRATION_BINS,
    seed: int = 7,
) -> Calibration:
    """Judge probabilities of an outcome; all arrays ``[n]``.

    Args:
        outcome: 1 where it came true.
        p: probability that was told.
        time: opening of the row's bar, int64 ns UTC.
        end_time: when the outcome was known, int64 ns UTC.
        bins: bins of the table, at most.
        seed: of the bootstrap.

    Raises:
        TrainingError: there are no rows, or a probability is not one.
    """
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    _require_probabilities(p)
    share = float(np.mean(outcome))
    both = 0.0 < share < 1.0
    squared = (p - outcome) ** 2
    blocks = _Blocks.of(time, end_time, seed=seed)
    low, high = np.quantile(blocks.means(squared), [0.025, 0.975])
    table, chance = _reliability(outcome, p, blocks, bins)
    return Calibration(
        rows=len(p),
        said=float(np.mean(p)),
        share=share,
        brier=float(brier_score_loss(outcome, p, pos_label=1)) if both else float(np.mean(squared)),
        brier_low=float(low),
        brier_high=float(high),
        base_brier=share * (1.0 - share),
        log_loss=float(log_loss(outcome, np.clip(p, _EPSILON, 1.0 - _EPSILON), labels=[0, 1])),
        roc_auc=float(roc_auc_score(outcome, p)) if both else 0.5,
        error=expected_calibration_error(outcome, p, bins),
        error_by_chance=chance,
        table=table,
    )


def logit(p: NDArray) -> Float64:
    """Return ln(p / (1 - p)), float64, of probabilities clipped so that it stays within ±:data:`LOGIT_MAX`."""
    least = np.float64(np.float32(1.0 / (1.0 + math.exp(LOGIT_MAX))))
    clipped = np.clip(np.asarray(p, dtype=np.float64), least, 1.0 - least)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


def sigmoid(x: Float64) -> Float64:
    """Return 1 / (1 + exp(-x)), in [0, 1] for every x; NaN stays NaN."""
    from scipy.special import expit

    return np.asarray(expit(x), dtype=np.float64)


def fit_logistic(
    design: Float64,
    outcome: Int8,
    *,
    prior: Float64,
    precision: Float64,
    evidence: float,
    weight: Float64 | None = None,
) -> Float64:
    """Return the coefficients of a logistic regression with a normal prior, float64 ``[K]``.

    Minimised is ``-evidence · mean log-likelihood + Σ precision·(coefficient - prior)²/2``: the most likely
    coefficients after as many independent rows as ``evidence`` says. By Newton's method with step halving; the problem
    is strictly convex, so that the answer depends on nothing else.

    Args:
        design: float64 ``[n, K]``; no intercept is added.
        outcome: 0 or 1, ``[n]``.
        prior: mean of each coefficient, ``[K]``.
        precision: 1 / variance of each coefficient, ``[K]``, above 0.
        evidence: how many independent rows these are worth.
        weight: of each row, ``[n]``; None: equal.

    Raises:
        TrainingError: it does not converge, which a finite design does not bring about.
    """
    own = np.ones(len(design)) if weight is None else weight
    share: Float64 = np.asarray(own / own.sum(), dtype=np.float64)
    found = np.array(prior, dtype=np.float64)
    for _ in range(_STEPS_MAX):
        p = sigmoid(design @ found)
        gradient = evidence * design.T @ (share * (p - outcome)) + precision * (found - prior)
        if np.abs(gradient).max() <= _GRADIENT_MAX * max(evidence, 1.0):
            return found
        curvature = evidence * (design * (share * p * (1.0 - p))[:, None]).T @ design + np.diag(precision)
        step = np.asarray(np.linalg.solve(curvature, gradient), dtype=np.float64)
        found = _shorter(design, outcome, prior, precision, evidence * share, found, step)
    raise TrainingError("a logistic fit does not converge", mend="check the rows for values that are not finite")


def fit_platt(outcome: Int8, scores: Float64, *, evidence: float) -> tuple[float, float]:
    """Return slope and intercept of Platt's calibration of logits, drawn towards 1 and 0 (Platt 1999)."""
    found = fit_logistic(
        np.column_stack([scores, np.ones(len(scores))]),
        outcome,
        prior=np.array([1.0, 0.0]),
        precision=np.full(2, PLATT_PRECISION),
        evidence=evidence,
    )
    return float(found[0]), float(found[1])


def _shorter(
    design: Float64, outcome: Int8, prior: Float64, precision: Float64, share: Float64, found: Float64, step: Float64
) -> Float64:
    """Return the next coefficients: a whole Newton step, or as small a part of it as lowers the objective."""

    def objective(at: Float64) -> float:
        score = design @ at
        loss = share @ (np.logaddexp(0.0, score) - outcome * score)
        return float(loss + 0.5 * precision @ (at - prior) ** 2)

    before = objective(found)
    for halvings in range(30):
        at = found - step * 0.5**halvings
        if objective(at) <= before + 1e-12 * abs(before):
            return at
    return found


@dataclass(frozen=True)
class _Blocks:
    """Resampled runs of distinct times; all rows of a time stay together."""

    position: NDArray[np.intp]
    times: int
    block: int
    starts: NDArray[np.int64]

    @classmethod
    def of(cls, time: NDArray[np.int64], end_time: NDArray[np.int64], *, seed: int) -> Self:
        times, position = np.unique(time, return_inverse=True)
        block = min(len(times), 2 * label_span(times, time, end_time))
        count = math.ceil(len(times) / block)
        starts = np.random.default_rng(seed).integers(0, len(times), size=(RESAMPLES, count))
        return cls(position, len(times), block, starts)

    def sums(self, values: NDArray) -> Float64:
        """Return the sum of a value of each row over every resample, ``[RESAMPLES]``."""
        of_time = np.bincount(self.position, weights=values, minlength=self.times)
        total = np.concatenate([[0.0], np.cumsum(np.concatenate([of_time, of_time[: self.block - 1]]))])
        return np.asarray((total[self.block :] - total[: -self.block])[self.starts].sum(axis=1), dtype=np.float64)

    def means(self, values: NDArray) -> Float64:
        """Return the mean of a value of each row over every resample that has rows."""
        counts = self.sums(np.ones(len(values)))
        return self.sums(values)[counts > 0] / counts[counts > 0]


def _reliability(outcome: Int8, p: Float64, blocks: _Blocks, bins: int) -> tuple[tuple[ReliabilityBin, ...], float]:
    """Return the table, and the 95 % quantile of the calibration error that resampling alone makes.

    The latter is of differences less those of the rows themselves: as if every bin had been calibrated.
    """
    groups = [group for group in np.array_split(np.argsort(p, kind="stable"), min(bins, len(p))) if len(group)]
    rows, moved = [], np.zeros(len(blocks.starts))
    for group in groups:
        inside = np.zeros(len(p))
        inside[group] = 1.0
        counts, hits = blocks.sums(inside), blocks.sums(inside * outcome)
        seen = counts > 0
        low, high = np.quantile(hits[seen] / counts[seen], [0.025, 0.975])
        said, share = float(np.mean(p[group])), float(np.mean(outcome[group]))
        rows.append(ReliabilityBin(len(group), said, share, float(low), float(high)))
        moved += np.abs(blocks.sums(inside * (p - outcome)) - counts * (said - share))
    return tuple(rows), float(np.quantile(moved / blocks.sums(np.ones(len(p))), 0.95))


def _require_probabilities(p: Float64) -> None:
    if not len(p):
        raise TrainingError("no rows to judge", mend="use a longer history or fewer folds")
    good = np.count_nonzero((p >= 0) & (p <= 1))
    if good < len(p):
        raise TrainingError(
            f"{len(p) - good} of {len(p)} probabilities are NaN or outside [0, 1]",
            mend="judge only rows that the model answered",
        )
