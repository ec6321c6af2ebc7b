import json
from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.release import Canary, ReleaseManifest

INPUTS = ModelInputs(
    features=np.array([[0.1, 1e-7], [-0.0, -3.5]], dtype=np.float32),
    sequence=np.arange(12, dtype=np.float32).reshape(2, 3, 2),
    chart=np.arange(20, dtype=np.float32).reshape(2, 1, 5, 2),
    time=np.array([1_483_228_800_000_000_001, 1_483_228_800_000_000_002]),
    symbol=np.array([0, -1]),
)
SAID = {
    "p_up_xgboost": np.array([[0.5], [0.625]], dtype=np.float32),
    "p_up_random_forest": np.array([[0.3], [0.4]], dtype=np.float32),
    "regime": np.full((2, 4), 0.25, dtype=np.float32),
    "expected_return": np.array([[-20.0], [0.0]], dtype=np.float32),
}


@pytest.fixture
def manifest() -> ReleaseManifest:
    return ReleaseManifest(
        version=7,
        created_at="2017-12-29T22:00:00+00:00",
        models=("xgboost", "random_forest"),
        members=("xgboost", "random_forest", "regime"),
        symbols=("EURUSD", "XAUUSD"),
        quantised=(),
        device="cpu",
        feature_names=("a", "b"),
        feature_hash="abc",
        files={"xgboost-r7/7/model.onnx": "00"},
        canary=Canary.of(INPUTS, SAID),
        metrics={"xgboost": {"accuracy": 0.51}},
        lineage={"source": "sample"},
        cards={},
    )


def test_json_gives_the_same_manifest_back(manifest: ReleaseManifest) -> None:
    again = ReleaseManifest.from_json(manifest.to_json())
    assert again == manifest
    assert again.digest() == manifest.digest()
    found = again.canary.inputs()
    for name in ("features", "sequence", "chart", "time", "symbol"):
        told, wanted = getattr(found, name), getattr(INPUTS, name)
        assert told.dtype == wanted.dtype
        assert np.array_equal(told, wanted)
    assert again.canary.difference(SAID) == 0.0


def test_served_names_are_the_members_first(manifest: ReleaseManifest) -> None:
    assert manifest.served_names == ("xgboost-r7", "random_forest-r7", "regime-r7", "simple-r7", "ensemble-r7")
    assert (manifest.ensemble, manifest.simple) == ("ensemble-r7", "simple-r7")
    assert manifest.outputs() == ("p_up_xgboost", "p_up_random_forest", "regime")
    assert manifest.outputs(whole=False) == ("p_up_xgboost", "p_up_random_forest")


def test_simple_models_alone_have_no_other_ensemble(manifest: ReleaseManifest) -> None:
    simple = replace(manifest, members=("xgboost", "random_forest"))
    assert simple.served_names == ("xgboost-r7", "random_forest-r7", "simple-r7")
    assert simple.ensemble == simple.simple == "simple-r7"


def test_rows_without_windows_come_back_empty() -> None:
    bare = replace(INPUTS, sequence=np.empty((2, 0, 0), np.float32), chart=np.empty((2, 0, 0, 0), np.float32))
    found = Canary.of(bare, SAID).inputs()
    assert (found.sequence.shape, found.chart.shape) == ((2, 0, 0), (2, 0, 0, 0))


def test_no_zero_is_negative(manifest: ReleaseManifest) -> None:
    """jsonb has no negative zero: the digest of what it gives back would be another."""
    assert "-0.0" not in manifest.to_json()


@pytest.mark.parametrize(
    ("found", "difference"),
    [
        ({"p_up_xgboost": SAID["p_up_xgboost"] + np.float32(0.25)}, 0.25),
        ({"expected_return": np.array([[-21.0], [0.0]])}, 0.05),
        ({"p_up_xgboost": np.array([[np.nan], [0.625]])}, np.inf),
        ({"p_up_xgboost": np.array([0.5, 0.625])}, np.inf),
        ({"p_up_xgboost": None}, np.inf),
        ({"p_up_cnn": SAID["p_up_xgboost"]}, np.inf),
        ({}, 0.0),
    ],
)
def test_difference_from_the_recorded_answers(
    manifest: ReleaseManifest, found: dict[str, object], difference: float
) -> None:
    assert manifest.canary.difference(found) == pytest.approx(difference)


def test_any_change_changes_the_digest(manifest: ReleaseManifest) -> None:
    assert replace(manifest, files={"xgboost-r7/7/model.onnx": "01"}).digest() != manifest.digest()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "null"])
def test_what_is_no_manifest_is_named(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"7\.json: not a release manifest"):
        ReleaseManifest.from_json(text, place="7.json")


def test_an_unknown_device_is_no_manifest(manifest: ReleaseManifest) -> None:
    with pytest.raises(ReleaseError, match=r"not a release manifest .*tpu"):
        ReleaseManifest.from_json(json.dumps({**json.loads(manifest.to_json()), "device": "tpu"}))


def test_the_format_before_is_refused_by_its_number() -> None:
    plain = {"version": 1, "models": ["xgboost"], "canary": {"features": [[0.0]], "p_up": {"xgboost": [0.5]}}}
    with pytest.raises(ReleaseError, match="format 1, this code reads 2"):
        ReleaseManifest.from_json(json.dumps({**plain, "format": 1}))


def test_a_gpu_answers_less_exactly(manifest: ReleaseManifest) -> None:
    assert replace(manifest, device="gpu").tolerance > manifest.tolerance == 1e-5
