"""The bridge's edges: fields, rows, settings, secrets, account guard, frames; nothing is started."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import BrokerError, DataError, FencedError, ServerError, SettingsError
from fx_dagster.settings import BridgeSettings
from resources.mt5 import structures
from resources.mt5.bridge import frames
from resources.mt5.bridge import wire_pb2 as wire
from resources.mt5.bridge.broker import swap_points
from resources.mt5.bridge.checks import METHODS, Limits
from resources.mt5.bridge.client import BridgeAddress, read_rows
from resources.mt5.bridge.guard import Expected, trading_refused, wrong_account
from resources.mt5.bridge.owner import OwnerLock
from resources.mt5.bridge.settings import (
    Secrets,
    allowed_symbols,
    bridge_secrets,
    bridge_settings,
    require_account,
    require_safe,
)
from resources.mt5.bridge.simulated_module import pack, unpack
from resources.mt5.bridge.worker import Worker, WorkerConfig
from resources.mt5.constants import Mt5Constants

TOKEN = "t0ken-" * 6
LIMITS = Limits(frozenset({"EURUSD.m"}), rows_max=100, history_s_max=86_400)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in tuple(os.environ):
        if name.startswith("FX_BRIDGE_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("method", "message", "field"),
    [
        ("Rates", wire.RatesRequest(symbol="EURUSD.m", timeframe=16385, count=101), "Rates.count"),
        ("Rates", wire.RatesRequest(symbol="EURUSD.m", timeframe=7, count=1), "Rates.timeframe"),
        ("Rates", wire.RatesRequest(symbol="EURUSD.m", timeframe=1, count=1, start_pos=-1), "Rates.start_pos"),
        ("Rates", wire.RatesRequest(symbol="GBPUSD.m", timeframe=1, count=1), "Rates.symbol"),
        ("Ticks", wire.TicksRequest(symbol="../EURUSD", count=1, flags=-1), "Ticks.symbol"),
        ("Ticks", wire.TicksRequest(symbol="EURUSD.m", count=0, flags=-1), "Ticks.count"),
        ("Ticks", wire.TicksRequest(symbol="EURUSD.m", count=1, flags=9), "Ticks.flags"),
        ("Ticks", wire.TicksRequest(symbol="EURUSD.m", count=1, flags=-1, from_s=2**31), "Ticks.from_s"),
        ("Deals", wire.HistoryRequest(from_s=0, to_s=86_401), "Deals.to_s"),
        ("PastOrders", wire.HistoryRequest(from_s=2, to_s=1), "PastOrders.to_s"),
        ("Symbols", wire.SymbolsRequest(names=["EURUSD.m", "X" * 30]), "Symbols.names"),
        ("Send", wire.Intent(symbol="EURUSD"), "Send.symbol"),
    ],
)
def test_what_is_not_let_through_names_its_field(method, message, field):
    with pytest.raises(DataError, match=f"^{field.replace('.', '[.]')}"):
        LIMITS.check(method, message)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("Rates", wire.RatesRequest(symbol="EURUSD.m", timeframe=16385, count=100)),
        ("Ticks", wire.TicksRequest(symbol="EURUSD.m", count=1, flags=-1, from_s=2**31 - 1)),
        ("Deals", wire.HistoryRequest(from_s=5, to_s=86_405)),
        ("Symbols", wire.SymbolsRequest()),
        ("Send", wire.Intent(symbol="EURUSD.m")),
    ],
)
def test_what_is_on_the_list_passes(method, message):
    LIMITS.check(method, message)


def ticks(count, **columns):
    rows = np.zeros(count, dtype=structures.TICK_DTYPE)
    rows["time"], rows["time_msc"], rows["bid"], rows["ask"] = 1, 1000, 1.1, 1.2
    for name, value in columns.items():
        rows[name] = value
    return rows


def test_rows_come_back_as_they_were_sent():
    rows = ticks(3)
    assert (read_rows("Ticks", rows.tobytes(), structures.TICK_DTYPE, 3) == rows).all()
    assert len(read_rows("Ticks", b"", structures.TICK_DTYPE, 3)) == 0


@pytest.mark.parametrize(
    ("data", "count", "word"),
    [
        (ticks(2).tobytes()[:-1], 2, "whole rows"),
        (ticks(3).tobytes(), 2, "3 rows came"),
        (ticks(2, bid=np.nan).tobytes(), 2, "column bid"),
        (ticks(2, ask=-1.0).tobytes(), 2, "column ask"),
        (ticks(2, time_msc=0).tobytes(), 2, "column time_msc"),
    ],
)
def test_rows_that_are_none_are_refused(data, count, word):
    with pytest.raises(DataError, match=word):
        read_rows("Ticks", data, structures.TICK_DTYPE, count)


@given(st.lists(st.tuples(st.sampled_from(sorted(METHODS)), st.binary(max_size=200)), max_size=5))
def test_frames_come_back_in_order(sent):
    pipe = io.BytesIO()
    for name, body in sent:
        frames.write_frame(pipe, name, body)
    pipe.seek(0)
    assert [frames.read_frame(pipe) for _ in sent] == sent
    assert frames.read_frame(pipe) is None


def test_a_cut_frame_is_an_end_and_a_huge_one_an_error():
    pipe = io.BytesIO()
    frames.write_frame(pipe, "ok", b"body")
    assert frames.read_frame(io.BytesIO(pipe.getvalue()[:-1])) is None
    with pytest.raises(ServerError, match="bytes"):
        frames.read_frame(io.BytesIO(b"\x02\xff\xff\xff\xffok"))


def account(**changes):
    values = {"login": 77, "server": "Broker-Demo", "trade_mode": 0, "trade_allowed": True, "trade_expert": True}
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ()),
        ({"login": 78}, ("FX_BRIDGE_LOGIN",)),
        ({"server": "Broker-Live"}, ("FX_BRIDGE_SERVER",)),
        ({"trade_mode": 2}, ("FX_BRIDGE_MODE",)),
        ({"trade_mode": 1}, ("FX_BRIDGE_MODE",)),
        ({"login": 78, "trade_mode": 2}, ("FX_BRIDGE_LOGIN", "FX_BRIDGE_MODE")),
    ],
)
def test_the_guard_names_what_is_wrong(changes, names):
    problem = wrong_account(account(**changes), Expected("77", "Broker-Demo", "demo"))
    assert [name for name in ("FX_BRIDGE_LOGIN", "FX_BRIDGE_SERVER", "FX_BRIDGE_MODE") if name in problem] == [*names]
    assert bool(problem) == bool(names)


def test_why_trading_is_not_allowed():
    terminal = SimpleNamespace(connected=True, trade_allowed=True, tradeapi_disabled=False)
    assert trading_refused(account(), terminal) == ""
    terminal.trade_allowed = False
    assert "automated trading is switched off" in trading_refused(account(), terminal)
    assert "programs" in trading_refused(account(trade_expert=False), terminal)


def settings(**changes):
    return BridgeSettings(**({"login": "77", "server": "Broker-Demo"} | changes))


def test_settings_of_the_environment_are_named_when_they_are_wrong(monkeypatch):
    monkeypatch.setenv("FX_BRIDGE_PROT", "1")
    with pytest.raises(SettingsError, match=r"FX_BRIDGE_PROT.*FX_BRIDGE_PORT"):
        bridge_settings()
    monkeypatch.delenv("FX_BRIDGE_PROT")
    monkeypatch.setenv("FX_BRIDGE_CALL_LIMIT_S", "nan")
    with pytest.raises(SettingsError, match="FX_BRIDGE_CALL_LIMIT_S"):
        bridge_settings()


@pytest.mark.parametrize("missing", ["login", "server"])
def test_an_account_that_is_not_named_is_refused(missing):
    with pytest.raises(SettingsError, match=f"FX_BRIDGE_{missing.upper()}"):
        require_account(settings(**{missing: ""}))


def test_symbols_that_are_none_are_refused():
    assert allowed_symbols(settings(symbols=" EURUSD.m, #GOLD ,")) == {"EURUSD.m", "#GOLD"}
    with pytest.raises(SettingsError, match="SYMBOLS"):
        allowed_symbols(settings(symbols="EURUSD;DROP"))


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "::", "bridge.example"])
def test_beyond_loopback_it_takes_tls_and_a_token(tmp_path, host):
    with pytest.raises(SettingsError, match="no TLS"):
        require_safe(settings(host=host), Secrets(TOKEN))
    files = {"tls_certificate": private(tmp_path / "c", "cert"), "tls_key": private(tmp_path / "k", "key")}
    with pytest.raises(SettingsError, match="no token"):
        require_safe(settings(host=host, **files), Secrets())
    assert require_safe(settings(host=host, **files), Secrets(TOKEN)) == (b"key", b"cert")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_neither(host):
    assert require_safe(settings(host=host), Secrets()) is None


def test_a_key_that_others_may_read_is_refused(tmp_path):
    files = {"tls_certificate": private(tmp_path / "c", "x"), "tls_key": private(tmp_path / "k", "x", 0o640)}
    with pytest.raises(SettingsError, match=r"TLS_KEY.*others"):
        require_safe(settings(**files), Secrets())


def test_secrets_come_from_a_private_file_and_are_never_shown(tmp_path):
    path = private(tmp_path / "secrets", f"# of the bridge\ntoken {TOKEN}\npassword pa ss\n")
    found = bridge_secrets(settings(secrets_file=path))
    assert (found.token, found.password) == (TOKEN, "pa ss")
    shown = repr(found) + repr(settings(token=TOKEN)) + repr(BridgeAddress("127.0.0.1:1", TOKEN))
    assert TOKEN not in shown
    assert "pa ss" not in shown
    path.chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        bridge_secrets(settings(secrets_file=path))
    with pytest.raises(SettingsError, match="line 1") as caught:
        bridge_secrets(settings(secrets_file=private(tmp_path / "odd", f"tokn {TOKEN}\n")))
    assert TOKEN not in str(caught.value)


def test_a_short_token_is_refused_without_being_shown():
    with pytest.raises(SettingsError, match="FX_BRIDGE_TOKEN") as caught:
        bridge_secrets(settings(token="sh0rt"))
    assert "sh0rt" not in str(caught.value)


def test_a_client_goes_beyond_this_machine_only_with_a_certificate(tmp_path):
    with pytest.raises(SettingsError, match="certificate"):
        BridgeAddress("10.0.0.1:8710")
    BridgeAddress("10.0.0.1:8710", authority=tmp_path / "ca.pem")


def test_one_owner_at_a_time(tmp_path):
    first = OwnerLock(tmp_path / "owner.lock", "account 77")
    with pytest.raises(FencedError, match="account 77"):
        OwnerLock(tmp_path / "owner.lock", "account 77")
    first.release()
    OwnerLock(tmp_path / "owner.lock", "account 77").release()


def test_answers_of_the_terminal_travel_whole():
    tick = structures.Tick(1, 1.1, 1.2, 0.0, 0, 1000, 6, 0.0)
    for value in (None, True, 3, "x", 1.5, (), (tick, tick), tick):
        assert unpack(json.loads(json.dumps(pack(value)))) == value
    assert (unpack(json.loads(json.dumps(pack(ticks(2))))) == ticks(2)).all()
    with pytest.raises(TypeError, match="object"):
        pack(object())


@pytest.mark.parametrize(
    ("mode", "changes", "points"),
    [
        (0, {}, 0.0),
        (1, {}, -7.0),
        # A year's 7 % of 1.08 over 360 days, in points of 1e-5.
        (5, {}, -1.08 * 0.07 / 360 / 1e-5),
        # 7 units of the account a lot, at one a point.
        (4, {"tick_value": 1.0}, -7.0),
        (4, {"tick_value": 0.5}, -14.0),
        # 7 euros a lot of 100,000 are 7.56 dollars, a dollar a point.
        (2, {}, -7.56),
    ],
)
def test_swap_in_points_whatever_the_broker_counts_in(mode, changes, points):
    values = {"name": "EURUSD", "swap_mode": mode, "bid": 1.08, "point": 1e-5, "contract_size": 100_000.0}
    item = SimpleNamespace(**(values | {"tick_value": 1.0, "tick_size": 1e-5} | changes))
    assert swap_points(item, -7.0) == pytest.approx(points)


def test_swap_that_cannot_be_told_is_an_error():
    item = SimpleNamespace(name="EURUSD", swap_mode=7, bid=1.08, point=1e-5, contract_size=1e5, tick_value=1.0)
    with pytest.raises(BrokerError, match="mode 7"):
        swap_points(item, -7.0)


def config(**changes):
    values = {
        "terminal": "metatrader5", "terminal_path": "", "simulated_address": "", "login": "77",
        "server": "Broker-Demo", "mode": "demo", "password": "s3cret", "symbols": ("EURUSD",), "keys": "k",
        "clock_error_ns": 0, "rows_max": 10, "history_s_max": 86_400,
    }  # fmt: skip
    return WorkerConfig(**(values | changes))


class Module:
    """As much of the module as a connection needs."""

    def __init__(self, found=None, code=-10005):
        self.found, self.code, self.logins = found, code, []

    def initialize(self, *path, **login):
        self.logins.append((path, login))
        return self.found is not None

    def account_info(self):
        return self.found

    def last_error(self):
        return (self.code, "text")


def test_a_worker_connects_with_the_password_and_never_shows_it():
    module = Module(account())
    given = config(terminal_path="C:/mt5/terminal64.exe")
    Worker(module, None, given).connect()
    ((path, login),) = module.logins
    assert path == ("C:/mt5/terminal64.exe",)
    assert (login["login"], login["password"], login["server"]) == (77, "s3cret", "Broker-Demo")
    assert "s3cret" not in repr(given)
    assert WorkerConfig.from_json(given.to_json()) == given


@pytest.mark.parametrize(
    ("module", "error", "word"),
    [
        (Module(account(trade_mode=2)), SettingsError, "FX_BRIDGE_MODE"),
        (Module(account(login=5)), SettingsError, "FX_BRIDGE_LOGIN"),
        (Module(None, Mt5Constants.RES_E_AUTH_FAILED), SettingsError, "refuses login"),
        (Module(None), BrokerError, "does not answer"),
    ],
)
def test_a_worker_does_not_start_on_another_account(module, error, word):
    with pytest.raises(error, match=word) as caught:
        Worker(module, None, config()).connect()
    assert "s3cret" not in str(caught.value)


def test_the_bridge_loads_few_packages():
    code = (
        "import sys, resources.mt5.bridge.server, resources.mt5.bridge.worker\n"
        "print([n for n in ('pandas', 'numba', 'scipy', 'dagster', 'torch', 'pyarrow') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
