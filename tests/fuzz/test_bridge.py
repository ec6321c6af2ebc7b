"""What reaches the bridge: bytes, fields, frames, settings; a typed answer to each, and never an order by mistake."""

import io
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fx_dagster.errors import DataError, ServerError, SettingsError
from resources.mt5.bridge import frames, worker
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.checks import HEALTH, METHODS, SEND, SERVICE, SYMBOL, Limits
from resources.mt5.bridge.gate import Intent, Purpose
from resources.mt5.bridge.keys import KeyStore
from resources.mt5.bridge.server import NOT_SENT, Calls
from resources.mt5.bridge.settings import BridgeSettings, allowed_symbols
from resources.mt5.bridge.watchdog import Health, NotHandedOverError
from resources.mt5.bridge.worker import Worker, WorkerConfig

from .mutations import budget, mutated, numbers, refused
from .terminal import NOW, quiet_terminal

LOGIN = "90000001"
TOKEN = "a-token-of-more-than-thirty-two-characters"
LIMITS = Limits(frozenset(), rows_max=1_000, history_s_max=86_400)
GOOD = wire.Intent(
    key=5, account=LOGIN, epoch=1, expires_ns=2**62, symbol="EURUSD", purpose=wire.PURPOSE_OPEN, lots=0.1, stop=1.09,
    target=1.12, deviation_points=20,
)  # fmt: skip
INT64 = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
DOUBLES = st.floats() | st.sampled_from((0.1, -0.1, 0.0, 1.09, 1e300))
SYMBOLS = st.sampled_from(("EURUSD", "EURUSD.m", "", "X" * 30, "../x", "EURUSD\0")) | st.text(max_size=31)


class Terminal:
    """The simulated one, counting the requests that reach it."""

    def __init__(self) -> None:
        self._inner = quiet_terminal()
        self.sent: list[dict[str, Any]] = []

    def order_send(self, request: dict[str, Any]) -> Any:
        self.sent.append(request)
        return self._inner.order_send(request)

    def now_ns(self) -> int:
        return NOW

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> Iterator[tuple[Worker, Terminal]]:
    """Make a worker over a terminal that trades."""
    keys = KeyStore(tmp_path_factory.mktemp("bridge") / "keys.sqlite")
    terminal = Terminal()
    config = WorkerConfig(
        terminal="simulated", terminal_path="", simulated_address="", login=LOGIN, server="Quiet", mode="demo",
        password="", symbols=(), keys="", clock_error_ns=0, rows_max=1_000, history_s_max=86_400,
    )  # fmt: skip
    yield Worker(terminal, keys, config), terminal
    keys.close()


class Context:
    """What gRPC hands a method; its abort raises, as gRPC's does."""

    def __init__(self, token: Any = f"Bearer {TOKEN}") -> None:
        self._shown = () if token is None else (("authorization", token),)
        self.trailing: Any = ()
        self.code: Any = None

    def invocation_metadata(self) -> Any:
        return self._shown

    def set_trailing_metadata(self, metadata: Any) -> None:
        self.trailing = metadata

    def abort(self, code: Any, text: str) -> None:
        assert text
        self.code = code
        raise AbortedError


class AbortedError(Exception):
    """As gRPC's own, which is a bare Exception."""


class Keeper:
    """Hands calls straight to a worker, as the watchdog does over its pipe."""

    def __init__(self, made: Worker) -> None:
        self._worker = made
        self.handed = 0

    def call(self, method: str, body: bytes, limit_s: float) -> bytes:
        self.handed += 1
        kind, reply = worker._answered(self._worker, method, body)
        if kind == frames.INVALID:
            raise DataError(reply.decode())
        assert kind == frames.OK, reply.decode()
        return reply

    def health(self) -> Health:
        return Health()


def calls(keeper: Any) -> Calls:
    settings = BridgeSettings(login=LOGIN, server="Quiet", terminal="simulated")
    return Calls(keeper, settings, LIMITS, TOKEN)


BODIES = {name: kinds[0] for name, kinds in METHODS.items()}


@st.composite
def messages(draw: st.DrawFn, method: str) -> Any:
    """Return a message of a method with any values that its fields can hold."""
    kind = BODIES[method]
    values: dict[str, Any] = {}
    for place in kind.DESCRIPTOR.fields:
        if draw(st.integers(0, 4)) == 0:
            continue
        text = SYMBOLS.filter(lambda text: text.isprintable() or "\0" in text)
        if place.name == "names":
            values["names"] = draw(st.lists(text, max_size=4))
        elif place.cpp_type == place.CPPTYPE_STRING:
            values[place.name] = draw(st.just(LOGIN) if place.name == "account" else text)
        elif place.cpp_type == place.CPPTYPE_DOUBLE:
            values[place.name] = draw(DOUBLES)
        elif place.cpp_type == place.CPPTYPE_ENUM:
            values[place.name] = draw(st.integers(0, 5))
        elif place.cpp_type == place.CPPTYPE_INT32:
            values[place.name] = draw(st.integers(-(2**31), 2**31 - 1) | st.integers(0, 40))
        else:
            values[place.name] = draw(INT64)
    return kind(**values)


