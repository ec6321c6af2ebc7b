"""Markets with hand-made ticks, and terminals over them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.market.schemas import TickFlag, tick_frame
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, SECOND_NS, Timeframe
from resources.market.simulator import SimulatorSource
from resources.mt5.clock import SteppedClock
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.trading import BrokerOptions

MONDAY = 1_709_503_200 * SECOND_NS


class TapeSource:
    """A tick source over ticks given by hand."""

    name = "tape"
    has_ticks = True

    def __init__(self, ticks: dict[str, pd.DataFrame]) -> None:
        self._ticks = ticks

    def symbols(self) -> tuple[str, ...]:
        return tuple(sorted(self._ticks))

    def left_out(self) -> dict[str, str]:
        return {}

    def base_timeframe(self) -> Timeframe:
        return Timeframe.M1

    def span(self, symbol: str) -> tuple[int, int]:
        time = self._ticks[symbol]["time"]
        return int(time.min()), int(time.max()) + 1

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        frame = self._ticks[symbol]
        return frame[(frame["time"] >= start) & (frame["time"] < end)].reset_index(drop=True)

    def bars(self, symbol: str, start: int, end: int) -> None:
        return None


@pytest.fixture
def tape() -> Callable[..., TapeSource]:
    def make(**offsets_ms: list[int]) -> TapeSource:
        """Return a source with one tick at each offset (ms after Monday's opening) of each symbol."""
        ticks = {}
        for symbol, offsets in offsets_ms.items():
            time = MONDAY + np.asarray(offsets, dtype=np.int64) * 1_000_000
            # Few prices, so that ticks equal in every column do occur.
            bid = 1.1 + (np.arange(len(time)) % 2) * 1e-5
            flags = np.full(len(time), TickFlag.BID | TickFlag.ASK)
            ticks[symbol] = tick_frame(time, bid, bid + 1e-4, np.zeros(len(time)), flags)
        return TapeSource(ticks)

    return make


Quotes = list[tuple[float, float, float]]


@pytest.fixture
def quoted() -> Callable[..., TapeSource]:
    def make(**symbols: Quotes) -> TapeSource:
        """Return a source with the given quotes of each symbol: seconds after Monday's opening, bid, ask."""
        ticks = {}
        for symbol, quotes in symbols.items():
            time = np.array([MONDAY + round(second * SECOND_NS) for second, _, _ in quotes], dtype=np.int64)
            bid, ask = (np.array([quote[place] for quote in quotes], dtype=np.float64) for place in (1, 2))
            ticks[symbol] = tick_frame(time, bid, ask, np.zeros(len(time)), np.full(len(time), 6))
        return TapeSource(ticks)

    return make


@pytest.fixture
def trade(quoted: Callable[..., TapeSource]) -> Callable[..., SimulatedTerminal]:
    def make(options: dict[str, Any] | None = None, **given: Any) -> SimulatedTerminal:
        """Return a terminal an hour after the opening, over quotes by symbol and with the arguments of a terminal."""
        own = {
            name: given.pop(name) for name in ("balance", "currency", "leverage", "suffix", "faults") if name in given
        }
        clock = SteppedClock(MONDAY + HOUR_NS)
        opened = SimulatedTerminal(quoted(**given), clock=clock, options=BrokerOptions(**(options or {})), **own)
        assert opened.initialize()
        return opened

    return make


@pytest.fixture(scope="session")
def h1_market() -> SimulatorSource:
    return SimulatorSource(
        ("EURUSD", "USDJPY", "XAUUSD"), start=MONDAY, end=MONDAY + 40 * DAY_NS, timeframe=Timeframe.H1, seed=3
    )


@pytest.fixture(scope="session")
def m1_market() -> SimulatorSource:
    return SimulatorSource(("EURUSD", "USDJPY"), start=MONDAY, end=MONDAY + 12 * DAY_NS, seed=3)


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock(MONDAY + 5 * HOUR_NS)


@pytest.fixture
def terminal(m1_market: SimulatorSource, clock: SteppedClock) -> SimulatedTerminal:
    opened = SimulatedTerminal(m1_market, clock=clock)
    assert opened.initialize()
    return opened
