"""Every setting, its default, its bounds and its ``FX_…`` environment variable.

Settings are read from the environment once, at an entry point, into one frozen object that is handed down.
Child processes (Dagster's code server, run workers, the live engine) receive the same settings through
:meth:`Settings.environment`. An unknown ``FX_`` variable is refused, so that a misspelt limit cannot be ignored.
"""

import difflib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fx_dagster.errors import SettingsError

Fraction = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
AbsolutePath = Annotated[Path, AfterValidator(lambda path: Path(os.path.abspath(path.expanduser())))]  # noqa: PTH100
Port = Annotated[int, Field(ge=0, le=65535)]
"""0 means: find a free one."""


def _default_home() -> Path:
    # PostgreSQL refuses to run as root and its system user cannot enter root's private home.
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return Path("/var/lib/fx_dagster")
    return Path(platformdirs.user_data_dir("fx_dagster", appauthor=False))


def _group(prefix: str) -> SettingsConfigDict:
    return SettingsConfigDict(
        env_prefix=prefix, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


class SourceSettings(BaseSettings):
    """Where market data comes from."""

    model_config = _group("FX_SOURCE_")

    kind: Literal["sample", "mt5_export", "histdata", "dukascopy", "simulator"] = "sample"
    path: AbsolutePath | None = Field(None, description="Folder with the files of mt5_export or histdata.")
    symbols: str = Field("", description="Comma-separated canonical symbols; empty: all that the source has.")
    start: str = Field("", description="First day, YYYY-MM-DD; empty: the source's first.")
    end: str = Field("", description="Day after the last, YYYY-MM-DD; empty: the source's last.")
    seed: int = Field(7, description="Seed of the simulator.")
    simulator_symbols: PositiveInt = 4
    simulator_days: PositiveInt = 120
    simulator_timeframe: Literal["M1", "M5", "M15", "M30", "H1"] = "M1"
    simulator_signal: Share = Field(0.0, description="Strength of the planted signal; 0: pure noise.")


class LakeSettings(BaseSettings):
    """Where tables are kept."""

    model_config = _group("FX_LAKE_")

    url: str = Field("", description="Any fsspec URL; empty: FX_HOME/lake.")


class ValidationSettings(BaseSettings):
    """When a row of market data is not believed."""

    model_config = _group("FX_VALIDATION_")

    spike_robust_z: PositiveFloat = Field(25.0, description="Robust z of a return against local volatility.")
    spike_window: PositiveInt = Field(100, description="Rows of local volatility.")
    spread_ratio_max: PositiveFloat = Field(50.0, description="Spread over its local median.")
    gap_bars_max: PositiveInt = Field(6, description="Missing base bars inside a session that make a gap.")
    quarantine_share_max: Share = Field(0.01, description="Share of bad rows above which the check blocks.")


class FeatureSettings(BaseSettings):
    """Labels and splits."""

    model_config = _group("FX_FEATURE_")

    horizon_bars: PositiveInt = Field(12, description="Forward horizon of the label, in base bars.")
    barrier_atr: PositiveFloat = Field(2.0, description="Triple-barrier width, in ATR.")
    warmup_bars: PositiveInt = Field(600, description="History before a row; recursive indicators forget in it.")


class TrainingSettings(BaseSettings):
    """How models are fitted and judged."""

    model_config = _group("FX_TRAINING_")

    seed: int = 7
    folds: Annotated[int, Field(ge=2, le=50)] = 5
    embargo_bars: Annotated[int, Field(ge=0)] = 24
    holdout_share: Annotated[float, Field(ge=0.0, lt=0.9)] = Field(
        0.15, description="Last part of history that only the release step scores."
    )
    rows_min: PositiveInt = Field(500, description="Fewest training rows a model is fitted on.")
    threads: Annotated[int, Field(ge=0)] = Field(0, description="Threads of the tree models; 0: all cores.")
    effort: Fraction = Field(
        1.0, description="Share of the training budget of networks and agents; less is for a quick look."
    )
    tuning_trials: Annotated[int, Field(ge=1, le=1_000)] = Field(
        30, description="Parameter sets of a tree family that a search tries, its own among them."
    )
    tuned: bool = Field(False, description="Whether trainings use the parameters that the search found.")


class RiskSettings(BaseSettings):
    """Sizing, limits, breakers and drawdown stages."""

    model_config = _group("FX_RISK_")

    initial_balance: PositiveFloat = 10_000.0
    account_currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] = "USD"
    leverage: PositiveFloat = 30.0
    kelly_fraction: Fraction = Field(0.25, description="Share of full Kelly that is used.")
    kelly_trades_min: PositiveInt = Field(30, description="Closed trades before Kelly's estimate is believed.")
    risk_per_trade_max: Fraction = Field(0.01, description="Equity lost at the stop, at most.")
    explore_risk: Share = Field(
        0.0025, description="Equity risked a trade on paper and in backtests while Kelly sees no edge; real: 0."
    )
    target_volatility: PositiveFloat = Field(0.10, description="Annual volatility that size is scaled to.")
    stop_atr: PositiveFloat = Field(2.0, description="Stop distance in ATR, inside the regime's stop limit.")
    target_atr: PositiveFloat = Field(3.0, description="Profit target in ATR.")
    hold_bars_max: PositiveInt = 24
    entry_score_min: Share = Field(0.10, description="Absolute combined score needed to enter.")
    valid_above: Share = Field(0.6, description="Validation score above which a decision is valid.")
    volatility_scale_min: PositiveFloat = Field(0.25, description="Least factor of size by volatility.")
    volatility_scale_max: PositiveFloat = Field(2.0, description="Largest factor of size by volatility.")
    margin_used_max: Fraction = Field(0.5, description="Margin of all positions over equity, at most.")
    currency_exposure_max: PositiveFloat = Field(
        6.0, description="Net exposure of one currency over equity, at most; of the account's currency too."
    )
    correlation_max: Share = Field(
        0.8, description="Correlation (times directions) above which positions share one regime limit."
    )
    var_max: Fraction = Field(0.05, description="One-day value at risk of all positions over equity, at 99 %.")
    cvar_max: Fraction = Field(0.06, description="One-day expected shortfall over equity, at 97.5 %.")
    drift_max: Share = Field(0.3, description="Drift of the features (0 … 1) from which the models' weight goes down.")
    drift_strong: Share = Field(0.8, description="Drift at which it is 0, and indicators alone decide.")
    daily_loss_max: Fraction = 0.03
    loss_streak_max: PositiveInt = 6
    spread_ratio_max: PositiveFloat = Field(4.0, description="Spread over its running median that blocks entries.")
    volatility_ratio_max: PositiveFloat = Field(4.0, description="Short over long volatility that blocks entries.")
    correlation_shift_max: PositiveFloat = Field(
        0.6, description="Mean change of a symbol's correlations with the others that blocks entries."
    )
    breaker_hours: PositiveFloat = Field(24.0, description="How long a tripped breaker keeps entries closed.")
    conservative_hours: Annotated[float, Field(ge=0)] = Field(
        1.0, description="How long sizes stay small after the emergency level."
    )
    conservative_scale: Fraction = Field(0.5, description="Factor of size in these hours.")
    drawdown_reduce: Fraction = 0.03
    drawdown_halve: Fraction = 0.05
    drawdown_close_only: Fraction = 0.08
    drawdown_halt: Fraction = 0.10
    combine: Literal["parallel", "hierarchical", "hybrid"] = "hybrid"

    @model_validator(mode="after")
    def _stages_ascend(self) -> Self:
        stages = (self.drawdown_reduce, self.drawdown_halve, self.drawdown_close_only, self.drawdown_halt)
        if list(stages) != sorted(set(stages)):
            raise ValueError(f"drawdown stages must ascend: reduce < halve < close_only < halt, got {stages}")
        return self

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        for low, high, strictly in _ASCENDING:
            below, above = getattr(self, low), getattr(self, high)
            if below > above or (strictly and below == above):
                raise ValueError(f"{low} is {below}, it must be below {high}, which is {above}")
        return self


