"""What goes wrong around the engine, each against the engine as a whole: gaps, floods, clocks, models, disks, calls."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.decision.codes import Level
from fx_dagster.execution.orders import Purpose
from fx_dagster.live.alerts import View, alerts
from fx_dagster.live.engine import Ending
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live.stuck import ROWS, StuckWatch
from fx_dagster.live.surroundings import ClockWatch, RoomWatch, WatchedJournal, free_bytes
from fx_dagster.live.ticks import TickBatch
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS
from fx_dagster.models.service import ModelAnswer
from fx_dagster.settings import LiveSettings
from resources.live_feed import ReplayFeed
from resources.mt5.clock import SteppedClock
from resources.mt5.faults import AtTime, AutotradingOff, FeedFrozen, SpecificationChanged, Withdrawn
from resources.mt5.feed import TerminalFeed
from resources.mt5.simulated import SimulatedTerminal

from .conftest import KilledError, MachineClock
from .test_engine import at_bars
from .test_real_session import RealSession

Make = Callable[..., Any]
MB = 1_000_000


def told(status: dict[str, Any]) -> set[str]:
    """Return what a person is told of a living engine's status."""
    return {alert.key for alert in alerts(View("paper", status=status, running=True))}


def opened(session: Any) -> list[Any]:
    return [row for row in session.store.decisions if row.action == "open"]


# -- the market -------------------------------------------------------------------------------------------------------


class Holed:
    """A source whose ticks of some hours never came."""

    def __init__(self, real: Any, start: int, end: int) -> None:
        self._real, self._start, self._end = real, start, end
        self.name, self.has_ticks = real.name, real.has_ticks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def ticks(self, symbol: str, start: int, end: int) -> pd.DataFrame:
        frame = self._real.ticks(symbol, start, end)
        lost = (frame["time"] >= self._start) & (frame["time"] < self._end)
        return frame[~lost].reset_index(drop=True)


def test_after_a_gap_nothing_is_opened_before_a_bar_has_closed_and_the_gap_is_counted(session_of: Make) -> None:
    whole = session_of(30, 1_200)
    whole.run()
    moment = next(row.time for row in opened(whole) if row.time > whole.tape.start + 3 * HOUR_NS)
    bar = moment // HOUR_NS * HOUR_NS
    holed = session_of(30, 1_200)
    lost = bar - 2 * HOUR_NS, moment + 15 * 60 * SECOND_NS
    holed.source = Holed(holed.source, *lost)
    assert holed.run() is Ending.FINISHED
    rebuilt = (lost[1] // HOUR_NS + 1) * HOUR_NS
    inside = [row.action for row in holed.store.decisions if lost[0] <= row.time < rebuilt]
    assert inside
    assert "open" not in inside
    assert [row for row in opened(holed) if row.time >= rebuilt], "afterwards it trades again"
    gaps = [one.journals[-1].statuses[-1]["gaps"] for one in (whole, holed)]
    assert gaps[1] == gaps[0] + 1


def test_what_a_frozen_feed_kept_back_is_read_afterwards_once(session_of: Make) -> None:
    session = session_of(12)
    start, end = session.tape.start, session.tape.end
    clock = SteppedClock(start)
    frozen = FeedFrozen(AtTime(start + 2 * HOUR_NS), duration_ms=4 * 3_600_000)
    terminal = SimulatedTerminal(session.source, clock=clock, faults=(frozen,))
    terminal.initialize()
    feed = TerminalFeed(terminal, ("EURUSD",), since_ns=start)
    read, silent = [], 0
    while clock.now_ns() < end:
        clock.move_to(clock.now_ns() + 600 * SECOND_NS)
        batches = feed.poll()
        silent += not batches
        read += [batch.frame() for batch in batches.values()]
    assert silent >= 20
    expected = session.source.ticks("EURUSD", start, clock.now_ns())
    pd.testing.assert_frame_equal(pd.concat(read, ignore_index=True), expected, check_exact=True)


class FloodedFeed(ReplayFeed):
    """A replay that, like a terminal, does not wait for a slow reader."""

    @property
    def info(self) -> FeedInfo:
        return replace(super().info, lossless=False)

    def poll(self, room: int) -> TickBatch:
        return super().poll(1_000_000)


def test_a_flood_is_bounded_the_newest_quote_wins_and_the_lag_is_shown(
    session_of: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = 16
    settings = LiveSettings(poll_ms=1.0, history_bars=900, tape_mb_max=0.0, queue_ticks_max=bound)
    session = session_of(20, settings=settings, models=False)
    monkeypatch.setattr("tests.live.conftest.ReplayFeed", FloodedFeed)
    assert session.run() is Ending.FINISHED
    status = session.journals[-1].statuses[-1]
    assert status["ticks_dropped"] > 0
    assert status["ticks_waiting_max"] >= bound
    assert status["ticks"] < status["ticks_dropped"], "what came first is not lived through late"
    assert status["latency"]["tick"]["n"] > 0
    frame = session.source.ticks("EURUSD", session.tape.start, session.tape.end)
    (quote,) = session.engine._core.quotes()
    assert (quote["bid"], quote["ask"]) == (frame["bid"].iloc[-1], frame["ask"].iloc[-1])


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ({"symbols_halted": {"EURUSD": "halted: silent while its market is open"}}, "symbols"),
        ({"broker_problem": "the broker or its terminal lets no program trade"}, "broker"),
        ({"clock_problem": "this machine's clock is 3.0 s behind the market's"}, "clock"),
        ({"model_problem": "stuck: cnn has said 0.5000 of 64 different rows in a row"}, "stuck model"),
    ],
)
def test_what_an_engine_says_of_itself_is_told_with_what_to_do(said: dict[str, Any], key: str) -> None:
    good = {"symbols_halted": {}, "broker_problem": "", "clock_problem": "", "model_problem": ""}
    assert told(good) == set()
    (alert,) = alerts(View("paper", status=good | said, running=True))
    (words,) = said.values()
    assert (alert.key, bool(alert.mend)) == (key, True)
    assert (words if isinstance(words, str) else words["EURUSD"]) in alert.text
    assert alerts(View("paper", status=good | said, running=False)) == (), "how it was is not how it is"


