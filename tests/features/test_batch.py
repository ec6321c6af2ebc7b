from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fx_dagster.errors import DataError
from fx_dagster.features.batch import compute_features
from fx_dagster.features.catalogue import CLIP, feature_catalogue
from fx_dagster.features.checks import look_ahead
from fx_dagster.indicators.catalogue import MEMORY_BARS
from fx_dagster.market.instruments import instrument
from fx_dagster.market.timeframes import Timeframe, bar_close, bar_open

H1, H4, D1 = Timeframe.H1, Timeframe.H4, Timeframe.D1
EURUSD = instrument("EURUSD")
ALONE, TOGETHER = feature_catalogue(H4, cross_symbol=False), feature_catalogue(H4, cross_symbol=True)
PRICES = ["open", "high", "low", "close"]
STYLES = ["walk", "jumps", "stops", "one_tick", "silent", "flat"]


@pytest.fixture(scope="session")
def h4(make_bars, with_context):
    """Return a maker of H4 bars with their D1 context."""
    return lambda rows, **options: with_context(make_bars(rows, base=H4, **options), H4, (D1,))


@pytest.fixture(scope="session")
def peers(make_bars):
    """Return three other symbols on H4."""
    return {f"SIM0{seed}": make_bars(900, base=H4, seed=seed) for seed in (11, 12, 13)}


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(STYLES))
def test_features_are_named_finite_and_bounded_in_any_market(h4, peers, seed, style):
    features = compute_features(h4(900, seed=seed, style=style), TOGETHER, instrument=EURUSD, peers=peers)
    assert tuple(features.columns) == ("time", *TOGETHER.names)
    values = features[list(TOGETHER.names)]
    assert (values.dtypes == np.float32).all()
    assert np.isfinite(values.to_numpy()).all()
    assert np.abs(values.to_numpy()).max() <= CLIP
    assert features["time"].dtype == np.int64


def test_only_rows_in_warm_up_are_left_out(h4):
    frames = h4(900)
    features = compute_features(frames, ALONE, instrument=EURUSD)
    last_day_of_warm_up = frames[D1]["time"].to_numpy()[ALONE.warmup_bars[D1]]
    first = bar_close(np.array([last_day_of_warm_up]), D1)[0]
    opens = frames[H4]["time"].to_numpy()
    expected = max(int(np.flatnonzero(bar_close(opens, H4) >= first)[0]), ALONE.warmup_bars[H4])
    assert len(frames[H4]) - len(features) == expected
    assert (features["time"].to_numpy() == opens[expected:]).all()


@pytest.mark.parametrize("base", [H1, D1])
def test_the_base_warm_up_is_as_stated(make_bars, with_context, base):
    catalogue = feature_catalogue(base, cross_symbol=False)
    frames = with_context(make_bars(1600, base=base), base, catalogue.context)
    features = compute_features(frames, catalogue, instrument=EURUSD)
    dropped = len(frames[base]) - len(features)
    assert dropped >= catalogue.warmup_bars[base]
    if base is D1:
        assert dropped == catalogue.warmup_bars[base]


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 2**31), style=st.sampled_from(STYLES), share=st.floats(0.6, 0.99))
def test_no_feature_knows_what_comes_later(h4, peers, seed, style, share):
    frames = h4(900, seed=seed, style=style)
    opens = frames[H4]["time"].to_numpy()
    cuts = [int(bar_close(opens, H4)[int(share * 900)]), int(opens[850])]
    result = look_ahead(
        frames,
        lambda bars, others: compute_features(bars, TOGETHER, instrument=EURUSD, peers=others),
        H4,
        cuts=cuts,
        peers=peers,
    )
    assert result.passed, result.summary
    assert result.rows > 400


