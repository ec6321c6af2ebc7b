"""How long the decision step takes: at a tick that changes nothing, and at a bar's close with entries to size."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from bench.session import Session
from bench.table import Row
from bench.timing import microseconds, timed
from fx_dagster.compiled import compiled
from fx_dagster.decision.config import step_config
from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.rows import ACCOUNT, DECISION, POSITION, Rows, config_row, input_dtype
from fx_dagster.decision.state import new_state
from fx_dagster.decision.step import Record, decide_rows
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.settings import CostSettings, RiskSettings

_SYMBOLS = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "AUDUSD", "USDCAD", "USDCHF", "NZDUSD")
_START = 1_700_000_000 * 1_000_000_000 // HOUR_NS * HOUR_NS
_WINDOW = 240
TICKS, BARS = 1_000_000, 2_000


class Desk(NamedTuple):
    """All that the step reads and writes."""

    config: Rows
    table: Rows
    inputs: Rows
    account: Rows
    positions: Rows
    states: Rows
    memory: Rows
    out: Rows
    rows: np.ndarray
    returns: np.ndarray


def desk(*, held: int = 3) -> Desk:
    """Return eight symbols that say "long", ``held`` of which have a position."""
    config = step_config(RiskSettings(), CostSettings(), paper=True)
    items, n = [instrument(symbol) for symbol in _SYMBOLS], len(_SYMBOLS)
    models = config.simple_models + config.deep_models + config.meta
    inputs, positions, account = np.zeros(n, input_dtype(models)), np.zeros(n, POSITION), np.zeros(1, ACCOUNT)
    inputs["active"] = inputs["tradable"] = inputs["fresh"] = inputs["market_open"] = True
    inputs["bid"], inputs["spread_median"], inputs["conversion"] = 1.1, 0.0001, 1.0
    inputs["ask"], inputs["atr"], inputs["votes"], inputs["p_up"] = 1.1001, 0.001, 0.5, 0.7
    inputs["volatility_short"] = inputs["volatility_long"] = 0.1
    inputs["agreement"] = inputs["correlation_shift"] = inputs["drift"] = np.nan
    inputs["confidence"], inputs["regime"], inputs["size"], inputs["timing"] = 0.65, 1, 1.1, (0.9, 0.1, 0.1)
    inputs["bar_time"] = _START
    positions["lots"][:held], positions["entry_price"], positions["stop"] = 0.01, 1.1, 1.0
    account["time"], account["trading_day"], account["healthy"] = _START + HOUR_NS, 1, True
    account["balance"] = account["equity"] = 10_000.0
    account["commission_rate"] = 1.0
    state = new_state(n, config.horizon_bars)
    returns = np.random.default_rng(1).normal(0.0, 0.001, (_WINDOW, n))
    return Desk(
        config_row(config), instrument_table(items, 30.0), inputs, account, positions, state.rows, state.memory,
        np.zeros(n, DECISION), np.arange(n), returns,
    )  # fmt: skip


@compiled
def _ticks(desk: Record, count: int, held: int) -> None:
    """Show the step ``count`` ticks, symbol after symbol, that change nothing but time and price."""
    account, n = desk.account[0], desk.inputs.shape[0]
    one = np.empty(1, dtype=np.int64)
    for k in range(count):
        i = k % n
        account.time += 1_000_000
        desk.inputs[i].bid += 1e-9
        one[0] = i
        decide_rows(
            desk.config, desk.table, desk.inputs, desk.account, desk.positions, desk.states, desk.memory, desk.out,
            one, held, desk.returns,
        )  # fmt: skip


@compiled
def _bars(desk: Record, count: int, held: int) -> None:
    """Show the step ``count`` bars of all symbols; every one without a position is entered anew."""
    account = desk.account[0]
    for _ in range(count):
        account.time += HOUR_NS
        for i in range(desk.inputs.shape[0]):
            desk.inputs[i].bar_time += HOUR_NS
            desk.inputs[i].version += 1
        decide_rows(
            desk.config, desk.table, desk.inputs, desk.account, desk.positions, desk.states, desk.memory, desk.out,
            desk.rows, held, desk.returns,
        )  # fmt: skip


def rows(session: Session) -> Iterator[Row]:
    """Measure both, and a bar at which nothing can be entered."""
    for work, held in (("a bar of eight symbols, five entries", 3), ("a bar of eight symbols, no entry", 8)):
        yield _bar(session, work, held)
    case, count = desk(), session.size(TICKS)
    work = "one symbol at a tick that changes nothing"
    ours, _ = session.in_turns(work, timed(lambda: _ticks(case, count, 3), count), {}, microseconds)
    yield Row(f"decision step: {work}", ours, "µs")


def _bar(session: Session, work: str, held: int) -> Row:
    case, count = desk(held=held), session.size(BARS)
    case.config["hold_bars_max"] = 1 << 60
    ours, _ = session.in_turns(work, timed(lambda: _bars(case, count, held), count), {}, microseconds)
    return Row(f"decision step: {work}", ours, "µs")
