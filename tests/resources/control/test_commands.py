"""Commands over HTTP: who may, once only, written down; against a real PostgreSQL and a real server."""

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from fx_dagster.cli import build
from fx_dagster.errors import ServerError
from resources.control.auth import Role, create_token
from resources.control.protocols import Drill, DrillOutcome, ReleaseCommands
from resources.live_store import LiveStore
from resources.postgres import connect
from resources.servers.process import child_environment

pytestmark = pytest.mark.integration
PATHS = ("/v1/status", "/v1/decisions", "/v1/audit", "/metrics", "/openapi.json", "/nowhere")


def phases(control: Any) -> list[tuple[str, str]]:
    return [(row["command"], row["phase"]) for row in reversed(control.parts.store.audit_rows("paper", limit=100))]


def test_nothing_is_told_or_done_without_a_valid_token(control: Any, url: str) -> None:
    for path in PATHS:
        assert control.get(path, token="").status_code == 401
        answer = control.get(path, token="fxc_0123456789ab_" + "x" * 43 if path != "/nowhere" else "nonsense")
        assert answer.status_code == 401
        assert set(answer.json()) == {"what", "mend"}
        assert answer.headers["www-authenticate"] == "Bearer"
    assert control.post("/v1/kill", token="nonsense").status_code == 401
    assert not LiveStore(url).kill_state("paper").engaged
    assert phases(control) == [("/v1/kill", "denied")]
    assert control.get("/nowhere").status_code == 404


def test_a_reader_reads_and_orders_nothing(control: Any, url: str) -> None:
    assert control.get("/v1/status").json()["killed"] is False
    answer = control.post("/v1/kill", token=control.read)
    assert answer.status_code == 403
    assert "operate" in answer.json()["mend"]
    assert not LiveStore(url).kill_state("paper").engaged
    assert phases(control) == [("/v1/kill", "denied")]


def test_a_token_that_was_revoked_or_has_expired_is_refused_at_once(control: Any, url: str) -> None:
    store = control.parts.store
    token_id, token = create_token(store, role=Role.READ, name="gone")
    assert control.get("/v1/status", token=token).status_code == 200
    assert store.revoke(token_id)
    assert not store.revoke(token_id)
    assert control.get("/v1/status", token=token).status_code == 401
    _, late = create_token(store, role=Role.READ, name="late", days=0.01)
    with connect(url) as connection:
        connection.execute("UPDATE control_token SET expires_at = now() - interval '1 s' WHERE name = 'late'")
    assert control.get("/v1/status", token=late).status_code == 401
    kept = str(store.tokens())
    assert token not in kept
    assert late not in kept


def test_a_command_is_done_as_fx_does_it_and_written_down(control: Any, url: str) -> None:
    live = LiveStore(url)
    answer = control.post("/v1/kill", json={"reason": "news"})
    assert answer.status_code == 200
    assert answer.json()["result"] == {"killed": True, "flatten": False}
    state = live.kill_state("paper")
    assert (state.engaged, state.flatten, state.reason) == (True, False, "news")
    assert control.get("/v1/status").json()["kill_reason"] == "news"
    assert control.post("/v1/flatten").json()["result"]["flatten"] is True
    assert live.kill_state("paper").flatten
    assert control.post("/v1/resume").status_code == 200
    assert not live.kill_state("paper").engaged
    assert control.post("/v1/level", json={"level": 3, "reason": "drift"}).status_code == 200
    assert control.get("/v1/status").json()["level_ceiling"] == 3
    rows = control.parts.store.audit_rows("paper", limit=100)
    assert phases(control) == [
        (name, phase) for name in ("kill", "flatten", "resume", "level") for phase in ("asked", "done")
    ]
    first = rows[-1]
    assert (first["who"], first["role"], first["client"]) == ("operateer", "operate", "127.0.0.1")
    assert first["arguments"] == {"reason": "news"}
    assert first["request_id"] == answer.json()["request_id"]
    with connect(url) as connection:
        assert connection.execute("SELECT by_whom FROM kill_switch_log ORDER BY id").fetchall()[0] == (
            "control:operateer",
        )


