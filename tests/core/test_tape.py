"""A recorded stretch: replayed it gives the same decisions, bit for bit, and anything else is noticed."""

import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.core.rows import Event, Ticks
from fx_dagster.core.state import LOG_ROWS, CoreSpec
from fx_dagster.core.tape import (
    TICK,
    Conditions,
    Tape,
    TapeEvent,
    What,
    answer_body,
    conditions_body,
    conditions_of,
    replay_tape,
)
from fx_dagster.core.trading import TradingCore
from fx_dagster.decision.codes import Command
from fx_dagster.errors import DataError, FeatureMismatchError
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS, Timeframe

from .conftest import MADE_UNTIL, Market, Tick, Work, eager, new_work, silent, ticks_of, whole

SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")
DRIFT = 0.1 + 0.45
"""Takes half of the models' weight, and is no short number."""
Make = Callable[..., Work]
Specs = Callable[..., CoreSpec]


@dataclass(repr=False)
class Recorded(Work):
    """A core at work whose tape is kept, event by event as a live session writes it."""

    start: bytes = b""
    events: list[TapeEvent] = field(default_factory=list)
    rows: list[np.ndarray] = field(default_factory=list)
    taken: int = 0
    withheld: frozenset[int] = frozenset()
    """Symbols whose orders are not sent."""

    def begin(self) -> None:
        """Begin a stretch here."""
        self.start, self.events, self.rows, self.taken = self.core.whole(), [], [], 0

    def note(self, what: What, **body: Any) -> None:
        """Keep an event, as its JSON text would be read back."""
        self.events.append(TapeEvent(self.taken, what, json.loads(json.dumps(body, allow_nan=False))))

    def take(self, ticks: Ticks | Iterable[Tick], first: int = 0, last: int | None = None) -> None:
        ticks = ticks if isinstance(ticks, Ticks) else ticks_of(ticks)
        last = len(ticks.time) if last is None else last
        done, event = first, Event.FULL
        while event is not Event.DONE:
            before = done
            done, event = self.core.take(ticks, done, last)
            part = np.zeros(done - before, dtype=TICK)
            for name in Ticks._fields:
                part[name] = getattr(ticks, name)[before:done]
            self.rows.append(part)
            self.taken += len(part)
            self.attend(event)

    def reach(self, clock: int) -> None:
        event = Event.FULL
        while event is not Event.DONE:
            event = self.core.reach(clock)
            self.note("clock", clock=clock)
            self.attend(event)

    def attend(self, event: Event) -> None:
        if event is Event.ASK:
            question = self.core.question()
            self.questions.append(question)
            said = whole(self.core, self.models(self, question))
            self.core.answer(question.rows, said)
            event = self.core.decide()
            self.note("answer", **answer_body(question.rows, said))
        if event is Event.ACT:
            rows = [act.row for act in self.core.acts() if act.row not in self.withheld]
            self.write_down()
            self.note("mark", decisions=self.core.decisions, digest=self.core.digest)
            self.core.place_acts(rows)
            self.note("placed", rows=rows)
        else:
            self.write_down()
            self.note("mark", decisions=self.core.decisions, digest=self.core.digest)

    def condition(self, *, healthy: bool = True, command: Command = Command.RUN, drift: float = math.nan) -> None:
        """Say what a person orders, and how far features have drifted."""
        conditions = Conditions(healthy=healthy, command=int(command), drift=drift)
        if self.core.set_conditions(**conditions):
            self.note("conditions", **conditions_body(conditions))

    def flatten(self) -> None:
        """Close everything at once."""
        self.condition(command=Command.FLATTEN)
        rows = np.flatnonzero(self.core.core.ledger.positions["lots"]).tolist()
        self.note("command", rows=rows, time=self.clock)
        self.attend(self.core.decide_now(rows, self.clock))

    def end_halt(self, equity: float) -> None:
        """Do what a person's resuming does."""
        self.core.end_halt(equity)
        self.note("resume", equity=equity)

    @property
    def tape(self) -> Tape:
        """What was recorded."""
        return Tape(self.start, np.concatenate([np.zeros(0, TICK), *self.rows]), self.events, self.core.symbols)


