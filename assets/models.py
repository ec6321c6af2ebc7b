"""The models of direction: judged out of fold over purged splits, then fitted once more for the release."""

from collections.abc import Mapping
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.features import features, labels
from assets.metadata import calibration_picture, frame_table, importance_picture, model_card
from assets.predictions import keep_predictions
from assets.run_shape import RunShape
from fx_dagster.backtest.trials import Origin, training_trial
from fx_dagster.errors import TrainingError
from fx_dagster.features.splits import WalkForward, walk_forward
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.drift import REFERENCE, PredictionReference, TrainingReference
from fx_dagster.models.evaluate import Metrics
from fx_dagster.models.families import FAMILIES
from fx_dagster.models.protocol import ModelSpec
from fx_dagster.models.training import OutOfFold, cross_validate, fit_release
from fx_dagster.models.tuning import with_tuned
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.lake import Lake

GROUP = "models"
OWNERS = ["team:research"]


def read_dataset(lake: Lake, shape: RunShape, settings: Settings) -> Dataset:
    """Read features, labels and bars of every symbol of the run.

    Raises:
        TrainingError: a symbol has no features or labels, or they were computed from another catalogue.
    """
    feature_frames, label_frames, bars = {}, {}, {}
    for symbol in shape.symbols:
        feature_frames[symbol] = lake.read("features", symbol=symbol)
        label_frames[symbol] = lake.read("labels", symbol=symbol)
        _require_catalogue(lake, shape, symbol)
        bars[symbol] = {
            timeframe: lake.read("bars", symbol=symbol, timeframe=timeframe.value)
            for timeframe in shape.catalogue.timeframes
        }
    horizon_bars = settings.feature.horizon_bars
    return Dataset.from_frames(feature_frames, label_frames, bars, shape.catalogue, horizon_bars=horizon_bars)


def _require_catalogue(lake: Lake, shape: RunShape, symbol: str) -> None:
    for keys in lake.keys("features"):
        if keys["symbol"] != symbol:
            continue
        found = lake.metadata("features", **keys).get("feature_hash", "")
        if found != shape.catalogue.hash:
            raise TrainingError(
                f"features of {symbol} in {keys['month']} come from catalogue {found[:12] or 'unknown'}, "
                f"this run computes {shape.catalogue.hash[:12]}",
                mend="materialise the asset features again for all months",
            )


def split(dataset: Dataset, shape: RunShape, settings: Settings) -> WalkForward:
    """Return the run's walk-forward folds and its holdout."""
    training = settings.training
    return walk_forward(
        dataset.time,
        dataset.end_time,
        folds=training.folds,
        embargo_ns=training.embargo_bars * shape.base.nominal_ns,
        holdout_share=training.holdout_share,
    )


LIBRARIES = {"xgboost": "xgboost", "random_forest": "scikitlearn"} | dict.fromkeys(
    ("lstm", "cnn", "attention"), "pytorch"
)


def spec_of(dataset: Dataset, settings: Settings) -> ModelSpec:
    """Return what a model of this run is built from."""
    training = settings.training
    return dataset.spec(
        seed=training.seed, threads=training.threads, rows_min=training.rows_min, effort=training.effort
    )


