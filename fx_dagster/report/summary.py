"""The summary of one run, as ``summary.json`` keeps it.

Every key has its unit in its name or its description; ``docs/report.md`` lists them all and a test keeps it in step.
Shares, returns, accuracies and drawdowns are fractions (0.01 is one percent); times are UTC in ISO 8601. What could not
be measured is ``null``, never zero, and the key beside it says why.
"""

from collections.abc import Sequence
from datetime import UTC
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from fx_dagster.errors import DataError

UtcTime = Annotated[AwareDatetime, AfterValidator(lambda time: time.astimezone(UTC))]
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Outcome = Literal["passed", "warned", "failed"]
IntervalMethod = Literal["wilson", "circular block bootstrap", "stationary block bootstrap"]
DifferenceName = Literal["net_return", "sharpe", "sortino", "max_drawdown", "win_rate"]

LEVEL_NAMES = {1: "full AI", 2: "traditional + simple AI", 3: "traditional only", 4: "emergency"}

REPORTED_PACKAGES = (
    "fx-dagster", "dagster", "numpy", "pandas", "ta-lib", "scikit-learn", "xgboost-cpu", "xgboost", "onnx",
    "onnxruntime", "tritonclient", "duckdb", "pyarrow", "pandera", "numba", "plotly",
)  # fmt: skip


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Part):
    """An interval of an estimate."""

    low: float = Field(description="Lower end, in the estimate's unit.")
    high: float = Field(description="Upper end, in the estimate's unit.")
    level: Share = Field(0.95, description="Confidence level.")
    method: IntervalMethod = Field(
        description="`wilson` takes the rows as independent; the block bootstraps keep runs of rows together."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low {self.low} lies above high {self.high}")
        return self


class Accuracy(_Part):
    """A share of right directions."""

    n: Count = Field(description="Forecasts judged.")
    value: Share | None = Field(description="Share that were right; null without any.")
    interval: Interval | None = Field(None, description="Interval of the share.")


class Latency(_Part):
    """Quantiles of a duration, in milliseconds."""

    n: Count = Field(description="Durations measured.")
    p50_ms: float | None = Field(None, description="Median; null without any measurement.")
    p90_ms: float | None = Field(None, description="90th percentile.")
    p99_ms: float | None = Field(None, description="99th percentile.")
    max_ms: float | None = Field(None, description="Longest.")


class DataSummary(_Part):
    """What came in."""

    source: str = Field(description="Name of the market source.")
    symbols: tuple[str, ...] = Field(description="Canonical symbols used.")
    left_out: dict[str, str] = Field(default_factory=dict, description="Symbols of the source not used → why.")
    base_timeframe: str = Field(description="Finest timeframe built, the source's own.")
    ticks_modelled: bool = Field(description="Whether ticks were modelled from bars, for want of real ones.")
    start: UtcTime | None = Field(None, description="First bar's opening.")
    end: UtcTime | None = Field(None, description="End of the last bar.")
    rows: dict[str, Count] = Field(
        default_factory=dict, description="Rows by table of the lake (`bars/H1`, `features`)."
    )
    quarantined: dict[str, Count] = Field(default_factory=dict, description="Rows put aside, by reason.")


class CheckOutcome(_Part):
    """One asset check."""

    asset: str = Field(description="Asset that was checked.")
    name: str = Field(description="Name of the check.")
    outcome: Outcome = Field(description="`warned` is a failure of severity WARN, which stops nothing.")
    symbol: str = Field("", description="Partition's symbol, where the check has one.")
    detail: str = Field("", description="What was found, in one line.")


class ChecksSummary(_Part):
    """All asset checks of the run."""

    passed: Count = Field(description="Checks that passed.")
    warned: Count = Field(description="Checks that failed with severity WARN.")
    failed: Count = Field(description="Checks that failed with severity ERROR.")
    results: tuple[CheckOutcome, ...] = Field((), description="Every check, failed ones first.")

    @classmethod
    def of(cls, results: Sequence[CheckOutcome]) -> Self:
        """Count the outcomes and order the results, failed ones first."""
        order: dict[str, int] = {"failed": 0, "warned": 1, "passed": 2}
        ordered = sorted(results, key=lambda result: (order[result.outcome], result.asset, result.name, result.symbol))
        count = {outcome: sum(result.outcome == outcome for result in ordered) for outcome in order}
        return cls(passed=count["passed"], warned=count["warned"], failed=count["failed"], results=tuple(ordered))


class ModelSummary(_Part):
    """One model, judged on rows that it was not fitted on."""

    name: str = Field(description="Model.")
    accuracy: Accuracy = Field(description="Out-of-sample share of right directions over all bars.")
    majority_class: Share = Field(description="Accuracy of always naming the commoner direction, known by hindsight.")
    always_up: Share = Field(description="Accuracy of always saying up: the share of rising bars.")
    break_even: float | None = Field(
        None, description="Accuracy at which trading every bar pays its costs: 0.5 + mean cost / (2 × mean |return|)."
    )
    log_loss: float = Field(description="Mean negative log-likelihood, in nats; less is better.")
    log_loss_base_rate: float = Field(description="Log-loss of always forecasting the share of rising bars.")
    brier: float = Field(description="Mean squared error of the probability; less is better, 0.25 is a coin.")


class Performance(_Part):
    """One strategy over the backtest."""

    net_return: float = Field(description="Final over initial equity, less one, after all costs.")
    sharpe: float | None = Field(None, description="Annualised Sharpe ratio of the equity's returns.")
    sortino: float | None = Field(None, description="Annualised Sortino ratio.")
    max_drawdown: Annotated[float, Field(ge=0)] = Field(
        description="Deepest fall of equity from its peak, as a positive fraction of the peak."
    )
    win_rate: Share | None = Field(None, description="Share of closed trades with a net profit; null without trades.")
    trades: Count = Field(description="Closed trades.")
    costs: float = Field(description="Spread, commission, slippage and swap paid, in the account's currency.")


class Difference(_Part):
    """AI-assisted less traditional, on the same bars."""

    metric: DifferenceName = Field(description="Key of `backtest.system` that is compared.")
    value: float = Field(description="System less control, in that key's unit.")
    interval: Interval | None = Field(None, description="Paired interval: both strategies resampled together.")


class BacktestSummary(_Part):
    """The AI-assisted system against the traditional control, after costs."""

    start: UtcTime = Field(description="First bar.")
    end: UtcTime = Field(description="End of the last bar.")
    initial_balance: float = Field(description="In the account's currency.")
    currency: str = Field(description="The account's currency.")
    system: Performance = Field(description="The AI-assisted system.")
    control: Performance = Field(description="The traditional control: indicators only, the same risk rules and costs.")
    differences: tuple[Difference, ...] = Field((), description="System less control.")
    traded: Accuracy | None = Field(
        None, description="Directional accuracy on the bars that the system chose to trade."
    )
    coverage: Share | None = Field(None, description="Share of bars that the system chose to trade.")


class LevelCount(_Part):
    """Decisions at one fallback level."""

    level: Annotated[int, Field(ge=1, le=4)] = Field(description="1 full AI … 4 emergency.")
    name: str = Field(description="The level's name.")
    decisions: Count = Field(description="Decisions made at it.")
    share: Share = Field(description="Share of all decisions.")
    reasons: dict[str, Count] = Field(default_factory=dict, description="Why the level was taken → decisions.")


class KillDrill(_Part):
    """Triton killed on purpose in the middle of the session; wall-clock times."""

    killed_at: UtcTime = Field(description="When the server was killed.")
    lower_at: UtcTime | None = Field(
        None, description="First decision after it, at a lower level; null: there was none."
    )
    lower_level: int | None = Field(None, description="That decision's level.")
    lower_latency_ms: float | None = Field(None, description="That decision's end-to-end latency.")
    late: Count = Field(
        0, description="Decisions between the kill and that one that still used the models; 0 is right."
    )
    server_back_at: UtcTime | None = Field(None, description="When the server answered again; null: not seen.")
    level_back_at: UtcTime | None = Field(None, description="First decision at the former level again; null: not seen.")

    @property
    def server_away_s(self) -> float | None:
        """Seconds from the kill to the server's first answer."""
        return None if self.server_back_at is None else (self.server_back_at - self.killed_at).total_seconds()

    @property
    def level_lower_s(self) -> float | None:
        """Seconds from the kill to the first decision at the former level."""
        return None if self.level_back_at is None else (self.level_back_at - self.killed_at).total_seconds()


class LiveSummary(_Part):
    """The live session."""

    start: UtcTime = Field(description="Wall-clock start of the session.")
    end: UtcTime = Field(description="Wall-clock end, or time of the last heartbeat.")
    market_start: UtcTime | None = Field(None, description="Market time of the first tick.")
    market_end: UtcTime | None = Field(None, description="Market time of the last tick.")
    ticks: Count = Field(description="Ticks taken in.")
    decisions: Count = Field(description="Decisions recorded.")
    levels: tuple[LevelCount, ...] = Field((), description="Decisions by fallback level.")
    trades: Count = Field(0, description="Closed paper trades.")
    net_return: float | None = Field(None, description="Of the paper account.")
    end_to_end: Latency = Field(description="Arrival of the tick that closed the bar → end of the decision.")
    model_call: Latency = Field(description="The session's own calls of the models, as the engine waited for them.")
    bare_call: Latency = Field(
        description="The same request sent to Triton by itself, nothing else running: the floor."
    )
    uptime: Share | None = Field(
        None, description="Share of the time in which its market was open that the engine could decide."
    )
    kill_drill: KillDrill | None = Field(None, description="Null: no server was killed in this session.")


class Measure(_Part):
    """A success measure against its target. Targets are shown, never tuned to."""

    name: str = Field(description="What is measured.")
    value: float | None = Field(description="Null: not measurable.")
    unit: Literal["fraction", "points", "ms", "ratio"] = Field(
        description="`points`: percentage points, written as a fraction (0.05 is five points); `ratio`: a plain number."
    )
    interval: Interval | None = Field(None, description="Interval of the value.")
    target: str = Field(description="The target, in words.")
    met: bool | None = Field(description="Null: not measurable.")
    why: str = Field("", description="Why it is not met or not measurable, or what to mind.")


class Versions(_Part):
    """What exactly ran."""

    release: int | None = Field(None, description="Number of the model release; null: none was made.")
    feature_hash: str = Field(description="Hash of the feature catalogue.")
    python: str = Field("", description="Python's version.")
    triton: str = Field("", description="Triton Inference Server's version; empty: it did not run.")
    packages: dict[str, str] = Field(default_factory=dict, description="Python package → version.")


class Step(_Part):
    """How long a step took."""

    name: str = Field(description="Step.")
    seconds: Annotated[float, Field(ge=0)] = Field(description="Wall-clock seconds.")


class Places(_Part):
    """Where things are."""

    folder: str = Field(description="This report's folder.")
    html: str = Field(description="The page for a person.")
    ui_command: str = Field(description="Command that starts Dagster's UI.")
    ui_url: str = Field("", description="Where the UI answers now; empty: it does not run.")


class Summary(_Part):
    """Everything that ``summary.json`` holds."""

    schema_version: Literal[1] = Field(1, description="Rises when a key changes its meaning or goes.")
    created: UtcTime = Field(description="When the summary was made.")
    command: str = Field("fx demo", description="What was run.")
    data: DataSummary = Field(description="What came in.")
    checks: ChecksSummary = Field(description="Asset checks.")
    models: tuple[ModelSummary, ...] = Field((), description="Out-of-sample quality by model.")
    backtest: BacktestSummary | None = Field(None, description="System against control; null: not run.")
    live: LiveSummary | None = Field(None, description="The live session; null: there was none.")
    measures: tuple[Measure, ...] = Field((), description="Success measures against their targets.")
    versions: Versions = Field(description="What exactly ran.")
    timings: tuple[Step, ...] = Field((), description="Steps in the order they ran.")
    places: Places = Field(description="Where things are.")

    @property
    def total_s(self) -> float:
        """Seconds of all steps together."""
        return sum(step.seconds for step in self.timings)


def level_counts(levels: Sequence[int], reasons: Sequence[str]) -> tuple[LevelCount, ...]:
    """Count decisions by level and reason; levels nobody took are left out, reasons are ordered by frequency."""
    counts: dict[int, dict[str, int]] = {}
    for level, reason in zip(levels, reasons, strict=True):
        by_reason = counts.setdefault(int(level), {})
        by_reason[reason] = by_reason.get(reason, 0) + 1
    return tuple(
        LevelCount(
            level=level,
            name=LEVEL_NAMES[level],
            decisions=sum(counts[level].values()),
            share=sum(counts[level].values()) / len(levels),
            reasons=dict(sorted(counts[level].items(), key=lambda item: (-item[1], item[0]))),
        )
        for level in sorted(counts)
    )


def package_versions(names: Sequence[str] = REPORTED_PACKAGES) -> dict[str, str]:
    """Return the installed versions of those packages; what is not installed is left out."""
    found: dict[str, str] = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def read_summary(path: Path) -> Summary:
    """Read a ``summary.json``.

    Raises:
        DataError: the file is missing, is not JSON, or breaks the schema; the message names the key.
    """
    try:
        return Summary.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", mend="run fx demo first") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{path}: {key or 'file'}: {first['msg']}", mend="run fx demo again") from None
