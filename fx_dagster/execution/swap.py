"""Nights for which swap is due: the trading day turns at 17:00 New York, and one weekday counts three nights."""

import numpy as np

from fx_dagster.errors import SettingsError
from fx_dagster.market.timeframes import DAY_NS, Int64, from_server, to_server

_EPOCH_WEEKDAY = 3
"""1970-01-01 was a Thursday (Monday = 0)."""


def swap_nights(time: Int64, triple_weekday: int) -> Int64:
    """Return the nights' swap due at each time for a position held since the time before it; 0 at the first.

    A rollover at the end of a trading day from Monday to Friday counts one night, of ``triple_weekday`` three (it pays
    for the weekend's value dates).

    Args:
        time: int64 ns UTC, ascending.
        triple_weekday: Monday = 0 … Friday = 4.

    Raises:
        SettingsError: the weekday is not a trading day.
    """
    if not 0 <= triple_weekday <= 4:
        raise SettingsError(f"triple_swap_weekday is {triple_weekday}", mend="give 0 (Monday) to 4 (Friday)")
    week = np.array([1, 1, 1, 1, 1, 0, 0])
    week[triple_weekday] = 3
    before = np.concatenate([[0], np.cumsum(week)])
    days = to_server(np.asarray(time, dtype=np.int64)) // DAY_NS + _EPOCH_WEEKDAY
    total = days // 7 * before[-1] + before[days % 7]
    return np.diff(total, prepend=total[:1]).astype(np.int64)


def next_rollover(time: int) -> int:
    """Return the first 17:00 New York (ns UTC) after ``time``."""
    day = int(to_server(np.array([time], dtype=np.int64))[0]) // DAY_NS
    return int(from_server(np.array([(day + 1) * DAY_NS], dtype=np.int64))[0])
