"""Whether features can be believed: pure checks with small results, for asset checks and for the live session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import Float64
from fx_dagster.market.timeframes import Timeframe, bar_close

Compute = Callable[[Mapping[Timeframe, pd.DataFrame], Mapping[str, pd.DataFrame]], pd.DataFrame]


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check: how many rows it saw and, by offending feature, how many of them broke it."""

    name: str
    passed: bool
    rows: int
    offending: Mapping[str, int] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """One line for a person."""
        if self.passed:
            return f"{self.name}: passed on {self.rows} rows"
        worst = sorted(self.offending.items(), key=lambda item: -item[1])[:5]
        named = ", ".join(f"{feature} ({count})" for feature, count in worst)
        return f"{self.name}: failed on {self.rows} rows: {named or 'no rows'}"


@dataclass(frozen=True)
class TrainingRange:
    """Bounds of each feature on the training rows, float64 ``[F]`` in the order of ``names``."""

    names: tuple[str, ...]
    lower: Float64
    upper: Float64


def not_finite(features: pd.DataFrame) -> CheckResult:
    """Find NaN and infinite values; passes if there are none."""
    return _result("not_finite", features, (~np.isfinite(_values(features))).sum(axis=0))


def constant(features: pd.DataFrame, *, rows_min: int = 100) -> CheckResult:
    """Find features with one single value; passes if there are none, or fewer than ``rows_min`` rows to tell."""
    values = _values(features)
    if len(values) < rows_min:
        return CheckResult("constant", True, len(values))
    still = np.all(values == values[0], axis=0)
    return _result("constant", features, np.where(still, len(values), 0))


def training_range(features: pd.DataFrame, *, tail: float = 0.001, margin: float = 0.5) -> TrainingRange:
    """Measure where the training rows lie: quantiles ``tail`` and ``1 - tail``, widened by ``margin`` of their span.

    Raises:
        DataError: there are no rows.
    """
    values = _values(features)
    if not len(values):
        raise DataError("training range: no rows", mend="pass the features of the training fold")
    lower, upper = np.quantile(values, [tail, 1.0 - tail], axis=0)
    room = margin * (upper - lower)
    return TrainingRange(_names(features), np.asarray(lower - room), np.asarray(upper + room))


def out_of_training_range(features: pd.DataFrame, bounds: TrainingRange, *, share_max: float = 0.01) -> CheckResult:
    """Find features of which more than ``share_max`` of the rows lie outside the training range.

    Raises:
        DataError: the features are not those of the training range, in the same order.
    """
    if _names(features) != bounds.names:
        raise DataError("features and training range have different columns", mend="use one feature catalogue for both")
    values = _values(features)
    outside = ((values < bounds.lower) | (values > bounds.upper)).sum(axis=0)
    return _result("out_of_training_range", features, np.where(outside > share_max * len(values), outside, 0))


def look_ahead(
    bars: Mapping[Timeframe, pd.DataFrame],
    compute: Compute,
    base: Timeframe,
    *,
    cuts: Sequence[int],
    peers: Mapping[str, pd.DataFrame] | None = None,
) -> CheckResult:
    """Recompute on what was closed at each cut and compare with the whole history.

    Args:
        bars: BARS frames by timeframe.
        compute: function from bars and the peers' bars to a frame with ``time`` and value columns.
        base: timeframe of the computed rows and of the peers' bars.
        cuts: times (ns UTC) at which history is cut off.
        peers: other symbols' BARS frames on the base timeframe, cut off as well.

    Returns:
        Features of which some value differs, by rows over all cuts: they knew what came later. A row that is there
        only with, or only without, the later history counts against every feature.
    """
    whole = compute(bars, peers or {})
    names = _names(whole)
    differing, rows = np.zeros(len(names), dtype=np.int64), 0
    for cut in cuts:
        part = compute(
            {timeframe: closed_before(frame, timeframe, cut) for timeframe, frame in bars.items()},
            {name: closed_before(frame, base, cut) for name, frame in (peers or {}).items()},
        )
        known = closed_before(whole, base, cut)
        rows += len(known)
        shared = np.intersect1d(known["time"], part["time"])
        differing += len(known) + len(part) - 2 * len(shared)
        first, second = (_values(frame[frame["time"].isin(shared)]) for frame in (known, part))
        differing += (~((first == second) | (np.isnan(first) & np.isnan(second)))).sum(axis=0)
    return CheckResult("look_ahead", not differing.any(), rows, _named(names, differing))


def closed_before(frame: pd.DataFrame, timeframe: Timeframe, limit: int) -> pd.DataFrame:
    """Return the rows whose bars were closed at ``limit`` (ns UTC)."""
    closed = bar_close(frame["time"].to_numpy(dtype=np.int64), timeframe) <= limit
    return frame[closed].reset_index(drop=True)


def _names(features: pd.DataFrame) -> tuple[str, ...]:
    return tuple(str(name) for name in features.columns if name not in ("time", "symbol"))


def _values(features: pd.DataFrame) -> Float64:
    return np.asarray(features[list(_names(features))].to_numpy(dtype=np.float64))


def _named(names: Sequence[str], counts: np.ndarray) -> dict[str, int]:
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}


def _result(name: str, features: pd.DataFrame, counts: np.ndarray) -> CheckResult:
    offending = _named(_names(features), counts)
    return CheckResult(name, not offending, len(features), offending)
