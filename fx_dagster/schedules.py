"""When jobs start by themselves."""

from collections.abc import Iterator

import dagster as dg
import psycopg

from assets.partitions import SYMBOLS
from fx_dagster.drill_schedule import weekly_drills
from fx_dagster.errors import FxError
from fx_dagster.jobs import drift_job, ingest_job, research_job, training_job
from fx_dagster.settings import load_settings
from resources.live_store import LiveStore
from resources.postgres import migrate


@dg.schedule(
    job=ingest_job,
    cron_schedule="20 17 * * 1-5",
    execution_timezone="America/New_York",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="After each trading day's end (17:00 New York): load the day's month again for every symbol.",
)
def daily_ingestion(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Ask for one run a symbol; without symbols, say how to get them."""
    symbols = context.instance.get_dynamic_partitions(SYMBOLS.name or "")
    if not symbols:
        yield dg.SkipReason("no symbols yet: run `fx import` or wait for symbols_sensor")
        return
    # At 17:20 New York a new trading day has begun: the day that has just ended is this calendar day.
    day = context.scheduled_execution_time
    for symbol in symbols:
        key = f"{day:%Y-%m}-01|{symbol}"
        yield dg.RunRequest(run_key=f"{day:%Y-%m-%d}|{symbol}", partition_key=key)


weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job=training_job,
    cron_schedule="0 6 * * 6",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="On Saturday, while the market is closed: fit, judge, release.",
)

monthly_research = dg.ScheduleDefinition(
    name="monthly_research",
    job=research_job,
    cron_schedule="0 12 * * 6#1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="On a month's first Saturday, after the retraining: many histories, worth of features, parameters.",
)


@dg.schedule(
    job=drift_job,
    cron_schedule="40 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour in which a live session is alive: has what it sees moved from what its models learned on?",
)
def hourly_drift() -> dg.RunRequest | dg.SkipReason:
    """Ask for a run while the engine's heartbeat is fresh."""
    settings = load_settings()
    url, live = settings.postgres.url.get_secret_value(), settings.live
    if not url:
        return dg.SkipReason("FX_POSTGRES_URL is not set: there is no live session to look at")
    try:
        migrate(url)
        status = LiveStore(url).status(live.account)
    except (FxError, psycopg.Error) as error:
        return dg.SkipReason(f"the journal cannot be read: {error}")
    if status is None or status.age_s > live.heartbeat_stale_s:
        return dg.SkipReason(f"no live session of account {live.account} is alive")
    return dg.RunRequest()


availability_job = dg.define_asset_job(
    "availability_job",
    selection=dg.AssetSelection.assets("availability"),
    executor_def=dg.in_process_executor,
    description="Count how much of its market's time the live engine could decide, and compare it with the target.",
)


@dg.schedule(
    job=availability_job,
    cron_schedule="50 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
    description="Every hour, once the account has had a live session: how much of the time could it decide?",
)
def hourly_availability() -> dg.RunRequest | dg.SkipReason:
    """Ask for a run, whether an engine is alive or not: that is what is counted."""
    settings = load_settings()
    url, account = settings.postgres.url.get_secret_value(), settings.live.account
    if not url:
        return dg.SkipReason("FX_POSTGRES_URL is not set: no live session is recorded")
    try:
        migrate(url)
        session = LiveStore(url).last_session(account)
    except (FxError, psycopg.Error) as error:
        return dg.SkipReason(f"the journal cannot be read: {error}")
    if session is None:
        return dg.SkipReason(f"account {account} never had a live session")
    return dg.RunRequest()


SCHEDULES = (daily_ingestion, weekly_retraining, monthly_research, hourly_drift, hourly_availability, weekly_drills)
