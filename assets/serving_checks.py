"""Checks of the release: every byte is the recorded one, and Triton answers as the models do."""

import asyncio

import dagster as dg
import numpy as np

from assets.models import read_dataset
from assets.run_shape import RunShape
from assets.serving import release, served_release
from fx_dagster.models.graph import run_graph
from fx_dagster.models.inputs import ModelInputs
from fx_dagster.models.protocol import Float64
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.models.service import ModelAnswer, validated
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.model_repository import ModelRepository
from resources.triton import TritonModelService

ROWS = 256


@dg.asset_check(asset=release, blocking=True)
def files_are_the_recorded_ones(settings: SettingsResource) -> dg.AssetCheckResult:
    """The SHA-256 of every file is the manifest's."""
    repository = ModelRepository.of(settings.load())
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
    """On real rows Triton's ensemble and ONNX Runtime in this process agree, every model and every extra."""
    chosen = settings.load()
    if not chosen.triton.url:
        return dg.AssetCheckResult(
            passed=False, severity=dg.AssetCheckSeverity.WARN, description="no Triton runs here: nothing is served"
        )
    repository = ModelRepository.of(chosen)
    manifest = repository.manifest(repository.versions()[-1])
    dataset = read_dataset(lake.open(), RunShape.of(market.open()), chosen)
    rows = dataset.take(np.linspace(0, len(dataset) - 1, ROWS).astype(np.intp)).inputs()
    answer = asyncio.run(_ask(chosen.triton.url, manifest, rows))
    outputs = run_graph(repository.contents(manifest), rows.tensors())
    local = validated(outputs, manifest.models, len(rows), manifest.outputs())
    difference = max(_gap(answer.p_up, local.p_up), _gap(answer.extras, local.extras))
    return dg.AssetCheckResult(
        passed=difference <= manifest.tolerance and answer.complete,
        description=f"largest difference {difference:.1e} over {ROWS} rows, {len(manifest.outputs())} outputs",
        metadata={"largest_difference": difference, "rows": ROWS, "discarded": ", ".join(answer.discarded) or "none"},
    )


def _gap(served: Float64, local: Float64) -> float:
    """Return the largest difference; what is absent on one side only is infinitely far."""
    if not np.array_equal(np.isnan(served), np.isnan(local)):
        return float("inf")
    return float(np.nan_to_num(np.abs(served - local)).max(initial=0.0))


async def _ask(url: str, manifest: ReleaseManifest, rows: ModelInputs) -> ModelAnswer:
    service = TritonModelService(url, manifest)
    try:
        return await service.predict(rows, deadline_s=5.0)
    finally:
        await service.close()
