"""All features of one symbol over a whole history."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fx_dagster.errors import DataError
from fx_dagster.features.catalogue import CLIP, CONTEXT_NAMES, SPREAD_WINDOW, VOLATILITY_LONG, FeatureCatalogue
from fx_dagster.features.clock import clock_features
from fx_dagster.features.cross import cross_features, leading
from fx_dagster.features.prices import indicator_features, prefixed, return_features
from fx_dagster.features.volatility import realised_volatility, spread_features, volatility_features
from fx_dagster.indicators.arrays import BarArrays, Float64, bar_arrays, floored_atr, last_closed, take
from fx_dagster.indicators.batch import indicator_columns
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import Timeframe


def compute_features(
    bars: Mapping[Timeframe, pd.DataFrame],
    catalogue: FeatureCatalogue,
    *,
    instrument: Instrument,
    peers: Mapping[str, pd.DataFrame] | None = None,
) -> pd.DataFrame:
    """Compute the catalogue's features.

    Args:
        bars: BARS frames of the symbol, closed bars only, for every timeframe of ``catalogue.timeframes``. Values do
            not depend on where history begins once each frame reaches ``MEMORY_BARS`` of its own bars further back.
        catalogue: which features.
        instrument: the symbol's; its point turns the spread into a price.
        peers: BARS frames of the other symbols on the base timeframe; needed, and used, if ``catalogue.cross_symbol``.
            An entry under the symbol's own name is left out; of many, the leading ones are used
            (:func:`fx_dagster.features.cross.leading`).

    Returns:
        FEATURES frame: ``time`` (the base bar's opening, int64 ns UTC) and ``catalogue.names`` as float32. The leading
        rows in which some feature is still warming up are left out: ``len(bars) - len(features)`` rows. Rows after that
        are all kept, so that a value that is not finite shows up in the checks.

    Raises:
        DataError: a timeframe, column or the peers are missing, or bars are out of order.
    """
    base = bar_arrays(bars, catalogue.base)
    context = {timeframe: bar_arrays(bars, timeframe) for timeframe in catalogue.context}
    columns = indicator_columns(base, list(context.values()))
    volatility = realised_volatility(base.close, VOLATILITY_LONG)
    values = indicator_features(base, columns)
    for timeframe, arrays in context.items():
        values |= _context_features(base, timeframe, arrays)
    values |= return_features(base, columns, volatility) | volatility_features(base, volatility)
    atr = floored_atr(columns["atr_14"], base.close)
    values |= spread_features(_spread(bars[catalogue.base]), instrument.point, atr, SPREAD_WINDOW)
    values |= clock_features(base.time, catalogue.base)
    if catalogue.cross_symbol:
        values |= cross_features(base, _peer_arrays(catalogue.base, peers, instrument.symbol))
    return _frame(base, values, catalogue.names)


def _context_features(base: BarArrays, timeframe: Timeframe, arrays: BarArrays) -> dict[str, Float64]:
    features = indicator_features(arrays, indicator_columns(arrays, []))
    positions = last_closed(base.time, base.timeframe, arrays.time, timeframe)
    return {name: take(values, positions) for name, values in prefixed(features, timeframe, CONTEXT_NAMES).items()}


def _spread(frame: pd.DataFrame) -> Float64:
    if "spread" not in frame:
        raise DataError("bars: column 'spread' is missing", mend="pass a BARS frame")
    return np.ascontiguousarray(frame["spread"].to_numpy(dtype=np.float64))


def _peer_arrays(base: Timeframe, peers: Mapping[str, pd.DataFrame] | None, symbol: str) -> dict[str, BarArrays]:
    names = sorted({symbol, *(peers or {})})
    leaders = {names[place] for place in leading(names)}
    others = {name: frame for name, frame in (peers or {}).items() if name != symbol and name in leaders}
    if not others:
        raise DataError(
            f"{symbol}: the catalogue compares symbols, but there are no peers",
            mend="pass their bars, or use feature_catalogue(..., cross_symbol=False)",
        )
    return {name: bar_arrays({base: frame}, base) for name, frame in others.items()}


def _frame(base: BarArrays, values: Mapping[str, Float64], names: tuple[str, ...]) -> pd.DataFrame:
    matrix = np.empty((len(base), len(names)), dtype=np.float32, order="F")
    warm = 0
    for place, name in enumerate(names):
        column = values[name]
        finite = np.isfinite(column)
        warm = max(warm, int(finite.argmax()) if finite.any() else len(base))
        # An infinite value is a fault that the checks must see: it is not clipped into a plausible one.
        matrix[:, place] = np.where(np.isinf(column), column, np.clip(column, -CLIP, CLIP))
    frame = pd.DataFrame(matrix[warm:], columns=list(names), copy=False)
    frame.insert(0, "time", base.time[warm:])
    return frame
