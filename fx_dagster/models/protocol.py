"""What every model family promises.

A model is built from a :class:`ModelSpec`, fitted once, and leaves the process as ONNX bytes with a
:class:`ModelCard` (together a :class:`ModelArtifact`): nothing is ever pickled.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import ReleaseError, TrainingError
from fx_dagster.market.timeframes import Timeframe

if TYPE_CHECKING:
    from fx_dagster.models.dataset import Dataset

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int8 = NDArray[np.int8]

INPUT_NAME = "features"
"""Input of the tree models' graphs: float32 ``[N, F]``."""

OUTPUT_NAME = "p_up"
"""Output of every exported direction model: float32 ``[N, 1]``, the probability of a rise."""

Answers = Mapping[str, Float64]
"""What a model says of n rows: float64 ``[n, w]`` by the names of its graph's outputs."""


@dataclass(frozen=True)
class ModelSpec:
    """What a model is built from.

    Attributes:
        feature_names: names of the F columns of ``X``, in order.
        feature_hash: hash of the feature catalogue that made them.
        seed: seed of every random choice.
        threads: threads used while fitting; 0: all cores.
        rows_min: fewest rows that are fitted on.
        may_be_constant: features that are allowed to have one value only (such as a symbol's code in a run of one).
        symbols: canonical symbols that the model learns on; a row's ``symbol`` is a place in it.
        base: timeframe of the rows.
        horizon_bars: bars after which the label is known.
        effort: share of the training budget of networks and agents, in (0, 1].
        parameters: values that replace those of the same name among a family's own parameters.
    """

    feature_names: tuple[str, ...]
    feature_hash: str
    seed: int = 7
    threads: int = 0
    rows_min: int = 500
    may_be_constant: frozenset[str] = frozenset()
    symbols: tuple[str, ...] = ()
    base: Timeframe = Timeframe.H1
    horizon_bars: int = 12
    effort: float = 1.0
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def parameters_of(self, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return a family's parameters, ``own`` with the replacements of this specification.

        Raises:
            TrainingError: the family ``name`` has no such parameter; the message names it.
        """
        unknown = sorted(set(self.parameters) - set(own))
        if unknown:
            raise TrainingError(
                f"{name} has no parameter {', '.join(unknown)}", mend=f"its parameters are {', '.join(sorted(own))}"
            )
        return {**own, **self.parameters}

    @property
    def jobs(self) -> int:
        """Number of threads to use, at least 1."""
        return self.threads or os.cpu_count() or 1


@dataclass(frozen=True)
class ModelCard:
    """What a person and a release need to know about a fitted model. Plain values only: it is written as JSON.

    Attributes:
        name: the family, such as ``xgboost``; also the model's folder in the Triton repository.
        feature_names: input columns, in order.
        feature_hash: hash of the feature catalogue.
        rows: training rows.
        up_share: share of rises among them.
        seed: seed.
        parameters: the library's own parameters.
        importance: share of each feature in the model's decisions; sums to 1.
        libraries: versions that fitted it.
        metrics: out-of-sample numbers, added by whoever judged it.
    """

    name: str
    feature_names: tuple[str, ...]
    feature_hash: str
    rows: int
    up_share: float
    seed: int
    parameters: Mapping[str, Any]
    importance: Mapping[str, float]
    libraries: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "feature_names": list(self.feature_names)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the card that :meth:`to_dict` described."""
        return cls(**{**plain, "feature_names": tuple(plain["feature_names"])})


class HasTensors(Protocol):
    """Rows that know their tensors by name."""

    def tensors(self) -> dict[str, NDArray]:
        """Return what a graph takes, n rows each."""
        ...


class Exportable(Protocol):
    """What is compared with its own graph: any model, over the rows that it takes."""

    name: str

    def predict(self, rows: Any, /) -> Answers:
        """Return what it says of rows."""
        ...

    def to_onnx(self) -> bytes:
        """Return its graph."""
        ...


class Model(Protocol):
    """A model family.

    Attributes:
        name: the family's name.
        spec: what it was built from.
        inputs: tensors that its graph takes, by the names of :data:`fx_dagster.models.inputs.TENSORS` or, for models
            that stand on others, of :data:`fx_dagster.models.stack.STACKED`.
        outputs: columns of each output of its graph, by name. A direction model has ``p_up`` with one.
    """

    name: str
    spec: ModelSpec

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the tensors that its graph takes, in order."""
        ...

    @property
    def outputs(self) -> Mapping[str, int]:
        """Columns of each output of its graph."""
        ...

    def fit(self, rows: "Dataset", sample_weight: Float64 | None = None) -> Self:
        """Fit on training rows; nothing else of the data set is looked at.

        Raises:
            TrainingError: too few rows, one class only, a feature that is not finite or constant, or a fit that does
                not converge.
        """
        ...

    def predict(self, rows: "Dataset") -> Answers:
        """Return what the fitted model says of rows, float64 ``[n, w]`` an output."""
        ...

    def importance(self) -> dict[str, float]:
        """Return each input's share in the decisions; sums to 1. Empty where the family has no such numbers."""
        ...

    def to_onnx(self) -> bytes:
        """Return the graph from ``inputs`` to ``outputs``, metadata included; the scaler is part of it."""
        ...

    def card(self) -> ModelCard:
        """Return the description of the fitted model."""
        ...


ModelFactory = Callable[[ModelSpec], Model]
"""A family's class is its factory."""


@dataclass(frozen=True)
class ModelArtifact:
    """A fitted model as it is kept and released: its ONNX bytes and its card."""

    name: str
    onnx: bytes
    card: ModelCard

    @classmethod
    def of(cls, model: Model) -> Self:
        """Export a fitted model."""
        return cls(model.name, model.to_onnx(), model.card())

    def with_metrics(self, metrics: Mapping[str, Any]) -> Self:
        """Return the same model with more numbers on its card."""
        return replace(self, card=replace(self.card, metrics={**self.card.metrics, **metrics}))

    def save(self, folder: Path) -> None:
        """Write ``<name>.onnx`` and ``<name>.json`` into ``folder``, each aside and then renamed.

        The card names its graph by SHA-256: of two that an interruption left from different fits, neither is believed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        told = {"onnx_sha256": hashlib.sha256(self.onnx).hexdigest(), "card": self.card.to_dict()}
        card = json.dumps(told, indent=1, sort_keys=True, allow_nan=False).encode()
        for path, content in ((folder / f"{self.name}.onnx", self.onnx), (folder / f"{self.name}.json", card)):
            aside = path.with_name(f".{path.name}.{os.getpid()}")
            aside.write_bytes(content)
            aside.replace(path)

    @classmethod
    def load(cls, folder: Path, name: str) -> Self:
        """Read what :meth:`save` wrote.

        Raises:
            ReleaseError: a file is missing or not readable, or the two are not of one fit; the message names it.
        """
        path = folder / f"{name}.json"
        try:
            told = json.loads(path.read_bytes())
            card, digest = ModelCard.from_dict(told["card"]), told["onnx_sha256"]
            path = folder / f"{name}.onnx"
            content = path.read_bytes()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise ReleaseError(f"{path}: not a model artifact ({error})", mend="train the model again") from error
        if hashlib.sha256(content).hexdigest() != digest:
            raise ReleaseError(
                f"{path}: not the graph that {name}.json describes; a training was interrupted, or it was altered",
                mend="train the model again",
            )
        return cls(name, content, card)
