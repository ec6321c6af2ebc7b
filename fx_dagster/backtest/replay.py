"""The decision step, looped over history; the whole loop is compiled.

Assumptions about execution:

- A decision is made at a bar's close and carried out at the symbol's next bar's open: the ask (open + that bar's
  spread) for a buy, the bid for a sell, slippage on top. Nothing is ever filled at a price of the bar that decided.
- Inside a bar price goes open → extreme → extreme → close, the low first in a rising bar, as the tick model has it.
  A gap between two bars fills a stop at the open beyond it; inside a bar a stop is filled at its price; slippage on top.
- Swap falls due at 17:00 New York; commission at every fill; profit currencies are converted at the last close.
- Margin is checked at every entry, and at every close for a stop-out (50 %).
- An open position at the end stays open and is marked to the last close.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from fx_dagster.backtest.prepare import History, Market
from fx_dagster.decision.arrays import (
    AccountState,
    Bool,
    DecisionState,
    Decisions,
    Float64,
    InstrumentTable,
    Int8,
    Int64,
    PositionTable,
    StepInputs,
    empty_decisions,
)
from fx_dagster.decision.codes import Action, Breaker, Command, Level, Reason, Stage
from fx_dagster.decision.compiled import compiled
from fx_dagster.decision.config import StepConfig, checked
from fx_dagster.decision.decider import instrument_table
from fx_dagster.decision.state import copy_state, new_state
from fx_dagster.decision.step import decide, record_trade
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
from fx_dagster.market.timeframes import bar_close

_NO_ORDER, _OPEN_ORDER, _CLOSE_ORDER = 0, 1, 2
_CLIENT, _STOP, _TARGET, _STOP_OUT = 0, 1, 2, 3
_EXIT_REASONS = (DealReason.CLIENT, DealReason.STOP, DealReason.TARGET, DealReason.STOP_OUT)
_OPEN, _CLOSE, _MODIFY, _NONE = int(Action.OPEN), int(Action.CLOSE), int(Action.MODIFY), int(Action.NONE)
_RUN = int(Command.RUN)
STOP_OUT_LEVEL = 0.5
MILLISECOND_NS = 1_000_000

BALANCE, COMMISSION, SPREAD, SLIPPAGE, SWAP, TURNOVER, REJECTED = range(7)
_TRADE_COLUMNS = (
    "column", "lots", "entry_row", "exit_row", "exit_point", "entry_price", "exit_price", "stop", "target", "gross",
    "swap", "commission", "risk_money", "exit_code", "level", "score", "confidence",
)  # fmt: skip
_EVENT_COLUMNS = (
    "row", "column", "action", "lots", "stop", "target", "level", "reasons", "score", "validation", "confidence",
    "kelly", "risk_money", "stage",
)  # fmt: skip


class Book(NamedTuple):
    """The account inside the loop; one row a symbol."""

    lots: Float64
    entry_price: Float64
    stop: Float64
    target: Float64
    swap: Float64
    commission: Float64
    risk: Float64
    entry_row: Int64
    level: Int8
    score: Float64
    confidence: Float64
    order: Int8
    order_lots: Float64
    order_stop: Float64
    order_target: Float64
    order_risk: Float64
    order_level: Int8
    order_score: Float64
    order_confidence: Float64
    bid: Float64
    ask: Float64
    bar_time: Int64
    pending: Bool
    foreign: Float64
    money: Float64
    """``[7]``: balance, and sums of costs, turnover and refusals."""


class Swaps(NamedTuple):
    """Swap points a night; one row a symbol."""

    long_points: Float64
    short_points: Float64


class Tape(NamedTuple):
    """What the loop writes."""

    equity: Float64
    balance: Float64
    margin: Float64
    positions: Int64
    stage: Int8
    trades: Float64
    """``[cap, 17]``; a symbol closes at most one trade a bar, so that the capacity is known."""
    events: Float64
    counts: Int64
    """``[2]`` trades, events."""
    levels: Int64
    reasons: Int64
    breakers: Int64


@compiled
def _pay(i: int, lots: float, spread: float, conversion: float, config: StepConfig, table: InstrumentTable, book: Book, price: float, slipped: bool) -> float:
    """Take the commission of a fill, count its costs, and return the commission."""
    commission = config.commission_per_lot * abs(lots)
    unit = abs(lots) * table.contract_size[i] * conversion
    book.money[BALANCE] -= commission
    book.money[COMMISSION] += commission
    book.money[SPREAD] += 0.5 * spread * unit
    if slipped:
        book.money[SLIPPAGE] += config.slippage_points * table.point[i] * unit
    book.money[TURNOVER] += unit * price
    return commission


@compiled
def _leave(
    t: int, point: int, i: int, price: float, why: int, spread: float, conversion: float, config: StepConfig,
    table: InstrumentTable, book: Book, state: DecisionState, tape: Tape,
) -> None:  # fmt: skip
    """Close a position at ``price``, book the trade and let the step learn from it."""
    lots = book.lots[i]
    gross = profit(lots, book.entry_price[i], price, table.contract_size[i], conversion)
    commission = book.commission[i] + _pay(i, lots, spread, conversion, config, table, book, price, why != _TARGET)
    book.money[BALANCE] += gross + book.swap[i]
    book.money[SWAP] -= book.swap[i]
    record_trade(state, gross + book.swap[i] - commission, book.risk[i])
    row = tape.trades[tape.counts[0]]
    tape.counts[0] += 1
    row[0], row[1], row[2], row[3], row[4] = i, lots, book.entry_row[i], t, point
    row[5], row[6], row[7], row[8] = book.entry_price[i], price, book.stop[i], book.target[i]
    row[9], row[10], row[11], row[12], row[13] = gross, book.swap[i], commission, book.risk[i], why
    row[14], row[15], row[16] = book.level[i], book.score[i], book.confidence[i]
    book.lots[i] = 0.0
    book.entry_price[i] = 0.0
    book.stop[i] = 0.0
    book.target[i] = 0.0
    book.swap[i] = 0.0
    book.commission[i] = 0.0
    book.risk[i] = 0.0


@compiled
def _floating(i: int, conversion: float, table: InstrumentTable, book: Book) -> float:
    if book.lots[i] == 0.0:
        return 0.0
    value = open_profit(book.lots[i], book.entry_price[i], book.bid[i], book.ask[i], table.contract_size[i], conversion)
    return value + book.swap[i]


@compiled
def _equity(conversion: np.ndarray, table: InstrumentTable, book: Book) -> float:
    equity = book.money[BALANCE]
    for i in range(book.lots.shape[0]):
        equity += _floating(i, conversion[i], table, book)
    return equity


@compiled
def _margin_used(conversion: np.ndarray, table: InstrumentTable, book: Book) -> float:
    bound = 0.0
    for i in range(book.lots.shape[0]):
        if book.lots[i] != 0.0:
            bound += margin(book.lots[i], book.ask[i], table.contract_size[i], conversion[i], table.margin_rate[i])
    return bound


@compiled
def _fill_order(
    t: int, i: int, spread: float, conversion: np.ndarray, config: StepConfig, table: InstrumentTable, book: Book,
    state: DecisionState, tape: Tape,
) -> None:  # fmt: skip
    """Carry out the order that waits, at the quote in ``book``: the bar's open."""
    kind = book.order[i]
    book.order[i] = _NO_ORDER
    slippage = config.slippage_points * table.point[i]
    if kind == _CLOSE_ORDER:
        if book.lots[i] != 0.0:
            price = market_price(-book.lots[i], book.bid[i], book.ask[i], slippage)
            _leave(t, 0, i, price, _CLIENT, spread, conversion[i], config, table, book, state, tape)
        return
    lots = book.order_lots[i]
    room = _equity(conversion, table, book) - _margin_used(conversion, table, book)
    needed = margin(lots, book.ask[i], table.contract_size[i], conversion[i], table.margin_rate[i])
    possible = stops_possible(lots, book.order_stop[i], book.order_target[i], book.bid[i], book.ask[i])
    if not possible or not needed <= room:
        book.money[REJECTED] += 1.0
        return
    price = market_price(lots, book.bid[i], book.ask[i], slippage)
    book.lots[i] = lots
    book.entry_price[i] = price
    book.stop[i] = book.order_stop[i]
    book.target[i] = book.order_target[i]
    book.risk[i] = book.order_risk[i]
    book.entry_row[i] = t
    book.level[i] = book.order_level[i]
    book.score[i] = book.order_score[i]
    book.confidence[i] = book.order_confidence[i]
    book.commission[i] = _pay(i, lots, spread, conversion[i], config, table, book, price, True)


