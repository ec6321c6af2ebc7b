"""Research on the tree families: histories beside the one that happened, what features are worth, and parameters.

Nothing is released from here. Trainings use the parameters that are found only where FX_TRAINING_TUNED says so.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from assets.features import features, labels
from assets.metadata import frame_table, picture
from assets.models import read_dataset, split
from assets.models_checks import ACCURACY_MAX
from assets.run_shape import RunShape
from fx_dagster.backtest.trials import NOT_RECORDED, Origin, Trial, TrialKind, fingerprint
from fx_dagster.errors import TrainingError
from fx_dagster.features.splits import WalkForward
from fx_dagster.models.combinatorial import N_FOLDS, N_TEST_FOLDS, SPREAD, PathResult, combinatorial
from fx_dagster.models.dataset import Dataset
from fx_dagster.models.importance import TRADITIONAL, ImportanceResult, feature_groups
from fx_dagster.models.importance import permutation_importance as shuffled_importance
from fx_dagster.models.protocol import ModelSpec
from fx_dagster.models.tuning import INNER_FOLDS, TUNABLE, Looked, Search, TunedParameters, search
from fx_dagster.settings import Settings
from resources.dagster_resources import LakeResource, MarketResource, SettingsResource, TrialsResource
from resources.lake import Lake
from resources.postgres import connect, psycopg_url

GROUP = "research"
OWNERS = ["team:research"]
PATHS = "combinatorial_paths"
IMPORTANCE = "permutation_importance"
STUDIES_SCHEMA = "optuna"
"""Optuna's tables lie in a schema of their own: one of their names is taken by Dagster's in ``public``."""


def tuning_folder(settings: Settings) -> Path:
    """Return where tuned parameters are kept."""
    return settings.candidates / "tuning"


def _read(lake: Lake, shape: RunShape, settings: Settings) -> tuple[Dataset, WalkForward, ModelSpec]:
    """Return all rows, their outer folds, and the specification with the families' own parameters."""
    dataset, training = read_dataset(lake, shape, settings), settings.training
    spec = dataset.spec(seed=training.seed, threads=training.threads, rows_min=training.rows_min)
    return dataset, split(dataset, shape, settings), spec


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"xgboost", "scikitlearn"},
    deps=[features, labels],
    description=f"""The tree families by combinatorial purged cross-validation, the holdout left out.

History is cut into {N_FOLDS} blocks; each choice of {N_TEST_FOLDS} is tested by a model fitted on the rest, labels that
reach into a block purged on both sides, with an embargo after it. The answers join into paths that each cover all of
it, and the spread over the paths tells how much of a result is the luck of one history. Paths are no walk-forward:
models of a path have seen later rows, which nobody has who trades. Always with the families' own parameters.""",
)
def combinatorial_paths(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Fit every choice of blocks and judge the paths."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset, splits, spec = _read(store, shape, chosen)
    rows = dataset if splits.holdout is None else dataset.take(splits.holdout.train)
    results = [
        combinatorial(
            tunable.factory,
            spec,
            rows,
            embargo_bars=chosen.training.embargo_bars,
            progress=lambda model, done, of: context.log.info(f"{model}: fit {done} of {of}"),
        )
        for tunable in TUNABLE.values()
    ]
    frame = pd.concat([result.frame() for result in results], ignore_index=True)
    store.write(PATHS, frame, metadata={"rows": str(len(rows))})
    return dg.MaterializeResult(metadata=_path_metadata(results, rows, frame))


def _path_metadata(results: Sequence[PathResult], rows: Dataset, frame: pd.DataFrame) -> dict[str, Any]:
    spread = pd.DataFrame(
        [
            {"family": result.name, "number": number, **asdict(result.spread(number))}
            for result in results
            for number in SPREAD
        ]
    )
    pictures = {f"{result.name}_by_month": _months_picture(result, rows) for result in results}
    return {
        "rows": len(rows),
        "fits": sum(result.fits for result in results),
        "paths": frame_table(frame),
        "spread": frame_table(spread),
        **pictures,
    }


def _months_picture(result: PathResult, rows: Dataset) -> dg.MetadataValue:
    """Draw the accuracy of every month, a line a path."""
    from fx_dagster.report.plots import line_png

    month = pd.DatetimeIndex(rows.time).to_numpy().astype("datetime64[M]")
    right = pd.DataFrame(((result.p_up > 0.5) == (rows.y == 1)).T)
    accuracy = right.groupby(month).mean()
    series = {f"path {path}": accuracy[path] for path in accuracy.columns}
    time = accuracy.index.to_numpy().astype("datetime64[ns]").astype(np.int64)
    return picture(line_png(time, series, title=f"{result.name}: accuracy by month", unit="share"))


@dg.asset_check(asset=combinatorial_paths, blocking=True)
def accuracy_of_paths_is_believable(lake: LakeResource) -> dg.AssetCheckResult:
    """No path's accuracy is too good to be true."""
    paths = lake.open().read(PATHS)
    best = float(paths["accuracy"].max())
    return dg.AssetCheckResult(
        passed=bool(best <= ACCURACY_MAX),
        description=f"best path {best:.2%}; above {ACCURACY_MAX:.0%} a leak is likelier than skill",
        metadata={"accuracy": best},
    )


@dg.asset_check(asset=combinatorial_paths)
def every_path_beats_the_majority_class(lake: LakeResource) -> dg.AssetCheckResult:
    """Accuracy and log-loss of every path are better than always naming the commoner direction."""
    paths = lake.open().read(PATHS)
    better = (paths["accuracy"] > paths["majority"]) & (paths["log_loss"] < paths["base_log_loss"])
    told = [f"{family}: {int(own.sum())} of {len(own)} paths" for family, own in better.groupby(paths["family"])]
    return dg.AssetCheckResult(
        passed=bool(better.all()), severity=dg.AssetCheckSeverity.WARN, description=f"better on {', '.join(told)}"
    )


@dg.asset(
    name=IMPORTANCE,
    group_name=GROUP,
    owners=OWNERS,
    kinds={"xgboost", "scikitlearn"},
    deps=[features, labels],
    description="""What groups of features are worth on rows that a model has not seen.

In every fold of the walk-forward a group's columns are shuffled together among the test rows: the increase of the
log-loss is what the model took from them, with an interval over the folds. A negative one says that the model would be
better off without. Groups are the catalogue's, each indicator over all timeframes, and all indicators together.""",
)
def importance(
    context: dg.AssetExecutionContext, market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Shuffle every group in every fold."""
    chosen, shape, store = settings.load(), RunShape.of(market.open()), lake.open()
    dataset, splits, spec = _read(store, shape, chosen)
    results = [
        shuffled_importance(
            tunable.factory,
            spec,
            dataset,
            [(fold.train, fold.test) for fold in splits.folds],
            feature_groups(shape.catalogue),
            progress=lambda model, done, of: context.log.info(f"{model}: fold {done} of {of}"),
        )
        for tunable in TUNABLE.values()
    ]
    frame = pd.concat([result.frame() for result in results], ignore_index=True)
    store.write(IMPORTANCE, frame)
    return dg.MaterializeResult(
        metadata={
            "folds": len(splits.folds),
            "groups": frame_table(frame, digits=6),
            **{f"{result.name}_groups": _groups_picture(result) for result in results},
        }
    )


def _groups_picture(result: ImportanceResult) -> dg.MetadataValue:
    from fx_dagster.report.plots import bar_png

    shown = {one.group: one.increase for one in result.groups}
    return picture(bar_png(shown, title=f"{result.name}: loss when shuffled", unit="increase of the log-loss, nats"))


@dg.asset_check(asset=importance, blocking=True)
def every_group_is_weighed(market: MarketResource, lake: LakeResource) -> dg.AssetCheckResult:
    """Every group of the catalogue has a number for every family."""
    found = lake.open().read(IMPORTANCE)
    known = found[np.isfinite(found[["increase", "low", "high"]]).all(axis=1)]
    wanted = {(family, group) for family in TUNABLE for group in feature_groups(RunShape.of(market.open()).catalogue)}
    absent = sorted(wanted - set(zip(known["family"], known["group"], strict=True)))
    return dg.AssetCheckResult(
        passed=not absent,
        description=f"no number for {', '.join('/'.join(pair) for pair in absent[:5])}"
        if absent
        else f"{len(wanted)} numbers",
    )


@dg.asset_check(asset=importance)
def traditional_indicators_remain_relevant(lake: LakeResource) -> dg.AssetCheckResult:
    """Shuffling all indicators makes every family worse, beyond what differs from fold to fold."""
    found = lake.open().read(IMPORTANCE)
    rows = found[found["group"] == TRADITIONAL]
    told = [
        f"{row.family}: log-loss {row.increase:+.5f} when shuffled, 95 % interval {row.low:+.5f} to {row.high:+.5f}"
        for row in rows.itertuples()
    ]
    return dg.AssetCheckResult(
        passed=bool(len(rows) and (rows["low"] > 0).all()),
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(told),
    )


@contextmanager
def studies(settings: Settings) -> Iterator[Any]:
    """Open Optuna's storage: PostgreSQL where there is one, otherwise a file below FX_HOME.

    Raises:
        ServerError: the server does not answer.
    """
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    url = settings.postgres.url.get_secret_value()
    if not url:
        folder = tuning_folder(settings)
        folder.mkdir(parents=True, exist_ok=True)
        yield JournalStorage(JournalFileBackend(str(folder / "studies.log")))
        return
    with connect(url, name="fx tuning") as connection:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {STUDIES_SCHEMA}")
    storage = RDBStorage(
        psycopg_url(url).replace("postgresql://", "postgresql+psycopg2://", 1),
        engine_kwargs={"connect_args": {"options": f"-csearch_path={STUDIES_SCHEMA}"}, "pool_pre_ping": True},
    )
    try:
        yield storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


@dg.asset(
    group_name=GROUP,
    owners=OWNERS,
    kinds={"optuna"},
    deps=[features, labels],
    description="""Parameters of the tree families, searched on rows before the first test fold of the walk-forward.

What the outer folds and the holdout report is therefore never tuned on. Trainings use what is found where
FX_TRAINING_TUNED is true. A search that was interrupted goes on; each set of parameters that was tried is a trial in
the ledger. The best log-loss of many is a little too good: what it is worth, the outer folds tell.""",
)
def hyperparameters(
    context: dg.AssetExecutionContext,
    market: MarketResource,
    lake: LakeResource,
    settings: SettingsResource,
    trials: TrialsResource,
) -> dg.MaterializeResult:
    """Search every family's parameters and keep them beside the candidates."""
    chosen, shape, ledger = settings.load(), RunShape.of(market.open()), trials.open()
    dataset, splits, spec = _read(lake.open(), shape, chosen)
    rows = dataset.take(splits.folds[0].train)
    recorded: list[int] = []

    def looked(one: Looked) -> None:
        context.log.info(f"{one.family}: set {one.number}, log-loss {one.log_loss:.5f}")
        if ledger is not None:
            recorded.append(ledger.record(_trial(one, context.run.run_id, shape, rows, chosen)))

    found: dict[str, Search] = {}
    with studies(chosen) as storage:
        for family in TUNABLE:
            found[family] = search(
                family,
                spec,
                rows,
                trials=chosen.training.tuning_trials,
                embargo_ns=chosen.training.embargo_bars * shape.base.nominal_ns,
                storage=storage,
                looked=looked,
            )
            found[family].tuned.save(tuning_folder(chosen))
    told = NOT_RECORDED if ledger is None else len(recorded)
    return dg.MaterializeResult(metadata={"trials_recorded": told, **_search_metadata(found)})


def _trial(one: Looked, run_id: str, shape: RunShape, rows: Dataset, settings: Settings) -> Trial:
    """Return the trial that a set of parameters is: it was looked at, whatever becomes of it."""
    configuration = {
        "family": one.family,
        "symbols": list(shape.symbols),
        "feature_hash": shape.catalogue.hash,
        "parameters": dict(one.parameters),
        "search_folds": INNER_FOLDS,
        "validation": settings.validation.model_dump(mode="json"),
        "feature": settings.feature.model_dump(mode="json"),
        "training": settings.training.model_dump(mode="json", exclude={"threads", "tuned", "tuning_trials"}),
    }
    asset = f"hyperparameters/{one.family}/{one.number}"
    return Trial(
        kind=TrialKind.TRAINING,
        origin=Origin(asset, run_id, shape.source, shape.symbols, shape.base.value, shape.catalogue.hash),
        configuration=configuration,
        start=int(rows.time[0]),
        end=int(rows.end_time.max()),
        metrics={"search_log_loss": one.log_loss, "given_up": one.given_up},
        fingerprint=fingerprint(configuration),
    )


def _search_metadata(found: Mapping[str, Search]) -> dict[str, Any]:
    from fx_dagster.report.plots import histogram_png

    best = [
        {
            "family": family,
            "log_loss": one.tuned.log_loss,
            "own_log_loss": one.tuned.own_log_loss,
            "tried": one.tuned.trials,
            "given_up": one.tuned.given_up,
            "rows": one.tuned.rows,
            "parameters": json.dumps(dict(one.tuned.parameters)),
            "note": one.tuned.note,
        }
        for family, one in found.items()
    ]
    shown: dict[str, Any] = {
        "looks": sum(one.tuned.trials for one in found.values()),
        "chosen": frame_table(pd.DataFrame(best)),
    }
    for family, one in found.items():
        if len(one.trials):
            shown[f"{family}_tried"] = frame_table(one.trials.sort_values("log_loss"))
            losses = one.trials.loc[~one.trials["given_up"], "log_loss"]
            title = f"{family}: sets of parameters that went through all folds"
            shown[f"{family}_losses"] = picture(histogram_png(losses, title=title, unit="log-loss, nats", bins=15))
    return shown


@dg.asset_check(asset=hyperparameters, blocking=True)
def the_search_saw_no_reported_row(
    market: MarketResource, lake: LakeResource, settings: SettingsResource
) -> dg.AssetCheckResult:
    """Labels that the search saw were known before the first test fold, and what it chose is inside its bounds."""
    chosen, shape = settings.load(), RunShape.of(market.open())
    _, splits, spec = _read(lake.open(), shape, chosen)
    wrong = []
    for family in TUNABLE:
        try:
            found = TunedParameters.load(tuning_folder(chosen), family)
            found.require_fits(spec, splits.folds[0].test_start)
            found.require_bounds()
        except TrainingError as error:
            wrong.append(str(error))
    return dg.AssetCheckResult(passed=not wrong, description="; ".join(wrong) or f"{', '.join(TUNABLE)}: fits")
