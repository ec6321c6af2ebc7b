"""What a report is made of: the summary and plain frames. Every frame may be empty."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from fx_dagster.errors import DataError
from fx_dagster.models.evaluate import Metrics
from fx_dagster.report.summary import Summary

COLUMNS: dict[str, tuple[str, ...]] = {
    "equity": ("time", "system", "control"),
    "bars": ("time", "open", "high", "low", "close"),
    "trades": ("symbol", "side", "entry_time", "entry_price", "exit_time", "exit_price", "profit", "reason"),
    "importance": ("model", "feature", "importance"),
    "decisions": ("decided_wall_ns", "bar_time", "symbol", "level", "level_reason", "latency_total_ms",
                  "latency_model_ms"),
}  # fmt: skip
"""Columns that each frame needs; others are ignored."""


def empty_frame(name: str) -> pd.DataFrame:
    """Return an empty frame with the columns that ``name`` needs."""
    return pd.DataFrame({column: [] for column in COLUMNS[name]})


@dataclass(frozen=True)
class ReportInputs:
    """Everything that the page shows.

    Times are int64 ns UTC; market time except ``decided_wall_ns``.

    Attributes:
        summary: the numbers.
        equity: ``time, system, control``: equity of both accounts at each bar's close, in the account's currency.
        bars: symbol → BARS of the price chart; it is down-sampled here.
        trades: the system's closed trades: ``symbol``, ``side`` (+1 long, −1 short), entry and exit time and price,
            ``profit`` (account's currency, net of costs), ``reason`` of the exit.
        importance: ``model, feature, importance`` (not negative; any scale).
        metrics: model → its judgement on unseen rows, for calibration and accuracy by confidence.
        decisions: the live session's decisions, as :class:`fx_dagster.live.records.DecisionRecord` names the columns.
        bare_call_ms: durations of bare Triton calls, in milliseconds.
        settings: settings that are not at their default: variable → value, secrets left out by the caller.

    Raises:
        DataError: a frame lacks a column.
    """

    summary: Summary
    equity: pd.DataFrame = field(default_factory=lambda: empty_frame("equity"))
    bars: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    trades: pd.DataFrame = field(default_factory=lambda: empty_frame("trades"))
    importance: pd.DataFrame = field(default_factory=lambda: empty_frame("importance"))
    metrics: Mapping[str, Metrics] = field(default_factory=dict)
    decisions: pd.DataFrame = field(default_factory=lambda: empty_frame("decisions"))
    bare_call_ms: tuple[float, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("equity", "trades", "importance", "decisions"):
            _require(name, getattr(self, name), COLUMNS[name])
        for symbol, frame in self.bars.items():
            _require(f"bars of {symbol}", frame, COLUMNS["bars"])


def _require(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise DataError(f"report, {name}: column {missing[0]} is missing", mend=f"it needs {', '.join(columns)}")