def test_the_audit_cannot_be_changed(control: Any, url: str) -> None:
    control.post("/v1/kill")
    for statement in ("DELETE FROM control_audit", "UPDATE control_audit SET who = 'me'", "TRUNCATE control_audit"):
        with connect(url) as connection, pytest.raises(psycopg.errors.RaiseException, match="never changed"):
            connection.execute(statement)


def test_a_command_that_is_sent_again_is_refused(control: Any, url: str) -> None:
    headers = {"X-Fx-Nonce": "n" * 16, "X-Fx-Timestamp": str(int(time.time()))}
    assert control.post("/v1/kill", headers=headers).status_code == 200
    LiveStore(url).resume("paper", by_whom="test")
    answer = control.post("/v1/kill", headers=headers)
    assert answer.status_code == 409
    assert "nonce" in answer.json()["what"]
    assert not LiveStore(url).kill_state("paper").engaged
    assert phases(control)[-1] == ("kill", "denied")


def test_of_one_command_sent_at_once_by_many_one_is_done(control: Any) -> None:
    headers = {"X-Fx-Nonce": "m" * 16, "X-Fx-Timestamp": str(int(time.time()))}
    codes: list[int] = []
    threads = [
        threading.Thread(target=lambda: codes.append(control.post("/v1/kill", headers=headers).status_code))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(codes) == [200, 409, 409, 409, 409, 409]


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Fx-Timestamp": str(int(time.time()) - 61)}, 409),
        ({"X-Fx-Timestamp": str(int(time.time()) + 600)}, 409),
        ({"X-Fx-Timestamp": "nan"}, 400),
        ({"X-Fx-Timestamp": ""}, 400),
        ({"X-Fx-Nonce": "short"}, 400),
        ({"X-Fx-Nonce": "a" * 65}, 400),
        ({"X-Fx-Nonce": "'; DROP TABLE x; --"}, 400),
    ],
)
def test_a_stale_or_impossible_stamp_or_nonce_is_refused(control: Any, headers: dict[str, str], status: int) -> None:
    answer = control.post("/v1/kill", headers=headers)
    assert answer.status_code == status
    assert not control.get("/v1/status").json()["killed"]
    assert phases(control) == [("kill", "denied")]


def test_after_some_wrong_tokens_an_address_waits_but_not_who_showed_a_right_one(serve: Callable[..., Any]) -> None:
    with serve(failures_per_minute_max=3) as control:
        assert control.get("/v1/health").status_code == 200
        codes = [control.get("/v1/health", token=f"wrong-{i}").status_code for i in range(5)]
        assert codes == [401, 401, 401, 429, 429]
        waiting = control.get("/v1/health", token="wrong")
        assert 0 < int(waiting.headers["retry-after"]) <= 61
        assert control.get("/v1/health").status_code == 200
        assert control.get("/v1/health", token=control.operate).status_code == 429  # not shown before


def test_large_deep_and_impossible_bodies_are_refused_in_one_shape(control: Any) -> None:
    cases: list[tuple[dict[str, Any], int]] = [
        ({"json": {"reason": "x" * 20_000}}, 413),
        ({"content": b"[" * 5_000, "headers": {"Content-Type": "application/json"}}, 400),
        ({"json": {"reason": "x" * 201}}, 422),
        ({"json": {"reason": "a\u0000b"}}, 422),
        ({"json": {"reason": "two\nlines"}}, 422),
        ({"json": {"reazon": "x"}}, 422),
        ({"content": b'{"reason": "\\ud800"}', "headers": {"Content-Type": "application/json"}}, 422),
        ({"content": b"{nonsense", "headers": {"Content-Type": "application/json"}}, 422),
    ]
    for keywords, status in cases:
        answer = control.post("/v1/kill", **keywords)
        assert answer.status_code == status, keywords
        assert set(answer.json()) == {"what", "mend"}
    assert control.post("/v1/level", json={"level": 5}).status_code == 422
    assert control.post("/v1/level", json={"level": "1"}).status_code == 422
    assert not control.get("/v1/status").json()["killed"]
    assert control.get("/v1/decisions?limit=501").status_code == 422
    assert control.get("/v1/decisions?symbol=../x").status_code == 422


