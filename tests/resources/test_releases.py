"""Releases in a real PostgreSQL."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.release import Canary, ReleaseManifest
from resources.postgres import migrate, psycopg_url
from resources.releases import ReleaseStore

pytestmark = pytest.mark.integration


@pytest.fixture
def store(database_url: str) -> ReleaseStore:
    migrate(database_url)
    return ReleaseStore(database_url)


def manifest(version: int) -> ReleaseManifest:
    return ReleaseManifest(
        version=version,
        created_at="2017-12-29T22:00:00+00:00",
        models=("xgboost",),
        feature_names=("a",),
        feature_hash="c0ffee",
        files={"xgboost-r1/1/model.onnx": "00"},
        canary=Canary(((1e-7,), (0.1,)), {"xgboost": (0.30000001192092896, 1e-05)}),
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


def test_an_altered_row_is_noticed(store: ReleaseStore, database_url: str) -> None:
    store.record(manifest(1))
    with psycopg.connect(psycopg_url(database_url)) as connection:
        connection.execute("UPDATE fx.releases SET manifest = jsonb_set(manifest, '{feature_hash}', '\"decaf\"')")
    with pytest.raises(ReleaseError, match="manifest of release 1 in PostgreSQL was altered"):
        store.manifest(1)


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
