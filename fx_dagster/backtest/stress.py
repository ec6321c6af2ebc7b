"""How bad it can get: other orders of the same luck, by block bootstrap of a backtest's days and of its trades.

Days keep what really happened to the account, positions that overlap included. Trades are taken one after the other,
each with the same share of equity at risk: their paths tell of the strategy, the days' of the account. Neither knows of
losses that the history does not hold; the made shocks of :mod:`fx_dagster.backtest.shocks` do.
"""

import math
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from fx_dagster.backtest.bootstrap import DAYS_MIN, block_length, daily_table, day_block, resampled_worth, worth
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.decision.rows import Float64

SAMPLES = 2_000


@dataclass(frozen=True)
class Quantiles:
    """What happened, and quantiles of what the resamples show."""

    observed: float
    p05: float
    p50: float
    p95: float


@dataclass(frozen=True)
class MonteCarlo:
    """Distribution of the paths that a backtest might have taken.

    Attributes:
        unit: ``day`` or ``trade``: what was resampled.
        rows: days or trades.
        block: mean length of a block, in these.
        samples: number of paths.
        terminal: final over initial wealth.
        max_drawdown: fraction of the peak, at the ends of days or trades.
        under_water: longest run below an earlier peak, in days or trades.
        ruin_at: drawdown that counts as ruin: the halt.
        ruin: share of paths that reach it.
        ruin_low: lower end of its 95 % interval (Wilson), which tells of the number of paths alone.
        ruin_high: upper end.
        drawdowns: float64 ``[samples]``, the maximum drawdown of each path.
    """

    unit: str
    rows: int
    block: float
    samples: int
    terminal: Quantiles
    max_drawdown: Quantiles
    under_water: Quantiles
    ruin_at: float
    ruin: float
    ruin_low: float
    ruin_high: float
    drawdowns: Float64


def monte_carlo_days(
    result: BacktestResult, *, ruin_at: float, samples: int = SAMPLES, seed: int = 7
) -> MonteCarlo | None:
    """Resample the account's daily returns; None with fewer than ``DAYS_MIN`` days.

    Args:
        result: of a replay.
        ruin_at: drawdown that counts as ruin, a fraction in (0, 1]; ``RiskSettings.drawdown_halt``.
        samples: number of paths.
        seed: of the resampling.
    """
    table = daily_table(result)
    return _monte_carlo("day", table, day_block(table), ruin_at, samples, seed) if len(table) >= DAYS_MIN else None


def monte_carlo_trades(
    result: BacktestResult, *, ruin_at: float, risk_share: float | None = None, samples: int = SAMPLES, seed: int = 7
) -> MonteCarlo | None:
    """Resample the sequence of closed trades; None with fewer than ``DAYS_MIN`` of known risk.

    Args:
        result: of a replay.
        ruin_at: as in :func:`monte_carlo_days`.
        risk_share: share of equity that each trade risks; None: the median of what the account's trades risked.
        samples: number of paths.
        seed: of the resampling.
    """
    multiples, shares = r_multiples(result)
    if len(multiples) < DAYS_MIN:
        return None
    risk = float(np.median(shares)) if risk_share is None else risk_share
    # Nobody loses more than the account: a loss of many R ends the path at zero.
    returns = np.maximum(multiples * risk, -1.0)
    table = np.column_stack([returns, np.ones(len(returns)), returns > 0])
    return _monte_carlo("trade", table, block_length(returns), ruin_at, samples, seed)


def r_multiples(result: BacktestResult) -> tuple[Float64, Float64]:
    """Return profit over money at risk of each closed trade, and that money over equity before the entry; ``[n]`` each.

    Trades of unknown risk are left out; the order is that of their closing.
    """
    trades = result.trades[result.trades["risk_money"] > 0]
    before = np.searchsorted(result.equity["time"].to_numpy(), trades["entry_time"].to_numpy(), side="right")
    equity = np.concatenate([[result.initial_balance], result.equity["equity"].to_numpy(np.float64)])[before]
    risk = trades["risk_money"].to_numpy(np.float64)
    return trades["profit"].to_numpy(np.float64) / risk, risk / equity


def study_table(*studies: MonteCarlo | None) -> pd.DataFrame:
    """Return one row a measure and one column a study, by its unit; None is left out."""
    columns = {}
    for study in studies:
        if study is not None:
            plain = {name: getattr(study, name) for name in ("rows", "block", "samples")}
            for name in ("terminal", "max_drawdown", "under_water"):
                plain |= {f"{name}_{part}": value for part, value in asdict(getattr(study, name)).items()}
            plain |= {name: getattr(study, name) for name in ("ruin_at", "ruin", "ruin_low", "ruin_high")}
            columns[study.unit] = pd.Series(plain, dtype=np.float64)
    return pd.DataFrame(columns).rename_axis("measure").reset_index()


def _monte_carlo(unit: str, table: Float64, block: float, ruin_at: float, samples: int, seed: int) -> MonteCarlo:
    from scipy.stats import binomtest

    (drawn,) = resampled_worth([table], block=block, samples=samples, seed=seed)
    seen = worth(table)
    ruined = int((drawn["max_drawdown"] >= ruin_at).sum())
    bounds = binomtest(ruined, samples).proportion_ci(0.95, method="wilson")
    return MonteCarlo(
        unit=unit,
        rows=len(table),
        block=block,
        samples=samples,
        terminal=_quantiles(1.0 + seen["net_return"], 1.0 + drawn["net_return"]),
        max_drawdown=_quantiles(seen["max_drawdown"], drawn["max_drawdown"]),
        under_water=_quantiles(seen["under_water"], drawn["under_water"]),
        ruin_at=ruin_at,
        ruin=ruined / samples,
        ruin_low=float(bounds.low),
        ruin_high=float(bounds.high),
        drawdowns=drawn["max_drawdown"],
    )


def _quantiles(observed: float, drawn: Float64) -> Quantiles:
    low, middle, high = (float(value) for value in np.quantile(drawn, (0.05, 0.5, 0.95)))
    return Quantiles(float(observed) if math.isfinite(observed) else math.nan, low, middle, high)
