"""A decision step on EURUSD (and others) whose inputs say "enter long" until a test says otherwise."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fx_dagster import snapshot
from fx_dagster.decision.codes import Command, Level, Reason, Regime
from fx_dagster.decision.config import StepConfig, checked, step_config
from fx_dagster.decision.instruments import instrument_table
from fx_dagster.decision.rows import ACCOUNT, CLASSICAL, DECISION, POSITION, config_row, input_dtype
from fx_dagster.decision.state import new_state
from fx_dagster.decision.step import decide, end_halt, record_trade
from fx_dagster.market.instruments import Instrument, instrument
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.settings import CostSettings, RiskSettings

START = 1_700_000_000 * 1_000_000_000 // HOUR_NS * HOUR_NS
ABSENT = ("atr", "bid", "ask", "volatility_short", "volatility_long", "spread_median", "votes", "p_up", "confidence",
          "size", "timing", "agreement", "correlation_shift", "drift", "conversion")  # fmt: skip
SIMPLE = {"best_level": Level.SIMPLE_AI, "simple_models": 2, "deep_models": 0, "meta": False}
"""The smaller ensemble, which most rules need no more than."""
FULL = {"best_level": Level.FULL_AI, "simple_models": 2, "deep_models": 2, "meta": True}
CONFIDENCE = 0.775


class Bench:
    """The step over packed rows, whose fields are attributes here, and a clock that moves a bar at a time."""

    def __init__(self, config: StepConfig, items: Sequence[Instrument]) -> None:
        n = len(items)
        self.symbols = tuple(item.symbol for item in items)
        self.configure(config)
        self.table = instrument_table(items, 30.0)
        inputs = input_dtype(config.simple_models + config.deep_models + int(config.meta))
        self._inputs, self._positions, self._out = np.zeros(n, inputs), np.zeros(n, POSITION), np.zeros(n, DECISION)
        self.inputs, self.positions, self.out = (
            rows.view(np.recarray) for rows in (self._inputs, self._positions, self._out)
        )
        self.inputs.active[:] = self.inputs.market_open[:] = True
        for name in ABSENT:
            self.inputs[name] = np.nan
        self.account = np.zeros(1, ACCOUNT)
        self.states, self.memory = new_state(n, config.horizon_bars)
        self.returns = np.zeros((0, n))
        self.equity = self.balance = 10_000.0
        self.margin_used, self.commission_rate = 0.0, 1.0
        self.healthy, self.command = True, Command.RUN
        self.bar = 0

    def configure(self, config: StepConfig) -> None:
        self.config = checked(config)
        self._config = config_row(config)

    def decide(self, *, bars: int = 1, seconds: float = 0.0, day: int | None = None) -> np.recarray:
        """Decide all active rows; what is returned is written again by the next call."""
        self.bar += bars
        self.inputs.bar_time[:] = START + (self.bar - 1) * HOUR_NS
        # A test may have changed anything: what was derived from the last inputs is not used again.
        self.inputs.version[:] += 1
        self.account[0] = (
            START + self.bar * HOUR_NS + int(seconds * 1e9), self.bar // 24 if day is None else day, self.balance,
            self.equity, self.margin_used, self.healthy, int(self.command), self.commission_rate,
        )  # fmt: skip
        decide(
            self._config, self.table, self._inputs, self.account, self._positions, self.states, self.memory, self._out,
            int(np.count_nonzero(self._positions["lots"])), self.returns,
        )  # fmt: skip
        return self.out

    def hold(self, lots: float, *, row: int = 0, stop: float = 1.0, target: float = 2.0, entry: float = 1.1) -> None:
        self.positions.lots[row], self.positions.entry_price[row] = lots, entry
        self.positions.stop[row], self.positions.target[row] = stop, target

    def record_trade(self, result: float, risk_money: float) -> None:
        record_trade(self.memory[0], result, risk_money)

    def resume(self, equity: float) -> None:
        end_halt(self.memory[0], self.states, equity)

    def reasons(self, out: np.recarray, row: int = 0) -> Reason:
        return Reason(int(out.reasons[row]))

    def snapshot(self) -> bytes:
        return snapshot.pack(self._remembered(), {})

    def restore(self, data: bytes) -> None:
        _, found = snapshot.unpack(data)
        snapshot.fill(self._remembered(), found, [(row, row) for row in range(len(self.symbols))])

    def _remembered(self) -> dict[str, np.ndarray]:
        return {"inputs": self._inputs, "states": self.states, "memory": self.memory}


def fill(inputs: np.recarray, row: int, *, price: float, point: float) -> None:
    """Say "long": all classical votes and models up, quiet market, ATR of 100 points, spread of 10."""
    inputs.bid[row], inputs.ask[row] = price, price + 10 * point
    inputs.atr[row] = 100 * point
    inputs.volatility_short[row] = inputs.volatility_long[row] = 0.10
    inputs.spread_median[row] = 10 * point
    inputs.votes[row, :CLASSICAL] = 0.5
    inputs.p_up[row] = 0.8
    inputs.conversion[row] = 1.0
    inputs.tradable[row] = inputs.fresh[row] = True


def fill_extras(inputs: np.recarray, row: int, *, regime: int = Regime.UNKNOWN) -> None:
    """Say what level 1 needs beside probabilities; the agents say nothing."""
    inputs.confidence[row], inputs.votes[row, CLASSICAL], inputs.regime[row] = CONFIDENCE, 0.5, regime


@pytest.fixture
def bench() -> Callable[..., Bench]:
    def make(
        *symbols: str, risk: dict[str, Any] | None = None, paper: bool = True, models: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Bench:  # fmt: skip
        config = step_config(RiskSettings(**(risk or {})), CostSettings(), paper=paper, **(SIMPLE | (models or {})))
        items = [instrument(symbol) for symbol in symbols or ("EURUSD",)]
        made = Bench(config._replace(**changes), items)
        for row, item in enumerate(items):
            fill(made.inputs, row, price=1.1 if item.digits == 5 else 1_900.0, point=item.point)
        return made

    return make


@pytest.fixture
def config() -> StepConfig:
    return step_config(RiskSettings(), CostSettings(), paper=True)
