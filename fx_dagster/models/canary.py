"""Canaries: a training recipe must find nothing where there is nothing, and must not look where it may not.

Two find nothing: labels shuffled over the rows, and bars whose every move had its sign drawn at random. An accuracy
outside the chance band means that the recipe sees its own answers (a leak). The third changes every row that a fit must
not look at, and the fitted model must stay the same: a scaler fitted on everything is caught there, which moves an
accuracy by too little to be seen. Where one fails, nothing may be promoted.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.features.labels import compute_labels
from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.market.bars import resample_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import ModelFactory, ModelSpec
from fx_dagster.models.training import Split, cross_validate

_PROBED_ROWS = 256
_SPOIL = 100.0
SIGMAS = 4.0
"""Half-width of the chance band in standard errors: one false alarm in about 16,000 runs."""


@dataclass(frozen=True)
class CanaryResult:
    """What a recipe reached where nothing can be known.

    Attributes:
        kind: ``shuffled_labels`` or ``random_walk``.
        model: the model's name.
        accuracy: reached out of fold.
        low: lower bound of the chance band.
        high: its upper bound.
        rows: tested rows.
        independent_rows: labels that do not overlap; the band's width comes from them.
    """

    kind: str
    model: str
    accuracy: float
    low: float
    high: float
    rows: int
    independent_rows: int

    @property
    def passed(self) -> bool:
        """Whether the accuracy lies in the chance band."""
        return self.low <= self.accuracy <= self.high

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, ``passed`` included."""
        return {**asdict(self), "passed": self.passed}


def shuffled_labels(
    factory: ModelFactory, spec: ModelSpec, dataset: Dataset, splits: Iterable[Split], *, seed: int = 7
) -> CanaryResult:
    """Judge the recipe on the dataset with its labels permuted over all rows."""
    y = np.random.default_rng(seed).permutation(dataset.y)
    return _judged("shuffled_labels", factory, spec, dataset.with_labels(y), splits, overlapping=False)


def random_walk(factory: ModelFactory, spec: ModelSpec, dataset: Dataset, splits: Iterable[Split]) -> CanaryResult:
    """Judge the recipe on a dataset that was built, by the whole pipeline, from :func:`random_walk_bars`."""
    return _judged("random_walk", factory, spec, dataset, splits, overlapping=True)


