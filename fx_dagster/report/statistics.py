"""The few statistics that a report computes itself: intervals of shares, scores of probabilities, quantiles of latency."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from fx_dagster.errors import DataError
from fx_dagster.report.summary import Accuracy, Interval, Latency, ModelSummary

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


def wilson_interval(right: int, n: int, level: float = 0.95) -> Interval | None:
    """Return Wilson's score interval of a share (Wilson 1927); None without observations.

    It takes the observations as independent: for forecasts whose horizons overlap it is too narrow, and
    :func:`block_accuracy` is meant.
    """
    from scipy.stats import binomtest

    if n == 0:
        return None
    bounds = binomtest(right, n).proportion_ci(confidence_level=level, method="wilson")
    return Interval(low=float(bounds.low), high=float(bounds.high), level=level, method="wilson")


def accuracy(right: ArrayLike) -> Accuracy:
    """Return the share of True with Wilson's interval, for independent forecasts."""
    hits = np.asarray(right, dtype=bool)
    count = int(hits.sum())
    return Accuracy(
        n=hits.size, value=count / hits.size if hits.size else None, interval=wilson_interval(count, hits.size)
    )


def block_accuracy(
    right: ArrayLike, time: ArrayLike, *, block_bars: int, samples: int = 1_000, level: float = 0.95, seed: int = 7
) -> Accuracy:
    """Return the share of True with an interval that minds overlap in time and between symbols.

    Rows of one time are kept together, and times are resampled in runs of mean length ``block_bars``.

    Args:
        right: bool ``[n]``, whether each forecast was right.
        time: int64 ``[n]`` ns UTC, in any order.
        block_bars: mean length of a run; at least the label's horizon.
        samples: number of resamples.
        level: confidence level.
        seed: of the resampling.
    """
    hits = np.asarray(right, dtype=bool)
    if not hits.size:
        return Accuracy(n=0, value=None)
    _, slot = np.unique(np.asarray(time, dtype=np.int64), return_inverse=True)
    hits_at = np.bincount(slot, weights=hits)
    rows_at = np.bincount(slot).astype(np.float64)
    shares = _resampled_shares(hits_at, rows_at, float(block_bars), samples, seed)
    low, high = np.quantile(shares, [(1 - level) / 2, (1 + level) / 2])
    interval = Interval(low=float(low), high=float(high), level=level, method="stationary block bootstrap")
    return Accuracy(n=hits.size, value=float(hits.mean()), interval=interval)


def _resampled_shares(hits_at: Float64, rows_at: Float64, block_bars: float, samples: int, seed: int) -> Float64:
    shares = np.empty(samples)
    for index, rows in enumerate(stationary_indices(len(hits_at), block_bars, samples, seed)):
        shares[index] = hits_at[rows].sum() / rows_at[rows].sum()
    return shares


def break_even_accuracy(forward_return: ArrayLike, cost: ArrayLike) -> float | None:
    """Return the accuracy at which trading every row pays its costs; None where nothing moves.

    A right forecast earns \\|r\\| and a wrong one loses it, each less the cost c: p·E\\|r\\| − (1 − p)·E\\|r\\| = E c, so
    p = 1/2 + E c / (2 E\\|r\\|). Above 1 it says that even a perfect forecast loses.

    Args:
        forward_return: ``[n]`` gross return over the horizon, as a fraction.
        cost: ``[n]`` or one number, round-trip cost as a fraction.
    """
    move = float(np.mean(np.abs(np.asarray(forward_return, dtype=np.float64)))) if np.size(forward_return) else 0.0
    return 0.5 + float(np.mean(np.asarray(cost, dtype=np.float64))) / (2 * move) if move > 0 else None


