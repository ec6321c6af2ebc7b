"""A made market in real time: a process of its own that sends ticks at their due moments, and the feed that takes them.

Run as ``python -m bench.live_market SYMBOLS TICKS_A_SECOND SEED``: it says that it is ready, waits for a line
``beginning position seconds`` (monotonic ns, market time in ns UTC, whole seconds), and writes rows of
:data:`fx_dagster.core.tape.TICK`. A tick's time is the market's at its due moment, so that the market's clock less a
tick's time is how late it is. Ticks come by a Poisson process, one in :data:`CROSSED_ONE_IN` crossed, prices by a walk
that all symbols share in part.
"""

import asyncio
import ctypes
import fcntl
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pandas as pd

from fx_dagster.core.tape import TICK
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.ticks import TickBatch, empty_batch
from fx_dagster.market.instruments import instrument
from fx_dagster.market.schemas import TickFlag
from fx_dagster.market.timeframes import DAY_NS, SECOND_NS, Int64, Timeframe, bar_close, bar_open

START = 1_719_910_800 * SECOND_NS
"""2024-07-02 09:00 UTC, a Tuesday: the month's first bars are near, and the session is open for days."""
BASE = Timeframe.M1
PRICE = 1.1
MINUTE_VOLATILITY = 3e-4
SHARED = 0.6
"""Part of a tick's move that all symbols make."""
SPREAD_POINTS = 10
CROSSED_ONE_IN = 20_000
BARS_MAX = {Timeframe.D1: 1_000, Timeframe.W1: 300, Timeframe.MN1: 100}
PIPE_BYTES, READ_BYTES = 1 << 20, 1 << 16
READY = b"!"
SELDOM, AWAKE_NS = 100.0, 200_000
"""Below so many ticks a second the sender does not sleep so shortly before a tick: its timer is not to be measured."""
_SET_PIPE_SIZE = 1031
_TIMER_SLACK = 29
_FLAGS = int(TickFlag.BID | TickFlag.ASK)


def symbols(count: int) -> tuple[str, ...]:
    """Return that many symbols: a real one, or simulated ones."""
    return ("EURUSD",) if count == 1 else tuple(f"SIM{number:03d}" for number in range(count))


