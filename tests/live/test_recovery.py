"""Taking a session up again: from the checkpoint and a market state, or from history; and what a tape says of it."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fx_dagster.core.tape import Mark, replay_tape
from fx_dagster.core.trading import TradingCore
from fx_dagster.errors import DataError
from fx_dagster.execution.orders import OrderState
from fx_dagster.live.account import PaperDesk
from fx_dagster.live.engine import Ending
from fx_dagster.live.records import JournalEntry, KillSwitch
from fx_dagster.live.recovery import take_up
from fx_dagster.live.session import Memory, unpack
from fx_dagster.live_engine import trading_core
from fx_dagster.settings import Settings
from resources.live_feed import ReplayFeed
from resources.tapes import FileTape, latest_tape, read_tape

from .conftest import KilledError, MemoryStates

Make = Callable[..., Any]
MANY_BATCHES = 200_000.0
"""Speed at which a session of forty hours takes a hundred batches."""


class Taken:
    """A new engine's core, desk and feed, and what taking the session up gave."""

    def __init__(self, session: Any, states: MemoryStates) -> None:
        self.feed = ReplayFeed(session.source, session.tape, speed=session.speed)
        self.core: TradingCore
        self.desk: PaperDesk
        self.core, self.desk = trading_core(Settings(live=session.settings), self.feed.info, session.tape.start)
        self.memory: Memory | None = take_up(self.core, self.desk, self.feed, states, session.store.reopened())


@pytest.fixture(scope="module")
def killed(sample: Any) -> Iterator[Callable[[Make], Any]]:
    """A session that was killed in its middle, made once."""
    made: list[Any] = []

    def make(session_of: Make) -> Any:
        if not made:
            session = session_of(60, speed=MANY_BATCHES)
            states: list[bytes] = []

            def keep_every_state(journal: Any) -> None:
                def look(number: int, entry: JournalEntry) -> None:
                    states.append(session.engine._core.market_copy()())

                journal.on_post = look

            assert session.run(kill_at=50, prepare=keep_every_state) is None
            session.states.kept = states[::-1]
            made.append(session)
        return made[0]

    return make


def told(core: TradingCore) -> dict[str, Any]:
    """What decisions depend on."""
    inner = core.core
    forming = inner.forming[inner.forming["count"] > 0]
    return {
        "digest": core.digest,
        "clock": core.clock,
        "decisions": core.decisions,
        "forming": {name: forming[name].tolist() for name in ("time", "end", "count", "open", "high", "low", "close")},
        "features": inner.features["values"].astype(np.float32).tobytes(),
        "inputs": inner.inputs.tobytes(),
        "watch": inner.watch.tobytes(),
        "positions": inner.ledger.positions.tobytes(),
        "balance": float(inner.ledger.money[0]["balance"]),
    }


def test_a_new_session_begins_warm_and_has_decided_nothing(session_of: Make) -> None:
    session = session_of(20)
    taken = Taken(session, session.states)
    assert taken.memory is None
    assert taken.core.clock == (session.tape.start, 0)
    assert taken.core.closed_until == session.tape.start
    assert taken.core.core.features["warm"].all()
    assert taken.core.decisions == 0


