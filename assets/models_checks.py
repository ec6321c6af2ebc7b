"""Checks of the models: what fails here is never released."""

from collections.abc import Sequence

import dagster as dg
import numpy as np

from assets.models import MODEL_ASSETS, read_dataset, spec_of, split
from assets.run_shape import RunShape
from fx_dagster.features.catalogue import feature_catalogue
from fx_dagster.models.canary import (
    CanaryResult,
    looks_elsewhere,
    pipeline_dataset,
    random_walk,
    random_walk_bars,
    shuffled_labels,
)
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.onnx_export import PARITY_MAX
from fx_dagster.models.protocol import ModelArtifact, ModelSpec
from fx_dagster.models.training import Split
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource
from resources.lake import Lake

ACCURACY_MAX = 0.60
"""More than this on bars of an hour or so has, so far, always been a leak."""

CANARY_ROWS = 12_000
"""Rows, the newest before the holdout, that the canary trains on: enough for a band of about two points."""
CANARY_FOLDS = 2
"""Newest folds that canaries are judged on."""
WALKED_SYMBOLS = 2
"""Symbols of the random walk: the pipeline compares them."""


def parity_check(name: str, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Make the check that a model's graph is the model."""

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

    return onnx_is_the_model


def believable_check(name: str, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Make the check that a direction model is not too good."""

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

    return accuracy_is_believable


def majority_check(name: str, asset: dg.AssetsDefinition) -> dg.AssetChecksDefinition:
    """Make the check that a direction model is of use."""

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

    return beats_the_majority_class


def model_checks(name: str, asset: dg.AssetsDefinition) -> Sequence[dg.AssetChecksDefinition]:
    """Make the checks of one family of base models."""

    @dg.asset_check(asset=asset, blocking=True, name="finds_nothing_in_shuffled_labels")
    def finds_nothing_in_shuffled_labels(
        market: MarketResource, lake: LakeResource, settings: SettingsResource
    ) -> dg.AssetCheckResult:
        """Trained the same way on labels in random order, the recipe stays inside the band of chance."""
        chosen, shape = settings.load(), RunShape.of(market.open())
        part, folds, spec = _canary_part(lake.open(), shape, chosen)
        return told(shuffled_labels(FAMILIES[name], spec, part, folds, seed=spec.seed))

    @dg.asset_check(asset=asset, blocking=True, name="finds_nothing_in_a_random_walk")
    def finds_nothing_in_a_random_walk(
        market: MarketResource, lake: LakeResource, settings: SettingsResource
    ) -> dg.AssetCheckResult:
        """Bars whose every move has a sign drawn by a coin, through the whole pipeline: there is nothing to find.

        With labels of one bar, of which thousands do not overlap: a target that begins a bar too early is all known.
        And with the run's own horizon, whose overlap tells on folds that are not purged.
        """
        chosen, shape = settings.load(), RunShape.of(market.open())
        results = []
        for horizon_bars in (1, chosen.feature.horizon_bars):
            part = walked_dataset(lake.open(), shape, chosen, horizon_bars)
            folds, spec = _recipe(part, shape, chosen)
            results.append(random_walk(FAMILIES[name], spec, part, folds))
        return told(*results)

    @dg.asset_check(asset=asset, blocking=True, name="learns_from_its_rows_alone")
    def learns_from_its_rows_alone(
        market: MarketResource, lake: LakeResource, settings: SettingsResource
    ) -> dg.AssetCheckResult:
        """With every row and bar spoiled that a fit must not look at, the fitted model stays the same."""
        chosen, shape = settings.load(), RunShape.of(market.open())
        part, folds, spec = _canary_part(lake.open(), shape, chosen)
        difference = looks_elsewhere(FAMILIES[name], spec, part, folds[0])
        return dg.AssetCheckResult(
            passed=difference == 0.0,
            description=f"answers change by {difference:.1e} with what lies outside the training rows",
            metadata={"difference": difference},
        )

    return (
        parity_check(name, asset), believable_check(name, asset), majority_check(name, asset),
        finds_nothing_in_shuffled_labels, finds_nothing_in_a_random_walk, learns_from_its_rows_alone,
    )  # fmt: skip


def _canary_part(lake: Lake, shape: RunShape, settings: Settings) -> tuple[Dataset, list[Split], ModelSpec]:
    """Return the newest rows before the holdout with their folds."""
    dataset = read_dataset(lake, shape, settings)
    holdout = split(dataset, shape, settings).holdout
    until = int(holdout.test.min()) if holdout else len(dataset)
    part = dataset.take(np.arange(max(0, until - CANARY_ROWS), until))
    return part, *_recipe(part, shape, settings)


def _recipe(part: Dataset, shape: RunShape, settings: Settings) -> tuple[list[Split], ModelSpec]:
    """Return the newest two folds of some rows, and what a model is built from: a canary needs no more."""
    folds = split(part, shape, settings).folds[-CANARY_FOLDS:]
    return [(fold.train, fold.test) for fold in folds], spec_of(part, settings)


def walked_dataset(lake: Lake, shape: RunShape, settings: Settings, horizon_bars: int) -> Dataset:
    """Return what the pipeline makes of the newest bars of at most two symbols, with every move's sign by a coin.

    Raises:
        DataError: there are no bars.
    """
    symbols = shape.symbols[:WALKED_SYMBOLS]
    bars = {}
    for number, symbol in enumerate(symbols):
        own = lake.read("bars", symbol=symbol, timeframe=shape.base.value).tail(CANARY_ROWS // len(symbols))
        bars[symbol] = random_walk_bars(own.reset_index(drop=True), seed=settings.training.seed + number)
    catalogue = feature_catalogue(shape.base, cross_symbol=len(symbols) > 1)
    barrier_atr = settings.feature.barrier_atr
    return pipeline_dataset(bars, catalogue, horizon_bars=horizon_bars, barrier_atr=barrier_atr)


def told(*results: CanaryResult) -> dg.AssetCheckResult:
    """Say what canaries reached, and what chance reaches."""
    return dg.AssetCheckResult(
        passed=all(result.passed for result in results),
        description="; ".join(
            f"accuracy {result.accuracy:.2%}, chance is {result.low:.2%} to {result.high:.2%}" for result in results
        ),
        metadata={f"canary_{place}": result.to_dict() for place, result in enumerate(results)},
    )


MODEL_CHECKS = [check for name, asset in MODEL_ASSETS.items() for check in model_checks(name, asset)]
