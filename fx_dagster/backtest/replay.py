"""The decision step, looped over history; the whole loop is compiled.

Assumptions about execution:

- A decision is made at a bar's close and carried out at the symbol's next bar's open: the ask (open + that bar's
  spread) for a buy, the bid for a sell, slippage on top. Nothing is ever filled at a price of the bar that decided.
- Inside a bar price goes open → extreme → extreme → close, the low first in a rising bar, as the tick model has it.
  A gap between two bars fills a stop at the open beyond it; inside a bar a stop is filled at its price; with slippage.
- Swap falls due at 17:00 New York; commission at every fill; profit currencies are converted at the last close.
- Margin is checked at every entry, and at every close for a stop-out (50 %).
- An open position at the end stays open and is marked to the last close.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fx_dagster.backtest.prepare import History, Market
from fx_dagster.compiled import compiled
from fx_dagster.decision.arrays import Float64, Int64
from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason, Stage
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.decider import instrument_table
from fx_dagster.decision.rows import ACCOUNT, DECISION, POSITION, Rows, config_row
from fx_dagster.decision.state import DecisionState, copy_state, new_state
from fx_dagster.decision.step import Record, decide, end_halt, record_trade
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution.fills import (
    NOTHING,
    STOP,
    exit_price,
    margin,
    market_price,
    open_profit,
    profit,
    stops_possible,
    swap_money,
    touched,
)
from fx_dagster.execution.orders import DealReason
from fx_dagster.market.timeframes import HOUR_NS, bar_close

_NO_ORDER, _OPEN_ORDER, _CLOSE_ORDER = 0, 1, 2
_CLIENT, _STOP, _TARGET, _STOP_OUT = 0, 1, 2, 3
_EXIT_REASONS = (DealReason.CLIENT, DealReason.STOP, DealReason.TARGET, DealReason.STOP_OUT)
_OPEN, _CLOSE, _MODIFY, _NONE = int(Action.OPEN), int(Action.CLOSE), int(Action.MODIFY), int(Action.NONE)
_RUN, _HALT = int(Command.RUN), int(Stage.HALT)
STOP_OUT_LEVEL = 0.5
MILLISECOND_NS = 1_000_000

_TRADE_COLUMNS = (
    "column", "lots", "entry_row", "exit_row", "exit_point", "entry_price", "exit_price", "stop", "target", "gross",
    "swap", "commission", "risk_money", "exit_code", "level", "score", "confidence",
)  # fmt: skip
_EVENT_COLUMNS = (
    "row", "column", "action", "lots", "stop", "target", "level", "reasons", "score", "validation", "confidence",
    "kelly", "risk_money", "stage",
)  # fmt: skip


_F, _I = np.float64, np.int64

HELD = np.dtype(
    [
        ("swap", _F), ("commission", _F), ("risk", _F), ("entry_row", _I), ("level", _I), ("score", _F),
        ("confidence", _F), ("bid", _F), ("ask", _F), ("conversion", _F), ("order", _I), ("order_lots", _F),
        ("order_stop", _F), ("order_target", _F), ("order_risk", _F), ("order_level", _I), ("order_score", _F),
        ("order_confidence", _F), ("swap_long", _F), ("swap_short", _F),
    ],
    align=True,
)  # fmt: skip
"""What the loop knows of a symbol beside its position: what it has cost, the order that waits, the last quote."""

MONEY = np.dtype(
    [
        ("balance", np.float64), ("commission", np.float64), ("spread", np.float64), ("slippage", np.float64),
        ("swap", np.float64), ("turnover", np.float64), ("rejected", np.int64), ("trades", np.int64),
        ("events", np.int64),
    ],
    align=True,
)  # fmt: skip
"""The account, sums of its costs, and how much of the tape is written."""

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
    trades: Float64
    """``[cap, 17]``; a symbol closes at most one trade a bar, so that the capacity is known."""
    events: Float64
    """``[cap, 14]`` decisions that acted."""
    levels: Int64
    reasons: Int64
    breakers: Int64


@compiled
def _pay(lots: float, price: float, slipped: bool, config: Record, item: Record, held: Record, money: Record) -> float:
    """Take the commission of a fill, count its costs, and return the commission."""
    commission = config.commission_per_lot * abs(lots)
    unit = abs(lots) * item.contract_size * held.conversion
    money.balance -= commission
    money.commission += commission
    money.spread += 0.5 * (held.ask - held.bid) * unit
    if slipped:
        money.slippage += config.slippage_points * item.point * unit
    money.turnover += unit * price
    return commission


@compiled
def _leave(
    t: int, point: int, i: int, price: float, why: int, config: Record, item: Record, position: Record, held: Record,
    money: Record, memory: Record, trades: np.ndarray,
) -> None:  # fmt: skip
    """Close a position at ``price``, book the trade and let the step learn from it."""
    lots = position.lots
    gross = profit(lots, position.entry_price, price, item.contract_size, held.conversion)
    commission = held.commission + _pay(lots, price, why != _TARGET, config, item, held, money)
    money.balance += gross + held.swap
    money.swap -= held.swap
    record_trade(memory, gross + held.swap - commission, held.risk)
    row = trades[money.trades]
    money.trades += 1
    row[0], row[1], row[2], row[3], row[4] = i, lots, held.entry_row, t, point
    row[5], row[6], row[7], row[8] = position.entry_price, price, position.stop, position.target
    row[9], row[10], row[11], row[12], row[13] = gross, held.swap, commission, held.risk, why
    row[14], row[15], row[16] = held.level, held.score, held.confidence
    position.lots = 0.0
    position.entry_price = 0.0
    position.stop = 0.0
    position.target = 0.0
    held.swap = 0.0
    held.commission = 0.0
    held.risk = 0.0


@compiled
def _floating(item: Record, position: Record, held: Record) -> float:
    if position.lots == 0.0:
        return 0.0
    value = open_profit(position.lots, position.entry_price, held.bid, held.ask, item.contract_size, held.conversion)
    return value + held.swap


@compiled
def _equity(table: Record, positions: Record, helds: Record, money: Record) -> float:
    equity = money.balance
    for i in range(positions.shape[0]):
        equity += _floating(table[i], positions[i], helds[i])
    return equity


@compiled
def _margin_used(table: Record, positions: Record, helds: Record) -> float:
    bound = 0.0
    for i in range(positions.shape[0]):
        if positions[i].lots != 0.0:
            item, held = table[i], helds[i]
            bound += margin(positions[i].lots, held.ask, item.contract_size, held.conversion, item.margin_rate)
    return bound


@compiled
def _open_position(
    t: int, room: float, config: Record, item: Record, position: Record, held: Record, money: Record
) -> None:
    """Carry out a waiting entry at the quote in ``held``, unless the market or the margin forbids it."""
    lots = held.order_lots
    needed = margin(lots, held.ask, item.contract_size, held.conversion, item.margin_rate)
    if not stops_possible(lots, held.order_stop, held.order_target, held.bid, held.ask) or not needed <= room:
        money.rejected += 1
        return
    price = market_price(lots, held.bid, held.ask, config.slippage_points * item.point)
    position.lots = lots
    position.entry_price = price
    position.stop = held.order_stop
    position.target = held.order_target
    held.risk = held.order_risk
    held.entry_row = t
    held.level = held.order_level
    held.score = held.order_score
    held.confidence = held.order_confidence
    held.commission = _pay(lots, price, True, config, item, held, money)


@compiled
def _fill_order(
    t: int, i: int, config: Record, table: Record, positions: Record, helds: Record, money: Record, memory: Record,
    trades: np.ndarray,
) -> None:  # fmt: skip
    """Carry out the order that waits, at the bar's open."""
    item, position, held = table[i], positions[i], helds[i]
    kind = held.order
    held.order = _NO_ORDER
    if kind == _OPEN_ORDER:
        room = _equity(table, positions, helds, money) - _margin_used(table, positions, helds)
        _open_position(t, room, config, item, position, held, money)
    elif position.lots != 0.0:
        price = market_price(-position.lots, held.bid, held.ask, config.slippage_points * item.point)
        _leave(t, 0, i, price, _CLIENT, config, item, position, held, money, memory, trades)


