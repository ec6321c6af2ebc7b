"""What the live engine asks of whoever serves the models, and how an answer is judged.

``resources/triton.py`` implements :class:`ModelService`. Every failure is a :class:`ModelCallError` with a reason,
inside the deadline; an answer that arrives has been validated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from fx_dagster.errors import FeatureMismatchError, ModelUnavailableError
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import Float64


class UnavailableReason(StrEnum):
    """Why there is no usable answer."""

    UNREACHABLE = "unreachable"
    """No server at the address, or the connection broke."""
    DEADLINE = "deadline"
    """The server did not answer in time."""
    REFUSED = "refused"
    """The server answered with an error: model not loaded, wrong input, queue full."""
    BAD_ANSWER = "bad_answer"
    """An answer came, and no model's part of it is usable."""


class ModelCallError(ModelUnavailableError):
    """No usable answer; ``reason`` says why."""

    def __init__(self, reason: UnavailableReason, message: str, *, mend: str = "") -> None:
        super().__init__(f"{reason}: {message}", mend=mend)
        self.reason = reason


@dataclass(frozen=True)
class ModelAnswer:
    """One validated answer for n rows.

    Attributes:
        models: names of the direction models that were asked, in the order of the columns of ``p_up``.
        p_up: float64 ``[n, M]``, each in [0, 1]; a discarded model's column is NaN.
        extras: float64 ``[n, len(EXTRAS)]`` (:data:`fx_dagster.models.answer.EXTRAS`); NaN: absent.
        explained: what else the models tell a person, float64 ``[n, w]`` by name, such as a chart's patterns.
        release: number of the release that answered.
        latency_ms: from before the request was built until after the answer was validated.
        discarded: names of outputs that could not be used.
        whole: whether the whole graph was asked, not only the simple models.
    """

    models: tuple[str, ...]
    p_up: Float64
    extras: Float64
    explained: Mapping[str, Float64]
    release: int
    latency_ms: float
    discarded: tuple[str, ...]
    whole: bool

    @property
    def complete(self) -> bool:
        """Whether everything that was asked for stands."""
        return not self.discarded


class ModelService(Protocol):
    """Serves one release at a time."""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the release's direction models, in the order of an answer's columns."""
        ...

    @property
    def symbols(self) -> tuple[str, ...]:
        """Symbols that the release was trained on: a row's ``symbol`` is a place in it."""
        ...

    @property
    def release(self) -> int:
        """Number of the release that answers."""
        ...

    @property
    def feature_hash(self) -> str:
        """Hash of the feature catalogue that the release was trained on."""
        ...

    async def predict(self, inputs: ModelInputs, *, deadline_s: float, whole: bool = True) -> ModelAnswer:
        """Return what the models say of some rows.

        Args:
            inputs: the rows.
            deadline_s: seconds until the answer is of no use.
            whole: ask the whole graph; else only the simple models, whose answer has no extras.

        Raises:
            ModelCallError: no usable answer within ``deadline_s``.
        """
        ...

    async def healthy(self) -> bool:
        """Whether an inference with a known answer comes back right; never raises for an unavailable server."""
        ...

    async def close(self) -> None:
        """Release the connection."""
        ...


def require_same_features(
    *,
    release: int,
    trained_hash: str,
    live_hash: str,
    trained_names: Sequence[str] = (),
    live_names: Sequence[str] = (),
) -> None:
    """Refuse a release that was trained on another feature catalogue.

    Raises:
        FeatureMismatchError: the hashes differ; names the first feature that differs where names are given.
    """
    if trained_hash == live_hash:
        return
    pairs = zip(trained_names, live_names, strict=False)
    first = next((f"; first difference: {old!r} in the release, {new!r} here" for old, new in pairs if old != new), "")
    raise FeatureMismatchError(
        f"release {release} was trained on feature catalogue {trained_hash[:12]}, this process computes "
        f"{live_hash[:12]}{first}",
        mend="train and release again with these features, or roll back to a release that matches",
    )


def validated(outputs: Mapping[str, object], models: Sequence[str], rows: int) -> tuple[Float64, tuple[int, ...]]:
    """Return p(up) ``[rows, M]`` and how many values of each model were unusable.

    A model whose output is missing, of another shape or type, not finite or outside [0, 1] loses its whole column:
    a model that is wrong for one symbol is not believed for another.

    Raises:
        ModelCallError: no model's column is usable (``bad_answer``).
    """
    p_up = np.full((rows, len(models)), np.nan)
    discarded = []
    for column, name in enumerate(models):
        bad = _unusable(outputs.get(name), rows)
        discarded.append(bad)
        if bad == 0:
            p_up[:, column] = np.asarray(outputs[name]).reshape(rows)
    if rows and all(discarded):
        raise ModelCallError(
            UnavailableReason.BAD_ANSWER,
            f"no usable probability from {', '.join(models)} for {rows} rows",
            mend="see the server's log; roll back if it stays so",
        )
    return p_up, tuple(discarded)


def _unusable(output: object, rows: int) -> int:
    """Return how many of a model's values cannot be used; a wrong shape or type spoils all (at least one)."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or output.shape not in ((rows,), (rows, 1)):
        return max(rows, 1)
    # NaN fails both comparisons.
    return int(rows - np.count_nonzero((output >= 0.0) & (output <= 1.0)))
