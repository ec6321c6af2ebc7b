"""The core's face: what it remembers over restarts, what it refuses, and what it is ready for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.core.rows import NEVER, Event, Kind, Ticks
from fx_dagster.core.state import CoreSpec
from fx_dagster.core.trading import TradingCore
from fx_dagster.errors import DataError, FeatureMismatchError, SettingsError
from fx_dagster.market.timeframes import DAY_NS, HOUR_NS, MINUTE_NS, SECOND_NS, Timeframe, from_server, to_server
from fx_dagster.models.inputs import UNKNOWN_SYMBOL

from .conftest import MADE_UNTIL, Market, Tick, Work, copy_ledger, eager, new_work, remembered, ticks_of, whole

BAR_NS = Timeframe.M5.nominal_ns
Make = Callable[..., Work]
SYMBOLS = ("EURUSD", "GBPUSD", "XAUUSD")


def trading(warm_work: Make, *symbols: str, **options: Any) -> Work:
    return warm_work(*(symbols or SYMBOLS), models=eager, move_atr=0.7, **options)


@pytest.fixture(scope="module")
def tape(made: Market) -> Ticks:
    """Five hours of three symbols; a few ticks of each bar are doubled or leap away."""
    first, last = made.before(MADE_UNTIL), made.before(MADE_UNTIL + 5 * HOUR_NS)
    ticks = Ticks(*(np.repeat(column[first:last], 2) for column in made.ticks))
    ticks.bid[309::34] *= 1.02
    ticks.ask[309::34] *= 1.02
    ticks.flags[309::34] = 0
    return ticks


@pytest.fixture(scope="module")
def undisturbed(warm_work: Make, tape: Ticks) -> Work:
    work = trading(warm_work)
    work.take(tape)
    assert work.booked
    assert work.core.counts()["ticks_rejected"].keys() >= {"duplicate", "spike"}
    assert work.core.counts()["material_moves"]
    return work


# -- restarts ---------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(cut=st.integers(0, 10_000), ahead=st.floats(0, 1))
def test_a_copy_of_the_whole_goes_on_bit_for_bit(
    warm_work: Make, spec_of: Callable[..., CoreSpec], tape: Ticks, undisturbed: Work, cut: int, ahead: float
) -> None:
    cut %= len(tape.time)
    first = trading(warm_work, keeps_log=False)
    first.take(tape, 0, cut)
    first.reach(first.clock + int(ahead * max(0, int(tape.time[cut]) - first.clock)))
    second = new_work(spec_of(*SYMBOLS, move_atr=0.7), eager)
    second.core.restore_whole(first.core.whole())
    assert second.traces() == first.traces()
    assert remembered(second.core) == remembered(first.core)
    second.take(tape, cut)
    assert second.traces() == undisturbed.traces()
    logged = [one.said for one in undisturbed.logged]
    assert [one.said for one in second.logged] == logged[len(logged) - len(second.logged) :]


@settings(max_examples=20, deadline=None)
@given(cuts=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)), ahead=st.floats(0, 1))
def test_an_older_market_that_is_followed_is_as_good_as_never_having_stopped(
    warm_work: Make, spec_of: Callable[..., CoreSpec], tape: Ticks, undisturbed: Work, cuts: tuple[int, int],
    ahead: float,
) -> None:  # fmt: skip
    older, cut = sorted(place % len(tape.time) for place in cuts)
    first = trading(warm_work, keeps_log=False)
    first.take(tape, 0, older)
    pack = first.core.market_copy()
    first.take(tape, older, cut)
    first.reach(first.clock + int(ahead * max(0, int(tape.time[cut]) - first.clock)))
    state, market = first.core.session_state(), pack()

    second = new_work(spec_of(*SYMBOLS, move_atr=0.7), eager)
    reached = second.core.reached(state)
    assert reached == first.core.clock
    since = second.core.restore_market(market, not_after=reached)
    assert since <= reached
    decisions = second.core.decisions
    second.core.follow(tape, older, cut, reached[0])
    assert second.core.decisions == decisions, "following decides nothing"
    assert not second.core.core.ledger.positions["lots"].any(), "and trades nothing"
    second.core.restore_session(state)
    copy_ledger(first.core.core.ledger, second.core.core.ledger)
    assert second.traces() == first.traces()
    second.take(tape, cut)
    assert second.traces() == undisturbed.traces()


def test_a_market_copy_is_of_its_own_moment(warm_work: Make, tape: Ticks) -> None:
    work = trading(warm_work)
    work.take(tape, 0, 100)
    pack, then, reached = work.core.market_copy(), work.core.whole(), work.core.clock
    work.take(tape, 100, 200)
    one, other = new_work(work.core.spec), new_work(work.core.spec)
    assert one.core.restore_market(pack(), not_after=reached) == reached
    other.core.restore_market(then, not_after=reached)
    assert remembered(one.core) == remembered(other.core)


def test_what_waits_to_be_written_down_is_not_remembered(spec_of: Callable[..., CoreSpec]) -> None:
    work, other = new_work(spec_of("EURUSD")), new_work(spec_of("EURUSD"))
    assert work.core.take(ticks_of([Tick(0, MADE_UNTIL, 1.1, 1.1001)]), 0, 1) == (1, Event.DONE)
    assert work.core.core.control["logged"][0] == 1
    other.core.restore_whole(work.core.whole())
    assert other.core.drain_log() == []
    assert len(work.core.drain_log()) == 1


# -- restarts with other settings or symbols --------------------------------------------------------------------------


def test_new_settings_count_from_the_restart_on(warm_work: Make, spec_of: Callable[..., CoreSpec]) -> None:
    work = warm_work("EURUSD")
    work.take(work.calm(20))
    spec = spec_of("EURUSD", stale_s=40.0, move_atr=3.0, refresh_s=9.0, spike_z=7.0, logs=False)
    other = new_work(spec)
    other.core.restore_whole(work.core.whole())
    control, gate = other.core.core.control[0], other.core.core.gate[0]
    assert (control["stale_ns"], control["move_atr"], control["refresh_ns"]) == (40 * SECOND_NS, 3.0, 9 * SECOND_NS)
    assert not control["logs"]
    assert gate["spike_z"] == 7.0
    other.take(other.calm(1, after=50))
    assert other.core.counts()["gaps"] == 1


def with_history(spec: CoreSpec, market: Market, clock: int) -> Work:
    """Return a core that knows the market up to a clock from history and from the ticks since the last bar."""
    work = new_work(spec, eager)
    start = clock // BAR_NS * BAR_NS
    work.core.warm_up(market.history(start), start)
    work.core.follow(market.ticks, market.before(start), market.before(clock), clock)
    return work


def test_a_session_goes_on_with_a_symbol_more_and_one_less(
    warm_work: Make, only: Callable[..., Market], spec_of: Callable[..., CoreSpec]
) -> None:
    old = trading(warm_work, "EURUSD", "GBPUSD")
    market = only("EURUSD", "GBPUSD")
    clock = MADE_UNTIL + 2 * HOUR_NS + 70 * SECOND_NS
    old.take(market.ticks, market.before(MADE_UNTIL), market.before(clock))
    old.reach(clock)
    market = only("GBPUSD", "XAUUSD")
    work = with_history(spec_of("GBPUSD", "XAUUSD", start=MADE_UNTIL, move_atr=0.7), market, clock)
    fresh = work.core.core.states[1].tobytes(), work.core.core.inputs[1].tobytes()
    work.core.restore_session(old.core.session_state())
    for name in ("inputs", "states"):
        assert getattr(work.core.core, name)[0].tobytes() == getattr(old.core.core, name)[1].tobytes()
    assert (work.core.core.states[1].tobytes(), work.core.core.inputs[1].tobytes()) == fresh
    assert (work.core.digest, work.core.decisions, work.core.clock) == (
        old.core.digest, old.core.decisions, old.core.clock,
    )  # fmt: skip
    assert work.core.core.memory.tobytes() == old.core.core.memory.tobytes()
    work.take(market.ticks, market.before(clock), market.before(clock + 2 * HOUR_NS))
    assert {one.row for one in work.logged if one.kind is Kind.BAR} == {0, 1}


@pytest.mark.parametrize("now", [0.6, 0.2, float("nan")])
def test_after_a_restart_drift_is_what_is_told_then_for_new_symbols_too(
    warm_work: Make, spec_of: Callable[..., CoreSpec], now: float
) -> None:
    old = trading(warm_work, "EURUSD", "GBPUSD")
    old.core.set_conditions(healthy=True, command=0, drift=0.6)
    old.take(old.calm(3))
    work = new_work(spec_of("GBPUSD", "XAUUSD", start=MADE_UNTIL, move_atr=0.7), eager)
    work.core.restore_session(old.core.session_state())
    np.testing.assert_array_equal(work.core.core.inputs["drift"], [0.6, np.nan])
    assert work.core.set_conditions(healthy=True, command=0, drift=now), "one of them has not been told"
    np.testing.assert_array_equal(work.core.core.inputs["drift"], [now, now])


def test_another_symbol_does_not_inherit_what_is_known_of_the_only_one(
    warm_work: Make, spec_of: Callable[..., CoreSpec]
) -> None:
    old = trading(warm_work, "EURUSD")
    old.take(old.calm(30))
    other = new_work(spec_of("GBPUSD"))
    fresh = [getattr(other.core.core, name).tobytes() for name in ("inputs", "states", "watch")]
    other.core.restore_session(old.core.session_state())
    assert [getattr(other.core.core, name).tobytes() for name in ("inputs", "states", "watch")] == fresh
    assert other.core.digest == old.core.digest


def test_a_symbol_keeps_its_own_hours_beside_others(warm_work: Make, spec_of: Callable[..., CoreSpec]) -> None:
    """Gold rests from 17:00 to 18:00 New York; that a currency now comes first does not change it."""
    old = warm_work("XAUUSD", "EURUSD")
    old.take(old.calm(1, rows=(0, 1)))
    work = new_work(spec_of("EURUSD", "XAUUSD", start=MADE_UNTIL))
    work.core.restore_session(old.core.session_state())
    midnight = to_server(np.array([MADE_UNTIL])) // DAY_NS * DAY_NS + DAY_NS
    rest = int(from_server(midnight)[0]) + 30 * MINUTE_NS
    assert work.core.silent(rest).tolist() == [True, False]
    assert work.core.silent(rest + 45 * MINUTE_NS).tolist() == [True, True]


def test_the_bar_of_an_added_symbol_ends_although_the_old_ones_had_none(
    warm_work: Make, only: Callable[..., Market], spec_of: Callable[..., CoreSpec]
) -> None:
    old = warm_work("GBPUSD", "XAUUSD")
    clock = MADE_UNTIL + 130 * SECOND_NS
    old.reach(clock)
    assert old.core.core.control["next_close"][0] == NEVER
    market = only("EURUSD")._replace(frames=only(*SYMBOLS).frames)
    work = with_history(spec_of(*SYMBOLS, start=MADE_UNTIL), market, clock)
    assert work.core.core.forming[0, 0]["count"] > 0
    work.core.restore_session(old.core.session_state())
    end = MADE_UNTIL + BAR_NS
    bid, ask = work.quote()
    work.take([Tick(0, end + 20 * SECOND_NS, bid + 0.5, ask + 0.5)])
    assert work.core.core.watch[0]["bar_time"] == MADE_UNTIL
    assert work.core.core.forming[0, 0]["time"] == end


# -- refusals ---------------------------------------------------------------------------------------------------------

RESTORES: dict[str, Callable[[TradingCore, bytes], object]] = {
    "session": lambda core, data: core.restore_session(data),
    "market": lambda core, data: core.restore_market(data, not_after=(NEVER, NEVER)),
    "whole": lambda core, data: core.restore_whole(data),
    "reached": lambda core, data: core.reached(data),
}


def packed(work: Work, kind: str) -> bytes:
    core = work.core
    return {"session": core.session_state, "reached": core.session_state, "market": core.market_copy(),
            "whole": core.whole}[kind]()  # fmt: skip


@pytest.mark.parametrize("kind", RESTORES)
def test_a_state_of_other_features_is_refused(warm_work: Make, spec_of: Callable[..., CoreSpec], kind: str) -> None:
    other = new_work(spec_of("EURUSD", base=Timeframe.M15))
    before = other.core.whole()
    with pytest.raises(FeatureMismatchError, match="other features"):
        RESTORES[kind](other.core, packed(warm_work("EURUSD"), kind))
    assert other.core.whole() == before


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_an_altered_or_torn_state_is_refused_and_nothing_changes(
    warm_work: Make, spec_of: Callable[..., CoreSpec], data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(sorted(RESTORES)))
    good = packed(warm_work("EURUSD"), kind)
    place = int(data.draw(st.floats(0, 1, exclude_max=True)) * len(good))
    bad = good[:place]
    if data.draw(st.booleans()):
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    other = new_work(spec_of("EURUSD"))
    before = other.core.whole()
    with pytest.raises((DataError, FeatureMismatchError)):
        RESTORES[kind](other.core, bad)
    assert other.core.whole() == before


@pytest.mark.parametrize("changes", [{"horizon_bars": 7}, {"simple_models": 3}])
def test_a_session_of_another_layout_is_refused_whole(
    warm_work: Make, spec_of: Callable[..., CoreSpec], changes: dict[str, int]
) -> None:
    other = new_work(spec_of("EURUSD", changes=changes))
    before = other.core.whole()
    with pytest.raises(DataError, match="another layout"):
        other.core.restore_session(warm_work("EURUSD").core.session_state())
    assert other.core.whole() == before


def test_a_market_of_later_or_of_others_is_refused(warm_work: Make, spec_of: Callable[..., CoreSpec]) -> None:
    work = warm_work("EURUSD", "GBPUSD")
    work.take(work.calm(20, rows=(0, 1)))
    state, reached = work.core.market_copy()(), work.core.clock
    other = new_work(spec_of("EURUSD", "GBPUSD"))
    for not_after in ((reached[0] - 1, 99), (reached[0], reached[1] - 1)):
        with pytest.raises(DataError, match="later"):
            other.core.restore_market(state, not_after=not_after)
    assert other.core.restore_market(state, not_after=reached) == reached
    with pytest.raises(DataError, match="EURUSD, GBPUSD"):
        new_work(spec_of("GBPUSD", "EURUSD")).core.restore_market(state, not_after=reached)


@pytest.mark.parametrize("name", ["stale_s", "move_atr", "refresh_s", "history_bars", "spike_z"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_an_impossible_spec_is_refused_by_name(spec_of: Callable[..., CoreSpec], name: str, value: float) -> None:
    spec = spec_of("EURUSD", **{name: value})
    with pytest.raises(SettingsError, match="spike_robust_z" if name == "spike_z" else name):
        new_work(spec)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("risk_per_trade_max", float("nan")), ("stop_atr", -1.0), ("hold_bars_max", 0), ("loss_decay", 1.5),
        ("stage_thresholds", (0.1, 0.05, 0.08, 0.2)), ("vote_weights", (0.5,) * 13), ("best_level", 0),
        ("regime_stop_max", (0.5, 0.02, 0.015, 0.01, 0.025)), ("drift_max", 0.9),
    ],
)  # fmt: skip
def test_an_impossible_configuration_is_refused_by_name(
    spec_of: Callable[..., CoreSpec], name: str, value: object
) -> None:
    spec = spec_of("EURUSD", changes={name: value})
    with pytest.raises(SettingsError, match=name):
        new_work(spec)


# -- what it says and is ready for -------------------------------------------------------------------------------------


def test_the_log_has_bars_moves_and_what_acts_or_changes_and_no_quiet_tick(undisturbed: Work) -> None:
    work = undisturbed
    assert [one.number for one in work.logged] == sorted({one.number for one in work.logged})
    assert len(work.logged) < work.core.decisions
    before: dict[int, tuple[int, tuple[str, ...]]] = {}
    for one in work.logged:
        found = one.said.level, one.said.breakers
        notable = one.kind in (Kind.BAR, Kind.MOVE) or one.acts or before.get(one.row, (0, ())) != found
        assert notable, f"decision {one.number} says nothing new"
        assert one.acts == (one.said.action != "none")
        assert one.said.symbol == SYMBOLS[one.row]
        before[one.row] = found
    asked = {(question.time, int(row)) for question in work.questions for row in question.rows}
    assert {(one.time, one.row) for one in work.logged if one.kind is Kind.BAR} <= asked


def test_counts_are_plain_numbers(undisturbed: Work) -> None:
    counts = undisturbed.core.counts()
    assert json.loads(json.dumps(counts)) == counts
    assert counts["decisions"] == undisturbed.core.decisions == sum(counts[f"level_{level}"] for level in range(1, 5))
    assert counts["questions"] == len(undisturbed.questions)


def test_inputs_to_warm_models_up_with_are_of_symbols_that_are_ready(
    warm_work: Make, made: Market, spec_of: Callable[..., CoreSpec]
) -> None:
    work = warm_work(*SYMBOLS)
    names, found = work.core.sample()
    catalogue = work.core.spec.catalogue
    assert names == SYMBOLS
    assert found.features.shape == (3, len(catalogue))
    assert found.sequence.shape == (3, *catalogue.sequence_shape)
    assert found.chart.shape == (3, *catalogue.chart_shape)
    assert all(np.isfinite(part).all() for part in (found.features, found.sequence, found.chart))
    assert found.time.tolist() == work.core.core.watch["bar_time"].tolist()
    assert found.symbol.tolist() == [UNKNOWN_SYMBOL] * 3
    cold = new_work(spec_of(*SYMBOLS))
    cold.take(made.ticks, 0, 500)
    names, found = cold.core.sample()
    assert (names, len(found)) == ((), 0)


def test_a_person_ends_a_halt(warm_work: Make) -> None:
    work = warm_work("EURUSD", models=eager, risk={"daily_loss_max": 0.9})
    work.take(work.calm(1))
    work.core.core.memory["peak_equity"] = 12_000.0
    work.take(work.calm(3))
    assert work.core.halted
    work.core.end_halt(10_000.0)
    assert not work.core.halted
    work.take(work.calm(3))
    assert not work.core.halted


def test_the_rehearsal_leaves_no_trace(warm_work: Make) -> None:
    work = trading(warm_work)
    work.take(work.calm(5, rows=(0, 1, 2)))
    before, account = work.core.whole(), [array.tobytes() for array in work.core.core.ledger]
    work.core.rehearse()
    assert work.core.whole() == before
    assert [array.tobytes() for array in work.core.core.ledger] == account


def test_a_core_can_be_rehearsed_before_it_has_seen_anything(spec_of: Callable[..., CoreSpec]) -> None:
    work = new_work(spec_of(*SYMBOLS))
    before = work.core.whole()
    work.core.rehearse()
    assert work.core.whole() == before


def test_after_the_rehearsal_nothing_is_compiled_any_more() -> None:
    """In a process of its own, where nothing else has made anything ready."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "tests.core.rehearsed"], cwd=root, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr[-2_000:]


def test_answers_out_of_order_go_to_their_symbols(warm_work: Make) -> None:
    work = warm_work("EURUSD", "GBPUSD")
    work.take(work.calm(5, rows=(0, 1)))
    end = work.clock // BAR_NS * BAR_NS + BAR_NS
    assert work.core.reach(end) is Event.ASK
    question = work.core.question()
    assert question.rows.tolist() == [0, 1]
    work.core.answer([1, 0], whole(work.core, np.array([[0.9, 0.8], [0.2, 0.3]])))
    work.core.decide()
    assert work.core.core.inputs["p_up"].tolist() == [[0.2, 0.3], [0.9, 0.8]]