def test_a_body_that_never_ends_does_not_fill_the_memory(control: Any) -> None:
    head = (
        "POST /v1/kill HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        f"Authorization: Bearer {control.operate}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", control.parts.control.port), timeout=10) as link:
        link.sendall(head.encode())
        link.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n" + b"4000\r\n" + b" " * 0x4000 + b"\r\n")
        assert b" 413 " in link.recv(200)


def test_releases_go_through_their_own_commands_one_at_a_time(control: Any) -> None:
    control.switch.wait.clear()
    codes: list[int] = []
    first = threading.Thread(target=lambda: codes.append(control.post("/v1/releases/7/promote").status_code))
    first.start()
    deadline = time.monotonic() + 10
    while not control.parts.store.audit_rows("paper", limit=1) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert control.post("/v1/releases/rollback").status_code == 409
    control.switch.wait.set()
    first.join(10)
    assert codes == [200]
    assert control.post("/v1/releases/rollback", json={"reason": "worse"}).json()["result"] == {
        "release": 1,
        "before": 2,
    }
    assert control.switch.asked == [("promote", 7, "promoted", False), ("rollback", "worse")]
    assert control.post("/v1/releases/8/promote", json={"force": True}).status_code == 422
    assert control.post("/v1/releases/0/promote").status_code == 422
    assert control.get("/v1/releases").json() == []


def test_fx_release_itself_says_why_not(serve: Callable[..., Any], free_home: Path) -> None:
    with serve() as control:
        control.parts.switch = ReleaseCommands(child_environment(control.parts.settings))
        answer = control.post("/v1/releases/rollback", json={"reason": "--home=/tmp"})
    assert answer.status_code == 409
    assert answer.json()["what"] == "there is no earlier release to go back to"


class OneDrill:
    def list(self) -> tuple[Drill, ...]:
        return (Drill("triton-kill", "kills Triton", "the level falls and rises"),)

    def run(self, name: str, *, by_whom: str) -> DrillOutcome:
        if name != "triton-kill":
            raise KeyError(name)
        if by_whom != "control:operateer":
            raise ServerError("who?", mend="say")
        return DrillOutcome(True, "as expected", 1.5)


def test_drills_are_listed_and_run(serve: Callable[..., Any]) -> None:
    with serve(drills=OneDrill()) as control:
        assert [one["name"] for one in control.get("/v1/drills").json()] == ["triton-kill"]
        assert control.post("/v1/drills/triton-kill").json()["result"]["passed"] is True
        assert control.post("/v1/drills/other").status_code == 404


def test_no_secret_is_in_a_log_or_an_answer(control: Any, caplog: pytest.LogCaptureFixture, url: str) -> None:
    caplog.set_level("DEBUG")
    said = [control.get("/v1/status"), control.post("/v1/kill"), control.get("/v1/audit"), control.get("/v1/health")]
    said.append(control.get("/v1/status", token="fxc_0123456789ab_" + "s3cret" * 7 + "x"))
    password = url.split(":")[2].split("@")[0]
    for secret in (control.read, control.operate, "s3crets3cret", password):
        assert secret not in caplog.text
        assert not any(secret in answer.text for answer in said)


def test_without_postgresql_the_answer_says_so_and_tokens_of_the_environment_still_count(
    serve: Callable[..., Any], url: str
) -> None:
    from pydantic import SecretStr

    token = "e" * 40
    with serve(operate_token=SecretStr(token)) as control:
        assert control.get("/v1/health", token=token).json()["store"] == ""
        name = url.rsplit("/", 1)[1]
        with psycopg.connect(url.replace("+psycopg2", "").replace(name, "postgres"), autocommit=True) as admin:
            admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
            try:
                health = control.get("/v1/health", token=token)
                assert health.status_code == 200
                assert health.json()["store"]
                assert control.get("/v1/status", token=token).status_code == 503
                killed = control.post("/v1/kill", token=token)
                assert killed.status_code == 503
                assert set(killed.json()) == {"what", "mend"}
                assert "fx_store_up" in control.get("/metrics", token=token).text
            finally:
                admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


def test_the_description_names_every_error_and_both_headers(control: Any) -> None:
    schema = json.loads(control.get("/openapi.json").text)
    kill = schema["paths"]["/v1/kill"]["post"]
    assert {"400", "401", "403", "409", "413", "422", "429", "503"} <= set(kill["responses"])
    assert {one["name"] for one in kill["parameters"]} == {"X-Fx-Nonce", "X-Fx-Timestamp"}
    assert schema["security"] == [{"token": []}]
    problem = {"$ref": "#/components/schemas/Problem"}
    for path in schema["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status != "200":
                    assert response["content"]["application/json"]["schema"] == problem


def hold(url: str, session: Any, key: int) -> None:
    session.order(key, "unknown")
    with connect(url) as connection:
        connection.execute(
            "INSERT INTO held_order (client_order_id, account, held_ns, reason, epoch)"
            " VALUES (%s, 'paper', 7, 'never shown', 1)",
            (key,),
        )


def verdicts(url: str) -> list[tuple[Any, ...]]:
    with connect(url) as connection:
        return connection.execute("SELECT client_order_id, verdict, by_whom FROM held_order").fetchall()


def test_a_persons_word_on_a_held_order_is_taken_once(control: Any, url: str, session: Any) -> None:
    key = 2**62 + 1
    session.order(key + 1, "unknown")
    hold(url, session, key)
    doubtful = control.get("/v1/orders/doubtful").json()
    assert {row["client_order_id"]: row["state"] for row in doubtful} == {str(key): "held", str(key + 1): "unknown"}
    assert control.post(f"/v1/orders/{key}/not-sent", token=control.read).status_code == 403
    assert control.post(f"/v1/orders/{key + 1}/not-sent").status_code == 409, "it is not held: the broker may show it"
    for wrong in ("0", "-1", "x", str(2**63)):
        assert control.post(f"/v1/orders/{wrong}/not-sent").status_code == 422
    assert verdicts(url) == [(key, None, None)]
    assert control.post(f"/v1/orders/{key}/not-sent").json()["result"]["verdict"] == "not_sent"
    assert control.post(f"/v1/orders/{key}/not-sent").status_code == 409
    assert verdicts(url) == [(key, "not_sent", "control:operateer")]


def test_fx_orders_lists_what_is_in_doubt_and_takes_a_persons_word(
    url: str, session: Any, free_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FX_POSTGRES_URL", url)
    app, runner = build(), CliRunner()
    listed = runner.invoke(app, ["orders", "list"])
    assert listed.exit_code == 0
    hold(url, session, 77)
    listed = runner.invoke(app, ["orders", "list", "--json"])
    assert listed.exit_code == 1, "one waits for a person"
    assert [(row["client_order_id"], row["reason"]) for row in json.loads(listed.stdout)] == [("77", "never shown")]
    assert runner.invoke(app, ["orders", "not-sent", "77", "--json"]).exit_code == 0
    ((key, verdict, _),) = verdicts(url)
    assert (key, verdict) == (77, "not_sent")
    assert runner.invoke(app, ["orders", "not-sent", "78"]).exit_code != 0
