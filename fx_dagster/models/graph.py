"""The graph of a release: which model takes which tensors from whom, and ONNX Runtime's answer of the whole.

::

    features ─┬─ xgboost, random_forest ──┐
              └─ regime ─────────────────┐│
    sequence ─┬─ lstm (time, symbol) ────┤├─ meta ── confidence (features) ── ppo (features)
              └─ attention ──────────────┤│
    chart ────── cnn ────────────────────┘┘

A direction model's ``p_up`` is ``p_up_<model>`` in the graph; attention's ``weights`` are ``attention_weights``.
Triton's ensemble scheduler runs the same graph (``triton_models/ensemble``); this is what its answers are compared
with, and what a backtest asks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import ReleaseError
from fx_dagster.models.answer import ATTENTION, BASE_MODELS, DIRECTIONS, META, SIMPLE_MODELS
from fx_dagster.models.inputs import TENSORS
from fx_dagster.models.protocol import OUTPUT_NAME, ModelArtifact

_STACKED = (*(f"{OUTPUT_NAME}_{name}" for name in BASE_MODELS), "regime")
_META = f"{OUTPUT_NAME}_{META}"


@dataclass(frozen=True)
class Member:
    """A model's place in the graph.

    Attributes:
        inputs: tensors that it takes.
        outputs: tensor of the graph by the name that the model's own output has.
        chooses: whether it may leave inputs out: a model that stands on others takes what it learnt from.
    """

    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    chooses: bool = False


def _direction(name: str, *inputs: str, chooses: bool = False, **others: str) -> Member:
    return Member(inputs, MappingProxyType({OUTPUT_NAME: f"{OUTPUT_NAME}_{name}", **others}), chooses)


GRAPH: Final[Mapping[str, Member]] = MappingProxyType(
    {
        "xgboost": _direction("xgboost", "features"),
        "random_forest": _direction("random_forest", "features"),
        "lstm": _direction(
            "lstm", "sequence", "time", "symbol", expected_return="expected_return", prophet_return="prophet_return"
        ),
        "cnn": _direction("cnn", "chart", patterns="patterns"),
        ATTENTION: _direction(ATTENTION, "sequence", weights="attention_weights"),
        "regime": Member(("features",), MappingProxyType({"regime": "regime"})),
        META: _direction(META, *_STACKED, chooses=True),
        "confidence": Member(
            (*_STACKED, _META, "features"), MappingProxyType({"confidence": "confidence"}), chooses=True
        ),
        "ppo": Member(
            (*_STACKED, _META, "confidence", "features"),
            MappingProxyType({"size": "size", "timing": "timing"}),
            chooses=True,
        ),
    }
)
"""Every model that a release may have, in an order in which each comes after those that it stands on."""


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Return models in the order of :data:`GRAPH`.

    Raises:
        ReleaseError: one is not in the graph or comes twice, or no simple model is among them.
    """
    given = list(names)
    strange = sorted({name for name in given if name not in GRAPH or given.count(name) > 1})
    if strange:
        raise ReleaseError(
            f"{', '.join(strange)}: unknown, or given twice", mend=f"a release's models are among {', '.join(GRAPH)}"
        )
    if not set(given) & set(SIMPLE_MODELS):
        raise ReleaseError("a release without models", mend=f"train {' and '.join(SIMPLE_MODELS)} first")
    return tuple(name for name in GRAPH if name in given)


def directions(members: Iterable[str]) -> tuple[str, ...]:
    """Return those that have a column of p(up), in the order of :data:`fx_dagster.models.answer.DIRECTIONS`."""
    given = set(members)
    return tuple(name for name in DIRECTIONS if name in given)


def inputs_of(members: Iterable[str]) -> tuple[str, ...]:
    """Return the tensors from outside that these models need, in the order of :data:`fx_dagster.models.inputs.TENSORS`.

    A model that chooses adds none: who stands on the simple models has ``features`` with them.
    """
    needed = {tensor for name in members if not GRAPH[name].chooses for tensor in GRAPH[name].inputs}
    return tuple(tensor for tensor in TENSORS if tensor in needed)


