"""Bars of the live session equal the lake's, bit for bit, whenever the engine was started."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.live.bars import BarBook, BarSeries
from fx_dagster.market.bars import build_timeframes
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe
from resources.live_feed import ReplayFeed, Tape
from resources.market.sample import SampleSource

WANTED = (Timeframe.H1, Timeframe.H4, Timeframe.D1)


def _expected(sample: SampleSource, end: int) -> dict[Timeframe, pd.DataFrame]:
    ticks = sample.ticks("EURUSD", 0, end)
    return build_timeframes(ticks, Timeframe.H1, instrument("EURUSD").point, complete_until=end)


@pytest.mark.parametrize("days", [1.0, 3.3, 9.0])
def test_bars_from_ticks_equal_bars_of_the_whole_history(sample: SampleSource, days: float) -> None:
    end = sample.span("EURUSD")[1] - 40 * DAY_NS
    start = (end - int(days * DAY_NS)) // HOUR_NS * HOUR_NS
    feed = ReplayFeed(sample, Tape(start, end), speed=1.0)
    book = BarBook([instrument("EURUSD")], WANTED, 300)
    book.load(feed, start)
    ticks = feed.ticks(start, end)
    rest: Any = ticks
    while len(rest):
        closing = book.end_of_bar(int(rest.time[0]))
        inside = rest.time < closing
        book.add(rest.take(inside))
        rest = rest.take(~inside)
        assert book.close().tolist() == [0]
    expected = _expected(sample, end)
    for timeframe, frame in book.frames(0).items():
        wanted = expected[timeframe].tail(300).reset_index(drop=True)
        # A terminal keeps the spread of its bars in whole points; only base bars are built here.
        columns = [name for name in wanted if name != "spread" or timeframe is Timeframe.H1]
        pd.testing.assert_frame_equal(frame[columns], wanted[columns], check_exact=True)


def test_a_series_keeps_the_newest_and_does_not_grow() -> None:
    series = BarSeries(5)
    for number in range(23):
        column = {name: [float(number)] for name in ("open", "high", "low", "close", "tick_volume", "spread")}
        series.append(pd.DataFrame({"time": np.array([number]), **column}))
    assert len(series) == 5
    assert series.frame()["time"].tolist() == [18, 19, 20, 21, 22]
    assert series.last_open == 22