_ASCENDING = (
    ("explore_risk", "risk_per_trade_max", False),
    ("volatility_scale_min", "volatility_scale_max", False),
    ("drift_max", "drift_strong", True),
)
"""Pairs of risk settings of which the first is the smaller, and whether strictly."""


class CostSettings(BaseSettings):
    """What trading costs where the data does not say."""

    model_config = _group("FX_COST_")

    commission_per_lot: Annotated[float, Field(ge=0)] = Field(3.5, description="USD a lot and side.")
    slippage_model: Literal["fixed", "spread", "volatility"] = Field(
        "fixed", description="What slippage is measured by: points, the quote's spread, or the ATR."
    )
    slippage_points: Annotated[float, Field(ge=0)] = Field(2.0, description="Adverse points a fill, if fixed.")
    slippage_spread_share: Annotated[float, Field(ge=0)] = Field(0.25, description="Adverse share of the spread.")
    slippage_atr_share: Annotated[float, Field(ge=0)] = Field(0.02, description="Adverse share of the base ATR.")


class StressSettings(BaseSettings):
    """How bad it is made: resampled paths and made shocks of a backtest."""

    model_config = _group("FX_STRESS_")

    samples: Annotated[int, Field(ge=100)] = Field(2_000, description="Resampled paths.")
    dates: PositiveInt = Field(3, description="Dates at which each shock is tried.")
    gap_atr: PositiveFloat = Field(10.0, description="Jump of the price against every open position, in ATR.")
    spread_factor: Annotated[float, Field(ge=1)] = Field(10.0, description="Spread over its median, for a day.")


