"""What the summary says of a backtest and its control."""

import math
from datetime import UTC, datetime

from fx_dagster.backtest.ab import Difference as PairedDifference
from fx_dagster.backtest.ab import compare
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.report.statistics import wilson_accuracy
from fx_dagster.report.summary import BacktestSummary, Difference, DifferenceName, Interval, Performance

_SHOWN: tuple[DifferenceName, ...] = ("net_return", "sharpe", "sortino", "max_drawdown", "win_rate")


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
    """Return system less control by :func:`fx_dagster.backtest.ab.compare`; what is undefined is left out.

    Raises:
        DataError: the two do not cover the same bars.
    """
    compared = compare(system, control, seed=seed)
    return tuple(
        Difference(metric=name, value=found.value, interval=_interval(found, compared.level))
        for name, found in ((name, compared.differences[name]) for name in _SHOWN)
        if math.isfinite(found.value)
    )


def _interval(found: PairedDifference, level: float) -> Interval | None:
    if not found.has_interval:
        return None
    return Interval(low=found.low, high=found.high, level=level, method="stationary block bootstrap")


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
