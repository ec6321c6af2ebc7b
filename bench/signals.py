"""Bare crossovers with costs, as vectorized libraries do them: one pair of windows, and a hundred."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from bench.data import gold_bars
from bench.peers import VECTORBT
from bench.session import Session
from bench.table import Limit, Row
from bench.timing import millions_a_second, timed
from fx_dagster.backtest.signals import crossover, replay_targets, sweep_crossovers

FAST, SLOW = 20, 50
FASTS, SLOWS = tuple(range(5, 55, 5)), tuple(range(60, 160, 10))
COST, SLIPPAGE, CASH = 2e-5, 5e-5, 1e7


def rows(session: Session) -> Iterator[Row]:
    """Measure both."""
    bars, what = gold_bars(session.test_data)
    bars = bars.tail(session.size(len(bars)))
    time, close = np.ascontiguousarray(bars["time"]), np.ascontiguousarray(bars["close"])
    arrays = {"time": time, "close": close}
    pairs = list(product(FASTS, SLOWS))
    fasts, slows = ([pair[side] for pair in pairs] for side in (0, 1))

    def one() -> None:
        replay_targets(
            close, close, crossover(close, FAST, SLOW),
            cost_per_side=COST, slippage=SLIPPAGE, units=1.0, initial_cash=CASH, fill="close",
        )  # fmt: skip

    def many() -> None:
        sweep_crossovers(
            close, close, fasts, slows,
            cost_per_side=COST, slippage=SLIPPAGE, units=1.0, initial_cash=CASH, fill="close",
        )  # fmt: skip

    start = session.peers.start
    with start(VECTORBT, "vectorbt_signals.py", arrays, str(FAST), str(SLOW)) as rival:
        work = f"a crossover of SMA {FAST} and {SLOW} with costs, {len(close):,} bars"
        ours, theirs = session.in_turns(work, timed(one, len(close)), {"vectorbt": rival}, millions_a_second)
        yield Row(work, ours, "M bars/s", Limit(1.0, beside=True), more_is_better=True, rivals=theirs, note=what)
    words = (",".join(map(str, windows)) for windows in (FASTS, SLOWS))
    with start(VECTORBT, "vectorbt_signals.py", arrays, *words) as rival:
        work = f"{len(pairs)} pairs of windows over {len(close):,} bars"
        ours, theirs = session.in_turns(
            work, timed(many, len(close) * len(pairs)), {"vectorbt": rival}, millions_a_second
        )  # fmt: skip
        yield Row(
            work, ours, "M combination·bars/s", Limit(1.0, beside=True), more_is_better=True, rivals=theirs, note=what
        )  # fmt: skip
