"""What comes back from a bridge: checked values, or a broker's error; of an order, never a wrong answer."""

import asyncio
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import BrokerError, DataError, SettingsError, UnknownSymbolError
from fx_dagster.execution.broker import Accepted, Partial, Refused, Requote, Unknown
from fx_dagster.execution.orders import OrderIntent, Purpose
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.broker import BridgeBroker
from resources.mt5.bridge.checks import METHODS, ROW_BYTES, SEND
from resources.mt5.bridge.client import BridgeAddress, BridgeClient, read_rows
from resources.mt5.clock import SystemClock
from resources.mt5.structures import RATE_DTYPE, TICK_DTYPE

from .mutations import budget, mutated, refused

LOGIN = "90000001"
SYMBOL = wire.Symbol(
    name="EURUSD", digits=5, point=1e-5, contract_size=1e5, volume_step=0.01, volume_min=0.01, volume_max=100.0,
    currency_base="EUR", currency_profit="USD", swap_mode=1, swap_rollover3days=3, trade_mode=4, filling_mode=1,
    bid=1.1, ask=1.1001, tick_value=1.0, tick_size=1e-5,
)  # fmt: skip
GOOD: dict[str, Any] = {
    "Symbols": wire.SymbolsReply(symbols=[SYMBOL]),
    "Positions": wire.PositionsReply(positions=[wire.Position(
        ticket=7, time_msc=1_709_503_200_000, magic=5, identifier=7, volume=0.1, price_open=1.1, sl=1.0,
        symbol="EURUSD",
    )]),
    "Orders": wire.OrdersReply(),
    "PastOrders": wire.OrdersReply(orders=[wire.Order(
        ticket=8, time_setup_msc=1_709_503_200_000, state=4, magic=5, volume_initial=0.1, price_open=1.1,
        symbol="EURUSD",
    )]),
    "Deals": wire.DealsReply(deals=[wire.Deal(
        ticket=9, order=8, time_msc=1_709_503_200_000, magic=5, position_id=7, reason=3, volume=0.1, price=1.1,
        symbol="EURUSD",
    )]),
    "Info": wire.InfoReply(
        terminal=wire.Terminal(connected=True, trade_allowed=True),
        account=wire.Account(login=int(LOGIN), server="S", currency="USD", margin_mode=2, leverage=30, balance=1e4,
                             equity=1e4, trade_allowed=True, trade_expert=True),
    ),
    "Now": wire.NowReply(now_ns=1_709_503_200_000_000_000),
    "Health": wire.HealthReply(ready=True, login=LOGIN, mode="demo", simulated=True),
    "Rates": wire.RowsReply(rows=b""), "Ticks": wire.RowsReply(rows=b""),
    "Send": wire.Answer(kind=wire.KIND_ACCEPTED, retcode=10009, order=8, deal=9, volume=0.1, price=1.1),
}  # fmt: skip
INTENT = OrderIntent(5, "real", "EURUSD", Purpose.OPEN, 0.1, 1.0, 1.2, 100, 2**62, epoch=1)


class Echo(grpc.GenericRpcHandler):
    """Answers every method with the bytes that are set, right ones where none are."""

    def __init__(self) -> None:
        self.said: dict[str, bytes] = {}

    def service(self, handler_call_details: Any) -> Any:
        method = handler_call_details.method.rpartition("/")[2]
        return grpc.unary_unary_rpc_method_handler(
            lambda body, context: self.said.get(method, GOOD[method].SerializeToString())
        )


