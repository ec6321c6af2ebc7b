"""The decision step, looped over history; the whole loop is compiled.

Assumptions about execution:

- A decision is made at a bar's close and carried out at the symbol's next bar's open: the ask (open + that bar's
  spread) for a buy, the bid for a sell, slippage on top. Nothing is ever filled at a price of the bar that decided.
- Inside a bar price goes open → extreme → extreme → close, the low first in a rising bar, as the tick model has it;
  between them it is taken to move without gaps.
- All symbols take these four steps together; the account is :mod:`fx_dagster.execution.ledger`, which says how orders,
  stops, commission, swap, margin and stop-out work.
- An open position at the end stays open and is marked to the last close.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from fx_dagster.backtest.prepare import RETURNS_BARS, History, Market
from fx_dagster.backtest.result import Acts, BacktestResult, make_result, name_counts
from fx_dagster.compiled import compiled, uncounted
from fx_dagster.decision.codes import Action, Command, Level, Stage
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.rows import ACCOUNT, DECISION, Int64, Rows, config_row
from fx_dagster.decision.state import DecisionState, copy_state, forget_derived, new_state
from fx_dagster.decision.step import Record, decide, end_halt
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution import ledger as ledgers
from fx_dagster.execution.ledger import Ledger, Order, new_ledger
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.settings import CostSettings

_OPEN, _CLOSE, _MODIFY, _NONE = int(Action.OPEN), int(Action.CLOSE), int(Action.MODIFY), int(Action.NONE)
_RUN, _HALT = int(Command.RUN), int(Stage.HALT)
_OPEN_ORDER, _CLOSE_ORDER = int(Order.OPEN), int(Order.CLOSE)
POINTS = 4
"""Quotes that stand for a bar."""
MILLISECOND_NS = 1_000_000
EVENTS_A_BAR = 3
"""What the ledger may book of a symbol within a bar: an entry, its exit, and one more exit."""

CURVE = np.dtype(
    [
        ("equity", np.float64), ("balance", np.float64), ("margin_used", np.float64), ("open_positions", np.int64),
        ("stage", np.int8),
    ],
    align=True,
)  # fmt: skip


class Tape(NamedTuple):
    """What the loop writes."""

    curve: Rows
    """``[t]`` of :data:`CURVE`."""
    acts: Rows
    """``[cap]`` of :data:`fx_dagster.decision.rows.DECISION`: decisions that acted."""
    places: Int64
    """``[cap, 2]`` bar and symbol of each."""
    acted: Int64
    """``[1]`` how many of them there are."""
    levels: Int64
    reasons: Int64
    breakers: Int64


@uncounted
def _point_time(opening: int, closing: int, point: int) -> int:
    """Return the time of one of the four points of a bar, as the tick model has them."""
    if point == POINTS - 1:
        return closing - MILLISECOND_NS
    return opening + point * ((closing - opening) // (3 * MILLISECOND_NS) * MILLISECOND_NS)


@uncounted
def _point_price(bar: Record, point: int) -> float:
    if point == 0:
        return bar.open
    if point == POINTS - 1:
        return bar.close
    return bar.low if (point == 1) == (bar.close >= bar.open) else bar.high


@uncounted
def walk_bar(market: Market, t: int, ledger: Ledger) -> None:
    """Show the account the four quotes of every symbol's bar."""
    for point in range(POINTS):
        time = _point_time(market.time[t], market.close_time[t], point)
        for i in range(market.inputs.shape[1]):
            if market.inputs[t, i].active:
                bar = market.bars[t, i]
                bid = _point_price(bar, point)
                ledgers.quote(ledger, i, time, bid, bid + bar.spread, point > 0)


@uncounted
def place_order(t: int, i: int, time: int, ledger: Ledger, out: Record, tape: Tape) -> None:
    """Turn a decision into an order for the next bar, or a tighter stop at once; write it down."""
    key = tape.acted[0] + 1
    if out.action == _OPEN:
        ledgers.place(ledger, i, _OPEN_ORDER, out.target_lots, out.stop, out.target, out.risk_money, time - 1, 0, key)
    elif out.action == _CLOSE:
        ledgers.place(ledger, i, _CLOSE_ORDER, -ledger.positions[i].lots, 0.0, 0.0, 0.0, time - 1, 0, key)
    elif out.action == _MODIFY:
        ledgers.modify(ledger, i, out.stop, out.target)
    tape.acts[key - 1] = out
    tape.places[key - 1, 0] = t
    tape.places[key - 1, 1] = i
    tape.acted[0] = key


@uncounted
def _count(out: Record, levels: np.ndarray, reasons: np.ndarray, breakers: np.ndarray) -> None:
    levels[out.level] += 1
    bits = out.reasons
    bit = 0
    while bits:
        reasons[bit] += bits & 1
        bits >>= 1
        bit += 1
    bits = out.breakers
    bit = 0
    while bits:
        breakers[bit] += bits & 1
        bits >>= 1
        bit += 1


@uncounted
def _write(account: Record, open_count: int, memory: Record, curve: Record) -> None:
    curve.equity = account.equity
    curve.balance = account.balance
    curve.margin_used = account.margin_used
    curve.open_positions = open_count
    curve.stage = memory.stage


@uncounted
def see_account(market: Market, t: int, ledger: Ledger, account: Record) -> None:
    """Write down the account as it stands at a bar's close."""
    account.time = market.close_time[t]
    account.trading_day = market.trading_day[t]
    account.balance = ledger.money[0].balance
    account.equity = ledgers.equity(ledger)
    account.margin_used = ledgers.margin_used(ledger)
    account.commission_rate = ledgers.commission_rate(ledger)