def test_any_market_state_or_none_leads_to_the_same_place(session_of: Make, killed: Callable[[Make], Any]) -> None:
    """Of the newest moment, of an old one, or none at all: then from history."""
    session = killed(session_of)
    memory = unpack(session.store.session.snapshot)
    states = session.states.kept
    assert len(states) > 30
    expected: dict[str, Any] = {}
    for kept in (states, states[len(states) // 3 :], states[-1:], []):
        store = MemoryStates()
        store.kept = list(kept)
        taken = Taken(session, store)
        assert taken.memory == memory
        assert taken.core.clock == taken.core.reached(memory.core)
        expected = expected or told(taken.core)
        assert told(taken.core) == expected
    assert expected["decisions"] > 0


def test_a_later_damaged_or_foreign_state_is_left_out_with_a_warning(
    session_of: Make, killed: Callable[[Make], Any], caplog: pytest.LogCaptureFixture
) -> None:
    session = killed(session_of)
    good = session.states.kept[-1]
    expected = told(Taken(session, session.states).core)
    later = session_of(60, before=300)
    later.run()
    states = MemoryStates()
    states.kept = [later.states.kept[0], good[:-9], b"", good[:60] + b"\0" + good[61:], good]
    with caplog.at_level(logging.WARNING, logger="fx_dagster.live.recovery"):
        assert told(Taken(session, states).core) == expected
    assert [record.message.split(":")[0] for record in caplog.records] == ["a market state is left out"] * 4
    assert "later" in caplog.records[0].message


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-11], lambda data: data[:70], lambda data: b"", lambda data: b"1" + data[1:]]
)
def test_a_checkpoint_that_cannot_be_read_is_an_error(
    session_of: Make, killed: Callable[[Make], Any], damage: Callable[[bytes], bytes]
) -> None:
    session = killed(session_of)
    broken = replace(session, store=replace(session.store))
    broken.store.session = replace(session.store.session, snapshot=damage(session.store.session.snapshot))
    with pytest.raises(DataError):
        Taken(broken, session.states)


# -- orders between two engines ----------------------------------------------------------------------------------------


def kill_with_intents(session: Any, *, committed: bool) -> None:
    """Run an engine that dies with the first order it journals, before it can send it."""

    def dying(journal: Any) -> None:
        def look(number: int, entry: JournalEntry) -> None:
            if entry.intents:
                if committed:
                    journal._commit_all()
                journal._dead = True
                raise KilledError

        journal.on_post = look

    assert session.run(prepare=dying) is None


@pytest.mark.parametrize("committed", [True, False])
def test_an_order_that_was_journalled_is_sent_once_and_one_that_was_not_is_decided_again(
    session_of: Make, committed: bool
) -> None:
    undisturbed = session_of(20)
    undisturbed.run()
    session = session_of(20)
    kill_with_intents(session, committed=committed)
    assert len(session.store.intents) == committed
    assert session.store.deals == {}
    assert session.run() is Ending.FINISHED
    assert session.history() == undisturbed.history()
    first = next(iter(session.store.intents))
    assert session.store.states[first][0] is OrderState.SENT
    assert session.store.states[first].count(OrderState.SENT) == 1


# -- tapes ------------------------------------------------------------------------------------------------------------


@contextmanager
def recorded(session: Any, folder: Path, size_mb_max: float = 100.0) -> Iterator[None]:
    """Record the engines of a session."""
    tapes: list[FileTape] = []

    def tape(core: TradingCore) -> FileTape:
        tapes.append(FileTape(folder, 1, core.symbols, {}, state=core.whole, size_mb_max=size_mb_max))
        return tapes[-1]

    session.recording = tape
    try:
        yield
    finally:
        for one in tapes:
            one.close()


def replayed(session: Any, folder: Path, **settings: Any) -> tuple[TradingCore, list[Mark]]:
    """Replay a stretch with a core like the session's."""
    tape, _ = read_tape(folder)
    info = ReplayFeed(session.source, session.tape, speed=1.0).info
    live = session.settings.model_copy(update=settings)
    core, _ = trading_core(Settings(live=live), info, session.tape.start)
    return core, replay_tape(core, tape)


def is_same(session: Any, folder: Path, **settings: Any) -> bool:
    """Whether a replay does all that the stretch says, with the same decisions."""
    try:
        return all(mark.same for mark in replayed(session, folder, **settings)[1])
    except DataError:
        return False


def stretches(live: Path) -> list[Path]:
    return sorted((live / "paper" / "tapes").iterdir())


