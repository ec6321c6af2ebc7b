"""Deflated Sharpe ratio, effective trials, CSCV and the superiority test, against papers and planted truths."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.backtest.overfitting import (
    Moments,
    deflated_sharpe,
    effective_trials,
    expected_maximum_sharpe,
    moments,
    overfitting_probability,
    probabilistic_sharpe,
    superiority_p_value,
)


def noise(days: int, trials: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.0, 0.01, (days, trials))


track_records = st.builds(
    lambda days, sharpe, skewness, tail: Moments(days, sharpe, skewness, 1.0 + skewness**2 + tail),
    st.integers(30, 5_000),
    st.floats(-0.3, 0.3),
    st.floats(-3.0, 3.0),
    st.floats(0.5, 10.0),
)
"""A kurtosis is 1 + skewness² at least (Pearson 1916)."""


def test_the_probabilistic_sharpe_ratio_is_that_of_the_paper():
    """Bailey & López de Prado (2012): 24 months at a monthly 0.458, with the skewness and kurtosis seen, or normal."""
    assert probabilistic_sharpe(Moments(24, 0.458, -2.448, 10.164)) == pytest.approx(0.913, abs=5e-4)
    assert probabilistic_sharpe(Moments(24, 0.458, 0.0, 3.0)) == pytest.approx(0.982, abs=5e-4)


@pytest.mark.parametrize(
    ("trials", "skewness", "kurtosis", "expected"),
    [(100, -3.0, 10.0, 0.9004), (46, -3.0, 10.0, 0.9505), (88, 0.0, 3.0, 0.9505)],
)
def test_the_deflated_sharpe_ratio_is_that_of_the_paper(trials, skewness, kurtosis, expected):
    """Bailey & López de Prado (2014): annual 2.5 in 1,250 days of 250 a year, annual variance over trials 0.5."""
    found = Moments(1_250, 2.5 / math.sqrt(250), skewness, kurtosis)
    assert deflated_sharpe(found, trials=trials, variance=0.5 / 250) == pytest.approx(expected, abs=5e-5)
    assert expected_maximum_sharpe(100, 0.5 / 250) == pytest.approx(0.1132, abs=5e-5)


@pytest.mark.parametrize("trials", [5, 30, 200])
def test_luck_is_what_many_trials_without_skill_show(trials):
    best = np.random.default_rng(3).normal(0.0, 0.05, (20_000, trials)).max(axis=1).mean()
    assert expected_maximum_sharpe(trials, 0.05**2) == pytest.approx(best, rel=0.05)


def test_the_best_of_noise_is_not_significant_where_it_would_pass_for_skill_alone():
    found = [moments(column) for column in noise(500, 200, seed=5).T]
    best = max(found, key=lambda one: one.sharpe)
    assert probabilistic_sharpe(best) > 0.95
    variance = float(np.var([one.sharpe for one in found], ddof=1))
    assert deflated_sharpe(best, trials=200, variance=variance) < 0.95


@given(track_records, st.floats(1.0, 1e6), st.floats(1.0, 100.0), st.floats(1e-6, 0.1))
def test_more_trials_or_more_varied_ones_never_raise_the_deflated_ratio(found, trials, more, variance):
    base = deflated_sharpe(found, trials=trials, variance=variance)
    assert 0.0 <= base <= probabilistic_sharpe(found) <= 1.0
    assert deflated_sharpe(found, trials=trials * more, variance=variance) <= base
    assert deflated_sharpe(found, trials=trials, variance=variance * more) <= base


@given(track_records, st.floats(1e-6, 0.1))
def test_one_trial_is_not_deflated(found, variance):
    assert deflated_sharpe(found, trials=1.0, variance=variance) == probabilistic_sharpe(found)


def test_the_variance_is_that_of_estimated_ratios():
    returns = np.random.default_rng(2).gamma(2.0, 0.01, (4_000, 250)) - 0.019
    seen = np.var(returns.mean(axis=1) / returns.std(axis=1, ddof=1))
    assert moments(returns.ravel()[:200_000]).sharpe_variance * 199_999 / 249 == pytest.approx(seen, rel=0.1)


def test_moments_are_those_of_the_definition():
    returns = np.random.default_rng(1).gamma(2.0, 0.01, 400) - 0.015
    found = moments(returns)
    z = (returns - returns.mean()) / returns.std()
    assert found == Moments(
        400,
        pytest.approx(returns.mean() / returns.std(ddof=1)),
        pytest.approx((z**3).mean()),
        pytest.approx((z**4).mean()),
    )


@pytest.mark.parametrize("returns", [np.empty(0), np.zeros(50), np.full(50, 0.1), np.array([0.01])])
def test_what_does_not_vary_has_no_moments(returns):
    assert moments(returns) is None


def test_effective_trials_of_known_groups():
    independent, days = noise(5_000, 12, seed=1), 5_000
    assert effective_trials(independent) == pytest.approx(12, rel=0.01)
    assert effective_trials(independent[:, [0] * 30]) == pytest.approx(1.0)
    assert effective_trials(independent[:, [0] * 10 + [1] * 10]) == pytest.approx(2.0, rel=1e-3)
    related = independent[:, :1] + 0.5 * independent[:, 1:]
    assert 1.0 < effective_trials(related) < 11.0
    assert effective_trials(np.zeros((days, 3))) == 1.0
    assert effective_trials(np.column_stack([independent, np.zeros(days)])) == pytest.approx(12, rel=0.01)


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(0, 10_000), st.floats(0.0, 3.0))
def test_effective_trials_lie_between_one_and_all_and_know_no_scale(trials, seed, common):
    returns = noise(60, trials, seed) + common * noise(60, 1, seed + 1)
    found = effective_trials(returns)
    assert 1.0 - 1e-9 <= found <= trials + 1e-9
    scale = np.random.default_rng(seed).uniform(0.1, 5.0, trials)
    assert effective_trials((returns * scale)[:, ::-1]) == pytest.approx(found)


def test_noise_overfits_half_of_the_time():
    for trials in (6, 7, 30):
        found = [overfitting_probability(noise(160, trials, seed)) for seed in range(40)]
        assert np.mean(found) == pytest.approx(0.5, abs=0.08)


def test_one_truly_better_strategy_does_not_overfit():
    returns = noise(320, 20, seed=3)
    returns[:, 4] += 0.006
    assert overfitting_probability(returns) < 0.01


def test_strategies_that_give_back_what_they_won_overfit_always():
    """Each has won in one stretch of time and lost as much, evenly, in all others."""
    returns = 1e-3 * noise(160, 8, seed=4) - 0.001
    for trial in range(8):
        returns[20 * trial : 20 * trial + 20, trial] += 0.008
    assert overfitting_probability(returns, blocks=8) > 0.9


def by_definition(returns: np.ndarray, blocks: int) -> float:
    """CSCV written down as the paper describes it, one split after the other."""
    parts, below = np.split(returns, blocks), []
    for chosen in itertools.combinations(range(blocks), blocks // 2):
        inside = np.concatenate([parts[k] for k in chosen])
        outside = np.concatenate([parts[k] for k in range(blocks) if k not in chosen])
        best = np.argmax(inside.mean(axis=0) / inside.std(axis=0))
        ratios = outside.mean(axis=0) / outside.std(axis=0)
        rank = 1 + np.sum(ratios < ratios[best])
        logit = math.log((rank / (returns.shape[1] + 1)) / (1 - rank / (returns.shape[1] + 1)))
        below.append(0.5 if abs(logit) < 1e-12 else float(logit < 0))
    return float(np.mean(below))


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.integers(0, 10_000), st.sampled_from([4, 6, 8]))
def test_it_is_the_procedure_of_the_paper(trials, seed, blocks):
    returns = noise(10 * blocks, trials, seed)
    assert overfitting_probability(returns, blocks=blocks) == pytest.approx(by_definition(returns, blocks))


def test_equal_columns_are_one_trial_and_days_over_are_left_out():
    returns = noise(160, 7, seed=9)
    found = overfitting_probability(returns)
    assert overfitting_probability(returns[:, [0, 0, 3, 1, 2, 3, 4, 5, 6]]) == pytest.approx(found)
    assert overfitting_probability(np.vstack([returns, noise(15, 7, seed=1)])) == pytest.approx(found)
    assert overfitting_probability(np.repeat(returns[:, :1], 6, axis=1)) == 0.5


def test_a_strategy_that_never_trades_has_a_ratio_of_zero():
    losing = noise(160, 4, seed=2) - 0.01
    assert overfitting_probability(np.column_stack([losing, np.zeros(160)])) == 0.0


def test_planted_skill_is_found_among_many():
    gains = noise(400, 40, seed=6)
    gains[:, 17] += 0.0025
    assert superiority_p_value(gains, samples=400) < 0.01
    assert superiority_p_value(gains, samples=400) == superiority_p_value(gains, samples=400)


def test_nothing_is_found_in_noise_or_in_losses():
    found = [superiority_p_value(noise(250, 25, seed), samples=200) for seed in range(20)]
    assert sum(one < 0.05 for one in found) <= 3
    assert np.mean(found) == pytest.approx(0.5, abs=0.2)
    assert superiority_p_value(noise(250, 25, seed=1) - 0.002, samples=200) > 0.2


def test_a_wild_loser_does_not_hide_a_calm_winner():
    gains = noise(400, 2, seed=8)
    gains[:, 0] += 0.0025
    gains[:, 1] *= 100.0
    assert superiority_p_value(gains, samples=400) < 0.01


def test_strategies_that_are_their_control_tell_nothing():
    assert superiority_p_value(np.zeros((200, 3))) is None
    skilled = noise(400, 1, seed=8) + 0.0025
    assert superiority_p_value(np.column_stack([skilled, np.zeros((400, 2))]), samples=400) < 0.01
