"""Which symbols' quotes count at a moment: market open, believable, not silent for too long."""

from collections.abc import Sequence

import numpy as np

from fx_dagster.live.judge import Quotes
from fx_dagster.live.ticks import TickGate
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.sessions import Session
from fx_dagster.market.validation import staleness_ns


class QuoteWatch:
    """Looks at the gate and the session calendars.

    Args:
        instruments: one a symbol.
        gate: knows the last good tick of each.
        stale_ns: silence, counted while the market is open, after which a symbol is halted.
        since: market time (ns UTC) from which silence is counted for a symbol that never had a tick.
    """

    def __init__(self, instruments: Sequence[Instrument], gate: TickGate, *, stale_ns: int, since: int) -> None:
        self._instruments = tuple(instruments)
        self._gate = gate
        self._stale_ns = stale_ns
        self._since = since
        self._known_bad: dict[str, str] = {}

    def at(self, time: int) -> Quotes:
        """Return what counts at market time ``time`` (ns UTC)."""
        open_by_session: dict[Session, bool] = {}
        for item in self._instruments:
            if item.session not in open_by_session:
                open_by_session[item.session] = bool(item.session.is_open(np.array([time]))[0])
        places = range(len(self._instruments))
        return Quotes(
            market_open=np.array([open_by_session[item.session] for item in self._instruments], dtype=np.bool_),
            believable=np.array([self._gate.believable(place) for place in places], dtype=np.bool_),
            silent=np.array([self._silent(place, time) for place in places], dtype=np.bool_),
        )

    def _silent(self, place: int, time: int) -> bool:
        last = max(self._gate.last_time(place), self._since)
        # The calendar is asked only when the plain difference says so: weekends and holidays do not count.
        return time - last > self._stale_ns and staleness_ns(last, time, self._instruments[place]) > self._stale_ns

    def news(self, quotes: Quotes) -> list[tuple[str, str]]:
        """Return (symbol, message) for each symbol that has just been halted or let go again."""
        found = []
        for place, item in enumerate(self._instruments):
            bad = _words(quotes, place)
            if bad != self._known_bad.get(item.symbol, ""):
                found.append((item.symbol, bad or "quotes count again"))
                self._known_bad[item.symbol] = bad
        return found

    def halted(self) -> dict[str, str]:
        """Return the symbols that are halted, and why, as of the last :meth:`news`."""
        return {symbol: why for symbol, why in self._known_bad.items() if why}


def _words(quotes: Quotes, place: int) -> str:
    if not quotes.believable[place]:
        return "halted: impossible or crossed prices"
    if quotes.silent[place] and quotes.market_open[place]:
        return "halted: silent while its market is open"
    return ""
