"""The live session as a Dagster job: one op that supervises one engine process for as long as the session lasts.

The job is launched by ``live_trading_sensor`` and by nobody's schedule. It has no retries and no longest run time: the
sensor decides whether a dead session comes back. While it runs it observes the asset ``live_session`` every few
seconds; that observation is the heartbeat that the sensor reads, and what a person sees in the page.

A challenger's session, in shadow, is a run of the same job: its tags name its account and the release that it asks.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg
import psycopg
import sqlalchemy.exc
from dagster_postgres.utils import DagsterPostgresException

from fx_dagster.errors import FencedError, ServerError
from fx_dagster.live.supervisor import Outcome, Supervisor, SupervisorNews
from fx_dagster.models.promotion import SHADOW_SUFFIX
from fx_dagster.settings import Settings, load_settings
from resources.live_store import LiveStore, StatusRow
from resources.servers.process import ManagedProcess, child_environment, spawn
from resources.standby import Standby

JOB_NAME = "live_trading_job"
ROLE_TAG = {"fx/role": "live"}
SHADOW_ROLE_TAG = {"fx/role": "shadow"}
"""Of a challenger's run, in place of the job's own: the instance's limit of one live session does not count it."""
ACCOUNT_TAG, PINNED_TAG = "fx/account", "fx/pinned"
_TAGGED = {ACCOUNT_TAG: "FX_LIVE_ACCOUNT", PINNED_TAG: "FX_RELEASE_PINNED"}
START_ALLOWANCE_S = 180.0
"""Until its first heartbeat an engine may take this long: imports, history, and the compilation of the core after an
update, which took up to 100 s on two busy cores. Shorter, it would be ended and begin to compile anew, for ever."""

LIVE_SESSION_KEY = dg.AssetKey("live_session")

live_session = dg.AssetSpec(
    LIVE_SESSION_KEY,
    group_name="live",
    kinds={"python", "postgres"},
    description=(
        "The live session: ticks in, one decision per closed bar, journalled orders out. Not materialized: the live job"
        " observes it every few seconds while it runs. Decisions, orders and deals are in PostgreSQL (schema fx)."
    ),
    metadata={"cadence": "continuous", "storage": "PostgreSQL: fx.decision, fx.trade_order, fx.deal, fx.account_state"},
)

_log = logging.getLogger(__name__)

# What the database being away looks like from here. The engine goes on protecting; so must its supervisor.
_AWAY = (ServerError, psycopg.Error, sqlalchemy.exc.SQLAlchemyError, DagsterPostgresException)


class Heartbeat:
    """Observes the live session for one run, and notices an engine that hangs or a run that was given up.

    Args:
        settings: intervals and account.
        store: reads the engine's own heartbeat.
        observe: writes an observation.
        run_is_over: whether somebody else ended this run's record.
    """

    def __init__(
        self,
        settings: Settings,
        store: LiveStore,
        *,
        observe: Callable[[dict[str, Any]], None],
        run_is_over: Callable[[], bool],
    ) -> None:
        self._live = settings.live
        self._asked = settings.release.pinned
        self._store = store
        self._observe = observe
        self._run_is_over = run_is_over
        self._next_s = 0.0
        self._seen_starts = 0
        self._started_s = 0.0

    def __call__(self, news: SupervisorNews) -> bool:
        """Do what is due; False: the engine hangs.

        Raises:
            FencedError: this run was reported failed, so that another may be running by now.
        """
        now = time.monotonic()
        if news.starts != self._seen_starts:
            self._seen_starts, self._started_s, self._next_s = news.starts, now, now
        if now < self._next_s:
            return True
        self._next_s = now + self._live.heartbeat_s
        try:
            if self._run_is_over():
                raise FencedError("this run was reported as failed while it ran", mend="the sensor started another")
            status = self._store.status(self._live.account)
            alive = self._alive(status, news, now)
            if alive:
                self._observe(self._metadata(status if _is_of(status, news) else None, news))
        except _AWAY as error:
            _log.warning("no heartbeat: %s", error)
            return True
        return alive

    def _alive(self, status: StatusRow | None, news: SupervisorNews, now: float) -> bool:
        if not _is_of(status, news):
            return now - self._started_s < START_ALLOWANCE_S
        return status is not None and status.age_s < self._live.heartbeat_stale_s

    def _metadata(self, status: StatusRow | None, news: SupervisorNews) -> dict[str, Any]:
        told = {"account": self._live.account, **({"pinned_release": self._asked} if self._asked else {})}
        return {**told, **_metadata(status, news)}


def _is_of(status: StatusRow | None, news: SupervisorNews) -> bool:
    return status is not None and status.pid == news.pid


def _metadata(status: StatusRow | None, news: SupervisorNews) -> dict[str, Any]:
    shown: dict[str, Any] = {"engine_pid": news.pid or 0, "engine_starts": news.starts}
    if news.last_exit:
        shown["engine_last_exit"] = news.last_exit
    if status is None:
        return {**shown, "state": "starting"}
    plain = (bool, int, float, str)
    flat = {name: value for name, value in status.status.items() if isinstance(value, plain)}
    flat.setdefault("drift", "unknown")
    nested = {name: dg.MetadataValue.json(value) for name, value in status.status.items() if isinstance(value, dict)}
    return {**shown, "session_id": status.session_id, **flat, **nested}


def tagged_settings(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the settings, as ``FX_…`` variables, that a run's tags lay over those of the environment."""
    return {variable: tags[tag] for tag, variable in _TAGGED.items() if tag in tags}


def engine_starter(settings: Settings) -> Callable[[], ManagedProcess]:
    """Return a function that starts an engine, in a process that waits to be told and dies with this one."""
    log = "live-shadow.log" if settings.live.account.endswith(SHADOW_SUFFIX) else "live.log"

    def start() -> ManagedProcess:
        return spawn(
            [sys.executable, "-m", "fx_dagster.live_engine", "--standby"],
            env=child_environment(settings),
            log=settings.logs / log,
            name="live engine",
            listens=True,
        )

    return start


@dg.op(name="live_session", description="Supervise the engine until the session is over; heartbeat while it lives.")
def supervise_live_session(context: dg.OpExecutionContext) -> None:
    """Keep one engine alive. Every way out, also by a person's cancelling, ends it first."""
    settings = load_settings(tagged_settings(context.run.tags))
    store = LiveStore(settings.postgres.url.get_secret_value())

    def observe(metadata: dict[str, Any]) -> None:
        context.log_event(dg.AssetObservation(asset_key=LIVE_SESSION_KEY, metadata=metadata))

    def run_is_over() -> bool:
        run = context.instance.get_run_by_id(context.run_id)
        return run is None or run.is_finished

    standby = Standby(engine_starter(settings))
    supervisor = Supervisor(
        standby,
        restart_delay_s=settings.live.restart_delay_s,
        restarts_per_minute_max=settings.live.restarts_per_minute_max,
        on_tick=Heartbeat(settings, store, observe=observe, run_is_over=run_is_over),
    )
    try:
        outcome = supervisor.run()
    finally:
        standby.close()
    if outcome is Outcome.FENCED:
        raise dg.Failure(
            f"account {settings.live.account} is traded by another engine; this one took no tick", allow_retries=False
        )


@dg.job(
    name=JOB_NAME,
    executor_def=dg.in_process_executor,
    tags=ROLE_TAG,
    description="The live trading session. Started and kept alive by live_trading_sensor; to stop it, cancel the run.",
)
def live_trading_job() -> None:
    """Run the live session."""
    supervise_live_session()