class DriftSettings(BaseSettings):
    """When live rows count as drifted from those that the models learned on, and when that asks for training."""

    model_config = _group("FX_DRIFT_")

    window_days: PositiveFloat = Field(
        14.0, description="Trailing market time of recorded decisions that is looked at."
    )
    rows_max: PositiveInt = Field(20_000, description="Newest decisions of it that are looked at, at most.")
    bars_min: PositiveInt = Field(120, description="Fewest bars decided in it; with fewer nothing is told.")
    psi_min: PositiveFloat = Field(
        0.25, description="Least population stability index that counts, however quiet the training set was."
    )
    retrain_hours: PositiveFloat = Field(
        72.0,
        description="Least time after any training before drift asks for another. The strength: FX_RISK_DRIFT_STRONG.",
    )
    live_age_days: PositiveFloat = Field(
        7.0, description="Market time after which a measured drift says nothing to the live decisions any more."
    )


class ReleaseSettings(BaseSettings):
    """Who signs a release, which one a session is pinned to, and what a challenger must show before it goes live."""

    model_config = _group("FX_RELEASE_")

    signing_key: SecretStr = Field(
        SecretStr(""), description="Ed25519 private key, base64 of its 32 bytes; empty: one made in FX_HOME/keys."
    )
    verify_key: str = Field(
        "", description="Public keys that are trusted too, base64, comma-separated; alone: verify only, sign nothing."
    )
    pinned: Annotated[int, Field(ge=0)] = Field(
        0, description="Release that this session asks, whatever is live; 0: the live one."
    )
    trades_min: PositiveInt = Field(50, description="Closed trades of a challenger before anything is said of it.")
    alpha: Annotated[float, Field(gt=0, lt=0.5, allow_inf_nan=False)] = Field(
        0.05, description="Chance of a wrong verdict on a challenger, over all looks at it together."
    )
    data_age_days_max: PositiveFloat = Field(
        365.0, description="Newest row a release saw, before the source's newest bar: older is not promoted."
    )


class TritonSettings(BaseSettings):
    """Triton Inference Server."""

    model_config = _group("FX_TRITON_")

    url: str = Field("", description="host:port of a running server's gRPC; empty: start the embedded one.")
    port: Port = 0
    metrics_port: Port = 0
    deadline_ms: PositiveFloat = Field(20.0, description="Longest a decision waits for the models.")
    start_timeout_s: PositiveFloat = 60.0
    restart_within_s: PositiveFloat = Field(5.0, description="Watchdog: a dead server is back by then.")


class PostgresSettings(BaseSettings):
    """PostgreSQL: Dagster's storage, journal, releases, decisions."""

    model_config = _group("FX_POSTGRES_")

    url: SecretStr = Field(SecretStr(""), description="postgresql+psycopg2://…; empty: start the embedded one.")
    port: Port = 0
    start_timeout_s: PositiveFloat = 60.0


class RedisSettings(BaseSettings):
    """Valkey or Redis: caches shared between processes."""

    model_config = _group("FX_REDIS_")

    url: SecretStr = Field(SecretStr(""), description="redis://…; empty: start the embedded Valkey.")
    port: Port = 0


class CacheSettings(BaseSettings):
    """How long what was computed once is believed: in this process, and in the cache that processes share."""

    model_config = _group("FX_CACHE_")

    enabled: bool = Field(True, description="Whether answers, features, patterns and weights are kept at all.")
    predictions_s: PositiveFloat = Field(60.0, description="Level 1: what the models said of the very same rows.")
    features_s: PositiveFloat = Field(300.0, description="Level 2: the newest features of each symbol.")
    patterns_s: PositiveFloat = Field(3_600.0, description="Level 3: what followed each chart pattern in history.")
    weights_s: PositiveFloat = Field(86_400.0, description="Level 4: model files, by their SHA-256.")
    entries_max: PositiveInt = Field(4_096, description="Entries of a level in this process; the oldest used go first.")