@compiled
def _walk_bar(
    t: int, i: int, bar: Record, config: Record, table: Record, positions: Record, helds: Record, money: Record,
    memory: Record, trades: np.ndarray,
) -> None:  # fmt: skip
    """Take one symbol through one bar: swap, then the bar's four prices, the waiting order at the first of them."""
    item, position, held = table[i], positions[i], helds[i]
    if position.lots != 0.0 and bar.nights > 0.0:
        held.swap += swap_money(
            position.lots, bar.nights, held.swap_long, held.swap_short, item.point, item.contract_size, held.conversion
        )
    rising = bar.close >= bar.open
    for point in range(4):
        if point == 0:
            bid = bar.open
        elif point == 3:
            bid = bar.close
        else:
            bid = bar.low if (point == 1) == rising else bar.high
        ask = bid + bar.spread
        held.bid = bid
        held.ask = ask
        if position.lots != 0.0:
            what = touched(position.lots, position.stop, position.target, bid, ask)
            if what != NOTHING:
                slippage = config.slippage_points * item.point
                price = exit_price(what, position.lots, position.stop, position.target, bid, ask, slippage, point > 0)
                why = _STOP if what == STOP else _TARGET
                _leave(t, point, i, price, why, config, item, position, held, money, memory, trades)
        if point == 0 and held.order != _NO_ORDER:
            _fill_order(t, i, config, table, positions, helds, money, memory, trades)


