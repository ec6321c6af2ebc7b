"""Research on real data, in this process."""

from dataclasses import replace
from itertools import islice

import dagster as dg
import pandas as pd
import pytest
from dagster._utils.schedules import cron_string_iterator

from assets.research import IMPORTANCE, PATHS, STUDIES_SCHEMA, studies, tuning_folder
from fx_dagster.backtest.trials import NOT_RECORDED, TrialKind
from fx_dagster.models.importance import TRADITIONAL
from fx_dagster.models.tuning import TUNABLE, TunedParameters
from fx_dagster.settings import load_settings
from resources.trials import TrialLedger

TRIALS = 2
QUICK = {"xgboost": {"n_estimators": 20}, "random_forest": {"n_estimators": 5}}


@pytest.fixture(scope="module")
def run(filled):
    """Run assets by name with their checks, and return Dagster's result."""

    def materialise(*names: str, only_checks: bool = False) -> dg.ExecuteInProcessResult:
        chosen = dg.AssetSelection.assets(*names)
        job = dg.define_asset_job(
            "research_test",
            selection=dg.AssetSelection.checks_for_assets(*names) if only_checks else chosen,
            executor_def=dg.in_process_executor,
        )
        definitions = dg.Definitions.merge(filled.definitions, dg.Definitions(jobs=[job]))
        return definitions.resolve_job_def("research_test").execute_in_process(
            instance=filled.instance, raise_on_error=False
        )

    with pytest.MonkeyPatch.context() as patch:
        # Fewer trees and rows: what is tested here are the assets.
        quick = {name: replace(one, factory=_quicker(one.factory, QUICK[name])) for name, one in TUNABLE.items()}
        for module in ("assets.research.TUNABLE", "fx_dagster.models.tuning.TUNABLE"):
            patch.setattr(module, quick)
        patch.setenv("FX_TRAINING_ROWS_MIN", "60")
        patch.setenv("FX_TRAINING_EMBARGO_BARS", "6")
        patch.setenv("FX_TRAINING_TUNING_TRIALS", str(TRIALS))
        yield materialise


def _quicker(factory, parameters):
    return lambda spec: factory(replace(spec, parameters={**spec.parameters, **parameters}))


@pytest.fixture(scope="module")
def researched(filled, run):
    result = run("combinatorial_paths", "permutation_importance", "hyperparameters")
    assert result.success
    return filled, result


def checks(result):
    return {found.check_name: found for found in result.get_asset_check_evaluations()}


def metadata(result, asset):
    return {name: one.value for name, one in result.asset_materializations_for_node(asset)[0].metadata.items()}


def test_every_blocking_check_passes_and_the_others_warn(researched):
    found = checks(researched[1])
    blocking = {name for name, one in found.items() if one.severity is dg.AssetCheckSeverity.ERROR}
    assert blocking == {"accuracy_of_paths_is_believable", "every_group_is_weighed", "the_search_saw_no_reported_row"}
    assert all(found[name].passed for name in blocking)
    assert set(found) - blocking == {"every_path_beats_the_majority_class", "traditional_indicators_remain_relevant"}


def test_paths_are_kept_and_shown(researched):
    installation, result = researched
    paths = installation.lake.read(PATHS)
    assert list(paths.groupby("family").size()) == [5, 5]
    shown = metadata(result, "combinatorial_paths")
    assert (paths["rows"] == shown["rows"]).all()
    assert shown["fits"] == 30
    assert len(shown["spread"].records) == 6
    assert "data:image/png" in shown["xgboost_by_month"]


def test_the_holdout_is_on_no_path(researched):
    installation, result = researched
    labelled = len(installation.lake.read("features", symbol="EURUSD"))
    assert metadata(result, "combinatorial_paths")["rows"] < 0.86 * labelled


def test_a_leak_would_stop_and_a_lucky_family_would_not_pass(researched, run):
    installation, _ = researched
    kept = installation.lake.read(PATHS)
    try:
        better = kept.assign(accuracy=kept["majority"] + 0.01, log_loss=kept["base_log_loss"] - 0.01)
        installation.lake.write(PATHS, better)
        assert checks(run("combinatorial_paths", only_checks=True))["every_path_beats_the_majority_class"].passed
        installation.lake.write(PATHS, better.assign(accuracy=[0.61, *better["accuracy"][1:]]))
        found = checks(run("combinatorial_paths", only_checks=True))
        assert not found["accuracy_of_paths_is_believable"].passed
        installation.lake.write(PATHS, better.assign(accuracy=[0.3, *better["accuracy"][1:]]))
        found = checks(run("combinatorial_paths", only_checks=True))
        assert not found["every_path_beats_the_majority_class"].passed
        assert "random_forest: 5 of 5 paths" in found["every_path_beats_the_majority_class"].description
    finally:
        installation.lake.write(PATHS, kept)


