"""Interactive figures of the page, as Plotly figures in the light colours of :mod:`fx_dagster.report.palette`.

Every builder takes plain frames, down-samples them for the eye, and returns None where there is nothing to draw.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fx_dagster.market.timeframes import SECOND_NS
from fx_dagster.models.evaluate import Metrics
from fx_dagster.report import palette
from fx_dagster.report.sampling import extreme_rows
from fx_dagster.report.statistics import log_histogram, wilson_interval
from fx_dagster.report.summary import LEVEL_NAMES, KillDrill

Figure = Any
"""A ``plotly.graph_objects.Figure``; plotly is imported only where a figure is made."""

CANDLES_MAX = 420
EQUITY_POINTS_MAX = 1_500
TRADES_MAX = 1_500
FEATURES_MAX = 15
TIME_BUCKETS = 60
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'DejaVu Sans', sans-serif"


def equity_figure(equity: pd.DataFrame, currency: str) -> Figure | None:
    """Draw equity of system and control, and below it how far each is under its peak."""
    from plotly.subplots import make_subplots

    if equity.empty:
        return None
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.06)
    falls = {name: equity[name].to_numpy() / equity[name].cummax().to_numpy() - 1 for name in ("system", "control")}
    both = np.column_stack([equity["system"], equity["control"], falls["system"], falls["control"]])
    rows = extreme_rows(both.astype(np.float64), EQUITY_POINTS_MAX)
    time = _stamps(equity["time"].to_numpy()[rows])
    for name, label, colour, dash in _SIDES:
        line = {"color": colour.light, "width": 2, "dash": dash}
        figure.add_scatter(
            x=time, y=_rounded(equity[name].to_numpy()[rows], 2), name=label, line=line, legendgroup=name,
            hovertemplate="%{y:,.2f}", row=1, col=1,
        )  # fmt: skip
        figure.add_scatter(
            x=time, y=_rounded(falls[name][rows], 5), name=f"{label}, drawdown", line=line | {"width": 1.2},
            fill="tozeroy", fillcolor=_FILLS[name].light, legendgroup=name, showlegend=False,
            hovertemplate="%{y:.2%}", row=2, col=1,
        )  # fmt: skip
    figure.update_yaxes(title_text=f"equity, {currency}", tickformat=",", row=1, col=1)
    figure.update_yaxes(title_text="drawdown", tickformat=".1%", row=2, col=1)
    return _styled(figure, hovermode="x unified")


_SIDES = (
    ("control", "Traditional control", palette.CONTROL, "dash"),
    ("system", "AI-assisted system", palette.SYSTEM, "solid"),
)
_FILLS = {"system": palette.SYSTEM_FILL, "control": palette.CONTROL_FILL}


def trades_figure(shown: pd.DataFrame, trades: pd.DataFrame, digits: int) -> Figure | None:
    """Draw one symbol's candles with every entry and exit.

    Args:
        shown: its candles, as :func:`fx_dagster.report.sampling.candles` joins them.
        trades: its closed trades; where there are more than ``TRADES_MAX``, the last ones.
        digits: decimals of a price.
    """
    import plotly.graph_objects as go

    if shown.empty:
        return None
    figure = go.Figure(
        go.Candlestick(
            x=_stamps(shown["time"]), open=shown["open"].to_numpy(), high=shown["high"].to_numpy(),
            low=shown["low"].to_numpy(), close=shown["close"].to_numpy(), name="Price", showlegend=False,
            increasing={"line": {"color": palette.CANDLE_UP.light, "width": 1}, "fillcolor": palette.CARD.light},
            decreasing={"line": {"color": palette.CANDLE_DOWN.light, "width": 1},
                        "fillcolor": palette.CANDLE_DOWN.light},
        )
    )  # fmt: skip
    drawn = trades.sort_values("entry_time").tail(TRADES_MAX)
    if not drawn.empty:
        _add_trades(figure, drawn, digits)
    figure.update_xaxes(rangeslider_visible=False)
    figure.update_yaxes(tickformat=f".{digits}f", title_text="bid")
    return _styled(figure, hovermode="closest")


def _add_trades(figure: Figure, trades: pd.DataFrame, digits: int) -> None:
    figure.add_scatter(
        x=_joined(_stamps(trades["entry_time"]), _stamps(trades["exit_time"])),
        y=_joined(list(trades["entry_price"]), list(trades["exit_price"])),
        mode="lines", line={"color": palette.MUTED.light, "width": 1, "dash": "dot"}, hoverinfo="skip",
        showlegend=False, connectgaps=False,
    )  # fmt: skip
    for side, name, symbol, colour in (
        (1, "Long entry", "triangle-up", palette.SYSTEM), (-1, "Short entry", "triangle-down", palette.THIRD)
    ):  # fmt: skip
        _markers(figure, trades[trades["side"] == side], "entry", name, symbol, colour, digits)
    won = trades["profit"] > 0
    _markers(figure, trades[won], "exit", "Exit with a profit", "circle", palette.GOOD, digits)
    _markers(figure, trades[~won], "exit", "Exit with a loss", "x", palette.BAD, digits)


def _markers(
    figure: Figure, trades: pd.DataFrame, end: str, name: str, symbol: str, colour: palette.Pair, digits: int
) -> None:
    if trades.empty:
        return
    text = [
        f"profit {profit:+,.2f}<br>{_plain(reason)}"
        for profit, reason in zip(trades["profit"], trades["reason"], strict=True)
    ]
    figure.add_scatter(
        x=_stamps(trades[f"{end}_time"]), y=trades[f"{end}_price"].to_numpy(), mode="markers", name=name,
        marker={"symbol": symbol, "color": colour.light, "size": 9 if end == "entry" else 7,
                "line": {"color": palette.CARD.light, "width": 1}},
        hovertemplate=f"<b>{name}</b> %{{y:.{digits}f}}<br>%{{x|%Y-%m-%d %H:%M}}<br>%{{text}}<extra></extra>",
        text=text,
    )  # fmt: skip


def importance_figure(importance: pd.DataFrame) -> Figure | None:
    """Draw the features that matter most, each model's importances as shares of their sum."""
    import plotly.graph_objects as go

    shares = importance_shares(importance)
    if shares.empty:
        return None
    shares = shares.iloc[::-1]
    figure = go.Figure()
    for colour, model in reversed(list(zip(palette.SERIES, shares.columns, strict=False))):
        figure.add_bar(
            y=[_plain(feature) for feature in shares.index], x=_rounded(shares[model].to_numpy(), 5),
            name=_plain(model), orientation="h", marker_color=colour.light,
            hovertemplate="%{y}: %{x:.2%}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(tickformat=".0%", title_text="share of the model's total")
    figure.update_layout(barmode="group", bargap=0.28, bargroupgap=0.05, legend_traceorder="reversed")
    return _styled(figure, hovermode="closest")


def importance_shares(importance: pd.DataFrame, features_max: int = FEATURES_MAX) -> pd.DataFrame:
    """Return feature × model shares of each model's total, the largest mean first, at most ``features_max`` rows."""
    if importance.empty:
        return pd.DataFrame()
    table = importance.pivot_table(index="feature", columns="model", values="importance", aggfunc="sum").fillna(0.0)
    total = table.sum()
    shares = table.loc[:, total > 0] / total[total > 0]
    order = shares.mean(axis=1).sort_values(ascending=False, kind="stable").index
    return shares.loc[order[:features_max], [model for model in importance["model"].unique() if model in shares]]


def calibration_figure(metrics: Mapping[str, Metrics]) -> Figure | None:
    """Draw how often it rose against what was said, with Wilson's intervals."""
    import plotly.graph_objects as go

    if not metrics:
        return None
    tables = {name: judged.calibration for name, judged in metrics.items()}
    said = [row.p_up_mean for table in tables.values() for row in table]
    low, high = min([*said, 0.45]), max([*said, 0.55])
    figure = go.Figure(
        go.Scatter(
            x=[low, high], y=[low, high], mode="lines", name="Perfectly calibrated", hoverinfo="skip",
            line={"color": palette.MUTED.light, "dash": "dot", "width": 1.5},
        )
    )  # fmt: skip
    for colour, symbol, (name, table) in zip(
        palette.SERIES, ("circle", "diamond", "square") * 2, tables.items(), strict=False
    ):
        bounds = [wilson_interval(round(row.up_share * row.rows), row.rows) for row in table]
        figure.add_scatter(
            x=[row.p_up_mean for row in table], y=[row.up_share for row in table], mode="lines+markers",
            name=_plain(name), line={"color": colour.light, "width": 1.5}, marker={"symbol": symbol, "size": 8},
            error_y={
                "type": "data", "symmetric": False, "thickness": 1, "width": 3, "color": colour.light,
                "array": [bound.high - row.up_share for bound, row in zip(bounds, table, strict=True) if bound],
                "arrayminus": [row.up_share - bound.low for bound, row in zip(bounds, table, strict=True) if bound],
            },
            text=[f"{row.rows:,} bars" for row in table],
            hovertemplate="said %{x:.1%}, rose %{y:.1%}<br>%{text}<extra>%{fullData.name}</extra>",
        )  # fmt: skip
    figure.update_xaxes(tickformat=".0%", title_text="said: probability of a rise")
    figure.update_yaxes(tickformat=".0%", title_text="seen: share that rose")
    return _styled(figure, hovermode="closest")


def latency_figure(groups: Mapping[str, ArrayLike], target_ms: float) -> Figure | None:
    """Draw the distribution of each group of durations (ms) on a logarithmic axis, medians and 99th percentiles marked.

    Args:
        groups: name → durations in milliseconds; empty groups are left out.
        target_ms: drawn as a vertical line where it is near the durations.
    """
    import plotly.graph_objects as go

    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in groups.items()}
    present = {name: values[np.isfinite(values)] for name, values in arrays.items() if np.isfinite(values).any()}
    if not present:
        return None
    edges, shares = log_histogram(list(present.values()))
    figure = go.Figure()
    for colour, name, share in zip(_LATENCY_COLOURS, present, shares, strict=False):
        p50, p99 = np.quantile(present[name], [0.5, 0.99])
        figure.add_scatter(
            x=_rounded(np.repeat(edges, 2)[1:-1], 4), y=_rounded(np.repeat(share, 2), 5), mode="lines",
            name=f"{_plain(name)} (p50 {p50:.1f}, p99 {p99:.1f} ms)", line={"color": colour.light, "width": 2},
            hovertemplate="%{x:.2f} ms: %{y:.1%} of calls<extra></extra>",
        )  # fmt: skip
        for quantile, dash in ((p50, "solid"), (p99, "dot")):
            figure.add_vline(x=float(quantile), line={"color": colour.light, "width": 1, "dash": dash}, opacity=0.7)
    if target_ms <= edges[-1] * 4:
        figure.add_vline(
            x=target_ms,
            line={"color": palette.BAD.light, "width": 1.5, "dash": "dash"},
            annotation={"text": f"target {target_ms:g} ms", "font": {"color": palette.BAD.light}},
        )
    figure.update_xaxes(type="log", title_text="milliseconds (logarithmic)", dtick="D2", tickformat="~g")
    figure.update_yaxes(tickformat=".0%", title_text="share of calls", rangemode="tozero")
    return _styled(figure, hovermode="closest")