@compiled
def run(
    market: Market, configs: Record, ledger: Ledger, states: Record, memories: Record, out: Record, tape: Tape,
    resume_ns: int,
) -> None:  # fmt: skip
    """Loop the step over all bars; everything but the market and the configuration is changed in place."""
    accounts = np.zeros(1, dtype=ACCOUNT)
    account, memory = accounts[0], memories[0]
    account.healthy = True
    account.command = _RUN
    rows, n = market.inputs.shape
    for t in range(rows):
        inputs = market.inputs[t]
        walk_bar(market, t, ledger)
        see_account(market, t, ledger, account)
        if resume_ns > 0 and memory.stage == _HALT and account.time - memory.stage_since >= resume_ns:
            end_halt(memory, states, account.equity)
        decide(
            configs, ledger.table, inputs, accounts, ledger.positions, states, memories, out,
            ledger.money[0].open_count, market.returns[t + 1 : t + 1 + RETURNS_BARS],
        )  # fmt: skip
        for i in range(n):
            if inputs[i].active:
                ledger.helds[i].atr = inputs[i].atr
                _count(out[i], tape.levels, tape.reasons, tape.breakers)
                if out[i].action != _NONE:
                    place_order(t, i, account.time, ledger, out[i], tape)
        _write(account, ledger.money[0].open_count, memory, tape.curve[t])


def replay(
    history: History,
    config: StepConfig,
    *,
    initial_balance: float,
    leverage: float,
    cost: CostSettings | None = None,
    state: DecisionState | None = None,
    resume_after_hours: float = 0.0,
) -> BacktestResult:
    """Run the step over history.

    Args:
        history: from :func:`fx_dagster.backtest.prepare.prepare`.
        config: ``traditional_control(config)`` gives the control that the system is compared with.
        initial_balance: in the account's currency.
        leverage: of the account.
        cost: commission and slippage of fills; None: what the configuration assumes.
        state: what the step remembers at the start (it is copied); None: nothing.
        resume_after_hours: the imagined person resumes a halt that long after it; 0: never, then the account stays in
            cash for the rest of the history.

    Raises:
        SettingsError: balance or configuration is impossible, or wants more models than there are predictions.
        DataError: the history is empty.
    """
    _check(history, config, initial_balance)
    cost = assumed_costs(config) if cost is None else cost
    if not (np.isfinite(resume_after_hours) and resume_after_hours >= 0):
        raise SettingsError(f"resume_after_hours is {resume_after_hours}", mend="give hours, or 0 for never")
    market, n = history.market, len(history.instruments)
    state = new_state(n, config.horizon_bars) if state is None else copy_state(state)
    forget_derived(state.rows)
    tape = _new_tape(market)
    ledger = new_ledger(
        history.instruments, cost, memory=state.memory, balance=initial_balance, leverage=leverage,
        account_currency=history.account_currency, events=EVENTS_A_BAR * len(tape.acts),
    )  # fmt: skip
    run(
        market, config_row(config), ledger, state.rows, state.memory, np.zeros(n, dtype=DECISION), tape,
        int(resume_after_hours * HOUR_NS),
    )  # fmt: skip
    return _result(history, ledger, tape, state, initial_balance)


def assumed_costs(config: StepConfig) -> CostSettings:
    """Return the costs that a configuration reckons with."""
    return CostSettings(commission_per_lot=config.commission_per_lot, slippage_points=config.slippage_points)


def _check(history: History, config: StepConfig, initial_balance: float) -> None:
    checked(config)
    if not (np.isfinite(initial_balance) and initial_balance > 0):
        raise SettingsError(f"initial_balance is {initial_balance}", mend="give a number above 0")
    if len(history.market.time) == 0:
        raise DataError("the backtest's window holds no bar", mend="widen it")
    wanted = config.simple_models + config.deep_models + int(config.meta)
    given = history.market.inputs["p_up"].shape[2]
    if config.best_level < Level.TRADITIONAL and given < wanted:
        raise SettingsError(
            f"simple_models, deep_models and meta want {wanted} columns, predictions have {given}",
            mend="prepare the history with the columns of all models",
        )


def _new_tape(market: Market) -> Tape:
    # Never written pages of an empty array cost nothing, so that the bound may be generous.
    capacity = int(market.inputs["active"].sum()) + market.inputs.shape[1]
    return Tape(
        curve=np.zeros(len(market.time), dtype=CURVE),
        acts=np.empty(capacity, dtype=DECISION),
        places=np.empty((capacity, 2), dtype=np.int64),
        acted=np.zeros(1, dtype=np.int64),
        levels=np.zeros(len(Level), dtype=np.int64),
        reasons=np.zeros(64, dtype=np.int64),
        breakers=np.zeros(64, dtype=np.int64),
    )


def _result(
    history: History, ledger: Ledger, tape: Tape, state: DecisionState, initial_balance: float
) -> BacktestResult:
    market, curve, acted = history.market, tape.curve, int(tape.acted[0])
    bar, row = tape.places[:acted].T
    return make_result(
        symbols=history.symbols,
        ledger=ledger,
        deals=ledger.events[: ledger.money[0]["events"]],
        acts=Acts(tape.acts[:acted], row, market.close_time[bar], market.time[bar]),
        equity=pd.DataFrame({"time": market.close_time, **{name: curve[name] for name in CURVE.names or ()}}),
        bar_time=market.time,
        counts=name_counts(tape.levels, tape.reasons, tape.breakers, acted),
        state=state,
        initial_balance=initial_balance,
    )
