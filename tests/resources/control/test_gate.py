"""The control server's entrance, without a server: tokens of the environment need no PostgreSQL."""

import string
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from fx_dagster.settings import ControlSettings
from resources.control.auth import Gate, Role, digest_of
from resources.control.errors import Refused
from resources.control.store import ControlStore, TokenRow

READ, OPERATE = "r" * 40, "o" * 40
NONCE = "0123456789abcdef"
KEPT = "fxc_0123456789ab_" + "s" * 43


class Watch:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class OneToken(ControlStore):
    """Knows one token, whose id is 0123456789ab."""

    valid = True

    def token(self, token_id: str) -> TokenRow | None:
        now = datetime.now(UTC)
        return TokenRow(token_id, "ops", "operate", digest_of(KEPT), now, None, None, self.valid)


def make(watch: Watch | None = None) -> Gate:
    settings = ControlSettings(read_token=SecretStr(READ), operate_token=SecretStr(OPERATE), failures_per_minute_max=3)
    watch = watch or Watch()
    return Gate(ControlStore("postgresql://127.0.0.1:1/none"), settings, watch, lambda: 1_790_000_000.0)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def status_of(call: Callable[[], Any]) -> int:
    with pytest.raises(Refused) as caught:
        call()
    return caught.value.status


def test_a_reader_orders_nothing() -> None:
    gate = make()
    assert gate.caller(bearer(READ), "a", Role.READ).role is Role.READ
    assert gate.caller(bearer(OPERATE), "a", Role.OPERATE).role is Role.OPERATE
    assert status_of(lambda: gate.caller(bearer(READ), "a", Role.OPERATE)) == 403


def test_an_id_is_not_enough_and_a_token_that_ended_is_none() -> None:
    store = OneToken("postgresql://127.0.0.1:1/none")
    gate = Gate(store, ControlSettings(failures_per_minute_max=99), Watch())
    assert gate.caller(bearer(KEPT), "a", Role.OPERATE).name == "ops"
    for other in (KEPT[:-1] + "t", KEPT.replace("s", "t"), KEPT[:17] + "x" * 43):
        assert status_of(lambda: gate.caller(bearer(other), "a", Role.READ)) == 401  # noqa: B023 - called at once
    store.valid = False
    assert status_of(lambda: gate.caller(bearer(KEPT), "a", Role.READ)) == 401


def test_who_guesses_waits_and_who_has_shown_a_right_token_does_not() -> None:
    watch = Watch()
    gate = make(watch)
    gate.caller(bearer(READ), "a", Role.READ)
    for _ in range(3):
        assert status_of(lambda: gate.caller(bearer("wrong" * 10), "a", Role.READ)) == 401
    assert status_of(lambda: gate.caller(bearer(OPERATE), "a", Role.READ)) == 429
    assert gate.caller(bearer(READ), "a", Role.READ)
    assert gate.caller(bearer(OPERATE), "b", Role.READ)
    watch.now += 61.0
    assert gate.caller(bearer(OPERATE), "a", Role.READ)


@pytest.mark.parametrize(
    ("nonce", "stamp", "status"),
    [
        (NONCE, "1790000000", 0),
        (NONCE, "1790000059.5", 0),
        (NONCE, "1789999939", 409),
        (NONCE, "1790000061", 409),
        (NONCE, "99999999999", 409),
        (NONCE, "now", 400),
        (NONCE, "1e9", 400),
        (NONCE, "", 400),
        ("short", "1790000000", 400),
        ("x" * 65, "1790000000", 400),
        ("0123456789abcde;", "1790000000", 400),
    ],
)
def test_a_command_is_fresh_or_refused(nonce: str, stamp: str, status: int) -> None:
    headers = {"x-fx-nonce": nonce, "x-fx-timestamp": stamp}
    if status:
        assert status_of(lambda: make().fresh(headers)) == status
    else:
        assert make().fresh(headers) == nonce


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(("authorization", "x-fx-nonce", "x-fx-timestamp")),
        st.text(string.printable, max_size=80) | st.text(max_size=20),
    ),
    st.sampled_from(Role),
)
def test_any_headers_are_refused_in_one_shape(headers: dict[str, str], role: Role) -> None:
    assert status_of(lambda: make().caller(headers, "a", role)) == 401
    with suppress(Refused):
        assert make().fresh(headers) == headers["x-fx-nonce"]
