"""History tick by tick: the loop of the live session, over stored ticks, with an account that fills at the next quote.

Assumptions about execution are those of :mod:`fx_dagster.core.loop` (what happens when) and
:mod:`fx_dagster.execution.ledger` (at which price). Every good tick is decided; an order is filled by the symbol's next
quote, never by the one that decided. What models say is known beforehand, by bar, from models that had not seen it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd

from fx_dagster.backtest.prepare import MODEL_COLUMNS, answers, model_columns
from fx_dagster.backtest.result import Acts, BacktestResult, make_result, name_counts
from fx_dagster.core.rows import NEVER, Event, Float64, Int64, Kind, Predictions, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import TradingCore
from fx_dagster.core.warm_up import History
from fx_dagster.decision.answers import ANSWER_EXTRAS
from fx_dagster.decision.config import StepConfig
from fx_dagster.decision.rows import MEMORY, Rows
from fx_dagster.decision.state import DecisionState
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Entry, new_ledger
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe
from fx_dagster.settings import CostSettings

EVENTS = 4_096
"""Deals and refusals that may wait until they are taken over."""


@dataclass(frozen=True)
class TickAccount:
    """The account that ticks are replayed on.

    Attributes:
        initial_balance: in ``currency``.
        leverage: of the account.
        currency: ISO code.
        resume_after_hours: the imagined person resumes a halt that long after it; 0: never.
    """

    initial_balance: float
    leverage: float
    currency: str = "USD"
    resume_after_hours: float = 0.0


@dataclass(frozen=True)
class TickHistory:
    """What is replayed.

    Attributes:
        instruments: one a symbol; ticks name symbols by their place here.
        base: timeframe of decisions.
        start: moment (ns UTC, the opening of a base bar) of the first tick or before it.
        end: moment (ns UTC, the end of a base bar) after the last tick.
        parts: ticks in the order of time, in parts that fit into memory; the iterable is used up.
        predictions: PREDICTIONS by canonical symbol, out of fold, with the columns of
            :func:`fx_dagster.backtest.prepare.answers`; none: the models are absent.
        before: closed bars before ``start`` to warm up on; None: the replay begins knowing nothing.
    """

    instruments: Sequence[Instrument]
    base: Timeframe
    start: int
    end: int
    parts: Iterable[Ticks] = ()
    predictions: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    before: History | None = None


def replay_ticks(
    history: TickHistory, config: StepConfig, account: TickAccount, cost: CostSettings, *, stale_s: float = 120.0,
    spike_z: float = 25.0,
) -> BacktestResult:  # fmt: skip
    """Run the live loop over stored ticks.

    Args:
        history: what is replayed.
        config: of the step; ``traditional_control(config)`` gives the control.
        account: what is traded on.
        cost: commission and slippage of fills.
        stale_s: silence in an open market after which a symbol is halted.
        spike_z: jump over the usual move from which a tick is held until another confirms it.

    Raises:
        SettingsError: a number is impossible, or the symbols do not lead to the account's currency.
        DataError: there is no whole bar, or a prediction is given twice.
    """
    if not (math.isfinite(account.resume_after_hours) and account.resume_after_hours >= 0):
        raise SettingsError(f"resume_after_hours is {account.resume_after_hours}", mend="give hours, or 0 for never")
    replay = _Replay(_core(history, config, account, cost, stale_s, spike_z), account)
    if history.before is not None:
        replay.core.warm_up(history.before, history.start)
    for ticks in history.parts:
        replay.take(ticks)
    replay.reach(history.end)
    return replay.result(history.base)


def _core(
    history: TickHistory, config: StepConfig, account: TickAccount, cost: CostSettings, stale_s: float, spike_z: float
) -> TradingCore:
    items, symbols = history.instruments, [item.symbol for item in history.instruments]
    spec = CoreSpec(
        instruments=items,
        catalogue=feature_catalogue(history.base, cross_symbol=len(items) > 1),
        config=config,
        start=history.start,
        stale_s=stale_s,
        spike_z=spike_z,
        asks=False,
        places=True,
    )
    ledger = new_ledger(
        items, cost, memory=np.zeros(1, dtype=MEMORY), balance=account.initial_balance, leverage=account.leverage,
        account_currency=account.currency, events=EVENTS,
    )  # fmt: skip
    known = history.predictions
    return TradingCore(spec, ledger, prediction_table(symbols, known, model_columns(config)) if known else None)


def prediction_table(
    symbols: Sequence[str], frames: Mapping[str, pd.DataFrame], columns: Sequence[str] = MODEL_COLUMNS
) -> Predictions:
    """Return what the models said of each bar as the core looks it up, ``[n, c, len(columns) + ANSWER_EXTRAS]``.

    Args:
        symbols: by the core's rows; one without a frame has no predictions.
        frames: PREDICTIONS by symbol, ascending in ``time`` (opening of the bar, ns UTC).
        columns: p(up) columns of the frames, in the order that the models have in the step.

    Raises:
        DataError: a bar is predicted twice, bars are not in the order of time, or a simple model's column is missing.
    """
    longest = max((len(frame) for frame in frames.values()), default=0)
    times = np.full((len(symbols), longest + 1), NEVER, dtype=np.int64)
    said = np.full((len(symbols), longest + 1, len(columns) + ANSWER_EXTRAS), np.nan)
    for row, symbol in enumerate(symbols):
        if symbol not in frames:
            continue
        rows = answers(symbol, frames[symbol], columns)
        time = frames[symbol]["time"].to_numpy(np.int64)
        if len(time) > 1 and not (np.diff(time) > 0).all():
            raise DataError(f"predictions of {symbol}: times do not ascend", mend="sort them, one prediction a bar")
        times[row, : len(time)] = time
        said[row, : len(time)] = rows
    return Predictions(times, said, np.zeros(len(symbols), dtype=np.int64))


def merged_ticks(frames: Sequence[pd.DataFrame]) -> Ticks:
    """Return TICKS of several symbols, by place, in the order of time; of one moment, in the order of the symbols."""
    time = np.concatenate([frame["time"].to_numpy(np.int64) for frame in frames])
    order = np.argsort(time, kind="stable")
    place = np.concatenate([np.full(len(frame), row, dtype=np.int32) for row, frame in enumerate(frames)])
    columns = {
        name: np.concatenate([frame[name].to_numpy() for frame in frames])[order]
        for name in ("bid", "ask", "volume", "flags")
    }
    return Ticks(
        place[order], time[order], columns["bid"], columns["ask"], columns["volume"],
        columns["flags"].astype(np.int32, copy=False),
    )  # fmt: skip


class _Replay:
    """A core at work, and what it has said so far."""

    def __init__(self, core: TradingCore, account: TickAccount) -> None:
        self.core = core
        self._account = account
        self._resume_ns = int(account.resume_after_hours * HOUR_NS)
        self._day = -1
        self._parts: dict[str, list[Rows]] = {name: [] for name in ("stamp", "out", "bar_time", "money", "deals")}

    def take(self, ticks: Ticks) -> None:
        """Work through some ticks, day by day (UTC): a person who ends a halt comes in the night."""
        if not len(ticks.time):
            return
        days = ticks.time // DAY_NS
        edges = [0, *(np.flatnonzero(np.diff(days)) + 1).tolist(), len(days)]
        for first, last in pairwise(edges):
            if days[first] != self._day:
                self._day = int(days[first])
                self._resume(int(ticks.time[first]))
            done, event = self.core.take(ticks, first, last)
            while event is Event.FULL:
                self._drain()
                done, event = self.core.take(ticks, done, last)

    def reach(self, clock: int) -> None:
        """Let the market's clock reach the end of the last bar."""
        while self.core.reach(clock) is Event.FULL:
            self._drain()
        self._drain()

    def _resume(self, time: int) -> None:
        if self._resume_ns and self.core.halted:
            since = int(self.core.core.memory[0]["stage_since"])
            if time - since >= self._resume_ns:
                self.core.end_halt(float(ledgers.equity(self.core.core.ledger)))

    def _drain(self) -> None:
        """Take over what has been logged and booked, and make room."""
        core, ledger = self.core.core, self.core.core.ledger
        logged, booked = int(core.control[0]["logged"]), int(ledger.money[0]["events"])
        log = core.log
        self._parts["stamp"].append(log.stamp[:logged].copy())
        self._parts["out"].append(log.out[:logged].copy())
        self._parts["bar_time"].append(log.inputs["bar_time"][:logged].copy())
        self._parts["money"].append(log.account[:logged].copy())
        self._parts["deals"].append(ledger.events[:booked].copy())
        self.core.forget_log()
        ledger.money[0]["events"] = 0

    def result(self, base: Timeframe) -> BacktestResult:
        """Return what the replay leaves."""
        core = self.core.core
        stamp, out, bar_time, money, deals = (np.concatenate(part) for part in self._parts.values())
        acts = stamp["acts"]
        closes = stamp["kind"] == Kind.BAR
        if not closes.any():
            raise DataError(f"the backtest's window holds no whole {base} bar", mend="widen it, or import ticks first")
        return make_result(
            symbols=self.core.symbols,
            ledger=core.ledger,
            deals=deals,
            acts=Acts(out[acts], stamp["row"][acts], stamp["time"][acts], bar_time[acts]),
            equity=_curve(stamp["time"][closes], money[closes], out["stage"][closes], deals),
            bar_time=np.unique(bar_time[closes]),
            counts=name_counts(
                core.control[0]["levels"].copy(), _by_bit(out["reasons"][closes]), _by_bit(out["breakers"][closes]),
                int(core.control[0]["acted"]),
            ),
            state=DecisionState(core.states, core.memory),
            initial_balance=self._account.initial_balance,
        )  # fmt: skip


def _curve(time: Int64, money: Rows, stage: np.ndarray, deals: Rows) -> pd.DataFrame:
    """Return the account at the end of every base bar; of symbols whose bars end together, as the last one saw it."""
    last = np.flatnonzero(np.diff(time, append=time[-1:] + 1))
    booked = deals[deals["what"] == Entry.DEAL]
    opened, closed = booked["closing"] == 0, booked["closing"] == 1
    # Positions are opened and closed whole.
    held = np.searchsorted(np.sort(booked["time"][opened]), time[last], side="right")
    held -= np.searchsorted(np.sort(booked["time"][closed]), time[last], side="right")
    account: dict[str, Float64] = {name: money[name][last] for name in ("equity", "balance", "margin_used")}
    return pd.DataFrame({"time": time[last], **account, "open_positions": held, "stage": stage[last]})


def _by_bit(values: Int64) -> Int64:
    """Return how many of the values have each of 64 bits."""
    return np.array([np.count_nonzero(values >> bit & 1) for bit in range(63)] + [0], dtype=np.int64)
