"""A release: one immutable set of model versions, what they were trained on, and proof of every byte."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from fx_dagster.errors import ReleaseError
from fx_dagster.models.answer import SIMPLE_MODELS
from fx_dagster.models.graph import outputs_of
from fx_dagster.models.inputs import TENSORS, ModelInputs
from fx_dagster.models.protocol import Float64

FORMAT: Final = 2
SIMPLE: Final = "simple"
"""The ensemble of the two tree models."""
ENSEMBLE: Final = "ensemble"
"""The ensemble of all models; a release of simple models alone has none."""
TOLERANCE: Final[Mapping[str, float]] = {"cpu": 1e-5, "gpu": 5e-3}
"""Largest difference from the recorded answers, relative where these are greater than 1: a GPU computes networks in
FP16, whose numbers have 11 significant bits."""


@dataclass(frozen=True)
class Canary:
    """Fixed inputs with the answers recorded when the release was made.

    Attributes:
        tensors: k rows of each tensor that comes from outside, nested lists by name; ``time`` is int64 ns UTC.
        outputs: k rows of each tensor that the graph answers, nested lists by name.
    """

    tensors: Mapping[str, list]
    outputs: Mapping[str, list]

    @classmethod
    def of(cls, inputs: ModelInputs, outputs: Mapping[str, NDArray]) -> Self:
        """Record inputs and what was answered."""
        tensors = {name: _plain(getattr(inputs, name)) for name in TENSORS}
        return cls(tensors, {name: _plain(values) for name, values in outputs.items()})

    def inputs(self) -> ModelInputs:
        """Return the k rows."""
        rows = len(self.tensors["features"])
        sequence, chart = (np.asarray(self.tensors[name], dtype=np.float32) for name in ("sequence", "chart"))
        return ModelInputs(
            features=np.asarray(self.tensors["features"], dtype=np.float32),
            # Nested lists do not tell the shape of rows without windows.
            sequence=sequence if sequence.ndim == 3 else sequence.reshape(rows, 0, 0),
            chart=chart if chart.ndim == 4 else chart.reshape(rows, 0, 0, 0),
            time=np.asarray(self.tensors["time"], dtype=np.int64),
            symbol=np.asarray(self.tensors["symbol"], dtype=np.int64),
        )

    def answers(self) -> dict[str, Float64]:
        """Return the recorded answers, float64 ``[k, …]`` by name."""
        return {name: np.asarray(values, dtype=np.float64) for name, values in self.outputs.items()}

    def difference(self, found: Mapping[str, object]) -> float:
        """Return the largest difference of answers from the recorded ones.

        It is relative where a recorded answer is greater than 1, and infinite where an answer is NaN, missing or of
        another shape. Only names in ``found`` are compared.
        """
        recorded, worst = self.answers(), 0.0
        for name, values in found.items():
            wanted = recorded.get(name)
            if wanted is None or not isinstance(values, np.ndarray) or values.shape != wanted.shape:
                return np.inf
            off = np.abs(values - wanted) / np.maximum(1.0, np.abs(wanted))
            worst = max(worst, float(np.nan_to_num(off, nan=np.inf).max(initial=0.0)))
        return worst


@dataclass(frozen=True)
class ReleaseManifest:
    """Everything that identifies a release; written as JSON and recorded in PostgreSQL.

    Attributes:
        version: number of the release, from 1; also Triton's version number of every model in it.
        created_at: ISO 8601, UTC.
        models: direction models, in the order of an answer's columns of p(up).
        members: all models, in the graph's order (:data:`fx_dagster.models.graph.GRAPH`).
        symbols: canonical symbols that it was trained on; a row's ``symbol`` is a place in it.
        quantised: members that are served in INT8.
        device: ``cpu`` or ``gpu``: what its configurations were rendered for.
        feature_names: columns of ``features``, in order.
        feature_hash: hash of the feature catalogue.
        files: path below the model repository → SHA-256, hexadecimal, for every file.
        canary: inputs with known answers.
        metrics: out-of-sample numbers by model.
        lineage: what it was trained on (source, symbols, span, Dagster run, code version …).
        cards: model cards by model.
    """

    version: int
    created_at: str
    models: tuple[str, ...]
    members: tuple[str, ...]
    symbols: tuple[str, ...]
    quantised: tuple[str, ...]
    device: str
    feature_names: tuple[str, ...]
    feature_hash: str
    files: Mapping[str, str]
    canary: Canary
    metrics: Mapping[str, Any]
    lineage: Mapping[str, Any]
    cards: Mapping[str, Any]
    format: int = FORMAT

    def served_name(self, model: str) -> str:
        """Return the name under which Triton serves ``model`` of this release: no loaded folder is ever rewritten."""
        return f"{model}-r{self.version}"

    @property
    def has_ensemble(self) -> bool:
        """Whether there is more in it than the simple models."""
        return not set(self.members) <= set(SIMPLE_MODELS)

    @property
    def simple(self) -> str:
        """Name under which Triton serves the simple models together."""
        return self.served_name(SIMPLE)

    @property
    def ensemble(self) -> str:
        """Name under which Triton serves the release's whole graph."""
        return self.served_name(ENSEMBLE if self.has_ensemble else SIMPLE)

    @property
    def served_names(self) -> tuple[str, ...]:
        """All names that Triton loads, members first."""
        graphs = (SIMPLE, ENSEMBLE) if self.has_ensemble else (SIMPLE,)
        return tuple(self.served_name(name) for name in (*self.members, *graphs))

    @property
    def simple_models(self) -> tuple[str, ...]:
        """The simple models among :attr:`models`."""
        return tuple(name for name in self.models if name in SIMPLE_MODELS)

    @property
    def tolerance(self) -> float:
        """Largest difference from the canary's answers that a server may have."""
        return TOLERANCE[self.device]

    def outputs(self, *, whole: bool = True) -> tuple[str, ...]:
        """Return the tensors that the graph answers; of the simple models alone if not ``whole``."""
        return outputs_of(self.members if whole else self.simple_models)

    def to_json(self) -> str:
        """Return the canonical JSON text (sorted keys)."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes, *, place: str = "manifest") -> Self:
        """Read :meth:`to_json`.

        Raises:
            ReleaseError: the text is no manifest, or one of another format; ``place`` is named.
        """
        try:
            plain = json.loads(text)
            found = plain.get("format", FORMAT)
            if found == FORMAT:
                listed = {name: tuple(plain[name]) for name in _LISTED}
                canary = Canary(**plain["canary"])
                return cls(**{**plain, **listed, "canary": canary})._checked()
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            raise ReleaseError(f"{place}: not a release manifest ({error})", mend="release again") from error
        raise ReleaseError(f"{place}: format {found}, this code reads {FORMAT}", mend="release again")

    def _checked(self) -> Self:
        """Return it if its fields are of their types; ValueError names the one that is not."""
        for name in _LISTED:
            if not all(isinstance(one, str) for one in getattr(self, name)):
                raise ValueError(f"{name} are no names")
        for name, kind in (("version", int), ("created_at", str), ("device", str), ("feature_hash", str)):
            if type(getattr(self, name)) is not kind:
                raise ValueError(f"{name} {getattr(self, name)!r:.40}")
        for name in ("files", "metrics", "lineage", "cards"):
            if not isinstance(getattr(self, name), dict):
                raise ValueError(f"{name} {getattr(self, name)!r:.40}")
        if not all(isinstance(digest, str) for digest in self.files.values()):
            raise ValueError("files without a digest")
        if self.device not in TOLERANCE:
            raise ValueError(f"device {self.device!r:.40}")
        self.canary.inputs()
        self.canary.answers()
        return self


_LISTED: Final = ("models", "members", "symbols", "quantised", "feature_names")


def _plain(values: NDArray) -> list:
    """Return nested lists that JSON and PostgreSQL's jsonb give back as they are: these know no negative zero."""
    plain: list = (values + np.zeros((), values.dtype)).tolist()
    return plain