@compiled
def _stop_out(
    t: int, config: Record, table: Record, positions: Record, helds: Record, money: Record, memory: Record,
    trades: np.ndarray,
) -> None:  # fmt: skip
    """Close the largest losses at the bar's close while equity is below the stop-out level of margin."""
    for _ in range(positions.shape[0]):
        bound = _margin_used(table, positions, helds)
        if bound <= 0.0 or _equity(table, positions, helds, money) >= STOP_OUT_LEVEL * bound:
            return
        worst, least = -1, np.inf
        for i in range(positions.shape[0]):
            value = _floating(table[i], positions[i], helds[i])
            if positions[i].lots != 0.0 and value < least:
                worst, least = i, value
        item, position, held = table[worst], positions[worst], helds[worst]
        price = market_price(-position.lots, held.bid, held.ask, config.slippage_points * item.point)
        _leave(t, 3, worst, price, _STOP_OUT, config, item, position, held, money, memory, trades)


@compiled
def _place(t: int, i: int, position: Record, held: Record, out: Record, money: Record, events: np.ndarray) -> None:
    """Turn a decision into an order for the next bar, or a tighter stop from the next bar on."""
    if out.action == _OPEN:
        held.order = _OPEN_ORDER
        held.order_lots = out.target_lots
        held.order_stop = out.stop
        held.order_target = out.target
        held.order_risk = out.risk_money
        held.order_level = out.level
        held.order_score = out.score
        held.order_confidence = out.confidence
    elif out.action == _CLOSE:
        held.order = _CLOSE_ORDER
    elif out.action == _MODIFY:
        position.stop = out.stop
    row = events[money.events]
    money.events += 1
    row[0], row[1], row[2], row[3], row[4], row[5] = t, i, out.action, out.target_lots, out.stop, out.target
    row[6], row[7], row[8], row[9] = out.level, out.reasons, out.score, out.validation
    row[10], row[11], row[12], row[13] = out.confidence, out.kelly, out.risk_money, out.stage


@compiled
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


@compiled
def _write(account: Record, positions: Record, memory: Record, curve: Record) -> None:
    curve.equity = account.equity
    curve.balance = account.balance
    curve.margin_used = account.margin_used
    curve.stage = memory.stage
    for i in range(positions.shape[0]):
        if positions[i].lots != 0.0:
            curve.open_positions += 1


@compiled
def run(
    market: Market, configs: Record, table: Record, positions: Record, helds: Record, moneys: Record, states: Record,
    memories: Record, out: Record, tape: Tape, resume_ns: int,
) -> None:  # fmt: skip
    """Loop the step over all bars; everything but the market, configuration and table is changed in place."""
    config, money, memory = configs[0], moneys[0], memories[0]
    accounts = np.zeros(1, dtype=ACCOUNT)
    account = accounts[0]
    account.healthy = True
    account.command = _RUN
    rows, n = market.inputs.shape
    for t in range(rows):
        inputs = market.inputs[t]
        # Inside the bar, profit is converted at the close before it.
        for i in range(n):
            if inputs[i].active:
                _walk_bar(t, i, market.bars[t, i], config, table, positions, helds, money, memory, tape.trades)
        for i in range(n):
            helds[i].conversion = inputs[i].conversion
        _stop_out(t, config, table, positions, helds, money, memory, tape.trades)
        account.time = market.close_time[t]
        account.trading_day = market.trading_day[t]
        account.balance = money.balance
        account.equity = _equity(table, positions, helds, money)
        account.margin_used = _margin_used(table, positions, helds)
        if resume_ns > 0 and memory.stage == _HALT and account.time - memory.stage_since >= resume_ns:
            end_halt(memory, states, account.equity)
        decide(configs, table, inputs, accounts, positions, states, memories, out)
        for i in range(n):
            if inputs[i].active:
                _count(out[i], tape.levels, tape.reasons, tape.breakers)
                if out[i].action != _NONE:
                    _place(t, i, positions[i], helds[i], out[i], money, tape.events)
        _write(account, positions, memory, tape.curve[t])


