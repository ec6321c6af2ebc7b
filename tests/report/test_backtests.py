from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.backtest.metrics import metrics
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS
from fx_dagster.report.backtests import differences, summarise_backtest
from fx_dagster.report.summary import Difference

START = 1_483_394_400 * 10**9
"""2017-01-02 22:00 UTC: a trading day's first hour."""


def _measured(equity: pd.DataFrame, trades: pd.DataFrame) -> dict[str, float]:
    return metrics(equity, trades, initial=10_000.0, turnover=1e6, costs=0.5 * len(trades))


def _result(daily: np.ndarray, profits: np.ndarray) -> BacktestResult:
    """A backtest of four bars a day whose equity grows by ``daily``, with one closed trade a day."""
    days = len(daily)
    opening = START + np.arange(days) * DAY_NS
    time = (opening[:, None] + np.array([5, 11, 17, 23]) * HOUR_NS).ravel()
    grown = 10_000 * np.cumprod(1 + daily)
    equity = pd.DataFrame({"time": time, "equity": np.repeat(grown, 4), "open_positions": 0})
    trades = pd.DataFrame(
        {"exit_time": opening + 6 * HOUR_NS, "profit": profits, "gross": profits + 0.5, "risk_money": 50.0}
    )
    given: dict[str, Any] = {
        "equity": equity, "trades": trades, "costs": {"total": 0.5 * days}, "turnover": 1e6,
        "initial_balance": 10_000.0, "metrics": _measured(equity, trades),
    }  # fmt: skip
    # What a replay also leaves does not matter here.
    return BacktestResult(**({field.name: None for field in fields(BacktestResult)} | given))


def _pair(days: int, gain: float, seed: int = 5) -> tuple[BacktestResult, BacktestResult]:
    """System and control that share most of their luck; the system gains ``gain`` a day on top."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(0, 0.004, days)
    system = shared + rng.normal(gain, 0.0005, days)
    return _result(system, 1e4 * system), _result(shared, 1e4 * shared)


def _named(found: tuple[Difference, ...]) -> dict[str, Difference]:
    return {difference.metric: difference for difference in found}


def test_a_small_but_steady_gain_shows_through_shared_luck() -> None:
    found = _named(differences(*_pair(250, 0.0005), seed=1))
    for name in ("net_return", "sharpe", "sortino"):
        interval = found[name].interval
        assert interval is not None
        assert interval.low > 0, name
        assert interval.low <= found[name].value <= interval.high, name
        assert interval.method == "stationary block bootstrap"


def test_no_gain_leaves_zero_inside_nearly_always() -> None:
    inside = 0
    for seed in range(10):
        interval = _named(differences(*_pair(250, 0.0, seed), seed=1))["sharpe"].interval
        assert interval is not None
        inside += interval.low <= 0 <= interval.high
    assert inside >= 8


def test_the_same_account_twice_differs_in_nothing() -> None:
    system, _ = _pair(120, 0.0)
    for difference in differences(system, system, seed=1):
        assert difference.value == 0
        assert difference.interval is not None
        assert (difference.interval.low, difference.interval.high) == (0, 0)


def test_values_are_those_of_the_metrics() -> None:
    system, control = _pair(250, 0.0005)
    for name, difference in _named(differences(system, control, seed=1)).items():
        assert difference.value == pytest.approx(system.metrics[name] - control.metrics[name])


def test_a_few_days_have_no_interval() -> None:
    assert {difference.interval for difference in differences(*_pair(20, 0.001), seed=1)} == {None}


def test_other_bars_are_refused() -> None:
    with pytest.raises(DataError, match="different bars"):
        differences(_pair(60, 0.0)[0], _pair(61, 0.0)[0], seed=1)


def test_without_trades_what_is_undefined_is_null() -> None:
    idle = _result(np.zeros(60), np.zeros(60))
    none = idle.trades.head(0)
    idle = BacktestResult(**{**vars(idle), "trades": none, "metrics": _measured(idle.equity, none)})
    found = summarise_backtest(idle, idle, start=START, end=START + DAY_NS, currency="USD", decisions=240, seed=1)
    assert (found.system.sharpe, found.system.win_rate, found.system.trades) == (None, None, 0)
    assert {difference.metric for difference in found.differences} == {"net_return", "max_drawdown"}
    assert found.traded is not None
    assert found.traded.value is None
    assert found.coverage == 0