# -- the clock --------------------------------------------------------------------------------------------------------


class SteppedWall(MachineClock):
    """A machine whose clock somebody sets an hour forth and back, three times a second."""

    def wall_ns(self) -> int:
        return super().wall_ns() + self.monotonic_ns() // 300_000_000 % 2 * HOUR_NS


def surrounded(session: Any, room: RoomWatch, clock: Any = None) -> Any:
    """Let the next engines of a session look at their surroundings, as the production one does."""
    parts, used = type(session)._parts, clock or MachineClock()

    def watched(journal: Any) -> Any:
        return replace(
            parts(session, journal), journal=WatchedJournal(journal, room, ClockWatch(used)), clock=used
        )  # fmt: skip

    session._parts = watched
    return session


def test_a_clock_that_is_set_changes_no_decision_and_is_told(session_of: Make) -> None:
    calm, skewed = session_of(20), surrounded(session_of(20, speed=60_000.0), RoomWatch(lambda: None), SteppedWall())
    for session in (calm, skewed):
        assert session.run() is Ending.FINISHED
    assert calm.store.deals
    assert skewed.history() == calm.history()
    problems = {status["clock_problem"] for status in skewed.journals[-1].statuses}
    assert any("was set by" in problem and "3600" in problem for problem in problems)
    assert "clock" in told(skewed.journals[-1].statuses[-1])


class SetClock(MachineClock):
    """A machine whose two clocks are set by hand, seconds."""

    mono_s, wall_s = 100.0, 1_000_000.0

    def monotonic_ns(self) -> int:
        return round(self.mono_s * SECOND_NS)

    def wall_ns(self) -> int:
        return round(self.wall_s * SECOND_NS)

    def go(self, seconds: float, extra: float = 0.0) -> None:
        self.mono_s += seconds
        self.wall_s += seconds + extra


