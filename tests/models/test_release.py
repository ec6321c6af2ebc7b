import json
from dataclasses import replace

import numpy as np
import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.release import Canary, ReleaseManifest


@pytest.fixture
def manifest() -> ReleaseManifest:
    return ReleaseManifest(
        version=7,
        created_at="2017-12-29T22:00:00+00:00",
        models=("xgboost", "random_forest"),
        feature_names=("a", "b"),
        feature_hash="abc",
        files={"xgboost-r7/7/model.onnx": "00"},
        canary=Canary(((0.1, 1e-7), (2.0, -3.5)), {"random_forest": (0.3, 0.4), "xgboost": (0.5, 0.625)}),
        metrics={"xgboost": {"accuracy": 0.51}},
        lineage={"source": "sample"},
        cards={},
    )


def test_json_gives_the_same_manifest_back(manifest: ReleaseManifest) -> None:
    again = ReleaseManifest.from_json(manifest.to_json())
    assert again.digest() == manifest.digest()
    assert again.served_names == ("xgboost-r7", "random_forest-r7", "simple-r7")
    assert again.canary.answers(again.models).tolist() == [[0.5, 0.3], [0.625, 0.4]]
    assert again.canary.inputs().dtype == np.float32


def test_any_change_changes_the_digest(manifest: ReleaseManifest) -> None:
    assert replace(manifest, files={"xgboost-r7/7/model.onnx": "01"}).digest() != manifest.digest()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', "null"])
def test_what_is_no_manifest_is_named(text: str) -> None:
    with pytest.raises(ReleaseError, match=r"7\.json: not a release manifest"):
        ReleaseManifest.from_json(text, place="7.json")


def test_another_format_is_refused(manifest: ReleaseManifest) -> None:
    plain = {**json.loads(manifest.to_json()), "format": 2}
    with pytest.raises(ReleaseError, match="format 2, this code reads 1"):
        ReleaseManifest.from_json(json.dumps(plain))
