"""Checks of the models: what fails here is never released."""

from collections.abc import Sequence

import dagster as dg
import numpy as np

from assets.models import MODEL_ASSETS, read_dataset, split
from assets.run_shape import RunShape
from fx_dagster.models.canary import shuffled_labels
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.onnx_export import PARITY_MAX
from fx_dagster.models.protocol import ModelArtifact
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource

ACCURACY_MAX = 0.60
"""More than this on bars of an hour or so has, so far, always been a leak."""

CANARY_ROWS = 12_000
"""Rows, the newest before the holdout, that the canary trains on: enough for a band of about two points."""


def model_checks(name: str, asset: dg.AssetsDefinition) -> Sequence[dg.AssetChecksDefinition]:
    """Make the checks of one model family."""

    @dg.asset_check(asset=asset, blocking=True, name="onnx_is_the_model")
    def onnx_is_the_model(settings: SettingsResource) -> dg.AssetCheckResult:
        """The exported graph and the fitted model give the same answers, to 1e-5."""
        card = ModelArtifact.load(settings.load().candidates, name).card
        parity = float(card.metrics["onnx_parity"])
        return dg.AssetCheckResult(
            passed=parity <= PARITY_MAX,
            description=f"largest difference {parity:.1e}, allowed {PARITY_MAX:.0e}",
            metadata={"largest_difference": parity},
        )

    @dg.asset_check(asset=asset, blocking=True, name="accuracy_is_believable")
    def accuracy_is_believable(settings: SettingsResource) -> dg.AssetCheckResult:
        """Out-of-fold accuracy is not too good to be true."""
        card = ModelArtifact.load(settings.load().candidates, name).card
        accuracy = float(card.metrics["out_of_fold"]["accuracy"])
        return dg.AssetCheckResult(
            passed=accuracy <= ACCURACY_MAX,
            description=f"accuracy {accuracy:.2%}; above {ACCURACY_MAX:.0%} a leak is likelier than skill",
            metadata={"accuracy": accuracy},
        )

    @dg.asset_check(asset=asset, name="beats_the_majority_class")
    def beats_the_majority_class(settings: SettingsResource) -> dg.AssetCheckResult:
        """Out-of-fold accuracy and log-loss are better than always naming the commoner direction."""
        found = ModelArtifact.load(settings.load().candidates, name).card.metrics["out_of_fold"]
        better = found["accuracy"] > found["majority_accuracy"] and found["log_loss"] < found["base_log_loss"]
        return dg.AssetCheckResult(
            passed=bool(better),
            severity=dg.AssetCheckSeverity.WARN,
            description=(
                f"accuracy {found['accuracy']:.2%} against {found['majority_accuracy']:.2%}, "
                f"log-loss {found['log_loss']:.4f} against {found['base_log_loss']:.4f}"
            ),
        )

    @dg.asset_check(asset=asset, blocking=True, name="finds_nothing_in_shuffled_labels")
    def finds_nothing_in_shuffled_labels(
        market: MarketResource, lake: LakeResource, settings: SettingsResource
    ) -> dg.AssetCheckResult:
        """Trained the same way on labels in random order, the recipe stays inside the band of chance."""
        chosen, shape = settings.load(), RunShape.of(market.open())
        dataset = read_dataset(lake.open(), shape)
        holdout = split(dataset, shape, chosen).holdout
        until = int(holdout.test.min()) if holdout else len(dataset)
        part = dataset.take(np.arange(max(0, until - CANARY_ROWS), until))
        training = chosen.training
        spec = part.spec(seed=training.seed, threads=training.threads, rows_min=training.rows_min)
        folds = [(fold.train, fold.test) for fold in split(part, shape, chosen).folds]
        result = shuffled_labels(FAMILIES[name], spec, part, folds, seed=training.seed)
        return dg.AssetCheckResult(
            passed=result.passed,
            description=f"accuracy {result.accuracy:.2%}, chance is {result.low:.2%} to {result.high:.2%}",
            metadata=result.to_dict(),
        )

    return (onnx_is_the_model, accuracy_is_believable, beats_the_majority_class, finds_nothing_in_shuffled_labels)


MODEL_CHECKS = [check for name, asset in MODEL_ASSETS.items() for check in model_checks(name, asset)]
