"""The rows that models learn from, pooled over symbols."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.protocol import Float32, Float64, Int8, ModelSpec

_PER_ROW = ("X", "y", "time", "end_time", "symbol_code", "forward_return", "cost")


@dataclass(frozen=True)
class Dataset:
    """Training rows, sorted by time and then by symbol; n rows, F features.

    Attributes:
        X: features, float32 ``[n, F]``, C-contiguous.
        y: label, int8 ``[n]``: 1 where the price rose over the horizon.
        time: opening time of the row's bar, int64 ns UTC ``[n]``.
        end_time: when the label is known, int64 ns UTC ``[n]``; purging needs it.
        symbol_code: index into ``symbols``, int16 ``[n]``.
        forward_return: fractional forward return before costs, float64 ``[n]``.
        cost: round-trip cost as a fraction of the price, float64 ``[n]``.
        symbols: canonical symbols.
        feature_names: names of the columns of ``X``.
        feature_hash: hash of the feature catalogue.
    """

    X: Float32
    y: Int8
    time: NDArray[np.int64]
    end_time: NDArray[np.int64]
    symbol_code: NDArray[np.int16]
    forward_return: Float64
    cost: Float64
    symbols: tuple[str, ...]
    feature_names: tuple[str, ...]
    feature_hash: str

    def __post_init__(self) -> None:
        rows = len(self.X)
        wrong = [name for name in _PER_ROW if len(getattr(self, name)) != rows]
        if wrong or self.X.ndim != 2 or self.X.shape[1] != len(self.feature_names):
            raise TrainingError(
                f"dataset of {rows} rows and {len(self.feature_names)} named features: "
                f"X is {self.X.shape}, other lengths differ in {wrong}",
                mend="build it with Dataset.from_frames",
            )

    def __len__(self) -> int:
        return len(self.y)

    @classmethod
    def from_frames(
        cls,
        features: Mapping[str, pd.DataFrame],
        labels: Mapping[str, pd.DataFrame],
        feature_names: Sequence[str],
        feature_hash: str,
    ) -> Self:
        """Join FEATURES with LABELS by symbol and bar, and pool the symbols.

        Rows without a label (the last ones, whose future is not known) or without features (warm-up) are left out.

        Raises:
            TrainingError: a symbol has no labels, a feature is missing, or no row is left.
        """
        symbols = tuple(sorted(features))
        lacking = [symbol for symbol in symbols if symbol not in labels]
        if lacking:
            raise TrainingError(f"no labels for {', '.join(lacking)}", mend="materialise the labels first")
        parts = [
            _joined(symbol, code, features[symbol], labels[symbol], feature_names)
            for code, symbol in enumerate(symbols)
        ]
        pooled = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if pooled.empty:
            raise TrainingError("features and labels share no row", mend="check that both cover the same months")
        pooled = pooled.sort_values(["time", "symbol_code"], kind="stable", ignore_index=True)
        return cls(
            X=np.ascontiguousarray(pooled[list(feature_names)].to_numpy(np.float32)),
            y=pooled["up"].to_numpy(np.int8),
            time=pooled["time"].to_numpy(np.int64),
            end_time=pooled["end_time"].to_numpy(np.int64),
            symbol_code=pooled["symbol_code"].to_numpy(np.int16),
            forward_return=pooled["forward_return"].to_numpy(np.float64),
            cost=pooled["cost"].to_numpy(np.float64),
            symbols=symbols,
            feature_names=tuple(feature_names),
            feature_hash=feature_hash,
        )

    def take(self, index: NDArray[np.intp]) -> Self:
        """Return the rows at ``index`` (positions or a boolean mask)."""
        chosen = {name: getattr(self, name)[index] for name in _PER_ROW}
        return replace(self, **chosen)

    def with_labels(self, y: Int8) -> Self:
        """Return the same rows with other labels."""
        return replace(self, y=y)

    def spec(
        self, *, seed: int, threads: int = 0, rows_min: int = 500, may_be_constant: frozenset[str] = frozenset()
    ) -> ModelSpec:
        """Return the specification of a model on these features."""
        return ModelSpec(self.feature_names, self.feature_hash, seed, threads, rows_min, may_be_constant)

    def nbytes(self) -> int:
        """Memory of all columns, in bytes."""
        return sum(value.nbytes for f in fields(self) if isinstance(value := getattr(self, f.name), np.ndarray))


def _joined(
    symbol: str, code: int, features: pd.DataFrame, labels: pd.DataFrame, feature_names: Sequence[str]
) -> pd.DataFrame:
    missing = [name for name in feature_names if name not in features.columns]
    if missing:
        raise TrainingError(
            f"features of {symbol} lack {', '.join(missing[:5])}", mend="materialise the features again"
        )
    columns = ["time", "end_time", "up", "forward_return", "cost"]
    joined = features[["time", *feature_names]].merge(labels[columns], on="time", how="inner", validate="one_to_one")
    return joined.assign(symbol_code=np.int16(code))
