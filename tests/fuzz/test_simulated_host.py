"""Messages between the bridge's worker and the simulated terminal, in both directions."""

import json
import threading
from collections.abc import Iterator
from multiprocessing import Pipe
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.mt5.bridge.simulated_host import answer, serve_one
from resources.mt5.bridge.simulated_module import FUNCTIONS, NOW, SimulatedModule, pack, unpack
from resources.mt5.constants import Mt5Constants as Mt5

from .mutations import DEEP, altered, budget, json_values, mutated
from .terminal import quiet_terminal

ORDER = {
    "action": 1, "symbol": "EURUSD", "volume": 0.1, "price": 1.1001, "type": 0, "magic": 5, "comment": "fx5",
    "type_time": 0, "type_filling": 1, "deviation": 20, "sl": 1.0, "tp": 1.2, "position": 0,
}  # fmt: skip
CALLS: list[Any] = [
    [NOW, [], {}], ["account_info", [], {}], ["symbol_info", ["EURUSD"], {}],
    ["positions_get", [], {"symbol": "EURUSD"}],
    ["copy_rates_from_pos", ["EURUSD", 1, 0, 5], {}], ["copy_ticks_from", ["EURUSD", 5, 5, -1], {}],
    ["order_send", [ORDER], {}], ["history_deals_get", [5, 2_000_000_000], {}],
]  # fmt: skip


@pytest.fixture(scope="module")
def terminal() -> Any:
    return quiet_terminal()


def asked(text: bytes, terminal: Any) -> list[bytes]:
    """Send one message, then a good one; return what came back until the connection ended."""
    ours, theirs = Pipe()
    told: list[bytes] = []
    with ours:
        ours.send_bytes(text)
        ours.send_bytes(json.dumps(["account_info", [], {}]).encode())
        served = threading.Thread(target=serve_one, args=(terminal, terminal.clock, theirs, threading.Lock()))
        served.start()
        try:
            while len(told) < 2:
                if not ours.poll(20.0):
                    break
                told.append(ours.recv_bytes())
        except (EOFError, OSError):
            pass  # it was ended
    served.join(20.0)
    assert not served.is_alive()
    return told


def encoded(value: Any) -> bytes:
    return json.dumps(value).encode()


@budget(200)
@given(
    st.sampled_from(CALLS).flatmap(altered).map(encoded) | st.sampled_from(CALLS).map(encoded).flatmap(mutated)
    | json_values().map(encoded) | st.sampled_from((DEEP, b"", b"\xff"))
)  # fmt: skip
def test_any_message_is_answered_or_ends_its_connection_alone(terminal: Any, text: bytes) -> None:
    told = asked(text, terminal)
    for one in told:
        value, error = json.loads(one)
        assert isinstance(error[0], int)
        unpack(value)
    assert asked(encoded(CALLS[0]), terminal), "the next one is answered"


@budget(50)
@given(st.text(max_size=20) | st.sampled_from(("__init__", "server", "clock", "_faults", "last_error", "__class__")))
def test_only_the_terminals_functions_are_called(terminal: Any, name: str) -> None:
    if name not in FUNCTIONS and name != NOW:
        with pytest.raises(ValueError, match="is no function"):
            answer(terminal, terminal.clock, encoded([name, [], {}]))


class Said:
    """A connection that answers with given bytes."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def send_bytes(self, text: bytes) -> None:
        json.loads(text)

    def recv_bytes(self, most: int) -> bytes:
        return self._text


def good_answers() -> Iterator[Any]:
    terminal = quiet_terminal()
    for value in (terminal.account_info(), terminal.symbols_get(), terminal.copy_ticks_from("EURUSD", 5, 5, -1), None):
        yield [pack(value), [1, "Success"]]


GOOD = list(good_answers())


@budget(200)
@given(
    st.sampled_from(GOOD).flatmap(altered).map(encoded) | st.sampled_from(GOOD).map(encoded).flatmap(mutated)
    | json_values().map(encoded) | st.sampled_from((DEEP, b""))
)  # fmt: skip
def test_any_answer_of_a_terminal_is_a_value_or_a_lost_connection(text: bytes) -> None:
    module = SimulatedModule("nowhere")
    module._connection = Said(text)  # type: ignore[assignment]
    value = module.account_info()
    code, words = module.last_error()
    assert isinstance(code, int)
    assert isinstance(words, str)
    if value is None and code == Mt5.RES_E_INTERNAL_FAIL_CONNECT:
        assert module._connection is None, "a connection that talks nonsense is given up"
