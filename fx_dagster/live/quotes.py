"""Which symbols' quotes do not count at a moment, in words: impossible prices, or silence in an open market."""

import numpy as np

from fx_dagster.core.trading import TradingCore


class QuoteWatch:
    """Looks at what the core knows of each symbol's quotes, and remembers what it has said.

    Args:
        core: knows gate, sessions and times.
    """

    def __init__(self, core: TradingCore) -> None:
        self._core = core
        self._bad: dict[str, str] = {}

    def news(self, time: int) -> list[tuple[str, str]]:
        """Return (symbol, message) for each symbol that has just been halted or let go again at ``time`` (ns UTC)."""
        believable, silent = self._core.believable(), self._core.silent(time)
        places, symbols = np.flatnonzero(~believable | silent).tolist(), self._core.symbols
        bad = {symbols[place]: _words(bool(believable[place])) for place in places}
        known, self._bad = self._bad, bad
        if bad == known:
            return []
        changed = [symbol for symbol in symbols if bad.get(symbol) != known.get(symbol)]
        return [(symbol, bad.get(symbol, "quotes count again")) for symbol in changed]

    def halted(self) -> dict[str, str]:
        """Return the symbols that are halted, and why, as of the last :meth:`news`."""
        return dict(self._bad)


def _words(believable: bool) -> str:
    return "halted: silent while its market is open" if believable else "halted: impossible or crossed prices"
