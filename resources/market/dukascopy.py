"""Dukascopy's M1 bars of both sides, over the internet, through ``dukascopy-python``.

Bars are bid bars with a real spread: the mean of ask minus bid at open, high, low and close. Times are UTC. Volume is
in units of the base currency; a tick stands for three million (see ``bar_source.UNITS_A_TICK``). Ticks are modelled
from the bars. History is fetched month by month when it is asked for, and kept in memory; the lake keeps it for good.

``dukascopy-python`` waits for the server without limit and swallows errors while it retries. Here it makes one attempt
at a time, on a thread of its own under a deadline, and attempts are repeated with growing pauses.
"""

import datetime as dt
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd

from fx_dagster.errors import SourceError, UnknownSymbolError
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, MINUTE_NS, SECOND_NS, Timeframe
from resources.market.bar_source import BarSource, FrameCache, bar_frame, refuse_disorder, tick_volume_of_units

DEFAULT_DAYS = 120
_PRICES = ("open", "high", "low", "close")
_COLUMNS = (*_PRICES, "volume")

Fetch = Callable[..., pd.DataFrame]


class DukascopySource(BarSource):
    """Dukascopy's history as a market source.

    Args:
        symbols: canonical symbols.
        start: first instant, ns UTC; None: 120 days before the end.
        end: first instant after the last, ns UTC; None: the last midnight UTC.
        deadline_s: longest that one month of one side may take, all attempts together.
        attempts: how often a month is asked for.
        pause_s: first pause between two attempts; it doubles, to at most 10 s.
        fetch: the library's ``fetch``, or what stands in for it.

    Raises:
        UnknownSymbolError: Dukascopy does not have a symbol.
    """

    name = "dukascopy"

    def __init__(
        self,
        symbols: tuple[str, ...],
        *,
        start: int | None = None,
        end: int | None = None,
        deadline_s: float = 60.0,
        attempts: int = 4,
        pause_s: float = 0.5,
        fetch: Fetch | None = None,
    ) -> None:
        self._names = {symbol: _instrument_name(symbol) for symbol in sorted(symbols)}
        self._end = _last_midnight() if end is None else end - end % MINUTE_NS
        self._start = self._end - DEFAULT_DAYS * DAY_NS if start is None else start - start % MINUTE_NS
        self._deadline_s, self._attempts, self._pause_s = deadline_s, attempts, pause_s
        self._fetch = fetch or _library_fetch
        self._cache = FrameCache()

    def symbols(self) -> tuple[str, ...]:
        """Return the symbols asked for, sorted."""
        return tuple(self._names)

    def base_timeframe(self) -> Timeframe:
        """Return M1."""
        return Timeframe.M1

    def _span(self, symbol: str) -> tuple[int, int]:  # noqa: ARG002
        return self._start, self._end

    def _load(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        start, end = max(start, self._start), min(end, self._end)
        frames = [
            self._cache.get((symbol, edges), partial(self._month, symbol, *edges))
            for edges in _months(self._start, self._end)
            if edges[0] < end and edges[1] > start
        ]
        return pd.concat(frames, ignore_index=True) if frames else bar_frame(*_no_rows())

    def _month(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        sides = [self._side(symbol, side, start, end) for side in ("B", "A")]
        return join_sides(symbol, *sides, start=start, end=end)

    def _side(self, symbol: str, side: str, start: int, end: int) -> pd.DataFrame:
        import requests
        import tenacity

        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._attempts) | tenacity.stop_after_delay(self._deadline_s),
            wait=tenacity.wait_random_exponential(multiplier=self._pause_s, max=10.0),
            # ValueError: what came back is no JSON, as from a proxy or a busy server.
            retry=tenacity.retry_if_exception_type((requests.RequestException, OSError, ValueError)),
            reraise=True,
        )
        arguments = (self._names[symbol], side, _datetime(start), _datetime(end))
        until = time.monotonic() + self._deadline_s
        try:
            return retrying(lambda: _within(until - time.monotonic(), self._fetch, *arguments))
        except (requests.RequestException, OSError, ValueError, LookupError) as error:
            day = _datetime(start).date()
            raise SourceError(
                f"Dukascopy did not deliver {symbol} M1 from {day}: {type(error).__name__}",
                mend="check the internet connection and freeserv.dukascopy.com, or use FX_SOURCE_KIND=sample",
            ) from error


