"""What a tick costs with more and more symbols in one core: gate, bars, indicators, account and a decision each."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from bench.data import POINT, QUOTE, START, without_weekends
from bench.replays import BALANCE, LEVERAGE, control
from bench.session import SLOW_RUNS, Session
from bench.table import Limit, Row
from bench.timing import Contender, microseconds, timed
from fx_dagster.core.rows import Event, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import TradingCore
from fx_dagster.decision.rows import MEMORY
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import SECOND_NS, Timeframe
from fx_dagster.settings import CostSettings

SYMBOLS = (1, 10, 100, 1_000)
TICKS = 600_000
"""Of each run, over all symbols together."""
WARM_ROUNDS, WARM_STEP_S = 3_900, 20
"""Every symbol's first ticks, not timed: 21 hours, until every indicator and its context speak."""
STEP_S = 2
LEAST_RATIO = 0.9
"""One symbol's cost over that of many: a tenth is what runs differ by."""
EVENTS = 65_536
NOTE = "traditional level, M1 base, 30 ticks a bar and symbol; a tenth more than one symbol's cost is allowed: noise"
TRIED = (
    "a quiet tick costs the same with every number of symbols. What grows is a bar's close: beyond a hundred symbols "
    "the windows of a symbol's indicators and features, 18 KB, come from beyond the processor's second-level cache, "
    "1.4 µs a bar and symbol. Tried: comparing symbols with the leading ones instead of all pairs, which took away "
    "half of what 1,000 symbols cost beyond one, and stays; fetching the next ticks' records ahead of their turn, "
    "which changed nothing"
)


def rows(session: Session) -> Iterator[Row]:
    """Measure every number of symbols beside one symbol."""
    count = session.size(TICKS)
    cores = {symbols: _Stream(symbols, count) for symbols in SYMBOLS}
    alone = cores[SYMBOLS[0]].contender()
    for symbols in SYMBOLS[1:]:
        work = f"a tick with {symbols:,} symbols, one core"
        ours, theirs = session.in_turns(
            work, cores[symbols].contender(), {"one symbol": alone}, microseconds, SLOW_RUNS
        )  # fmt: skip
        yield Row(work, ours, "µs a tick", Limit(LEAST_RATIO, beside=True), rivals=theirs, note=NOTE, tried=TRIED)


class _Stream:
    """A core at work on a stream of ticks of so many symbols, each run going on where the last one ended."""

    def __init__(self, symbols: int, count: int) -> None:
        items = [instrument(f"SIM{place:03d}") for place in range(symbols)]
        memory = np.zeros(1, dtype=MEMORY)
        ledger = new_ledger(
            items, CostSettings(), memory=memory, balance=BALANCE, leverage=LEVERAGE, account_currency="USD",
            events=EVENTS,
        )  # fmt: skip
        catalogue = feature_catalogue(Timeframe.M1, cross_symbol=symbols > 1)
        spec = CoreSpec(items, catalogue, control(Timeframe.M1), START, asks=False, places=True)
        self._core = TradingCore(spec, ledger)
        self._rng = np.random.default_rng(symbols)
        self._count, self._passed = count, 0
        self._bid: NDArray[np.float64] = np.full(symbols, 1.1)
        self._take(self._ticks(WARM_ROUNDS, WARM_STEP_S))

    def contender(self) -> Contender:
        """Return a contender that works through the next ticks."""

        def run() -> float:
            ticks = self._ticks(self._count // len(self._bid), STEP_S)
            return timed(lambda: self._take(ticks), len(ticks.time))()

        return run

    def _ticks(self, rounds: int, step_s: int) -> Ticks:
        """Return a tick of every symbol in every round, evenly spread over the time of the round."""
        n = len(self._bid)
        bid = (self._bid + np.cumsum(self._rng.integers(-4, 5, (rounds, n)), axis=0) * POINT).round(5)
        passed = self._passed + np.arange(1, rounds * n + 1, dtype=np.int64) * (step_s * SECOND_NS // n)
        self._bid, self._passed = bid[-1], int(passed[-1])
        spread = self._rng.integers(6, 20, rounds * n) * POINT
        return Ticks(
            symbol=np.tile(np.arange(n, dtype=np.int32), rounds),
            time=without_weekends(passed),
            bid=bid.ravel(),
            ask=(bid.ravel() + spread).round(5),
            volume=np.zeros(rounds * n),
            flags=np.full(rounds * n, QUOTE, dtype=np.int32),
        )

    def _take(self, ticks: Ticks) -> None:
        done, last = 0, len(ticks.time)
        while done < last:
            done, event = self._core.take(ticks, done, last)
            if event is Event.FULL:
                self._core.forget_log()
                self._core.core.ledger.money[0]["events"] = 0
