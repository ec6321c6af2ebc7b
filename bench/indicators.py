"""The thirteen indicators: a bar at a time, many rows at a time, and a whole history."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import numpy as np
from numpy.typing import NDArray

from bench.data import columns, minute_bars
from bench.peers import NAUTILUS, OWN, REUSING
from bench.session import Session
from bench.table import Limit, Row
from bench.timing import Contender, microseconds, nanoseconds, timed
from fx_dagster.indicators.arrays import BarArrays
from fx_dagster.indicators.batch import indicator_values
from fx_dagster.indicators.catalogue import INDICATOR_COLUMNS
from fx_dagster.indicators.incremental import new_states, push_one, push_rows

ONE_US, ROW_US = 1.5, 0.3
BARS, HISTORY = 20_000, 1_000_000
_NAUTILUS_NOTE = "nautilus has 13 of the usual 14, in 14 Python calls a bar"


def rows(session: Session) -> Iterator[Row]:
    """Measure all of it."""
    bars = minute_bars(session.size(HISTORY))
    with ExitStack() as stack:
        start = session.peers.start
        steps = {
            "nautilus_trader": stack.enter_context(start(NAUTILUS, "nautilus_indicators.py", columns(bars))),
            "TA-Lib streams": stack.enter_context(start(OWN, "talib_stream.py", columns(bars))),
        }
        yield _one_bar(session, bars, steps)
        yield _many_rows(session, bars, steps, 9, "nine timeframes")
        yield _many_rows(session, bars, steps, 100, "a hundred symbols")
    reused = np.empty((len(INDICATOR_COLUMNS), len(bars)))
    for what, out, environment in (("into a matrix at hand", reused, REUSING), ("into a new matrix", None, OWN)):
        with session.peers.start(environment, "talib_batch.py", columns(bars)) as talib:
            yield _whole_history(session, bars, what, out, talib)


def _one_bar(session: Session, bars: BarArrays, rivals: Mapping[str, Contender]) -> Row:
    states, each, row = new_states(1), list(_table(bars, BARS)), 0

    def run() -> None:
        for bar in each:
            push_one(states, row, bar)

    work = "one new bar, 13 indicators, one Python call"
    ours, theirs = session.in_turns(work, timed(run, len(each)), rivals, microseconds)
    return Row(work, ours, "µs a bar", Limit(ONE_US), rivals=theirs, note=_NAUTILUS_NOTE)


def _many_rows(session: Session, bars: BarArrays, rivals: Mapping[str, Contender], count: int, what: str) -> Row:
    states, which = new_states(count), np.arange(count, dtype=np.int64)
    batches = list(_table(bars, min(BARS, len(bars)) // count * count).reshape(-1, count, 5))

    def run() -> None:
        for batch in batches:
            push_rows(states, which, batch)

    work = f"a new bar each for {what}, one Python call"
    ours, theirs = session.in_turns(work, timed(run, len(batches) * count), rivals, microseconds)
    return Row(work, ours, "µs a bar", Limit(ROW_US), rivals=theirs, note=_NAUTILUS_NOTE)


def _whole_history(
    session: Session, bars: BarArrays, what: str, out: NDArray[np.float64] | None, talib: Contender
) -> Row:
    def run() -> None:
        indicator_values(bars, [], out)

    work = f"13 indicators over {len(bars):,} bars, {what}"
    ours, theirs = session.in_turns(work, timed(run, len(bars)), {"TA-Lib": talib}, nanoseconds)
    note = "TA-Lib's usual 14; its allocator " + ("gives out new memory" if out is None else "keeps and reuses memory")
    return Row(work, ours, "ns a bar", Limit(1.0, beside=True), rivals=theirs, note=note)


def _table(bars: BarArrays, count: int) -> NDArray[np.float64]:
    return np.stack([bars.open, bars.high, bars.low, bars.close, bars.tick_volume], axis=1)[:count]