def summarise_model(
    name: str, predictions: pd.DataFrame, *, break_even: float | None, block_bars: int, seed: int = 7
) -> ModelSummary:
    """Score one model's out-of-fold predictions.

    Args:
        name: the model; its probability is in the column ``p_up_<name>``.
        predictions: the PREDICTIONS frame; rows without the model's forecast (NaN) are not judged.
        break_even: see :func:`break_even_accuracy`.
        block_bars: mean block of the interval; at least the label's horizon.
        seed: of the resampling.

    Raises:
        DataError: the model forecast nothing.
    """
    from sklearn.metrics import brier_score_loss, log_loss

    column = f"p_up_{name}"
    rows = predictions.dropna(subset=[column])
    if rows.empty:
        raise DataError(f"predictions: no forecast in column {column}", mend="train the model first")
    up = rows["up"].to_numpy() == 1
    p_up = rows[column].to_numpy(dtype=np.float64)
    share_up = float(up.mean())
    base_rate = np.full(up.size, share_up)
    return ModelSummary(
        name=name,
        accuracy=block_accuracy((p_up > 0.5) == up, rows["time"].to_numpy(), block_bars=block_bars, seed=seed),
        majority_class=max(share_up, 1 - share_up),
        always_up=share_up,
        break_even=break_even,
        log_loss=float(log_loss(up, p_up, labels=[False, True])),
        log_loss_base_rate=float(log_loss(up, base_rate, labels=[False, True])),
        brier=float(brier_score_loss(up, p_up, pos_label=True)),
    )


def summarise_latency(latency_ms: ArrayLike) -> Latency:
    """Return the quantiles of durations in milliseconds; those that are not finite are left out."""
    values = np.asarray(latency_ms, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not values.size:
        return Latency(n=0)
    p50, p90, p99 = np.quantile(values, [0.5, 0.9, 0.99])
    return Latency(n=values.size, p50_ms=float(p50), p90_ms=float(p90), p99_ms=float(p99), max_ms=float(values.max()))


def reliability(up: ArrayLike, p_up: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Return how often it rose, by what the model said: columns ``p_mean, up_share, low, high`` f8 and ``n`` i8.

    Bins hold equal numbers of forecasts; forecasts that are equal stay together, so there may be fewer bins.
    The bounds are Wilson's.
    """
    forecast = np.asarray(p_up, dtype=np.float64)
    known = np.isfinite(forecast)
    frame = pd.DataFrame({"p": forecast[known], "up": np.asarray(up, dtype=np.float64)[known]})
    if frame.empty:
        return pd.DataFrame({name: pd.Series(dtype="f8") for name in ("p_mean", "up_share", "low", "high")} | {"n": []})
    cuts = pd.qcut(frame["p"], bins, duplicates="drop") if frame["p"].nunique() > 1 else np.zeros(len(frame), int)
    table = frame.groupby(cuts, observed=True).agg(p_mean=("p", "mean"), up_share=("up", "mean"), n=("up", "size"))
    bounds = [wilson_interval(round(share * n), int(n)) for share, n in zip(table["up_share"], table["n"], strict=True)]
    table["low"] = [bound.low for bound in bounds if bound]
    table["high"] = [bound.high for bound in bounds if bound]
    return table[["p_mean", "up_share", "low", "high", "n"]].reset_index(drop=True)


def histogram(groups: Sequence[Float64], bins: int = 60) -> tuple[Float64, list[Float64]]:
    """Return common logarithmic bin edges ``[bins + 1]`` and, for each group, the share of its values in each bin.

    Values that are not finite or not positive are left out; an empty group has zeros.
    """
    cleaned = [values[np.isfinite(values) & (values > 0)] for values in groups]
    together = np.concatenate([*cleaned, np.empty(0)])
    if not together.size:
        return np.geomspace(0.1, 100.0, bins + 1), [np.zeros(bins) for _ in groups]
    low, high = float(together.min()), float(together.max())
    edges = np.geomspace(low * 0.999, max(high, low * 1.05) * 1.001, bins + 1)
    return edges, [np.histogram(values, edges)[0] / max(values.size, 1) for values in cleaned]