@dataclass(frozen=True)
class BacktestResult:
    """What a backtest leaves. Times are int64 ns UTC, money is in the account's currency.

    Attributes:
        equity: one row a bar of the grid: ``time`` (the bar's close), ``equity, balance, margin_used`` f8,
            ``open_positions`` i8, ``stage`` i1.
        trades: closed trades: ``symbol, side`` (+1/−1)``, lots, entry_time, entry_price, exit_time, exit_price, stop,
            target, gross, swap, commission, profit`` (net)``, risk_money, bars_held, reason, level, score,
            confidence``.
        decisions: one row a decision that acted: ``time`` (the bar's close)``, bar_time, symbol, action, lots, stop,
            target, level, reasons, score, validation, confidence, kelly, risk_money, stage``.
        counts: how many decisions there were by level, reason, breaker, and how many acted.
        costs: ``commission, spread, slippage, swap`` paid, and ``total``.
        turnover: sum of traded notional.
        rejected: orders that the market had moved away from, or that margin did not allow.
        initial_balance: where it began.
        halted_time: when the drawdown halt was reached for the first time; None: never.
        halts: how often it was reached; without resuming, once at most.
        open_profit: profit of what is open at the end.
        state: what the step remembers at the end.
        metrics: see :func:`fx_dagster.backtest.metrics.metrics`.
    """

    equity: pd.DataFrame
    trades: pd.DataFrame
    decisions: pd.DataFrame
    counts: dict[str, dict[str, int]]
    costs: dict[str, float]
    turnover: float
    rejected: int
    initial_balance: float
    halted_time: int | None
    halts: int
    open_profit: float
    state: DecisionState
    metrics: dict[str, float] = field(default_factory=dict)


def replay(
    history: History,
    config: StepConfig,
    *,
    initial_balance: float,
    leverage: float,
    state: DecisionState | None = None,
    resume_after_hours: float = 0.0,
) -> BacktestResult:
    """Run the step over history.

    Args:
        history: from :func:`fx_dagster.backtest.prepare.prepare`.
        config: ``traditional_control(config)`` gives the control that the system is compared with.
        initial_balance: in the account's currency.
        leverage: of the account.
        state: what the step remembers at the start (it is copied); None: nothing.
        resume_after_hours: the imagined person resumes a halt that long after it; 0: never, then the account stays in
            cash for the rest of the history.

    Raises:
        SettingsError: balance or configuration is impossible, or wants more models than there are predictions.
        DataError: the history is empty.
    """
    from fx_dagster.backtest.metrics import metrics

    _check(history, config, initial_balance)
    if not (np.isfinite(resume_after_hours) and resume_after_hours >= 0):
        raise SettingsError(f"resume_after_hours is {resume_after_hours}", mend="give hours, or 0 for never")
    market, n = history.market, len(history.instruments)
    state = new_state(n, config.horizon_bars) if state is None else copy_state(state)
    helds, moneys, tape = _new_helds(history), np.zeros(1, dtype=MONEY), _new_tape(market)
    moneys["balance"] = initial_balance
    run(
        market, config_row(config), instrument_table(history.instruments, leverage), np.zeros(n, dtype=POSITION), helds,
        moneys, state.rows, state.memory, np.zeros(n, dtype=DECISION), tape, int(resume_after_hours * HOUR_NS),
    )  # fmt: skip
    result = _result(history, helds, moneys[0], tape, state, initial_balance)
    result.metrics.update(metrics(result))
    return result


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


def _new_helds(history: History) -> Rows:
    helds = np.zeros(len(history.instruments), dtype=HELD)
    helds["bid"] = helds["ask"] = np.nan
    helds["conversion"] = history.market.inputs["conversion"][0]
    helds["swap_long"] = [item.swap_long_points for item in history.instruments]
    helds["swap_short"] = [item.swap_short_points for item in history.instruments]
    return helds


