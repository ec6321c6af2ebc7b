"""The success measures against their targets. Targets are compared with, never tuned to."""

from collections.abc import Sequence

from fx_dagster.report.summary import (
    Accuracy,
    BacktestSummary,
    DifferenceName,
    Interval,
    LiveSummary,
    Measure,
    ModelSummary,
)
from fx_dagster.report.words import LEAK_ACCURACY, bar_to_clear, difference, percent, settled

SHARPE_GAIN_MIN = 0.15
RISK_ADJUSTED_GAIN_MIN = 0.20
DRAWDOWN_MAX = 0.10
WIN_RATE_GAIN_MIN = 0.05
LATENCY_MS_MAX = 100.0
UPTIME_MIN = 0.999
_UNSETTLED = "the interval includes zero: it may be chance"
TRADES_MIN = 30
"""Closed trades below which ratios of trades are not judged."""


def success_measures(
    models: Sequence[ModelSummary], backtest: BacktestSummary | None, live: LiveSummary | None
) -> tuple[Measure, ...]:
    """Judge every success measure; what cannot be measured says why.

    A gain over the control counts as met only if it reaches its target and its interval leaves zero out; an accuracy,
    only if its whole interval lies above the commoner class and break-even.
    """
    return (
        _gain(backtest, "sharpe", "Sharpe ratio above the control's", SHARPE_GAIN_MIN, "+15 to +25 %"),
        _gain(backtest, "sortino", "Sortino ratio above the control's", RISK_ADJUSTED_GAIN_MIN, "+20 %"),
        _drawdown(backtest),
        _win_rate(backtest),
        _latency(live),
        _uptime(live),
        *(_direction(f"Direction, all bars: {model.name}", model.accuracy, bar_to_clear(model)) for model in models),
        _traded(models, backtest),
    )


def _absent(name: str, unit: str, target: str, why: str) -> Measure:
    return Measure.model_validate(
        {"name": name, "value": None, "unit": unit, "target": target, "met": None, "why": why}
    )


def _gain(backtest: BacktestSummary | None, metric: DifferenceName, name: str, gain_min: float, target: str) -> Measure:
    if backtest is None:
        return _absent(name, "fraction", target, "no backtest was run")
    control = getattr(backtest.control, metric)
    found = difference(backtest, metric)
    if control is None or found is None:
        return _absent(name, "fraction", target, "a side made no trades, so there is no ratio")
    if control <= 0:
        return _absent(
            name, "fraction", target, f"the control's own ratio is {control:.2f}: a gain over it means nothing"
        )
    value = found.value / control
    interval = _scaled(found.interval, 1 / control)
    why = ""
    if value < gain_min:
        why = "below the target"
    elif not settled(found):
        why = _UNSETTLED if found.interval else "no interval: it may be chance"
    return Measure(name=name, value=value, unit="fraction", interval=interval, target=target, met=not why, why=why)


def _scaled(interval: Interval | None, factor: float) -> Interval | None:
    if interval is None:
        return None
    return interval.model_copy(update={"low": interval.low * factor, "high": interval.high * factor})


def _drawdown(backtest: BacktestSummary | None) -> Measure:
    name, target = "Maximum drawdown", "below 10 %"
    if backtest is None:
        return _absent(name, "fraction", target, "no backtest was run")
    value = backtest.system.max_drawdown
    met = value < DRAWDOWN_MAX
    why = "" if met else "above the target"
    if met and not backtest.system.trades:
        return _absent(name, "fraction", target, "the system made no trades")
    return Measure(name=name, value=value, unit="fraction", target=target, met=met, why=why)


def _win_rate(backtest: BacktestSummary | None) -> Measure:
    name, target = "Win rate above the control's", "+5 to +10 points"
    found = None if backtest is None else difference(backtest, "win_rate")
    if backtest is None or found is None:
        why = "no backtest was run" if backtest is None else "a side made no trades"
        return _absent(name, "points", target, why)
    fewest = min(backtest.system.trades, backtest.control.trades)
    if fewest < TRADES_MIN:
        return _absent(name, "points", target, f"only {fewest} trades; {TRADES_MIN} are needed")
    why = ""
    if found.value < WIN_RATE_GAIN_MIN:
        why = "below the target"
    elif not settled(found):
        why = _UNSETTLED if found.interval else "no interval: it may be chance"
    return Measure(
        name=name, value=found.value, unit="points", interval=found.interval, target=target, met=not why, why=why
    )


def _latency(live: LiveSummary | None) -> Measure:
    name, target = "Latency of a decision, p99", "below 100 ms"
    if live is None or live.end_to_end.p99_ms is None:
        return _absent(name, "ms", target, "there was no live session" if live is None else "no decision was made")
    value = live.end_to_end.p99_ms
    met = value < LATENCY_MS_MAX
    return Measure(name=name, value=value, unit="ms", target=target, met=met, why="" if met else "above the target")


def _uptime(live: LiveSummary | None) -> Measure:
    name, target = "Uptime of the live session", "above 99.9 %"
    if live is None or live.uptime is None:
        why = "there was no live session" if live is None else "the session did not measure it"
        return _absent(name, "fraction", target, why)
    met = live.uptime > UPTIME_MIN
    length_s = (live.end - live.start).total_seconds()
    why = "" if met else "below the target"
    if met and length_s < 86_400:
        why = f"over {length_s / 60:.0f} min only"
    return Measure(name=name, value=live.uptime, unit="fraction", target=target, met=met, why=why)


def _direction(name: str, accuracy: Accuracy, clear: float) -> Measure:
    target = f"above {percent(clear)}"
    if accuracy.value is None or accuracy.interval is None:
        return _absent(name, "fraction", target, "nothing was forecast")
    met = accuracy.interval.low > clear
    why = ""
    if accuracy.value >= LEAK_ACCURACY:
        met, why = False, "almost certainly a leak"
    elif not met:
        above = accuracy.value > clear
        why = "the interval reaches below the target" if above else "below the commoner class or break-even"
    return Measure(
        name=name, value=accuracy.value, unit="fraction", interval=accuracy.interval, target=target, met=met, why=why
    )


def _traded(models: Sequence[ModelSummary], backtest: BacktestSummary | None) -> Measure:
    name = "Direction, traded bars"
    clear = max((bar_to_clear(model) for model in models), default=0.5)
    if backtest is None or backtest.traded is None:
        why = "no backtest was run" if backtest is None else "not computed"
        return _absent(name, "fraction", f"above {percent(clear)}", why)
    if backtest.traded.n < TRADES_MIN:
        why = f"only {backtest.traded.n} trades; {TRADES_MIN} are needed"
        return _absent(name, "fraction", f"above {percent(clear)}", why)
    measure = _direction(name, backtest.traded, clear)
    cover = f"coverage {percent(backtest.coverage)}" if backtest.coverage is not None else ""
    return measure.model_copy(update={"why": "; ".join(part for part in (measure.why, cover) if part)})
