"""Where market data comes from: one protocol, whatever stands behind it.

Adapters live in ``resources.market``; the domain and the assets know this protocol only. What is promised here is
checked for every adapter by one shared test suite.

Who refuses what. A source refuses what makes the data unreadable or its meaning doubtful, with a
:class:`~fx_dagster.errors.SourceError` that names file, row (1-based line of the file) and column: a missing column,
a wrong separator, a row that does not parse, mixed time zones, an empty or cut-off file, a bar file whose rows are
duplicated or out of order, and a file in which more than one row in a hundred has a price that is not above 0 (or, of
ticks, is out of order), which is not believed as a whole. A source never repairs and never drops: single bad
values (a tick out of order, twice, crossed, zero, negative or spiking; a bar with an impossible price) are handed on
as rows, so that validation quarantines them to the lake with a reason and counts them.
"""

from typing import Protocol, runtime_checkable

import pandas as pd

from fx_dagster.market.timeframes import Timeframe


@runtime_checkable
class MarketSource(Protocol):
    """Ticks, and where it has them bars, of some symbols.

    Frames have a ``RangeIndex``. All times are int64 ns UTC and all ranges half-open ``[start, end)``, so that
    neighbouring ranges compose: ``ticks(a, b)`` followed by ``ticks(b, c)`` are ``ticks(a, c)``. The same question
    gets the same answer every time.
    """

    name: str
    """The source's kind, as in the setting ``FX_SOURCE_KIND``."""

    has_ticks: bool
    """Whether the ticks are the market's own (or the simulator's); ``False``: they are modelled from bars."""

    def symbols(self) -> tuple[str, ...]:
        """Return the canonical symbols that are usable, sorted."""
        ...

    def left_out(self) -> dict[str, str]:
        """Return each symbol (or file) that was found and is not used, with the reason."""
        ...

    def base_timeframe(self) -> Timeframe:
        """Return the finest timeframe that all used symbols have; nothing finer is ever built from this source."""
        ...

    def span(self, symbol: str) -> tuple[int, int]:
        """Return ``[first, end)`` in ns UTC; every tick and every bar's opening lies inside.

        Raises:
            UnknownSymbolError: the source has no such symbol.
        """
        ...

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        """Return TICKS (``time i8, bid f8, ask f8, volume f8, flags i4``) with ``start <= time < end``, raw.

        In order of the source; in order of time wherever the source is. Modelled ticks carry
        ``TickFlag.MODELLED`` and in ``volume`` the number of real ticks they stand for.

        Raises:
            UnknownSymbolError: the source has no such symbol.
            SourceError: what stands behind cannot be read.
        """
        ...

    def bars(self, symbol: str, start: int, end: int) -> pd.DataFrame | None:
        """Return the source's own BARS of the base timeframe that open in ``[start, end)``; None for a tick source.

        ``time i8`` (opening), ``open high low close f8`` (bid), ``tick_volume f8``, ``spread f8`` (mean, in points).

        Raises:
            UnknownSymbolError: the source has no such symbol.
            SourceError: what stands behind cannot be read.
        """
        ...
