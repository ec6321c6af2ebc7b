"""Reads ticks and bars from a terminal, simulated or real, without losing or doubling one.

A terminal takes dates in whole seconds. Each poll therefore re-reads the second of the last tick that it has, and takes
away what it has already: rows are compared whole, with their multiplicity, so that several equal ticks within one
millisecond all come, once each, however they are spread over polls. Server epochs become ns UTC by zone rules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.errors import BrokerError
from fx_dagster.market.instruments import BROKER_SYMBOL, SymbolResolver
from fx_dagster.market.schemas import empty_bars, tick_frame
from fx_dagster.market.timeframes import SECOND_NS, Timeframe, bar_close, from_server
from resources.mt5.clock import Clock, SystemClock
from resources.mt5.constants import Mt5Constants
from resources.mt5.simulated import server_seconds
from resources.mt5.structures import TICK_DTYPE

MILLISECOND_NS = 1_000_000

Rows = NDArray[np.void]


class Terminal(Protocol):
    """The part of the ``MetaTrader5`` module that a feed uses."""

    def last_error(self) -> tuple[int, str]:
        """Return the code and description of the last call."""
        ...

    def symbols_get(self, group: str = "*") -> Any:
        """Return the specifications of a group's symbols."""
        ...

    def copy_rates_from_pos(self, symbol: str, timeframe: int, start_pos: int, count: int) -> Any:
        """Return bars by position."""
        ...

    def copy_ticks_from(self, symbol: str, date_from: Any, count: int, flags: int) -> Any:
        """Return ticks from a date on."""
        ...


class TickArrays(NamedTuple):
    """Ticks of one symbol in the order of the terminal, columns ``[n]``.

    ``time`` int64 ns UTC, ``bid``, ``ask``, ``volume`` float64, ``flags`` int32 (``TickFlag``).
    """

    time: NDArray[np.int64]
    bid: NDArray[np.float64]
    ask: NDArray[np.float64]
    volume: NDArray[np.float64]
    flags: NDArray[np.int32]

    def frame(self) -> pd.DataFrame:
        """Return TICKS."""
        return tick_frame(*self)


@dataclass
class _Cursor:
    """What has been read of a symbol.

    Attributes:
        name: the broker's name.
        since_msc: server milliseconds before which nothing is handed over.
        second: server second from which the next poll reads.
        tail: rows of that second and later that have been read.
    """

    name: str
    since_msc: int
    second: int
    tail: Rows


