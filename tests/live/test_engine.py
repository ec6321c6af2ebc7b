"""The engine as a whole: every bar decided once, the same whatever happens to the process."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fx_dagster.core.tape import Mark, Tape, replay_tape
from fx_dagster.core.trading import TradingCore
from fx_dagster.decision.codes import Level, Stage
from fx_dagster.errors import DataError
from fx_dagster.execution.orders import OrderState, Purpose
from fx_dagster.live.engine import Ending
from fx_dagster.live.records import JournalEntry, KillSwitch
from fx_dagster.live_engine import trading_core
from fx_dagster.market.timeframes import HOUR_NS
from fx_dagster.models.answer import DIRECTIONS, SIMPLE_MODELS
from fx_dagster.models.service import UnavailableReason
from fx_dagster.settings import LiveSettings, Settings
from resources.live_feed import ReplayFeed
from resources.tapes import FileTape, latest_tape, read_tape

Make = Callable[..., Any]


def at_bars(session: Any) -> list[Any]:
    """Return the decisions that a bar's close asked for."""
    return [row for row in session.store.decisions if row.kind == "bar"]


def test_every_closed_bar_is_decided_once_in_order(session_of: Make) -> None:
    session = session_of(40)
    assert session.run() is Ending.FINISHED
    times = [row.bar_time for row in at_bars(session)]
    expected = session.source.ticks("EURUSD", session.tape.start, session.tape.end)["time"].to_numpy() // HOUR_NS
    assert times == sorted({int(hour) * HOUR_NS for hour in expected})
    assert session.store.session.finished
    assert {row.level for row in at_bars(session)} == {Level.FULL_AI}
    assert session.journals[-1].statuses[-1]["state"] == "finished"


def test_orders_are_journalled_before_they_are_sent_and_filled_by_later_quotes(session_of: Make) -> None:
    session = session_of(30)
    session.run()
    assert session.store.deals
    for key, (intent, _) in session.store.intents.items():
        states = session.store.states[key]
        assert states[0] is OrderState.SENT
        for deal in session.store.deals.values():
            if deal.client_order_id == key:
                assert deal.time_ns > intent.decided_ns
                assert deal.symbol == intent.symbol


@pytest.fixture(scope="module")
def undisturbed() -> dict[int, dict[str, Any]]:
    """Histories of sessions that nobody killed, by number of bars."""
    return {}


def _expected(session_of: Make, undisturbed: dict[int, dict[str, Any]], bars: int) -> dict[str, Any]:
    if bars not in undisturbed:
        session = session_of(bars)
        session.run()
        assert session.store.deals, "a session without a deal proves little"
        undisturbed[bars] = session.history()
    return undisturbed[bars]


@pytest.mark.parametrize(("kill_every", "commit_last"), [(2, True), (2, False), (5, True)])
def test_a_killed_engine_goes_on_as_if_nothing_had_happened(
    session_of: Make, undisturbed: dict[int, dict[str, Any]], kill_every: int, commit_last: bool
) -> None:
    expected = _expected(session_of, undisturbed, 20)
    session = session_of(20)
    lives, ending = 0, None
    while ending is None:
        # Each life posts a note of its beginning first; it must get beyond that to make progress.
        ending = session.run(kill_at=kill_every + lives % 3 + (0 if commit_last else 1), commit_last=commit_last)
        lives += 1
        assert lives < 200
    assert lives > 3
    assert session.history() == expected


def test_decisions_do_not_depend_on_how_ticks_arrive(session_of: Make, undisturbed: dict[int, dict[str, Any]]) -> None:
    expected = _expected(session_of, undisturbed, 20)
    slow = session_of(20, speed=200_000.0)
    slow.run()
    assert slow.history() == expected


