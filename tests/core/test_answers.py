"""Whole answers in the loop: what the models say reaches the step, is forgotten with its bar, and asked for again."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.core.rows import NEVER, Event, Kind, Predictions
from fx_dagster.core.state import CoreSpec, no_predictions
from fx_dagster.core.tape import answer_body, answer_values
from fx_dagster.core.trading import Question, TradingCore
from fx_dagster.decision.answers import ANSWER_EXTRAS
from fx_dagster.decision.codes import Level, Regime
from fx_dagster.decision.rows import CLASSICAL, MEMORY
from fx_dagster.errors import DataError
from fx_dagster.execution.ledger import new_ledger
from fx_dagster.market.timeframes import SECOND_NS, Timeframe
from fx_dagster.settings import CostSettings

from .conftest import MADE_UNTIL, Market, Work, new_work

M5 = Timeframe.M5
FULL = {"best_level": int(Level.FULL_AI), "deep_models": 2, "meta": True}
SAID = [0.6, 0.62, 0.58, 0.55, 0.61, 0.57, 3.0, -0.25, 1.2, 0.8, 0.1, 0.2]
Specs = Callable[..., CoreSpec]


def answering(values: Sequence[float]) -> Callable[[Work, Question], np.ndarray]:
    return lambda work, question: np.tile(np.array(values), (len(question.rows), 1))


@pytest.fixture
def work(spec_of: Specs, made: Market) -> Work:
    """Two symbols that are warm, and a configuration that knows every model."""
    names = ("EURUSD", "GBPUSD")
    made_work = new_work(spec_of(*names, start=MADE_UNTIL, changes=FULL), answering(SAID))
    made_work.core.warm_up(made.history(MADE_UNTIL), MADE_UNTIL)
    return made_work


def bar_end(work: Work) -> int:
    return work.clock // M5.nominal_ns * M5.nominal_ns + M5.nominal_ns


def test_a_whole_answer_reaches_every_field(work: Work) -> None:
    work.take(work.calm(3, rows=(0, 1)))
    row = work.inputs(1)
    assert row["p_up"].tolist() == SAID[:5]
    assert row["confidence"] == 0.57
    assert row["regime"] == Regime.HIGH_VOLATILITY
    assert row["votes"][CLASSICAL] == -0.25
    assert row["size"] == 1.2
    assert row["timing"].tolist() == [0.8, 0.1, 0.2]
    assert work.out(1)["level"] == Level.FULL_AI


def test_the_log_keeps_what_was_said(work: Work) -> None:
    work.take(work.calm(3, rows=(0, 1)))
    work.reach(bar_end(work))
    bars = [one for one in work.logged if one.kind is Kind.BAR]
    assert len(bars) == 2
    assert all(one.answer == SAID and one.p_up == SAID[:5] for one in bars)
    work.models = answering([0.6, 0.62] + [math.nan] * 10)
    work.reach(bar_end(work))
    late = work.calm(5, rows=(0,), after=2)
    work.take(late)
    work.reach(bar_end(work))
    last = [one for one in work.logged if one.kind is Kind.BAR][-1]
    assert last.answer == [0.6, 0.62] + [None] * 10


def test_a_new_bar_forgets_the_answer_before_it_asks(work: Work) -> None:
    work.take(work.calm(3, rows=(0, 1)))
    assert work.core.reach(bar_end(work)) is Event.ASK
    for row in work.core.core.inputs:
        assert np.isnan(row["p_up"]).all()
        assert np.isnan([row["confidence"], row["votes"][CLASSICAL], row["size"]]).all()
        assert np.isnan(row["timing"]).all()
        assert row["regime"] == Regime.UNKNOWN
        assert np.isfinite(row["votes"][:CLASSICAL]).all()


def test_the_level_follows_the_answer_down_at_once_and_up_after_a_minute(work: Work) -> None:
    levels = []
    for values in (SAID, [0.6, 0.62] + [math.nan] * 10, [math.nan] * 12, SAID):
        work.models = answering(values)
        work.reach(bar_end(work))
        work.take(work.calm(100, rows=(0, 1)))
        levels.append(int(work.out()["level"]))
    assert levels == [Level.FULL_AI, Level.SIMPLE_AI, Level.TRADITIONAL, Level.FULL_AI]


def test_what_lacks_is_asked_for_again_and_what_is_complete_is_not(work: Work) -> None:
    work.models = answering([0.6, 0.62] + [math.nan] * 10)
    work.take(work.calm(5, rows=(0, 1)))
    asked = len(work.questions)
    assert asked > 2
    assert {question.kind for question in work.questions} <= {Kind.RETRY, Kind.BAR}
    work.models = answering(SAID)
    work.take(work.calm(3, rows=(0, 1)))
    asked = len(work.questions)
    work.take(work.calm(20, rows=(0, 1)))
    assert len(work.questions) == asked


def test_attention_does_not_speak_for_other_symbols(work: Work) -> None:
    """What one symbol says for another is the classical indicators' alone, whatever the models said before."""
    ends = []
    for score in (-1.0, 1.0):
        core = work.core.whole()
        said = list(SAID)
        said[7] = score
        work.models = answering(said)
        work.take(work.calm(3, rows=(0, 1)))
        work.reach(bar_end(work))
        ends.append(work.core.core.agreement.copy())
        assert np.isfinite(ends[-1]).all()
        work.core.restore_whole(core)
    np.testing.assert_array_equal(ends[0], ends[1])


