import subprocess
import sys

import pytest

from fx_dagster.features import catalogue
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.market.timeframes import Timeframe


@pytest.mark.parametrize("base", list(Timeframe))
@pytest.mark.parametrize("cross_symbol", [False, True])
def test_names_are_distinct_and_described(base, cross_symbol):
    features = feature_catalogue(base, cross_symbol=cross_symbol).features
    assert len({feature.name for feature in features}) == len(features)
    assert all(feature.description for feature in features)


def test_context_leaves_out_what_needs_a_hundred_bars():
    names = feature_catalogue(Timeframe.H1, cross_symbol=False).names
    assert "sma_200_distance" in names
    assert "D1_sma_50_distance" in names
    assert not [name for name in names if name.startswith(("H4_", "D1_")) and ("200" in name or "support" in name)]


def test_a_bar_that_always_closes_at_the_same_hour_has_no_hour():
    assert "hour_sin" in feature_catalogue(Timeframe.H4, cross_symbol=False).names
    daily, weekly = (feature_catalogue(base, cross_symbol=False).names for base in (Timeframe.D1, Timeframe.W1))
    assert "hour_sin" not in daily
    assert "week_sin" in daily
    assert "week_sin" not in weekly


def test_each_catalogue_has_its_own_hash():
    hashes = {feature_catalogue(base, cross_symbol=cross).hash for base in Timeframe for cross in (False, True)}
    assert len(hashes) == 2 * len(Timeframe)
    assert all(len(value) == 64 for value in hashes)


@pytest.mark.parametrize(
    ("name", "value"), [("DEFINITIONS_VERSION", 99), ("CLIP", 7.0), ("CROSS_WINDOW", 61), ("RETURN_LAGS", (1, 2))]
)
def test_a_changed_parameter_changes_the_hash(monkeypatch, name, value):
    before = feature_catalogue(Timeframe.H1, cross_symbol=True).hash
    monkeypatch.setattr(catalogue, name, value)
    # Past the cache: the same arguments, computed anew.
    assert feature_catalogue.__wrapped__(Timeframe.H1, cross_symbol=True).hash != before


def test_another_process_finds_the_same_hash():
    program = (
        "from fx_dagster.features.catalogue import feature_catalogue as f\n"
        "from fx_dagster.market.timeframes import Timeframe as T\n"
        "print(f(T.M1, cross_symbol=True).hash)"
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == feature_catalogue(Timeframe.M1, cross_symbol=True).hash