_LATENCY_COLOURS = (palette.SYSTEM, palette.THIRD, palette.CONTROL, palette.MUTED)


def levels_figure(decisions: pd.DataFrame, drill: KillDrill | None) -> Figure | None:
    """Draw how many decisions were made at each fallback level over the session, the kill drill marked.

    Times are the machine's clock, UTC.
    """
    import plotly.graph_objects as go

    if decisions.empty:
        return None
    wall = decisions["decided_wall_ns"].to_numpy(dtype=np.int64)
    width = _bucket_s(float(wall.max() - wall.min()) / SECOND_NS) * SECOND_NS
    first = int(wall.min()) // width * width
    bucket = (wall - first) // width
    centres = _stamps(first + np.arange(int(bucket.max()) + 1) * width + width // 2, "ms")
    figure = go.Figure()
    for level in sorted({int(level) for level in decisions["level"]}):
        counts = np.bincount(bucket[decisions["level"].to_numpy() == level], minlength=len(centres))
        figure.add_bar(
            x=centres, y=counts, width=width / 1e6 * 0.94, name=f"{level} {LEVEL_NAMES.get(level, '')}",
            marker_color=palette.LEVELS.get(level, palette.MUTED).light, hovertemplate="%{x|%H:%M:%S}: %{y} decisions",
        )  # fmt: skip
    if drill is not None:
        _mark_drill(figure, drill)
    figure.update_layout(barmode="stack", bargap=0.02, legend_traceorder="normal")
    figure.update_xaxes(type="date", title_text=f"UTC, each bar {width // SECOND_NS:,} s")
    figure.update_yaxes(title_text="decisions")
    return _styled(figure, hovermode="x unified", top=84 if drill else 44)


def _bucket_s(length_s: float) -> int:
    """Return a bar's width in seconds that a person can read off, for about ``TIME_BUCKETS`` bars."""
    return next((width for width in _WIDTHS_S if length_s / width <= TIME_BUCKETS), int(length_s // TIME_BUCKETS))


_WIDTHS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200, 86_400)


def _mark_drill(figure: Figure, drill: KillDrill) -> None:
    moments: Sequence[tuple[datetime | None, str, palette.Pair]] = (
        (drill.killed_at, "Triton killed", palette.BAD),
        (drill.server_back_at, "Triton back", palette.MUTED),
        (drill.level_back_at, "level back", palette.GOOD),
    )
    for row, (moment, text, colour) in enumerate(moments):
        if moment is None:
            continue
        at = f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03d}"
        figure.add_shape(
            type="line", x0=at, x1=at, y0=0, y1=1.0 + 0.075 * (2 - row), yref="paper",
            line={"color": colour.light, "width": 1.5, "dash": "dash"},
        )  # fmt: skip
        figure.add_annotation(
            x=at, y=1.0 + 0.075 * (2 - row), yref="paper", text=text, showarrow=False, xanchor="left", yanchor="middle",
            xshift=4, font={"color": colour.light, "size": 12},
        )  # fmt: skip


def _styled(figure: Figure, *, hovermode: str, top: int = 44) -> Figure:
    figure.update_layout(
        template="none", hovermode=hovermode, autosize=True,
        margin={"l": 8, "r": 12, "t": top, "b": 8},
        paper_bgcolor=palette.CLEAR.light, plot_bgcolor=palette.CLEAR.light,
        font={"family": FONT, "size": 13, "color": palette.TEXT.light},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"},
        hoverlabel={"bgcolor": palette.CARD.light, "bordercolor": palette.GRID.light,
                    "font": {"color": palette.TEXT.light}},
    )  # fmt: skip
    axis = {
        "gridcolor": palette.GRID.light, "linecolor": palette.GRID.light, "zerolinecolor": palette.GRID.light,
        "tickcolor": palette.GRID.light, "automargin": True, "title_standoff": 8,
        "title_font": {"size": 12, "color": palette.MUTED.light},
        "tickfont": {"size": 12, "color": palette.MUTED.light},
    }  # fmt: skip
    figure.update_xaxes(**axis, showgrid=False)
    figure.update_yaxes(**axis, showgrid=True)
    return figure


def _stamps(time: ArrayLike, unit: Literal["s", "ms"] = "s") -> list[str]:
    """Write ns UTC as ISO texts: Plotly would read a number as the browser's local time."""
    stamps = np.asarray(time, dtype="datetime64[ns]").astype(f"datetime64[{unit}]")
    return [str(stamp) for stamp in stamps]


def _rounded(values: ArrayLike, digits: int) -> list[float]:
    return [float(value) for value in np.round(np.asarray(values, dtype=np.float64), digits)]


def _joined(starts: Sequence[Any], ends: Sequence[Any]) -> list[Any]:
    """Lay segments end to end with a gap after each."""
    return [point for start, end in zip(starts, ends, strict=True) for point in (start, end, None)]


def _plain(text: object) -> str:
    """Escape text from outside: Plotly reads a subset of HTML in names and hover texts."""
    return str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
