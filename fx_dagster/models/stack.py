"""Rows of the models that stand on other models: what these said out of fold, beside the rows themselves.

Whoever stands on another model learns from predictions by models that had not seen the row, never from fitted ones.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.answer import BASE_MODELS
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import Float64, ModelSpec

STACKED: Final = (*(f"p_up_{name}" for name in BASE_MODELS), "regime")
"""Tensors beside those of the rows: p(up) of each base model, float32 ``[N, 1]``, and ``regime`` float32 ``[N, 4]``."""


@dataclass(frozen=True, kw_only=True)
class StackedRows(Dataset):
    """Rows with what the base models and the regime model said of them.

    Attributes:
        said: p(up) of :data:`BASE_MODELS`, float64 ``[n, B]``, out of fold.
        regime: probabilities of :data:`REGIMES`, float64 ``[n, 4]``, out of fold.
        meta: p(up) of the meta model, float64 ``[n]``, out of fold; None where it is not there yet.
    """

    said: Float64
    regime: Float64
    meta: Float64 | None = None

    @classmethod
    def of(cls, rows: Dataset, said: Mapping[str, Float64], regime: Float64, meta: Float64 | None = None) -> Self:
        """Put answers beside their rows.

        Args:
            rows: n rows.
            said: p(up) float64 ``[n]`` of every base model by name.
            regime: float64 ``[n, 4]``.
            meta: p(up) of the meta model, float64 ``[n]``.

        Raises:
            TrainingError: a base model is missing, or an answer is NaN: a row was in no test fold.
        """
        missing = [name for name in BASE_MODELS if name not in said]
        if missing:
            raise TrainingError(
                f"no out-of-fold predictions of {', '.join(missing)}", mend="train the base models first"
            )
        base = np.column_stack([said[name] for name in BASE_MODELS])
        tables = [base, regime] if meta is None else [base, regime, meta]
        if any(len(table) != len(rows) or not np.isfinite(table).all() for table in tables):
            raise TrainingError(
                "a row has no out-of-fold prediction", mend="take only rows that every model was tested on"
            )
        plain = {name: getattr(rows, name) for name in Dataset.__dataclass_fields__}
        return cls(**plain, said=base, regime=regime, meta=meta)

    def take(self, index: NDArray[np.intp]) -> Self:
        """Return the rows at ``index``."""
        return type(self).of(
            Dataset(**{name: getattr(self, name) for name in Dataset.__dataclass_fields__}).take(index),
            dict(zip(BASE_MODELS, self.said[index].T, strict=True)),
            self.regime[index],
            None if self.meta is None else self.meta[index],
        )

    def tensors(self) -> dict[str, NDArray]:
        """Return what a stacked model's graph takes, by name."""
        columns = {f"p_up_{name}": self.said[:, place, None] for place, name in enumerate(BASE_MODELS)}
        if self.meta is not None:
            columns["p_up_meta"] = self.meta[:, None]
        own = {name: values.astype(np.float32) for name, values in {**columns, "regime": self.regime}.items()}
        return {**super().tensors(), **own}


def require_stacked(name: str, rows: Dataset, *, meta: bool = False) -> StackedRows:
    """Return rows as those that a model stands on others with.

    Args:
        name: the model's name, for messages.
        rows: to check.
        meta: whether it stands on the meta model too.

    Raises:
        TrainingError: nothing was said of the rows, or an answer is no probability.
    """
    if not isinstance(rows, StackedRows) or (meta and rows.meta is None):
        raise TrainingError(
            f"{name}: the rows lack the answers of {'the meta model' if meta else 'the base models'}",
            mend="put out-of-fold answers beside them with StackedRows.of",
        )
    said = [rows.said, rows.regime] if rows.meta is None else [rows.said, rows.regime, rows.meta]
    if any(((table < 0.0) | (table > 1.0)).any() for table in said):
        raise TrainingError(f"{name}: an answer lies outside [0, 1]", mend="train the model that gave it again")
    return rows


def require_stackable(
    name: str, rows: Dataset, outcome: NDArray, spec: ModelSpec, *, meta: bool = False
) -> StackedRows:
    """Return training rows of a model that stands on others.

    Args:
        name: the model's name, for messages.
        rows: to check.
        outcome: what is learned, ``[n]``.
        spec: of the model.
        meta: whether it stands on the meta model too.

    Raises:
        TrainingError: as :func:`require_stacked`; or there are too few rows, or one outcome only.
    """
    stacked = require_stacked(name, rows, meta=meta)
    if len(rows) < spec.rows_min:
        raise TrainingError(
            f"{name}: {len(rows)} training rows, {spec.rows_min} are needed",
            mend="use a longer history or fewer folds (FX_TRAINING_FOLDS), or lower FX_TRAINING_ROWS_MIN",
        )
    found = np.unique(outcome)
    if not np.array_equal(found, (0, 1)):
        raise TrainingError(
            f"{name}: outcomes are only {found.tolist()}, both 0 and 1 are needed",
            mend="use a longer history, or check the labels",
        )
    return stacked