@compiled
def _walk_bar(
    t: int, i: int, conversion: np.ndarray, market: Market, config: StepConfig, table: InstrumentTable, swaps: Swaps,
    book: Book, state: DecisionState, tape: Tape,
) -> None:  # fmt: skip
    """Take one symbol through one bar: swap, the waiting order, then the four prices of the bar."""
    spread = market.spread[t, i]
    opening, closing = market.open[t, i], market.close[t, i]
    rising = closing >= opening
    first = market.low[t, i] if rising else market.high[t, i]
    second = market.high[t, i] if rising else market.low[t, i]
    if book.lots[i] != 0.0 and market.nights[t, i] > 0:
        book.swap[i] += swap_money(
            book.lots[i], float(market.nights[t, i]), swaps.long_points[i], swaps.short_points[i], table.point[i],
            table.contract_size[i], conversion[i],
        )  # fmt: skip
    slippage = config.slippage_points * table.point[i]
    for point in range(4):
        bid = opening if point == 0 else (first if point == 1 else (second if point == 2 else closing))
        book.bid[i] = bid
        book.ask[i] = bid + spread
        if book.lots[i] != 0.0:
            what = touched(book.lots[i], book.stop[i], book.target[i], bid, bid + spread)
            if what != NOTHING:
                price = exit_price(
                    what, book.lots[i], book.stop[i], book.target[i], bid, bid + spread, slippage, point > 0
                )
                why = _STOP if what == STOP else _TARGET
                _leave(t, point, i, price, why, spread, conversion[i], config, table, book, state, tape)
        if point == 0 and book.order[i] != _NO_ORDER:
            _fill_order(t, i, spread, conversion, config, table, book, state, tape)


