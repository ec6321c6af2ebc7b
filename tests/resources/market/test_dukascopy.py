import socket
import time
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pandas as pd
import pytest
import requests
from source_files import all_bars, frame_of_library, simulator

from fx_dagster.errors import SourceError, UnknownSymbolError
from fx_dagster.market.timeframes import DAY_NS, MINUTE_NS
from resources.market.dukascopy import DukascopySource, join_sides

START = int(np.datetime64("2024-03-28", "ns").astype(np.int64))
END = START + 6 * DAY_NS


def recorded(prices: list[list[float]], first: str = "2024-03-28 10:00") -> pd.DataFrame:
    """Return rows in the shape that the library's ``fetch`` returns."""
    index = pd.date_range(first, periods=len(prices), freq="min", tz="UTC", name="timestamp").as_unit("ms")
    return pd.DataFrame(prices, columns=["open", "high", "low", "close", "volume"], index=index)


def test_sides_become_bid_bars_with_real_spreads() -> None:
    bid = recorded([[1.1, 1.2, 1.0, 1.1, 6e6], [1.1, 1.1, 1.1, 1.1, 100.0], [1.3, 1.3, 1.3, 1.3, 9e6]])
    ask = recorded([[1.1001, 1.2001, 1.0001, 1.1001, 6e6], [1.1003, 1.1003, 1.1003, 1.1003, 100.0]])
    bars = join_sides("EURUSD", bid, ask, start=START, end=END)
    assert bars["time"].tolist() == [START + 10 * 60 * MINUTE_NS + n * MINUTE_NS for n in range(3)]
    assert bars["spread"].tolist() == [10.0, 30.0, 0.0]
    assert bars["tick_volume"].tolist() == [2.0, 1.0, 3.0]
    assert bars["high"].tolist() == [1.2, 1.1, 1.3]


def test_a_frame_of_another_shape_is_refused() -> None:
    frame = recorded([[1.1, 1.2, 1.0, 1.1, 6e6]])
    with pytest.raises(SourceError, match="Dukascopy EURUSD ask: column low is missing"):
        join_sides("EURUSD", frame, frame.drop(columns="low"), start=START, end=END)
    with pytest.raises(SourceError, match="Dukascopy EURUSD: row 2: duplicated bar"):
        join_sides("EURUSD", pd.concat([frame, frame]), frame, start=START, end=END)


def test_months_are_fetched_when_asked_for_and_once() -> None:
    asked: list[tuple[str, str, datetime, datetime]] = []
    market = all_bars(simulator(), "EURUSD").head(2)

    def fetch(name: str, side: str, start: datetime, end: datetime) -> pd.DataFrame:
        asked.append((name, side, start, end))
        frame = frame_of_library(market, 0.0)
        frame.index = pd.DatetimeIndex([start, start + pd.Timedelta("1min")], name="timestamp").as_unit("ms")
        return frame

    source = DukascopySource(("EURUSD",), start=START, end=END, fetch=fetch)
    assert source.span("EURUSD") == (START, END)
    assert not asked
    source.bars("EURUSD", START, START + DAY_NS)
    source.bars("EURUSD", START + MINUTE_NS, START + DAY_NS)
    assert [(name, side, str(start)[:10], str(end)[:10]) for name, side, start, end in asked] == [
        ("EUR/USD", "B", "2024-03-28", "2024-04-01"),
        ("EUR/USD", "A", "2024-03-28", "2024-04-01"),
    ]
    assert len(source.bars("EURUSD", START, END)) == 4
    assert len(asked) == 4


def test_a_passing_fault_is_tried_again() -> None:
    tries: Iterator[Exception | None] = iter([requests.ConnectionError("reset"), ValueError("no JSON"), None, None])

    def fetch(name: str, side: str, start: datetime, end: datetime) -> pd.DataFrame:
        fault = next(tries)
        if fault is not None:
            raise fault
        return recorded([[1.1, 1.2, 1.0, 1.1, 6e6]])

    source = DukascopySource(("EURUSD",), start=START, end=START + DAY_NS, fetch=fetch, pause_s=0.001)
    assert len(source.bars("EURUSD", START, END)) == 1


def test_a_silent_server_is_given_up_at_the_deadline() -> None:
    def fetch(name: str, side: str, start: datetime, end: datetime) -> pd.DataFrame:
        time.sleep(30)
        raise AssertionError("nobody waits that long")

    source = DukascopySource(("EURUSD",), start=START, end=END, fetch=fetch, deadline_s=0.2)
    began = time.monotonic()
    with pytest.raises(
        SourceError, match="Dukascopy did not deliver EURUSD M1 from 2024-03-28: TimeoutError"
    ) as caught:
        source.bars("EURUSD", START, END)
    assert time.monotonic() - began < 5
    assert "internet connection" in caught.value.mend


def test_without_internet_the_library_itself_ends_in_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", offline)
    source = DukascopySource(("EURUSD",), start=START, end=END, attempts=2, pause_s=0.001)
    with pytest.raises(
        SourceError, match="Dukascopy did not deliver EURUSD M1 from 2024-03-28: ConnectionError"
    ) as caught:
        source.ticks("EURUSD", START, END)
    assert caught.value.mend


def test_a_symbol_that_dukascopy_lacks_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(UnknownSymbolError, match="SIM001"):
        DukascopySource(("EURUSD", "SIM001"))


def test_by_default_the_days_end_at_the_last_midnight() -> None:
    start, end = DukascopySource(("XAUUSD",)).span("XAUUSD")
    assert end % DAY_NS == 0
    assert 0 <= time.time_ns() - end < DAY_NS + 60 * 10**9
    assert end - start == 120 * DAY_NS