def recording(warm_work: Make, *symbols: str, **options: Any) -> Recorded:
    made = warm_work(*(symbols or SYMBOLS), models=eager, move_atr=0.7, **options)
    work = Recorded(made.core, made.models, keeps_log=False)
    work.begin()
    return work


@pytest.fixture(scope="module")
def ticks(made: Market) -> Ticks:
    first, last = made.before(MADE_UNTIL), made.before(MADE_UNTIL + 4 * HOUR_NS)
    return Ticks(*(column[first:last].copy() for column in made.ticks))


@pytest.fixture(scope="module")
def core_of(spec_of: Specs) -> Callable[..., TradingCore]:
    """Make a core like the one that was recorded; ``changes`` make it another."""

    def make(*symbols: str, **changes: Any) -> TradingCore:
        return new_work(spec_of(*(symbols or SYMBOLS), **{"move_atr": 0.7, **changes})).core

    return make


@pytest.fixture(scope="module")
def recorded(warm_work: Make, ticks: Ticks) -> Recorded:
    """Four hours: batches, clocks, a person's orders, trouble, models that fail, orders that are not sent."""
    work = recording(warm_work)
    work.take(ticks, 0, 100)
    work.reach(int(ticks.time[100]))
    work.condition(healthy=False)
    work.take(ticks, 100, 140)
    work.condition()
    work.withheld = frozenset({1})
    work.take(ticks, 140, 300)
    work.withheld = frozenset()
    work.models = silent
    work.take(ticks, 300, 340)
    work.models = eager
    work.take(ticks, 340, 420)
    work.flatten()
    work.take(ticks, 420, 440)
    work.condition()
    work.end_halt(9_000.0)
    work.take(ticks, 440, 460)
    work.condition(drift=DRIFT)
    work.take(ticks, 460, 500)
    work.condition(drift=0.7)
    work.take(ticks, 500, 530)
    work.condition()
    work.take(ticks, 530)
    work.reach(int(ticks.time[-1]) + HOUR_NS)
    whats = {event.what for event in work.events}
    assert whats == {"answer", "mark", "placed", "clock", "conditions", "command", "resume"}
    assert len([event for event in work.events if event.what == "placed" and event.body["rows"]]) > 5
    return work


def test_a_replay_decides_the_same_bit_for_bit(recorded: Recorded, core_of: Callable[..., TradingCore]) -> None:
    core = core_of()
    marks = replay_tape(core, recorded.tape)
    assert len(marks) > 50
    assert all(mark.same for mark in marks)
    assert [mark.decisions for mark in marks] == sorted(mark.decisions for mark in marks)
    assert marks[-1].replayed == recorded.core.digest == core.digest
    assert marks[-1].decisions == recorded.core.decisions


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 1)), max_size=12), begin=st.integers(0, 11),
)  # fmt: skip
def test_it_replays_from_any_beginning_however_the_ticks_came(
    warm_work: Make, core_of: Callable[..., TradingCore], ticks: Ticks, cuts: list[tuple[int, float]], begin: int
) -> None:
    work, done = recording(warm_work), 0
    for number, (cut, share) in enumerate(sorted((place % len(ticks.time), share) for place, share in cuts)):
        work.take(ticks, done, cut)
        work.reach(work.clock + int(share * max(0, int(ticks.time[cut]) - work.clock)))
        if number == begin:
            work.begin()
        done = cut
    work.take(ticks, done)
    core = core_of()
    assert all(mark.same for mark in replay_tape(core, work.tape))
    assert core.digest == work.core.digest


def test_it_replays_without_models_too(warm_work: Make, core_of: Callable[..., TradingCore], ticks: Ticks) -> None:
    """A decision at a bar's end that acts at once is repeated at the bar's end, not with the tick after it."""
    work = recording(warm_work, asks=False)
    work.take(ticks)
    assert not [event for event in work.events if event.what == "answer"]
    assert len([event for event in work.events if event.what == "placed"]) > 5
    core = core_of(asks=False)
    assert all(mark.same for mark in replay_tape(core, work.tape))
    assert core.digest == work.core.digest


