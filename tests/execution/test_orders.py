import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import TradingError
from fx_dagster.execution.orders import TRANSITIONS, OrderState, Purpose, client_order_id, transition

S = OrderState


@pytest.mark.parametrize(
    "path",
    [
        "planned journalled sent accepted filled",
        "planned journalled sent filled",
        "planned journalled sent accepted partial partial filled",
        "planned journalled sent unknown accepted filled",
        "planned journalled sent unknown not_sent",
        "planned journalled sent unknown held cancelled",
        "planned journalled sent rejected",
        "planned journalled cancelled",
    ],
)
def test_lives_an_order_may_have(path):
    states = [OrderState(name) for name in path.split()]
    for before, after in itertools.pairwise(states):
        assert transition(before, after) is after
    assert states[-1].terminal


@pytest.mark.parametrize(
    ("before", "after"),
    [(S.PLANNED, S.SENT), (S.UNKNOWN, S.SENT), (S.UNKNOWN, S.JOURNALLED), (S.HELD, S.SENT), (S.FILLED, S.CANCELLED),
     (S.REJECTED, S.ACCEPTED), (S.NOT_SENT, S.SENT), (S.PARTIAL, S.ACCEPTED), (S.JOURNALLED, S.FILLED)],
)  # fmt: skip
def test_what_may_not_follow_names_both(before, after):
    with pytest.raises(TradingError, match=f"{before} to {after}"):
        transition(before, after)


def test_every_state_has_a_row_and_nothing_is_sent_twice():
    assert set(TRANSITIONS) == set(OrderState)
    assert [state for state, following in TRANSITIONS.items() if S.SENT in following] == [S.JOURNALLED]
    assert {state for state in S if state.terminal} == {S.REJECTED, S.FILLED, S.CANCELLED, S.NOT_SENT}
    assert not any(state.open for state in S if state.terminal)


KEY = ("paper", "7", "EURUSD", 1_700_000_000_000_000_000, Purpose.OPEN, 0)


def test_the_key_is_the_same_in_every_process():
    assert client_order_id(*KEY) == 2581246276494233288


@pytest.mark.parametrize(("place", "value"), [(0, "real"), (1, "8"), (2, "GBPUSD"), (3, 1), (4, Purpose.CLOSE), (5, 1)])
def test_every_part_counts(place, value):
    other = list(KEY)
    other[place] = value
    assert client_order_id(*other) != client_order_id(*KEY)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20), st.integers(-(2**63), 2**63 - 1))
def test_the_key_fits_a_magic_number(account, session, time):
    assert 0 < client_order_id(account, session, "EURUSD", time, Purpose.MODIFY) < 2**63
