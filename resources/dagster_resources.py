"""What assets ask Dagster for. Each resource opens an adapter; where to, it reads from the settings.

Nothing is configured in Dagster itself, so that no secret is ever stored in a run's snapshot.
"""

from functools import lru_cache

import dagster as dg

from fx_dagster.backtest.trials import NOT_RECORDED, Trial
from fx_dagster.market.source import MarketSource
from fx_dagster.settings import Settings, SourceSettings, load_settings
from resources.lake import Lake
from resources.market import open_source
from resources.postgres import migrate
from resources.trials import TrialLedger


class SettingsResource(dg.ConfigurableResource):
    """The settings of this installation."""

    def load(self) -> Settings:
        """Read them from the environment."""
        return load_settings()


class LakeResource(dg.ConfigurableResource):
    """Parquet tables, queried with DuckDB."""

    def open(self) -> Lake:
        """Open the lake of the configured source."""
        return Lake(load_settings().lake_url)


class MarketResource(dg.ConfigurableResource):
    """The configured market source."""

    def open(self) -> MarketSource:
        """Open the source; within one process it keeps what it has read."""
        return _opened(load_settings().source)


class TrialsResource(dg.ConfigurableResource):
    """The ledger of trials in PostgreSQL, where there is one."""

    def open(self) -> TrialLedger | None:
        """Open the ledger, its tables brought up to date; None: this installation has no PostgreSQL."""
        url = load_settings().postgres.url.get_secret_value()
        if not url:
            return None
        migrate(url)
        return TrialLedger(url)

    def record(self, trial: Trial) -> int | str:
        """Record a materialisation and return its number, or why it is not recorded."""
        ledger = self.open()
        return NOT_RECORDED if ledger is None else ledger.record(trial)


@lru_cache(maxsize=2)
def _opened(settings: SourceSettings) -> MarketSource:
    return open_source(settings)


def all_resources() -> dict[str, dg.ConfigurableResource]:
    """Return every resource by the name that assets use."""
    return {
        "settings": SettingsResource(),
        "lake": LakeResource(),
        "market": MarketResource(),
        "trials": TrialsResource(),
    }
