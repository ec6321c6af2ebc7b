"""The sequential test: its error over all looks together, and the pairing of days."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fx_dagster.backtest.sequential import (
    BOUND,
    SessionCurve,
    Verdict,
    log_money,
    paired_days,
    sequential_test,
)
from fx_dagster.decision.inputs import trading_day
from fx_dagster.errors import DataError
from fx_dagster.market.timeframes import HOUR_NS

ALPHA = 0.05
DAYS = 750
RUNS = 400
BARS = 24


def ever_won(days: np.ndarray, *, sign: float = 1.0) -> np.ndarray:
    """Return for each run ``[runs, days]`` whether a look at any day would have ended with this verdict."""
    x = sign * np.clip(days, -BOUND, BOUND) / BOUND
    return np.array([log_money(run).max() >= np.log(2.0 / ALPHA) for run in x])


def tolerance(runs: int) -> float:
    """Return three standard errors of a share whose expectation is ALPHA."""
    return 3.0 * float(np.sqrt(ALPHA * (1.0 - ALPHA) / runs))


def heavy(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> np.ndarray:
    """Return Student's t with three degrees of freedom: days beyond the bound are common."""
    return rng.standard_t(3, shape) / np.sqrt(3.0) * scale


@pytest.mark.parametrize("scale", [0.002, 0.006, 0.02])
def test_looking_every_day_keeps_the_error_without_a_difference(scale: float) -> None:
    days = heavy(np.random.default_rng(1), (RUNS, DAYS), scale)
    wrong = ever_won(days) | ever_won(days, sign=-1.0)
    assert wrong.mean() <= ALPHA + tolerance(RUNS)


def test_bars_that_hang_together_are_inside_a_day() -> None:
    rng = np.random.default_rng(2)
    noise = heavy(rng, (RUNS, DAYS, BARS), 0.0012)
    volatility = np.exp(0.5 * rng.standard_normal((RUNS, DAYS, 1)))
    bars = np.empty_like(noise)
    last = np.zeros((RUNS, DAYS))
    for bar in range(BARS):
        last = 0.6 * last + noise[:, :, bar]
        bars[:, :, bar] = last * volatility[:, :, 0]
    # Bar by bar the same bets are fooled: every look would count what hangs together as new.
    as_bars = bars.reshape(RUNS, -1)[:, : 40 * BARS] * (BOUND / 0.01)
    assert ever_won(as_bars).mean() > ALPHA
    days = bars.sum(axis=2)
    assert ever_won(days).mean() <= ALPHA / 2 + tolerance(RUNS)


def test_a_real_difference_is_found_in_its_direction() -> None:
    days = heavy(np.random.default_rng(3), (60, DAYS), 0.005) + 0.0012
    assert ever_won(days).mean() > 0.9
    assert ever_won(days, sign=-1.0).mean() <= ALPHA
    better = sequential_test(days[0], trades=900, trades_min=50, alpha=ALPHA)
    worse = sequential_test(-days[0], trades=900, trades_min=50, alpha=ALPHA)
    assert (better.verdict, worse.verdict) == (Verdict.BETTER, Verdict.WORSE)
    assert 0 < better.low < better.high
    assert worse.high == pytest.approx(-better.low)
    assert better.truncated == np.count_nonzero(np.abs(days[0]) > BOUND)


def test_too_few_trades_say_nothing() -> None:
    days = np.full(400, 0.004)
    early = sequential_test(days, trades=49, trades_min=50)
    assert early.verdict is Verdict.UNDECIDED
    assert "49 closed trades in 400 days, 50 are needed" in str(early)
    assert sequential_test(days, trades=50, trades_min=50).verdict is Verdict.BETTER


def test_one_rare_loss_that_outweighs_all_gains_stands_against_the_verdict() -> None:
    days = np.full(400, 0.002)
    days[200] = -0.9
    found = sequential_test(days, trades=400, trades_min=50)
    assert found.money_better > 2.0 / found.alpha
    assert found.mean < 0
    assert found.verdict is Verdict.UNDECIDED


