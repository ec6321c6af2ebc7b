"""What the summary says of a backtest and its control."""

import math
from datetime import UTC, datetime

from fx_dagster.backtest.metrics import Comparison, compare
from fx_dagster.backtest.replay import BacktestResult
from fx_dagster.report.statistics import wilson_accuracy
from fx_dagster.report.summary import BacktestSummary, Difference, DifferenceName, Interval, Performance

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
    """
    comparison = compare(system, control, seed=seed)
    return BacktestSummary(
        start=utc(start),
        end=utc(end),
        initial_balance=system.initial_balance,
        currency=currency,
        system=performance(system),
        control=performance(control),
        differences=tuple(_differences(system, control, comparison)),
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


def _differences(system: BacktestResult, control: BacktestResult, comparison: Comparison) -> list[Difference]:
    found = []
    for name in _COMPARED:
        value = _defined(system.metrics[name] - control.metrics[name])
        if value is not None:
            found.append(
                Difference(metric=name, value=value, interval=_interval(comparison) if name == "sharpe" else None)
            )
    return found


def _interval(comparison: Comparison) -> Interval | None:
    low, high = comparison.sharpe.low, comparison.sharpe.high
    if math.isnan(low) or math.isnan(high):
        return None
    return Interval(low=low, high=high, level=comparison.level, method="stationary block bootstrap")


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None
