"""What a backtest leaves, made the same way from a replay of bars and from one of ticks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fx_dagster.backtest.metrics import metrics
from fx_dagster.decision.codes import Action, Breaker, Level, Reason, Stage
from fx_dagster.decision.rows import Int64, Rows
from fx_dagster.decision.state import DecisionState
from fx_dagster.execution.ledger import Cause, Entry, Ledger
from fx_dagster.execution.orders import DealReason

_REASONS = np.array([str(DealReason[{"ORDER": "CLIENT"}.get(cause.name, cause.name)]) for cause in Cause], dtype=object)
_ACTIONS = np.array([action.name.lower() for action in Action], dtype=object)
"""Words by code."""
_FROM_DECISION = (
    "stop", "target", "level", "reasons", "score", "validation", "confidence", "kelly", "risk_money", "stage",
)  # fmt: skip


@dataclass(frozen=True)
class BacktestResult:
    """What a backtest leaves. Times are int64 ns UTC, money is in the account's currency.

    Attributes:
        equity: one row a base bar's end: ``time`` (the end), ``equity, balance, margin_used`` f8, ``open_positions``
            i8, ``stage`` i1.
        trades: closed trades: ``symbol, side`` (+1/−1)``, lots, entry_time, entry_price, exit_time, exit_price, stop,
            target, gross, swap, commission, profit`` (net)``, risk_money, bars_held, reason, level, score,
            confidence``.
        decisions: one row a decision that acted: ``time`` (when it was made)``, bar_time`` (the newest closed bar's
            opening)``, symbol, action, lots, stop, target, level, reasons, score, validation, confidence, kelly,
            risk_money, stage``.
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
    metrics: dict[str, float]


@dataclass(frozen=True)
class Acts:
    """The decisions that acted, in order.

    Attributes:
        out: ``[a]`` of :data:`fx_dagster.decision.rows.DECISION`.
        row: int64 ``[a]`` symbols.
        time: int64 ``[a]`` when they were made, ns UTC.
        bar_time: int64 ``[a]`` opening of the newest closed bar, ns UTC.
    """

    out: Rows
    row: Int64
    time: Int64
    bar_time: Int64


def make_result(
    *, symbols: Sequence[str], ledger: Ledger, deals: Rows, acts: Acts, equity: pd.DataFrame, bar_time: Int64,
    counts: dict[str, dict[str, int]], state: DecisionState, initial_balance: float,
) -> BacktestResult:  # fmt: skip
    """Return the result of a replay that is over, metrics included.

    Args:
        symbols: by the ledger's rows.
        ledger: the account at the end.
        deals: all its events, in order.
        acts: decisions that acted; the key of a deal is the place of its decision, from 1.
        equity: see :class:`BacktestResult`.
        bar_time: int64 ``[t]`` opening of the base bars, ascending; what ``bars_held`` counts.
        counts: see :class:`BacktestResult`.
        state: what the step remembers at the end.
        initial_balance: of the account.
    """
    money, stage = ledger.money[0], equity["stage"].to_numpy()
    costs = {name: float(money[name]) for name in ("commission", "spread", "slippage")}
    costs["swap"] = float(money["swap"] - ledger.helds["swap"].sum())
    halted = np.flatnonzero(stage == Stage.HALT)
    decisions = _decision_table(symbols, acts)
    trades = _trade_table(symbols, deals, decisions, bar_time)
    turnover = float(money["turnover"])
    return BacktestResult(
        equity=equity,
        trades=trades,
        decisions=decisions,
        counts=counts,
        costs=costs | {"total": sum(costs.values())},
        turnover=turnover,
        rejected=int(money["refused"]),
        initial_balance=float(initial_balance),
        halted_time=int(equity["time"].iloc[halted[0]]) if len(halted) else None,
        halts=int(np.sum(np.diff((stage == Stage.HALT).astype(np.int8), prepend=0) == 1)),
        open_profit=float(equity["equity"].iloc[-1] - equity["balance"].iloc[-1]),
        state=state,
        metrics=metrics(equity, trades, initial=initial_balance, turnover=turnover, costs=sum(costs.values())),
    )


def _decision_table(symbols: Sequence[str], acts: Acts) -> pd.DataFrame:
    out = acts.out
    columns: dict[str, NDArray[Any]] = {
        "time": acts.time,
        "bar_time": acts.bar_time,
        "symbol": np.array(symbols, dtype=object)[acts.row],
        "action": _ACTIONS[out["action"]],
        "lots": out["target_lots"],
        **{name: out[name] for name in _FROM_DECISION},
    }
    return pd.DataFrame(columns).astype({"level": np.int64, "reasons": np.int64, "stage": np.int64})


def _trade_table(symbols: Sequence[str], deals: Rows, decisions: pd.DataFrame, bar_time: Int64) -> pd.DataFrame:
    """Return the closed trades, each with the decision that its position came from."""
    closing = deals[(deals["what"] == Entry.DEAL) & (deals["closing"] == 1)]
    entry = decisions.iloc[closing["entry_key"] - 1]
    commission = closing["commission"] + closing["entry_commission"]
    return pd.DataFrame(
        {
            "symbol": np.array(symbols, dtype=object)[closing["row"]],
            "side": np.sign(closing["closed_lots"]).astype(np.int64),
            "lots": np.abs(closing["closed_lots"]),
            "entry_time": closing["entry_time"],
            "entry_price": closing["entry_price"],
            "exit_time": closing["time"],
            "exit_price": closing["price"],
            "stop": closing["stop"],
            "target": closing["target"],
            "gross": closing["profit"],
            "swap": closing["swap"],
            "commission": commission,
            "profit": closing["profit"] + closing["swap"] - commission,
            "risk_money": closing["risk"],
            "bars_held": np.searchsorted(bar_time, closing["time"], side="right")
            - np.searchsorted(bar_time, closing["entry_time"], side="right"),
            "reason": _REASONS[closing["cause"]],
            "level": entry["level"].to_numpy(),
            "score": entry["score"].to_numpy(),
            "confidence": entry["confidence"].to_numpy(),
        }
    )


def name_counts(levels: Int64, reasons: Int64, breakers: Int64, acted: int) -> dict[str, dict[str, int]]:
    """Return counts of decisions by the names of levels, reasons and breakers.

    Args:
        levels: by level.
        reasons: by bit.
        breakers: by bit.
        acted: decisions that acted.
    """
    return {
        "level": {str(int(level)): int(levels[level]) for level in Level if level is not Level.UNSET},
        "reason": {
            str(reason.name).lower(): int(reasons[reason.bit_length() - 1])
            for reason in Reason if reasons[reason.bit_length() - 1]
        },
        "breaker": {str(one.name).lower(): int(breakers[one.bit_length() - 1]) for one in Breaker},
        "total": {"decisions": int(levels.sum()), "acted": acted},
    }  # fmt: skip