class TerminalFeed:
    """Polls a terminal for new ticks.

    Args:
        terminal: initialized.
        symbols: canonical symbols; the broker's own names are found among the terminal's.
        since_ns: ticks from this time on (ns UTC); None: from the market's present.
        clock: the market's present; None: the terminal's own ``clock`` (the simulated one has it), else the system's.
        ticks_max: rows asked for in one call; more are read in further calls.
        aliases: the broker's names that no rule knows, to canonical symbols.

    Raises:
        BrokerError: the terminal does not answer.
        UnknownSymbolError: the broker does not have a symbol.
    """

    def __init__(
        self,
        terminal: Terminal,
        symbols: Sequence[str],
        *,
        since_ns: int | None = None,
        clock: Clock | None = None,
        ticks_max: int = 10_000,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._terminal = terminal
        self._clock: Clock = clock or getattr(terminal, "clock", None) or SystemClock()
        self._ticks_max = ticks_max
        known = self._answered(terminal.symbols_get(), "symbols_get")
        resolver = resolver_of([info.name for info in known], aliases or {})
        self._names = {symbol: resolver.broker(symbol) for symbol in symbols}
        self._cursors: dict[str, _Cursor] = {}
        self.watermark_ns = 0
        """Market time (ns UTC) before which every tick has been handed over."""
        self.seek(self._clock.now_ns() if since_ns is None else since_ns)

    @property
    def symbols(self) -> tuple[str, ...]:
        """The canonical symbols, in the order given."""
        return tuple(self._names)

    def seek(self, since_ns: int) -> None:
        """Go on with the ticks from ``since_ns`` (ns UTC), whatever was read before."""
        second = server_seconds(since_ns)
        since_msc = second * 1000 + -(-(since_ns % SECOND_NS) // MILLISECOND_NS)
        nothing = np.empty(0, dtype=TICK_DTYPE)
        self._cursors = {symbol: _Cursor(name, since_msc, second, nothing) for symbol, name in self._names.items()}
        self.watermark_ns = since_ns

    def poll(self) -> dict[str, TickArrays]:
        """Return the ticks that came since the last poll, for each symbol that has any.

        Raises:
            BrokerError: the terminal did not answer for some symbol; nothing is taken as read, the next poll goes on.
        """
        now = self._clock.now_ns()
        read = {symbol: self._read(cursor) for symbol, cursor in self._cursors.items()}
        batches: dict[str, TickArrays] = {}
        for symbol, rows in read.items():
            if len(rows):
                batch = _advance(self._cursors[symbol], rows)
                if len(batch.time):
                    batches[symbol] = batch
        self.watermark_ns = max(self.watermark_ns, now)
        return batches

    def history(self, symbol: str, timeframe: Timeframe, bars: int, *, until_ns: int | None = None) -> pd.DataFrame:
        """Return the last ``bars`` closed BARS; ``spread`` in whole points, as terminals keep it.

        Args:
            symbol: canonical symbol.
            timeframe: length of the bars.
            bars: how many; fewer come where the terminal has fewer.
            until_ns: bars that have ended by then (ns UTC); None: by the market's present.

        Raises:
            BrokerError: the terminal did not answer, or has no bars of that timeframe.
        """
        until = self._clock.now_ns() if until_ns is None else until_ns
        constant = getattr(Mt5Constants, f"TIMEFRAME_{timeframe}")
        count = bars + 1
        while True:
            answer = self._terminal.copy_rates_from_pos(self._names[symbol], constant, 0, count)
            rows = self._answered(answer, f"copy_rates_from_pos({symbol}, {timeframe})")
            frame = _bars(rows)
            closed = frame[bar_close(frame["time"].to_numpy(), timeframe) <= until]
            if len(closed) >= bars or len(rows) < count:
                return closed.tail(bars).reset_index(drop=True)
            count *= 2

    def _read(self, cursor: _Cursor) -> Rows:
        """Return the rows that are new; the cursor stays where it is."""
        rows, count = cursor.tail[:0], self._ticks_max
        second, tail = cursor.second, cursor.tail
        fresh: list[Rows] = []
        while True:
            answer = self._terminal.copy_ticks_from(cursor.name, second, count, Mt5Constants.COPY_TICKS_ALL)
            rows = self._answered(answer, f"copy_ticks_from({cursor.name})")
            new = without(rows, tail)
            if len(new):
                fresh.append(new)
            if len(rows) < count:
                return np.concatenate(fresh) if fresh else rows[:0]
            if int(rows["time_msc"][-1]) // 1000 == second:
                count *= 2  # one second holds more rows than a call brings: ask for more of it
            second, tail = _tail(tail, new, second)

    def _answered(self, answer: Any, call: str) -> Any:
        if answer is not None:
            return answer
        code, text = self._terminal.last_error()
        raise BrokerError(
            f"MetaTrader 5: {call} failed with {code} ({text})", mend="see that the terminal runs and is connected"
        )


def resolver_of(names: Sequence[str], aliases: Mapping[str, str]) -> SymbolResolver:
    """Return the resolver of a broker's names; what is no possible name, and aliases of names that are not there, go.

    Args:
        names: as the terminal lists them.
        aliases: names that no rule knows, to canonical symbols.
    """
    possible = [name for name in names if BROKER_SYMBOL.fullmatch(name)]
    return SymbolResolver(possible, {name: symbol for name, symbol in aliases.items() if name in possible})


def without(rows: Rows, known: Rows) -> Rows:
    """Return ``rows`` less those of ``known``, each as often as it is known, in the order of ``rows``."""
    count = len(known)
    if not count:
        return rows
    if len(rows) >= count and rows[:count].tobytes() == known.tobytes():
        return rows[count:]
    both = np.ascontiguousarray(np.concatenate([known, rows])).view(np.dtype((np.void, TICK_DTYPE.itemsize)))
    _, kind = np.unique(both, return_inverse=True)
    kind = kind.reshape(-1)
    repeats = np.bincount(kind[:count], minlength=int(kind.max()) + 1)
    return rows[_occurrence(kind[count:]) >= repeats[kind[count:]]]


def _occurrence(kind: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return for each element how many equal ones are before it."""
    order = np.argsort(kind, kind="stable")
    ordered = kind[order]
    heads = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(heads, append=len(ordered))
    rank = np.empty(len(kind), dtype=np.intp)
    rank[order] = np.arange(len(ordered)) - np.repeat(heads, lengths)
    return rank


def _tail(tail: Rows, new: Rows, second: int) -> tuple[int, Rows]:
    """Return the second of the newest row, and all read rows from it on."""
    rows = np.concatenate([tail, new])
    if not len(rows):
        return second, rows
    last = max(int(rows["time_msc"].max()) // 1000, second)
    return last, rows[rows["time_msc"] >= last * 1000]


def _advance(cursor: _Cursor, new: Rows) -> TickArrays:
    cursor.second, cursor.tail = _tail(cursor.tail, new, cursor.second)
    handed = new[new["time_msc"] >= cursor.since_msc]
    return TickArrays(
        from_server(handed["time_msc"] * MILLISECOND_NS),
        np.ascontiguousarray(handed["bid"]),
        np.ascontiguousarray(handed["ask"]),
        np.ascontiguousarray(handed["volume_real"]),
        handed["flags"].astype(np.int32),
    )


def _bars(rows: Rows) -> pd.DataFrame:
    types = empty_bars().dtypes.drop("time")
    time = from_server(rows["time"] * SECOND_NS)
    return pd.DataFrame({"time": time, **{name: rows[name].astype(kind) for name, kind in types.items()}})
