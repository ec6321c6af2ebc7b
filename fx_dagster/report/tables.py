"""The page's tables, as plain cells: what is said, in which tone, and whether it is a number."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fx_dagster.models.evaluate import Metrics
from fx_dagster.report.summary import (
    BacktestSummary,
    ChecksSummary,
    DataSummary,
    DifferenceName,
    LiveSummary,
    Measure,
    ModelSummary,
    Summary,
)
from fx_dagster.report.words import (
    Tone,
    between,
    difference,
    has_edge,
    milliseconds,
    minute,
    number,
    percent,
    seconds,
    signed_between,
    signed_percent,
    signed_points,
)

REASONS_MAX = 6


@dataclass(frozen=True)
class Cell:
    """One cell; ``tone`` colours it, and is never its only sign."""

    text: str
    tone: Tone = "neutral"


@dataclass(frozen=True)
class Table:
    """A captioned table; columns in ``numeric`` are set to the right."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    numeric: frozenset[int] = frozenset()
    note: str = ""

    @property
    def stacks(self) -> bool:
        """Whether a phone shows a row as a small block: for rows of words, which columns would squeeze."""
        return len(self.head) >= 4 and len(self.numeric) <= 2


def _table(
    caption: str, head: Iterable[str], rows: Iterable[Iterable[Cell | str]], numeric: Iterable[int] = (), note: str = ""
) -> Table:
    cells = tuple(tuple(Cell(cell) if isinstance(cell, str) else cell for cell in row) for row in rows)
    return Table(caption, tuple(head), cells, frozenset(numeric), note)


def measures_table(measures: Iterable[Measure]) -> Table:
    """Return the success measures, each with its target and whether it is met."""
    rows = [
        (measure.name, measure_value(measure), measure_interval(measure), measure.target, verdict(measure), measure.why)
        for measure in measures
    ]
    return _table(
        "Success measures against their targets", ("Measure", "Value", "95 % interval", "Target", "Met", "Mind"), rows,
        numeric=(1, 2), note="Targets are compared with, never tuned to.",
    )  # fmt: skip


def verdict(measure: Measure) -> Cell:
    """Return whether a measure is met, in a word and a sign."""
    if measure.met is None:
        return Cell("– not measurable")
    return Cell("✓ yes", "good") if measure.met else Cell("✗ no", "bad")


def measure_value(measure: Measure) -> str:
    """Write a measure's value in its unit; gains carry a sign."""
    gain = measure.target.startswith("+")
    if measure.unit == "points":
        return signed_points(measure.value)
    if measure.unit == "ms":
        return milliseconds(measure.value)
    if measure.unit == "ratio":
        return number(measure.value)
    return signed_percent(measure.value, 0) if gain else percent(measure.value, 1)


def measure_interval(measure: Measure) -> str:
    """Write a measure's interval as its value is written."""
    if not measure.target.startswith("+"):
        return between(measure.interval)
    return signed_between(measure.interval, 1 if measure.unit == "points" else 0)


def performance_table(backtest: BacktestSummary) -> Table:
    """Return system beside control and their paired difference."""
    system, control = backtest.system, backtest.control
    rows: list[tuple[str, str, str, str, str]] = []

    def add(
        label: str, metric: DifferenceName | None, values: tuple[str, str], digits: int = 1, *, share: bool = True
    ) -> None:
        found = difference(backtest, metric) if metric else None
        gap = interval = "–"
        if found is not None:
            gap = signed_points(found.value, digits) if share else number(found.value, digits, sign=True)
            interval = signed_between(found.interval, digits, scale=100.0 if share else 1.0)
        rows.append((label, *values, gap, interval))

    add("Net return", "net_return", (signed_percent(system.net_return), signed_percent(control.net_return)))
    add("Sharpe ratio", "sharpe", (number(system.sharpe), number(control.sharpe)), 2, share=False)
    add("Sortino ratio", "sortino", (number(system.sortino), number(control.sortino)), 2, share=False)
    add("Maximum drawdown", "max_drawdown", (percent(system.max_drawdown), percent(control.max_drawdown)))
    add("Win rate", "win_rate", (percent(system.win_rate), percent(control.win_rate)))
    add("Closed trades", None, (f"{system.trades:,}", f"{control.trades:,}"))
    add(f"Costs, {backtest.currency}", None, (number(system.costs), number(control.costs)))
    if backtest.traded is not None:
        add("Direction, traded bars", None, (percent(backtest.traded.value), "–"))
    if backtest.coverage is not None:
        add("Share of bars traded", None, (percent(backtest.coverage), "–"))
    return _table(
        "After all costs, on the same bars",
        ("", "AI-assisted", "Control", "Difference", "95 % interval"),
        rows,
        numeric=(1, 2, 3, 4),
        note=f"{minute(backtest.start)} to {minute(backtest.end)} UTC, starting with "
        f"{number(backtest.initial_balance, 0)} {backtest.currency}.",
    )


