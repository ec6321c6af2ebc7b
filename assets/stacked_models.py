"""The models that stand on others: regime, meta and confidence."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import pandas as pd

from assets.metadata import calibration_picture, frame_table, importance_picture, model_card, reliability_picture
from assets.models import GROUP, MODEL_ASSETS, OWNERS, fold_frame, read_dataset, release_rows, spec_of, split
from assets.predictions import CONFIDENCE, REGIME, REGIME_COLUMNS, keep_predictions, read_stacked
from assets.run_shape import RunShape
from fx_dagster.backtest.trials import Origin, training_trial
from fx_dagster.models.answer import META
from fx_dagster.models.confidence import ConfidenceModel
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.meta import MetaModel
from fx_dagster.models.protocol import ModelArtifact
from fx_dagster.models.regime import RegimeModel
from fx_dagster.models.stacking import (
    cross_validate_confidence,
    cross_validate_regime,
    cross_validate_stacked,
    fit_stacked_release,
)
from fx_dagster.models.training import Progress, proved
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource


def record_training(
    trials: TrialsResource, context: dg.AssetExecutionContext, shape: RunShape, artifact: ModelArtifact,
    settings: Settings, rows: Dataset,
) -> tuple[int | str, str]:  # fmt: skip
    """Record a training as a trial; return its number (or why not), and the fingerprint of its configuration."""
    asset = f"{artifact.name}_model"
    trial = training_trial(
        Origin(asset, context.run.run_id, shape.source, shape.symbols, shape.base.value, shape.catalogue.hash),
        artifact.card,
        settings,
        start=int(rows.time[0]),
        end=int(rows.end_time.max()),
    )
    return trials.record(trial), trial.fingerprint


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx", "scikitlearn"},
    deps=list(MODEL_ASSETS.values()),
    description="""Bull, bear, high or low volatility: what the market is like now, from the features.

Labels are statistics of the past alone. Out-of-fold probabilities are kept for the models that stand on them.""",
)
def regime_model(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Fit one forest a fold and one for the release, and judge them against the labels."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset = read_dataset(store, shape, chosen)
    splits, spec = split(dataset, shape, chosen), spec_of(dataset, chosen)
    found = cross_validate_regime(
        RegimeModel, spec, dataset, [(fold.train, fold.test) for fold in splits.folds], progress=progress_of(context)
    )
    train, _ = release_rows(splits, len(dataset))
    judgement = found.metrics.to_dict()
    artifact = proved(RegimeModel(spec).fit(dataset.take(train)), dataset.take(train))
    artifact = artifact.with_metrics({"out_of_fold": judgement})
    number, fingerprint = record_training(trials, context, shape, artifact, chosen, dataset)
    artifact.save(chosen.candidates)
    columns = dict(zip(REGIME_COLUMNS, found.answers[REGIME].T, strict=True))
    keep_predictions(store, REGIME, dataset, found.fold, columns, {"training": fingerprint})
    return dg.MaterializeResult(
        metadata={
            "trial": number,
            **plain_numbers(judgement),
            "onnx_parity": artifact.card.metrics["onnx_parity"],
            "regimes": frame_table(
                pd.DataFrame({name: judgement[name] for name in ("shares", "recall")}).reset_index()
            ),
            "importance": importance_picture(found.importance, REGIME),
            "card": model_card(artifact.card),
        }
    )


def plain_numbers(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of a judgement is one number."""
    return {name: value for name, value in found.items() if isinstance(value, int | float)}


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx"},
    deps=[*MODEL_ASSETS.values(), regime_model],
    description="""The base models stacked by regime, on what they said out of fold and on nothing else.

Fitted on earlier folds, purged, to answer a later one: the first fold of the base models has no stacked answer.""",
)
def meta_model(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Fit one regression a fold and one for the release."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset = read_dataset(store, shape, chosen)
    rows, fold = read_stacked(store, dataset, meta=False)
    spec = spec_of(dataset, chosen)
    result = cross_validate_stacked(
        MetaModel, spec, rows, fold, embargo_ns=embargo_ns(shape, chosen), progress=progress_of(context)
    )
    _, artifact = fit_stacked_release(MetaModel, spec, rows, fold)
    artifact = artifact.with_metrics({"out_of_fold": result.metrics.to_dict()})
    number, fingerprint = record_training(trials, context, shape, artifact, chosen, rows)
    artifact.save(chosen.candidates)
    keep_predictions(store, META, rows, result.fold, {"p_up_meta": result.p_up}, {"training": fingerprint})
    metrics = result.metrics
    return dg.MaterializeResult(
        metadata={
            "trial": number,
            "training_rows": len(rows),
            "out_of_fold_rows": metrics.rows,
            "accuracy": metrics.accuracy,
            "accuracy_interval_95": f"{metrics.accuracy_low:.4f} to {metrics.accuracy_high:.4f}",
            "majority_class": metrics.majority_accuracy,
            "break_even_accuracy": metrics.break_even_accuracy,
            "log_loss": metrics.log_loss,
            "brier": metrics.brier,
            "onnx_parity": artifact.card.metrics["onnx_parity"],
            "folds": frame_table(fold_frame(result.fold_metrics)),
            "calibration": calibration_picture(metrics, META),
            "importance": importance_picture(result.importance, META),
            "card": model_card(artifact.card),
        }
    )


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"onnx"},
    deps=[meta_model],
    description="""Probability that the combined direction is right; it scales the position's size.

Judged where it was not fitted: reliability, Brier score and calibration error, with intervals.""",
)
def confidence_model(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Fit one regression a fold and one for the release, and judge its calibration out of fold."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset = read_dataset(store, shape, chosen)
    rows, fold = read_stacked(store, dataset, meta=True)
    spec = spec_of(dataset, chosen)
    found = cross_validate_confidence(
        ConfidenceModel, spec, rows, fold, embargo_ns=embargo_ns(shape, chosen), progress=progress_of(context)
    )
    judgement = found.metrics.to_dict()
    _, artifact = fit_stacked_release(ConfidenceModel, spec, rows, fold)
    artifact = artifact.with_metrics({"out_of_fold": judgement})
    number, fingerprint = record_training(trials, context, shape, artifact, chosen, rows)
    artifact.save(chosen.candidates)
    said = {CONFIDENCE: found.answers[CONFIDENCE][:, 0]}
    keep_predictions(store, CONFIDENCE, rows, found.fold, said, {"training": fingerprint})
    return dg.MaterializeResult(
        metadata={
            "trial": number,
            **plain_numbers(judgement),
            "onnx_parity": artifact.card.metrics["onnx_parity"],
            "reliability": frame_table(pd.DataFrame(judgement["table"])),
            "calibration": reliability_picture(judgement["table"], CONFIDENCE),
            "importance": importance_picture(found.importance, CONFIDENCE),
            "card": model_card(artifact.card),
        }
    )


def embargo_ns(shape: RunShape, settings: Settings) -> int:
    """Return the least distance between a training label's end and a test fold, ns."""
    return settings.training.embargo_bars * shape.base.nominal_ns


def progress_of(context: dg.AssetExecutionContext) -> Progress:
    """Return what tells the run's log of each fold."""
    return lambda model, done, of: context.log.info(f"{model}: fold {done} of {of}")


STACKED_ASSETS = (regime_model, meta_model, confidence_model)
STACKED = (REGIME, META, CONFIDENCE)
"""Names of their models, in the same order."""
