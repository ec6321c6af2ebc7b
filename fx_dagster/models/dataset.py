"""The rows that models learn from, pooled over symbols."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.features.windows import Windows, pooled, windows_of
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.models.inputs import ModelInputs
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
        base: timeframe of the rows.
        horizon_bars: bars after which a label is known.
        windows: sequences and charts of the rows; None: this data set has none.
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
    base: Timeframe = Timeframe.H1
    horizon_bars: int = 12
    windows: Windows | None = None

    def __post_init__(self) -> None:
        rows = len(self.X)
        wrong = [name for name in _PER_ROW if len(getattr(self, name)) != rows]
        if self.windows is not None and len(self.windows) != rows:
            wrong.append("windows")
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
        bars: Mapping[str, Mapping[Timeframe, pd.DataFrame]],
        catalogue: FeatureCatalogue,
        *,
        horizon_bars: int = 12,
    ) -> Self:
        """Join FEATURES with LABELS by symbol and bar, and pool the symbols.

        Left out are rows without a label (the last ones, whose future is not known), without features (warm-up), or
        with too little history for a sequence and a chart.

        Args:
            features: FEATURES frames by symbol.
            labels: LABELS frames by symbol.
            bars: BARS frames of the catalogue's timeframes by symbol.
            catalogue: of the features.
            horizon_bars: bars after which a label is known.

        Raises:
            TrainingError: a symbol has no labels or bars, a feature is missing, or no row is left.
        """
        symbols = tuple(sorted(features))
        for what, table in (("labels", labels), ("bars", bars)):
            lacking = [symbol for symbol in symbols if symbol not in table]
            if lacking:
                raise TrainingError(f"no {what} for {', '.join(lacking)}", mend=f"materialise the {what} first")
        parts, windows = [], []
        for code, symbol in enumerate(symbols):
            _require_columns(symbol, features[symbol], catalogue.names)
            own, enough = windows_of(features[symbol], bars[symbol], catalogue, symbol=symbol)
            joined, kept = _joined(code, features[symbol][enough], labels[symbol], catalogue.names)
            parts.append(joined)
            windows.append(own.take(kept))
        together = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        if together.empty:
            raise TrainingError("features and labels share no row", mend="check that both cover the same months")
        order = np.lexsort((together["symbol_code"], together["time"]))
        return cls._of(together.iloc[order], pooled(windows).take(order), symbols, catalogue, horizon_bars)

    @classmethod
    def _of(
        cls, table: pd.DataFrame, windows: Windows, symbols: tuple[str, ...], catalogue: FeatureCatalogue, horizon: int
    ) -> Self:
        return cls(
            X=np.ascontiguousarray(table[list(catalogue.names)].to_numpy(np.float32)),
            y=table["up"].to_numpy(np.int8),
            time=table["time"].to_numpy(np.int64),
            end_time=table["end_time"].to_numpy(np.int64),
            symbol_code=table["symbol_code"].to_numpy(np.int16),
            forward_return=table["forward_return"].to_numpy(np.float64),
            cost=table["cost"].to_numpy(np.float64),
            symbols=symbols,
            feature_names=catalogue.names,
            feature_hash=catalogue.hash,
            base=catalogue.base,
            horizon_bars=horizon,
            windows=windows,
        )

    def take(self, index: NDArray[np.intp]) -> Self:
        """Return the rows at ``index`` (positions or a boolean mask)."""
        chosen = {name: getattr(self, name)[index] for name in _PER_ROW}
        return replace(self, windows=None if self.windows is None else self.windows.take(index), **chosen)

    def inputs(self) -> ModelInputs:
        """Return the tensors of all rows; take a part of the rows first where there are many.

        A data set without windows gives empty ones.
        """
        windows, rows = self.windows, len(self)
        return ModelInputs(
            features=self.X,
            sequence=np.empty((rows, 0, 0), np.float32) if windows is None else windows.sequence(),
            chart=np.empty((rows, 0, 0, 0), np.float32) if windows is None else windows.chart(),
            time=self.time,
            symbol=self.symbol_code.astype(np.int64),
        )

    def tensors(self) -> dict[str, NDArray]:
        """Return what the rows' graph takes, by name."""
        return dict(self.inputs().tensors())

    def parts(self, rows: int = 4_096) -> Iterator[Self]:
        """Yield the rows in parts whose windows fit into memory."""
        for first in range(0, len(self), rows):
            yield self.take(np.arange(first, min(first + rows, len(self))))

    def with_labels(self, y: Int8) -> Self:
        """Return the same rows with other labels."""
        return replace(self, y=y)

    def spec(
        self,
        *,
        seed: int,
        threads: int = 0,
        rows_min: int = 500,
        may_be_constant: frozenset[str] = frozenset(),
        effort: float = 1.0,
    ) -> ModelSpec:
        """Return the specification of a model on these features."""
        return ModelSpec(
            self.feature_names, self.feature_hash, seed, threads, rows_min, may_be_constant, self.symbols, self.base,
            self.horizon_bars, effort,
        )  # fmt: skip


def _require_columns(symbol: str, features: pd.DataFrame, names: Sequence[str]) -> None:
    missing = [name for name in names if name not in features.columns]
    if missing:
        raise TrainingError(
            f"features of {symbol} lack {', '.join(missing[:5])}", mend="materialise the features again"
        )


def _joined(
    code: int, features: pd.DataFrame, labels: pd.DataFrame, names: Sequence[str]
) -> tuple[pd.DataFrame, NDArray[np.intp]]:
    """Return the rows that have both, and their places in ``features``."""
    columns = ["time", "end_time", "up", "forward_return", "cost"]
    placed = features[["time", *names]].assign(place=np.arange(len(features)))
    joined = placed.merge(labels[columns], on="time", how="inner", validate="one_to_one")
    return joined.drop(columns="place").assign(symbol_code=np.int16(code)), joined["place"].to_numpy(np.intp)
