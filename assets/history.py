"""Bars, indicators and out-of-fold answers of the lake as a backtest takes them."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from assets.predictions import answers_frame
from assets.run_shape import RunShape
from fx_dagster.backtest.prepare import History, SymbolHistory, prepare
from fx_dagster.backtest.ticks import TickHistory, merged_ticks
from fx_dagster.core.rows import Ticks
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe, bar_close, trading_month_window
from fx_dagster.settings import Settings
from resources.lake import Lake

RESUME_AFTER_HOURS = 168.0
"""A drawdown halt waits for a person; the imagined one resumes after a week, in system and control alike. Without it a
halt in the first year would leave the rest of the history flat, and nothing to compare."""


def read_history(lake: Lake, shape: RunShape, settings: Settings) -> History:
    """Align bars, indicators and out-of-fold predictions of every symbol, over the time that has predictions."""
    predictions = answers_frame(lake)
    histories = {
        symbol: SymbolHistory(
            bars=lake.read("bars", symbol=symbol, timeframe=shape.base.value),
            indicators=lake.read("indicators", symbol=symbol, timeframe=shape.base.value),
            predictions=predictions[predictions["symbol"] == symbol].sort_values("time", ignore_index=True),
        )
        for symbol in shape.symbols
    }
    whole = prepare(histories, shape.base, account_currency=settings.risk.account_currency)
    return whole.window(int(predictions["time"].min()), int(predictions["time"].max()) + 1)


def read_ticks(lake: Lake, shape: RunShape) -> TickHistory:
    """Return what a replay of the stored ticks needs, over the time that has predictions, but for the ticks."""
    predictions = answers_frame(lake)
    first = int(predictions["time"].min())
    return TickHistory(
        instruments=tuple(instrument(symbol) for symbol in shape.symbols),
        base=shape.base,
        start=first,
        end=int(bar_close(predictions["time"].to_numpy(np.int64).max(keepdims=True), shape.base)[0]),
        predictions={str(name): frame.sort_values("time") for name, frame in predictions.groupby("symbol")},
        before=lambda symbol, timeframe, bars: _bars_before(lake, symbol, timeframe, first, bars),
    )


def tick_parts(lake: Lake, history: TickHistory) -> Iterator[Ticks]:
    """Yield the ticks of all symbols month by month."""
    symbols = [item.symbol for item in history.instruments]
    for month in sorted({keys["month"] for keys in lake.keys("ticks")}):
        begins, ends = trading_month_window(month)
        start, end = max(begins, history.start), min(ends, history.end)
        if start < end:
            yield merged_ticks([lake.read("ticks", symbol=symbol, start=start, end=end) for symbol in symbols])


def _bars_before(lake: Lake, symbol: str, timeframe: Timeframe, until: int, bars: int) -> pd.DataFrame:
    frame = lake.read("bars", symbol=symbol, timeframe=timeframe.value, end=until)
    closed = bar_close(frame["time"].to_numpy(np.int64), timeframe) <= until
    return frame[closed].tail(bars).reset_index(drop=True)
