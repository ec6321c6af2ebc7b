"""A market state from history: closed bars are taken in as if their ticks had been seen."""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import pandas as pd

from fx_dagster.compiled import compiled
from fx_dagster.core.intake import compare_signals, fill_inputs, push_closed, read_votes
from fx_dagster.core.rows import Float64
from fx_dagster.core.state import Core
from fx_dagster.decision.rows import Rows
from fx_dagster.decision.step import Record
from fx_dagster.features.cross_incremental import push_grid
from fx_dagster.market.incremental import BAR, load_forming, unfinished_since
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import Int64, Timeframe, bar_close


class History(Protocol):
    """Closed bars of the past."""

    def __call__(self, symbol: str, timeframe: Timeframe, bars: int) -> pd.DataFrame:
        """Return the newest ``bars`` BARS that are closed; fewer where there are fewer."""
        ...


def warm_up(
    core: Core, instruments: Sequence[Instrument], timeframes: Sequence[Timeframe], history: History, until: int,
    bars: int,
) -> None:  # fmt: skip
    """Take in closed bars of every symbol and timeframe, coarsest first, then compare the symbols on their common grid.

    Args:
        core: as new.
        instruments: one a symbol.
        timeframes: base first.
        history: where the bars come from.
        until: moment (ns UTC, the end of a base bar) up to which they are closed.
        bars: of each timeframe.
    """
    base = timeframes[0]
    code = list(Timeframe).index(base)
    since = int(unfinished_since(code, until))
    closes: list[tuple[Int64, Float64]] = []
    for row, item in enumerate(instruments):
        for timeframe in reversed(timeframes[1:]):
            _take_in(core, row, bar_rows(history(item.symbol, timeframe, bars), timeframe))
        reach = max(bars, -(-(until - since) // base.nominal_ns))
        found = bar_rows(history(item.symbol, base, reach), base)
        _take_in(core, row, found[-bars:])
        load_forming(core.forming[row], code, found, until)
        closes.append((found["time"][-bars:], found["close"][-bars:]))
    _compare_history(core, _grid(closes))
    core.control[0]["closed_until"] = until
    core.control[0]["clock"] = until


def bar_rows(frame: pd.DataFrame, timeframe: Timeframe) -> Rows:
    """Return BARS as the core's records."""
    rows = np.zeros(len(frame), dtype=BAR)
    for name in ("time", "open", "high", "low", "close", "tick_volume", "spread"):
        rows[name] = frame[name].to_numpy()
    rows["end"] = bar_close(rows["time"], timeframe)
    rows["code"] = list(Timeframe).index(timeframe)
    return rows


@compiled
def _take_in(core: Core, row: int, bars: Record) -> None:
    for k in range(bars.shape[0]):
        push_closed(core, row, bars[k])
        if bars[k].code == core.control[0].base_code:
            core.watch[row].bar_time = bars[k].time
            read_votes(core.inputs[row], core.indicators[row, 0], core.features[row].close)


def _grid(closes: Sequence[tuple[Int64, Float64]]) -> Float64:
    """Return ``[g, n]`` closes on the union of the symbols' bars; NaN: none."""
    times = np.unique(np.concatenate([time for time, _ in closes]))
    table = np.full((len(times), len(closes)), np.nan)
    for column, (time, close) in enumerate(closes):
        table[np.searchsorted(times, time), column] = close
    return table


@compiled
def _compare_history(core: Core, table: np.ndarray) -> None:
    """Show the comparison between symbols every row of the grid; symbols with a bar in the last one speak."""
    n = core.features.shape[0]
    if n > 1 and table.shape[0] > 0:
        for k in range(table.shape[0]):
            push_grid(core.cross, table[k])
        count = 0
        for i in range(n):
            if math.isfinite(table[-1, i]):
                core.rows[count] = i
                count += 1
        compare_signals(core, count)
    for i in range(n):
        if core.watch[i].bar_time > 0:
            fill_inputs(core, i)