def models_table(models: Iterable[ModelSummary]) -> Table:
    """Return the models' out-of-sample quality beside what costs nothing."""
    rows = [
        (
            model.name,
            Cell(percent(model.accuracy.value), "good" if has_edge(model) else "bad"),
            between(model.accuracy.interval),
            percent(model.majority_class),
            percent(model.always_up),
            percent(model.break_even),
            number(model.log_loss, 4),
            number(model.log_loss_base_rate, 4),
            number(model.brier, 4),
            f"{model.accuracy.n:,}",
        )
        for model in models
    ]
    head = (
        "Model", "Accuracy", "95 % interval", "Majority class", "Always up", "Break-even", "Log-loss", "of base rate",
        "Brier", "Bars",
    )  # fmt: skip
    return _table(
        "Directional accuracy on bars that the models had not seen", head, rows, numeric=range(1, len(head)),
        note="Out of fold over purged, embargoed walk-forward splits; intervals by block bootstrap over times. "
        "Break-even is the accuracy at which trading every bar pays its costs.",
    )  # fmt: skip


def coverage_table(metrics: Mapping[str, Metrics]) -> Table:
    """Return accuracy by confidence: trading only what a model is surest of."""
    rows = [
        (
            name, percent(row.coverage, 0), f"{row.rows:,}", percent(row.accuracy), percent(row.break_even_accuracy),
            f"{number(10_000 * row.mean_net_return, 2, sign=True)} bp",
        )
        for name, judged in metrics.items()
        for row in judged.coverage
    ]  # fmt: skip
    return _table(
        "Only the bars that a model is surest of", ("Model", "Coverage", "Bars", "Accuracy", "Break-even", "Net a bar"),
        rows, numeric=(1, 2, 3, 4, 5),
        note="Chosen by hindsight over the same bars: fewer bars, wider chance. Net: mean return after costs, in basis "
        "points of the price.",
    )  # fmt: skip


def latency_table(live: LiveSummary) -> Table:
    """Return the quantiles of latency, the bare call beside."""
    named = (
        ("Whole decision", live.end_to_end),
        ("Its model call", live.model_call),
        ("Bare Triton call", live.bare_call),
    )
    rows = [
        (name, milliseconds(part.p50_ms), milliseconds(part.p90_ms), milliseconds(part.p99_ms),
         milliseconds(part.max_ms), f"{part.n:,}")
        for name, part in named
    ]  # fmt: skip
    return _table(
        "Latency", ("", "p50", "p90", "p99", "Longest", "Calls"), rows, numeric=range(1, 6),
        note="Whole decision: from the arrival of the tick that closed the bar to the end of the decision.",
    )  # fmt: skip


def levels_table(live: LiveSummary) -> Table:
    """Return decisions by fallback level with the commonest reasons."""
    rows = []
    for level in live.levels:
        reasons = [f"{reason or 'in order'} ({count:,})" for reason, count in list(level.reasons.items())[:REASONS_MAX]]
        left = len(level.reasons) - REASONS_MAX
        text = ", ".join(reasons) + (f" and {left} more" if left > 0 else "")
        rows.append((f"{level.level} · {level.name}", f"{level.decisions:,}", percent(level.share), text))
    return _table("Decisions by fallback level", ("Level", "Decisions", "Share", "Why"), rows, numeric=(1, 2))


def drill_table(live: LiveSummary) -> Table | None:
    """Return the kill drill's moments; None where there was none."""
    drill = live.kill_drill
    if drill is None:
        return None
    moments = (
        ("Triton killed", drill.killed_at),
        (f"First decision at level {drill.lower_level or '–'}", drill.lower_at),
        ("Triton answers again", drill.server_back_at),
        ("First decision at the former level", drill.level_back_at),
    )
    rows = [
        (name, f"{time:%H:%M:%S}.{time.microsecond // 1000:03d}" if time else "not seen",
         f"{(time - drill.killed_at).total_seconds():+.2f} s" if time else "–")
        for name, time in moments
    ]  # fmt: skip
    note = f"Latency of the first lower decision: {milliseconds(drill.lower_latency_ms)}. "
    note += f"Decisions in between that still used the models: {drill.late}."
    return _table("The kill drill", ("Moment", "UTC", "After the kill"), rows, numeric=(1, 2), note=note)


def data_table(data: DataSummary) -> Table:
    """Return the rows of every table of the lake."""
    rows = [(name, f"{count:,}") for name, count in data.rows.items()]
    return _table("Rows in the lake", ("Table", "Rows"), rows, numeric=(1,))


def quarantine_table(data: DataSummary) -> Table:
    """Return rows put aside, by reason."""
    rows = [(reason, f"{count:,}") for reason, count in sorted(data.quarantined.items(), key=lambda item: -item[1])]
    return _table("Rows in quarantine", ("Reason", "Rows"), rows, numeric=(1,))


def left_out_table(data: DataSummary) -> Table:
    """Return the source's symbols that were not used."""
    return _table("Symbols left out", ("Symbol", "Why"), data.left_out.items())


def checks_table(checks: ChecksSummary) -> Table:
    """Return every check, failed ones first."""
    sign: dict[str, Cell] = {
        "passed": Cell("✓ passed", "good"), "warned": Cell("! warned"), "failed": Cell("✗ failed", "bad")
    }  # fmt: skip
    rows = [(sign[check.outcome], check.asset, check.name, check.symbol, check.detail) for check in checks.results]
    return _table("Asset checks", ("Outcome", "Asset", "Check", "Symbol", "Found"), rows)


def timings_table(summary: Summary) -> Table:
    """Return how long each step took."""
    rows = [(step.name, seconds(step.seconds)) for step in summary.timings]
    return _table("Steps", ("Step", "Time"), [*rows, ("Together", seconds(summary.total_s))], numeric=(1,))


def pairs_table(caption: str, head: tuple[str, str], pairs: Mapping[str, str]) -> Table:
    """Return names and values."""
    return _table(caption, head, pairs.items())
