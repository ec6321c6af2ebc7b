"""The sensor that asks for training where what the models learned on is no longer what they see.

===============================================  ===================================================================
what it finds                                    what it does
===============================================  ===================================================================
a training run that waits or runs                nothing
no check as strong as FX_RISK_DRIFT_STRONG       nothing
such a check, but from before the last training  nothing: the next evaluation tells whether that training helped
the last training less than                      nothing: what training cannot mend must not make it train for ever
FX_DRIFT_RETRAIN_HOURS ago
otherwise                                        asks for a run of ``training_job``, tagged with the reason
===============================================  ===================================================================

It is any training that counts, the weekly one too, and one that failed.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from assets.drift import DRIFT, DRIFT_CHECKS
from fx_dagster.jobs import training_job
from fx_dagster.settings import load_settings

INTERVAL_S = 300
REASON_TAG = "fx/reason"
REASON_MAX = 200
_RUNS_LOOKED_AT = 25
_FINISHED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}


@dataclass(frozen=True)
class DriftView:
    """The newest evaluation of a drift check; ``drift`` in 0 … 1, ``at_s`` in seconds since 1970."""

    check: str
    drift: float
    said: str
    at_s: float


@dataclass(frozen=True)
class TrainingView:
    """What matters of a run of the training job; times in seconds since 1970."""

    run_id: str
    status: DagsterRunStatus
    created_s: float
    ended_s: float | None

    @property
    def last_s(self) -> float:
        """When it ended, or else began."""
        return self.ended_s or self.created_s


@dataclass(frozen=True)
class Plea:
    """Either a reason to train or one not to."""

    reason: str = ""
    skip: str = ""


def judge_drift(
    checks: Sequence[DriftView], runs: Sequence[TrainingView], *, now_s: float, strong: float, hours: float
) -> Plea:
    """Say whether drift asks for training.

    Args:
        checks: newest evaluation of each drift check that was ever evaluated.
        runs: newest runs of the training job, in any order.
        now_s: now, seconds since 1970.
        strong: drift from which training is asked for.
        hours: least time since any training.
    """
    going_on = [run for run in runs if run.status not in _FINISHED]
    if going_on:
        return Plea(skip=f"training run {going_on[0].run_id[:8]} is {going_on[0].status.value.lower()}")
    worst = max((view for view in checks if view.drift >= strong), key=lambda view: view.drift, default=None)
    if worst is None:
        highest = max((view.drift for view in checks), default=0.0)
        return Plea(skip=f"drift is {highest:.2f}, training is asked for from {strong:g}")
    last_s = max((run.last_s for run in runs), default=0.0)
    since_h = (now_s - last_s) / 3600
    if since_h < hours:
        return Plea(
            skip=f"{worst.check}: {worst.drift:.2f}, but the last training was {since_h:.1f} h ago, not {hours:g}"
        )
    if worst.at_s <= last_s:
        return Plea(skip=f"{worst.check} was evaluated before the last training: the next evaluation tells more")
    return Plea(reason=f"{worst.check} ({worst.drift:.2f}): {worst.said}"[:REASON_MAX])


@dg.sensor(
    job=training_job,
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for training when features or predictions have drifted far from what the models learned on.",
)
def drift_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Look at the drift checks and at the training runs; ask for one, or say why not."""
    settings = load_settings()
    plea = judge_drift(
        drift_views(context.instance),
        training_views(context.instance),
        now_s=time.time(),
        strong=settings.risk.drift_strong,
        hours=settings.drift.retrain_hours,
    )
    if plea.skip:
        return dg.SkipReason(plea.skip)
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={REASON_TAG: plea.reason})])


def drift_views(instance: dg.DagsterInstance) -> list[DriftView]:
    """Return the newest evaluation of each drift check that has one."""
    views = []
    for key in (key for check in DRIFT_CHECKS for key in check.check_keys):
        record = instance.get_latest_asset_check_evaluation_record(key)
        found = record.event.asset_check_evaluation if record and record.event else None
        if record is not None and found is not None and DRIFT in found.metadata:
            drift = float(str(found.metadata[DRIFT].value))
            views.append(DriftView(key.name, drift, found.description or "", record.create_timestamp))
    return views


def training_views(instance: dg.DagsterInstance) -> list[TrainingView]:
    """Return the newest runs of the training job."""
    records = instance.get_run_records(RunsFilter(job_name=training_job.name), limit=_RUNS_LOOKED_AT)
    return [
        TrainingView(
            record.dagster_run.run_id, record.dagster_run.status, record.create_timestamp.timestamp(), record.end_time
        )
        for record in records
    ]
