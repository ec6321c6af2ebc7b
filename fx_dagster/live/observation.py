"""What the decision step looks at besides quotes: features, votes and volatility of the bars that have just closed.

First form: the batch functions over the bounded histories, for the symbols that closed a bar. They are the functions
of the assets and of the backtest, so that the numbers are the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.backtest.costs import bar_spreads
from fx_dagster.decision.arrays import VOTES, Float64
from fx_dagster.decision.inputs import (
    HISTORY_BARS,
    LONG_BARS,
    aligned,
    cross_symbol,
    traditional_signals,
    volatilities,
)
from fx_dagster.execution.conversion import conversion_paths, converted
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import FeatureCatalogue
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.indicators.votes import votes, warm
from fx_dagster.live.bars import BarBook
from fx_dagster.market.instruments import Instrument
from fx_dagster.models.protocol import Float32


@dataclass(frozen=True)
class Observation:
    """Numbers of ``n`` symbols; rows that closed no bar, or are still warming up, are NaN.

    Attributes:
        rows: symbols that closed a bar.
        warm: bool ``[n]``; whether every feature of the closed bar is known.
        features: float32 ``[n, F]``.
        atr, volatility_short, volatility_long, spread_median: float64 ``[n]``, as the decision step wants them.
        votes: float64 ``[n, 13]``.
        agreement, correlation_shift, conversion: float64 ``[n]``.
    """

    rows: NDArray[np.intp]
    warm: NDArray[np.bool_]
    features: Float32
    atr: Float64
    volatility_short: Float64
    volatility_long: Float64
    spread_median: Float64
    votes: Float64
    agreement: Float64
    correlation_shift: Float64
    conversion: Float64


class Observer:
    """Computes observations from a bar book.

    Args:
        instruments: one a symbol.
        catalogue: which features.
        account_currency: what profit is converted into.

    Raises:
        SettingsError: a profit currency cannot be converted with these symbols.
    """

    def __init__(self, instruments: Sequence[Instrument], catalogue: FeatureCatalogue, account_currency: str) -> None:
        self._instruments = tuple(instruments)
        self._catalogue = catalogue
        self._paths = conversion_paths(self._instruments, account_currency)

    def look(self, book: BarBook, rows: NDArray[np.intp]) -> Observation:
        """Return what is known of the bars that these symbols have just closed."""
        found = self._empty(rows)
        peers = {item.symbol: book.base_frame(place) for place, item in enumerate(self._instruments)}
        for row in rows:
            self._look_at(book, int(row), peers, found)
        self._compare(book, rows, found)
        return found

    def _empty(self, rows: NDArray[np.intp]) -> Observation:
        n = len(self._instruments)
        absent = np.full(n, np.nan)
        return Observation(
            rows=rows,
            warm=np.zeros(n, dtype=np.bool_),
            features=np.full((n, len(self._catalogue)), np.nan, dtype=np.float32),
            atr=absent.copy(),
            volatility_short=absent.copy(),
            volatility_long=absent.copy(),
            spread_median=absent.copy(),
            votes=np.full((n, VOTES), np.nan),
            agreement=absent.copy(),
            correlation_shift=absent.copy(),
            conversion=absent.copy(),
        )

    def _look_at(self, book: BarBook, row: int, peers: dict[str, pd.DataFrame], found: Observation) -> None:
        item, base = self._instruments[row], self._catalogue.base
        frames = book.frames(row)
        bars = frames[base]
        close = bars["close"].to_numpy(np.float64)
        indicators = compute_indicators(frames, base).iloc[-1:]
        found.atr[row] = float(indicators["atr_14"].iloc[0])
        if warm(indicators)[0]:
            found.votes[row] = votes(indicators, close[-1:])[0]
        short, long = volatilities(close[-HISTORY_BARS:], base)
        found.volatility_short[row], found.volatility_long[row] = short[-1], long[-1]
        spreads = bar_spreads(bars.iloc[-LONG_BARS:], item)
        # The last row of inputs.spread_medians, without the others.
        found.spread_median[row] = np.median(spreads[-LONG_BARS:])
        features = compute_features(
            frames, self._catalogue, instrument=item, peers=peers if self._catalogue.cross_symbol else None
        )
        if len(features):
            found.features[row] = features.iloc[-1, 1:].to_numpy(np.float32)
            found.warm[row] = bool(np.isfinite(found.features[row]).all())

    def _compare(self, book: BarBook, rows: NDArray[np.intp], found: Observation) -> None:
        """Fill in what several symbols say together, and the conversion into the account's currency."""
        price = {item.symbol: book.last_close(place) for place, item in enumerate(self._instruments)}
        for place, item in enumerate(self._instruments):
            found.conversion[place] = converted(self._paths[item.symbol], price, 1.0)
        if len(self._instruments) < 2:
            return
        frames = [book.base_frame(place).iloc[-HISTORY_BARS:] for place in range(len(self._instruments))]
        times = [frame["time"].to_numpy(np.int64) for frame in frames]
        _, close = aligned(times, [frame["close"].to_numpy(np.float64) for frame in frames])
        close = close[-HISTORY_BARS:]
        signals = np.full(close.shape, np.nan)
        weights = (1.0 / VOTES,) * VOTES
        for row in rows:
            signals[-1, row] = traditional_signals(found.votes[row : row + 1], weights)[0]
        agreement, shift = cross_symbol(close, signals, last_only=True)
        found.agreement[:] = agreement[-1]
        found.correlation_shift[:] = shift[-1]
