"""The few statistics that a report computes itself; scores of models come from :mod:`fx_dagster.models.evaluate`."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fx_dagster.models.evaluate import Metrics
from fx_dagster.report.summary import Accuracy, Interval, Latency, ModelSummary

Float64 = NDArray[np.float64]


def wilson_interval(right: int, n: int, level: float = 0.95) -> Interval | None:
    """Return Wilson's score interval of a share (Wilson 1927); None without observations.

    It takes the observations as independent: for forecasts whose horizons overlap it is too narrow.
    """
    from scipy.stats import binomtest

    if n == 0:
        return None
    bounds = binomtest(right, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(low=float(bounds.low), high=float(bounds.high), level=level, method="wilson")


def wilson_accuracy(right: ArrayLike) -> Accuracy:
    """Return the share of True with Wilson's interval; for forecasts that do not overlap, such as trades."""
    hits = np.asarray(right, dtype=bool)
    count = int(hits.sum())
    return Accuracy(
        n=hits.size, value=count / hits.size if hits.size else None, interval=wilson_interval(count, hits.size)
    )


def summarise_model(name: str, metrics: Metrics) -> ModelSummary:
    """Return what the summary says of a model, from its judgement on unseen rows."""
    interval = Interval(low=metrics.accuracy_low, high=metrics.accuracy_high, method="circular block bootstrap")
    return ModelSummary(
        name=name,
        accuracy=Accuracy(n=metrics.rows, value=metrics.accuracy, interval=interval),
        majority_class=metrics.majority_accuracy,
        always_up=metrics.always_up_accuracy,
        break_even=metrics.break_even_accuracy,
        log_loss=metrics.log_loss,
        log_loss_base_rate=metrics.base_log_loss,
        brier=metrics.brier,
    )


def summarise_latency(latency_ms: ArrayLike) -> Latency:
    """Return the quantiles of durations in milliseconds; those that are not finite are left out."""
    values = np.asarray(latency_ms, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return Latency(n=0)
    p50, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99])
    return Latency(n=values.size, p50_ms=float(p50), p90_ms=float(p90), p99_ms=float(p99), max_ms=float(values.max()))


def log_histogram(groups: Sequence[ArrayLike], bins: int = 44) -> tuple[Float64, list[Float64]]:
    """Return common logarithmic bin edges ``[bins + 1]`` and, for each group, the share of its values in each bin.

    Values that are not finite or not positive are left out; an empty group has zeros.
    """
    arrays = [np.asarray(values, dtype=np.float64) for values in groups]
    cleaned = [values[np.isfinite(values) & (values > 0)] for values in arrays]
    together = np.concatenate([*cleaned, np.empty(0)])
    if not together.size:
        return np.geomspace(0.1, 100.0, bins + 1), [np.zeros(bins) for _ in groups]
    low, high = float(together.min()), float(together.max())
    edges = np.geomspace(low * 0.999, max(high, low * 1.05) * 1.001, bins + 1)
    return edges, [np.histogram(values, edges)[0] / max(values.size, 1) for values in cleaned]
