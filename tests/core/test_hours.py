"""Opening hours as edges: the session's own answer at every moment, ten years ahead."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.core import loop
from fx_dagster.core.hours import AHEAD_NS, BEHIND_NS, hours_of
from fx_dagster.core.rows import NEVER
from fx_dagster.core.state import CoreSpec
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS

from .conftest import Work, new_work

START = int(pd.Timestamp("2024-03-01").as_unit("ns").value)
SYMBOLS = ("EURUSD", "XAUUSD", "GBPUSD", "XAGUSD")


@pytest.fixture(scope="module")
def work(spec_of: Callable[..., CoreSpec]) -> Work:
    return new_work(spec_of(*SYMBOLS, start=START))


def test_instruments_of_the_same_hours_share_them() -> None:
    hours, place = hours_of([instrument(symbol) for symbol in SYMBOLS], START)
    assert place.tolist() == [0, 1, 0, 1]
    assert len(hours.edges) == 2
    for row in hours.edges:
        known = row[row < NEVER]
        assert (np.diff(known) > 0).all()
        assert row[-1] == NEVER
        assert known[0] <= START - BEHIND_NS
        assert known[-1] >= START + AHEAD_NS - 14 * DAY_NS


@settings(max_examples=150, deadline=None)
@given(
    minutes=st.integers(-14 * 24 * 60, 3_650 * 24 * 60), row=st.integers(0, len(SYMBOLS) - 1),
    offset=st.sampled_from([-1, 0, 1]),
)  # fmt: skip
def test_a_symbol_is_open_when_its_session_is(work: Work, minutes: int, row: int, offset: int) -> None:
    time = START + minutes * MINUTE_NS + offset
    loop.see_hours(work.core.core, row, time)
    watch, session = work.core.core.watch[row], instrument(SYMBOLS[row]).session
    assert watch["is_open"] == session.is_open(np.array([time]))[0]
    assert watch["opened"] <= time < watch["next_edge"]
    edges = session.edges(time - 9 * DAY_NS, time + 9 * DAY_NS)
    assert watch["opened"] == edges[edges <= time].max()
    assert watch["next_edge"] == edges[edges > time].min()


@pytest.mark.parametrize(
    ("moment", "opened", "closed"),
    [
        # Summer begins on 10 March in New York and on 31 March in London: sessions follow New York.
        ("2024-03-08 22:00", False, True), ("2024-03-10 21:00", True, False), ("2024-03-15 21:00", False, True),
        ("2024-12-25 12:00", False, False), ("2024-11-01 21:00", False, True), ("2024-11-03 22:00", True, False),
    ],
)  # fmt: skip
def test_the_week_turns_at_five_in_the_afternoon_of_new_york(
    work: Work, moment: str, opened: bool, closed: bool
) -> None:
    time = int(pd.Timestamp(moment).as_unit("ns").value)
    before, after = (bool(_is_open(work, moment)) for moment in (time - 1, time))
    assert (not before and after, before and not after) == (opened, closed)


def _is_open(work: Work, time: int) -> bool:
    loop.see_hours(work.core.core, 0, time)
    return bool(work.core.core.watch[0]["is_open"])


def test_silence_counts_from_the_last_tick_the_opening_or_the_sessions_begin(spec_of: Callable[..., CoreSpec]) -> None:
    sunday = int(pd.Timestamp("2024-03-10 21:00").as_unit("ns").value)
    core = new_work(spec_of("EURUSD", start=START)).core.core
    control, watch = core.control[0], core.watch[0]

    def silence(time: int) -> int:
        loop.see_hours(core, 0, time)
        return int(loop.silence_ns(control, watch, time))

    assert silence(sunday - HOUR_NS) == 0, "closed"
    assert silence(sunday + HOUR_NS) == HOUR_NS
    watch["last_time"] = sunday - 50 * HOUR_NS
    assert silence(sunday + HOUR_NS) == HOUR_NS, "the weekend is no silence"
    watch["last_time"] = sunday + 40 * MINUTE_NS
    assert silence(sunday + HOUR_NS) == 20 * MINUTE_NS
    control["since"] = sunday + 50 * MINUTE_NS
    assert silence(sunday + HOUR_NS) == 10 * MINUTE_NS
