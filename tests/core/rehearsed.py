"""Run as a process of its own: says which functions were still to be made ready after the rehearsal."""

import sys

import numpy as np
from numba.core.dispatcher import Dispatcher

from fx_dagster.core.rows import Event
from fx_dagster.core.trading import Question
from fx_dagster.execution.orders import OrderIntent, Purpose
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.quotes import QuoteWatch
from fx_dagster.live_engine import trading_core
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, Timeframe
from fx_dagster.settings import LiveSettings, Settings
from resources.market.simulator import SimulatorSource

from .conftest import MADE_FROM, MADE_UNTIL, Tick, Work, eager, market_of, silent, ticks_of, whole

SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")


def ready() -> set[str]:
    """Return every compiled function that can be called, with the types that it can be called with."""
    return {
        f"{found.py_func.__module__}.{found.py_func.__qualname__}{signature}"
        for name, module in list(sys.modules.items())
        if name.startswith("fx_dagster")
        for found in vars(module).values()
        if isinstance(found, Dispatcher)
        for signature in found.signatures
    }


def from_a_buffer(work: Work, question: Question) -> np.ndarray:
    """Answer with what may not be written to, as what comes over a wire."""
    said = np.asfortranarray(whole(work.core, eager(work, question)))
    said.flags.writeable = False
    return said


def live_through_everything(work: Work, twin: Work) -> None:
    """Do what a session may ever do."""
    core, desk = work.core, twin
    calm = work.calm(60, rows=(0, 1))
    work.take(calm)
    spike = work.calm(1)[0]
    work.take([spike._replace(bid=spike.bid * 1.01, ask=spike.ask * 1.01)])
    bad = work.calm(4)
    work.take([bad[0]._replace(bid=np.nan), bad[1]._replace(bid=2.0), bad[2], bad[2], bad[3]])
    work.models = silent
    work.reach(work.clock + HOUR_NS)
    work.models = from_a_buffer
    work.take(work.calm(1_000, rows=(0, 1, 2)))
    far = work.calm(30)
    work.take([tick._replace(bid=tick.bid + 0.002 * n, ask=tick.ask + 0.002 * n) for n, tick in enumerate(far)])
    watch = QuoteWatch(core)
    watch.news(work.clock + 5 * DAY_NS)
    core.set_conditions(healthy=True, command=2)
    if core.decide_now([0, 1], work.clock) is Event.ACT:
        core.acts_done()
    core.end_halt(10_000.0)
    core.counts()
    core.sample()
    state, market, whole = core.session_state(), core.market_copy()(), core.whole()
    reached = core.reached(state)
    since = desk.core.restore_market(market, not_after=reached)
    desk.core.follow(ticks_of([Tick(0, since[0], 1.1, 1.2)]), 0, 1, reached[0])
    desk.core.restore_session(state)
    desk.core.restore_whole(whole)
    desk.take(desk.calm(10, rows=(0, 1)))


def main() -> None:
    """Print what was not ready, one a line."""
    source = SimulatorSource(SYMBOLS, start=MADE_FROM, end=MADE_UNTIL, timeframe=Timeframe.M5, seed=11)
    market = market_of(source, MADE_FROM, MADE_UNTIL)
    settings = Settings(live=LiveSettings(move_atr=0.5))
    info = FeedInfo(SYMBOLS, Timeframe.M5, 60.0, lossless=True)
    (core, desk), (other, _) = (trading_core(settings, info, MADE_UNTIL) for _ in range(2))
    core.warm_up(market.history(MADE_UNTIL), MADE_UNTIL)
    core.rehearse()
    before = ready()
    intent = OrderIntent(1, "paper", "GBPUSD", Purpose.OPEN, 0.01, 1.0, 2.0, MADE_UNTIL, MADE_UNTIL + DAY_NS)
    desk.place(intent, MADE_UNTIL)
    live_through_everything(Work(core, eager), Work(other, eager))
    desk.place(OrderIntent(2, "paper", "GBPUSD", Purpose.MODIFY, 0.0, 1.1, 2.0, MADE_UNTIL, 0), MADE_UNTIL)
    desk.drain()
    desk.record(MADE_UNTIL)
    desk.restore(*desk.snapshot())
    sys.stdout.writelines(f"{name}\n" for name in sorted(ready() - before))


if __name__ == "__main__":
    main()