def test_whether_indicators_are_relevant_is_told_as_it_is(researched, run):
    installation, result = researched
    kept = installation.lake.read(IMPORTANCE)
    rows = kept[kept["group"] == TRADITIONAL]
    assert checks(result)["traditional_indicators_remain_relevant"].passed == bool((rows["low"] > 0).all())
    assert len(metadata(result, IMPORTANCE)["groups"].records) == len(kept)
    try:
        for low in (-1e-4, 1e-4):
            installation.lake.write(IMPORTANCE, kept.assign(low=low))
            found = checks(run(IMPORTANCE, only_checks=True))["traditional_indicators_remain_relevant"]
            assert found.passed is (low > 0)
            assert found.severity is dg.AssetCheckSeverity.WARN
        installation.lake.write(IMPORTANCE, kept[kept["group"] != TRADITIONAL])
        found = checks(run(IMPORTANCE, only_checks=True))["every_group_is_weighed"]
        assert not found.passed
        assert f"xgboost/{TRADITIONAL}" in found.description
    finally:
        installation.lake.write(IMPORTANCE, kept)


def test_parameters_are_kept_and_the_looks_are_counted(researched):
    _, result = researched
    shown = metadata(result, "hyperparameters")
    assert shown["looks"] == TRIALS * len(TUNABLE)
    assert shown["trials_recorded"] == NOT_RECORDED
    for family in TUNABLE:
        found = TunedParameters.load(tuning_folder(load_settings()), family)
        assert found.trials == TRIALS
        assert set(found.parameters) == set(TUNABLE[family].space)
        assert len(shown[f"{family}_tried"].records) == TRIALS


def test_a_second_run_goes_on_where_the_first_ended(researched, run):
    shown = metadata(run("hyperparameters"), "hyperparameters")
    assert shown["looks"] == TRIALS * len(TUNABLE)


def test_parameters_that_saw_too_much_fail_the_check(researched, run):
    folder = tuning_folder(load_settings())
    kept = TunedParameters.load(folder, "xgboost")
    try:
        for wrong, why in (
            ({"end": kept.end + 10**18}, "labels known until"),
            ({"parameters": {"max_depth": 50}}, "bounds"),
        ):
            replace(kept, **wrong).save(folder)
            found = checks(run("hyperparameters", only_checks=True))["the_search_saw_no_reported_row"]
            assert not found.passed
            assert why in found.description
    finally:
        kept.save(folder)


def test_with_postgres_each_set_is_a_trial_and_the_search_is_resumed(run, filled, database_url, monkeypatch):
    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    first = run("hyperparameters")
    assert first.success
    assert metadata(first, "hyperparameters")["trials_recorded"] == TRIALS * len(TUNABLE)
    trials = [row.trial for row in TrialLedger(database_url).list("sample", "H1")]
    assert {trial.kind for trial in trials} == {TrialKind.TRAINING}
    assert {trial.origin.asset for trial in trials} == {
        f"hyperparameters/{family}/{number}" for family in TUNABLE for number in range(TRIALS)
    }
    assert len({trial.fingerprint for trial in trials}) == len(trials)
    folder = tuning_folder(load_settings())
    kept = [TunedParameters.load(folder, family) for family in TUNABLE]
    assert all(trial.end <= max(one.end for one in kept) for trial in trials)
    second = run("hyperparameters")
    assert metadata(second, "hyperparameters")["trials_recorded"] == 0
    assert [TunedParameters.load(folder, family) for family in TUNABLE] == kept
    with studies(load_settings()) as storage:
        assert {study.study_name for study in storage.get_all_studies()} == {one.study for one in kept}


def test_optunas_tables_lie_beside_dagsters(database_url, monkeypatch, filled):
    import psycopg

    monkeypatch.setenv("FX_POSTGRES_URL", database_url)
    with studies(load_settings()) as storage:
        assert storage.get_all_studies() == []
    with psycopg.connect(database_url.replace("+psycopg2", "")) as connection:
        found = connection.execute(
            "SELECT DISTINCT table_schema FROM information_schema.tables WHERE table_name IN ('studies', 'trials',"
            " 'alembic_version')"
        ).fetchall()
    assert found == [(STUDIES_SCHEMA,)]


def test_research_runs_on_first_saturdays():
    from fx_dagster.schedules import monthly_research

    start = pd.Timestamp("2025-01-01", tz="UTC")
    ticks = list(islice(cron_string_iterator(start.timestamp(), monthly_research.cron_schedule, "UTC"), 24))
    assert [(tick.year, tick.month) for tick in ticks] == [(2025 + n // 12, 1 + n % 12) for n in range(24)]
    assert all(tick.weekday() == 5 and tick.day <= 7 for tick in ticks)
    assert monthly_research.job_name == "research_job"
