"""The made shocks, replayed where positions are open, and whether limits, stops and breakers did their work."""

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.backtest.shocks import rows_of_an_hour, with_common_move, with_gap, with_silence, with_spread
from fx_dagster.decision.config import StepConfig
from fx_dagster.decision.inputs import LONG_BARS
from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.market.timeframes import DAY_NS

GAP_ATR = 10.0
SPREAD_FACTOR = 10.0
DATES = 3
_SLACK = 1.05
"""Limits count margin at the decision's price and conversion, losses at later ones."""


@dataclass(frozen=True)
class ShockOutcome:
    """One shock at one date. Shares are of the equity before it.

    Attributes:
        shock: its name.
        time: opening of the first changed bar, ns UTC.
        positions: open positions that it met.
        fall: equity before it less equity at its end; negative: a gain.
        beyond: equity of the unshocked run at its end less that of the shocked one.
        allowed: largest fall that the limits of exposure allow; infinite where they bound none.
        max_drawdown: of the whole shocked run.
        max_drawdown_before: of the whole unshocked run.
        breakers: those that kept entries closed more often than without the shock.
        broken: what did not hold; empty when all did its work.
    """

    shock: str
    time: int
    positions: int
    fall: float
    beyond: float
    allowed: float
    max_drawdown: float
    max_drawdown_before: float
    breakers: tuple[str, ...]
    broken: tuple[str, ...]


class _Base(NamedTuple):
    """The unshocked run, and what it held at the close of each row."""

    history: History
    config: StepConfig
    replayed: Callable[[History], BacktestResult]
    result: BacktestResult
    lots: Float64
    """``[t, n]`` signed; 0: none."""
    entry: Float64
    """``[t, n]`` entry prices; 0: none."""
    stop: Float64
    """``[t, n]`` the stops that these positions began with: later ones are nearer."""
    since: Int64
    """``[t, n]`` rows in which these positions were opened."""
    rates: Float64
    """``[n]`` margin over notional."""


class _Shock(NamedTuple):
    name: str
    first: int
    end: int
    """The row after the last one that counts as the shock."""
    gap_row: int
    """Row of the jump; −1: none."""
    quiet_end: int
    """Nothing may be entered from ``first`` to the row before this one."""
    trips: str
    """Breaker that must trip; empty: none must."""
    made: Callable[[], History]
    jumps: Float64


def run_shocks(
    history: History, config: StepConfig, *, initial_balance: float, leverage: float, resume_after_hours: float = 0.0,
    seed: int = 7, dates: int = DATES, gap_atr: float = GAP_ATR, spread_factor: float = SPREAD_FACTOR,
) -> list[ShockOutcome]:  # fmt: skip
    """Replay every shock at dates that ``seed`` chooses among those at which the most positions are open.

    A run that never holds a position long enough has nothing to shock: then there are no outcomes. A common move needs
    two symbols.

    Args:
        history: unshocked; not changed.
        config: of the step.
        initial_balance: of the account.
        leverage: of the account.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`.
        seed: of the dates.
        dates: of each shock, at most.
        gap_atr: size of a jump, in ATR of the symbol.
        spread_factor: of the spread's shock.

    Raises:
        SettingsError: the configuration is impossible.
        DataError: the history is empty.
    """

    def replayed(one: History) -> BacktestResult:
        return replay(
            one, config, initial_balance=initial_balance, leverage=leverage, resume_after_hours=resume_after_hours
        )

    base = _base(history, config, replayed, leverage)
    shocks = _plan(base, np.random.default_rng(seed), dates, gap_atr, spread_factor)
    # Each shocked history is a copy: no more of them at a time than there are threads.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(lambda shock: _outcome(base, shock), shocks))


def outcome_table(outcomes: list[ShockOutcome]) -> pd.DataFrame:
    """Return one row an outcome; ``time`` in ns UTC, what is not bounded NaN, breakers and what is broken joined."""
    frame = pd.DataFrame([dataclasses.asdict(one) for one in outcomes], columns=list(_TYPES))
    for name in ("breakers", "broken"):
        frame[name] = [", ".join(found) for found in frame[name]]
    return frame.replace({"allowed": {np.inf: np.nan}}).astype(_TYPES)


_TYPES = {
    "shock": "str", "time": np.int64, "positions": np.int64, "fall": np.float64, "beyond": np.float64,
    "allowed": np.float64, "max_drawdown": np.float64, "max_drawdown_before": np.float64, "breakers": "str",
    "broken": "str",
}  # fmt: skip