def test_the_level_falls_as_answers_degrade_in_that_very_decision_and_comes_back(session_of: Make) -> None:
    """Whole, then the simple models alone, then nothing, and all the way back after a minute of health each."""
    quiet = LiveSettings(poll_ms=1.0, history_bars=900, tape_mb_max=0.0, move_atr=1e6)
    session = session_of(40, settings=quiet, deadline_s=5.0, probes_soon=True, speed=1e7)
    bars: list[int] = []

    def count(journal: Any) -> None:
        journal.on_post = lambda number, entry: bars.extend(row.time for row in entry.decisions if row.kind == "bar")

    service = session.service
    service.failing_whole = lambda call: UnavailableReason.REFUSED if 6 <= len(bars) < 18 else None
    service.failing = lambda call: UnavailableReason.UNREACHABLE if 12 <= len(bars) < 18 else None
    session.run(prepare=count)
    rows = at_bars(session)
    assert [row.level for row in rows[:6]] == [Level.FULL_AI] * 6
    assert [row.level for row in rows[6:12]] == [Level.SIMPLE_AI] * 6
    assert [row.level for row in rows[12:18]] == [Level.TRADITIONAL] * 6
    assert rows[-1].level == Level.FULL_AI
    assert (rows[5].level_reason, rows[6].release, rows[12].release) == ("", 4, None)
    assert "refused: the whole graph of release 4" in rows[6].level_reason
    assert "unreachable" in rows[12].level_reason
    assert rows[6].outcome["p_up"][2:] == [None, None, None]
    assert None not in rows[6].outcome["p_up"][:2]
    assert sorted(rows[6].outcome["models"]) == ["random_forest", "xgboost"]
    messages = [message for kind, message in session.store.events if kind == "level"]
    assert [message[:7] for message in messages[:3]] == ["level 1", "level 2", "level 3"]
    assert messages[-1].startswith("level 1")


def test_what_each_model_said_is_in_the_record(session_of: Make) -> None:
    session = session_of(12)
    session.run()
    row = at_bars(session)[-1]
    said = row.outcome["models"]
    assert [said[name] for name in DIRECTIONS] == pytest.approx(row.outcome["p_up"], rel=1e-4)
    assert said["regime"] in ("bull", "bear")
    assert said["regime_probabilities"] == [0.6, 0.2, 0.1, 0.1]
    assert (said["enter"], said["exit_long"], said["exit_short"]) == (0.9, 0.1, 0.1)
    assert said["patterns"] == pytest.approx(row.outcome["p_up"][:3], rel=1e-4)
    assert said["expected_return"] == pytest.approx(row.outcome["p_up"][0] / 1e3, rel=1e-4)
    assert row.outcome["votes"]


def test_symbols_go_by_their_place_in_the_release(session_of: Make) -> None:
    session = session_of(5)
    session.run()
    whole, inputs = session.service.asked[-1]
    assert whole
    assert inputs.symbol.tolist() == [session.service.symbols.index("EURUSD")]
    assert inputs.sequence.shape[1:] == (48, 16)
    assert np.isfinite(inputs.chart).all()


def test_after_several_failures_the_models_are_left_alone_until_a_probe_succeeds(session_of: Make) -> None:
    session = session_of(30)
    session.service.failing = lambda call: UnavailableReason.DEADLINE if call > 3 else None
    session.run()
    # One to the whole graph, three to the simple models, and at most some probes.
    asked = [whole for whole, _ in session.service.asked[3:7]]
    assert asked == [True, False, False, False]
    assert session.service.calls < 3 + 4 + 4
    assert "not asked after 3 failures" in session.store.decisions[-1].level_reason


def test_nonsense_of_one_simple_model_lowers_the_level(session_of: Make) -> None:
    session = session_of(12)
    session.service.bad = ("random_forest",)
    session.run()
    row = session.store.decisions[-1]
    assert row.level == Level.TRADITIONAL
    assert "random_forest" in row.level_reason
    assert row.outcome["p_up"][1] is None


