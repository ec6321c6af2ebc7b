import math

import pytest
from pydantic import ValidationError

from fx_dagster.decision.codes import Level
from fx_dagster.decision.config import checked, paper_config, step_config, traditional_control
from fx_dagster.errors import SettingsError
from fx_dagster.market.timeframes import HOUR_NS, Timeframe
from fx_dagster.models.answer import DEEP_MODELS, DIRECTIONS, SIMPLE_MODELS
from fx_dagster.settings import CostSettings, RiskSettings, Settings


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
        ("vote_weights", (1 / 13,) * 13),
        ("vote_weights", (*(0.0,) * 13, 1.0)),
        ("agents", 2),
        ("meta", 1),
        ("stage_thresholds", (0.05, 0.03, 0.08, 0.1)),
        ("stage_scales", (1.0, 0.5, 0.75, 0.0, 0.0)),
        ("regime_position_max", (0.2, 0.15, 0.08, 0.05, 0.12)),
        ("regime_stop_max", (0.01, 0.02, 0.015, 0.01)),
        ("kelly_fraction", 1.5),
        ("stop_atr", 0.0),
        ("target_volatility", math.nan),
        ("spread_ratio_max", math.inf),
        ("commission_per_lot", -1.0),
        ("deep_models", 0),
        ("best_level", 0),
        ("best_level", 4),
        ("simple_models", 0),
        ("deep_models", -1),
        ("explore_risk", 0.5),
        ("explore_risk", -0.1),
        ("drift_max", 0.8),
        ("drift_strong", 0.2),
        ("drift_max", -0.1),
        ("volatility_scale_min", 3.0),
        ("volatility_scale_min", -0.1),
        ("conservative_scale", 1.5),
        ("conservative_ns", -1),
        ("var_max", 0.0),
        ("cvar_max", 1.1),
        ("currency_exposure_max", math.inf),
        ("currency_exposure_max", 0.0),
        ("correlation_max", 1.1),
        ("bars_a_day", 0.0),
        ("margin_used_max", 1.5),
        ("regime_position_max", (0.05, 1.5, 0.08, 0.05, 0.12)),
        ("regime_stop_max", (0.02, 0.02, 0.015, 0.01, 0.025)),
    ],
)
def test_an_impossible_number_is_named(config, field, value):
    with pytest.raises(SettingsError, match=field):
        checked(config._replace(**{field: value}))


def test_the_product_reads_the_whole_release(config):
    assert config.best_level == Level.FULL_AI
    assert (config.simple_models, config.deep_models, config.meta) == (len(SIMPLE_MODELS), len(DEEP_MODELS), True)
    assert config.simple_models + config.deep_models + config.meta == len(DIRECTIONS)
    assert config.agents
    assert config.vote_weights == pytest.approx([1 / 14] * 14)
    names = ("best_level", "simple_models", "deep_models", "meta", "agents", "vote_weights")
    paper = paper_config(Settings())
    assert [getattr(paper, name) for name in names] == [getattr(config, name) for name in names]


@pytest.mark.parametrize(
    ("timeframe", "bars"), [(Timeframe.M1, 1_440), (Timeframe.H1, 24), (Timeframe.D1, 1), (Timeframe.W1, 52 / 252)]
)
def test_a_trading_day_has_so_many_bars(timeframe, bars):
    config = step_config(RiskSettings(), CostSettings(), paper=True, timeframe=timeframe)
    assert config.bars_a_day == pytest.approx(bars)


def test_what_an_operator_sets_reaches_the_step():
    changed = {
        "margin_used_max": 0.3, "correlation_shift_max": 0.4, "volatility_scale_min": 0.5, "volatility_scale_max": 1.5,
        "currency_exposure_max": 3.0, "correlation_max": 0.7, "var_max": 0.02, "cvar_max": 0.03, "drift_max": 0.2,
        "drift_strong": 0.9, "conservative_scale": 0.25,
    }  # fmt: skip
    config = step_config(RiskSettings(**changed, conservative_hours=2.0), CostSettings(), paper=True)
    assert {name: getattr(config, name) for name in changed} == changed
    assert config.conservative_ns == 2 * HOUR_NS


@pytest.mark.parametrize(
    ("low", "high", "values"),
    [
        ("explore_risk", "risk_per_trade_max", (0.02, 0.01)),
        ("volatility_scale_min", "volatility_scale_max", (2.0, 0.25)),
        ("drift_max", "drift_strong", (0.8, 0.3)),
        ("drift_max", "drift_strong", (0.5, 0.5)),
    ],
)
def test_limits_the_wrong_way_round_are_refused_by_name(low, high, values):
    with pytest.raises(ValidationError, match=f"{low} is .* below {high}"):
        RiskSettings(**dict(zip((low, high), values, strict=True)))


def test_half_life_must_be_positive():
    with pytest.raises(SettingsError, match="loss_half_life_bars"):
        step_config(RiskSettings(), CostSettings(), paper=True, loss_half_life_bars=0.0)


def test_control_differs_by_the_level_alone(config):
    control = traditional_control(config)
    assert control.best_level == Level.TRADITIONAL
    assert control._replace(best_level=config.best_level) == config
