"""Distances of distributions, and what is usual for them in a market that has not changed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import ks_2samp

from fx_dagster.errors import DataError
from fx_dagster.features.drift import (
    WINDOW_BARS,
    WINDOWS_MAX,
    Bins,
    Neighbourhood,
    kolmogorov_smirnov,
    population_stability,
    quantile_edges,
    usual,
    windows,
)

counts = hnp.arrays(np.int64, st.integers(2, 12), elements=st.integers(0, 10_000))
samples = hnp.arrays(
    np.float32, st.integers(20, 200), elements=st.floats(-50, 50, width=32, allow_nan=False)
)  # fmt: skip


def slow(rows: int, columns: int, seed: int, memory: float = 0.99) -> np.ndarray:
    """Return features that hang together in time, as a market's do, with a deviation of 1."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((rows, columns)) * np.sqrt(1 - memory**2)
    out = np.empty((rows, columns), np.float32)
    row = rng.standard_normal(columns)
    for place in range(rows):
        row = memory * row + noise[place]
        out[place] = row
    return out


def hours(rows: int, symbols: int = 1) -> np.ndarray:
    return np.arange(rows) // symbols * 3_600_000_000_000


def names(columns: int) -> list[str]:
    return [f"f{place}" for place in range(columns)]


@given(counts, st.data())
def test_stability_is_never_negative_and_symmetric(expected, data):
    actual = data.draw(hnp.arrays(np.int64, len(expected), elements=st.integers(0, 10_000)))
    found = population_stability(expected, actual)
    assert found >= 0
    assert found == pytest.approx(population_stability(actual, expected))
    assert np.isfinite(found)


@given(counts)
def test_the_same_counts_are_stable(expected):
    assert population_stability(expected, expected) == 0


def test_stability_by_hand():
    first, second = np.array([10.5, 30.5]) / 41, np.array([20.5, 20.5]) / 41
    by_hand = sum((second - first) * np.log(second / first))
    assert population_stability(np.array([10, 30]), np.array([20, 20])) == pytest.approx(by_hand)


@given(samples)
@settings(max_examples=60)
def test_every_value_has_a_bin_and_a_sample_is_stable_to_itself(values):
    edges = quantile_edges(values)
    assert len(edges) >= 1
    assert (np.diff(edges) > 0).all()
    bins = Bins.of(["x"], values[:, None], hours(len(values)))
    assert sum(bins.counts[0]) == len(values)
    assert bins.stability(values[:, None])[0] == 0


@pytest.mark.parametrize("moved_to", [0.999, 1.001])
def test_a_feature_that_stood_still_is_missed_on_both_sides(moved_to):
    bins = Bins.of(["still"], np.ones((500, 1), np.float32), hours(500))
    assert bins.stability(np.ones((300, 1)))[0] < 0.05
    assert bins.stability(np.full((300, 1), moved_to))[0] > 2


def test_a_flag_that_turned_rare_is_seen():
    rng = np.random.default_rng(3)
    bins = Bins.of(["flag"], (rng.random((2_000, 1)) < 0.4).astype(np.float32), hours(2_000))
    assert bins.stability(rng.random((400, 1)) < 0.4)[0] < 0.05
    assert bins.stability(rng.random((400, 1)) < 0.05)[0] > 0.5


def test_the_farther_the_shift_the_larger_the_distance():
    rng = np.random.default_rng(1)
    training, live = rng.standard_normal((4_000, 1)), rng.standard_normal((500, 1))
    bins = Bins.of(["x"], training, hours(4_000))
    found = [bins.stability(live + shift)[0] for shift in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert found == sorted(found)
    assert found[0] < 0.05
    assert found[-1] > 1
    ks = [kolmogorov_smirnov(training, live + shift)[0] for shift in (0.0, 0.25, 0.5, 1.0, 2.0)]
    assert ks == sorted(ks)


def test_distances_do_not_depend_on_the_order_of_features():
    training, live = slow(1_000, 6, 1), slow(300, 6, 2) + 0.3
    order = np.array([3, 0, 5, 1, 4, 2])
    straight = Bins.of(names(6), training, hours(1_000))
    turned = Bins.of([names(6)[place] for place in order], training[:, order], hours(1_000))
    np.testing.assert_array_equal(turned.stability(live[:, order]), straight.stability(live)[order])
    np.testing.assert_array_equal(turned.limits(120, least=0.1), straight.limits(120, least=0.1)[order])
    np.testing.assert_array_equal(
        kolmogorov_smirnov(training[:, order], live[:, order]), kolmogorov_smirnov(training, live)[order]
    )
    near, near_turned = (Neighbourhood.of(rows, seed=1) for rows in (training, training[:, order]))
    np.testing.assert_allclose(near_turned.dissimilarity(live[:, order]), near.dissimilarity(live))


def test_kolmogorov_smirnov_is_scipys():
    training, live = slow(400, 3, 1), slow(100, 3, 2)
    expected = [ks_2samp(training[:, place], live[:, place]).statistic for place in range(3)]
    np.testing.assert_allclose(kolmogorov_smirnov(training, live), expected)


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 3))
def test_windows_have_their_length_and_keep_symbols_together(bars, times, symbols):
    time = hours(times * symbols, symbols)
    found = list(windows(time, bars))
    assert len(found) <= WINDOWS_MAX
    assert bool(found) == (bars <= times)
    for rows in found:
        assert len(np.unique(time[rows])) == bars
        assert rows.stop - rows.start == bars * symbols
    if found:
        assert (found[0].start, found[-1].stop) == (0, len(time))