@pytest.mark.parametrize("name", ["lstm", "meta", "regime"])
def test_nonsense_of_another_model_leaves_the_simple_ones(session_of: Make, name: str) -> None:
    session = session_of(12)
    session.service.bad = (name,)
    session.run()
    row = at_bars(session)[-1]
    assert row.level == Level.SIMPLE_AI
    assert f"discarded {'regime' if name == 'regime' else f'p_up_{name}'}" in row.level_reason
    assert name not in row.outcome["models"]
    assert all(whole for whole, _ in session.service.asked[2:])


def test_a_release_of_simple_models_alone_trades_at_the_second_level(session_of: Make) -> None:
    session = session_of(12)
    session.service.models = SIMPLE_MODELS
    session.run()
    assert {row.level for row in at_bars(session)} == {Level.SIMPLE_AI}
    assert "has no lstm, cnn, meta" in at_bars(session)[-1].level_reason


def test_a_release_of_other_features_is_refused_not_asked(session_of: Make) -> None:
    session = session_of(12)
    session.service.feature_hash = "0" * 64
    session.run()
    assert session.service.calls == 0
    assert all(row.level == Level.TRADITIONAL for row in session.store.decisions)
    assert "feature_mismatch" in session.store.decisions[0].level_reason


def test_without_a_release_it_trades_on_indicators(session_of: Make) -> None:
    session = session_of(20, models=False)
    assert session.run() is Ending.FINISHED
    assert {row.level for row in session.store.decisions} == {Level.TRADITIONAL}
    assert "no release is active" in session.store.decisions[0].level_reason
    assert session.store.intents


def test_the_kill_switch_stops_entries_and_exits_go_on(session_of: Make) -> None:
    session = session_of(30)

    def engage(journal: Any) -> None:
        journal.switch = KillSwitch(engaged=True, reason="test")

    session.run(prepare=engage)
    assert session.store.decisions
    assert not [intent for intent, _ in session.store.intents.values() if intent.purpose is Purpose.OPEN]
    assert session.journals[-1].statuses[-1]["killed"] is True


def _engage_when_a_position_is_open(journal: Any) -> None:
    def look(number: int, entry: JournalEntry) -> None:
        if any(not deal.closing for deal in entry.deals):
            journal.switch = KillSwitch(engaged=True, flatten=True, reason="now")

    journal.on_post = look


def test_flatten_closes_positions_before_the_next_bar_is_decided(session_of: Make) -> None:
    session = session_of(30, speed=100_000.0)
    session.run(prepare=_engage_when_a_position_is_open)
    closing = [deal for deal in session.store.deals.values() if deal.closing]
    opening = [deal for deal in session.store.deals.values() if not deal.closing]
    assert len(opening) == len(closing) == 1
    assert closing[0].time_ns - opening[0].time_ns < 2 * HOUR_NS
    closed_by = session.store.intents[closing[0].client_order_id][0]
    assert closed_by.purpose is Purpose.CLOSE


def test_a_person_ends_a_halt(session_of: Make) -> None:
    session = session_of(20)

    def resumed(journal: Any) -> None:
        journal.on_post = lambda number, entry: setattr(
            journal, "switch", KillSwitch(resumed_ns=5 if number > 8 else 0)
        )

    session.run(prepare=resumed)
    assert [kind for kind, _ in session.store.events].count("resume") == 1


def test_a_halt_does_not_end_while_the_account_cannot_be_valued(session_of: Make) -> None:
    session = session_of(5)
    session.run()
    engine = session.engine
    engine._core.core.memory["stage"] = Stage.HALT
    ledger = engine._parts.desk.broker.ledger
    balance = float(ledger.money[0]["balance"])
    ledger.money["balance"] = np.nan
    engine._resume(5)
    assert (engine._core.halted, engine._resumed_ns) == (True, 0)
    ledger.money["balance"] = balance
    engine._resume(5)
    assert (engine._core.halted, engine._resumed_ns) == (False, 5)


