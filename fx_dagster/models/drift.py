"""Whether what the models see and say live is still what they learned on, as one number between 0 and 1 each.

Four questions, each answered for a trailing window of recorded decisions and each with a number that the limits of the
decision step mean: up to ``FX_RISK_DRIFT_MAX`` nothing is wrong, from ``FX_RISK_DRIFT_STRONG`` on nothing is left.

============  ========================================================================================================
moved         share of the models' attention (feature importance) that looks at features whose distribution has moved
strange       share of rows that lie farther from every training row than rows of other times lie from each other
predictions   share of the models whose probabilities are distributed otherwise than out of fold
calibration   share of the models whose probabilities come true less often than out of fold
============  ========================================================================================================

The larger of the first two is the drift of the features that a decision takes (``drift``). Attention is what weighs,
not the number of features: where one that nobody looks at has moved, the models are as good as before, and where the
three that decide everything have, they are not. Strange rows are beside it, because features may move together in a
way that none of them shows alone.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from fx_dagster.errors import DataError
from fx_dagster.features.drift import Bins, Neighbourhood, kolmogorov_smirnov, largest_in_windows, usual
from fx_dagster.indicators.arrays import Int64
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.evaluate import calibration_table, label_span
from fx_dagster.models.protocol import Float32, Float64, Int8

REFERENCE: Final = "training_reference"
"""Where a model's card says what live rows are compared with; also how such tables begin."""

RESAMPLES: Final = 500
INTERVAL: Final = 0.99
"""Wide, as the question is asked again and again."""


@dataclass(frozen=True)
class TrainingReference:
    """What is kept of the rows that a model was fitted on: how each feature is distributed, and some of the rows.

    Immutable: its name is a digest of its content, so that a release whose card names it finds what it was trained on.

    Attributes:
        feature_hash: of the feature catalogue.
        bins: of each feature, over all rows.
        near: some of the rows.
    """

    feature_hash: str
    bins: Bins
    near: Neighbourhood

    @classmethod
    def of(cls, dataset: Dataset, *, seed: int) -> Self:
        """Measure training rows; the same rows and seed give the same reference."""
        bins = Bins.of(dataset.feature_names, dataset.X, dataset.time)
        return cls(dataset.feature_hash, bins, Neighbourhood.of(dataset.X, seed=seed))

    @property
    def table(self) -> str:
        """Name of its table in the lake."""
        content = json.dumps(self.facts(), sort_keys=True).encode() + self.near.sample.tobytes()
        return f"{REFERENCE}_{hashlib.sha256(content).hexdigest()[:32]}"

    def facts(self) -> dict[str, str]:
        """Return everything but the sampled rows, as texts."""
        return {"feature_hash": self.feature_hash, "bins": json.dumps(self.bins.to_dict(), sort_keys=True)}

    def frame(self) -> pd.DataFrame:
        """Return the sampled rows, one column a feature."""
        return pd.DataFrame(self.near.sample, columns=list(self.bins.names))

    @classmethod
    def from_table(cls, frame: pd.DataFrame, facts: Mapping[str, str]) -> Self:
        """Return the reference that :meth:`frame` and :meth:`facts` describe.

        Raises:
            DataError: they do not describe one.
        """
        try:
            bins = Bins.from_dict(json.loads(facts["bins"]))
            sample = np.ascontiguousarray(frame[list(bins.names)].to_numpy(np.float32))
            return cls(facts["feature_hash"], bins, Neighbourhood(sample))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"not a training reference ({error})", mend="train the models again") from error