def _base(
    history: History, config: StepConfig, replayed: Callable[[History], BacktestResult], leverage: float
) -> _Base:
    result = replayed(history)
    time, shape = history.market.time, history.market.bars.shape
    lots, entry, stop, since = np.zeros(shape), np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64)
    opened = result.decisions[result.decisions["action"] == "open"]
    for i, symbol in enumerate(history.symbols):
        decided = opened[opened["symbol"] == symbol]
        decided_at, stops = decided["bar_time"].to_numpy(np.int64), decided["stop"].to_numpy(np.float64)
        for trade in result.trades[result.trades["symbol"] == symbol].itertuples():
            first, end = np.searchsorted(time, trade.entry_time), np.searchsorted(time, trade.exit_time, side="right")
            held = slice(first, end - 1)
            lots[held, i], entry[held, i], since[held, i] = trade.side * trade.lots, trade.entry_price, first
            stop[held, i] = stops[np.searchsorted(decided_at, trade.entry_time) - 1]
    rates = instrument_table(history.instruments, leverage)["margin_rate"]
    return _Base(history, config, replayed, result, lots, entry, stop, since, rates)


def _candidates(base: _Base) -> Int64:
    """Return the rows before which positions were open, all of them known, and no entry was on its way."""
    market, held = base.history.market, base.lots != 0.0
    open_before = np.concatenate([[0], held.sum(axis=1)[:-1]])
    known = np.concatenate([[0], base.result.equity["open_positions"].to_numpy()[:-1]]) == open_before
    decisions = base.result.decisions
    entering = np.isin(market.time, decisions["bar_time"][decisions["action"] == "open"])
    active = market.inputs["active"]
    traded = np.ones(len(market.time), dtype=bool)
    traded[1:] = (~held[:-1] | (active[:-1] & active[1:])).all(axis=1)
    row = np.arange(len(market.time))
    fits = (row > LONG_BARS) & (market.time < market.time[-1] - 8 * DAY_NS)
    fits &= (open_before > 0) & known & traded & ~np.concatenate([[True], entering[:-1]])
    return np.flatnonzero(fits)


