"""What the summary says of a backtest and its control."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from fx_dagster.backtest.metrics import DAYS_MIN, daily_returns
from fx_dagster.backtest.replay import BacktestResult
from fx_dagster.decision.inputs import TRADING_DAYS_A_YEAR, trading_day
from fx_dagster.errors import DataError
from fx_dagster.report.statistics import wilson_accuracy
from fx_dagster.report.summary import BacktestSummary, Difference, DifferenceName, Interval, Performance

Float64 = NDArray[np.float64]

SAMPLES = 1_000
LEVEL = 0.95
_COMPARED: tuple[DifferenceName, ...] = ("net_return", "sharpe", "sortino", "max_drawdown", "win_rate")


def summarise_backtest(
    system: BacktestResult, control: BacktestResult, *, start: int, end: int, currency: str, decisions: int, seed: int
) -> BacktestSummary:
    """Return both performances and their differences.

    Args:
        system: the AI-assisted system.
        control: the same step without any model, over the same bars.
        start: first bar's opening, ns UTC.
        end: end of the last bar, ns UTC.
        currency: the account's.
        decisions: bars times symbols that were decided upon.
        seed: of the resampling.

    Raises:
        DataError: the two do not cover the same bars.
    """
    return BacktestSummary(
        start=utc(start),
        end=utc(end),
        initial_balance=system.initial_balance,
        currency=currency,
        system=performance(system),
        control=performance(control),
        differences=differences(system, control, seed=seed),
        traded=wilson_accuracy(system.trades["gross"].to_numpy() > 0),
        coverage=min(1.0, len(system.trades) / decisions) if decisions else None,
    )


def utc(time_ns: int) -> datetime:
    """Return ns UTC as an aware datetime (microseconds)."""
    return datetime.fromtimestamp(time_ns / 1e9, tz=UTC)


def performance(result: BacktestResult) -> Performance:
    """Return the numbers of one backtest; what is undefined is None."""
    found = result.metrics
    return Performance(
        net_return=found["net_return"],
        sharpe=_defined(found["sharpe"]),
        sortino=_defined(found["sortino"]),
        max_drawdown=found["max_drawdown"],
        win_rate=_defined(found["win_rate"]),
        trades=int(found["trades"]),
        costs=found["costs_paid"],
    )


def differences(system: BacktestResult, control: BacktestResult, *, seed: int) -> tuple[Difference, ...]:
    """Return system less control, each with a paired stationary block-bootstrap interval (Politis & Romano 1994).

    Trading days are resampled in blocks of random length, both accounts' returns and closed trades of a day together.
    Fewer than ``DAYS_MIN`` days give no interval. The interval of the drawdown is that of daily closes.

    Raises:
        DataError: the two do not cover the same bars.
    """
    drawn = _resampled(system, control, seed)
    found = []
    for name in _COMPARED:
        value = _defined(system.metrics[name] - control.metrics[name])
        if value is not None:
            found.append(Difference(metric=name, value=value, interval=_interval(drawn.get(name))))
    return tuple(found)


def _resampled(system: BacktestResult, control: BacktestResult, seed: int) -> Mapping[str, Float64]:
    """Return the differences ``[samples]`` by metric; nothing for too short a time."""
    from skfolio.utils.bootstrap import stationary_bootstrap

    times = [result.equity["time"].to_numpy(np.int64) for result in (system, control)]
    if not np.array_equal(*times):
        raise DataError("system and control cover different bars", mend="run both over the same window")
    sides = [_daily(result) for result in (system, control)]
    days = len(sides[0])
    if days < DAYS_MIN:
        return {}
    block = max(5.0, days ** (1.0 / 3.0))
    drawn = np.asarray(stationary_bootstrap(np.hstack(sides), SAMPLES, block_size=block, seed=seed))
    ahead, behind = _metrics(drawn[..., :3]), _metrics(drawn[..., 3:])
    return {name: ahead[name] - behind[name] for name in ahead}


def _daily(result: BacktestResult) -> Float64:
    """Return ``[days, 3]``: the day's return, trades closed in it, and how many of them won."""
    time = result.equity["time"].to_numpy(np.int64)
    day, returns = daily_returns(time, result.equity["equity"].to_numpy(np.float64), result.initial_balance)
    closed = trading_day(result.trades["exit_time"].to_numpy(np.int64) - 1)
    row = np.searchsorted(day, closed).clip(max=len(day) - 1)
    won = result.trades["profit"].to_numpy(np.float64) > 0
    counts = np.bincount(row, minlength=len(day)), np.bincount(row, weights=won, minlength=len(day))
    return np.column_stack([returns, *counts])


def _metrics(drawn: Float64) -> dict[str, Float64]:
    """Return each metric ``[samples]`` of ``[samples, days, 3]``; NaN where a sample leaves it undefined."""
    returns = drawn[..., 0]
    growth = np.cumprod(1.0 + returns, axis=1)
    peak = np.maximum(np.maximum.accumulate(growth, axis=1), 1.0)
    mean = returns.mean(axis=1)
    downside = np.sqrt((np.minimum(returns, 0.0) ** 2).mean(axis=1))
    trades, won = drawn[..., 1].sum(axis=1), drawn[..., 2].sum(axis=1)
    return {
        "net_return": growth[:, -1] - 1.0,
        "sharpe": _ratio(mean, returns.std(axis=1, ddof=1)) * math.sqrt(TRADING_DAYS_A_YEAR),
        "sortino": _ratio(mean, downside) * math.sqrt(TRADING_DAYS_A_YEAR),
        "max_drawdown": (1.0 - growth / peak).max(axis=1),
        "win_rate": _ratio(won, trades),
    }


def _ratio(above: Float64, below: Float64) -> Float64:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _interval(drawn: Float64 | None) -> Interval | None:
    if drawn is None or not np.isfinite(drawn).any():
        return None
    low, high = np.quantile(drawn[np.isfinite(drawn)], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high), level=LEVEL, method="stationary block bootstrap")


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
