"""Ticks through the live loop, beside the replay of the bars that they form."""

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from fx_dagster.backtest.prepare import MODEL_COLUMNS, model_columns, prepare
from fx_dagster.backtest.ticks import (
    TickAccount,
    TickHistory,
    merged_ticks,
    prediction_table,
    replay_ticks,
)
from fx_dagster.core.rows import NEVER, Kind, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import TradingCore
from fx_dagster.decision.codes import Level
from fx_dagster.decision.config import traditional_control
from fx_dagster.decision.rows import CLASSICAL, MEMORY
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.bars import resample_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.tick_model import model_ticks
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.answer import EXTRAS
from fx_dagster.settings import CostSettings

from .conftest import predictions

ACCOUNT = TickAccount(initial_balance=10_000.0, leverage=30.0)


@pytest.fixture(scope="module")
def market(make_bars):
    """Return bars and modelled ticks of two symbols, 1,600 hours."""
    bars = {name: make_bars(name, 1_600, seed) for seed, name in enumerate(("EURUSD", "GBPUSD"), start=3)}
    ticks = {name: model_ticks(frame, Timeframe.H1, None, instrument(name)) for name, frame in bars.items()}
    return bars, ticks


@pytest.fixture
def make_config(make_config):
    """Return the product's configuration: a core is compiled for its number of models."""
    return lambda **changes: make_config(whole=True, **changes)


def said(bars, seed=5, whole=False):
    return predictions(bars, seed, whole=whole)


