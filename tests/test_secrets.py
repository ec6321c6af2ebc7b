"""No secret is shown: not by commands, logs, errors, records, servers, nor in what Dagster keeps."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import SecretStr

from fx_dagster import cli
from fx_dagster.commands.demo_report import _changed_settings
from fx_dagster.errors import FxError
from fx_dagster.live.protocols import FeedInfo
from fx_dagster.live_engine import tape_facts
from fx_dagster.market.timeframes import Timeframe
from fx_dagster.settings import Settings, load_settings, variables
from resources.alerts import AlertSender, addresses
from resources.control.auth import given_tokens
from resources.control.store import ControlStore
from resources.live_store import LiveStore
from resources.mt5.bridge.client import BridgeAddress
from resources.mt5.bridge.settings import BridgeSettings, Secrets, bridge_secrets, bridge_settings, require_safe
from resources.mt5.bridge.watchdog import child_environment
from resources.mt5.bridge.worker import Worker, WorkerConfig
from resources.servers.postgres import require_external
from resources.servers.private_files import write_private
from resources.signing import ReleaseKeys
from resources.tapes import FileTape
from resources.triton import TritonAdmin

ROOT = Path(__file__).parents[1]
MARK = "c4nary"
"""In every secret here, and nowhere else."""
VALUES = {
    "FX_POSTGRES_URL": f"postgresql+psycopg2://fx:{MARK}pg@127.0.0.1:1/fx?connect_timeout=1",
    "FX_REDIS_URL": f"redis://:{MARK}redis@127.0.0.1:1/0",
    "FX_CONTROL_READ_TOKEN": f"{MARK}-read-" + "r" * 30,
    "FX_CONTROL_OPERATE_TOKEN": f"{MARK}-operate-" + "o" * 30,
    "FX_ALERT_URLS": f"json://user:{MARK}alert@127.0.0.1:1/{MARK}path",
    "FX_RELEASE_SIGNING_KEY": f"{MARK}A" * 6 + "A=",
}
BRIDGE = {"FX_BRIDGE_TOKEN": f"{MARK}-bridge-" + "b" * 30, "FX_BRIDGE_PASSWORD": f"{MARK}password"}
COMMANDS = (
    ["settings"], ["settings", "--json"], ["settings", "--markdown"], ["live", "status"], ["kill"], ["release", "list"],
    ["control", "tokens"], ["explain", "EURUSD"], ["bridge", "health"],
)  # fmt: skip


@pytest.fixture
def secret_home(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose every secret is set."""
    for name, value in VALUES.items():
        monkeypatch.setenv(name, value)
    return free_home


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """Everything that is logged, at every level; nothing of it may hold a secret."""
    caplog.set_level(logging.DEBUG)
    yield caplog
    assert MARK not in caplog.text


def test_every_secret_of_the_settings_is_here() -> None:
    secret = {name for name, (_, default) in variables().items() if isinstance(default, SecretStr)}
    named = {f"FX_BRIDGE_{name.upper()}" for name, field in BridgeSettings.model_fields.items()
             if field.annotation is SecretStr}  # fmt: skip
    assert secret - named == set(VALUES)
    assert named == set(BRIDGE)


