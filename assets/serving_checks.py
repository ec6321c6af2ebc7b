"""Checks of the release: every byte is the recorded one, and Triton answers as the models do."""

import asyncio

import dagster as dg
import numpy as np

from assets.models import read_dataset
from assets.run_shape import RunShape
from assets.serving import release, served_release
from fx_dagster.models.onnx_export import PARITY_MAX, onnx_predict
from fx_dagster.models.protocol import Float32, ModelArtifact
from fx_dagster.models.release import ReleaseManifest
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.model_repository import ModelRepository
from resources.triton import TritonModelService

ROWS = 256


@dg.asset_check(asset=release, blocking=True)
def files_are_the_recorded_ones(settings: SettingsResource) -> dg.AssetCheckResult:
    """The SHA-256 of every file is the manifest's."""
    repository = ModelRepository(settings.load().model_repository)
    manifest = repository.verify(repository.versions()[-1])
    return dg.AssetCheckResult(
        passed=True,
        description=f"{len(manifest.files)} files of release {manifest.version}",
        metadata=dict(manifest.files),
    )


@dg.asset_check(asset=served_release, blocking=True)
def triton_answers_as_onnx_runtime(
    market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """On real rows Triton's ensemble and ONNX Runtime in this process agree to 1e-5."""
    chosen = settings.load()
    if not chosen.triton.url:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description="no Triton runs here: nothing is served"
        )
    repository = ModelRepository(chosen.model_repository)
    manifest = repository.manifest(repository.versions()[-1])
    dataset = read_dataset(lake.open(), RunShape.of(market.open()))
    rows = dataset.X[np.linspace(0, len(dataset) - 1, ROWS).astype(np.intp)]
    answered = asyncio.run(_ask(chosen.triton.url, manifest, rows))
    artifacts = [ModelArtifact.load(chosen.candidates, name) for name in manifest.models]
    local = np.column_stack([onnx_predict(artifact.onnx, rows) for artifact in artifacts])
    difference = float(np.abs(answered - local).max())
    return dg.AssetCheckResult(
        passed=difference <= PARITY_MAX,
        description=f"largest difference {difference:.1e} over {ROWS} rows",
        metadata={"largest_difference": difference, "rows": ROWS},
    )


async def _ask(url: str, manifest: ReleaseManifest, rows: Float32) -> np.ndarray:
    service = TritonModelService(url, manifest)
    try:
        return (await service.predict(rows, deadline_s=5.0)).p_up
    finally:
        await service.close()
