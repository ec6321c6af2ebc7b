"""Is a challenger ahead of the champion? A test that may be looked at every day, and stopped at any time.

Two accounts live through the same market. What is tested is the mean of the daily differences of their returns,
challenger less champion. A day is the block: whatever hangs together between the bars of a day is inside one number.

The test bets (Waudby-Smith & Ramdas 2024, "Estimating means of bounded random variables by betting"). A difference
``d`` is counted as at most ``bound``, ``x = clip(d, ±bound) / bound``; a gambler who stakes the share ``c`` of his
money each day on ``x > 0`` has after n days ``Π (1 + c x_i)``. If the mean of ``x``, given all earlier days, is not
above zero, then that is a supermartingale, for each share and for the average over many, and by Ville's inequality it
ever reaches ``1 / α`` with probability α at most, at whatever day one stops and however often one looks. Nothing is
tuned to the data: the shares are a fixed grid. The other gambler stakes on ``x < 0``. Each has half of α, so that a
wrong verdict of either kind has probability α at most.

The bound is explicit because without one no test of a mean holds at any level: one rare day could outweigh all the
others. Days beyond it are counted and shown, and no verdict stands against the sign of the plain mean.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from fx_dagster.decision.inputs import trading_day
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.errors import DataError

BOUND = 0.02
"""Difference of two accounts' returns in a day beyond which it counts as this much: about four standard deviations of
an account that is sized for 10 % volatility a year."""

SHARES = np.geomspace(0.02, 0.95, 16)
"""Shares of the money that are staked; the best one is about mean over variance of ``x``, which is not known before."""

_BISECTIONS = 40
_LOG_MAX = 700.0


class Verdict(StrEnum):
    """What may be said of a challenger."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class SequentialTest:
    """What the paired days say so far.

    Attributes:
        verdict: at the level ``alpha`` over all looks together.
        days: paired trading days.
        trades: closed trades of the challenger in them.
        trades_min: fewer than these say nothing.
        alpha: chance of a wrong verdict.
        mean: of the daily differences, not truncated; NaN without a day.
        low: lower bound of the truncated mean that holds at all looks with probability ``1 - alpha``.
        high: upper bound, likewise.
        money_better: money of the gambler on the challenger, who began with 1; ``2 / alpha`` decides.
        money_worse: money of the other one.
        truncated: days whose difference was beyond the bound.
    """

    verdict: Verdict
    days: int
    trades: int
    trades_min: int
    alpha: float
    mean: float
    low: float
    high: float
    money_better: float
    money_worse: float
    truncated: int

    def __str__(self) -> str:
        if not self.days:
            return f"{self.verdict}: no common trading day yet"
        if self.trades < self.trades_min:
            return f"{self.verdict}: {self.trades} closed trades in {self.days} days, {self.trades_min} are needed"
        return (
            f"{self.verdict}: {self.mean:+.4%} a day, {self.low:+.4%} to {self.high:+.4%} at all looks, "
            f"{self.days} days, {self.trades} trades"
        )


def sequential_test(
    differences: Float64, *, trades: int, trades_min: int, alpha: float = 0.05, bound: float = BOUND
) -> SequentialTest:
    """Judge a challenger by the days so far; may be called after every day.

    Args:
        differences: challenger's less champion's return of each common trading day, fractions, float64 ``[n]``.
        trades: closed trades of the challenger in these days.
        trades_min: fewest that are judged.
        alpha: chance of a wrong verdict over all looks together, of which each direction has half.
        bound: difference of a day beyond which it counts as this much, > 0.

    Raises:
        DataError: a difference is not finite.
    """
    days = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(days).all():
        raise DataError("a day's difference of returns is not finite", mend="look at both accounts' equity")
    x = np.clip(days, -bound, bound) / bound
    better, worse = (float(log_money(sign * x)[-1]) if len(x) else 0.0 for sign in (1.0, -1.0))
    needed = math.log(2.0 / alpha)
    mean = float(days.mean()) if len(days) else math.nan
    verdict = Verdict.UNDECIDED
    if trades >= trades_min and better >= needed and mean > 0:
        verdict = Verdict.BETTER
    elif trades >= trades_min and worse >= needed and mean < 0:
        verdict = Verdict.WORSE
    return SequentialTest(
        verdict=verdict,
        days=len(days),
        trades=trades,
        trades_min=trades_min,
        alpha=alpha,
        mean=mean,
        low=_lower_bound(x, needed) * bound,
        high=-_lower_bound(-x, needed) * bound,
        money_better=math.exp(min(better, _LOG_MAX)),
        money_worse=math.exp(min(worse, _LOG_MAX)),
        truncated=int(np.count_nonzero(np.abs(days) > bound)),
    )


