"""INT8 versions of small networks made without training: what they keep, what they say, and when they are served."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from fx_dagster.errors import TrainingError
from fx_dagster.models.onnx_export import onnx_answers
from fx_dagster.models.protocol import ModelArtifact, ModelCard
from fx_dagster.models.quantise import (
    QuantisationReport,
    compared,
    is_quantised,
    quantisation_method,
    quantise,
    smaller_where_worth,
    unchanged_share,
    worth_releasing,
)

RNG = np.random.default_rng(0)
CARD = ModelCard("network", ("a",), "c0ffee", 100, 0.5, 1, {}, {}, {}, {"out_of_fold": {"accuracy": 0.51}})
GOOD = QuantisationReport("dynamic", False, 1_000_000, 250_000, 2.0, 2.0, 0.01, 0.995, 1_000)


def artifact(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray], shape: tuple[int, ...]) -> ModelArtifact:
    graph = helper.make_graph(
        [*nodes, helper.make_node("Sigmoid", ["z"], ["p_up"])], "network",
        [helper.make_tensor_value_info("tensor", TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info("p_up", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    helper.set_model_props(model, {"feature_hash": "c0ffee"})
    onnx.checker.check_model(model, full_check=True)
    return ModelArtifact("network", model.SerializeToString(), CARD)


def scaled(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) / np.sqrt(np.prod(shape[:-1]))).astype(np.float32)


def head(width: int, strength: float) -> np.ndarray:
    """Return weights of the last layer; their sum is 0, so that answers lie around one half."""
    values = scaled(width, 1)
    return (strength * (values - values.mean())).astype(np.float32)


def gemms(width: int) -> ModelArtifact:
    nodes = [
        helper.make_node("Gemm", ["tensor", "w0", "b"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("Gemm", ["r0", "w1", "b"], ["h1"]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("MatMul", ["r1", "w2"], ["z"]),
    ]
    weights = {"w0": scaled(32, width), "w1": scaled(width, width), "w2": head(width, 3.0), "b": scaled(width)}
    return artifact(nodes, weights, (32,))


def lstm(hidden: int) -> ModelArtifact:
    nodes = [
        helper.make_node("Transpose", ["tensor"], ["steps"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "last"], hidden_size=hidden),
        helper.make_node("Squeeze", ["last", "axis"], ["h"]),
        helper.make_node("Gemm", ["h", "out"], ["z"]),
    ]
    weights = {
        "w": scaled(1, 4 * hidden, 8),
        "r": scaled(1, 4 * hidden, hidden),
        "axis": np.array([0]),
        "out": head(hidden, 4.0),
    }
    return artifact(nodes, weights, (6, 8))


def convolutions(channels: int) -> ModelArtifact:
    nodes = [
        helper.make_node("Conv", ["tensor", "w0"], ["h0"], kernel_shape=[5]),
        helper.make_node("Relu", ["h0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["h1"], kernel_shape=[3], strides=[2]),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("GlobalAveragePool", ["r1"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "out"], ["z"]),
    ]
    weights = {
        "w0": np.moveaxis(scaled(25, channels), -1, 0).reshape(channels, 5, 5),
        "w1": np.moveaxis(scaled(3 * channels, channels), -1, 0).reshape(channels, channels, 3),
        "out": head(channels, 8.0),
    }
    return artifact(nodes, weights, (5, 24))


def rows(model: ModelArtifact, n: int = 128) -> dict[str, np.ndarray]:
    (entry,) = onnx.load_from_string(model.onnx).graph.input
    shape = [dim.dim_value for dim in entry.type.tensor_type.shape.dim[1:]]
    return {"tensor": RNG.standard_normal((n, *shape)).astype(np.float32)}


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize(
    ("model", "method", "operator"),
    [
        (gemms(128), "dynamic", "MatMulInteger"),
        (lstm(64), "dynamic", "DynamicQuantizeLSTM"),
        (convolutions(48), "static", "QLinearConv"),
    ],
    ids=["gemm", "lstm", "conv"],
)
def test_int8_has_the_same_tensors_and_nearly_the_same_answers(
    model: ModelArtifact, method: str, operator: str, *, per_channel: bool
) -> None:
    told = rows(model)
    small = quantise(model, told, per_channel=per_channel)
    before, after = (onnx.load_from_string(each.onnx) for each in (model, small))
    assert quantisation_method(model) == method
    assert operator in {node.op_type for node in after.graph.node}
    assert [entry.name for entry in after.graph.input] == ["tensor"]
    assert [entry.name for entry in after.graph.output] == ["p_up"]
    assert list(after.metadata_props) == list(before.metadata_props)
    assert small.card == model.card
    assert len(small.onnx) < 0.45 * len(model.onnx)
    p_a, p_b = (onnx_answers(each.onnx, told)["p_up"][:, 0] for each in (model, small))
    assert np.std(p_a) > 0.02
    assert 0 < np.max(np.abs(p_a - p_b)) < 0.05
    assert np.corrcoef(p_a, p_b)[0, 1] > 0.99


def test_report_holds_what_was_measured() -> None:
    model = gemms(192)
    told = rows(model)
    small = quantise(model, told)
    report = compared(model, small, told, threshold=0.02)
    p_a, p_b = (onnx_answers(each.onnx, told)["p_up"][:, 0] for each in (model, small))
    assert (report.bytes, report.int8_bytes, report.rows) == (len(model.onnx), len(small.onnx), 128)
    assert report.smaller == pytest.approx(1 - len(small.onnx) / len(model.onnx))
    assert report.difference == pytest.approx(np.abs(p_a - p_b).max())
    assert report.unchanged == unchanged_share(p_a, p_b, 0.02)
    assert report.faster_one > 0
    assert report.faster_many > 0
    assert report.to_dict()["served"] is worth_releasing(report)


def test_a_graph_beside_itself_says_the_same() -> None:
    model = gemms(256)
    report = compared(model, model, rows(model), threshold=0.0)
    assert (report.difference, report.unchanged, report.smaller) == (0.0, 1.0, 0.0)
    assert not worth_releasing(report)


def test_a_small_network_stays_in_fp32_and_its_card_says_why() -> None:
    model = gemms(8)
    kept = smaller_where_worth(model, rows(model), rows(model), threshold=0.02)
    assert kept.onnx == model.onnx
    assert not is_quantised(kept)
    figures = kept.card.metrics["int8"]
    assert figures["served"] is False
    assert figures["smaller"] < 0.74
    assert kept.card.metrics["out_of_fold"] == {"accuracy": 0.51}
    assert not is_quantised(model)


def test_a_version_worth_it_is_the_one_that_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Speed belongs to the machine: here it is given, all else is real."""
    monkeypatch.setattr("fx_dagster.models.quantise._faster", lambda *_: 2.5)
    model = convolutions(320)
    told = rows(model)
    clear = np.abs(onnx_answers(model.onnx, told)["p_up"][:, 0] - 0.5) > 0.03
    kept = smaller_where_worth(model, told, {"tensor": told["tensor"][clear]}, threshold=0.0)
    assert is_quantised(kept)
    assert kept.onnx in {quantise(model, told, per_channel=each).onnx for each in (False, True)}
    assert kept.card.metrics["int8"]["int8_bytes"] == len(kept.onnx)