@budget(300)
@given(st.data(), st.sampled_from(sorted(METHODS)))
def test_any_bytes_get_a_typed_answer_and_never_send_an_order_that_is_not_one(
    made: tuple[Worker, Terminal], data: st.DataObject, method: str
) -> None:
    one, terminal = made
    keeper, context, before = Keeper(one), Context(), len(terminal.sent)
    nearly = st.just(GOOD.SerializeToString()) if method == SEND else messages(method).map(_bytes)
    body = data.draw(messages(method).map(_bytes) | mutated(nearly) | st.binary(max_size=60))
    try:
        reply = calls(keeper)._answer(method, body, context)
    except AbortedError:
        assert context.code is grpc.StatusCode.INVALID_ARGUMENT
        assert (NOT_SENT, "1") in context.trailing
        assert len(terminal.sent) == before, "refused, and sent all the same"
        return
    METHODS[method][1].FromString(reply)
    for request in terminal.sent[before:]:
        assert method == SEND
        asked = wire.Intent.FromString(body)
        assert (request["magic"], request["symbol"]) == (asked.key, asked.symbol)
        assert 1 <= request["magic"] < 2**63
        assert len(request["comment"]) <= 29
        if "volume" in request:
            assert 0.0 < request["volume"] <= abs(asked.lots) + 1e-9


def _bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


@budget(100)
@given(st.none() | st.text(max_size=40) | st.binary(max_size=40) | st.just(f"Bearer {TOKEN}x") | st.just(TOKEN),
       st.sampled_from(sorted(METHODS)), st.binary(max_size=30))  # fmt: skip
def test_without_the_token_nothing_is_read(token: Any, method: str, body: bytes) -> None:
    keeper, context = SimpleNamespace(call=lambda *_: pytest.fail("handed over")), Context(token)
    with pytest.raises(AbortedError):
        calls(keeper)._answer(method, body, context)
    assert context.code is grpc.StatusCode.UNAUTHENTICATED
    assert (NOT_SENT, "1") in context.trailing


@budget(100)
@given(
    st.text(max_size=30)
    | st.sampled_from((f"/{SERVICE}/Shell", f"/{SERVICE}/__init__", f"//{SERVICE}/Send", "/x/Send"))
)
def test_only_the_lists_methods_have_a_handler(method: str) -> None:
    found = calls(None).service(SimpleNamespace(method=method))
    known = {f"{slash}{SERVICE}/{name}" for name in METHODS for slash in ("/", "")}
    assert (found is not None) == (method in known)


def test_health_and_a_good_order_pass(made: tuple[Worker, Terminal]) -> None:
    one, terminal = made
    before = len(terminal.sent)
    assert calls(Keeper(one))._answer(HEALTH, b"", Context())
    reply = calls(Keeper(one))._answer(SEND, wire.Intent.FromString(_bytes(GOOD)).SerializeToString(), Context())
    assert wire.Answer.FromString(reply).kind != wire.KIND_UNSPECIFIED
    assert len(terminal.sent) <= before + 1


def test_a_worker_that_is_away_is_said_and_nothing_is_sent() -> None:
    def call(*_: Any) -> bytes:
        raise NotHandedOverError("away")

    context = Context()
    with pytest.raises(AbortedError):
        calls(SimpleNamespace(call=call))._answer(SEND, _bytes(GOOD), context)
    assert context.code is grpc.StatusCode.UNAVAILABLE
    assert (NOT_SENT, "1") in context.trailing


ANY = numbers() | st.text(max_size=5) | st.none()


@budget(200)
@given(st.dictionaries(st.sampled_from(sorted(Intent.__dataclass_fields__)), ANY, max_size=4))
def test_an_intent_of_any_values_is_one_or_names_its_field(changes: dict[str, Any]) -> None:
    good = {
        "key": 5, "account": LOGIN, "epoch": 1, "expires_ns": 9, "symbol": "EURUSD", "lots": 0.1, "stop": 1.0,
        "purpose": Purpose.OPEN,
    }  # fmt: skip
    with refused(DataError, names="intent: "):
        intent = Intent(**{**good, **changes})
        assert 1 <= intent.key < 2**63
        assert abs(intent.lots) < float("inf")
        assert SYMBOL.fullmatch(intent.symbol)


@budget(200)
@given(st.data())
def test_frames_are_read_whole_or_end(data: st.DataObject) -> None:
    pipe = io.BytesIO()
    frames.write_frame(pipe, "Send", b"body")
    frames.write_frame(pipe, "ok", b"")
    changed = data.draw(mutated(pipe.getvalue()))
    assume(changed.isascii())  # names are the bridge's own
    source = io.BytesIO(changed)
    with refused(ServerError):
        while frames.read_frame(source) is not None:
            pass


@budget(200)
@given(st.lists(SYMBOLS, max_size=4).map(",".join))
def test_the_list_of_symbols_holds_possible_names_only(text: str) -> None:
    settings = BridgeSettings(symbols=text)
    with refused(SettingsError, names="FX_BRIDGE_SYMBOLS"):
        for name in allowed_symbols(settings):
            assert SYMBOL.fullmatch(name)
            assert len(name) <= 29