class UiSettings(BaseSettings):
    """Dagster's web page."""

    model_config = _group("FX_UI_")

    port: Port = Field(0, description="0: 3000, or the next free one.")


class LiveSettings(BaseSettings):
    """The live session."""

    model_config = _group("FX_LIVE_")

    account: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,29}$")] = "paper"
    broker: Literal["paper", "mt5"] = Field(
        "paper", description="Who fills orders: the account on paper, or the broker behind a MetaTrader 5 terminal."
    )
    order_valid_s: PositiveFloat = Field(
        5.0, description="Age of a decision's data from which a real broker is not sent its order any more."
    )
    quiet_s: PositiveFloat = Field(
        30.0,
        description="Longer than the real broker's worst delay of showing what it did: how long absence must last.",
    )
    hold_after_s: PositiveFloat = Field(
        600.0, description="Doubt about an order that is older than that waits for a person; above quiet_s."
    )
    requotes_max: PositiveInt = Field(3, description="Decisions in a row that one purpose may be refused a price.")
    replay_days: PositiveFloat = Field(28.0, description="Last days of the source that the simulated terminal replays.")
    replay_speed: PositiveFloat = Field(1.0, description="Market seconds a second.")
    poll_ms: PositiveFloat = Field(5.0, description="Pause between two questions to the terminal.")
    queue_ticks_max: PositiveInt = Field(65_536, description="Bound of the tick queue; beyond it the oldest quotes go.")
    history_bars: PositiveInt = Field(1_500, description="Bars of each timeframe that a new session warms up on.")
    move_atr: PositiveFloat = Field(
        1.0, description="Move since the models were last asked, in ATR, after which they are asked again."
    )
    refresh_s: PositiveFloat = Field(1.0, description="Least market time between two questions about a symbol.")
    tape_mb_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        256.0, description="Size of a recorded stretch of the session; four are kept; 0: none is recorded."
    )
    stale_after_s: PositiveFloat = Field(120.0, description="Silence in an open market after which a symbol is stale.")
    recover_after_s: PositiveFloat = Field(60.0, description="Health needed before the fallback level rises.")
    heartbeat_s: PositiveFloat = 10.0
    heartbeat_stale_s: PositiveFloat = Field(45.0, description="Age at which the sensor relaunches the session.")
    restart_delay_s: PositiveFloat = Field(0.2, description="Pause before a dead engine is started again.")
    restarts_per_minute_max: PositiveInt = 10

    @model_validator(mode="after")
    def _doubt_outlasts_quiet(self) -> Self:
        if not self.quiet_s < self.hold_after_s:
            raise ValueError(f"hold_after_s ({self.hold_after_s:g}) must be above quiet_s ({self.quiet_s:g})")
        return self


def _one_line(text: str) -> str:
    if any(character in text for character in "\r\n\0"):
        raise ValueError("one line, please")
    return text.strip()


class ControlSettings(BaseSettings):
    """The control server: where it listens, and who may talk to it."""

    model_config = _group("FX_CONTROL_")

    host: Annotated[str, AfterValidator(_one_line)] = Field(
        "127.0.0.1", description="Address it listens on; any other than loopback needs a certificate and its key."
    )
    port: Port = Field(0, description="0: 8700, or the next free one.")
    tls_certificate: AbsolutePath | None = Field(None, description="PEM file with the certificate chain.")
    tls_key: AbsolutePath | None = Field(None, description="PEM file with the private key; only its owner reads it.")
    read_token: SecretStr = Field(SecretStr(""), description="Token with the role read, at least 32 characters.")
    operate_token: SecretStr = Field(SecretStr(""), description="Token with the role operate, at least 32 characters.")
    tokens_file: AbsolutePath | None = Field(
        None, description="File (mode 0600) of further tokens, a line each: role, name, token or sha256:digest."
    )
    metrics_open: bool = Field(False, description="Whether /metrics needs no token; on loopback only.")
    failures_per_minute_max: PositiveInt = Field(10, description="Wrong tokens of an address before it has to wait.")
    readers_max: PositiveInt = Field(64, description="Readers of the stream at once.")
    reader_queue_max: PositiveInt = Field(256, description="Messages that wait for a slow reader; older ones are lost.")
    stream_poll_s: PositiveFloat = Field(0.5, description="Pause between two looks at PostgreSQL for the stream.")


