"""The page for a person: one HTML file that needs nothing else, no server and no network.

Everything from outside (symbols, names of sources, reasons, settings) is escaped; scripts run only if their hash is in
the page's own content security policy, so that text which slips into the page cannot act.
"""

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from fx_dagster.market.timeframes import Timeframe
from fx_dagster.report import figures, palette, tables
from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.measures import LATENCY_MS_MAX
from fx_dagster.report.sampling import candles
from fx_dagster.report.summary import BacktestSummary, LiveSummary, ModelSummary, Summary
from fx_dagster.report.words import (
    Tone,
    bar_to_clear,
    decisive,
    findings,
    has_edge,
    milliseconds,
    minute,
    percent,
    seconds,
    settled,
    signed_percent,
)

CHARTS_MAX = 8
"""Symbols whose price chart is on the page, the most traded first."""

ROWS_OPEN_MAX = 12
"""Checks, or tables of the lake, beyond which their list is folded."""


@dataclass(frozen=True)
class Chart:
    """A figure of the page, or the sentence in its place."""

    key: str
    title: str
    caption: str
    height_px: int
    figure: Markup | None
    absent: str


@dataclass(frozen=True)
class Tile:
    """A number that one looks for first."""

    label: str
    value: str
    beside: str
    tone: Tone = "neutral"


def render_html(inputs: ReportInputs) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    summary = inputs.summary
    scripts = {"plotly": _plotly_js(), "page": _source(environment, "report.js.j2")}
    return environment.get_template("report.html.j2").render(
        summary=summary,
        title=_title(summary),
        created=minute(summary.created),
        span=f"{minute(summary.data.start)} to {minute(summary.data.end)} UTC" if summary.data.start else "no data",
        total=seconds(summary.total_s),
        findings=[replace(found, text=_unbroken(found.text)) for found in findings(summary)],
        tiles=_tiles(summary),
        charts=_charts(inputs),
        prices=_price_charts(inputs),
        prices_left_out=max(0, len(inputs.bars) - CHARTS_MAX),
        tables=_tables(inputs),
        checks_open=len(summary.checks.results) <= ROWS_OPEN_MAX or summary.checks.failed > 0,
        rows_open=len(summary.data.rows) <= ROWS_OPEN_MAX,
        rows_total=sum(summary.data.rows.values()),
        style=Markup(environment.get_template("report.css.j2").render(pairs=palette.PAIRS)),  # noqa: S704 - our own file
        pairs=_embedded(json.dumps([list(pair) for pair in palette.PAIRS.values()])),
        scripts=scripts,
        policy=_policy(scripts),
    )


def _title(summary: Summary) -> str:
    symbols = summary.data.symbols
    shown = ", ".join(symbols[:6]) + (f" and {len(symbols) - 6} more" if len(symbols) > 6 else "")
    return f"{shown or 'No symbols'} · {summary.data.base_timeframe}"


def _unbroken(text: str) -> str:
    """Keep numbers and their units on one line."""
    return re.sub(r"(?<=\d) (?=(%|ms|s|min|points)(\W|$))", "\u00a0", text)


def _plotly_js() -> Markup:
    from plotly.offline import get_plotlyjs

    return Markup(get_plotlyjs().replace("</script", "<\\/script"))  # noqa: S704 - the installed library


def _source(environment: Environment, name: str) -> Markup:
    assert environment.loader is not None  # noqa: S101 - set three lines above its only use
    text, _, _ = environment.loader.get_source(environment, name)
    return Markup(text)  # noqa: S704 - our own file


def _policy(scripts: Mapping[str, Markup]) -> str:
    """Return the content security policy: these scripts, inline styles, pictures made in the page; nothing loaded."""
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts.values()]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'"


def _embedded(text: str) -> Markup:
    """Make JSON safe inside a script element: nothing in it can end the element or open a comment."""
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - no markup letter is left


def _chart(key: str, title: str, caption: str, height_px: int, figure: Any, absent: str) -> Chart:
    embedded = None if figure is None else _embedded(figure.to_json())
    return Chart(key, title, caption, height_px, embedded, absent)


def _charts(inputs: ReportInputs) -> dict[str, Chart]:
    backtest, live = inputs.summary.backtest, inputs.summary.live
    features = len(figures.importance_shares(inputs.importance))
    models = max(1, inputs.importance["model"].nunique())
    tall = max(420, 100 + features * (12 + 13 * models))
    charts = (
        _chart(
            "equity", "Equity and drawdown", "Both accounts on the same bars, with the same risk rules and costs.", 460,
            figures.equity_figure(inputs.equity, backtest.currency if backtest else ""),
            "No backtest was run, so there is no equity to draw.",
        ),
        _chart(
            "importance", "Feature importance", "The features that matter most to each model. Importance is not cause.",
            tall, figures.importance_figure(inputs.importance),
            "No model reported which features it uses.",
        ),
        _chart(
            "calibration", "Calibration", "Said against seen, in groups of equal size; bars are 95 % Wilson intervals.",
            tall, figures.calibration_figure(inputs.metrics), "No model was judged, so there is nothing to calibrate.",
        ),
        _chart(
            "levels", "Decisions by fallback level", "Wall-clock time of the session.", 340,
            figures.levels_figure(inputs.decisions, live.kill_drill if live else None),
            "There was no live session, or it made no decision.",
        ),
        _chart(
            "latency", "Latency", "Shares of each kind's own calls; upright lines: median (solid) and p99 (dotted).",
            380, figures.latency_figure(_latencies(inputs), LATENCY_MS_MAX), "No decision was timed.",
        ),
    )  # fmt: skip
    return {chart.key: chart for chart in charts}


