"""Settings: one place, bounded, refused by name."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from fx_dagster.errors import SettingsError
from fx_dagster.settings import Settings, load_settings, variables


def test_defaults_are_possible(free_home):
    settings = load_settings()
    assert settings.home == free_home
    assert settings.source.kind == "sample"


def test_settings_are_frozen(free_home):
    with pytest.raises(ValidationError):
        load_settings().risk.kelly_fraction = 0.5


def test_an_unknown_setting_is_refused_and_the_nearest_named(free_home, monkeypatch):
    monkeypatch.setenv("FX_RISK_KELY_FRACTION", "0.2")
    with pytest.raises(SettingsError, match=r"FX_RISK_KELY_FRACTION.*did you mean FX_RISK_KELLY_FRACTION"):
        load_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FX_RISK_KELLY_FRACTION", "nan"),
        ("FX_RISK_KELLY_FRACTION", "-0.1"),
        ("FX_RISK_KELLY_FRACTION", "1.5"),
        ("FX_RISK_LEVERAGE", "0"),
        ("FX_RISK_ACCOUNT_CURRENCY", "dollars"),
        ("FX_RISK_COMBINE", "vote"),
        ("FX_SOURCE_KIND", "bloomberg"),
        ("FX_TRITON_PORT", "70000"),
        ("FX_TRAINING_FOLDS", "1"),
        ("FX_TRAINING_HOLDOUT_SHARE", "0.95"),
        ("FX_TRITON_DEADLINE_MS", "inf"),
        ("FX_LIVE_ACCOUNT", "../etc"),
        ("FX_LOG_LEVEL", "LOUD"),
        ("FX_FEATURE_HORIZON_BARS", "twelve"),
    ],
)
def test_an_impossible_value_names_its_setting(free_home, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name):
        load_settings()


def test_drawdown_stages_must_ascend(free_home, monkeypatch):
    monkeypatch.setenv("FX_RISK_DRAWDOWN_HALVE", "0.09")
    with pytest.raises(SettingsError, match=r"FX_RISK.*must ascend"):
        load_settings()


def test_a_refused_secret_is_not_repeated(free_home, monkeypatch):
    monkeypatch.setenv("FX_POSTGRES_URL", "postgresql://fx:hunter2@db/fx")
    monkeypatch.setenv("FX_POSTGRES_PORT", "hunter2")
    with pytest.raises(SettingsError) as refused:
        load_settings()
    assert "hunter2" not in str(refused.value)
    monkeypatch.delenv("FX_POSTGRES_PORT")
    assert "hunter2" not in repr(load_settings())


def test_children_read_the_very_same_settings(free_home, monkeypatch):
    settings = load_settings(
        {"FX_RISK_KELLY_FRACTION": "0.125", "FX_POSTGRES_URL": "postgresql://u:p@h/d", "FX_SOURCE_SYMBOLS": "EURUSD"}
    )
    environment = settings.environment()
    for name in tuple(os.environ):
        if name.startswith("FX_"):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_overrides_win_over_the_environment(free_home, monkeypatch):
    monkeypatch.setenv("FX_SOURCE_KIND", "simulator")
    assert load_settings({"FX_SOURCE_KIND": "sample"}).source.kind == "sample"


def test_each_source_has_a_lake_of_its_own(free_home, monkeypatch):
    assert load_settings().lake_url == str(free_home / "lake" / "sample")
    monkeypatch.setenv("FX_LAKE_URL", "s3://bucket/lake/")
    assert load_settings({"FX_SOURCE_KIND": "simulator"}).lake_url == "s3://bucket/lake/simulator"


def test_every_variable_is_a_field_and_has_one_prefix():
    names = variables()
    assert len(names) == len(set(names)) > 60
    assert all(name.startswith("FX_") for name in names)
    assert {f"FX_{name.upper()}" for name in ("home", "log_level")} <= set(names)
    assert Settings.model_fields.keys() >= {"risk", "cost", "live", "triton"}


def test_paths_become_absolute_and_follow_the_home_sign(free_home, monkeypatch):
    monkeypatch.setenv("HOME", "/tmp/somebody")
    settings = load_settings({"FX_SOURCE_PATH": "~/data"})
    assert settings.source.path == Path("/tmp/somebody/data")
