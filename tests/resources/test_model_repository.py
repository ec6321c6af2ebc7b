"""Releases on disk; no server needed."""

import hashlib
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from fx_dagster.errors import FeatureMismatchError, ReleaseError
from fx_dagster.models.graph import GRAPH, outputs_of, run_graph
from fx_dagster.models.inputs import TENSORS
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.release import ReleaseManifest
from resources.model_repository import TEMPLATES, ModelRepository
from resources.triton_config import Device

# Test modules import their helper beside them; importmode=importlib does not look there.
sys.path.insert(0, str(Path(__file__).parent))
from release_models import SYMBOLS, inputs, networks, regime, trees

F = 6
SAMPLE = inputs(40, F)


@pytest.fixture(scope="module")
def simple() -> list[ModelArtifact]:
    return [ModelArtifact.of(model) for model in trees(F)]


@pytest.fixture(scope="module")
def artifacts(simple: list[ModelArtifact]) -> list[ModelArtifact]:
    """All models but ppo, in no order."""
    return [*reversed(networks(F)), *simple]


@pytest.fixture
def repository(tmp_path: Path) -> ModelRepository:
    return ModelRepository(tmp_path / "home with a space" / "models")


@pytest.fixture
def build(repository: ModelRepository, simple: list[ModelArtifact]) -> Callable[[int], None]:
    def built(version: int) -> None:
        made(repository, version, simple)

    return built


def made(repository: ModelRepository, version: int, artifacts: list[ModelArtifact]) -> ReleaseManifest:
    return repository.build(version, artifacts, SAMPLE, symbols=SYMBOLS, metrics={}, lineage={"source": "test"})


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