class AlertSettings(BaseSettings):
    """When a person is called, and how."""

    model_config = _group("FX_ALERT_")

    urls: SecretStr = Field(
        SecretStr(""), description="Where alerts go: Apprise URLs, separated by blanks; empty, and no file: nowhere."
    )
    urls_file: AbsolutePath | None = Field(None, description="File (mode 0600) of further such URLs, a line each.")
    every_s: PositiveFloat = Field(5.0, description="Pause between two looks.")
    emergency_s: PositiveFloat = Field(60.0, description="Time at level 4 after which a person is called.")
    disk_free_min: Fraction = Field(0.05, description="Free share of FX_HOME's disk below which a person is called.")
    reminder_s: PositiveFloat = Field(3_600.0, description="Pause before what has not cleared is told again.")
    clear_after_s: PositiveFloat = Field(60.0, description="Absence after which an alert counts as cleared.")
    per_hour_max: PositiveInt = Field(30, description="Messages an hour, at most.")


class BridgeSettings(BaseSettings):
    """The bridge to a MetaTrader 5 terminal: whom it may serve, where it listens, how long a call may take."""

    model_config = _group("FX_BRIDGE_")

    terminal: Literal["metatrader5", "simulated"] = Field(
        "metatrader5", description="The terminal of the MetaTrader5 package, or the simulated one."
    )
    terminal_path: str = Field("", description="Path of terminal64.exe; empty: the one that MetaTrader5 finds.")
    simulated_address: str = Field(
        "", description="Socket or pipe of a simulated terminal that runs; empty: the bridge starts its own."
    )
    login: Annotated[str, Field(pattern=r"^[0-9]{0,20}$")] = Field(
        "", description="Login of the account; on another the bridge refuses to start."
    )
    server: Annotated[str, Field(max_length=128)] = Field("", description="The broker's server, as the terminal says.")
    mode: Literal["demo", "real"] = Field("demo", description="What the account must be; else it refuses to start.")
    password: SecretStr = Field(SecretStr(""), description="Of the account; empty: the terminal has logged in itself.")
    symbols: str = Field("", description="The broker's names that are let through, comma-separated; empty: all.")
    aliases: str = Field("", description="The broker's names that no rule knows, comma-separated: GOLD.spot=XAUUSD.")
    folder: AbsolutePath | None = Field(None, description="Keys and locks; empty: FX_HOME/bridge.")
    host: str = Field("127.0.0.1", description="Address it listens on; any but loopback needs TLS and a token.")
    port: Port = Field(8710, description="0: a free one.")
    tls_certificate: AbsolutePath | None = Field(
        None, description="PEM file with the certificate chain; at a client: to check the bridge's against."
    )
    tls_key: AbsolutePath | None = Field(None, description="PEM file with the private key; only its owner reads it.")
    token: SecretStr = Field(SecretStr(""), description="What callers must show; at least 32 characters.")
    secrets_file: AbsolutePath | None = Field(
        None, description="File (mode 0600) with lines 'token …' and 'password …', in place of the two variables."
    )
    call_limit_s: PositiveFloat = Field(5.0, description="Longest question; then the worker is killed.")
    order_limit_s: PositiveFloat = Field(15.0, description="Longest order; then the worker is killed, it is unknown.")
    start_limit_s: PositiveFloat = Field(90.0, description="Longest start of a worker, with the terminal's.")
    heartbeat_s: PositiveFloat = Field(2.0, description="Pause between two looks at the terminal.")
    clock_error_ms: Annotated[int, Field(ge=0, le=60_000)] = Field(
        500, description="How far a sender's clock may be ahead of the bridge's."
    )
    rows_max: Annotated[int, Field(ge=1, le=250_000)] = Field(200_000, description="Most rows of one answer.")
    history_days_max: PositiveInt = Field(400, description="Longest window of one question about the past.")