def looks_elsewhere(factory: ModelFactory, spec: ModelSpec, dataset: Dataset, split: Split, *, seed: int = 7) -> float:
    """Return by how much a fitted model's answers change when all that its training rows do not show is spoiled.

    0 is the only good answer. Spoiled are features, labels and returns of all other rows, and every bar that no
    training row's window reaches.
    """
    train, _ = split
    probe = dataset.take(train[:: max(len(train) // _PROBED_ROWS, 1)])
    first, second = (
        factory(spec).fit(rows.take(train)).predict(probe) for rows in (dataset, _spoiled(dataset, train, seed))
    )
    return max(float(np.abs(first[name] - second[name]).max(initial=0.0)) for name in first)


def _spoiled(dataset: Dataset, train: NDArray[np.intp], seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    other = np.ones(len(dataset), dtype=bool)
    other[train] = False
    X, y, returns = dataset.X.copy(), dataset.y.copy(), dataset.forward_return.copy()
    X[other] = _SPOIL * rng.standard_normal((int(other.sum()), X.shape[1]))
    y[other] = rng.integers(0, 2, int(other.sum()))
    returns[other] *= -_SPOIL
    windows = None if dataset.windows is None else dataset.windows.spoiled(train, rng, _SPOIL)
    return replace(dataset, X=X, y=y, forward_return=returns, windows=windows)


def pipeline_dataset(
    bars: Mapping[str, pd.DataFrame], catalogue: FeatureCatalogue, *, horizon_bars: int, barrier_atr: float
) -> Dataset:
    """Return the data set that the whole pipeline makes of base bars, costs apart.

    Args:
        bars: BARS of the catalogue's base timeframe by symbol.
        catalogue: features.
        horizon_bars: of the labels.
        barrier_atr: of the labels.

    Raises:
        DataError: bars are out of order or too few.
        TrainingError: no row is left.
    """
    base, features, labels, everything = catalogue.base, {}, {}, {}
    for symbol, own in bars.items():
        everything[symbol] = {base: own, **_context(own, base)}
        peers = dict(bars) if catalogue.cross_symbol else None
        features[symbol] = compute_features(everything[symbol], catalogue, instrument=instrument(symbol), peers=peers)
        atr = compute_indicators(everything[symbol], base)["atr_14"].to_numpy(np.float64)
        labels[symbol] = compute_labels(own, atr, horizon_bars=horizon_bars, barrier_atr=barrier_atr, cost=0.0)
    return Dataset.from_frames(features, labels, everything, catalogue, horizon_bars=horizon_bars)


def _context(own: pd.DataFrame, base: Timeframe) -> dict[Timeframe, pd.DataFrame]:
    return {timeframe: resample_bars(own, base, timeframe) for timeframe in CONTEXT_TIMEFRAMES[base]}


def random_walk_bars(bars: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """Return BARS with the same times, volumes, spreads and sizes of moves, but directions that nobody can know.

    Each bar's path relative to the close before it is mirrored or not, by a fair coin: a martingale in log price that
    keeps the volatility's clustering.
    """
    prices = np.log(bars[["open", "high", "low", "close"]].to_numpy(np.float64))
    if not len(prices):
        return bars.copy()
    before = np.concatenate([[prices[0, 0]], prices[:-1, 3]])
    path = prices - before[:, None]
    mirrored = -path[:, [0, 2, 1, 3]]
    coin = np.random.default_rng(seed).random(len(path)) < 0.5
    path = np.where(coin[:, None], mirrored, path)
    close = prices[0, 0] + np.cumsum(path[:, 3])
    start = np.concatenate([[prices[0, 0]], close[:-1]])
    walked = np.exp(start[:, None] + path)
    return bars.assign(**{name: walked[:, column] for column, name in enumerate(("open", "high", "low", "close"))})


def chance_band(y: NDArray, predicted_up: NDArray[np.bool_], independent_rows: int) -> tuple[float, float]:
    """Return the accuracies that predictions independent of the labels reach.

    With shares p of rises and q of predicted rises the expectation is ``a = pq + (1 - p)(1 - q)``; the standard error
    is that of ``independent_rows`` coin tosses.
    """
    p, q = float(np.mean(y)), float(np.mean(predicted_up))
    expected = p * q + (1 - p) * (1 - q)
    # Never narrower than a fair coin's: the expectation itself is estimated from the same rows.
    half = SIGMAS * 0.5 / math.sqrt(max(independent_rows, 1))
    return max(0.0, expected - half), min(1.0, expected + half)


def independent_labels(dataset: Dataset) -> int:
    """Return how many labels fit one after another without overlapping, summed over the symbols."""
    return sum(
        _one_after_another(dataset.time[dataset.symbol_code == code], dataset.end_time[dataset.symbol_code == code])
        for code in np.unique(dataset.symbol_code)
    )


def _one_after_another(time: NDArray[np.int64], end_time: NDArray[np.int64]) -> int:
    position, count = 0, 0
    while position < len(time):
        count += 1
        position = max(position + 1, int(np.searchsorted(time, end_time[position])))
    return count


def _judged(
    kind: str, factory: ModelFactory, spec: ModelSpec, dataset: Dataset, splits: Iterable[Split], *, overlapping: bool
) -> CanaryResult:
    result = cross_validate(factory, spec, dataset, splits)
    tested = dataset.take(np.flatnonzero(result.tested))
    predicted_up = result.p_up[result.tested] > 0.5
    independent = independent_labels(tested) if overlapping else len(tested)
    low, high = chance_band(tested.y, predicted_up, independent)
    return CanaryResult(kind, result.name, result.metrics.accuracy, low, high, len(tested), independent)
