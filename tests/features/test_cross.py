import numpy as np
import pandas as pd
import pytest

from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import CROSS_PEERS_MAX, feature_catalogue
from fx_dagster.features.cross import common_grid, cross_features, leading
from fx_dagster.indicators.arrays import bar_arrays
from fx_dagster.market.bars import resample_bars
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe

H4, D1 = Timeframe.H4, Timeframe.D1


def test_sums_over_peers_are_bitwise_free_of_their_order(make_bars):
    own = bar_arrays({H4: make_bars(600, base=H4)}, H4)
    peers = {f"SIM{seed:03d}": bar_arrays({H4: make_bars(600, base=H4, seed=seed)}, H4) for seed in range(1, 9)}
    one, other = cross_features(own, peers), cross_features(own, dict(reversed(peers.items())))
    for name, values in one.items():
        np.testing.assert_array_equal(other[name], values)


def test_a_peers_bar_that_opens_later_is_not_seen(make_bars):
    bars = make_bars(600, base=H4)
    own, peer = bar_arrays({H4: bars}, H4), make_bars(600, base=H4, seed=4)
    missing = peer.drop(index=599).reset_index(drop=True)
    whole, part = (cross_features(own, {"SIM001": bar_arrays({H4: frame}, H4)}) for frame in (peer, missing))
    for name in whole:
        np.testing.assert_array_equal(part[name][:599], whole[name][:599])
    assert part["cross_correlation"][599] != whole["cross_correlation"][599]


def test_the_first_rows_are_unknown_and_later_ones_pearsons(make_bars):
    own, peer = (bar_arrays({H4: make_bars(600, base=H4, seed=seed)}, H4) for seed in (3, 4))
    found = cross_features(own, {"SIM001": peer})
    assert np.isnan(found["cross_correlation"][:240]).all()
    assert np.isfinite(found["cross_correlation"][240:]).all()
    moves = np.diff(np.log(np.column_stack([own.close, peer.close])), axis=0)
    for row in (240, 411, 599):
        window = moves[row - 60 : row]
        expected = np.corrcoef(window.T)[0, 1]
        assert found["cross_correlation"][row] == pytest.approx(expected, abs=1e-9)
        assert found["cross_correlation_abs"][row] == pytest.approx(abs(expected), abs=1e-9)


def test_the_grid_is_the_union_of_times():
    grid, table = common_grid([np.array([1, 3]), np.array([2, 3])], [np.array([10.0, 30.0]), np.array([2.0, 3.0])])
    assert grid.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table, [[10.0, np.nan], [np.nan, 2.0], [30.0, 3.0]])


def test_the_leading_symbols_are_majors_first_and_then_by_name():
    many = [*(f"SIM{number:03d}" for number in range(60, 0, -1)), "GBPUSD", "XAUUSD", "EURUSD"]
    leaders = [many[place] for place in leading(many)]
    assert len(leaders) == CROSS_PEERS_MAX
    assert set(leaders) == {"GBPUSD", "XAUUSD", "EURUSD", *(f"SIM{number:03d}" for number in range(1, 30))}
    assert leading(many) == sorted(leading(many))
    assert leading(many[:20]) == list(range(20))


def test_peers_beyond_the_leading_ones_change_nothing(make_bars):
    own = make_bars(600, base=H4)
    frames = {f"SIM{seed:03d}": make_bars(600, base=H4, seed=seed) for seed in range(1, CROSS_PEERS_MAX + 4)}
    wide = {"EURUSD": own, **frames}
    catalogue = feature_catalogue(H4, cross_symbol=True)
    context = {H4: own, D1: resample_bars(own, H4, D1)}
    leaders = [list(wide)[place] for place in leading(list(wide))]
    narrow = {name: wide[name] for name in leaders if name != "EURUSD"}
    assert len(narrow) == CROSS_PEERS_MAX - 1
    found, expected = (
        compute_features(context, catalogue, instrument=instrument("EURUSD"), peers=peers) for peers in (frames, narrow)
    )
    pd.testing.assert_frame_equal(found, expected)
