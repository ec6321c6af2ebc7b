"""The sensor that keeps exactly one live session alive, and beside it one of the challenger, in shadow.

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

The first challenger has a run of its own, on :func:`fx_dagster.models.promotion.shadow_account`. It goes the same way
with these differences, by which it never disturbs the live one:

- While a person keeps the live session down, the shadow is down too; it goes on after ``fx resume``.
- It is launched only when the live one needs nothing, and a failed one no sooner than after :data:`SHADOW_PAUSE_S`.
- A run of a release that is no longer the first challenger is ended; its successor begins the tape anew.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache

import dagster as dg
import psycopg
from dagster import DagsterRunStatus, RunsFilter

from fx_dagster.errors import FxError
from fx_dagster.live_engine import tape_fingerprint
from fx_dagster.live_job import (
    ACCOUNT_TAG,
    JOB_NAME,
    LIVE_SESSION_KEY,
    PINNED_TAG,
    ROLE_TAG,
    SHADOW_ROLE_TAG,
    START_ALLOWANCE_S,
    live_trading_job,
)
from fx_dagster.models.promotion import shadow_account
from fx_dagster.settings import Settings, load_settings
from resources.live_store import KillState, LiveStore, SessionRow
from resources.market import open_source
from resources.postgres import migrate
from resources.releases import ReleaseStore

INTERVAL_S = 5
SHADOW_PAUSE_S = 60.0
"""Before a challenger's failed session is tried again: starting costs what the live session could use."""
_RUNS_LOOKED_AT = 25
_OBSERVATIONS_LOOKED_AT = 50
_ENDED_TAG = "fx/ended_by"
_SHADOW_TROUBLE = (FxError, psycopg.Error, dg.DagsterError)
_STARTING = {DagsterRunStatus.NOT_STARTED, DagsterRunStatus.STARTING}
_WAITING = {DagsterRunStatus.QUEUED, DagsterRunStatus.MANAGED}


@dataclass(frozen=True)
class RunView:
    """What matters of a run; times in seconds since 1970.

    ``pinned`` is the release that a challenger's run asks, ``ended_by_sensor`` whether no person cancelled it.
    """

    run_id: str
    status: DagsterRunStatus
    created_s: float
    started_s: float | None
    ended_s: float | None
    heartbeat_s: float | None
    pinned: int | None = None
    ended_by_sensor: bool = False

    @property
    def finished(self) -> bool:
        """Whether it is over."""
        return self.status in {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}

    @property
    def cancelled_by_a_person(self) -> bool:
        """Whether a person ended it."""
        return self.status is DagsterRunStatus.CANCELED and not self.ended_by_sensor

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
    """What to do about the runs of an account.

    Attributes:
        stale: runs to report failed.
        skip: why none is launched; empty: one is.
        wanted: whether no person keeps the account's session down.
        ended: runs to end politely.
        anew: whether what is launched begins a new session.
    """

    stale: tuple[RunView, ...]
    skip: str
    wanted: bool = True
    ended: tuple[RunView, ...] = ()
    anew: bool = False

    @property
    def launch(self) -> bool:
        """Whether to request a run."""
        return not self.skip


def judge_runs(
    runs: Sequence[RunView], kill: KillState, *, now_s: float, stale_s: float, pause_s: float = 0.0
) -> Verdict:
    """Say what the runs of one account ask for.

    Args:
        runs: newest first.
        kill: the account's kill switch.
        now_s: now, seconds since 1970.
        stale_s: age of a heartbeat from which a run counts as dead.
        pause_s: before a run that failed is replaced.
    """
    stale = tuple(run for run in runs if run.stale(now_s, stale_s))
    alive = [run for run in runs if not run.finished and run not in stale]
    if alive:
        run = alive[-1]
        heard = f", heartbeat {now_s - run.heartbeat_s:.0f} s ago" if run.heartbeat_s else ""
        said = f"run {run.run_id[:8]} is {run.status.value.lower()}{heard}"
        return Verdict(stale, said, wanted=not kill.engaged)
    if kill.engaged:
        said = f"kill switch is on ({kill.reason or 'no reason given'}): `fx resume` turns it off"
        return Verdict(stale, said, wanted=False)
    last = None if stale else max((run for run in runs if run.finished), key=lambda run: run.ended_s or 0, default=None)
    if last is not None and last.cancelled_by_a_person and not _resumed_after(kill.resumed_at, last):
        said = f"run {last.run_id[:8]} was cancelled by a person: `fx resume` starts it again"
        return Verdict(stale, said, wanted=False)
    return Verdict(stale, _pause(stale, last, now_s, pause_s))


def _pause(stale: Sequence[RunView], last: RunView | None, now_s: float, pause_s: float) -> str:
    """Say that a failed run is not replaced yet; empty: it may be, or none failed."""
    failed = stale[0] if stale else last
    if pause_s <= 0.0 or failed is None or not (stale or failed.status is DagsterRunStatus.FAILURE):
        return ""
    ago_s = 0.0 if stale else now_s - (failed.ended_s or failed.created_s)
    return "" if ago_s >= pause_s else f"run {failed.run_id[:8]} failed; the next starts in {pause_s - ago_s:.0f} s"


