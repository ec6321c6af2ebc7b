"""The graph of a release, link by link."""

import sys
from pathlib import Path

import numpy as np
import pytest

from fx_dagster.errors import ReleaseError
from fx_dagster.models.answer import BASE_MODELS, DIRECTIONS, META
from fx_dagster.models.graph import GRAPH, Graph, directions, inputs_of, ordered, outputs_of, run_graph
from fx_dagster.models.inputs import TENSORS
from fx_dagster.models.onnx_export import onnx_answers
from fx_dagster.models.protocol import ModelArtifact

# Test modules import their helper beside them; importmode=importlib does not look there.
sys.path.insert(0, str(Path(__file__).parents[1] / "resources"))
from release_models import inputs, networks, trees

F = 6


@pytest.fixture(scope="module")
def artifacts() -> list[ModelArtifact]:
    return [*networks(F, ppo=True), *(ModelArtifact.of(model) for model in trees(F))]


def test_every_answer_is_its_models_own(artifacts: list[ModelArtifact]) -> None:
    onnx = {artifact.name: artifact.onnx for artifact in artifacts}
    tensors = inputs(9, F).tensors()
    found = run_graph(artifacts, tensors)
    known = dict(tensors)
    for name in BASE_MODELS:
        known[f"p_up_{name}"] = onnx_answers(onnx[name], tensors)["p_up"].astype(np.float32)
    known["regime"] = onnx_answers(onnx["regime"], tensors)["regime"].astype(np.float32)
    known["p_up_meta"] = onnx_answers(onnx["meta"], known)["p_up"].astype(np.float32)
    known["confidence"] = onnx_answers(onnx["confidence"], known)["confidence"].astype(np.float32)
    known |= {name: said.astype(np.float32) for name, said in onnx_answers(onnx["ppo"], known).items()}
    known["attention_weights"] = onnx_answers(onnx["attention"], tensors)["weights"].astype(np.float32)
    known |= {
        name: onnx_answers(onnx[model], tensors)[name].astype(np.float32)
        for model, name in (("cnn", "patterns"), ("lstm", "expected_return"), ("lstm", "prophet_return"))
    }
    assert tuple(found) == outputs_of(GRAPH)
    for name, values in found.items():
        assert np.array_equal(values, known[name]), name


def test_an_answer_hangs_on_no_other_row(artifacts: list[ModelArtifact]) -> None:
    graph = Graph(artifacts)
    rows = inputs(40, F)
    together = graph.run(rows.tensors())
    alone = graph.run(rows.take(np.array([7])).tensors())
    for name, values in together.items():
        assert values[7:8] == pytest.approx(alone[name], abs=1e-6), name


def test_bytes_by_name_are_as_good_as_artifacts(artifacts: list[ModelArtifact]) -> None:
    tensors = inputs(3, F).tensors()
    by_name = {artifact.name: artifact.onnx for artifact in artifacts}
    for name, values in run_graph(by_name, tensors, threads=2).items():
        assert np.array_equal(values, run_graph(artifacts, tensors)[name])


def test_only_what_is_taken_is_needed(artifacts: list[ModelArtifact]) -> None:
    simple = Graph([artifact for artifact in artifacts if artifact.name in ("xgboost", "random_forest")])
    assert simple.inputs == ("features",)
    assert set(simple.run({"features": inputs(2, F).features})) == {"p_up_xgboost", "p_up_random_forest"}
    tensors = inputs(2, F).tensors()
    with pytest.raises(ReleaseError, match="no tensor chart, symbol"):
        run_graph(artifacts, {name: tensors[name] for name in ("features", "sequence", "time")})


def test_a_model_that_cannot_take_the_rows_is_named(artifacts: list[ModelArtifact]) -> None:
    tensors = inputs(2, F).tensors()
    with pytest.raises(ReleaseError, match="cnn: its ONNX graph does not run"):
        run_graph(artifacts, {**tensors, "chart": tensors["chart"][:, :1]})


def test_the_graph_is_in_order() -> None:
    known = set(TENSORS)
    for member in GRAPH.values():
        assert set(member.inputs) <= known
        known |= set(member.outputs.values())
    assert ordered(["meta", "xgboost", "lstm"]) == ("xgboost", "lstm", "meta")
    assert directions(GRAPH) == DIRECTIONS
    assert META in GRAPH
    assert inputs_of(GRAPH) == tuple(TENSORS)
