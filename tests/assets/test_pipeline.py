"""The assets on real data, in this process."""

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from assets.models import MODEL_ASSETS
from fx_dagster.market.timeframes import Timeframe, bar_close, trading_month_window

MONTHS = tuple(f"2017-{month:02}" for month in range(1, 10))


def checks(result):
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def test_every_partition_is_materialised(filled):
    expected = {f"{month}-01|EURUSD" for month in MONTHS}
    for name in ("raw_ticks", "bars", "indicators", "features", "labels"):
        assert set(filled.instance.get_materialized_partitions(dg.AssetKey(name))) == expected


def test_most_of_the_sample_passes_every_check_but_one_and_loses_no_row(filled):
    result = filled.run("market_data")
    found = checks(result)
    assert len(found) >= 9
    # The source has twelve months, and this lake holds nine of them: that is what the one warning says.
    assert {name for name, check in found.items() if not check.passed} == {"ticks_are_fresh"}
    assert result.asset_materializations_for_node("raw_ticks")[0].metadata["quarantined"].value == 0


def test_no_timeframe_finer_than_the_source_is_built(filled):
    assert {keys["timeframe"] for keys in filled.lake.keys("bars")} == {"H1", "H4", "D1", "W1", "MN1"}


def test_a_bar_lies_in_the_month_in_which_it_closes(filled):
    for timeframe in (Timeframe.H4, Timeframe.W1):
        closes = {}
        for month in MONTHS:
            start, end = trading_month_window(month)
            inside = filled.lake.query(
                "SELECT time FROM bars WHERE timeframe = $timeframe AND month = $month",
                {"timeframe": timeframe.value, "month": month},
            )["time"].to_numpy()
            closing = bar_close(inside, timeframe)
            assert ((closing > start) & (closing <= end)).all()
            closes[month] = len(inside)
        assert sum(closes.values()) == len(filled.lake.read("bars", symbol="EURUSD", timeframe=timeframe.value))


def test_one_month_computed_alone_equals_the_same_month_of_the_whole_run(filled, tmp_path):
    tables = {"bars": "H1", "indicators": "H1", "features": None, "labels": None}
    before = {name: filled.lake.read(name, symbol="EURUSD", timeframe=tf) for name, tf in tables.items()}
    for group in ("market_data", "features"):
        assert filled.run(group, ["2017-05"]).success
    for name, timeframe in tables.items():
        after = filled.lake.read(name, symbol="EURUSD", timeframe=timeframe)
        assert len(after) == len(before[name])
        first, second = (frame.drop(columns="time").to_numpy(np.float64) for frame in (before[name], after))
        np.testing.assert_array_equal(after["time"], before[name]["time"])
        np.testing.assert_allclose(second, first, rtol=1e-6, atol=1e-7)


def test_features_are_known_before_labels_end(filled):
    joined = filled.lake.read("features", symbol="EURUSD").merge(filled.lake.read("labels", symbol="EURUSD"), on="time")
    assert len(joined) > 1000
    assert (joined["end_time"] > joined["time"]).all()


def test_models_are_judged_out_of_fold_and_pass_their_checks(filled):
    result = filled.run("models", partitioned=False)
    assert result.success
    blocking = [c for c in result.get_asset_check_evaluations() if c.severity is dg.AssetCheckSeverity.ERROR]
    # Five of each base model, three of the meta model, one of regime, confidence and agents each.
    assert len(blocking) == 5 * len(MODEL_ASSETS) + 3 + 3
    assert all(check.passed for check in blocking)
    predictions = filled.lake.read("out_of_fold_xgboost")
    labels = filled.lake.read("labels", symbol="EURUSD")
    assert predictions["p_up_xgboost"].between(0, 1).all()
    assert predictions["time"].is_unique
    assert pd.Index(labels["time"]).isin(predictions["time"]).sum() == len(predictions)


@pytest.mark.parametrize("value", [-1.0, 0.0, np.nan])
def test_a_bad_price_is_quarantined_with_its_reason_and_stops_nothing(fresh, monkeypatch, value):
    spoil_ticks(monkeypatch, lambda ticks: ticks.assign(bid=ticks["bid"].where(ticks.index != 100, value)))
    result = fresh.run("market_data", ["2017-02"])
    kept = fresh.lake.query("SELECT count(*) AS n FROM quarantine")["n"].iloc[0]
    assert kept == 1
    assert checks(result)["ticks_keep_their_schema"].passed
    assert not checks(result)["bars_are_the_sources_own"].passed or kept >= 1


def test_too_many_bad_rows_stop_bars_from_being_built(fresh, monkeypatch):
    spoil_ticks(monkeypatch, lambda ticks: ticks.assign(ask=ticks["ask"].where(ticks.index % 5 != 0, -1.0)))
    result = fresh.run("market_data", ["2017-02"])
    assert not result.success or not checks(result)["few_ticks_are_quarantined"].passed
    assert not checks(result)["few_ticks_are_quarantined"].passed
    assert result.asset_materializations_for_node("bars") == []


def test_features_of_another_catalogue_are_refused_with_the_month_named(fresh):
    for group in ("market_data", "features"):
        assert fresh.run(group).success
    frame = fresh.lake.read("features", symbol="EURUSD")
    fresh.lake.write("features", frame, symbol="EURUSD", month="2017-03", metadata={"feature_hash": "0" * 64})
    result = fresh.run("models", partitioned=False)
    assert not result.success
    error = result.failure_data_for_node("xgboost_model").error
    assert "2017-03" in (error.cause or error).message


def spoil_ticks(monkeypatch, change):
    """Have the real source hand on changed ticks, as a bad feed would."""
    from resources.market.sample import SampleSource

    real = SampleSource.ticks
    monkeypatch.setattr(SampleSource, "ticks", lambda self, *args: change(real(self, *args)))
