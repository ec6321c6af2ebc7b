"""A market state from history: as if the ticks had been seen."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from fx_dagster.core.intake import features_of
from fx_dagster.core.rows import Kind
from fx_dagster.core.state import CoreSpec
from fx_dagster.market.schemas import empty_bars
from fx_dagster.market.timeframes import HOUR_NS, MINUTE_NS, Timeframe

from .conftest import MADE_UNTIL, Market, Work, new_work

Specs = Callable[..., CoreSpec]


def ns(text: str) -> int:
    return int(pd.Timestamp(text).as_unit("ns").value)


def current_features(work: Work) -> np.ndarray:
    rows = np.arange(len(work.core.symbols))
    found = np.empty((len(rows), len(work.core.spec.catalogue)), dtype=np.float32)
    features_of(work.core.core, rows, found)
    return found


def assert_same_market(warm: Work, cold: Work) -> None:
    """The core that was warmed up knows what the one that saw every tick knows."""
    one, other = warm.core.core, cold.core.core
    np.testing.assert_array_equal(current_features(warm), current_features(cold))
    # What the others say is told a symbol with each of its own bars; one that rests is told now.
    newest = other.watch["bar_time"] == other.watch["bar_time"].max()
    forming = other.forming["count"] > 0
    np.testing.assert_array_equal(one.forming["count"], other.forming["count"])
    for name in one.forming.dtype.names:
        np.testing.assert_allclose(one.forming[name][forming], other.forming[name][forming], rtol=1e-12, err_msg=name)
    for name in ("bar_time", "atr", "volatility_short", "volatility_long", "spread_median", "votes", "agreement",
                 "correlation_shift"):  # fmt: skip
        np.testing.assert_allclose(one.inputs[name][newest], other.inputs[name][newest], rtol=1e-9, err_msg=name)
    np.testing.assert_allclose(one.indicators["values"], other.indicators["values"], rtol=1e-9)
    assert warm.core.clock[0] == cold.core.clock[0]


UNTILS = (
    "2017-07-03 00:00", "2017-08-01 00:00", "2017-09-10 22:00", "2017-10-31 15:00", "2017-11-06 03:00",
    "2017-12-20 11:00",
)  # fmt: skip
"""The beginning of a week, of a month, of a trading day; summer and winter."""


def test_history_is_as_good_as_ticks(sample: Market, spec_of: Specs) -> None:
    spec = spec_of("EURUSD", base=Timeframe.H1, start=sample.start, stale_s=3_600.0, history_bars=1_500)
    cold, done = new_work(spec, keeps_log=False), 0
    for until in map(ns, UNTILS):
        cold.take(sample.ticks, done, sample.before(until))
        cold.reach(until)
        done = sample.before(until)
        warm = new_work(spec)
        warm.core.warm_up(sample.history(until), until)
        assert warm.core.decisions == 0
        assert_same_market(warm, cold)


def test_what_follows_is_the_same_in_every_timeframe(sample: Market, spec_of: Specs) -> None:
    """Three weeks after the warm-up the bars that formed at it have closed, the month's included."""
    spec = spec_of("EURUSD", base=Timeframe.H1, start=sample.start, stale_s=3_600.0)
    until, later = ns("2017-10-18 05:00"), ns("2017-11-09 07:00")
    cold, warm = new_work(spec, keeps_log=False), new_work(spec, keeps_log=False)
    cold.take(sample.ticks, 0, sample.before(later))
    warm.core.warm_up(sample.history(until), until)
    warm.take(sample.ticks, sample.before(until), sample.before(later))
    warm.reach(later)
    cold.reach(later)
    assert_same_market(warm, cold)
    asked = {question.time: question.features for question in cold.questions if question.kind is Kind.BAR}
    mine = [question for question in warm.questions if question.kind is Kind.BAR]
    assert len(mine) > 300
    for question in mine:
        np.testing.assert_array_equal(question.features, asked[question.time])


@pytest.mark.parametrize("hours", [-80, -26, -13, -12.5, 0])
def test_the_comparison_of_symbols_is_warm_too(made: Market, spec_of: Specs, hours: float) -> None:
    until = MADE_UNTIL + int(hours * HOUR_NS)
    spec = spec_of(*made.symbols, stale_s=300.0)
    cold, warm = new_work(spec, keeps_log=False), new_work(spec)
    cold.take(made.ticks, 0, made.before(until))
    cold.reach(until)
    warm.core.warm_up(made.history(until), until)
    assert np.isfinite(current_features(warm)).all()
    assert_same_market(warm, cold)


def test_it_is_asked_and_decides_from_the_first_tick_on(warm_work: Callable[..., Work]) -> None:
    work = warm_work("EURUSD", "GBPUSD")
    work.take(work.calm(1, rows=(0,)))
    (question,) = work.questions
    assert (question.kind, question.rows.tolist()) == (Kind.RETRY, [0, 1])
    assert np.isfinite(question.features).all()
    assert work.out()["level"] == 2
    assert work.core.counts()["gaps"] == 0, "before the session nothing was missed"


def test_a_symbol_without_a_past_waits_and_the_others_do_not(made: Market, spec_of: Specs) -> None:
    spec = spec_of(*made.symbols, stale_s=300.0)
    work = new_work(spec)
    known = made.history(MADE_UNTIL)
    work.core.warm_up(
        lambda symbol, timeframe, bars: empty_bars() if symbol == "GBPUSD" else known(symbol, timeframe, bars),
        MADE_UNTIL,
    )
    assert work.core.core.features["warm"].tolist() == [True, False, True]
    work.take(made.ticks, made.before(MADE_UNTIL), made.before(MADE_UNTIL + 20 * MINUTE_NS))
    work.reach(MADE_UNTIL + 20 * MINUTE_NS)
    assert {tuple(question.rows.tolist()) for question in work.questions if question.kind is Kind.BAR} == {(0, 2)}
    assert {one.row for one in work.logged if one.kind is Kind.BAR} == {0, 1, 2}


def test_without_any_past_it_begins_anyway(made: Market, spec_of: Specs) -> None:
    work = new_work(spec_of(*made.symbols, start=MADE_UNTIL))
    work.core.warm_up(lambda symbol, timeframe, bars: empty_bars(), MADE_UNTIL)
    work.take(made.ticks, made.before(MADE_UNTIL), made.before(MADE_UNTIL + HOUR_NS))
    assert not work.core.core.features["warm"].any()
    assert work.core.decisions > 0
    assert work.questions == []
