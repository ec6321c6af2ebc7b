"""From trained models to a release that answers: immutable files, a manifest, and Triton proved against it."""

import dagster as dg

from assets.metadata import frame_table
from assets.models import MODEL_ASSETS, read_dataset, split
from assets.run_shape import RunShape
from fx_dagster.errors import FeatureMismatchError
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.release import ReleaseManifest
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.model_repository import ModelRepository
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.servers.triton import read_secret
from resources.triton import serve_release, unload_releases

GROUP = "serving"
OWNERS = ["team:platform"]
KEEP_RELEASES = 3


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "postgres"},
    deps=list(MODEL_ASSETS.values()),
    description="""One immutable set of model versions with feature hash, metrics, lineage and a canary.

Written into Triton's model repository under names of its own (`xgboost-r7`), so that nothing that is loaded is ever
rewritten, and recorded in PostgreSQL. It does not answer yet: `served_release` switches it on.""",
)
def release(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Build and record a release of the candidates."""
    chosen, shape = settings.load(), RunShape.of(market.open())
    artifacts = [ModelArtifact.load(chosen.candidates, name) for name in MODEL_ASSETS]
    _require_catalogue(artifacts, shape)
    migrate(chosen.postgres.url.get_secret_value())
    releases = ReleaseStore(chosen.postgres.url.get_secret_value())
    repository = ModelRepository(chosen.model_repository)
    dataset = read_dataset(lake.open(), shape)
    holdout = split(dataset, shape, chosen).holdout
    sample = dataset.X[holdout.test] if holdout else dataset.X
    manifest = repository.build(
        releases.next_version(above=max(repository.versions(), default=0)),
        artifacts,
        sample,
        metrics={artifact.name: dict(artifact.card.metrics) for artifact in artifacts},
        lineage={
            "source": shape.source,
            "symbols": list(shape.symbols),
            "base_timeframe": shape.base.value,
            "first": int(dataset.time[0]),
            "last": int(dataset.time[-1]),
            "rows": len(dataset),
            "dagster_run": context.run.run_id,
        },
    )
    releases.record(manifest)
    removed = repository.prune(keep=KEEP_RELEASES, active=releases.active())
    return dg.MaterializeResult(
        metadata={
            "release": manifest.version,
            "feature_hash": manifest.feature_hash,
            "models": ", ".join(manifest.models),
            "files": len(manifest.files),
            "removed_releases": ", ".join(map(str, removed)) or "none",
            "holdout": holdout_table(manifest),
        }
    )


def _require_catalogue(artifacts: list[ModelArtifact], shape: RunShape) -> None:
    for artifact in artifacts:
        if artifact.card.feature_hash != shape.catalogue.hash:
            raise FeatureMismatchError(
                f"{artifact.name} was trained on catalogue {artifact.card.feature_hash[:12]}, this code computes "
                f"{shape.catalogue.hash[:12]}",
                mend="run the training job, which fits it again",
            )


def holdout_table(manifest: ReleaseManifest) -> dg.MetadataValue:
    """Show what each model reached on the holdout, which nothing before the release has touched."""
    import pandas as pd

    rows = [
        {"model": name, **{key: found["holdout"][key] for key in ("rows", "accuracy", "majority_accuracy", "log_loss")}}
        for name, found in manifest.metrics.items()
        if "holdout" in found
    ]
    return frame_table(pd.DataFrame(rows)) if rows else dg.MetadataValue.text("no holdout")


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"triton", "postgres"},
    deps=[release],
    description="""The newest release, loaded into Triton beside the one before it, proved against its recorded answers,
and switched on with one row. The live session asks it from its next decision on; the old one stays loaded for a
rollback.""",
)
def served_release(settings: SettingsResource) -> dg.MaterializeResult:
    """Verify, load, prove, switch."""
    chosen = settings.load()
    releases = ReleaseStore(chosen.postgres.url.get_secret_value())
    repository = ModelRepository(chosen.model_repository)
    version = repository.versions()[-1]
    manifest = repository.verify(version, releases.manifest(version))
    if not chosen.triton.url:
        releases.activate(version, reason="released; no Triton in this installation")
        return dg.MaterializeResult(metadata={"release": version, "served": False, "why": "no Triton runs here"})
    secret = read_secret(chosen)
    difference = serve_release(chosen.triton.url, secret, manifest)
    releases.activate(version, reason="released")
    unloaded = unload_releases(chosen.triton.url, secret, _kept(releases, repository))
    return dg.MaterializeResult(
        metadata={
            "release": version,
            "served": True,
            "models": ", ".join(manifest.served_names),
            "largest_difference": difference,
            "unloaded": ", ".join(unloaded) or "none",
        }
    )


def _kept(releases: ReleaseStore, repository: ModelRepository) -> list[ReleaseManifest]:
    """Return the releases that stay loaded: the active one, and the one before it for a rollback."""
    wanted = {releases.active(), releases.previous()}
    return [repository.manifest(version) for version in repository.versions() if version in wanted]
