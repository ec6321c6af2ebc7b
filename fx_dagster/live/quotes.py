"""Which symbols' quotes do not count at a moment, in words: impossible prices, or silence in an open market."""

from fx_dagster.core.trading import TradingCore


class QuoteWatch:
    """Looks at what the core knows of each symbol's quotes, and remembers what it has said.

    Args:
        core: knows gate, sessions and times.
    """

    def __init__(self, core: TradingCore) -> None:
        self._core = core
        self._known_bad: dict[str, str] = {}

    def news(self, time: int) -> list[tuple[str, str]]:
        """Return (symbol, message) for each symbol that has just been halted or let go again at ``time`` (ns UTC)."""
        found = []
        believable, silent = self._core.believable(), self._core.silent(time)
        for place, symbol in enumerate(self._core.symbols):
            bad = _words(bool(believable[place]), bool(silent[place]))
            if bad != self._known_bad.get(symbol, ""):
                found.append((symbol, bad or "quotes count again"))
                self._known_bad[symbol] = bad
        return found

    def halted(self) -> dict[str, str]:
        """Return the symbols that are halted, and why, as of the last :meth:`news`."""
        return {symbol: why for symbol, why in self._known_bad.items() if why}


def _words(believable: bool, silent: bool) -> str:
    if not believable:
        return "halted: impossible or crossed prices"
    return "halted: silent while its market is open" if silent else ""
