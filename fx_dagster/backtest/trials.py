"""Trials: every training and every backtest that was made.

The best of many backtests looks good by luck alone; how good depends on how many there were. Each materialisation is
therefore recorded by itself, and these rules say what counts (:mod:`fx_dagster.backtest.trial_review` weighs it):

- The same materialisation (run, kind and asset) is one record, however often it is recorded.
- The same configuration over the same span of data is one trial, however often it is materialised.
- A training counts through the backtests that replay it. One that no backtest ever replayed was looked at as well: each
  such configuration is one more trial.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from fx_dagster.backtest.metrics import daily_returns
from fx_dagster.backtest.result import BacktestResult
from fx_dagster.decision.config import StepConfig
from fx_dagster.decision.rows import Float64, Int64
from fx_dagster.models.protocol import ModelCard
from fx_dagster.settings import RiskSettings, Settings

NOT_RECORDED = "not recorded: no PostgreSQL here (FX_POSTGRES_URL is empty)"
"""What is said of a trial that no ledger keeps."""


_JUDGEMENTS = ("out_of_fold", "holdout")
"""What a model's card says of rows that the model had not seen."""


class TrialKind(StrEnum):
    """What was tried."""

    TRAINING = "training"
    BACKTEST = "backtest"


@dataclass(frozen=True)
class Origin:
    """What was materialised where, and from what.

    Attributes:
        asset: name of the asset.
        run_id: Dagster's run.
        source: name of the market source.
        symbols: canonical symbols.
        timeframe: base timeframe.
        feature_hash: hash of the feature catalogue.
    """

    asset: str
    run_id: str
    source: str
    symbols: tuple[str, ...]
    timeframe: str
    feature_hash: str


@dataclass(frozen=True)
class Daily:
    """A backtest by trading day; ``[days]`` each.

    Attributes:
        day: numbers of the trading days, ascending; they turn at 17:00 New York.
        system: the system's returns, fractions.
        control: those of its traditional control: the same settings without any model.
    """

    day: Int64
    system: Float64
    control: Float64


NO_DAYS = Daily(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))
"""A training has none."""


@dataclass(frozen=True)
class Trial:
    """One materialised training or backtest.

    Attributes:
        kind: what it was.
        origin: of what, and where.
        configuration: what decides its outcome beside the data; plain JSON values.
        start: first time of the data, ns UTC.
        end: last time of the data, ns UTC.
        metrics: what came of it; plain JSON values, None where undefined.
        fingerprint: of the configuration.
        trainings: fingerprints of the trainings that a backtest replays.
        daily: of a backtest.
    """

    kind: TrialKind
    origin: Origin
    configuration: Mapping[str, Any]
    start: int
    end: int
    metrics: Mapping[str, Any]
    fingerprint: str
    trainings: tuple[str, ...] = ()
    daily: Daily = NO_DAYS

    @property
    def identity(self) -> tuple[str, str, int, int]:
        """What makes it one trial: the same configuration on the same data is the same trial."""
        return self.kind, self.fingerprint, self.start, self.end


def fingerprint(configuration: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a configuration of plain JSON values, whatever their order."""
    text = json.dumps(configuration, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def training_trial(origin: Origin, card: ModelCard, settings: Settings, *, start: int, end: int) -> Trial:
    """Return the trial that a training is.

    Args:
        origin: of the model's asset.
        card: of the fitted model, with its judgements.
        settings: of this installation; how many threads fitted it decides nothing.
        start: first row's time, ns UTC.
        end: when the last label was known, ns UTC.
    """
    configuration = {
        "family": card.name,
        "symbols": list(origin.symbols),
        "feature_hash": card.feature_hash,
        # A parameter that is the number of rows follows the data, which the span names.
        "parameters": {name: value for name, value in card.parameters.items() if value != card.rows},
        "validation": settings.validation.model_dump(mode="json"),
        "feature": settings.feature.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude={"threads", "tuned", "tuning_trials"}),
    }
    return Trial(
        kind=TrialKind.TRAINING,
        origin=origin,
        configuration=configuration,
        start=start,
        end=end,
        metrics=_plain({name: card.metrics[name] for name in _JUDGEMENTS if name in card.metrics}),
        fingerprint=fingerprint(configuration),
    )


def backtest_trial(
    origin: Origin, system: BacktestResult, control: BacktestResult, config: StepConfig, risk: RiskSettings, *,
    resume_after_hours: float, trainings: Mapping[str, str], start: int,
) -> Trial:  # fmt: skip
    """Return the trial that a backtest is.

    Args:
        origin: of the backtest's asset.
        system: its result.
        control: that of its control, over the same bars.
        config: the system's configuration of the step: all of risk and cost settings that decides.
        risk: of the account.
        resume_after_hours: see :func:`fx_dagster.backtest.replay.replay`.
        trainings: fingerprint of the training behind the predictions by model family; empty where it is unknown.
        start: first bar's opening, ns UTC.
    """
    configuration = {
        "symbols": list(origin.symbols),
        "feature_hash": origin.feature_hash,
        "trainings": dict(trainings),
        "step": config._asdict(),
        "account": risk.model_dump(mode="json", include={"initial_balance", "leverage", "account_currency"}),
        "resume_after_hours": resume_after_hours,
    }
    return Trial(
        kind=TrialKind.BACKTEST,
        origin=origin,
        configuration=configuration,
        start=start,
        end=int(system.equity["time"].iloc[-1]),
        metrics=_plain({"system": system.metrics, "control": control.metrics}),
        fingerprint=fingerprint(configuration),
        trainings=tuple(one for one in trainings.values() if one),
        daily=_daily(system, control),
    )


def _daily(system: BacktestResult, control: BacktestResult) -> Daily:
    (day, returns), (_, beside) = (
        daily_returns(one.equity["time"].to_numpy(np.int64), one.equity["equity"].to_numpy(), one.initial_balance)
        for one in (system, control)
    )
    return Daily(day, returns, beside)


def _plain(value: Any) -> Any:
    """Return JSON values; None for a number that is not finite."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def counted(trials: Iterable[Trial]) -> list[Trial]:
    """Return what counts as trials, each as it was recorded last, the newest last.

    Args:
        trials: as recorded, the newest last.
    """
    kept: dict[tuple[str, str, int, int], Trial] = {}
    for trial in trials:
        kept.pop(trial.identity, None)
        kept[trial.identity] = trial
    return list(kept.values())
