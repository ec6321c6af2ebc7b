"""The paper broker and the replay are the same market: one tape, one step, the same trades."""

import numpy as np
import pytest

from fx_dagster.backtest.prepare import RETURNS_BARS, prepare
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.codes import Action, Command
from fx_dagster.decision.rows import ACCOUNT, DECISION, POSITION, config_row
from fx_dagster.decision.state import new_state
from fx_dagster.decision.step import decide, record_trade
from fx_dagster.execution.ledger import quote
from fx_dagster.execution.orders import OrderIntent, Purpose, client_order_id
from fx_dagster.execution.paper import PaperBroker
from fx_dagster.market.instruments import instrument
from fx_dagster.market.tick_model import model_ticks
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.settings import CostSettings, RiskSettings

PURPOSES = {Action.OPEN: Purpose.OPEN, Action.CLOSE: Purpose.CLOSE, Action.MODIFY: Purpose.MODIFY}


class Session:
    """The smallest live session: modelled ticks into the paper broker, a decision at each bar's end."""

    def __init__(self, history, config):
        self.market, self.symbol = history.market, history.symbols[0]
        self.paper = PaperBroker("paper", history.instruments, RiskSettings(), CostSettings())
        self.config, self.state = config_row(config), new_state(1, config.horizon_bars)
        self.positions, self.account, self.out = np.zeros(1, POSITION), np.zeros(1, ACCOUNT), np.zeros(1, DECISION)
        self.deals = []

    def run(self, ticks):
        for row in range(len(self.market.time)):
            for point, tick in enumerate(ticks[4 * row : 4 * row + 4]):
                time, bid, ask = int(tick["time"]), float(tick["bid"]), float(tick["ask"])
                quote(self.paper.ledger, 0, time, bid, ask, point > 0)
                self.learn(self.paper.drain())
            self.decide(row)

    def learn(self, deals):
        for deal in deals:
            self.deals.append(deal)
            if deal.closing:
                entry = next(other for other in reversed(self.deals) if not other.closing)
                result = deal.profit + deal.swap - deal.commission - entry.commission
                record_trade(self.state.memory[0], result, deal.risk_money)

    def decide(self, row):
        inputs = self.market.inputs[row].copy()
        inputs["version"] = row
        self.positions[:] = np.zeros(1, POSITION)
        for held in self.paper.open_positions():
            self.positions[0] = (held.lots, held.entry_price, held.stop, held.target, False, 0.0)
        money, time = self.paper.money(), int(self.market.close_time[row])
        self.account[0] = (
            time, self.market.trading_day[row], money.balance, money.equity, money.margin_used, True, Command.RUN, 1.0,
        )  # fmt: skip
        decide(
            self.config, self.paper.ledger.table, inputs, self.account, self.positions, *self.state, self.out,
            len(self.paper.open_positions()), self.market.returns[row + 1 : row + 1 + RETURNS_BARS],
        )  # fmt: skip
        action = Action(int(self.out["action"][0]))
        if action is not Action.NONE:
            self.send(action, int(inputs["bar_time"][0]), time)

    def send(self, action, bar_time, time):
        out, held = self.out[0], float(self.positions["lots"][0])
        lots = {Action.OPEN: float(out["target_lots"]), Action.CLOSE: -held, Action.MODIFY: 0.0}[action]
        key = client_order_id("paper", "1", self.symbol, bar_time, PURPOSES[action])
        self.paper.place(
            OrderIntent(key, "paper", self.symbol, PURPOSES[action], lots, float(out["stop"]), float(out["target"]),
                        time - 1, 0, float(out["risk_money"]))
        )  # fmt: skip


@pytest.mark.parametrize("skill", [0.0, 0.2])
def test_the_same_tape_gives_the_same_trades(make_bars, make_symbol_history, make_config, make_history, skill):
    history, config = make_history(skill=skill, seed=2), make_config()
    bars = make_bars("EURUSD", 2_000, 2)
    ticks = model_ticks(bars, Timeframe.H1, None, instrument("EURUSD")).to_records(index=False)
    session = Session(history, config)
    session.run(ticks)
    result = replay(history, config, initial_balance=10_000.0, leverage=30.0)
    closing = [deal for deal in session.deals if deal.closing]
    trades = result.trades
    assert len(closing) == len(trades) > 20
    np.testing.assert_allclose([deal.price for deal in closing], trades["exit_price"], rtol=1e-9)
    np.testing.assert_allclose([-deal.lots for deal in closing], trades["lots"] * trades["side"])
    np.testing.assert_allclose([deal.swap for deal in closing], trades["swap"], atol=1e-9)
    assert [str(deal.reason) for deal in closing] == trades["reason"].tolist()
    assert [deal.time_ns for deal in closing] == trades["exit_time"].tolist()
    assert session.paper.balance == pytest.approx(result.equity["balance"].iloc[-1], abs=1e-6)
    assert session.paper.money().equity == pytest.approx(result.equity["equity"].iloc[-1], abs=1e-6)


def test_the_ticks_are_those_of_the_history(make_bars, make_symbol_history):
    bars = make_bars("EURUSD", 300, 2)
    market = prepare({"EURUSD": make_symbol_history(bars, None)}, Timeframe.H1).market
    ticks = model_ticks(bars, Timeframe.H1, None, instrument("EURUSD"))
    np.testing.assert_array_equal(ticks["time"].to_numpy()[::4], market.time)
    np.testing.assert_array_equal(ticks["bid"].to_numpy()[3::4], market.inputs["bid"][:, 0])
