"""Alerts that are really sent, to a receiver on loopback."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fx_dagster.errors import SettingsError
from fx_dagster.live.alerts import Alert, Notice, Severity
from fx_dagster.settings import AlertSettings
from resources.alerts import AlertSender, AlertWatch, addresses, market_open
from resources.live_store import LiveStore
from tests.resources.control.conftest import Session, settings_for

pytestmark = [
    pytest.mark.integration,
    # Apprise's e-mail plugin imports a module of the standard library that Python 3.13 no longer has, and copes.
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]
SECRET = "s3cretpath"
NOTICE = Notice(Alert("kill", Severity.CRITICAL, "account paper is stopped", "fx resume"), "new")


class Receiver:
    """Takes what is posted; the first ``refusals`` requests get 500."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.asked = self.refusals = 0
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.asked += 1
                refused = receiver.asked <= receiver.refusals
                if not refused:
                    receiver.got.append(json.loads(body))
                self.send_response(500 if refused else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"json://127.0.0.1:{self.server.server_port}/{SECRET}"


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    one = Receiver()
    yield one
    one.server.shutdown()
    one.server.server_close()


def test_an_alert_arrives_with_what_to_do(receiver: Receiver) -> None:
    assert AlertSender([receiver.url]).send(NOTICE)
    assert receiver.got[0]["title"] == "fx critical: kill"
    assert "What to do: fx resume" in receiver.got[0]["message"]


def test_a_refused_message_is_tried_again(receiver: Receiver) -> None:
    receiver.refusals = 2
    assert AlertSender([receiver.url], wait_s=0.01).send(NOTICE)
    assert (receiver.asked, len(receiver.got)) == (3, 1)


def test_one_address_that_fails_does_not_keep_the_other_from_it(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    dead = f"json://127.0.0.1:1/{SECRET}"
    assert AlertSender([dead, receiver.url], wait_s=0.01).send(NOTICE)
    assert not AlertSender([dead], tries=2, wait_s=0.01).send(NOTICE)
    assert len(receiver.got) == 1
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("fx_dagster", "apprise"))]
    assert any("did not reach address 1" in text for text in ours)
    assert not any(SECRET in text for text in ours)


def test_an_impossible_address_is_refused_without_being_repeated() -> None:
    with pytest.raises(SettingsError, match="alert address 2") as error:
        AlertSender(["json://localhost/x", "nonsense://token/SECRETSECRET"])
    assert "SECRETSECRET" not in str(error.value)


def test_addresses_come_from_a_file_that_others_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "alerts"
    file.write_text("# mine\njson://a/x\n\njson://b/y\n")
    settings = AlertSettings(urls=SecretStr("json://a/x json://c/z"), urls_file=file)
    file.chmod(0o644)
    with pytest.raises(SettingsError, match="others than its owner"):
        addresses(settings)
    file.chmod(0o600)
    assert addresses(settings) == ("json://a/x", "json://c/z", "json://b/y")
    link = tmp_path / "link"
    link.symlink_to(file)
    with pytest.raises(SettingsError, match="cannot open"):
        addresses(AlertSettings(urls_file=link))
    assert "json://c" not in repr(settings)


def test_what_happens_to_an_account_is_told_once(
    receiver: Receiver, session: Session, url: str, free_home: Path
) -> None:
    watch = AlertWatch(settings_for(url, free_home), AlertSettings(clear_after_s=0.001), AlertSender([receiver.url]))
    watch.look()
    assert [one.key for one in watch.current] == []
    LiveStore(url).kill("paper", reason="news", flatten=False, by_whom="me")
    session.order(77, "unknown")
    session.decide(1, breakers=["spread"], stage="close_only", drift=0.9)
    for _ in range(3):
        watch.look()
    titles = [one["title"].split(": ")[1] for one in receiver.got]
    assert sorted(titles) == ["breaker spread", "drawdown", "drift", "kill", "order 77"]
    assert "news" in next(one["message"] for one in receiver.got if one["title"].endswith("kill"))
    LiveStore(url).resume("paper", by_whom="me")
    watch.look()
    assert receiver.got[-1]["title"] == "fx: cleared: kill"


def test_postgresql_being_away_is_told(receiver: Receiver, free_home: Path) -> None:
    settings = settings_for("postgresql://u:geheim@127.0.0.1:1/x", free_home)
    watch = AlertWatch(settings, AlertSettings(), AlertSender([receiver.url]))
    watch.look()
    assert receiver.got[0]["title"] == "fx critical: store"
    assert "geheim" not in json.dumps(receiver.got)


def test_a_running_server_watches(receiver: Receiver, serve: Any, session: Session) -> None:
    with serve(alert=AlertSettings(urls=SecretStr(receiver.url), every_s=0.05)) as control:
        control.post("/v1/kill", json={"reason": "drill"})
        deadline = 200
        while not receiver.got and deadline:
            threading.Event().wait(0.05)
            deadline -= 1
        assert [one["key"] for one in control.get("/v1/alerts").json()] == ["kill"]
    assert receiver.got[0]["title"] == "fx critical: kill"


def test_a_market_is_open_by_its_hours_and_a_replay_always() -> None:
    saturday = 1_764_374_400_000_000_000  # 2025-11-29
    assert not market_open(saturday - 10**9, saturday)
    assert market_open(saturday - 2 * 86_400 * 10**9, saturday - 2 * 86_400 * 10**9)
    assert market_open(1_500_000_000_000_000_000, saturday)
    assert market_open(None, saturday)
