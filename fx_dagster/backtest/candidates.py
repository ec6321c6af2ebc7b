"""The ways to trade that are compared: the three ways of combining, each model alone, and no model at all.

All run through the same decision step, risk and costs, on the same bars and the same out-of-fold answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from fx_dagster.backtest.ab import Comparison, Difference, against_nothing, compare
from fx_dagster.backtest.bootstrap import DAYS_MIN
from fx_dagster.backtest.metrics import daily_returns
from fx_dagster.backtest.overfitting import superiority_p_value
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.decision.codes import Combine, Level
from fx_dagster.decision.config import StepConfig, traditional_control
from fx_dagster.decision.rows import input_dtype
from fx_dagster.errors import DataError

CONTROL = "traditional"
NOTHING = "no trade"
"""Benchmark of an account that does not trade."""


@dataclass(frozen=True)
class Candidate:
    """One way to trade.

    Attributes:
        name: what it is called.
        config: of the decision step.
        models: direction models whose probabilities it sees, by name.
    """

    name: str
    config: StepConfig
    models: tuple[str, ...]


@dataclass(frozen=True)
class CandidateResult:
    """What a candidate came to, how that compares with not trading, and with the control; None for the control."""

    candidate: Candidate
    result: BacktestResult
    against_nothing: Difference
    against_control: Comparison | None


def candidates(config: StepConfig, models: Sequence[str]) -> tuple[Candidate, ...]:
    """Return what is compared, the control first.

    Args:
        config: of the whole system.
        models: direction models in the order of ``p_up``.
    """
    whole = tuple(models)
    ways = [
        Candidate(way.name.lower(), config._replace(combine=int(way)), whole)
        for way in (Combine.PARALLEL, Combine.HIERARCHICAL, Combine.HYBRID)
    ]
    alone = config._replace(
        best_level=int(Level.SIMPLE_AI), combine=int(Combine.PARALLEL), parallel_traditional=0.0, simple_models=1,
        deep_models=0, meta=False,
    )  # fmt: skip
    return (
        Candidate(CONTROL, traditional_control(config), whole),
        *ways,
        Candidate("hybrid without agents", config._replace(combine=int(Combine.HYBRID), agents=False), whole),
        *(Candidate(f"{model} alone", alone, (model,)) for model in whole),
    )


def with_models(history: History, models: Sequence[str], wanted: Sequence[str]) -> History:
    """Return the history as seen with only some of its direction models.

    Args:
        history: with the answers of ``models``.
        models: names of the columns of ``p_up``.
        wanted: names that stay.

    Raises:
        DataError: one of them is not there.
    """
    absent = [name for name in wanted if name not in models]
    if absent:
        raise DataError(f"the history has no answers of {absent[0]}", mend="train it first")
    if tuple(wanted) == tuple(models):
        return history
    inputs = history.market.inputs
    kept = np.zeros(inputs.shape, dtype=input_dtype(len(wanted)))
    for name in kept.dtype.names or ():
        kept[name] = inputs[name][..., [models.index(one) for one in wanted]] if name == "p_up" else inputs[name]
    return replace(history, market=history.market._replace(inputs=kept))


def replay_candidates(
    history: History, found: Sequence[Candidate], models: Sequence[str], *, initial_balance: float, leverage: float,
    resume_after_hours: float, seed: int,
) -> list[CandidateResult]:  # fmt: skip
    """Replay each candidate over the same bars, and compare it with the first, the control.

    Args:
        history: bars, indicators and out-of-fold answers.
        found: of :func:`candidates`.
        models: names of the columns of ``p_up``.
        initial_balance: of each account.
        leverage: of each account.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`.
        seed: of the resampling.

    Raises:
        DataError: the history is empty, or lacks a model.
        SettingsError: a configuration is impossible.
    """
    results: list[CandidateResult] = []
    for candidate in found:
        result = replay(
            with_models(history, models, candidate.models), candidate.config, initial_balance=initial_balance,
            leverage=leverage, resume_after_hours=resume_after_hours,
        )  # fmt: skip
        against = compare(result, results[0].result, seed=seed) if results else None
        results.append(CandidateResult(candidate, result, against_nothing(result, seed=seed), against))
    return results


def best_by_luck(results: Sequence[CandidateResult], *, seed: int, benchmark: str = CONTROL) -> float | None:
    """Return the probability that the best of all candidates is ahead of a benchmark by luck alone (Hansen 2005).

    None where there are too few days, or no candidate ever differs from it.

    Args:
        results: all that were looked at, the control among them.
        seed: of the resampling.
        benchmark: name of a candidate, or :data:`NOTHING`: an account that does not trade.
    """
    returns = {found.candidate.name: _daily(found.result) for found in results}
    own = returns.pop(benchmark) if benchmark != NOTHING else np.zeros(len(_daily(results[0].result)))
    if len(own) < DAYS_MIN:
        return None
    return superiority_p_value(np.column_stack(list(returns.values())) - own[:, None], seed=seed)


def _daily(result: BacktestResult) -> np.ndarray:
    time = result.equity["time"].to_numpy(np.int64)
    return daily_returns(time, result.equity["equity"].to_numpy(np.float64), result.initial_balance)[1]


def comparison_frame(results: Sequence[CandidateResult]) -> pd.DataFrame:
    """Return one row a candidate: its metrics, its return a year and how far that is from the control's, with 95 %."""
    return pd.DataFrame([_row(found) for found in results])


def _row(found: CandidateResult) -> dict[str, object]:
    metrics: Mapping[str, float] = found.result.metrics
    names = ("net_return", "sharpe", "max_drawdown", "win_rate", "profit_factor", "trades")
    row: dict[str, object] = {"candidate": found.candidate.name, **{name: metrics.get(name) for name in names}}
    own = found.against_nothing
    row |= {"annual_return": own.value, "annual_low": own.low, "annual_high": own.high}
    against = found.against_control
    if against is None:
        return row | {"annual_difference": None, "low": None, "high": None, "verdict": "the control"}
    gap = against.differences["mean_annual_return"]
    return row | {
        "annual_difference": gap.value, "low": gap.low, "high": gap.high,
        "verdict": str(against.verdict).replace("A ahead", "better").replace("B ahead", "worse"),
    }  # fmt: skip


def equity_frame(results: Sequence[CandidateResult]) -> pd.DataFrame:
    """Return the equity of every candidate, one column each, and ``time``."""
    first = results[0].result.equity
    return pd.DataFrame(
        {"time": first["time"], **{found.candidate.name: found.result.equity["equity"] for found in results}}
    )
