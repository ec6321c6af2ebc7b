import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import DataError, FencedError
from resources.mt5.bridge.answers import Answer, Kind, kind_of, read_answer
from resources.mt5.bridge.gate import Intent, OrderGate, Purpose, filling_of, floor_lots
from resources.mt5.bridge.keys import KeyStore
from resources.mt5.constants import Mt5Constants

DEFINITE = {10006, *range(10013, 10020), 10022, 10026, 10027, 10030, *range(10032, 10036), 10038, *range(10042, 10046)}


class Terminal:
    """Answers from what a test sets, and keeps what was sent."""

    def __init__(self, retcode: int = 10009) -> None:
        self.retcode, self.sent, self.silent, self.login = retcode, [], False, 77
        self.held = []

    def last_error(self):
        return (-10005, "IPC timeout")

    def account_info(self):
        return SimpleNamespace(login=self.login, margin_mode=2)

    def symbol_info(self, symbol):
        return SimpleNamespace(
            digits=5, point=1e-5, volume_step=0.01, volume_min=0.01, volume_max=50.0, trade_stops_level=10,
            filling_mode=2,
        )  # fmt: skip

    def symbol_info_tick(self, symbol):
        return SimpleNamespace(bid=1.1, ask=1.1002)

    def positions_get(self, *, symbol="", ticket=0):
        return self.held

    def order_send(self, request):
        self.sent.append(request)
        if self.silent:
            return None
        return SimpleNamespace(retcode=self.retcode, order=5, deal=6, volume=0.29, price=1.1002, comment="done")


def intent(**changes):
    values = {"key": 1, "account": "77", "epoch": 3, "expires_ns": 100, "symbol": "EURUSD.m", "lots": 0.29}
    return Intent(**(values | changes))


