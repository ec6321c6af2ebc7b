"""Numbers of the decision step, from the settings, in a form that compiled code takes."""

import math
from typing import NamedTuple

from fx_dagster.decision.codes import Combine, Level
from fx_dagster.decision.rows import CLASSICAL, VOTES
from fx_dagster.errors import SettingsError
from fx_dagster.features.volatility import TRADING_DAYS_A_YEAR, bars_a_year
from fx_dagster.market.timeframes import HOUR_NS, SECOND_NS, Timeframe
from fx_dagster.models.answer import DEEP_MODELS, DIRECTIONS, META, SIMPLE_MODELS
from fx_dagster.settings import CostSettings, RiskSettings, Settings

REGIME_POSITION_MAX = (0.05, 0.15, 0.08, 0.05, 0.12)
"""Largest margin of a position over equity by :class:`Regime`; unknown takes the tightest."""
REGIME_STOP_MAX = (0.01, 0.02, 0.015, 0.01, 0.025)
"""Largest stop distance over price by :class:`Regime`; unknown takes the tightest."""
VALIDATION_WEIGHTS = (0.4, 0.4, 0.2)
"""Traditional, AI, cross-symbol correlation."""
EQUAL_VOTES = (1.0 / VOTES,) * VOTES
"""Every vote counts alike."""


class StepConfig(NamedTuple):
    """Numbers of the step. Fractions are of equity, times int64 ns; made by :func:`step_config`."""

    paper: bool
    best_level: int
    combine: int
    simple_models: int
    deep_models: int
    meta: bool
    agents: bool
    horizon_bars: int
    loss_decay: float
    loss_sharpness: float
    parallel_traditional: float
    vote_weights: tuple[float, ...]
    validation_weights: tuple[float, float, float]
    valid_above: float
    entry_score_min: float
    kelly_fraction: float
    kelly_trades_min: int
    explore_risk: float
    risk_per_trade_max: float
    target_volatility: float
    volatility_scale_min: float
    volatility_scale_max: float
    confidence_factor: float
    confidence_scale_max: float
    margin_used_max: float
    currency_exposure_max: float
    correlation_max: float
    var_max: float
    cvar_max: float
    bars_a_day: float
    regime_position_max: tuple[float, ...]
    regime_stop_max: tuple[float, ...]
    stop_atr: float
    target_atr: float
    hold_bars_max: int
    stage_thresholds: tuple[float, float, float, float]
    stage_scales: tuple[float, float, float, float, float]
    stage_exit: float
    stage_retrip: float
    tight_stop: float
    daily_loss_max: float
    loss_streak_max: int
    spread_ratio_max: float
    volatility_ratio_max: float
    correlation_shift_max: float
    drift_max: float
    drift_strong: float
    breaker_ns: int
    recover_ns: int
    conservative_ns: int
    conservative_scale: float
    commission_per_lot: float
    """Dollars a lot and side; the account's ``commission_rate`` turns them into the account's currency."""
    slippage_points: float


