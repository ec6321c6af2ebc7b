import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fx_dagster.decision.fallback import model_level, next_level

SECOND = 1_000_000_000
RECOVER = 60 * SECOND


class Fallback(RuleBasedStateMachine):
    """Level against the plain rule: it may only rise to what the last 60 s, seen without a break, allow."""

    def __init__(self):
        super().__init__()
        self.state = (0, 0, 0)
        self.time = 1_000 * SECOND
        self.seen = []

    @rule(observed=st.integers(1, 4), pause=st.integers(0, 90))
    def look(self, observed, pause):
        self.time += pause * SECOND
        self.before = self.state[0]
        self.state = next_level(*self.state, observed, self.time, RECOVER)
        self.seen.append((self.time, observed))

    @invariant()
    def down_at_once_and_up_only_after_health(self):
        if not self.seen:
            return
        level, observed = self.state[0], self.seen[-1][1]
        assert level >= observed
        if level < self.before:
            worst = [seen for time, seen in self.seen if time > self.time - RECOVER]
            assert max(worst) <= level
            assert self.time - self.seen[0][0] >= RECOVER


Fallback.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestFallback = Fallback.TestCase


def test_up_takes_sixty_seconds():
    state = next_level(0, 0, 0, 2, SECOND, RECOVER)
    assert state[0] == 2
    state = next_level(*state, 4, 2 * SECOND, RECOVER)
    assert state[0] == 4
    state = next_level(*state, 2, 3 * SECOND, RECOVER)
    assert next_level(*state, 2, 62 * SECOND, RECOVER)[0] == 4
    assert next_level(*state, 2, 63 * SECOND, RECOVER)[0] == 2


def test_flickering_health_starts_the_minute_again():
    state = next_level(3, 3, 0, 2, SECOND, RECOVER)
    state = next_level(*state, 3, 40 * SECOND, RECOVER)
    state = next_level(*state, 2, 50 * SECOND, RECOVER)
    assert next_level(*state, 2, 62 * SECOND, RECOVER)[0] == 3
    assert next_level(*state, 2, 110 * SECOND, RECOVER)[0] == 2


@pytest.mark.parametrize(
    ("p_up", "deep", "meta", "best", "level"),
    [
        ([0.6, 0.4], 0, False, 2, 2),
        ([0.6, np.nan], 0, False, 2, 3),
        ([0.6, 1.2], 0, False, 2, 3),
        ([0.6, np.inf], 0, False, 2, 3),
        ([0.6], 0, False, 2, 3),
        ([], 0, False, 3, 3),
        ([0.6, 0.4], 0, False, 3, 3),
        ([0.6, 0.4, 0.5], 1, False, 1, 1),
        ([0.6, 0.4, np.nan], 1, False, 1, 2),
        ([0.6, 0.4], 1, False, 1, 2),
        ([0.6, 0.4, 0.5, np.nan], 1, True, 1, 2),
        ([0.6, 0.4, 0.5, 0.7], 1, True, 1, 1),
        ([np.nan, 0.4, 0.5, 0.7], 1, True, 1, 3),
    ],
)
def test_level_that_the_models_allow(p_up, deep, meta, best, level):
    simple = 2 if best < 3 or p_up else 0
    said = np.array(p_up, dtype=np.float64)
    assert model_level(said, simple, deep, meta, best, True) == level
    # Without confidence, attention or regime there is no level 1, and nothing else is any different.
    assert model_level(said, simple, deep, meta, best, False) == max(level, 2)
