"""Where it may listen, tokens of files, metrics, limits as mathematics, the command line, and the whole description."""

import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr
from schemathesis.specs.openapi import checks

from fx_dagster.errors import SettingsError
from fx_dagster.settings import ControlSettings
from resources.control.auth import FailureLimit, Role, digest_of, given_tokens
from resources.control.limits import too_deep
from resources.control.process import ControlServer
from resources.control.server import is_loopback, require_safe
from resources.live_publisher import LivePublisher
from resources.servers.selfcheck import listeners
from tests.resources.control.conftest import Session, fresh, settings_for

pytestmark = pytest.mark.integration


def pair(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 and its key."""
    import ipaddress

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fx")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    plain = serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain))
    files[1].chmod(0o600)
    return files


def test_other_addresses_than_loopback_need_a_certificate_and_its_key(tmp_path: Path) -> None:
    assert not require_safe(ControlSettings())
    assert not require_safe(ControlSettings(host="::1"))
    certificate, key = pair(tmp_path)
    for host in ("0.0.0.0", "::", "192.168.0.1"):
        with pytest.raises(SettingsError, match="no certificate"):
            require_safe(ControlSettings(host=host))
        assert require_safe(ControlSettings(host=host, tls_certificate=certificate, tls_key=key))
    with pytest.raises(SettingsError, match="go together"):
        require_safe(ControlSettings(tls_certificate=certificate))
    with pytest.raises(SettingsError, match="loopback only"):
        require_safe(ControlSettings(host="0.0.0.0", tls_certificate=certificate, tls_key=key, metrics_open=True))
    key.chmod(0o640)
    with pytest.raises(SettingsError, match="others than its owner"):
        require_safe(ControlSettings(tls_certificate=certificate, tls_key=key))
    key.chmod(0o600)
    key.write_text("nonsense")
    with pytest.raises(SettingsError, match="cannot be used"):
        require_safe(ControlSettings(tls_certificate=certificate, tls_key=key))
    with pytest.raises(SettingsError, match="no IP address"):
        is_loopback("example.org")


def test_with_a_certificate_it_speaks_tls_only(serve: Callable[..., Any], tmp_path: Path) -> None:
    certificate, key = pair(tmp_path)
    with serve(tls_certificate=certificate, tls_key=key) as control:
        address = f"https://127.0.0.1:{control.parts.control.port}/v1/health"
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(verify=trusted, trust_env=False) as client:
            assert client.get(address, headers={"Authorization": f"Bearer {control.read}"}).status_code == 200
            assert client.get(address).status_code == 401
        with pytest.raises(httpx.HTTPError):
            control.get("/v1/health")


def test_it_listens_on_loopback_only(control: Any) -> None:
    import psutil

    mine = [one for one in listeners([psutil.Process()]) if one.port == control.parts.control.port]
    assert mine
    assert all(one.loopback for one in mine)


def test_tokens_of_a_file_count_and_are_kept_as_digests(serve: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text(f"# ours\nread grafana {'g' * 40}\noperate ops sha256:{digest_of('o' * 40).hex()}\n")
    file.chmod(0o600)
    kept = given_tokens(ControlSettings(tokens_file=file))
    assert [(one.role, one.name) for one in kept] == [(Role.READ, "grafana"), (Role.OPERATE, "ops")]
    assert "g" * 40 not in repr(kept)
    with serve(tokens_file=file) as control:
        assert control.get("/v1/status", token="g" * 40).status_code == 200
        assert control.post("/v1/kill", token="g" * 40).status_code == 403
        assert control.post("/v1/kill", token="o" * 40).status_code == 200
        assert control.parts.store.audit_rows("paper", limit=1)[0]["who"] == "ops"
    file.chmod(0o604)
    with pytest.raises(SettingsError, match="others than its owner"):
        given_tokens(ControlSettings(tokens_file=file))


@pytest.mark.parametrize("line", ["read me short", "admin me " + "x" * 40, "read " + "x" * 40, "read a/b " + "x" * 40])
def test_an_impossible_line_of_tokens_is_refused_without_being_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "tokens"
    file.write_text(line)
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="line 1") as error:
        given_tokens(ControlSettings(tokens_file=file))
    assert "x" * 40 not in str(error.value)
    with pytest.raises(SettingsError, match="FX_CONTROL_READ_TOKEN"):
        given_tokens(ControlSettings(read_token=SecretStr("short")))


def test_metrics_are_what_the_session_says(control: Any, session: Session) -> None:
    session.decide(1, breakers=["spread"], stage="halve", drift=0.4)
    session.decide(2, symbol="XAUUSD", breakers=["spread", "drawdown"], stage="close_only")
    control.post("/v1/level", json={"level": 2})
    text = control.get("/metrics").text
    found = {
        (sample.name, tuple(sorted((k, v) for k, v in sample.labels.items() if k != "account"))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    expected: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {
        ("fx_market_clock_seconds", ()): 1.5e9,
        ("fx_level", ()): 3, ("fx_equity", ()): 10_012.5, ("fx_decisions_total", ()): 40, ("fx_orders_total", ()): 2,
        ("fx_model_failures_total", ()): 4, ("fx_ticks_dropped_total", ()): 3, ("fx_queue_ticks_max", ()): 17,
        ("fx_level_ceiling", ()): 2, ("fx_kill_switch", ()): 0, ("fx_drawdown_stage", ()): 3, ("fx_store_up", ()): 1,
        ("fx_breaker_symbols", (("breaker", "spread"),)): 2, ("fx_breaker_symbols", (("breaker", "drawdown"),)): 1,
        ("fx_breaker_symbols", (("breaker", "daily_loss"),)): 0, ("fx_problem", (("of", "journal"),)): 0,
        ("fx_cache_hit_rate", (("cache", "predictions"),)): 0.25, ("fx_drift", (("symbol", "EURUSD"),)): 0.4,
        ("fx_latency_quantile_seconds", (("quantile", "0.99"), ("stage", "tick"))): 0.0015,
        ("fx_latency_observations_total", (("stage", "tick"),)): 900,
        ("fx_decisions_by_level_total", (("level", "3"),)): 30,
        ("fx_ticks_rejected_total", (("reason", "crossed"),)): 2,
    }  # fmt: skip
    assert {key: found.get(key) for key in expected} == expected
    assert 0 <= found["fx_heartbeat_age_seconds", ()] < 60
    summary = {"n": 9, "p50_ms": 1.0, "sum_ms": 20.0, "buckets": [[1.0, 4], [10.0, 9]]}
    session.beat(latency={"tick": summary}, level="nonsense", ticks_rejected=None)
    text = control.get("/metrics").text
    assert 'fx_latency_seconds_bucket{account="paper",le="0.001",stage="tick"} 4.0' in text
    assert 'fx_latency_seconds_sum{account="paper",stage="tick"} 0.02' in text
    assert "fx_level{" not in text


def test_metrics_may_be_open_on_loopback(serve: Callable[..., Any]) -> None:
    with serve(metrics_open=True) as control:
        assert control.get("/metrics", token="").status_code == 200
        assert control.get("/v1/status", token="").status_code == 401


def test_what_is_read_is_the_sessions(control: Any, session: Session) -> None:
    for number in range(1, 6):
        session.decide(number, symbol="XAUUSD" if number == 2 else "EURUSD")
    session.order(2**62)
    page = control.get("/v1/decisions?limit=2").json()
    assert [one["number"] for one in page["items"]] == [5, 4]
    assert [one["number"] for one in control.get("/v1/decisions?below=4&limit=9").json()["items"]] == [3, 2, 1]
    assert [one["number"] for one in control.get("/v1/decisions?symbol=XAUUSD").json()["items"]] == [2]
    assert control.get("/v1/orders").json()["items"][0]["client_order_id"] == str(2**62)
    assert control.get("/v1/status").json()["engine"]["status"]["equity"] == 10_012.5
    for path in ("/v1/deals", "/v1/positions"):
        assert control.get(path).json() == {"session": session.session_id, "items": []}


CHECKS = [
    schemathesis.checks.not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
    checks.response_schema_conformance, checks.response_headers_conformance,
]  # fmt: skip


def test_every_operation_keeps_to_its_description(
    control: Any, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Schemathesis makes requests from the description, good and bad; the answers must be described, and no fault."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    session.decide(1)
    schema = schemathesis.openapi.from_dict(json.loads(control.get("/openapi.json").text))
    seen = [status for found in schema.get_all_operations() for status in answers(found.ok(), control)]
    assert {200, 409, 422} <= set(seen)
    assert len(seen) >= 100


def answers(operation: Any, control: Any) -> list[int]:
    """Ask an operation some times and return the statuses of its answers, each of which was compared."""
    seen: list[int] = []
    good, bad = operation.as_strategy(), operation.as_strategy(schemathesis.GenerationMode.NEGATIVE)

    @given(case=good | bad)
    @settings(max_examples=8, deadline=None, database=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def ask(case: Any) -> None:
        headers = {"Authorization": f"Bearer {control.operate}", **(fresh() if len(seen) % 4 else STALE)}
        seen.append(case.call_and_validate(base_url=control.url, headers=headers, checks=CHECKS).status_code)

    ask()
    return seen


STALE = {"X-Fx-Nonce": "n" * 16, "X-Fx-Timestamp": "1000000000"}


@given(
    st.recursive(
        st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    )
)
def test_depth_is_that_of_the_document_whatever_its_texts_hold(document: Any) -> None:
    def depth(one: Any) -> int:
        inner = one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()
        return (1 + max(map(depth, inner), default=0)) if isinstance(one, dict | list) else 0

    for most in range(4):
        assert too_deep(json.dumps(document).encode(), most) == (depth(document) > most)


def test_wrong_tokens_are_forgotten_after_a_minute_and_addresses_are_bounded() -> None:
    now = [0.0]
    limit = FailureLimit(2, lambda: now[0])
    for _ in range(2):
        limit.fail("a")
        now[0] += 10.0
    assert limit.wait_s("a") == 40.0
    assert limit.wait_s("b") == 0.0
    now[0] = 60.0
    assert limit.wait_s("a") == 0.0
    for number in range(3_000):
        limit.fail(str(number))
    assert len(limit._seen) <= 1_024


def test_a_publisher_never_waits_for_a_server_that_is_not_there() -> None:
    publisher = LivePublisher("redis://127.0.0.1:1/0", "paper", queue_max=10)
    publisher.start()
    for number in range(1_000):
        publisher.offer("ticks", {"symbol": "EURUSD", "time_ns": number, "bid": 1.0, "ask": 1.0})
        publisher.offer("bars", {"symbol": "EURUSD", "time_ns": number})
    deadline = time.monotonic() + 10
    while not publisher.problem and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "away" in publisher.problem
    assert publisher.dropped >= 900
    publisher.close()


FX = "import typer; from fx_dagster.commands import control; app = typer.Typer(); control.register(app); app()"
"""The command, whatever else is among :data:`fx_dagster.cli.COMMANDS`."""


def fx(*arguments: str, url: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FX_")}
    environment |= {"FX_HOME": str(home), "FX_POSTGRES_URL": url}
    return subprocess.run(
        [sys.executable, "-c", FX, "control", *arguments], env=environment, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def test_fx_control_makes_lists_and_revokes_tokens(url: str, free_home: Path) -> None:
    made = json.loads(fx("token", "--role", "operate", "--name", "ops", "--json", url=url, home=free_home).stdout)
    assert (made["role"], made["name"]) == ("operate", "ops")
    listed = fx("tokens", "--json", url=url, home=free_home).stdout
    assert made["token"] not in listed
    assert [(row["id"], row["valid"]) for row in json.loads(listed)] == [(made["id"], True)]
    assert fx("revoke", made["id"], "--json", url=url, home=free_home).returncode == 0
    assert json.loads(fx("tokens", "--json", url=url, home=free_home).stdout)[0]["valid"] is False
    assert fx("revoke", made["id"], url=url, home=free_home).returncode == 1


def test_the_process_of_fx_up_starts_answers_and_ends(
    url: str, free_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ControlServer(settings_for(url, free_home))
    monkeypatch.setattr(
        ControlServer, "arguments", lambda self: ("-c", FX, "control", "serve", "--port", str(self.port))
    )
    server.start()
    try:
        assert server.port
        assert server.healthy()
        log = server.process.log if server.process else Path("none")
    finally:
        server.stop()
    assert not server.healthy()
    assert "Traceback" not in log.read_text()
