"""Numbers and findings in plain words, the same in the terminal and on the page.

A finding never says more than its interval allows: where the interval of a difference includes zero, or an accuracy's
lower bound does not clear what costs nothing, the sentence says that nothing was shown.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from fx_dagster.report.summary import (
    BacktestSummary,
    Difference,
    DifferenceName,
    Interval,
    KillDrill,
    LiveSummary,
    ModelSummary,
    Summary,
)

Tone = Literal["good", "bad", "neutral"]
MISSING = "–"
LEAK_ACCURACY = 0.65
"""Directional accuracy on bars above which a leak is likelier than a discovery."""


@dataclass(frozen=True)
class Finding:
    """One plain sentence or two about one topic."""

    topic: str
    text: str
    tone: Tone = "neutral"


def percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as percent."""
    return MISSING if value is None else f"{_minus(100 * value, digits)} %"


def signed_percent(value: float | None, digits: int = 1) -> str:
    """Write a fraction as percent with its sign."""
    return MISSING if value is None else f"{_minus(100 * value, digits, sign=True)} %"


def signed_points(value: float | None, digits: int = 1) -> str:
    """Write a difference of fractions as percentage points."""
    return MISSING if value is None else f"{_minus(100 * value, digits, sign=True)} points"


def number(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Write a plain number with thousands separated."""
    return MISSING if value is None else _minus(value, digits, sign=sign)


def milliseconds(value: float | None) -> str:
    """Write milliseconds with as many digits as matter."""
    if value is None:
        return MISSING
    return f"{value:,.1f} ms" if value < 100 else f"{value:,.0f} ms"


def seconds(value: float | None) -> str:
    """Write a duration in seconds, or in minutes above two of them."""
    if value is None:
        return MISSING
    if value >= 120:
        return f"{int(value // 60)} min {int(value % 60)} s"
    return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"


def minute(time: datetime | None) -> str:
    """Write a time to the minute; the zone is UTC and said once by the caller."""
    return MISSING if time is None else f"{time:%Y-%m-%d %H:%M}"


def _minus(value: float, digits: int, *, sign: bool = False) -> str:
    rounded = round(value, digits) + 0.0
    return f"{rounded:{'+' if sign and rounded else ''},.{digits}f}".replace("-", "−")


def between(interval: Interval | None, digits: int = 1) -> str:
    """Write an interval of fractions as percent."""
    return (
        MISSING
        if interval is None
        else f"{_minus(100 * interval.low, digits)} to {_minus(100 * interval.high, digits)} %"
    )


def signed_between(interval: Interval | None, digits: int = 1, *, scale: float = 100.0) -> str:
    """Write the interval of a difference, without a unit; ``scale`` 100 turns fractions into percentage points."""
    if interval is None:
        return MISSING
    low, high = (_minus(scale * end, digits, sign=True) for end in (interval.low, interval.high))
    return f"{low} to {high}"


def bar_to_clear(model: ModelSummary) -> float:
    """Return the accuracy that a model must beat to be worth anything: commoner class, a coin, and costs."""
    return max(model.majority_class, 0.5, model.break_even or 0.0)


def has_edge(model: ModelSummary) -> bool:
    """Whether the whole interval of the accuracy lies above what costs nothing and what trading costs."""
    return model.accuracy.interval is not None and model.accuracy.interval.low > bar_to_clear(model)


def difference(backtest: BacktestSummary, metric: DifferenceName) -> Difference | None:
    """Return the paired difference of that metric, if it was computed."""
    return next((found for found in backtest.differences if found.metric == metric), None)


def decisive(backtest: BacktestSummary) -> Difference | None:
    """Return the difference that says whether the models help: of net return or, if it has no interval, of Sharpe."""
    found = [difference(backtest, metric) for metric in _DECISIVE]
    return next((one for one in found if one is not None and one.interval is not None), None)


_DECISIVE: tuple[DifferenceName, ...] = ("net_return", "sharpe")


def settled(found: Difference | None) -> bool:
    """Whether the interval of a difference leaves zero out."""
    return found is not None and found.interval is not None and (found.interval.low > 0 or found.interval.high < 0)


def findings(summary: Summary) -> tuple[Finding, ...]:
    """Say what the run showed, the most important first."""
    found = [_edge(summary), _backtest(summary.backtest), _live(summary.live)]
    if summary.live is not None:
        found.append(_drill(summary.live.kill_drill))
    return (*found, _checks(summary), _data(summary))


def _edge(summary: Summary) -> Finding:
    models = [model for model in summary.models if model.accuracy.value is not None]
    if not models:
        return Finding("Prediction", "No model was judged in this run.")
    best = max(models, key=lambda model: model.accuracy.value or 0.0)
    said = (
        f"{_display(best.name)} named the right direction on {percent(best.accuracy.value)} of "
        f"{best.accuracy.n:,} bars that it had not seen (95 % interval {between(best.accuracy.interval)})."
    )
    if (best.accuracy.value or 0.0) >= LEAK_ACCURACY:
        return Finding(
            "Prediction", f"{said} On bars of this kind that is almost certainly a leak: distrust it.", "bad"
        )
    compared = f"always naming the commoner direction gets {percent(best.majority_class)}"
    if best.break_even is not None:
        compared += f", and trading pays its costs only from {percent(best.break_even)}"
    if has_edge(best):
        return Finding("Prediction", f"{said} That is above what costs nothing: {compared}.", "good")
    return Finding("Prediction", f"No edge was found. {said} In comparison, {compared}.", "bad")


def _backtest(backtest: BacktestSummary | None) -> Finding:
    if backtest is None:
        return Finding("Backtest", "No backtest was run.")
    if not backtest.system.trades and not backtest.control.trades:
        return Finding("Backtest", "Neither the AI-assisted system nor the traditional control made a single trade.")
    said = (
        f"After all costs the AI-assisted system returned {signed_percent(backtest.system.net_return)} and the "
        f"traditional control {signed_percent(backtest.control.net_return)}."
    )
    found = decisive(backtest)
    if found is None:
        return Finding("Backtest", f"{said} The time is too short for an interval of the difference: nothing is shown.")
    if found.metric == "sharpe":
        gap = f"The paired difference of their Sharpe ratios is {number(found.value, sign=True)}"
    else:
        gap = f"The paired difference is {signed_points(found.value)}"
    scale, digits = (1.0, 2) if found.metric == "sharpe" else (100.0, 1)
    gap += f" (95 % interval {signed_between(found.interval, digits, scale=scale)})"
    if not settled(found):
        return Finding("Backtest", f"{said} {gap}: it includes zero, so nothing shows that the models help or harm.")
    if found.value <= 0:
        return Finding("Backtest", f"{said} {gap}: the models did harm.", "bad")
    if backtest.system.net_return <= 0:
        trades = f"{backtest.system.trades:,} trades instead of {backtest.control.trades:,}"
        return Finding("Backtest", f"{said} {gap}: the models lost less, with {trades}, and still lost money.", "bad")
    return Finding("Backtest", f"{said} {gap}: the models helped.", "good")


def _live(live: LiveSummary | None) -> Finding:
    if live is None:
        return Finding("Live", "There was no live session.")
    if not live.decisions:
        return Finding("Live", f"The live session took in {live.ticks:,} ticks and made no decision.", "bad")
    levels = ", ".join(f"{percent(level.share, 0)} at level {level.level} ({level.name})" for level in live.levels)
    text = (
        f"The live session decided at {live.ticks:,} ticks and recorded {live.decisions:,}: {levels}. Half of these "
        f"took at most {milliseconds(live.end_to_end.p50_ms)}, 99 % at most {milliseconds(live.end_to_end.p99_ms)}"
    )
    if live.bare_call.n:
        text += f"; a bare call of the models alone takes {milliseconds(live.bare_call.p50_ms)} at the median"
    return Finding("Live", f"{text}.")


def _drill(drill: KillDrill | None) -> Finding:
    if drill is None:
        return Finding("Fallback", "No server was killed in this session, so the fallback was not tried.")
    said = f"Triton was killed on purpose at {drill.killed_at:%H:%M:%S} UTC."
    if drill.lower_at is None or drill.lower_level is None:
        return Finding("Fallback", f"{said} No later decision was made at a lower level.", "bad")
    if drill.late:
        drop = f"{drill.late} decisions still used the models before one was made at level {drill.lower_level}."
    else:
        drop = f"The very next decision was made at level {drill.lower_level}"
        drop += f" in {milliseconds(drill.lower_latency_ms)}." if drill.lower_latency_ms is not None else "."
    if drill.server_away_s is None:
        return Finding("Fallback", f"{said} {drop} Triton was not seen to come back.", "bad")
    back = f"Triton answered again after {seconds(drill.server_away_s)}"
    if drill.level_lower_s is None:
        return Finding("Fallback", f"{said} {drop} {back}; the session ended before the former level was back.", "bad")
    back += f", and decisions were at the former level again after {seconds(drill.level_lower_s)}."
    return Finding("Fallback", f"{said} {drop} {back}", "bad" if drill.late else "good")


def _checks(summary: Summary) -> Finding:
    checks = summary.checks
    if not checks.passed + checks.warned + checks.failed:
        return Finding("Checks", "No asset check was run.", "bad")
    text = f"{_many(checks.passed, 'check')} passed, {checks.warned:,} warned, {checks.failed:,} failed."
    return Finding("Checks", text, "bad" if checks.failed else "good")


def _data(summary: Summary) -> Finding:
    data = summary.data
    symbols = ", ".join(data.symbols) if len(data.symbols) < 2 else f"{len(data.symbols)} symbols"
    bad = sum(data.quarantined.values())
    text = f"{symbols or 'No symbol'} in {data.base_timeframe} from the source {data.source}"
    if data.start and data.end:
        text += f", {data.start:%Y-%m-%d} to {data.end:%Y-%m-%d}"
    text += f"; {_many(bad, 'bad row') if bad else 'no bad rows'} put into quarantine."
    if data.ticks_modelled:
        text += " The source has bars only: ticks and spreads inside a bar are modelled."
    if data.left_out:
        text += f" {_many(len(data.left_out), 'symbol')} of the source left out; see the data table."
    return Finding("Data", text)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _display(model: str) -> str:
    return {"xgboost": "XGBoost", "random_forest": "The random forest"}.get(model, model)