def _latencies(inputs: ReportInputs) -> dict[str, np.ndarray]:
    decisions = inputs.decisions
    return {
        "Whole decision": pd.to_numeric(decisions["latency_total_ms"]).to_numpy(dtype=np.float64),
        "Its model call": pd.to_numeric(decisions["latency_model_ms"]).to_numpy(dtype=np.float64, na_value=np.nan),
        "Bare Triton call": np.asarray(inputs.bare_call_ms, dtype=np.float64),
    }


def _price_charts(inputs: ReportInputs) -> list[Chart]:
    traded = inputs.trades["symbol"].value_counts()
    order = sorted(inputs.bars, key=lambda symbol: (-int(traded.get(symbol, 0)), symbol))[:CHARTS_MAX]
    return [_price_chart(symbol, number, inputs) for number, symbol in enumerate(order)]


def _price_chart(symbol: str, number: int, inputs: ReportInputs) -> Chart:
    bars = inputs.bars[symbol]
    trades = inputs.trades[inputs.trades["symbol"] == symbol]
    shown, timeframe = candles(bars, Timeframe.parse(inputs.summary.data.base_timeframe), figures.CANDLES_MAX)
    caption = f"{timeframe} candles of bid prices. "
    caption += f"{len(trades):,} closed trades" if len(trades) else "No trade was closed here"
    if len(trades) > figures.TRADES_MAX:
        caption += f", the last {figures.TRADES_MAX:,} of them drawn"
    figure = figures.trades_figure(shown, trades, _digits(bars))
    return _chart(f"price-{number}", symbol, f"{caption}.", 480, figure, f"There are no bars of {symbol}.")


def _digits(bars: pd.DataFrame) -> int:
    """Return the decimals that tell prices of this size apart."""
    price = float(bars["close"].median()) if len(bars) else 1.0
    return 5 if price < 20 else 3 if price < 500 else 2


def _tables(inputs: ReportInputs) -> dict[str, tables.Table | None]:
    summary = inputs.summary
    live, backtest = summary.live, summary.backtest
    versions = {"Python": summary.versions.python, "Triton": summary.versions.triton or "did not run"}
    return {
        "measures": tables.measures_table(summary.measures),
        "performance": tables.performance_table(backtest) if backtest else None,
        "models": tables.models_table(summary.models) if summary.models else None,
        "coverage": tables.coverage_table(inputs.metrics) if inputs.metrics else None,
        "latency": tables.latency_table(live) if live else None,
        "levels": tables.levels_table(live) if live and live.levels else None,
        "drill": tables.drill_table(live) if live else None,
        "data": tables.data_table(summary.data),
        "quarantine": tables.quarantine_table(summary.data) if summary.data.quarantined else None,
        "left_out": tables.left_out_table(summary.data) if summary.data.left_out else None,
        "checks": tables.checks_table(summary.checks) if summary.checks.results else None,
        "timings": tables.timings_table(summary) if summary.timings else None,
        "versions": tables.pairs_table("Versions", ("Part", "Version"), versions | summary.versions.packages),
        "settings": tables.pairs_table("Settings changed from their default", ("Setting", "Value"), inputs.settings)
        if inputs.settings
        else None,
    }


def _tiles(summary: Summary) -> list[Tile]:
    tiles = [_accuracy_tile(summary.models), *_backtest_tiles(summary.backtest), *_live_tiles(summary.live)]
    checks = summary.checks
    tone: Tone = "bad" if checks.failed or not checks.passed else "good"
    beside = f"{checks.warned:,} warned, {checks.failed:,} failed"
    return [*(tile for tile in tiles if tile), Tile("Checks passed", f"{checks.passed:,}", beside, tone)]


def _accuracy_tile(models: tuple[ModelSummary, ...]) -> Tile | None:
    judged = [model for model in models if model.accuracy.value is not None]
    if not judged:
        return None
    best = max(judged, key=lambda model: model.accuracy.value or 0.0)
    beside = f"needed: more than {percent(bar_to_clear(best))}"
    return Tile("Best accuracy, unseen bars", percent(best.accuracy.value), beside, "good" if has_edge(best) else "bad")


def _backtest_tiles(backtest: BacktestSummary | None) -> list[Tile]:
    if backtest is None:
        return []
    found = decisive(backtest)
    tone: Tone = "neutral"
    if found is not None and settled(found):
        tone = "good" if found.value > 0 else "bad"
    control = f"control: {signed_percent(backtest.control.net_return)}"
    fall = f"control: {percent(backtest.control.max_drawdown)}"
    return [
        Tile("Net return, backtest", signed_percent(backtest.system.net_return), control, tone),
        Tile("Maximum drawdown", percent(backtest.system.max_drawdown), fall),
    ]


def _live_tiles(live: LiveSummary | None) -> list[Tile]:
    if live is None:
        return []
    beside = f"99 % within {milliseconds(live.end_to_end.p99_ms)}"
    tiles = [Tile("Latency of a decision", milliseconds(live.end_to_end.p50_ms), beside)]
    if live.kill_drill is not None:
        away = f"at the former level after {seconds(live.kill_drill.level_lower_s)}"
        tiles.append(Tile("Triton back after the kill", seconds(live.kill_drill.server_away_s), away))
    return tiles
