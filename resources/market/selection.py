"""The part of a source that the settings ask for: its symbols and its days."""

import datetime as dt
import difflib

import numpy as np
import pandas as pd

from fx_dagster.errors import SettingsError, SourceError, UnknownSymbolError
from fx_dagster.market.source import MarketSource
from fx_dagster.market.timeframes import Timeframe, from_server


def split_symbols(text: str) -> tuple[str, ...]:
    """Return the canonical symbols of a comma-separated setting, in its order, each once."""
    return tuple(dict.fromkeys(part.strip().upper() for part in text.split(",") if part.strip()))


def parse_day(setting: str, text: str) -> int | None:
    """Return when (ns UTC) a trading day ``YYYY-MM-DD`` begins: 17:00 New York on the day before; None if empty.

    Raises:
        SettingsError: not a day.
    """
    if not text.strip():
        return None
    try:
        day = dt.date.fromisoformat(text.strip())
    except ValueError:
        raise SettingsError(f"setting {setting}: {text!r} is not a day", mend="write it as YYYY-MM-DD") from None
    server = np.array([np.datetime64(day, "ns").astype(np.int64)])
    return int(from_server(server)[0])


def refuse_unknown(symbol: str, known: tuple[str, ...], left_out: dict[str, str], source: str) -> None:
    """Raise unless ``symbol`` is one of ``known``.

    Raises:
        UnknownSymbolError: it is not; the message gives the reason it was left out, or the nearest symbol.
    """
    if symbol in known:
        return
    if symbol in left_out:
        raise UnknownSymbolError(f"source {source} leaves {symbol} out: {left_out[symbol]}")
    nearest = difflib.get_close_matches(symbol, known, n=1)
    hint = f"did you mean {nearest[0]}?" if nearest else f"it has {', '.join(known[:20])}"
    raise UnknownSymbolError(f"source {source} has no symbol {symbol!r}", mend=hint)


class SelectedSource:
    """A source narrowed to some symbols and to ``[start, end)``; implements ``MarketSource``.

    Args:
        inner: the whole source.
        symbols: canonical symbols wanted; empty: all of them.
        start: first instant, ns UTC; None: the source's.
        end: first instant after the last, ns UTC; None: the source's.

    Raises:
        UnknownSymbolError: a wanted symbol is neither used nor known as left out.
        SourceError: nothing is left.
    """

    def __init__(
        self, inner: MarketSource, *, symbols: tuple[str, ...] = (), start: int | None = None, end: int | None = None
    ) -> None:
        self._inner = inner
        self._start, self._end = start, end
        self.name = inner.name
        self.has_ticks = inner.has_ticks
        self._left_out = dict(inner.left_out())
        for symbol in symbols:
            if symbol not in self._left_out:
                refuse_unknown(symbol, inner.symbols(), {}, inner.name)
        for symbol in inner.symbols():
            reason = self._why_not(symbol, symbols)
            if reason:
                self._left_out[symbol] = reason
        self._symbols = tuple(symbol for symbol in inner.symbols() if symbol not in self._left_out)
        if not self._symbols:
            reasons = "; ".join(f"{symbol}: {why}" for symbol, why in list(self._left_out.items())[:5])
            raise SourceError(
                f"source {self.name} has no usable symbol ({reasons})",
                mend="change FX_SOURCE_SYMBOLS, FX_SOURCE_START or FX_SOURCE_END",
            )

    def _why_not(self, symbol: str, wanted: tuple[str, ...]) -> str:
        if wanted and symbol not in wanted:
            return "not asked for"
        if self._start is None and self._end is None:
            return ""
        first, end = self._clip(*self._inner.span(symbol))
        return "" if first < end else "no data in the days asked for"

    def _clip(self, start: int, end: int) -> tuple[int, int]:
        start = start if self._start is None else max(start, self._start)
        end = end if self._end is None else min(end, self._end)
        return start, max(start, end)

    def symbols(self) -> tuple[str, ...]:
        """Return the chosen symbols."""
        return self._symbols

    def left_out(self) -> dict[str, str]:
        """Return what the source or the settings leave out, with the reason."""
        return dict(self._left_out)

    def base_timeframe(self) -> Timeframe:
        """Return the source's base timeframe."""
        return self._inner.base_timeframe()

    def span(self, symbol: str) -> tuple[int, int]:
        """Return the source's span inside the chosen days."""
        refuse_unknown(symbol, self._symbols, self._left_out, self.name)
        return self._clip(*self._inner.span(symbol))

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return the source's ticks inside the chosen days."""
        refuse_unknown(symbol, self._symbols, self._left_out, self.name)
        return self._inner.ticks(symbol, *self._clip(start, end))

    def bars(self, symbol: str, start: int, end: int) -> pd.DataFrame | None:
        """Return the source's bars that open inside the chosen days."""
        refuse_unknown(symbol, self._symbols, self._left_out, self.name)
        return self._inner.bars(symbol, *self._clip(start, end))
