"""A small real installation: the sample's first nine months, run through the assets in this process."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from assets.partitions import range_tags
from resources.dagster_resources import all_resources
from resources.lake import Lake

MONTHS = tuple(f"2017-{month:02}" for month in range(1, 10))


@dataclass
class Installation:
    """A home with its lake and a Dagster instance in memory."""

    home: Path
    instance: dg.DagsterInstance
    definitions: dg.Definitions

    @property
    def lake(self) -> Lake:
        return Lake(str(self.home / "lake" / "sample"))

    def run(
        self, group: str, months: Sequence[str] = MONTHS, *, symbol: str = "EURUSD", partitioned: bool = True
    ) -> dg.ExecuteInProcessResult:
        """Run one group of assets with its checks."""
        return self.definitions.resolve_job_def(f"{group}_test").execute_in_process(
            instance=self.instance, tags=range_tags(symbol, months) if partitioned else {}, raise_on_error=False
        )


def installation(home: Path) -> Installation:
    """Build one; the caller has pointed FX_HOME there."""
    import assets

    groups = ("market_data", "features", "models", "evaluation")
    jobs = [
        dg.define_asset_job(
            f"{group}_test", selection=dg.AssetSelection.groups(group), executor_def=dg.in_process_executor
        )
        for group in groups
    ]
    # A folder of our own: the one that Dagster makes is cleaned up with a warning.
    instance = dg.DagsterInstance.ephemeral(tempdir=str(home))
    instance.add_dynamic_partitions("symbol", ["EURUSD"])
    definitions = dg.Definitions(
        assets=dg.load_assets_from_package_module(assets),
        asset_checks=dg.load_asset_checks_from_package_module(assets),
        jobs=jobs,
        resources=all_resources(),
    )
    return Installation(home, instance, definitions)


@pytest.fixture
def fresh(free_home: Path) -> Installation:
    """An empty installation of the test's own."""
    return installation(free_home)


@pytest.fixture(scope="module")
def filled() -> Iterator[Installation]:
    """Nine months of the sample, as far as labels; shared by a module, which must not change it."""
    home = Path(tempfile.mkdtemp(prefix="fx-assets-"))
    saved = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith(("FX_", "DAGSTER_"))}
    os.environ |= {
        "FX_HOME": str(home),
        "FX_TRAINING_ROWS_MIN": "200",
        "FX_TRAINING_FOLDS": "4",
        "FX_TRAINING_EFFORT": "0.1",
    }
    made = installation(home)
    try:
        for group in ("market_data", "features"):
            assert made.run(group).success
        yield made
    finally:
        for name in ("FX_HOME", "FX_TRAINING_ROWS_MIN", "FX_TRAINING_FOLDS"):
            del os.environ[name]
        os.environ |= saved
        shutil.rmtree(home, ignore_errors=True)
