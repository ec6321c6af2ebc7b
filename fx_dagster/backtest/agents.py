"""What the agents are worth: trained on a history with several seeds, and held against fixed fractional sizing later.

Fixed fractional sizing is the same step without agents: every entry that it proposes is taken at the size it gives, and
positions are left by its own rules. Both sides are replayed over the same bars, which the agents have never seen, with
predictions by models that had not seen them either, and at the same costs.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from fx_dagster.backtest.bootstrap import DAYS_MIN, block_length, daily_table, resampled_rows
from fx_dagster.backtest.environment import Conditions, Piece, agent_environment
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.decision.config import StepConfig
from fx_dagster.decision.rows import Float64
from fx_dagster.errors import DataError, SettingsError
from fx_dagster.features.volatility import TRADING_DAYS_A_YEAR
from fx_dagster.models.agents import FULL, AgentBudget, train_agents
from fx_dagster.models.ppo import PpoModel, Scaling
from fx_dagster.models.protocol import ModelSpec

SEEDS_MIN = 5
"""Fewest trainings that are compared: one seed's luck says nothing."""
COMPARED = ("net_return", "sharpe", "max_drawdown", "trades")
"""Metrics of both sides, as in :mod:`fx_dagster.backtest.metrics`."""
_WEEK_DAYS = 5.0


@dataclass(frozen=True)
class SeedResult:
    """One seed's agents.

    Attributes:
        seed: of their training.
        agents: :data:`COMPARED` with them.
        difference: annual mean of daily log returns, theirs less those of fixed fractional sizing.
    """

    seed: int
    agents: dict[str, float]
    difference: float