def outcome(core: TradingCore, tape: Tape) -> int | None:
    """Return at which tick a replay first differs, or is refused; None: never."""
    try:
        return next((mark.ticks for mark in replay_tape(core, tape) if not mark.same), None)
    except DataError:
        return -1


@settings(max_examples=15, deadline=None)
@given(place=st.floats(0.0, 0.9), factor=st.sampled_from([0.997, 1.003]))
def test_one_changed_tick_is_noticed_and_not_before_it(
    recorded: Recorded, core_of: Callable[..., TradingCore], place: float, factor: float
) -> None:
    tape = recorded.tape
    at = int(place * len(tape.ticks))
    altered = tape.ticks.copy()
    altered["bid"][at] *= factor
    altered["ask"][at] *= factor
    found = outcome(core_of(), dataclasses.replace(tape, ticks=altered))
    assert found is not None
    assert found == -1 or found > at


def test_one_changed_answer_is_noticed(recorded: Recorded, core_of: Callable[..., TradingCore]) -> None:
    tape = recorded.tape
    places = [
        place
        for place, event in enumerate(tape.events)
        if event.what == "answer" and None not in event.body["values"][0][:2]
    ]
    for place in places[:: len(places) // 7]:
        events = list(tape.events)
        event = events[place]
        said = [row[:] for row in event.body["values"]]
        said[0][0] -= 1e-12
        events[place] = dataclasses.replace(event, body={**event.body, "values": said})
        found = outcome(core_of(), dataclasses.replace(tape, events=events))
        assert found is not None
        assert found == -1 or found >= event.ticks


def without_drift(event: TapeEvent) -> TapeEvent:
    """Return an event as it was recorded before drift was told."""
    body = {name: value for name, value in event.body.items() if name != "drift"}
    return dataclasses.replace(event, body=body) if event.what == "conditions" else event


def test_drift_that_is_missing_or_another_is_noticed(recorded: Recorded, core_of: Callable[..., TradingCore]) -> None:
    tape = recorded.tape
    place = next(place for place, event in enumerate(tape.events) if event.body.get("drift") == DRIFT)
    event = tape.events[place]
    for other in (without_drift(event), dataclasses.replace(event, body={**event.body, "drift": DRIFT + 1e-12})):
        events = [*tape.events[:place], other, *tape.events[place + 1 :]]
        found = outcome(core_of(), dataclasses.replace(tape, events=events))
        assert found is not None
        assert found == -1 or found >= event.ticks


def test_a_tape_from_before_drift_was_told_is_replayed(
    warm_work: Make, core_of: Callable[..., TradingCore], ticks: Ticks
) -> None:
    work = recording(warm_work)
    work.take(ticks, 0, 100)
    work.condition(healthy=False)
    work.take(ticks, 100, 140)
    work.condition()
    work.take(ticks, 140, 240)
    old = dataclasses.replace(work.tape, events=[without_drift(event) for event in work.events])
    assert sum(event.what == "conditions" for event in old.events) == 2
    core = core_of()
    assert all(mark.same for mark in replay_tape(core, old))
    assert core.digest == work.core.digest


@given(
    healthy=st.booleans(),
    command=st.sampled_from(Command),
    drift=st.floats(0, 1) | st.just(math.nan),
    best=st.integers(1, 4),
)
def test_conditions_come_back_exactly(healthy: bool, command: Command, drift: float, best: int) -> None:
    told = Conditions(healthy=healthy, command=int(command), drift=drift, best_level=best)
    read = conditions_of(json.loads(json.dumps(conditions_body(told), allow_nan=False)))
    assert repr(read) == repr(told)


@pytest.mark.parametrize("body", [{}, {"healthy": True}, {"healthy": True, "command": 0, "drift": "much"}])
def test_conditions_that_cannot_be_read_are_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="conditions that cannot be read"):
        conditions_of(body)


