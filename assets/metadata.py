"""Small tables and pictures for Dagster's pages."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from fx_dagster.models.evaluate import CalibrationBin, Metrics
from fx_dagster.models.protocol import ModelCard

TABLE_ROWS_MAX = 400


def counts_table(counts: Mapping[str, int], label: str) -> dg.TableMetadataValue:
    """Show counts as a two-column table, largest tables cut at ``TABLE_ROWS_MAX`` rows."""
    records = [dg.TableRecord({label: name, "rows": int(count)}) for name, count in counts.items()]
    schema = dg.TableSchema(columns=[dg.TableColumn(label, "string"), dg.TableColumn("rows", "int")])
    return dg.MetadataValue.table(records=records[:TABLE_ROWS_MAX], schema=schema)


def frame_table(frame: pd.DataFrame, *, digits: int = 5) -> dg.TableMetadataValue:
    """Show a small frame as a table."""
    shown = frame.head(TABLE_ROWS_MAX).round(digits)
    records = [
        dg.TableRecord({str(name): _plain(value) for name, value in row.items()})
        for row in shown.to_dict(orient="records")
    ]
    columns = [dg.TableColumn(str(name), _kind(shown[name])) for name in shown.columns]
    return dg.MetadataValue.table(records=records, schema=dg.TableSchema(columns=columns))


def frame_span(frame: pd.DataFrame) -> dict[str, dg.MetadataValue]:
    """Show the first and last ``time`` of a frame; nothing for an empty one."""
    if frame.empty:
        return {}
    return {
        "first": dg.MetadataValue.text(_utc(frame["time"].iloc[0])),
        "last": dg.MetadataValue.text(_utc(frame["time"].iloc[-1])),
    }


def price_picture(bars: pd.DataFrame, title: str) -> dg.MetadataValue:
    """Draw the closes of a BARS frame."""
    from fx_dagster.report.plots import line_png

    if bars.empty:
        return dg.MetadataValue.text("no bars")
    time = pd.to_datetime(bars["time"], utc=True)
    return picture(line_png(time, {"close": bars["close"]}, title=title))


def picture(png: bytes) -> dg.MetadataValue:
    """Show a PNG."""
    from fx_dagster.report.plots import png_markdown

    return dg.MetadataValue.md(png_markdown(png))


def calibration_picture(metrics: Metrics, title: str) -> dg.MetadataValue:
    """Draw what was said beside what happened."""
    from fx_dagster.report.plots import calibration_png

    return picture(calibration_png({title: metrics.calibration}, title="Said and happened"))


def reliability_picture(table: Sequence[Mapping[str, float]], title: str) -> dg.MetadataValue:
    """Draw how often a confidence was right: rows with ``rows``, ``said`` and ``share``."""
    from fx_dagster.report.plots import calibration_png

    bins = [CalibrationBin(int(row["rows"]), row["said"], row["share"]) for row in table]
    png = calibration_png({title: bins}, title="Said and happened", said_of="being right", seen="were right")
    return picture(png)


def model_card(card: ModelCard) -> dg.JsonMetadataValue:
    """Show what a release will know about a model, without what has a place of its own on the page."""
    left_out = {"metrics", "importance", "feature_names"}
    told = {name: value for name, value in card.to_dict().items() if name not in left_out}
    return dg.MetadataValue.json({**told, "features": len(card.feature_names)})


def importance_picture(importance: Mapping[str, float], title: str) -> dg.MetadataValue:
    """Draw the most important features."""
    from fx_dagster.report.plots import bar_png

    return picture(bar_png(importance, title=f"{title}: share of gain", unit="share"))


def _utc(time_ns: int) -> str:
    return f"{pd.Timestamp(int(time_ns), tz='UTC'):%Y-%m-%d %H:%M} UTC"


def _kind(column: pd.Series) -> str:
    if pd.api.types.is_bool_dtype(column):
        return "bool"
    if pd.api.types.is_integer_dtype(column):
        return "int"
    return "float" if pd.api.types.is_float_dtype(column) else "string"


def _plain(value: Any) -> Any:
    """Return a Python number, text or None: Dagster refuses NumPy's."""
    plain = value.item() if hasattr(value, "item") else value
    if isinstance(plain, float) and plain != plain:
        return None
    return plain if isinstance(plain, bool | int | float | str) or plain is None else str(plain)
