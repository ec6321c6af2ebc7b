"""Triton's configuration of a release's models and ensembles: one template each, for the CPU and for a GPU.

A template is a valid configuration with the model's plain name and ``-1`` for every dimension that the fitted model
decides. It is read and written as protobuf, never as text.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from fx_dagster.errors import ReleaseError

Device: TypeAlias = Literal["cpu", "gpu"]


@dataclass(frozen=True)
class Tensor:
    """One input or output of an ONNX graph: Triton's name of its type, and its dimensions without the batch axis.

    A dimension that the graph leaves open is -1.
    """

    data_type: str
    dims: tuple[int, ...]


def graph_tensors(name: str, content: bytes) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the inputs and the outputs of an ONNX graph by name.

    Raises:
        ReleaseError: the bytes are no ONNX graph, or a tensor has a type that is not served; the model is named.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load_from_string(content).graph
    except DecodeError as error:
        raise ReleaseError(f"{name}: its ONNX graph does not open: {error}", mend="train it again") from error
    weights = {entry.name for entry in graph.initializer}
    inputs = {entry.name: _tensor(name, entry) for entry in graph.input if entry.name not in weights}
    return inputs, {entry.name: _tensor(name, entry) for entry in graph.output}


def _tensor(model: str, entry: Any) -> Tensor:
    from onnx import TensorProto

    kinds = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.DOUBLE: "TYPE_FP64", TensorProto.INT64: "TYPE_INT64"}
    kind = entry.type.tensor_type
    if kind.elem_type not in kinds:
        raise ReleaseError(f"{model}: tensor {entry.name!r} is no float, double or int64", mend="export it as one")
    return Tensor(kinds[kind.elem_type], tuple(dim.dim_value or -1 for dim in list(kind.shape.dim)[1:]))


def render_config(
    template: Path, version: int, content: bytes, parameters: Mapping[str, str], *, device: Device = "cpu"
) -> bytes:
    """Return a model's configuration for one release: its name, dimensions, version, parameters and device.

    Args:
        template: ``<model>/config.pbtxt``.
        version: number of the release.
        content: the model's ONNX graph: its dimensions fill the template's. An input that the template calls optional
            and the graph does not have is left out.
        parameters: added to the template's.
        device: ``cpu``: as the template says, without accelerators; ``gpu``: one instance on each GPU, with them.

    Raises:
        ReleaseError: the template is no Triton model configuration, or the graph's tensors are not its own.
    """
    config = _read(template)
    model = template.parent.name
    inputs, outputs = graph_tensors(model, content)
    _remove(config.input, lambda entry: entry.optional and entry.name not in inputs)
    for tensor in config.input:
        tensor.ClearField("optional")
    for kind, entries, found in (("input", config.input, inputs), ("output", config.output, outputs)):
        _require_names(template, kind, [entry.name for entry in entries], found)
        for entry in entries:
            _fill(template, kind, entry, found[entry.name])
    _fill_warmup(template, config)
    _place(config, device)
    _number(config, model, version, parameters)
    return _text(config)


def render_ensemble(template: Path, version: int, members: Mapping[str, bytes], parameters: Mapping[str, str]) -> bytes:
    """Return an ensemble's configuration for one release.

    Args:
        template: ``<ensemble>/config.pbtxt``.
        version: number of the release.
        members: rendered configurations of the release's models, by plain name. Steps of others are left out, with
            outputs that nobody gives and inputs that nobody takes then; dimensions are those of the members' tensors.
        parameters: added to the template's.

    Raises:
        ReleaseError: the template is no Triton model configuration, a member has a tensor that its step does not map,
            two members disagree on a tensor, or no step is left.
    """
    config = _read(template)
    steps = config.ensemble_scheduling.step
    _remove(steps, lambda step: step.model_name not in members)
    if not steps:
        raise ReleaseError(f"{template}: none of its models is in the release", mend="release one of its models")
    tensors: dict[str, Tensor] = {}
    given: set[str] = set()
    taken: set[str] = set()
    for step in steps:
        member = _parsed(members[step.model_name], f"configuration of {step.model_name}")
        taken |= _connect(template, step, step.input_map, member.input, tensors)
        given |= _connect(template, step, step.output_map, member.output, tensors)
        step.model_name, step.model_version = f"{step.model_name}-r{version}", version
    _remove(config.input, lambda entry: entry.name not in taken)
    _remove(config.output, lambda entry: entry.name not in given)
    _require_names(template, "input", [entry.name for entry in config.input], taken - given)
    for kind, entries in (("input", config.input), ("output", config.output)):
        for entry in entries:
            _fill(template, kind, entry, tensors[entry.name])
    _number(config, template.parent.name, version, parameters)
    return _text(config)


def _connect(template: Path, step: Any, names: Any, entries: Sequence[Any], tensors: dict[str, Tensor]) -> set[str]:
    """Keep in a step's map what its member has; return the ensemble's names of it, and note their shapes."""
    own = {entry.name: entry for entry in entries}
    for name in [name for name in names if name not in own]:
        del names[name]
    _require_names(template, f"tensor of {step.model_name}", list(names), own)
    for name, entry in own.items():
        tensor = Tensor(_kind(entry), tuple(entry.dims))
        known = tensors.setdefault(names[name], tensor)
        if known != tensor:
            raise ReleaseError(
                f"{template}: {step.model_name} has {names[name]!r} as {tensor.data_type}{list(tensor.dims)}, another "
                f"model as {known.data_type}{list(known.dims)}",
                mend="train all models again, on the same features",
            )
    return {names[name] for name in own}


def _require_names(template: Path, kind: str, configured: Sequence[str], found: Collection[str]) -> None:
    if set(configured) != set(found):
        raise ReleaseError(
            f"{template}: {kind} {', '.join(sorted(configured))}; the model has {', '.join(sorted(found))}",
            mend="correct the file, or train the model again",
        )


def _fill(template: Path, kind: str, entry: Any, tensor: Tensor) -> None:
    """Set what the template leaves open; the rest must be the graph's."""
    wanted = tuple(entry.dims)
    fits = len(wanted) == len(tensor.dims) and all(
        want == have or -1 in (want, have) for want, have in zip(wanted, tensor.dims, strict=True)
    )
    if _kind(entry) != tensor.data_type or not fits:
        raise ReleaseError(
            f"{template}: {kind} {entry.name!r} is {_kind(entry)}{list(wanted)}, the model has {tensor.data_type}"
            f"{list(tensor.dims)}",
            mend="write -1 for what the model decides, or train the model again",
        )
    entry.dims[:] = [max(pair) for pair in zip(wanted, tensor.dims, strict=True)]
    if kind == "input" and -1 in entry.dims:
        raise ReleaseError(f"{template}: input {entry.name!r} has an open dimension", mend="export it with fixed ones")