def test_answers_known_beforehand_are_taken_whole(made: Market, spec_of: Specs) -> None:
    spec = spec_of("EURUSD", start=MADE_UNTIL, changes=FULL)
    times = np.array([[MADE_UNTIL, MADE_UNTIL + 2 * M5.nominal_ns, NEVER]])
    values = np.array([[SAID, [*SAID[:2], *[math.nan] * 10], [math.nan] * 12]])
    ledger = new_ledger(
        spec.instruments, CostSettings(), memory=np.zeros(1, dtype=MEMORY), balance=10_000.0, leverage=30.0,
        account_currency="USD", events=512,
    )  # fmt: skip
    core = TradingCore(spec, ledger, Predictions(times, values, np.zeros(1, dtype=np.int64)))
    work = Work(core)
    core.warm_up(made.history(MADE_UNTIL), MADE_UNTIL)
    seen: list[Any] = []
    for _ in range(4):
        work.take(work.calm(5))
        work.reach(bar_end(work))
        row = work.inputs()
        seen.append((row["p_up"].tolist(), float(row["size"]), int(row["regime"])))
    assert seen[0] == (SAID[:5], 1.2, 3)
    assert np.isnan(seen[1][0]).all(), "no answer is known of the bar between"
    assert seen[2][0][:2] == SAID[:2]
    assert np.isnan(seen[2][0][2:]).all()
    assert np.isnan(seen[3][0]).all()
    assert work.questions == []


def test_a_table_without_predictions_has_all_columns() -> None:
    table = no_predictions(3, 5)
    assert table.values.shape == (3, 1, 5 + ANSWER_EXTRAS)
    assert np.isnan(table.values).all()


# -- on a tape --------------------------------------------------------------------------------------------------------


@given(values=st.lists(st.lists(st.floats(), min_size=3, max_size=3), max_size=4))
def test_an_answer_is_read_back_from_a_tape_exactly(values: list[list[float]]) -> None:
    said = np.array(values, dtype=np.float64).reshape(len(values), 3)
    body = answer_body(np.arange(len(values)), said)
    read = answer_values(json.loads(json.dumps(body)))
    assert len(read) == len(said)
    if len(said):
        np.testing.assert_array_equal(read, said)
        kept = ~np.isnan(said)
        assert read[kept].tobytes() == said[kept].tobytes()


@pytest.mark.parametrize("body", [{"rows": [0]}, {"rows": [0], "values": [["x"]]}, {"rows": [0, 1], "values": [[1.0]]}])
def test_a_body_that_is_no_answer_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="answer"):
        answer_values(body)


def test_absent_numbers_have_one_bit_pattern_in_the_core(work: Work) -> None:
    """A tape keeps that a number is absent, not how: live and replayed inputs must be the same bits all the same."""
    work.take(work.calm(3, rows=(0, 1)))
    odd = np.full((1, 12), np.nan).view(np.uint64) | np.uint64(5)
    work.core.answer([0], odd.view(np.float64))
    assert np.isnan(work.inputs()["p_up"]).all()
    assert work.inputs()["p_up"].tobytes() == np.full(5, np.nan).tobytes()
    assert work.clock % SECOND_NS == 0
