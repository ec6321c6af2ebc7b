"""Manifests, cards, artifacts, keys, signatures, and what Triton answers: read as written, or refused."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fx_dagster.errors import ReleaseError, SettingsError
from fx_dagster.models.answer import EXTRAS
from fx_dagster.models.graph import outputs_of
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import ModelArtifact, ModelCard
from fx_dagster.models.release import Canary, ReleaseManifest
from fx_dagster.models.service import ModelCallError, validated
from resources.model_repository import ModelRepository
from resources.signing import PRIVATE_FILE, PUBLIC_FILE, ReleaseKeys, Signature, _decoded

from .mutations import DEEP, altered, budget, contents, mutated, refused

INPUTS = ModelInputs(
    features=np.ones((2, 2), np.float32), sequence=np.zeros((2, 0, 0), np.float32),
    chart=np.zeros((2, 0, 0, 0), np.float32), time=np.array([5, 6]), symbol=np.array([0, -1]),
)  # fmt: skip
SAID = {"p_up_xgboost": np.full((2, 1), 0.5, np.float32), "p_up_random_forest": np.full((2, 1), 0.25, np.float32)}
CARD = ModelCard("xgboost", ("a", "b"), "abc", 9, 0.5, 7, {"depth": 3}, {"a": 1.0, "b": 0.0}, {"xgboost": "3"})
MANIFEST = ReleaseManifest(
    version=7, created_at="2017-12-29T22:00:00+00:00", models=("xgboost", "random_forest"),
    members=("xgboost", "random_forest"), symbols=("EURUSD",), quantised=(), device="cpu", feature_names=("a", "b"),
    feature_hash="abc", files={"xgboost-r7/7/model.onnx": "00"}, canary=Canary.of(INPUTS, SAID), metrics={},
    lineage={"source": "sample"}, cards={"xgboost": CARD.to_dict()},
)  # fmt: skip
SEED = bytes(range(32))


@budget(300)
@given(
    altered(json.loads(MANIFEST.to_json())).map(lambda one: json.dumps(one).encode())
    | mutated(MANIFEST.to_json().encode()) | st.binary(max_size=40) | st.just(DEEP)
)  # fmt: skip
def test_an_altered_manifest_is_refused_or_has_another_digest(text: bytes) -> None:
    assert ReleaseManifest.from_json(MANIFEST.to_json()) == MANIFEST
    with refused(ReleaseError, names="7.json"):
        found = ReleaseManifest.from_json(text, place="7.json")
        assert (found.digest() == MANIFEST.digest()) == (found == MANIFEST)
        assert isinstance(found.version, int)
        assert all(isinstance(name, str) for name in (*found.members, *found.symbols))
        assert all(isinstance(one, str) for pair in found.files.items() for one in pair)
        found.canary.inputs()
        found.canary.difference(SAID)


@budget(100)
@given(st.data())
def test_a_repository_with_an_altered_manifest_serves_nothing_of_it(tmp_path_factory: Any, data: st.DataObject) -> None:
    root = tmp_path_factory.mktemp("models")
    (root / "releases").mkdir()
    (root / "releases" / "7.json").write_bytes(data.draw(mutated(MANIFEST.to_json().encode()) | st.binary(max_size=9)))
    before = contents(root)
    with pytest.raises(ReleaseError, match=str(root)):
        ModelRepository(root).verify(7)
    assert contents(root) == before


ARTIFACT = ModelArtifact("xgboost", b"graph", CARD)


@budget(150)
@given(st.data())
def test_an_altered_artifact_is_refused_by_the_files_name(tmp_path_factory: Any, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("artifact")
    ARTIFACT.save(folder)
    assert ModelArtifact.load(folder, "xgboost") == ARTIFACT
    name = data.draw(st.sampled_from(("xgboost.json", "xgboost.onnx")))
    whole = (folder / name).read_bytes()
    other = (
        altered(json.loads(whole)).map(lambda one: json.dumps(one).encode()) if name.endswith("json") else st.just(b"")
    )
    (folder / name).write_bytes(data.draw(mutated(whole) | other | st.just(DEEP)))
    with refused(ReleaseError, names=str(folder)):
        found = ModelArtifact.load(folder, "xgboost")
        assert found.onnx == ARTIFACT.onnx
        assert isinstance(found.card.name, str)
        assert all(isinstance(one, str) for one in found.card.feature_names)


@budget(200)
@given(st.data())
def test_only_the_signature_of_this_text_is_believed(data: st.DataObject) -> None:
    keys = ReleaseKeys(Path("/nowhere"), seed=SEED)
    text, signed = MANIFEST.to_json(), keys.sign(MANIFEST.to_json())
    keys.verify(text, signed, what="release 7")
    other = data.draw(st.sampled_from(("text", "value", "key", "length")))
    changed = {
        "text": (data.draw(mutated(text.encode())).decode("utf-8", "replace"), signed),
        "value": (text, Signature(signed.key_id, data.draw(mutated(signed.value)))),
        "key": (text, Signature(data.draw(st.text(max_size=16)), signed.value)),
        "length": (text, Signature(signed.key_id, data.draw(st.binary(max_size=80)))),
    }[other]
    if changed != (text, signed):
        with pytest.raises(ReleaseError, match="release 7"):
            keys.verify(changed[0], changed[1], what="release 7")


@pytest.mark.parametrize("name", [PRIVATE_FILE, PUBLIC_FILE])
@budget(120)
@given(content=mutated(base64.b64encode(SEED)) | st.binary(max_size=60))
def test_a_key_file_of_anything_is_refused_by_its_name(tmp_path_factory: Any, name: str, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("keys")
    (folder / name).write_bytes(content)
    (folder / name).chmod(0o600)
    with refused(ReleaseError, names=name) as told:
        ReleaseKeys(folder).trusted()
    assert not told or SEED.hex() not in str(told[0])


@budget(120)
@given(st.text(max_size=60) | mutated(base64.b64encode(SEED)).map(lambda one: one.decode("latin-1")))
def test_a_key_of_the_environment_is_one_or_its_variable_is_named(text: str) -> None:
    with refused(SettingsError, names="FX_RELEASE_SIGNING_KEY") as told:
        assert len(_decoded(text, "FX_RELEASE_SIGNING_KEY")) == 32
    assert not told or len(text) < 8 or text not in str(told[0])


# -- what a server answers ---------------------------------------------------------------------------------------------

MODELS = ("xgboost", "random_forest", "lstm", "cnn", "meta")
NAMES = outputs_of((*MODELS, "attention", "regime", "confidence", "ppo"))
TENSORS = st.one_of(
    st.none(), st.text(max_size=3),
    npst.arrays(st.sampled_from((np.float32, np.float64, np.int64, np.bool_)),
                npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    st.builds(lambda width, value: np.full((2, width), value, np.float32), st.sampled_from((1, 3, 4)),
              st.sampled_from((0.5, 0.0, 1.0, 1.0001, -0.1, np.nan, np.inf))),
)  # fmt: skip


@budget(400)
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), TENSORS, max_size=12), st.integers(0, 3))
def test_of_any_answer_only_what_may_be_is_used(outputs: dict[str, object], rows: int) -> None:
    with refused(ModelCallError, names="no usable probability"):
        found = validated(outputs, MODELS, rows, NAMES)
        assert found.p_up.shape == (rows, len(MODELS))
        assert found.extras.shape == (rows, len(EXTRAS))
        said = found.p_up[~np.isnan(found.p_up)]
        assert ((said >= 0.0) & (said <= 1.0)).all()
        assert not np.isinf(found.extras).any()
        assert set(found.discarded) <= set(NAMES)
        for name, values in found.explained.items():
            assert np.isfinite(values).all(), name
