"""How much of a backtest is the luck of having tried often.

Sharpe ratios are those of one day, never annualised. All but the superiority test take days as independent: where
returns hang together in time, their probabilities are a little too sure.
"""

import math
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from fx_dagster.backtest.bootstrap import block_length
from fx_dagster.decision.rows import Float64

BLOCKS = 16
"""Stretches into which CSCV cuts a history: 12,870 ways to choose half of them."""

SAMPLES = 1_000
"""Resamples of the superiority test."""

_BATCH = 1_024
_FLAT = 1e-12
"""What varies by less than this share of its size varies by rounding alone."""
_WEEK_DAYS = 5.0


@dataclass(frozen=True)
class Moments:
    """What daily returns are like.

    Attributes:
        days: number of returns.
        sharpe: mean over standard deviation (``n − 1``), of one day.
        skewness: third standardised moment.
        kurtosis: fourth standardised moment; 3 for normal returns.
    """

    days: int
    sharpe: float
    skewness: float
    kurtosis: float

    @property
    def sharpe_variance(self) -> float:
        """Variance of the estimated Sharpe ratio (Mertens 2002, as in Bailey & López de Prado 2012)."""
        spread = 1.0 - self.skewness * self.sharpe + (self.kurtosis - 1.0) / 4.0 * self.sharpe**2
        # Never negative for moments of a sample; zero for one of two values at the most.
        return max(spread, _FLAT) / (self.days - 1)


def moments(returns: Float64) -> Moments | None:
    """Return the moments of ``returns`` ``[days]``; None without any variance."""
    from scipy.stats import kurtosis, skew

    if len(returns) < 2 or np.ptp(returns) <= _FLAT * np.abs(returns).max():
        return None
    return Moments(
        days=len(returns),
        sharpe=float(np.mean(returns) / np.std(returns, ddof=1)),
        skewness=float(skew(returns)),
        kurtosis=float(kurtosis(returns, fisher=False)),
    )


def probabilistic_sharpe(found: Moments, benchmark: float = 0.0) -> float:
    """Return the probability that the true Sharpe ratio exceeds ``benchmark``.

    Bailey & López de Prado (2012), The Sharpe ratio efficient frontier, Journal of Risk 15(2).

    Args:
        found: of the track record.
        benchmark: Sharpe ratio of one day.
    """
    from scipy.special import ndtr

    return float(ndtr((found.sharpe - benchmark) / math.sqrt(found.sharpe_variance)))


def expected_maximum_sharpe(trials: float, variance: float) -> float:
    """Return the largest Sharpe ratio that so many independent trials without any skill are expected to show.

    The false strategy theorem of Bailey & López de Prado (2014), The deflated Sharpe ratio, Journal of Portfolio
    Management 40(5). Its approximation falls below zero for fewer than two trials, where zero is the answer.

    Args:
        trials: number of independent trials, ≥ 1.
        variance: of the estimated Sharpe ratios over trials.
    """
    from scipy.special import ndtri

    if trials <= 1.0:
        return 0.0
    quantiles = ndtri(1.0 - 1.0 / trials), ndtri(1.0 - 1.0 / (trials * math.e))
    return math.sqrt(variance) * max(0.0, float((1.0 - np.euler_gamma) * quantiles[0] + np.euler_gamma * quantiles[1]))


def deflated_sharpe(found: Moments, *, trials: float, variance: float) -> float:
    """Return the probability that the true Sharpe ratio exceeds what the luck of so many trials brings.

    Bailey & López de Prado (2014), as above.

    Args:
        found: of the chosen track record.
        trials: number of independent trials, ≥ 1.
        variance: of the estimated Sharpe ratios over trials.
    """
    return probabilistic_sharpe(found, expected_maximum_sharpe(trials, variance))


