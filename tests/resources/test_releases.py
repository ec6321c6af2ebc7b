"""Releases in a real PostgreSQL."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.promotion import Gate, GateResult, Stage
from fx_dagster.models.release import ReleaseManifest
from resources.postgres import migrate, psycopg_url
from resources.releases import ReleaseStore
from resources.signing import ReleaseKeys
from tests.resources.release_models import simple_canary

pytestmark = pytest.mark.integration


@pytest.fixture
def keys(tmp_path: Path) -> ReleaseKeys:
    return ReleaseKeys(tmp_path / "keys")


@pytest.fixture
def store(database_url: str, keys: ReleaseKeys) -> ReleaseStore:
    migrate(database_url)
    return ReleaseStore(database_url, keys)


def manifest(version: int) -> ReleaseManifest:
    return ReleaseManifest(
        version=version,
        created_at="2017-12-29T22:00:00+00:00",
        models=("xgboost",),
        members=("xgboost",),
        symbols=("EURUSD",),
        quantised=(),
        device="cpu",
        feature_names=("a",),
        feature_hash="c0ffee",
        files={"xgboost-r1/1/model.onnx": "00"},
        canary=simple_canary([1e-7, 0.1], [0.30000001192092896, 1e-05]),
        metrics={},
        lineage={"quote": 'it\'s "quoted" ü'},
        cards={},
    )


def released(store: ReleaseStore, *versions: int) -> None:
    for version in versions:
        store.record(manifest(version))
        store.activate(version, reason="released")


def test_a_manifest_comes_back_with_the_same_digest(store: ReleaseStore) -> None:
    store.record(manifest(1))
    assert store.manifest(1).digest() == manifest(1).digest()
    assert store.manifest(1).canary == manifest(1).canary


def test_recording_twice_is_harmless_with_the_same_content_only(store: ReleaseStore) -> None:
    store.record(manifest(1))
    store.record(manifest(1))
    with pytest.raises(ReleaseError, match="release 1 is recorded with another content"):
        store.record(replace(manifest(1), feature_hash="decaf"))
    assert store.manifest(1).feature_hash == "c0ffee"


def altered(database_url: str, statement: str, *values: object) -> None:
    with psycopg.connect(psycopg_url(database_url)) as connection:
        connection.execute(statement.encode(), values)


def test_an_altered_row_is_noticed(store: ReleaseStore, database_url: str) -> None:
    store.record(manifest(1))
    altered(database_url, "UPDATE fx.releases SET manifest = jsonb_set(manifest, '{feature_hash}', '\"decaf\"')")
    with pytest.raises(ReleaseError, match="manifest of release 1 in PostgreSQL was altered"):
        store.manifest(1)


def test_a_row_altered_with_its_digest_has_not_the_signature_of_its_content(
    store: ReleaseStore, database_url: str
) -> None:
    store.record(manifest(1))
    text = replace(manifest(1), feature_hash="decaf").to_json()
    digest = hashlib.sha256(text.encode()).hexdigest()
    altered(database_url, "UPDATE fx.releases SET manifest = %s::jsonb, digest = %s", text, digest)
    with pytest.raises(ReleaseError, match="release 1 in PostgreSQL does not have the signature of its content"):
        store.manifest(1)


def test_an_altered_signature_is_noticed(store: ReleaseStore, database_url: str) -> None:
    store.record(manifest(1))
    altered(database_url, "UPDATE fx.releases SET signature = set_byte(signature, 5, get_byte(signature, 5) # 1)")
    with pytest.raises(ReleaseError, match="release 1 in PostgreSQL does not have the signature"):
        store.manifest(1)


def test_a_release_put_in_another_ones_place_is_noticed(store: ReleaseStore, database_url: str) -> None:
    store.record(manifest(1))
    store.record(manifest(2))
    altered(
        database_url,
        "UPDATE fx.releases t SET manifest = f.manifest, digest = f.digest, signature = f.signature"
        " FROM fx.releases f WHERE (t.version, f.version) = (2, 1)",
    )
    with pytest.raises(ReleaseError, match="manifest of release 2 in PostgreSQL was altered"):
        store.manifest(2)


def test_a_release_from_before_signatures_is_refused(store: ReleaseStore, database_url: str) -> None:
    store.record(manifest(1))
    altered(database_url, "UPDATE fx.releases SET signature = NULL, key_id = NULL")
    with pytest.raises(ReleaseError, match="release 1 in PostgreSQL has no signature → release again"):
        store.manifest(1)
    assert store.signature(1) is None


def test_a_release_of_another_installation_is_refused(store: ReleaseStore, database_url: str, tmp_path: Path) -> None:
    ReleaseStore(database_url, ReleaseKeys(tmp_path / "other")).record(manifest(1))
    with pytest.raises(ReleaseError, match=r"release 1 in PostgreSQL is signed with key .*not trusted here"):
        store.manifest(1)


def test_keys_of_the_environment_are_used_where_none_are_given(database_url: str, free_home: Path) -> None:
    migrate(database_url)
    ReleaseStore(database_url).record(manifest(1))
    signed = ReleaseStore(database_url).signature(1)
    assert signed is not None
    assert signed.key_id in ReleaseKeys(free_home / "keys").trusted()
    assert ReleaseStore(database_url).manifest(1) == manifest(1)


def test_nothing_is_active_at_first(store: ReleaseStore) -> None:
    assert store.active() is None
    assert store.previous() is None
    with pytest.raises(ReleaseError, match="no earlier release"):
        store.rollback()


def test_only_a_recorded_release_is_activated(store: ReleaseStore) -> None:
    with pytest.raises(ReleaseError, match="release 9 is not recorded"):
        store.activate(9, reason="?")
    assert store.active() is None
    with pytest.raises(ReleaseError, match="release 9 is not recorded"):
        store.manifest(9)


def test_rollbacks_go_back_and_never_forth(store: ReleaseStore) -> None:
    released(store, 1, 2, 3)
    assert (store.active(), store.previous()) == (3, 2)
    assert store.rollback() == 2
    assert store.rollback() == 1
    with pytest.raises(ReleaseError, match="no earlier release"):
        store.rollback()
    assert store.active() == 1
    released(store, 4)
    assert store.rollback(reason="worse") == 1


def test_activating_the_active_release_again_changes_nothing_for_a_rollback(store: ReleaseStore) -> None:
    released(store, 1, 2)
    store.activate(2, reason="again")
    assert store.rollback() == 1


def test_list_is_newest_first_and_marks_the_active(store: ReleaseStore) -> None:
    released(store, 1, 2)
    store.rollback()
    assert [(row.version, row.active) for row in store.list()] == [(2, False), (1, True)]


def test_numbers_are_never_given_twice(store: ReleaseStore) -> None:
    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(lambda _: store.next_version(), range(12)))
    assert sorted(numbers) == list(range(1, 13))


def test_numbers_go_on_above_what_is_on_disk(store: ReleaseStore) -> None:
    assert store.next_version(above=40) == 41
    assert store.next_version(above=7) == 42


def stages(store: ReleaseStore) -> dict[int, Stage]:
    return {row.version: row.stage for row in store.list()}


def recorded(store: ReleaseStore, *versions: int) -> None:
    for version in versions:
        store.record(manifest(version))


def test_a_release_goes_from_recorded_to_shadow_to_live_to_retired(store: ReleaseStore) -> None:
    recorded(store, 1, 2)
    assert stages(store) == {1: Stage.RECORDED, 2: Stage.RECORDED}
    store.activate(1, reason="first")
    store.stage(2, reason="trained")
    assert stages(store) == {1: Stage.LIVE, 2: Stage.SHADOW}
    assert store.active() == 1
    assert store.challengers() == [2]
    store.activate(2, reason="better")
    assert stages(store) == {1: Stage.RETIRED, 2: Stage.LIVE}
    assert store.challengers() == []
    store.rollback()
    assert stages(store) == {1: Stage.LIVE, 2: Stage.RETIRED}
    store.stage(2, reason="once more")
    assert stages(store)[2] is Stage.SHADOW
    store.retire(2, reason="worse")
    assert stages(store)[2] is Stage.RETIRED


def test_only_the_first_release_goes_live_at_once(store: ReleaseStore) -> None:
    recorded(store, 1, 2)
    assert store.introduce(1, reason="trained") is Stage.LIVE
    assert store.introduce(2, reason="trained") is Stage.SHADOW
    assert store.active() == 1
    assert store.introduce(1, reason="again") is Stage.LIVE
    assert stages(store) == {1: Stage.LIVE, 2: Stage.SHADOW}


def test_the_challenger_that_is_tried_keeps_its_place_and_the_newest_waits(store: ReleaseStore) -> None:
    recorded(store, 1, 2, 3, 4)
    for version in (1, 2, 3, 4):
        store.introduce(version, reason="trained")
    assert store.challengers() == [2, 4]
    assert stages(store)[3] is Stage.RETIRED
    assert store.introduce(2, reason="again") is Stage.SHADOW
    assert store.challengers() == [2, 4]
    store.retire(2, reason="worse")
    assert store.challengers() == [4]


@pytest.mark.parametrize("step", ["stage", "retire", "introduce"])
def test_stages_are_of_recorded_releases_that_are_not_live(store: ReleaseStore, step: str) -> None:
    recorded(store, 1)
    store.activate(1, reason="first")
    with pytest.raises(ReleaseError, match="release 9 is not recorded"):
        getattr(store, step)(9, reason="?")
    if step != "introduce":
        with pytest.raises(ReleaseError, match="release 1 is live"):
            getattr(store, step)(1, reason="?")
    assert stages(store) == {1: Stage.LIVE}


@pytest.mark.parametrize("table", ["release_switches", "release_stages"])
@pytest.mark.parametrize("statement", ["UPDATE fx.{} SET reason = ''", "DELETE FROM fx.{}", "TRUNCATE fx.{}"])
def test_history_is_never_changed_or_removed(
    store: ReleaseStore, database_url: str, table: str, statement: str
) -> None:
    recorded(store, 1, 2)
    store.introduce(1, reason="trained")
    store.introduce(2, reason="trained")
    with pytest.raises(psycopg.errors.RaiseException, match="added, never changed or removed"):
        altered(database_url, statement.format(table))
    assert stages(store) == {1: Stage.LIVE, 2: Stage.SHADOW}


def test_what_the_gates_said_is_kept_with_the_switch(store: ReleaseStore, database_url: str) -> None:
    recorded(store, 1)
    said = (GateResult(Gate.FILES, True, "5 as recorded"), GateResult(Gate.COSTS, False, "-1 %", forced=True))
    store.activate(1, reason="trial", gates=said)
    with psycopg.connect(psycopg_url(database_url)) as connection:
        kept = connection.execute("SELECT reason, forced, gates::text FROM fx.release_switches").fetchone()
    assert kept is not None
    assert kept[:2] == ("trial", True)
    assert json.loads(kept[2]) == [one.to_dict() for one in said]


def test_a_closed_gate_stops_the_switch_itself(store: ReleaseStore) -> None:
    recorded(store, 1)
    with pytest.raises(ReleaseError, match="release 1 does not pass: costs"):
        store.activate(1, reason="?", gates=(GateResult(Gate.COSTS, False, "-1 %"),))
    assert store.active() is None


def test_a_switch_that_others_overtook_is_refused(store: ReleaseStore) -> None:
    released(store, 1, 2)
    recorded(store, 3)
    with pytest.raises(ReleaseError, match="release 2 went live meanwhile"):
        store.activate(3, reason="better than 1", instead_of=1)
    with pytest.raises(ReleaseError, match="leads to release 1 now, not to 3"):
        store.rollback(to=3)
    assert store.active() == 2
