"""Backtests with the whole decision step: over ticks that make bars of nine timeframes, and over hours of gold."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data import GOLD, gold_bars, ticks
from bench.peers import FREQTRADE, NAUTILUS
from bench.session import SLOW_RUNS, Session
from bench.table import Limit, Row
from bench.timing import millions_a_second, timed
from fx_dagster.backtest.prepare import History, SymbolHistory, prepare
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.ticks import TickAccount, TickHistory, replay_ticks
from fx_dagster.decision.config import StepConfig, step_config, traditional_control
from fx_dagster.indicators.arrays import CONTEXT_TIMEFRAMES
from fx_dagster.indicators.batch import compute_indicators
from fx_dagster.market.bars import resample_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import MINUTE_NS, Timeframe, bar_open
from fx_dagster.settings import CostSettings, RiskSettings

TICKS, RIVAL_TICKS = 2_000_000, 200_000
MILLION_TICKS_A_SECOND = 1.0
MILLION_BARS_A_SECOND = 1.0
BALANCE, LEVERAGE = 100_000.0, 30.0
RESUME_HOURS = 24.0
"""A halt that a losing history ends in is resumed after a day, so that the whole history is decided."""


def rows(session: Session) -> Iterator[Row]:
    """Measure both."""
    yield _over_ticks(session)
    yield _over_bars(session)


def control(timeframe: Timeframe) -> StepConfig:
    """Return the decision step's numbers at the traditional level."""
    return traditional_control(step_config(RiskSettings(), CostSettings(), paper=True, timeframe=timeframe))


def _over_ticks(session: Session) -> Row:
    source = ticks(session.size(TICKS))
    config, account = control(Timeframe.M1), TickAccount(BALANCE, LEVERAGE, resume_after_hours=RESUME_HOURS)
    start, last = (
        int(bar_open(source.time[place : place + 1], Timeframe.M1)[0]) for place in (0, len(source.time) - 1)
    )
    items, end = [instrument("EURUSD")], last + MINUTE_NS
    trades: list[int] = []

    def run() -> None:
        history = TickHistory(items, Timeframe.M1, start, end, parts=[source])
        trades.append(len(replay_ticks(history, config, account, CostSettings()).trades))

    part = {name: getattr(source, name)[: session.size(RIVAL_TICKS)] for name in ("time", "bid", "ask")}
    work = f"{len(source.time) / 1e6:g} M ticks replayed: nine timeframes, 13 indicators, a decision a tick, fills"
    with session.peers.start(NAUTILUS, "nautilus_replay.py", part, "ticks") as nautilus:
        rivals = {"nautilus_trader, nine timeframes only": nautilus}
        ours, theirs = session.in_turns(work, timed(run, len(source.time)), rivals, millions_a_second, SLOW_RUNS)
    note = f"traditional level, M1 base, {trades[-1]:,} trades"
    return Row(
        work, ours, "M ticks/s", Limit(MILLION_TICKS_A_SECOND), more_is_better=True, rivals=theirs, note=note
    )  # fmt: skip


def _over_bars(session: Session) -> Row:
    history, arrays, what = gold_history(session)
    config, count = control(Timeframe.H1), len(history.market.time)
    trades: list[int] = []

    def run() -> None:
        result = replay(
            history, config, initial_balance=BALANCE, leverage=LEVERAGE, resume_after_hours=RESUME_HOURS
        )  # fmt: skip
        trades.append(len(result.trades))

    with ExitStack() as stack:
        start = session.peers.start
        rivals = {
            "nautilus_trader, a crossover": stack.enter_context(start(NAUTILUS, "nautilus_replay.py", arrays, "bars")),
            "freqtrade, a crossover": stack.enter_context(start(FREQTRADE, "freqtrade_replay.py", arrays)),
        }
        work = f"{count:,} bars backtested with the whole decision step"
        ours, theirs = session.in_turns(work, timed(run, count), rivals, millions_a_second, SLOW_RUNS)
    note = f"{what}; traditional level, {trades[-1]:,} trades, metrics included"
    return Row(work, ours, "M bars/s", Limit(MILLION_BARS_A_SECOND), more_is_better=True, rivals=theirs, note=note)


def gold_history(session: Session) -> tuple[History, Mapping[str, NDArray[Any]], str]:
    """Return hours of gold, ready for a backtest and as plain arrays, and what they are."""
    bars, what = gold_bars(session.test_data)
    bars = bars.tail(session.size(len(bars))).reset_index(drop=True)
    context = {name: resample_bars(bars, Timeframe.H1, name) for name in CONTEXT_TIMEFRAMES[Timeframe.H1]}
    indicators = compute_indicators({Timeframe.H1: bars, **context}, Timeframe.H1)
    arrays = {name: np.ascontiguousarray(bars[name]) for name in bars if name != "spread"}
    return prepare({GOLD: SymbolHistory(bars, indicators)}, Timeframe.H1), arrays, what
