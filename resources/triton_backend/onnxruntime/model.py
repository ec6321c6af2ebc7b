"""Backend ``onnxruntime`` for a Triton that has only the python backend: runs ``model.onnx`` on the CPU.

NVIDIA's container brings a native backend of this name; the same ``config.pbtxt`` works with both. This file runs in
Triton's python stub, one process a model instance, and knows nothing of the project around it. Its parameters are the
native backend's ``intra_op_thread_count`` and ``inter_op_thread_count`` (default 1 each), and ``sha256``: where given,
a file with another digest is not loaded.

Tensors cross the border as DLPack. The stub's own conversions read NumPy 1's memory layout: under NumPy 2 they take the
size of an element for 0 and answer with empty tensors.
"""

import ctypes
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

MODEL_FILE = "model.onnx"
SERVER_POLL_S = 0.5
_ONNX_TYPES = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
}


class TritonPythonModel:
    """One loaded version of one model."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the version's ONNX file.

        Raises:
            TritonModelException: the file is missing or altered, or its tensors are not the configuration's.
        """
        threading.Thread(target=_end_with_server, args=(os.getppid(),), daemon=True).start()
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / MODEL_FILE
        content = _read(path, _parameter(config, "sha256", ""))
        self._session = _open(path, content, config)
        self._inputs = [(entry["name"], _dtype(entry), _dims(entry)) for entry in config["input"]]
        outputs = [(entry["name"], _dtype(entry), _dims(entry)) for entry in config["output"]]
        self._outputs = [(name, dtype) for name, dtype, _ in outputs]
        self._batches = int(config.get("max_batch_size", 0)) > 0
        _require_same_tensors(path, self._session, self._inputs, outputs, self._batches)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request; one whose tensors are wrong gets an error of its own and spoils no other's."""
        responses: list[Any] = [None] * len(requests)
        feeds: dict[int, dict[str, np.ndarray]] = {}
        for position, request in enumerate(requests):
            try:
                feeds[position] = self._feed(request)
            except ValueError as error:
                responses[position] = _failed(str(error))
        for group in self._groups(feeds):
            self._run(group, feeds, responses)
        return responses

    def finalize(self) -> None:
        """Release the session."""
        del self._session

    def _feed(self, request: Any) -> dict[str, np.ndarray]:
        """Return the request's tensors.

        Raises:
            ValueError: one is missing, or has another type or shape than the configuration says.
        """
        feed = {}
        for name, dtype, dims in self._inputs:
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is None:
                raise ValueError(f"input {name!r} is missing")
            values = np.from_dlpack(tensor)
            shape = values.shape[1:] if self._batches else values.shape
            fits = len(shape) == len(dims) and all(want in (-1, have) for have, want in zip(shape, dims, strict=True))
            if values.dtype != dtype or not fits:
                raise ValueError(f"input {name!r} is {values.dtype}{list(values.shape)}, expected {dtype}{dims} a row")
            feed[name] = values
        return feed

    def _groups(self, feeds: dict[int, dict[str, np.ndarray]]) -> list[list[int]]:
        """Return which requests run together: those whose rows have the same shape, where there is a batch axis."""
        if not self._batches:
            return [[position] for position in feeds]
        groups: dict[tuple, list[int]] = {}
        for position, feed in feeds.items():
            groups.setdefault(tuple(values.shape[1:] for values in feed.values()), []).append(position)
        return list(groups.values())

    def _run(self, group: list[int], feeds: dict[int, dict[str, np.ndarray]], responses: list[Any]) -> None:
        names = [name for name, _ in self._outputs]
        try:
            if len(group) == 1:
                answers = self._session.run(names, feeds[group[0]])
                parts = [answers]
            else:
                joined = {name: np.concatenate([feeds[at][name] for at in group]) for name, *_ in self._inputs}
                answers = self._session.run(names, joined)
                edges = np.cumsum([len(next(iter(feeds[at].values()))) for at in group])[:-1]
                parts = list(zip(*(np.split(answer, edges) for answer in answers), strict=True))
        except Exception as error:  # noqa: BLE001 - ONNX Runtime raises many kinds; each belongs to these requests
            for at in group:
                responses[at] = _failed(f"ONNX Runtime: {error}")
            return
        for at, values in zip(group, parts, strict=True):
            responses[at] = self._answer(values)

    def _answer(self, values: Any) -> Any:
        tensors = [
            _tensor(name, np.ascontiguousarray(value, dtype=dtype))
            for (name, dtype), value in zip(self._outputs, values, strict=True)
        ]
        return pb_utils.InferenceResponse(output_tensors=tensors)


