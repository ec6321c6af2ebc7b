"""The one place where assets, checks, jobs, schedules, sensors and resources meet."""

import dagster as dg

import assets
from fx_dagster.drift_sensor import drift_sensor
from fx_dagster.drill_schedule import drill_job
from fx_dagster.jobs import ASSET_JOBS
from fx_dagster.live_job import live_session, live_trading_job
from fx_dagster.schedules import SCHEDULES, availability_job
from fx_dagster.sensors import live_trading_sensor
from fx_dagster.symbols_sensor import symbols_sensor
from resources.dagster_resources import all_resources

automation = dg.AutomationConditionSensorDefinition(
    "automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Recomputes the newest month's indicators, features and labels when their inputs change.",
)


@dg.definitions
def defs() -> dg.Definitions:
    """Return everything that Dagster shows and runs."""
    return dg.Definitions(
        assets=[*dg.load_assets_from_package_module(assets), live_session.replace_attributes(deps=["served_release"])],
        asset_checks=dg.load_asset_checks_from_package_module(assets),
        jobs=[*ASSET_JOBS, availability_job, live_trading_job, drill_job],
        schedules=SCHEDULES,
        sensors=[live_trading_sensor, symbols_sensor, drift_sensor, automation],
        resources=all_resources(),
    )