def _plan(base: _Base, rng: np.random.Generator, dates: int, gap_atr: float, spread_factor: float) -> list[_Shock]:
    rows, history = _candidates(base), base.history
    time = history.market.time
    nothing = np.zeros(len(history.instruments))

    def chosen(wanted: Int64) -> list[int]:
        if not len(wanted):
            return []
        count = (base.lots[wanted - 1] != 0.0).sum(axis=1)
        dense = wanted[count >= np.quantile(count, 0.75)]
        return sorted(rng.choice(dense, size=min(dates, len(dense)), replace=False).tolist())

    def until(row: int, span_ns: int) -> int:
        return int(np.searchsorted(time, time[row] + span_ns))

    shocks = []
    for name, sign in (("gap against longs", 1.0), ("gap against shorts", -1.0)):
        for row in chosen(rows[(base.lots[rows - 1] * sign > 0).any(axis=1)]):
            jumps = _jumps(base, row, gap_atr)
            shocks.append(_Shock(name, row, row + 1, row, row, "", _later(with_gap, history, row, jumps), jumps))
    blocks = spread_factor > base.config.spread_ratio_max
    for row in chosen(rows):
        end, made = until(row, DAY_NS), _later(with_spread, history, row, until(row, DAY_NS), spread_factor)
        # On short bars the running median follows within the day, and the spread is the usual one.
        quiet, trips = (min(end, row + LONG_BARS // 4), "spread") if blocks else (row, "")
        shocks.append(_Shock(f"spread × {spread_factor:g}", row, end, -1, quiet, trips, made, nothing))
    for row in chosen(rows) if len(nothing) > 1 else []:
        end, leader = until(row, 7 * DAY_NS), int(rng.integers(len(nothing)))
        made = _later(with_common_move, history, row, end, leader)
        shocks.append(_Shock("common move", row, end, -1, row, "", made, nothing))
    for row in chosen(rows):
        last, jumps = rows_of_an_hour(history, row), _jumps(base, row, gap_atr)
        made = _later(with_silence, history, row, last, jumps)
        shocks.append(_Shock("silent hour, then a gap", row, last + 1, last, last, "", made, jumps))
    return shocks


def _later(make: Callable[..., History], *arguments: object) -> Callable[[], History]:
    return lambda: make(*arguments)


def _jumps(base: _Base, row: int, gap_atr: float) -> Float64:
    """Return the jump against every open position, as fractions of the price; 0 without one."""
    market, lots = base.history.market, base.lots[row - 1]
    size = gap_atr * market.inputs["atr"][row - 1] / market.bars["close"][row - 1]
    return np.where(lots != 0.0, -np.sign(lots) * np.minimum(np.nan_to_num(size), 0.5), 0.0)


def _outcome(base: _Base, shock: _Shock) -> ShockOutcome:
    shocked = base.replayed(shock.made())
    before = float(base.result.equity["equity"].iloc[shock.first - 1])
    usual, after = (float(one.equity["equity"].iloc[shock.end - 1]) for one in (base.result, shocked))
    counts = [one.counts["breaker"] for one in (base.result, shocked)]
    tripped = tuple(name for name, count in counts[1].items() if count > counts[0][name])
    allowed = _allowed(base, shock) if shock.gap_row >= 0 else np.inf
    fall = (before - after) / before
    return ShockOutcome(
        shock=shock.name,
        time=int(base.history.market.time[shock.first]),
        positions=int((base.lots[shock.first - 1] != 0.0).sum()),
        fall=fall,
        beyond=(usual - after) / before,
        allowed=allowed,
        max_drawdown=shocked.metrics["max_drawdown"],
        max_drawdown_before=base.result.metrics["max_drawdown"],
        breakers=tripped,
        broken=tuple(_broken(base, shock, shocked, tripped, within=fall <= allowed)),
    )


def _allowed(base: _Base, shock: _Shock) -> float:
    """Return the largest fall over a gap that the limits allow, as a share of the equity before it.

    A position's margin was at most its regime's share of equity at its entry, all margins together their limit. What a
    position loses a unit of its entry's notional is the jump, the ordinary moves of the bars around it, and the costs
    of leaving.
    """
    market, row, first = base.history.market, shock.gap_row, shock.first
    held = base.lots[first - 1] != 0.0
    close = market.bars["close"][first - 1, held]
    around = market.bars[first : row + 1, held]
    ordinary = np.fmax(np.nanmax(around["high"], axis=0), close) - np.fmin(np.nanmin(around["low"], axis=0), close)
    points = np.array([item.point for item in base.history.instruments])[held]
    costs = np.nanmax(around["spread"], axis=0) + base.config.slippage_points * points
    distance = (np.abs(shock.jumps[held]) * close + ordinary + costs) / base.entry[first - 1, held]
    loss_a_margin = distance / base.rates[held]
    # The limits of a regime hold where its model counted; elsewhere those of the unknown one, which are no wider.
    regimes = np.unique(market.inputs["regime"][: row + 1])
    position = max(base.config.regime_position_max[int(regime)] for regime in regimes)
    bound = min(position * loss_a_margin.sum(), base.config.margin_used_max * loss_a_margin.max())
    # Sizes are of the equity at the close before each entry.
    oldest = max(int(base.since[first - 1, held].min()) - 1, 0)
    equity = base.result.equity["equity"].to_numpy()[oldest:first]
    return float(bound * equity.max() / equity[-1] * _SLACK)


def _broken(
    base: _Base, shock: _Shock, shocked: BacktestResult, tripped: tuple[str, ...], *, within: bool
) -> list[str]:
    market, found = base.history.market, []
    if not within:
        found.append("the loss is beyond the limits of exposure")
    during = shocked.equity.iloc[shock.first : shock.end]
    if (during["margin_used"] > _SLACK * base.config.margin_used_max * shocked.equity["equity"].max()).any():
        found.append("more margin in use than allowed")
    if shock.gap_row >= 0 and not _stopped(base, shock, shocked):
        found.append("a position that the gap passed was not stopped at once")
    quiet = market.time[shock.first : shock.quiet_end]
    entered = shocked.decisions[shocked.decisions["action"] == "open"]
    if np.isin(entered["bar_time"], quiet).any():
        found.append("an entry was decided that should not have been")
    if shock.gap_row >= 0 and np.isin(shocked.trades["entry_time"], quiet).any():
        found.append("a position was opened without a price")
    if shock.trips and shock.trips not in tripped:
        found.append(f"the {shock.trips} breaker did not trip")
    return found


def _stopped(base: _Base, shock: _Shock, shocked: BacktestResult) -> bool:
    """Return whether every position whose stop the gap passed was closed by it at the gap's open."""
    market, row = base.history.market, shock.gap_row
    lots, stop = base.lots[shock.first - 1], base.stop[shock.first - 1]
    opened = market.bars["open"][row] * (1.0 + shock.jumps)
    for i in np.flatnonzero((lots != 0.0) & (np.sign(lots) * (opened - stop) < -2.0 * market.bars["spread"][row])):
        trades = shocked.trades[shocked.trades["symbol"] == base.history.symbols[i]]
        if not ((trades["exit_time"] == market.time[row]) & trades["reason"].isin(["stop", "stop_out"])).any():
            return False
    return True