def test_a_whole_release_has_every_model_and_both_ensembles(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    made(repository, 7, artifacts)
    manifest = repository.verify(7)
    assert manifest.models == ("xgboost", "random_forest", "lstm", "cnn", "meta")
    assert manifest.members == tuple(name for name in GRAPH if name != "ppo")
    assert manifest.symbols == SYMBOLS
    assert (manifest.quantised, manifest.device) == ((), "cpu")
    assert set(manifest.cards) == set(manifest.members)
    folders = {path.name for path in repository.root.iterdir()} - {"releases"}
    assert folders == set(manifest.served_names)
    assert repository.manifest(7) == manifest


def test_configurations_are_rendered_for_the_release(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    made(repository, 7, artifacts)
    member = parsed(repository.root / "xgboost-r7" / "config.pbtxt")
    assert (member.name, member.backend) == ("xgboost-r7", "onnxruntime")
    assert list(member.input[0].dims) == [F]
    assert list(member.version_policy.specific.versions) == [7]
    assert member.parameters["feature_hash"].string_value == "c0ffee"
    assert member.parameters["sha256"].string_value == repository.manifest(7).files["xgboost-r7/7/model.onnx"]
    chart = parsed(repository.root / "cnn-r7" / "config.pbtxt")
    assert list(chart.input[0].dims) == [2, 5, 48]
    assert {entry.name: list(entry.dims) for entry in chart.output} == {"p_up": [1], "patterns": [3]}
    lstm = parsed(repository.root / "lstm-r7" / "config.pbtxt")
    kinds = {entry.name: (model_config_pb2.DataType.Name(entry.data_type), list(entry.dims)) for entry in lstm.input}
    assert kinds == {
        "sequence": ("TYPE_FP32", [48, 16]), "time": ("TYPE_FP64", [1]), "symbol": ("TYPE_INT64", [1]),
    }  # fmt: skip


def test_every_model_is_warmed_up_with_its_own_shapes(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    for name in made(repository, 7, artifacts).members:
        config = parsed(repository.root / f"{name}-r7" / "config.pbtxt")
        shapes = {entry.name: (entry.data_type, list(entry.dims)) for entry in config.input}
        assert [sample.batch_size for sample in config.model_warmup] == [1, 128]
        for sample in config.model_warmup:
            assert {key: (value.data_type, list(value.dims)) for key, value in sample.inputs.items()} == shapes


def test_the_ensemble_asks_the_members_of_its_release(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    manifest = made(repository, 7, artifacts)
    ensemble = parsed(repository.root / "ensemble-r7" / "config.pbtxt")
    steps = [(step.model_name, step.model_version) for step in ensemble.ensemble_scheduling.step]
    assert sorted(steps) == sorted((f"{name}-r7", 7) for name in manifest.members)
    assert {entry.name: list(entry.dims) for entry in ensemble.input} == {
        "features": [F], "sequence": [48, 16], "chart": [2, 5, 48], "time": [1], "symbol": [1],
    }  # fmt: skip
    assert {entry.name for entry in ensemble.output} == set(manifest.outputs())
    assert {"size", "timing"}.isdisjoint(entry.name for entry in ensemble.output)
    simple = parsed(repository.root / "simple-r7" / "config.pbtxt")
    assert [step.model_name for step in simple.ensemble_scheduling.step] == ["xgboost-r7", "random_forest-r7"]


def test_agents_take_what_they_learnt_from(repository: ModelRepository, simple: list[ModelArtifact]) -> None:
    manifest = made(repository, 7, [*simple, *networks(F, ppo=True)])
    config = parsed(repository.root / "ppo-r7" / "config.pbtxt")
    assert sorted(entry.name for entry in config.input) == ["confidence", "p_up_meta", "regime"]
    assert not any(entry.optional for entry in config.input)
    ensemble = parsed(repository.root / "ensemble-r7" / "config.pbtxt")
    (step,) = (step for step in ensemble.ensemble_scheduling.step if step.model_name == "ppo-r7")
    assert sorted(step.input_map) == ["confidence", "p_up_meta", "regime"]
    assert manifest.outputs()[-2:] == ("size", "timing")


def test_a_release_of_some_models_has_what_these_give(
    repository: ModelRepository, artifacts: list[ModelArtifact]
) -> None:
    some = [artifact for artifact in artifacts if artifact.name in ("xgboost", "regime", "cnn")]
    manifest = made(repository, 2, some)
    assert manifest.members == ("xgboost", "cnn", "regime")
    ensemble = parsed(repository.root / "ensemble-r2" / "config.pbtxt")
    assert [entry.name for entry in ensemble.input] == ["features", "chart"]
    assert {entry.name for entry in ensemble.output} == {"p_up_xgboost", "p_up_cnn", "patterns", "regime"}
    simple = parsed(repository.root / "simple-r2" / "config.pbtxt")
    assert [entry.name for entry in simple.output] == ["p_up_xgboost"]


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_one_source_for_cpu_and_gpu(tmp_path: Path, simple: list[ModelArtifact], device: Device) -> None:
    repository = ModelRepository(tmp_path, device=device)
    manifest = made(repository, 1, [*simple, *networks(F, ppo=True)])
    assert manifest.device == device
    for name in manifest.members:
        config = parsed(repository.root / f"{name}-r1" / "config.pbtxt")
        (group,) = config.instance_group
        accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
        assert group.count == 1
        assert group.kind == (group.KIND_CPU if device == "cpu" else group.KIND_GPU)
        network = name in ("lstm", "cnn", "attention", "ppo")
        wanted = [("tensorrt", {"precision_mode": "FP16"})] if network and device == "gpu" else []
        assert [(each.name, dict(each.parameters)) for each in accelerators] == wanted
    for name in ("simple", "ensemble"):
        assert not parsed(repository.root / f"{name}-r1" / "config.pbtxt").instance_group


def test_templates_and_the_graph_say_the_same() -> None:
    assert {path.parent.name for path in TEMPLATES.glob("*/config.pbtxt")} == {*GRAPH, "simple", "ensemble"}
    for name, member in GRAPH.items():
        config = parsed(TEMPLATES / name / "config.pbtxt")
        assert config.name == name
        assert {entry.name for entry in config.input} == set(member.inputs)
        assert {entry.optional for entry in config.input} == {member.chooses}
        assert {entry.name for entry in config.output} == set(member.outputs)
    ensemble = parsed(TEMPLATES / "ensemble" / "config.pbtxt")
    for step in ensemble.ensemble_scheduling.step:
        assert dict(step.input_map) == {name: name for name in GRAPH[step.model_name].inputs}
        assert dict(step.output_map) == dict(GRAPH[step.model_name].outputs)
    assert {step.model_name for step in ensemble.ensemble_scheduling.step} == set(GRAPH)
    assert {entry.name for entry in ensemble.input} == set(TENSORS)
    assert {entry.name for entry in ensemble.output} == set(outputs_of(GRAPH))


def test_canary_holds_the_models_own_answers(repository: ModelRepository, artifacts: list[ModelArtifact]) -> None:
    made(repository, 1, artifacts)
    canary = repository.manifest(1).canary
    assert canary.difference(run_graph(artifacts, canary.inputs().tensors())) == 0.0
    assert set(canary.outputs) == set(repository.manifest(1).outputs())
    assert len(canary.inputs()) == 4


def test_quantised_members_are_named(tmp_path: Path, artifacts: list[ModelArtifact]) -> None:
    small = [a.with_metrics({"int8": {"served": a.name == "lstm"}}) for a in artifacts]
    repository = ModelRepository(tmp_path, device="gpu")
    assert made(repository, 1, small).quantised == ("lstm",)
    (group,) = parsed(repository.root / "lstm-r1" / "config.pbtxt").instance_group
    assert group.kind == group.KIND_CPU


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
    assert repository.prune(keep=2, wanted={1}) == [2, 3]
    assert repository.versions() == [1, 4, 5]
    assert not list(repository.root.glob("*-r3"))
    repository.verify(1)
    with pytest.raises(ReleaseError, match="cannot keep 0"):
        repository.prune(keep=0)


def test_models_of_different_catalogues_make_no_release(
    repository: ModelRepository, simple: list[ModelArtifact]
) -> None:
    other = replace(simple[1], card=replace(simple[1].card, feature_hash="decaf"))
    with pytest.raises(FeatureMismatchError, match="xgboost was trained on catalogue c0ffee, random_forest on decaf"):
        made(repository, 1, [simple[0], other])
    with pytest.raises(FeatureMismatchError, match="the canary's sample"):
        repository.build(1, simple, inputs(9, 3), symbols=(), metrics={}, lineage={})
    assert repository.versions() == []


def test_models_that_make_no_graph_make_no_release(
    repository: ModelRepository, simple: list[ModelArtifact], artifacts: list[ModelArtifact]
) -> None:
    by_name = {artifact.name: artifact for artifact in artifacts}
    broken = replace(simple[0], onnx=simple[0].onnx[: len(simple[0].onnx) // 2])
    without = [artifact for artifact in artifacts if artifact.name != "cnn"]
    for wrong, message in (
        ([broken, simple[1]], "xgboost: its ONNX graph does not open"),
        (without, "meta takes p_up_cnn, which no model of the release gives"),
        ([by_name["lstm"]], "a release without models"),
        ([*simple, simple[0]], "xgboost: unknown, or given twice"),
        ([*simple, replace(by_name["lstm"], name="prophet")], "prophet: unknown"),
        ([*simple, replace(by_name["lstm"], name="cnn")], "cnn takes sequence, symbol, time"),
        ([*simple, replace(by_name["attention"], onnx=regime(F))], "attention takes features"),
    ):
        with pytest.raises(ReleaseError, match=message):
            made(repository, 1, wrong)
    assert repository.versions() == []
    assert not list(repository.root.glob("*-r1"))


def test_what_no_answer_may_be_makes_no_release(repository: ModelRepository, artifacts: list[ModelArtifact]) -> None:
    chart = np.full_like(SAMPLE.chart, np.nan)
    with pytest.raises(ReleaseError, match=r"the canary: p_up_cnn is .*nan.* out of its range"):
        repository.build(1, artifacts, replace(SAMPLE, chart=chart), symbols=(), metrics={}, lineage={})


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    return shutil.copytree(TEMPLATES, tmp_path / "templates")


def test_a_broken_template_is_named(tmp_path: Path, templates: Path, artifacts: list[ModelArtifact]) -> None:
    (templates / "xgboost" / "config.pbtxt").write_text('name: "xgboost"\nmax_batch: 3\n')
    with pytest.raises(ReleaseError, match=r'xgboost/config\.pbtxt: .*"max_batch"'):
        made(ModelRepository(tmp_path / "models", templates), 1, artifacts)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("xgboost", "dims: [ -1 ]", "dims: [ 5 ]", r"input 'features' is TYPE_FP32\[5\], the model has TYPE_FP32\[6\]"),
        ("cnn", "dims: [ -1, 5, -1 ]", "dims: [ -1, -1 ]", r"input 'chart' is TYPE_FP32\[-1, -1\]"),
        ("lstm", "TYPE_FP64", "TYPE_FP32", r"input 'time' is TYPE_FP32\[1\], the model has TYPE_FP64"),
        ("attention", '"weights"', '"looks"', "output looks, p_up; the model has p_up, weights"),
        ("regime", "dims: [ 4 ]", "dims: [ 3 ]", r"output 'regime' is TYPE_FP32\[3\]"),
        ("ensemble", 'input_map: { key: "chart" value: "chart" }', "", "tensor of cnn ; the model has chart"),
        ("ensemble", 'value: "sequence"', 'value: "bars"', "input chart, features, symbol, time; the model has bars"),
        ("ensemble", 'value: "sequence"', 'value: "features"', "attention has 'features' as|lstm has 'features' as"),
    ],
)
def test_a_template_that_is_not_the_models_is_named(
    tmp_path: Path, templates: Path, artifacts: list[ModelArtifact], name: str, old: str, new: str, message: str
) -> None:
    path = templates / name / "config.pbtxt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ReleaseError, match=message) as caught:
        made(ModelRepository(tmp_path / "models", templates), 1, artifacts)
    assert f"{name}/config.pbtxt" in str(caught.value)
    assert ModelRepository(tmp_path / "models").versions() == []


def test_a_missing_template_is_named(tmp_path: Path, templates: Path, artifacts: list[ModelArtifact]) -> None:
    shutil.rmtree(templates / "meta")
    with pytest.raises(ReleaseError, match=r"no .*meta/config\.pbtxt → add a folder meta"):
        made(ModelRepository(tmp_path / "models", templates), 1, artifacts)


class Kept:
    """Keeps files in memory."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    def weights(self, sha256: str) -> bytes | None:
        return self.files.get(sha256)

    def keep_weights(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.files[digest] = content
        return digest


def test_a_lost_file_is_put_back_from_the_cache_and_an_altered_one_is_not(
    tmp_path: Path, simple: list[ModelArtifact]
) -> None:
    kept = Kept()
    repository = ModelRepository(tmp_path / "models", weights=kept)
    manifest = made(repository, 1, simple)
    assert set(kept.files) == set(manifest.files.values())
    path = repository.root / "xgboost-r1" / "1" / "model.onnx"
    content = path.read_bytes()
    shutil.rmtree(path.parent)
    assert repository.verify(1) == manifest
    assert path.read_bytes() == content
    path.unlink()
    assert repository.contents(manifest)["xgboost"] == content
    path.write_bytes(content[:-1])
    with pytest.raises(ReleaseError, match=r"model\.onnx: not the file of release 1"):
        repository.verify(1)
    path.unlink()
    kept.files.clear()
    with pytest.raises(ReleaseError, match=r"model\.onnx: missing from release 1"):
        repository.verify(1)