@dataclass(frozen=True)
class AgentComparison:
    """Agents of several seeds against fixed fractional sizing on the same later bars.

    Attributes:
        seeds: one result a seed.
        fixed: :data:`COMPARED` of fixed fractional sizing, the same for every seed.
        difference: mean over seeds of the annual difference of log returns.
        low: lower end of its interval; days are resampled in blocks, seeds with replacement.
        high: upper end.
        level: of the interval.
        days: trading days.
        block_days: mean length of a block.
    """

    seeds: tuple[SeedResult, ...]
    fixed: dict[str, float]
    difference: float
    low: float
    high: float
    level: float
    days: int
    block_days: float

    @property
    def better(self) -> bool:
        """Whether the agents' gain is beyond chance."""
        return self.low > 0.0

    @property
    def verdict(self) -> str:
        """What a person needs to know, in two sentences."""
        won = sum(item.difference > 0.0 for item in self.seeds)
        if self.better:
            said = "The agents earn more than fixed fractional sizing"
        elif self.high < 0.0:
            said = "The agents earn less than fixed fractional sizing"
        else:
            said = "The agents cannot be told from fixed fractional sizing"
        falls = np.mean([item.agents["max_drawdown"] for item in self.seeds])
        return (
            f"{said}: {self.difference:+.2%} a year in log return, {self.level:.0%} interval "
            f"{self.low:+.2%} to {self.high:+.2%}, over {self.days} days they had not seen. "
            f"{won} of {len(self.seeds)} seeds are ahead; their largest drawdown is {falls:.2%} on average, "
            f"{self.fixed['max_drawdown']:.2%} with fixed sizing."
        )

    def to_frame(self) -> pd.DataFrame:
        """Return a row a seed: metrics of the agents, of fixed fractional sizing (``fixed_…``), and the difference."""
        return pd.DataFrame(
            [
                {
                    "seed": item.seed,
                    **item.agents,
                    **{f"fixed_{name}": value for name, value in self.fixed.items()},
                    "difference": item.difference,
                }
                for item in self.seeds
            ]
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; what is undefined is None."""
        plain = {**asdict(self), "better": self.better, "verdict": self.verdict}
        plain["fixed"] = _plain(self.fixed)
        plain["seeds"] = [{**asdict(item), "agents": _plain(item.agents)} for item in self.seeds]
        return plain


def _plain(values: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def train_on(
    pieces: Sequence[Piece], conditions: Conditions, spec: ModelSpec, *, budget: AgentBudget = FULL
) -> PpoModel:
    """Return agents that have learned on histories; the card's ``trained_until`` is the last close they saw, ns UTC.

    Args:
        pieces: histories with out-of-fold observations.
        conditions: what the accounts trade under.
        spec: names the features; its seed makes every random choice.
        budget: how much they learn.

    Raises:
        DataError: there is no piece, or one is too short.
        TrainingError: no bar has a whole observation.
    """
    if not pieces:
        raise DataError("agents need a history", mend="pass at least one piece")
    symbols = sum(len(piece.history.instruments) for piece in pieces)

    def environment(agent: str, scaling: Scaling, budget: AgentBudget, seed: int) -> Any:
        accounts = max(budget.walkers // symbols, 1)
        return agent_environment(pieces, conditions, scaling, agent, accounts=accounts, seed=seed, bars=budget.bars)

    moves = np.concatenate([_moves(piece.history) for piece in pieces])
    until = max(int(piece.history.market.close_time[-1]) for piece in pieces)
    return train_agents(
        environment, [piece.seen for piece in pieces], spec, budget=budget, up_share=float(np.mean(moves > 0)),
        about={"trained_until": until},
    )  # fmt: skip


def _moves(history: History) -> Float64:
    bars = history.market.bars
    return np.asarray((bars["close"] - bars["open"])[history.market.inputs["active"]], dtype=np.float64)


def compare_agents(
    piece: Piece, models: Sequence[PpoModel], conditions: Conditions, *, samples: int = 2_000, level: float = 0.95,
    seed: int = 7, resume_after_hours: float = 0.0,
) -> AgentComparison:  # fmt: skip
    """Replay agents of several seeds and fixed fractional sizing over bars later than those that they learned on.

    Args:
        piece: the later bars, with out-of-fold observations.
        models: one a seed, at least :data:`SEEDS_MIN`.
        conditions: of the accounts.
        samples: resamples of the interval.
        level: of the interval.
        seed: of the resampling.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`; the same for both sides.

    Raises:
        SettingsError: too few seeds, or one twice.
        DataError: agents have seen a bar of the piece, or there are fewer than 30 days.
    """
    seeds = [model.spec.seed for model in models]
    if len(set(seeds)) < max(SEEDS_MIN, len(seeds)):
        raise SettingsError(f"seeds {seeds}", mend=f"train at least {SEEDS_MIN} times, each with a seed of its own")
    first = int(piece.history.market.time[0])
    if any(model.card().parameters.get("trained_until", first) > first for model in models):
        raise DataError("agents have learned on bars of the comparison", mend="compare on bars after trained_until")
    halt = resume_after_hours
    fixed = _replayed(piece.history, conditions, conditions.config._replace(agents=False), halt)
    results = [
        _replayed(piece.answered(model.policies.answer(piece.seen)), conditions, conditions.config, halt)
        for model in models
    ]
    before = np.log1p(daily_table(fixed)[:, 0])
    moved = np.stack([np.log1p(daily_table(result)[:, 0]) - before for result in results])
    block = _block_days(moved)
    low, high = _interval(moved, block, samples=samples, level=level, seed=seed)
    return AgentComparison(
        seeds=tuple(
            SeedResult(own, _metrics(result), float(days.mean()) * TRADING_DAYS_A_YEAR)
            for own, result, days in zip(seeds, results, moved, strict=True)
        ),
        fixed=_metrics(fixed), difference=float(moved.mean()) * TRADING_DAYS_A_YEAR, low=low, high=high, level=level,
        days=moved.shape[1], block_days=block,
    )  # fmt: skip


def _replayed(
    history: History, conditions: Conditions, config: StepConfig, resume_after_hours: float
) -> BacktestResult:
    return replay(
        history, config, initial_balance=conditions.initial_balance, leverage=conditions.leverage,
        cost=conditions.cost, resume_after_hours=resume_after_hours,
    )  # fmt: skip


def _metrics(result: BacktestResult) -> dict[str, float]:
    return {name: float(result.metrics[name]) for name in COMPARED}


def _block_days(moved: Float64) -> float:
    """Return the block length for differences ``[seeds, days]``.

    Raises:
        DataError: too few days.
    """
    if moved.shape[1] < DAYS_MIN:
        raise DataError(f"{moved.shape[1]} days are compared", mend=f"compare on at least {DAYS_MIN}")
    return block_length(moved.T, least=_WEEK_DAYS)


def _interval(moved: Float64, block: float, *, samples: int, level: float, seed: int) -> tuple[float, float]:
    """Return the interval of the annual mean of ``[seeds, days]``: the same days for all seeds, and seeds at random."""
    rng = np.random.default_rng(seed)
    means = np.empty(samples)
    for sample, days in enumerate(resampled_rows(moved.shape[1], block=block, samples=samples, seed=seed)):
        chosen = rng.integers(0, len(moved), len(moved))
        means[sample] = moved[np.ix_(chosen, days)].mean()
    low, high = np.quantile(means * TRADING_DAYS_A_YEAR, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