def test_with_the_journal_in_trouble_there_are_no_entries(session_of: Make) -> None:
    session = session_of(30)

    def trouble(journal: Any) -> None:
        journal.trouble = "PostgreSQL is away"

    session.run(prepare=trouble)
    assert {row.level for row in session.store.decisions} == {Level.EMERGENCY}
    assert "PostgreSQL is away" in session.store.decisions[-1].level_reason
    assert not session.store.intents


def test_an_entry_whose_intent_is_not_committed_in_time_is_not_sent(session_of: Make) -> None:
    session = session_of(30)
    seen: list[JournalEntry] = []

    def silence(journal: Any) -> None:
        def look(number: int, entry: JournalEntry) -> None:
            seen.extend([entry] if entry.intents else [])
            journal.silent = bool(entry.intents) and len(seen) == 1

        journal.on_post = look

    session.run(prepare=silence)
    withheld = [key for key, states in session.store.states.items() if states == [OrderState.CANCELLED]]
    assert withheld == [seen[0].intents[0].client_order_id]
    assert any(kind == "withheld" for kind, _ in session.store.events)
    assert not [deal for deal in session.store.deals.values() if deal.client_order_id in withheld]


def test_asked_to_stop_it_ends_soon_and_can_be_resumed(
    session_of: Make, undisturbed: dict[int, dict[str, Any]]
) -> None:
    expected = _expected(session_of, undisturbed, 20)
    session = session_of(20, speed=100_000.0)
    took: list[float] = []

    async def stopped() -> Ending | None:
        life = asyncio.create_task(session.engine_life(0, True, lambda journal: None))
        while len(session.store.decisions) < 5:
            await asyncio.sleep(0.005)
        began = time.monotonic()
        session.engine.stop()
        ending = await life
        took.append(time.monotonic() - began)
        return ending

    assert asyncio.run(stopped()) is Ending.STOPPED
    assert took[0] < 5
    assert not session.store.session.finished
    assert 5 <= len(session.store.decisions) < 20
    # Entries that were decided while stopping are refused by design: they are the only thing that may differ.
    assert session.run() is Ending.FINISHED
    got = session.history()
    assert [row[:2] for row in got["decisions"]] == [row[:2] for row in expected["decisions"]]


def test_impossible_ticks_never_reach_bars_or_account(session_of: Make) -> None:
    session = session_of(20)
    clean = session_of(20)
    clean.run()
    real = session.source

    class Dirty:
        """The sample with impossible ticks between the real ones, inside the tape."""

        name, has_ticks = real.name, real.has_ticks

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def ticks(self, symbol: str, start: int, end: int) -> Any:
            frame = real.ticks(symbol, start, end)
            bad = frame.iloc[::5].copy()
            bad["time"] += 60_000_000_000
            bad["bid"] = np.resize([-1.0, 0.0, 9.0], len(bad))
            return pd.concat([frame, bad, frame.iloc[1::7]], ignore_index=True).sort_values(
                "time", kind="stable", ignore_index=True
            )

    session.source = Dirty()
    session.run()
    rejected = session.journals[-1].statuses[-1]["ticks_rejected"]
    assert rejected.keys() >= {"non_positive", "crossed", "duplicate"}
    bars = [(row.bar_time, row.features.tobytes()) for row in at_bars(session)]
    assert bars == [(row.bar_time, row.features.tobytes()) for row in at_bars(clean)]
    assert all(row.level == Level.EMERGENCY for row in at_bars(session)[-3:]), "in quarantine: not believed"


# -- drift ------------------------------------------------------------------------------------------------------------


class Gauge:
    """Says how far features have drifted, by market time."""

    def __init__(self, drift_at: Callable[[int], float]) -> None:
        self.drift_at = drift_at


def measured(session: Any, drift_at: Callable[[int], float]) -> Any:
    """Let the next engines of a session know a drift."""
    parts = type(session)._parts
    session._parts = lambda journal: replace(parts(session, journal), drift=Gauge(drift_at))
    return session