@pytest.mark.parametrize(
    "changes",
    [
        {"risk": {"entry_score_min": 0.5}}, {"risk": {"target_volatility": 0.11}}, {"risk": {"combine": "parallel"}},
        {"move_atr": 2.0}, {"refresh_s": 400.0}, {"stale_s": 50.0}, {"asks": False},
    ],
)  # fmt: skip
def test_another_configuration_is_noticed(
    recorded: Recorded, core_of: Callable[..., TradingCore], changes: dict[str, Any]
) -> None:
    assert outcome(core_of(**changes), recorded.tape) is not None


def test_another_market_is_refused(recorded: Recorded, core_of: Callable[..., TradingCore], spec_of: Specs) -> None:
    with pytest.raises(DataError, match="EURUSD, GBPUSD, XAUUSD"):
        replay_tape(core_of("EURUSD", "XAUUSD", "GBPUSD"), recorded.tape)
    with pytest.raises(FeatureMismatchError):
        replay_tape(new_work(spec_of(*SYMBOLS, base=Timeframe.M15)).core, recorded.tape)
    with pytest.raises(DataError, match="snapshot"):
        replay_tape(core_of(), dataclasses.replace(recorded.tape, start=recorded.start[:-7]))


def test_a_torn_tape_is_replayed_as_far_as_it_goes_and_not_beyond(
    recorded: Recorded, core_of: Callable[..., TradingCore]
) -> None:
    tape = recorded.tape
    kept = len(tape.ticks) // 2
    with pytest.raises(DataError, match="torn"):
        replay_tape(core_of(), dataclasses.replace(tape, ticks=tape.ticks[:kept]))
    known = [event for event in tape.events if event.ticks <= kept]
    for events in (known, known[:-1], known[: len(known) // 2], []):
        marks = replay_tape(core_of(), dataclasses.replace(tape, ticks=tape.ticks[:kept], events=events))
        assert all(mark.same for mark in marks)
        assert len(marks) == len([event for event in events if event.what == "mark"])


def test_a_missing_event_is_refused(recorded: Recorded, core_of: Callable[..., TradingCore]) -> None:
    tape = recorded.tape
    for what in ("answer", "placed"):
        place = next(place for place, event in enumerate(tape.events) if event.what == what and place > 40)
        with pytest.raises(DataError, match="the core wants"):
            replay_tape(core_of(), dataclasses.replace(tape, events=[*tape.events[:place], *tape.events[place + 1 :]]))


def test_a_stretch_of_any_length_is_replayed(warm_work: Make, core_of: Callable[..., TradingCore]) -> None:
    """More decisions worth a record than the log has places, and between two clocks; nobody drains the replay's."""
    work = recording(warm_work, "EURUSD", "GBPUSD")
    wide = 5 * float(work.core.core.features[0]["spread_median"])
    bid, ask = work.quote()
    clock = work.clock
    storm = [
        Tick(0, clock + number * SECOND_NS // 10, bid, bid + wide if number % 2 else ask + number % 3 * work.point())
        for number in range(1, 2_600)
    ]
    for first in range(0, len(storm), 130):
        work.take(storm[first : first + 130])
        work.reach(work.clock + 1)
    work.reach(work.clock + HOUR_NS)
    assert work.core.decisions > 2 * LOG_ROWS
    core = core_of("EURUSD", "GBPUSD")
    assert all(mark.same for mark in replay_tape(core, work.tape))
    assert core.digest == work.core.digest


def test_an_account_of_many_deals_is_replayed(warm_work: Make, spec_of: Specs, ticks: Ticks) -> None:
    """The ledger's events are drained by whoever records; a replay forgets them."""
    work = recording(warm_work)
    work.take(ticks)
    assert len(work.booked) > 8
    spec = spec_of(*SYMBOLS, move_atr=0.7)
    core = new_work(spec, events=8).core
    assert all(mark.same for mark in replay_tape(core, work.tape))
    assert core.digest == work.core.digest
