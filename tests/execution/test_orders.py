import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.execution.orders import OrderState, Purpose, client_order_id


def test_what_ends_an_order():
    ends = {OrderState.REJECTED, OrderState.FILLED, OrderState.CANCELLED}
    assert {state for state in OrderState if state.terminal} == ends


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
