"""A decision as it is kept: what explains it, in plain words and numbers, and a hash of what it was made from."""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from fx_dagster.decision.arrays import AccountState, Decisions, PositionTable, StepInputs
from fx_dagster.decision.codes import PATHS, VALIDATION_PARTS, Action, Breaker, Level, Reason, Size, Stage, names

_LEVEL_REASONS = (
    Reason.QUOTE_INVALID | Reason.STALE | Reason.MODEL_ABSENT | Reason.MODEL_OUT_OF_RANGE | Reason.UNHEALTHY
    | Reason.ACCOUNT_INVALID | Reason.HALTED | Reason.FEATURES_DRIFTED
)  # fmt: skip


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
    signals: dict[str, float]
    weights: dict[str, float]
    validation: float
    validation_parts: dict[str, float]
    confidence: float
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


def inputs_hash(inputs: StepInputs, account: AccountState, positions: PositionTable, row: int) -> str:
    """Return the SHA-256 (hex) of everything that one row's decision was made from, the step's memory aside."""
    digest = hashlib.sha256(np.array([inputs.time, inputs.trading_day], dtype=np.int64).tobytes())
    digest.update(np.array([float(value) for value in account], dtype=np.float64).tobytes())
    for table in (inputs, positions):
        for array in table:
            if isinstance(array, np.ndarray):
                digest.update(np.ascontiguousarray(array[row]).tobytes())
    return digest.hexdigest()


def explain(
    symbol: str, row: int, decisions: Decisions, inputs: StepInputs, account: AccountState, positions: PositionTable
) -> DecisionExplanation:
    """Return one row of the step's answer as it is kept."""
    reasons = int(decisions.reasons[row])
    level, observed = int(decisions.level[row]), int(decisions.observed_level[row])
    return DecisionExplanation(
        symbol=symbol,
        time=int(inputs.time),
        bar_time=int(inputs.bar_time[row]),
        action=Action(int(decisions.action[row])).name.lower(),
        target_lots=float(decisions.target_lots[row]),
        stop=float(decisions.stop[row]),
        target=float(decisions.target[row]),
        level=level,
        level_reason=level_reason(level, observed, reasons, int(decisions.stage[row])),
        reasons=names(reasons, Reason),
        breakers=names(int(decisions.breakers[row]), Breaker),
        stage=Stage(int(decisions.stage[row])).name.lower(),
        score=float(decisions.score[row]),
        signals=dict(zip(PATHS, decisions.signals[row].tolist(), strict=True)),
        weights=dict(zip(PATHS, decisions.weights[row].tolist(), strict=True)),
        validation=float(decisions.validation[row]),
        validation_parts=dict(zip(VALIDATION_PARTS, decisions.validation_parts[row].tolist(), strict=True)),
        confidence=float(decisions.confidence[row]),
        kelly=float(decisions.kelly[row]),
        risk_money=float(decisions.risk_money[row]),
        sizes={size.name.lower(): float(decisions.sizes[row, size]) for size in Size},
        drift=float(inputs.drift[row]) if np.isfinite(inputs.drift[row]) else None,
        inputs_hash=inputs_hash(inputs, account, positions, row),
    )


def level_reason(level: int, observed: int, reasons: int, stage: int) -> str:
    """Return in words why the level is not 1; empty at level 1."""
    if level <= Level.FULL_AI:
        return ""
    found = list(names(reasons & int(_LEVEL_REASONS), Reason))
    if stage == Stage.HALT:
        found.append("halted")
    if observed < level:
        found.append("recovering")
    return ", ".join(found) or "no better level is configured"