def effective_trials(returns: Float64) -> float:
    """Return to how many independent trials ``returns`` ``[days, n]`` amount: from 1, all alike, to n.

    Galwey (2009), A new measure of the effective number of tests, Genetic Epidemiology 33: (Σ √λ)² / Σ λ over the
    eigenvalues of their correlation matrix. It has nothing to tune and no random start, as clustering has. Trials that
    never traded add nothing.
    """
    centred = returns - returns.mean(axis=0)
    deviation = centred.std(axis=0)
    varied = deviation > _FLAT * np.abs(returns).max(axis=0, initial=0.0)
    if not varied.any():
        return float(min(returns.shape[1], 1))
    # The squared singular values of the standardised columns are the eigenvalues, times the number of days.
    roots = np.linalg.svd(centred[:, varied] / deviation[varied], compute_uv=False)
    return float(roots.sum() ** 2 / (roots**2).sum())


def overfitting_probability(returns: Float64, *, blocks: int = BLOCKS) -> float:
    """Return how often the best trial of one half of the days is among the worse half of the trials on the other.

    Combinatorially symmetric cross-validation: Bailey, Borwein, López de Prado & Zhu (2017), The probability of
    backtest overfitting, Journal of Computational Finance 20(4), with the Sharpe ratio to judge by. Exactly at the
    median counts half, so that noise comes to 0.5 for odd numbers of trials too. Columns that are equal are one trial.

    Args:
        returns: ``[days, n]``; the days that do not fill a block, at the end, are left out.
        blocks: even number of stretches.
    """
    distinct = np.unique(returns, axis=1)
    rows = len(distinct) // blocks
    parts = distinct[: rows * blocks].reshape(blocks, rows, -1)
    sums, squares = parts.sum(axis=1), (parts**2).sum(axis=1)
    middle, days = (distinct.shape[1] + 1) / 2.0, rows * blocks // 2
    chosen = np.array(list(combinations(range(blocks), blocks // 2)))
    below = 0.0
    for start in range(0, len(chosen), _BATCH):
        batch = chosen[start : start + _BATCH]
        inside = np.zeros((len(batch), blocks))
        np.put_along_axis(inside, batch, 1.0, axis=1)
        best = _sharpes(inside @ sums, inside @ squares, days).argmax(axis=1)[:, None]
        outside = _sharpes((1.0 - inside) @ sums, (1.0 - inside) @ squares, days)
        its = np.take_along_axis(outside, best, axis=1)
        rank = (outside < its).sum(axis=1) + ((outside == its).sum(axis=1) + 1) / 2.0
        below += (rank < middle).sum() + (rank == middle).sum() / 2.0
    return float(below / len(chosen))


def _sharpes(total: Float64, squares: Float64, days: int) -> Float64:
    """Return mean over deviation; 0 where nothing varies."""
    mean, square = total / days, squares / days
    variance = square - mean**2
    varied = variance > _FLAT * square
    return np.divide(mean, np.sqrt(np.where(varied, variance, 1.0)), out=np.zeros_like(mean), where=varied)


def superiority_p_value(gains: Float64, *, samples: int = SAMPLES, seed: int = 7) -> float | None:
    """Return the probability that the best of n strategies gains that much by luck; None where no one gains or loses.

    Hansen (2005), A test for superior predictive ability, Journal of Business & Economic Statistics 23(4), the
    consistent p-value, by ``arch``. It compares plain means, so each column is put on one scale first.

    Args:
        gains: ``[days, n]`` daily returns less those of the control on the same days.
        samples: resamples of blocks of days.
        seed: of the resampling.
    """
    from arch.bootstrap import SPA

    deviation = gains.std(axis=0)
    varied = deviation > _FLAT * np.abs(gains).max(axis=0, initial=0.0)
    # Columns that never differ from the control would make an impossible zero of the p-value.
    if not varied.any():
        return None
    scaled = gains[:, varied] / deviation[varied]
    block = round(block_length(scaled, least=_WEEK_DAYS))
    test = SPA(np.zeros(len(gains)), -scaled, block_size=block, reps=samples, seed=seed)
    test.compute()
    return float(test.pvalues["consistent"])