def join_sides(symbol: str, bid: pd.DataFrame, ask: pd.DataFrame, *, start: int, end: int) -> pd.DataFrame:
    """Return BARS of the two sides as the library delivers them: index ``timestamp`` (UTC), prices and volume.

    A minute that only one side has gets a modelled spread later (0 here) if it is the bid's, and is left out if it is
    the ask's: there is then no bid bar.

    Raises:
        SourceError: a column is missing, or the bars are duplicated or out of order.
    """
    for side, frame in (("bid", bid), ("ask", ask)):
        for column in _COLUMNS:
            if column not in frame.columns:
                raise SourceError(
                    f"Dukascopy {symbol} {side}: column {column} is missing", mend="update dukascopy-python"
                )
    bid = _rows_of(symbol, bid, start, end)
    opposite = _rows_of(symbol, ask, start, end).reindex(bid.index)
    point = instrument(symbol).point
    prices = bid[list(_PRICES)].to_numpy(np.float64)
    between = opposite[list(_PRICES)].to_numpy(np.float64) - prices
    spread = np.nan_to_num(np.round(between.mean(axis=1) / point, 3), nan=0.0)
    units = bid["volume"].to_numpy(np.float64)
    return bar_frame(bid.index.to_numpy(np.int64), prices, tick_volume_of_units(units), spread)


def _rows_of(symbol: str, frame: pd.DataFrame, start: int, end: int) -> pd.DataFrame:
    opening = np.asarray(pd.DatetimeIndex(frame.index).as_unit("ns").asi8, dtype=np.int64)
    refuse_disorder(f"Dukascopy {symbol}", opening, lambda index: index + 1)
    return frame.set_axis(opening, axis=0)[(opening >= start) & (opening < end)]


def _no_rows() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    return np.empty(0, dtype=np.int64), np.empty((0, 4)), np.empty(0), np.empty(0)


def _instrument_name(symbol: str) -> str:
    from dukascopy_python import instruments

    name = f"{symbol[:3]}/{symbol[3:]}"
    if name not in {value for key, value in vars(instruments).items() if key.startswith("INSTRUMENT_")}:
        raise UnknownSymbolError(f"Dukascopy has no symbol {symbol!r}", mend="use a pair such as EURUSD or XAUUSD")
    instrument(symbol)
    return name


def _library_fetch(name: str, side: str, start: dt.datetime, end: dt.datetime) -> pd.DataFrame:
    import dukascopy_python

    # The library retries while no_of_retries - 1 <= max_retries: with -1 it raises at once, and pauses are made here.
    frame: pd.DataFrame = dukascopy_python.fetch(
        name, dukascopy_python.INTERVAL_MIN_1, side, start, end, max_retries=-1
    )
    return frame


def _within(deadline_s: float, fetch: Fetch, *arguments: object) -> pd.DataFrame:
    """Return ``fetch(*arguments)``, or raise ``TimeoutError`` at the deadline.

    The thread is left behind in that case, since nothing can end a blocked read; being a daemon, it holds up no exit.
    """
    result: list[pd.DataFrame] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            result.append(fetch(*arguments))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, where it is raised
            failure.append(error)

    thread = threading.Thread(target=run, name="dukascopy", daemon=True)
    thread.start()
    thread.join(max(deadline_s, 0.0))
    if thread.is_alive():
        raise TimeoutError("no answer within the deadline")
    if failure:
        raise failure[0]
    return result[0]


def _months(start: int, end: int) -> list[tuple[int, int]]:
    """Return ``[start, end)`` cut at the months of UTC."""
    first, last = (np.int64(edge).astype("datetime64[ns]").astype("datetime64[M]") for edge in (start, end - 1))
    cuts = np.arange(first, last + 2).astype("datetime64[ns]").astype(np.int64)
    return [(max(int(left), start), min(int(right), end)) for left, right in pairwise(cuts)]


def _datetime(time_ns: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(time_ns // SECOND_NS, tz=dt.UTC)


def _last_midnight() -> int:
    now = dt.datetime.now(tz=dt.UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    return int(midnight.timestamp()) * SECOND_NS
