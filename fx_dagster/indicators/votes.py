"""What each indicator says about the next move.

Only votes here: how they are weighed against each other and against the models belongs to the decision step. Votes
use addition, multiplication, division and square root only, all correctly rounded, so that a compiled twin that keeps
the order of operations gives the same bits.
"""

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import DataError
from fx_dagster.indicators.arrays import Float64
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS, INDICATORS

Indicated: TypeAlias = pd.DataFrame | Mapping[str, Float64]


def votes(indicators: Indicated, close: Float64) -> Float64:
    """Return the thirteen votes of each row.

    Args:
        indicators: an INDICATORS frame, or a mapping with its columns as float64 ``[n]``.
        close: closes of the same rows, float64 ``[n]``.

    Returns:
        float64 ``[n, 13]`` in [-1, 1], columns in the order of ``INDICATOR_NAMES``; positive means up. An indicator
        that is still warming up votes 0; :func:`warm` tells which rows are complete.

    Raises:
        DataError: a column is missing, or the closes are not as many as the rows.
    """
    columns = _columns(indicators, len(close))
    values = np.empty((len(close), len(INDICATORS)))
    for place, indicator in enumerate(INDICATORS):
        values[:, place] = indicator.vote(columns, np.asarray(close, dtype=np.float64))
    values[~np.isfinite(values)] = 0.0
    return values


def warm(indicators: Indicated) -> NDArray[np.bool_]:
    """Return which rows (bool ``[n]``) have every indicator past its warm-up."""
    columns = _columns(indicators, None)
    return np.logical_and.reduce([np.isfinite(columns[name]) for name in INDICATOR_COLUMNS])


def _columns(indicators: Indicated, rows: int | None) -> dict[str, Float64]:
    absent = [name for name in INDICATOR_COLUMNS if name not in indicators]
    if absent:
        raise DataError(
            f"indicator column {absent[0]!r} is missing", mend="pass the frame that compute_indicators made"
        )
    columns = {name: np.asarray(indicators[name], dtype=np.float64) for name in INDICATOR_COLUMNS}
    lengths = {len(values) for values in columns.values()} | ({rows} if rows is not None else set())
    if len(lengths) > 1:
        raise DataError(f"indicators and closes differ in length: {sorted(lengths)}", mend="pass the same rows of both")
    return columns