def _end_with_server(server: int) -> None:
    """End this process when the server is gone: one that was killed while it held a lock leaves its stub waiting."""
    while os.getppid() == server:
        time.sleep(SERVER_POLL_S)
    os._exit(1)


def _tensor(name: str, values: np.ndarray) -> Any:
    """Hand an array to the stub without a copy."""
    capsule = values.__dlpack__()
    # The stub frees what the capsule holds, but marks it as used by a name that NumPy's destructor does not know.
    ctypes.pythonapi.PyCapsule_SetDestructor(ctypes.py_object(capsule), None)
    return pb_utils.Tensor.from_dlpack(name, capsule)


def _failed(message: str) -> Any:
    return pb_utils.InferenceResponse(output_tensors=[], error=pb_utils.TritonError(message))


def _read(path: Path, expected_sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise pb_utils.TritonModelException(f"{path}: {error.strerror}") from error
    found = hashlib.sha256(content).hexdigest()
    if expected_sha256 and found != expected_sha256:
        raise pb_utils.TritonModelException(f"{path}: SHA-256 is {found}, the configuration says {expected_sha256}")
    return content


def _open(path: Path, content: bytes, config: dict[str, Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(_parameter(config, "intra_op_thread_count", "1"))
    options.inter_op_num_threads = int(_parameter(config, "inter_op_thread_count", "1"))
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise pb_utils.TritonModelException(f"{path}: ONNX Runtime cannot open it: {error}") from error


def _require_same_tensors(path: Path, session: Any, inputs: list[Any], outputs: list[Any], batches: bool) -> None:
    """Compare the file's tensors with the configuration's, as the native backend does."""
    graph_inputs = {node.name: node for node in session.get_inputs()}
    graph_outputs = {node.name: node for node in session.get_outputs()}
    wanted = {name for name, *_ in inputs}
    if set(graph_inputs) != wanted:
        raise pb_utils.TritonModelException(f"{path}: inputs are {sorted(graph_inputs)}, configured {sorted(wanted)}")
    missing = sorted({name for name, *_ in outputs} - set(graph_outputs))
    if missing:
        raise pb_utils.TritonModelException(f"{path}: has no output {', '.join(missing)}")
    for kind, entries, nodes in (("input", inputs, graph_inputs), ("output", outputs, graph_outputs)):
        for name, dtype, dims in entries:
            _require_same(path, f"{kind} {name!r}", nodes[name], dtype, dims, batches)


def _require_same(path: Path, place: str, node: Any, dtype: np.dtype, dims: list[int], batches: bool) -> None:
    """Compare one tensor; a dimension that either leaves open fits."""
    found = node.shape[1:] if batches else node.shape
    fits = len(found) == len(dims) and all(
        want in (-1, have) or not isinstance(have, int) for have, want in zip(found, dims, strict=True)
    )
    if _ONNX_TYPES.get(node.type) != dtype or not fits:
        raise pb_utils.TritonModelException(f"{path}: {place} is {node.type}{found}, configured {dtype}{dims}")


def _parameter(config: dict[str, Any], name: str, default: str) -> str:
    value: str = config.get("parameters", {}).get(name, {}).get("string_value", default)
    return value


def _dtype(entry: dict[str, Any]) -> np.dtype:
    return np.dtype(pb_utils.triton_string_to_numpy(entry["data_type"]))


def _dims(entry: dict[str, Any]) -> list[int]:
    return [int(dim) for dim in entry["dims"]]