def log_money(x: Float64, mean: float = 0.0) -> Float64:
    """Return the logarithm of the gambler's money after each day, float64 ``[n]``, averaged over :data:`SHARES`.

    Args:
        x: differences over the bound, each in [-1, 1], float64 ``[n]``.
        mean: he stakes on more than this, in (-1, 1]; stakes are scaled so that no day can ruin him.
    """
    stakes = SHARES[:, None] / (1.0 + mean)
    money = np.cumsum(np.log1p(stakes * (np.asarray(x, dtype=np.float64)[None, :] - mean)), axis=1)
    return np.asarray(np.logaddexp.reduce(money, axis=0) - math.log(len(SHARES)))


def _lower_bound(x: Float64, needed: float) -> float:
    """Return the smallest mean on which a gambler against less would not yet have won; -1 without a day."""
    low, high = -1.0, 1.0
    if not len(x):
        return low
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2.0
        if log_money(x, middle)[-1] >= needed:
            low = middle
        else:
            high = middle
    return low


@dataclass(frozen=True)
class SessionCurve:
    """One session of an account.

    Attributes:
        tape: what identifies the market that it lived through.
        time: market time of each state, int64 ns UTC ``[n]``, ascending.
        equity: at these times, float64 ``[n]``.
        closed: market time of each trade that was closed, int64 ns UTC.
        releases: trading day → the releases that answered in it.
    """

    tape: str
    time: Int64
    equity: Float64
    closed: Int64
    releases: Mapping[int, frozenset[int]] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedRecord:
    """Two accounts on the same trading days.

    Attributes:
        day: numbers of the trading days (they turn at 17:00 New York), int64 ``[n]``, ascending.
        champion: its return of each day, a fraction, float64 ``[n]``.
        challenger: the other's.
        champion_trades: closed in these days.
        challenger_trades: closed in these days.
    """

    day: Int64
    champion: Float64
    challenger: Float64
    champion_trades: int
    challenger_trades: int

    @property
    def differences(self) -> Float64:
        """Challenger's less champion's return of each day, float64 ``[n]``."""
        return self.challenger - self.champion


def paired_days(
    champion: Sequence[SessionCurve],
    challenger: Sequence[SessionCurve],
    *,
    champion_release: int | None = None,
    challenger_release: int | None = None,
) -> PairedRecord:
    """Pair the whole trading days that both accounts lived through on the same tape.

    Of a day that was traded more than once the first sessions count: nobody runs it again until it pleases. The first
    and the last day of a session are left out, they may be parts of days.

    Args:
        champion: sessions of its account, oldest first.
        challenger: sessions of the other account, oldest first.
        champion_release: days on which its account asked another are left out; None: none is.
        challenger_release: likewise.
    """
    found: dict[int, tuple[float, float, int, int]] = {}
    for first in champion:
        for second in challenger:
            if first.tape != second.tape or not len(first.time) or not len(second.time):
                continue
            days = [day for day in _common_days(first, second) if day not in found]
            days = _asked(_asked(days, first, champion_release), second, challenger_release)
            sides = (_returns(first, days), _returns(second, days), _closed(first, days), _closed(second, days))
            found |= dict(zip(days, zip(*(side.tolist() for side in sides), strict=True), strict=True))
    day = sorted(found)
    table = np.array([found[one] for one in day], dtype=np.float64).reshape(len(day), 4)
    trades = table[:, 2:].sum(axis=0)
    return PairedRecord(np.array(day, dtype=np.int64), table[:, 0], table[:, 1], int(trades[0]), int(trades[1]))


def _days(time: Int64) -> Int64:
    # A bar that ends at 17:00 New York belongs to the day that it ends.
    return trading_day(np.asarray(time, dtype=np.int64) - 1)


def _common_days(first: SessionCurve, second: SessionCurve) -> list[int]:
    a, b = _days(first.time), _days(second.time)
    days = np.union1d(a, b)
    inside = (days > max(a[0], b[0])) & (days < min(a[-1], b[-1]))
    return [int(day) for day in days[inside]]


def _asked(days: list[int], session: SessionCurve, release: int | None) -> list[int]:
    """Return the days on which the session asked no release but this one; without any answer, the last one it had."""
    if release is None:
        return days
    known = sorted(session.releases)
    kept = []
    for day in days:
        place = int(np.searchsorted(known, day, side="right"))
        if place and session.releases[known[place - 1]] == {release}:
            kept.append(day)
    return kept


def _returns(session: SessionCurve, days: list[int]) -> Float64:
    at = _days(session.time)
    before = session.equity[np.searchsorted(at, days, side="left") - 1]
    after = session.equity[np.searchsorted(at, days, side="right") - 1]
    # An account that has lost everything stays where it is.
    return np.divide(after - before, before, out=np.zeros(len(days)), where=before > 0)


def _closed(session: SessionCurve, days: list[int]) -> Int64:
    at = np.sort(_days(session.closed))
    return np.asarray(np.searchsorted(at, days, side="right") - np.searchsorted(at, days, side="left"))