@compiled
def _stop_out(
    t: int, conversion: np.ndarray, market: Market, config: StepConfig, table: InstrumentTable, book: Book,
    state: DecisionState, tape: Tape,
) -> None:  # fmt: skip
    """Close the largest losses at the bar's close while equity is below the stop-out level of margin."""
    for _ in range(book.lots.shape[0]):
        bound = _margin_used(conversion, table, book)
        if bound <= 0.0 or _equity(conversion, table, book) >= STOP_OUT_LEVEL * bound:
            return
        worst, least = -1, np.inf
        for i in range(book.lots.shape[0]):
            if book.lots[i] != 0.0 and _floating(i, conversion[i], table, book) < least:
                worst, least = i, _floating(i, conversion[i], table, book)
        price = market_price(-book.lots[worst], book.bid[worst], book.ask[worst], config.slippage_points * table.point[worst])
        spread = book.ask[worst] - book.bid[worst]
        _leave(t, 3, worst, price, _STOP_OUT, spread, conversion[worst], config, table, book, state, tape)


@compiled
def _place(t: int, i: int, held: bool, book: Book, out: Decisions, tape: Tape) -> None:
    """Turn a decision into an order for the next bar, or a tighter stop from the next bar on."""
    action = out.action[i]
    lots = out.target_lots[i] if action == _OPEN else book.lots[i]
    if action == _OPEN:
        book.order[i] = _OPEN_ORDER
        book.order_lots[i] = lots
        book.order_stop[i] = out.stop[i]
        book.order_target[i] = out.target[i]
        book.order_risk[i] = out.risk_money[i]
        book.order_level[i] = out.level[i]
        book.order_score[i] = out.score[i]
        book.order_confidence[i] = out.confidence[i]
    elif action == _CLOSE and held:
        book.order[i] = _CLOSE_ORDER
    elif action == _MODIFY and held:
        book.stop[i] = out.stop[i]
    row = tape.events[tape.counts[1]]
    tape.counts[1] += 1
    row[0], row[1], row[2], row[3], row[4], row[5] = t, i, action, lots, out.stop[i], out.target[i]
    row[6], row[7], row[8], row[9] = out.level[i], out.reasons[i], out.score[i], out.validation[i]
    row[10], row[11], row[12], row[13] = out.confidence[i], out.kelly[i], out.risk_money[i], out.stage[i]


@compiled
def _count(i: int, out: Decisions, tape: Tape) -> None:
    tape.levels[out.level[i]] += 1
    reasons = out.reasons[i]
    for bit in range(tape.reasons.shape[0]):
        tape.reasons[bit] += (reasons >> bit) & 1
    if out.breakers[i] != 0:
        for bit in range(tape.breakers.shape[0]):
            tape.breakers[bit] += (out.breakers[i] >> bit) & 1


