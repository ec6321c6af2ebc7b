import math

import pytest

from fx_dagster.decision.codes import Level
from fx_dagster.decision.config import checked, step_config, traditional_control
from fx_dagster.errors import SettingsError
from fx_dagster.settings import CostSettings, RiskSettings


def test_numbers_of_the_contracts(config):
    assert config.validation_weights == (0.4, 0.4, 0.2)
    assert config.valid_above == 0.6
    assert config.regime_position_max == (0.05, 0.15, 0.08, 0.05, 0.12)
    assert config.regime_stop_max == (0.01, 0.02, 0.015, 0.01, 0.025)
    assert config.stage_thresholds == (0.03, 0.05, 0.08, 0.10)
    assert (config.confidence_factor, config.confidence_scale_max) == (1.5, 2.0)
    assert config.recover_ns == 60_000_000_000
    assert hash(config) == hash(step_config(RiskSettings(), CostSettings(), paper=True))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("validation_weights", (0.5, 0.4, 0.2)),
        ("validation_weights", (1.2, -0.4, 0.2)),
        ("vote_weights", (0.1,) * 13),
        ("vote_weights", (1 / 12,) * 12),
        ("stage_thresholds", (0.05, 0.03, 0.08, 0.1)),
        ("stage_scales", (1.0, 0.5, 0.75, 0.0, 0.0)),
        ("regime_position_max", (0.2, 0.15, 0.08, 0.05, 0.12)),
        ("regime_stop_max", (0.01, 0.02, 0.015, 0.01)),
        ("kelly_fraction", 1.5),
        ("stop_atr", 0.0),
        ("target_volatility", math.nan),
        ("spread_ratio_max", math.inf),
        ("commission_per_lot", -1.0),
        ("best_level", 1),
        ("best_level", 4),
        ("simple_models", 0),
        ("deep_models", -1),
        ("explore_risk", 0.5),
    ],
)
def test_an_impossible_number_is_named(config, field, value):
    with pytest.raises(SettingsError, match=field):
        checked(config._replace(**{field: value}))


def test_half_life_must_be_positive():
    with pytest.raises(SettingsError, match="loss_half_life_bars"):
        step_config(RiskSettings(), CostSettings(), paper=True, loss_half_life_bars=0.0)


def test_control_differs_by_the_level_alone(config):
    control = traditional_control(config)
    assert control.best_level == Level.TRADITIONAL
    assert control._replace(best_level=config.best_level) == config