def test_settings_show_that_a_secret_is_set_and_no_more(secret_home: Path) -> None:
    settings = load_settings()
    for text in (repr(settings), str(settings), settings.model_dump_json(), str(settings.model_dump())):
        assert MARK not in text
    assert settings.environment()["FX_POSTGRES_URL"] == VALUES["FX_POSTGRES_URL"], "a child is told"


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_no_command_shows_a_secret(
    secret_home: Path,
    arguments: list[str],
    logged: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if arguments[0] == "bridge":
        for name, value in BRIDGE.items():
            monkeypatch.setenv(name, value)
    cli.run(arguments)
    said = "".join(capfd.readouterr())
    assert said.strip()
    assert MARK not in said
    if arguments == ["settings"]:
        assert "(set)" in said


def errors_of(settings: Settings) -> Iterator[Any]:
    """Yield calls that fail with the secrets at hand."""
    url = settings.postgres.url.get_secret_value()
    yield lambda: require_external(url, 0.5)
    yield lambda: require_external(url.replace("postgresql", "mysql"), 0.5)
    yield lambda: LiveStore(url).kill_state("paper")
    yield lambda: ControlStore(url).tokens()
    yield lambda: ReleaseKeys.of(settings)
    yield lambda: AlertSender([f"nosuch://nowhere/{MARK}"])
    yield lambda: given_tokens(settings.control.model_copy(update={"read_token": SecretStr(MARK)}))
    yield lambda: TritonAdmin("127.0.0.1:1", f"{MARK}triton").load(["simple-r7"])
    yield lambda: bridge_secrets(BridgeSettings(token=SecretStr(MARK)))
    yield lambda: require_safe(BridgeSettings(host="0.0.0.0"), Secrets(token=MARK * 6, password=MARK))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_no_error_repeats_a_secret(secret_home: Path, logged: pytest.LogCaptureFixture) -> None:
    failed = 0
    for call in errors_of(load_settings()):
        try:
            call()
        except FxError as error:
            failed += 1
            text = f"{error} {error!r} {error.__cause__ or ''}"
        else:
            text = ""
        assert MARK not in text
    assert failed >= 8, "these are to fail"


@pytest.mark.parametrize("name", [*VALUES, *BRIDGE])
def test_an_impossible_setting_is_named_without_its_value(
    free_home: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"{name}X", MARK)
    with pytest.raises(FxError) as caught:
        (bridge_settings if name in BRIDGE else load_settings)()
    assert MARK not in str(caught.value)
    assert name in str(caught.value)


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_tapes_hold_no_secret(secret_home: Path) -> None:
    settings = load_settings()
    facts = tape_facts(settings, FeedInfo(("EURUSD",), Timeframe.H1, 3_600.0, True), 0)
    assert MARK not in json.dumps(facts)
    tape = FileTape(secret_home / "tapes", 1, ("EURUSD",), facts, state=lambda: b"state", size_mb_max=1.0)
    tape.begin()
    tape.close()
    written = [path.read_bytes() for path in (secret_home / "tapes").rglob("*") if path.is_file()]
    assert written
    assert not any(MARK.encode() in content for content in written)


def test_a_report_of_the_demo_holds_no_secret(secret_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RISK_LEVERAGE", "7")
    changed = _changed_settings(load_settings())
    assert changed["FX_RISK_LEVERAGE"] == "7.0"
    assert MARK not in json.dumps(changed)


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition:DeprecationWarning")
def test_what_dagster_keeps_holds_no_secret(secret_home: Path) -> None:
    import dagster as dg
    from dagster._core.remote_representation.external_data import RepositorySnap

    from fx_dagster.definitions import defs

    repository = defs().get_repository_def()
    kept = dg.serialize_value(RepositorySnap.from_def(repository))
    assert "live_session" in kept, "something is in it"
    assert MARK not in kept
    for name, resource in repository.get_top_level_resources().items():
        assert MARK not in repr(resource), name


def test_secrets_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    write_private(tmp_path / "password", MARK)
    assert (tmp_path / "password").stat().st_mode & 0o777 == 0o600


# -- the bridge --------------------------------------------------------------------------------------------------------


class Module:
    """A terminal that refuses the login."""

    def initialize(self, **login: Any) -> bool:
        assert login["password"] == BRIDGE["FX_BRIDGE_PASSWORD"]
        return False

    def last_error(self) -> tuple[int, str]:
        return (-6, "authorization failed")


def test_the_bridge_shows_neither_token_nor_password(
    monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    for name, value in BRIDGE.items():
        monkeypatch.setenv(name, value)
    settings = bridge_settings({"login": "77", "server": "S"})
    secrets = bridge_secrets(settings)
    config = WorkerConfig(
        terminal="metatrader5", terminal_path="", simulated_address="", login="77", server="S", mode="demo",
        password=secrets.password, symbols=(), keys="", clock_error_ns=0, rows_max=1, history_s_max=1,
    )  # fmt: skip
    with pytest.raises(FxError) as caught:
        Worker(Module(), SimpleNamespace(), config).connect()  # type: ignore[arg-type]
    for shown in (settings, secrets, config, BridgeAddress("127.0.0.1:1", secrets.token), caught.value):
        assert MARK not in f"{shown} {shown!r}"
    assert not set(BRIDGE) & set(child_environment()), "children get neither by their environment"


# -- the control server ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_the_control_server_answers_without_secrets(secret_home: Path, logged: pytest.LogCaptureFixture) -> None:
    import httpx

    from resources.alerts import AlertWatch
    from resources.control.app import ControlParts, create_app
    from resources.control.auth import Gate
    from resources.control.protocols import ReleaseCommands
    from resources.control.reads import SessionReads
    from resources.releases import ReleaseStore

    os.environ.pop("FX_RELEASE_SIGNING_KEY")
    settings = load_settings()
    url = settings.postgres.url.get_secret_value()
    store = ControlStore(url)
    sender = AlertSender(addresses(settings.alert), tries=1)
    parts = ControlParts(
        settings=settings, control=settings.control, gate=Gate(store, settings.control), store=store,
        live=LiveStore(url), reads=SessionReads(url, "paper"), releases=ReleaseStore.of(settings),
        switch=ReleaseCommands({}), watch=AlertWatch(settings, settings.alert, sender),
    )  # fmt: skip
    headers = {"Authorization": f"Bearer {VALUES['FX_CONTROL_OPERATE_TOKEN']}"}
    places = ("/v1/status", "/v1/health", "/v1/alerts", "/v1/releases", "/metrics", "/openapi.json", f"/{MARK[:3]}")

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(create_app(parts), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answers = [await client.get(place, headers=headers) for place in places]
            answers.append(await client.post("/v1/kill", headers=headers, json={"reason": "x"}))
            answers.append(await client.get("/v1/status", headers={"Authorization": f"Bearer {MARK}wrong"}))
        return answers

    answers = asyncio.run(ask())
    assert {answer.status_code for answer in answers} >= {200, 401, 503}
    for answer in answers:
        assert MARK not in answer.text
        assert MARK not in str(answer.headers)
