"""A simulated terminal over a market of two quotes, for fuzzing."""

from typing import Any

import numpy as np

from fx_dagster.market.schemas import tick_frame
from fx_dagster.market.timeframes import SECOND_NS, Timeframe
from resources.mt5.clock import SteppedClock
from resources.mt5.simulated import SimulatedTerminal
from resources.mt5.trading import BrokerOptions

OPENING = 1_709_503_200 * SECOND_NS
"""A Monday, 17:00 New York."""
NOW = OPENING + 3_600 * SECOND_NS


class QuietMarket:
    """EURUSD that stands still."""

    name, has_ticks = "quiet", True

    def symbols(self) -> tuple[str, ...]:
        return ("EURUSD",)

    def left_out(self) -> dict[str, str]:
        return {}

    def base_timeframe(self) -> Timeframe:
        return Timeframe.M1

    def span(self, symbol: str) -> tuple[int, int]:
        return OPENING, OPENING + 7_200 * SECOND_NS

    def ticks(self, symbol: str, start: int, end: int) -> Any:
        time = np.array([OPENING, OPENING + 3_000 * SECOND_NS], dtype=np.int64)
        time = time[(time >= start) & (time < end)]
        count = len(time)
        return tick_frame(time, np.full(count, 1.1), np.full(count, 1.1001), np.zeros(count), np.full(count, 6))

    def bars(self, symbol: str, start: int, end: int) -> None:
        return None


def quiet_terminal(**options: Any) -> SimulatedTerminal:
    """Return a terminal that runs, on account 90000001."""
    terminal = SimulatedTerminal(
        QuietMarket(), clock=SteppedClock(NOW), options=BrokerOptions(login=90_000_001, server="Quiet", **options)
    )
    assert terminal.initialize()
    return terminal