class MadeFeed:
    """Implements :class:`fx_dagster.live.protocols.TickFeed` over the sending process.

    Args:
        count: symbols.
        rate: ticks a second and symbol.
        seconds: after which the market ends.
        seed: of everything that is made.
    """

    def __init__(self, count: int, rate: float, seconds: int, seed: int) -> None:
        self._symbols = symbols(count)
        self._seed, self._seconds = seed, seconds
        self._rest, self._over = b"", False
        self._news, self._listens = asyncio.Event(), False
        self._clock = self.offset = 0
        self._times: dict[tuple[Timeframe, int], Int64] = {}
        self._pipe, theirs = os.pipe()
        self._sender = subprocess.Popen(
            [sys.executable, "-m", "bench.live_market", str(count), str(rate), str(seed)],
            stdin=subprocess.PIPE, stdout=theirs,
        )  # fmt: skip
        os.close(theirs)
        fcntl.fcntl(self._pipe, _SET_PIPE_SIZE, PIPE_BYTES)
        os.read(self._pipe, len(READY))
        os.set_blocking(self._pipe, False)
        self.sent = 0

    @property
    def info(self) -> FeedInfo:
        """What it carries."""
        return FeedInfo(self._symbols, BASE, 60.0, lossless=False)

    @property
    def problem(self) -> str:
        """Nothing: it always can."""
        return ""

    @property
    def remark(self) -> str:
        """Nothing that a person should know."""
        return ""

    def start(self, position: int, clock: int) -> None:  # noqa: ARG002 - nothing is resumed here
        """Let the market begin; from now on its clock runs as fast as this machine's."""
        beginning = time.monotonic_ns() + SECOND_NS // 2
        self.offset = position - beginning
        self._clock = position
        self._listen()
        if self._sender.stdin is not None:
            self._sender.stdin.write(f"{beginning} {position} {self._seconds}\n".encode())
            self._sender.stdin.close()

    def market_ns(self) -> int:
        """Return market time (ns UTC) now."""
        return time.monotonic_ns() + self.offset

    def poll(self, room: int) -> TickBatch:  # noqa: ARG002 - a live feed returns all
        """Return what has come."""
        received_ns = time.monotonic_ns()
        data = self._rest + self._read()
        whole = len(data) // TICK.itemsize * TICK.itemsize
        self._rest = data[whole:]
        if whole == 0:
            return empty_batch(self._clock, received_ns)
        rows = np.frombuffer(data[:whole], dtype=TICK)
        self.sent += len(rows)
        self._clock = int(rows["time"][-1])
        columns = {name: rows[name].copy() for name in ("symbol", "time", "bid", "ask", "volume", "flags")}
        return TickBatch(**columns, clock=self._clock, received_ns=received_ns)

    def _read(self) -> bytes:
        try:
            data = os.read(self._pipe, READ_BYTES)
        except BlockingIOError:
            return b""
        if not data:
            self._over = True
            self._stop_listening()
        return data

    async def news(self, within_s: float) -> None:  # noqa: ARG002 - there is nothing to ask for
        """Return when ticks have come: the pipe says so, nothing is asked for meanwhile."""
        await self._news.wait()
        self._news.clear()
        if not self._listens:
            self._listen()

    def _listen(self) -> None:
        self._listens = True
        asyncio.get_running_loop().add_reader(self._pipe, self._told)

    def _told(self) -> None:
        if self._news.is_set():  # nobody has looked yet, and needs to be told again
            self._stop_listening()
        self._news.set()

    def _stop_listening(self) -> None:
        self._listens = False
        asyncio.get_running_loop().remove_reader(self._pipe)

    @property
    def finished(self) -> bool:
        """Whether the market is over."""
        return self._over

    def close(self) -> None:
        """End the sending process."""
        self._sender.kill()
        self._sender.wait()
        os.close(self._pipe)

    # -- what was before -------------------------------------------------------------------------------------------

    def history(self, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
        """Return a seeded walk that ends at the price at which the ticks begin."""
        count = min(bars, BARS_MAX.get(timeframe, bars))
        opening = self._openings(timeframe, until, count)
        place = self._symbols.index(symbol)
        rng = np.random.default_rng((self._seed, place, list(Timeframe).index(timeframe)))
        size = MINUTE_VOLATILITY * math.sqrt(timeframe.nominal_ns / BASE.nominal_ns)
        moves = rng.normal(0.0, size, (len(opening), 2))
        # The shared part of the walk is the same for every symbol.
        common = np.random.default_rng((self._seed, 9_999, list(Timeframe).index(timeframe)))
        moves[:, 0] = (1 - SHARED) * moves[:, 0] + SHARED * common.normal(0.0, size, len(opening))
        after = np.concatenate([np.cumsum(moves[:0:-1, 0])[::-1], [0.0]])
        close = PRICE * np.exp(-after)
        start = close * np.exp(-moves[:, 0])
        wick = 0.3 * np.abs(moves[:, 1])
        return pd.DataFrame(
            {
                "time": opening,
                "open": start,
                "high": np.maximum(start, close) * (1 + wick),
                "low": np.minimum(start, close) * (1 - wick),
                "close": close,
                "tick_volume": rng.integers(200, 1_200, len(opening)).astype(np.float64),
                "spread": np.full(len(opening), float(SPREAD_POINTS)),
            }
        ).round(5)

    def _openings(self, timeframe: Timeframe, until: int, count: int) -> Int64:
        key = (timeframe, count)
        if key not in self._times:
            step = min(timeframe.nominal_ns, 7 * DAY_NS)
            every = until - step * np.arange(5 * count + 10, dtype=np.int64)[::-1]
            opening = np.unique(bar_open(every, timeframe))
            self._times[key] = opening[bar_close(opening, timeframe) <= until][-count:]
        return self._times[key]

    def ticks(self, start: int, until: int) -> TickBatch:  # noqa: ARG002 - nothing is resumed here
        """Return none."""
        return empty_batch(until, 0)


# -- the sending process -------------------------------------------------------------------------------------------


def made_ticks(count: int, rate: float, seed: int, position: int, seconds: int) -> Iterator[np.ndarray]:
    """Yield the ticks of one second after another."""
    rng = np.random.default_rng(seed)
    point = np.array([instrument(symbol).point for symbol in symbols(count)])
    own, shared = np.zeros(count), 0.0
    size = MINUTE_VOLATILITY / math.sqrt(60 * rate)
    for second in range(seconds):
        n = int(rng.poisson(count * rate))
        rows = np.zeros(n, dtype=TICK)
        rows["time"] = position + second * SECOND_NS + np.sort(rng.integers(0, SECOND_NS, n))
        rows["symbol"] = rng.integers(0, count, n)
        together = shared + np.cumsum(rng.normal(0.0, size / math.sqrt(count), n))
        path = _paths(own, rows["symbol"], rng.normal(0.0, size, n))
        shared = float(together[-1]) if n else shared
        at = point[rows["symbol"]]
        middle = PRICE * np.exp((1 - SHARED) * path + SHARED * together)
        half = at * SPREAD_POINTS / 2 * np.where(rng.integers(0, CROSSED_ONE_IN, n) == 0, -1, 1)
        rows["bid"], rows["ask"] = np.round((middle - half) / at) * at, np.round((middle + half) / at) * at
        rows["volume"], rows["flags"] = 1.0, _FLAGS
        yield rows


def _paths(own: np.ndarray, symbol: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Return each tick's place on its symbol's walk, and move ``own`` on to the last ones."""
    order = np.argsort(symbol, kind="stable")
    walked = np.cumsum(move[order])
    first = np.flatnonzero(np.diff(symbol[order], prepend=-1))
    before = np.concatenate([[0.0], walked])[first]
    path = np.empty(len(move))
    path[order] = walked - np.repeat(before, np.diff(first, append=len(move))) + own[symbol[order]]
    own[symbol] = path  # of several ticks the last one stays
    return path


def _send(count: int, rate: float, seed: int) -> None:
    ctypes.CDLL(None).prctl(_TIMER_SLACK, 1, 0, 0, 0)
    out = sys.stdout.fileno()
    _write(out, READY)
    beginning, position, seconds = (int(part) for part in sys.stdin.readline().split())
    awake_ns = AWAKE_NS if count * rate < SELDOM else 0
    for rows in made_ticks(count, rate, seed, position, seconds):
        due, done = rows["time"] - position + beginning, 0
        while done < len(rows):
            now = time.monotonic_ns()
            until = int(np.searchsorted(due, now, side="right"))
            if until == done:
                time.sleep(max(0, int(due[done]) - now - awake_ns) / 1e9)
                continue
            _write(out, rows[done:until].tobytes())
            done = until


def _write(out: int, data: bytes) -> None:
    while data:
        data = data[os.write(out, data) :]


if __name__ == "__main__":
    _send(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