def _fill_warmup(template: Path, config: Any) -> None:
    inputs = {entry.name: entry for entry in config.input}
    for sample in config.model_warmup:
        for name in [name for name in sample.inputs if name not in inputs]:
            del sample.inputs[name]
        _require_names(template, f"warm-up {sample.name} of", list(sample.inputs), inputs)
        for name, entry in inputs.items():
            sample.inputs[name].data_type = entry.data_type
            sample.inputs[name].dims[:] = entry.dims


def _place(config: Any, device: Device) -> None:
    if device == "cpu":
        config.ClearField("optimization")
        return
    for group in config.instance_group:
        group.kind, group.count = group.KIND_GPU, 1


def _number(config: Any, model: str, version: int, parameters: Mapping[str, str]) -> None:
    config.name = f"{model}-r{version}"
    config.version_policy.specific.versions[:] = [version]
    for key, value in sorted(parameters.items()):
        config.parameters[key].string_value = value


def _remove(entries: Any, unwanted: Any) -> None:
    for place in reversed(range(len(entries))):
        if unwanted(entries[place]):
            del entries[place]


def _kind(entry: Any) -> str:
    from tritonclient.grpc import model_config_pb2

    name: str = model_config_pb2.DataType.Name(entry.data_type)
    return name


def _read(template: Path) -> Any:
    try:
        content = template.read_bytes()
    except OSError as error:
        raise ReleaseError(
            f"no {template}", mend=f"add a folder {template.parent.name} with a config.pbtxt to triton_models"
        ) from error
    return _parsed(content, str(template))


def _parsed(content: bytes, place: str) -> Any:
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(content, model_config_pb2.ModelConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{place}: {error}", mend="correct the file") from error


def _text(config: Any) -> bytes:
    from google.protobuf import text_format

    text: str = text_format.MessageToString(config)
    return text.encode()