@pytest.fixture
def keys(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite")
    yield store
    store.close()


def gate(terminal, keys, now_ns=50, **options):
    return OrderGate(terminal, keys, now_ns=lambda: now_ns, **options)


def test_every_return_code_means_what_the_table_says():
    named = [v for n, v in vars(Mt5Constants).items() if n.startswith("TRADE_RETCODE_")]
    assert len(named) > 35
    for code in {*named, *range(-10010, 1), *range(9990, 10060)}:
        if code in (10008, 10009):
            wanted = Kind.ACCEPTED
        elif code == 10010:
            wanted = Kind.PARTIAL
        elif code in DEFINITE:
            wanted = Kind.REFUSED
        else:
            wanted = Kind.REQUOTE if code in (10004, 10020, 10021) else Kind.UNKNOWN
        assert kind_of(code) is wanted, code


def test_no_answer_is_unknown():
    assert read_answer(None, (-1, "fail")).kind is Kind.UNKNOWN


def test_a_request_carries_the_key_and_the_rounded_volume(keys):
    terminal = Terminal()
    answer = gate(terminal, keys).send(intent(key=2**63 - 1, stop=1.095004))
    (request,) = terminal.sent
    assert answer == Answer(Kind.ACCEPTED, 10009, 5, 6, 0.29, 1.1002, "done")
    assert (request["magic"], request["volume"], request["sl"], request["position"]) == (2**63 - 1, 0.29, 1.095, 0)
    assert request["type_filling"] == Mt5Constants.ORDER_FILLING_IOC
    assert len(request["comment"]) <= 29


def held(ticket=9, lots=0.29):
    kind = Mt5Constants.POSITION_TYPE_BUY if lots > 0 else Mt5Constants.POSITION_TYPE_SELL
    return SimpleNamespace(ticket=ticket, symbol="EURUSD.m", type=kind, volume=abs(lots))


@pytest.mark.parametrize("position", [0, 9])
def test_closing_names_the_position_that_it_closes(keys, position):
    terminal = Terminal()
    terminal.held = [held()]
    closing = intent(lots=-0.29, position=position, purpose=Purpose.CLOSE)
    assert gate(terminal, keys).send(closing).kind is Kind.ACCEPTED
    (request,) = terminal.sent
    assert (request["position"], request["type"], request["volume"]) == (9, Mt5Constants.ORDER_TYPE_SELL, 0.29)


@pytest.mark.parametrize(
    ("positions", "changes"),
    [
        ([], {}),
        (None, {}),
        ([held(9), held(10)], {}),
        ([held(9)], {"position": 10}),
        ([held(9, -0.29)], {}),
        ([held(9, 0.28)], {}),
    ],
)
def test_what_would_not_close_is_not_sent(keys, positions, changes):
    terminal = Terminal()
    terminal.held = positions
    closing = intent(**({"lots": -0.29, "purpose": Purpose.CLOSE} | changes))
    assert gate(terminal, keys).send(closing).kind is Kind.REFUSED
    assert not terminal.sent


def test_a_change_moves_stop_and_target_and_trades_nothing(keys):
    terminal = Terminal()
    terminal.held = [held()]
    change = intent(lots=0.0, stop=1.095004, target=1.12, purpose=Purpose.MODIFY)
    assert gate(terminal, keys).send(change).kind is Kind.ACCEPTED
    (request,) = terminal.sent
    assert (request["action"], request["position"]) == (Mt5Constants.TRADE_ACTION_SLTP, 9)
    assert (request["sl"], request["tp"]) == (1.095, 1.12)
    assert "volume" not in request


def test_an_account_that_is_not_the_guards_is_refused(keys):
    terminal = Terminal()
    answer = gate(terminal, keys, wrong_account=lambda account: f"{account.login} is real").send(intent())
    assert (answer.kind, answer.text) == (Kind.REFUSED, "77 is real")
    assert not terminal.sent


@pytest.mark.parametrize(("mask", "working"), [(0, True), (2, False)])
def test_the_rest_of_a_partial_fill_works_only_where_the_filling_lets_it(keys, mask, working):
    terminal = Terminal(10010)
    specification = terminal.symbol_info("")
    specification.filling_mode = mask
    terminal.symbol_info = lambda symbol: specification
    answer = gate(terminal, keys).send(intent())
    assert (answer.kind, answer.working) == (Kind.PARTIAL, working)


def test_a_key_is_sent_once_over_restarts(tmp_path):
    terminal, path = Terminal(), tmp_path / "keys.sqlite"
    answers = []
    for _ in range(3):
        store = KeyStore(path)
        answers.append(gate(terminal, store).send(intent()))
        store.close()
    assert len(terminal.sent) == 1
    assert answers[0] == answers[1] == answers[2]


def test_a_key_without_an_answer_and_one_of_another_intent_are_unknown(keys):
    terminal = Terminal()
    terminal.silent = True
    assert gate(terminal, keys).send(intent()).kind is Kind.UNKNOWN
    terminal.silent = False
    assert gate(terminal, keys).send(intent()).kind is Kind.UNKNOWN
    assert gate(terminal, keys).send(intent(lots=1.0)).kind is Kind.UNKNOWN
    assert len(terminal.sent) == 1


def test_lower_epochs_are_refused_after_a_restart(tmp_path):
    terminal, path = Terminal(), tmp_path / "keys.sqlite"
    store = KeyStore(path)
    gate(terminal, store).send(intent(epoch=5))
    store.close()
    store = KeyStore(path)
    assert gate(terminal, store).send(intent(key=2, epoch=4)).kind is Kind.REFUSED
    assert gate(terminal, store).send(intent(key=3, epoch=5)).kind is Kind.ACCEPTED
    store.close()
    assert [request["magic"] for request in terminal.sent] == [1, 3]


def test_late_intents_are_refused_beyond_the_clocks_error(keys):
    terminal = Terminal()
    assert gate(terminal, keys, 101).send(intent()).kind is Kind.REFUSED
    assert not terminal.sent
    assert gate(terminal, keys, 101, clock_error_ns=1).send(intent(key=2)).kind is Kind.ACCEPTED


def test_a_refusal_stays_when_its_reason_is_gone(keys):
    terminal = Terminal()
    terminal.login = 78
    first = gate(terminal, keys).send(intent())
    terminal.login = 77
    assert gate(terminal, keys).send(intent()) == first
    assert first.kind is Kind.REFUSED
    assert not terminal.sent


@pytest.mark.parametrize(
    "changes", [{"lots": 0.009}, {"lots": 51.0}, {"stop": 1.09995}, {"target": 1.1}, {"lots": -0.1, "stop": 1.0}]
)
def test_what_the_contract_forbids_is_not_sent(keys, changes):
    terminal = Terminal()
    assert gate(terminal, keys).send(intent(**changes)).kind is Kind.REFUSED
    assert not terminal.sent


def test_another_account_is_refused(keys):
    terminal = Terminal()
    terminal.login = 78
    assert gate(terminal, keys).send(intent()).kind is Kind.REFUSED
    assert not terminal.sent


@pytest.mark.parametrize(
    "changes",
    [{"symbol": "../x"}, {"symbol": "E" * 30}, {"symbol": "EUR\x00"}, {"symbol": "EURUSD\n"}, {"key": 0},
     {"key": 2**63}, {"lots": float("nan")}, {"lots": 0.0}, {"account": "a"}, {"epoch": True}, {"position": 9},
     {"purpose": Purpose.MODIFY}, {"purpose": "open"}],
)  # fmt: skip
def test_bad_fields_are_refused(changes):
    with pytest.raises(DataError, match="intent"):
        intent(**changes)


def test_a_second_owner_is_refused(tmp_path):
    store = KeyStore(tmp_path / "keys.sqlite")
    with pytest.raises(FencedError):
        KeyStore(tmp_path / "keys.sqlite")
    store.close()
    KeyStore(tmp_path / "keys.sqlite").close()


@given(st.integers(1, 100_000))
def test_lots_on_the_step_stay(hundredths):
    assert floor_lots(hundredths / 100, 0.01) == hundredths / 100


def test_filling_modes():
    assert [filling_of(mask) for mask in (0, 1, 2, 3)] == [2, 0, 1, 0]


def test_the_simulated_terminal_opens_and_closes_once_each(trade, keys):
    terminal = trade(EURUSD=[(0, 1.1, 1.1001), (3000, 1.1, 1.1001)])
    account = str(terminal.account_info().login)
    door = gate(terminal, keys)
    opening = intent(account=account, symbol="EURUSD", lots=0.1, stop=1.09)
    assert door.send(opening).kind is Kind.ACCEPTED
    assert door.send(opening).kind is Kind.ACCEPTED
    (opened,) = terminal.positions_get()
    assert (opened.magic, opened.volume, opened.sl) == (1, 0.1, 1.09)
    moving = intent(key=3, account=account, symbol="EURUSD", lots=0.0, stop=1.08, purpose=Purpose.MODIFY)
    assert door.send(moving).kind is Kind.ACCEPTED
    assert terminal.positions_get()[0].sl == 1.08
    closing = intent(key=2, account=account, symbol="EURUSD", lots=-0.1, position=opened.ticket, purpose=Purpose.CLOSE)
    assert door.send(closing).kind is Kind.ACCEPTED
    assert terminal.positions_get() == ()


KILLED = """
import os, signal, sys
from pathlib import Path
from tests_terminal import Terminal, intent
from resources.mt5.bridge.gate import OrderGate
from resources.mt5.bridge.keys import KeyStore
class Dying(Terminal):
    def order_send(self, request):
        os.kill(os.getpid(), signal.SIGKILL)
OrderGate(Dying(), KeyStore(Path(sys.argv[1])), now_ns=lambda: 50).send(intent())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_a_kill_between_claim_and_answer_never_sends_again(tmp_path):
    (tmp_path / "tests_terminal.py").write_text(Path(__file__).read_text())
    path = tmp_path / "keys.sqlite"
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        env=os.environ | {"PYTHONPATH": f"{root}:{tmp_path}"},
        check=False,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL
    terminal, store = Terminal(), KeyStore(path)
    answer = gate(terminal, store).send(intent())
    store.close()
    assert answer.kind is Kind.UNKNOWN
    assert not terminal.sent
