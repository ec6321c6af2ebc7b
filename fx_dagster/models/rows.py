"""What every family checks before it fits."""

import numpy as np

from fx_dagster.errors import TrainingError
from fx_dagster.models.protocol import Float32, Float64, Int8, ModelSpec

_NAMED_MAX = 5


def require_trainable(name: str, X: Float32, y: Int8, sample_weight: Float64 | None, spec: ModelSpec) -> None:
    """Check rows before a fit.

    Raises:
        TrainingError: wrong shapes, too few rows, one class only, or features that are not finite or constant.
    """
    rows, width = X.shape
    if width != len(spec.feature_names) or len(y) != rows or (sample_weight is not None and len(sample_weight) != rows):
        raise TrainingError(
            f"{name}: X is {X.shape}, y has {len(y)} rows, the catalogue names {len(spec.feature_names)} features",
            mend="build X and y with Dataset.from_frames",
        )
    if rows < spec.rows_min:
        raise TrainingError(
            f"{name}: {rows} training rows, {spec.rows_min} are needed",
            mend="use a longer history or fewer folds (FX_TRAINING_FOLDS), or lower FX_TRAINING_ROWS_MIN",
        )
    classes = np.unique(y)
    if not np.isin(classes, (0, 1)).all() or len(classes) < 2:
        raise TrainingError(
            f"{name}: labels hold only {classes[:_NAMED_MAX].tolist()}, both 0 and 1 are needed",
            mend="use a longer history, or check the labels",
        )
    _require_usable_features(name, X, spec)


def _require_usable_features(name: str, X: Float32, spec: ModelSpec) -> None:
    names = np.asarray(spec.feature_names)
    broken = names[~np.isfinite(X).all(axis=0)]
    if len(broken):
        raise TrainingError(
            f"{name}: NaN or infinite values in {_listed(broken)}",
            mend="the feature checks show the rows; leave warm-up rows out",
        )
    constant = [feature for feature in names[X.min(axis=0) == X.max(axis=0)] if feature not in spec.may_be_constant]
    if constant:
        raise TrainingError(
            f"{name}: one value only in {_listed(np.asarray(constant))}",
            mend="use a longer history, or take the feature out of the catalogue",
        )


def _listed(names: np.ndarray) -> str:
    rest = len(names) - _NAMED_MAX
    return ", ".join(names[:_NAMED_MAX].tolist()) + (f" and {rest} more" if rest > 0 else "")
