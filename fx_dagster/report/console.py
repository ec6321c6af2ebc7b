"""The summary in a terminal: at most 80 columns, findings first, then the numbers."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import Literal

from rich.text import Text

from fx_dagster.report import tables
from fx_dagster.report.summary import BacktestSummary, LiveSummary, ModelSummary, Summary
from fx_dagster.report.words import between, findings, has_edge, minute, number, percent, seconds, signed_percent

Style = Literal["title", "head", "plain", "good", "bad", "dim"]
Line = tuple[Style, str]

WIDTH = 80
RICH_STYLES: dict[Style, str] = {
    "title": "bold", "head": "bold cyan", "plain": "", "good": "green", "bad": "red", "dim": "dim",
}  # fmt: skip
_SIGNS = {"good": "✓", "bad": "✗", "neutral": "·"}


def summary_lines(summary: Summary) -> list[Line]:
    """Return the summary as styled lines of at most ``WIDTH`` columns."""
    lines = _title(summary)
    lines += _findings(summary)
    lines += _models(summary.models)
    lines += _backtest(summary.backtest)
    lines += _live(summary.live)
    lines += _measures(summary)
    lines += _places(summary)
    return lines


def summary_renderables(summary: Summary) -> list[Text]:
    """Return the summary as rich lines; print them with ``soft_wrap=True``, so that long paths stay whole."""
    return [Text(line, style=RICH_STYLES[style]) for style, line in summary_lines(summary)]


def _title(summary: Summary) -> list[Line]:
    data = summary.data
    names = ", ".join(data.symbols[:6]) + (f" and {len(data.symbols) - 6} more" if len(data.symbols) > 6 else "")
    facts = f"{data.source} · {minute(data.start)} to {minute(data.end)} UTC · {seconds(summary.total_s)}"
    title = _wrapped("title", f"{summary.command} · {names or 'no symbols'} · {data.base_timeframe}", "")
    return [*title, *_wrapped("dim", facts, "")]


def _findings(summary: Summary) -> list[Line]:
    lines = _head("What was found")
    for found in findings(summary):
        style: Style = "plain" if found.tone == "neutral" else found.tone
        lines += _wrapped(style, f"{_SIGNS[found.tone]} {found.topic:<11}{found.text}", " " * 13)
    return lines


def _models(models: Sequence[ModelSummary]) -> list[Line]:
    if not models:
        return []
    lines = _head("Direction, bars not seen in training")
    lines += _columns(
        [("", "accuracy", "95 % interval", "majority", "break-even", "Brier")], (16, 10, 17, 11, 13, 9), "dim"
    )
    for model in models:
        row = (
            model.name, percent(model.accuracy.value), between(model.accuracy.interval),
            percent(model.majority_class), percent(model.break_even), number(model.brier, 4),
        )  # fmt: skip
        lines += _columns([row], (16, 10, 17, 11, 13, 9), "good" if has_edge(model) else "plain")
    return lines


def _backtest(backtest: BacktestSummary | None) -> list[Line]:
    if backtest is None:
        return []
    lines = _head(f"Backtest after costs, {backtest.start:%Y-%m-%d} to {backtest.end:%Y-%m-%d}")
    table = tables.performance_table(backtest)
    widths = (24, 11, 10, 14, 18)
    lines += _columns([table.head], widths, "dim")
    return lines + _columns([[cell.text for cell in row] for row in table.rows], widths, "plain")


def _live(live: LiveSummary | None) -> list[Line]:
    if live is None:
        return []
    paper = f", net {signed_percent(live.net_return, 2)}" if live.net_return is not None else ""
    lines = _head(f"Live session, {live.decisions:,} decisions, {live.trades:,} paper trades{paper}")
    for level in live.levels:
        row = (f"level {level.level}, {level.name}", f"{level.decisions:,}", percent(level.share))
        lines += _columns([row], (33, 8, 9), "plain")
        lines += _wrapped("dim", f"    {_reasons(level.reasons)}", "    ") if any(level.reasons) else []
    lines += _columns([("", "p50", "p90", "p99", "longest")], (21, 12, 12, 12, 14), "dim")
    rows = [[cell.text for cell in row[:5]] for row in tables.latency_table(live).rows]
    return lines + _columns(rows, (21, 12, 12, 12, 14), "plain")


def _reasons(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} ({count:,})" for reason, count in list(reasons.items())[: tables.REASONS_MAX] if reason)


def _measures(summary: Summary) -> list[Line]:
    if not summary.measures:
        return []
    lines = _head("Success measures (compared with, never tuned to)")
    for measure in summary.measures:
        style: Style = "plain" if measure.met is None else "good" if measure.met else "bad"
        sign = "–" if measure.met is None else "✓" if measure.met else "✗"
        value = "not measurable" if measure.value is None else tables.measure_value(measure)
        name = f"{sign} {measure.name}"
        lines.append((style, _fit(f"{name:<40}{value:>15}   {measure.target}")))
        if measure.why and measure.met is not True:
            lines += _wrapped("dim", f"  {measure.why}", "  ")
    return lines


def _places(summary: Summary) -> list[Line]:
    places = summary.places
    now = f" (now at {places.ui_url})" if places.ui_url else ""
    return [
        *_head("Where to look"),
        *_unbroken("plain", "report  ", places.html),
        *_unbroken("plain", "numbers ", f"{places.folder}/summary.json"),
        *_unbroken("plain", "UI      ", f"{places.ui_command}{now}"),
    ]


def _head(text: str) -> list[Line]:
    return [("plain", ""), ("head", _fit(text))]


def _wrapped(style: Style, text: str, indent: str) -> list[Line]:
    return [(style, line) for line in textwrap.wrap(text, WIDTH, subsequent_indent=indent)] or [(style, "")]


def _unbroken(style: Style, label: str, text: str) -> list[Line]:
    """Keep a path whole, so that it can be copied: on a line of its own if it is too long for this one."""
    return [(style, label + text)] if len(label + text) <= WIDTH else [(style, label.rstrip()), (style, text)]


def _columns(rows: Iterable[Sequence[str]], widths: Sequence[int], style: Style) -> list[Line]:
    """Align cells: the first to the left, the others to the right."""
    lines: list[Line] = []
    for row in rows:
        others = "".join(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        lines.append((style, _fit(f"  {row[0]:<{widths[0]}}{others}")))
    return lines


def _fit(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
