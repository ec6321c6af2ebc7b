"""What models are asked with: one set of tensors, of which each takes what it needs."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import DAY_NS

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TIME_ORIGIN_NS: Final = 946_684_800_000_000_000
"""2000-01-01 00:00 UTC: days are counted from here, so that a double tells them to the nanosecond."""

UNKNOWN_SYMBOL: Final = -1

TENSORS: Final[Mapping[str, np.dtype]] = {
    "features": np.dtype(np.float32),
    "sequence": np.dtype(np.float32),
    "chart": np.dtype(np.float32),
    "time": np.dtype(np.float64),
    "symbol": np.dtype(np.int64),
}
"""Tensors that come from outside, by name."""


@dataclass(frozen=True)
class ModelInputs:
    """N rows to answer.

    Attributes:
        features: float32 ``[N, F]``.
        sequence: float32 ``[N, L, C]``; the newest bar last.
        chart: float32 ``[N, T, 5, W]``; the newest bar last.
        time: opening of the row's bar, int64 ns UTC ``[N]``.
        symbol: place of the row's symbol in the release's ``symbols``, int64 ``[N]``; -1: it does not know it.
    """

    features: Float32
    sequence: Float32
    chart: Float32
    time: Int64
    symbol: Int64

    def __post_init__(self) -> None:
        rows = len(self.features)
        for name in ("sequence", "chart", "time", "symbol"):
            if len(getattr(self, name)) != rows:
                raise DataError(
                    f"{rows} rows of features, {len(getattr(self, name))} of {name}", mend="one of each a row"
                )

    def __len__(self) -> int:
        return len(self.features)

    def take(self, index: NDArray) -> Self:
        """Return the rows at ``index``."""
        return type(self)(*(getattr(self, name)[index] for name in TENSORS))

    def with_symbol(self, symbol: Int64) -> Self:
        """Return the same rows with other places of their symbols."""
        return replace(self, symbol=symbol)

    def tensors(self) -> dict[str, NDArray]:
        """Return what ONNX Runtime and Triton take, by name: ``time`` as float64 days since 2000 ``[N, 1]``."""
        return {
            "features": np.ascontiguousarray(self.features, dtype=np.float32),
            "sequence": np.ascontiguousarray(self.sequence, dtype=np.float32),
            "chart": np.ascontiguousarray(self.chart, dtype=np.float32),
            "time": days(self.time)[:, None],
            "symbol": np.ascontiguousarray(self.symbol, dtype=np.int64)[:, None],
        }


def days(time: Int64) -> Float64:
    """Return days since 2000-01-01 UTC of times in ns UTC."""
    return (np.asarray(time, dtype=np.int64) - TIME_ORIGIN_NS) / DAY_NS
