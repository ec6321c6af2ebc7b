"""Backtest and stress on real data, in this process."""

import json
import os

import dagster as dg
import pandas as pd
import pytest

from assets.stress import PATHS, SHOCKS
from fx_dagster import cli
from fx_dagster.backtest.ab import Verdict
from fx_dagster.market.timeframes import HOUR_NS


@pytest.fixture(scope="module")
def evaluated(filled):
    assert filled.run("models", partitioned=False).success
    result = filled.run("evaluation", partitioned=False)
    assert result.success
    return filled, result


def checks(result):
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def metadata(result, asset):
    return result.asset_materializations_for_node(asset)[0].metadata


def test_the_books_balance_and_shocks_stay_within_limits(evaluated):
    found = checks(evaluated[1])
    assert found["the_books_balance"].passed
    assert found["shocks_stay_within_limits"].passed
    assert found["resampled_drawdown_stays_in_its_limit"].severity is dg.AssetCheckSeverity.WARN


def test_stress_is_in_the_lake_and_on_the_page(evaluated):
    installation, result = evaluated
    paths = installation.lake.read(PATHS).set_index("measure")
    assert paths.loc["max_drawdown_p05", "day"] < paths.loc["max_drawdown_p95", "day"] < 1
    assert paths.loc["samples"].eq(2_000).all()
    shocks = installation.lake.read(SHOCKS)
    assert {"spread × 10", "silent hour, then a gap"} <= set(shocks["shock"])
    assert (shocks["broken"] == "").all()
    shown = metadata(result, "stress_test")
    assert shown["worst_fall"].value == pytest.approx(shocks["fall"].max())
    assert len(shown["shocks"].records) == len(shocks)
    assert "data:image/png" in shown["drawdowns"].value


def test_shocks_meet_positions_of_the_backtest(evaluated):
    installation, _ = evaluated
    trades, shocks = installation.lake.read("backtest_trades_system"), installation.lake.read(SHOCKS)
    for time in shocks["time"]:
        assert ((trades["entry_time"] < time) & (trades["exit_time"] >= time - HOUR_NS)).any()


def test_a_broken_shock_fails_the_check(evaluated):
    installation, _ = evaluated
    kept = installation.lake.read(SHOCKS)
    try:
        installation.lake.write(SHOCKS, kept.assign(broken=["stops did not hold", *kept["broken"][1:]]))
        found = judged(installation)["shocks_stay_within_limits"]
        assert not found.passed
        assert "stops did not hold" in found.description
        installation.lake.write(SHOCKS, kept.head(0))
        assert judged(installation)["shocks_stay_within_limits"].passed
    finally:
        installation.lake.write(SHOCKS, kept)


def test_a_deep_resampled_drawdown_warns(evaluated):
    installation, _ = evaluated
    kept = installation.lake.read(PATHS)
    try:
        installation.lake.write(PATHS, kept.assign(day=kept["day"].where(kept["measure"] != "max_drawdown_p95", 0.5)))
        assert not judged(installation)["resampled_drawdown_stays_in_its_limit"].passed
        installation.lake.write(PATHS, pd.DataFrame({"measure": ["rows"]}))
        assert judged(installation)["resampled_drawdown_stays_in_its_limit"].passed
    finally:
        installation.lake.write(PATHS, kept)


def test_two_sets_of_settings_are_compared_on_the_lakes_history(evaluated, capsys):
    assert cli.run(["ab", "--a", "FX_RISK_STOP_ATR=1.5", "--b", "FX_COST_SLIPPAGE_POINTS=20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["A"]["settings"] == {"FX_RISK_STOP_ATR": "1.5"}
    assert found["A"]["metrics"] != found["B"]["metrics"]
    assert found["differences"]["trades"]["value"] == (
        found["A"]["metrics"]["trades"] - found["B"]["metrics"]["trades"]
    )
    assert found["verdict"] in set(Verdict)
    assert "FX_RISK_STOP_ATR" not in os.environ


def test_the_commands_show_tables(evaluated, capsys):
    assert cli.run(["ab"]) == 0
    assert "the same, by the daily returns" in capsys.readouterr().out
    assert cli.run(["backtest"]) == 0
    assert "control" in capsys.readouterr().out


def test_the_ticks_are_replayed_through_the_live_loop(evaluated, capsys):
    assert cli.run(["backtest", "--ticks", "--json"]) == 0
    on_ticks = json.loads(capsys.readouterr().out)
    assert cli.run(["backtest", "--json"]) == 0
    on_bars = json.loads(capsys.readouterr().out)
    assert (on_ticks["start"], on_ticks["end"]) == (on_bars["start"], on_bars["end"])
    for side in ("system", "control"):
        bars, ticks = on_bars[side], on_ticks[side]
        assert ticks["trades"] > 10
        assert ticks["max_drawdown"] < 0.12
        # The same step on the same prices: entries inside a bar come on top, nothing else is decided otherwise.
        assert abs(ticks["net_return"] - bars["net_return"]) < 0.1


def judged(installation):
    """Run the checks of the stress test alone."""
    job = dg.define_asset_job(
        "stress_checks",
        selection=dg.AssetSelection.checks_for_assets("stress_test"),
        executor_def=dg.in_process_executor,
    )
    definitions = dg.Definitions.merge(installation.definitions, dg.Definitions(jobs=[job]))
    done = definitions.resolve_job_def("stress_checks").execute_in_process(
        instance=installation.instance, raise_on_error=False
    )
    return checks(done)