def outputs_of(members: Iterable[str]) -> tuple[str, ...]:
    """Return the graph's tensors that these models answer, in the graph's order."""
    given = set(members)
    return tuple(tensor for name, member in GRAPH.items() if name in given for tensor in member.outputs.values())


class Graph:
    """The models of a release, opened once and asked often.

    Args:
        models: artifacts, or ONNX bytes by name, in any order.
        threads: threads of one operator.

    Raises:
        ReleaseError: a model is unknown, does not open, has other tensors than its place in the graph, or stands on one
            that is not there.
    """

    def __init__(self, models: Mapping[str, bytes] | Sequence[ModelArtifact], *, threads: int = 1) -> None:
        contents = models if isinstance(models, Mapping) else {artifact.name: artifact.onnx for artifact in models}
        self.members = ordered(contents if isinstance(models, Mapping) else [artifact.name for artifact in models])
        self._sessions = {name: _opened(name, contents[name], threads) for name in self.members}
        self._taken = {name: [node.name for node in self._sessions[name].get_inputs()] for name in self.members}
        known = set(TENSORS)
        for name in self.members:
            self._require_place(name, known)
            known.update(GRAPH[name].outputs.values())

    @property
    def inputs(self) -> tuple[str, ...]:
        """Tensors that it takes from outside."""
        return inputs_of(self.members)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Tensors that it answers."""
        return outputs_of(self.members)

    def run(self, tensors: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Return every tensor that the models answer, as ONNX Runtime gives it (float32 ``[N, …]``), by name.

        Args:
            tensors: at least :attr:`inputs`, N rows each (:meth:`fx_dagster.models.inputs.ModelInputs.tensors`).

        Raises:
            ReleaseError: a tensor is missing, or a model does not run with these; it is named.
        """
        missing = [name for name in self.inputs if name not in tensors]
        if missing:
            raise ReleaseError(f"no tensor {', '.join(missing)}", mend="give all that the release's models take")
        known: dict[str, NDArray] = dict(tensors)
        for name in self.members:
            own = GRAPH[name].outputs
            try:
                found = self._sessions[name].run(list(own), {tensor: known[tensor] for tensor in self._taken[name]})
            except Exception as error:  # ONNX Runtime raises many kinds
                raise ReleaseError(f"{name}: its ONNX graph does not run: {error}", mend="train it again") from error
            known.update(zip(own.values(), found, strict=True))
        return {tensor: np.asarray(known[tensor]) for tensor in self.outputs}

    def _require_place(self, name: str, known: set[str]) -> None:
        member, taken = GRAPH[name], set(self._taken[name])
        answered = {node.name for node in self._sessions[name].get_outputs()}
        if not taken <= set(member.inputs) or (taken != set(member.inputs) and not member.chooses):
            raise ReleaseError(
                f"{name} takes {', '.join(sorted(taken))}, its place in the graph has {', '.join(member.inputs)}",
                mend="train it again",
            )
        if answered != set(member.outputs):
            raise ReleaseError(
                f"{name} answers {', '.join(sorted(answered))}, its place in the graph has {', '.join(member.outputs)}",
                mend="train it again",
            )
        absent = sorted(taken - known)
        if absent:
            raise ReleaseError(
                f"{name} takes {', '.join(absent)}, which no model of the release gives",
                mend="release it with all models that it stands on, or leave it out",
            )


def run_graph(
    models: Mapping[str, bytes] | Sequence[ModelArtifact], tensors: Mapping[str, NDArray], *, threads: int = 1
) -> dict[str, NDArray]:
    """Return what a release's models say of some rows: :class:`Graph` for one question.

    Raises:
        ReleaseError: as :class:`Graph` and :meth:`Graph.run`.
    """
    return Graph(models, threads=threads).run(tensors)


def _opened(name: str, content: bytes, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises many kinds
        raise ReleaseError(f"{name}: its ONNX graph does not open: {error}", mend="train it again") from error
