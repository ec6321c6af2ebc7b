"""From a fitted model to one ONNX graph of a fixed form, and the proof that both give the same answers.

Every direction model leaves as ``features`` float32 ``[N, F]`` → ``p_up`` float32 ``[N, 1]``: converters' label outputs
and class maps are cut off, the probability of class 1 is sliced out. Metadata properties carry the feature hash.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Answers, Model, ModelSpec

if TYPE_CHECKING:
    import onnx

TARGET_OPSET = 15
"""Old enough for the ONNX Runtime of any Triton that is still in use."""

TARGET_OPSET_ML = 3
PARITY_MAX = 1e-5
"""Largest difference from the original that an exported model may have."""


def finished(converted: "onnx.ModelProto", probabilities: str, name: str, spec: ModelSpec) -> bytes:
    """Return the graph in its fixed form.

    Args:
        converted: what a converter made; its only input is ``features``.
        probabilities: name of the tensor float32 ``[N, 2]`` inside it.
        name: the model's name.
        spec: its features.
    """
    from onnx import TensorProto, helper

    graph = converted.graph
    _keep_needed_nodes(graph, probabilities)
    graph.initializer.append(helper.make_tensor("up_column", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Gather", [probabilities, "up_column"], [OUTPUT_NAME], name="take_up", axis=1))
    del graph.input[:], graph.output[:]
    shape = ["N", len(spec.feature_names)]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info(OUTPUT_NAME, TensorProto.FLOAT, ["N", 1]))
    if all(entry.domain for entry in converted.opset_import):  # a converter lists only the domains it used itself
        converted.opset_import.append(helper.make_opsetid("", TARGET_OPSET))
    return labelled(converted, name, spec)


def labelled(model: "onnx.ModelProto", name: str, spec: ModelSpec) -> bytes:
    """Return a finished graph with its name and what it was trained on, checked and serialised."""
    import onnx
    from onnx import helper

    model.graph.name = name
    model.doc_string = f"{name} of fx_dagster"
    properties = {
        "model": name,
        "feature_hash": spec.feature_hash,
        "feature_names": json.dumps(list(spec.feature_names)),
        "symbols": json.dumps(list(spec.symbols)),
    }
    helper.set_model_props(model, properties)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _keep_needed_nodes(graph: Any, target: str) -> None:
    """Remove every node that ``target`` does not depend on."""
    needed = {target}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    if not kept:
        raise TrainingError(f"the converter made no tensor named {target!r}", mend="pin the converter's version")
    del graph.node[:]
    graph.node.extend(reversed(kept))


def onnx_answers(content: bytes, tensors: Mapping[str, NDArray], *, threads: int = 1) -> Answers:
    """Return what ONNX Runtime computes on the CPU, float64 ``[n, w]`` by output.

    Args:
        content: the graph.
        tensors: at least those that the graph takes.
        threads: threads of one operator.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_outputs()]
    found = session.run(names, {node.name: tensors[node.name] for node in session.get_inputs()})
    return {name: np.asarray(values, dtype=np.float64) for name, values in zip(names, found, strict=True)}


def onnx_parity(model: Model, rows: Dataset, *, content: bytes | None = None) -> float:
    """Return the largest difference between a fitted model and its ONNX graph over all outputs of some rows."""
    graph = model.to_onnx() if content is None else content
    said = onnx_answers(graph, rows.tensors())
    return max(float(np.max(np.abs(said[name] - values), initial=0.0)) for name, values in model.predict(rows).items())


def require_parity(model: Model, rows: Dataset, content: bytes) -> float:
    """Return the parity.

    Raises:
        TrainingError: it is worse than :data:`PARITY_MAX`.
    """
    parity = onnx_parity(model, rows, content=content)
    if not parity <= PARITY_MAX:
        raise TrainingError(
            f"{model.name}: the ONNX graph differs from the fitted model by {parity:.2e}, allowed is {PARITY_MAX:.0e}",
            mend="a converter's version changed its arithmetic: install the locked versions",
        )
    return parity
