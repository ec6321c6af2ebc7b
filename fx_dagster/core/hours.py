"""Opening hours of the sessions of a set of symbols, as edges that the loop walks along."""

from collections.abc import Sequence

import numpy as np

from fx_dagster.core.rows import NEVER, Hours, Int64
from fx_dagster.market.instruments import Instrument
from fx_dagster.market.sessions import Session
from fx_dagster.market.timeframes import DAY_NS

AHEAD_NS = 3660 * DAY_NS
"""Opening hours are known ten years ahead; a session does not live so long."""
BEHIND_NS = 14 * DAY_NS


def hours_of(instruments: Sequence[Instrument], start: int) -> tuple[Hours, Int64]:
    """Return the opening hours from ``start`` (ns UTC) on, and each instrument's row in them."""
    sessions: list[Session] = []
    for item in instruments:
        if item.session not in sessions:
            sessions.append(item.session)
    edges = [session.edges(start - BEHIND_NS, start + AHEAD_NS) for session in sessions]
    table = np.full((len(sessions), max(len(row) for row in edges) + 1), NEVER, dtype=np.int64)
    for row, found in zip(table, edges, strict=True):
        row[: len(found)] = found
    place = np.array([sessions.index(item.session) for item in instruments], dtype=np.int64)
    return Hours(table), place
