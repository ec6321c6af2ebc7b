"""Settings from the environment, files of secrets, and symbols: taken as they are meant, or refused by name."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import SettingsError, UnknownSymbolError
from fx_dagster.market.instruments import SymbolResolver, check_symbol
from fx_dagster.settings import AlertSettings, ControlSettings, load_settings, variables
from resources.alerts import AlertSender, addresses
from resources.control.auth import given_tokens
from resources.mt5.bridge.settings import BridgeSettings, bridge_secrets
from resources.postgres import migrate
from resources.servers.private_files import PRIVATE_BYTES_MAX, read_private

from .mutations import budget, mutated, refused

NAMES = sorted(variables())
SECRETS = ("FX_POSTGRES_URL", "FX_REDIS_URL", "FX_RELEASE_SIGNING_KEY", "FX_CONTROL_READ_TOKEN",
           "FX_CONTROL_OPERATE_TOKEN", "FX_ALERT_URLS")  # fmt: skip
ENV_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
VALUES = (
    st.sampled_from(("", "0", "1", "-1", "nan", "inf", "-inf", "1e400", "true", "False", "USD", "hybrid", "/tmp/x"))
    | st.integers().map(str) | st.floats().map(str) | ENV_TEXT
)  # fmt: skip


@budget(150)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_any_value_is_taken_or_its_variable_is_named(free_home: Path, changes: dict[str, str]) -> None:
    environment = dict(os.environ)
    try:
        os.environ.update(changes)
        with refused(SettingsError, names="FX_") as told:
            settings = load_settings()
            # What a child process reads is the very same.
            os.environ.update(settings.environment())
            assert load_settings().environment() == settings.environment()
        if told:
            # The whole group is named where two settings contradict each other.
            assert any(name in str(told[0]) or f"{name.split('_')[1]}" in str(told[0]) for name in changes)
    finally:
        for name in set(os.environ) - set(environment):
            del os.environ[name]
        os.environ.update(environment)


@budget(100)
@given(st.text("ABCDEFGHIJ_", min_size=1, max_size=16).map(lambda name: f"FX_{name}").filter(lambda n: n not in NAMES))
def test_a_misspelt_variable_is_refused_by_name(free_home: Path, name: str) -> None:
    os.environ[name] = "1"
    try:
        with pytest.raises(SettingsError, match=name):
            load_settings()
    finally:
        del os.environ[name]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_that_is_refused_is_not_repeated(free_home: Path, name: str) -> None:
    secret = "s3cr3t-of-somebody"
    os.environ[name] = secret
    with refused(SettingsError) as told:
        settings = load_settings()
        assert secret not in repr(settings)
        if name.endswith("POSTGRES_URL"):
            migrate(settings.postgres.url.get_secret_value())
    assert not told or secret not in str(told[0])


# -- files of secrets --------------------------------------------------------------------------------------------------

LINES = st.lists(
    st.sampled_from(("read me " + "t" * 32, "operate you " + "u" * 40, "read x sha256:" + "a" * 64, "# note", ""))
    | st.text(max_size=50),
    max_size=5,
).map("\n".join)


def private(folder: Path, content: bytes) -> Path:
    path = folder / "secrets"
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@budget(150)
@given(LINES.map(str.encode) | mutated(b"read me " + b"t" * 32) | st.binary(max_size=60))
def test_a_file_of_tokens_is_read_or_its_line_is_named(tmp_path: Path, content: bytes) -> None:
    path = private(tmp_path, content)
    with refused(SettingsError, names=str(path)) as told:
        for known in given_tokens(ControlSettings(tokens_file=path)):
            assert known.role in ("read", "operate")
            assert len(known.digest) == 32
    assert not told or "t" * 20 not in str(told[0])


@budget(150)
@given(LINES.map(str.encode) | mutated(b"token " + b"t" * 32 + b"\npassword p w\n") | st.binary(max_size=60))
def test_a_bridges_file_of_secrets_is_read_or_its_line_is_named(tmp_path: Path, content: bytes) -> None:
    path = private(tmp_path, content)
    with refused(SettingsError, names="") as told:
        found = bridge_secrets(BridgeSettings(secrets_file=path))
        assert found.token == "" or len(found.token) >= 32
        assert repr(found) == "Secrets()"
    if told:
        assert str(path) in str(told[0]) or "FX_BRIDGE_TOKEN" in str(told[0])
        assert "t" * 20 not in str(told[0])


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@budget(50)
@given(st.lists(st.sampled_from(("json://127.0.0.1/hook", "tgram://123456789:ABCdefghijklmnopqrstuvwxyz123456789/77"))
                | st.text(min_size=12, max_size=30).map(lambda text: f"{text}-s3cr3t"), max_size=3))  # fmt: skip
def test_addresses_of_alerts_are_usable_or_refused_without_being_repeated(tmp_path: Path, urls: list[str]) -> None:
    path = private(tmp_path, "\n".join(urls).encode("utf-8", "replace"))
    with refused(SettingsError, names="alert address") as told:
        AlertSender(addresses(AlertSettings(urls_file=path)))
    assert not told or "s3cr3t" not in str(told[0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "is not a plain file"),
        (lambda path: os.mkfifo(path), "is not a plain file"),
        (lambda path: path.symlink_to(private(path.parent, b"x")), "it is a link"),
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b"x") and path.chmod(0o640), "others than its owner"),
        (lambda path: path.write_bytes(b"x") and path.chmod(0o604), "others than its owner"),
        (lambda path: path.write_bytes(b"\xff") and path.chmod(0o600), "is not text"),
        (lambda path: path.write_bytes(bytes(PRIVATE_BYTES_MAX + 1)) and path.chmod(0o600), "is longer than"),
    ],
)
def test_what_is_no_private_file_is_refused_at_once(tmp_path: Path, make: Any, words: str) -> None:
    path = tmp_path / "file"
    make(path)
    with pytest.raises(SettingsError, match=f"^FX_SOMETHING: .*{words}"):
        read_private(path, setting="FX_SOMETHING")


def test_a_path_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match="FX_SOMETHING"):
        read_private(Path("a\0b"), setting="FX_SOMETHING")


# -- symbols -----------------------------------------------------------------------------------------------------------


@budget(200)
@given(st.text(max_size=40) | st.from_regex(r"[A-Za-z0-9._#+-]{0,32}", fullmatch=True) | mutated(b"EURUSD.m").map(
    lambda name: name.decode("latin-1")))  # fmt: skip
def test_a_symbol_is_safe_and_of_at_most_29_characters_or_refused(name: str) -> None:
    with refused(UnknownSymbolError):
        assert check_symbol(name) == name
        assert 1 <= len(name) <= 29
        assert name.isascii()
        assert not set(name) & set("/\\'\"\0 \n;%")
        assert name not in (".", "..")
    with refused(UnknownSymbolError):
        found = SymbolResolver([name])
        assert len(found.symbols) <= 1
        assert all(found.broker(found.canonical(name)) == name for _ in found.symbols)
