"""The replay's promises: money adds up, costs only cost, nothing is filled at the prices that decided."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.backtest.prepare import SymbolHistory, prepare
from fx_dagster.backtest.replay import replay
from fx_dagster.decision.codes import Stage
from fx_dagster.decision.config import traditional_control
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.market.timeframes import Timeframe

SOME = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def run(history, config, **changes):
    return replay(history, config, **({"initial_balance": 10_000.0, "leverage": 30.0} | changes))


@SOME
@given(st.integers(0, 50), st.sampled_from([("EURUSD",), ("EURUSD", "XAUUSD"), ("EURUSD", "GBPUSD", "USDJPY")]))
def test_money_adds_up(make_history, make_config, seed, symbols):
    result = run(make_history(*symbols, seed=seed), make_config())
    trades, equity = result.trades, result.equity
    assert len(trades) > 5
    open_now = equity["open_positions"].iloc[-1]
    entered = (result.decisions["action"] == "open").sum() - result.rejected
    assert 0 <= entered - len(trades) - open_now <= 1  # an entry may still wait for the next bar
    open_commission = result.costs["commission"] - trades["commission"].sum()
    assert open_commission == pytest.approx(0.0, abs=1e-6 if not open_now else 3.5)
    made = trades["profit"].sum() - open_commission
    assert equity["balance"].iloc[-1] - result.initial_balance == pytest.approx(made, abs=1e-6)
    flat = equity["open_positions"] == 0
    np.testing.assert_allclose(equity.loc[flat, "equity"], equity.loc[flat, "balance"])
    assert result.open_profit == pytest.approx(equity["equity"].iloc[-1] - equity["balance"].iloc[-1])
    assert result.costs["total"] > 0


def test_a_trades_profit_is_price_times_size(make_history, make_config):
    trades = run(make_history(), make_config()).trades
    gross = (trades["exit_price"] - trades["entry_price"]) * trades["side"] * trades["lots"] * 100_000
    np.testing.assert_allclose(trades["gross"], gross, atol=1e-9)
    np.testing.assert_allclose(trades["commission"], 7.0 * trades["lots"])
    np.testing.assert_allclose(trades["profit"], trades["gross"] + trades["swap"] - trades["commission"])
    np.testing.assert_allclose(trades["lots"] * 100, np.round(trades["lots"] * 100))


def test_nothing_is_filled_at_the_prices_that_decided(make_history, make_config):
    history = make_history()
    result = run(history, make_config())
    market = history.market
    rows = np.searchsorted(market.time, result.trades["entry_time"])
    decided = result.decisions[result.decisions["action"] == "open"]
    assert np.isin(market.time[rows - 1], decided["bar_time"]).all()
    bid, spread = market.bars["open"][rows, 0], market.bars["spread"][rows, 0]
    slip = 0.00002
    side = result.trades["side"].to_numpy()
    np.testing.assert_allclose(result.trades["entry_price"], np.where(side > 0, bid + spread + slip, bid - slip))
    client = result.trades["reason"] == "client"
    exits = np.searchsorted(market.time, result.trades["exit_time"][client])
    bid, spread = market.bars["open"][exits, 0], market.bars["spread"][exits, 0]
    expected = np.where(side[client] > 0, bid - slip, bid + spread + slip)
    np.testing.assert_allclose(result.trades["exit_price"][client], expected)


def test_changing_the_future_changes_nothing_before_it(make_bars, make_symbol_history, make_config):
    bars = make_bars("EURUSD", 1_600, 3)
    later = bars.copy()
    later.loc[1_200:, ["open", "high", "low", "close"]] *= 1.5
    results = [
        run(prepare({"EURUSD": make_symbol_history(frame, None)}, Timeframe.H1), traditional_control(make_config()))
        for frame in (bars, later)
    ]
    np.testing.assert_array_equal(*(result.equity["equity"].to_numpy()[:1_200] for result in results))
    before = [result.decisions[result.decisions["bar_time"] < bars["time"][1_200]] for result in results]
    pd.testing.assert_frame_equal(*before)
    assert len(before[0]) > 10


@SOME
@given(st.integers(0, 20), st.floats(0.0, 20.0), st.floats(0.0, 20.0))
def test_more_commission_never_leaves_more_on_the_same_trades(make_history, make_config, seed, one, other):
    """Compared a lot, since a dearer trade is a smaller one, and at the same prices, since another drawdown tightens
    other stops."""
    history = make_history(seed=seed)
    low, high = (
        run(history, make_config(cost={"commission_per_lot": commission}, loss_streak_max=10_000, daily_loss_max=1.0))
        for commission in sorted((one, other))
    )
    keys = ["symbol", "side", "entry_time", "exit_time", "entry_price", "exit_price"]
    pairs = low.trades.merge(high.trades, on=keys, suffixes=("", "_high"))
    assert len(pairs) > 0
    assert (pairs["profit_high"] / pairs["lots_high"] <= pairs["profit"] / pairs["lots"] + 1e-9).all()


@pytest.mark.parametrize("field", ["commission_per_lot", "slippage_points"])
def test_costs_cost(make_history, make_config, field):
    history = make_history()
    free = run(history, make_config(cost={"commission_per_lot": 0.0, "slippage_points": 0.0}))
    dear = run(history, make_config(cost={"commission_per_lot": 0.0, "slippage_points": 0.0} | {field: 10.0}))
    assert dear.trades["profit"].mean() < free.trades["profit"].mean()
    assert dear.costs["total"] > free.costs["total"]


def test_limits_hold_on_every_trade(make_history, make_config):
    history = make_history("EURUSD", "GBPUSD", "XAUUSD")
    result = run(history, make_config(explore_risk=0.01))
    equity = result.equity.set_index("time")
    opened = result.decisions[result.decisions["action"] == "open"]
    assert (opened["risk_money"].to_numpy() <= 0.01 * equity.loc[opened["time"], "equity"].to_numpy() + 1e-9).all()
    assert (equity["margin_used"] <= 0.5 * equity["equity"]).all()
    assert (result.trades["stop"] > 0).all()
    assert (result.trades["target"] > 0).all()
    single = equity[equity["open_positions"] == 1]
    assert (single["margin_used"] <= 0.051 * single["equity"]).all()


def test_the_same_twice(make_history, make_config):
    first, second = (run(make_history(), make_config()) for _ in range(2))
    pd.testing.assert_frame_equal(first.equity, second.equity)
    pd.testing.assert_frame_equal(first.trades, second.trades)
    pd.testing.assert_frame_equal(first.decisions, second.decisions)


def test_a_history_in_two_parts_is_the_history(make_history, make_config):
    """A flat account that goes on with the remembered state continues as if it had never stopped."""
    history, config = make_history(), make_config()
    whole = run(history, config)
    flat = np.flatnonzero((whole.equity["open_positions"] == 0).to_numpy())
    acted = set(whole.decisions["bar_time"])
    cut = next(int(row) for row in flat[len(flat) // 2 :] if int(history.market.time[row]) not in acted)
    at = int(history.market.time[cut + 1])
    first = run(history.window(None, at), config)
    second = run(history.window(at), config, initial_balance=first.equity["balance"].iloc[-1], state=first.state)
    np.testing.assert_allclose(
        np.concatenate([first.equity["equity"], second.equity["equity"]]), whole.equity["equity"], rtol=1e-12
    )


def test_models_that_know_earn_more_than_the_control(make_history, make_config):
    knowing = run(make_history(skill=0.2), make_config())
    control = run(make_history(skill=0.2), traditional_control(make_config()))
    assert knowing.equity["equity"].iloc[-1] > control.equity["equity"].iloc[-1]
    assert knowing.metrics["win_rate"] > 0.5
    assert knowing.counts["level"]["2"] > 0
    assert control.counts["level"]["2"] == 0
    assert knowing.decisions["kelly"].max() > 0


def test_a_whole_release_reaches_the_full_level_and_its_agents_act(make_history, make_config):
    history, config = make_history(skill=0.1, whole=True), make_config(whole=True)
    found = run(history, config)
    assert found.counts["level"]["1"] > 0
    assert found.counts["reason"]["timing_wait"] > 0
    assert found.counts["reason"]["exit_timing"] > 0
    silent = run(history, config._replace(agents=False))
    assert silent.counts["reason"].get("timing_wait", 0) == silent.counts["reason"].get("exit_timing", 0) == 0
    assert len(silent.trades) != len(found.trades)


def test_without_its_deep_models_a_release_is_the_smaller_ensemble(make_history, make_config):
    """A frame of two models' predictions serves the product's configuration: at level 2, by name."""
    history = make_history(skill=0.1)
    small, product = run(history, make_config()), run(history, make_config(whole=True))
    assert product.counts["level"]["1"] == 0
    assert product.counts["reason"]["model_absent"] == history.market.inputs["market_open"].sum()
    assert "model_absent" not in small.counts["reason"]
    pd.testing.assert_frame_equal(small.trades, product.trades)
    pd.testing.assert_frame_equal(small.equity, product.equity)


def test_the_control_is_the_same_whatever_a_release_says(make_history, make_config):
    control = traditional_control(make_config(whole=True))
    known, unknown = run(make_history(whole=True), control), run(make_history(models=False), control)
    pd.testing.assert_frame_equal(known.equity, unknown.equity)
    pd.testing.assert_frame_equal(known.decisions, unknown.decisions)


def test_a_halt_stays_until_a_person_resumes(make_history, make_config):
    limits = {"drawdown_reduce": 0.002, "drawdown_halve": 0.003, "drawdown_close_only": 0.004, "drawdown_halt": 0.005}
    halted = run(make_history(), make_config(**limits))
    assert halted.halted_time is not None
    assert halted.halts == 1
    after = halted.equity["time"] > halted.halted_time
    assert (halted.equity.loc[after, "stage"] == Stage.HALT).all()
    assert (halted.equity.loc[after, "open_positions"].iloc[2:] == 0).all()
    assert (halted.trades["entry_time"] <= halted.halted_time).all()
    resumed = run(make_history(), make_config(**limits), resume_after_hours=24.0)
    assert resumed.halts > 1
    assert len(resumed.trades) > len(halted.trades)


def shaped(bars, rows):
    """Return bars with some of them replaced: row → (open, high, low, close)."""
    frame = bars.copy()
    for row, prices in rows.items():
        frame.loc[row, ["open", "high", "low", "close"]] = prices
    return frame


def test_a_gap_through_the_stop_is_filled_at_the_open(make_bars, make_symbol_history, make_config):
    bars = make_bars("EURUSD", 1_500, 4)
    config = traditional_control(make_config(hold_bars_max=500))
    history = prepare({"EURUSD": make_symbol_history(bars, None)}, Timeframe.H1)
    trade = run(history, config).trades.iloc[3]
    row = int(np.searchsorted(bars["time"], trade["entry_time"])) + 1
    fall = trade["entry_price"] * (1 - 0.03 * trade["side"])
    gapped = shaped(bars, {row: (fall, fall * 1.0001, fall * 0.9999, fall)})
    history = SymbolHistory(gapped, make_symbol_history(bars, None).indicators)
    found = run(prepare({"EURUSD": history}, Timeframe.H1), config).trades
    hit = found[found["entry_time"] == trade["entry_time"]].iloc[0]
    slip = 0.00002
    spread = gapped["spread"][row] * 0.00001
    assert hit["reason"] == "stop"
    assert hit["exit_time"] == bars["time"][row]
    assert hit["exit_price"] == pytest.approx(fall - slip if trade["side"] > 0 else fall + spread + slip)


def test_inside_a_bar_the_stop_is_filled_at_its_price(make_history, make_config):
    history = make_history()
    trades = run(history, make_config()).trades
    rows = np.searchsorted(history.market.time, trades["exit_time"], side="right") - 1
    inside = (trades["reason"] == "stop").to_numpy() & (trades["exit_time"].to_numpy() != history.market.time[rows])
    assert inside.sum() > 3
    stopped = trades[inside]
    np.testing.assert_allclose(stopped["exit_price"], stopped["stop"] - stopped["side"] * 0.00002)


def test_swap_is_paid_over_night(make_history, make_config):
    trades = run(make_history(), make_config()).trades
    entry = pd.to_datetime(trades["entry_time"], utc=True).dt.tz_convert("America/New_York") + pd.Timedelta(hours=7)
    exit_ = pd.to_datetime(trades["exit_time"], utc=True).dt.tz_convert("America/New_York") + pd.Timedelta(hours=7)
    same_day = (entry.dt.date == exit_.dt.date).to_numpy()
    assert (trades["swap"][same_day] == 0).all()
    assert (trades["swap"][~same_day] != 0).all()
    assert (trades["swap"][~same_day & (trades["side"] > 0)] < 0).all()


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"initial_balance": 0.0}, SettingsError, "initial_balance"),
        ({"initial_balance": float("nan")}, SettingsError, "initial_balance"),
        ({"leverage": 0.0}, SettingsError, "leverage"),
        ({"resume_after_hours": -1.0}, SettingsError, "resume_after_hours"),
    ],
)
def test_impossible_accounts(make_history, make_config, changes, error, said):
    with pytest.raises(error, match=said):
        run(make_history(), make_config(), **changes)


def test_impossible_histories(make_history, make_config):
    history = make_history()
    with pytest.raises(DataError, match="no bar"):
        run(history.window(0, 1), make_config())
    with pytest.raises(SettingsError, match="6 columns"):
        run(history, make_config(whole=True)._replace(deep_models=3))
