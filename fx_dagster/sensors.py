"""The sensor that keeps exactly one live session alive.

==============================================  ====================================================================
what it finds                                   what it does
==============================================  ====================================================================
a run whose heartbeat is fresh                  nothing
a run whose heartbeat is stale                  reports it failed (its processes are gone or hang), launches another
no run, or the last one failed                  launches one
the last one was cancelled by a person          stays down until ``fx resume``
kill switch on                                  stays down until ``fx resume``
the session's tape is over                      stays down until ``fx resume --restart`` begins a new session
no data to trade on                             stays down, says why
==============================================  ====================================================================

There is no ``run_key``: a constant one would be skipped for ever after the first failure. Should two runs start all the
same, the second engine finds the account taken and ends without having taken a tick.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

import dagster as dg
import psycopg
from dagster import DagsterRunStatus, RunsFilter

from fx_dagster.errors import FxError
from fx_dagster.live_engine import tape_fingerprint
from fx_dagster.live_job import JOB_NAME, LIVE_SESSION_KEY, ROLE_TAG, START_ALLOWANCE_S, live_trading_job
from fx_dagster.settings import Settings, load_settings
from resources.live_store import KillState, LiveStore, SessionRow
from resources.market import open_source
from resources.postgres import migrate

INTERVAL_S = 5
_RUNS_LOOKED_AT = 25
_OBSERVATIONS_LOOKED_AT = 25
_STARTING = {DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING}
_WAITING = {DagsterRunStatus.QUEUED, DagsterRunStatus.MANAGED}


@dataclass(frozen=True)
class RunView:
    """What matters of a run; times in seconds since 1970."""

    run_id: str
    status: DagsterRunStatus
    created_s: float
    started_s: float | None
    ended_s: float | None
    heartbeat_s: float | None

    @property
    def finished(self) -> bool:
        """Whether it is over."""
        return self.status in {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

    def stale(self, now_s: float, stale_s: float) -> bool:
        """Whether nothing has been heard of it for too long. A queued run waits for its turn and is never stale."""
        if self.finished or self.status in _WAITING:
            return False
        if self.status in _STARTING:
            return now_s - self.created_s > START_ALLOWANCE_S
        heard = max(self.created_s, self.started_s or 0.0, self.heartbeat_s or 0.0)
        return now_s - heard > stale_s


@dataclass(frozen=True)
class Verdict:
    """What to do: runs to report failed, and either launch or the reason not to."""

    stale: tuple[RunView, ...]
    skip: str

    @property
    def launch(self) -> bool:
        """Whether to request a run."""
        return not self.skip


def judge_runs(runs: Sequence[RunView], kill: KillState, *, now_s: float, stale_s: float) -> Verdict:
    """Say what the runs of the live job ask for.

    Args:
        runs: newest first.
        kill: the account's kill switch.
        now_s: now, seconds since 1970.
        stale_s: age of a heartbeat from which a run counts as dead.
    """
    stale = tuple(run for run in runs if run.stale(now_s, stale_s))
    alive = [run for run in runs if not run.finished and run not in stale]
    if alive:
        run = alive[-1]
        heard = f", heartbeat {now_s - run.heartbeat_s:.0f} s ago" if run.heartbeat_s else ""
        return Verdict(stale, f"run {run.run_id[:8]} is {run.status.value.lower()}{heard}")
    if kill.engaged:
        return Verdict(stale, f"kill switch is on ({kill.reason or 'no reason given'}): `fx resume` turns it off")
    last = None if stale else max((run for run in runs if run.finished), key=lambda run: run.ended_s or 0, default=None)
    if last is not None and last.status is DagsterRunStatus.CANCELED and not _resumed_after(kill.resumed_at, last):
        return Verdict(stale, f"run {last.run_id[:8]} was cancelled by a person: `fx resume` starts it again")
    return Verdict(stale, "")


def _resumed_after(resumed_at: datetime | None, run: RunView) -> bool:
    return resumed_at is not None and resumed_at.timestamp() > (run.ended_s or run.created_s)


def hindrance(settings: Settings, session: SessionRow | None) -> str:
    """Say why a session cannot run although nobody stopped it; empty: it can.

    Reads the source, so it is asked only when everything else speaks for a launch.
    """
    if session is not None and session.finished and session.fingerprint == tape_fingerprint(settings):
        return f"session {session.session_id} is finished: its tape is over; `fx resume --restart` begins a new one"
    try:
        source = open_source(settings.source)
        if not source.symbols():
            return f"source {settings.source.kind} has no usable symbol"
    except FxError as error:
        return f"no data: {error}"
    return ""


def _views(instance: dg.DagsterInstance) -> list[RunView]:
    records = instance.get_run_records(RunsFilter(job_name=JOB_NAME), limit=_RUNS_LOOKED_AT)
    beats = _heartbeats(instance)
    return [
        RunView(
            run_id=record.dagster_run.run_id,
            status=record.dagster_run.status,
            created_s=record.create_timestamp.timestamp(),
            started_s=record.start_time,
            ended_s=record.end_time,
            heartbeat_s=beats.get(record.dagster_run.run_id),
        )
        for record in records
    ]


def _heartbeats(instance: dg.DagsterInstance) -> Mapping[str, float]:
    records = instance.fetch_observations(LIVE_SESSION_KEY, limit=_OBSERVATIONS_LOOKED_AT).records
    beats: dict[str, float] = {}
    for record in records:
        beats[record.run_id] = max(record.timestamp, beats.get(record.run_id, 0.0))
    return beats


@lru_cache(maxsize=4)
def _migrated(url: str) -> bool:
    migrate(url)
    return True


@dg.sensor(
    job=live_trading_job,
    minimum_interval_seconds=INTERVAL_S,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps exactly one live session alive, unless a person stopped it or there is nothing to trade on.",
)
def live_trading_sensor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Look at the runs, the heartbeat and the kill switch; launch, or say why not."""
    settings = load_settings()
    url = settings.postgres.url.get_secret_value()
    if not url:
        return dg.SkipReason("FX_POSTGRES_URL is not set: the live session needs PostgreSQL; `fx up` starts it")
    try:
        _migrated(url)
        store = LiveStore(url)
        kill = store.kill_state(settings.live.account)
        session = store.last_session(settings.live.account)
    except (FxError, psycopg.Error) as error:
        return dg.SkipReason(f"the journal cannot be read: {error}")
    now_s = time.time()
    verdict = judge_runs(_views(context.instance), kill, now_s=now_s, stale_s=settings.live.heartbeat_stale_s)
    for run in verdict.stale:
        _report_dead(context.instance, run, now_s)
    why_not = verdict.skip or hindrance(settings, session)
    if why_not:
        return dg.SkipReason(why_not)
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={**ROLE_TAG, "fx/account": settings.live.account})])


def _report_dead(instance: dg.DagsterInstance, view: RunView, now_s: float) -> None:
    run = instance.get_run_by_id(view.run_id)
    if run is None or run.is_finished:
        return
    heard = max(view.created_s, view.started_s or 0.0, view.heartbeat_s or 0.0)
    instance.report_run_failed(run, f"No heartbeat for {now_s - heard:.0f} s: its process is gone or hangs.")
