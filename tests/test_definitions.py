"""The composition root: everything that is written is registered, and nothing changes unnoticed."""

import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

import assets
from fx_dagster.definitions import defs

ROOT = Path(__file__).parents[1]

BASE = ("attention_model", "cnn_model", "lstm_model", "random_forest_model", "xgboost_model")
MODELS = tuple(sorted((*BASE, "regime_model", "meta_model", "confidence_model", "ppo_model")))
EXPECTED = {
    "raw_ticks": ("market_data", ()),
    "bars": ("market_data", ("raw_ticks",)),
    "indicators": ("features", ("bars",)),
    "features": ("features", ("bars",)),
    "labels": ("features", ("bars", "indicators")),
    "xgboost_model": ("models", ("features", "labels")),
    "random_forest_model": ("models", ("features", "labels")),
    "lstm_model": ("models", ("features", "labels")),
    "cnn_model": ("models", ("features", "labels")),
    "attention_model": ("models", ("features", "labels")),
    "regime_model": ("models", BASE),
    "meta_model": ("models", (*BASE[:4], "regime_model", *BASE[4:])),
    "confidence_model": ("models", ("meta_model",)),
    "ppo_model": ("models", ("confidence_model",)),
    "release": ("serving", MODELS),
    "served_release": ("serving", ("release",)),
    "backtest": ("evaluation", MODELS),
    "model_comparison": ("evaluation", ("backtest",)),
    "pattern_history": ("evaluation", ("features", "labels")),
    "stress_test": ("evaluation", ("backtest",)),
    "trial_review": ("evaluation", ("backtest", "model_comparison")),
    "live_session": ("live", ("served_release",)),
    "availability": ("live", ("live_session",)),
    "feature_drift": ("drift", ("live_session", "served_release")),
    "prediction_drift": ("drift", ("labels", "live_session", "served_release")),
    "combinatorial_paths": ("research", ("features", "labels")),
    "permutation_importance": ("research", ("features", "labels")),
    "hyperparameters": ("research", ("features", "labels")),
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return defs()


def test_everything_loads_together(definitions):
    dg.Definitions.validate_loadable(definitions)


def test_the_graph_is_as_drawn(definitions):
    found = {
        spec.key.to_user_string(): (spec.group_name, tuple(sorted(dep.asset_key.to_user_string() for dep in spec.deps)))
        for spec in definitions.resolve_all_asset_specs()
    }
    assert found == EXPECTED


def test_every_asset_says_what_it_is_and_whose(definitions):
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description, spec.key
        assert spec.owners or spec.key.to_user_string() == "live_session", spec.key


def test_every_module_of_the_assets_is_loaded(definitions):
    registered = {spec.key for spec in definitions.resolve_all_asset_specs()}
    checks = {key for found in definitions.asset_checks or () for key in found.check_keys}
    for module in pkgutil.iter_modules(assets.__path__):
        for value in vars(importlib.import_module(f"assets.{module.name}")).values():
            if isinstance(value, dg.AssetChecksDefinition):
                assert set(value.check_keys) <= checks, module.name
            elif isinstance(value, dg.AssetsDefinition):
                assert set(value.keys) <= registered, module.name


def test_what_later_assets_learn_from_is_guarded_by_blocking_checks(definitions):
    guarded = {
        spec.asset_key.to_user_string()
        for found in definitions.asset_checks or ()
        for spec in found.check_specs
        if spec.blocking
    }
    watched_only = {"live_session", "feature_drift", "prediction_drift", "availability"}
    assert set(EXPECTED) - watched_only <= guarded


def test_every_check_has_a_description(definitions):
    for found in definitions.asset_checks or ():
        for spec in found.check_specs:
            assert spec.description, spec.name


@pytest.mark.parametrize(
    "job", ["ingest_job", "features_job", "training_job", "evaluation_job", "drift_job", "live_trading_job"]
)
def test_jobs_resolve(definitions, job):
    assert definitions.resolve_job_def(job).name == job


def test_loading_needs_none_of_the_heavy_libraries():
    code = (
        "import sys; from fx_dagster.definitions import defs; defs();"
        "names = {'torch', 'xgboost', 'sklearn', 'prophet', 'plotly', 'matplotlib', 'skl2onnx', 'arch', 'optuna',"
        "'skfolio', 'stable_baselines3'};"
        "heavy = names & set(sys.modules);"
        "sys.exit(', '.join(sorted(heavy)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]


def test_the_newest_months_follow_their_inputs_by_themselves(definitions):
    automated = {
        spec.key.to_user_string()
        for spec in definitions.resolve_all_asset_specs()
        if spec.automation_condition is not None
    }
    assert automated == {"bars", "indicators", "features", "labels"}
