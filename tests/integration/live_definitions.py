"""The smallest code location with the live session: its asset, job and sensor."""

import dagster as dg

from fx_dagster.live_job import live_session, live_trading_job
from fx_dagster.sensors import live_trading_sensor

defs = dg.Definitions(assets=[live_session], jobs=[live_trading_job], sensors=[live_trading_sensor])