def test_measured_drift_takes_weight_from_the_models_and_is_in_the_status(session_of: Make) -> None:
    plain, drifted = session_of(8), measured(session_of(8), lambda clock: 0.55)
    for session in (plain, drifted):
        session.run()
    before, after = (at_bars(session)[0].outcome for session in (plain, drifted))
    assert (before["drift"], after["drift"]) == (None, 0.55)
    for path in ("machine_learning", "deep_learning"):
        assert 0.0 < after["weights"][path] < before["weights"][path]
    assert after["weights"]["traditional"] > before["weights"]["traditional"]
    assert "features_drifted" in after["reasons"]
    assert "features_drifted" not in before["reasons"]
    assert plain.journals[-1].statuses[-1]["drift"] is None
    assert drifted.journals[-1].statuses[-1]["drift"] == 0.55


def test_strong_drift_leaves_the_indicators_alone_until_it_is_over(session_of: Make) -> None:
    session = session_of(24, speed=200_000.0)
    middle = session.tape.start + 12 * HOUR_NS
    measured(session, lambda clock: 0.9 if clock < middle else float("nan")).run()
    rows = at_bars(session)
    assert {row.level for row in rows if row.time < middle} == {Level.TRADITIONAL}
    assert "features_drifted" in rows[0].level_reason
    assert rows[-1].level == Level.FULL_AI
    assert session.journals[-1].statuses[-1]["drift"] is None


def replayed(session: Any, tape: Tape) -> list[Mark]:
    """Replay a stretch with a core like the session's; one mark that differs where it cannot be replayed at all."""
    info = ReplayFeed(session.source, session.tape, speed=1.0).info
    core, _ = trading_core(Settings(live=session.settings), info, session.tape.start)
    try:
        return replay_tape(core, tape)
    except DataError:
        return [Mark(0, 0, "recorded", "refused")]


def test_drift_is_on_the_tape_and_the_replay_decides_the_same_bit_for_bit(session_of: Make, tmp_path: Path) -> None:
    session, tapes = session_of(24, speed=200_000.0), []

    def recording(core: TradingCore) -> FileTape:
        folder = tmp_path / "paper" / "tapes"
        tapes.append(FileTape(folder, 1, core.symbols, {}, state=core.whole, size_mb_max=100.0))
        return tapes[-1]

    session.recording = recording
    edges = [session.tape.start + hours * HOUR_NS for hours in (6, 12, 18)]
    steps = (float("nan"), 0.1 + 0.45, 0.9, 0.2)
    measured(session, lambda clock: steps[int(np.searchsorted(edges, clock, side="right"))]).run()
    tapes[-1].close()
    tape, _ = read_tape(latest_tape(tmp_path))
    assert [event.body["drift"] for event in tape.events if event.what == "conditions"] == list(steps[1:])
    marks = replayed(session, tape)
    assert len(marks) > 20
    assert all(mark.same for mark in marks)
    assert marks[-1].replayed == session.engine._core.digest
    deaf = [
        replace(event, body={**event.body, "drift": None}) if event.what == "conditions" else event
        for event in tape.events
    ]
    assert not all(mark.same for mark in replayed(session, replace(tape, events=deaf)))


@pytest.mark.parametrize(("before", "now"), [(0.9, float("nan")), (0.9, 0.1), (float("nan"), 0.9)])
def test_after_a_restart_drift_is_what_is_known_then(session_of: Make, before: float, now: float) -> None:
    session = measured(session_of(12, speed=200_000.0), lambda clock: before)
    assert session.run(kill_at=12) is None
    count = len(session.store.decisions)
    assert count > 0
    assert measured(session, lambda clock: now).run() is Ending.FINISHED
    said = [row.outcome["drift"] for row in session.store.decisions]
    assert set(said[:count]) == {None if np.isnan(before) else before}
    assert set(said[count:]) == {None if np.isnan(now) else now}