class Settings(BaseSettings):
    """All settings of one installation; frozen."""

    model_config = _group("FX_")

    home: AbsolutePath = Field(default_factory=_default_home, description="Everything this project writes.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    source: SourceSettings = Field(default_factory=SourceSettings)
    lake: LakeSettings = Field(default_factory=LakeSettings)
    validation: ValidationSettings = Field(default_factory=ValidationSettings)
    feature: FeatureSettings = Field(default_factory=FeatureSettings)
    training: TrainingSettings = Field(default_factory=TrainingSettings)
    risk: RiskSettings = Field(default_factory=RiskSettings)
    cost: CostSettings = Field(default_factory=CostSettings)
    stress: StressSettings = Field(default_factory=StressSettings)
    drift: DriftSettings = Field(default_factory=DriftSettings)
    release: ReleaseSettings = Field(default_factory=ReleaseSettings)
    triton: TritonSettings = Field(default_factory=TritonSettings)
    postgres: PostgresSettings = Field(default_factory=PostgresSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    cache: CacheSettings = Field(default_factory=CacheSettings)
    ui: UiSettings = Field(default_factory=UiSettings)
    live: LiveSettings = Field(default_factory=LiveSettings)
    control: ControlSettings = Field(default_factory=ControlSettings)
    alert: AlertSettings = Field(default_factory=AlertSettings)
    bridge: BridgeSettings = Field(default_factory=BridgeSettings)

    @cached_property
    def lake_url(self) -> str:
        """Root of the lake, an fsspec URL or an absolute path; each source has its own."""
        return f"{(self.lake.url or str(self.home / 'lake')).rstrip('/')}/{self.source.kind}"

    @property
    def dagster_home(self) -> Path:
        """Dagster's own folder."""
        return self.home / "dagster"

    @property
    def model_repository(self) -> Path:
        """Triton's model repository with built versions."""
        return self.home / "triton" / "models"

    @property
    def candidates(self) -> Path:
        """Trained models that the next release is made of."""
        return self.home / "candidates" / self.source.kind

    @property
    def evaluation(self) -> Path:
        """Numbers of the newest backtest."""
        return self.home / "evaluation" / self.source.kind

    @property
    def live_state(self) -> Path:
        """The market's state and the tapes of the account's sessions."""
        return self.home / "live" / self.live.account

    @property
    def reports(self) -> Path:
        """Reports, newest under ``latest``."""
        return self.home / "reports"

    @property
    def logs(self) -> Path:
        """Log files of the servers."""
        return self.home / "logs"

    @property
    def run_folder(self) -> Path:
        """State of the running servers."""
        return self.home / "run"

    def environment(self) -> dict[str, str]:
        """Return the ``FX_…`` variables that make a child process read these same settings, secrets included."""
        return dict(_flatten(self, "FX_"))


def _flatten(group: BaseSettings, prefix: str) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name in type(group).model_fields:
        value = getattr(group, name)
        if isinstance(value, BaseSettings):
            pairs += _flatten(value, f"{prefix}{name}_".upper())
        elif value is not None:
            plain = value.get_secret_value() if isinstance(value, SecretStr) else value
            pairs.append((f"{prefix}{name}".upper(), str(plain)))
    return pairs


def variables() -> dict[str, tuple[str, Any]]:
    """Return each environment variable with its description and default."""
    return dict(_describe(Settings, "FX_"))


def _describe(group: type[BaseSettings], prefix: str) -> list[tuple[str, tuple[str, Any]]]:
    rows: list[tuple[str, tuple[str, Any]]] = []
    for name, field in group.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseSettings):
            rows += _describe(kind, f"{prefix}{name}_".upper())
        else:
            rows.append(
                (f"{prefix}{name}".upper(), (field.description or "", field.get_default(call_default_factory=True)))
            )
    return rows


def load_settings(overrides: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from the environment.

    Args:
        overrides: ``FX_…`` variables that win over the environment's, as from command-line options; they are kept in
            this process's environment, so that what reads the settings later reads the same.

    Raises:
        SettingsError: a variable is unknown, or its value is impossible; the message names it.
    """
    if overrides:
        os.environ.update(overrides)
    known = variables()
    unknown = sorted(name for name in os.environ if name.startswith("FX_") and name not in known)
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {close[0]}?" if close else "unset it; docs/settings.md lists every setting"
        raise SettingsError(f"unknown setting {unknown[0]}", mend=hint)
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(_explain(error), mend="see docs/settings.md for what it may be") from None


def _explain(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    title = error.title.removesuffix("Settings").upper()
    prefix = "FX_" if not title else f"FX_{title}_"
    field = "_".join(str(part) for part in first["loc"]).upper()
    return f"setting {prefix}{field}: {first['msg']}" if field else f"settings {prefix}…: {first['msg']}"
