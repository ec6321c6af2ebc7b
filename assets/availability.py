"""How much of the market's time the live engine could decide, from the heartbeats that it wrote."""

from collections.abc import Mapping
from datetime import date
from typing import Any

import dagster as dg
import pandas as pd

from assets.metadata import frame_table
from fx_dagster.live.availability import TARGET, Availability, overall
from resources.availability_store import AvailabilityStore
from resources.dagster_resources import SettingsResource
from resources.postgres import migrate

DAYS_SHOWN = 60
NOTHING = "no heartbeat of the account is recorded yet"
NO_DATABASE = "FX_POSTGRES_URL is not set: no live session is recorded"


@dg.asset(
    name="availability",
    group_name="live",
    owners=["team:trading"],
    kinds={"postgres"},
    deps=["live_session"],
    description="""How much of the time in which its market was open the engine of the live account could decide.

Decision availability: alive, its heartbeat fresh, at level 1, 2 or 3. AI availability: at level 1 or 2. A trading day
(it turns at 17:00 New York) at a time, into the table `fx.availability`; unit: seconds. Weekends and holidays are no
outage, time under the kill switch is held, and a restart of half a second is an outage of half a second.""",
)
def availability_days(settings: SettingsResource) -> dg.MaterializeResult:
    """Count every day until now, keep it, and show the newest."""
    days = _counted(settings)
    if isinstance(days, str):
        return dg.MaterializeResult(metadata={"nothing_told": days})
    return dg.MaterializeResult(metadata=_metadata(days))


def _counted(settings: SettingsResource) -> dict[date, Availability] | str:
    """Return each day's availability, written down; or, in words, why there is nothing to tell."""
    chosen = settings.load()
    url = chosen.postgres.url.get_secret_value()
    if not url:
        return NO_DATABASE
    migrate(url)
    store = AvailabilityStore(url)
    days = store.by_day(chosen.live.account)
    store.record(chosen.live.account, days)
    return days or NOTHING


def availability_frame(days: Mapping[date, Availability]) -> pd.DataFrame:
    """Return one row a trading day, the newest first; shares are 0 … 1, None where nothing was required."""
    rows = [
        {
            "day": day.isoformat(),
            "decision": one.decision,
            "ai": one.ai,
            "required_s": one.required_s,
            "outage_s": one.required_s - one.decision_s,
            "without_ai_s": one.required_s - one.ai_s,
            "held_s": one.held_s,
        }
        for day, one in sorted(days.items(), reverse=True)
    ]
    return pd.DataFrame(rows)


def _metadata(days: Mapping[date, Availability]) -> dict[str, Any]:
    whole = overall(days.values())
    shown: dict[str, Any] = {
        "decision_availability": whole.decision,
        "ai_availability": whole.ai,
        "target": TARGET,
        "required_hours": whole.required_s / 3_600,
        "outage_s": whole.required_s - whole.decision_s,
        "days": frame_table(availability_frame(days).head(DAYS_SHOWN)),
    }
    return {name: value for name, value in shown.items() if value is not None}


@dg.asset_check(asset=availability_days)
def decisions_are_available(settings: SettingsResource) -> dg.AssetCheckResult:
    """Over all days that are counted, the engine could decide in more than 99.9 % of the required time."""
    chosen = settings.load()
    url = chosen.postgres.url.get_secret_value()
    if not url:
        return dg.AssetCheckResult(passed=True, description=NO_DATABASE)
    migrate(url)
    whole = overall(AvailabilityStore(url).recorded(chosen.live.account).values())
    return dg.AssetCheckResult(
        passed=whole.decision is None or whole.decision > TARGET,
        severity=dg.AssetCheckSeverity.WARN,
        description=said_of(whole),
        metadata={} if whole.decision is None else {"decision_availability": whole.decision, "target": TARGET},
    )


def said_of(whole: Availability) -> str:
    """Return in one line how available the engine was."""
    if whole.decision is None or whole.ai is None:
        return NOTHING
    return (
        f"decisions {whole.decision:.3%}, with models {whole.ai:.3%} of {whole.required_s / 3_600:,.2f} h in which the"
        f" market was open; {whole.required_s - whole.decision_s:,.1f} s could nothing be decided"
    )