@pytest.fixture(scope="module")
def bridge() -> Iterator[tuple[Echo, BridgeClient]]:
    """Run a server on loopback that says anything."""
    echo = Echo()
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, handlers=(echo,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with BridgeClient(BridgeAddress(f"127.0.0.1:{port}"), deadline_s=5.0) as client:
                client._clock = SystemClock()
                yield echo, client
        finally:
            server.stop(None).wait()


def filled(kind: Any) -> st.SearchStrategy[Any]:
    """Return messages of a kind with any values in all fields."""

    def of(place: Any) -> st.SearchStrategy[Any]:
        if place.message_type is not None:
            inner = st.deferred(lambda: filled(place.message_type._concrete_class))
            return st.lists(inner, max_size=2) if place.is_repeated else inner
        if place.cpp_type == place.CPPTYPE_STRING:
            return (
                st.binary(max_size=20)
                if place.type == place.TYPE_BYTES
                else st.sampled_from(("EURUSD", "USD", LOGIN, "", "x" * 40)) | st.text(max_size=12)
            )
        if place.cpp_type == place.CPPTYPE_DOUBLE:
            return st.floats() | st.sampled_from((0.1, 1.1))
        if place.cpp_type == place.CPPTYPE_BOOL:
            return st.booleans()
        if place.cpp_type == place.CPPTYPE_INT64:
            return st.integers(-(2**63), 2**63 - 1) | st.sampled_from((0, 5, 7, 1_709_503_200_000, int(LOGIN)))
        if place.cpp_type == place.CPPTYPE_UINT32:
            return st.integers(0, 2**32 - 1)
        return st.integers(-(2**31), 2**31 - 1) | st.integers(0, 7)

    places = {place.name: of(place) for place in kind.DESCRIPTOR.fields if place.name != "failure"}
    return st.fixed_dictionaries({}, optional=places).map(lambda values: kind(**values))


def answers(method: str) -> st.SearchStrategy[bytes]:
    """Return what might come: any bytes, nearly right ones, and right messages of any values."""
    whole = filled(METHODS[method][1]).map(lambda message: bytes(message.SerializeToString()))
    return whole | mutated(GOOD[method].SerializeToString()) | st.binary(max_size=40)


QUESTIONS = {
    "Positions": lambda broker: broker.positions(), "PastOrders": lambda broker: broker.orders(),
    "Orders": lambda broker: broker.orders(), "Deals": lambda broker: broker.deals(1_709_500_000_000_000_000),
    "Info": lambda broker: broker.account(), "Symbols": lambda broker: broker.specification("EURUSD"),
}  # fmt: skip


@pytest.mark.parametrize("method", list(QUESTIONS))
@budget(50)
@given(data=st.data())
def test_what_the_broker_shows_is_checked_or_an_error(bridge: Any, method: str, data: st.DataObject) -> None:
    echo, client = bridge
    echo.said = {}
    broker = BridgeBroker(client, login=LOGIN, deadline_s=5.0)
    try:
        asyncio.run(QUESTIONS[method](broker))  # with right answers it is one
        broker._resolver = None if method == "Symbols" else broker._resolver
        echo.said = {method: data.draw(answers(method))}
        with refused(BrokerError, UnknownSymbolError):
            found = asyncio.run(QUESTIONS[method](broker))
            for one in found if isinstance(found, tuple) else (found,):
                for name in type(one).__dataclass_fields__:
                    value = getattr(one, name)
                    assert not isinstance(value, float) or math.isfinite(value), f"{name} is {value}"
                    assert name != "symbol" or len(value) <= 29
                    assert name != "key" or 0 <= value < 2**63
    finally:
        echo.said = {}
        broker.close()


@budget(120)
@given(data=st.data())
def test_an_order_gets_a_typed_answer_whatever_comes_back(bridge: Any, data: st.DataObject) -> None:
    echo, client = bridge
    broker = BridgeBroker(client, login=LOGIN, deadline_s=5.0, order_deadline_s=5.0)
    try:
        body = data.draw(answers(SEND))
        echo.said = {SEND: body}
        answer = asyncio.run(broker.send(INTENT))
    finally:
        echo.said = {}
        broker.close()
    assert isinstance(answer, Accepted | Partial | Refused | Requote | Unknown)
    if isinstance(answer, Refused | Requote):
        said = wire.Answer.FromString(body)
        assert said.kind in (wire.KIND_REFUSED, wire.KIND_REQUOTE), "taken for refused, and it was not said"
    if isinstance(answer, Accepted | Partial):
        assert math.isfinite(answer.lots)
        assert answer.lots >= 0.0


@pytest.mark.parametrize(("method", "dtype"), [("Rates", RATE_DTYPE), ("Ticks", TICK_DTYPE)])
@budget(50)
@given(data=st.data())
def test_rows_are_checked_or_the_call_failed(bridge: Any, method: str, dtype: np.dtype, data: st.DataObject) -> None:
    echo, client = bridge
    rows = np.zeros(2, dtype)
    rows["time"] = 1_709_503_200
    if method == "Ticks":
        rows["time_msc"] = 1_709_503_200_000
    packed = data.draw(mutated(rows.tobytes()) | st.binary(max_size=130))
    echo.said = {method: wire.RowsReply(rows=packed).SerializeToString()}
    try:
        found = (
            client.copy_rates_from_pos("EURUSD", 1, 0, 2) if method == "Rates"
            else client.copy_ticks_from("EURUSD", 5, 2, -1)
        )  # fmt: skip
    finally:
        echo.said = {}
    if found is None:
        code, text = client.last_error()
        assert code < 0
        assert method in text
    else:
        assert len(found) <= 2
        assert (found["time"] > 0).all()
        assert len(packed) % ROW_BYTES == 0
    with refused(DataError, names=method):
        read_rows(method, packed, dtype, 2)


@budget(50)
@given(data=st.data())
def test_health_of_anything_is_told_or_refused(bridge: Any, data: st.DataObject) -> None:
    echo, client = bridge
    echo.said = {"Health": data.draw(answers("Health"))}
    try:
        with refused(BrokerError, SettingsError):
            health = client.require(login=LOGIN, mode="demo")
            assert health.ready
            assert not health.clock_wrong
    finally:
        echo.said = {}
