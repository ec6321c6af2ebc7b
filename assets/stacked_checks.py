"""Checks of the models that stand on others."""

import dagster as dg
import numpy as np

from assets.agents import ppo_model
from assets.models import read_dataset, spec_of
from assets.models_checks import believable_check, majority_check, parity_check, told
from assets.predictions import AGENTS, CONFIDENCE, REGIME, read_stacked
from assets.run_shape import RunShape
from assets.stacked_models import confidence_model, embargo_ns, meta_model, regime_model
from fx_dagster.models.answer import META
from fx_dagster.models.calibration import Calibration
from fx_dagster.models.canary import shuffled_labels
from fx_dagster.models.meta import MetaModel
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.stacking import stacked_splits
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource

PARITY_CHECKS = [
    parity_check(name, asset)
    for name, asset in (
        (REGIME, regime_model), (META, meta_model), (CONFIDENCE, confidence_model), (AGENTS, ppo_model)
    )
]  # fmt: skip
META_CHECKS = [believable_check(META, meta_model), majority_check(META, meta_model)]


@dg.asset_check(asset=meta_model, blocking=True)
def finds_nothing_in_shuffled_labels(
    market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """Stacked the same way on labels in random order, the recipe stays inside the band of chance."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    rows, fold = read_stacked(store, read_dataset(store, shape, chosen), meta=False)
    splits = stacked_splits(rows, fold, embargo_ns=embargo_ns(shape, chosen))
    return told(shuffled_labels(MetaModel, spec_of(rows, chosen), rows, splits, seed=chosen.training.seed))


@dg.asset_check(asset=regime_model)
def knows_more_than_the_commonest_regime(settings: SettingsResource) -> dg.AssetCheckResult:
    """Out of fold the forest names the regime more often than always naming the commonest one would."""
    found = ModelArtifact.load(settings.load().candidates, REGIME).card.metrics["out_of_fold"]
    return dg.AssetCheckResult(
        passed=bool(found["accuracy"] > found["majority_accuracy"]),
        severity=dg.AssetCheckSeverity.WARN,
        description=f"right {found['accuracy']:.2%}, the commonest regime {found['majority_accuracy']:.2%}",
    )


@dg.asset_check(asset=confidence_model)
def is_calibrated(settings: SettingsResource) -> dg.AssetCheckResult:
    """Out of fold what was said comes true as often as it was said, up to what chance does."""
    found = Calibration.from_dict(
        ModelArtifact.load(settings.load().candidates, CONFIDENCE).card.metrics["out_of_fold"]
    )
    return dg.AssetCheckResult(
        passed=found.calibrated,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"calibration error {found.error:.2%}, by chance up to {found.error_by_chance:.2%}",
        metadata={"brier": found.brier, "brier_of_base_rate": found.base_brier},
    )


@dg.asset_check(asset=ppo_model)
def are_not_worse_than_fixed_sizing(settings: SettingsResource) -> dg.AssetCheckResult:
    """On later bars, over all seeds, the agents do not earn less than fixed fractional sizing beyond chance."""
    found = ModelArtifact.load(settings.load().candidates, AGENTS).card.metrics["against_fixed_sizing"]
    high = found.get("high", np.nan)
    return dg.AssetCheckResult(
        passed=not high < 0.0, severity=dg.AssetCheckSeverity.WARN, description=str(found["verdict"])
    )