def test_skew_is_seen_in_jumps_and_in_ticks_of_the_future_and_slewing_is_none() -> None:
    clock = SetClock()
    watch = ClockWatch(clock)
    for _ in range(1_000):
        clock.go(1.0, 0.0005)  # as NTP does
        assert watch.problem(clock.wall_ns() - HOUR_NS) == "", "a market behind is closed, silent or a replay"
    assert watch.problem(clock.wall_ns() + 1 * SECOND_NS) == ""
    assert "3.0 s behind the market's" in watch.problem(clock.wall_ns() + 3 * SECOND_NS)
    clock.go(1.0, -30.0)
    assert "-30.0 s" in watch.problem(0)
    clock.go(599.0)
    assert watch.problem(0)
    clock.go(2.0)
    assert watch.problem(0) == ""


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_model_that_always_says_the_same_is_told(session_of: Make) -> None:
    session = session_of(ROWS + 30)
    predict = session.service.predict

    async def one_is_stuck(inputs: Any, *, deadline_s: float, whole: bool = True) -> Any:
        answer = await predict(inputs, deadline_s=deadline_s, whole=whole)
        if "cnn" in answer.models:
            answer.p_up[:, answer.models.index("cnn")] = 0.5125
        return answer

    session.service.predict = one_is_stuck
    assert session.run() is Ending.FINISHED
    status = session.journals[-1].statuses[-1]
    assert status["model_problem"] == f"stuck: cnn has said 0.5125 of {ROWS} different rows in a row"
    assert "stuck model" in told(status)
    assert at_bars(session)[-1].level == Level.FULL_AI, "it is told, not judged"
    healthy = session_of(ROWS + 30)
    healthy.run()
    assert healthy.journals[-1].statuses[-1]["model_problem"] == ""


def answers(*p_up: float) -> ModelAnswer:
    values = np.array(p_up)[:, None]
    return ModelAnswer(("cnn",), values, np.full((len(values), 7), np.nan), {}, 4, 0.1, (), True)


def test_different_rows_count_and_one_other_answer_begins_anew() -> None:
    rows = np.arange(20, dtype=np.float32)[:, None]
    watch = StuckWatch(rows=4)
    for _ in range(9):
        watch.look(rows[:1], answers(0.5))
    assert watch.problem == "", "the same row has the same answer"
    watch.look(rows[1:4], answers(0.5, np.nan, 0.5))
    assert watch.problem == "", "what is absent says nothing"
    watch.look(rows[4:5], answers(0.5))
    assert watch.problem == "stuck: cnn has said 0.5000 of 4 different rows in a row"
    watch.look(rows[5:8], answers(0.5, 0.6, 0.5))
    assert watch.problem == ""
    watch.look(rows[8:12], answers(0.5, 0.5, 0.5, 0.5))
    assert watch.problem
    watch.forget()
    watch.look(rows[:0], answers())
    assert watch.problem == ""


# -- the disk ---------------------------------------------------------------------------------------------------------


def test_before_the_disk_is_full_entries_halt_and_all_that_happens_is_still_written(session_of: Make) -> None:
    session = session_of(40, speed=300_000.0)
    free = {"bytes": 900 * MB}
    surrounded(session, RoomWatch(lambda: free["bytes"]))
    full_at: list[int] = []

    def fills_up(journal: Any) -> None:
        def look(number: int, entry: Any) -> None:
            if any(not deal.closing for deal in entry.deals) and not full_at:
                free["bytes"] = 200 * MB
                full_at.append(max(deal.time_ns for deal in entry.deals))

        journal.on_post = look

    assert session.run(prepare=fills_up) is Ending.FINISHED
    halted = [row for row in session.store.decisions if row.level == Level.EMERGENCY]
    assert len(halted) > 5
    assert "the disk is almost full: 200 MB left" in halted[-1].level_reason
    assert not [row for row in opened(session) if row.time >= halted[0].time]
    bars = [row.bar_time for row in at_bars(session)]
    assert bars == sorted(set(bars))
    assert max(np.diff(bars)) <= 50 * HOUR_NS, "every bar is decided and journalled"
    assert {deal.client_order_id for deal in session.store.deals.values() if deal.client_order_id} <= set(
        session.store.intents
    )
    assert "journal" in told(session.journals[-1].statuses[-1])