@compiled
def run(
    market: Market, config: StepConfig, table: InstrumentTable, swaps: Swaps, book: Book, state: DecisionState,
    out: Decisions, tape: Tape,
) -> None:  # fmt: skip
    """Loop the step over all bars. ``book``, ``state``, ``out`` and ``tape`` are changed in place."""
    rows, n = market.close.shape
    positions = PositionTable(book.lots, book.entry_price, book.stop, book.target, book.pending, book.foreign)
    for t in range(rows):
        before = market.conversion[t - 1 if t > 0 else 0]
        for i in range(n):
            if market.has_bar[t, i]:
                _walk_bar(t, i, before, market, config, table, swaps, book, state, tape)
                book.bar_time[i] = market.time[t]
        conversion = market.conversion[t]
        _stop_out(t, conversion, market, config, table, book, state, tape)
        equity = _equity(conversion, table, book)
        bound = _margin_used(conversion, table, book)
        inputs = StepInputs(
            market.close_time[t], market.trading_day[t], market.has_bar[t], book.bar_time, book.bid, book.ask,
            market.atr[t], market.volatility_short[t], market.volatility_long[t], market.spread_median[t],
            market.votes[t], market.p_up[t], market.confidence[t], market.agreement[t], market.correlation_shift[t],
            conversion, market.regime[t], market.market_open[t], market.has_bar[t], market.market_open[t],
        )  # fmt: skip
        account = AccountState(book.money[BALANCE], equity, bound, True, _RUN)
        decide(config, table, inputs, account, positions, state, out)
        held = 0
        for i in range(n):
            if book.lots[i] != 0.0:
                held += 1
            if market.has_bar[t, i]:
                _count(i, out, tape)
                if out.action[i] != _NONE:
                    _place(t, i, book.lots[i] != 0.0, book, out, tape)
        tape.equity[t] = equity
        tape.balance[t] = book.money[BALANCE]
        tape.margin[t] = bound
        tape.positions[t] = held
        tape.stage[t] = state.stage[0]


