"""From trained models to a release that answers: immutable files, a manifest, and Triton proved against it."""

import time
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.agents import ppo_model
from assets.check_results import blocking_results
from assets.metadata import frame_table
from assets.models import MODEL_ASSETS, MODELS, read_dataset, split
from assets.predictions import AGENTS
from assets.run_shape import RunShape
from assets.stacked_models import STACKED, STACKED_ASSETS
from fx_dagster.errors import FeatureMismatchError, ReleaseError
from fx_dagster.features.splits import WalkForward
from fx_dagster.models.answer import ATTENTION, DEEP_MODELS, META
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.evaluate import evaluate
from fx_dagster.models.graph import Graph
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.quantise import smaller_where_worth
from fx_dagster.models.release import ReleaseManifest
from fx_dagster.models.training import judged
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.model_repository import ModelRepository
from resources.postgres import migrate
from resources.releases import ReleaseStore
from resources.servers.triton import read_secret
from resources.triton import serve_release, unload_releases

GROUP = "serving"
SWITCH_SEEN_S = 2.0
"""By then every engine has seen a switch that was made just now, and asks no release that is to be unloaded."""
OWNERS = ["team:platform"]
KEEP_RELEASES = 3
NETWORKS = (*DEEP_MODELS, ATTENTION)
ALL_MODELS = (*MODELS, *STACKED_ASSETS, ppo_model)
CALIBRATION_ROWS, HELD_ROWS, SAMPLE_ROWS = 512, 4_096, 64
"""Rows that INT8 scales are made of, on which its decisions are compared, and of which the canary is taken."""


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "postgres"},
    deps=[*MODEL_ASSETS.values(), *STACKED_ASSETS, ppo_model],
    description="""One immutable set of model versions with feature hash, metrics, lineage and a canary.

Networks are served in INT8 where that is worth it: at least 75 % smaller, twice as fast, and 99.5 % of decisions on
rows that they have not seen unchanged. Written under names of its own (`xgboost-r7`) into Triton's repository, so that
nothing that is loaded is ever rewritten, and recorded in PostgreSQL with a signature. It does not answer yet:
`served_release` loads it.""",
)
def release(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Build and record a release of the candidates."""
    chosen, shape = settings.load(), RunShape.of(market.open())
    artifacts = read_candidates(chosen)
    _require_catalogue(artifacts, shape)
    migrate(chosen.postgres.url.get_secret_value())
    releases, repository = ReleaseStore.of(chosen), ModelRepository.of(chosen)
    dataset = read_dataset(lake.open(), shape, chosen)
    splits = split(dataset, shape, chosen)
    artifacts = [_smaller(artifact, dataset, splits, chosen) for artifact in artifacts]
    if splits.holdout is not None:
        artifacts = judged_whole(artifacts, dataset.take(splits.holdout.test), chosen.training.seed)
    sample = dataset.take(_spread(splits.holdout.test if splits.holdout else np.arange(len(dataset)), SAMPLE_ROWS))
    manifest = repository.build(
        releases.next_version(above=max(repository.versions(), default=0)),
        artifacts,
        sample.inputs(),
        symbols=dataset.symbols,
        metrics={artifact.name: dict(artifact.card.metrics) for artifact in artifacts},
        lineage={
            "source": shape.source,
            "symbols": list(shape.symbols),
            "base_timeframe": shape.base.value,
            "first": int(dataset.time[0]),
            "last": int(dataset.time[-1]),
            "rows": len(dataset),
            "dagster_run": context.run.run_id,
            "checks": blocking_results(context.instance, [asset.key for asset in ALL_MODELS]),
        },
    )
    releases.record(manifest)
    removed = repository.prune(keep=KEEP_RELEASES, wanted=_wanted(releases))
    return dg.MaterializeResult(
        metadata={
            "release": manifest.version,
            "feature_hash": manifest.feature_hash,
            "models": ", ".join(manifest.members),
            "int8": ", ".join(manifest.quantised) or "none",
            "files": len(manifest.files),
            "removed_releases": ", ".join(map(str, removed)) or "none",
            "holdout": holdout_table(manifest),
            "quantisation": quantisation_table(manifest),
        }
    )


def read_candidates(settings: Settings) -> list[ModelArtifact]:
    """Read the newest fitted model of every family; agents that earned less than fixed sizing are left out.

    Raises:
        ReleaseError: one is missing or not readable.
    """
    artifacts = [ModelArtifact.load(settings.candidates, name) for name in (*MODEL_ASSETS, *STACKED, AGENTS)]
    return [artifact for artifact in artifacts if not _harmful(artifact)]


def _harmful(artifact: ModelArtifact) -> bool:
    """Whether agents earn less than fixed fractional sizing, beyond chance."""
    found = artifact.card.metrics.get("against_fixed_sizing", {})
    return bool(found.get("high", 0.0) < 0.0)


def _smaller(artifact: ModelArtifact, dataset: Dataset, splits: WalkForward, settings: Settings) -> ModelArtifact:
    """Return a network's INT8 version where that is worth it; all else as it is."""
    if artifact.name not in NETWORKS or splits.holdout is None:
        return artifact
    calibration = dataset.take(_spread(splits.holdout.train, CALIBRATION_ROWS)).tensors()
    held_out = dataset.take(_spread(splits.holdout.test, HELD_ROWS)).tensors()
    return smaller_where_worth(artifact, calibration, held_out, threshold=settings.risk.entry_score_min / 2)


def judged_whole(artifacts: list[ModelArtifact], holdout: Dataset, seed: int) -> list[ModelArtifact]:
    """Return the artifacts with the meta model judged on the holdout, on what the released models below it say there.

    It was fitted on out-of-fold rows, all before the holdout; the other models were judged when they were fitted.
    """
    graph = Graph(artifacts)
    p_up = np.concatenate([graph.run(part.tensors())[f"p_up_{META}"][:, 0] for part in holdout.parts()])
    found = evaluate(judged(holdout, p_up.astype(np.float64)), seed=seed).to_dict()
    return [one.with_metrics({"holdout": found}) if one.name == META else one for one in artifacts]


def _spread(index: np.ndarray, rows: int) -> np.ndarray:
    """Return up to ``rows`` of some positions, evenly spread."""
    return index[np.linspace(0, len(index) - 1, min(rows, len(index))).astype(np.intp)]


def _require_catalogue(artifacts: list[ModelArtifact], shape: RunShape) -> None:
    for artifact in artifacts:
        if artifact.card.feature_hash != shape.catalogue.hash:
            raise FeatureMismatchError(
                f"{artifact.name} was trained on catalogue {artifact.card.feature_hash[:12]}, this code computes "
                f"{shape.catalogue.hash[:12]}",
                mend="run the training job, which fits it again",
            )


def quantisation_table(manifest: ReleaseManifest) -> dg.MetadataValue:
    """Show what INT8 would make of each network, and whether it is served so."""
    rows = [{"model": name, **found["int8"]} for name, found in manifest.metrics.items() if "int8" in found]
    return frame_table(pd.DataFrame(rows)) if rows else dg.MetadataValue.text("no network")


def holdout_table(manifest: ReleaseManifest) -> dg.MetadataValue:
    """Show what each model reached on the holdout, which nothing before the release has touched."""
    rows = [
        {"model": name, **{key: found["holdout"][key] for key in ("rows", "accuracy", "majority_accuracy", "log_loss")}}
        for name, found in manifest.metrics.items()
        if name in manifest.models and "holdout" in found
    ]
    return frame_table(pd.DataFrame(rows)) if rows else dg.MetadataValue.text("no holdout")


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"triton", "postgres"},
    deps=[release],
    description="""The newest release, loaded into Triton beside the live one and proved against its recorded answers.

The first release answers at once. A later one goes to shadow: a paper account of its own on the same ticks, until
`fx release promote` lets it answer. Only a live release that cannot answer here at all (other features, another source,
a signature that does not hold) is replaced at once.""",
)
def served_release(market: MarketResource, settings: SettingsResource) -> dg.MaterializeResult:
    """Verify, load, prove, and give the release its place."""
    chosen, shape = settings.load(), RunShape.of(market.open())
    releases, repository = ReleaseStore.of(chosen), ModelRepository.of(chosen)
    version = repository.versions()[-1]
    manifest = repository.verify(version, releases.manifest(version))
    difference = None
    if chosen.triton.url:
        secret = read_secret(chosen)
        difference = serve_release(chosen.triton.url, secret, manifest)
    useless = why_useless(releases, shape)
    if useless:
        releases.activate(version, reason=f"released; the live one is of no use here: {useless}")
    stage = releases.introduce(version, reason="released")
    told: dict[str, Any] = {"release": version, "stage": str(stage), "served": difference is not None}
    if difference is None:
        return dg.MaterializeResult(metadata={**told, "why": "no Triton runs here"})
    kept = _kept(releases, repository)
    time.sleep(SWITCH_SEEN_S)
    unloaded = unload_releases(chosen.triton.url, secret, kept)
    return dg.MaterializeResult(
        metadata={
            **told,
            "models": ", ".join(manifest.served_names),
            "largest_difference": difference,
            "unloaded": ", ".join(unloaded) or "none",
        }
    )


def why_useless(releases: ReleaseStore, shape: RunShape) -> str:
    """Say why the live release cannot answer for what runs here; empty: it can, or there is none."""
    active = releases.active()
    if active is None:
        return ""
    try:
        manifest = releases.manifest(active)
    except ReleaseError as error:
        return str(error)
    if manifest.feature_hash != shape.catalogue.hash:
        return f"release {active} was trained on other features"
    if manifest.lineage.get("source") != shape.source:
        return f"release {active} was trained on {manifest.lineage.get('source')}"
    strangers = sorted(set(shape.symbols) - set(manifest.symbols))
    return f"release {active} does not know {', '.join(strangers)}" if strangers else ""


def _wanted(releases: ReleaseStore) -> set[int]:
    """Return the releases that stay: the live one, the one before it for a rollback, and those in shadow."""
    return {found for found in (releases.active(), releases.previous(), *releases.challengers()) if found is not None}


def _kept(releases: ReleaseStore, repository: ModelRepository) -> list[ReleaseManifest]:
    wanted = _wanted(releases)
    return [repository.manifest(version) for version in repository.versions() if version in wanted]
