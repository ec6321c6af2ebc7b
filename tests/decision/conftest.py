"""A decision step on EURUSD (and others) whose inputs say "enter long" until a test says otherwise."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from fx_dagster.decision.arrays import AccountState, Decisions, PositionTable, StepInputs
from fx_dagster.decision.codes import Action, Command, Reason
from fx_dagster.decision.config import StepConfig, step_config
from fx_dagster.decision.decider import DecisionStep
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.settings import CostSettings, RiskSettings

START = 1_700_000_000 * 1_000_000_000 // HOUR_NS * HOUR_NS
ENTERED = Action.OPEN


@dataclass
class Bench:
    """A step with its inputs, account and positions, and a clock that moves a bar at a time."""

    step: DecisionStep
    inputs: StepInputs
    positions: PositionTable
    equity: float = 10_000.0
    balance: float = 10_000.0
    margin_used: float = 0.0
    healthy: bool = True
    command: int = Command.RUN
    commission_rate: float = 1.0
    returns: np.ndarray | None = None
    bar: int = 0

    def decide(self, *, bars: int = 1, seconds: float = 0.0, day: int | None = None) -> Decisions:
        self.bar += bars
        self.inputs.bar_time[:] = START + (self.bar - 1) * HOUR_NS
        moment = START + self.bar * HOUR_NS + int(seconds * 1e9)
        self.inputs = self.inputs._replace(time=moment, trading_day=self.bar // 24 if day is None else day)
        account = AccountState(
            self.balance, self.equity, self.margin_used, self.healthy, int(self.command), self.commission_rate
        )
        return self.step.decide(self.inputs, account, self.positions, self.returns)

    def hold(self, lots: float, *, row: int = 0, stop: float = 1.0, target: float = 2.0, entry: float = 1.1) -> None:
        self.positions.lots[row], self.positions.entry_price[row] = lots, entry
        self.positions.stop[row], self.positions.target[row] = stop, target

    def reasons(self, decisions: Decisions, row: int = 0) -> Reason:
        return Reason(int(decisions.reasons[row]))


def fill(inputs: StepInputs, row: int, *, price: float, point: float) -> None:
    """Say "long": all votes and models up, quiet market, ATR of 100 points, spread of 10."""
    inputs.bid[row], inputs.ask[row] = price, price + 10 * point
    inputs.atr[row] = 100 * point
    inputs.volatility_short[row] = inputs.volatility_long[row] = 0.10
    inputs.spread_median[row] = 10 * point
    inputs.votes[row] = 0.5
    inputs.p_up[row] = 0.8
    inputs.conversion[row] = 1.0
    inputs.tradable[row] = inputs.fresh[row] = True


@pytest.fixture
def bench() -> Callable[..., Bench]:
    def make(
        *symbols: str, risk: dict[str, Any] | None = None, paper: bool = True, models: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Bench:  # fmt: skip
        config = step_config(RiskSettings(**(risk or {})), CostSettings(), paper=paper, **(models or {}))
        config = config._replace(**changes)
        items = [instrument(symbol) for symbol in symbols or ("EURUSD",)]
        step = DecisionStep(config, items, leverage=30)
        inputs = step.empty_inputs()
        for row, item in enumerate(items):
            fill(inputs, row, price=1.1 if item.digits == 5 else 1_900.0, point=item.point)
        return Bench(step, inputs, step.empty_positions())

    return make


@pytest.fixture
def config() -> StepConfig:
    return step_config(RiskSettings(), CostSettings(), paper=True)


@pytest.fixture
def nan() -> float:
    return float(np.nan)
