import base64
import struct

import numpy as np
import pandas as pd
import pytest

from fx_dagster.report.inputs import ReportInputs
from fx_dagster.report.plots import (
    PNG_BYTES_MAX,
    bar_png,
    calibration_png,
    equity_png,
    histogram_png,
    line_png,
    png_markdown,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _size(png: bytes) -> tuple[int, int]:
    assert png.startswith(SIGNATURE)
    width, height = struct.unpack(">II", png[16:24])
    return width, height


def test_a_picture_carries_its_own_data() -> None:
    png = bar_png({"rsi_14": 0.4, "atr_14": 0.6}, title="importance")
    text = png_markdown(png, alt="importance](x)")
    head, _, data = text.partition("base64,")
    assert head == "![importancex](data:image/png;"
    assert base64.b64decode(data.removesuffix(")")) == png


def test_every_picture_is_small(inputs: ReportInputs) -> None:
    bars = inputs.bars["EURUSD"]
    noise = np.random.default_rng(1).normal(size=(6, 40_000))
    pictures = {
        "equity": equity_png(inputs.equity, title="Equity", currency="USD"),
        "closes": line_png(pd.to_datetime(bars["time"], utc=True), {"close": bars["close"]}, title="EURUSD H1"),
        "noise": line_png(np.arange(40_000) * 3_600 * 10**9, {f"series {n}": row for n, row in enumerate(noise)}),
        "calibration": calibration_png({name: judged.calibration for name, judged in inputs.metrics.items()}),
        "histogram": histogram_png(noise, unit="z"),
        "bars": bar_png({f"feature_{n}": float(n) for n in range(90)}, unit="share"),
    }
    for name, png in pictures.items():
        width, height = _size(png)
        assert width >= 250, name
        assert height >= 90, name
        assert len(png) <= PNG_BYTES_MAX, name


@pytest.mark.parametrize("values", [[1.0, np.nan, 3.0], [np.nan] * 3, [2.0] * 3])
def test_gaps_and_flat_lines_are_drawn(values: list[float]) -> None:
    _size(line_png(np.arange(3) * 10**9, {"close": values}))


def test_nothing_at_all_is_an_empty_frame_not_an_error() -> None:
    _size(line_png(np.empty(0, dtype=np.int64), {"close": []}))
    _size(histogram_png([np.nan]))
    _size(bar_png({}))
    _size(calibration_png({}))


def test_a_dollar_is_a_dollar() -> None:
    _size(bar_png({"$a_{": 1.0}, title="$x_{ costs $2", unit="$"))
