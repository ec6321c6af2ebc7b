"""Keeps the partitions' symbols in step with the configured source."""

import dagster as dg

from assets.partitions import SYMBOLS
from fx_dagster.errors import FxError
from resources.dagster_resources import MarketResource


@dg.sensor(
    minimum_interval_seconds=600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for every symbol that the configured market source has.",
)
def symbols_sensor(context: dg.SensorEvaluationContext, market: MarketResource) -> dg.SensorResult | dg.SkipReason:
    """Ask for partitions of symbols that have none yet."""
    try:
        found = market.open().symbols()
    except FxError as error:
        return dg.SkipReason(f"the market source cannot be read: {error}")
    known = set(context.instance.get_dynamic_partitions(SYMBOLS.name or ""))
    missing = [symbol for symbol in found if symbol not in known]
    if not missing:
        return dg.SkipReason(f"all {len(found)} symbols have partitions")
    return dg.SensorResult(dynamic_partitions_requests=[SYMBOLS.build_add_request(missing)])