def model_asset(name: str) -> dg.AssetsDefinition:
    """Make the asset of one model family."""

    @dg.asset(
        name=f"{name}_model",
        group_name=GROUP,
        owners=OWNERS,
        kinds={"onnx", LIBRARIES[name]},
        deps=[features, labels],
        description=f"""{name}: probability that the price rises over the horizon, pooled over all symbols.

Judged on rows that it has not seen (purged, embargoed, expanding walk-forward; the last part of history is a holdout
that no fold touches), then fitted on everything before the holdout and exported to ONNX.""",
    )
    def fitted(
        context: dg.AssetExecutionContext,
        market: MarketResource,
        lake: LakeResource,
        settings: SettingsResource,
        trials: TrialsResource,
    ) -> dg.MaterializeResult:
        chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
        dataset = read_dataset(store, shape, chosen)
        splits = split(dataset, shape, chosen)
        spec = spec_of(dataset, chosen)
        if chosen.training.tuned:
            spec = with_tuned(spec, name, chosen.candidates / "tuning", splits.folds[0].test_start)
        result = cross_validate(
            FAMILIES[name],
            spec,
            dataset,
            [(fold.train, fold.test) for fold in splits.folds],
            progress=lambda model, done, of: context.log.info(f"{model}: fold {done} of {of}"),
        )
        train, holdout = release_rows(splits, len(dataset))
        _, artifact = fit_release(FAMILIES[name], spec, dataset, train, holdout)
        artifact = artifact.with_metrics({"out_of_fold": result.metrics.to_dict()})
        artifact = artifact.with_metrics(
            {REFERENCE: keep_reference(store, dataset.take(train), dataset, result, spec.seed)}
        )
        run_id = context.run.run_id
        trial = training_trial(
            Origin(f"{name}_model", run_id, shape.source, shape.symbols, shape.base.value, shape.catalogue.hash),
            artifact.card,
            chosen,
            start=int(dataset.time[0]),
            end=int(dataset.end_time.max()),
        )
        recorded = trials.record(trial)
        artifact.save(chosen.candidates)
        # A backtest names the training behind the predictions that it replays.
        said = {f"p_up_{name}": result.p_up}
        keep_predictions(store, name, dataset, result.fold, said, {"training": trial.fingerprint})
        shown = _metadata(result, artifact.card.metrics, len(dataset), dataset.symbols)
        return dg.MaterializeResult(metadata={"trial": recorded, **shown, "card": model_card(artifact.card)})

    return fitted


def keep_reference(lake: Lake, trained_on: Dataset, dataset: Dataset, result: OutOfFold, seed: int) -> dict[str, Any]:
    """Keep what live rows are compared with, under a name of its content, and return what the model's card says of it.

    Models that are fitted on the same rows share one table of the lake.
    """
    reference = TrainingReference.of(trained_on, seed=seed)
    lake.write(reference.table, reference.frame(), metadata=reference.facts())
    tested = np.flatnonzero(result.tested)
    predictions = PredictionReference.of(result.p_up[tested], dataset.y[tested], dataset.time[tested])
    return {"table": reference.table, "predictions": predictions.to_dict()}


def release_rows(splits: WalkForward, rows: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the rows that the released model is fitted on, and the holdout: all and none where there is no holdout."""
    if splits.holdout is None:
        return np.arange(rows), None
    return splits.holdout.train, splits.holdout.test


def _metadata(
    result: OutOfFold, card_metrics: Mapping[str, object], rows: int, symbols: tuple[str, ...]
) -> dict[str, Any]:
    metrics = result.metrics
    return {
        "training_rows": rows,
        "symbols": ", ".join(symbols),
        "out_of_fold_rows": metrics.rows,
        "accuracy": metrics.accuracy,
        "accuracy_interval_95": f"{metrics.accuracy_low:.4f} to {metrics.accuracy_high:.4f}",
        "majority_class": metrics.majority_accuracy,
        "break_even_accuracy": metrics.break_even_accuracy,
        "log_loss": metrics.log_loss,
        "brier": metrics.brier,
        "onnx_parity": float(str(card_metrics["onnx_parity"])),
        "folds": frame_table(fold_frame(result.fold_metrics)),
        "calibration": calibration_picture(metrics, result.name),
        "importance": importance_picture(result.importance, result.name),
    }


def fold_frame(folds: tuple[Metrics, ...]) -> pd.DataFrame:
    """Return one row a fold: what was reached beside what costs nothing."""
    return pd.DataFrame(
        [
            {
                "fold": number,
                "rows": fold.rows,
                "accuracy": fold.accuracy,
                "majority": fold.majority_accuracy,
                "break_even": fold.break_even_accuracy,
                "log_loss": fold.log_loss,
                "base_log_loss": fold.base_log_loss,
            }
            for number, fold in enumerate(folds)
        ]
    )


MODELS = [model_asset(name) for name in FAMILIES]
"""One asset a model family; a new family in the domain is a new asset here."""

MODEL_ASSETS = dict(zip(FAMILIES, MODELS, strict=True))
