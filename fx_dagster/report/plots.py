"""Small static pictures for places that show no script, such as Dagster's metadata: PNG bytes through Matplotlib.

They have a white ground of their own, so that they read on light and dark pages, and stay below ``PNG_BYTES_MAX``.
"""

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from fx_dagster.models.evaluate import CalibrationBin
from fx_dagster.report import palette
from fx_dagster.report.sampling import extreme_rows

PNG_BYTES_MAX = 100_000
POINTS_MAX = 1_500
BARS_MAX = 20
_DPI = (110, 80, 55, 35)


def png_markdown(png: bytes, alt: str = "") -> str:
    """Return a PNG as a Markdown image that carries its own data, for ``dg.MarkdownMetadataValue``."""
    label = "".join(letter for letter in alt if letter not in "[]()<>\n\r")
    return f"![{label}](data:image/png;base64,{base64.b64encode(png).decode('ascii')})"


def line_png(time: ArrayLike, series: Mapping[str, ArrayLike], *, title: str = "", unit: str = "") -> bytes:
    """Draw series over time.

    Args:
        time: ``[n]`` datetimes, or int64 ns UTC.
        series: name → ``[n]`` values; NaN leaves a gap.
        title: above the plot.
        unit: of the values.
    """
    stamps = _naive_utc(time)
    names = list(series)
    values = np.column_stack([np.asarray(series[name], dtype=np.float64) for name in names])
    drawn = np.nan_to_num(values, nan=float(np.nanmean(values)) if np.isfinite(values).any() else 0.0)
    rows = extreme_rows(drawn, POINTS_MAX) if len(stamps) else np.empty(0, dtype=np.int64)

    def draw(axes: Any) -> None:
        for colour, name, column in zip(_colours(names), names, values[rows].T, strict=True):
            axes.plot(stamps[rows], column, label=name, color=colour, linewidth=1.2)
        axes.set_ylabel(unit)
        _dated(axes)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=8)

    return _png(draw, title)


def bar_png(values: Mapping[str, float], *, title: str = "", unit: str = "") -> bytes:
    """Draw the ``BARS_MAX`` largest values as horizontal bars, the largest on top."""
    shown = sorted(values.items(), key=lambda item: -item[1])[:BARS_MAX][::-1]

    def draw(axes: Any) -> None:
        axes.barh([name for name, _ in shown], [value for _, value in shown], color=palette.SYSTEM.light)
        axes.set_xlabel(unit)
        axes.tick_params(axis="y", labelsize=8)

    return _png(draw, title, height=0.9 + 0.2 * max(len(shown), 4))


def calibration_png(
    tables: Mapping[str, Sequence[CalibrationBin]], *, title: str = "", said_of: str = "a rise", seen: str = "rose"
) -> bytes:
    """Draw how often it came true against what each model said.

    Args:
        tables: by the model's name.
        title: of the picture.
        said_of: what the probabilities are of.
        seen: what the share of rows did.
    """
    said = [row.p_up_mean for table in tables.values() for row in table]
    ends = [min([*said, 0.45]), max([*said, 0.55])]

    def draw(axes: Any) -> None:
        axes.plot(ends, ends, color=palette.MUTED.light, linestyle=":", label="perfect")
        for colour, (name, table) in zip(_colours(list(tables)), tables.items(), strict=True):
            x, y = [row.p_up_mean for row in table], [row.up_share for row in table]
            axes.plot(x, y, color=colour, marker="o", markersize=4, linewidth=1.2, label=name)
        axes.set_xlabel(f"said: probability of {said_of}")
        axes.set_ylabel(f"seen: share that {seen}")
        axes.legend(frameon=False, fontsize=8)

    return _png(draw, title, width=4.6, height=3.6)


def histogram_png(values: ArrayLike, *, title: str = "", unit: str = "", bins: int = 50) -> bytes:
    """Draw how values are distributed; those that are not finite are left out."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]

    def draw(axes: Any) -> None:
        axes.hist(finite, bins=bins, color=palette.SYSTEM.light)
        axes.set_xlabel(unit)
        axes.set_ylabel("rows")

    return _png(draw, title)


def equity_png(equity: pd.DataFrame, *, title: str = "", currency: str = "") -> bytes:
    """Draw equity of system and control: columns ``time`` (ns UTC), ``system``, ``control``."""
    series = {"AI-assisted system": equity["system"], "traditional control": equity["control"]}
    return line_png(equity["time"], series, title=title, unit=currency)


def _png(draw: Callable[[Any], None], title: str, *, width: float = 7.2, height: float = 2.6) -> bytes:
    """Draw on a fresh figure (no global state, no display) at the first resolution that stays small enough."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor=palette.CARD.light)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(color=palette.GRID.light, linewidth=0.6)
    axes.set_axisbelow(True)
    draw(axes)
    # A dollar sign would start Matplotlib's formula mode.
    axes.set_title(title.replace("$", r"\$"), fontsize=10, loc="left", color=palette.TEXT.light)
    png = b""
    for dpi in _DPI:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi, pil_kwargs={"optimize": True})
        png = buffer.getvalue()
        if len(png) <= PNG_BYTES_MAX:
            break
    return png


def _colours(names: Sequence[str]) -> list[str]:
    return [palette.SERIES[index % len(palette.SERIES)].light for index in range(len(names))]


def _naive_utc(time: ArrayLike) -> Any:
    index = pd.DatetimeIndex(pd.to_datetime(np.asarray(time) if not isinstance(time, pd.Series) else time, utc=True))
    return index.tz_localize(None).to_numpy()


def _dated(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator()  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