def test_nothing_is_known_before_the_first_day() -> None:
    found = sequential_test(np.empty(0), trades=0, trades_min=50)
    assert found.verdict is Verdict.UNDECIDED
    assert (found.low, found.high) == (-BOUND, BOUND)
    assert "no common trading day yet" in str(found)


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        sequential_test(np.array([0.0, np.nan]), trades=99, trades_min=1)


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1, 1)))
def test_the_money_is_a_fair_average_and_never_runs_out(x: np.ndarray) -> None:
    money = log_money(x)
    assert np.isfinite(money).all()
    # Betting on both of two mirrored days, the gamblers together win nothing: what makes it a supermartingale.
    for day in (0, len(x) - 1):
        mirrored = x.copy()
        mirrored[day] = -x[day]
        before = np.exp(log_money(np.delete(x, day))[-1]) if len(x) > 1 else 1.0
        both = np.exp(log_money(x)[-1]) + np.exp(log_money(mirrored)[-1])
        assert both == pytest.approx(2.0 * before, rel=1e-9)


@given(arrays.arrays(np.float64, st.integers(1, 60), elements=st.floats(-0.05, 0.05)))
def test_the_interval_and_the_verdict_say_the_same(days: np.ndarray) -> None:
    found = sequential_test(days, trades=99, trades_min=1)
    mean = float(np.clip(days, -BOUND, BOUND).mean())
    assert found.low <= mean + 1e-9
    assert found.high >= mean - 1e-9
    if found.verdict is Verdict.BETTER:
        assert found.low > -1e-9
    if found.low > 1e-9:
        assert found.money_better >= 2.0 / found.alpha


def curve(
    *, first: int = 0, hours: int = 24 * 12, growth: float = 1e-4, tape: str = "tape", release: int = 1
) -> SessionCurve:
    # 2017-12-04 was a Monday; the server's day begins at 22:00 UTC of the day before.
    start = np.datetime64("2017-12-03T22:00", "ns").astype(np.int64)
    time = start + HOUR_NS * np.arange(first + 1, first + hours + 1, dtype=np.int64)
    equity = 10_000.0 * (1.0 + growth) ** np.arange(hours)
    releases = {int(day): frozenset({release}) for day in np.unique(trading_day(time - 1))}
    return SessionCurve(tape, time, equity, closed=time[5::12], releases=releases)


def test_whole_days_of_both_are_paired() -> None:
    found = paired_days([curve(growth=1e-4)], [curve(growth=2e-4, first=30)])
    assert len(found.day) == 9
    assert np.array_equal(found.day, np.arange(found.day[0], found.day[0] + 9))
    np.testing.assert_allclose(found.champion, 1.0001**24 - 1.0)
    np.testing.assert_allclose(found.differences, 1.0002**24 - 1.0001**24)
    assert (found.champion_trades, found.challenger_trades) == (18, 18)


def test_sessions_on_other_tapes_or_without_states_are_not_paired() -> None:
    empty = SessionCurve("tape", np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=np.int64))
    for other in (curve(tape="another"), empty):
        found = paired_days([curve()], [other])
        assert (len(found.day), found.champion_trades) == (0, 0)
        assert found.differences.shape == (0,)


def test_a_day_that_is_traded_again_keeps_its_first_outcome() -> None:
    lucky = curve(growth=9e-4)
    assert np.array_equal(
        paired_days([curve()], [curve(growth=2e-4), lucky]).challenger,
        paired_days([curve()], [curve(growth=2e-4)]).challenger,
    )


def test_days_on_which_another_release_was_asked_are_left_out() -> None:
    session = curve()
    days = sorted(session.releases)
    mixed = {days[2]: frozenset({1, 2}), days[3]: frozenset({2}), days[5]: frozenset({1})}
    partly = replace(session, releases={days[0]: frozenset({1}), **mixed})
    found = paired_days([partly], [curve(release=7)], champion_release=1, challenger_release=7)
    # Day 4 is without an answer, and the last one before it was another release's; days 6 on keep release 1.
    assert found.day.tolist() == [days[1], *days[5:-1]]
    assert len(paired_days([partly], [curve(release=7)], challenger_release=8).day) == 0


def test_an_account_that_stands_still_for_a_day_has_returned_nothing() -> None:
    full = curve()
    day = trading_day(full.time - 1)
    gap = day != np.unique(day)[4]
    silent = replace(full, time=full.time[gap], equity=full.equity[gap], closed=full.closed[:0])
    found = paired_days([full], [silent])
    assert found.challenger[3] == 0.0
    assert found.challenger[4] == pytest.approx(1.0001**48 - 1.0)
    assert found.challenger_trades == 0
