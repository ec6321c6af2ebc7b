"""INT8 versions of network graphs, and whether they are worth serving.

Weights of ``MatMul``, ``Gemm`` and ``LSTM`` are quantised when the model is made, what flows between them at every call
(dynamic quantisation). A graph with convolutions is quantised altogether, with ranges that calibration rows show
(static, in ONNX Runtime's own integer operators). Jacob et al. (2018), "Quantization and training of neural networks
for efficient integer-arithmetic-only inference", is the arithmetic. One scale a tensor gives the smallest file; one a
channel is closer to the original, and is tried where the first does not do.

An INT8 version has the tensors of its original and is for the CPU. It is served only where :func:`worth_releasing` says
so: whether it pays is measured, not assumed, for every trained network.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import TrainingError
from fx_dagster.models.onnx_export import onnx_answers
from fx_dagster.models.protocol import OUTPUT_NAME, Float64, ModelArtifact

METRICS: Final = "int8"
"""Where a card's metrics hold the figures."""
SMALLER_MIN: Final = 0.75
FASTER_MIN: Final = 2.0
UNCHANGED_MIN: Final = 0.995
MANY_ROWS: Final = 100
CALIBRATION_ROWS: Final = 512
"""Rows from which ranges are taken, at most; more change a range of extremes only by outliers."""
_BATCH = 64
_DYNAMIC = ("MatMul", "LSTM")  # a Gemm becomes a MatMul first
_STATIC = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_ROUNDS, _CALLS = 15, 20


