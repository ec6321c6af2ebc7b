import json

import numpy as np
import pytest

from fx_dagster.decision.state import copy_state, new_state, restore, snapshot
from fx_dagster.errors import DataError


def written(symbols):
    state = new_state(len(symbols), 12)
    rng = np.random.default_rng(1)
    state.rows["log_loss"] = rng.random((len(symbols), 3))
    state.rows["bar_time"] = rng.integers(0, 2**62, len(symbols))
    state.memory["peak_equity"] = 0.1 + 0.2
    state.memory["trades"] = 17
    return state


def test_a_snapshot_is_exact_and_json():
    state = written(("A", "B"))
    data = snapshot(state, ("A", "B"))
    json.loads(data)
    again = restore(data, ("A", "B"), 12)
    assert snapshot(again, ("A", "B")) == data


def test_symbols_may_come_go_and_change_places():
    state = written(("A", "B", "C"))
    again = restore(snapshot(state, ("A", "B", "C")), ("C", "D", "A"), 12)
    assert again.rows[0].tobytes() == state.rows[2].tobytes()
    assert again.rows[2].tobytes() == state.rows[0].tobytes()
    assert again.rows[1].tobytes() == new_state(1, 12).rows[0].tobytes()
    assert again.memory["trades"][0] == 17


def test_a_copy_is_independent():
    state = written(("A",))
    other = copy_state(state)
    other.memory["trades"] = 0
    other.rows["log_loss"] = 0
    assert state.memory["trades"][0] == 17
    assert state.rows["log_loss"].min() > 0


def corrupt(data, part, name):
    body = json.loads(data)
    del body[part][name]
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: b"\x00\x01", "cannot be read"),
        (lambda data: b"[]", "cannot be read"),
        (lambda data: data.replace(b"fx-decision-state-2", b"fx-decision-state-0"), "format"),
        (lambda data: corrupt(data, "memory", "stage"), "memory.stage"),
        (lambda data: corrupt(data, "rows", "log_loss"), "rows.log_loss"),
    ],
)
def test_a_bad_snapshot_is_refused_by_name(change, said):
    data = snapshot(written(("A",)), ("A",))
    with pytest.raises(DataError, match=said):
        restore(change(data), ("A",), 12)


def test_another_horizon_is_refused():
    with pytest.raises(DataError, match="pending_signal"):
        restore(snapshot(written(("A",)), ("A",)), ("A",), 24)
