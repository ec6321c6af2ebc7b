"""A release: one immutable set of model versions, what they were trained on, and proof of every byte."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np

from fx_dagster.errors import ReleaseError
from fx_dagster.models.protocol import Float32, Float64

FORMAT = 1
SIMPLE = "simple"
"""The ensemble of the two tree models."""


@dataclass(frozen=True)
class Canary:
    """Fixed inputs with the answers recorded when the release was made.

    Attributes:
        features: k rows of F values.
        p_up: answers by model, k values each.
    """

    features: tuple[tuple[float, ...], ...]
    p_up: Mapping[str, tuple[float, ...]]

    def inputs(self) -> Float32:
        """Return the rows, float32 ``[k, F]``."""
        return np.asarray(self.features, dtype=np.float32)

    def answers(self, models: tuple[str, ...]) -> Float64:
        """Return the recorded answers, float64 ``[k, M]``."""
        return np.column_stack([np.asarray(self.p_up[name], dtype=np.float64) for name in models])


@dataclass(frozen=True)
class ReleaseManifest:
    """Everything that identifies a release; written as JSON and recorded in PostgreSQL.

    Attributes:
        version: number of the release, from 1; also Triton's version number of every model in it.
        created_at: ISO 8601, UTC.
        models: names of the member models, in the order of an answer's columns.
        feature_names: input columns, in order.
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
    def ensemble(self) -> str:
        """Name under which Triton serves the release's whole graph."""
        return self.served_name(SIMPLE)

    @property
    def served_names(self) -> tuple[str, ...]:
        """All names that Triton loads, members first."""
        return (*(self.served_name(model) for model in self.models), self.ensemble)

    def to_json(self) -> str:
        """Return the canonical JSON text (sorted keys)."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False)

    def digest(self) -> str:
        """Return the SHA-256 of the canonical JSON text."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @classmethod
    def from_json(cls, text: str | bytes, *, place: str = "manifest") -> Self:
        """Read :meth:`to_json`.

        Raises:
            ReleaseError: the text is no manifest of this format; ``place`` is named.
        """
        try:
            plain = json.loads(text)
            canary = Canary(
                tuple(tuple(row) for row in plain["canary"]["features"]),
                {name: tuple(values) for name, values in plain["canary"]["p_up"].items()},
            )
            listed = {name: tuple(plain[name]) for name in ("models", "feature_names")}
            manifest = cls(**{**plain, **listed, "canary": canary})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ReleaseError(f"{place}: not a release manifest ({error})", mend="release again") from error
        if manifest.format != FORMAT:
            raise ReleaseError(f"{place}: format {manifest.format}, this code reads {FORMAT}", mend="release again")
        return manifest