def test_what_is_usual_is_that_of_the_longest_window_that_is_not_longer():
    assert usual({60: "a", 120: "b"}, 59) is None
    assert usual({60: "a", 120: "b"}, 119) == "a"
    assert usual({60: "a", 120: "b"}, 500) == "b"


def test_limits_are_what_windows_of_the_training_set_reach():
    training = slow(3_000, 4, 5)
    bins = Bins.of(names(4), training, hours(3_000))
    assert tuple(bins.quiet) == tuple(bars for bars in WINDOW_BARS if bars * 4 <= 3_000)
    worst = [bins.stability(training[rows]) for rows in windows(hours(3_000), 240)]
    np.testing.assert_allclose(bins.limits(300, least=0.0), np.max(worst, axis=0))
    # Slow features stray by far more than the usual rule of thumb: it would take every window for drifted.
    assert (bins.limits(240, least=0.0) > 0.25).all()
    assert (bins.limits(30, least=0.4) == 0.4).all()


def test_bins_are_written_and_read_to_the_last_bit():
    import json

    bins = Bins.of(names(3), slow(500, 3, 1), hours(500))
    assert Bins.from_dict(json.loads(json.dumps(bins.to_dict(), allow_nan=False))) == bins


def test_bins_of_other_columns_are_refused():
    for values in (np.zeros((0, 2)), np.zeros((5, 3))):
        with pytest.raises(DataError):
            Bins.of(["a", "b"], values, np.zeros(len(values), np.int64))


def test_rows_of_the_training_set_are_near_and_others_far():
    training = slow(5_000, 8, 4, memory=0.9)
    near = Neighbourhood.of(training, seed=1)
    assert len(near.sample) == 2_000
    assert near.dissimilarity(near.sample).max() < 1e-6
    assert near.dissimilarity(training).mean() < near.strange_above < 1
    far = near.dissimilarity(training[:100] + 10.0)
    assert far.min() > 2
    assert near.dissimilarity(training[:100] + 20.0).min() > far.max()
    same = np.mean(near.dissimilarity(slow(1_000, 8, 9, memory=0.9)) > near.strange_above)
    assert same < 0.05


def test_features_that_move_together_otherwise_are_strange_though_none_has_moved():
    rng = np.random.default_rng(2)
    common = rng.standard_normal(4_000)
    training = np.column_stack([common + 0.1 * rng.standard_normal(4_000) for _ in range(4)]).astype(np.float32)
    live = np.column_stack([rng.permutation(training[:400, place]) for place in range(4)])
    bins, near = Bins.of(names(4), training, hours(4_000)), Neighbourhood.of(training, seed=1)
    assert (bins.stability(live) < bins.limits(400, least=0.25)).all()
    assert np.mean(near.dissimilarity(live) > near.strange_above) > 0.7


def test_the_same_seed_draws_the_same_sample_and_few_rows_are_refused():
    rows = slow(3_000, 2, 1)
    np.testing.assert_array_equal(Neighbourhood.of(rows, seed=4).sample, Neighbourhood.of(rows, seed=4).sample)
    assert not np.array_equal(Neighbourhood.of(rows, seed=4).sample, Neighbourhood.of(rows, seed=5).sample)
    with pytest.raises(DataError):
        Neighbourhood.of(rows[:10], seed=1)


def test_still_features_do_not_divide_by_nothing():
    near = Neighbourhood.of(np.ones((50, 3), np.float32), seed=1)
    assert near.dissimilarity(np.ones((2, 3))).tolist() == [0, 0]
    assert (near.dissimilarity(np.full((2, 3), 4.0)) > 1).all()
    assert near.strange_above == 0
