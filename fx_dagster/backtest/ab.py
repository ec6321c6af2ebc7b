"""Two accounts on the same bars: is one configuration of the step ahead of another, or is it luck?

The accounts are kept apart; only their days are paired. Trading days are resampled in blocks, both accounts' returns
and closed trades of a day together, so that the luck that they share cancels.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from fx_dagster.backtest.bootstrap import DAYS_MIN, daily_table, day_block, resampled_worth, worth
from fx_dagster.backtest.prepare import History
from fx_dagster.backtest.replay import replay
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.decision.config import StepConfig
from fx_dagster.decision.rows import Float64
from fx_dagster.errors import DataError

COMPARED = ("mean_annual_return", "net_return", "sharpe", "sortino", "max_drawdown", "win_rate", "trades")
"""Metrics that are compared. ``mean_annual_return``, the mean of daily returns times 252, is what settles."""

SAMPLES = 1_000
LEVEL = 0.95


class Verdict(StrEnum):
    """What may be said of two accounts."""

    A_AHEAD = "A ahead"
    B_AHEAD = "B ahead"
    NOT_SETTLED = "not settled"
    SAME = "the same"
    TOO_SHORT = "too short to tell"


@dataclass(frozen=True)
class Difference:
    """A less B, with a percentile interval; NaN where it is undefined."""

    value: float
    low: float
    high: float
    share_above_zero: float
    """Share of resamples in which A has more."""

    @property
    def has_interval(self) -> bool:
        """Whether the interval is known."""
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Comparison:
    """Two accounts on the same days.

    Attributes:
        days: trading days.
        samples: resamples behind the intervals.
        level: of the intervals.
        block_days: mean length of a block.
        a: A's metrics, by the names of :data:`COMPARED`.
        b: B's metrics.
        differences: A less B, by the same names.
        verdict: by the interval of ``mean_annual_return``: of the mean paired difference of daily returns.
    """

    days: int
    samples: int
    level: float
    block_days: float
    a: dict[str, float]
    b: dict[str, float]
    differences: dict[str, Difference]
    verdict: Verdict


def replay_both(
    history: History, a: StepConfig, b: StepConfig, *, initial_balance: float, leverage: float,
    resume_after_hours: float = 0.0,
) -> tuple[BacktestResult, BacktestResult]:  # fmt: skip
    """Replay two configurations over the same bars, each with an account of its own.

    Args:
        history: bars, indicators and predictions.
        a: the one in question.
        b: what it is compared with.
        initial_balance: of each account.
        leverage: of each account.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`.

    Raises:
        SettingsError: a configuration is impossible.
        DataError: the history is empty.
    """
    first, second = (
        replay(
            history, one, initial_balance=initial_balance, leverage=leverage, resume_after_hours=resume_after_hours
        )
        for one in (a, b)
    )  # fmt: skip
    return first, second


def compare(
    a: BacktestResult, b: BacktestResult, *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 7,
    block_days: float | None = None,
) -> Comparison:  # fmt: skip
    """Return what sets A apart from B, with paired stationary block-bootstrap intervals.

    Fewer than ``DAYS_MIN`` days have no interval. The interval of the drawdown is that of daily closes.

    Args:
        a: the one in question.
        b: what it is compared with.
        samples: resamples.
        level: of the intervals.
        seed: of the resampling.
        block_days: mean length of a block; None: :func:`fx_dagster.backtest.bootstrap.day_block`.

    Raises:
        DataError: the two do not cover the same bars.
    """
    times = [result.equity["time"].to_numpy(np.int64) for result in (a, b)]
    if not np.array_equal(*times):
        raise DataError("the two backtests cover different bars", mend="run both over the same window")
    tables = [daily_table(result) for result in (a, b)]
    days = len(tables[0])
    enough = days >= DAYS_MIN
    block = (day_block(*tables) if enough else 1.0) if block_days is None else block_days
    drawn = resampled_worth(tables, block=block, samples=samples, seed=seed) if enough else [{}, {}]
    sides = [
        {name: result.metrics[name] for name in COMPARED[1:]}
        | {"mean_annual_return": worth(table)["mean_annual_return"]}
        for result, table in zip((a, b), tables, strict=True)
    ]
    differences = {
        name: _difference(
            sides[0][name] - sides[1][name], drawn[0][name] - drawn[1][name] if enough else np.empty(0), level
        )
        for name in COMPARED
    }
    verdict = _verdict(differences["mean_annual_return"], same=np.array_equal(tables[0], tables[1]), enough=enough)
    return Comparison(days, samples if enough else 0, level, block, sides[0], sides[1], differences, verdict)


def against_nothing(a: BacktestResult, *, samples: int = SAMPLES, level: float = LEVEL, seed: int = 7) -> Difference:
    """Return A's ``mean_annual_return`` with its interval: what sets it apart from an account that does not trade."""
    table = daily_table(a)
    value, drawn = worth(table)["mean_annual_return"], np.empty(0)
    if len(table) >= DAYS_MIN:
        (paths,) = resampled_worth([table], block=day_block(table), samples=samples, seed=seed)
        drawn = paths["mean_annual_return"]
    return _difference(value, drawn, level)


def _difference(value: float, drawn: Float64, level: float) -> Difference:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return Difference(value, math.nan, math.nan, math.nan)
    low, high = np.quantile(known, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return Difference(value, float(low), float(high), float(np.mean(known > 0)))


def _verdict(found: Difference, *, same: bool, enough: bool) -> Verdict:
    if same:
        return Verdict.SAME
    if not enough:
        return Verdict.TOO_SHORT
    if found.low > 0:
        return Verdict.A_AHEAD
    return Verdict.B_AHEAD if found.high < 0 else Verdict.NOT_SETTLED