@pytest.mark.parametrize("options", [{}, {"speed": MANY_BATCHES}, {"models": False}])
def test_a_recorded_session_is_replayed_bit_for_bit(session_of: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    session = session_of(60, **options)
    with recorded(session, tmp_path / "paper" / "tapes"):
        assert session.run() is Ending.FINISHED
    core, marks = replayed(session, latest_tape(tmp_path))
    assert len(marks) > 50
    assert all(mark.same for mark in marks)
    assert core.digest == marks[-1].recorded == session.engine._core.digest
    assert core.decisions == session.engine._core.decisions
    assert session.store.deals


def test_people_and_failures_are_on_the_tape_too(session_of: Make, tmp_path: Path) -> None:
    session = session_of(60, speed=MANY_BATCHES)
    session.service.bad_model = "xgboost"

    def trouble(journal: Any) -> None:
        def look(number: int, entry: JournalEntry) -> None:
            session.service.bad_model = "xgboost" if number < 20 else ""
            journal.trouble = "away" if 30 <= number < 40 else ""
            journal.switch = KillSwitch(
                engaged=60 <= number < 80, flatten=60 <= number < 80, reason="test", resumed_ns=9 if number > 80 else 0
            )

        journal.on_post = look

    with recorded(session, tmp_path / "paper" / "tapes"):
        session.run(prepare=trouble)
    tape, _ = read_tape(latest_tape(tmp_path))
    assert {event.what for event in tape.events} >= {"conditions", "answer", "mark", "placed", "clock"}
    core, marks = replayed(session, latest_tape(tmp_path))
    assert all(mark.same for mark in marks)
    assert core.digest == session.engine._core.digest


def test_a_full_stretch_is_followed_by_another_and_each_is_replayed_alone(session_of: Make, tmp_path: Path) -> None:
    session = session_of(60, speed=MANY_BATCHES)
    with recorded(session, tmp_path / "paper" / "tapes", size_mb_max=0.004):
        session.run()
    found = stretches(tmp_path)
    assert 2 <= len(found) <= 4
    for folder in found:
        _, marks = replayed(session, folder)
        assert all(mark.same for mark in marks)


def test_every_engine_of_a_session_that_was_killed_again_and_again_is_replayed(
    session_of: Make, tmp_path: Path
) -> None:
    session, checked, lives = session_of(60, speed=MANY_BATCHES), 0, 0
    ending = None
    while ending is None:
        # Not with an order: that is another test.
        def dying(journal: Any) -> None:
            def look(number: int, entry: JournalEntry) -> None:
                if number >= 9 and not entry.intents and entry.checkpoint is not None:
                    journal._commit_all()
                    journal._dead = True
                    raise KilledError

            journal.on_post = look

        with recorded(session, tmp_path / "paper" / "tapes"):
            ending = session.run(prepare=dying)
        _, marks = replayed(session, stretches(tmp_path)[-1])
        assert all(mark.same for mark in marks)
        checked += len(marks)
        lives += 1
        assert lives < 100
    assert lives > 3
    assert checked > 30


def test_an_order_that_is_sent_after_a_restart_is_on_the_new_engines_tape(session_of: Make, tmp_path: Path) -> None:
    session = session_of(20)
    kill_with_intents(session, committed=True)
    with recorded(session, tmp_path / "paper" / "tapes"):
        session.run()
    assert is_same(session, latest_tape(tmp_path))


def test_another_configuration_is_noticed(session_of: Make, tmp_path: Path) -> None:
    session = session_of(30)
    with recorded(session, tmp_path / "paper" / "tapes"):
        session.run()
    assert is_same(session, latest_tape(tmp_path))
    assert not is_same(session, latest_tape(tmp_path), move_atr=0.2)


def test_a_disk_that_fails_ends_the_tape_and_not_the_session(session_of: Make, tmp_path: Path) -> None:
    session, plain = session_of(20), session_of(20)
    plain.run()
    (tmp_path / "tapes").write_text("no folder")
    with recorded(session, tmp_path / "tapes"):
        assert session.run() is Ending.FINISHED
    assert session.history() == plain.history()
