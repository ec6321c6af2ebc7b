import numpy as np

from fx_dagster import snapshot
from fx_dagster.decision.state import copy_state, forget_derived, new_state


def written(rows, seed=1):
    state, rng = new_state(rows, 12), np.random.default_rng(seed)
    state.rows["log_loss"] = rng.random((rows, 3))
    state.rows["bar_time"] = rng.integers(0, 2**62, rows)
    state.rows["derived"]["version"] = rng.integers(0, 99, rows)
    state.memory["peak_equity"] = 0.1 + 0.2
    state.memory["trades"] = 17
    return state


def test_a_new_state_remembers_and_has_derived_nothing():
    state = new_state(2, 12)
    assert (state.rows["derived"]["version"] == -1).all()
    assert np.isnan(state.rows["pending_price"]).all()
    assert state.memory.tobytes() == bytes(state.memory.nbytes)


def test_what_was_derived_is_forgotten_and_nothing_else():
    state, kept = written(2), written(2)
    forget_derived(state.rows)
    assert (state.rows["derived"]["version"] == -1).all()
    kept.rows["derived"] = state.rows["derived"]
    assert state.rows.tobytes() == kept.rows.tobytes()


def test_symbols_may_come_go_and_change_places_in_a_snapshot():
    state, again = written(3), new_state(3, 12)
    _, found = snapshot.unpack(snapshot.pack(state._asdict(), {}))
    snapshot.fill(again._asdict(), found, [(0, 2), (2, 0)])
    assert again.rows[0].tobytes() == state.rows[2].tobytes()
    assert again.rows[2].tobytes() == state.rows[0].tobytes()
    assert again.rows[1].tobytes() == new_state(1, 12).rows[0].tobytes()
    assert again.memory.tobytes() == state.memory.tobytes()


def test_a_copy_is_independent():
    state = written(1)
    other = copy_state(state)
    other.memory["trades"] = 0
    other.rows["log_loss"] = 0
    assert state.memory["trades"][0] == 17
    assert state.rows["log_loss"].min() > 0
