import numpy as np
import pytest

from fx_dagster.features.cross import cross_features, rolling_correlation
from fx_dagster.indicators.arrays import bar_arrays
from fx_dagster.market.timeframes import Timeframe

H4 = Timeframe.H4


def test_sums_over_peers_are_bitwise_free_of_their_order(make_bars):
    own = bar_arrays({H4: make_bars(600, base=H4)}, H4)
    peers = {f"SIM{seed:03d}": bar_arrays({H4: make_bars(600, base=H4, seed=seed)}, H4) for seed in range(1, 9)}
    one, other = cross_features(own, peers), cross_features(own, dict(reversed(peers.items())))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values)


def test_rolling_correlation_is_pearsons():
    first, second = np.random.default_rng(5).normal(0.0, 1e-3, (2, 300))
    second += 0.7 * first
    found = rolling_correlation(first, second, 60)
    assert np.isnan(found[:59]).all()
    for row in (59, 150, 299):
        window = slice(row - 59, row + 1)
        assert found[row] == pytest.approx(np.corrcoef(first[window], second[window])[0, 1], abs=1e-9)


def test_a_peer_that_does_not_move_has_no_correlation():
    moves = np.random.default_rng(5).normal(0.0, 1e-3, 200)
    still = np.where(np.arange(200) < 80, moves[::-1], 0.0)
    assert (rolling_correlation(moves, still, 60)[140:] == 0.0).all()


def test_a_peers_bar_that_opens_later_is_not_seen(make_bars):
    bars = make_bars(600, base=H4)
    own, peer = bar_arrays({H4: bars}, H4), make_bars(600, base=H4, seed=4)
    missing = peer.drop(index=599).reset_index(drop=True)
    whole, part = (cross_features(own, {"SIM001": bar_arrays({H4: frame}, H4)}) for frame in (peer, missing))
    for name in whole:
        np.testing.assert_array_equal(part[name][:599], whole[name][:599])
    assert part["cross_correlation"][599] != whole["cross_correlation"][599]
