"""How far rows have moved from those that models learned on: distances of distributions, and what is usual for them.

Rows of a market hang together in time: a fortnight never looks like ten years, however little has changed, and a slow
feature has one single value in it. A distance therefore says nothing by itself. It is held against the largest that
windows of the same length inside the training set show; only what lies beyond is drift.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import Float64, Int64

Float32 = NDArray[np.float32]
Usual = TypeVar("Usual")

QUANTILE_BINS: Final = 10
PSEUDO_ROWS: Final = 0.5
"""Added to every bin of both samples, so that an empty one has a logarithm (Jeffreys' prior of a share)."""

WINDOW_BARS: Final = (60, 120, 240, 480, 960, 1_920, 3_840)
"""Lengths, in distinct times, of the windows of the training set that are looked at."""

WINDOWS_MAX: Final = 60
"""Windows of each length, evenly spread over the training set."""

WINDOWS_APART: Final = 4
"""A length is looked at where so many windows of it fit into the training set side by side."""

SAMPLE_ROWS: Final = 2_000
"""Rows that are kept of the training set, at most."""

STRETCHES: Final = 10
"""Stretches of time that a sample is cut into, to measure how far rows lie from those of other times."""

STRANGE_QUANTILE: Final = 0.99


def population_stability(expected: Int64, actual: Int64) -> float:
    """Return the population stability index Σ (a − e) ln(a / e) of two counts over the same bins, ≥ 0.

    It is the symmetric Kullback–Leibler divergence of the bins' shares (Siddiqi 2006, Credit Risk Scorecards); equal
    counts give 0. Every bin gets ``PSEUDO_ROWS`` in both samples, so that an empty bin counts, and counts less the
    fewer rows there are to fill it.
    """
    e, a = (
        (np.asarray(counts) + PSEUDO_ROWS) / (np.sum(counts) + PSEUDO_ROWS * len(counts))
        for counts in (expected, actual)
    )
    return float(np.sum((a - e) * np.log(a / e)))


def quantile_edges(values: NDArray[Any], bins: int = QUANTILE_BINS) -> Float64:
    """Return upper edges of ``bins`` bins with equal numbers of ``values`` (``[n]``), strictly ascending; at least one.

    A bin holds what is above the edge before and not above its own; the last has no edge. A value that fills more than
    one bin (a flag, a feature that stands still) gets one of its own, with nothing above or below it.
    """
    quantiles = np.quantile(values, np.arange(1, bins) / bins, method="inverted_cdf").astype(np.float64)
    edges, times = np.unique(quantiles, return_counts=True)
    below = np.nextafter(edges[times > 1], -np.inf)
    return np.unique(np.concatenate([edges, below]))


def windows(time: Int64, bars: int) -> Iterator[slice]:
    """Yield the rows of up to ``WINDOWS_MAX`` runs of ``bars`` distinct times, evenly spread; they may overlap.

    Args:
        time: of the rows, ascending; equal times (several symbols) stay together.
        bars: length of a run.
    """
    times, first = np.unique(time, return_index=True)
    bounds = np.append(first, len(time))
    last = len(times) - bars
    if last < 0:
        return
    for start in np.unique(np.linspace(0, last, min(WINDOWS_MAX, last + 1)).astype(np.intp)):
        yield slice(int(bounds[start]), int(bounds[start + bars]))


def largest_in_windows(time: Int64, measure: Callable[[slice], Float64]) -> dict[int, Float64]:
    """Return the largest that a measure reaches in windows of the training set, by their length in distinct times.

    Args:
        time: of the training rows, ascending.
        measure: from the rows of a window to ``[k]`` values.
    """
    count = len(np.unique(time))
    return {
        bars: np.max([measure(rows) for rows in windows(time, bars)], axis=0)
        for bars in WINDOW_BARS
        if bars * WINDOWS_APART <= count
    }


def usual(by_bars: Mapping[int, Usual], bars: int) -> Usual | None:
    """Return what is usual for a window of ``bars`` distinct times: that of the longest window that is not longer.

    A shorter window strays farther, so that this is on the side of no alarm. None: the training set is too short.
    """
    lengths = [length for length in by_bars if length <= bars]
    return by_bars[max(lengths)] if lengths else None


@dataclass(frozen=True)
class Bins:
    """How F columns of training rows are distributed, and how far windows of them stray from the whole.

    Attributes:
        names: of the columns.
        edges: upper edges of each column's bins; the last bin of each has none.
        counts: training rows in each column's bins.
        quiet: largest population stability index of each column in windows of the training set, by their length in
            distinct times.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    counts: tuple[tuple[int, ...], ...]
    quiet: Mapping[int, tuple[float, ...]]

    @classmethod
    def of(cls, names: Sequence[str], values: NDArray[Any], time: Int64) -> Self:
        """Measure training rows.

        Args:
            names: of the columns.
            values: ``[n, F]``, finite.
            time: of the rows, ascending, ns UTC.

        Raises:
            DataError: there are no rows, or not as many names as columns.
        """
        if not len(values) or values.shape[1:] != (len(names),) or len(time) != len(values):
            raise DataError(f"bins of {len(names)} columns from {values.shape}", mend="pass rows of those columns")
        edges = tuple(tuple(quantile_edges(column).tolist()) for column in values.T)
        bins = cls(tuple(names), edges, (), {})
        bins = cls(bins.names, edges, tuple(tuple(row.tolist()) for row in bins.count(values)), {})
        quiet = largest_in_windows(time, lambda rows: bins.stability(values[rows]))
        return cls(bins.names, edges, bins.counts, {bars: tuple(row.tolist()) for bars, row in quiet.items()})

    def count(self, values: NDArray[Any]) -> list[Int64]:
        """Return the rows of ``values`` (``[m, F]``) in each column's bins."""
        return [
            np.bincount(np.searchsorted(edges, column.astype(np.float64), side="left"), minlength=len(edges) + 1)
            for edges, column in zip(self.edges, values.T, strict=True)
        ]

    def stability(self, values: NDArray[Any]) -> Float64:
        """Return each column's population stability index of ``values`` (``[m, F]``), ``[F]``."""
        pairs = zip(self.counts, self.count(values), strict=True)
        return np.array([population_stability(np.asarray(expected), actual) for expected, actual in pairs])

    def limits(self, bars: int, *, least: float) -> Float64:
        """Return the index from which each column has drifted in a window of ``bars`` distinct times, ``[F]``.

        The largest that a window of the training set of that length reaches, and at least ``least``.
        """
        quiet = usual(self.quiet, bars)
        return np.maximum(least, quiet if quiet is not None else np.zeros(len(self.names)))

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        quiet = {str(bars): list(row) for bars, row in self.quiet.items()}
        pairs = zip(self.edges, self.counts, strict=True)
        columns = [{"edges": list(edges), "counts": list(counts)} for edges, counts in pairs]
        return {"names": list(self.names), "columns": columns, "quiet": quiet}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the bins that :meth:`to_dict` described."""
        return cls(
            names=tuple(plain["names"]),
            edges=tuple(tuple(column["edges"]) for column in plain["columns"]),
            counts=tuple(tuple(column["counts"]) for column in plain["columns"]),
            quiet={int(bars): tuple(row) for bars, row in plain["quiet"].items()},
        )


def kolmogorov_smirnov(training: NDArray[Any], live: NDArray[Any]) -> Float64:
    """Return the two-sample Kolmogorov–Smirnov distance of each column, in [0, 1], ``[F]``.

    The distance only: its p-value takes rows as independent, and bars are not.
    """
    from scipy.stats import ks_2samp

    pairs = zip(training.T, live.T, strict=True)
    return np.array([float(ks_2samp(then, now, method="asymp").statistic) for then, now in pairs])


@dataclass(frozen=True)
class Neighbourhood:
    """A bounded sample of the training rows, in order of time, and how near to it a row must lie to be known.

    The dissimilarity index of a row is its distance to the nearest sampled row over the mean distance of two sampled
    rows (FreqAI's DI), on columns in their training standard deviations. A row is strange where that is more than
    ``STRANGE_QUANTILE`` of the sample reaches against rows of other stretches of time: those of its own hours are
    nearly itself.

    Attributes:
        sample: training rows, float32 ``[k, F]``, ascending in time.
    """

    sample: Float32

    @classmethod
    def of(cls, X: Float32, *, seed: int, rows: int = SAMPLE_ROWS) -> Self:
        """Draw a sample of at most ``rows`` from training rows ``X`` (``[n, F]``, ascending in time).

        Raises:
            DataError: there are fewer rows than stretches of time to compare.
        """
        if len(X) < 2 * STRETCHES:
            raise DataError(f"{len(X)} training rows", mend=f"at least {2 * STRETCHES} tell how they lie")
        drawn = np.random.default_rng(seed).choice(len(X), size=min(rows, len(X)), replace=False)
        return cls(np.ascontiguousarray(X[np.sort(drawn)], dtype=np.float32))

    def dissimilarity(self, rows: NDArray[Any]) -> Float64:
        """Return the index of rows ``[m, F]``, ``[m]``; around 0 for rows of the sample, above 1 far from all."""
        return self._nearest(self._scaled(self.sample), self._scaled(rows)) / self._mean_distance

    @cached_property
    def strange_above(self) -> float:
        """The index above which a row is strange."""
        scaled = self._scaled(self.sample)
        stretch = np.arange(len(scaled)) * STRETCHES // len(scaled)
        nearest = [self._nearest(scaled[stretch != one], scaled[stretch == one]) for one in range(STRETCHES)]
        return float(np.quantile(np.concatenate(nearest), STRANGE_QUANTILE)) / self._mean_distance

    @cached_property
    def _mean_distance(self) -> float:
        from sklearn.metrics import pairwise_distances

        scaled = self._scaled(self.sample)
        count = len(scaled)
        mean = float(pairwise_distances(scaled).sum()) / (count * (count - 1))
        return mean if mean > 0.0 else 1.0

    def _scaled(self, rows: NDArray[Any]) -> Float64:
        sample = self.sample.astype(np.float64)
        deviation = sample.std(axis=0)
        # A column that stood still counts in its own units once it moves.
        return (np.asarray(rows, dtype=np.float64) - sample.mean(axis=0)) / np.where(deviation > 0.0, deviation, 1.0)

    @staticmethod
    def _nearest(known: Float64, rows: Float64) -> Float64:
        from sklearn.neighbors import NearestNeighbors

        distance, _ = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(known).kneighbors(rows)
        return np.asarray(distance[:, 0])
