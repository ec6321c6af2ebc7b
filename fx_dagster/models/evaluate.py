"""How good probabilities are, beside what costs nothing: the majority class, always up, and break-even after costs.

Labels of neighbouring bars overlap, and symbols move together; intervals therefore come from a circular block bootstrap
over times (Politis and Romano 1992), whose blocks are longer than the label's horizon.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.protocol import Float64, Int8

CALIBRATION_BINS = 10
COVERAGES = (1.0, 0.5, 0.25, 0.1, 0.05)
"""Shares of rows, most confident first, at which accuracy is shown."""

RESAMPLES = 500
_EPSILON = 1e-7


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose p(up) lies close together: what was said, and what happened."""

    rows: int
    p_up_mean: float
    up_share: float


@dataclass(frozen=True)
class CoverageRow:
    """The most confident rows: their share, and what trading them would have brought.

    ``mean_net_return`` is a fraction of the price a trade, entering every such bar in the predicted direction.
    """

    coverage: float
    confidence_min: float
    rows: int
    accuracy: float
    break_even_accuracy: float
    mean_net_return: float


@dataclass(frozen=True)
class Metrics:
    """Judgement of p(up) on rows that the model has not seen.

    Attributes:
        rows: number of rows.
        accuracy: share of right directions, all rows.
        accuracy_low: 2.5 % bound of the block bootstrap.
        accuracy_high: 97.5 % bound.
        majority_accuracy: what the more frequent class of these rows would reach.
        always_up_accuracy: share of rises (drift).
        break_even_accuracy: see :func:`break_even_accuracy`; above 1 nothing could pay for the costs.
        log_loss: mean negative log-likelihood, nats.
        base_log_loss: that of always saying the share of rises.
        brier: mean squared error of p(up).
        roc_auc: area under the ROC curve; NaN-free: 0.5 where one class only is present.
        calibration_error: mean absolute difference of said and seen over the calibration bins, weighted by rows.
        mean_net_return: fraction of the price a bar when each bar is traded.
        calibration: bins of equal numbers of rows.
        coverage: accuracy by confidence.
    """

    rows: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    majority_accuracy: float
    always_up_accuracy: float
    break_even_accuracy: float
    log_loss: float
    base_log_loss: float
    brier: float
    roc_auc: float
    calibration_error: float
    mean_net_return: float
    calibration: tuple[CalibrationBin, ...]
    coverage: tuple[CoverageRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the metrics that :meth:`to_dict` described."""
        calibration = tuple(CalibrationBin(**row) for row in plain["calibration"])
        coverage = tuple(CoverageRow(**row) for row in plain["coverage"])
        return cls(**{**plain, "calibration": calibration, "coverage": coverage})


@dataclass(frozen=True)
class Judged:
    """Rows to judge; all arrays ``[n]``, sorted by time.

    Attributes:
        y: 1 where the price rose, int8.
        p_up: float64.
        forward_return: fraction of the price before costs, float64.
        cost: round-trip cost, fraction of the price, float64.
        time: int64 ns UTC.
        end_time: when the label was known, int64 ns UTC.
    """

    y: Int8
    p_up: Float64
    forward_return: Float64
    cost: Float64
    time: NDArray[np.int64]
    end_time: NDArray[np.int64]


def evaluate(rows: Judged, *, seed: int = 7) -> Metrics:
    """Judge probabilities.

    Raises:
        TrainingError: there are no rows, or a probability is not one.
    """
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    _require_probabilities(rows)
    right = (rows.p_up > 0.5) == (rows.y == 1)
    up_share = float(np.mean(rows.y))
    low, high = accuracy_interval(right, rows.time, rows.end_time, seed=seed)
    clipped = np.clip(rows.p_up, _EPSILON, 1 - _EPSILON)
    calibration = calibration_table(rows.y, rows.p_up)
    both = 0.0 < up_share < 1.0
    return Metrics(
        rows=len(rows.y),
        accuracy=float(np.mean(right)),
        accuracy_low=low,
        accuracy_high=high,
        majority_accuracy=max(up_share, 1 - up_share),
        always_up_accuracy=up_share,
        break_even_accuracy=break_even_accuracy(rows.forward_return, rows.cost),
        log_loss=float(log_loss(rows.y, clipped, labels=[0, 1])),
        base_log_loss=_entropy(up_share),
        brier=float(brier_score_loss(rows.y, rows.p_up, pos_label=1))
        if both
        else float(np.mean((rows.p_up - rows.y) ** 2)),
        roc_auc=float(roc_auc_score(rows.y, rows.p_up)) if both else 0.5,
        calibration_error=_calibration_error(calibration),
        mean_net_return=float(np.mean(net_returns(rows))),
        calibration=calibration,
        coverage=coverage_table(rows),
    )


def break_even_accuracy(forward_return: Float64, cost: Float64) -> float:
    """Return the accuracy at which trading each bar earns nothing after costs.

    A right direction earns ``|r| - c``, a wrong one loses ``|r| + c``. With accuracy a, and being right independent of
    the move's size, the mean net return is ``(2a - 1) E|r| - E c``; zero at ``a = 1/2 + E c / (2 E|r|)``.
    """
    move = float(np.mean(np.abs(forward_return)))
    if move <= 0.0:
        return 1.0
    return 0.5 + float(np.mean(cost)) / (2.0 * move)


def net_returns(rows: Judged) -> Float64:
    """Return each row's return after costs of a trade in the predicted direction, as a fraction of the price."""
    direction = np.where(rows.p_up > 0.5, 1.0, -1.0)
    return direction * rows.forward_return - rows.cost


def calibration_table(y: Int8, p_up: Float64, bins: int = CALIBRATION_BINS) -> tuple[CalibrationBin, ...]:
    """Return up to ``bins`` groups of neighbouring probabilities with equal numbers of rows."""
    order = np.argsort(p_up, kind="stable")
    groups = [group for group in np.array_split(order, min(bins, len(order))) if len(group)]
    return tuple(CalibrationBin(len(g), float(np.mean(p_up[g])), float(np.mean(y[g]))) for g in groups)


def _calibration_error(table: tuple[CalibrationBin, ...]) -> float:
    rows = sum(row.rows for row in table)
    return sum(row.rows * abs(row.p_up_mean - row.up_share) for row in table) / rows


def coverage_table(rows: Judged) -> tuple[CoverageRow, ...]:
    """Return accuracy and net return of the most confident shares of rows."""
    confidence = np.abs(rows.p_up - 0.5)
    order = np.argsort(-confidence, kind="stable")
    right = ((rows.p_up > 0.5) == (rows.y == 1))[order]
    net = net_returns(rows)[order]
    table = []
    for coverage in COVERAGES:
        count = math.ceil(coverage * len(order))
        chosen = order[:count]
        table.append(
            CoverageRow(
                coverage=coverage,
                confidence_min=float(confidence[chosen[-1]]),
                rows=count,
                accuracy=float(np.mean(right[:count])),
                break_even_accuracy=break_even_accuracy(rows.forward_return[chosen], rows.cost[chosen]),
                mean_net_return=float(np.mean(net[:count])),
            )
        )
    return tuple(table)


def accuracy_interval(
    right: NDArray[np.bool_],
    time: NDArray[np.int64],
    end_time: NDArray[np.int64],
    *,
    seed: int = 7,
    resamples: int = RESAMPLES,
    share: float = 0.95,
) -> tuple[float, float]:
    """Return the block-bootstrap interval of the accuracy.

    Blocks are runs of distinct times, twice as long as a label's horizon; all symbols of a time stay together.
    """
    times, position = np.unique(time, return_inverse=True)
    hits = np.bincount(position, weights=right.astype(np.float64))
    counts = np.bincount(position).astype(np.float64)
    block = min(len(times), 2 * label_span(times, time, end_time))
    blocks = math.ceil(len(times) / block)
    starts = np.random.default_rng(seed).integers(0, len(times), size=(resamples, blocks))
    accuracy = _window_sums(hits, block)[starts].sum(axis=1) / _window_sums(counts, block)[starts].sum(axis=1)
    low, high = np.quantile(accuracy, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def label_span(times: NDArray[np.int64], time: NDArray[np.int64], end_time: NDArray[np.int64]) -> int:
    """Return how many of the distinct, sorted ``times`` a label usually spans, at least 1."""
    spans = np.searchsorted(times, end_time) - np.searchsorted(times, time)
    return max(1, int(np.median(spans)))


def _window_sums(values: NDArray, width: int) -> Float64:
    """Return the sum of ``width`` values from each position on, going round at the end."""
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([values, values[: width - 1]]))])
    return total[width:] - total[:-width]


def _entropy(p: float) -> float:
    return -sum(q * math.log(q) for q in (p, 1 - p) if q > 0)


def _require_probabilities(rows: Judged) -> None:
    if not len(rows.y):
        raise TrainingError("no rows to judge", mend="use a longer history or fewer folds")
    good = np.count_nonzero((rows.p_up >= 0) & (rows.p_up <= 1))
    if good < len(rows.y):
        raise TrainingError(
            f"{len(rows.y) - good} of {len(rows.y)} probabilities are NaN or outside [0, 1]",
            mend="judge only rows that the model answered",
        )
