"""From a fitted model to one ONNX graph of a fixed form, and the proof that both give the same answers.

Every direction model leaves as ``features`` float32 ``[N, F]`` → ``p_up`` float32 ``[N, 1]``: converters' label outputs
and class maps are cut off, the probability of class 1 is sliced out. Metadata properties carry the feature hash.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.protocol import INPUT_NAME, OUTPUT_NAME, Answers, Exportable, HasTensors, ModelSpec

if TYPE_CHECKING:
    import onnx

TARGET_OPSET = 15
"""Old enough for the ONNX Runtime of any Triton that is still in use."""

TARGET_OPSET_ML = 3
IR_VERSION = 8
"""Of graphs that are put together by hand: as old as the operators."""

PARITY_MAX = 1e-5
"""Largest difference from the original that an exported model may have."""


def finished(
    converted: "onnx.ModelProto", probabilities: str, name: str, spec: ModelSpec, *, output: str = OUTPUT_NAME,
    columns: tuple[int, ...] = (1,),
) -> bytes:  # fmt: skip
    """Return the graph in its fixed form.

    Args:
        converted: what a converter made; its only input is ``features``.
        probabilities: name of the tensor float32 ``[N, classes]`` inside it.
        name: the model's name.
        spec: its features.
        output: name of the graph's only output.
        columns: classes that it tells, in order.
    """
    from onnx import TensorProto, helper

    graph = converted.graph
    _keep_needed_nodes(graph, probabilities)
    graph.initializer.append(helper.make_tensor("told_columns", TensorProto.INT64, [len(columns)], columns))
    graph.node.append(helper.make_node("Gather", [probabilities, "told_columns"], [output], name="tell", axis=1))
    del graph.input[:], graph.output[:]
    shape = ["N", len(spec.feature_names)]
    graph.input.append(helper.make_tensor_value_info(INPUT_NAME, TensorProto.FLOAT, shape))
    graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", len(columns)]))
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


def linear_graph(
    nodes: Sequence["onnx.NodeProto"], constants: Mapping[str, NDArray], inputs: Mapping[str, int],
    outputs: Mapping[str, int], name: str, spec: ModelSpec,
) -> bytes:  # fmt: skip
    """Return a graph of float32 tensors that was put together by hand.

    Args:
        nodes: in order.
        constants: tensors by name: float64 becomes float32, integers int64.
        inputs: columns of each input ``[N, w]`` by name.
        outputs: columns of each output ``[N, w]`` by name.
        name: the model's name.
        spec: its features.
    """
    from onnx import TensorProto, helper, numpy_helper

    def told(tensors: Mapping[str, int]) -> list[Any]:
        return [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["N", width]) for key, width in tensors.items()]

    kept = [
        numpy_helper.from_array(values.astype(np.int64 if values.dtype.kind == "i" else np.float32), key)
        for key, values in constants.items()
    ]
    graph = helper.make_graph(list(nodes), name, told(inputs), told(outputs), kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", TARGET_OPSET)])
    model.ir_version = IR_VERSION
    return labelled(model, name, spec)


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


def onnx_parity(model: Exportable, rows: HasTensors, *, content: bytes | None = None) -> float:
    """Return the largest difference between a fitted model and its ONNX graph over all outputs of some rows."""
    graph = model.to_onnx() if content is None else content
    said = onnx_answers(graph, rows.tensors())
    return max(float(np.max(np.abs(said[name] - values), initial=0.0)) for name, values in model.predict(rows).items())


def require_parity(model: Exportable, rows: HasTensors, content: bytes) -> float:
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
