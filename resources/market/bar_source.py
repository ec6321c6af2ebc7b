"""What all sources that hold bars share: ranges, spreads where there are none, and ticks modelled from the bars."""

import abc
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import SourceError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import BAR_TYPES, empty_bars
from fx_dagster.market.tick_model import model_spread, model_ticks
from fx_dagster.market.timeframes import Int64, Timeframe, bar_close, bar_open
from resources.market.selection import refuse_unknown

UNITS_A_TICK = 3_000_000.0
"""Units of the base currency that stand for one tick where a venue reports traded units (Dukascopy) instead of ticks.

Chosen so that a mean EURUSD hour has about 3,000 ticks, as MetaTrader brokers count; only relative size matters to the
volume-weighted indicators.
"""

UNKNOWN_TICK_VOLUME = 4.0
"""Ticks of a bar whose source counts none: the four that are modelled from it."""

CACHE_BYTES_MAX = 512 * 1024 * 1024


def tick_volume_of_units(units: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a tick count for traded units: one for each :data:`UNITS_A_TICK`, at least one."""
    return np.maximum(np.round(units / UNITS_A_TICK), 1.0)


def bar_frame(time: Int64, prices: NDArray[np.float64], tick_volume: NDArray, spread: NDArray) -> pd.DataFrame:
    """Return BARS of opening times ``[n]`` (ns UTC), prices ``[n, 4]`` (open, high, low, close), counts and points."""
    columns = (time, *prices.T, tick_volume, spread)
    return pd.DataFrame(
        {name: np.asarray(column, dtype=kind) for (name, kind), column in zip(BAR_TYPES.items(), columns, strict=True)}
    )


def with_spread(bars: pd.DataFrame, symbol: str) -> pd.DataFrame:
    """Return the bars with a modelled spread (wider around rollover) where they have none (0); negative ones stay."""
    spread = bars["spread"].to_numpy()
    if (spread != 0).all():
        return bars
    modelled = model_spread(bars["time"].to_numpy(), instrument(symbol))
    return bars.assign(spread=np.where(spread != 0, spread, modelled))


class FrameCache:
    """Parsed frames in memory, the least recently used going first once ``bytes_max`` is passed."""

    def __init__(self, bytes_max: int = CACHE_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._frames: OrderedDict[Hashable, pd.DataFrame] = OrderedDict()
        self._bytes = 0

    def get(self, key: Hashable, load: Callable[[], pd.DataFrame]) -> pd.DataFrame:
        """Return the frame of ``key``, loaded at most once while it is kept. Callers must not write to it."""
        if key in self._frames:
            self._frames.move_to_end(key)
            return self._frames[key]
        frame = load()
        self._frames[key] = frame
        self._bytes += _size(frame)
        while self._bytes > self._bytes_max and len(self._frames) > 1:
            _, oldest = self._frames.popitem(last=False)
            self._bytes -= _size(oldest)
        return frame


def _size(frame: pd.DataFrame) -> int:
    return int(frame.memory_usage(index=False).sum())


def rows_between(frame: pd.DataFrame, start: int, end: int) -> pd.DataFrame:
    """Return a copy of the rows with ``start <= time < end``, in the frame's order, which need not be of time."""
    time = frame["time"].to_numpy()
    inside = (time >= start) & (time < end)
    return frame[inside].reset_index(drop=True)


class BarSource(abc.ABC):
    """Base of the sources whose own data are bars; implements ``MarketSource`` except for where the bars come from.

    Ticks are modelled from each bar alone, so that neighbouring ranges compose whatever the edges.
    """

    name: str
    has_ticks = False

    @abc.abstractmethod
    def symbols(self) -> tuple[str, ...]:
        """Return the canonical symbols that are usable, sorted."""

    @abc.abstractmethod
    def base_timeframe(self) -> Timeframe:
        """Return the timeframe of the bars."""

    @abc.abstractmethod
    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return BARS that include all that open in ``[start, end)``, in order; ``symbol`` is known."""

    @abc.abstractmethod
    def _span(self, symbol: str) -> tuple[int, int]:
        """Return ``[first, end)``, ns UTC; ``symbol`` is known."""

    def left_out(self) -> dict[str, str]:
        """Return what is not used, with the reason."""
        return {}

    def span(self, symbol: str) -> tuple[int, int]:
        """Return ``[first opening, end of the last bar)`` in ns UTC."""
        self._refuse_unknown(symbol)
        return self._span(symbol)

    def bars(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return the BARS that open in ``[start, end)``; a spread that the data lack is modelled."""
        self._refuse_unknown(symbol)
        return with_spread(self._own_bars(symbol, start, end), symbol)

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return four modelled TICKS a bar, those with ``start <= time < end``."""
        self._refuse_unknown(symbol)
        base = self.base_timeframe()
        first = int(bar_open(np.array([start]), base)[0])
        bars = self.bars(symbol, first, end)
        # The spread is given, so that a bar whose sides crossed makes crossed ticks, which validation then sees.
        return rows_between(model_ticks(bars, base, bars["spread"].to_numpy(), instrument(symbol)), start, end)

    def _own_bars(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        return rows_between(self._load(symbol, start, end), start, end) if start < end else empty_bars()

    def _refuse_unknown(self, symbol: str) -> None:
        refuse_unknown(symbol, self.symbols(), self.left_out(), self.name)


def span_of_bars(first: int, last: int, timeframe: Timeframe) -> tuple[int, int]:
    """Return ``[first, end)`` of bars that open from ``first`` to ``last`` (ns UTC)."""
    return first, int(bar_close(np.array([last]), timeframe)[0])


def refuse_bad_prices(
    place: str, names: tuple[str, ...], prices: NDArray[np.float64], row_of: Callable[[int], int], share_max: float
) -> None:
    """Raise if more than ``share_max`` of the rows ``[n, k]`` hold a price ≤ 0; fewer are left for quarantine.

    Raises:
        SourceError: names the first such row and column.
    """
    bad = prices <= 0
    rows = bad.any(axis=1)
    share = float(rows.mean())
    if share <= share_max:
        return
    row = int(rows.argmax())
    column = int(bad[row].argmax())
    raise SourceError(
        f"{place}: row {row_of(row)}, column {names[column]}: price {prices[row, column]:g} is not above 0, "
        f"and {share:.1%} of the rows are like it",
        mend="export the file again; single bad rows would be quarantined",
    )


def refuse_disorder(place: str, time: Int64, row_of: Callable[[int], int]) -> None:
    """Raise unless the bars' times strictly ascend: of two bars for one time, no one can say which is true.

    Raises:
        SourceError: names the first row that is a duplicate or out of order.
    """
    late = np.diff(time) <= 0
    if not late.any():
        return
    index = int(late.argmax()) + 1
    what = "duplicated bar" if time[index] == time[index - 1] else "bar out of order"
    stamp = np.datetime_as_string(np.int64(time[index]).astype("datetime64[ns]"), unit="s")
    raise SourceError(
        f"{place}: row {row_of(index)}: {what} ({stamp} on the file's clock)",
        mend="export the file again, or remove the row that is wrong",
    )