def _new_tape(market: Market) -> Tape:
    # Never written pages of an empty array cost nothing, so that the bound may be generous.
    capacity = int(market.inputs["active"].sum()) + market.inputs.shape[1]
    return Tape(
        curve=np.zeros(len(market.time), dtype=CURVE),
        trades=np.empty((capacity, len(_TRADE_COLUMNS))),
        events=np.empty((capacity, len(_EVENT_COLUMNS))),
        levels=np.zeros(len(Level), dtype=np.int64),
        reasons=np.zeros(64, dtype=np.int64),
        breakers=np.zeros(64, dtype=np.int64),
    )


def _result(
    history: History, helds: Rows, money: Any, tape: Tape, state: DecisionState, initial_balance: float
) -> BacktestResult:
    market, curve = history.market, tape.curve
    costs = {name: float(money[name]) for name in ("commission", "spread", "slippage")}
    costs["swap"] = float(money["swap"] - helds["swap"].sum())
    halted = np.flatnonzero(curve["stage"] == Stage.HALT)
    return BacktestResult(
        equity=pd.DataFrame({"time": market.close_time, **{name: curve[name] for name in CURVE.names or ()}}),
        trades=_trades(history, tape.trades[: money["trades"]]),
        decisions=_events(history, tape.events[: money["events"]]),
        counts=_counts(tape, int(money["events"])),
        costs=costs | {"total": sum(costs.values())},
        turnover=float(money["turnover"]),
        rejected=int(money["rejected"]),
        initial_balance=float(initial_balance),
        halted_time=int(market.close_time[halted[0]]) if len(halted) else None,
        halts=int(np.sum(np.diff((curve["stage"] == Stage.HALT).astype(np.int8), prepend=0) == 1)),
        open_profit=float(curve["equity"][-1] - curve["balance"][-1]),
        state=state,
    )


def _trades(history: History, rows: Float64) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(_TRADE_COLUMNS))
    whole = {name: table[name].to_numpy(np.int64) for name in ("column", "entry_row", "exit_row", "exit_point")}
    time = history.market.time
    return pd.DataFrame(
        {
            "symbol": np.array(history.symbols, dtype=object)[whole["column"]],
            "side": np.sign(table["lots"]).astype(np.int64),
            "lots": table["lots"].abs(),
            "entry_time": time[whole["entry_row"]],
            "entry_price": table["entry_price"],
            "exit_time": _point_time(time[whole["exit_row"]], whole["exit_point"], history),
            "exit_price": table["exit_price"],
            "stop": table["stop"],
            "target": table["target"],
            "gross": table["gross"],
            "swap": table["swap"],
            "commission": table["commission"],
            "profit": table["gross"] + table["swap"] - table["commission"],
            "risk_money": table["risk_money"],
            "bars_held": whole["exit_row"] - whole["entry_row"],
            "reason": [str(_EXIT_REASONS[int(code)]) for code in table["exit_code"]],
            "level": table["level"].astype(np.int64),
            "score": table["score"],
            "confidence": table["confidence"],
        }
    )


def _point_time(opening: Int64, point: Int64, history: History) -> Int64:
    """Return the time of the four points of a bar, as the tick model has them."""
    closing = bar_close(opening, history.timeframe)
    third = (closing - opening) // (3 * MILLISECOND_NS) * MILLISECOND_NS
    return np.where(point == 3, closing - MILLISECOND_NS, opening + point * third)


def _events(history: History, rows: Float64) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=list(_EVENT_COLUMNS))
    row, column = table.pop("row").to_numpy(np.int64), table.pop("column").to_numpy(np.int64)
    table["action"] = [Action(int(code)).name.lower() for code in table["action"]]
    table = table.astype({"level": np.int64, "reasons": np.int64, "stage": np.int64})
    table.insert(0, "symbol", np.array(history.symbols, dtype=object)[column])
    table.insert(0, "bar_time", history.market.time[row])
    table.insert(0, "time", history.market.close_time[row])
    return table


def _counts(tape: Tape, acted: int) -> dict[str, dict[str, int]]:
    return {
        "level": {str(int(level)): int(tape.levels[level]) for level in Level if level is not Level.UNSET},
        "reason": {
            str(reason.name).lower(): int(tape.reasons[reason.bit_length() - 1])
            for reason in Reason if tape.reasons[reason.bit_length() - 1]
        },
        "breaker": {str(one.name).lower(): int(tape.breakers[one.bit_length() - 1]) for one in Breaker},
        "total": {"decisions": int(tape.levels.sum()), "acted": acted},
    }  # fmt: skip
