"""What the live engine asks of whoever serves the models, and how an answer is judged.

``resources/triton.py`` implements :class:`ModelService`. Every failure is a :class:`ModelCallError` with a reason,
inside the deadline; an answer that arrives has been validated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import numpy as np

from fx_dagster.errors import FeatureMismatchError, ModelUnavailableError
from fx_dagster.models.answer import (
    ATTENTION,
    EXTRAS,
    REGIMES,
    SIMPLE_MODELS,
    SIZE_MAX,
    attention_scores,
    regime_codes,
)
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import OUTPUT_NAME, Float64


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


_PROBABILITY: Final = (0.0, 1.0)
_FINITE: Final = (float(np.finfo(np.float64).min), float(np.finfo(np.float64).max))
_LIMITS: Final[Mapping[str, tuple[float, float]]] = {
    "regime": _PROBABILITY,
    "confidence": _PROBABILITY,
    "timing": _PROBABILITY,
    "size": (0.0, SIZE_MAX),
    "patterns": _PROBABILITY,
}
"""Smallest and largest value of an output; p(up) is a probability, others need only be finite."""
_WIDTHS: Final[Mapping[str, int]] = {"regime": len(REGIMES), "confidence": 1, "timing": 3, "size": 1}
_PLAIN_EXTRAS: Final = frozenset({"confidence", "size", "timing"})
"""Outputs that stand in :data:`fx_dagster.models.answer.EXTRAS` as they are."""
_P_UP: Final = f"{OUTPUT_NAME}_"


@dataclass(frozen=True)
class Validated:
    """What of a server's answer can be used; the fields are those of :class:`ModelAnswer`."""

    p_up: Float64
    extras: Float64
    explained: Mapping[str, Float64]
    discarded: tuple[str, ...]


def validated(
    outputs: Mapping[str, object], models: Sequence[str], rows: int, expected: Sequence[str] | None = None
) -> Validated:
    """Return what can be used of the tensors that a release's graph answered.

    A tensor that is missing, of another shape or type, not finite or out of its range in any row loses all its rows: a
    model that is wrong for one symbol is not believed for another.

    Args:
        outputs: what came, by name (:func:`fx_dagster.models.graph.outputs_of`).
        models: direction models that were asked: the columns of p(up).
        rows: number of rows that were asked.
        expected: names that must be there; default: p(up) of ``models``.

    Raises:
        ModelCallError: p(up) of no simple model is usable (``bad_answer``).
    """
    names = [f"{_P_UP}{name}" for name in models] if expected is None else expected
    usable = {name: _usable(name, outputs.get(name), rows) for name in names}
    good = {name: values for name, values in usable.items() if values is not None}
    simple = [name for name in models if name in SIMPLE_MODELS]
    if rows and not any(f"{_P_UP}{name}" in good for name in simple):
        raise ModelCallError(
            UnavailableReason.BAD_ANSWER,
            f"no usable probability from {', '.join(simple) or 'any simple model'} for {rows} rows",
            mend="see the server's log; roll back if it stays so",
        )
    p_up = np.full((rows, len(models)), np.nan)
    for column, name in enumerate(models):
        if f"{_P_UP}{name}" in good:
            p_up[:, column] = good[f"{_P_UP}{name}"][:, 0]
    explained = {
        name: values for name, values in good.items() if name not in _PLAIN_EXTRAS and not name.startswith(_P_UP)
    }
    return Validated(p_up, _extras(good, rows), explained, tuple(name for name in names if name not in good))


def _extras(good: Mapping[str, Float64], rows: int) -> Float64:
    """Return the columns of :data:`EXTRAS` from usable tensors; NaN where one is not there."""
    columns: dict[str, Float64] = {}
    for name in ("confidence", "size"):
        if name in good:
            columns[name] = good[name][:, 0]
    if "regime" in good:
        columns["regime"] = regime_codes(good["regime"])
    if f"{_P_UP}{ATTENTION}" in good:
        columns["attention"] = attention_scores(good[f"{_P_UP}{ATTENTION}"][:, 0])
    if "timing" in good:
        columns |= dict(zip(("enter", "exit_long", "exit_short"), good["timing"].T, strict=True))
    absent = np.full(rows, np.nan)
    return np.column_stack([columns.get(name, absent) for name in EXTRAS])


def _usable(name: str, output: object, rows: int) -> Float64 | None:
    """Return a tensor as float64 ``[rows, w]``; None: its shape, type or a value is not what it must be."""
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f" or not output.ndim or len(output) != rows:
        return None
    values = output.reshape(rows, -1 if output.size else 0).astype(np.float64)
    is_p_up = name.startswith(_P_UP)
    width = 1 if is_p_up else _WIDTHS.get(name, values.shape[1])
    if not rows:
        return np.empty((0, width))
    low, high = _PROBABILITY if is_p_up else _LIMITS.get(name, _FINITE)
    # Of values with a NaN among them the smallest is NaN, which fails the comparison.
    if values.shape[1] != width or (values.size and not (values.min() >= low and values.max() <= high)):
        return None
    return values