@dataclass(frozen=True)
class QuantisationReport:
    """An INT8 version beside its original.

    Attributes:
        method: ``dynamic`` or ``static``.
        per_channel: whether every channel of a weight has a scale of its own.
        bytes: size of the original.
        int8_bytes: size of the INT8 version.
        faster_one: how many times faster one row is answered, on one thread of this machine's CPU.
        faster_many: the same for 100 rows.
        difference: largest difference of p(up).
        unchanged: share of rows whose decision is the same.
        rows: rows that were compared.
    """

    method: str
    per_channel: bool
    bytes: int
    int8_bytes: int
    faster_one: float
    faster_many: float
    difference: float
    unchanged: float
    rows: int

    @property
    def smaller(self) -> float:
        """By which share it is smaller; below 0 it is larger."""
        return 1.0 - self.int8_bytes / self.bytes

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, with ``smaller`` and whether it is served."""
        return {**asdict(self), "smaller": self.smaller, "served": worth_releasing(self)}


def worth_releasing(report: QuantisationReport) -> bool:
    """Whether an INT8 version is served instead of its original.

    75 % smaller, at least twice as fast (for one row and for 100), at least 99.5 % of decisions unchanged. 8 bits
    instead of 32 save exactly 75 % of a weight; biases, scales and the graph itself always take a little back. Size is
    therefore compared in whole per cents.
    """
    return (
        round(report.smaller, 2) >= SMALLER_MIN
        and min(report.faster_one, report.faster_many) >= FASTER_MIN
        and report.unchanged >= UNCHANGED_MIN
    )


def unchanged_share(p_a: Float64, p_b: Float64, threshold: float) -> float:
    """Return the share of rows on which two models decide alike; 1 where there are no rows.

    A model is for a rise where p(up) is more than ``threshold`` above 0.5, for a fall where it is more than that below,
    and else for nothing.
    """
    if not len(p_a):
        return 1.0
    sides = [np.where(np.abs(p - 0.5) > threshold, np.sign(p - 0.5), 0.0) for p in (p_a, p_b)]
    return float(np.mean(sides[0] == sides[1]))


def is_quantised(artifact: ModelArtifact) -> bool:
    """Whether an artifact that went through :func:`smaller_where_worth` is the INT8 version."""
    return bool(artifact.card.metrics.get(METRICS, {}).get("served", False))


def smaller_where_worth(
    artifact: ModelArtifact,
    calibration: Mapping[str, NDArray],
    held_out: Mapping[str, NDArray],
    *,
    threshold: float,
) -> ModelArtifact:
    """Return the INT8 version if it is worth serving, else the original; either card holds ``metrics["int8"]``.

    Args:
        artifact: a fitted network with an output ``p_up``.
        calibration: its tensors, training rows.
        held_out: its tensors, rows that it has not seen: decisions are compared on these.
        threshold: of :func:`unchanged_share`.

    Raises:
        TrainingError: it cannot be quantised.
    """
    tried: list[QuantisationReport] = []
    for per_channel in (False, True):
        small = quantise(artifact, calibration, per_channel=per_channel)
        tried.append(compared(artifact, small, held_out, threshold=threshold, per_channel=per_channel))
        if worth_releasing(tried[-1]):
            return small.with_metrics({METRICS: tried[-1].to_dict()})
    closest = max(tried, key=lambda report: report.unchanged)
    return artifact.with_metrics({METRICS: closest.to_dict()})


def quantise(
    artifact: ModelArtifact, calibration: Mapping[str, NDArray], *, per_channel: bool = False
) -> ModelArtifact:
    """Return the INT8 version of a network: same name, tensors and card, other bytes.

    Args:
        artifact: a fitted network.
        calibration: its tensors, some hundred training rows; looked at only where it has convolutions.
        per_channel: one scale a channel of a weight, not one a weight.

    Raises:
        TrainingError: there is nothing in it to quantise, no calibration rows, or ONNX Runtime cannot do it.
    """
    import onnx

    model = onnx.load_from_string(artifact.onnx)
    method = quantisation_method(artifact)
    properties = list(model.metadata_props)
    # ONNX Runtime's own word for a graph that needs no preparation: it logs a warning without.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    try:
        small = _static(model, calibration, per_channel) if method == "static" else _dynamic(model, per_channel)
    except TrainingError:
        raise
    except Exception as error:  # ONNX Runtime raises many kinds
        raise TrainingError(f"{artifact.name} cannot be quantised: {error}", mend="serve it as it is") from error
    small.graph.name, small.doc_string = model.graph.name, f"{model.doc_string}, INT8 ({method})".lstrip(", ")
    del small.metadata_props[:], small.graph.value_info[:]
    small.metadata_props.extend(properties)
    return replace(artifact, onnx=small.SerializeToString(deterministic=True))


def quantisation_method(artifact: ModelArtifact) -> str:
    """Return ``static`` for a graph with convolutions, else ``dynamic``.

    Raises:
        TrainingError: it has nothing that INT8 would make smaller, as a tree model.
    """
    import onnx

    kinds = set(_operators(onnx.load_from_string(artifact.onnx).graph))
    if kinds & {"Conv", "ConvTranspose"}:
        return "static"
    if not kinds & {"MatMul", "Gemm", "LSTM"}:
        raise TrainingError(f"{artifact.name} has no weights that INT8 makes smaller", mend="serve it as it is")
    return "dynamic"


def compared(
    original: ModelArtifact,
    small: ModelArtifact,
    held_out: Mapping[str, NDArray],
    *,
    threshold: float,
    per_channel: bool = False,
) -> QuantisationReport:
    """Return the figures of an INT8 version beside its original.

    Args:
        original: a fitted network with an output ``p_up``.
        small: what :func:`quantise` made of it.
        held_out: their tensors, rows that no fit has seen, at least one.
        threshold: of :func:`unchanged_share`.
        per_channel: how it was made.

    Raises:
        TrainingError: there are no rows, or no p(up).
    """
    rows = len(next(iter(held_out.values()), ()))
    answers = [onnx_answers(artifact.onnx, held_out) if rows else {} for artifact in (original, small)]
    if any(OUTPUT_NAME not in said for said in answers):
        raise TrainingError(f"{original.name}: nothing to compare", mend="give rows to a model that answers p_up")
    p_a, p_b = (said[OUTPUT_NAME][:, 0] for said in answers)
    faster_one, faster_many = (_faster(original, small, _repeated(held_out, n)) for n in (1, MANY_ROWS))
    return QuantisationReport(
        method=quantisation_method(original),
        per_channel=per_channel,
        bytes=len(original.onnx),
        int8_bytes=len(small.onnx),
        faster_one=faster_one,
        faster_many=faster_many,
        difference=float(np.max(np.abs(p_a - p_b))),
        unchanged=unchanged_share(p_a, p_b, threshold),
        rows=rows,
    )


def _operators(graph: Any) -> Iterator[str]:
    """Yield the kinds of operators, those inside branches and loops too."""
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)


def _dynamic(model: Any, per_channel: bool) -> Any:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_dynamic(
            model, path, op_types_to_quantize=list(_DYNAMIC), per_channel=per_channel, weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True, "DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
        return onnx.load(path)


def _static(model: Any, calibration: Mapping[str, NDArray], per_channel: bool) -> Any:
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "int8.onnx"
        quantize_static(
            model, path, _reader(model, calibration), quant_format=QuantFormat.QOperator,
            # Signed activations have no fast integer convolution on x86: measured, ten times slower.
            activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=list(_STATIC),
            per_channel=per_channel,
        )  # fmt: skip
        return onnx.load(path)


def _reader(model: Any, calibration: Mapping[str, NDArray]) -> Any:
    """Return calibration rows in batches, as ONNX Runtime asks for them."""
    from onnxruntime.quantization import CalibrationDataReader

    taken = [entry.name for entry in model.graph.input]
    missing = [name for name in taken if not len(calibration.get(name, ()))]
    if missing:
        raise TrainingError(f"no calibration rows of {', '.join(missing)}", mend="give some hundred training rows")
    rows = min(len(calibration[taken[0]]), CALIBRATION_ROWS)
    batches = iter([{name: calibration[name][at : at + _BATCH] for name in taken} for at in range(0, rows, _BATCH)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, NDArray] | None:
            return next(batches, None)

    return Reader()


def _repeated(tensors: Mapping[str, NDArray], rows: int) -> dict[str, NDArray]:
    """Return exactly so many rows, the given ones over and over."""
    return {
        name: np.ascontiguousarray(np.resize(values, (rows, *values.shape[1:]))) for name, values in tensors.items()
    }


def _faster(original: ModelArtifact, small: ModelArtifact, tensors: Mapping[str, NDArray]) -> float:
    """Return the ratio of the best rounds' times: what else the machine does only ever adds to a time."""
    asked = [_asker(artifact.onnx, tensors) for artifact in (original, small)]
    seconds: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for place, ask in enumerate(asked):
            seconds[place].append(_timed(ask))
    return min(seconds[0]) / min(seconds[1])


def _asker(content: bytes, tensors: Mapping[str, NDArray]) -> Sequence[Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session, {node.name: tensors[node.name] for node in session.get_inputs()}


def _timed(ask: Sequence[Any]) -> float:
    session, feed = ask
    began = time.perf_counter()
    for _ in range(_CALLS):
        session.run(None, feed)
    return time.perf_counter() - began