@pytest.mark.parametrize("name", TOGETHER.names)
def test_a_bar_of_foresight_in_any_feature_is_found_and_named(h4, peers, name):
    frames = h4(900)

    def foreseeing(bars, others):
        found = compute_features(bars, TOGETHER, instrument=EURUSD, peers=others)
        return found.assign(**{name: found[name].shift(-1)})

    cuts = [int(bar_close(frames[H4]["time"].to_numpy(), H4)[row]) for row in (750, 820)]
    result = look_ahead(frames, foreseeing, H4, cuts=cuts, peers=peers)
    assert set(result.offending) == {name}


@settings(deadline=None, max_examples=5)
@given(seed=st.integers(0, 2**31), start_day=st.integers(1, 100))
def test_memory_bars_of_each_timeframe_give_what_all_history_gives(h4, seed, start_day):
    frames = h4(6 * 900, seed=seed)
    start = int(frames[D1]["time"].iloc[start_day])
    part = {timeframe: frame[frame["time"] >= start].reset_index(drop=True) for timeframe, frame in frames.items()}
    wanted = int(part[D1]["time"].iloc[MEMORY_BARS])
    whole, later = (compute_features(bars, ALONE, instrument=EURUSD) for bars in (frames, part))
    whole, later = (features[features["time"] > wanted][list(ALONE.names)].to_numpy() for features in (whole, later))
    assert len(later) > 500
    np.testing.assert_allclose(later, whole, rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 2**31), factor=st.sampled_from([0.015625, 4.0, 128.0, 137.31]))
def test_the_unit_of_price_does_not_matter(h4, seed, factor):
    frames = h4(700, seed=seed)
    scaled = {timeframe: frame.copy() for timeframe, frame in frames.items()}
    for frame in scaled.values():
        frame[PRICES] *= factor
    here = compute_features(frames, ALONE, instrument=EURUSD)
    there = compute_features(scaled, ALONE, instrument=replace(EURUSD, point=EURUSD.point * factor))
    np.testing.assert_allclose(there.to_numpy(), here.to_numpy(), rtol=1e-5, atol=1e-5)


def test_the_order_of_the_symbols_does_not_matter(h4, peers):
    frames = h4(900)
    turned = dict(reversed(peers.items()))
    one, other = (compute_features(frames, TOGETHER, instrument=EURUSD, peers=group) for group in (peers, turned))
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def test_a_symbol_is_not_its_own_peer(h4, peers):
    frames = h4(900)
    alone = compute_features(frames, TOGETHER, instrument=EURUSD, peers=peers)
    among = compute_features(frames, TOGETHER, instrument=EURUSD, peers=peers | {"EURUSD": frames[H4]})
    pd.testing.assert_frame_equal(alone, among, check_exact=True)


def test_cross_features_of_a_twin_and_of_its_mirror(h4):
    frames = h4(900)
    mirror = frames[H4].copy()
    mirror[["open", "low", "high", "close"]] = 1.0 / frames[H4][PRICES].to_numpy()
    twin = compute_features(frames, TOGETHER, instrument=EURUSD, peers={"SIM001": frames[H4]})
    opposite = compute_features(frames, TOGETHER, instrument=EURUSD, peers={"SIM001": mirror})
    assert np.allclose(twin["cross_correlation"], 1.0, atol=1e-6)
    assert np.allclose(twin["cross_strength"], 0.0, atol=1e-6)
    assert np.allclose(opposite["cross_correlation"], -1.0, atol=1e-6)
    assert np.allclose(opposite["cross_correlation_abs"], 1.0, atol=1e-6)
    assert np.allclose(opposite["cross_strength"], 2.0 * opposite["return_24"], atol=1e-5)
    assert np.allclose(opposite["cross_implied"], opposite["return_24"], atol=1e-5)