def step_config(
    risk: RiskSettings,
    cost: CostSettings,
    *,
    paper: bool,
    best_level: Level = Level.FULL_AI,
    simple_models: int = len(SIMPLE_MODELS),
    deep_models: int = len(DEEP_MODELS),
    meta: bool = META in DIRECTIONS,
    agents: bool = True,
    horizon_bars: int = 12,
    recover_after_s: float = 60.0,
    vote_weights: tuple[float, ...] = EQUAL_VOTES,
    validation_weights: tuple[float, float, float] = VALIDATION_WEIGHTS,
    loss_half_life_bars: float = 250.0,
    timeframe: Timeframe = Timeframe.H1,
) -> StepConfig:
    """Return the step's numbers.

    Args:
        risk: risk settings.
        cost: commission in dollars, slippage in points.
        paper: explore with ``explore_risk`` while there is no edge; a real account then does not trade.
        best_level: best level that may be reached; ``TRADITIONAL`` makes the traditional control.
        simple_models: columns of ``p_up`` that level 2 needs.
        deep_models: further columns that level 1 needs.
        meta: whether a meta model's column follows them.
        agents: whether the sizing and the timing agent act; without them, or where they say nothing, all else is alike.
        horizon_bars: bars after which a probability's outcome is known (``FeatureSettings.horizon_bars``).
        recover_after_s: health needed before the level rises (``LiveSettings.recover_after_s``).
        vote_weights: one a vote, sum 1: of the classical indicators, then of attention's score.
        validation_weights: traditional, AI, correlation, sum 1.
        loss_half_life_bars: half-life of the paths' log-loss, in outcomes.
        timeframe: base timeframe: of the returns from which VaR and CVaR are made.

    Raises:
        SettingsError: a number is impossible or two contradict each other; the message names the field.
    """
    decay = 0.5 ** (1.0 / _positive("loss_half_life_bars", loss_half_life_bars))
    config = StepConfig(
        paper=paper,
        best_level=int(best_level),
        combine=int(Combine[risk.combine.upper()]),
        simple_models=simple_models,
        deep_models=deep_models,
        meta=meta,
        agents=agents,
        horizon_bars=horizon_bars,
        loss_decay=decay,
        # Outcomes overlap by the horizon: this many independent ones stand behind the average.
        loss_sharpness=1.0 / (1.0 - decay) / max(horizon_bars, 1),
        parallel_traditional=0.5,
        vote_weights=tuple(float(weight) for weight in vote_weights),
        validation_weights=validation_weights,
        valid_above=risk.valid_above,
        entry_score_min=risk.entry_score_min,
        kelly_fraction=risk.kelly_fraction,
        kelly_trades_min=risk.kelly_trades_min,
        explore_risk=risk.explore_risk,
        risk_per_trade_max=risk.risk_per_trade_max,
        target_volatility=risk.target_volatility,
        volatility_scale_min=risk.volatility_scale_min,
        volatility_scale_max=risk.volatility_scale_max,
        confidence_factor=1.5,
        confidence_scale_max=2.0,
        margin_used_max=risk.margin_used_max,
        currency_exposure_max=risk.currency_exposure_max,
        correlation_max=risk.correlation_max,
        var_max=risk.var_max,
        cvar_max=risk.cvar_max,
        bars_a_day=bars_a_year(timeframe) / TRADING_DAYS_A_YEAR,
        regime_position_max=REGIME_POSITION_MAX,
        regime_stop_max=REGIME_STOP_MAX,
        stop_atr=risk.stop_atr,
        target_atr=risk.target_atr,
        hold_bars_max=risk.hold_bars_max,
        stage_thresholds=(risk.drawdown_reduce, risk.drawdown_halve, risk.drawdown_close_only, risk.drawdown_halt),
        stage_scales=(1.0, 0.75, 0.5, 0.0, 0.0),
        stage_exit=0.8,
        stage_retrip=0.25 * (risk.drawdown_halt - risk.drawdown_close_only),
        tight_stop=0.75,
        daily_loss_max=risk.daily_loss_max,
        loss_streak_max=risk.loss_streak_max,
        spread_ratio_max=risk.spread_ratio_max,
        volatility_ratio_max=risk.volatility_ratio_max,
        correlation_shift_max=risk.correlation_shift_max,
        drift_max=risk.drift_max,
        drift_strong=risk.drift_strong,
        breaker_ns=int(risk.breaker_hours * HOUR_NS),
        recover_ns=int(recover_after_s * SECOND_NS),
        conservative_ns=int(risk.conservative_hours * HOUR_NS),
        conservative_scale=risk.conservative_scale,
        commission_per_lot=cost.commission_per_lot,
        slippage_points=cost.slippage_points,
    )
    return checked(config)


def paper_config(settings: Settings, timeframe: Timeframe = Timeframe.H1) -> StepConfig:
    """Return the configuration of this installation on paper: the same for the live session and for backtests.

    Args:
        settings: of this installation.
        timeframe: base timeframe of the market source.

    Raises:
        SettingsError: it is not possible; the message names the field.
    """
    return step_config(
        settings.risk,
        settings.cost,
        paper=True,
        best_level=Level.FULL_AI,
        simple_models=len(SIMPLE_MODELS),
        deep_models=len(DEEP_MODELS),
        meta=META in DIRECTIONS,
        horizon_bars=settings.feature.horizon_bars,
        recover_after_s=settings.live.recover_after_s,
        timeframe=timeframe,
    )


def traditional_control(config: StepConfig) -> StepConfig:
    """Return the same configuration without any model: what the system is compared with."""
    return config._replace(best_level=int(Level.TRADITIONAL))


def checked(config: StepConfig) -> StepConfig:
    """Return ``config`` if it is possible.

    Raises:
        SettingsError: it is not; the message names the field.
    """
    for name, value in config._asdict().items():
        _finite(name, value)
    _sums_to_one("validation_weights", config.validation_weights)
    _sums_to_one("vote_weights", config.vote_weights)
    if len(config.vote_weights) != VOTES:
        raise SettingsError(
            f"vote_weights has {len(config.vote_weights)} numbers",
            mend=f"give one a vote: {CLASSICAL} classical ones, then attention's",
        )
    if not any(config.vote_weights[:CLASSICAL]):
        raise SettingsError("vote_weights leaves nothing to the classical votes", mend="give one of them a weight")
    for name in ("meta", "agents"):
        if not isinstance(getattr(config, name), bool):
            raise SettingsError(f"{name} is {getattr(config, name)!r}", mend="give True or False")
    for name in _FRACTIONS:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise SettingsError(f"{name} is {value}", mend="it lies in [0, 1]")
    for name in _POSITIVES:
        _positive(name, getattr(config, name))
    for name in ("simple_models", "deep_models"):
        if getattr(config, name) < 0:
            raise SettingsError(f"{name} is negative", mend="it counts columns of p_up")
    _limits(config)
    return config


