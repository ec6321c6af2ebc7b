"""Releases on disk; no server needed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fx_dagster.errors import FeatureMismatchError, ReleaseError
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.onnx_export import onnx_predict
from fx_dagster.models.protocol import ModelArtifact, ModelSpec
from resources.model_repository import ModelRepository, render_config

F = 6
SPEC = ModelSpec(tuple(f"feature_{number}" for number in range(F)), "c0ffee", seed=1, threads=1, rows_min=100)
X = np.random.default_rng(0).standard_normal((600, F)).astype(np.float32)


@pytest.fixture(scope="module")
def artifacts() -> list[ModelArtifact]:
    y = (X[:, 0] > 0).astype(np.int8)
    return [ModelArtifact.of(factory(SPEC).fit(X, y)) for factory in FAMILIES.values()]


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "home with a space" / "models")


@pytest.fixture
def build(repository: ModelRepository, artifacts: list[ModelArtifact]) -> Callable[[int], None]:
    def built(version: int) -> None:
        repository.build(version, artifacts, X, metrics={}, lineage={"source": "test"})

    return built


def parsed(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_a_release_is_complete_and_named_after_its_number(
    repository: ModelRepository, build: Callable[[int], None]
) -> None:
    build(7)
    manifest = repository.verify(7)
    assert manifest.models == ("xgboost", "random_forest")
    assert set(manifest.files) == {
        "xgboost-r7/config.pbtxt",
        "xgboost-r7/7/model.onnx",
        "random_forest-r7/config.pbtxt",
        "random_forest-r7/7/model.onnx",
        "simple-r7/config.pbtxt",
    }
    assert (repository.root / "simple-r7" / "7").is_dir()
    assert not list(repository.root.rglob(".*"))
    assert not [path for path in repository.root.rglob("*") if path.suffix in {".pkl", ".pickle", ".joblib"}]


def test_configurations_are_rendered_for_the_release(
    repository: ModelRepository, build: Callable[[int], None], artifacts: list[ModelArtifact]
) -> None:
    build(7)
    member = parsed(repository.root / "xgboost-r7" / "config.pbtxt")
    assert (member.name, member.backend) == ("xgboost-r7", "onnxruntime")
    assert list(member.input[0].dims) == [F]
    assert list(member.version_policy.specific.versions) == [7]
    assert member.parameters["feature_hash"].string_value == "c0ffee"
    assert member.parameters["sha256"].string_value == repository.manifest(7).files["xgboost-r7/7/model.onnx"]
    assert [list(entry.dims) for warmup in member.model_warmup for entry in warmup.inputs.values()] == [[F], [F]]
    ensemble = parsed(repository.root / "simple-r7" / "config.pbtxt")
    steps = [(step.model_name, step.model_version) for step in ensemble.ensemble_scheduling.step]
    assert steps == [("xgboost-r7", 7), ("random_forest-r7", 7)]


def test_canary_holds_the_models_own_answers(
    repository: ModelRepository, build: Callable[[int], None], artifacts: list[ModelArtifact]
) -> None:
    build(1)
    canary = repository.manifest(1).canary
    for artifact in artifacts:
        assert onnx_predict(artifact.onnx, canary.inputs()).tolist() == list(canary.p_up[artifact.name])


def test_a_release_is_never_rewritten(repository: ModelRepository, build: Callable[[int], None]) -> None:
    build(3)
    before = {path: path.stat().st_mtime_ns for path in repository.root.rglob("*")}
    with pytest.raises(ReleaseError, match="release 3 exists already"):
        build(3)
    assert {path: path.stat().st_mtime_ns for path in repository.root.rglob("*")} == before


@pytest.mark.parametrize("place", ["xgboost-r2/2/model.onnx", "simple-r2/config.pbtxt"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "removed"])
def test_a_damaged_file_is_named(
    repository: ModelRepository, build: Callable[[int], None], place: str, damage: str
) -> None:
    build(1)
    build(2)
    path = repository.root / place
    content = path.read_bytes()
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(content[:-20] if damage == "truncated" else content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ReleaseError, match=place):
        repository.verify(2)
    repository.verify(1)


def test_a_foreign_file_is_named(repository: ModelRepository, build: Callable[[int], None]) -> None:
    build(1)
    (repository.root / "xgboost-r1" / "1" / "model.py").write_text("import os")
    with pytest.raises(ReleaseError, match=r"model\.py: does not belong to release 1"):
        repository.verify(1)


def test_a_manifest_other_than_the_recorded_one_is_refused(
    repository: ModelRepository, build: Callable[[int], None]
) -> None:
    build(1)
    recorded = repository.manifest(1)
    assert repository.verify(1, recorded).digest() == recorded.digest()
    with pytest.raises(ReleaseError, match="not the manifest that was recorded for release 1"):
        repository.verify(1, replace(recorded, lineage={"source": "elsewhere"}))


def test_a_half_written_release_is_invisible_and_replaced(
    repository: ModelRepository, build: Callable[[int], None]
) -> None:
    build(1)
    half = repository.root / "xgboost-r2" / "2"
    half.mkdir(parents=True)
    (half / "model.onnx").write_bytes(b"half")
    (repository.root / ".random_forest-r2.12345").mkdir()
    assert repository.versions() == [1]
    with pytest.raises(ReleaseError, match="release 2 is not in"):
        repository.verify(2)
    build(2)
    repository.verify(2)
    assert not list(repository.root.glob(".*"))


def test_a_failing_disk_leaves_nothing_half_written(
    repository: ModelRepository, build: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(1)
    written = 0
    original = ModelRepository._write

    def failing(self: ModelRepository, path: Path, content: bytes) -> None:
        nonlocal written
        written += 1
        if written == 4:
            raise OSError(28, "No space left on device")
        original(self, path, content)

    monkeypatch.setattr(ModelRepository, "_write", failing)
    with pytest.raises(ReleaseError, match=r"release 2 cannot be written: .*No space left.* → free disk space"):
        build(2)
    assert repository.versions() == [1]
    assert {path.name for path in repository.root.iterdir()} == {
        "xgboost-r1",
        "random_forest-r1",
        "simple-r1",
        "releases",
    }


def test_pruning_keeps_the_newest_and_the_active(repository: ModelRepository, build: Callable[[int], None]) -> None:
    for version in (1, 2, 3, 4, 5):
        build(version)
    assert repository.prune(keep=2, active=1) == [2, 3]
    assert repository.versions() == [1, 4, 5]
    assert not list(repository.root.glob("*-r3"))
    repository.verify(1)
    with pytest.raises(ReleaseError, match="cannot keep 0"):
        repository.prune(keep=0, active=None)


def test_models_of_different_catalogues_make_no_release(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    other = replace(artifacts[1], card=replace(artifacts[1].card, feature_hash="decaf"))
    with pytest.raises(FeatureMismatchError, match="xgboost was trained on catalogue c0ffee, random_forest on decaf"):
        repository.build(1, [artifacts[0], other], X, metrics={}, lineage={})
    with pytest.raises(FeatureMismatchError, match="the canary's sample"):
        repository.build(1, artifacts, X[:, :3], metrics={}, lineage={})
    assert repository.versions() == []


def test_a_broken_graph_makes_no_release(repository: ModelRepository, artifacts: list[ModelArtifact]) -> None:
    broken = replace(artifacts[0], onnx=artifacts[0].onnx[: len(artifacts[0].onnx) // 2])
    with pytest.raises(ReleaseError, match="xgboost: its ONNX graph does not run"):
        repository.build(1, [broken, artifacts[1]], X, metrics={}, lineage={})


def test_a_broken_template_is_named(tmp_path: Path, artifacts: list[ModelArtifact]) -> None:
    templates = tmp_path / "templates"
    shutil.copytree(Path(__file__).parents[2] / "triton_models", templates)
    (templates / "xgboost" / "config.pbtxt").write_text('name: "xgboost"\nmax_batch: 3\n')
    with pytest.raises(ReleaseError, match=r'xgboost/config\.pbtxt: .*"max_batch"'):
        ModelRepository(tmp_path / "models", templates).build(1, artifacts, X, metrics={}, lineage={})


def test_a_template_with_a_fixed_width_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "xgboost" / "config.pbtxt"
    template.parent.mkdir()
    template.write_text('input [{ name: "features" data_type: TYPE_FP32 dims: [ 5 ] }]')
    with pytest.raises(ReleaseError, match=r"dims \[5\], the models have 6 features"):
        render_config(template, 1, F, {})
