"""What models say beside probabilities: believed inside its range, at the full level alone, never beyond a limit."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fx_dagster.decision.answers import ANSWER_EXTRAS, forget_answer, take_answer, take_answers
from fx_dagster.decision.codes import Action, Command, Level, Reason, Regime, Size
from fx_dagster.decision.config import traditional_control
from fx_dagster.decision.rows import input_dtype
from fx_dagster.models.answer import EXTRAS, SIZE_MAX

from .conftest import FULL, fill_extras

ONCE = [HealthCheck.function_scoped_fixture]
RANGES = {"confidence": (0.0, 1.0), "attention": (-1.0, 1.0), "size": (0.0, SIZE_MAX), "enter": (0.0, 1.0),
          "exit_long": (0.0, 1.0), "exit_short": (0.0, 1.0)}  # fmt: skip
numbers = st.one_of(st.floats(-2.0, 3.0), st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 0.5, 1.0, 1e300]))
answered = st.one_of(st.floats(0.0, 1.0), st.just(math.nan))
"""An impossible probability is named as such whoever asked."""
extras = st.lists(numbers, min_size=ANSWER_EXTRAS, max_size=ANSWER_EXTRAS).map(np.array)
WHOLE = np.array([0.8, 0.8, 0.7, 0.7, 0.9])
GOOD = np.array([0.75, Regime.BULL, 0.5, math.nan, math.nan, math.nan, math.nan])


def row_of(models=5):
    rows = np.zeros(1, input_dtype(models))
    forget_answer(rows[0])
    rows["version"] = 0
    return rows


def taken(row):
    """What the row says of the extras, in the order of the answer."""
    return np.array([row["confidence"], row["regime"], row["votes"][13], row["size"], *row["timing"]])


@settings(deadline=None)
@given(st.lists(numbers, min_size=5, max_size=5).map(np.array), extras)
def test_an_answer_is_taken_where_it_lies_in_its_range(p_up, said):
    rows = row_of()
    take_answer(rows[0], np.concatenate([p_up, said]))
    np.testing.assert_array_equal(rows["p_up"][0], p_up)
    for name, value, found in zip(EXTRAS, said, taken(rows[0]), strict=True):
        if name == "regime":
            assert found == (value if value in (1, 2, 3, 4) else 0)
        else:
            low, high = RANGES[name]
            np.testing.assert_equal(found, value if low <= value <= high else math.nan)
    assert rows["version"][0] == 1


@pytest.mark.parametrize(("code", "regime"), [(0, 0), (1, 1), (4, 4), (5, 0), (-1, 0), (2.5, 0), (1e300, 0)])
def test_a_regime_is_one_of_its_codes(code, regime):
    rows = row_of(0)
    take_answer(rows[0], np.array([0.5, code, *[0.5] * 5]))
    assert rows["regime"][0] == regime


@pytest.mark.parametrize("width", [0, 5, 11, 13])
def test_a_forgotten_answer_and_one_of_another_length_are_absent(width):
    rows, others = row_of(), row_of()
    for taker in rows, others:
        take_answer(taker[0], np.concatenate([WHOLE, GOOD]))
    rows["votes"][:, :13] = others["votes"][:, :13] = 0.25
    forget_answer(rows[0])
    take_answer(others[0], np.ones(width))
    for found in rows, others:
        assert np.isnan(found["p_up"]).all()
        np.testing.assert_array_equal(taken(found[0]), [math.nan, 0, *[math.nan] * 5])
        assert (found["votes"][:, :13] == 0.25).all()
        assert found["version"][0] == 2


def test_many_answers_are_taken_one_by_one():
    said = np.random.default_rng(1).uniform(0, 1, (6, 2 + ANSWER_EXTRAS))
    rows, single = np.zeros(6, input_dtype(2)), np.zeros(6, input_dtype(2))
    take_answers(rows, said)
    for row, values in zip(single, said, strict=True):
        take_answer(row, values)
    assert rows.tobytes() == single.tobytes()


def whole(bench, said=GOOD, *, regime=Regime.BULL, **changes):
    """A desk with a whole answer that says "long"."""
    risk = {"explore_risk": 0.01}
    b = bench(risk=risk, models=FULL, **changes)
    b.inputs.p_up[0] = WHOLE
    fill_extras(b.inputs, 0, regime=regime)
    answer(b, said)
    return b


def answer(b, said):
    take_answer(b._inputs[0], np.concatenate([b.inputs.p_up[0], said]))


def agents(size=math.nan, enter=math.nan, exit_long=math.nan, exit_short=math.nan):
    return np.array([*GOOD[:3], size, enter, exit_long, exit_short])


def told(out):
    """Every field of a decision, comparable."""
    return {name: np.asarray(out[name]).tobytes() for name in out.dtype.names}


def test_the_sizing_agent_scales_the_wish(bench):
    usual = whole(bench).decide().sizes[0].copy()
    out = whole(bench, agents(size=0.4)).decide()
    assert out.level[0] == Level.FULL_AI
    assert usual[Size.AGENT] == usual[Size.CONFIDENCE] == out.sizes[0, Size.CONFIDENCE]
    assert out.sizes[0, Size.AGENT] == pytest.approx(0.4 * usual[Size.CONFIDENCE])
    assert out.sizes[0, Size.DRAWDOWN] == pytest.approx(0.4 * usual[Size.DRAWDOWN])


def test_a_size_of_nothing_is_no_entry(bench):
    b = whole(bench, agents(size=0.0))
    out = b.decide()
    assert out.action[0] == Action.NONE
    assert Reason.BELOW_MINIMUM_LOT in b.reasons(out)
    assert not out.sizes[0, Size.AGENT :].any()


@settings(max_examples=60, deadline=None, suppress_health_check=ONCE)
@given(st.floats(0.0, SIZE_MAX), st.floats(0.0, SIZE_MAX), st.floats(0.3, 1.0))
def test_a_larger_factor_never_trades_less_and_none_goes_beyond_the_limits(bench, one, other, confidence):
    lots = []
    for size in sorted((one, other)):
        b = whole(bench, np.array([confidence, *agents(size=size)[1:]]))
        out = b.decide()
        lots.append(out.target_lots[0])
        sizes = out.sizes[0]
        assert lots[-1] <= sizes[Size.AGENT :].min()
        assert out.risk_money[0] <= 0.01 * b.equity * (1 + 1e-12)
        assert lots[-1] * b.inputs.ask[0] * 100_000 / 30 <= 0.15 * b.equity * (1 + 1e-12)
    assert lots[0] <= lots[1]


@pytest.mark.parametrize(("enter", "opens"), [(0.0, False), (0.49999, False), (0.5, True), (1.0, True)])
def test_the_timing_agent_keeps_an_entry_away(bench, enter, opens):
    b = whole(bench, agents(enter=enter))
    out = b.decide()
    assert (out.action[0] == Action.OPEN) == opens
    assert (Reason.TIMING_WAIT in b.reasons(out)) != opens


@settings(max_examples=40, deadline=None, suppress_health_check=ONCE)
@given(st.floats(0.0, 0.5, exclude_max=True), st.floats(0.0, SIZE_MAX), st.floats(-1.0, 1.0), st.floats(0.0, 1.0))
def test_whatever_else_is_said_an_agent_that_waits_is_heeded(bench, enter, size, attention, confidence):
    b = whole(bench, np.array([confidence, Regime.BEAR, attention, size, enter, 0.0, 0.0]))
    assert b.decide().action[0] == Action.NONE


@pytest.mark.parametrize(("lots", "place"), [(0.1, "exit_long"), (-0.1, "exit_short")])
def test_the_timing_agent_leaves_a_position_that_has_aged_a_bar(bench, lots, place):
    def held(said, **changes):
        b = whole(bench, said, **changes)
        if lots < 0:
            b.inputs.votes[0, :13], b.inputs.p_up[0] = -0.5, 1.0 - WHOLE
            said = np.array([*said[:2], -0.5, *said[3:]])
            answer(b, said)
        b.decide()
        b.hold(lots, stop=1.05 if lots > 0 else 1.15)
        return b

    b = held(agents(**{place: 0.6}))
    assert b.decide(bars=0, seconds=5).action[0] == Action.NONE
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert b.reasons(out) & (Reason.EXIT_TIMING | Reason.EXIT_REVERSAL) == Reason.EXIT_TIMING
    other = "exit_short" if place == "exit_long" else "exit_long"
    for said in (agents(**{place: 0.5}), agents(**{other: 1.0}), agents()):
        assert held(said).decide().action[0] == Action.NONE
    assert held(agents(**{place: 0.6}), agents=False).decide().action[0] == Action.NONE
    b = held(agents(**{place: 0.6}))
    b.inputs.fresh[0] = False
    assert b.decide().action[0] == Action.NONE
    # Where an emergency has been, the agent is not asked until the level is back.
    b.inputs.fresh[0] = True
    assert b.decide(bars=0, seconds=1).action[0] == Action.NONE
    assert b.decide(bars=0, seconds=62).action[0] == Action.CLOSE


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda b: setattr(b, "command", Command.FLATTEN), Reason.EXIT_FLATTEN),
        (lambda b: setattr(b, "equity", 8_900.0), Reason.HALTED),
        (lambda b: b.configure(b.config._replace(hold_bars_max=1)), Reason.EXIT_AGE),
    ],
)
def test_what_must_be_closed_is_closed_for_its_own_reason(bench, change, reason):
    b = whole(bench, agents(exit_long=1.0))
    b.decide()
    b.hold(0.1, stop=1.05)
    change(b)
    out = b.decide()
    assert out.action[0] == Action.CLOSE
    assert reason in b.reasons(out)
    assert Reason.EXIT_TIMING not in b.reasons(out)


@pytest.mark.parametrize("said", [agents(), agents(-0.1, 1.1, np.inf, -0.2), agents(1.6, -1.0, 2.0, 7.0)])
@pytest.mark.parametrize("held", [0.0, 0.1, -0.1])
def test_absent_and_impossible_agents_change_nothing(bench, said, held):
    one, other = whole(bench, said), whole(bench, agents(1.0, 1.0, 0.0, 0.0))
    for b in (one, other):
        b.hold(held, stop=1.05)
    for _ in range(3):
        assert told(one.decide()) == told(other.decide())


def test_agents_that_are_switched_off_change_nothing(bench):
    one, other = whole(bench, agents(0.2, 0.1, 0.9, 0.9), agents=False), whole(bench)
    assert told(one.decide()) == told(other.decide())


LOST = {"deep": 2, "meta": 4, "simple": 0}


@settings(max_examples=60, deadline=None, suppress_health_check=ONCE)
@given(extras, st.sampled_from(sorted(LOST)), st.sampled_from([0.0, 0.1, -0.1]))
def test_below_the_full_level_extras_change_no_bit(bench, said, lost, held):
    ours, plain = whole(bench), whole(bench)
    for b, extra in ((ours, said), (plain, np.full(ANSWER_EXTRAS, math.nan))):
        b.inputs.p_up[0, LOST[lost]] = math.nan
        answer(b, extra)
    for _ in range(2):
        for b in (ours, plain):
            b.hold(held, stop=1.05)
        out, other = ours.decide(), plain.decide()
        assert out.level[0] >= Level.SIMPLE_AI
        assert told(out) == told(other)
    assert ours.states["log_loss"].tobytes() == plain.states["log_loss"].tobytes()
    assert ours.states["pending_signal"].tobytes() == plain.states["pending_signal"].tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=ONCE)
@given(extras, st.lists(answered, min_size=5, max_size=5).map(np.array), st.sampled_from([0.0, 0.1, -0.1]))
def test_the_control_is_the_same_whatever_any_model_says(bench, said, p_up, held):
    ours, plain = whole(bench), whole(bench)
    for b in (ours, plain):
        b.configure(traditional_control(b.config))
    ours.inputs.p_up[0] = p_up
    answer(ours, said)
    forget_answer(plain._inputs[0])
    for _ in range(3):
        for b in (ours, plain):
            b.hold(held, stop=1.05)
        out = ours.decide()
        assert out.level[0] == Level.TRADITIONAL
        assert told(out) == told(plain.decide())


def test_extras_of_a_fully_drifted_release_do_not_count(bench):
    b = whole(bench, agents(1.5, 0.0, 1.0, 1.0))
    b.inputs.drift[0] = 0.9
    out = b.decide()
    assert (out.level[0], out.regime[0]) == (Level.TRADITIONAL, Regime.UNKNOWN)
    assert out.action[0] == Action.OPEN
    assert out.sizes[0, Size.AGENT] == out.sizes[0, Size.CONFIDENCE]