def test_a_peer_without_history_counts_from_where_it_has_some(h4, peers):
    frames = h4(900)
    nothing = peers["SIM011"].iloc[:0]
    without = compute_features(frames, TOGETHER, instrument=EURUSD, peers={"SIM099": nothing})
    assert (without[["cross_correlation", "cross_strength"]] == 0.0).all().all()
    both, only = (
        compute_features(frames, TOGETHER, instrument=EURUSD, peers=group)
        for group in ({"SIM099": nothing, "SIM011": peers["SIM011"]}, {"SIM011": peers["SIM011"]})
    )
    pd.testing.assert_frame_equal(both, only, check_exact=True)
    late = compute_features(frames, TOGETHER, instrument=EURUSD, peers={"SIM011": peers["SIM011"].iloc[500:]})
    starts = late["time"] < peers["SIM011"]["time"].iloc[500]
    assert starts.any()
    assert (late.loc[starts, "cross_correlation"] == 0.0).all()
    assert (late["cross_correlation"].iloc[-50:] == only["cross_correlation"].iloc[-50:]).all()


def test_the_context_is_that_of_the_last_closed_day(h4):
    frames = h4(900)
    features = compute_features(frames, ALONE, instrument=EURUSD)
    closing = bar_close(features["time"].to_numpy(), H4)
    changed = np.flatnonzero(np.diff(features["D1_atr_move"].to_numpy()) != 0.0) + 1
    ends_a_day = bar_open(closing, D1) == closing
    assert len(changed) > 50
    assert ends_a_day[changed].all()


def test_known_values_of_returns_spread_and_bar(h4):
    frames = h4(700)
    features = compute_features(frames, ALONE, instrument=EURUSD)
    bars = frames[H4]
    last, row = features.iloc[-1], bars.iloc[-1]
    returns = np.diff(np.log(bars["close"].to_numpy()))
    volatility = np.sqrt(np.mean(returns[-240:] ** 2))
    assert last["return_6"] == pytest.approx(returns[-6:].sum() / volatility / np.sqrt(6), rel=1e-5)
    short = np.sqrt(pd.Series(returns**2).rolling(24).mean().to_numpy())
    assert last["volatility_ratio"] == pytest.approx(np.log(short[-1] / volatility), rel=1e-4)
    assert last["volatility_percentile"] == pytest.approx(np.mean(short[-250:] <= short[-1]), abs=1e-6)
    ranges = np.log(bars["high"] / bars["low"]).to_numpy()[-24:]
    parkinson = np.sqrt(np.mean(ranges**2) / (4.0 * np.log(2.0)))
    assert last["parkinson_ratio"] == pytest.approx(np.log(parkinson / short[-1]), rel=1e-4)
    spread = bars["spread"].to_numpy()[-120:]
    assert last["spread_ratio"] == pytest.approx(
        np.log((spread[-1] + 0.1) / (np.median(spread) + 0.1)), rel=1e-4, abs=1e-6
    )
    skew = (2.0 * row["close"] - row["high"] - row["low"]) / (row["high"] - row["low"])
    assert last["bar_skew"] == pytest.approx(skew, abs=1e-5)
    assert last["bar_body"] / last["bar_range"] == pytest.approx(
        (row["close"] - row["open"]) / (row["high"] - row["low"]), abs=1e-5
    )


def test_missing_peers_and_columns_are_named(h4):
    frames = h4(700)
    with pytest.raises(DataError, match="there are no peers"):
        compute_features(frames, TOGETHER, instrument=EURUSD)
    with pytest.raises(DataError, match="'spread' is missing"):
        compute_features({H4: frames[H4].drop(columns="spread"), D1: frames[D1]}, ALONE, instrument=EURUSD)
    with pytest.raises(DataError, match="bars of D1 are missing"):
        compute_features({H4: frames[H4]}, ALONE, instrument=EURUSD)


def test_a_fault_in_the_data_is_not_clipped_into_a_plausible_value(h4):
    frames = h4(700)
    frames[H4] = frames[H4].copy()
    frames[H4].loc[690:, "spread"] = np.inf
    features = compute_features(frames, ALONE, instrument=EURUSD)
    assert np.isinf(features["spread_atr"].iloc[-1])
    assert len(features) > 300


def test_too_short_a_history_gives_no_rows(h4):
    assert compute_features(h4(60), ALONE, instrument=EURUSD).empty
