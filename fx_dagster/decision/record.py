"""A decision as it is kept: what explains it, in plain words and numbers, and a hash of what it was made from."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fx_dagster.decision.codes import (
    PATHS,
    VALIDATION_PARTS,
    Action,
    Breaker,
    Level,
    Reason,
    Regime,
    Size,
    Stage,
    names,
)
from fx_dagster.decision.rows import DECISION
from fx_dagster.indicators.catalogue import INDICATOR_NAMES
from fx_dagster.models.answer import ATTENTION

_LEVEL_REASONS = int(
    Reason.QUOTE_INVALID | Reason.STALE | Reason.MODEL_ABSENT | Reason.MODEL_OUT_OF_RANGE | Reason.UNHEALTHY
    | Reason.ACCOUNT_INVALID | Reason.HALTED | Reason.FEATURES_DRIFTED
)  # fmt: skip
_SIZES = tuple(size.name.lower() for size in Size)
_VOTES = (*INDICATOR_NAMES, ATTENTION)
_AGENTS = ("size", "enter", "exit_long", "exit_short")


@dataclass(frozen=True, slots=True)
class DecisionExplanation:
    """One symbol's decision. Lots are signed where they are a position, money is in the account's currency."""

    symbol: str
    time: int
    bar_time: int
    action: str
    target_lots: float
    stop: float
    target: float
    level: int
    level_reason: str
    """Why the level is not better than it is; empty where it is the best that was asked for."""
    reasons: tuple[str, ...]
    breakers: tuple[str, ...]
    stage: str
    score: float
    votes: dict[str, float | None]
    """Of the indicators, by name, attention's score last; None: still warming up, or no model answered."""
    signals: dict[str, float]
    weights: dict[str, float]
    validation: float
    validation_parts: dict[str, float]
    confidence: float
    regime: str
    """Whose limits held; ``unknown`` wherever the models' word on it did not count."""
    agents: dict[str, float | None]
    """What the sizing and the timing agent said, whether or not it counted; None: nothing."""
    kelly: float
    risk_money: float
    sizes: dict[str, float]
    """Lots after each scaling and limit, in order: :class:`fx_dagster.decision.codes.Size`."""
    drift: float | None
    """Drift of the features, 0 … 1; None: unknown."""
    inputs_hash: str

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        row = {name: getattr(self, name) for name in self.__slots__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}


def inputs_hash(inputs: np.void, account: np.void, position: np.void) -> str:
    """Return the SHA-256 (hex) of the records that a decision was made from, the step's memory aside."""
    digest = hashlib.sha256()
    for record in (account, inputs, position):
        digest.update(np.frombuffer(record.tobytes(), dtype=np.uint8)[_bytes_of_fields(record.dtype)].tobytes())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _bytes_of_fields(dtype: np.dtype[np.void]) -> NDArray[np.int64]:
    """Return which bytes of a record say something: not those between its fields, nor how often they have changed."""
    fields = [(offset, kind.itemsize) for name, (kind, offset, *_) in (dtype.fields or {}).items() if name != "version"]
    return np.concatenate([np.arange(offset, offset + size) for offset, size in sorted(fields)])


def explain(symbol: str, out: np.void, inputs: np.void, account: np.void, position: np.void) -> DecisionExplanation:
    """Return a decision as it is kept.

    Args:
        symbol: canonical symbol.
        out: record of :data:`fx_dagster.decision.rows.DECISION`.
        inputs: the symbol's, as they were then.
        account: as it was then.
        position: the symbol's, as it was then.
    """
    said = dict(zip(DECISION.names or (), out.item(), strict=True))
    drift = float(inputs["drift"])
    return DecisionExplanation(
        symbol=symbol,
        time=int(account["time"]),
        bar_time=int(inputs["bar_time"]),
        action=Action(said["action"]).name.lower(),
        target_lots=said["target_lots"],
        stop=said["stop"],
        target=said["target"],
        level=said["level"],
        level_reason=level_reason(said["level"], said["observed_level"], said["reasons"], said["stage"]),
        reasons=names(said["reasons"], Reason),
        breakers=names(said["breakers"], Breaker),
        stage=Stage(said["stage"]).name.lower(),
        score=said["score"],
        votes=_named(_VOTES, inputs["votes"].tolist()),
        signals=dict(zip(PATHS, said["signals"].tolist(), strict=True)),
        weights=dict(zip(PATHS, said["weights"].tolist(), strict=True)),
        validation=said["validation"],
        validation_parts=dict(zip(VALIDATION_PARTS, said["validation_parts"].tolist(), strict=True)),
        confidence=said["confidence"],
        regime=Regime(said["regime"]).name.lower(),
        agents=_named(_AGENTS, [float(inputs["size"]), *inputs["timing"].tolist()]),
        kelly=said["kelly"],
        risk_money=said["risk_money"],
        sizes=dict(zip(_SIZES, said["sizes"].tolist(), strict=True)),
        drift=drift if math.isfinite(drift) else None,
        inputs_hash=inputs_hash(inputs, account, position),
    )


def _named(keys: Sequence[str], values: Sequence[float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in zip(keys, values, strict=True)}


def level_reason(level: int, observed: int, reasons: int, stage: int) -> str:
    """Return in words why the level is not 1; empty at level 1."""
    if level <= Level.FULL_AI:
        return ""
    found = list(names(reasons & _LEVEL_REASONS, Reason))
    if stage == Stage.HALT:
        found.append("halted")
    if observed < level:
        found.append("recovering")
    return ", ".join(found) or "no better level is configured"