@pytest.mark.parametrize(
    "worse",
    [{"int8_bytes": 256_000}, {"faster_one": 1.99}, {"faster_many": 1.99}, {"unchanged": 0.9949}],
    ids=lambda change: next(iter(change)),
)
def test_every_limit_counts(worse: dict[str, float]) -> None:
    assert worth_releasing(GOOD)
    assert not worth_releasing(replace(GOOD, **worse))


def test_what_has_no_weights_is_refused() -> None:
    plain = artifact([helper.make_node("ReduceSum", ["tensor", "axis"], ["z"])], {"axis": np.array([1])}, (4,))
    with pytest.raises(TrainingError, match="no weights that INT8 makes smaller"):
        quantise(plain, rows(plain))
    with pytest.raises(TrainingError, match="no calibration rows of tensor"):
        quantise(convolutions(8), {})
    with pytest.raises(TrainingError, match="nothing to compare"):
        compared(gemms(8), gemms(8), {}, threshold=0.0)


probabilities = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40).map(np.array)


@given(probabilities, st.floats(0.0, 0.5))
def test_nothing_changes_beside_itself(p: np.ndarray, threshold: float) -> None:
    assert unchanged_share(p, p, threshold) == 1.0


@given(probabilities)
def test_mirrored_probabilities_change_every_decision(p: np.ndarray) -> None:
    assert unchanged_share(p, 1.0 - p, 0.0) == np.mean(np.abs(p - 0.5) == 0.0)


def test_a_decision_is_a_side_beyond_the_threshold() -> None:
    p_a = np.array([0.60, 0.60, 0.52, 0.48, 0.40])
    p_b = np.array([0.70, 0.54, 0.49, 0.47, 0.60])
    assert unchanged_share(p_a, p_b, 0.05) == pytest.approx(3 / 5)
    assert unchanged_share(p_a, p_b, 0.0) == pytest.approx(3 / 5)
    assert unchanged_share(np.empty(0), np.empty(0), 0.1) == 1.0