@dataclass(frozen=True)
class BacktestResult:
    """What a backtest leaves. Times are int64 ns UTC, money is in the account's currency.

    Attributes:
        equity: one row a bar of the grid: ``time`` (the bar's close), ``equity, balance, margin_used`` f8,
            ``open_positions`` i8, ``stage`` i1.
        trades: closed trades: ``symbol, side`` (+1/−1)``, lots, entry_time, entry_price, exit_time, exit_price, stop,
            target, gross, swap, commission, profit`` (net)``, risk_money, bars_held, reason, level, score, confidence``.
        decisions: one row a decision that acted: ``time`` (the bar's close)``, bar_time, symbol, action, lots, stop,
            target, level, reasons, score, validation, confidence, kelly, risk_money, stage``.
        counts: how many decisions there were by level, reason, breaker, and how many acted.
        costs: ``commission, spread, slippage, swap`` paid, and ``total``.
        turnover: sum of traded notional.
        rejected: orders that the market had moved away from, or that margin did not allow.
        initial_balance: where it began.
        halted_time: when the drawdown halt was reached (nothing is traded after it); None: never.
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
    open_profit: float
    state: DecisionState
    metrics: dict[str, float] = field(default_factory=dict)


def replay(
    history: History, config: StepConfig, *, initial_balance: float, leverage: float, state: DecisionState | None = None
) -> BacktestResult:
    """Run the step over history.

    Args:
        history: from :func:`fx_dagster.backtest.prepare.prepare`.
        config: ``traditional_control(config)`` gives the control that the system is compared with.
        initial_balance: in the account's currency.
        leverage: of the account.
        state: what the step remembers at the start (it is copied); None: nothing.

    Raises:
        SettingsError: balance or configuration is impossible, or wants more models than there are predictions.
        DataError: the history is empty.
    """
    from fx_dagster.backtest.metrics import metrics

    _check(history, config, initial_balance)
    market, n = history.market, len(history.instruments)
    state = new_state(n, config.horizon_bars) if state is None else copy_state(state)
    table = instrument_table(history.instruments, leverage)
    swaps = Swaps(
        np.array([item.swap_long_points for item in history.instruments], dtype=np.float64),
        np.array([item.swap_short_points for item in history.instruments], dtype=np.float64),
    )
    book, tape = _new_book(n, initial_balance), _new_tape(market)
    run(market, config, table, swaps, book, state, empty_decisions(n), tape)
    result = _result(history, book, tape, state, initial_balance)
    result.metrics.update(metrics(result))
    return result


def _check(history: History, config: StepConfig, initial_balance: float) -> None:
    checked(config)
    if not (np.isfinite(initial_balance) and initial_balance > 0):
        raise SettingsError(f"initial_balance is {initial_balance}", mend="give a number above 0")
    if len(history.market.time) == 0:
        raise DataError("the backtest's window holds no bar", mend="widen it")
    wanted = config.simple_models + config.deep_models + int(config.meta)
    if config.best_level < Level.TRADITIONAL and history.market.p_up.shape[2] < wanted:
        raise SettingsError(
            f"simple_models, deep_models and meta want {wanted} columns, predictions have {history.market.p_up.shape[2]}",
            mend="prepare the history with the columns of all models",
        )


def _new_book(n: int, initial_balance: float) -> Book:
    def column(kind: type = np.float64) -> Any:
        return np.zeros(n, dtype=kind)

    kinds = {"entry_row": np.int64, "bar_time": np.int64, "level": np.int8, "order": np.int8, "order_level": np.int8,
             "pending": np.bool_}  # fmt: skip
    book = Book(**{name: column(kinds.get(name, np.float64)) for name in Book._fields})
    money = np.zeros(7)
    money[BALANCE] = initial_balance
    quotes = {"bid": np.full(n, np.nan), "ask": np.full(n, np.nan)}
    return book._replace(money=money, bar_time=np.full(n, np.iinfo(np.int64).min), **quotes)


def _new_tape(market: Market) -> Tape:
    rows = len(market.time)
    # Never written pages of an empty array cost nothing, so that the bound may be generous.
    capacity = int(market.has_bar.sum()) + market.close.shape[1]
    return Tape(
        equity=np.zeros(rows), balance=np.zeros(rows), margin=np.zeros(rows),
        positions=np.zeros(rows, dtype=np.int64), stage=np.zeros(rows, dtype=np.int8),
        trades=np.empty((capacity, len(_TRADE_COLUMNS))), events=np.empty((capacity, len(_EVENT_COLUMNS))),
        counts=np.zeros(2, dtype=np.int64), levels=np.zeros(5, dtype=np.int64),
        reasons=np.zeros(max(Reason).bit_length(), dtype=np.int64), breakers=np.zeros(7, dtype=np.int64),
    )  # fmt: skip


def _result(
    history: History, book: Book, tape: Tape, state: DecisionState, initial_balance: float
) -> BacktestResult:
    market, money = history.market, book.money
    costs = {
        "commission": float(money[COMMISSION]), "spread": float(money[SPREAD]), "slippage": float(money[SLIPPAGE]),
        "swap": float(money[SWAP] - book.swap.sum()),
    }  # fmt: skip
    halted = np.flatnonzero(tape.stage == Stage.HALT)
    return BacktestResult(
        equity=pd.DataFrame(
            {
                "time": market.close_time, "equity": tape.equity, "balance": tape.balance, "margin_used": tape.margin,
                "open_positions": tape.positions, "stage": tape.stage,
            }
        ),  # fmt: skip
        trades=_trades(history, tape),
        decisions=_events(history, tape),
        counts=_counts(tape),
        costs=costs | {"total": sum(costs.values())},
        turnover=float(money[TURNOVER]),
        rejected=int(money[REJECTED]),
        initial_balance=float(initial_balance),
        halted_time=int(market.close_time[halted[0]]) if len(halted) else None,
        open_profit=float(tape.equity[-1] - tape.balance[-1]),
        state=state,
    )


def _trades(history: History, tape: Tape) -> pd.DataFrame:
    table = pd.DataFrame(tape.trades[: tape.counts[0]], columns=list(_TRADE_COLUMNS))
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


def _events(history: History, tape: Tape) -> pd.DataFrame:
    table = pd.DataFrame(tape.events[: tape.counts[1]], columns=list(_EVENT_COLUMNS))
    row, column = table.pop("row").to_numpy(np.int64), table.pop("column").to_numpy(np.int64)
    table["action"] = [Action(int(code)).name.lower() for code in table["action"]]
    table = table.astype({"level": np.int64, "reasons": np.int64, "stage": np.int64})
    table.insert(0, "symbol", np.array(history.symbols, dtype=object)[column])
    table.insert(0, "bar_time", history.market.time[row])
    table.insert(0, "time", history.market.close_time[row])
    return table


def _counts(tape: Tape) -> dict[str, dict[str, int]]:
    return {
        "level": {str(int(level)): int(tape.levels[level]) for level in Level if level is not Level.UNSET},
        "reason": {
            str(reason.name).lower(): int(tape.reasons[reason.bit_length() - 1])
            for reason in Reason if tape.reasons[reason.bit_length() - 1]
        },
        "breaker": {str(one.name).lower(): int(tape.breakers[one.bit_length() - 1]) for one in Breaker},
        "total": {"decisions": int(tape.levels.sum()), "acted": int(tape.counts[1])},
    }  # fmt: skip


