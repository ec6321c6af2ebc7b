"""A person's ceiling on the fallback level, and what others may look at."""

from collections.abc import Callable

from fx_dagster.core.rows import Kind
from fx_dagster.market.timeframes import Timeframe

from .conftest import Work

Make = Callable[..., Work]


def test_a_ceiling_holds_from_the_next_decision_on_and_rises_after_health(warm_work: Make) -> None:
    work = warm_work()
    work.take(work.calm(50, rows=(0,)))
    best = int(work.out(0)["level"])
    for ceiling in (3, 4):
        assert work.core.set_conditions(healthy=True, command=0, best_level=ceiling)
        assert not work.core.set_conditions(healthy=True, command=0, best_level=ceiling), "no news"
        work.take(work.calm(1, rows=(0,)))
        assert int(work.out(0)["level"]) == ceiling
    assert best < 3
    assert work.core.set_conditions(healthy=True, command=0)
    work.take(work.calm(1, rows=(0,)))
    assert int(work.out(0)["level"]) == 4
    work.take(work.calm(400, rows=(0,)))
    assert int(work.out(0)["level"]) == best


def test_quotes_and_the_closed_bar_are_the_newest(warm_work: Make) -> None:
    work = warm_work()
    ticks = work.calm(400, rows=(0,))
    work.take(ticks)
    symbol = work.core.symbols[0]
    quote = next(one for one in work.core.quotes() if one["symbol"] == symbol)
    assert (quote["time_ns"], quote["bid"], quote["ask"]) == (ticks[-1].time, ticks[-1].bid, ticks[-1].ask)
    newest = [one.said.bar_time for one in work.logged if one.kind is Kind.BAR and one.row == 0][-1]
    inside = [tick.bid for tick in ticks if newest <= tick.time < newest + Timeframe.M5.nominal_ns]
    bar = work.core.closed_bar(0)
    assert (bar["symbol"], bar["timeframe"], bar["time_ns"]) == (symbol, "M5", newest)
    assert bar["close"] == inside[-1]
    assert bar["low"] <= min(inside) <= max(inside) <= bar["high"]
