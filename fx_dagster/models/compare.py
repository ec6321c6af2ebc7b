"""Whether one model's probabilities are better than another's, or only luckier.

Diebold & Mariano (1995): the mean difference of two losses over its standard error. Labels overlap by the horizon and
symbols share their hours, so that losses are averaged over the symbols of a moment first, and the variance counts
every autocovariance within the horizon alike, as in the original (Newey and West's falling weights would halve them).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.protocol import Float64, Int8

_EPSILON = 1e-7
MOMENTS_MIN = 30
"""Fewest moments of which a variance is believed."""


@dataclass(frozen=True)
class PairedLoss:
    """Losses of two models on the same rows.

    Attributes:
        a: name of the one.
        b: name of the other.
        difference: mean loss of a less that of b, nats; below 0 a is better.
        statistic: difference over its standard error; NaN where there is no variance or are too few moments.
        p_value: two-sided, normal; NaN there.
        moments: distinct times.
    """

    a: str
    b: str
    difference: float
    statistic: float
    p_value: float
    moments: int


def log_losses(y: Int8, p_up: Float64) -> Float64:
    """Return the negative log-likelihood of each row, nats, float64 ``[n]``."""
    p = np.clip(np.asarray(p_up, dtype=np.float64), _EPSILON, 1.0 - _EPSILON)
    return -np.where(y == 1, np.log(p), np.log(1.0 - p))


def compare_losses(
    a: str, b: str, loss_a: Float64, loss_b: Float64, time: NDArray[np.int64], *, horizon_bars: int
) -> PairedLoss:
    """Compare two models' losses.

    Args:
        a: name of the one.
        b: name of the other.
        loss_a: its loss of each row, ``[n]``.
        loss_b: the other's.
        time: of each row, any order, equal times allowed.
        horizon_bars: bars by which labels overlap: lags of the variance.

    Raises:
        TrainingError: lengths differ, there is no row, or a loss is not finite.
    """
    if not len(loss_a) == len(loss_b) == len(time) or not len(time):
        raise TrainingError(f"{a} and {b}: {len(loss_a)} and {len(loss_b)} losses", mend="compare the same rows")
    gap = pd.Series(np.asarray(loss_a) - np.asarray(loss_b)).groupby(np.asarray(time)).mean().to_numpy()
    if not np.isfinite(gap).all():
        raise TrainingError(f"{a} and {b}: a loss is not finite", mend="judge only rows that both models answered")
    mean, moments = float(gap.mean()), len(gap)
    if moments < MOMENTS_MIN or float(np.ptp(gap)) == 0.0:
        return PairedLoss(a, b, mean, math.nan, math.nan, moments)
    statistic, p_value = _test_of_mean(gap, lags=max(horizon_bars - 1, 0))
    return PairedLoss(a, b, mean, statistic, p_value, moments)


def _test_of_mean(values: Float64, *, lags: int) -> tuple[float, float]:
    import statsmodels.api as sm

    lags = min(lags, len(values) - 2)
    fitted = sm.OLS(values, np.ones(len(values))).fit(cov_type="HAC", cov_kwds={"maxlags": lags, "kernel": "uniform"})
    return float(fitted.tvalues[0]), float(fitted.pvalues[0])


def compare_models(
    y: Int8, p_up: Mapping[str, Float64], time: NDArray[np.int64], *, horizon_bars: int
) -> list[PairedLoss]:
    """Compare every pair of models on the same rows, and each with always saying one half.

    Args:
        y: 1 where the price rose, ``[n]``.
        p_up: each model's probabilities, ``[n]``, by name.
        time: of each row.
        horizon_bars: bars by which labels overlap.

    Raises:
        TrainingError: see :func:`compare_losses`.
    """
    losses = {name: log_losses(y, said) for name, said in p_up.items()}
    losses["coin"] = np.full(len(y), math.log(2.0))
    return [
        compare_losses(a, b, losses[a], losses[b], time, horizon_bars=horizon_bars) for a, b in combinations(losses, 2)
    ]