def judge_shadow(
    runs: Sequence[RunView], challenger: int | None, kill: KillState, *, wanted: bool, now_s: float, stale_s: float
) -> Verdict:
    """Say what the runs of the challengers ask for.

    Args:
        runs: of all challengers, newest first.
        challenger: the first of them; None: there is none.
        kill: the shadow account's kill switch; who resumed the live account has resumed this one too.
        wanted: whether no person keeps the live session down.
        now_s: now, seconds since 1970.
        stale_s: age of a heartbeat from which a run counts as dead.
    """
    asked = challenger if wanted else None
    own = [run for run in runs if run.pinned == challenger]
    verdict = judge_runs(own, kill, now_s=now_s, stale_s=stale_s, pause_s=SHADOW_PAUSE_S)
    stale = tuple(run for run in runs if run.stale(now_s, stale_s))
    others = [run for run in runs if not run.finished and run not in stale and run.pinned != asked]
    skip = verdict.skip
    if asked is None:
        skip = "no release is in shadow" if challenger is None else "the live session is kept down"
    elif others:
        skip = f"run {others[-1].run_id[:8]} of release {others[-1].pinned} is ending"
    return Verdict(
        stale, skip, verdict.wanted,
        ended=tuple(run for run in others if run.status is not DagsterRunStatus.CANCELING),
        anew=bool(runs) and runs[0].pinned != challenger,
    )  # fmt: skip


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


def _views(instance: dg.DagsterInstance, role: Mapping[str, str], beats: Mapping[str, float]) -> list[RunView]:
    """Return the newest runs with a role. Each role has a number of its own: many of one hide none of the other."""
    records = instance.get_run_records(RunsFilter(job_name=JOB_NAME, tags=dict(role)), limit=_RUNS_LOOKED_AT)
    return [
        RunView(
            run_id=record.dagster_run.run_id,
            status=record.dagster_run.status,
            created_s=record.create_timestamp.timestamp(),
            started_s=record.start_time,
            ended_s=record.end_time,
            heartbeat_s=beats.get(record.dagster_run.run_id),
            pinned=_number(record.dagster_run.tags.get(PINNED_TAG, "")),
            ended_by_sensor=_ENDED_TAG in record.dagster_run.tags,
        )
        for record in records
    ]


def _number(tag: str) -> int | None:
    return int(tag) if tag.isdecimal() else None


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
    description=(
        "Keeps exactly one live session alive, unless a person stopped it or there is nothing to trade on; and one of"
        " the challenger beside it, on an account of its own."
    ),
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
    now_s, beats = time.time(), _heartbeats(context.instance)
    runs = _views(context.instance, ROLE_TAG, beats)
    verdict = judge_runs(runs, kill, now_s=now_s, stale_s=settings.live.heartbeat_stale_s)
    for run in verdict.stale:
        _report_dead(context.instance, run, now_s)
    why_not = verdict.skip or hindrance(settings, session)
    if not why_not:
        return dg.SensorResult(run_requests=[dg.RunRequest(tags={**ROLE_TAG, ACCOUNT_TAG: settings.live.account})])
    try:
        shadow = _shadow(context.instance, settings, beats, now_s, kill=kill, wanted=verdict.wanted)
    except _SHADOW_TROUBLE as error:
        # The live session needs nothing now, and whatever this is must not keep it from being looked after.
        shadow = f"{error}"
    if isinstance(shadow, dg.RunRequest):
        return dg.SensorResult(run_requests=[shadow])
    return dg.SkipReason(f"{why_not}; shadow: {shadow}" if shadow else why_not)


def _shadow(
    instance: dg.DagsterInstance,
    settings: Settings,
    beats: Mapping[str, float],
    now_s: float,
    *,
    kill: KillState,
    wanted: bool,
) -> dg.RunRequest | str:
    """Look after the challenger's session; return what to launch, or why nothing is (empty: there is no challenger)."""
    runs = _views(instance, SHADOW_ROLE_TAG, beats)
    url = settings.postgres.url.get_secret_value()
    challenger = next(iter(ReleaseStore(url).challengers()), None)
    if challenger is None and all(run.finished for run in runs):
        return ""
    account, store = shadow_account(settings.live.account), LiveStore(url)
    held = _resumed_with(store.kill_state(account), kill)
    verdict = judge_shadow(runs, challenger, held, wanted=wanted, now_s=now_s, stale_s=settings.live.heartbeat_stale_s)
    for run in verdict.stale:
        _report_dead(instance, run, now_s)
    for run in verdict.ended:
        instance.add_run_tags(run.run_id, {_ENDED_TAG: "live_trading_sensor"})
        instance.run_coordinator.cancel_run(run.run_id)
    if not verdict.launch:
        return verdict.skip
    if verdict.anew:
        store.begin_anew(account)
    why_not = hindrance(settings, store.last_session(account))
    return why_not or dg.RunRequest(tags={**SHADOW_ROLE_TAG, ACCOUNT_TAG: account, PINNED_TAG: str(challenger)})


def _resumed_with(own: KillState, live: KillState) -> KillState:
    """Return the shadow account's kill switch as if who resumed the live one had also resumed it."""
    times = [one.resumed_at for one in (own, live) if one.resumed_at is not None]
    return replace(own, resumed_at=max(times, default=None))


def _report_dead(instance: dg.DagsterInstance, view: RunView, now_s: float) -> None:
    run = instance.get_run_by_id(view.run_id)
    if run is None or run.is_finished:
        return
    heard = max(view.created_s, view.started_s or 0.0, view.heartbeat_s or 0.0)
    instance.report_run_failed(run, f"No heartbeat for {now_s - heard:.0f} s: its process is gone or hangs.")
