"""Keys and signatures of releases."""

import base64
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fx_dagster.errors import ReleaseError, SettingsError
from fx_dagster.settings import load_settings
from resources.signing import PRIVATE_FILE, PUBLIC_FILE, ReleaseKeys, key_id

SEED = bytes(range(32))
TEXT = '{"version": 1}'


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode()


def _public(keys: ReleaseKeys) -> bytes:
    (key,) = keys.trusted().values()
    return key


def test_a_pair_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "keys"
    signed = ReleaseKeys(folder).sign(TEXT)
    assert stat.S_IMODE((folder / PRIVATE_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert len(signed.value) == 64
    assert ReleaseKeys(folder).sign(TEXT) == signed
    ReleaseKeys(folder).verify(TEXT, signed, what="release 1")
    assert sorted(path.name for path in folder.iterdir()) == [PRIVATE_FILE, PUBLIC_FILE]


def test_verifying_makes_no_key(tmp_path: Path) -> None:
    signed = ReleaseKeys(tmp_path / "one").sign(TEXT)
    with pytest.raises(ReleaseError, match=rf"release 1 is signed with key {signed.key_id}, which is not trusted here"):
        ReleaseKeys(tmp_path / "other").verify(TEXT, signed, what="release 1")
    assert not (tmp_path / "other").exists()


def test_many_processes_that_sign_first_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        signed = set(pool.map(lambda _: ReleaseKeys(tmp_path / "keys").sign(TEXT), range(12)))
    assert len(signed) == 1


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_read_is_refused(tmp_path: Path, mode: int) -> None:
    keys = ReleaseKeys(tmp_path)
    signed = keys.sign(TEXT)
    (tmp_path / PRIVATE_FILE).chmod(mode)
    with pytest.raises(ReleaseError, match=rf"release.key has mode {mode:04o}.*read by others.*chmod 600"):
        keys.sign(TEXT)
    with pytest.raises(ReleaseError, match="read by others"):
        keys.verify(TEXT, signed, what="release 1")


def test_public_keys_that_others_write_are_refused(tmp_path: Path) -> None:
    keys = ReleaseKeys(tmp_path)
    signed = keys.sign(TEXT)
    (tmp_path / PUBLIC_FILE).chmod(0o666)
    with pytest.raises(ReleaseError, match=r"release.pub has mode 0666.*written by others.*chmod 644"):
        keys.verify(TEXT, signed, what="release 1")


@pytest.mark.parametrize("content", ["", "not base64", _base64(b"short")])
def test_a_broken_key_file_is_named(tmp_path: Path, content: str) -> None:
    ReleaseKeys(tmp_path).sign(TEXT)
    (tmp_path / PRIVATE_FILE).write_text(content)
    with pytest.raises(ReleaseError, match=r"release\.key holds no Ed25519 key"):
        ReleaseKeys(tmp_path).sign(TEXT)


@given(st.binary(min_size=1), st.data())
def test_any_altered_bit_is_noticed(content: bytes, data: st.DataObject) -> None:
    keys = ReleaseKeys(Path("nowhere"), seed=SEED)
    text = content.hex()
    signed = keys.sign(text)
    keys.verify(text, signed, what="release 1")
    bit = data.draw(st.integers(0, 64 * 8 - 1))
    flipped = bytearray(signed.value)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ReleaseError, match="release 1 does not have the signature of its content"):
        keys.verify(text, replace(signed, value=bytes(flipped)), what="release 1")
    with pytest.raises(ReleaseError, match="does not have the signature"):
        keys.verify(text + " ", signed, what="release 1")


def test_a_signature_of_the_bare_text_is_none_of_a_manifest(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys = ReleaseKeys(tmp_path, seed=SEED)
    bare = Ed25519PrivateKey.from_private_bytes(SEED).sign(TEXT.encode())
    with pytest.raises(ReleaseError, match="does not have the signature"):
        keys.verify(TEXT, replace(keys.sign(TEXT), value=bare), what="release 1")


def test_a_replaced_key_stays_trusted(tmp_path: Path) -> None:
    old = ReleaseKeys(tmp_path).sign(TEXT)
    (tmp_path / PRIVATE_FILE).unlink()
    keys = ReleaseKeys(tmp_path)
    new = keys.sign(TEXT)
    assert new.key_id != old.key_id
    keys.verify(TEXT, old, what="release 1")


def test_a_key_of_the_settings_wins_and_leaves_no_file(free_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FX_RELEASE_SIGNING_KEY", _base64(SEED))
    keys = ReleaseKeys.of(load_settings())
    assert keys.sign(TEXT) == ReleaseKeys(free_home, seed=SEED).sign(TEXT)
    assert not (free_home / "keys").exists()


def test_with_public_keys_alone_an_installation_verifies_and_signs_nothing(
    free_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signer = ReleaseKeys(free_home, seed=SEED)
    monkeypatch.setenv("FX_RELEASE_VERIFY_KEY", f"{_base64(_public(signer))}, {_base64(bytes(32))}")
    keys = ReleaseKeys.of(load_settings())
    keys.verify(TEXT, signer.sign(TEXT), what="release 1")
    assert set(keys.trusted()) == {key_id(_public(signer)), key_id(bytes(32))}
    with pytest.raises(ReleaseError, match="signs no release"):
        keys.sign(TEXT)


@pytest.mark.parametrize("name", ["FX_RELEASE_SIGNING_KEY", "FX_RELEASE_VERIFY_KEY"])
@pytest.mark.parametrize("value", ["c2VjcmV0", "se cret"])
def test_a_key_that_is_none_is_refused_and_not_repeated(
    free_home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"{name} is no key") as caught:
        ReleaseKeys.of(load_settings())
    assert value not in str(caught.value)