_FRACTIONS = (
    "parallel_traditional", "valid_above", "entry_score_min", "kelly_fraction", "explore_risk", "risk_per_trade_max",
    "margin_used_max", "correlation_max", "var_max", "cvar_max", "stage_exit", "tight_stop", "daily_loss_max",
    "loss_decay", "conservative_scale",
)  # fmt: skip
_POSITIVES = (
    "horizon_bars", "loss_sharpness", "kelly_trades_min", "target_volatility", "volatility_scale_min",
    "volatility_scale_max", "confidence_factor", "confidence_scale_max", "stop_atr", "target_atr", "hold_bars_max",
    "stage_retrip", "loss_streak_max", "spread_ratio_max", "volatility_ratio_max", "correlation_shift_max",
    "breaker_ns", "recover_ns", "tight_stop", "margin_used_max", "currency_exposure_max", "var_max", "cvar_max",
    "bars_a_day",
)  # fmt: skip


def _limits(config: StepConfig) -> None:
    if config.explore_risk > config.risk_per_trade_max:
        raise SettingsError(
            f"explore_risk {config.explore_risk} is above risk_per_trade_max {config.risk_per_trade_max}",
            mend="lower FX_RISK_EXPLORE_RISK or raise FX_RISK_RISK_PER_TRADE_MAX",
        )
    if list(config.stage_thresholds) != sorted(set(config.stage_thresholds)) or config.stage_thresholds[0] <= 0:
        raise SettingsError(f"stage_thresholds {config.stage_thresholds}", mend="drawdown stages must ascend above 0")
    if list(config.stage_scales) != sorted(config.stage_scales, reverse=True):
        raise SettingsError(f"stage_scales {config.stage_scales}", mend="a deeper stage never allows more size")
    if config.volatility_scale_min > config.volatility_scale_max:
        raise SettingsError("volatility_scale_min is above volatility_scale_max", mend="swap them")
    if not 0 <= config.drift_max < config.drift_strong:
        raise SettingsError(
            f"drift_max {config.drift_max} is not below drift_strong {config.drift_strong}",
            mend="lower FX_RISK_DRIFT_MAX or raise FX_RISK_DRIFT_STRONG",
        )
    if config.conservative_ns < 0:
        raise SettingsError("conservative_ns is negative", mend="give a time ≥ 0")
    if not Level.FULL_AI <= config.best_level <= Level.TRADITIONAL:
        raise SettingsError(f"best_level is {config.best_level}", mend="1, 2 or 3")
    if config.best_level == Level.FULL_AI and config.deep_models == 0:
        raise SettingsError("best_level 1 needs deep_models", mend="give the number of deep models, or best_level 2")
    if config.best_level <= Level.SIMPLE_AI and config.simple_models == 0:
        raise SettingsError("best_level 2 needs simple_models", mend="give their number, or best_level 3")
    if config.commission_per_lot < 0 or config.slippage_points < 0:
        raise SettingsError("commission_per_lot and slippage_points are costs", mend="give numbers ≥ 0")
    for name in ("regime_position_max", "regime_stop_max"):
        table = getattr(config, name)
        if len(table) != len(REGIME_STOP_MAX) or min(table) <= 0 or max(table) > 1:
            raise SettingsError(f"{name} {table}", mend="five fractions in (0, 1], one a regime")
        if table[0] > min(table):
            raise SettingsError(f"{name}: the unknown regime has {table[0]}", mend="it takes the tightest of the table")


def _finite(name: str, value: object) -> None:
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(math.isfinite(number) for number in numbers):
        raise SettingsError(f"{name} is {value}", mend="give a finite number")


def _positive(name: str, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise SettingsError(f"{name} is {value}", mend="give a number above 0")
    return value


def _sums_to_one(name: str, weights: tuple[float, ...]) -> None:
    if min(weights) < 0 or abs(sum(weights) - 1.0) > 1e-9:
        raise SettingsError(f"{name} {weights} sum to {sum(weights)}", mend="weights are ≥ 0 and sum to 1")