@dataclass(frozen=True)
class PredictionReference:
    """How a model's out-of-fold probabilities are distributed and how they came true.

    Attributes:
        bins: of its probabilities, one column.
        brier: mean squared error.
        calibration_error: see :func:`calibration_error`.
        quiet_calibration: largest calibration error of windows, by their length in distinct times.
    """

    bins: Bins
    brier: float
    calibration_error: float
    quiet_calibration: Mapping[int, float]

    @classmethod
    def of(cls, p_up: Float64, y: Int8, time: Int64) -> Self:
        """Measure out-of-fold predictions ``[n]``, ascending in ``time`` (ns UTC)."""
        quiet = largest_in_windows(time, lambda rows: np.array([calibration_error(y[rows], p_up[rows])]))
        return cls(
            bins=Bins.of(["p_up"], p_up[:, None], time),
            brier=float(np.mean((p_up - y) ** 2)),
            calibration_error=calibration_error(y, p_up),
            quiet_calibration={bars: float(worst[0]) for bars, worst in quiet.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            **asdict(self),
            "bins": self.bins.to_dict(),
            "quiet_calibration": {str(bars): worst for bars, worst in self.quiet_calibration.items()},
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the reference that :meth:`to_dict` described."""
        quiet = {int(bars): float(worst) for bars, worst in plain["quiet_calibration"].items()}
        return cls(**{**plain, "bins": Bins.from_dict(plain["bins"]), "quiet_calibration": quiet})


@dataclass(frozen=True)
class FeatureDrift:
    """What was found about the features of a window.

    Attributes:
        rows: rows of the window.
        bars: its distinct times.
        features: ``feature, psi, limit, ks, importance, drifted``, one row a feature, the most important drifted first.
        dissimilarity: mean dissimilarity index.
        strange: share of strange rows.
    """

    rows: int
    bars: int
    features: pd.DataFrame
    dissimilarity: float
    strange: float

    @property
    def moved(self) -> float:
        """Share of the models' attention on features that have drifted."""
        shares = self.features["importance"].to_numpy(np.float64)
        return min(1.0, float(shares[self.features["drifted"].to_numpy(np.bool_)].sum()))

    @property
    def drift(self) -> float:
        """Drift of the features, 0 … 1, as a decision takes it."""
        return max(self.moved, self.strange)


def judge_features(
    reference: TrainingReference, importance: Mapping[str, float], X: Float32, time: Int64, *, psi_min: float
) -> FeatureDrift:
    """Compare live rows with the training set.

    Args:
        reference: what the release was trained on.
        importance: share of each feature in the release's decisions; scaled to a sum of 1 here.
        X: live rows, float32 ``[m, F]``, in the catalogue's order.
        time: of their bars, ns UTC ``[m]``.
        psi_min: least population stability index that counts as drift, however quiet the training set was.

    Raises:
        DataError: the rows have another number of features.
    """
    names = reference.bins.names
    if X.ndim != 2 or X.shape[1] != len(names) or not len(X):
        raise DataError(f"live rows are {X.shape}, the training set has {len(names)} features", mend="a bug: report it")
    bars = len(np.unique(time))
    psi, limits = reference.bins.stability(X), reference.bins.limits(bars, least=psi_min)
    shares = np.array([importance.get(name, 0.0) for name in names])
    features = pd.DataFrame(
        {
            "feature": names,
            "psi": psi,
            "limit": limits,
            "ks": kolmogorov_smirnov(reference.near.sample, X),
            "importance": shares / max(float(shares.sum()), np.finfo(np.float64).tiny),
            "drifted": psi > limits,
        }
    )
    index = reference.near.dissimilarity(X)
    return FeatureDrift(
        rows=len(X),
        bars=bars,
        features=features.sort_values(["drifted", "importance", "psi"], ascending=False, ignore_index=True),
        dissimilarity=float(index.mean()),
        strange=float(np.mean(index > reference.near.strange_above)),
    )


@dataclass(frozen=True)
class PredictionDrift:
    """What was found about one model's live probabilities.

    Attributes:
        model: its name.
        rows: probabilities of the window.
        psi: their population stability index against those out of fold.
        psi_limit: from where on it is drift.
        outcomes: how many of them are known to have come true or not.
        calibration_error: of these; NaN while they are too few to tell, as all that follow.
        calibration_limit: the largest of windows of the same length out of fold.
        brier: mean squared error of the known ones.
        brier_low: lower bound of its interval by block bootstrap.
        brier_expected: out of fold.
    """

    model: str
    rows: int
    psi: float
    psi_limit: float
    outcomes: int = 0
    calibration_error: float = np.nan
    calibration_limit: float = np.nan
    brier: float = np.nan
    brier_low: float = np.nan
    brier_expected: float = np.nan

    @property
    def moved(self) -> bool:
        """Whether the probabilities are distributed otherwise."""
        return self.psi > self.psi_limit

    @property
    def miscalibrated(self) -> bool:
        """Whether they come true otherwise than out of fold, beyond chance; NaN says nothing."""
        return self.calibration_error > self.calibration_limit or self.brier_low > self.brier_expected


def judge_predictions(
    model: str,
    reference: PredictionReference,
    said: pd.DataFrame,
    known: pd.DataFrame,
    *,
    psi_min: float,
    bars_min: int,
    seed: int,
) -> PredictionDrift:
    """Compare a model's live probabilities, and where known their outcomes, with those out of fold.

    Args:
        model: its name.
        reference: out of fold.
        said: ``time`` (ns UTC), ``p_up``; at least one row.
        known: those of which the outcome is known: ``time, end_time, p_up, up``.
        psi_min: least population stability index that counts as drift.
        bars_min: fewest distinct times with a known outcome that calibration is judged on.
        seed: of the bootstrap.
    """
    found = PredictionDrift(
        model=model,
        rows=len(said),
        psi=float(reference.bins.stability(said[["p_up"]].to_numpy(np.float64))[0]),
        psi_limit=float(reference.bins.limits(said["time"].nunique(), least=psi_min)[0]),
        outcomes=len(known),
    )
    bars = known["time"].nunique()
    if bars < bars_min:
        return found
    p_up, y = known["p_up"].to_numpy(np.float64), known["up"].to_numpy(np.int8)
    error = (p_up - y) ** 2
    return replace(
        found,
        calibration_error=calibration_error(y, p_up),
        calibration_limit=usual(reference.quiet_calibration, bars) or np.nan,
        brier=float(np.mean(error)),
        brier_low=_lower_bound(known.assign(error=error), seed),
        brier_expected=reference.brier,
    )


def calibration_error(y: Int8, p_up: Float64) -> float:
    """Return the expected calibration error: mean |said − seen| over bins of equal numbers of rows (Naeini 2015).

    Few rows show a larger one by chance: compare it with that of as many rows only.
    """
    table = calibration_table(y, p_up)
    return sum(row.rows * abs(row.p_up_mean - row.up_share) for row in table) / len(y)


def _lower_bound(known: pd.DataFrame, seed: int) -> float:
    """Return the lower bound of the mean ``error``; blocks of times, twice as long as a label, stay together."""
    from arch.bootstrap import CircularBlockBootstrap

    by_time = known.groupby("time")["error"].mean().to_numpy()
    time, end = (known[name].to_numpy(np.int64) for name in ("time", "end_time"))
    block = min(len(by_time), 2 * label_span(np.unique(time), time, end))
    drawn = CircularBlockBootstrap(block, by_time, seed=seed)
    bounds = drawn.conf_int(np.mean, reps=RESAMPLES, method="percentile", size=INTERVAL)
    return float(bounds[0, 0])
