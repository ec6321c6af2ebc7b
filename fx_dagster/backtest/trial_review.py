"""The newest backtest, weighed against everything that was tried on the same source and timeframe."""

from collections.abc import Iterable, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from fx_dagster.backtest.bootstrap import DAYS_MIN
from fx_dagster.backtest.overfitting import (
    BLOCKS,
    SAMPLES,
    Moments,
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    moments,
    overfitting_probability,
    probabilistic_sharpe,
    superiority_p_value,
)
from fx_dagster.backtest.trials import Trial, TrialKind, counted
from fx_dagster.decision.rows import Float64, Int64

SIGNIFICANT = 0.95
"""Deflated Sharpe ratio from which luck is an unlikely explanation."""

OVERFITTING_MAX = 0.5
"""Probability of backtest overfitting from which the choice among the backtests is worth no more than a coin."""

CANDIDATES_MIN = 5
"""Fewest different backtests that tell whether choosing among them overfits."""

COMMON_DAYS_MIN = 5 * BLOCKS
"""Fewest common days that tell it: a trading week in each block."""

SHARED_MIN = 0.5
"""Least share of the newest backtest's days that it keeps in common with those it is compared with."""


class TrialReview(BaseModel):
    """What a review found. Sharpe ratios are those of one day."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    note: str = Field("", description="Why there is nothing to weigh.")
    trials: int = Field(0, description="Trainings and backtests that count.")
    backtests: int = Field(0, description="Backtests among them.")
    never_replayed: int = Field(0, description="Configurations of trainings that no backtest replayed.")
    independent: float = Field(0.0, description="Independent trials that all of them amount to.")
    days: int = Field(0, description="Trading days of the newest backtest.")
    sharpe: float | None = Field(None, description="Its Sharpe ratio; null: too few days, or nothing varied.")
    skewness: float | None = Field(None, description="Of its daily returns.")
    kurtosis: float | None = Field(None, description="Of its daily returns; 3 for normal ones.")
    luck: float | None = Field(None, description="Sharpe ratio that the best of so many is expected to have by luck.")
    probabilistic_sharpe: float | None = Field(None, description="Probability of a true Sharpe ratio above 0.")
    deflated_sharpe: float | None = Field(None, description="Probability of a true Sharpe ratio above luck.")
    candidates: int = Field(0, description="Configurations whose backtests differ on the common days.")
    common_days: int = Field(0, description="Trading days that they have in common.")
    overfitting: float | None = Field(None, description="Probability of backtest overfitting; null: too few to tell.")
    superiority_p: float | None = Field(None, description="P-value: no candidate is better than its control.")


def review_trials(trials: Sequence[Trial], *, samples: int = SAMPLES, seed: int = 7) -> TrialReview:
    """Weigh the newest backtest against all trials.

    Args:
        trials: of one source and timeframe, as recorded, the newest last.
        samples: resamples of the superiority test.
        seed: of the resampling.
    """
    valid = counted(trials)
    backtests = [one for one in valid if one.kind is TrialKind.BACKTEST]
    if not backtests:
        return TrialReview(note="no backtest is recorded", trials=len(valid))
    beside, days = comparable(backtests)
    never = len(_never_replayed(valid))
    # What shares no days with the newest cannot be seen to resemble it.
    independent = max(1.0, effective_trials(_system(beside, days)) + len(backtests) - len(beside) + never)
    # To choose is to choose a configuration: of each its newest backtest.
    candidates = list({one.fingerprint: one for one in beside}.values())
    returns = _system(candidates, days)
    different = np.unique(returns, axis=1).shape[1]
    found = moments(backtests[-1].daily.system) if len(backtests[-1].daily.day) >= DAYS_MIN else None
    weighed = TrialReview(
        trials=len(valid),
        backtests=len(backtests),
        never_replayed=never,
        independent=independent,
        days=len(backtests[-1].daily.day),
        candidates=different,
        common_days=len(days),
        overfitting=_overfitting(returns, different),
        superiority_p=_superiority(returns - _control(candidates, days), samples, seed),
    )
    return weighed if found is None else _deflated(weighed, found, backtests)


def comparable(backtests: Sequence[Trial]) -> tuple[list[Trial], Int64]:
    """Return the backtests that share days with the newest, it included and last, and the days that all of them have.

    They join in the order of how many days they share with it, as long as ``SHARED_MIN`` of its days are left.

    Args:
        backtests: the newest last.
    """
    newest = backtests[-1].daily.day
    shared = [len(_common(newest, one)) for one in backtests]
    joined, days = {len(backtests) - 1}, newest
    for place in sorted(range(len(backtests) - 1), key=lambda place: (-shared[place], -place)):
        common = _common(days, backtests[place])
        if len(common) >= SHARED_MIN * len(newest):
            joined, days = joined | {place}, common
    return [backtests[place] for place in sorted(joined)], days


def _common(days: Int64, trial: Trial) -> Int64:
    return np.intersect1d(days, trial.daily.day, assume_unique=True)


def _never_replayed(trials: Iterable[Trial]) -> set[str]:
    made = {one.fingerprint for one in trials if one.kind is TrialKind.TRAINING}
    return made.difference(*(one.trainings for one in trials))


def _deflated(review: TrialReview, found: Moments, backtests: Sequence[Trial]) -> TrialReview:
    """Add what the newest backtest's Sharpe ratio is worth.

    Trials that resemble each other hide how far independent ones would lie apart: by their estimation error at least.
    """
    known = [one.sharpe for one in (moments(trial.daily.system) for trial in backtests) if one is not None]
    seen = float(np.var(known, ddof=1)) if len(known) > 1 else 0.0
    variance = max(seen, found.sharpe_variance)
    return review.model_copy(
        update={
            "sharpe": found.sharpe,
            "skewness": found.skewness,
            "kurtosis": found.kurtosis,
            "luck": expected_maximum_sharpe(review.independent, variance),
            "probabilistic_sharpe": probabilistic_sharpe(found),
            "deflated_sharpe": deflated_sharpe(found, trials=review.independent, variance=variance),
        }
    )


def _overfitting(returns: Float64, different: int) -> float | None:
    enough = different >= CANDIDATES_MIN and len(returns) >= COMMON_DAYS_MIN
    return overfitting_probability(returns) if enough else None


def _superiority(gains: Float64, samples: int, seed: int) -> float | None:
    return superiority_p_value(gains, samples=samples, seed=seed) if len(gains) >= DAYS_MIN else None


def _system(trials: Sequence[Trial], days: Int64) -> Float64:
    """Return ``[days, trials]``: returns on days that all of them have."""
    return np.column_stack([one.daily.system[np.searchsorted(one.daily.day, days)] for one in trials])


def _control(trials: Sequence[Trial], days: Int64) -> Float64:
    """Return the same of each trial's own control."""
    return np.column_stack([one.daily.control[np.searchsorted(one.daily.day, days)] for one in trials])