def history_of(market, *symbols, models=True, cut=1, whole=False):
    bars, ticks = market
    every = merged_ticks([ticks[name] for name in symbols])
    edges = np.linspace(0, len(every.time), cut + 1).astype(int)
    parts = [Ticks(*(column[first:last] for column in every)) for first, last in pairwise(edges)]
    known = {name: said(bars[name], whole=whole) for name in symbols} if models else {}
    start = int(min(bars[name]["time"].iloc[0] for name in symbols))
    items = tuple(instrument(name) for name in symbols)
    return TickHistory(items, Timeframe.H1, start, int(every.time[-1]) // HOUR_NS * HOUR_NS + HOUR_NS, parts, known)


def run(market, config, *symbols, account=ACCOUNT, cost=None, **options):
    history = history_of(market, *(symbols or ("EURUSD",)), **options)
    return replay_ticks(history, config, account, cost or CostSettings(), stale_s=3_600.0)


def test_orders_are_filled_by_later_quotes_and_money_adds_up(market, make_config):
    result = run(market, make_config(), "EURUSD", "GBPUSD")
    trades, decisions = result.trades, result.decisions
    assert len(trades) > 20
    opened = decisions[decisions["action"] == "open"].set_index(["symbol"])
    for symbol in ("EURUSD", "GBPUSD"):
        decided = np.sort(opened.loc[symbol]["time"].to_numpy())
        entered = trades.loc[trades["symbol"] == symbol, "entry_time"].to_numpy()
        # A bar is decided at its end: the first quote of that very moment is a later one.
        assert (np.searchsorted(decided, entered, side="right") > 0).all()
    made = result.initial_balance + trades["profit"].sum()
    open_commission = result.costs["commission"] - trades["commission"].sum()
    assert result.equity["balance"].iloc[-1] == pytest.approx(made - open_commission, abs=1e-6)
    assert set(trades["symbol"]) == {"EURUSD", "GBPUSD"}


def test_every_trade_knows_the_decision_it_came_from(market, make_config):
    result = run(market, make_config(), "EURUSD", "GBPUSD")
    opened = result.decisions[result.decisions["action"] == "open"]
    for trade in result.trades.itertuples():
        mine = opened[(opened["symbol"] == trade.symbol) & (opened["time"] <= trade.entry_time)].iloc[-1]
        assert mine["score"] == trade.score
        assert np.sign(mine["lots"]) == trade.side
        assert abs(mine["lots"]) == pytest.approx(trade.lots)
        assert trade.entry_time - mine["time"] <= HOUR_NS


def test_however_the_ticks_are_parted_the_result_is_the_same(market, make_config):
    whole = run(market, make_config(), "EURUSD", "GBPUSD")
    parted = run(market, make_config(), "EURUSD", "GBPUSD", cut=7)
    for name in ("equity", "trades", "decisions"):
        pd.testing.assert_frame_equal(getattr(whole, name), getattr(parted, name))
    assert whole.counts == parted.counts
    assert whole.metrics == pytest.approx(parted.metrics, nan_ok=True)


@pytest.mark.parametrize("whole", [False, True])
def test_a_decision_sees_what_the_replay_of_bars_shows_it(market, make_config, make_symbol_history, whole):
    """At every close the loop over ticks hands the step the inputs that are prepared for the loop over bars."""
    symbols, (bars, _) = ("EURUSD", "GBPUSD"), market
    history, config = history_of(market, *symbols, whole=whole), make_config()
    frames = {name: make_symbol_history(bars[name], said(bars[name], whole=whole)) for name in symbols}
    expected = prepare(frames, Timeframe.H1, model_columns=model_columns(config)).market.inputs
    spec = CoreSpec(
        history.instruments, feature_catalogue(Timeframe.H1, cross_symbol=True), config, history.start,
        stale_s=3_600.0, asks=False, places=True,
    )  # fmt: skip
    ledger = new_ledger(
        history.instruments, CostSettings(), memory=np.zeros(1, dtype=MEMORY), balance=1e4, leverage=30.0,
        account_currency="USD", events=4_096,
    )  # fmt: skip
    core = TradingCore(spec, ledger, prediction_table(symbols, history.predictions, model_columns(config)))
    seen = [np.empty(0, dtype=expected.dtype)]
    (ticks,) = history.parts
    for last in range(100, len(ticks.time) + 100, 100):
        core.take(ticks, last - 100, min(last, len(ticks.time)))
        logged = int(core.core.control[0]["logged"])
        closes = core.core.log.stamp["kind"][:logged] == Kind.BAR
        seen.append(core.core.log.inputs[:logged][closes].copy())
        core.forget_log()
        ledger.money[0]["events"] = 0
    got = np.concatenate(seen)
    expected = expected.reshape(-1)[: len(got)]  # the last bar is still open
    assert len(got) > 3_000
    known = np.isfinite(got["votes"][:, :CLASSICAL]).all(axis=1)
    assert known.sum() > 2_000
    for name in set(got.dtype.names) - {"version", "active"}:
        np.testing.assert_allclose(
            got[name][known].astype(float), expected[name][known].astype(float), rtol=1e-9, atol=1e-12, err_msg=name
        )


def test_without_models_the_level_is_traditional(market, make_config):
    result = run(market, make_config(), models=False)
    assert result.counts["level"][str(int(Level.SIMPLE_AI))] == 0
    assert result.counts["level"][str(int(Level.TRADITIONAL))] > 0
    assert run(market, make_config()).counts["level"][str(int(Level.SIMPLE_AI))] > 0


def test_a_whole_release_is_asked_and_its_agents_act(market, make_config):
    config = make_config()
    found = run(market, config, whole=True)
    assert found.counts["level"][str(int(Level.FULL_AI))] > 0
    assert found.counts["reason"]["timing_wait"] > 0
    assert found.counts["reason"]["exit_timing"] > 0
    silent = run(market, config._replace(agents=False), whole=True)
    assert silent.counts["reason"].get("timing_wait", 0) == 0
    assert not silent.equity["equity"].equals(found.equity["equity"])


def test_the_control_hears_nothing_of_a_release(market, make_config):
    known, unknown = (
        run(market, traditional_control(make_config()), whole=True, models=models) for models in (True, False)
    )
    pd.testing.assert_frame_equal(known.equity, unknown.equity)
    pd.testing.assert_frame_equal(known.trades, unknown.trades)


def test_a_future_that_changes_changes_no_past(market, make_config):
    bars, ticks = market
    half = len(ticks["EURUSD"]) // 2
    other = ticks["EURUSD"].copy()
    other.loc[half:, ["bid", "ask"]] *= 1.001
    moment = int(ticks["EURUSD"]["time"].iloc[half])
    known = run(market, make_config()).decisions
    changed = run((bars, {**ticks, "EURUSD": other}), make_config()).decisions
    pd.testing.assert_frame_equal(known[known["time"] < moment], changed[changed["time"] < moment])


def test_a_halt_is_resumed_by_the_imagined_person_alone(market, make_config):
    nervous = make_config()._replace(stage_thresholds=(0.0001, 0.0002, 0.0003, 0.0004))
    assert run(market, nervous).halts == 1
    patient = dataclasses.replace(ACCOUNT, resume_after_hours=24.0)
    assert run(market, nervous, account=patient).halts > 1


def test_another_currency_and_the_three_ways_to_slip(market, make_config):
    euros = dataclasses.replace(ACCOUNT, currency="EUR")
    result = run(market, make_config(), account=euros)
    assert len(result.trades) > 5
    paid = {
        model: run(market, make_config(), cost=CostSettings(slippage_model=model)).costs["slippage"]
        for model in ("fixed", "spread", "volatility")
    }
    assert len(set(paid.values())) == 3
    assert min(paid.values()) > 0


def test_warming_up_on_history_begins_at_once(market, make_config):
    bars, ticks = market
    at = 800
    start = int(bars["EURUSD"]["time"].iloc[at])

    def before(symbol, timeframe, count):
        known = resample_bars(bars[symbol].iloc[:at], Timeframe.H1, timeframe)
        return known.tail(count).reset_index(drop=True)

    late = ticks["EURUSD"][ticks["EURUSD"]["time"] >= start].reset_index(drop=True)
    whole = history_of(market, "EURUSD", models=False)
    history = dataclasses.replace(whole, start=start, parts=[merged_ticks([late])], before=before)
    warm = replay_ticks(history, make_config(), ACCOUNT, CostSettings(), stale_s=3_600.0)
    cold = replay_ticks(
        dataclasses.replace(history, before=None), make_config(), ACCOUNT, CostSettings(), stale_s=3_600.0
    )
    assert warm.decisions["time"].iloc[0] < start + 48 * HOUR_NS
    assert cold.decisions["time"].iloc[0] > start + 200 * HOUR_NS


def test_the_table_finds_the_bar(market):
    frame = said(market[0]["EURUSD"], whole=True).drop(columns="exit_long").head(3)
    table = prediction_table(("GBPUSD", "EURUSD"), {"EURUSD": frame})
    assert table.time[0].tolist() == [NEVER] * 4
    assert table.time[1].tolist() == [*frame["time"], NEVER]
    expected = frame.assign(exit_long=np.nan)[[*MODEL_COLUMNS, *EXTRAS]]
    np.testing.assert_array_equal(table.values[1, :3], expected)
    assert np.isnan(table.values[0]).all()
    with pytest.raises(DataError, match="p_up_random_forest"):
        prediction_table(("EURUSD",), {"EURUSD": frame.drop(columns="p_up_random_forest")})
    with pytest.raises(DataError, match="predictions of EURUSD"):
        prediction_table(("EURUSD",), {"EURUSD": pd.concat([frame, frame])})


def test_nothing_to_replay_is_refused(market, make_config):
    history = history_of(market, "EURUSD")
    for parts in ([], [Ticks(*(column[:0] for column in history.parts[0]))]):
        with pytest.raises(DataError, match="no whole H1 bar"):
            replay_ticks(dataclasses.replace(history, parts=parts), make_config(), ACCOUNT, CostSettings())
    with pytest.raises(SettingsError, match="resume_after_hours"):
        replay_ticks(history, make_config(), dataclasses.replace(ACCOUNT, resume_after_hours=-1.0), CostSettings())