def test_room_is_needed_a_little_more_to_go_on_than_to_stop(tmp_path: Path) -> None:
    free: dict[str, int | None] = {"bytes": 101}
    watch = RoomWatch(lambda: free["bytes"], room=100)
    seen = []
    for now in (101, 99, 105, 111, 105, None):
        free["bytes"] = now
        watch.look()
        seen.append(bool(watch.problem))
    assert seen == [False, True, True, False, False, False]
    assert (free_bytes((tmp_path / "not" / "there",)) or 0) > 0
    assert free_bytes(()) is None


# -- the broker -------------------------------------------------------------------------------------------------------


@pytest.fixture
def real(session_of: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RealSession]:
    """Make sessions at a broker whose faults are given by the session's begin, ns UTC."""
    monkeypatch.setattr("tests.live.test_real_session.SPEED", 20_000.0)  # some more looks at the broker

    def make(*faults: Callable[[int], Any], bars: int = 30) -> RealSession:
        session = session_of(bars)
        return RealSession(session, tmp_path, *(fault(session.tape.start) for fault in faults))

    return make


def opening_orders(session: RealSession, since_ns: int = 0) -> list[Any]:
    orders = [order.intent for order in session.table.orders.values()]
    return [intent for intent in orders if intent.purpose is Purpose.OPEN and intent.decided_ns >= since_ns]


def test_a_margin_call_closes_what_is_open_and_nothing_is_opened(real: Callable[..., RealSession]) -> None:
    session = real(lambda start: Withdrawn(AtTime(start + 10 * HOUR_NS), margin_percent=80.0))
    assert session.run() is Ending.FINISHED
    halted = [row.time for row in session.table.decisions if row.outcome["stage"] == "halt"]
    assert halted
    assert opening_orders(session), "a session without a position proves nothing"
    assert opening_orders(session, halted[0]) == []
    assert session.terminal.positions_get() == (), "what was open is closed"
    assert session.engine._core.halted
    status, said = session.journal.statuses[-1], session.table.decisions[-1].outcome
    found = alerts(View("paper", status=status, running=True, decisions={"EURUSD": said}))
    assert "drawdown" in {alert.key for alert in found}


def test_where_the_terminal_lets_nobody_trade_nothing_is_even_tried(real: Callable[..., RealSession]) -> None:
    session = real(lambda start: AutotradingOff(AtTime(start), duration_ms=400 * 3_600_000))
    assert session.run() is Ending.FINISHED
    assert session.our_deals() == []
    assert session.table.orders == {}
    status = session.journal.statuses[-1]
    assert "lets no program trade" in status["broker_problem"]
    assert "broker" in told(status)
    assert any(kind == "broker" for kind, _ in session.table.events)
    assert {row.level for row in session.table.decisions} == {Level.EMERGENCY}


def test_a_changed_contract_stops_its_symbol_and_a_restart_takes_the_new_one(
    real: Callable[..., RealSession],
) -> None:
    changes = {"lot_step": 0.05, "lot_min": 0.05}
    session = real(lambda start: SpecificationChanged(AtTime(start + HOUR_NS), "EURUSD", changes))
    known: list[int] = []

    def killed_later(journal: Any) -> None:
        def look(number: int, entry: Any) -> None:
            now = session.clock.now_ns()
            if not known and any(event.kind == "terms" for event in entry.events):
                known.append(now)
            if known and now >= known[0] + 4 * HOUR_NS:
                raise KilledError

        journal.on_post = look

    assert session.run(prepare=killed_later) is None
    assert session.contracts[0].lot_step == 0.01
    (message,) = [text for kind, text in session.table.events if kind == "terms"]
    assert "lot_step 0.01 → 0.05" in message
    assert opening_orders(session, known[0]) == []
    assert "symbols" in told(session.journal.statuses[-1])
    assert session.run() is Ending.FINISHED
    assert (session.contracts[0].lot_step, session.contracts[0].lot_min) == (0.05, 0.05)
    assert session.engine._parts.desk.held() == {}, "and may be traded again"
